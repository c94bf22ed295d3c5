/*
 * keyset.h - a set of 64-bit keys to look up: buckets of a cache line, filled once.
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

#define KEYSET_BUCKET 8u /* keys: a cache line */

struct keyset {
    uint64_t *slots; /* [buckets][KEYSET_BUCKET]; 0: free, the free ones last */
    uint64_t mask;   /* buckets - 1 */
    bool has_zero;
};

enum err keyset_init(struct keyset *s, const uint64_t *keys, size_t count) MUST_CHECK;
void keyset_deinit(struct keyset *s);

/* Whether a key is there, and where, cannot be predicted: no branch depends on it but one that is
 * nearly always taken. */
static inline bool keyset_has(const struct keyset *s, uint64_t key)
{
    if (key == 0)
        return s->has_zero;
    for (uint64_t bucket = mix64(key) & s->mask;; bucket = (bucket + 1) & s->mask) {
        const uint64_t *slots = s->slots + bucket * KEYSET_BUCKET;
        uint64_t found = 0;
        for (uint32_t i = 0; i < KEYSET_BUCKET; i++)
            found |= slots[i] == key;
        if ((found | (slots[KEYSET_BUCKET - 1] == 0)) != 0)
            return found;
    }
}

/* Asks for the memory that keyset_has() will look at. */
static inline void keyset_prefetch(const struct keyset *s, uint64_t key)
{
    __builtin_prefetch(&s->slots[(mix64(key) & s->mask) * KEYSET_BUCKET]);
}

#endif
