#include "common/model_presets.h"

#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/str.h"

/* Floats of an example's input; a batch of them must fit in memory. */
#define INPUT_WIDTH_MAX (1u << 20)

static const struct init_spec init_zero = {INIT_ZERO, 0};
static const struct init_spec init_one = {INIT_CONSTANT, 1};
static const struct init_spec init_glorot = {INIT_GLOROT, 0};

static struct model_layer layer_make(enum layer_type type, const char *name, uint32_t in_width,
                                     uint32_t out_width)
{
    struct model_layer layer = {
        .type = type,
        .in_width = in_width,
        .out_width = out_width,
        .dense = {MODEL_NO_PARAMETER, MODEL_NO_PARAMETER},
    };
    size_t size = strlen(name);
    CHECK(size < sizeof layer.name);
    memcpy(layer.name, name, size + 1);
    return layer;
}

/* ---- lr and fm: terms ------------------------------------------------------------------------ */

static enum err check_terms(const struct model_builder *b, const char *type)
{
    if (b->model->output_width != 1)
        return err_set(ERR_INPUT,
                       "model.loss: softmax, and %s has one output; use logistic or squared, "
                       "or type mlp",
                       type);
    if (b->model->dense_width > 0)
        return err_set(ERR_INPUT,
                       "model.type: %s has no dense input, and the features give %u floats "
                       "of one (vectors); use type mlp",
                       type, b->model->dense_width);
    if (b->model->schema->table_count == 0)
        return err_set(ERR_INPUT, "features: none, and %s needs at least one", type);
    return ERR_NONE;
}

/* The bias is a number and not a row, so it always exists; l1 would only pull it to 0. */
static enum err add_terms_layer(struct model_builder *b, const char *name, uint32_t factor_dim)
{
    struct model_layer layer = layer_make(LAYER_TERMS, name, 0, 1);
    struct optimizer_spec optimizer = b->job->optimizer.linear;
    optimizer.l1 = 0;
    struct model_parameter bias = {
        .part = "bias", .columns = 1, .init = init_zero, .optimizer = &optimizer};
    enum err err = model_add_parameter(b, &bias, &layer.dense[0]);
    if (err != ERR_NONE)
        return err;
    layer.factor_dim = factor_dim;
    return model_add_layer(b, &layer);
}

static enum err make_lr(struct model_builder *b)
{
    enum err err = check_terms(b, "lr");
    if (err != ERR_NONE)
        return err;
    for (uint32_t t = 0; t < b->model->schema->table_count; t++)
        model_add_linear(b, t);
    return add_terms_layer(b, "lr", 0);
}

static enum err make_fm(struct model_builder *b)
{
    enum err err = check_terms(b, "fm");
    if (err != ERR_NONE)
        return err;
    for (uint32_t t = 0; t < b->model->schema->table_count; t++) {
        uint32_t dim = model_embedding_dim(b, t);
        if (dim != b->job->model.dim)
            return err_set(ERR_INPUT,
                           "tables.%s.dim: %u, and fm multiplies rows of all tables, so all "
                           "have model.dim, which is %u",
                           b->features->tables[t].name, dim, b->job->model.dim);
        model_add_linear(b, t);
        model_add_embedding(b, t);
    }
    return add_terms_layer(b, "fm", b->job->model.dim);
}

/* ---- mlp ------------------------------------------------------------------------------------- */

static enum err add_input(struct model_builder *b)
{
    struct model *m = b->model;
    uint64_t width = m->dense_width;
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        model_add_embedding(b, t);
        m->embedding_offset[t] = (uint32_t)width;
        width += (uint64_t)m->slot_count[t] * model_embedding_dim(b, t);
        if (width > INPUT_WIDTH_MAX)
            return err_set(ERR_LIMIT,
                           "tables.%s: with it the input of mlp has more than %u floats an "
                           "example; use fewer features or a smaller dim",
                           m->schema->tables[t].name, INPUT_WIDTH_MAX);
    }
    if (width == 0)
        return err_set(ERR_INPUT, "features: none, and mlp needs at least one");
    if (width > INPUT_WIDTH_MAX)
        return err_set(ERR_LIMIT,
                       "model: the dense input has %llu floats an example, and at most %u are "
                       "allowed",
                       (unsigned long long)width, INPUT_WIDTH_MAX);
    struct model_layer layer = layer_make(LAYER_INPUT, "input", 0, (uint32_t)width);
    return model_add_layer(b, &layer);
}

static enum err add_linear_layer(struct model_builder *b, const char *name, uint32_t out,
                                 enum activation activation)
{
    uint32_t in = b->model->layers[b->model->layer_count - 1].out_width;
    struct model_layer layer = layer_make(LAYER_LINEAR, name, in, out);
    layer.activation = activation;
    const struct optimizer_spec *optimizer = &b->job->optimizer.dense;
    struct model_parameter weight = {name, "weight", in, out, init_glorot, optimizer};
    struct model_parameter bias = {name, "bias", 0, out, init_zero, optimizer};
    enum err err = model_add_parameter(b, &weight, &layer.dense[0]);
    if (err == ERR_NONE)
        err = model_add_parameter(b, &bias, &layer.dense[1]);
    return err != ERR_NONE ? err : model_add_layer(b, &layer);
}

static enum err add_norm_layer(struct model_builder *b, const char *name, uint32_t width)
{
    struct model_layer layer = layer_make(LAYER_NORM, name, width, width);
    const struct optimizer_spec *optimizer = &b->job->optimizer.dense;
    struct model_parameter gain = {name, "gain", 0, width, init_one, optimizer};
    struct model_parameter bias = {name, "bias", 0, width, init_zero, optimizer};
    enum err err = model_add_parameter(b, &gain, &layer.dense[0]);
    if (err == ERR_NONE)
        err = model_add_parameter(b, &bias, &layer.dense[1]);
    return err != ERR_NONE ? err : model_add_layer(b, &layer);
}

/* linear, [normalization, activation | its own activation], [dropout] */
static enum err add_hidden(struct model_builder *b, uint32_t index)
{
    const struct job_model *j = &b->job->model;
    uint32_t width = j->hidden[index];
    if (width == 0)
        return err_set(ERR_INPUT, "model.hidden[%u]: 0, and a layer has at least 1 unit", index);
    struct str name = {0};
    str_append_format(&name, "hidden%u", index);
    size_t stem = name.size;
    enum activation fused = j->layer_norm ? ACTIVATION_NONE : j->activation;
    enum err err = add_linear_layer(b, name.data, width, fused);
    if (err == ERR_NONE && j->layer_norm) {
        str_append(&name, ".norm");
        err = add_norm_layer(b, name.data, width);
        if (err == ERR_NONE && j->activation != ACTIVATION_NONE) {
            name.data[name.size = stem] = '\0';
            str_append(&name, ".activation");
            struct model_layer layer = layer_make(LAYER_ACTIVATION, name.data, width, width);
            layer.activation = j->activation;
            err = model_add_layer(b, &layer);
        }
    }
    if (err == ERR_NONE && j->dropout > 0) {
        name.data[name.size = stem] = '\0';
        str_append(&name, ".dropout");
        struct model_layer layer = layer_make(LAYER_DROPOUT, name.data, width, width);
        layer.dropout = j->dropout;
        err = model_add_layer(b, &layer);
    }
    str_deinit(&name);
    return err;
}

static enum err make_mlp(struct model_builder *b)
{
    const struct job_model *j = &b->job->model;
    if (j->normalize != NORMALIZE_NONE)
        return err_set(ERR_INPUT, "model.normalize: instance is for lr and fm; use none, or "
                                  "layer_norm: true");
    if (!(j->dropout >= 0 && j->dropout < 1))
        return err_set(ERR_INPUT, "model.dropout: %g is not in [0, 1)", j->dropout);
    enum err err = add_input(b);
    for (uint32_t i = 0; err == ERR_NONE && i < j->hidden_count; i++)
        err = add_hidden(b, i);
    if (err != ERR_NONE)
        return err;
    return add_linear_layer(b, "output", b->model->output_width, ACTIVATION_NONE);
}

/* ---- the table ------------------------------------------------------------------------------- */

static const struct model_preset presets[] = {
    {MODEL_LR, "lr", make_lr},
    {MODEL_FM, "fm", make_fm},
    {MODEL_MLP, "mlp", make_mlp},
};

const struct model_preset *model_preset_find(enum model_type type)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        if (presets[i].type == type)
            return &presets[i];
    }
    return NULL;
}
