/*
 * keyset.h - a set of 64-bit keys to look up: open addressing, filled once.
 *
 * Threads  any may look up once it is filled.
 */
#ifndef PARAMD_WORKER_KEYSET_H
#define PARAMD_WORKER_KEYSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/rng.h"

struct keyset {
    uint64_t *slots; /* 0: free */
    uint64_t mask;
    bool has_zero;
};

enum err keyset_init(struct keyset *s, const uint64_t *keys, size_t count) MUST_CHECK;
void keyset_deinit(struct keyset *s);

static inline bool keyset_has(const struct keyset *s, uint64_t key)
{
    if (key == 0)
        return s->has_zero;
    for (uint64_t i = mix64(key) & s->mask;; i = (i + 1) & s->mask) {
        if (s->slots[i] == key)
            return true;
        if (s->slots[i] == 0)
            return false;
    }
}

#endif
