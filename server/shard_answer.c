#include "server/shard_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"

/* ---- values ---- */

/* The keys of one wanted block, three batches of them under way (see table.h). */
struct key_batches {
    struct chain_cursor cursor;
    uint64_t left;
    uint64_t keys[3][TABLE_BATCH];
    uint32_t counts[3];
};

static void next_keys(struct key_batches *k, const struct table *t, uint32_t turn)
{
    uint32_t count = k->left < TABLE_BATCH ? (uint32_t)k->left : TABLE_BATCH;
    CHECK(chain_cursor_read(&k->cursor, k->keys[turn], count * sizeof k->keys[0][0]));
    k->left -= count;
    k->counts[turn] = count;
    table_prefetch(t, k->keys[turn], count);
}

static void put_row(const struct schema_table *schema, const float *row, uint64_t key,
                    bool absent_is_zero, float *out)
{
    if (row != NULL)
        memcpy(out, row, schema->dim * sizeof *out);
    else if (absent_is_zero)
        memset(out, 0, schema->dim * sizeof *out);
    else
        schema_row_init(schema, key, out);
}

/* The values of a block's keys, one after another, to `out`. */
static void gather(const struct schema_table *schema, const struct table *t,
                   const struct block_list *wanted, const Paramd__Block *b, bool absent_is_zero,
                   float *out)
{
    const uint32_t dim = schema->dim;
    struct key_batches k = {.left = b->count};
    chain_cursor_init(&k.cursor, &wanted->chain, b->keys_offset, b->count * sizeof(uint64_t));
    float *rows[2][TABLE_BATCH];
    next_keys(&k, t, 0);
    next_keys(&k, t, 1);
    table_find(t, k.keys[0], k.counts[0], rows[0]);
    for (uint32_t i = 0; i < k.counts[0]; i++)
        table_ahead(rows[0][i], dim);
    uint32_t now = 0, turn = 0;
    while (k.counts[now] > 0) {
        uint32_t next = (now + 1) % 3;
        float **here = rows[turn], **there = rows[turn ^ 1];
        next_keys(&k, t, (now + 2) % 3);
        table_find(t, k.keys[next], k.counts[next], there);
        if (PLANT(pull_creates))
            CHECK(table_find_or_insert((struct table *)(uintptr_t)t, k.keys[now], k.counts[now],
                                       here) == ERR_NONE);
        for (uint32_t i = 0; i < k.counts[now]; i++, out += dim) {
            if (i < k.counts[next])
                table_ahead(there[i], dim);
            put_row(schema, here[i], k.keys[now][i], absent_is_zero, out);
        }
        now = next;
        turn ^= 1;
    }
}

static uint64_t sparse_floats(const struct schema *schema, const struct block_list *wanted)
{
    uint64_t floats = 0;
    for (size_t i = 0; i < wanted->count; i++) {
        const Paramd__Block *b = &wanted->blocks[i];
        if (b->kind == PARAMD__BLOCK__KIND__KEYS)
            floats += b->count * schema->tables[b->index].dim;
    }
    return floats;
}

/* A reference on the current version. */
static void share_dense(struct shard *s, const Paramd__Block *wanted, struct block_list *out,
                        Paramd__Block *b)
{
    const struct schema_dense *d = &s->options.schema->dense[wanted->index];
    struct dense *dense = s->dense[wanted->index];
    uint64_t first = schema_block_first(d, wanted->first_block);
    uint32_t last_block = wanted->first_block + wanted->block_count - 1;
    b->kind = PARAMD__BLOCK__KIND__DENSE;
    b->first_block = wanted->first_block;
    b->block_count = wanted->block_count;
    b->count = schema_block_first(d, last_block) + schema_block_size(d, last_block) - first;
    b->values_offset = out->chain.size;
    const float *values = buf_data(dense_values(dense));
    values += first - schema_block_first(d, dense_first_block(dense));
    chain_append(&out->chain, dense_values(dense), values, b->count * sizeof *values);
}

enum err answer_make(struct shard *s, const struct block_list *wanted, bool absent_is_zero,
                     struct block_list *out)
{
    const struct schema *schema = s->options.schema;
    struct buf *buf = buf_create(sparse_floats(schema, wanted) * sizeof(float));
    if (buf == NULL)
        return err_prefix(ERR_MEMORY, "values of %zu blocks", wanted->count);
    float *values = buf_data(buf);
    block_list_alloc(out, wanted->count);
    for (size_t i = 0; i < wanted->count; i++) {
        const Paramd__Block *w = &wanted->blocks[i];
        Paramd__Block *b = &out->blocks[i];
        b->index = w->index;
        if (w->kind != PARAMD__BLOCK__KIND__KEYS) {
            share_dense(s, w, out, b);
            continue;
        }
        const struct schema_table *table = &schema->tables[w->index];
        b->kind = PARAMD__BLOCK__KIND__ROWS;
        b->count = w->count;
        b->dim = table->dim;
        b->values_offset = out->chain.size;
        gather(table, s->tables[w->index], wanted, w, absent_is_zero, values);
        chain_append(&out->chain, buf, values, w->count * table->dim * sizeof *values);
        values += w->count * table->dim;
    }
    buf_unref(buf);
    return ERR_NONE;
}

/* ---- replies to push-pulls ---- */

/* The state of the rank, for any reply to it. */
static void fill_state(const struct shard *s, uint32_t rank, Paramd__PushPullReply *r)
{
    if (!s->begun || rank >= s->options.rank_count)
        return;
    r->received = s->consistency.ranks[rank].received;
    r->applied = s->consistency.ranks[rank].applied;
    r->acked = s->consistency.ranks[rank].acked;
    r->version = s->consistency.version;
}

void answer_status(struct shard *s, uint32_t rank, Paramd__PushPullReply__Status status,
                   const char *message, shard_reply reply, void *context)
{
    Paramd__PushPullReply r = PARAMD__PUSH_PULL_REPLY__INIT;
    struct wire_payload payload = {0};
    struct chain out = {0};
    fill_state(s, rank, &r);
    r.status = status;
    r.message = (char *)(uintptr_t)message;
    wire_encode(&r.base, &payload, &out);
    reply(context, ERR_NONE, &out);
    chain_deinit(&out);
}

/* The waiting call, which is answered at once and waits no more. */
static shard_reply take_call(struct shard_push *p)
{
    shard_reply reply = p->reply;
    p->reply = NULL;
    return reply;
}

void answer_waiting(struct shard *s, uint32_t rank, struct shard_push *p,
                    Paramd__PushPullReply__Status status, const char *message)
{
    if (p->reply != NULL)
        answer_status(s, rank, status, message, take_call(p), p->context);
}

static void answer_values(struct shard *s, uint32_t rank, struct shard_push *p,
                          const struct block_list *values)
{
    const struct consistency_state *c = &s->consistency;
    Paramd__PushPullReply r = PARAMD__PUSH_PULL_REPLY__INIT;
    struct wire_payload payload = {0};
    struct chain out = {0};
    fill_state(s, rank, &r);
    if (shard_is_bsp(s)) /* kept values are those of their own step */
        r.version = p->seq;
    bool stop = c->verdict_stop && c->verdict_step == p->seq;
    r.status = stop ? PARAMD__PUSH_PULL_REPLY__STATUS__STOP : PARAMD__PUSH_PULL_REPLY__STATUS__OK;
    r.n_blocks = values->count;
    r.blocks = values->pointers;
    chain_share(&payload.chain, &values->chain, 0, values->chain.size);
    wire_encode(&r.base, &payload, &out);
    take_call(p)(p->context, ERR_NONE, &out);
    chain_deinit(&out);
}

void answer_try(struct shard *s, uint32_t rank, struct shard_push *p)
{
    if (p->reply == NULL || p->state != PUSH_APPLIED || s->failed != NULL ||
        !consistency_may_reply(&s->consistency, rank, p->seq))
        return;
    if (shard_is_bsp(s) && !PLANT(answers_fresh)) {
        answer_values(s, rank, p, &p->answer);
        return;
    }
    /* ssp, asp: values as they are when the answer leaves. */
    struct block_list values = {0};
    if (answer_make(s, &p->wanted, false, &values) != ERR_NONE) {
        shard_fail(s, err_text());
        return;
    }
    answer_values(s, rank, p, &values);
    block_list_deinit(&values);
}
