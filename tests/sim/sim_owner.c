#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "server/owner.h"
#include "server/owner_internal.h"
#include "server/shard_internal.h"
#include "tests/sim/sim_parts.h"

/*
 * server/owner.h as server/owner.c has it, with events in place of its thread: what is put in is
 * taken a moment later, in order, and snapshots are worked on between requests.
 */

#define QUEUE_MAX 4096u /* far above R · (d + 2): a full one is a leak */
#define TICK_MS   100u
#define POLL_MS   5u
#define SLICE_NS  1000000u
#define HELD_MAX  4u

struct item {
    enum request_kind kind;
    uint32_t shard;
    struct rpc_call *call;
    struct item *next;
};

/* A shard that holds may get as far as the next drain point. */
struct held {
    const struct shard *shard;
    uint64_t bound;
};

struct owner {
    struct board *board;
    uint32_t number, count;
    struct process *process;
    struct item *first, **last;
    uint32_t queued;
    struct directive *next, *directive;
    struct holdings holdings;
    bool awake, working, orphaned;
    struct held held[HELD_MAX];
};

static void wake(struct owner *o);
static void tick(void *context);
static void work(void *context);

struct owner *owner_create(struct board *board, uint32_t number, uint32_t count)
{
    struct owner *o = must_alloc(sizeof *o);
    o->board = board;
    o->number = number;
    o->count = count;
    o->process = sim.here;
    o->last = &o->first;
    sim_after(o->process, TICK_MS * SIM_MS, "owner tick", tick, NULL, o);
    return o;
}

void owner_destroy(struct owner *o)
{
    if (o == NULL)
        return;
    while (o->first != NULL) {
        struct item *next = o->first->next;
        rpc_call_fail(o->first->call, RPC_UNAVAILABLE, "this server is leaving");
        mem_free(o->first);
        o->first = next;
    }
    holdings_drop(&o->holdings);
    directive_unref(o->next);
    directive_unref(o->directive);
    mem_free(o);
}

enum err owner_request(struct owner *o, enum request_kind kind, uint32_t shard,
                       struct rpc_call *call)
{
    if (o->queued == QUEUE_MAX)
        return err_set(ERR_LIMIT, "the owner's queue is full");
    struct item *item = must_alloc(sizeof *item);
    *item = (struct item){.kind = kind, .shard = shard, .call = call};
    *o->last = item;
    o->last = &item->next;
    o->queued++;
    wake(o);
    return ERR_NONE;
}

void owner_direct(struct owner *o, struct directive *d)
{
    directive_unref(o->next);
    o->next = directive_ref(d);
    wake(o);
}

void owner_set_orphaned(struct owner *o, bool orphaned)
{
    o->orphaned = orphaned;
}

uint64_t owner_busy_ms(const struct owner *o)
{
    (void)o; /* an event takes no time */
    return 0;
}

static void set_paused(struct owner *o)
{
    bool paused = o->orphaned || (o->directive != NULL && o->directive->orders->pause);
    CHECK(o->holdings.count <= HELD_MAX);
    for (uint32_t i = 0; i < o->holdings.count; i++) {
        struct shard *s = o->holdings.items[i].shard;
        struct held *h = &o->held[i];
        if (s != NULL)
            shard_set_paused(s, paused);
        if (s != NULL && s->begun && paused && h->shard != s) {
            *h = (struct held){s, steps_drain_next(&s->consistency.steps, s->consistency.version)};
            sim.count.held_back++;
        } else if (!paused) {
            h->shard = NULL;
        }
    }
}

static void check_held(const struct owner *o)
{
    for (uint32_t i = 0; i < o->holdings.count; i++) {
        const struct shard *s = o->holdings.items[i].shard;
        if (s != NULL && o->held[i].shard == s && s->consistency.version > o->held[i].bound)
            sim_violation("shard %u is at step %llu; without a leader it was to hold at %llu",
                          s->options.index, (unsigned long long)s->consistency.version,
                          (unsigned long long)o->held[i].bound);
    }
}

/* ---- the turns ---- */

/* So much is left beside the parameters, once those do not grow any more. */
static void limit_memory(struct holding *h)
{
    struct shard *s = h->shard;
    uint32_t rows = reference_rows(s->options.first_partition, s->options.end_partition);
    bool grows = shard_rows(s) < rows || h->snapshot != NULL || h->due;
    s->options.memory_bytes = 0;
    if (sim.plan.held_budget > 0 && !grows)
        s->options.memory_bytes = shard_memory(s) - s->held_bytes + sim.plan.held_budget;
    sim.count.busy += s->options.memory_bytes > 0 && s->held_bytes > sim.plan.held_budget;
}

static void serve(struct owner *o, struct item *item, uint64_t now)
{
    struct holding *h = holdings_find(&o->holdings, item->shard);
    bool is_formed = h != NULL && h->shard != NULL;
    if (is_formed) {
        limit_memory(h);
        oracle_before_request(h->shard, rpc_call_request(item->call),
                              item->kind == REQUEST_PUSH_PULL);
    }
    holding_serve(h, item->kind, item->call, now);
    if (is_formed) {
        oracle_after_request(h->shard);
        holding_begin_due(h, now);
    }
}

static void form(struct owner *o, struct holding *h, uint64_t now)
{
    bool was = h->shard != NULL;
    holding_form(h, now);
    if (was || h->shard == NULL)
        return;
    sim.count.restores += h->formation->restore[0] != '\0';
    oracle_restored(o->process, h->formation->generation, h->formation->restore);
}

static void take_formation(struct owner *o, struct formation *f)
{
    memset(o->held, 0, sizeof o->held);
    holdings_form(&o->holdings, f, o->number, o->count, o->board);
}

static void take_directive(struct owner *o, uint64_t now)
{
    struct directive *d = o->next;
    o->next = NULL;
    if (d == NULL)
        return;
    struct formation *before = o->directive != NULL ? o->directive->formation : NULL;
    if (d->formation != before)
        take_formation(o, d->formation);
    directive_unref(o->directive);
    o->directive = d;
    for (uint32_t i = 0; d->formation != NULL && i < o->holdings.count; i++) {
        form(o, &o->holdings.items[i], now);
        holding_follow(&o->holdings.items[i], d->orders->server, now);
    }
    set_paused(o);
}

static void work_soon(struct owner *o, uint64_t delay_us)
{
    if (o->working)
        return;
    o->working = true;
    sim_after(o->process, delay_us, "snapshot", work, NULL, o);
}

static void work(void *context)
{
    struct owner *o = context;
    uint64_t next_us = 0;
    o->working = false;
    for (uint32_t i = 0; i < o->holdings.count; i++) {
        uint32_t armed = o->holdings.items[i].snapshot != NULL;
        enum snapshot_work left = holding_work(&o->holdings.items[i], SLICE_NS, sim.now_us / 1000);
        sim.count.snapshots += armed && o->holdings.items[i].snapshot == NULL;
        if (left == SNAPSHOT_MORE)
            next_us = 1000;
        else if (left == SNAPSHOT_WRITING && next_us == 0)
            next_us = POLL_MS * SIM_MS;
    }
    if (next_us > 0)
        work_soon(o, next_us);
}

static void turn(void *context)
{
    struct owner *o = context;
    uint64_t now = sim.now_us / 1000;
    o->awake = false;
    take_directive(o, now);
    while (o->first != NULL) {
        struct item *item = o->first;
        o->first = item->next;
        if (o->first == NULL)
            o->last = &o->first;
        o->queued--;
        serve(o, item, now);
        mem_free(item);
    }
    check_held(o);
    for (uint32_t i = 0; i < o->holdings.count; i++)
        if (o->holdings.items[i].snapshot != NULL)
            work_soon(o, sim_between(50, 1500));
}

static void wake(struct owner *o)
{
    if (o->awake)
        return;
    o->awake = true;
    sim_after(o->process, sim_between(5, 200), "owner", turn, NULL, o);
}

static void tick(void *context)
{
    struct owner *o = context;
    uint64_t now = sim.now_us / 1000;
    for (uint32_t i = 0; i < o->holdings.count; i++) {
        struct holding *h = &o->holdings.items[i];
        bool formed = h->shard != NULL;
        form(o, h, now);
        if (h->shard == NULL)
            continue;
        if (!formed)
            holding_follow(h, o->directive->orders->server, now);
        shard_tick(h->shard, now);
        board_size(&h->place, shard_rows(h->shard), shard_memory(h->shard));
        if (h->snapshot != NULL)
            work_soon(o, 0);
    }
    set_paused(o);
    sim_after(o->process, TICK_MS * SIM_MS, "owner tick", tick, NULL, o);
}
