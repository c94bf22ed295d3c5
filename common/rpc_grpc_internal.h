/*
 * rpc_grpc_internal.h - what the client's and the server's half of the gRPC transport share.
 *
 * The wall around gRPC's C core (1.51) is the files rpc_grpc*. An operation of the core ends as an
 * event of a completion queue; its tag is a struct event_tag, that is, what to do then.
 */
#ifndef PARAMD_COMMON_RPC_GRPC_INTERNAL_H
#define PARAMD_COMMON_RPC_GRPC_INTERNAL_H

#include <grpc/grpc.h>

#include "common/rpc_internal.h"

struct event_tag {
    void (*on_event)(void *context, bool is_good);
    void *context;
};

/* Starts the core, once a process. Not after a fork() of a process that did. */
void rpc_grpc_start(void);

/* Runs events until the queue is shut down; `context` is the grpc_completion_queue. For a thread.
 */
void *rpc_grpc_run_queue(void *context);

/* Both take over what they are given and copy nothing but slices of a few bytes. The slices of an
   unpacked chain keep the received buffer alive. rpc_grpc_unpack() takes NULL as an empty message.
 */
grpc_byte_buffer *rpc_grpc_pack(struct chain *chain);
enum err rpc_grpc_unpack(grpc_byte_buffer *received, struct chain *out) MUST_CHECK;

grpc_arg rpc_grpc_int_arg(const char *key, int value);
/* Gives unix sockets room for what the core writes at once. */
grpc_arg rpc_grpc_socket_arg(void);
/* What both ends set alike: limits, keepalive, flow control, sockets. Returns how many. */
#define RPC_GRPC_COMMON_ARGS 11
size_t rpc_grpc_common_args(grpc_arg *args, uint64_t message_max_bytes, uint32_t keepalive_ms);

enum address_kind { ADDRESS_TCP, ADDRESS_UNIX, ADDRESS_UNIX_ABSTRACT };
struct rpc_grpc_address {
    enum address_kind kind;
    char *host; /* without brackets; the path or name of the other kinds */
    uint16_t port;
    bool is_ipv6; /* the host was in brackets */
};
/* ERR_INPUT with the reason. Freed with rpc_grpc_address_deinit(). */
enum err rpc_grpc_address_parse(const char *address, struct rpc_grpc_address *out) MUST_CHECK;
void rpc_grpc_address_deinit(struct rpc_grpc_address *a);
/* Says why nobody can listen there: ERR_EXISTS when it is in use. ERR_NONE: it seems that one can.
 */
enum err rpc_grpc_address_probe(const char *address, const struct rpc_grpc_address *a) MUST_CHECK;

enum err rpc_grpc_server_create(const struct rpc_server_options *options,
                                struct rpc_server **out) MUST_CHECK;
const char *rpc_grpc_server_address(const struct rpc_server *s, size_t index);
void rpc_grpc_server_destroy(struct rpc_server *s);
bool rpc_grpc_call_is_cancelled(const struct rpc_call *call);
uint32_t rpc_grpc_call_left_ms(const struct rpc_call *call);
void rpc_grpc_call_reply(struct rpc_call *call, struct chain *reply);
void rpc_grpc_call_fail(struct rpc_call *call, enum rpc_status status, const char *message);

/* grpc.health.v1: both are handlers; the context of the first is the server's options. For the
   second, a stream, the server asks for its one answer. */
void rpc_grpc_health_check(void *context, struct rpc_call *call);
enum err rpc_grpc_health_watch_answer(const struct rpc_server_options *options,
                                      const struct chain *request, struct chain *reply) MUST_CHECK;

enum err rpc_grpc_channel_open(const char *address, const struct rpc_channel_options *options,
                               struct rpc_channel **out) MUST_CHECK;
void rpc_grpc_channel_close(struct rpc_channel *c);
void rpc_grpc_channel_call(struct rpc_channel *c, const struct rpc_call_options *options,
                           struct chain *request, rpc_callback callback, void *context);

#endif
