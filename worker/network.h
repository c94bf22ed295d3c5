/*
 * network.h - a model's forward and backward pass over one batch, written over worker/compute.h.
 *
 * The trainer gives the values that were pulled and gets the gradients to push. Loss and gradient
 * are sums of weight × (loss, gradient) over the batch; nobody divides here (PROTOCOL.md 4).
 *
 * Shapes   rows[t]: float[batch->tables[t].key_count][schema->tables[t].dim]; row_gradients[t] the
 *          same. dense[p], dense_gradients[p]: float[schema->dense[p].count].
 *          logits: float[n][output_width].
 * Bits     the result depends on the batch and the values alone, not on the number of threads: work
 *          is split by fixed numbers of rows, and partial sums are added in order.
 * Memory   all scratch is allocated by network_create() for max_examples, on the device; values,
 *          gradients, logits and batches are the host's.
 * Errors   ERR_LIMIT: more examples than that. ERR_INPUT: a label or weight that the loss has no
 *          meaning for, by its place in the batch.
 * Threads  one caller; the pool's threads work within a call.
 */
#ifndef PARAMD_WORKER_NETWORK_H
#define PARAMD_WORKER_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/model.h"
#include "common/pool.h"
#include "worker/batch.h"

struct network;
struct compute; /* worker/compute.h: the table of operations of a backend */
struct device;  /* what they run on */

struct network_options {
    const struct model *model;     /* borrowed */
    struct device *device;         /* borrowed; NULL: this process' memory, with … */
    const struct compute *compute; /* … compute_cpu() and … */
    struct pool *pool;             /* … borrowed threads; NULL: this one alone */
    uint32_t max_examples;
    uint64_t seed; /* of dropout */
};
enum err network_create(const struct network_options *o, struct network **out) MUST_CHECK;
void network_destroy(struct network *n);

struct network_values {
    const float *const *rows;
    const float *const *dense;
};
struct network_gradients {
    float *const *rows;
    float *const *dense;
};

/* Forward only; dropout off. logits_out: float[n][output_width] of the caller. */
enum err network_infer(struct network *n, const struct batch *b,
                       const struct network_values *values, float *logits_out) MUST_CHECK;
/*
 * Forward and backward. `first_example`: this rank's first example of the step in the whole step's
 * numbering, for dropout masks that do not depend on the cluster. *loss_out = Σ weight × loss, in
 * double, in order. *finite_out = false when any gradient is not finite (nothing may be pushed).
 */
enum err network_train(struct network *n, const struct batch *b, uint64_t first_example,
                       const struct network_values *values,
                       const struct network_gradients *gradients, float *logits_out,
                       double *loss_out, bool *finite_out) MUST_CHECK;

/*
 * The same in two, for a device that computes while the host does something else: everything that
 * is given stays until network_finish(), of the batch too. Between them network_send() begins to
 * upload the batch that will be next. After a failure of network_start() nothing is to be finished.
 */
enum err network_start(struct network *n, const struct batch *b, uint64_t first_example,
                       const struct network_values *values,
                       const struct network_gradients *gradients, float *logits_out) MUST_CHECK;
enum err network_send(struct network *n, const struct batch *next) MUST_CHECK;
enum err network_finish(struct network *n, double *loss_out, bool *finite_out) MUST_CHECK;

/* Time that went into bringing batches and values to the device. */
uint64_t network_upload_ns(const struct network *n);

/* A power of two by which gradients are larger while they are computed (1 at first). */
void network_set_loss_scale(struct network *n, float scale);

/* Clips to `norm` (0: not): squares summed in double, tables then dense, in order. Returns the norm
   found. */
double network_clip(const struct model *m, const struct batch *b,
                    const struct network_gradients *gradients, double norm);

/*
 * Logits [n][metric_width] and labels [n] of the output whose metrics are reported: what is given,
 * or, with several outputs, copies in room for n numbers each.
 */
struct network_metric {
    const float *logits, *labels;
};
struct network_metric network_metric(const struct model *m, const struct batch *b,
                                     const float *logits, float *logit_room, float *label_room);

/* Loss of a label (squared: half the square), and prediction[output_width]: probability, number or
   class probabilities; of each output. */
double network_loss(const struct model *m, const float *logits, float label);
void network_predict(const struct model *m, const float *logits, float *prediction);

const struct compute *compute_cpu(void);

#endif
