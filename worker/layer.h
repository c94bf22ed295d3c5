/*
 * layer.h - forward and backward of each type of layer: one row in one table.
 *
 * A layer owns its output and its scratch; what flows is a pointer to the latest output (forwards),
 * or to the gradient of the loss by it (backwards), so that layers that change nothing cost
 * nothing. All arithmetic is in worker/compute.h.
 *
 * Shapes   x: [n][in_width], y: [n][out_width].
 * Memory   network.c allocates what layer_memory() says, per example, for a number of examples that
 * is a multiple of 16, so that every array begins at 64 bytes. Threads  those of a network: one
 * caller.
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
    struct pool *pool;
    const struct model *model;
    const struct batch *batch;
    const struct compute_table *tables;
    const float *const *dense;
    float *const *dense_gradients; /* NULL forwards */
    uint64_t seed;
    uint64_t first_example;
    size_t capacity; /* examples that the arrays have room for */
    bool training;
    float *gradient; /* backwards: by the output of the layer that is next */
    float *spare;    /* as large; a layer that writes here swaps the two */
};

struct layer {
    const struct model_layer *spec;
    uint32_t index;
    bool wants_gradient; /* something before it has parameters */
    float *out;          /* [capacity][out floats], or NULL */
    float *scratch;      /* [capacity][scratch floats], or NULL */
    const float *x;      /* of the latest forward pass */
    const float *y;
};

struct layer_memory {
    size_t out, scratch; /* floats per example */
};

struct layer_kind {
    enum layer_type type;
    struct layer_memory (*memory)(const struct model *m, const struct model_layer *spec);
    void (*forward)(struct layer_pass *p, struct layer *l); /* x is set; MUST set y */
    void (*backward)(struct layer_pass *p, struct layer *l);
};

const struct layer_kind *layer_kind_find(enum layer_type type);

extern const struct layer_kind layer_terms, layer_input; /* layer_sparse.c */
extern const struct layer_kind layer_linear, layer_norm, layer_activation,
    layer_dropout; /* layer_dense.c */

static inline void layer_swap(struct layer_pass *p)
{
    float *gradient = p->gradient;
    p->gradient = p->spare;
    p->spare = gradient;
}

#endif
