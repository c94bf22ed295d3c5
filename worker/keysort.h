/*
 * keysort.h - sorts mixed keys with a number beside each.
 *
 * Mixed keys are spread evenly, so one pass into buckets by their upper bits leaves a handful in
 * each; a bucket that is fuller all the same is sorted by heap sort, so no input costs more than n
 * log n.
 *
 * Threads  a scratch belongs to one thread.
 */
#ifndef PARAMD_WORKER_KEYSORT_H
#define PARAMD_WORKER_KEYSORT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct keysort { /* scratch; zero-initialize */
    uint64_t *keys;
    uint32_t *numbers, *starts;
    size_t key_capacity, number_capacity, start_capacity;
};

/* Ascending by key. Of equal keys the order is that of their numbers. */
enum err keysort_run(struct keysort *scratch, uint64_t *keys, uint32_t *numbers,
                     size_t count) MUST_CHECK;
void keysort_deinit(struct keysort *scratch);

#endif
