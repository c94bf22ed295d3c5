/*
 * table_blocks.h - memory for the segments of an index: blocks of 2^order units on huge pages; for
 * server/table only.
 *
 * Look-ups go all over an index, so that with small pages each costs a walk of the page table; a
 * general allocator does not ask for huge ones, and does not promise to join what segments that
 * have grown left behind. Blocks are cut from aligned chunks in a row; what is freed joins its
 * buddy, so that two segments' old blocks make one's next (binary buddies: Knuth, TAOCP 1, 2.5).
 *
 * Units    a unit is 256 bytes; a block begins at a multiple of 64.
 * Memory   small tables are many: the first 256 KiB of an index come from the general allocator. A
 *          chunk is backed as blocks of it are first used; 1/256 of it tells which are free.
 * Threads  one owner.
 * Errors   ERR_MEMORY.
 */
#ifndef PARAMD_SERVER_TABLE_BLOCKS_H
#define PARAMD_SERVER_TABLE_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define BLOCKS_UNIT   UINT64_C(256)
#define BLOCKS_ORDERS 16u /* of blocks inside chunks; larger ones are mapped alone */

struct free_block {
    struct free_block *next, *before;
};

struct table_blocks {
    uint8_t **chunks; /* the last one's units from `fresh` on have not been used yet */
    size_t chunk_count, chunk_capacity;
    uint32_t fresh;
    uint64_t small_bytes; /* of blocks that lie in no chunk, below */
    struct free_block *free[BLOCKS_ORDERS];
};

/* 2^order units, whatever they hold. NULL: no memory. All zeros is an empty set of blocks. */
void *blocks_alloc(struct table_blocks *b, uint32_t order);
void blocks_free(struct table_blocks *b, void *block, uint32_t order);
/* All blocks have been freed. */
void blocks_deinit(struct table_blocks *b);

static inline uint64_t blocks_bytes(uint32_t order)
{
    return BLOCKS_UNIT << order;
}

#endif
