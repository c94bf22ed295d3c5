#include "server/owner.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "server/owner_internal.h"
#include "server/snapshot.h"

#define QUEUE_MAX 16384u
#define TICK_MS   100u
#define POLL_MS   5u /* while a writer finishes a snapshot */
#define ROOM_MS   1u /* until a writer that is behind has room again */
#define SIZE_MS   1000u
#define SLICE_NS  1000000u

struct item {
    enum request_kind kind;
    uint32_t shard;
    struct rpc_call *call; /* NULL: only wakes the thread */
};

struct owner {
    struct board *board;
    uint32_t number, count;
    struct queue *queue;
    pthread_t thread;
    pthread_mutex_t lock;
    struct directive *next; /* guarded by lock: the newest that the thread has not taken */
    atomic_bool orphaned;
    atomic_uint_least64_t serving_ms; /* since when; 0: it is not */

    /* the thread's own */
    struct directive *directive;
    struct holding *holdings;
    uint32_t holding_count;
    uint64_t ticked_ms, sized_ms;
};

static void *owner_run(void *context);

struct owner *owner_create(struct board *board, uint32_t number, uint32_t count)
{
    struct owner *o = must_alloc(sizeof *o);
    o->board = board;
    o->number = number;
    o->count = count;
    o->queue = queue_create(QUEUE_MAX);
    CHECK(o->queue != NULL);
    pthread_mutex_init(&o->lock, NULL);
    CHECK(pthread_create(&o->thread, NULL, owner_run, o) == 0);
    return o;
}

void owner_destroy(struct owner *o)
{
    if (o == NULL)
        return;
    queue_close(o->queue);
    pthread_join(o->thread, NULL);
    queue_destroy(o->queue);
    directive_unref(o->next);
    pthread_mutex_destroy(&o->lock);
    mem_free(o);
}

enum err owner_request(struct owner *o, enum request_kind kind, uint32_t shard,
                       struct rpc_call *call)
{
    struct item *item = must_alloc(sizeof *item);
    *item = (struct item){kind, shard, call};
    enum err e = queue_push(o->queue, item, 0);
    if (e != ERR_NONE)
        mem_free(item);
    return e;
}

void owner_direct(struct owner *o, struct directive *d)
{
    pthread_mutex_lock(&o->lock);
    directive_unref(o->next);
    o->next = directive_ref(d);
    pthread_mutex_unlock(&o->lock);
    /* A full queue wakes the thread as well as an item would. */
    struct item *wake = must_alloc(sizeof *wake);
    if (queue_push(o->queue, wake, 0) != ERR_NONE)
        mem_free(wake);
}

void owner_set_orphaned(struct owner *o, bool orphaned)
{
    atomic_store(&o->orphaned, orphaned);
}

uint64_t owner_busy_ms(const struct owner *o)
{
    uint64_t since = atomic_load(&o->serving_ms), now = clock_ms();
    return since != 0 && now > since ? now - since : 0;
}

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

/* ---- the thread ---- */

static struct holding *find_holding(struct owner *o, uint32_t shard)
{
    for (uint32_t i = 0; i < o->holding_count; i++)
        if (o->holdings[i].place.shard == shard)
            return &o->holdings[i];
    return NULL;
}

static void serve(struct owner *o, struct item *item, uint64_t now)
{
    struct holding *h = find_holding(o, item->shard);
    if (h == NULL || h->shard == NULL) {
        owner_answer(item->kind, item->call, PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED,
                     "the shard is not formed here");
        return;
    }
    struct chain request = {0};
    const struct chain *received = rpc_call_request(item->call);
    chain_share(&request, received, 0, received->size);
    switch (item->kind) {
    case REQUEST_PUSH_PULL:
        shard_push_pull(h->shard, &request, send_reply, item->call, now);
        break;
    case REQUEST_RESUME:
        shard_resume(h->shard, &request, send_reply, item->call);
        break;
    case REQUEST_READ:
        shard_read(h->shard, &request, send_reply, item->call);
        break;
    }
    chain_deinit(&request);
    holding_begin_due(h, now);
}

static void set_paused(struct owner *o)
{
    bool paused =
        atomic_load(&o->orphaned) || (o->directive != NULL && o->directive->orders->pause);
    for (uint32_t i = 0; i < o->holding_count; i++)
        if (o->holdings[i].shard != NULL)
            shard_set_paused(o->holdings[i].shard, paused);
}

static void drop_all(struct owner *o)
{
    for (uint32_t i = 0; i < o->holding_count; i++)
        holding_deinit(&o->holdings[i]);
    mem_free(o->holdings);
    o->holdings = NULL;
    o->holding_count = 0;
}

static void take_formation(struct owner *o, struct formation *f)
{
    drop_all(o);
    if (f == NULL)
        return;
    o->holdings = must_alloc((f->shard_count + 1) * sizeof *o->holdings);
    for (uint32_t i = o->number; i < f->shard_count; i += o->count) {
        struct holding *h = &o->holdings[o->holding_count++];
        holding_init(h, f, i, o->board);
    }
}

static void take_directive(struct owner *o, uint64_t now)
{
    pthread_mutex_lock(&o->lock);
    struct directive *d = o->next;
    o->next = NULL;
    pthread_mutex_unlock(&o->lock);
    if (d == NULL)
        return;
    struct formation *before = o->directive != NULL ? o->directive->formation : NULL;
    if (d->formation != before)
        take_formation(o, d->formation);
    directive_unref(o->directive);
    o->directive = d;
    for (uint32_t i = 0; d->formation != NULL && i < o->holding_count; i++) {
        holding_form(&o->holdings[i], now);
        holding_follow(&o->holdings[i], d->orders->server, now);
    }
    set_paused(o);
}

static void tick(struct owner *o, uint64_t now)
{
    if (now - o->ticked_ms < TICK_MS)
        return;
    o->ticked_ms = now;
    set_paused(o);
    bool size = now - o->sized_ms >= SIZE_MS;
    if (size)
        o->sized_ms = now;
    for (uint32_t i = 0; i < o->holding_count; i++) {
        struct holding *h = &o->holdings[i];
        bool formed = h->shard != NULL;
        holding_form(h, now);
        if (h->shard == NULL)
            continue;
        if (!formed)
            holding_follow(h, o->directive->orders->server, now);
        shard_tick(h->shard, now);
        if (size)
            board_size(&h->place, shard_rows(h->shard), shard_memory(h->shard));
    }
}

/* How long the thread may sleep: not at all while there is something to serialize. */
static uint32_t work_on_snapshots(struct owner *o, uint64_t now)
{
    uint32_t sleep = TICK_MS;
    for (uint32_t i = 0; i < o->holding_count; i++) {
        enum snapshot_work left = holding_work(&o->holdings[i], SLICE_NS, now);
        if (left == SNAPSHOT_MORE)
            sleep = 0;
        else if (left == SNAPSHOT_HELD_UP && sleep > ROOM_MS)
            sleep = ROOM_MS;
        else if (left == SNAPSHOT_WRITING && sleep > POLL_MS)
            sleep = POLL_MS;
    }
    return sleep;
}

static void *owner_run(void *context)
{
    struct owner *o = context;
    uint32_t sleep = TICK_MS;
    for (;;) {
        void *popped = NULL;
        enum err e = queue_pop(o->queue, &popped, sleep);
        if (e == ERR_CANCELLED)
            break;
        uint64_t now = clock_ms();
        take_directive(o, now);
        struct item *item = popped;
        if (item != NULL && item->call != NULL) {
            atomic_store(&o->serving_ms, now);
            serve(o, item, now);
            atomic_store(&o->serving_ms, 0);
        }
        mem_free(item);
        tick(o, now);
        sleep = work_on_snapshots(o, now);
    }
    drop_all(o);
    directive_unref(o->directive);
    return NULL;
}
