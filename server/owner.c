#include "server/owner.h"

#include <pthread.h>

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
    struct holdings held;
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

/* ---- the thread ---- */

static void serve(struct owner *o, const struct item *item, uint64_t now)
{
    struct holding *h = holdings_find(&o->held, item->shard);
    holding_serve(h, item->kind, item->call, now);
    if (h != NULL && h->shard != NULL)
        holding_begin_due(h, now);
}

static void set_paused(struct owner *o)
{
    bool paused =
        atomic_load(&o->orphaned) || (o->directive != NULL && o->directive->orders->pause);
    for (uint32_t i = 0; i < o->held.count; i++)
        if (o->held.items[i].shard != NULL)
            shard_set_paused(o->held.items[i].shard, paused);
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
        holdings_form(&o->held, d->formation, o->number, o->count, o->board);
    directive_unref(o->directive);
    o->directive = d;
    for (uint32_t i = 0; d->formation != NULL && i < o->held.count; i++) {
        holding_form(&o->held.items[i], now);
        holding_follow(&o->held.items[i], d->orders->server, now);
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
    for (uint32_t i = 0; i < o->held.count; i++) {
        struct holding *h = &o->held.items[i];
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
    for (uint32_t i = 0; i < o->held.count; i++) {
        enum snapshot_work left = holding_work(&o->held.items[i], SLICE_NS, now);
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
    holdings_drop(&o->held);
    directive_unref(o->directive);
    return NULL;
}
