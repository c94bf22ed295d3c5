/*
 * model.h - models as shapes: which layers, tables and dense parameters, which initial values.
 *
 * Servers and paramctl know of a model only what is here; the arithmetic of layers is the worker's.
 * A preset (lr, fm, mlp) is a list of layers; adding one is a function that makes the list and a
 * row in the table of presets (common/model_presets.c).
 *
 * lr   logit = bias + Σ w·x over all terms. Every table has the component w[1].
 * fm   lr + Σ_{i<j} <v_i, v_j> x_i x_j (Rendle, ICDM 2010). Components w[1] (optimizer.linear,
 *      initially 0) and v[dim] (optimizer.embedding). All tables have one dim.
 * mlp  [dense input, pooled embeddings of every slot] → hidden layers (activation, layer_norm,
 *      dropout) → linear layer with 1 output (logistic, squared) or `classes` outputs (softmax).
 *      Component v[dim].
 * The global bias of lr and fm is a dense parameter "bias" under optimizer.linear with l1 = 0.
 *
 * Pure     immutable once made.
 */
#ifndef PARAMD_COMMON_MODEL_H
#define PARAMD_COMMON_MODEL_H

#include <stdint.h>

#include "common/features_spec.h"
#include "common/job.h"
#include "common/schema.h"

enum layer_type {
    LAYER_TERMS,          /* lr, fm: bias + linear + factor terms → out [n][1] */
    LAYER_INPUT,          /* dense input and pooled embeddings side by side → out [n][width] */
    LAYER_LINEAR,         /* activation(x W + b): weight [in][out], bias [out] */
    LAYER_NORM,           /* layer normalization: gain [width], bias [width] (Ba et al. 2016) */
    LAYER_ACTIVATION,
    LAYER_DROPOUT         /* mask from a counter-based generator; identity in evaluation */
};

struct model_layer {
    enum layer_type type;
    char name[64];                   /* "hidden0", "output" */
    uint32_t in_width, out_width;    /* floats per example */
    uint32_t dense[2];               /* parameters it owns, in schema order; UINT32_MAX: none */
    enum activation activation;      /* LAYER_ACTIVATION, LAYER_LINEAR */
    double dropout;
    uint32_t factor_dim;             /* LAYER_TERMS: 0 = lr, else fm */
};

struct model {
    struct schema *schema;
    struct model_layer *layers;      /* each reads the one before it */
    uint32_t layer_count;
    uint32_t dense_width;            /* of an example's dense input */
    uint32_t output_width;           /* 1, or classes */
    enum loss_type loss;
    enum normalize normalize;
    /* embeddings side by side in LAYER_INPUT, after the dense input: for table t, slot s at
       embedding_offset[t] + s * component dim */
    uint32_t *embedding_offset;      /* [schema->table_count] */
    uint32_t *slot_count;            /* [schema->table_count] slots of features_spec */
};

/* ERR_INPUT, ERR_LIMIT with the setting that does not fit the model. */
enum err model_create(const struct job *j, const struct features_spec *features,
                      struct model **out) MUST_CHECK;
void model_destroy(struct model *m);

#endif
