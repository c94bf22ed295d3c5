#include "worker/exchange_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"

#define CANCEL_LOOK_MS  50u
#define BACK_OFF_MAX_MS 2000u

enum phase { PHASE_DUE, PHASE_SENT, PHASE_DONE };

struct shard_read {
    enum phase phase;
    uint64_t due_ms;
    uint64_t back_off_ms;
};

struct read_state {
    uint64_t version;
    struct wanted wanted;
    struct target target;
    struct shard_read *shards; /* [shard_count] */
    uint32_t left;
    enum err error;
    char *why;
};

/* The keys of the batch, copied: requests may outlive it. */
static enum err want(struct exchange *x, const struct batch *b, bool rows, struct read_state *s)
{
    uint32_t tables = x->options.schema->table_count;
    struct area_cutter size = {0};
    for (uint32_t t = 0; t < tables && rows; t++)
        (void)area_cut(&size, b->tables[t].key_count, sizeof(uint64_t));
    s->wanted.owner = area_take(x->areas, size.offset);
    if (s->wanted.owner == NULL)
        return ERR_MEMORY;
    struct area_cutter cutter = {.base = buf_data(s->wanted.owner)};
    for (uint32_t t = 0; t < tables && rows; t++) {
        s->wanted.counts[t] = b->tables[t].key_count;
        uint64_t *keys = area_cut(&cutter, s->wanted.counts[t], sizeof(uint64_t));
        if (s->wanted.counts[t] > 0)
            memcpy(keys, b->tables[t].keys, s->wanted.counts[t] * sizeof(uint64_t));
        s->wanted.keys[t] = keys;
    }
    return ERR_NONE;
}

static void send_read(struct exchange *x, struct read_state *s, uint32_t shard)
{
    struct wire_payload payload = {0};
    struct chain request = {0};
    Paramd__ReadRequest q = PARAMD__READ_REQUEST__INIT;
    q.job = x->job;
    q.generation = x->options.generation;
    q.shard = shard;
    q.version = s->version;
    q.pull = x->block_pointers;
    q.n_pull = exchange_pull_blocks(x, &x->shards[shard], &s->wanted, x->blocks, &payload);
    if (q.n_pull == 0) {
        wire_payload_deinit(&payload);
        s->shards[shard].phase = PHASE_DONE;
        s->left--;
        return;
    }
    wire_encode(&q.base, &payload, &request);
    struct call *c = exchange_call_take(x);
    c->kind = CALL_READ;
    c->send = (struct session_send){.shard = shard};
    s->shards[shard].phase = PHASE_SENT;
    exchange_call(x, c, WIRE_READ, &request);
}

static void fail(struct read_state *s, enum err error, uint32_t shard, const char *text)
{
    if (s->error != ERR_NONE)
        return;
    s->error = error;
    s->why = must_format("shard %" PRIu32 ": %s", shard, text);
}

static void again(struct shard_read *r)
{
    r->due_ms = clock_ms() + r->back_off_ms;
    r->back_off_ms = r->back_off_ms * 2 < BACK_OFF_MAX_MS ? r->back_off_ms * 2 : BACK_OFF_MAX_MS;
    r->phase = PHASE_DUE;
}

static void take_reply(struct exchange *x, struct read_state *s, uint32_t shard,
                       const struct wire_message *m)
{
    const Paramd__ReadReply *reply = (const Paramd__ReadReply *)m->message;
    if (reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__WAITING ||
        reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__BUSY) {
        again(&s->shards[shard]);
        return;
    }
    if (reply->status != PARAMD__PUSH_PULL_REPLY__STATUS__OK) {
        fail(s, ERR_REFUSED, shard,
             reply->message != NULL && reply->message[0] != '\0' ? reply->message
                                                                 : "it does not hold that version");
        return;
    }
    if (reply->version != s->version) {
        fail(s, ERR_REFUSED, shard, "the answer is of another version");
        return;
    }
    if (exchange_check_answer(x, shard, &s->wanted, m, reply->blocks, reply->n_blocks) !=
        ERR_NONE) {
        fail(s, ERR_INPUT, shard, err_text());
        return;
    }
    exchange_take_answer(x, shard, &s->wanted, m, reply->blocks, &s->target, 1);
    s->shards[shard].phase = PHASE_DONE;
    s->left--;
}

void exchange_read_received(struct exchange *x, struct call *c)
{
    struct read_state *s = x->reading;
    uint32_t shard = c->send.shard;
    if (s == NULL)
        return;
    if (c->status == RPC_INVALID || c->status == RPC_UNIMPLEMENTED ||
        c->status == RPC_FAILED_PRECONDITION) {
        fail(s, ERR_REFUSED, shard, c->message);
        return;
    }
    if (c->status != RPC_OK) {
        again(&s->shards[shard]);
        return;
    }
    struct wire_message m;
    if (wire_decode(&paramd__read_reply__descriptor, &c->reply, &m) != ERR_NONE) {
        fail(s, ERR_INPUT, shard, err_text());
        return;
    }
    take_reply(x, s, shard, &m);
    wire_message_deinit(&m);
}

static enum err run(struct exchange *x, struct read_state *s)
{
    uint64_t give_up_ms = clock_ms() + x->options.give_up_ms;
    while (s->left > 0 && s->error == ERR_NONE) {
        uint64_t now_ms = clock_ms(), wait_ms = CANCEL_LOOK_MS;
        if (exchange_is_cancelled(x))
            return err_set(ERR_CANCELLED, "reading was told to stop");
        if (now_ms >= give_up_ms)
            return err_set(ERR_UNAVAILABLE,
                           "reading version %" PRIu64 ": %u shards have not answered for %u ms",
                           s->version, s->left, x->options.give_up_ms);
        for (uint32_t i = 0; i < x->options.shard_count; i++) {
            struct shard_read *r = &s->shards[i];
            if (r->phase == PHASE_DUE && r->due_ms <= now_ms)
                send_read(x, s, i);
            else if (r->phase == PHASE_DUE && r->due_ms - now_ms < wait_ms)
                wait_ms = r->due_ms - now_ms;
        }
        if (s->left > 0)
            exchange_take_arrived(x, wait_ms);
    }
    if (s->error != ERR_NONE)
        return err_set(s->error, "reading version %" PRIu64 ": %s", s->version, s->why);
    return ERR_NONE;
}

enum err exchange_read(struct exchange *x, uint64_t version, const struct batch *b,
                       float *const *rows, float *const *dense)
{
    uint32_t tables = x->options.schema->table_count, shards = x->options.shard_count;
    if (x->read_failed)
        return err_set(ERR_REFUSED, "a read has failed before: open another exchange");
    struct read_state s = {
        .version = version,
        .wanted = {.keys = must_alloc((tables + 1) * sizeof(uint64_t *)),
                   .counts = must_alloc((tables + 1) * sizeof(uint32_t)),
                   .dense = dense != NULL},
        .shards = must_alloc(shards * sizeof *s.shards),
        .left = shards,
    };
    CHECK(x->reading == NULL);
    for (uint32_t i = 0; i < shards; i++)
        s.shards[i].back_off_ms = x->options.back_off_ms;
    enum err e = want(x, b, rows != NULL, &s);
    if (e != ERR_NONE)
        goto out;
    s.target = (struct target){
        .keys = s.wanted.keys, .counts = s.wanted.counts, .rows = rows, .dense = dense};
    x->reading = &s;
    e = run(x, &s);
    x->reading = NULL;
    x->read_failed = e != ERR_NONE;
out:
    buf_unref(s.wanted.owner);
    mem_free(s.wanted.keys);
    mem_free(s.wanted.counts);
    mem_free(s.shards);
    mem_free(s.why);
    return e;
}
