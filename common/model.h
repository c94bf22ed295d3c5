/*
 * model.h - models as shapes: which layers, tables and dense parameters, which initial values.
 *
 * Servers and paramctl know of a model only what is here; the arithmetic of layers is the worker's.
 * A preset (lr, fm, deepfm, …) is a list of layers as a job file could say it (model_presets.c).
 * Each layer of that list becomes one operation or several (model_layer*.c), which are what a
 * network runs: a list in which a layer reads ranges of columns of layers before it.
 *
 * Inputs   LAYER_INPUT has [dense input, pooled embeddings of every slot] side by side; `dense` and
 *          `embeddings` are ranges of its columns. `wide` is a LAYER_TERMS without factors.
 * Tables   Component w[1] (optimizer.linear, initially 0) where something reads linear terms;
 *          component v (optimizer.embedding) where something reads vectors: dim floats, in ffm
 *          dim floats for each field. The bias of linear terms is a dense parameter "bias" under
 *          optimizer.linear with l1 = 0.
 * Formulas docs/models.md.
 * Pure     immutable once made.
 */
#ifndef PARAMD_COMMON_MODEL_H
#define PARAMD_COMMON_MODEL_H

#include <stdint.h>

#include "common/features_spec.h"
#include "common/job.h"
#include "common/schema.h"

#define MODEL_NO_PARAMETER UINT32_MAX
#define LAYER_REF_MAX      64u /* ranges that one layer reads */
#define LAYER_DENSE_MAX    3u  /* parameters that one layer owns */

/* Operations. x is what the layer reads, side by side; y what it gives, float[n][out_width]. */
enum layer_type {
    LAYER_TERMS,       /* lr, fm: bias + linear + factor terms → [n][1] */
    LAYER_FIELD_TERMS, /* ffm: the same with a vector for each field → [n][1] */
    LAYER_INPUT,       /* dense input and pooled embeddings side by side */
    LAYER_LINEAR,      /* activation(x W + b): weight [in][out], bias [out] */
    LAYER_NORM,        /* layer normalization: gain [width], bias [width] (Ba et al. 2016) */
    LAYER_ACTIVATION,
    LAYER_DROPOUT, /* mask from a counter-based generator; identity in evaluation */
    LAYER_CONCAT,  /* all ranges side by side */
    LAYER_SUM,     /* of ranges of one width */
    LAYER_CROSS, /* x0 ⊙ (W x + b) + x; reads x, then x0. low rank: W = U V (Wang et al. 2021) */
    LAYER_FM,    /* Σ_{i<j} <x_i, x_j> of vectors → [n][1] (Rendle 2010) */
    LAYER_DOT    /* <x_i, x_j> for all j < i (Naumov et al. 2019) */
};

/* Columns [first, first + width) of what a layer gives. */
struct model_ref {
    uint32_t layer, first, width;
};

struct model_layer {
    enum layer_type type;
    char name[64]; /* "hidden0", "output" */
    struct model_ref in[LAYER_REF_MAX];
    uint32_t in_count;
    uint32_t in_width, out_width;    /* floats per example; in_width of all ranges together */
    uint32_t dense[LAYER_DENSE_MAX]; /* parameters it owns, in schema order; or none */
    enum activation activation;      /* LAYER_ACTIVATION, LAYER_LINEAR */
    double dropout;
    uint32_t factor_dim;   /* LAYER_TERMS: 0 = lr, else fm; FIELD_TERMS, FM, DOT: of a vector */
    uint32_t vector_count; /* FM, DOT: vectors in x; FIELD_TERMS: fields */
    uint32_t low_rank;     /* CROSS: 0 = full */
};

/* Layers whose outputs are logits, side by side in what a network gives. */
struct model_output {
    const char *name; /* of the job's layer */
    uint32_t layer, width;
    enum loss_type loss;
    uint32_t label; /* 0: batch.labels, else 1 + the column of batch.more_labels */
    double weight;  /* of its loss */
};

struct model {
    struct schema *schema;
    struct model_layer *layers; /* each reads layers before it */
    uint32_t layer_count;
    uint32_t dense_width;  /* of an example's dense input */
    uint32_t output_width; /* of all outputs: 1, or classes, or one for each of several */
    struct model_output *outputs;
    uint32_t output_count;
    /* The output whose metrics are reported. */
    uint32_t metric_output, metric_width;
    enum loss_type loss;
    enum normalize normalize;
    /* embeddings side by side in LAYER_INPUT, after the dense input: for table t, slot s at
       embedding_offset[t] + s * component dim */
    uint32_t *embedding_offset; /* [schema->table_count] */
    uint32_t *slot_count;       /* [schema->table_count] slots of features_spec */
};

/* ERR_INPUT, ERR_LIMIT with the setting that does not fit the model; "model.layers.NAME" of a
   layer. */
enum err model_create(const struct job *j, const struct features_spec *features,
                      struct model **out) MUST_CHECK;
void model_destroy(struct model *m);

/* The same errors from the job alone, before its data are seen: columns that the job names are
   taken to be there, and a pattern to match two. */
enum err model_check(const struct job *j) MUST_CHECK;
/* The job in canonical YAML with its model as layers; parses to a job that makes the same model. */
enum err model_expand(const struct job *j, struct str *out) MUST_CHECK;

#endif
