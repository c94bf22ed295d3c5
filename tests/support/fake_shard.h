/*
 * fake_shard.h - shards that answer from a pure function, check what they are sent, and spoil
 * replies when told.
 *
 * Values are a function of table, key, position and version, gradients of all but the version, so a
 * test knows every float that must arrive, and the fake every float that must be pushed. One rank,
 * bsp.
 *
 * Threads  the handlers run on transport threads, under the world's lock; whoever sets what they
 * shall do wrong while calls are open takes it too.
 */
#ifndef PARAMD_TESTS_FAKE_SHARD_H
#define PARAMD_TESTS_FAKE_SHARD_H

#include <pthread.h>
#include <stdint.h>

#include "common/rpc.h"
#include "common/schema.h"
#include "common/steps.h"
#include "worker/exchange.h"

#define FAKE_SHARDS    3u
#define FAKE_TABLES    3u
#define FAKE_DENSE     2u
#define FAKE_LAST_STEP 23u
#define FAKE_DEPTH     2u

enum spoil {
    SPOIL_NOTHING,
    SPOIL_DIM,
    SPOIL_COUNT,
    SPOIL_KIND,
    SPOIL_INDEX,
    SPOIL_OFFSET_BEYOND,
    SPOIL_OFFSET_ODD,
    SPOIL_FIRST_BLOCK,
    SPOIL_MISSING_BLOCK,
    SPOIL_EXTRA_BLOCK,
    SPOIL_PAYLOAD_SHORT,
    SPOIL_VERSION,
    SPOIL_GARBAGE,
    SPOIL_COUNT_OF
};

struct fake {
    struct fake_world *world;
    uint32_t index, first_partition, end_partition;
    struct rpc_server *server;
    char *address;
    const char *addresses[1];
    uint64_t received;
};

struct fake_world {
    struct schema *schema;
    struct steps steps;
    struct fake shards[FAKE_SHARDS];
    struct exchange_shard peers[FAKE_SHARDS];
    pthread_mutex_t lock;
    uint64_t version; /* of reads */
    /* what to do wrong, and when */
    uint64_t spoil_at; /* seq */
    enum spoil spoil;
    int status;           /* answered at spoil_at instead; -1: none */
    int rpc_status;       /* calls fail with it from spoil_at on; 0: none */
    uint32_t slice_bytes; /* replies are cut into slices of so many; 0: not */
    uint32_t requests, bad;
    char why[256];
};

void fake_world_open(struct fake_world *w);
void fake_world_close(struct fake_world *w);

float fake_row_value(uint32_t table, uint64_t key, uint32_t position, uint64_t version);
float fake_dense_value(uint32_t parameter, uint64_t position, uint64_t version);
float fake_row_gradient(uint32_t table, uint64_t key, uint32_t position);
#define FAKE_GRADIENT_VERSION 77777u /* of fake_dense_value(), for gradients */

#endif
