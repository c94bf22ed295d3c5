#include "worker/layer.h"

static const struct layer_kind *const kinds[] = {
    &layer_terms,   &layer_field_terms, &layer_input, &layer_linear, &layer_norm, &layer_activation,
    &layer_dropout, &layer_concat,      &layer_sum,   &layer_cross,  &layer_fm,   &layer_dot,
};

const struct layer_kind *layer_kind_find(enum layer_type type)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i]->type == type)
            return kinds[i];
    }
    return NULL;
}

struct layer_memory layer_memory_of_output(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width};
}

void layer_give(const struct layer_pass *p, const struct layer *l, uint32_t k, const float *x,
                size_t x_stride)
{
    const struct layer_in *in = &l->in[k];
    if (in->gradient == NULL || in->in_place)
        return;
    struct compute_copy c = {
        .n = p->batch->example_count,
        .width = l->spec->in[k].width,
        .x_stride = x_stride,
        .y_stride = in->stride,
        .x = x,
        .y = in->gradient,
        .add = in->add,
    };
    p->compute->copy(p->device, &c);
}
