/*
 * The transport between processes: gRPC. Here is what both halves share; rpc_grpc_server.c and
 * rpc_grpc_client.c are the halves, rpc_grpc_socket.c is what is set on sockets.
 *
 * No byte of a body is copied: slices of a chain become slices of the core, which drop their
 * reference when the core is through with them (at the end of the call, not when it was sent);
 * received slices become slices of a chain, whose owner is the whole received buffer.
 */
#include "common/rpc_grpc_internal.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <grpc/byte_buffer.h>
#include <grpc/slice_buffer.h>
#include <grpc/support/log.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"

#define UNIX_PREFIX     "unix:/"
#define ABSTRACT_PREFIX "unix-abstract:"
/* sun_path, less the final 0 of a path or the first 0 of an abstract name. */
#define UNIX_NAME_MAX (sizeof((struct sockaddr_un *)0)->sun_path - 1)

/* Slices up to this size are copied: cheaper than an allocation and two atomic operations. */
#define COPY_MAX 128

/* A peer is given up when it does not answer a keepalive ping within this time. */
#define KEEPALIVE_TIMEOUT_MS 10000
/* Pings that come faster than this are punished by the server, so no client of ours sends faster.
 */
#define PING_INTERVAL_MIN_MS 500
#define KEEPALIVE_MIN_MS     1000

/* How much a stream may send ahead of its reader. The core's own guess is 64 KiB, which at a round
   trip of half a millisecond is 125 MiB/s. */
#define LOOKAHEAD_BYTES (4 << 20)

/* What the core has to say reaches us as statuses too; its lines are for those who look for more.
 */
static void log_line(gpr_log_func_args *line)
{
    log_debug("grpc", "%s", line->message);
}

static void start_core(void)
{
    gpr_set_log_function(log_line);
    /* The core's own threads must not take the daemon's signals. */
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    grpc_init();
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

void rpc_grpc_start(void)
{
    /* There is no matching grpc_shutdown(): chains of received slices may outlive every server and
       channel, and freeing them needs the core. */
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CHECK(pthread_once(&once, start_core) == 0);
}

void *rpc_grpc_run_queue(void *context)
{
    grpc_completion_queue *queue = context;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        CHECK(event.type == GRPC_OP_COMPLETE);
        struct event_tag *tag = event.tag;
        tag->on_event(tag->context, event.success != 0);
    }
}

/* ---- bodies ---- */

static void release_owner(void *owner)
{
    buf_unref(owner);
}

static grpc_slice pack_slice(struct slice s)
{
    if (s.owner == NULL)
        return grpc_slice_from_static_buffer(s.data, s.size);
    if (s.size > COPY_MAX)
        return grpc_slice_new_with_user_data((void *)(uintptr_t)s.data, s.size, release_owner,
                                             s.owner);
    grpc_slice copy = grpc_slice_from_copied_buffer((const char *)s.data, s.size);
    buf_unref(s.owner);
    return copy;
}

grpc_byte_buffer *rpc_grpc_pack(struct chain *chain)
{
    grpc_byte_buffer *packed = grpc_raw_byte_buffer_create(NULL, 0);
    for (size_t i = 0; i < chain->count; i++)
        grpc_slice_buffer_add(&packed->data.raw.slice_buffer, pack_slice(chain->slices[i]));
    chain->count = 0; /* the references went with the slices */
    chain_deinit(chain);
    return packed;
}

static void release_received(void *received)
{
    grpc_byte_buffer_destroy(received);
}

enum err rpc_grpc_unpack(grpc_byte_buffer *received, struct chain *out)
{
    if (received == NULL)
        return ERR_NONE;
    CHECK(received->data.raw.compression == GRPC_COMPRESS_NONE);
    grpc_slice_buffer *slices = &received->data.raw.slice_buffer;
    struct buf *owner = buf_wrap(NULL, slices->length, release_received, received);
    if (owner == NULL) {
        grpc_byte_buffer_destroy(received);
        return ERR_MEMORY;
    }
    /* Tiny slices lie within `slices` itself, so they are taken by their address there. */
    for (size_t i = 0; i < slices->count; i++) {
        const grpc_slice *s = &slices->slices[i];
        chain_append(out, owner, GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
    }
    buf_unref(owner);
    return ERR_NONE;
}

/* ---- channel arguments ---- */

grpc_arg rpc_grpc_int_arg(const char *key, int value)
{
    return (grpc_arg){
        .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

size_t rpc_grpc_common_args(grpc_arg *args, uint64_t message_max_bytes, uint32_t keepalive_ms)
{
    int size_max = (int)message_max_bytes; /* at most MESSAGE_MAX_BYTES, which fits */
    int period = (int)(keepalive_ms < KEEPALIVE_MIN_MS ? KEEPALIVE_MIN_MS : keepalive_ms);
    const grpc_arg common[RPC_GRPC_COMMON_ARGS] = {
        rpc_grpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, size_max),
        rpc_grpc_int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, size_max),
        rpc_grpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, period),
        rpc_grpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        rpc_grpc_int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        rpc_grpc_int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        rpc_grpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                         PING_INTERVAL_MIN_MS),
        rpc_grpc_int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        rpc_grpc_int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES),
        rpc_grpc_int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        rpc_grpc_socket_arg(),
    };
    memcpy(args, common, sizeof common);
    return RPC_GRPC_COMMON_ARGS;
}

/* ---- addresses ---- */

static bool knows(const char *address)
{
    const char *colon = strrchr(address, ':');
    return strncmp(address, "unix", 4) == 0 || (colon != NULL && colon > address);
}

static enum err parse_unix(const char *address, const char *name, struct rpc_grpc_address *out)
{
    size_t size = strlen(name);
    if (size == 0 || size > UNIX_NAME_MAX)
        return err_set(ERR_INPUT, "the socket name of '%s' has %zu bytes; it needs 1 to %zu",
                       address, size, UNIX_NAME_MAX);
    out->host = must_strdup(name);
    return ERR_NONE;
}

enum err rpc_grpc_address_parse(const char *address, struct rpc_grpc_address *out)
{
    struct rpc_grpc_address a = {.kind = ADDRESS_TCP};
    if (strncmp(address, ABSTRACT_PREFIX, strlen(ABSTRACT_PREFIX)) == 0)
        a.kind = ADDRESS_UNIX_ABSTRACT;
    else if (strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        a.kind = ADDRESS_UNIX;
    if (a.kind != ADDRESS_TCP) {
        /* The path begins with the slash that ends the prefix. */
        size_t skip = strlen(a.kind == ADDRESS_UNIX ? UNIX_PREFIX : ABSTRACT_PREFIX);
        enum err e = parse_unix(address, address + skip - (a.kind == ADDRESS_UNIX), &a);
        if (e == ERR_NONE)
            *out = a;
        return e;
    }

    const char *colon = strrchr(address, ':');
    uint64_t port;
    if (colon == NULL || str_parse_u64(span_of(colon + 1), &port) != ERR_NONE || port > UINT16_MAX)
        return err_set(ERR_INPUT, "address '%s' does not end in a port from 0 to %u", address,
                       UINT16_MAX);
    struct span host = span_make(address, (size_t)(colon - address));
    a.is_ipv6 = host.size > 2 && host.data[0] == '[' && host.data[host.size - 1] == ']';
    if (a.is_ipv6)
        host = span_make(host.data + 1, host.size - 2);
    if (host.size == 0 || (!a.is_ipv6 && memchr(host.data, ':', host.size) != NULL) ||
        memchr(host.data, '/', host.size) != NULL)
        return err_set(ERR_INPUT,
                       "address '%s' has no host name, IPv4 address or [IPv6 address] "
                       "before its port",
                       address);
    a.port = (uint16_t)port;
    a.host = must_format("%.*s", (int)host.size, host.data);
    *out = a;
    return ERR_NONE;
}

void rpc_grpc_address_deinit(struct rpc_grpc_address *a)
{
    mem_free(a->host);
    *a = (struct rpc_grpc_address){0};
}

static enum err bind_error(int error_number, const char *address)
{
    if (error_number == EADDRINUSE)
        return err_set(ERR_EXISTS, "cannot listen on '%s': another process does", address);
    return err_set_errno(ERR_IO, error_number, "cannot listen on '%s'", address);
}

static enum err probe_tcp(const char *address, const struct rpc_grpc_address *a)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char port[8];
    snprintf(port, sizeof port, "%u", a->port);
    int reason = getaddrinfo(a->host, port, &hints, &found);
    if (reason != 0)
        return err_set(ERR_INPUT, "cannot listen on '%s': host '%s': %s", address, a->host,
                       gai_strerror(reason));
    /* One of several addresses is enough (a host without IPv6), but none may be taken. */
    int error_number = EADDRNOTAVAIL;
    for (struct addrinfo *i = found; i != NULL && error_number != EADDRINUSE; i = i->ai_next) {
        int fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, i->ai_protocol);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (bind(fd, i->ai_addr, i->ai_addrlen) == 0)
            error_number = 0;
        else if (error_number != 0 || errno == EADDRINUSE)
            error_number = errno;
        close(fd);
    }
    freeaddrinfo(found);
    return error_number == 0 ? ERR_NONE : bind_error(error_number, address);
}

/* A socket file that nobody listens on any more is in nobody's way: the core removes it. */
static enum err probe_unix(const char *address, const struct rpc_grpc_address *a)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    bool is_abstract = a->kind == ADDRESS_UNIX_ABSTRACT;
    size_t size = strlen(a->host);
    memcpy(name.sun_path + is_abstract, a->host, size);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bind_error(errno, address);
    enum err e = ERR_NONE;
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
    if (connect(fd, (struct sockaddr *)&name, length) == 0)
        e = bind_error(EADDRINUSE, address);
    else if (!is_abstract && errno == ENOENT && bind(fd, (struct sockaddr *)&name, length) != 0)
        e = bind_error(errno, address);
    else if (!is_abstract && errno == ENOENT)
        unlink(a->host);
    close(fd);
    return e;
}

enum err rpc_grpc_address_probe(const char *address, const struct rpc_grpc_address *a)
{
    return a->kind == ADDRESS_TCP ? probe_tcp(address, a) : probe_unix(address, a);
}

const struct rpc_transport rpc_grpc_transport = {
    .name = "grpc",
    .forms = "host:port, [ipv6]:port, unix:/path, unix-abstract:name",
    .knows = knows,
    .server_create = rpc_grpc_server_create,
    .channel_open = rpc_grpc_channel_open,
    .server_address = rpc_grpc_server_address,
    .server_destroy = rpc_grpc_server_destroy,
    .call_is_cancelled = rpc_grpc_call_is_cancelled,
    .call_left_ms = rpc_grpc_call_left_ms,
    .call_reply = rpc_grpc_call_reply,
    .call_fail = rpc_grpc_call_fail,
    .channel_close = rpc_grpc_channel_close,
    .channel_call = rpc_grpc_channel_call,
};
