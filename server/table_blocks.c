#include "server/table_blocks.h"

#include <stdbool.h>

#include "common/check.h"
#include "common/mem.h"

#define CHUNK_BYTES (BLOCKS_UNIT << BLOCKS_ORDERS)
#define CHUNK_UNITS (UINT32_C(1) << BLOCKS_ORDERS)
#define SMALL_BYTES (UINT64_C(256) << 10)
/* A chunk begins with a byte for each unit: of the free block that begins there, order + 1. */
#define MARK_UNITS (CHUNK_UNITS / (uint32_t)BLOCKS_UNIT)

static uint8_t *chunk_of(const void *block)
{
    return (uint8_t *)block - (uintptr_t)block % CHUNK_BYTES;
}

static uint32_t unit_of(const void *block)
{
    return (uint32_t)((uintptr_t)block % CHUNK_BYTES / BLOCKS_UNIT);
}

static void push(struct table_blocks *b, uint8_t *chunk, uint32_t unit, uint32_t order)
{
    struct free_block *f = (struct free_block *)(void *)(chunk + unit * BLOCKS_UNIT);
    *f = (struct free_block){.next = b->free[order]};
    if (f->next != NULL)
        f->next->before = f;
    b->free[order] = f;
    chunk[unit] = (uint8_t)(order + 1);
}

static void take(struct table_blocks *b, struct free_block *f, uint32_t order)
{
    if (f->next != NULL)
        f->next->before = f->before;
    if (f->before != NULL)
        f->before->next = f->next;
    else
        b->free[order] = f->next;
    chunk_of(f)[unit_of(f)] = 0;
}

/* What lies between `fresh` and `end` becomes free blocks, as large as their places allow. */
static void free_fresh(struct table_blocks *b, uint32_t end)
{
    while (b->fresh < end) {
        uint32_t order = (uint32_t)__builtin_ctz(b->fresh);
        while (b->fresh + (UINT32_C(1) << order) > end)
            order--;
        push(b, b->chunks[b->chunk_count - 1], b->fresh, order);
        b->fresh += UINT32_C(1) << order;
    }
}

static void *cut_fresh(struct table_blocks *b, uint32_t order)
{
    uint32_t units = UINT32_C(1) << order;
    uint32_t begin = (b->fresh + units - 1) / units * units;
    if (b->chunk_count == 0 || begin + units > CHUNK_UNITS) {
        if (!mem_grow(b->chunks, b->chunk_capacity, b->chunk_count + 1))
            return NULL;
        uint8_t *chunk = mem_map(CHUNK_BYTES, CHUNK_BYTES);
        if (chunk == NULL)
            return NULL;
        if (b->chunk_count > 0)
            free_fresh(b, CHUNK_UNITS);
        mem_ask_huge(chunk, CHUNK_BYTES);
        b->chunks[b->chunk_count++] = chunk;
        b->fresh = MARK_UNITS;
        begin = (MARK_UNITS + units - 1) / units * units;
    }
    free_fresh(b, begin);
    b->fresh = begin + units;
    return b->chunks[b->chunk_count - 1] + begin * BLOCKS_UNIT;
}

void *blocks_alloc(struct table_blocks *b, uint32_t order)
{
    if (order >= BLOCKS_ORDERS) {
        uint8_t *alone = mem_map(blocks_bytes(order), MEM_HUGE_BYTES);
        if (alone != NULL)
            mem_ask_huge(alone, blocks_bytes(order));
        return alone;
    }
    if (b->small_bytes + blocks_bytes(order) <= SMALL_BYTES) {
        void *small = mem_alloc_array((size_t)blocks_bytes(order), 1);
        b->small_bytes += small != NULL ? blocks_bytes(order) : 0;
        return small;
    }
    uint32_t from = order;
    while (from < BLOCKS_ORDERS && b->free[from] == NULL)
        from++;
    if (from == BLOCKS_ORDERS)
        return cut_fresh(b, order);
    struct free_block *f = b->free[from];
    take(b, f, from);
    while (from > order) {
        from--;
        push(b, chunk_of(f), unit_of(f) + (UINT32_C(1) << from), from);
    }
    return f;
}

static bool is_in_chunk(const struct table_blocks *b, const void *block)
{
    for (size_t i = b->chunk_count; i > 0; i--)
        if (b->chunks[i - 1] == chunk_of(block))
            return true;
    return false;
}

void blocks_free(struct table_blocks *b, void *block, uint32_t order)
{
    if (order >= BLOCKS_ORDERS) {
        mem_unmap(block, blocks_bytes(order));
        return;
    }
    if (!is_in_chunk(b, block)) {
        mem_free(block);
        b->small_bytes -= blocks_bytes(order);
        return;
    }
    uint8_t *chunk = chunk_of(block);
    uint32_t unit = unit_of(block);
    CHECK(chunk[unit] == 0);
    for (; order < BLOCKS_ORDERS - 1; order++) {
        uint32_t buddy = unit ^ (UINT32_C(1) << order);
        if (chunk[buddy] != order + 1)
            break;
        take(b, (struct free_block *)(void *)(chunk + buddy * BLOCKS_UNIT), order);
        unit &= ~(UINT32_C(1) << order);
    }
    push(b, chunk, unit, order);
}

void blocks_deinit(struct table_blocks *b)
{
    for (size_t i = 0; i < b->chunk_count; i++)
        mem_unmap(b->chunks[i], CHUNK_BYTES);
    mem_free(b->chunks);
    *b = (struct table_blocks){0};
}
