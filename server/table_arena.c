#include "server/table_arena.h"

#include <errno.h>
#include <sys/mman.h>

#include "common/mem.h"

#define LINE_BYTES  64u
#define CHUNK_BYTES (UINT64_C(64) << 20)
#define HUGE_BYTES  (UINT64_C(2) << 20)
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
    return (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
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
        munmap(a->chunks[i], chunk_bytes(a));
    mem_free(a->chunks);
    *a = (struct table_arena){0};
}

/* `bytes` of zeros that begin at a multiple of a huge page. NULL: no memory. */
static void *map_aligned(uint64_t bytes)
{
    uint8_t *memory = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        err_set_errno(ERR_MEMORY, errno, "cannot map %llu bytes for rows",
                      (unsigned long long)bytes);
        return NULL;
    }
    uint64_t before = (HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES) % HUGE_BYTES;
    if (before > 0)
        munmap(memory, before);
    munmap(memory + before + bytes, HUGE_BYTES - before);
    return memory + before;
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
    uint8_t *memory = map_aligned(chunk_bytes(a));
    if (memory == NULL)
        return ERR_MEMORY;
    /* Small tables are many: the first 2 MiB stay small pages. Refusal changes speed only. */
    uint64_t small = a->chunk_count == 0 ? HUGE_BYTES : 0;
    if (chunk_bytes(a) > small)
        (void)madvise(memory + small, chunk_bytes(a) - small, MADV_HUGEPAGE);
    a->chunks[a->chunk_count++] = (float *)memory;
    return ERR_NONE;
}

uint64_t arena_memory(const struct table_arena *a)
{
    uint64_t bytes = a->rows * row_bytes(a);
    uint64_t page = bytes < HUGE_BYTES ? PAGE_BYTES : HUGE_BYTES;
    return (bytes + page - 1) / page * page + a->chunk_capacity * sizeof *a->chunks;
}
