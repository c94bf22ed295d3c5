/*
 * table_index.h - keys to row numbers, in ascending order with gaps; for server/table only.
 *
 * One segment a partition, made of lines: cache lines of five slots each, filled from the left. A
 * key's home is a line, its mixed value scaled to their number; what does not fit goes on to the
 * next line (ordered linear probing), so that keys ascend from slot to slot over the whole segment.
 * A look-up touches one cache line, rarely two; look-ups of ascending keys sweep memory forwards;
 * walking the slots gives the keys in order. A segment grows alone, to twice its size, when seven
 * of ten slots are used; so no growth stops its owner for long.
 *
 * An empty slot has the key UINT64_MAX and the row INDEX_EMPTY: a probe compares keys only and
 * stops there. Behind the homes lies a tail of lines for what the last ones push on, and one line
 * that is always empty.
 *
 * Memory   12.8 bytes a slot.
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
#include "server/table_blocks.h"

#define INDEX_EMPTY      UINT32_MAX
#define INDEX_LINE_SLOTS 5u

struct index_line {
    uint64_t keys[INDEX_LINE_SLOTS];
    uint32_t rows[INDEX_LINE_SLOTS];
    uint32_t unused;
};
_Static_assert(sizeof(struct index_line) == 64, "a line is a cache line");

struct index_segment {
    struct index_line *lines; /* a block */
    uint32_t line_count;      /* homes; the tail comes on top, and both fill the block */
    uint32_t count;           /* keys */
};

struct index_slot {
    struct index_line *line;
    uint32_t at;
};

/* Where a key is or belongs, and the first empty slot from there on. */
struct index_place {
    struct index_slot slot, end;
};

struct table_index {
    struct index_segment *segments; /* one for each partition from first_partition on */
    uint32_t first_partition, segment_count;
    uint64_t count; /* keys */
    uint64_t bytes; /* of blocks and segments */
    struct table_blocks blocks;
};

enum err index_init(struct table_index *x, uint32_t first_partition,
                    uint32_t end_partition) MUST_CHECK;
void index_deinit(struct table_index *x);

/* Makes room for `keys` more keys of one partition at once. */
enum err index_expect(struct table_index *x, uint32_t partition, uint64_t keys) MUST_CHECK;
/* Finds a key's place, and makes room there; good until the index changes. */
enum err index_reserve(struct table_index *x, uint64_t key, struct index_place *out) MUST_CHECK;
/* Adds a key that is absent at its place. */
void index_insert(struct table_index *x, uint64_t key, uint32_t row,
                  const struct index_place *place);

/* The first key >= *key: true, and *key and *row are set; false: there is none. */
bool index_next(const struct table_index *x, uint64_t *key, uint32_t *row);

static inline struct index_segment *index_segment(const struct table_index *x, uint64_t key)
{
    return &x->segments[partition_of_key(key) - x->first_partition];
}

static inline uint32_t index_home(const struct index_segment *s, uint64_t key)
{
    uint64_t within = key << (64 - PARTITION_SHIFT);
    return (uint32_t)(((unsigned __int128)within * s->line_count) >> 64);
}

/* The slot of the key, or of the first larger one, or an empty one; the segment has lines. */
static inline struct index_slot index_probe(const struct index_segment *s, uint64_t key)
{
    struct index_line *line = s->lines + index_home(s, key);
    for (;; line++) {
        /* Keys ascend and empty slots are largest, so this counts without a branch to mispredict.
           */
        uint32_t smaller = 0;
        for (uint32_t i = 0; i < INDEX_LINE_SLOTS; i++)
            smaller += line->keys[i] < key;
        if (smaller < INDEX_LINE_SLOTS)
            return (struct index_slot){line, smaller};
    }
}

static inline bool index_has(const struct index_place *place, uint64_t key)
{
    const struct index_line *line = place->slot.line;
    return line->keys[place->slot.at] == key && line->rows[place->slot.at] != INDEX_EMPTY;
}

/* Always inlined, because gcc drops calls of functions that do nothing but prefetch. */
static inline __attribute__((always_inline)) void index_prefetch(const struct table_index *x,
                                                                 uint64_t key)
{
    const struct index_segment *s = index_segment(x, key);
    __builtin_prefetch(s->lines + index_home(s, key));
}

static inline uint32_t index_find(const struct table_index *x, uint64_t key)
{
    const struct index_segment *s = index_segment(x, key);
    if (s->line_count == 0)
        return INDEX_EMPTY;
    struct index_slot slot = index_probe(s, key);
    return slot.line->keys[slot.at] == key ? slot.line->rows[slot.at] : INDEX_EMPTY;
}

#endif
