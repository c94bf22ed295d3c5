/*
 * evaluator.h - the forward pass over batches, with values from wherever they are.
 *
 * In the worker the values come from the shards at one version (exchange_read()); a program that
 * has read a checkpoint gives its own source. Dense parameters are read once; rows once a batch.
 *
 * Shapes   as in network.h. Keys that no shard has read their initial values.
 * Threads  one owner.
 */
#ifndef PARAMD_WORKER_EVALUATOR_H
#define PARAMD_WORKER_EVALUATOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/evaluation.h"
#include "common/model.h"
#include "worker/batch.h"
#include "worker/dataset.h"
#include "worker/device.h"

struct exchange;

struct values_source {
    void *context;
    /* rows[t]: float[key_count][dim] of the batch's keys; dense[p]: float[count]. Either may be
     * NULL: not wanted. */
    enum err (*read)(void *context, const struct batch *b, float *const *rows,
                     float *const *dense) MUST_CHECK;
};

/* Values at exactly `version`, from the shards. Both outlive the source. */
struct exchange_source {
    struct exchange *exchange;
    uint64_t version;
};
struct values_source exchange_source_make(struct exchange_source *s);

struct evaluator;

struct evaluator_options {
    const struct model *model; /* borrowed, as all here */
    struct values_source source;
    uint32_t max_examples;        /* of a batch */
    uint32_t threads;             /* at least 1 */
    struct device_options device; /* its pool is the evaluator's own; {0}: the processor */
};
enum err evaluator_create(const struct evaluator_options *o, struct evaluator **out) MUST_CHECK;
void evaluator_destroy(struct evaluator *e); /* accepts NULL */

/* *logits_out: float[n][output_width], valid until the next call. */
enum err evaluator_infer(struct evaluator *e, const struct batch *b,
                         const float **logits_out) MUST_CHECK;

/* Adds all batches of the stream to `into`. ERR_CANCELLED once *cancel (may be NULL) is set. */
enum err evaluator_run(struct evaluator *e, struct batch_stream *stream, const atomic_bool *cancel,
                       struct evaluation *into) MUST_CHECK;

#endif
