/*
 * table_index.h - keys to row numbers, in ascending order with gaps; for server/table only.
 *
 * One segment a partition. Within it a key's home is its mixed value scaled to the capacity, and collisions are
 * resolved by ordered linear probing: the keys of a segment ascend from slot to slot, with empty slots
 * between. Look-ups of ascending keys sweep memory forwards, and walking the slots gives the keys in order.
 * A segment grows alone, when seven of ten slots are used, to a third; so no growth stops its owner for
 * long.
 *
 * An empty slot has the key UINT64_MAX and the row INDEX_EMPTY: a probe compares keys only and stops there.
 * Behind the capacity lies a tail for what the last homes push on, and one slot that is always empty.
 *
 * Memory   12 bytes a slot.
 * Threads  one owner.
 * Errors   ERR_MEMORY; ERR_LIMIT when keys crowd, which mixed keys do not.
 * Sources  ordered hash tables: Amble & Knuth, The Computer Journal 17(2), 1974.
 */
#ifndef PARAMD_SERVER_TABLE_INDEX_H
#define PARAMD_SERVER_TABLE_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/layout.h"

#define INDEX_EMPTY UINT32_MAX

struct index_segment {
    uint64_t *keys;                  /* [slots + 1]; rows lie behind them */
    uint32_t *rows;
    uint32_t capacity;               /* homes */
    uint32_t count;
};

struct table_index {
    struct index_segment *segments;  /* one for each partition from first_partition on */
    uint32_t first_partition, segment_count;
    uint64_t count;                  /* keys */
    uint64_t bytes;                  /* allocated */
};

enum err index_init(struct table_index *x, uint32_t first_partition, uint32_t end_partition) MUST_CHECK;
void index_deinit(struct table_index *x);

/* Adds a key that is absent. */
enum err index_insert(struct table_index *x, uint64_t key, uint32_t row) MUST_CHECK;
/* Makes sure that the next index_insert() of this key does not fail. */
enum err index_reserve(struct table_index *x, uint64_t key) MUST_CHECK;

/* The first key >= *key: true, and *key and *row are set; false: there is none. */
bool index_next(const struct table_index *x, uint64_t *key, uint32_t *row);

static inline struct index_segment *index_segment(const struct table_index *x, uint64_t key)
{
    return &x->segments[partition_of_key(key) - x->first_partition];
}

static inline uint32_t index_home(const struct index_segment *s, uint64_t key)
{
    uint64_t within = key << (64 - PARTITION_SHIFT);
    return (uint32_t)(((unsigned __int128)within * s->capacity) >> 64);
}

/* The slot of the key, or of the first larger one, or an empty one; the segment has slots. */
static inline uint32_t index_probe(const struct index_segment *s, uint64_t key)
{
    uint32_t slot = index_home(s, key);
    while (s->keys[slot] < key)
        slot++;
    return slot;
}

static inline void index_prefetch(const struct table_index *x, uint64_t key)
{
    const struct index_segment *s = index_segment(x, key);
    uint32_t home = index_home(s, key);
    __builtin_prefetch(s->keys + home);
    __builtin_prefetch(s->rows + home);
}

static inline uint32_t index_find(const struct table_index *x, uint64_t key)
{
    const struct index_segment *s = index_segment(x, key);
    if (s->capacity == 0)
        return INDEX_EMPTY;
    uint32_t slot = index_probe(s, key);
    return s->keys[slot] == key ? s->rows[slot] : INDEX_EMPTY;
}

#endif
