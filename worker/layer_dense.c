#include "worker/layer.h"

#include "common/rng.h"

/* ---- linear --------------------------------------------------------------------------------- */

static void linear_forward(struct layer_pass *p, struct layer *l)
{
    const struct model_layer *spec = l->spec;
    struct compute_gemm g = {
        .n = p->batch->example_count,
        .in = spec->in_width,
        .out = spec->out_width,
        .x_stride = (uint32_t)l->in[0].stride,
        .x = l->in[0].x,
        .weight = p->dense[spec->dense[0]],
        .y = l->out,
    };
    struct compute_activate a = {
        .n = g.n,
        .width = g.out,
        .activation = spec->activation,
        .bias = p->dense[spec->dense[1]],
        .x = l->out,
        .y = l->out,
    };
    p->compute->linear(p->device, &g, &a);
    l->y = l->out;
}

static void linear_backward(struct layer_pass *p, struct layer *l)
{
    const struct model_layer *spec = l->spec;
    uint32_t n = p->batch->example_count;
    struct compute_activate_back a = {n, spec->out_width, spec->activation, l->y, l->gradient};
    p->compute->activate_back(p->device, &a);
    struct compute_columns c = {n, spec->out_width, l->gradient,
                                p->dense_gradients[spec->dense[1]]};
    p->compute->column_sums(p->device, &c);
    struct compute_gemm g = {
        .n = n,
        .in = spec->in_width,
        .out = spec->out_width,
        .x_stride = (uint32_t)l->in[0].stride,
        .x = l->in[0].x,
        .weight = p->dense[spec->dense[0]],
        .y_gradient = l->gradient,
        .x_gradient = l->in[0].gradient,
        .add = l->in[0].add,
        .weight_gradient = p->dense_gradients[spec->dense[0]],
    };
    p->compute->gemm_weight(p->device, &g);
    if (g.x_gradient != NULL)
        p->compute->gemm_input(p->device, &g);
}

const struct layer_kind layer_linear = {LAYER_LINEAR, layer_memory_of_output, linear_forward,
                                        linear_backward, false};

/* ---- layer normalization -------------------------------------------------------------------- */

static struct layer_memory norm_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width, .scratch = 2};
}

static void norm_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_norm c = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .x = l->in[0].x,
        .gain = p->dense[l->spec->dense[0]],
        .bias = p->dense[l->spec->dense[1]],
        .y = l->out,
        .moments = l->scratch,
    };
    p->compute->norm(p->device, &c);
    l->y = l->out;
}

static void norm_backward(struct layer_pass *p, struct layer *l)
{
    /* A norm over the dense input alone still has its own gradients; the rest goes nowhere. */
    struct compute_norm_back c = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .x = l->in[0].x,
        .gain = p->dense[l->spec->dense[0]],
        .moments = l->scratch,
        .y_gradient = l->gradient,
        .x_gradient = l->in[0].gradient != NULL ? l->in[0].gradient : l->out,
        .add = l->in[0].gradient != NULL && l->in[0].add,
        .gain_gradient = p->dense_gradients[l->spec->dense[0]],
        .bias_gradient = p->dense_gradients[l->spec->dense[1]],
    };
    p->compute->norm_back(p->device, &c);
}

const struct layer_kind layer_norm = {LAYER_NORM, norm_memory, norm_forward, norm_backward, false};

/* ---- activation ----------------------------------------------------------------------------- */

static void activation_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_activate a = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .activation = l->spec->activation,
        .x = l->in[0].x,
        .y = l->out,
    };
    p->compute->activate(p->device, &a);
    l->y = l->out;
}

static void activation_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_activate_back a = {p->batch->example_count, l->spec->out_width,
                                      l->spec->activation, l->y, l->gradient};
    p->compute->activate_back(p->device, &a);
    layer_give(p, l, 0, l->gradient, l->spec->out_width);
}

const struct layer_kind layer_activation = {LAYER_ACTIVATION, layer_memory_of_output,
                                            activation_forward, activation_backward, true};

/* ---- dropout -------------------------------------------------------------------------------- */

static struct layer_memory dropout_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width, .scratch = spec->out_width};
}

static void dropout_forward(struct layer_pass *p, struct layer *l)
{
    if (!p->training) {
        l->y = l->in[0].x;
        return;
    }
    struct compute_dropout d = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .rate = l->spec->dropout,
        .key = rng_key(p->seed, "dropout", l->index),
        .step = p->batch->step,
        .first_example = p->first_example,
        .x = l->in[0].x,
        .y = l->out,
        .mask = l->scratch,
    };
    p->compute->dropout(p->device, &d);
    l->y = l->out;
}

static void dropout_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_multiply m = {(size_t)p->batch->example_count * l->spec->out_width, l->scratch,
                                 l->gradient};
    p->compute->multiply(p->device, &m);
    layer_give(p, l, 0, l->gradient, l->spec->out_width);
}

const struct layer_kind layer_dropout = {LAYER_DROPOUT, dropout_memory, dropout_forward,
                                         dropout_backward, true};
