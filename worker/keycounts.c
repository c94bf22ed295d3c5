#include "worker/keycounts.h"

#include <stdlib.h>

#include "common/mem.h"
#include "common/rng.h"

static struct key_count *find(struct key_count *slots, size_t size, uint64_t key)
{
    size_t i = mix64(key) & (size - 1);
    while (slots[i].count > 0 && slots[i].key != key)
        i = (i + 1) & (size - 1);
    return &slots[i];
}

static enum err grow(struct keycounts *c)
{
    size_t size = c->size > 0 ? 2 * c->size : 1024;
    struct key_count *slots = mem_calloc(size, sizeof *slots);
    if (slots == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < c->size; i++) {
        if (c->slots[i].count > 0)
            *find(slots, size, c->slots[i].key) = c->slots[i];
    }
    mem_free(c->slots);
    c->slots = slots;
    c->size = size;
    return ERR_NONE;
}

void keycounts_prefetch(const struct keycounts *c, uint64_t key)
{
    if (c->size > 0)
        __builtin_prefetch(&c->slots[mix64(key) & (c->size - 1)]);
}

enum err keycounts_add(struct keycounts *c, uint64_t key, uint64_t count)
{
    if (2 * (c->used + 1) > c->size) {
        enum err e = grow(c);
        if (e != ERR_NONE)
            return e;
    }
    struct key_count *slot = find(c->slots, c->size, key);
    c->used += slot->count == 0;
    slot->key = key;
    slot->count += count;
    return ERR_NONE;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = ((const struct key_count *)a)->key, y = ((const struct key_count *)b)->key;
    return x < y ? -1 : x > y;
}

enum err keycounts_take(struct keycounts *c, struct key_count **out, size_t *count_out)
{
    size_t count = 0;
    for (size_t i = 0; i < c->size; i++) {
        if (c->slots[i].count > 0)
            c->slots[count++] = c->slots[i];
    }
    if (count > 0)
        qsort(c->slots, count, sizeof *c->slots, by_key);
    struct key_count *entries = mem_realloc(c->slots, count > 0 ? count : 1, sizeof *entries);
    if (entries == NULL)
        return ERR_MEMORY;
    *c = (struct keycounts){0};
    *out = entries;
    *count_out = count;
    return ERR_NONE;
}

void keycounts_deinit(struct keycounts *c)
{
    mem_free(c->slots);
    *c = (struct keycounts){0};
}
