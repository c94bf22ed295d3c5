#include "server/table_index.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define CAPACITY_MIN     8
#define DISPLACEMENT_MAX 2048 /* slots from a key's home; mixed keys stay far below */

/* Slots that a segment has: its homes, and a tail. */
static uint32_t slot_count(uint32_t capacity)
{
    return capacity + capacity / 32 + 8;
}

static uint64_t segment_bytes(uint32_t capacity)
{
    return ((uint64_t)slot_count(capacity) + 1) * (sizeof(uint64_t) + sizeof(uint32_t));
}

enum err index_init(struct table_index *x, uint32_t first_partition, uint32_t end_partition)
{
    CHECK(first_partition <= end_partition && end_partition <= PARTITION_COUNT);
    *x = (struct table_index){.first_partition = first_partition,
                              .segment_count = end_partition - first_partition};
    x->segments = mem_calloc(x->segment_count, sizeof *x->segments);
    if (x->segments == NULL)
        return ERR_MEMORY;
    x->bytes = x->segment_count * sizeof *x->segments;
    return ERR_NONE;
}

void index_deinit(struct table_index *x)
{
    for (uint32_t i = 0; x->segments != NULL && i < x->segment_count; i++)
        mem_free(x->segments[i].keys);
    mem_free(x->segments);
    *x = (struct table_index){0};
}

static enum err segment_init(struct index_segment *s, uint64_t capacity)
{
    if (capacity > UINT32_MAX / 2)
        return err_set(ERR_LIMIT, "a partition with %u rows cannot grow", s->count);
    *s = (struct index_segment){.capacity = (uint32_t)capacity};
    uint32_t slots = slot_count(s->capacity);
    s->keys = mem_alloc_array((size_t)segment_bytes(s->capacity), 1);
    if (s->keys == NULL)
        return ERR_MEMORY;
    s->rows = (uint32_t *)(s->keys + slots + 1);
    memset(s->keys, 0xff, (size_t)segment_bytes(s->capacity));
    return ERR_NONE;
}

/* Places the ascending keys of `from`; false: the tail is too short. */
static bool segment_fill(struct index_segment *to, const struct index_segment *from)
{
    uint32_t slots = slot_count(to->capacity), free_slot = 0;
    uint32_t end = from->capacity > 0 ? slot_count(from->capacity) : 0;
    for (uint32_t i = 0; i < end; i++) {
        if (from->rows[i] == INDEX_EMPTY)
            continue;
        uint32_t home = index_home(to, from->keys[i]);
        uint32_t slot = home > free_slot ? home : free_slot;
        if (slot >= slots)
            return false;
        to->keys[slot] = from->keys[i];
        to->rows[slot] = from->rows[i];
        free_slot = slot + 1;
    }
    to->count = from->count;
    return true;
}

static enum err crowded(const struct table_index *x, const struct index_segment *s)
{
    return err_set(ERR_LIMIT,
                   "%u keys crowd in partition %u: keys must be mixed (mix64) before they are sent",
                   s->count, x->first_partition + (uint32_t)(s - x->segments));
}

static enum err segment_grow(struct table_index *x, struct index_segment *s)
{
    uint64_t capacity = ((uint64_t)s->count + 1) * 20 / 7;
    if (capacity < CAPACITY_MIN)
        capacity = CAPACITY_MIN;
    while (capacity <= s->capacity) /* a tail that was full, not the load */
        capacity *= 2;
    for (;; capacity *= 2) {
        if (capacity > 64 * ((uint64_t)s->count + 64))
            return crowded(x, s);
        struct index_segment grown = {.count = s->count};
        enum err e = segment_init(&grown, capacity);
        if (e != ERR_NONE)
            return e;
        if (segment_fill(&grown, s)) {
            x->bytes += segment_bytes(grown.capacity);
            x->bytes -= s->capacity > 0 ? segment_bytes(s->capacity) : 0;
            mem_free(s->keys);
            *s = grown;
            return ERR_NONE;
        }
        mem_free(grown.keys);
    }
}

/* The first empty slot from `slot` on; the number of slots if there is none. */
static uint32_t next_empty(const struct index_segment *s, uint32_t slot)
{
    uint32_t slots = slot_count(s->capacity);
    while (slot < slots && s->rows[slot] != INDEX_EMPTY)
        slot++;
    return slot;
}

enum err index_reserve(struct table_index *x, uint64_t key)
{
    struct index_segment *s = index_segment(x, key);
    if ((uint64_t)s->count * 10 >= (uint64_t)s->capacity * 7) {
        enum err e = segment_grow(x, s);
        if (e != ERR_NONE)
            return e;
    }
    for (;;) {
        uint32_t slot = index_probe(s, key);
        if (slot - index_home(s, key) > DISPLACEMENT_MAX)
            return crowded(x, s);
        if (next_empty(s, slot) < slot_count(s->capacity))
            return ERR_NONE;
        enum err e = segment_grow(x, s);
        if (e != ERR_NONE)
            return e;
    }
}

enum err index_insert(struct table_index *x, uint64_t key, uint32_t row)
{
    enum err e = index_reserve(x, key);
    if (e != ERR_NONE)
        return e;
    struct index_segment *s = index_segment(x, key);
    uint32_t slot = index_probe(s, key);
    uint32_t empty = next_empty(s, slot);
    CHECK(s->keys[slot] != key || s->rows[slot] == INDEX_EMPTY);
    memmove(s->keys + slot + 1, s->keys + slot, (empty - slot) * sizeof *s->keys);
    memmove(s->rows + slot + 1, s->rows + slot, (empty - slot) * sizeof *s->rows);
    s->keys[slot] = key;
    s->rows[slot] = row;
    s->count++;
    x->count++;
    return ERR_NONE;
}

bool index_next(const struct table_index *x, uint64_t *key, uint32_t *row)
{
    uint32_t partition = partition_of_key(*key);
    uint32_t i = partition > x->first_partition ? partition - x->first_partition : 0;
    for (; i < x->segment_count; i++) {
        const struct index_segment *s = &x->segments[i];
        if (s->count == 0)
            continue;
        uint32_t slots = slot_count(s->capacity), slot = 0;
        if (partition == x->first_partition + i)
            slot = index_probe(s, *key);
        while (slot < slots && s->rows[slot] == INDEX_EMPTY)
            slot++;
        if (slot < slots) {
            *key = s->keys[slot];
            *row = s->rows[slot];
            return true;
        }
    }
    return false;
}
