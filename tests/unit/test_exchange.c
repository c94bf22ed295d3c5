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

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/rpc.h"
#include "common/wire.h"
#include "worker/exchange.h"

#define SHARDS    3u
#define TABLES    3u
#define DENSE     2u
#define KEYS_MAX  40u
#define LAST_STEP 23u
#define DEPTH     2u

enum spoil {
    SPOIL_NOTHING,
    SPOIL_DIM,
    SPOIL_COUNT,
    SPOIL_KIND,
    SPOIL_INDEX,
    SPOIL_OFFSET_BEYOND,
    SPOIL_OFFSET_ODD,
    SPOIL_FIRST_BLOCK,
    SPOIL_MISSING_BLOCK,
    SPOIL_EXTRA_BLOCK,
    SPOIL_PAYLOAD_SHORT,
    SPOIL_VERSION,
    SPOIL_GARBAGE,
    SPOIL_COUNT_OF
};

struct fake {
    struct fake_world *world;
    uint32_t index, first_partition, end_partition;
    struct rpc_server *server;
    char *address;
    const char *addresses[1];
    uint64_t received;
};

struct fake_world {
    struct schema *schema;
    struct steps steps;
    struct fake shards[SHARDS];
    struct exchange_shard peers[SHARDS];
    pthread_mutex_t lock;
    uint64_t version; /* of reads */
    /* what to do wrong, and when */
    uint64_t spoil_at; /* seq */
    enum spoil spoil;
    int status;           /* answered at spoil_at instead; -1: none */
    int rpc_status;       /* calls fail with it from spoil_at on; 0: none */
    uint32_t slice_bytes; /* replies are cut into slices of so many; 0: not */
    uint32_t requests, bad;
    char why[256];
};

/* ---- values as a pure function ---- */

static float row_value(uint32_t table, uint64_t key, uint32_t position, uint64_t version)
{
    return (float)(rng_at(key * 31 + position, table + version * 1000) % 100003);
}

static float dense_value(uint32_t parameter, uint64_t position, uint64_t version)
{
    return (float)(rng_at(position, parameter * 7 + version * 1000 + 5) % 100003);
}

static float row_gradient(uint32_t table, uint64_t key, uint32_t position)
{
    return row_value(table, key, position, 77777);
}

/* ---- the fake shard ---- */

static void complain(struct fake_world *w, const char *what)
{
    w->bad++;
    if (w->why[0] == '\0')
        strncpy(w->why, what, sizeof w->why - 1);
}

static void check_pushed(struct fake_world *w, const struct wire_message *m, const Paramd__Block *b)
{
    struct chain_cursor keys, values;
    wire_values(m, b, &values);
    if (b->kind == PARAMD__BLOCK__KIND__DENSE) {
        uint64_t first = schema_block_first(&w->schema->dense[b->index], b->first_block);
        for (uint64_t i = 0; i < b->count; i++) {
            float got;
            CHECK(chain_cursor_read(&values, &got, sizeof got));
            if (got != dense_value(b->index, first + i, 77777))
                complain(w, "a dense gradient at a wrong place");
        }
        return;
    }
    wire_keys(m, b, &keys);
    for (uint64_t i = 0; i < b->count; i++) {
        uint64_t key;
        CHECK(chain_cursor_read(&keys, &key, sizeof key));
        for (uint32_t j = 0; j < b->dim; j++) {
            float got;
            CHECK(chain_cursor_read(&values, &got, sizeof got));
            if (got != row_gradient(b->index, key, j))
                complain(w, "a gradient at a wrong place");
        }
    }
}

/* Floats behind `b`, which is a wanted block. */
static size_t answer_floats(const struct fake_world *w, const Paramd__Block *b)
{
    return b->count * (b->kind == PARAMD__BLOCK__KIND__KEYS ? w->schema->tables[b->index].dim : 1);
}

static void answer_block(struct fake_world *w, const struct wire_message *m, const Paramd__Block *b,
                         uint64_t version, struct wire_payload *payload, Paramd__Block *out)
{
    float *values = must_alloc(answer_floats(w, b) * sizeof(float) + 1);
    paramd__block__init(out);
    out->index = b->index;
    out->count = b->count;
    if (b->kind == PARAMD__BLOCK__KIND__KEYS) {
        struct chain_cursor keys;
        uint64_t key;
        out->kind = PARAMD__BLOCK__KIND__ROWS;
        out->dim = w->schema->tables[b->index].dim;
        wire_keys(m, b, &keys);
        for (size_t i = 0; chain_cursor_read(&keys, &key, sizeof key); i++) {
            for (uint32_t j = 0; j < out->dim; j++)
                values[i * out->dim + j] = row_value(b->index, key, j, version);
        }
    } else {
        out->kind = PARAMD__BLOCK__KIND__DENSE;
        out->first_block = b->first_block;
        out->block_count = b->block_count;
        uint64_t first = schema_block_first(&w->schema->dense[b->index], b->first_block);
        for (uint64_t i = 0; i < b->count; i++)
            values[i] = dense_value(b->index, first + i, version);
    }
    struct chain copy = {0};
    chain_append_copy(&copy, values, answer_floats(w, b) * sizeof(float));
    out->values_offset = payload->chain.size;
    chain_move(&payload->chain, &copy);
    mem_free(values);
}

static void spoil_blocks(enum spoil spoil, Paramd__Block *blocks, size_t *count,
                         struct wire_payload *p)
{
    Paramd__Block *b = &blocks[0], *last = &blocks[*count - 1];
    struct chain shorter = {0};
    switch (spoil) {
    case SPOIL_DIM:
        b->dim++;
        break;
    case SPOIL_COUNT:
        b->count++;
        break;
    case SPOIL_KIND:
        b->kind = PARAMD__BLOCK__KIND__DENSE;
        break;
    case SPOIL_INDEX:
        b->index++;
        break;
    case SPOIL_OFFSET_BEYOND:
        last->values_offset += 4;
        break;
    case SPOIL_OFFSET_ODD:
        b->values_offset += 2;
        break;
    case SPOIL_FIRST_BLOCK:
        last->first_block++;
        break;
    case SPOIL_MISSING_BLOCK:
        (*count)--;
        break;
    case SPOIL_EXTRA_BLOCK:
        blocks[*count] = *last;
        (*count)++;
        break;
    case SPOIL_PAYLOAD_SHORT:
        chain_share(&shorter, &p->chain, 0, p->chain.size - 4);
        chain_deinit(&p->chain);
        p->chain = shorter;
        break;
    default:
        break;
    }
}

/* The same bytes in small slices, so that everything straddles something. */
static void cut(struct chain *c, uint32_t slice_bytes)
{
    struct chain pieces = {0};
    for (size_t at = 0; at < c->size && slice_bytes > 0; at += slice_bytes) {
        uint8_t bytes[64];
        size_t n = c->size - at < slice_bytes ? c->size - at : slice_bytes;
        chain_copy_out(c, at, bytes, n);
        chain_append_copy(&pieces, bytes, n);
    }
    if (slice_bytes > 0) {
        chain_deinit(c);
        *c = pieces;
    }
}

struct answer {
    Paramd__Block blocks[TABLES + DENSE + 1], *pointers[TABLES + DENSE + 1];
    size_t count;
    struct wire_payload payload;
};

static void make_answer(struct fake *f, const struct wire_message *m, Paramd__Block *const *pull,
                        size_t pull_count, uint64_t version, enum spoil spoil, struct answer *a)
{
    struct wire_limits limits = {.schema = f->world->schema,
                                 .first_partition = f->first_partition,
                                 .end_partition = f->end_partition};
    if (wire_check_blocks(m, pull, pull_count, &limits, false) != ERR_NONE)
        complain(f->world, err_text());
    for (size_t i = 0; i < pull_count; i++)
        answer_block(f->world, m, pull[i], version, &a->payload, &a->blocks[a->count++]);
    if (spoil != SPOIL_NOTHING && a->count > 0)
        spoil_blocks(spoil, a->blocks, &a->count, &a->payload);
    for (size_t i = 0; i < a->count; i++)
        a->pointers[i] = &a->blocks[i];
}

static void take_push(struct fake *f, const struct wire_message *m,
                      const Paramd__PushPullRequest *q)
{
    struct fake_world *w = f->world;
    struct wire_limits limits = {.schema = w->schema,
                                 .first_partition = f->first_partition,
                                 .end_partition = f->end_partition};
    if (wire_check_blocks(m, q->push, q->n_push, &limits, true) != ERR_NONE)
        complain(w, err_text());
    if (wire_checksum(m, q->push, q->n_push) != q->checksum)
        complain(w, "the checksum is wrong");
    if ((q->report != NULL) != (f->index == 0 && q->seq > 0))
        complain(w, "reports belong to the first shard, with every push of a batch");
    if (q->seq > f->received + 1 || q->acked > q->seq)
        complain(w, "seq or acked is ahead");
    f->received = q->seq;
    for (size_t i = 0; i < q->n_push; i++)
        check_pushed(w, m, q->push[i]);
}

static void on_push_pull(void *context, struct rpc_call *call)
{
    struct fake *f = context;
    struct fake_world *w = f->world;
    struct wire_message m;
    Paramd__PushPullReply r = PARAMD__PUSH_PULL_REPLY__INIT;
    struct answer a = {0};
    struct chain out = {0};
    pthread_mutex_lock(&w->lock);
    w->requests++;
    CHECK(wire_decode(&paramd__push_pull_request__descriptor, rpc_call_request(call), &m) ==
          ERR_NONE);
    const Paramd__PushPullRequest *q = (const Paramd__PushPullRequest *)m.message;
    bool now = f->index == 1 && q->seq == w->spoil_at;
    if (q->shard != f->index || strcmp(q->job, "toy") != 0 || q->generation != 9 || q->rank != 0)
        complain(w, "a request for somebody else");
    take_push(f, &m, q);
    make_answer(f, &m, q->pull, q->n_pull, q->seq, now ? w->spoil : SPOIL_NOTHING, &a);
    r.status = now && w->status >= 0 ? (Paramd__PushPullReply__Status)w->status
                                     : PARAMD__PUSH_PULL_REPLY__STATUS__OK;
    r.message = (char *)"as told";
    r.version = q->seq - (now && w->spoil == SPOIL_VERSION);
    r.blocks = a.pointers;
    r.n_blocks = r.status == PARAMD__PUSH_PULL_REPLY__STATUS__OK ? a.count : 0;
    wire_encode(&r.base, &a.payload, &out);
    if (now && w->spoil == SPOIL_GARBAGE) {
        chain_deinit(&out);
        chain_append_copy(&out, "\xff\xff\xff", 3);
    }
    cut(&out, w->slice_bytes);
    int failure = q->seq >= w->spoil_at ? w->rpc_status : 0;
    wire_message_deinit(&m);
    pthread_mutex_unlock(&w->lock);
    if (failure != 0)
        rpc_call_fail(call, (enum rpc_status)failure, "as told");
    else
        rpc_call_reply(call, &out);
    chain_deinit(&out);
}

static void on_resume(void *context, struct rpc_call *call)
{
    Paramd__ResumeReply r = PARAMD__RESUME_REPLY__INIT;
    struct wire_payload none = {0};
    struct chain out = {0};
    wire_encode(&r.base, &none, &out);
    rpc_call_reply(call, &out);
}

static void on_read(void *context, struct rpc_call *call)
{
    struct fake *f = context;
    struct fake_world *w = f->world;
    struct wire_message m;
    Paramd__ReadReply r = PARAMD__READ_REPLY__INIT;
    struct answer a = {0};
    struct chain out = {0};
    pthread_mutex_lock(&w->lock);
    CHECK(wire_decode(&paramd__read_request__descriptor, rpc_call_request(call), &m) == ERR_NONE);
    const Paramd__ReadRequest *q = (const Paramd__ReadRequest *)m.message;
    bool other = f->index == 1 && q->version != w->version;
    make_answer(f, &m, q->pull, q->n_pull, q->version, f->index == 1 ? w->spoil : SPOIL_NOTHING,
                &a);
    r.status =
        other ? PARAMD__PUSH_PULL_REPLY__STATUS__EXPECTED : PARAMD__PUSH_PULL_REPLY__STATUS__OK;
    r.message = (char *)(other ? "this shard is at version 12" : "");
    r.version = q->version;
    r.blocks = a.pointers;
    r.n_blocks = other ? 0 : a.count;
    wire_encode(&r.base, &a.payload, &out);
    cut(&out, w->slice_bytes);
    int failure = w->rpc_status;
    wire_message_deinit(&m);
    pthread_mutex_unlock(&w->lock);
    if (failure != 0)
        rpc_call_fail(call, (enum rpc_status)failure, "as told");
    else
        rpc_call_reply(call, &out);
    chain_deinit(&out);
}

/* ---- the world ---- */

static struct schema *make_schema(void)
{
    static const uint32_t dims[TABLES] = {1, 5, 16};
    static const uint32_t counts[DENSE] = {50000, 3};
    struct schema *s = must_alloc(sizeof *s);
    s->table_count = TABLES;
    s->tables = must_alloc(TABLES * sizeof *s->tables);
    for (uint32_t t = 0; t < TABLES; t++) {
        s->tables[t].name[0] = (char)('a' + t);
        s->tables[t].component_count = 1;
        strcpy(s->tables[t].components[0].name, "v");
        s->tables[t].components[0].dim = dims[t];
        strcpy(s->tables[t].components[0].optimizer.type, "sgd");
    }
    s->dense_count = DENSE;
    s->dense = must_alloc(DENSE * sizeof *s->dense);
    for (uint32_t p = 0; p < DENSE; p++) {
        s->dense[p].name[0] = (char)('p' + p);
        s->dense[p].shape[0] = counts[p];
        s->dense[p].shape_count = 1;
        strcpy(s->dense[p].optimizer.type, "sgd");
    }
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

static void world_open(struct fake_world *w)
{
    static uint32_t number;
    memset(w, 0, sizeof *w);
    w->schema = make_schema();
    w->status = -1;
    w->spoil_at = UINT64_MAX;
    w->steps = (struct steps){.consistency = CONSISTENCY_BSP,
                              .steps_per_epoch = LAST_STEP,
                              .last_step = LAST_STEP,
                              .drain_every = 7,
                              .pipeline_depth = DEPTH};
    pthread_mutex_init(&w->lock, NULL);
    number++;
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct fake *f = &w->shards[i];
        f->world = w;
        f->index = i;
        f->first_partition = i * PARTITION_COUNT / SHARDS;
        f->end_partition = (i + 1) * PARTITION_COUNT / SHARDS;
        f->address = must_format("memory:exchange-%u-%u", number, i);
        f->addresses[0] = f->address;
        const char *listen[] = {f->address, NULL};
        const struct rpc_method methods[] = {
            {.name = WIRE_PUSH_PULL, .handler = on_push_pull, .context = f},
            {.name = WIRE_RESUME, .handler = on_resume, .context = f},
            {.name = WIRE_READ, .handler = on_read, .context = f},
        };
        struct rpc_server_options o = {.listen = listen, .methods = methods, .method_count = 3};
        CHECK(rpc_server_create(&o, &f->server) == ERR_NONE);
        w->peers[i] = (struct exchange_shard){.first_partition = f->first_partition,
                                              .end_partition = f->end_partition,
                                              .addresses = f->addresses,
                                              .address_count = 1};
    }
}

static void world_close(struct fake_world *w)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        rpc_server_destroy(w->shards[i].server);
        mem_free(w->shards[i].address);
    }
    pthread_mutex_destroy(&w->lock);
    schema_destroy(w->schema);
}

static struct exchange *open_exchange(struct fake_world *w, const atomic_bool *cancel)
{
    struct exchange *x = NULL;
    struct exchange_options o = {.job = "toy",
                                 .generation = 9,
                                 .schema = w->schema,
                                 .steps = w->steps,
                                 .shards = w->peers,
                                 .shard_count = SHARDS,
                                 .rank_max = 1,
                                 .call_timeout_ms = 2000,
                                 .give_up_ms = 60,
                                 .back_off_ms = 1,
                                 .cancel = cancel};
    assert_int_equal(exchange_open(&o, &x), ERR_NONE);
    return x;
}

/* ---- batches ---- */

struct toy_batch {
    struct batch batch;
    struct batch_table tables[TABLES];
    uint64_t keys[TABLES][KEYS_MAX];
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
    b->batch.table_count = TABLES;
    for (uint32_t t = 0; t < TABLES; t++) {
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

static void check_rows(struct fake_world *w, const struct toy_batch *b, const float *const *rows,
                       uint64_t version)
{
    for (uint32_t t = 0; t < TABLES; t++) {
        uint32_t dim = w->schema->tables[t].dim;
        for (uint32_t i = 0; i < b->tables[t].key_count * dim; i++)
            w->bad += rows[t][i] != row_value(t, b->keys[t][i / dim], i % dim, version);
    }
}

static void check_dense(struct fake_world *w, const float *const *dense, uint64_t version)
{
    for (uint32_t p = 0; p < DENSE; p++) {
        for (uint64_t i = 0; i < w->schema->dense[p].count; i++)
            w->bad += dense[p][i] != dense_value(p, i, version);
    }
}

static void fill_gradients(const struct fake_world *w, const struct toy_batch *b,
                           const struct exchange_work *work)
{
    for (uint32_t t = 0; t < TABLES; t++) {
        uint32_t dim = w->schema->tables[t].dim;
        for (uint32_t i = 0; i < b->tables[t].key_count * dim; i++)
            work->row_gradients[t][i] = row_gradient(t, b->keys[t][i / dim], i % dim);
    }
    for (uint32_t p = 0; p < DENSE; p++) {
        for (uint64_t i = 0; i < w->schema->dense[p].count; i++)
            work->dense_gradients[p][i] = dense_value(p, i, 77777);
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
    for (bool begun = false; e == ERR_NONE && exchange_next_step(x, index) <= LAST_STEP;) {
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
        world_open(&w);
        w.slice_bytes = slices[i];
        struct exchange *x = open_exchange(&w, NULL);
        assert_int_equal(drive(&w, x), ERR_NONE);
        assert_int_equal(exchange_state(x, 0), SESSION_FINISHED);
        assert_int_equal(exchange_acked(x, 0), LAST_STEP);
        exchange_close(x);
        if (w.bad > 0)
            fail_msg("slices of %u: %u wrong: %s", slices[i], w.bad, w.why);
        assert_int_equal(w.requests, SHARDS * (LAST_STEP + 1));
        world_close(&w);
    }
}

static void test_spoiled_replies_are_refused(void **state)
{
    for (enum spoil spoil = SPOIL_DIM; spoil < SPOIL_COUNT_OF; spoil++) {
        struct fake_world w;
        world_open(&w);
        w.spoil = spoil;
        w.spoil_at = 8; /* pulls batch 11, which has examples */
        struct exchange *x = open_exchange(&w, NULL);
        assert_int_equal(drive(&w, x), ERR_REFUSED);
        if (exchange_state(x, 0) != SESSION_FAILED)
            fail_msg("spoiled reply %d was taken", spoil);
        assert_non_null(strstr(exchange_why(x, 0), "push-pull 8"));
        exchange_close(x);
        assert_int_equal(w.bad, 0);
        world_close(&w);
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
        world_open(&w);
        w.spoil_at = 6;
        w.status = cases[i].status;
        w.rpc_status = cases[i].rpc_status;
        struct exchange *x = open_exchange(&w, NULL);
        assert_int_equal(drive(&w, x), ERR_REFUSED);
        assert_int_equal(exchange_state(x, 0), cases[i].end);
        assert_true(strlen(exchange_why(x, 0)) > 0);
        exchange_close(x);
        world_close(&w);
    }
}

static void test_cancel(void **state)
{
    struct fake_world w;
    atomic_bool cancel = false;
    world_open(&w);
    struct exchange *x = open_exchange(&w, &cancel);
    struct exchange_rank_options rank = {.rank = 0, .lease = 1};
    uint32_t index;
    assert_int_equal(exchange_add_rank(x, &rank, &index), ERR_NONE);
    atomic_store(&cancel, true);
    assert_int_equal(exchange_resume(x), ERR_CANCELLED);
    exchange_close(x);
    exchange_close(NULL);
    world_close(&w);
}

struct room {
    float *rows[TABLES], *dense[DENSE];
};

static void room_make(const struct fake_world *w, struct room *r)
{
    for (uint32_t t = 0; t < TABLES; t++)
        r->rows[t] = must_alloc(KEYS_MAX * w->schema->tables[t].dim * sizeof(float));
    for (uint32_t p = 0; p < DENSE; p++)
        r->dense[p] = must_alloc(w->schema->dense[p].count * sizeof(float));
}

static void room_free(struct room *r)
{
    for (uint32_t t = 0; t < TABLES; t++)
        mem_free(r->rows[t]);
    for (uint32_t p = 0; p < DENSE; p++)
        mem_free(r->dense[p]);
}

static void test_read(void **state)
{
    struct fake_world w;
    struct room room;
    struct toy_batch b;
    world_open(&w);
    room_make(&w, &room);
    w.version = 12;
    w.slice_bytes = 13;
    struct exchange *x = open_exchange(&w, NULL);
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
        x = open_exchange(&w, NULL);
        assert_int_equal(exchange_read(x, 12, &b.batch, room.rows, room.dense), cases[i].e);
        exchange_close(x);
    }
    room_free(&room);
    world_close(&w);
}

static void test_addresses(void **state)
{
    struct fake_world w;
    struct exchange *x = NULL;
    world_open(&w);
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
    world_close(&w);
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
