#include "worker/layer.h"

/*
 * in[0] is x, in[1] is x0. Scratch: [capacity][width] t = x W (or (x V) U), whose place its
 * gradient takes; with a low rank then [capacity][rank] x V and [capacity][rank] its gradient.
 */

static struct layer_memory cross_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width,
                                 .scratch = spec->out_width + 2 * (size_t)spec->low_rank};
}

static float *projection(const struct layer_pass *p, const struct layer *l)
{
    return l->scratch + p->capacity * l->spec->out_width;
}

/* From x to t, or to x V; and from there to t. */
static struct compute_gemm first_product(const struct layer_pass *p, const struct layer *l)
{
    const struct model_layer *spec = l->spec;
    bool low = spec->low_rank > 0;
    return (struct compute_gemm){
        .n = p->batch->example_count,
        .in = spec->in_width,
        .out = low ? spec->low_rank : spec->out_width,
        .x_stride = (uint32_t)l->in[0].stride,
        .x = l->in[0].x,
        .weight = p->dense[spec->dense[low ? 2 : 0]],
        .y = low ? projection(p, l) : l->scratch,
    };
}

static struct compute_gemm second_product(const struct layer_pass *p, const struct layer *l)
{
    return (struct compute_gemm){
        .n = p->batch->example_count,
        .in = l->spec->low_rank,
        .out = l->spec->out_width,
        .x = projection(p, l),
        .weight = p->dense[l->spec->dense[0]],
        .y = l->scratch,
    };
}

static struct compute_cross cross_make(const struct layer_pass *p, const struct layer *l)
{
    return (struct compute_cross){
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .x_stride = l->in[0].stride,
        .x0_stride = l->in[1].stride,
        .x = l->in[0].x,
        .x0 = l->in[1].x,
        .bias = p->dense[l->spec->dense[1]],
        .t = l->scratch,
        .y = l->out,
        .y_gradient = l->gradient,
        .x_gradient = l->in[0].gradient,
        .x0_gradient = l->in[1].gradient,
        .add_x = l->in[0].add,
        .add_x0 = l->in[1].add,
    };
}

static void cross_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_gemm first = first_product(p, l);
    p->compute->gemm_forward(p->device, &first);
    if (l->spec->low_rank > 0) {
        struct compute_gemm second = second_product(p, l);
        p->compute->gemm_forward(p->device, &second);
    }
    struct compute_cross c = cross_make(p, l);
    p->compute->cross(p->device, &c);
    l->y = l->out;
}

static void cross_backward(struct layer_pass *p, struct layer *l)
{
    const struct model_layer *spec = l->spec;
    struct compute_cross c = cross_make(p, l);
    p->compute->cross_back(p->device, &c);
    struct compute_columns sums = {c.n, c.width, l->scratch, p->dense_gradients[spec->dense[1]]};
    p->compute->column_sums(p->device, &sums);
    struct compute_gemm first = first_product(p, l);
    first.y_gradient = l->scratch;
    if (spec->low_rank > 0) {
        struct compute_gemm second = second_product(p, l);
        float *gradient = projection(p, l) + p->capacity * spec->low_rank;
        second.y_gradient = l->scratch;
        second.weight_gradient = p->dense_gradients[spec->dense[0]];
        second.x_gradient = gradient;
        p->compute->gemm_weight(p->device, &second);
        p->compute->gemm_input(p->device, &second);
        first.y_gradient = gradient;
    }
    first.weight_gradient = p->dense_gradients[spec->dense[spec->low_rank > 0 ? 2 : 0]];
    p->compute->gemm_weight(p->device, &first);
    first.x_gradient = l->in[0].gradient;
    first.add = true;
    if (first.x_gradient != NULL)
        p->compute->gemm_input(p->device, &first);
}

const struct layer_kind layer_cross = {LAYER_CROSS, cross_memory, cross_forward, cross_backward,
                                       false};
