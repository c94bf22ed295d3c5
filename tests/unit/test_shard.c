/*
 * Goal: what a shard holds and answers in bsp is a function of the pushes alone: the same bits
 * whatever the order of arrival, the doubled and repeated calls, the cuts of messages, the deaths
 * of workers. Method: ranks that keep the rules are driven at random against a shard; every answer
 * and the final state are compared, bit by bit, with a reference that applies the steps one value
 * at a time. Then a worker dies after each event of a run, and another takes its rank over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/shard_fixture.h"

#define CALLS_MAX 4000
/* Of the events after which a worker dies; under a sanitizer a run takes twenty times as long. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define STRIDE 14
#else
#define STRIDE 2
#endif

/* The answers and the final state that the calendar and the contents make necessary. */
struct expected {
    float *answers[FIXTURE_RANKS][FIXTURE_STEPS + 1];
    size_t counts[FIXTURE_RANKS][FIXTURE_STEPS + 1];
    uint64_t digest;
    uint32_t rows;
};

struct rank_client {
    uint64_t next; /* seq of the next push */
    uint64_t lease;
    uint64_t delivered; /* mask: sent to the shard at least once */
    uint64_t answered;  /* mask */
};

struct call {
    struct fixture_reply reply;
    uint32_t rank;
    uint64_t seq, lease;
    bool seen;
};

struct driver {
    struct shard_fixture f;
    const struct expected *expected;
    struct rank_client clients[FIXTURE_RANKS];
    struct call calls[CALLS_MAX];
    uint32_t call_count, events;
    uint64_t seed;
    uint64_t start; /* the step that was loaded: its push is empty */
};

static struct driver driver;

static void expect_run(const struct steps *steps, uint32_t ranks, struct expected *out)
{
    static struct shard_fixture f;
    static struct reference m;
    memset(&f, 0, sizeof f);
    shard_fixture_start(&f, steps, ranks);
    reference_init(&f, &m);
    for (uint64_t t = 0; t <= steps->last_step; t++) {
        if (t > 0)
            reference_apply(&f, &m, 0, ranks, t);
        for (uint32_t r = 0; r < ranks; r++)
            out->answers[r][t] = reference_answer(&f, &m, r, t, &out->counts[r][t]);
    }
    out->digest = reference_digest(&f, &m);
    out->rows = m.row_count;
    shard_fixture_stop(&f);
}

static void expected_deinit(struct expected *e)
{
    for (uint32_t r = 0; r < FIXTURE_RANKS; r++) {
        for (uint64_t t = 0; t <= FIXTURE_STEPS; t++)
            mem_free(e->answers[r][t]);
    }
    memset(e, 0, sizeof *e);
}

static bool has(uint64_t mask, uint64_t seq)
{
    return mask >> seq & 1;
}

/* Every shard, here the only one, has answered up to here. */
static uint64_t acked_of(const struct rank_client *c)
{
    uint64_t acked = 0;
    while (has(c->answered, acked + 1))
        acked++;
    return acked;
}

static uint64_t random_below(struct driver *d, uint64_t bound)
{
    return rng_below(rng_at(d->seed, d->events++), bound);
}

/* What the answers so far mean; an answer must be what the reference says. */
static void take_answers(struct driver *d)
{
    for (uint32_t i = 0; i < d->call_count; i++) {
        struct call *call = &d->calls[i];
        if (call->seen || call->reply.count == 0)
            continue;
        assert_int_equal(call->reply.count, 1);
        call->seen = true;
        struct rank_client *c = &d->clients[call->rank];
        if (call->lease != c->lease)
            continue;
        assert_int_equal(call->reply.code, ERR_NONE);
        if (call->reply.status == PARAMD__PUSH_PULL_REPLY__STATUS__WAITING)
            continue;
        if (call->reply.status != PARAMD__PUSH_PULL_REPLY__STATUS__OK)
            fail_msg("rank %u seq %llu: status %d '%s'", call->rank, (unsigned long long)call->seq,
                     call->reply.status, call->reply.text);
        const struct expected *e = d->expected;
        assert_int_equal(call->reply.version, call->seq);
        assert_int_equal(call->reply.value_count, e->counts[call->rank][call->seq]);
        assert_memory_equal(call->reply.values, e->answers[call->rank][call->seq],
                            call->reply.value_count * sizeof(float));
        c->answered |= UINT64_C(1) << call->seq;
    }
}

static void send(struct driver *d, uint32_t rank, uint64_t seq, bool header_only)
{
    struct rank_client *c = &d->clients[rank];
    assert_true(d->call_count < CALLS_MAX);
    struct call *call = &d->calls[d->call_count++];
    *call = (struct call){.rank = rank, .seq = seq, .lease = c->lease};
    c->delivered |= UINT64_C(1) << seq;
    struct fixture_request r = {.rank = rank,
                                .seq = seq,
                                .lease = c->lease,
                                .acked = acked_of(c),
                                .header_only = header_only,
                                .empty = seq == d->start,
                                .cut = d->events + 1};
    shard_fixture_send(&d->f, &r, &call->reply);
    take_answers(d);
}

static bool may_send(const struct driver *d, const struct rank_client *c)
{
    const struct steps *s = &d->f.options.steps;
    if (c->next > s->last_step)
        return false;
    uint64_t barrier = c->next > 0 ? steps_drain_before(s, c->next) : 0;
    return c->next - acked_of(c) <= s->pipeline_depth + 1 &&
           (c->next == 0 || has(c->answered, barrier));
}

/* One event: a push is sent or arrives late, a call is doubled or repeated, time passes, a verdict
 * comes. */
static void step(struct driver *d)
{
    const struct steps *s = &d->f.options.steps;
    uint32_t rank = (uint32_t)random_below(d, d->f.options.rank_count);
    struct rank_client *c = &d->clients[rank];
    uint64_t acked = acked_of(c), what = random_below(d, 12);
    if (what < 6) {
        /* A window's worth is written at once; which of it arrives first is chance. */
        while (may_send(d, c))
            c->next++;
        uint64_t seq = acked + random_below(d, s->pipeline_depth + 2);
        if (seq < c->next && !has(c->answered, seq))
            send(d, rank, seq, has(c->delivered, seq) && random_below(d, 2) == 0);
    } else if (what < 9) {
        uint64_t seq = acked + random_below(d, s->pipeline_depth + 2);
        if (has(c->delivered, seq) && seq < c->next)
            send(d, rank, seq, random_below(d, 2) == 0);
    } else if (what == 9) {
        d->f.now_ms += 700;
        shard_tick(d->f.shard, d->f.now_ms);
        take_answers(d);
    } else if (what == 10) {
        shard_verdict(d->f.shard, d->f.drain_step, false);
        take_answers(d);
    }
}

static bool is_finished(const struct driver *d)
{
    for (uint32_t r = 0; r < d->f.options.rank_count; r++) {
        if (acked_of(&d->clients[r]) < d->f.options.steps.last_step)
            return false;
    }
    return true;
}

static void begin(struct driver *d, const struct steps *steps, uint32_t ranks, uint64_t seed,
                  const struct expected *e)
{
    memset(d, 0, sizeof *d);
    d->seed = seed;
    d->expected = e;
    shard_fixture_start(&d->f, steps, ranks);
    shard_begin(d->f.shard, 0);
}

static void finish(struct driver *d)
{
    for (uint32_t i = 0; i < 20000 && !is_finished(d); i++)
        step(d);
    assert_true(is_finished(d));
    assert_int_equal(shard_version(d->f.shard), d->f.options.steps.last_step);
    assert_int_equal(shard_rows(d->f.shard), d->expected->rows);
    assert_int_equal(d->f.fail_count, 0);
    assert_true(shard_fixture_digest(&d->f) == d->expected->digest);
    shard_fixture_stop(&d->f);
    for (uint32_t i = 0; i < d->call_count; i++) {
        assert_int_equal(d->calls[i].reply.count, 1); /* each call once, the last ones at the end */
        shard_fixture_reply_deinit(&d->calls[i].reply);
    }
}

static struct steps calendar(uint32_t depth, uint64_t last)
{
    return (struct steps){.consistency = CONSISTENCY_BSP,
                          .steps_per_epoch = 9,
                          .last_step = last,
                          .drain_every = 5,
                          .eval_every = 7,
                          .has_eval = true,
                          .pipeline_depth = depth};
}

static void test_any_schedule(void **state)
{
    static struct expected e;
    for (uint32_t ranks = 1; ranks <= FIXTURE_RANKS; ranks++) {
        for (uint32_t depth = 0; depth <= 3; depth++) {
            struct steps steps = calendar(depth, 12);
            expect_run(&steps, ranks, &e);
            for (uint64_t seed = 0; seed < 3; seed++) {
                begin(&driver, &steps, ranks, 100 * seed + 10 * depth + ranks, &e);
                finish(&driver);
            }
            expected_deinit(&e);
        }
    }
}

struct resumed {
    uint32_t count;
    Paramd__ResumeReply *reply;
    uint8_t *payload;
};

static void take_resume(void *context, enum err code, struct chain *reply)
{
    struct resumed *r = context;
    struct wire_message m;
    struct chain c = {0};
    assert_int_equal(code, ERR_NONE);
    chain_move(&c, reply);
    assert_int_equal(wire_decode(&paramd__resume_reply__descriptor, &c, &m), ERR_NONE);
    r->count++;
    r->payload = malloc(m.payload_size + 1);
    chain_copy_out(&c, m.payload_offset, r->payload, m.payload_size);
    r->reply = (Paramd__ResumeReply *)m.message;
    chain_deinit(&c);
}

static void resume(struct driver *d, uint32_t rank, uint64_t lease, struct resumed *out)
{
    Paramd__ResumeRequest q = PARAMD__RESUME_REQUEST__INIT;
    struct wire_payload none = {0};
    struct chain c = {0};
    q.job = (char *)(uintptr_t) "films";
    q.generation = FIXTURE_GENERATION;
    q.rank = rank;
    q.lease = lease;
    wire_encode(&q.base, &none, &c);
    *out = (struct resumed){0};
    shard_resume(d->f.shard, &c, take_resume, out);
    assert_int_equal(out->count, 1);
    assert_int_equal(out->reply->status, PARAMD__PUSH_PULL_REPLY__STATUS__OK);
}

static void resumed_deinit(struct resumed *r)
{
    paramd__resume_reply__free_unpacked(r->reply, NULL);
    free(r->payload);
}

/* A kept answer has the values of its push, and names the keys that were asked for. */
static void check_kept(const struct driver *d, uint32_t rank, const struct resumed *r,
                       const Paramd__ResumeReply__Kept *k)
{
    const float *expected = d->expected->answers[rank][k->version];
    size_t at = 0;
    assert_int_equal(k->n_wanted, k->n_blocks);
    for (size_t i = 0; i < k->n_blocks; i++) {
        const Paramd__Block *b = k->blocks[i], *w = k->wanted[i];
        size_t count = b->count * (b->kind == PARAMD__BLOCK__KIND__ROWS ? b->dim : 1);
        assert_memory_equal(r->payload + b->values_offset, expected + at, count * sizeof(float));
        at += count;
        assert_int_equal(w->index, b->index);
        if (w->kind != PARAMD__BLOCK__KIND__KEYS)
            continue;
        assert_int_equal(w->count, b->count);
        assert_int_equal(w->keys_offset % 8, 0);
        uint64_t key, before = 0;
        for (uint64_t n = 0; n < w->count; n++, before = key) {
            memcpy(&key, r->payload + w->keys_offset + n * sizeof key, sizeof key);
            assert_true(n == 0 || key > before);
        }
    }
    assert_int_equal(at, d->expected->counts[rank][k->version]);
}

/* Rank `rank`'s worker dies; the next one knows only what the shard tells it. */
static void replace(struct driver *d, uint32_t rank)
{
    const struct steps *s = &d->f.options.steps;
    struct rank_client *c = &d->clients[rank];
    struct resumed r;
    uint64_t lease = c->lease + 1;
    if (lease % 2 == 0) /* the coordinator's word may come before or after the worker's */
        shard_set_lease(d->f.shard, rank, lease);
    resume(d, rank, lease, &r);
    *c = (struct rank_client){.lease = lease};
    uint64_t acked = r.reply->acked;
    assert_true(acked <= r.reply->applied && r.reply->applied <= r.reply->received);
    assert_int_equal(r.reply->applied, shard_version(d->f.shard));
    if (acked > 0) {
        assert_int_equal(r.reply->cursor.len, 2);
        assert_int_equal(r.reply->cursor.data[1], 'a' + acked % 26);
        assert_int_equal(r.reply->report->examples, 1000 * r.reply->received + rank);
    }
    for (size_t i = 0; i < r.reply->n_kept; i++) {
        uint64_t first, last;
        check_kept(d, rank, &r, r.reply->kept[i]);
        steps_batches_pulled(s, r.reply->kept[i]->version, &first, &last);
        assert_int_equal(r.reply->kept[i]->batch, first);
        assert_true(last > acked);
    }
    c->answered = acked > 0 ? (UINT64_C(2) << acked) - 1 : 0;
    c->next = acked + 1;
    /* As worker/session does: the values of batches acked + 1 … are asked for by their pushes. */
    uint64_t from = acked < s->last_step ? steps_version_of_batch(s, acked + 1) : acked;
    for (uint64_t seq = from; seq <= acked; seq++) {
        send(d, rank, seq, seq > 0);
        const struct call *call = &d->calls[d->call_count - 1];
        assert_int_equal(call->reply.count, 1);
        assert_int_equal(call->reply.status, PARAMD__PUSH_PULL_REPLY__STATUS__OK);
    }
    resumed_deinit(&r);
}

static void test_death_after_each_event(void **state)
{
    static struct expected e;
    for (uint32_t depth = 0; depth <= 2; depth++) {
        struct steps steps = calendar(depth, 8);
        expect_run(&steps, 2, &e);
        for (uint32_t prefix = 0; prefix < 120; prefix += STRIDE) {
            begin(&driver, &steps, 2, 900 + depth, &e);
            for (uint32_t i = 0; i < prefix; i++)
                step(&driver);
            replace(&driver, prefix / 2 % 2);
            for (uint32_t i = 0; i < 9; i++)
                step(&driver);
            replace(&driver, prefix / 2 % 2);
            finish(&driver);
        }
        expected_deinit(&e);
    }
}

/* A zombie goes on beside its replacement: its calls are answered, and change nothing. */
static void test_zombie(void **state)
{
    static struct expected e;
    struct steps steps = calendar(1, 8);
    expect_run(&steps, 2, &e);
    begin(&driver, &steps, 2, 4, &e);
    for (uint32_t i = 0; i < 40; i++)
        step(&driver);
    replace(&driver, 0);
    uint64_t version = shard_version(driver.f.shard);
    for (uint64_t seq = 0; seq < 8; seq++) {
        struct fixture_reply reply = {0};
        struct fixture_request r = {.rank = 0, .seq = seq, .lease = 0};
        shard_fixture_call(&driver.f, &r, &reply);
        assert_int_equal(reply.status, PARAMD__PUSH_PULL_REPLY__STATUS__REPLACED);
        shard_fixture_reply_deinit(&reply);
    }
    assert_int_equal(shard_version(driver.f.shard), version);
    finish(&driver);
    expected_deinit(&e);
}

/* Loading the state of a drain point into a new shard and going on gives the bits of going on. */
static void copy_state(struct shard_fixture *from, struct shard_fixture *to)
{
    for (uint32_t t = 0; t < FIXTURE_TABLES; t++) {
        uint64_t key;
        float row[FIXTURE_STATE];
        uint32_t count;
        struct table *table = shard_table(from->shard, t);
        table_snapshot_begin(table, 0);
        while (table_snapshot_next(table, 1, &key, row, &count) == ERR_NONE && count == 1)
            assert_int_equal(table_load(shard_table(to->shard, t), key, row), ERR_NONE);
        table_snapshot_end(table);
    }
    struct dense *d = shard_dense(from->shard, 0);
    assert_int_equal(
        dense_load(shard_dense(to->shard, 0), buf_data(dense_values(d)), dense_slots(d)), ERR_NONE);
    for (uint32_t r = 0; r < from->options.rank_count; r++)
        shard_set_report(to->shard, r, shard_reports(from->shard)[r]);
}

static void test_load_and_go_on(void **state)
{
    static struct expected e;
    static struct shard_fixture old;
    struct steps steps = calendar(2, 12);
    expect_run(&steps, 3, &e);
    for (uint64_t at = 5; at <= 10; at += at == 5 ? 2 : 3) { /* 5, 7 (evaluated), 10 */
        begin(&driver, &steps, 3, at, &e);
        while (shard_version(driver.f.shard) < at)
            step(&driver);
        /* The new shard tells the driver's fixture; the old one is only read from now on. */
        old = driver.f;
        memset(&driver.f, 0, sizeof driver.f);
        shard_fixture_start(&driver.f, &steps, 3);
        copy_state(&old, &driver.f);
        shard_fixture_stop(&old);
        for (uint32_t i = 0; i < driver.call_count; i++)
            shard_fixture_reply_deinit(&driver.calls[i].reply);
        driver.start = at;
        driver.call_count = 0;
        shard_begin(driver.f.shard, at);
        assert_int_equal(shard_reports(driver.f.shard)[1]->examples, 1000 * at + 1);
        for (uint32_t r = 0; r < 3; r++) {
            struct rank_client *c = &driver.clients[r];
            *c = (struct rank_client){.next = at, .answered = (UINT64_C(1) << at) - 2};
            struct fixture_request first = {.rank = r, .seq = at, .acked = at, .empty = true};
            struct call *call = &driver.calls[driver.call_count++];
            *call = (struct call){.rank = r, .seq = at};
            c->delivered = UINT64_C(1) << at;
            c->next = at + 1;
            shard_fixture_send(&driver.f, &first, &call->reply);
        }
        assert_int_equal(driver.f.drain_count, at == 7);
        shard_verdict(driver.f.shard, at, false);
        take_answers(&driver);
        finish(&driver);
    }
    expected_deinit(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_schedule),
        cmocka_unit_test(test_death_after_each_event),
        cmocka_unit_test(test_zombie),
        cmocka_unit_test(test_load_and_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
