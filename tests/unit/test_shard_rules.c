/*
 * Goal: a shard answers each request as PROTOCOL.md 3 says, and a request that is refused changes
 * nothing. Method: one situation for each status; a table of malformed requests with the state's
 * digest before and after; noise.
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

static void test_identity(void **state)
{
    shard_fixture_start_usual(&f, CONSISTENCY_BSP, 0, 2);
    struct fixture_request r = {.rank = 0};
    shard_fixture_expect(&f, &r, STATUS(NOT_FORMED), "restored");
    shard_set_lease(f.shard, 0, 3);
    shard_begin(f.shard, 0);
    shard_fixture_expect(&f, &r, STATUS(REPLACED), "lease");
    r.lease = 3;
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    r.job = "songs";
    shard_fixture_expect(&f, &r, STATUS(WRONG_JOB), "another job");
    r.job = NULL;
    r.generation = 8;
    shard_fixture_expect(&f, &r, STATUS(NOT_FORMED), "generation");
    r.generation = 6;
    shard_fixture_expect(&f, &r, STATUS(NOT_FORMED), "generation");
    shard_fixture_stop(&f);
}

static void test_window(void **state)
{
    struct fixture_reply held[3] = {{0}};
    shard_fixture_begin(&f, CONSISTENCY_BSP, 2, 2);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    shard_fixture_expect_push(&f, 1, 0, STATUS(OK));
    /* Out of order: 3 and 2 wait for 1, and 4 is too far. */
    for (uint64_t seq = 3; seq >= 1; seq--) {
        struct fixture_request r = {.rank = 0, .seq = seq};
        shard_fixture_send(&f, &r, &held[seq - 1]);
        assert_int_equal(held[seq - 1].count, 0);
    }
    struct fixture_request far = {.rank = 0, .seq = 4},
                           ask = {.rank = 0, .seq = 2, .header_only = true};
    shard_fixture_expect(&f, &far, STATUS(EXPECTED), "window");
    struct fixture_request lacking = {.rank = 1, .seq = 1, .header_only = true};
    shard_fixture_expect(&f, &lacking, STATUS(LACKING), "not here");
    far.seq = 21;
    shard_fixture_expect(&f, &far, STATUS(EXPECTED), "window");
    /* Another call for the same push sends the first one away. */
    struct fixture_reply again = {0};
    shard_fixture_send(&f, &ask, &again);
    assert_int_equal(held[1].count, 1);
    assert_int_equal(held[1].status, STATUS(WAITING));
    assert_int_equal(held[1].received, 3);
    assert_int_equal(again.count, 0);
    /* A call that has waited is told to ask again, and can. */
    f.now_ms += 999;
    shard_tick(f.shard, f.now_ms);
    assert_int_equal(again.count, 0);
    f.now_ms += 1;
    shard_tick(f.shard, f.now_ms);
    assert_int_equal(again.status, STATUS(WAITING));
    assert_int_equal(held[0].status, STATUS(WAITING));
    assert_int_equal(shard_version(f.shard), 0);
    struct fixture_request other = {.rank = 1, .seq = 1};
    shard_fixture_expect(&f, &other, STATUS(OK), "");
    assert_int_equal(shard_version(f.shard), 1);
    shard_fixture_expect_push(&f, 0, 1, STATUS(OK));
    /* A new lease ends the old one's calls. */
    shard_fixture_reply_deinit(&again);
    shard_fixture_send(&f, &ask, &again);
    shard_set_lease(f.shard, 0, 1);
    assert_int_equal(again.status, STATUS(REPLACED));
    shard_set_lease(f.shard, 0, 0);
    shard_fixture_expect(&f, &ask, STATUS(REPLACED), "");
    shard_fixture_reply_deinit(&again);
    /* The worker may know of its lease before the coordinator has told the shard. */
    other = (struct fixture_request){.rank = 1, .seq = 1, .lease = 6, .header_only = true};
    shard_fixture_expect(&f, &other, STATUS(OK), "");
    other.lease = 5;
    shard_fixture_expect(&f, &other, STATUS(REPLACED), "lease");
    ask.lease = 1;
    shard_fixture_send(&f, &ask, &again);
    assert_int_equal(again.count, 0);
    shard_fixture_stop(&f);
    assert_int_equal(again.status, STATUS(NOT_FORMED));
    shard_fixture_reply_deinit(&again);
    for (int i = 0; i < 3; i++)
        shard_fixture_reply_deinit(&held[i]);
}

static void test_acknowledged(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    for (uint64_t seq = 0; seq <= 4; seq++)
        shard_fixture_expect_push(&f, 0, seq, STATUS(OK));
    struct fixture_request r = {.rank = 0, .seq = 4, .acked = 4, .header_only = true};
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    shard_fixture_expect_push(
        &f, 0, 5, STATUS(OK)); /* acked 4: the values of batch 4 go, those of batch 5 stay */
    r = (struct fixture_request){.rank = 0, .seq = 4, .acked = 4, .header_only = true};
    shard_fixture_expect(&f, &r, STATUS(OK), "");
    r.seq = 3;
    shard_fixture_expect(&f, &r, STATUS(LACKING), "");
    r.header_only = false;
    shard_fixture_expect(&f, &r, STATUS(LACKING), "gone");
    /* Who asks is told what is acknowledged: it may have been overtaken by a message of its own. */
    struct fixture_reply reply = {0};
    shard_fixture_call(&f, &r, &reply);
    assert_int_equal(reply.acked, 4);
    shard_fixture_reply_deinit(&reply);
    shard_fixture_stop(&f);
}

static void test_barrier_and_verdict(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    for (uint64_t seq = 0; seq < 10; seq++)
        shard_fixture_expect_push(&f, 0, seq, STATUS(OK));
    struct fixture_reply reply = {0};
    struct fixture_request r = fixture_push(0, 10), past = fixture_push(0, 11);
    shard_fixture_send(&f, &r, &reply);
    assert_int_equal(reply.count, 0);
    assert_int_equal(f.drain_count, 1);
    assert_int_equal(f.drain_step, 10);
    struct fixture_reply refused = {0};
    shard_fixture_call(&f, &past, &refused);
    assert_int_equal(refused.code, ERR_REFUSED);
    assert_non_null(strstr(refused.text, "drain point"));
    shard_verdict(f.shard, 20, true); /* not yet: kept for its time */
    assert_int_equal(reply.count, 0);
    shard_verdict(f.shard, 10, false);
    assert_int_equal(reply.status, STATUS(OK));
    assert_true(reply.value_count > 0);
    shard_verdict(f.shard, 10, true); /* too late */
    shard_fixture_expect(&f, &past, STATUS(OK), "");
    for (uint64_t seq = 12; seq < 20; seq++)
        shard_fixture_expect_push(&f, 0, seq, STATUS(OK));
    shard_fixture_expect_push(&f, 0, 20, STATUS(STOP));
    assert_int_equal(f.drain_count, 2);
    shard_fixture_reply_deinit(&reply);
    shard_fixture_reply_deinit(&refused);
    shard_fixture_stop(&f);
}

static void test_budget(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 2, 2);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    shard_fixture_expect_push(&f, 1, 0, STATUS(OK));
    uint64_t before = shard_memory(f.shard);
    shard_fixture_stop(&f);

    memset(&f, 0, sizeof f);
    f.options.memory_bytes = before + 1000;
    struct steps steps = shard_fixture_steps(CONSISTENCY_BSP, 2);
    shard_fixture_start(&f, &steps, 2);
    shard_begin(f.shard, 0);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    shard_fixture_expect_push(&f, 1, 0, STATUS(OK));
    struct fixture_request ahead = {.rank = 0, .seq = 2}, next = {.rank = 0, .seq = 1};
    shard_fixture_expect(&f, &ahead, STATUS(BUSY), "budget");
    struct fixture_reply reply = {0};
    shard_fixture_send(&f, &next, &reply); /* the one that all wait for */
    assert_int_equal(reply.count, 0);
    assert_true(shard_memory(f.shard) > f.options.memory_bytes);
    shard_fixture_stop(&f);
    shard_fixture_reply_deinit(&reply);

    /* Parameters alone over the budget: the job ends by name. */
    memset(&f, 0, sizeof f);
    f.options.memory_bytes = 1000;
    shard_fixture_start(&f, &steps, 1);
    shard_begin(f.shard, 0);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    struct fixture_request r = fixture_push(0, 1);
    shard_fixture_expect(&f, &r, STATUS(FAILED), "more servers");
    shard_fixture_stop(&f);
}

/* ---- what fails the job ---- */

static void expect_failed(const char *part)
{
    assert_int_equal(f.fail_count, 1);
    assert_non_null(strstr(f.fail_text, part));
    shard_fixture_expect_push(&f, 0, 1, STATUS(FAILED));
    shard_fixture_expect_push(&f, 0, 0, STATUS(FAILED));
}

static void test_failures(void **state)
{
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    struct fixture_reply held = {0};
    for (size_t i = 0; i < 3; i++) {
        shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 2);
        shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
        struct fixture_request r = fixture_push(0, 1), other = fixture_push(1, 1);
        shard_fixture_send(&f, &r, &held);
        other.poison = poisons[i];
        uint64_t digest = shard_fixture_digest(&f);
        shard_fixture_expect(&f, &other, STATUS(FAILED), "table user: the gradient of key");
        assert_int_equal(held.status, STATUS(FAILED));
        assert_true(shard_fixture_digest(&f) == digest);
        expect_failed("not finite");
        shard_fixture_stop(&f);
        shard_fixture_reply_deinit(&held);
    }
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 2);
    shard_fixture_expect_push(&f, 0, 0, STATUS(OK));
    struct fixture_request r = fixture_push(0, 1);
    shard_fixture_send(&f, &r, &held);
    r.salt = 1;
    shard_fixture_expect(&f, &r, STATUS(FAILED), "not reproducible");
    expect_failed("rank 0, seq 1");
    shard_fixture_stop(&f);
    shard_fixture_reply_deinit(&held);

    shard_fixture_begin(&f, CONSISTENCY_ASP, 0, 1);
    shard_fail(f.shard, "the disk is on fire");
    shard_fail(f.shard, "so is the other");
    expect_failed("the disk is on fire");
    shard_fixture_stop(&f);
}

/* ---- what is refused and changes nothing ---- */

static void other_shard(Paramd__PushPullRequest *q)
{
    q->shard = 1;
}
static void other_rank(Paramd__PushPullRequest *q)
{
    q->rank = 2;
}
static void acked_ahead(Paramd__PushPullRequest *q)
{
    q->acked = q->seq;
}
static void weight_negative(Paramd__PushPullRequest *q)
{
    q->weight = -1;
}
static void weight_infinite(Paramd__PushPullRequest *q)
{
    q->weight = INFINITY;
}
static void skipped_with_push(Paramd__PushPullRequest *q)
{
    q->skipped = true;
}
static void push_kind(Paramd__PushPullRequest *q)
{
    q->push[0]->kind = PARAMD__BLOCK__KIND__KEYS;
}
static void last_push_index(Paramd__PushPullRequest *q)
{
    q->push[q->n_push - 1]->index = 9;
}
static void last_push_count(Paramd__PushPullRequest *q)
{
    q->push[q->n_push - 1]->count++;
}
static void keys_misplaced(Paramd__PushPullRequest *q)
{
    q->push[0]->keys_offset += 8;
    q->push[0]->count--;
    q->push[1]->keys_offset = q->push[0]->keys_offset;
    q->push[1]->count = q->push[0]->count + 1;
}
static void pull_count(Paramd__PushPullRequest *q)
{
    q->pull[0]->count = UINT64_MAX;
}
static void pull_twice(Paramd__PushPullRequest *q)
{
    q->pull[1]->index = 0;
    q->pull[1]->dim = 0;
}

static void test_malformed(void **state)
{
    static const struct {
        void (*damage)(Paramd__PushPullRequest *q);
        const char *part;
    } cases[] = {
        {other_shard, "request for shard 1"}, {other_rank, "rank 2; the job has 2"},
        {acked_ahead, "acked 2, but only 1"}, {weight_negative, "weight -1"},
        {weight_infinite, "weight inf"},      {skipped_with_push, "skipped"},
        {push_kind, "push block 0: kind 1"},  {last_push_index, "parameter 9"},
        {last_push_count, "values"},          {keys_misplaced, "table item"},
        {pull_count, "pull block 0"},         {pull_twice, "more than one block"},
    };
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 2);
    for (uint32_t r = 0; r < 2; r++)
        shard_fixture_expect_push(&f, r, 0, STATUS(OK));
    struct fixture_reply held = {0};
    struct fixture_request one = fixture_push(0, 1);
    shard_fixture_send(&f, &one, &held);
    shard_fixture_expect_push(&f, 1, 1, STATUS(OK));
    uint64_t digest = shard_fixture_digest(&f), memory = shard_memory(f.shard);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture_request r = fixture_push(1, 2);
        struct fixture_reply reply = {0};
        r.lease = 77;
        r.damage = cases[i].damage;
        shard_fixture_call(&f, &r, &reply);
        if (reply.code == ERR_NONE || strstr(reply.text, cases[i].part) == NULL)
            fail_msg("case %zu: code %d status %d '%s' does not say '%s'", i, reply.code,
                     reply.status, reply.text, cases[i].part);
        assert_non_null(strstr(reply.text, "shard 0"));
        assert_true(shard_fixture_digest(&f) == digest);
        assert_int_equal(shard_memory(f.shard), memory);
        assert_int_equal(f.fail_count, 0);
        shard_fixture_reply_deinit(&reply);
    }
    struct fixture_request lagging = {.rank = 1, .seq = 3, .acked = 0};
    shard_fixture_expect(&f, &lagging, STATUS(EXPECTED), "");
    /* The lease that came with them was not believed, and the job goes on. */
    shard_fixture_reply_deinit(&held);
    one = fixture_push(0, 2);
    shard_fixture_send(&f, &one, &held);
    shard_fixture_expect_push(&f, 1, 2, STATUS(OK));
    assert_int_equal(held.status, STATUS(OK));
    shard_fixture_reply_deinit(&held);
    shard_fixture_stop(&f);
}

static void take_code(void *context, enum err code, struct chain *reply)
{
    enum err *out = context;
    *out = code;
}

static void test_noise(void **state)
{
    shard_fixture_begin(&f, CONSISTENCY_BSP, 0, 1);
    uint64_t digest = shard_fixture_digest(&f);
    for (uint64_t seed = 0; seed < 2000; seed++) {
        uint8_t bytes[64];
        enum err code = ERR_COUNT;
        size_t size = 1 + seed % 64;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)rng_at(seed, i);
        struct chain c = {0};
        chain_append_copy(&c, bytes, size);
        if (seed % 3 == 0)
            shard_push_pull(f.shard, &c, take_code, &code, 0);
        else if (seed % 3 == 1)
            shard_resume(f.shard, &c, take_code, &code);
        else
            shard_read(f.shard, &c, take_code, &code);
        assert_int_not_equal(code, ERR_COUNT);
        chain_deinit(&c);
    }
    assert_true(shard_fixture_digest(&f) == digest);
    shard_fixture_stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_window),
        cmocka_unit_test(test_acknowledged), cmocka_unit_test(test_barrier_and_verdict),
        cmocka_unit_test(test_budget),       cmocka_unit_test(test_failures),
        cmocka_unit_test(test_malformed),    cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
