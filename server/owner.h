/*
 * owner.h - a thread that owns shards: requests and orders go in through its queue, nothing else
 * touches them.
 *
 * Orders come as a directive: complete, immutable and shared by all owners of the server. An owner
 * compares it with what its shards are and makes them so: builds and restores them, arms snapshots,
 * gives verdicts, drops them. Between requests it serializes what a running snapshot asks for, a
 * millisecond at a time.
 *
 * Bounds   the queue; a full one is answered BUSY. Threads: owner_request() and owner_direct() from
 * any.
 */
#ifndef PARAMD_SERVER_OWNER_H
#define PARAMD_SERVER_OWNER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "common/model.h"
#include "common/rpc.h"
#include "common/steps.h"
#include "proto/control.pb-c.h"
#include "server/board.h"

/* What the shards of one forming have in common. Immutable; shared by reference. */
struct formation {
    atomic_uint references;
    uint64_t serial;
    struct job *job;
    struct features_spec *features;
    struct model *model;
    struct steps steps;
    uint64_t generation;
    char *storage_uri;
    char *restore; /* name; "": the initial state */
    char *restore_checksum;
    bool read_only;
    uint32_t *shards; /* this server's */
    uint32_t *first_partition, *end_partition;
    uint32_t shard_count;
    uint64_t shard_memory;
    uint32_t wait_ms;
};

struct formation_options {
    const char *yaml;                            /* of the job */
    const Paramd__Control__MemberOrders *layout; /* the orders that had it */
    const Paramd__Control__MemberOrders *orders; /* with server->form */
    uint64_t serial, memory_bytes;
    uint32_t wait_ms;
};
enum err formation_create(const struct formation_options *o, struct formation **out) MUST_CHECK;
struct formation *formation_ref(struct formation *f);
void formation_unref(struct formation *f); /* accepts NULL */

/* Orders with the formation that they are about. */
struct directive {
    atomic_uint references;
    struct formation *formation; /* NULL: no shards */
    Paramd__Control__MemberOrders *orders;
};
/* Takes over the reference on `formation`; copies the orders. One reference for the caller. */
struct directive *directive_create(struct formation *formation,
                                   const Paramd__Control__MemberOrders *orders);
struct directive *directive_ref(struct directive *d);
void directive_unref(struct directive *d); /* accepts NULL */

enum request_kind { REQUEST_PUSH_PULL, REQUEST_RESUME, REQUEST_READ };

struct owner;
/* Owner `number` of `count`: it owns every count-th of the server's shards. */
struct owner *owner_create(struct board *board, uint32_t number, uint32_t count);
void owner_destroy(struct owner *o); /* answers what is queued and held; accepts NULL */

/* ERR_LIMIT: the queue is full. ERR_CANCELLED: it ends. The call is then still the caller's. */
enum err owner_request(struct owner *o, enum request_kind kind, uint32_t shard,
                       struct rpc_call *call) MUST_CHECK;
void owner_direct(struct owner *o, struct directive *d); /* takes a reference of its own */
/* Whatever the orders say: shards hold at drain points, because no leader can be heard. */
void owner_set_orphaned(struct owner *o, bool orphaned);
/* For how long it has been at one request; 0: it waits for one. */
uint64_t owner_busy_ms(const struct owner *o);

/* An answer that needs no shard. */
void owner_answer(enum request_kind kind, struct rpc_call *call,
                  Paramd__PushPullReply__Status status, const char *text);

#endif
