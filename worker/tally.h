/*
 * tally.h - what a rank has seen so far, as it travels with its pushes and comes back after a
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
#ifndef PARAMD_WORKER_TALLY_H
#define PARAMD_WORKER_TALLY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/evaluation.h"
#include "common/job.h"
#include "common/steps.h"
#include "common/str.h"
#include "proto/paramd.pb-c.h"
#include "worker/batch.h"

struct tally;

/* `progressive`: keep the evaluation too. */
enum err tally_create(const struct job *job, const struct steps *steps, uint32_t output_width,
                      struct tally **out) MUST_CHECK;
void tally_destroy(struct tally *p); /* accepts NULL */

/* Takes up what a rank had seen when `acked` was answered; report may be NULL. */
void tally_restore(struct tally *p, uint64_t acked, const Paramd__Report *report);

struct tally_step {
    uint64_t step;
    const struct batch *batch;
    bool skipped;        /* a gradient was not finite: loss and predictions do not count */
    double loss;         /* Σ weight × loss */
    const float *logits; /* of the output whose metrics are reported */
    const float *labels; /* NULL: the batch's */
};
/* Counts a step that is about to be pushed; one that was counted before is not counted again. */
enum err tally_count(struct tally *p, const struct tally_step *s) MUST_CHECK;
/*
 * What the next step's loss is multiplied by while gradients are computed: 1, but for fp16. Halved
 * by a step that was skipped, doubled after so many that were not; as the sums it is of the rank,
 * and moves with it.
 */
float tally_loss_scale(const struct tally *p);
uint64_t tally_skipped(const struct tally *p); /* steps in a row, the last one included */

/* The report of the last step counted; what it points to stays valid until the next tally_ call.
 */
const Paramd__Report *tally_report(struct tally *p);

#endif
