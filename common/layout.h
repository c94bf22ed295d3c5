/*
 * layout.h - who holds what in one generation: shards with their partitions and addresses, ranks
 * with leases.
 *
 * Shard s of S holds partitions [s·4096/S, (s+1)·4096/S). Shards are numbered over all servers,
 * server-major.
 *
 * Pure     immutable once made.
 */
#ifndef PARAMD_COMMON_LAYOUT_H
#define PARAMD_COMMON_LAYOUT_H

#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/schema.h"

struct layout_shard {
    uint32_t first_partition, end_partition; /* half open */
    char *member;                            /* name of the server */
    char *address;                           /* as rpc_channel_open() takes it */
};

struct layout {
    uint64_t generation;
    struct layout_shard *shards;
    uint32_t shard_count;
    uint32_t rank_count;
};

/* `members`, `addresses`: [server_count]; shards_per_server shards each. ERR_LIMIT beyond
   SHARD_MAX. */
enum err layout_create(uint64_t generation, const char *const *members,
                       const char *const *addresses, uint32_t server_count,
                       uint32_t shards_per_server, uint32_t rank_count,
                       struct layout **out) MUST_CHECK;
void layout_destroy(struct layout *l);

static inline uint32_t partition_of_key(uint64_t mixed_key)
{
    return (uint32_t)(mixed_key >> PARTITION_SHIFT);
}

/* The smallest mixed key of a partition; of partition 4096 there is none: use UINT64_MAX and <=. */
static inline uint64_t partition_first_key(uint32_t partition)
{
    return (uint64_t)partition << PARTITION_SHIFT;
}

uint32_t layout_shard_of_partition(const struct layout *l, uint32_t partition);

/* Blocks [*first, *end) of a dense parameter that lie in partitions [first_partition,
   end_partition). */
void layout_blocks(const struct schema_dense *d, uint32_t first_partition, uint32_t end_partition,
                   uint32_t *first, uint32_t *end);

#endif
