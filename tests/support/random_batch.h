/*
 * random_batch.h - batches with random contents for tests of operations and networks.
 *
 * Everything is a function of the seed. Slots have from 0 to max_terms terms, so there are empty
 * slots, rows without a term, and rows with many.
 */
#ifndef PARAMD_TESTS_SUPPORT_RANDOM_BATCH_H
#define PARAMD_TESTS_SUPPORT_RANDOM_BATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/batch.h"

#define RANDOM_BATCH_TABLES 3u

struct random_batch {
    uint64_t seed;
    uint32_t example_count;
    uint32_t dense_width;
    uint32_t table_count;
    uint32_t slot_count[RANDOM_BATCH_TABLES];
    uint32_t key_count[RANDOM_BATCH_TABLES];
    uint32_t max_terms;   /* of a slot */
    bool weighted;        /* values, else NULL */
    uint32_t more_labels; /* 0 or 1 each */
    uint32_t classes;     /* labels: 0 any number, else 0 … classes - 1 */
};

struct batch *random_batch_create(const struct random_batch *r);
void random_batch_destroy(struct batch *b);

/* 64-byte aligned; uniform in [-scale, scale). Freed by mem_free(). */
float *random_floats(uint64_t seed, size_t count, float scale);

#endif
