#include "worker/exchange_internal.h"

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"

/* The first of ascending keys that is >= key. */
static uint32_t lower_bound(const uint64_t *keys, uint32_t count, uint64_t key)
{
    uint32_t low = 0;
    while (low < count) {
        uint32_t middle = low + (count - low) / 2;
        if (keys[middle] < key)
            low = middle + 1;
        else
            count = middle;
    }
    return low;
}

void exchange_key_range(const struct shard_peer *shard, const uint64_t *keys, uint32_t count,
                        uint32_t *first, uint32_t *end)
{
    *first = lower_bound(keys, count, partition_first_key(shard->first_partition));
    *end = count;
    if (shard->end_partition < PARTITION_COUNT)
        *end = lower_bound(keys, count, partition_first_key(shard->end_partition));
}

/* Floats in blocks first … end - 1 of a dense parameter. */
static uint64_t dense_values(const struct schema_dense *d, uint32_t first, uint32_t end)
{
    uint64_t stop = end == d->block_count ? d->count : schema_block_first(d, end);
    return stop - schema_block_first(d, first);
}

uint32_t exchange_pull_blocks(struct exchange *x, const struct shard_peer *shard,
                              const struct wanted *w, Paramd__Block *blocks,
                              struct wire_payload *payload)
{
    const struct schema *schema = x->options.schema;
    uint32_t count = 0;
    for (uint32_t t = 0; t < schema->table_count; t++) {
        uint32_t first, end;
        exchange_key_range(shard, w->keys[t], w->counts[t], &first, &end);
        if (first == end)
            continue;
        Paramd__Block *b = &blocks[count++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__KEYS;
        b->index = t;
        b->count = end - first;
        b->dim = schema->tables[t].dim;
        b->keys_offset = wire_payload_add(payload, w->owner, w->keys[t] + first,
                                          (end - first) * sizeof(uint64_t), 8);
    }
    for (uint32_t p = 0; p < schema->dense_count && w->dense; p++) {
        const struct schema_dense *d = &schema->dense[p];
        uint32_t first, end;
        layout_blocks(d, shard->first_partition, shard->end_partition, &first, &end);
        if (first >= end)
            continue;
        Paramd__Block *b = &blocks[count++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__DENSE_WANTED;
        b->index = p;
        b->count = dense_values(d, first, end);
        b->first_block = first;
        b->block_count = end - first;
    }
    return count;
}

/* The gradients of a step that belong to a shard. */
static uint32_t push_blocks(struct exchange *x, const struct shard_peer *shard,
                            const struct step *s, Paramd__Block *blocks,
                            struct wire_payload *payload)
{
    const struct schema *schema = x->options.schema;
    uint32_t count = 0;
    for (uint32_t t = 0; t < schema->table_count; t++) {
        uint32_t first, end, dim = schema->tables[t].dim;
        exchange_key_range(shard, s->keys[t], s->key_counts[t], &first, &end);
        if (first == end)
            continue;
        Paramd__Block *b = &blocks[count++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__ROWS;
        b->index = t;
        b->count = end - first;
        b->dim = dim;
        b->keys_offset = wire_payload_add(payload, s->keys_area, s->keys[t] + first,
                                          (end - first) * sizeof(uint64_t), 8);
        b->values_offset =
            wire_payload_add(payload, s->gradients_area, s->row_gradients[t] + (size_t)first * dim,
                             (size_t)(end - first) * dim * sizeof(float), 4);
    }
    for (uint32_t p = 0; p < schema->dense_count; p++) {
        const struct schema_dense *d = &schema->dense[p];
        uint32_t first, end;
        layout_blocks(d, shard->first_partition, shard->end_partition, &first, &end);
        if (first >= end)
            continue;
        Paramd__Block *b = &blocks[count++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__DENSE;
        b->index = p;
        b->count = dense_values(d, first, end);
        b->first_block = first;
        b->block_count = end - first;
        b->values_offset = wire_payload_add(payload, s->gradients_area,
                                            s->dense_gradients[p] + schema_block_first(d, first),
                                            b->count * sizeof(float), 4);
    }
    return count;
}

static void encode_resume(struct exchange *x, const struct rank *r, const struct session_send *send,
                          struct chain *out)
{
    Paramd__ResumeRequest q = PARAMD__RESUME_REQUEST__INIT;
    q.job = x->job;
    q.generation = x->options.generation;
    q.lease = r->options.lease;
    q.rank = r->options.rank;
    q.shard = send->shard;
    struct buf *b = buf_create(paramd__resume_request__get_packed_size(&q) + 1);
    CHECK(b != NULL);
    size_t size = paramd__resume_request__pack(&q, buf_data(b));
    chain_append(out, b, buf_data(b), size);
    buf_unref(b);
}

static void encode_push_pull(struct exchange *x, const struct rank *r,
                             const struct session_send *send, struct chain *out)
{
    const struct step *s = exchange_step(r, send->seq);
    CHECK(s != NULL && (send->header_only || s->has_push));
    const struct shard_peer *shard = &x->shards[send->shard];
    bool bsp = x->options.steps.consistency == CONSISTENCY_BSP;
    struct wire_payload payload = {0};
    Paramd__PushPullRequest q = PARAMD__PUSH_PULL_REQUEST__INIT;
    q.job = x->job;
    q.generation = x->options.generation;
    q.lease = r->options.lease;
    q.rank = r->options.rank;
    q.shard = send->shard;
    q.seq = send->seq;
    q.acked = session_acked(r->session);
    if (PLANT(acked_by_one))
        q.acked = send->seq > r->options.start ? send->seq - 1 : send->seq;
    q.header_only = send->header_only;
    if (!send->header_only) {
        q.skipped = s->skipped;
        q.weight = s->weight;
        q.push = x->block_pointers;
        bool half = PLANT(half_a_step) && s->skipped && send->shard > 0;
        q.skipped = q.skipped && !half;
        if (!s->push_is_empty || half)
            q.n_push = push_blocks(x, shard, s, x->blocks, &payload);
        if (bsp)
            q.checksum = wire_checksum_payload(&payload, q.push, q.n_push);
        if (s->has_report && send->shard == 0)
            q.report = (Paramd__Report *)&s->report;
        q.pull = x->block_pointers + q.n_push;
        q.n_pull = exchange_pull_blocks(x, shard, &s->wanted, x->blocks + q.n_push, &payload);
    }
    wire_encode(&q.base, &payload, out);
}

static void arrived(void *context, enum rpc_status status, const char *message, struct chain *reply)
{
    struct call *c = context;
    c->status = status;
    size_t n = 0;
    for (; message[n] != '\0' && n + 1 < sizeof c->message; n++)
        c->message[n] = message[n];
    c->message[n] = '\0';
    chain_move(&c->reply, reply);
    enum err e = queue_push(c->exchange->arrived, c, 0);
    CHECK(e == ERR_NONE); /* it has a place for every call that can be open */
}

void exchange_call(struct exchange *x, struct call *c, const char *method, struct chain *request)
{
    struct rpc_call_options options = {.method = method, .timeout_ms = x->options.call_timeout_ms};
    rpc_channel_call(x->shards[c->send.shard].channel, &options, request, arrived, c);
}

void exchange_send(struct exchange *x, uint32_t rank_index, const struct session_send *send)
{
    const struct rank *r = &x->ranks[rank_index];
    struct chain request = {0};
    struct call *c = exchange_call_take(x);
    c->kind = CALL_SESSION;
    c->rank_index = rank_index;
    c->send = *send;
    if (send->what == SESSION_SEND_RESUME) {
        encode_resume(x, r, send, &request);
        exchange_call(x, c, WIRE_RESUME, &request);
    } else {
        encode_push_pull(x, r, send, &request);
        exchange_call(x, c, WIRE_PUSH_PULL, &request);
    }
}
