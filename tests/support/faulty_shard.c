#include "tests/support/faulty_shard.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/queue.h"
#include "common/rng.h"
#include "common/rpc.h"

enum item_kind { ITEM_PUSH_PULL, ITEM_RESUME, ITEM_READ, ITEM_LEASE, ITEM_STOP };

/* What comes to the owner thread. */
struct item {
    enum item_kind kind;
    struct faulty_shard *host;
    struct rpc_call *call; /* NULL: a doubled one, whose answer nobody awaits */
    struct chain request;
    uint32_t rank;
    uint64_t lease;
    atomic_bool is_done; /* ITEM_LEASE */
    uint64_t due_ms;
    struct item *next; /* of those delayed */
};

struct faulty_shard {
    char *address;
    struct shard *shard;
    struct faults faults;
    struct rpc_server *server;
    struct queue *items;
    pthread_t thread;
    struct item *delayed;
    uint64_t dice;
    atomic_uint_fast64_t fault_count;
    uint64_t drained; /* a verdict is to be given */
    _Atomic(char *) failure;
};

static bool happens(struct faulty_shard *f, uint32_t per_mille)
{
    bool yes = rng_below(rng_at(f->faults.seed, f->dice++), 1000) < per_mille;
    if (yes)
        atomic_fetch_add(&f->fault_count, 1);
    return yes;
}

/* ---- transport threads: enqueue ---- */

static void enqueue(struct faulty_shard *f, enum item_kind kind, struct rpc_call *call)
{
    struct item *i = must_alloc(sizeof *i);
    i->kind = kind;
    i->host = f;
    i->call = call;
    chain_share(&i->request, rpc_call_request(call), 0, rpc_call_request(call)->size);
    enum err e = queue_push(f->items, i, 1000);
    CHECK(e == ERR_NONE);
}

static void on_push_pull(void *context, struct rpc_call *call)
{
    enqueue(context, ITEM_PUSH_PULL, call);
}

static void on_resume(void *context, struct rpc_call *call)
{
    enqueue(context, ITEM_RESUME, call);
}

static void on_read(void *context, struct rpc_call *call)
{
    enqueue(context, ITEM_READ, call);
}

/* ---- the owner thread ---- */

static void replied(void *context, enum err code, struct chain *reply)
{
    struct item *i = context;
    if (i->call == NULL)
        chain_deinit(reply);
    else if (code != ERR_NONE)
        rpc_call_fail(i->call, RPC_INVALID, err_text());
    else if (happens(i->host, i->host->faults.lose_reply)) {
        chain_deinit(reply);
        rpc_call_fail(i->call, RPC_UNAVAILABLE, "the reply was lost");
    } else {
        rpc_call_reply(i->call, reply);
    }
    mem_free(i);
}

/* Hands a request to the shard; the reply comes now or later. */
static void deliver(struct faulty_shard *f, struct item *i)
{
    struct chain request = {0};
    chain_move(&request, &i->request);
    if (i->kind == ITEM_PUSH_PULL)
        shard_push_pull(f->shard, &request, replied, i, clock_ms());
    else if (i->kind == ITEM_RESUME)
        shard_resume(f->shard, &request, replied, i);
    else
        shard_read(f->shard, &request, replied, i);
    chain_deinit(&request);
}

static void delay(struct faulty_shard *f, struct item *i)
{
    i->due_ms =
        clock_ms() + 1 + rng_below(rng_at(f->faults.seed, f->dice++), f->faults.delay_max_ms + 1);
    i->next = f->delayed;
    f->delayed = i;
}

static void double_up(struct faulty_shard *f, const struct item *i)
{
    struct item *copy = must_alloc(sizeof *copy);
    copy->kind = i->kind;
    copy->host = f;
    chain_share(&copy->request, &i->request, 0, i->request.size);
    delay(f, copy);
}

static void arrive(struct faulty_shard *f, struct item *i)
{
    if (i->kind == ITEM_LEASE) {
        shard_set_lease(f->shard, i->rank, i->lease);
        atomic_store(&i->is_done, true); /* the waiter frees it */
        return;
    }
    if (happens(f, f->faults.lose_request)) {
        rpc_call_fail(i->call, RPC_UNAVAILABLE, "the request was lost");
        chain_deinit(&i->request);
        mem_free(i);
        return;
    }
    if (happens(f, f->faults.double_request))
        double_up(f, i);
    if (happens(f, f->faults.delay))
        delay(f, i);
    else
        deliver(f, i);
}

static void deliver_delayed(struct faulty_shard *f, uint64_t now_ms)
{
    struct item **at = &f->delayed;
    while (*at != NULL) {
        struct item *i = *at;
        if (i->due_ms > now_ms) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        deliver(f, i);
    }
}

static void notice(void *context, const struct shard_notice *n)
{
    struct faulty_shard *f = context;
    if (n->kind == SHARD_AT_DRAIN)
        f->drained = n->step;
    if (n->kind == SHARD_FAILED && f->failure == NULL)
        f->failure = must_strdup(n->text);
}

static void *run(void *context)
{
    struct faulty_shard *f = context;
    uint64_t verdict = 0, ticked_ms = 0;
    for (;;) {
        void *item = NULL;
        enum err e = queue_pop(f->items, &item, f->delayed != NULL ? 1 : 10);
        if (e == ERR_CANCELLED)
            break;
        if (e == ERR_NONE)
            arrive(f, item);
        uint64_t now_ms = clock_ms();
        deliver_delayed(f, now_ms);
        if (f->drained > verdict) {
            verdict = f->drained;
            shard_verdict(f->shard, verdict, false);
        }
        if (now_ms - ticked_ms >= 10) {
            ticked_ms = now_ms;
            shard_tick(f->shard, now_ms);
        }
    }
    deliver_delayed(f, UINT64_MAX);
    shard_destroy(f->shard); /* answers what it holds */
    return NULL;
}

/* ---- making ---- */

struct faulty_shard *faulty_shard_create(const char *name, const struct shard_options *options,
                                         const struct faults *faults)
{
    struct faulty_shard *f = must_alloc(sizeof *f);
    f->address = must_format("memory:%s", name);
    f->faults = *faults;
    f->items = queue_create(4096);
    struct shard_options o = *options;
    o.notify = notice;
    o.context = f;
    CHECK(shard_create(&o, &f->shard) == ERR_NONE);
    shard_begin(f->shard, 0);
    CHECK(pthread_create(&f->thread, NULL, run, f) == 0);
    const char *listen[] = {f->address, NULL};
    const struct rpc_method methods[] = {
        {.name = WIRE_PUSH_PULL, .handler = on_push_pull, .context = f},
        {.name = WIRE_RESUME, .handler = on_resume, .context = f},
        {.name = WIRE_READ, .handler = on_read, .context = f},
    };
    struct rpc_server_options server = {.listen = listen, .methods = methods, .method_count = 3};
    CHECK(rpc_server_create(&server, &f->server) == ERR_NONE);
    return f;
}

const char *faulty_shard_address(const struct faulty_shard *f)
{
    return f->address;
}

void faulty_shard_set_lease(struct faulty_shard *f, uint32_t rank, uint64_t lease)
{
    struct item *i = must_alloc(sizeof *i);
    i->kind = ITEM_LEASE;
    i->rank = rank;
    i->lease = lease;
    enum err e = queue_push(f->items, i, 1000);
    CHECK(e == ERR_NONE);
    while (!atomic_load(&i->is_done))
        clock_sleep_ms(1);
    mem_free(i);
}

uint64_t faulty_shard_fault_count(const struct faulty_shard *f)
{
    return atomic_load(&f->fault_count);
}

const char *faulty_shard_failure(const struct faulty_shard *f)
{
    return f->failure;
}

void faulty_shard_destroy(struct faulty_shard *f)
{
    if (f == NULL)
        return;
    queue_close(f->items);
    pthread_join(f->thread, NULL); /* everything held is answered */
    rpc_server_destroy(f->server);
    void *item;
    CHECK(queue_pop(f->items, &item, 0) != ERR_NONE);
    queue_destroy(f->items);
    mem_free(f->failure);
    mem_free(f->address);
    mem_free(f);
}
