#include "worker/exchange_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

/* ---- checking ---- */

static enum err check_values_range(const struct wire_message *m, const Paramd__Block *b,
                                   uint64_t floats)
{
    uint64_t end = b->values_offset + floats * sizeof(float);
    if (b->values_offset % sizeof(float) != 0 || end > m->payload_size || end < b->values_offset)
        return err_set(ERR_INPUT,
                       "%" PRIu64 " values at offset %" PRIu64
                       " lie outside the payload of %zu bytes, or between values",
                       floats, b->values_offset, m->payload_size);
    return ERR_NONE;
}

static enum err check_rows(const struct schema_table *t, uint32_t index, uint32_t count,
                           const struct wire_message *m, const Paramd__Block *b)
{
    if (b->kind != PARAMD__BLOCK__KIND__ROWS || b->index != index || b->count != count ||
        b->dim != t->dim)
        return err_set(ERR_INPUT,
                       "kind %d, table %u, %" PRIu64 " rows of %u; wanted are %u rows of %u of "
                       "table %s",
                       (int)b->kind, b->index, b->count, b->dim, count, t->dim, t->name);
    return check_values_range(m, b, (uint64_t)count * t->dim);
}

static enum err check_dense(const struct schema_dense *d, uint32_t index, uint32_t first,
                            uint32_t end, const struct wire_message *m, const Paramd__Block *b)
{
    uint64_t stop = end == d->block_count ? d->count : schema_block_first(d, end);
    uint64_t count = stop - schema_block_first(d, first);
    if (b->kind != PARAMD__BLOCK__KIND__DENSE || b->index != index || b->first_block != first ||
        b->block_count != end - first || b->count != count)
        return err_set(ERR_INPUT,
                       "kind %d, parameter %u, %u blocks from %u, %" PRIu64
                       " values; wanted are %u blocks from %u of %s",
                       (int)b->kind, b->index, b->block_count, b->first_block, b->count,
                       end - first, first, d->name);
    return check_values_range(m, b, count);
}

enum err exchange_check_answer(const struct exchange *x, uint32_t shard, const struct wanted *w,
                               const struct wire_message *m, Paramd__Block *const *blocks,
                               size_t count)
{
    const struct schema *schema = x->options.schema;
    const struct shard_peer *peer = &x->shards[shard];
    size_t at = 0;
    for (uint32_t t = 0; t < schema->table_count; t++) {
        uint32_t first, end;
        exchange_key_range(peer, w->keys[t], w->counts[t], &first, &end);
        if (first == end)
            continue;
        if (at == count)
            return err_set(ERR_INPUT, "the answer has no rows of table %s", schema->tables[t].name);
        enum err e = check_rows(&schema->tables[t], t, end - first, m, blocks[at]);
        if (e != ERR_NONE)
            return err_prefix(e, "answer block %zu", at);
        at++;
    }
    for (uint32_t p = 0; p < schema->dense_count && w->dense; p++) {
        const struct schema_dense *d = &schema->dense[p];
        uint32_t first, end;
        layout_blocks(d, peer->first_partition, peer->end_partition, &first, &end);
        if (first >= end)
            continue;
        if (at == count)
            return err_set(ERR_INPUT, "the answer has no values of %s", d->name);
        enum err e = check_dense(d, p, first, end, m, blocks[at]);
        if (e != ERR_NONE)
            return err_prefix(e, "answer block %zu", at);
        at++;
    }
    if (at != count)
        return err_set(ERR_INPUT, "the answer has %zu blocks, wanted are %zu", count, at);
    return ERR_NONE;
}

/* ---- taking in ---- */

/* Rows of the one batch that wanted them: as they come. */
static void take_rows_straight(struct chain_cursor *from, const struct target *to, uint32_t table,
                               uint32_t dim, uint32_t first, uint32_t end)
{
    if (to->rows != NULL)
        CHECK(chain_cursor_read(from, to->rows[table] + (size_t)first * dim,
                                (size_t)(end - first) * dim * sizeof(float)));
}

/* Rows of a union of keys: to every batch that has the key. */
static void take_rows_spread(const struct shard_peer *shard, struct chain_cursor *from,
                             const uint64_t *keys, uint32_t count, const struct target *targets,
                             uint32_t target_count, uint32_t table, uint32_t dim)
{
    uint32_t places[PIPELINE_DEPTH_MAX + 1], end;
    float carry[ROW_DIM_MAX];
    size_t size = dim * sizeof(float);
    for (uint32_t i = 0; i < target_count; i++)
        exchange_key_range(shard, targets[i].keys[table], targets[i].counts[table], &places[i],
                           &end);
    for (uint32_t k = 0; k < count; k++) {
        const void *row = chain_cursor_next(from, size, carry);
        CHECK(row != NULL);
        for (uint32_t i = 0; i < target_count; i++) {
            const struct target *to = &targets[i];
            uint32_t at = places[i];
            if (at >= to->counts[table] || to->keys[table][at] != keys[k])
                continue;
            places[i]++;
            if (to->rows != NULL)
                memcpy(to->rows[table] + (size_t)at * dim, row, size);
        }
    }
}

void exchange_take_answer(const struct exchange *x, uint32_t shard, const struct wanted *w,
                          const struct wire_message *m, Paramd__Block *const *blocks,
                          const struct target *targets, uint32_t target_count)
{
    const struct schema *schema = x->options.schema;
    const struct shard_peer *peer = &x->shards[shard];
    struct chain_cursor from;
    size_t at = 0;
    for (uint32_t t = 0; t < schema->table_count; t++) {
        uint32_t first, end, dim = schema->tables[t].dim;
        exchange_key_range(peer, w->keys[t], w->counts[t], &first, &end);
        if (first == end)
            continue;
        wire_values(m, blocks[at++], &from);
        if (target_count == 1)
            take_rows_straight(&from, &targets[0], t, dim, first, end);
        else
            take_rows_spread(peer, &from, w->keys[t] + first, end - first, targets, target_count, t,
                             dim);
    }
    for (uint32_t p = 0; p < schema->dense_count && w->dense; p++) {
        const struct schema_dense *d = &schema->dense[p];
        uint32_t first, end;
        layout_blocks(d, peer->first_partition, peer->end_partition, &first, &end);
        if (first >= end)
            continue;
        const Paramd__Block *b = blocks[at++];
        for (uint32_t i = 0; i < target_count; i++) {
            if (targets[i].dense == NULL)
                continue;
            wire_values(m, b, &from);
            CHECK(chain_cursor_read(&from, targets[i].dense[p] + schema_block_first(d, first),
                                    b->count * sizeof(float)));
        }
    }
}

static void take_values(struct exchange *x, const struct rank *r, const struct step *s,
                        uint32_t shard, const struct wire_message *m)
{
    const Paramd__PushPullReply *reply = (const Paramd__PushPullReply *)m->message;
    uint32_t count = 0;
    for (uint64_t b = s->pull_first; b <= s->pull_last; b++) {
        const struct step *batch = exchange_step(r, b);
        CHECK(batch != NULL && batch->has_batch);
        bool wants = batch->values_area != NULL;
        x->targets[count++] = (struct target){
            .keys = (const uint64_t *const *)batch->keys,
            .counts = batch->key_counts,
            .rows = wants ? batch->rows : NULL,
            .dense = wants ? batch->dense : NULL,
        };
    }
    exchange_take_answer(x, shard, &s->wanted, m, reply->blocks, x->targets, count);
}

/* ---- replies ---- */

static void received_resume(struct rank *r, struct call *c, uint64_t now_ms)
{
    struct wire_message m;
    enum err e = wire_decode(&paramd__resume_reply__descriptor, &c->reply, &m);
    if (e != ERR_NONE) {
        session_call_failed(r->session, &c->send, true, err_text(), now_ms);
        return;
    }
    Paramd__ResumeReply *reply = (Paramd__ResumeReply *)m.message;
    struct session_reply said = {
        .status = reply->status,
        .message = reply->message,
        .received = reply->received,
        .applied = reply->applied,
        .acked = reply->acked,
    };
    session_replied(r->session, &c->send, &said, now_ms);
    if (c->send.shard == 0 && reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__OK &&
        r->resumed == NULL) {
        r->resumed = reply;
        m.message = NULL;
    }
    wire_message_deinit(&m);
}

static enum err check_reply(const struct exchange *x, const struct call *c, const struct step *s,
                            const struct wire_message *m)
{
    const Paramd__PushPullReply *reply = (const Paramd__PushPullReply *)m->message;
    /* An answer that was kept may come from a shard that is further on, never from one behind. */
    if (x->options.steps.consistency == CONSISTENCY_BSP && reply->version < c->send.seq)
        return err_set(ERR_INPUT, "values of version %" PRIu64 " for push-pull %" PRIu64,
                       reply->version, c->send.seq);
    return exchange_check_answer(x, c->send.shard, &s->wanted, m, reply->blocks, reply->n_blocks);
}

static void received_push_pull(struct exchange *x, struct rank *r, struct call *c, uint64_t now_ms)
{
    struct wire_message m;
    enum err e = wire_decode(&paramd__push_pull_reply__descriptor, &c->reply, &m);
    if (e != ERR_NONE) {
        session_call_failed(r->session, &c->send, true, err_text(), now_ms);
        return;
    }
    const Paramd__PushPullReply *reply = (const Paramd__PushPullReply *)m.message;
    const struct step *s = exchange_step(r, c->send.seq);
    /* After STOP nothing is trained any more, so its values do not matter. */
    bool has_values = reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__OK && s != NULL;
    if (has_values && check_reply(x, c, s, &m) != ERR_NONE) {
        session_call_failed(r->session, &c->send, true, err_text(), now_ms);
        wire_message_deinit(&m);
        return;
    }
    struct session_reply said = {
        .status = reply->status,
        .message = reply->message,
        .received = reply->received,
        .applied = reply->applied,
        .acked = reply->acked,
    };
    enum session_verdict verdict = session_replied(r->session, &c->send, &said, now_ms);
    if (verdict == SESSION_TAKE && has_values && s->pull_first <= s->pull_last)
        take_values(x, r, s, c->send.shard, &m);
    wire_message_deinit(&m);
}

/* What trying again cannot mend. */
static bool is_hopeless(enum rpc_status status)
{
    return status == RPC_INVALID || status == RPC_UNIMPLEMENTED ||
           status == RPC_FAILED_PRECONDITION;
}

/* The first failure and the end of a silence, so that a log says what a step waits for. */
static void note_silence(struct exchange *x, const struct call *c, uint64_t now_ms)
{
    struct shard_peer *peer = &x->shards[c->send.shard];
    bool silent = c->status == RPC_UNAVAILABLE || c->status == RPC_DEADLINE;
    if (silent && peer->silent_ms == 0) {
        peer->silent_ms = now_ms;
        log_warn("exchange", "a shard does not answer shard=%" PRIu32 " address='%s' why='%s: %s'",
                 c->send.shard, rpc_channel_address(peer->channel), rpc_status_name(c->status),
                 c->message);
    } else if (c->status == RPC_OK && peer->silent_ms != 0) {
        log_info("exchange", "the shard answers again shard=%" PRIu32 " after_ms=%" PRIu64,
                 c->send.shard, now_ms - peer->silent_ms);
        peer->silent_ms = 0;
    }
}

void exchange_received(struct exchange *x, struct call *c)
{
    struct rank *r = &x->ranks[c->rank_index];
    uint64_t now_ms = clock_ms();
    note_silence(x, c, now_ms);
    if (c->status != RPC_OK) {
        char text[sizeof c->message + 64];
        size_t n = strlen(c->message);
        const char *name = rpc_status_name(c->status);
        size_t name_size = strlen(name) < 48 ? strlen(name) : 48;
        memcpy(text, name, name_size);
        memcpy(text + name_size, ": ", 2);
        memcpy(text + name_size + 2, c->message, n + 1);
        session_call_failed(r->session, &c->send, is_hopeless(c->status), text, now_ms);
        return;
    }
    if (c->send.what == SESSION_SEND_RESUME)
        received_resume(r, c, now_ms);
    else
        received_push_pull(x, r, c, now_ms);
}
