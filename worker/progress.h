/*
 * progress.h - what a rank has seen so far, as it travels with its pushes and comes back after a
 * resume.
 *
 * Sums are cumulative from the state that the run started from. A push carries the sums after its
 * step and after the d + 1 steps before it, because a replacement goes on from the last step that
 * was answered, and the shard knows the report of the last one that it received. The progressive
 * evaluation (the predictions of the training examples before they were trained on, since the epoch
 * began) travels at drain points only: it is large.
 *
 * Units    loss and weight sums: fixed point 2^-20.
 * Threads  none; one owner.
 */
#ifndef PARAMD_WORKER_PROGRESS_H
#define PARAMD_WORKER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/evaluation.h"
#include "common/job.h"
#include "common/steps.h"
#include "common/str.h"
#include "proto/paramd.pb-c.h"
#include "worker/batch.h"

struct progress;

/* `progressive`: keep the evaluation too. */
enum err progress_create(const struct job *job, const struct steps *steps, uint32_t output_width,
                         struct progress **out) MUST_CHECK;
void progress_destroy(struct progress *p); /* accepts NULL */

/* Takes up what a rank had seen when `acked` was answered; report may be NULL. */
void progress_restore(struct progress *p, uint64_t acked, const Paramd__Report *report);

struct progress_step {
    uint64_t step;
    const struct batch *batch;
    bool skipped; /* a gradient was not finite: loss and predictions do not count */
    double loss;  /* Σ weight × loss */
    const float *logits;
};
/* Counts a step that is about to be pushed; one that was counted before is not counted again. */
enum err progress_count(struct progress *p, const struct progress_step *s) MUST_CHECK;
uint64_t progress_skipped(const struct progress *p); /* steps in a row, the last one included */

/* The report of the last step counted; what it points to stays valid until the next progress_ call.
 */
const Paramd__Report *progress_report(struct progress *p);

#endif
