#include "server/table_arena.h"

#include "common/mem.h"

#define LINE_BYTES  64u
#define CHUNK_BYTES (UINT64_C(64) << 20)
#define PAGE_BYTES  UINT64_C(4096)

/* The smallest stride at which no row touches more cache lines than its size makes it. */
static uint32_t stride_of(uint32_t row_floats)
{
    uint32_t bytes = row_floats * (uint32_t)sizeof(float);
    uint32_t over = (bytes - 1) % LINE_BYTES + 1; /* in its last line */
    /* Rows begin at multiples of `step` within a line; the last such place must have room for
     * `over`. */
    uint32_t step = sizeof(float);
    while (step < over)
        step *= 2;
    return (bytes + step - 1) / step * step / (uint32_t)sizeof(float);
}

static uint64_t row_bytes(const struct table_arena *a)
{
    return (uint64_t)a->stride * sizeof(float);
}

static uint64_t chunk_bytes(const struct table_arena *a)
{
    uint64_t bytes = row_bytes(a) << a->shift;
    return (bytes + MEM_HUGE_BYTES - 1) / MEM_HUGE_BYTES * MEM_HUGE_BYTES;
}

void arena_init(struct table_arena *a, uint32_t row_floats)
{
    *a = (struct table_arena){.stride = stride_of(row_floats)};
    while (row_bytes(a) << (a->shift + 1) <= CHUNK_BYTES)
        a->shift++;
}

void arena_deinit(struct table_arena *a)
{
    for (size_t i = 0; i < a->chunk_count; i++)
        mem_unmap(a->chunks[i], chunk_bytes(a));
    mem_free(a->chunks);
    *a = (struct table_arena){0};
}

enum err arena_reserve(struct table_arena *a)
{
    size_t chunk = a->rows >> a->shift;
    if (chunk < a->chunk_count)
        return ERR_NONE;
    if (a->rows >= UINT32_MAX - 1)
        return err_set(ERR_LIMIT, "%u rows in one shard; use more shards", a->rows);
    if (!mem_grow(a->chunks, a->chunk_capacity, a->chunk_count + 1))
        return ERR_MEMORY;
    uint8_t *memory = mem_map(chunk_bytes(a), MEM_HUGE_BYTES);
    if (memory == NULL)
        return ERR_MEMORY;
    /* Small tables are many: the first 2 MiB stay small pages. */
    uint64_t small = a->chunk_count == 0 ? MEM_HUGE_BYTES : 0;
    mem_ask_huge(memory + small, chunk_bytes(a) - small);
    a->chunks[a->chunk_count++] = (float *)memory;
    return ERR_NONE;
}

uint64_t arena_memory(const struct table_arena *a)
{
    uint64_t bytes = a->rows * row_bytes(a);
    uint64_t page = bytes < MEM_HUGE_BYTES ? PAGE_BYTES : MEM_HUGE_BYTES;
    return (bytes + page - 1) / page * page + a->chunk_capacity * sizeof *a->chunks;
}
