/*
 * Goal: what leaves for a shard is exactly its part of the batch, in a form that a shard's own
 * check accepts; what comes back lands at the right places of the right batches, however it is cut
 * into slices; what does not fit is refused; every end of a session and every failure of a read is
 * told as what it is.
 *
 * Method: fake shards behind the memory transport, whose values are a pure function of table, key,
 * position and version, so that every float that arrives can be checked. Batches are random. One
 * fake can be told to spoil a reply, or to answer with a status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/fake_shard.h"
#include "worker/exchange.h"

#define KEYS_MAX 40u

/* Gives up soon where that is what the case is about, and else never within the test. */
static struct exchange *open_exchange(struct fake_world *w, const atomic_bool *cancel,
                                      bool gives_up)
{
    struct exchange *x = NULL;
    struct exchange_options o = {.job = "toy",
                                 .generation = 9,
                                 .schema = w->schema,
                                 .steps = w->steps,
                                 .shards = w->peers,
                                 .shard_count = FAKE_SHARDS,
                                 .rank_max = 1,
                                 .call_timeout_ms = 2000,
                                 .give_up_ms = gives_up ? 60 : 120000,
                                 .back_off_ms = 1,
                                 .cancel = cancel};
    assert_int_equal(exchange_open(&o, &x), ERR_NONE);
    return x;
}

/* ---- batches ---- */

struct toy_batch {
    struct batch batch;
    struct batch_table tables[FAKE_TABLES];
    uint64_t keys[FAKE_TABLES][KEYS_MAX];
};

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Random sizes, none at all among them; keys from a small set, so that batches share some. */
static void fill_batch(struct toy_batch *b, uint64_t step)
{
    memset(b, 0, sizeof *b);
    b->batch.step = step;
    b->batch.example_count = step % 9 == 5 ? 0 : 4;
    b->batch.tables = b->tables;
    b->batch.table_count = FAKE_TABLES;
    for (uint32_t t = 0; t < FAKE_TABLES; t++) {
        uint32_t count = (uint32_t)rng_below(rng_at(step, t), KEYS_MAX + 1);
        uint64_t *keys = b->keys[t];
        for (uint32_t i = 0; i < count; i++)
            keys[i] = mix64(1 + rng_below(rng_at(step * 100 + t, i), 60));
        qsort(keys, count, sizeof *keys, compare_keys);
        uint32_t unique = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (i == 0 || keys[i] != keys[i - 1])
                keys[unique++] = keys[i];
        }
        b->tables[t].keys = keys;
        b->tables[t].key_count = b->batch.example_count > 0 ? unique : 0;
    }
}

/* The shards' thread counts, too. */
static void count_bad(struct fake_world *w, uint32_t count)
{
    pthread_mutex_lock(&w->lock);
    w->bad += count;
    pthread_mutex_unlock(&w->lock);
}

static void check_rows(struct fake_world *w, const struct toy_batch *b, const float *const *rows,
                       uint64_t version)
{
    uint32_t bad = 0;
    for (uint32_t t = 0; t < FAKE_TABLES; t++) {
        uint32_t dim = w->schema->tables[t].dim;
        for (uint32_t i = 0; i < b->tables[t].key_count * dim; i++)
            bad += rows[t][i] != fake_row_value(t, b->keys[t][i / dim], i % dim, version);
    }
    count_bad(w, bad);
}

static void check_dense(struct fake_world *w, const float *const *dense, uint64_t version)
{
    uint32_t bad = 0;
    for (uint32_t p = 0; p < FAKE_DENSE; p++) {
        for (uint64_t i = 0; i < w->schema->dense[p].count; i++)
            bad += dense[p][i] != fake_dense_value(p, i, version);
    }
    count_bad(w, bad);
}

static void fill_gradients(const struct fake_world *w, const struct toy_batch *b,
                           const struct exchange_work *work)
{
    for (uint32_t t = 0; t < FAKE_TABLES; t++) {
        uint32_t dim = w->schema->tables[t].dim;
        for (uint32_t i = 0; i < b->tables[t].key_count * dim; i++)
            work->row_gradients[t][i] = fake_row_gradient(t, b->keys[t][i / dim], i % dim);
    }
    for (uint32_t p = 0; p < FAKE_DENSE; p++) {
        for (uint64_t i = 0; i < w->schema->dense[p].count; i++)
            work->dense_gradients[p][i] = fake_dense_value(p, i, FAKE_GRADIENT_VERSION);
    }
}

/* Trains from the beginning to the end, or to the error. */
static enum err drive(struct fake_world *w, struct exchange *x)
{
    struct exchange_rank_options rank = {.rank = 0, .lease = 1};
    uint32_t index;
    uint64_t given = 0;
    struct toy_batch b;
    assert_int_equal(exchange_add_rank(x, &rank, &index), ERR_NONE);
    enum err e = exchange_resume(x);
    for (bool begun = false; e == ERR_NONE && exchange_next_step(x, index) <= FAKE_LAST_STEP;) {
        while (given < exchange_batches_needed(x, index)) {
            fill_batch(&b, ++given);
            assert_int_equal(exchange_give(x, index, &b.batch), ERR_NONE);
        }
        if (!begun) {
            begun = true;
            e = exchange_begin(x, index);
            continue;
        }
        struct exchange_work work;
        if ((e = exchange_wait(x, index, &work)) != ERR_NONE)
            break;
        fill_batch(&b, work.step);
        struct exchange_push push = {.is_empty = b.batch.example_count == 0, .weight = 4};
        if (!push.is_empty) {
            uint64_t version = steps_version_of_batch(&w->steps, work.step);
            check_rows(w, &b, work.rows, version);
            check_dense(w, work.dense, version);
            fill_gradients(w, &b, &work);
        }
        Paramd__Report report = PARAMD__REPORT__INIT;
        push.report = &report;
        e = exchange_push(x, index, &push);
    }
    return e == ERR_NONE ? exchange_finish(x, index) : e;
}

/* ---- tests ---- */

static void test_everything_lands(void **state)
{
    static const uint32_t slices[] = {0, 64, 7, 3};
    for (size_t i = 0; i < sizeof slices / sizeof slices[0]; i++) {
        struct fake_world w;
        fake_world_open(&w);
        w.slice_bytes = slices[i];
        struct exchange *x = open_exchange(&w, NULL, false);
        assert_int_equal(drive(&w, x), ERR_NONE);
        assert_int_equal(exchange_state(x, 0), SESSION_FINISHED);
        assert_int_equal(exchange_acked(x, 0), FAKE_LAST_STEP);
        exchange_close(x);
        if (w.bad > 0)
            fail_msg("slices of %u: %u wrong: %s", slices[i], w.bad, w.why);
        assert_int_equal(w.requests, FAKE_SHARDS * (FAKE_LAST_STEP + 1));
        fake_world_close(&w);
    }
}

static void test_spoiled_replies_are_refused(void **state)
{
    for (enum spoil spoil = SPOIL_DIM; spoil < SPOIL_COUNT_OF; spoil++) {
        struct fake_world w;
        fake_world_open(&w);
        w.spoil = spoil;
        w.spoil_at = 8; /* pulls batch 11, which has examples */
        struct exchange *x = open_exchange(&w, NULL, false);
        assert_int_equal(drive(&w, x), ERR_REFUSED);
        if (exchange_state(x, 0) != SESSION_FAILED)
            fail_msg("spoiled reply %d was taken", spoil);
        assert_non_null(strstr(exchange_why(x, 0), "push-pull 8"));
        exchange_close(x);
        assert_int_equal(w.bad, 0);
        fake_world_close(&w);
    }
}

static void test_ends(void **state)
{
    static const struct {
        int status, rpc_status;
        enum session_state end;
    } cases[] = {
        {PARAMD__PUSH_PULL_REPLY__STATUS__REPLACED, 0, SESSION_REPLACED},
        {PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED, 0, SESSION_NOT_FORMED},
        {PARAMD__PUSH_PULL_REPLY__STATUS__WRONG_JOB, 0, SESSION_NOT_FORMED},
        {PARAMD__PUSH_PULL_REPLY__STATUS__FAILED, 0, SESSION_FAILED},
        {PARAMD__PUSH_PULL_REPLY__STATUS__BUSY, 0, SESSION_UNREACHABLE},
        {-1, RPC_UNAVAILABLE, SESSION_UNREACHABLE},
        {-1, RPC_INVALID, SESSION_FAILED},
        {-1, RPC_UNIMPLEMENTED, SESSION_FAILED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake_world w;
        fake_world_open(&w);
        w.spoil_at = 6;
        w.status = cases[i].status;
        w.rpc_status = cases[i].rpc_status;
        struct exchange *x = open_exchange(&w, NULL, cases[i].end == SESSION_UNREACHABLE);
        assert_int_equal(drive(&w, x), ERR_REFUSED);
        assert_int_equal(exchange_state(x, 0), cases[i].end);
        assert_true(strlen(exchange_why(x, 0)) > 0);
        exchange_close(x);
        fake_world_close(&w);
    }
}

static void test_cancel(void **state)
{
    struct fake_world w;
    atomic_bool cancel = false;
    fake_world_open(&w);
    struct exchange *x = open_exchange(&w, &cancel, false);
    struct exchange_rank_options rank = {.rank = 0, .lease = 1};
    uint32_t index;
    assert_int_equal(exchange_add_rank(x, &rank, &index), ERR_NONE);
    atomic_store(&cancel, true);
    assert_int_equal(exchange_resume(x), ERR_CANCELLED);
    exchange_close(x);
    exchange_close(NULL);
    fake_world_close(&w);
}

struct room {
    float *rows[FAKE_TABLES], *dense[FAKE_DENSE];
};

static void room_make(const struct fake_world *w, struct room *r)
{
    for (uint32_t t = 0; t < FAKE_TABLES; t++)
        r->rows[t] = must_alloc(KEYS_MAX * w->schema->tables[t].dim * sizeof(float));
    for (uint32_t p = 0; p < FAKE_DENSE; p++)
        r->dense[p] = must_alloc(w->schema->dense[p].count * sizeof(float));
}

static void room_free(struct room *r)
{
    for (uint32_t t = 0; t < FAKE_TABLES; t++)
        mem_free(r->rows[t]);
    for (uint32_t p = 0; p < FAKE_DENSE; p++)
        mem_free(r->dense[p]);
}

static void test_read(void **state)
{
    struct fake_world w;
    struct room room;
    struct toy_batch b;
    fake_world_open(&w);
    room_make(&w, &room);
    w.version = 12;
    w.slice_bytes = 13;
    struct exchange *x = open_exchange(&w, NULL, false);
    fill_batch(&b, 1);
    assert_int_equal(exchange_read(x, 12, &b.batch, room.rows, room.dense), ERR_NONE);
    check_rows(&w, &b, (const float *const *)room.rows, 12);
    check_dense(&w, (const float *const *)room.dense, 12);
    fill_batch(&b, 2);
    assert_int_equal(exchange_read(x, 12, &b.batch, room.rows, NULL), ERR_NONE);
    check_rows(&w, &b, (const float *const *)room.rows, 12);
    assert_int_equal(w.bad, 0);
    assert_int_equal(exchange_read(x, 13, &b.batch, room.rows, NULL), ERR_REFUSED);
    assert_non_null(strstr(err_text(), "shard 1: this shard is at version 12"));
    /* Calls of a read that failed may still be open. */
    assert_int_equal(exchange_read(x, 12, &b.batch, room.rows, NULL), ERR_REFUSED);
    exchange_close(x);
    static const struct {
        enum spoil spoil;
        int rpc_status;
        enum err e;
    } cases[] = {
        {SPOIL_DIM, 0, ERR_INPUT},
        {SPOIL_MISSING_BLOCK, 0, ERR_INPUT},
        {SPOIL_NOTHING, RPC_UNAVAILABLE, ERR_UNAVAILABLE},
        {SPOIL_NOTHING, RPC_INVALID, ERR_REFUSED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pthread_mutex_lock(&w.lock); /* a call of a read that failed may still be at work */
        w.spoil = cases[i].spoil;
        w.rpc_status = cases[i].rpc_status;
        pthread_mutex_unlock(&w.lock);
        x = open_exchange(&w, NULL, cases[i].e == ERR_UNAVAILABLE);
        assert_int_equal(exchange_read(x, 12, &b.batch, room.rows, room.dense), cases[i].e);
        char *why = must_strdup(err_text());
        exchange_close(x);
        assert_string_equal(err_text(), why);
        mem_free(why);
    }
    room_free(&room);
    fake_world_close(&w);
}

static void test_addresses(void **state)
{
    struct fake_world w;
    struct exchange *x = NULL;
    fake_world_open(&w);
    const char *none[] = {"carrier-pigeon"};
    struct exchange_shard wrong = {
        .end_partition = PARTITION_COUNT, .addresses = none, .address_count = 1};
    struct exchange_options o = {.job = "toy",
                                 .schema = w.schema,
                                 .steps = w.steps,
                                 .shards = &wrong,
                                 .shard_count = 1,
                                 .call_timeout_ms = 100,
                                 .give_up_ms = 100};
    assert_int_equal(exchange_open(&o, &x), ERR_INPUT);
    wrong.address_count = 0;
    assert_int_equal(exchange_open(&o, &x), ERR_INPUT);
    assert_null(x);
    /* A unix address of this host where nobody listens is passed over. */
    const char *dead[] = {w.shards[0].address, "unix-abstract:paramd-test-nobody-listens"};
    wrong = (struct exchange_shard){.end_partition = w.shards[0].end_partition,
                                    .addresses = dead,
                                    .address_count = 2,
                                    .host_id = "here"};
    o.host_id = "here";
    assert_int_equal(exchange_open(&o, &x), ERR_NONE);
    exchange_close(x);
    fake_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_lands),
        cmocka_unit_test(test_spoiled_replies_are_refused),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
