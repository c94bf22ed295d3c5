#include "tests/support/fake_shard.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/wire.h"

/* ---- values as a pure function ---- */

float fake_row_value(uint32_t table, uint64_t key, uint32_t position, uint64_t version)
{
    return (float)(rng_at(key * 31 + position, table + version * 1000) % 100003);
}

float fake_dense_value(uint32_t parameter, uint64_t position, uint64_t version)
{
    return (float)(rng_at(position, parameter * 7 + version * 1000 + 5) % 100003);
}

float fake_row_gradient(uint32_t table, uint64_t key, uint32_t position)
{
    return fake_row_value(table, key, position, FAKE_GRADIENT_VERSION);
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
            if (got != fake_dense_value(b->index, first + i, FAKE_GRADIENT_VERSION))
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
            if (got != fake_row_gradient(b->index, key, j))
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
                values[i * out->dim + j] = fake_row_value(b->index, key, j, version);
        }
    } else {
        out->kind = PARAMD__BLOCK__KIND__DENSE;
        out->first_block = b->first_block;
        out->block_count = b->block_count;
        uint64_t first = schema_block_first(&w->schema->dense[b->index], b->first_block);
        for (uint64_t i = 0; i < b->count; i++)
            values[i] = fake_dense_value(b->index, first + i, version);
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
    Paramd__Block blocks[FAKE_TABLES + FAKE_DENSE + 1], *pointers[FAKE_TABLES + FAKE_DENSE + 1];
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
    static const uint32_t dims[FAKE_TABLES] = {1, 5, 16};
    static const uint32_t counts[FAKE_DENSE] = {50000, 3};
    struct schema *s = must_alloc(sizeof *s);
    s->table_count = FAKE_TABLES;
    s->tables = must_alloc(FAKE_TABLES * sizeof *s->tables);
    for (uint32_t t = 0; t < FAKE_TABLES; t++) {
        s->tables[t].name[0] = (char)('a' + t);
        s->tables[t].component_count = 1;
        strcpy(s->tables[t].components[0].name, "v");
        s->tables[t].components[0].dim = dims[t];
        strcpy(s->tables[t].components[0].optimizer.type, "sgd");
    }
    s->dense_count = FAKE_DENSE;
    s->dense = must_alloc(FAKE_DENSE * sizeof *s->dense);
    for (uint32_t p = 0; p < FAKE_DENSE; p++) {
        s->dense[p].name[0] = (char)('p' + p);
        s->dense[p].shape[0] = counts[p];
        s->dense[p].shape_count = 1;
        strcpy(s->dense[p].optimizer.type, "sgd");
    }
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

void fake_world_open(struct fake_world *w)
{
    static uint32_t number;
    memset(w, 0, sizeof *w);
    w->schema = make_schema();
    w->status = -1;
    w->spoil_at = UINT64_MAX;
    w->steps = (struct steps){.consistency = CONSISTENCY_BSP,
                              .steps_per_epoch = FAKE_LAST_STEP,
                              .last_step = FAKE_LAST_STEP,
                              .drain_every = 7,
                              .pipeline_depth = FAKE_DEPTH};
    pthread_mutex_init(&w->lock, NULL);
    number++;
    for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
        struct fake *f = &w->shards[i];
        f->world = w;
        f->index = i;
        f->first_partition = i * PARTITION_COUNT / FAKE_SHARDS;
        f->end_partition = (i + 1) * PARTITION_COUNT / FAKE_SHARDS;
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

void fake_world_close(struct fake_world *w)
{
    for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
        rpc_server_destroy(w->shards[i].server);
        mem_free(w->shards[i].address);
    }
    pthread_mutex_destroy(&w->lock);
    schema_destroy(w->schema);
}
