#include <string.h>

#include "common/mem.h"
#include "common/model_builder.h"
#include "common/str.h"

static const struct init_spec init_zero = {INIT_ZERO, 0};
static const struct init_spec init_one = {INIT_CONSTANT, 1};
static const struct init_spec init_glorot = {INIT_GLOROT, 0};

static enum err add_linear(struct model_builder *b, const char *name, struct model_ref in,
                           uint32_t units, enum activation activation, struct model_ref *out)
{
    struct model_refs refs = model_refs_of(in);
    struct model_layer layer = model_layer_init(LAYER_LINEAR, name, &refs, units);
    const struct optimizer_spec *optimizer = &b->job->optimizer.dense;
    struct model_parameter weight = {name, "weight", in.width, units, init_glorot, optimizer};
    struct model_parameter bias = {name, "bias", 0, units, init_zero, optimizer};
    layer.activation = activation;
    enum err err = model_add_parameter(b, &weight, &layer.dense[0]);
    if (err == ERR_NONE)
        err = model_add_parameter(b, &bias, &layer.dense[1]);
    return err != ERR_NONE ? err : model_add_layer(b, &layer, out);
}

static enum err add_norm(struct model_builder *b, const char *name, struct model_ref in,
                         struct model_ref *out)
{
    struct model_refs refs = model_refs_of(in);
    struct model_layer layer = model_layer_init(LAYER_NORM, name, &refs, in.width);
    const struct optimizer_spec *optimizer = &b->job->optimizer.dense;
    struct model_parameter gain = {name, "gain", 0, in.width, init_one, optimizer};
    struct model_parameter bias = {name, "bias", 0, in.width, init_zero, optimizer};
    enum err err = model_add_parameter(b, &gain, &layer.dense[0]);
    if (err == ERR_NONE)
        err = model_add_parameter(b, &bias, &layer.dense[1]);
    return err != ERR_NONE ? err : model_add_layer(b, &layer, out);
}

static enum err add_activation(struct model_builder *b, const char *name, struct model_ref in,
                               enum activation activation, struct model_ref *out)
{
    struct model_refs refs = model_refs_of(in);
    struct model_layer layer = model_layer_init(LAYER_ACTIVATION, name, &refs, in.width);
    layer.activation = activation;
    return model_add_layer(b, &layer, out);
}

static enum err add_dropout(struct model_builder *b, const char *name, struct model_ref in,
                            double rate, struct model_ref *out)
{
    struct model_refs refs = model_refs_of(in);
    struct model_layer layer = model_layer_init(LAYER_DROPOUT, name, &refs, in.width);
    layer.dropout = rate;
    return model_add_layer(b, &layer, out);
}

/* ---- the rows -------------------------------------------------------------------------------- */

enum err model_make_linear(struct model_builder *b, const struct job_layer *l,
                           const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x;
    if (l->units == 0)
        return layer_error(b, l, ERR_INPUT, "units: 0, and a layer has at least 1 unit");
    enum err err = model_join(b, l->name, in, &x);
    return err != ERR_NONE ? err : add_linear(b, l->name, x, l->units, l->activation, out);
}

/* linear, [normalization, activation | its own activation], [dropout] */
static enum err add_hidden(struct model_builder *b, const struct job_layer *l, size_t index,
                           struct model_ref *x)
{
    uint32_t width = l->hidden.items[index];
    enum activation fused = l->layer_norm ? ACTIVATION_NONE : l->activation;
    char *name = must_format("%s%zu", l->name, index);
    char *norm = must_format("%s.norm", name);
    char *activation = must_format("%s.activation", name);
    char *dropout = must_format("%s.dropout", name);
    enum err err = add_linear(b, name, *x, width, fused, x);
    if (err == ERR_NONE && l->layer_norm)
        err = add_norm(b, norm, *x, x);
    if (err == ERR_NONE && l->layer_norm && l->activation != ACTIVATION_NONE)
        err = add_activation(b, activation, *x, l->activation, x);
    if (err == ERR_NONE && l->dropout > 0)
        err = add_dropout(b, dropout, *x, l->dropout, x);
    mem_free(name);
    mem_free(norm);
    mem_free(activation);
    mem_free(dropout);
    return err;
}

enum err model_make_mlp(struct model_builder *b, const struct job_layer *l,
                        const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x;
    enum err err = ERR_NONE;
    if (l->hidden.count == 0)
        return layer_error(b, l, ERR_INPUT, "hidden: empty, and an mlp has at least 1 layer");
    for (size_t i = 0; i < l->hidden.count; i++)
        if (l->hidden.items[i] == 0)
            return layer_error(b, l, ERR_INPUT, "hidden[%zu]: 0, and a layer has at least 1 unit",
                               i);
    err = model_join(b, l->name, in, &x);
    for (size_t i = 0; err == ERR_NONE && i < l->hidden.count; i++)
        err = add_hidden(b, l, i, &x);
    if (err == ERR_NONE)
        *out = x;
    return err;
}

/* The next three read one array from its first column on. */
static enum err join_whole(struct model_builder *b, const struct job_layer *l,
                           const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x = in->items[0];
    if (in->count > 1 || x.first > 0 || x.width != b->model->layers[x.layer].out_width) {
        char *name = must_format("%s.in", l->name);
        struct model_layer layer = model_layer_init(LAYER_CONCAT, name, in, in->width);
        mem_free(name);
        return model_add_layer(b, &layer, out);
    }
    *out = x;
    return ERR_NONE;
}

enum err model_make_norm(struct model_builder *b, const struct job_layer *l,
                         const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x;
    enum err err = join_whole(b, l, in, &x);
    return err != ERR_NONE ? err : add_norm(b, l->name, x, out);
}

enum err model_make_activation(struct model_builder *b, const struct job_layer *l,
                               const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x;
    enum err err = join_whole(b, l, in, &x);
    return err != ERR_NONE ? err : add_activation(b, l->name, x, l->activation, out);
}

enum err model_make_dropout(struct model_builder *b, const struct job_layer *l,
                            const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x;
    enum err err = join_whole(b, l, in, &x);
    return err != ERR_NONE ? err : add_dropout(b, l->name, x, l->dropout, out);
}
