/*
 * model_builder.h - what model.c, the presets and the layers share: a model while it is being made.
 *
 * model.c turns the job's preset into a list of layers (model_presets.c), declares the components
 * of the tables that those layers read, and calls for each layer the function of its type
 * (model_layers.c has the table of types). Helpers return errors that name the job's setting.
 *
 * Adding a layer: a file model_layer_X.c with its function, a row in model_layers.c, a value in
 * enum job_layer_type with its name in settings_codec_layers.c; where it is arithmetic of its
 * own, a file worker/layer_X.c and a row in worker/layer.c.
 *
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_MODEL_BUILDER_H
#define PARAMD_COMMON_MODEL_BUILDER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/model.h"

/* Floats of an example that a layer reads; a batch of them must fit in memory. */
#define INPUT_WIDTH_MAX (1u << 20)

/* A layer of the job's list that is made, or an input. */
struct model_value {
    const char *name;
    struct model_ref ref;
    bool is_read;
};

struct model_builder {
    const struct job *job;
    const struct features_spec *features;
    const struct job_layer *list; /* the preset's or the job's own */
    size_t list_count;
    bool is_preset;
    const struct job_layer *layer; /* that is being made */
    struct model *model;           /* its schema has the tables' names */
    size_t dense_capacity, layer_capacity;
    struct model_value *values;
    size_t value_count;
    uint32_t input; /* index of LAYER_INPUT; UINT32_MAX: nothing reads it */
};

/* What a layer reads; adjacent ranges are merged, but for the first `closed`. */
struct model_refs {
    struct model_ref items[LAYER_REF_MAX];
    uint32_t count, width, closed;
};

/* ---- presets (model_presets.c) ---- */

struct job_layers {
    struct job_layer *items;
    size_t count;
};
/* The layers of a preset; of MODEL_LAYERS a copy of the job's. */
enum err model_preset_layers(const struct job *j, const struct features_spec *features,
                             struct job_layers *out) MUST_CHECK;
void job_layers_deinit(struct job_layers *layers);
const char *model_type_name(enum model_type type);

/* ---- layers (model_layers.c and model_layer_*.c) ---- */

typedef enum err model_layer_make(struct model_builder *b, const struct job_layer *l,
                                  const struct model_refs *in, struct model_ref *out);
struct model_layer_kind {
    enum job_layer_type type;
    model_layer_make *make;
};
model_layer_make model_make_linear, model_make_mlp, model_make_norm, model_make_activation,
    model_make_dropout;                                               /* model_layer_dense.c */
model_layer_make model_make_cross;                                    /* model_layer_cross.c */
model_layer_make model_make_fm, model_make_dot;                       /* model_layer_pairs.c */
model_layer_make model_make_concat, model_make_sum, model_make_terms; /* model_layer_join.c */

/* Appends the operations of one layer of the list. */
enum err model_add_job_layer(struct model_builder *b, const struct job_layer *l) MUST_CHECK;

/* Sets an error about a layer: "model.layers.NAME: …"; of a preset "model: layer NAME: …". */
#define layer_error(b, l, code, ...) model_place_error((b), (l), err_set((code), __VA_ARGS__))
enum err model_place_error(const struct model_builder *b, const struct job_layer *l, enum err code);

/* A layer without parameters; reads `refs`. */
struct model_layer model_layer_init(enum layer_type type, const char *name,
                                    const struct model_refs *refs, uint32_t out_width);
/* All ranges as one, by a LAYER_CONCAT "NAME.in" where they do not lie side by side. */
enum err model_join(struct model_builder *b, const char *name, const struct model_refs *in,
                    struct model_ref *out) MUST_CHECK;
struct model_refs model_refs_of(struct model_ref ref);

/* A dense parameter "<layer>.<part>" of shape [rows][columns], or [columns] when rows is 0. */
struct model_parameter {
    const char *layer, *part; /* layer NULL: just the part */
    uint32_t rows, columns;
    struct init_spec init;
    const struct optimizer_spec *optimizer;
};
enum err model_add_parameter(struct model_builder *b, const struct model_parameter *p,
                             uint32_t *index) MUST_CHECK;
/* Appends a copy of `layer`; *out is all that it gives. */
enum err model_add_layer(struct model_builder *b, const struct model_layer *layer,
                         struct model_ref *out) MUST_CHECK;

uint32_t model_embedding_dim(const struct model_builder *b, uint32_t table);

#endif
