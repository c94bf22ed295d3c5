/*
 * rpc_internal.h - what a transport is: the table that rpc.c dispatches through. For rpc*.c only.
 *
 * A transport derives its server, call and channel from the bases below, each as its first
 * member, and fills in the base. rpc.c has checked the arguments and put the defaults in place
 * before a slot is called. All slots MUST be there.
 */
#ifndef PARAMD_COMMON_RPC_INTERNAL_H
#define PARAMD_COMMON_RPC_INTERNAL_H

#include <pthread.h>

#include "common/rpc.h"

struct rpc_transport {
    const char *name;
    const char *forms; /* the addresses it takes, for texts */
    /* By the look of it only; a wrong port number is the business of the next two. */
    bool (*knows)(const char *address);

    enum err (*server_create)(const struct rpc_server_options *options, struct rpc_server **out);
    enum err (*channel_open)(const char *address, const struct rpc_channel_options *options,
                             struct rpc_channel **out);

    const char *(*server_address)(const struct rpc_server *s, size_t index);
    void (*server_destroy)(struct rpc_server *s);

    bool (*call_is_cancelled)(const struct rpc_call *call);
    uint32_t (*call_left_ms)(const struct rpc_call *call);
    /* Takes the slices. The status is not RPC_OK in call_fail(). */
    void (*call_reply)(struct rpc_call *call, struct chain *reply);
    void (*call_fail)(struct rpc_call *call, enum rpc_status status, const char *message);

    void (*channel_close)(struct rpc_channel *c);
    void (*channel_call)(struct rpc_channel *c, const struct rpc_call_options *options,
                         struct chain *request, rpc_callback callback, void *context);
};

struct rpc_server {
    const struct rpc_transport *transport;
    size_t address_count;
};

struct rpc_call {
    const struct rpc_transport *transport;
    struct chain request;
};

struct rpc_channel {
    const struct rpc_transport *transport;
    char *address; /* the transport frees it */
};

extern const struct rpc_transport rpc_memory_transport;
extern const struct rpc_transport rpc_grpc_transport;

/* How long rpc_server_destroy() waits for the owners of open calls to end them. */
#define RPC_DESTROY_WAIT_MS 10000u
/* A longer message of a failed call is cut. */
#define RPC_MESSAGE_TEXT_MAX 1000u

/* Returns NULL when no method has this name. */
const struct rpc_method *rpc_method_find(const struct rpc_method *methods, size_t count,
                                         const char *name, size_t name_size);

/* A copy that a server keeps, with the number of its addresses. */
void rpc_options_copy(struct rpc_server_options *to, const struct rpc_server_options *from,
                      size_t *address_count_out);
void rpc_options_deinit(struct rpc_server_options *o);

/* Texts of RPC_BUSY, the same on all transports; freed with mem_free(). */
char *rpc_size_text(const char *what, uint64_t size, const char *whose, uint64_t limit);
char *rpc_calls_text(uint64_t open_count);

/* Starts a transport thread, with all signals blocked: they belong to the daemon's loop. */
enum err rpc_thread_start(pthread_t *out, const char *name, void *(*run)(void *context),
                          void *context) MUST_CHECK;

#endif
