#include "common/mem.h"
#include "common/model_builder.h"
#include "common/str.h"

static const struct init_spec init_zero = {INIT_ZERO, 0};
static const struct init_spec init_glorot = {INIT_GLOROT, 0};

/* x0 ⊙ (W x + b) + x with W = U V of rank low_rank, or a full W. */
static enum err add_cross(struct model_builder *b, const char *name, struct model_ref x0,
                          struct model_ref x, uint32_t low_rank, struct model_ref *out)
{
    struct model_refs refs = {.items = {x, x0}, .count = 2, .width = x.width};
    struct model_layer layer = model_layer_init(LAYER_CROSS, name, &refs, x.width);
    const struct optimizer_spec *optimizer = &b->job->optimizer.dense;
    struct model_parameter bias = {name, "bias", 0, x.width, init_zero, optimizer};
    struct model_parameter full = {name, "weight", x.width, x.width, init_glorot, optimizer};
    struct model_parameter v = {name, "v", x.width, low_rank, init_glorot, optimizer};
    struct model_parameter u = {name, "u", low_rank, x.width, init_glorot, optimizer};
    layer.low_rank = low_rank;
    enum err err = model_add_parameter(b, low_rank > 0 ? &u : &full, &layer.dense[0]);
    if (err == ERR_NONE)
        err = model_add_parameter(b, &bias, &layer.dense[1]);
    if (err == ERR_NONE && low_rank > 0)
        err = model_add_parameter(b, &v, &layer.dense[2]);
    return err != ERR_NONE ? err : model_add_layer(b, &layer, out);
}

enum err model_make_cross(struct model_builder *b, const struct job_layer *l,
                          const struct model_refs *in, struct model_ref *out)
{
    struct model_ref x0, x;
    if (l->layers == 0)
        return layer_error(b, l, ERR_INPUT, "layers: 0, and at least 1 is needed");
    if (l->low_rank >= in->width)
        return layer_error(b, l, ERR_INPUT,
                           "low_rank: %u, and its input has %u columns; give less than that, or 0 "
                           "for a full matrix",
                           l->low_rank, in->width);
    enum err err = model_join(b, l->name, in, &x0);
    x = x0;
    for (uint32_t i = 0; err == ERR_NONE && i < l->layers; i++) {
        char *name = must_format("%s%u", l->name, i);
        err = add_cross(b, name, x0, x, l->low_rank, &x);
        mem_free(name);
    }
    if (err == ERR_NONE)
        *out = x;
    return err;
}
