/*
 * evaluation.h - metrics as sums that merge in any order.
 *
 * Sums are 128-bit fixed point (units of 2^-48; one example adds at most 2^40). AUC is an integer
 * histogram over a fixed, order-preserving grid of the logit (about 70 000 bins: sign,
 * exponent 2^-12 to 2^5, 11 bits of mantissa), with weights in fixed point (2^-24). So the same
 * examples give the same bits, however they were dealt to ranks. gauc keeps (group, bin, label,
 * weight) per example and is computed at the end. A prediction that is not a number makes all
 * metrics undefined. An example of weight 0 is counted and does nothing else.
 *
 * Metrics  log_loss, auc, accuracy (threshold 0.5; softmax: arg max), rmse, mae, ne (log loss over
 *          the entropy of the mean label), calibration (sum of predictions over that of labels),
 *          gauc (AUC per group, weighted by its examples, groups of one class left out), objective
 *          (mean loss).
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_EVALUATION_H
#define PARAMD_COMMON_EVALUATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/str.h"

struct evaluation;

/* metrics: bit set of enum metric_kind; only what it asks for is kept. */
enum err evaluation_create(enum loss_type loss, uint32_t output_width, uint32_t metrics,
                           struct evaluation **out) MUST_CHECK;
void evaluation_destroy(struct evaluation *e);
void evaluation_clear(struct evaluation *e);

/* logits: float[n][output_width]; groups may be NULL. Adds all examples or, on failure, none. */
enum err evaluation_add(struct evaluation *e, const float *logits, const float *labels,
                        const float *weights, const uint64_t *groups, uint32_t n) MUST_CHECK;
enum err evaluation_merge(struct evaluation *into, const struct evaluation *from) MUST_CHECK;

/* Compact bytes (sparse histogram), canonical; ERR_INPUT when they do not decode or are of another
   kind. Decoding adds. */
void evaluation_encode(const struct evaluation *e, struct str *out);
enum err evaluation_decode(struct evaluation *into, const void *data, size_t size) MUST_CHECK;

uint64_t evaluation_examples(const struct evaluation *e);
/* false: not asked for, or not defined (auc with one class, no examples, another loss). */
bool evaluation_metric(const struct evaluation *e, enum metric_kind kind, double *out);
/* Exact integers for early stopping: a total order that is the same everywhere; larger is better.
   INT64_MIN: not defined. */
int64_t evaluation_rank_key(const struct evaluation *e, enum metric_kind kind);

#endif
