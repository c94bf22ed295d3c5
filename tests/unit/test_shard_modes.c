/*
 * Goal: in ssp and asp every push is applied once, when it arrives, with its own weight, and
 * answers leave within the staleness; pushes that bring nothing change nothing; reports, reads and
 * snapshots show the state as it is. Method: ranks at random speeds that repeat their calls,
 * against a reference that applies in the order of arrival; reads and reports beside the state;
 * each allocation failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/shard_fixture.h"

#define STATUS(name) PARAMD__PUSH_PULL_REPLY__STATUS__##name

static struct shard_fixture f;
static struct reference reference;

/* ---- weights ---- */

static void test_nothing_to_apply(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    uint64_t digest = shard_fixture_digest(&f);
    struct fixture_request r = fixture_push(0, 1);
    r.weightless = true;
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    r = fixture_push(0, 2);
    r.skipped = true;
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    r = fixture_push(0, 3);
    r.empty = true;
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    assert_int_equal(shard_version(f.shard), 3);
    assert_int_equal(shard_rows(f.shard), 0);
    assert_true(shard_fixture_digest(&f) == digest);
    shard_fixture_expect_push(&f, 0, 4, STATUS(OK));
    assert_true(shard_rows(f.shard) > 20);
    shard_fixture_stop(&f);
}

static void weight_anyway(Paramd__PushPullRequest *q)
{
    q->weight = 1000;
}

/* A rank that skips has no part in the step: neither gradient nor weight. */
static void test_skipped_weight(void **state)
{
    struct fixture_reply held = {0};
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 2);
    reference_init(&f, &reference);
    for (uint32_t r = 0; r < 2; r++)
        shard_fixture_expect_push(&f, r, 0, STATUS(OK));
    struct fixture_request one = fixture_push(0, 1), skipping = fixture_push(1, 1);
    shard_fixture_send(&f, &one, &held);
    skipping.skipped = true;
    skipping.damage = weight_anyway;
    shard_fixture_expect(&f, &skipping, STATUS(OK), "");
    reference_apply(&f, &reference, 0, 1, 1);
    assert_true(shard_fixture_digest(&f) == reference_digest(&f, &reference));
    shard_fixture_reply_deinit(&held);
    shard_fixture_stop(&f);
}

/* ---- ssp and asp ---- */

/* Ranks at random speeds; the reference applies each push as it is taken. */
static void run_on_arrival(enum consistency mode, uint32_t staleness, uint32_t ranks, uint64_t seed)
{
    uint64_t next[FIXTURE_RANKS] = {0}, verdict = 0;
    struct fixture_reply held[FIXTURE_RANKS] = {{0}};
    bool open[FIXTURE_RANKS] = {0};  /* not answered with values yet */
    bool waits[FIXTURE_RANKS] = {0}; /* the call of held[] */
    struct steps steps = shard_fixture_steps(mode, 0);
    memset(&f, 0, sizeof f);
    f.options.staleness = staleness;
    shard_fixture_start(&f, &steps, ranks);
    shard_begin(f.shard, 0);
    reference_init(&f, &reference);
    for (uint32_t event = 0; event < 3000; event++) {
        uint32_t rank = (uint32_t)rng_below(rng_at(seed, event), ranks);
        uint64_t slowest = 99;
        for (uint32_t r = 0; r < ranks; r++)
            slowest = next[r] < slowest ? next[r] : slowest;
        if (open[rank] && held[rank].count > 0) {
            /* Answered: no earlier than it may, with the values of now or of when it left. */
            uint64_t seq = next[rank] - 1;
            if (held[rank].status != STATUS(WAITING)) {
                assert_int_equal(held[rank].status, STATUS(OK));
                assert_true(mode == CONSISTENCY_ASP || seq <= slowest - 1 + staleness);
                assert_true(!steps_is_drain(&steps, seq) || slowest > seq || seq == 0);
                assert_true(seq % 10 != 0 || verdict >= seq);
                open[rank] = false;
            }
            waits[rank] = false;
            shard_fixture_reply_deinit(&held[rank]);
            continue;
        }
        struct fixture_request r = fixture_push(rank, next[rank]);
        if (open[rank]) { /* again: with the header, or the body, whose push is dropped */
            r = fixture_push(rank, next[rank] - 1);
            r.header_only = event % 2;
            struct fixture_reply again = {0};
            shard_fixture_send(&f, &r, &again);
            if (again.count == 0) {
                assert_int_equal(held[rank].count, waits[rank]);
                assert_true(!waits[rank] || held[rank].status == STATUS(WAITING));
                shard_tick(f.shard, f.now_ms + 1000);
            }
            assert_int_equal(again.count, 1);
            if (again.status == STATUS(OK))
                open[rank] = false;
            waits[rank] = false;
            shard_fixture_reply_deinit(&again);
            shard_fixture_reply_deinit(&held[rank]);
        } else if (next[rank] <= steps.last_step) {
            shard_fixture_send(&f, &r, &held[rank]);
            if (next[rank] > 0)
                reference_apply(&f, &reference, rank, rank + 1, next[rank]);
            next[rank]++;
            open[rank] = waits[rank] = true;
            if (held[rank].count > 0 && held[rank].status == STATUS(OK)) {
                size_t count;
                float *values = reference_answer(&f, &reference, rank, next[rank] - 1, &count);
                assert_int_equal(held[rank].value_count, count);
                assert_memory_equal(held[rank].values, values, count * sizeof *values);
                mem_free(values);
            }
        }
        if (event % 7 == 0 && shard_version(f.shard) % 10 == 0 && shard_version(f.shard) > 0) {
            verdict = shard_version(f.shard);
            shard_verdict(f.shard, verdict, false);
        }
    }
    assert_int_equal(shard_version(f.shard), steps.last_step);
    assert_true(shard_fixture_digest(&f) == reference_digest(&f, &reference));
    shard_fixture_stop(&f);
    for (uint32_t r = 0; r < FIXTURE_RANKS; r++)
        shard_fixture_reply_deinit(&held[r]);
}

static void test_ssp_and_asp(void **state)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        run_on_arrival(CONSISTENCY_ASP, 0, 3, seed);
        run_on_arrival(CONSISTENCY_SSP, 0, 2, seed);
        run_on_arrival(CONSISTENCY_SSP, 2, 4, seed);
    }
}

/* ---- reports, reading, memory ---- */

static void test_reports(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 1, 2);
    assert_null(shard_reports(f.shard)[0]);
    for (uint32_t r = 0; r < 2; r++)
        shard_fixture_expect_push(&f, r, 0, STATUS(OK));
    struct fixture_reply held[2] = {{0}};
    for (uint64_t seq = 1; seq <= 2; seq++) {
        struct fixture_request r = {.rank = 0, .seq = seq};
        shard_fixture_send(&f, &r, &held[seq - 1]);
    }
    struct fixture_request r = {.rank = 1, .seq = 1};
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    /* What is applied counts, not what has arrived. */
    assert_int_equal(shard_reports(f.shard)[0]->examples, 1000);
    assert_int_equal(shard_reports(f.shard)[1]->examples, 1001);
    f.now_ms += 200;
    shard_tick(f.shard, f.now_ms);
    assert_true(f.had_reports);
    assert_int_equal(f.examples[1], 1001);
    shard_fixture_stop(&f);
    for (int i = 0; i < 2; i++)
        shard_fixture_reply_deinit(&held[i]);
}

struct read_result {
    enum err code;
    Paramd__PushPullReply__Status status;
    uint64_t version;
    float values[8];
    size_t count;
};

static void take_read(void *context, enum err code, struct chain *reply)
{
    struct read_result *r = context;
    struct wire_message m;
    r->code = code;
    if (code != ERR_NONE)
        return;
    struct chain c = {0};
    chain_move(&c, reply);
    assert_int_equal(wire_decode(&paramd__read_reply__descriptor, &c, &m), ERR_NONE);
    const Paramd__ReadReply *p = (const Paramd__ReadReply *)m.message;
    r->status = p->status;
    r->version = p->version;
    r->count = m.payload_size / sizeof(float);
    assert_true(r->count <= 8);
    chain_copy_out(&c, m.payload_offset, r->values, m.payload_size);
    wire_message_deinit(&m);
    chain_deinit(&c);
}

static struct read_result read_key(uint64_t version, bool any, uint64_t key)
{
    Paramd__ReadRequest q = PARAMD__READ_REQUEST__INIT;
    Paramd__Block b = PARAMD__BLOCK__INIT, *list = &b;
    struct wire_payload payload = {0};
    struct chain c = {0};
    struct read_result result = {.code = ERR_COUNT};
    q.job = (char *)(uintptr_t) "films";
    q.generation = FIXTURE_GENERATION;
    q.version = version;
    q.any_version = any;
    b.kind = PARAMD__BLOCK__KIND__KEYS;
    b.index = 1;
    b.count = 1;
    b.keys_offset = wire_payload_add(&payload, NULL, &key, sizeof key, 8);
    q.pull = &list;
    q.n_pull = 1;
    wire_encode(&q.base, &payload, &c);
    shard_read(f.shard, &c, take_read, &result);
    return result;
}

static void test_read(void **state)
{
    static const float zeros[4];
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    shard_fixture_expect_push(&f, 0, 1, STATUS(OK));
    uint64_t rows = shard_rows(f.shard);
    struct read_result r = read_key(0, false, 5);
    assert_int_equal(r.status, STATUS(EXPECTED));
    assert_int_equal(r.version, 1);
    r = read_key(0, true, 5);
    assert_int_equal(r.status, STATUS(OK));
    r = read_key(1, false, 5); /* no such row */
    assert_int_equal(r.status, STATUS(OK));
    assert_int_equal(r.count, 4);
    assert_memory_equal(r.values, zeros, sizeof zeros);
    assert_int_equal(shard_rows(f.shard), rows);
    float *found[1];
    for (uint32_t i = 0; i < FIXTURE_KEYS; i++) {
        table_find(shard_table(f.shard, 1), &f.keys[i], 1, found);
        r = read_key(1, false, f.keys[i]);
        assert_memory_equal(r.values, found[0] != NULL ? found[0] : zeros, 4 * sizeof(float));
    }
    shard_fixture_stop(&f);

    memset(&f, 0, sizeof f);
    struct steps steps = {.consistency = CONSISTENCY_BSP};
    f.options.read_only = true;
    shard_fixture_start(&f, &steps, 1);
    shard_begin(f.shard, 1234);
    assert_int_equal(f.fail_count + f.drain_count, 0);
    r = read_key(1234, false, 5);
    assert_int_equal(r.status, STATUS(OK));
    shard_fixture_stop(&f);
}

/* While rows are frozen, training goes on, and what was frozen stays. */
static void test_frozen(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    for (uint64_t seq = 0; seq <= 3; seq++)
        shard_fixture_expect_push(&f, 0, seq, STATUS(OK));
    uint64_t key;
    float row[FIXTURE_STATE], before[FIXTURE_KEYS][FIXTURE_STATE];
    uint32_t count, rows = 0;
    struct table *t = shard_table(f.shard, 0);
    table_snapshot_begin(t, 0);
    while (table_snapshot_next(t, 1, &key, before[rows], &count) == ERR_NONE && count == 1)
        rows++;
    table_snapshot_end(t);
    table_snapshot_begin(t, 0);
    for (uint64_t seq = 4; seq <= 9; seq++)
        shard_fixture_expect_push(&f, 0, seq, STATUS(OK));
    for (uint32_t i = 0; i < rows; i++) {
        assert_int_equal(table_snapshot_next(t, 1, &key, row, &count), ERR_NONE);
        assert_int_equal(count, 1);
        assert_memory_equal(row, before[i], f.tables[0].state_dim * sizeof row[0]);
    }
    assert_int_equal(table_snapshot_next(t, 1, &key, row, &count), ERR_NONE);
    assert_int_equal(count, 0);
    table_snapshot_end(t);
    shard_fixture_stop(&f);
}

/* Out of memory at any place: the request is handed back, or the job fails by name. */
static void test_no_memory(void **state)
{
    uint32_t failures = 0;
    for (uint64_t n = 1; n < 400; n++) {
        struct shard_options options;
        struct shard *s = NULL;
        if (n == 1)
            shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
        options = f.options;
        mem_fail_nth(n);
        enum err e = shard_create(&options, &s);
        mem_fail_nth(0);
        assert_int_equal(e, s != NULL ? ERR_NONE : ERR_MEMORY);
        if (s != NULL) {
            shard_destroy(s);
            break;
        }
        failures++;
    }
    assert_true(failures > 10);
    shard_fixture_stop(&f);
    uint32_t handed_back = 0, failed = 0, n = 0;
    for (bool whole = false; !whole;) {
        struct fixture_reply reply = {0};
        shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
        shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
        struct fixture_request r = fixture_push(0, 1);
        r.fail_nth = ++n;
        shard_fixture_call(&f, &r, &reply);
        whole = reply.code == ERR_NONE && reply.status == STATUS(OK);
        if (reply.code != ERR_NONE) { /* nothing was taken, so it can come again */
            assert_int_equal(reply.code, ERR_MEMORY);
            shard_fixture_expect_push(&f, 0, 1, STATUS(OK));
            handed_back++;
        } else if (!whole) {
            assert_int_equal(reply.status, STATUS(FAILED));
            assert_int_equal(f.fail_count, 1);
            assert_non_null(strstr(f.fail_text, "cannot allocate"));
            failed++;
        }
        shard_fixture_reply_deinit(&reply);
        shard_fixture_stop(&f);
    }
    assert_true(handed_back > 0 && failed > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_to_apply),
        cmocka_unit_test(test_skipped_weight),
        cmocka_unit_test(test_ssp_and_asp),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
