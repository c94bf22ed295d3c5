#include "common/layout.h"

#include "common/check.h"
#include "common/mem.h"

static uint32_t range_begin(uint32_t shard, uint32_t shard_count)
{
    return (uint32_t)((uint64_t)shard * PARTITION_COUNT / shard_count);
}

enum err layout_create(uint64_t generation, const char *const *members,
                       const char *const *addresses, uint32_t server_count,
                       uint32_t shards_per_server, uint32_t rank_count, struct layout **out)
{
    uint64_t shard_count = (uint64_t)server_count * shards_per_server;
    if (shard_count == 0)
        return err_set(ERR_INPUT, "a layout of %u servers with %u shards each has no shard",
                       server_count, shards_per_server);
    if (shard_count > SHARD_MAX)
        return err_set(ERR_LIMIT, "%u servers with %u shards each are %llu shards; the most is %u",
                       server_count, shards_per_server, (unsigned long long)shard_count, SHARD_MAX);
    if (rank_count == 0 || rank_count > RANK_MAX)
        return err_set(ERR_LIMIT, "%u ranks; a job has 1 to %u", rank_count, RANK_MAX);
    struct layout *l = must_alloc(sizeof *l);
    l->generation = generation;
    l->rank_count = rank_count;
    l->shard_count = (uint32_t)shard_count;
    l->shards = must_alloc(shard_count * sizeof *l->shards);
    for (uint32_t i = 0; i < l->shard_count; i++) {
        uint32_t server = i / shards_per_server;
        l->shards[i] = (struct layout_shard){
            .first_partition = range_begin(i, l->shard_count),
            .end_partition = range_begin(i + 1, l->shard_count),
            .member = must_strdup(members[server]),
            .address = must_strdup(addresses[server]),
        };
    }
    *out = l;
    return ERR_NONE;
}

void layout_destroy(struct layout *l)
{
    if (l == NULL)
        return;
    for (uint32_t i = 0; l->shards != NULL && i < l->shard_count; i++) {
        mem_free(l->shards[i].member);
        mem_free(l->shards[i].address);
    }
    mem_free(l->shards);
    mem_free(l);
}

uint32_t layout_shard_of_partition(const struct layout *l, uint32_t partition)
{
    CHECK(partition < PARTITION_COUNT);
    /* The last s with floor(s * 4096 / S) <= p is the last with s * 4096 < (p + 1) * S. */
    return (uint32_t)((((uint64_t)partition + 1) * l->shard_count - 1) / PARTITION_COUNT);
}

/* The first block in a partition >= `partition`: floor(i * 4096 / n) >= p exactly when i * 4096 >=
 * p * n. */
static uint32_t first_block_from(const struct schema_dense *d, uint32_t partition)
{
    return (uint32_t)(((uint64_t)partition * d->block_count + PARTITION_COUNT - 1) /
                      PARTITION_COUNT);
}

void layout_blocks(const struct schema_dense *d, uint32_t first_partition, uint32_t end_partition,
                   uint32_t *first, uint32_t *end)
{
    *first = first_block_from(d, first_partition);
    *end = first_block_from(d, end_partition);
}
