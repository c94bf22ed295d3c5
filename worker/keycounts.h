/*
 * keycounts.h - how often each 64-bit key was seen: open addressing that grows.
 *
 * Threads  one owner.
 */
#ifndef PARAMD_WORKER_KEYCOUNTS_H
#define PARAMD_WORKER_KEYCOUNTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct key_count {
    uint64_t key;
    uint64_t count; /* 0: free */
};

struct keycounts { /* zero-initialize */
    struct key_count *slots;
    size_t size; /* a power of two, or 0 */
    size_t used;
};

/* Asks for the memory that keycounts_add() will look at. */
void keycounts_prefetch(const struct keycounts *c, uint64_t key);
enum err keycounts_add(struct keycounts *c, uint64_t key, uint64_t count) MUST_CHECK;
/* All entries by ascending key; c is empty afterwards. Freed with mem_free(). */
enum err keycounts_take(struct keycounts *c, struct key_count **out, size_t *count_out) MUST_CHECK;
void keycounts_deinit(struct keycounts *c);

#endif
