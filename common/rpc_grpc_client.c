/*
 * The client's half of the gRPC transport.
 *
 * All channels of the process share one completion queue and one thread, which always sits in it
 * and runs the callbacks. Each channel has a connection of its own. A call is one batch of six
 * operations and one event.
 */
#include "common/rpc_grpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <limits.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/ring.h"

/* A server that comes back is found again within a second; a host that answers nothing is given up
 * in 5. */
#define RECONNECT_FIRST_MS 100
#define RECONNECT_MAX_MS   1000
#define CONNECT_TIMEOUT_MS 5000

struct rpc_grpc_channel {
    struct rpc_channel base;
    grpc_channel *core;
    uint64_t message_max_bytes;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t emptied;
    struct link calls; /* those that can be cancelled */
    size_t open_count; /* those whose callback has not returned */
    bool is_closing;
};

struct rpc_grpc_calling {
    struct event_tag tag;
    struct link of_channel;
    struct rpc_grpc_channel *channel;
    grpc_call *core;
    rpc_callback callback;
    void *context;
    enum rpc_status refusal; /* RPC_OK: the call was made */
    char *refusal_text;
    grpc_byte_buffer *sent, *received;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
};

/* The queue and its thread, for as long as there are channels. */
static struct {
    pthread_mutex_t mutex;
    size_t channel_count;
    grpc_completion_queue *queue;
    pthread_t thread;
} carrier = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static enum err carrier_acquire(void)
{
    enum err e = ERR_NONE;
    pthread_mutex_lock(&carrier.mutex);
    if (carrier.channel_count == 0) {
        carrier.queue = grpc_completion_queue_create_for_next(NULL);
        e = rpc_thread_start(&carrier.thread, "rpc-client", rpc_grpc_run_queue, carrier.queue);
        if (e != ERR_NONE) {
            grpc_completion_queue_shutdown(carrier.queue);
            rpc_grpc_run_queue(carrier.queue);
            grpc_completion_queue_destroy(carrier.queue);
        }
    }
    if (e == ERR_NONE)
        carrier.channel_count++;
    pthread_mutex_unlock(&carrier.mutex);
    return e;
}

static void carrier_release(void)
{
    pthread_mutex_lock(&carrier.mutex);
    if (--carrier.channel_count == 0) {
        grpc_completion_queue_shutdown(carrier.queue);
        CHECK(pthread_join(carrier.thread, NULL) == 0);
        grpc_completion_queue_destroy(carrier.queue);
    }
    pthread_mutex_unlock(&carrier.mutex);
}

/* ---- the life of a call ---- */

static void call_free(struct rpc_grpc_calling *call)
{
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    mem_free(call->refusal_text);
    mem_free(call);
}

/* The statuses that gRPC has and we have not come from the core or from foreign servers. */
static enum rpc_status known_status(grpc_status_code code)
{
    switch (code) {
    case GRPC_STATUS_OK:
    case GRPC_STATUS_CANCELLED:
    case GRPC_STATUS_INVALID_ARGUMENT:
    case GRPC_STATUS_DEADLINE_EXCEEDED:
    case GRPC_STATUS_NOT_FOUND:
    case GRPC_STATUS_ALREADY_EXISTS:
    case GRPC_STATUS_RESOURCE_EXHAUSTED:
    case GRPC_STATUS_FAILED_PRECONDITION:
    case GRPC_STATUS_UNIMPLEMENTED:
    case GRPC_STATUS_INTERNAL:
    case GRPC_STATUS_UNAVAILABLE:
        return (enum rpc_status)code;
    case GRPC_STATUS_PERMISSION_DENIED:
    case GRPC_STATUS_UNAUTHENTICATED:
    case GRPC_STATUS_ABORTED:
        return RPC_FAILED_PRECONDITION;
    case GRPC_STATUS_OUT_OF_RANGE:
        return RPC_INVALID;
    default:
        return RPC_INTERNAL;
    }
}

/* Hands the outcome to the caller. */
static void deliver(struct rpc_grpc_calling *call, bool was_closing)
{
    struct chain reply = {0};
    char text[RPC_MESSAGE_TEXT_MAX + 1] = "";
    enum rpc_status status = call->refusal;
    if (status != RPC_OK) {
        call->callback(call->context, status, call->refusal_text, &reply);
        return;
    }
    status = known_status(call->status);
    size_t size = GRPC_SLICE_LENGTH(call->details);
    if (size > RPC_MESSAGE_TEXT_MAX)
        size = RPC_MESSAGE_TEXT_MAX;
    memcpy(text, GRPC_SLICE_START_PTR(call->details), size);
    text[size] = '\0';
    if (status == RPC_OK && call->received == NULL) {
        status = RPC_INTERNAL;
        strcpy(text, "the server sent no reply");
    } else if (status == RPC_OK) {
        if (rpc_grpc_unpack(call->received, &reply) != ERR_NONE) {
            status = RPC_BUSY;
            strcpy(text, "out of memory for the reply");
        }
        call->received = NULL;
    } else if (status == RPC_CANCELLED && !was_closing) {
        /* We cancel only when we close: so the server went away with the call. */
        status = RPC_UNAVAILABLE;
    }
    if (status == RPC_OK)
        text[0] = '\0';
    call->callback(call->context, status, text, &reply);
    chain_deinit(&reply);
}

static void on_done(void *context, bool is_good)
{
    struct rpc_grpc_calling *call = context;
    struct rpc_grpc_channel *c = call->channel;
    pthread_mutex_lock(&c->mutex);
    ring_remove(&call->of_channel);
    bool was_closing = c->is_closing;
    pthread_mutex_unlock(&c->mutex);

    /* Before the callback: this lets go of what was sent. */
    grpc_call_unref(call->core);
    grpc_byte_buffer_destroy(call->sent);
    deliver(call, was_closing);
    grpc_byte_buffer_destroy(call->received);
    call_free(call);

    pthread_mutex_lock(&c->mutex);
    if (--c->open_count == 0)
        pthread_cond_signal(&c->emptied); /* under the mutex: the channel may go once it is free */
    pthread_mutex_unlock(&c->mutex);
}

static void call_start(struct rpc_grpc_calling *call, bool wait_for_ready)
{
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (wait_for_ready)
        ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                       GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = call->sent;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &call->received;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[5].data.recv_status_on_client.status = &call->status;
    ops[5].data.recv_status_on_client.status_details = &call->details;
    /* An empty batch ends at once: so a refusal, too, is told on the carrier's thread. */
    grpc_call_error error =
        grpc_call_start_batch(call->core, ops, call->refusal == RPC_OK ? 6 : 0, &call->tag, NULL);
    CHECK(error == GRPC_CALL_OK);
}

void rpc_grpc_channel_call(struct rpc_channel *base, const struct rpc_call_options *options,
                           struct chain *request, rpc_callback callback, void *context)
{
    struct rpc_grpc_channel *c = (struct rpc_grpc_channel *)base;
    struct rpc_grpc_calling *call = must_alloc(sizeof *call);
    call->tag = (struct event_tag){on_done, call};
    call->channel = c;
    call->callback = callback;
    call->context = context;
    call->details = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);

    grpc_slice method = grpc_slice_from_copied_string(options->method);
    gpr_timespec timeout = gpr_time_from_millis(options->timeout_ms, GPR_TIMESPAN);
    call->core =
        grpc_channel_create_call(c->core, NULL, GRPC_PROPAGATE_DEFAULTS, carrier.queue, method,
                                 NULL, gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), timeout), NULL);
    grpc_slice_unref(method);

    pthread_mutex_lock(&c->mutex);
    c->open_count++;
    if (c->is_closing) {
        call->refusal = RPC_CANCELLED;
        call->refusal_text = must_strdup("the channel was closed");
    } else if (request->size > c->message_max_bytes) {
        call->refusal = RPC_BUSY;
        call->refusal_text =
            rpc_size_text("request", request->size, "channel", c->message_max_bytes);
    } else {
        ring_push(&c->calls, &call->of_channel);
    }
    pthread_mutex_unlock(&c->mutex);

    if (call->refusal == RPC_OK)
        call->sent = rpc_grpc_pack(request);
    else
        chain_deinit(request);
    call_start(call, options->wait_for_ready);
}

/* ---- the life of a channel ---- */

/* Numeric hosts go around the resolver. */
static char *target_of(const char *address, const struct rpc_grpc_address *a)
{
    if (a->kind != ADDRESS_TCP)
        return must_strdup(address);
    if (a->is_ipv6)
        return must_format("ipv6:%%5B%s%%5D:%u", a->host, a->port);
    bool is_ipv4 = a->host[strspn(a->host, "0123456789.")] == '\0';
    return must_format(is_ipv4 ? "ipv4:%s:%u" : "dns:///%s:%u", a->host, a->port);
}

static grpc_channel *create_core(const char *target, const struct rpc_channel_options *options)
{
    grpc_arg args[RPC_GRPC_COMMON_ARGS + 9];
    size_t count = rpc_grpc_common_args(args, options->message_max_bytes, options->keepalive_ms);
    const grpc_arg own[] = {
        rpc_grpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0), /* the application's business */
        rpc_grpc_int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        rpc_grpc_int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        rpc_grpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* no shared connections */
        rpc_grpc_int_arg(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, INT_MAX),
        rpc_grpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS),
        rpc_grpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        rpc_grpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_TIMEOUT_MS),
        rpc_grpc_int_arg(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, RECONNECT_MAX_MS),
    };
    memcpy(args + count, own, sizeof own);
    count += sizeof own / sizeof own[0];
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *core = grpc_channel_create(target, credentials,
                                             &(grpc_channel_args){.num_args = count, .args = args});
    grpc_channel_credentials_release(credentials);
    CHECK(core != NULL); /* a wrong target makes a channel that fails every call */
    return core;
}

enum err rpc_grpc_channel_open(const char *address, const struct rpc_channel_options *options,
                               struct rpc_channel **out)
{
    struct rpc_grpc_address a;
    enum err e = rpc_grpc_address_parse(address, &a);
    if (e != ERR_NONE)
        return e;
    if (a.kind == ADDRESS_TCP && a.port == 0) {
        rpc_grpc_address_deinit(&a);
        return err_set(ERR_INPUT, "address '%s' cannot be dialled: its port is 0", address);
    }
    rpc_grpc_start();
    char *target = target_of(address, &a);
    rpc_grpc_address_deinit(&a);
    e = carrier_acquire();
    if (e == ERR_NONE) {
        struct rpc_grpc_channel *c = must_alloc(sizeof *c);
        c->base.transport = &rpc_grpc_transport;
        c->base.address = must_strdup(address);
        c->message_max_bytes = options->message_max_bytes;
        CHECK(pthread_mutex_init(&c->mutex, NULL) == 0);
        CHECK(pthread_cond_init(&c->emptied, NULL) == 0);
        ring_init(&c->calls);
        c->core = create_core(target, options);
        *out = &c->base;
    }
    mem_free(target);
    return e;
}

/* Cancels all open calls. Not under the mutex: a cancelled call lets go of slices, and their owners
   are user code. */
static void cancel_calls(struct rpc_grpc_channel *c)
{
    pthread_mutex_lock(&c->mutex);
    c->is_closing = true;
    size_t count = 0;
    grpc_call **calls = must_alloc(c->open_count * sizeof *calls);
    for (struct link *l = c->calls.next; l != &c->calls; l = l->next) {
        calls[count] = RING_ITEM(l, struct rpc_grpc_calling, of_channel)->core;
        grpc_call_ref(calls[count++]);
    }
    pthread_mutex_unlock(&c->mutex);
    for (size_t i = 0; i < count; i++) {
        grpc_call_cancel(calls[i], NULL);
        grpc_call_unref(calls[i]);
    }
    mem_free(calls);
}

void rpc_grpc_channel_close(struct rpc_channel *base)
{
    struct rpc_grpc_channel *c = (struct rpc_grpc_channel *)base;
    cancel_calls(c);
    pthread_mutex_lock(&c->mutex);
    /* No deadline: callbacks do not block, and all of them are on their way. */
    while (c->open_count > 0)
        pthread_cond_wait(&c->emptied, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
    grpc_channel_destroy(c->core);
    carrier_release();
    pthread_mutex_destroy(&c->mutex);
    pthread_cond_destroy(&c->emptied);
    mem_free(c->base.address);
    mem_free(c);
}
