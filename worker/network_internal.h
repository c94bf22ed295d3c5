/*
 * network_internal.h - what the files of network.h share.
 *
 * network.c         making, forward, backward.
 * network_plan.c    where gradients lie.
 * network_result.c  what is left for the trainer: clipping, metrics, predictions.
 */
#ifndef PARAMD_WORKER_NETWORK_INTERNAL_H
#define PARAMD_WORKER_NETWORK_INTERNAL_H

#include "worker/compute.h"
#include "worker/layer.h"
#include "worker/network.h"
#include "worker/staging.h"

/* What a pass leaves beside gradients. */
struct network_result {
    uint32_t *bad;     /* a gradient is not finite */
    double *loss_sums; /* [output_count][groups of max_examples] */
    float *logits;     /* [max_examples][output_width] */
    size_t size;       /* of all three, which begin where `bad` is */
};

struct network {
    const struct model *model;
    const struct compute *compute;
    struct device *device;
    struct device host;      /* unless a device was given */
    struct staging *staging; /* NULL: the device shares memory */
    uint64_t seed;
    float loss_scale;
    uint64_t upload_ns;
    uint32_t max_examples;
    size_t capacity;              /* max_examples rounded up to 16 */
    struct layer *layers;         /* [model->layer_count] */
    struct layer_in *ins;         /* of all layers */
    bool *trains;                 /* [model->layer_count] its output depends on parameters */
    struct compute_table *tables; /* [schema->table_count] */
    float **gradients;            /* arrays that layers' gradients share */
    /* Of the device, and in pinned memory of the host where the device has memory of its own: */
    struct network_result there, here;
    /* The pass that has been started. */
    const struct batch *batch;
    const struct network_gradients *given;
    float *logits_out;
};

/* `width` floats for each of `examples`; NULL for none, or after a failure. */
float *network_floats(struct network *n, size_t examples, size_t width, enum err *err);

/* Does what a range holds depend on parameters, so that its reader must give it a gradient? */
bool network_range_trains(const struct network *n, const struct model_ref *r);

/* Allocates the arrays of gradients and points the layers to them. */
enum err network_plan(struct network *n) MUST_CHECK;

/* An output's labels in the batch, and from one to the next. */
static inline const float *network_labels(const struct batch *b, const struct model_output *o,
                                          uint32_t *stride)
{
    *stride = o->label > 0 ? b->more_label_count : 1;
    return o->label > 0 ? b->more_labels + (o->label - 1) : b->labels;
}

#endif
