/*
 * owner_internal.h - one shard in the hands of its owner: forming, restoring, snapshots
 * (owner_shard.c); its requests, and an owner's shards together (owner_serve.c).
 *
 * Threads  the owner's.
 */
#ifndef PARAMD_SERVER_OWNER_INTERNAL_H
#define PARAMD_SERVER_OWNER_INTERNAL_H

#include "server/owner.h"
#include "server/shard.h"
#include "server/snapshot.h"

struct holding {
    struct board_place place;
    struct formation *formation; /* a reference */
    uint32_t position;           /* among the server's shards */
    struct shard *shard;         /* NULL: not formed yet, or refused */
    bool refused;
    uint64_t retry_ms; /* the storage was away */
    uint64_t drained, verdict_step;
    bool verdict_stop, failed;
    bool told; /* the coordinator: that it is restored */

    uint64_t arm_seen; /* the last arm order looked at */
    uint64_t armed;    /* taken at this drain point; 0: none */
    bool due;          /* the shard stands at it */
    struct snapshot *snapshot;
    bool streaming; /* more to serialize */
};

void holding_init(struct holding *h, struct formation *f, uint32_t position, struct board *board);
void holding_deinit(struct holding *h);
/* Builds and restores the shard, unless that is done, refused, or to be tried later. */
void holding_form(struct holding *h, uint64_t now_ms);
void holding_follow(struct holding *h, const Paramd__Control__ServerOrders *orders,
                    uint64_t now_ms);
/* Begins the snapshot whose drain point the shard has come to. */
void holding_begin_due(struct holding *h, uint64_t now_ms);
enum snapshot_work { SNAPSHOT_NONE, SNAPSHOT_WRITING, SNAPSHOT_HELD_UP, SNAPSHOT_MORE };
enum snapshot_work holding_work(struct holding *h, uint64_t budget_ns, uint64_t now_ms);
/* Answers one request, now or later; a shard that is NULL or has no state yet is NOT_FORMED. */
void holding_serve(struct holding *h, enum request_kind kind, struct rpc_call *call,
                   uint64_t now_ms);

struct holdings {
    struct holding *items;
    uint32_t count;
};

/* Lets go of all, and takes every owners-th shard of a formation from `number` on; NULL: none. */
void holdings_form(struct holdings *s, struct formation *f, uint32_t number, uint32_t owners,
                   struct board *board);
void holdings_drop(struct holdings *s);
struct holding *holdings_find(const struct holdings *s, uint32_t shard); /* NULL: not here */

#endif
