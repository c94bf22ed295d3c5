#include "common/rpc.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/rpc_internal.h"
#include "common/str.h"

#define CALLS_MAX_DEFAULT    4096
#define THREADS_DEFAULT      1
#define THREADS_MAX          64
#define KEEPALIVE_MS_DEFAULT 20000

static const struct rpc_transport *const transports[] = {
    &rpc_memory_transport, /* first: "memory:name" must not be taken for a host */
    &rpc_grpc_transport,
};
#define TRANSPORT_COUNT (sizeof transports / sizeof transports[0])

const char *rpc_status_name(enum rpc_status s)
{
    switch (s) {
    case RPC_OK:
        return "ok";
    case RPC_CANCELLED:
        return "cancelled";
    case RPC_INVALID:
        return "invalid";
    case RPC_DEADLINE:
        return "deadline";
    case RPC_NOT_FOUND:
        return "not_found";
    case RPC_EXISTS:
        return "exists";
    case RPC_BUSY:
        return "busy";
    case RPC_FAILED_PRECONDITION:
        return "failed_precondition";
    case RPC_UNIMPLEMENTED:
        return "unimplemented";
    case RPC_INTERNAL:
        return "internal";
    case RPC_UNAVAILABLE:
        return "unavailable";
    }
    return "unknown";
}

enum err rpc_status_err(enum rpc_status s)
{
    switch (s) {
    case RPC_OK:
        return ERR_NONE;
    case RPC_CANCELLED:
        return ERR_CANCELLED;
    case RPC_INVALID:
        return ERR_INPUT;
    case RPC_DEADLINE:
        return ERR_TIMEOUT;
    case RPC_NOT_FOUND:
        return ERR_NOT_FOUND;
    case RPC_EXISTS:
        return ERR_EXISTS;
    case RPC_BUSY:
        return ERR_LIMIT;
    case RPC_FAILED_PRECONDITION:
        return ERR_REFUSED;
    case RPC_UNIMPLEMENTED:
        return ERR_UNSUPPORTED;
    case RPC_INTERNAL:
        return ERR_IO;
    case RPC_UNAVAILABLE:
        return ERR_UNAVAILABLE;
    }
    return ERR_IO;
}

static enum err find_transport(const char *address, const struct rpc_transport **out)
{
    for (size_t i = 0; i < TRANSPORT_COUNT; i++) {
        if (transports[i]->knows(address)) {
            *out = transports[i];
            return ERR_NONE;
        }
    }
    struct str forms = {0};
    for (size_t i = 0; i < TRANSPORT_COUNT; i++)
        str_append_format(&forms, "%s%s", i > 0 ? ", " : "", transports[i]->forms);
    enum err e = err_set(ERR_INPUT, "address '%s' is none of the forms: %s", address, forms.data);
    str_deinit(&forms);
    return e;
}

static void check_methods(const struct rpc_server_options *options)
{
    for (size_t i = 0; i < options->method_count; i++) {
        const struct rpc_method *m = &options->methods[i];
        CHECK(m->name[0] == '/' && strchr(m->name + 1, '/') != NULL);
        CHECK(m->handler != NULL);
        CHECK(rpc_method_find(options->methods, i, m->name, strlen(m->name)) == NULL);
    }
}

enum err rpc_server_create(const struct rpc_server_options *options, struct rpc_server **out)
{
    CHECK(options->listen != NULL && options->listen[0] != NULL);
    check_methods(options);
    struct rpc_server_options filled = *options;
    if (filled.threads == 0)
        filled.threads = THREADS_DEFAULT;
    if (filled.threads > THREADS_MAX)
        filled.threads = THREADS_MAX;
    if (filled.calls_max == 0)
        filled.calls_max = CALLS_MAX_DEFAULT;
    if (filled.message_max_bytes == 0 || filled.message_max_bytes > MESSAGE_MAX_BYTES)
        filled.message_max_bytes = MESSAGE_MAX_BYTES;

    const struct rpc_transport *transport = NULL;
    for (size_t i = 0; options->listen[i] != NULL; i++) {
        const struct rpc_transport *one;
        enum err e = find_transport(options->listen[i], &one);
        if (e != ERR_NONE)
            return err_prefix(e, "cannot listen");
        if (transport != NULL && one != transport)
            return err_set(ERR_INPUT,
                           "cannot listen on '%s' and '%s' with one server: "
                           "one is of transport %s, the other of %s",
                           options->listen[0], options->listen[i], transport->name, one->name);
        transport = one;
    }
    return transport->server_create(&filled, out);
}

const char *rpc_server_address(const struct rpc_server *s, size_t index)
{
    CHECK(index < s->address_count);
    return s->transport->server_address(s, index);
}

void rpc_server_destroy(struct rpc_server *s)
{
    if (s != NULL)
        s->transport->server_destroy(s);
}

const struct chain *rpc_call_request(const struct rpc_call *call)
{
    return &call->request;
}

bool rpc_call_is_cancelled(const struct rpc_call *call)
{
    return call->transport->call_is_cancelled(call);
}

uint32_t rpc_call_left_ms(const struct rpc_call *call)
{
    return call->transport->call_left_ms(call);
}

void rpc_call_reply(struct rpc_call *call, struct chain *reply)
{
    call->transport->call_reply(call, reply);
}

void rpc_call_fail(struct rpc_call *call, enum rpc_status status, const char *message)
{
    CHECK(status != RPC_OK);
    call->transport->call_fail(call, status, message != NULL ? message : "");
}

enum err rpc_channel_open(const char *address, const struct rpc_channel_options *options,
                          struct rpc_channel **out)
{
    struct rpc_channel_options filled = {0};
    if (options != NULL)
        filled = *options;
    if (filled.message_max_bytes == 0 || filled.message_max_bytes > MESSAGE_MAX_BYTES)
        filled.message_max_bytes = MESSAGE_MAX_BYTES;
    if (filled.keepalive_ms == 0)
        filled.keepalive_ms = KEEPALIVE_MS_DEFAULT;
    const struct rpc_transport *transport;
    enum err e = find_transport(address, &transport);
    if (e != ERR_NONE)
        return e;
    return transport->channel_open(address, &filled, out);
}

void rpc_channel_close(struct rpc_channel *c)
{
    if (c != NULL)
        c->transport->channel_close(c);
}

const char *rpc_channel_address(const struct rpc_channel *c)
{
    return c->address;
}

void rpc_channel_call(struct rpc_channel *c, const struct rpc_call_options *options,
                      struct chain *request, rpc_callback callback, void *context)
{
    CHECK(options->timeout_ms > 0);
    CHECK(callback != NULL);
    c->transport->channel_call(c, options, request, callback, context);
}

/* One call that a thread waits for. */
struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool is_done;
    enum rpc_status status;
    char message[RPC_MESSAGE_TEXT_MAX + 1];
    struct chain *reply;
};

static void wake_waiter(void *context, enum rpc_status status, const char *message,
                        struct chain *reply)
{
    struct waiter *w = context;
    pthread_mutex_lock(&w->mutex);
    w->status = status;
    size_t size = strnlen(message, RPC_MESSAGE_TEXT_MAX);
    memcpy(w->message, message, size);
    w->message[size] = '\0';
    if (status == RPC_OK && w->reply != NULL)
        chain_move(w->reply, reply);
    w->is_done = true;
    /* Under the mutex: once it is let go, the waiter may return, and *w be gone. */
    pthread_cond_signal(&w->ended);
    pthread_mutex_unlock(&w->mutex);
}

enum rpc_status rpc_channel_call_sync(struct rpc_channel *c, const struct rpc_call_options *options,
                                      struct chain *request, struct chain *reply)
{
    struct waiter w = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .ended = PTHREAD_COND_INITIALIZER,
        .reply = reply,
    };
    rpc_channel_call(c, options, request, wake_waiter, &w);
    pthread_mutex_lock(&w.mutex);
    /* No deadline of its own: the transport ends every call at options->timeout_ms. */
    while (!w.is_done)
        pthread_cond_wait(&w.ended, &w.mutex);
    pthread_mutex_unlock(&w.mutex);
    pthread_cond_destroy(&w.ended);
    pthread_mutex_destroy(&w.mutex);
    if (w.status != RPC_OK)
        err_set(rpc_status_err(w.status), "%s at %s: %s%s%s", options->method, c->address,
                rpc_status_name(w.status), w.message[0] != '\0' ? ": " : "", w.message);
    return w.status;
}

const struct rpc_method *rpc_method_find(const struct rpc_method *methods, size_t count,
                                         const char *name, size_t name_size)
{
    /* A server has a few tens of methods: comparing lengths first, a scan is as good as a table. */
    for (size_t i = 0; i < count; i++) {
        if (strlen(methods[i].name) == name_size && memcmp(methods[i].name, name, name_size) == 0)
            return &methods[i];
    }
    return NULL;
}

void rpc_options_copy(struct rpc_server_options *to, const struct rpc_server_options *from,
                      size_t *address_count_out)
{
    size_t count = 0;
    while (from->listen[count] != NULL)
        count++;
    const char **listen = must_alloc((count + 1) * sizeof *listen);
    for (size_t i = 0; i < count; i++)
        listen[i] = must_strdup(from->listen[i]);
    struct rpc_method *methods = must_alloc(from->method_count * sizeof *methods);
    for (size_t i = 0; i < from->method_count; i++) {
        methods[i] = from->methods[i];
        methods[i].name = must_strdup(from->methods[i].name);
    }
    *to = *from;
    to->listen = listen;
    to->methods = methods;
    *address_count_out = count;
}

void rpc_options_deinit(struct rpc_server_options *o)
{
    for (size_t i = 0; o->listen[i] != NULL; i++)
        mem_free((void *)(uintptr_t)o->listen[i]);
    for (size_t i = 0; i < o->method_count; i++)
        mem_free((void *)(uintptr_t)o->methods[i].name);
    mem_free((void *)(uintptr_t)o->listen);
    mem_free((void *)(uintptr_t)o->methods);
}

char *rpc_size_text(const char *what, uint64_t size, const char *whose, uint64_t limit)
{
    return must_format("a %s of %" PRIu64 " bytes is over the %s's limit of %" PRIu64 " bytes",
                       what, size, whose, limit);
}

char *rpc_calls_text(uint64_t open_count)
{
    return must_format("the server has %" PRIu64 " calls open, its limit", open_count);
}

enum err rpc_thread_start(pthread_t *out, const char *name, void *(*run)(void *context),
                          void *context)
{
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    int error_number = pthread_create(out, NULL, run, context);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (error_number != 0)
        return err_set_errno(ERR_IO, error_number, "cannot start the thread '%s'", name);
    pthread_setname_np(*out, name); /* for top and gdb only: a failure does not matter */
    return ERR_NONE;
}
