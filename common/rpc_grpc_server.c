/*
 * The server's half of the gRPC transport.
 *
 * All methods come through the core's generic request (grpc_server_request_call), so that an
 * unknown one gets its answer at once; the name is looked up here. Each lane is a completion queue
 * with a thread that always sits in it; REQUESTS_POSTED requests wait on each for a call to come.
 *
 * A call goes through these events, all on its lane's thread:
 *
 *     on_new -> on_message -> handler … owner ends it -> on_sent
 *         \---> on_closed   (the client has its answer, or has gone)
 *
 * It is freed with its last reference: one for on_closed, one for the owner, one for on_sent.
 */
#include "common/rpc_grpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/mem.h"

#define REQUESTS_POSTED 64
#define KEEPALIVE_MS    20000
#define WATCH_METHOD    "/grpc.health.v1.Health/Watch"
#define CHECK_METHOD    "/grpc.health.v1.Health/Check"

struct rpc_grpc_server {
    struct rpc_server base;
    struct rpc_server_options options; /* a copy */
    struct rpc_method health_check;
    char **addresses;
    grpc_server *core;
    bool is_started;
    struct lane *lanes;
    size_t lane_count;
    struct event_tag on_down;

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t emptied;
    uint32_t open_count;
    bool is_down; /* the core has shut down */
};

struct lane {
    struct rpc_grpc_server *server;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool has_thread;
};

struct rpc_grpc_served {
    struct rpc_call base;
    struct lane *lane;
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received, *sent;
    const struct rpc_method *method; /* NULL: Watch */
    int was_cancelled;               /* the core's out parameter */
    _Atomic bool is_cancelled;
    _Atomic uint32_t references;
    struct event_tag on_new, on_message, on_sent, on_closed;
};

static void on_new(void *context, bool is_good);
static void on_message(void *context, bool is_good);
static void on_sent(void *context, bool is_good);
static void on_closed(void *context, bool is_good);

/* ---- the life of a call ---- */

static void served_free(struct rpc_grpc_served *call)
{
    if (call->core != NULL)
        grpc_call_unref(call->core);
    grpc_call_details_destroy(&call->details);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_byte_buffer_destroy(call->received);
    grpc_byte_buffer_destroy(call->sent);
    chain_deinit(&call->base.request);
    mem_free(call);
}

static void served_unref(struct rpc_grpc_served *call)
{
    if (atomic_fetch_sub(&call->references, 1) > 1)
        return;
    struct rpc_grpc_server *s = call->lane->server;
    served_free(call);
    pthread_mutex_lock(&s->mutex);
    if (--s->open_count == 0)
        pthread_cond_signal(&s->emptied); /* under the mutex: the server may go once it is free */
    pthread_mutex_unlock(&s->mutex);
}

static void start_batch(struct rpc_grpc_served *call, const grpc_op *ops, size_t count,
                        struct event_tag *tag)
{
    grpc_call_error error = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    CHECK(error == GRPC_CALL_OK); /* others mean that batches were put together wrongly */
}

/* Ends the call: takes over `sent`, which may be NULL, and the owner's reference. */
static void served_end(struct rpc_grpc_served *call, enum rpc_status status, const char *message,
                       grpc_byte_buffer *sent)
{
    call->sent = sent;
    if (atomic_load(&call->is_cancelled)) { /* nobody listens */
        chain_deinit(&call->base.request);
        served_unref(call);
        return;
    }
    size_t size = strnlen(message, RPC_MESSAGE_TEXT_MAX);
    grpc_slice text = grpc_slice_from_copied_buffer(message, size);
    grpc_op ops[3];
    memset(ops, 0, sizeof ops);
    size_t count = 0;
    ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (sent != NULL) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = sent;
    }
    ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[count].data.send_status_from_server.status = (grpc_status_code)status;
    ops[count++].data.send_status_from_server.status_details = size > 0 ? &text : NULL;
    atomic_fetch_add(&call->references, 1);
    start_batch(call, ops, count, &call->on_sent);
    grpc_slice_unref(text);
    chain_deinit(&call->base.request);
    served_unref(call);
}

void rpc_grpc_call_reply(struct rpc_call *base, struct chain *reply)
{
    struct rpc_grpc_served *call = (struct rpc_grpc_served *)base;
    uint64_t limit = call->lane->server->options.message_max_bytes;
    if (reply->size > limit) {
        char *text = rpc_size_text("reply", reply->size, "server", limit);
        chain_deinit(reply);
        served_end(call, RPC_BUSY, text, NULL);
        mem_free(text);
        return;
    }
    served_end(call, RPC_OK, "", rpc_grpc_pack(reply));
}

void rpc_grpc_call_fail(struct rpc_call *call, enum rpc_status status, const char *message)
{
    served_end((struct rpc_grpc_served *)call, status, message, NULL);
}

bool rpc_grpc_call_is_cancelled(const struct rpc_call *call)
{
    return atomic_load(&((const struct rpc_grpc_served *)call)->is_cancelled);
}

uint32_t rpc_grpc_call_left_ms(const struct rpc_call *base)
{
    const struct rpc_grpc_served *call = (const struct rpc_grpc_served *)base;
    if (atomic_load(&call->is_cancelled)) /* by the client's clock, which may be ahead of ours */
        return 0;
    gpr_timespec deadline = gpr_convert_clock_type(call->details.deadline, GPR_CLOCK_MONOTONIC);
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    if (gpr_time_cmp(left, gpr_time_0(GPR_TIMESPAN)) <= 0)
        return 0;
    int32_t ms = gpr_time_to_millis(left); /* at most INT32_MAX */
    return ms > 0 ? (uint32_t)ms : 1;
}

/* ---- events ---- */

/* Posts one request for a call to come. Once the server shuts down it comes back as not good. */
static void lane_post(struct lane *lane)
{
    struct rpc_grpc_served *call = must_alloc(sizeof *call);
    call->base.transport = &rpc_grpc_transport;
    call->lane = lane;
    call->on_new = (struct event_tag){on_new, call};
    call->on_message = (struct event_tag){on_message, call};
    call->on_sent = (struct event_tag){on_sent, call};
    call->on_closed = (struct event_tag){on_closed, call};
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    grpc_call_error error =
        grpc_server_request_call(lane->server->core, &call->core, &call->details, &call->metadata,
                                 lane->queue, lane->queue, &call->on_new);
    CHECK(error == GRPC_CALL_OK);
}

static bool is_method(const struct rpc_grpc_served *call, const char *name)
{
    return grpc_slice_str_cmp(call->details.method, name) == 0;
}

static const struct rpc_method *find_method(const struct rpc_grpc_served *call)
{
    const struct rpc_grpc_server *s = call->lane->server;
    grpc_slice name = call->details.method;
    if (is_method(call, CHECK_METHOD))
        return &s->health_check;
    return rpc_method_find(s->options.methods, s->options.method_count,
                           (const char *)GRPC_SLICE_START_PTR(name), GRPC_SLICE_LENGTH(name));
}

static void on_new(void *context, bool is_good)
{
    struct rpc_grpc_served *call = context;
    if (!is_good) { /* the server shuts down */
        served_free(call);
        return;
    }
    struct rpc_grpc_server *s = call->lane->server;
    lane_post(call->lane);
    pthread_mutex_lock(&s->mutex);
    uint32_t others = s->open_count++;
    pthread_mutex_unlock(&s->mutex);

    atomic_init(&call->references, 2);
    grpc_op closed;
    memset(&closed, 0, sizeof closed);
    closed.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    closed.data.recv_close_on_server.cancelled = &call->was_cancelled;
    start_batch(call, &closed, 1, &call->on_closed);

    call->method = find_method(call);
    char *refusal = NULL;
    if (others >= s->options.calls_max) {
        refusal = rpc_calls_text(others);
        served_end(call, RPC_BUSY, refusal, NULL);
    } else if (call->method == NULL && !is_method(call, WATCH_METHOD)) {
        char *name = grpc_slice_to_c_string(call->details.method);
        refusal = must_format("the server has no method '%s'", name);
        gpr_free(name);
        served_end(call, RPC_UNIMPLEMENTED, refusal, NULL);
    } else {
        grpc_op message;
        memset(&message, 0, sizeof message);
        message.op = GRPC_OP_RECV_MESSAGE;
        message.data.recv_message.recv_message = &call->received;
        start_batch(call, &message, 1, &call->on_message);
    }
    mem_free(refusal);
}

/* Answers a Watch; the stream then stays open until the client or the server goes, which on_closed
 * tells. */
static void watch(struct rpc_grpc_served *call)
{
    struct chain answer = {0};
    enum err e =
        rpc_grpc_health_watch_answer(&call->lane->server->options, &call->base.request, &answer);
    if (e != ERR_NONE) {
        served_end(call, RPC_INVALID, err_text(), NULL);
        return;
    }
    call->sent = rpc_grpc_pack(&answer);
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = call->sent;
    /* The owner's reference passes to on_sent. */
    start_batch(call, ops, 2, &call->on_sent);
}

static void on_message(void *context, bool is_good)
{
    struct rpc_grpc_served *call = context;
    if (!is_good || call->received == NULL) {
        served_end(call, RPC_INVALID, "the call came without a message", NULL);
        return;
    }
    grpc_byte_buffer *received = call->received;
    call->received = NULL;
    if (rpc_grpc_unpack(received, &call->base.request) != ERR_NONE)
        served_end(call, RPC_BUSY, "the server is out of memory", NULL);
    else if (call->method == NULL)
        watch(call);
    else
        call->method->handler(call->method->context, &call->base);
}

static void on_sent(void *context, bool is_good)
{
    served_unref(context);
}

static void on_closed(void *context, bool is_good)
{
    struct rpc_grpc_served *call = context;
    if (call->was_cancelled)
        atomic_store(&call->is_cancelled, true);
    served_unref(call);
}

/* ---- the life of a server ---- */

static void on_down(void *context, bool is_good)
{
    struct rpc_grpc_server *s = context;
    pthread_mutex_lock(&s->mutex);
    s->is_down = true;
    pthread_cond_signal(&s->emptied);
    pthread_mutex_unlock(&s->mutex);
}

/* As peers would dial it: a wildcard host becomes this machine's name. */
static char *public_address(const char *listened, const struct rpc_grpc_address *a, int port)
{
    if (a->kind != ADDRESS_TCP)
        return must_strdup(listened);
    char name[256];
    const char *host = a->host;
    bool is_ipv6 = a->is_ipv6;
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0) {
        if (gethostname(name, sizeof name) == 0 && memchr(name, '\0', sizeof name) != NULL) {
            host = name;
            is_ipv6 = false;
        }
    }
    return must_format(is_ipv6 ? "[%s]:%d" : "%s:%d", host, port);
}

static enum err listen_on(struct rpc_grpc_server *s, grpc_server_credentials *credentials,
                          size_t index)
{
    const char *address = s->options.listen[index];
    struct rpc_grpc_address a;
    enum err e = rpc_grpc_address_parse(address, &a);
    if (e != ERR_NONE)
        return e;
    /* First a look of our own: the core would take over a live unix socket, and has no errno to
     * tell. */
    e = rpc_grpc_address_probe(address, &a);
    if (e == ERR_NONE) {
        int port = grpc_server_add_http2_port(s->core, address, credentials);
        if (port > 0)
            s->addresses[index] = public_address(address, &a, port);
        else
            e = err_set(ERR_IO, "cannot listen on '%s': gRPC gives no reason", address);
    }
    rpc_grpc_address_deinit(&a);
    return e;
}

static enum err listen_on_all(struct rpc_grpc_server *s)
{
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    enum err e = ERR_NONE;
    for (size_t i = 0; i < s->base.address_count && e == ERR_NONE; i++)
        e = listen_on(s, credentials, i);
    grpc_server_credentials_release(credentials);
    return e;
}

static void create_core(struct rpc_grpc_server *s)
{
    grpc_arg args[RPC_GRPC_COMMON_ARGS + 1];
    size_t count = rpc_grpc_common_args(args, s->options.message_max_bytes, KEEPALIVE_MS);
    /* Two servers must not share a port by chance. */
    args[count++] = rpc_grpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    s->core = grpc_server_create(&(grpc_channel_args){.num_args = count, .args = args}, NULL);
    s->lane_count = s->options.threads;
    s->lanes = must_alloc(s->lane_count * sizeof *s->lanes);
    for (size_t i = 0; i < s->lane_count; i++) {
        s->lanes[i].server = s;
        s->lanes[i].queue = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(s->core, s->lanes[i].queue, NULL);
    }
}

enum err rpc_grpc_server_create(const struct rpc_server_options *options, struct rpc_server **out)
{
    rpc_grpc_start();
    struct rpc_grpc_server *s = must_alloc(sizeof *s);
    s->base.transport = &rpc_grpc_transport;
    rpc_options_copy(&s->options, options, &s->base.address_count);
    s->health_check = (struct rpc_method){CHECK_METHOD, rpc_grpc_health_check, &s->options};
    s->addresses = must_alloc(s->base.address_count * sizeof *s->addresses);
    s->on_down = (struct event_tag){on_down, s};
    CHECK(pthread_mutex_init(&s->mutex, NULL) == 0);
    pthread_condattr_t attributes;
    CHECK(pthread_condattr_init(&attributes) == 0);
    CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&s->emptied, &attributes) == 0);
    pthread_condattr_destroy(&attributes);

    create_core(s);
    enum err e = listen_on_all(s);
    for (size_t i = 0; i < s->lane_count && e == ERR_NONE; i++) {
        e = rpc_thread_start(&s->lanes[i].thread, "rpc-server", rpc_grpc_run_queue,
                             s->lanes[i].queue);
        s->lanes[i].has_thread = e == ERR_NONE;
    }
    if (e != ERR_NONE) {
        rpc_grpc_server_destroy(&s->base);
        return e;
    }
    grpc_server_start(s->core);
    s->is_started = true;
    for (size_t i = 0; i < s->lane_count; i++) {
        for (int n = 0; n < REQUESTS_POSTED; n++)
            lane_post(&s->lanes[i]);
    }
    *out = &s->base;
    return ERR_NONE;
}

const char *rpc_grpc_server_address(const struct rpc_server *s, size_t index)
{
    return ((const struct rpc_grpc_server *)s)->addresses[index];
}

/* Until the core is down and the owners have ended their calls. */
static void wait_for_calls(struct rpc_grpc_server *s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += RPC_DESTROY_WAIT_MS / 1000;
    pthread_mutex_lock(&s->mutex);
    int error_number = 0;
    while ((s->open_count > 0 || !s->is_down) && error_number == 0)
        error_number = pthread_cond_timedwait(&s->emptied, &s->mutex, &until);
    CHECK(s->open_count == 0); /* every handler's call is ended by its owner */
    CHECK(s->is_down);
    pthread_mutex_unlock(&s->mutex);
}

void rpc_grpc_server_destroy(struct rpc_server *base)
{
    struct rpc_grpc_server *s = (struct rpc_grpc_server *)base;
    bool has_thread = s->lanes[0].has_thread;
    grpc_server_shutdown_and_notify(s->core, s->lanes[0].queue, &s->on_down);
    grpc_server_cancel_all_calls(s->core);
    if (has_thread)
        wait_for_calls(s);
    for (size_t i = 0; i < s->lane_count; i++) {
        grpc_completion_queue_shutdown(s->lanes[i].queue);
        if (s->lanes[i].has_thread)
            CHECK(pthread_join(s->lanes[i].thread, NULL) == 0);
        else
            rpc_grpc_run_queue(s->lanes[i].queue);
        grpc_completion_queue_destroy(s->lanes[i].queue);
    }
    grpc_server_destroy(s->core);
    for (size_t i = 0; i < s->base.address_count; i++)
        mem_free(s->addresses[i]);
    mem_free(s->addresses);
    rpc_options_deinit(&s->options);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->emptied);
    mem_free(s->lanes);
    mem_free(s);
}
