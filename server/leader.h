/*
 * leader.h - gives the pure coordinator what it lacks: leadership, a clock, calls, storage.
 *
 * Every server has one. It tries to lead every quarter of a second; while it leads, one thread runs
 * the coordinator, two do what it wants of the storage and the registry, one watches the registry
 * for members that are gone and for the leadership itself: once that is lost, the coordinator is
 * thrown away, and another one reads the records when it leads again. While it does not lead, calls
 * are answered UNAVAILABLE, and the caller
 * asks the registry again.
 *
 * Threads  create, start, stop, destroy: the owner's thread. The handlers run on transport threads
 * and enqueue.
 */
#ifndef PARAMD_SERVER_LEADER_H
#define PARAMD_SERVER_LEADER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/registry.h"
#include "common/rpc.h"

struct leader;

struct leader_options {
    struct registry *registry; /* borrowed; its own connection: leadership is held through it */
    uint32_t peer_timeout_ms, stall_timeout_ms, stuck_timeout_ms;
    uint32_t replace_wait_ms, recovery_limit;
    uint32_t registry_grace_ms; /* the registry away for longer: shards hold */
};

#define CONTROL_METHOD_COUNT 7u

struct leader *leader_create(const struct leader_options *o);
/* Fills CONTROL_METHOD_COUNT methods for rpc_server_create(). */
void leader_methods(struct leader *h, struct rpc_method *out);
/* From here on it tries to lead; `addresses` (NULL-terminated) is how others reach this process. */
void leader_start(struct leader *h, const char *const *addresses);
/* Answers what is parked, joins the threads, resigns. Later calls are answered UNAVAILABLE. */
void leader_stop(struct leader *h);
void leader_destroy(struct leader *h); /* after the rpc server; accepts NULL */

/* It does not lead, or nobody needs it to lead any longer: no other member is left, and the end of
   the last job has been asked for or `grace_ms` have passed since. The server that leaves asks this
   first. */
bool leader_may_leave(struct leader *h, const char *member, uint32_t grace_ms);

#endif
