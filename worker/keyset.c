#include "worker/keyset.h"

#include <string.h>

#include "common/mem.h"

enum err keyset_init(struct keyset *s, const uint64_t *keys, size_t count)
{
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    uint64_t *slots = mem_calloc(size, sizeof *slots);
    if (slots == NULL)
        return ERR_MEMORY;
    *s = (struct keyset){.slots = slots, .mask = size - 1};
    for (size_t k = 0; k < count; k++) {
        if (keys[k] == 0) {
            s->has_zero = true;
            continue;
        }
        uint64_t i = mix64(keys[k]) & s->mask;
        while (slots[i] != 0 && slots[i] != keys[k])
            i = (i + 1) & s->mask;
        slots[i] = keys[k];
    }
    return ERR_NONE;
}

void keyset_deinit(struct keyset *s)
{
    mem_free(s->slots);
    *s = (struct keyset){0};
}
