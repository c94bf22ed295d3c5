/*
 * service.h - the data plane of a server: finds the shard that a request is for, and makes shards
 * as ordered.
 *
 * Requests are peeked at for job, generation and shard alone, on the transport thread, and go into
 * the queue of that shard's owner as they came. What names another job or generation is answered
 * here.
 *
 * Threads  handlers on transport threads; service_follow() and service_describe() on member's
 * thread.
 */
#ifndef PARAMD_SERVER_SERVICE_H
#define PARAMD_SERVER_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/rpc.h"
#include "proto/control.pb-c.h"

struct service;

struct service_options {
    uint32_t owner_count;        /* threads */
    uint64_t memory_bytes;       /* for all shards */
    uint32_t wait_ms;            /* a held call is answered WAITING after this long */
    void (*poke)(void *context); /* something is worth telling the coordinator; any thread */
    void *context;
};

#define SHARD_METHOD_COUNT 3u

struct service *service_create(const struct service_options *o);
void service_methods(struct service *s, struct rpc_method *out); /* fills SHARD_METHOD_COUNT */
void service_follow(struct service *s, const Paramd__Control__MemberOrders *orders);
/* No leader has been heard for too long, or one is heard again: shards hold at drain points. */
void service_set_orphaned(struct service *s, bool orphaned);
bool service_is_idle(struct service *s); /* it has no shards */
void service_describe(struct service *s, Paramd__Control__MemberState *state);
/* Drops all shards, answers what they hold, joins the owners. Later requests are answered
 * UNAVAILABLE. */
void service_stop(struct service *s);
void service_destroy(struct service *s); /* after the rpc server; accepts NULL */

#endif
