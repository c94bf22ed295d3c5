/*
 * The transport within one process: "memory:name".
 *
 * Bodies pass by reference, nothing is copied. All state stands behind one mutex, that of the
 * hub: a call needs it three times for well under a microsecond each. User code (handlers,
 * callbacks, releases of buffers) never runs under it.
 *
 * Threads: each server has its own for handlers; the hub has one that runs callbacks and deadlines.
 * The hub lives as long as there is a server or a channel.
 *
 * A call has two sides. The client's ends once (`is_ended`), by whichever comes first: reply,
 * deadline, channel closed, server gone. The server's ends when its owner replies or fails. Each
 * holds a reference. What is queued is bounded by calls_max of each server, and calls that wait
 * for a server or have just ended by what their callers have in flight.
 */
#include "common/rpc_internal.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/ring.h"

#define PREFIX      "memory:"
#define NOT_IN_HEAP SIZE_MAX
#define NS_PER_MS   UINT64_C(1000000)
#define NS_PER_S    UINT64_C(1000000000)

struct memory_server;
struct memory_channel;

struct memory_call {
    struct rpc_call base;
    struct link of_channel, of_server, of_queue; /* queue: waiting, a server's inbox */
    struct memory_call *next_ended;
    struct memory_channel *channel; /* the client's side only: gone after the callback */
    struct memory_server *server;   /* the server's side only */
    const struct rpc_method *method;
    uint64_t reply_max_bytes;
    uint64_t deadline_ns;
    size_t heap_index;
    rpc_callback callback;
    void *context;
    enum rpc_status status;
    char *message; /* NULL: "" */
    struct chain reply;
    _Atomic bool is_ended; /* written under the mutex */
    _Atomic uint32_t references;
    char method_name[];
};

struct memory_server {
    struct rpc_server base;
    struct link of_hub;
    struct rpc_server_options options; /* a copy */
    struct link calls;                 /* open ones */
    size_t open_count;
    struct link inbox;
    pthread_cond_t inbox_filled;
    bool is_stopping;
    pthread_t *threads;
    size_t thread_count;
};

struct memory_channel {
    struct rpc_channel base;
    uint64_t message_max_bytes;
    struct link calls; /* those whose callback has not returned */
    bool is_closing;
};

static struct hub {
    pthread_mutex_t lifecycle; /* of `user_count` and `thread`; taken before `mutex` */
    size_t user_count;         /* servers and channels */
    pthread_t thread;

    pthread_mutex_t mutex;  /* of all that follows, and of all calls, servers, channels */
    pthread_cond_t wake;    /* the thread has something to do */
    pthread_cond_t emptied; /* a closing channel or server has run empty */
    struct link servers;
    struct link waiting; /* calls for which no server is there yet */
    struct memory_call *ended_first, *ended_last;
    struct memory_call **heap; /* open calls by deadline */
    size_t heap_count, heap_capacity;
    uint64_t wake_at_ns; /* when the thread wakes by itself */
    bool is_stopping;
} hub = {.lifecycle = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER};

static void cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attributes;
    CHECK(pthread_condattr_init(&attributes) == 0);
    CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(c, &attributes) == 0);
    pthread_condattr_destroy(&attributes);
}

/* Waits until the monotonic time; UINT64_MAX: until signalled. */
static void cond_wait_until(pthread_cond_t *c, uint64_t until_ns)
{
    if (until_ns == UINT64_MAX) {
        pthread_cond_wait(c, &hub.mutex);
        return;
    }
    struct timespec t = {
        .tv_sec = (time_t)(until_ns / NS_PER_S),
        .tv_nsec = (long)(until_ns % NS_PER_S),
    };
    pthread_cond_timedwait(c, &hub.mutex, &t);
}

/* ---- deadlines: a binary heap whose members know their place ---- */

static void heap_place(size_t index, struct memory_call *call)
{
    hub.heap[index] = call;
    call->heap_index = index;
}

static void heap_sift(size_t index, struct memory_call *call)
{
    while (index > 0 && hub.heap[(index - 1) / 2]->deadline_ns > call->deadline_ns) {
        heap_place(index, hub.heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= hub.heap_count)
            break;
        if (child + 1 < hub.heap_count &&
            hub.heap[child + 1]->deadline_ns < hub.heap[child]->deadline_ns)
            child++;
        if (hub.heap[child]->deadline_ns >= call->deadline_ns)
            break;
        heap_place(index, hub.heap[child]);
        index = child;
    }
    heap_place(index, call);
}

static void heap_insert(struct memory_call *call)
{
    if (hub.heap_count == hub.heap_capacity) {
        hub.heap_capacity = hub.heap_capacity > 0 ? hub.heap_capacity * 2 : 64;
        hub.heap = must_realloc(hub.heap, hub.heap_capacity, sizeof *hub.heap);
    }
    hub.heap_count++;
    heap_sift(hub.heap_count - 1, call);
    if (call->deadline_ns < hub.wake_at_ns)
        pthread_cond_signal(&hub.wake);
}

static void heap_remove(struct memory_call *call)
{
    if (call->heap_index == NOT_IN_HEAP)
        return;
    struct memory_call *last = hub.heap[--hub.heap_count];
    if (last != call)
        heap_sift(call->heap_index, last);
    call->heap_index = NOT_IN_HEAP;
}

/* ---- calls ---- */

/* Not under the mutex: the slices' owners are user code. */
static void call_unref(struct memory_call *call)
{
    if (atomic_fetch_sub(&call->references, 1) > 1)
        return;
    chain_deinit(&call->base.request);
    chain_deinit(&call->reply);
    mem_free(call->message);
    mem_free(call);
}

/* Ends the client's side, under the mutex; the hub's thread runs the callback. `reply` may be NULL.
   Does nothing when it has ended before. */
static void call_end(struct memory_call *call, enum rpc_status status, const char *message,
                     struct chain *reply)
{
    if (call->is_ended)
        return;
    call->is_ended = true;
    heap_remove(call);
    if (call->server == NULL)
        ring_remove(&call->of_queue); /* of those waiting; an inbox keeps its own */
    call->status = status;
    if (message[0] != '\0')
        call->message = must_format("%.*s", (int)RPC_MESSAGE_TEXT_MAX, message);
    if (reply != NULL)
        chain_move(&call->reply, reply);
    call->next_ended = NULL;
    if (hub.ended_last != NULL)
        hub.ended_last->next_ended = call;
    else
        hub.ended_first = call;
    hub.ended_last = call;
    pthread_cond_signal(&hub.wake);
}

static void call_end_with(struct memory_call *call, enum rpc_status status, char *message)
{
    call_end(call, status, message, NULL);
    mem_free(message);
}

/* Puts a call into a server's inbox, or says why not; under the mutex. */
static void call_hand_over(struct memory_call *call, struct memory_server *s)
{
    size_t size = call->base.request.size;
    if (size > s->options.message_max_bytes) {
        call_end_with(call, RPC_BUSY,
                      rpc_size_text("request", size, "server", s->options.message_max_bytes));
        return;
    }
    call->method = rpc_method_find(s->options.methods, s->options.method_count, call->method_name,
                                   strlen(call->method_name));
    if (call->method == NULL) {
        call_end_with(call, RPC_UNIMPLEMENTED,
                      must_format("the server has no method '%s'", call->method_name));
        return;
    }
    if (s->open_count >= s->options.calls_max) {
        call_end_with(call, RPC_BUSY, rpc_calls_text(s->open_count));
        return;
    }
    call->server = s;
    atomic_fetch_add(&call->references, 1);
    s->open_count++;
    ring_push(&s->calls, &call->of_server);
    ring_push(&s->inbox, &call->of_queue);
    pthread_cond_signal(&s->inbox_filled);
}

/* Ends the server's side, and the client's if it is still open. Takes the reply's slices. */
static void call_finish(struct memory_call *call, enum rpc_status status, const char *message,
                        struct chain *reply)
{
    struct memory_server *s = call->server;
    char *too_large = NULL;
    if (reply != NULL && reply->size > call->reply_max_bytes)
        too_large = rpc_size_text("reply", reply->size, "channel", call->reply_max_bytes);
    struct chain request = {0};
    chain_move(&request, &call->base.request);

    pthread_mutex_lock(&hub.mutex);
    if (too_large != NULL)
        call_end(call, RPC_BUSY, too_large, NULL);
    else
        call_end(call, status, message, reply);
    ring_remove(&call->of_server);
    s->open_count--;
    if (s->is_stopping && s->open_count == 0)
        pthread_cond_broadcast(&hub.emptied);
    pthread_mutex_unlock(&hub.mutex);

    if (reply != NULL)
        chain_deinit(reply); /* what was not moved */
    chain_deinit(&request);
    mem_free(too_large);
    call_unref(call);
}

static void memory_call_reply(struct rpc_call *call, struct chain *reply)
{
    call_finish((struct memory_call *)call, RPC_OK, "", reply);
}

static void memory_call_fail(struct rpc_call *call, enum rpc_status status, const char *message)
{
    call_finish((struct memory_call *)call, status, message, NULL);
}

static bool memory_call_is_cancelled(const struct rpc_call *call)
{
    return ((const struct memory_call *)call)->is_ended;
}

static uint32_t memory_call_left_ms(const struct rpc_call *call)
{
    uint64_t deadline_ns = ((const struct memory_call *)call)->deadline_ns;
    uint64_t now_ns = clock_ns();
    if (now_ns >= deadline_ns || memory_call_is_cancelled(call))
        return 0;
    return (uint32_t)((deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

/* ---- the hub's thread ---- */

static void run_callback(struct memory_call *call)
{
    struct memory_channel *c = call->channel;
    call->callback(call->context, call->status, call->message != NULL ? call->message : "",
                   &call->reply);
    pthread_mutex_lock(&hub.mutex);
    ring_remove(&call->of_channel);
    if (c->is_closing && ring_is_empty(&c->calls))
        pthread_cond_broadcast(&hub.emptied);
    pthread_mutex_unlock(&hub.mutex);
    call_unref(call);
}

/* Ends the calls whose deadline has passed; under the mutex. */
static void expire(uint64_t now_ns)
{
    while (hub.heap_count > 0 && hub.heap[0]->deadline_ns <= now_ns)
        call_end(hub.heap[0], RPC_DEADLINE, "the deadline passed", NULL);
}

static void *hub_run(void *context)
{
    pthread_mutex_lock(&hub.mutex);
    for (;;) {
        uint64_t now_ns = clock_ns();
        expire(now_ns);
        struct memory_call *ended = hub.ended_first;
        if (ended != NULL) {
            hub.ended_first = hub.ended_last = NULL;
            pthread_mutex_unlock(&hub.mutex);
            while (ended != NULL) {
                struct memory_call *next = ended->next_ended;
                run_callback(ended);
                ended = next;
            }
            pthread_mutex_lock(&hub.mutex);
            continue;
        }
        if (hub.is_stopping)
            break;
        /* An alarm set for a call that has ended since is kept: it costs one needless waking; a new
           one for each call would cost a waking a call. */
        if (hub.wake_at_ns <= now_ns)
            hub.wake_at_ns = UINT64_MAX;
        if (hub.heap_count > 0 && hub.heap[0]->deadline_ns < hub.wake_at_ns)
            hub.wake_at_ns = hub.heap[0]->deadline_ns;
        cond_wait_until(&hub.wake, hub.wake_at_ns);
    }
    pthread_mutex_unlock(&hub.mutex);
    return context;
}

static enum err hub_acquire(void)
{
    enum err e = ERR_NONE;
    pthread_mutex_lock(&hub.lifecycle);
    if (hub.user_count == 0) {
        cond_init(&hub.wake);
        cond_init(&hub.emptied);
        ring_init(&hub.servers);
        ring_init(&hub.waiting);
        hub.wake_at_ns = UINT64_MAX;
        hub.is_stopping = false;
        e = rpc_thread_start(&hub.thread, "rpc-memory", hub_run, NULL);
    }
    if (e == ERR_NONE)
        hub.user_count++;
    pthread_mutex_unlock(&hub.lifecycle);
    return e;
}

static void hub_release(void)
{
    pthread_mutex_lock(&hub.lifecycle);
    if (--hub.user_count == 0) {
        pthread_mutex_lock(&hub.mutex);
        hub.is_stopping = true;
        pthread_cond_signal(&hub.wake);
        pthread_mutex_unlock(&hub.mutex);
        CHECK(pthread_join(hub.thread, NULL) == 0);
        CHECK(hub.heap_count == 0 && hub.ended_first == NULL);
        mem_free(hub.heap);
        hub.heap = NULL;
        hub.heap_capacity = 0;
        pthread_cond_destroy(&hub.wake);
        pthread_cond_destroy(&hub.emptied);
    }
    pthread_mutex_unlock(&hub.lifecycle);
}

/* ---- servers ---- */

static void *server_run(void *context)
{
    struct memory_server *s = context;
    pthread_mutex_lock(&hub.mutex);
    for (;;) {
        while (ring_is_empty(&s->inbox) && !s->is_stopping)
            pthread_cond_wait(&s->inbox_filled, &hub.mutex);
        if (ring_is_empty(&s->inbox))
            break;
        struct memory_call *call = RING_ITEM(s->inbox.next, struct memory_call, of_queue);
        ring_remove(&call->of_queue);
        bool is_awaited = !call->is_ended;
        pthread_mutex_unlock(&hub.mutex);
        if (is_awaited)
            call->method->handler(call->method->context, &call->base);
        else
            call_finish(call, RPC_CANCELLED, "", NULL);
        pthread_mutex_lock(&hub.mutex);
    }
    pthread_mutex_unlock(&hub.mutex);
    return NULL;
}

/* Under the mutex; NULL when nothing listens there. */
static struct memory_server *find_server(const char *address)
{
    for (struct link *l = hub.servers.next; l != &hub.servers; l = l->next) {
        struct memory_server *s = RING_ITEM(l, struct memory_server, of_hub);
        for (size_t i = 0; i < s->base.address_count; i++) {
            if (strcmp(s->options.listen[i], address) == 0)
                return s;
        }
    }
    return NULL;
}

/* Makes the names known and hands over what waited for them. */
static enum err server_register(struct memory_server *s)
{
    enum err e = ERR_NONE;
    pthread_mutex_lock(&hub.mutex);
    for (size_t i = 0; i < s->base.address_count && e == ERR_NONE; i++) {
        if (find_server(s->options.listen[i]) != NULL)
            e = err_set(ERR_EXISTS, "cannot listen on '%s': another server of this process does",
                        s->options.listen[i]);
    }
    if (e == ERR_NONE) {
        ring_push(&hub.servers, &s->of_hub);
        for (struct link *l = hub.waiting.next, *next; l != &hub.waiting; l = next) {
            next = l->next;
            struct memory_call *call = RING_ITEM(l, struct memory_call, of_queue);
            if (find_server(call->channel->base.address) != s)
                continue;
            ring_remove(&call->of_queue);
            call_hand_over(call, s);
        }
    }
    pthread_mutex_unlock(&hub.mutex);
    return e;
}

static void memory_server_destroy(struct rpc_server *base)
{
    struct memory_server *s = (struct memory_server *)base;
    pthread_mutex_lock(&hub.mutex);
    ring_remove(&s->of_hub);
    s->is_stopping = true;
    for (struct link *l = s->calls.next; l != &s->calls; l = l->next)
        call_end(RING_ITEM(l, struct memory_call, of_server), RPC_UNAVAILABLE,
                 "the server is shutting down", NULL);
    pthread_cond_broadcast(&s->inbox_filled);
    pthread_mutex_unlock(&hub.mutex);
    for (size_t i = 0; i < s->thread_count; i++)
        CHECK(pthread_join(s->threads[i], NULL) == 0);

    uint64_t until_ns = clock_ns() + RPC_DESTROY_WAIT_MS * NS_PER_MS;
    pthread_mutex_lock(&hub.mutex);
    while (s->open_count > 0 && clock_ns() < until_ns)
        cond_wait_until(&hub.emptied, until_ns);
    CHECK(s->open_count == 0); /* every handler's call is ended by its owner */
    pthread_mutex_unlock(&hub.mutex);

    pthread_cond_destroy(&s->inbox_filled);
    rpc_options_deinit(&s->options);
    mem_free(s->threads);
    mem_free(s);
    hub_release();
}

static enum err memory_server_create(const struct rpc_server_options *options,
                                     struct rpc_server **out)
{
    enum err e = hub_acquire();
    if (e != ERR_NONE)
        return e;
    struct memory_server *s = must_alloc(sizeof *s);
    s->base.transport = &rpc_memory_transport;
    rpc_options_copy(&s->options, options, &s->base.address_count);
    ring_init(&s->calls);
    ring_init(&s->inbox);
    cond_init(&s->inbox_filled);
    s->threads = must_alloc(options->threads * sizeof *s->threads);
    while (s->thread_count < options->threads) {
        e = rpc_thread_start(&s->threads[s->thread_count], "rpc-memory-srv", server_run, s);
        if (e != ERR_NONE)
            goto fail;
        s->thread_count++;
    }
    e = server_register(s);
    if (e != ERR_NONE)
        goto fail;
    *out = &s->base;
    return ERR_NONE;
fail:
    memory_server_destroy(&s->base);
    return e;
}

static const char *memory_server_address(const struct rpc_server *s, size_t index)
{
    return ((const struct memory_server *)s)->options.listen[index];
}

/* ---- channels ---- */

static enum err memory_channel_open(const char *address, const struct rpc_channel_options *options,
                                    struct rpc_channel **out)
{
    enum err e = hub_acquire();
    if (e != ERR_NONE)
        return e;
    struct memory_channel *c = must_alloc(sizeof *c);
    c->base.transport = &rpc_memory_transport;
    c->base.address = must_strdup(address);
    c->message_max_bytes = options->message_max_bytes;
    ring_init(&c->calls);
    *out = &c->base;
    return ERR_NONE;
}

static void memory_channel_close(struct rpc_channel *base)
{
    struct memory_channel *c = (struct memory_channel *)base;
    pthread_mutex_lock(&hub.mutex);
    c->is_closing = true;
    for (struct link *l = c->calls.next; l != &c->calls; l = l->next)
        call_end(RING_ITEM(l, struct memory_call, of_channel), RPC_CANCELLED,
                 "the channel was closed", NULL);
    /* No deadline: callbacks do not block, and all of them are on their way. */
    while (!ring_is_empty(&c->calls))
        pthread_cond_wait(&hub.emptied, &hub.mutex);
    pthread_mutex_unlock(&hub.mutex);
    mem_free(c->base.address);
    mem_free(c);
    hub_release();
}

static void memory_channel_call(struct rpc_channel *base, const struct rpc_call_options *options,
                                struct chain *request, rpc_callback callback, void *context)
{
    struct memory_channel *c = (struct memory_channel *)base;
    size_t name_size = strlen(options->method) + 1;
    struct memory_call *call = must_alloc(sizeof *call + name_size);
    memcpy(call->method_name, options->method, name_size);
    call->base.transport = &rpc_memory_transport;
    chain_move(&call->base.request, request);
    call->channel = c;
    call->reply_max_bytes = c->message_max_bytes;
    call->deadline_ns = clock_ns() + options->timeout_ms * NS_PER_MS;
    call->heap_index = NOT_IN_HEAP;
    call->callback = callback;
    call->context = context;
    atomic_init(&call->references, 1);

    pthread_mutex_lock(&hub.mutex);
    ring_push(&c->calls, &call->of_channel);
    struct memory_server *s = find_server(c->base.address);
    if (c->is_closing) {
        call_end(call, RPC_CANCELLED, "the channel was closed", NULL);
    } else if (call->base.request.size > c->message_max_bytes) {
        call_end_with(
            call, RPC_BUSY,
            rpc_size_text("request", call->base.request.size, "channel", c->message_max_bytes));
    } else if (s == NULL && !options->wait_for_ready) {
        call_end(call, RPC_UNAVAILABLE, "nothing listens there", NULL);
    } else {
        heap_insert(call);
        if (s != NULL)
            call_hand_over(call, s);
        else
            ring_push(&hub.waiting, &call->of_queue);
    }
    pthread_mutex_unlock(&hub.mutex);
}

static bool memory_knows(const char *address)
{
    return strncmp(address, PREFIX, strlen(PREFIX)) == 0 && address[strlen(PREFIX)] != '\0';
}

const struct rpc_transport rpc_memory_transport = {
    .name = "memory",
    .forms = "memory:name",
    .knows = memory_knows,
    .server_create = memory_server_create,
    .channel_open = memory_channel_open,
    .server_address = memory_server_address,
    .server_destroy = memory_server_destroy,
    .call_is_cancelled = memory_call_is_cancelled,
    .call_left_ms = memory_call_left_ms,
    .call_reply = memory_call_reply,
    .call_fail = memory_call_fail,
    .channel_close = memory_channel_close,
    .channel_call = memory_channel_call,
};
