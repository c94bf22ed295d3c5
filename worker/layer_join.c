#include "worker/layer.h"

/* ---- concat ---------------------------------------------------------------------------------- */

static void concat_forward(struct layer_pass *p, struct layer *l)
{
    float *y = l->out;
    for (uint32_t k = 0; k < l->spec->in_count; k++) {
        struct compute_copy c = {
            .n = p->batch->example_count,
            .width = l->spec->in[k].width,
            .x_stride = l->in[k].stride,
            .y_stride = l->spec->out_width,
            .x = l->in[k].x,
            .y = y,
        };
        p->compute->copy(p->device, &c);
        y += l->spec->in[k].width;
    }
    l->y = l->out;
}

static void concat_backward(struct layer_pass *p, struct layer *l)
{
    const float *gradient = l->gradient;
    for (uint32_t k = 0; k < l->spec->in_count; k++) {
        layer_give(p, l, k, gradient, l->spec->out_width);
        gradient += l->spec->in[k].width;
    }
}

const struct layer_kind layer_concat = {LAYER_CONCAT, layer_memory_of_output, concat_forward,
                                        concat_backward, false};

/* ---- sum ------------------------------------------------------------------------------------- */

static void sum_forward(struct layer_pass *p, struct layer *l)
{
    for (uint32_t k = 0; k < l->spec->in_count; k++) {
        struct compute_copy c = {
            .n = p->batch->example_count,
            .width = l->spec->out_width,
            .x_stride = l->in[k].stride,
            .y_stride = l->spec->out_width,
            .x = l->in[k].x,
            .y = l->out,
            .add = k > 0,
        };
        p->compute->copy(p->device, &c);
    }
    l->y = l->out;
}

static void sum_backward(struct layer_pass *p, struct layer *l)
{
    for (uint32_t k = 0; k < l->spec->in_count; k++)
        layer_give(p, l, k, l->gradient, l->spec->out_width);
}

const struct layer_kind layer_sum = {LAYER_SUM, layer_memory_of_output, sum_forward, sum_backward,
                                     false};
