#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "server/owner_internal.h"

/* ---- answers ---- */

static void reply_packed(struct rpc_call *call, const ProtobufCMessage *m)
{
    size_t size = protobuf_c_message_get_packed_size(m);
    struct buf *b = buf_create(size > 0 ? size : 1);
    CHECK(b != NULL);
    protobuf_c_message_pack(m, buf_data(b));
    struct chain reply = {0};
    chain_append(&reply, b, buf_data(b), size);
    buf_unref(b);
    rpc_call_reply(call, &reply);
    chain_deinit(&reply);
}

void owner_answer(enum request_kind kind, struct rpc_call *call,
                  Paramd__PushPullReply__Status status, const char *text)
{
    if (kind == REQUEST_PUSH_PULL) {
        Paramd__PushPullReply r = PARAMD__PUSH_PULL_REPLY__INIT;
        r.status = status;
        r.message = (char *)text;
        reply_packed(call, &r.base);
    } else if (kind == REQUEST_RESUME) {
        Paramd__ResumeReply r = PARAMD__RESUME_REPLY__INIT;
        r.status = status;
        r.message = (char *)text;
        reply_packed(call, &r.base);
    } else {
        Paramd__ReadReply r = PARAMD__READ_REPLY__INIT;
        r.status = status;
        r.message = (char *)text;
        reply_packed(call, &r.base);
    }
}

static void send_reply(void *context, enum err code, struct chain *reply)
{
    struct rpc_call *call = context;
    if (code == ERR_NONE)
        rpc_call_reply(call, reply);
    else
        rpc_call_fail(call, code == ERR_MEMORY ? RPC_BUSY : RPC_INVALID, err_text());
}

void holding_serve(struct holding *h, enum request_kind kind, struct rpc_call *call,
                   uint64_t now_ms)
{
    if (h == NULL || h->shard == NULL) {
        owner_answer(kind, call, PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED,
                     "the shard is not formed here");
        return;
    }
    struct chain request = {0};
    const struct chain *received = rpc_call_request(call);
    chain_share(&request, received, 0, received->size);
    switch (kind) {
    case REQUEST_PUSH_PULL:
        shard_push_pull(h->shard, &request, send_reply, call, now_ms);
        break;
    case REQUEST_RESUME:
        shard_resume(h->shard, &request, send_reply, call);
        break;
    case REQUEST_READ:
        shard_read(h->shard, &request, send_reply, call);
        break;
    }
    chain_deinit(&request);
}

/* ---- an owner's shards ---- */

struct holding *holdings_find(const struct holdings *s, uint32_t shard)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->items[i].place.shard == shard)
            return &s->items[i];
    return NULL;
}

void holdings_drop(struct holdings *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        holding_deinit(&s->items[i]);
    mem_free(s->items);
    *s = (struct holdings){0};
}

void holdings_form(struct holdings *s, struct formation *f, uint32_t number, uint32_t owners,
                   struct board *board)
{
    holdings_drop(s);
    if (f == NULL)
        return;
    s->items = must_alloc((f->shard_count + 1) * sizeof *s->items);
    for (uint32_t i = number; i < f->shard_count; i += owners)
        holding_init(&s->items[s->count++], f, i, board);
}
