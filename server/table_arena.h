/*
 * table_arena.h - rows of one size, numbered in order of creation, in large chunks; for
 * server/table only.
 *
 * Chunks are mapped whole, are backed by memory as rows are written, ask for huge pages, and never
 * move.
 *
 * Shapes   a row has `stride` floats, of which the last may be padding.
 * Threads  one owner.
 */
#ifndef PARAMD_SERVER_TABLE_ARENA_H
#define PARAMD_SERVER_TABLE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct table_arena {
    float **chunks;
    size_t chunk_count, chunk_capacity;
    uint32_t shift; /* 2^shift rows a chunk */
    uint32_t stride;
    uint32_t rows; /* in use */
};

void arena_init(struct table_arena *a, uint32_t row_floats);
void arena_deinit(struct table_arena *a);

/* Room for one more row, which arena_row(a, a->rows) is until a->rows is raised. */
enum err arena_reserve(struct table_arena *a) MUST_CHECK;

/* Bytes backed by memory. */
uint64_t arena_memory(const struct table_arena *a);

static inline float *arena_row(const struct table_arena *a, uint32_t row)
{
    size_t within = row & ((UINT32_C(1) << a->shift) - 1);
    return a->chunks[row >> a->shift] + within * a->stride;
}

#endif
