/*
 * table.h - the rows of one table in one shard: a hash table built for batched, prefetched,
 * ascending access.
 *
 * Keys arrive mixed and ascending. The index keeps them in ascending order with gaps: a key's home
 * is its mixed value scaled to the capacity, collisions are resolved by ordered linear probing, so
 * a batch sweeps memory forwards and a checkpoint reads the keys in order without sorting. The
 * index maps keys to row numbers; rows live in an arena of large chunks, numbered in order of
 * creation, never moved, never freed one by one. There is no allocation per row. The index grows in
 * segments, so that no single growth stops the owner for long.
 *
 * Memory   12.8 bytes per index slot at a load between 0.35 and 0.7, and 4 · state_dim bytes a row
 *          (rounded to what keeps rows from straddling more cache lines than they must):
 *          table_memory() counts all.
 * Shapes   a row's state is float[state_dim]: values float[dim], then slots (common/schema.h).
 * Threads  one owner.
 */
#ifndef PARAMD_SERVER_TABLE_H
#define PARAMD_SERVER_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/schema.h"

struct table;

/* Holds mixed keys of partitions [first, end). */
enum err table_create(const struct schema_table *schema, uint32_t first_partition,
                      uint32_t end_partition, struct table **out) MUST_CHECK;
void table_destroy(struct table *t);
uint64_t table_rows(const struct table *t);
uint64_t table_memory(const struct table *t);

/*
 * Batches hide the latency of memory when three of them are under way: while the rows of one are
 * used, those of the next are on their way, and so are the index lines of the one after it:
 *
 *     table_prefetch(next but one); table_find(next);
 *     for each row i: table_ahead(row i of next), use row i
 */
#define TABLE_BATCH 64 /* the most keys of one call */

/* Asks for what table_find() of these keys will read. */
void table_prefetch(const struct table *t, const uint64_t *keys, uint32_t count);
/* Asks for the first `floats` of a row; NULL is ignored. Always inlined, because gcc drops calls of
   functions that do nothing but prefetch. */
static inline __attribute__((always_inline)) void table_ahead(const float *row, uint32_t floats)
{
    /* Of long rows the hardware asks for the rest. */
    for (uint32_t i = 0; row != NULL && i < floats && i < 256; i += 16)
        __builtin_prefetch(row + i);
}

/* rows[i] = the state of keys[i], or NULL when absent. Ascending keys. */
void table_find(const struct table *t, const uint64_t *keys, uint32_t count, float **rows);
/* As table_find(), inserting absent keys with their initial state. ERR_MEMORY / ERR_LIMIT: no key
   of the batch has been inserted unless it is in the table afterwards whole. */
enum err table_find_or_insert(struct table *t, const uint64_t *keys, uint32_t count,
                              float **rows) MUST_CHECK;

/* Makes room for `rows` more rows of a partition of the table's, so that none of them makes the
   index grow; rows that do not come cost memory alone. */
enum err table_expect(struct table *t, uint32_t partition, uint64_t rows) MUST_CHECK;
/* Appends a row that a checkpoint holds, wherever it lies; keys ascending over all calls. */
enum err table_load(struct table *t, uint64_t key, const void *state) MUST_CHECK;

/*
 * Snapshots. begin freezes the rows as they are now; table_touch() must be called before a row is
 * changed, and keeps a copy if the snapshot still needs the old state; next hands out frozen rows
 * in ascending key order, at most `max` of them; end drops everything. One at a time. ERR_LIMIT
 * from table_touch(): the copies exceed memory_bytes; the snapshot has been abandoned and
 * table_snapshot_next() says so.
 */
void table_snapshot_begin(struct table *t, uint64_t memory_bytes);
enum err table_touch(struct table *t, const uint64_t *keys, float *const *rows,
                     uint32_t count) MUST_CHECK;
/* *count_out = 0: done. States are copied to states[i * state_dim]. */
enum err table_snapshot_next(struct table *t, uint32_t max, uint64_t *keys, float *states,
                             uint32_t *count_out) MUST_CHECK;
void table_snapshot_end(struct table *t);
bool table_snapshot_active(const struct table *t);
uint64_t table_snapshot_memory(const struct table *t); /* bytes that the copies take */

#endif
