#include "worker/keyset.h"

#include <string.h>

#include "common/mem.h"

/* The place of a key that is there, or the free one for it. */
static uint64_t *place_of(const struct keyset *s, uint64_t key)
{
    uint64_t last = (s->mask + 1) * KEYSET_BUCKET - 1;
    uint64_t i = (mix64(key) & s->mask) * KEYSET_BUCKET;
    while (s->slots[i] != 0 && s->slots[i] != key)
        i = (i + 1) & last;
    return &s->slots[i];
}

enum err keyset_init(struct keyset *s, const uint64_t *keys, size_t count)
{
    size_t buckets = 2;
    while (buckets * KEYSET_BUCKET < 2 * count)
        buckets *= 2;
    uint64_t *slots = mem_alloc_array(buckets * KEYSET_BUCKET, sizeof *slots);
    if (slots == NULL)
        return ERR_MEMORY;
    memset(slots, 0, buckets * KEYSET_BUCKET * sizeof *slots);
    *s = (struct keyset){.slots = slots, .mask = buckets - 1};
    for (size_t k = 0; k < count; k++) {
        if (keys[k] == 0)
            s->has_zero = true;
        else
            *place_of(s, keys[k]) = keys[k];
    }
    return ERR_NONE;
}

void keyset_deinit(struct keyset *s)
{
    mem_free(s->slots);
    *s = (struct keyset){0};
}
