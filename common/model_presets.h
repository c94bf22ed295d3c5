/*
 * model_presets.h - what model.c and the presets share: a model while it is being made.
 *
 * A preset is a function that declares the components of every table, then appends layers; model.c
 * then finishes the schema. Helpers return errors that name the job's setting.
 *
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_MODEL_PRESETS_H
#define PARAMD_COMMON_MODEL_PRESETS_H

#include <stdint.h>

#include "common/model.h"

#define MODEL_NO_PARAMETER UINT32_MAX

struct model_builder {
    const struct job *job;
    const struct features_spec *features;
    struct model *model; /* its schema has the tables' names and no component yet */
};

struct model_preset {
    enum model_type type;
    const char *name;
    enum err (*make)(struct model_builder *b);
};

/* The preset of a type; NULL: there is none. */
const struct model_preset *model_preset_find(enum model_type type);

/* Appends to table `table` the component "w" (1 float, optimizer.linear, initially 0) or "v". */
void model_add_linear(struct model_builder *b, uint32_t table);
void model_add_embedding(struct model_builder *b, uint32_t table);
uint32_t model_embedding_dim(const struct model_builder *b, uint32_t table);

/* A dense parameter "<layer>.<part>" of shape [rows][columns], or [columns] when rows is 0. */
struct model_parameter {
    const char *layer, *part; /* layer NULL: just the part */
    uint32_t rows, columns;
    struct init_spec init;
    const struct optimizer_spec *optimizer;
};
enum err model_add_parameter(struct model_builder *b, const struct model_parameter *p,
                             uint32_t *index) MUST_CHECK;

/* Appends a copy of `layer`, whose in_width must be the out_width of the one before. */
enum err model_add_layer(struct model_builder *b, const struct model_layer *layer) MUST_CHECK;

#endif
