/*
 * layer.h - forward and backward of each type of layer: one row in one table.
 *
 * A layer owns its output and its scratch. It reads ranges of columns of layers before it, and
 * writes, or adds, its gradient by them into those layers' gradients. All arithmetic is in
 * worker/compute.h.
 *
 * Shapes   y: [n][out_width]; in[k].x: [n][width] with in[k].stride floats from row to row, and its
 *          gradient likewise.
 * Order    backwards a layer writes the gradients of in[0], in[1], … in this order, each as its
 *          `add` says: two ranges may be of one array.
 * Memory   network.c allocates what layer_memory() says, per example, for a number of examples that
 *          is a multiple of 16, so that every array begins at 64 bytes.
 * Threads  those of a network: one caller.
 */
#ifndef PARAMD_WORKER_LAYER_H
#define PARAMD_WORKER_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/model.h"
#include "worker/compute.h"
#include "worker/network.h"

/* What one call of network_train() or network_infer() has for all layers. */
struct layer_pass {
    const struct compute *compute;
    struct device *device;
    const struct model *model;
    const struct batch *batch;
    const struct compute_table *tables;
    struct compute_tables_there there;
    const float *const *dense;
    float *const *dense_gradients; /* NULL forwards */
    uint64_t seed;
    uint64_t first_example;
    size_t capacity; /* examples that the arrays have room for */
    bool training;
};

struct layer_in {
    const float *x; /* of the latest forward pass */
    size_t stride;
    float *gradient; /* NULL: nothing before it has parameters */
    bool add;        /* to what stands there */
    bool clears;     /* the array is to be cleared before */
    bool in_place;   /* it is the array of the layer's own gradient */
};

struct layer {
    const struct model_layer *spec;
    uint32_t index;
    float *out;          /* [capacity][out floats], or NULL */
    float *scratch;      /* [capacity][scratch floats], or NULL */
    float *gradient;     /* [capacity][out_width] by y; NULL: nothing up to here has parameters */
    const float *y;      /* of the latest forward pass */
    struct layer_in *in; /* [spec->in_count] */
};

struct layer_memory {
    size_t out, scratch; /* floats per example */
};

struct layer_kind {
    enum layer_type type;
    struct layer_memory (*memory)(const struct model *m, const struct model_layer *spec);
    void (*forward)(struct layer_pass *p, struct layer *l); /* in[].x are set; MUST set y */
    void (*backward)(struct layer_pass *p, struct layer *l);
    bool in_place; /* backwards it can work on its own gradient: in[0] of one width with y */
};

const struct layer_kind *layer_kind_find(enum layer_type type);

extern const struct layer_kind layer_terms, layer_field_terms, layer_input; /* layer_sparse.c */
extern const struct layer_kind layer_linear, layer_norm, layer_activation,
    layer_dropout;                                      /* layer_dense.c */
extern const struct layer_kind layer_concat, layer_sum; /* layer_join.c */
extern const struct layer_kind layer_cross;             /* layer_cross.c */
extern const struct layer_kind layer_fm, layer_dot;     /* layer_vectors.c */

/* Of most layers: an output and no scratch. */
struct layer_memory layer_memory_of_output(const struct model *m, const struct model_layer *spec);
/* Writes or adds [n][width] with a stride of x_stride to what the layer's gradient of in[k] is. */
void layer_give(const struct layer_pass *p, const struct layer *l, uint32_t k, const float *x,
                size_t x_stride);

#endif
