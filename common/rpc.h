/*
 * rpc.h - calls between processes, or within one: a method name, request bytes, reply bytes, a
 * status.
 *
 * Two transports stand behind it, chosen by the address: rpc_grpc ("host:port", "unix:/path",
 * "unix-abstract:name"; real gRPC unary calls, any gRPC client can talk to us) and rpc_memory
 * ("memory:name", within one process). Nothing above knows which one it has.
 *
 * Bodies are chains (common/buf.h): sent slice by slice and received as the transport's own slices.
 *
 * Bounds   every call has a deadline; a server takes at most `calls_max` calls at once and answers
 *          RPC_BUSY beyond; messages are bounded by `message_max_bytes`.
 * Threads  handlers and callbacks run on a transport thread and must not block: they decode and
 *          enqueue. Everything else may be called from any thread. A callback is called exactly
 *          once for each call, also when the channel is closed; never from within
 *          rpc_channel_call().
 * Errors   statuses, not enum err: they cross processes. rpc_status_err() turns one into the other.
 */
#ifndef PARAMD_COMMON_RPC_H
#define PARAMD_COMMON_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum rpc_status { /* gRPC's numbers */
                  RPC_OK = 0,
                  RPC_CANCELLED = 1,
                  RPC_INVALID = 3,
                  RPC_DEADLINE = 4,
                  RPC_NOT_FOUND = 5,
                  RPC_EXISTS = 6,
                  RPC_BUSY = 8, /* resource exhausted: too many calls, too large a message */
                  RPC_FAILED_PRECONDITION = 9,
                  RPC_UNIMPLEMENTED = 12,
                  RPC_INTERNAL = 13,
                  RPC_UNAVAILABLE = 14
};
const char *rpc_status_name(enum rpc_status s);
enum err rpc_status_err(enum rpc_status s);

/* ---- serving ---- */

/* One call being served; ends with rpc_call_reply() or _fail(). */
struct rpc_call;

typedef void (*rpc_handler)(void *context, struct rpc_call *call);

struct rpc_method {
    const char *name; /* "/paramd.Shard/PushPull" */
    rpc_handler handler;
    void *context;
};

struct rpc_server_options {
    const char *const *listen; /* addresses, NULL-terminated: the first is the public one */
    const struct rpc_method *methods;
    size_t method_count;
    uint32_t threads;           /* completion-queue threads; 0: 1 */
    uint32_t calls_max;         /* at once; 0: 4096 */
    uint64_t message_max_bytes; /* 0: MESSAGE_MAX_BYTES */
};

struct rpc_server;

/* Listens and serves when it returns. Unknown methods are answered UNIMPLEMENTED at once. On gRPC
   also serves grpc.health.v1.Health/Check (SERVING for "" and for each service of `methods`) and
   Watch. */
enum err rpc_server_create(const struct rpc_server_options *options,
                           struct rpc_server **out) MUST_CHECK;
/* The address as peers would dial it, index as in options.listen: port 0 is resolved, the hosts
   0.0.0.0 and [::] become this machine's name. */
const char *rpc_server_address(const struct rpc_server *s, size_t index);
/* Stops taking calls, cancels open ones, waits for handlers to return. Open rpc_calls must still be
   ended by their owner (their replies go nowhere); destroy waits for that, at most 10 s, then
   CHECKs. */
void rpc_server_destroy(struct rpc_server *s);

/* Borrowed, valid until the call ends; chain_share() from it to keep bytes longer. */
const struct chain *rpc_call_request(const struct rpc_call *call);
/* True once the client has gone (cancelled, deadline passed): its reply is not awaited. */
bool rpc_call_is_cancelled(const struct rpc_call *call);
/* Milliseconds to the client's deadline; 0 when it has passed or the client has gone. Deadlines
   travel rounded: what is left may seem up to 2 % more than the client gave. */
uint32_t rpc_call_left_ms(const struct rpc_call *call);
/* Takes the slices; ends the call. */
void rpc_call_reply(struct rpc_call *call, struct chain *reply);
void rpc_call_fail(struct rpc_call *call, enum rpc_status status, const char *message);

/* ---- calling ---- */

bool rpc_is_unix(const char *address);
/* Whether it is the address of a unix socket that takes a connection from here. Two containers have
   one kernel, so one boot id, and yet sockets, files and processes of their own. */
bool rpc_unix_listens(const char *address);

struct rpc_channel;

/* `message` is "" for RPC_OK; `reply` is borrowed for the length of the callback (chain_move() it
   to keep). */
typedef void (*rpc_callback)(void *context, enum rpc_status status, const char *message,
                             struct chain *reply);

struct rpc_channel_options {
    uint64_t message_max_bytes; /* 0: MESSAGE_MAX_BYTES */
    uint32_t keepalive_ms;      /* 0: 20 000 */
};

/* Does not connect yet; ERR_INPUT for an address that no transport knows. `options` may be NULL. */
enum err rpc_channel_open(const char *address, const struct rpc_channel_options *options,
                          struct rpc_channel **out) MUST_CHECK;
/* Cancels what is open, waits for its callbacks. Not from a callback. Accepts NULL. */
void rpc_channel_close(struct rpc_channel *c);
const char *rpc_channel_address(const struct rpc_channel *c);

struct rpc_call_options {
    const char *method;
    uint32_t timeout_ms; /* must not be 0 */
    bool wait_for_ready; /* for a connection, up to the time-out; else fail at once */
};

/* Takes the slices of `request`. */
void rpc_channel_call(struct rpc_channel *c, const struct rpc_call_options *options,
                      struct chain *request, rpc_callback callback, void *context);

/* The same, waiting here: for the control plane. Not from a transport thread. `reply` is filled on
   RPC_OK; the text of a failure is in err_text(). */
enum rpc_status rpc_channel_call_sync(struct rpc_channel *c, const struct rpc_call_options *options,
                                      struct chain *request, struct chain *reply);

#endif
