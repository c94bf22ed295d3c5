/*
 * steps.h - the calendar of a job: epochs, drain points, evaluations, and which version a batch is
 * made of.
 *
 * Everything here is fixed by the job and the data index, so that every process computes the same
 * answers (PROTOCOL.md 2). Steps count from 1; step 0 is the initial state. Epochs count from 0.
 *
 * Pure     no state.
 */
#ifndef PARAMD_COMMON_STEPS_H
#define PARAMD_COMMON_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/job.h"

struct steps {
    enum consistency consistency;
    uint64_t steps_per_epoch; /* the same for all ranks; 0: no training data */
    uint64_t last_step;       /* min(epochs × steps_per_epoch, max_steps) */
    uint64_t drain_every;
    uint64_t eval_every; /* steps; 0: none but epoch ends / the end */
    bool eval_every_epoch;
    bool has_eval;             /* there is something to evaluate */
    uint64_t checkpoint_every; /* for ssp and asp, where checkpoint steps are drain points */
    uint32_t pipeline_depth;   /* bsp; 0 otherwise */
};

struct steps steps_make(const struct job *j, uint64_t steps_per_epoch, bool has_eval);

uint64_t steps_epoch_of(const struct steps *s, uint64_t step); /* of step ≥ 1 */
bool steps_is_epoch_end(const struct steps *s, uint64_t step);
bool steps_is_eval(const struct steps *s, uint64_t step);  /* the last step always, if has_eval */
bool steps_is_drain(const struct steps *s, uint64_t step); /* also 0 and last_step */
/* D(step): the last drain point < step. */
uint64_t steps_drain_before(const struct steps *s, uint64_t step);
/* The first drain point > step; last_step at most. */
uint64_t steps_drain_next(const struct steps *s, uint64_t step);
/* The first drain point ≥ step. */
uint64_t steps_drain_at_or_after(const struct steps *s, uint64_t step);

/* bsp: the version that batch b ≥ 1 is computed from: max(b−1−d, D(b)). */
uint64_t steps_version_of_batch(const struct steps *s, uint64_t batch);
/* bsp: push-pull t pulls for batches *first … *last (first > last: none). ssp, asp: t+1 within
   last_step. */
void steps_batches_pulled(const struct steps *s, uint64_t seq, uint64_t *first, uint64_t *last);

#endif
