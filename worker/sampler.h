/*
 * sampler.h - which examples are batch (epoch, step, rank): a pure function of the job and the data
 * index.
 *
 * An epoch puts the N training examples into one global order and every rank takes its share of it:
 *
 *   none           file order. Step t is [tB, (t+1)B); rank r takes [B*r/R, B*(r+1)/R) of it.
 *   full, window   blocks in an order drawn by (seed, epoch). Rank r owns [N*r/R, N*(r+1)/R) of the
 *                  concatenated blocks, and takes b = B*(r+1)/R - B*r/R of them each step. Its
 *                  share is cut into groups of as many whole steps as fit `window` examples
 *                  (full: one group), and each is permuted by (seed, epoch, rank, group).
 *
 * A batch never straddles two groups, so what a group needs (open blocks, a dictionary of its keys)
 * is made once a group. Permutations inside a group are a Feistel network over the next power of
 * two with cycle walking: any position costs O(1) time and no memory, and a batch costs
 * O(b log ranges).
 *
 * Units    steps count from 0 within an epoch, epochs and blocks from 0. Counts are examples.
 * Shapes   a block's training examples are numbered 0 … counts[block] - 1.
 * Threads  immutable once made, but for what the caller owns. Pure.
 */
#ifndef PARAMD_WORKER_SAMPLER_H
#define PARAMD_WORKER_SAMPLER_H

#include <stdint.h>

#include "common/err.h"
#include "common/job.h"

/* Examples begin … end - 1 of a block; `base` is the position of `begin` in the group. */
struct sampler_range {
    uint32_t block;
    uint32_t begin, end;
    uint64_t base;
};

struct sampler_pick {
    uint32_t range;   /* index into the group's ranges */
    uint32_t example; /* in the range's block */
};

struct sampler_options {
    uint64_t seed;
    enum shuffle_kind shuffle;
    uint64_t window;     /* examples */
    uint32_t batch_size; /* of the whole step, at least rank_count */
    uint32_t rank_count;
    const uint32_t *counts; /* examples of each block; copied */
    uint32_t block_count;
};

struct sampler; /* one epoch's order */

/* O(blocks) time and memory. */
enum err sampler_create(const struct sampler_options *o, uint64_t epoch,
                        struct sampler **out) MUST_CHECK;
void sampler_destroy(struct sampler *s); /* accepts NULL */

uint64_t sampler_steps(const struct sampler *s); /* the same for every rank */
uint64_t sampler_group_of(const struct sampler *s, uint32_t rank, uint64_t step);

/* The blocks of a group. ranges are freed with mem_free(); none for a group past the rank's share.
 */
enum err sampler_group(const struct sampler *s, uint32_t rank, uint64_t group,
                       struct sampler_range **ranges_out, uint32_t *count_out) MUST_CHECK;

/*
 * The batch of a step: at most `sampler_share()` picks into `out`; returns how many, 0 for a rank
 * that ran out. `ranges` are those of the step's group.
 */
uint32_t sampler_batch(const struct sampler *s, uint32_t rank, uint64_t step,
                       const struct sampler_range *ranges, uint32_t range_count,
                       struct sampler_pick *out);
uint32_t sampler_share(const struct sampler *s, uint32_t rank);

/* Place `index` of a permutation of 0 … count - 1 that `key` chooses. */
uint64_t sampler_permute(uint64_t key, uint64_t count, uint64_t index);

#endif
