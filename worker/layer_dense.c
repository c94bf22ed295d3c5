#include "worker/layer.h"

#include "common/rng.h"

static struct layer_memory no_scratch(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width};
}

/* ---- linear --------------------------------------------------------------------------------- */

static void linear_forward(struct layer_pass *p, struct layer *l)
{
    const struct model_layer *spec = l->spec;
    struct compute_gemm g = {
        .n = p->batch->example_count,
        .in = spec->in_width,
        .out = spec->out_width,
        .x = l->x,
        .weight = p->dense[spec->dense[0]],
        .y = l->out,
    };
    p->compute->gemm_forward(p->pool, &g);
    struct compute_activate a = {
        .n = g.n,
        .width = g.out,
        .activation = spec->activation,
        .bias = p->dense[spec->dense[1]],
        .x = l->out,
        .y = l->out,
    };
    p->compute->activate(p->pool, &a);
    l->y = l->out;
}

static void linear_backward(struct layer_pass *p, struct layer *l)
{
    const struct model_layer *spec = l->spec;
    uint32_t n = p->batch->example_count;
    struct compute_activate_back a = {n, spec->out_width, spec->activation, l->y, p->gradient};
    p->compute->activate_back(p->pool, &a);
    struct compute_columns c = {n, spec->out_width, p->gradient,
                                p->dense_gradients[spec->dense[1]]};
    p->compute->column_sums(p->pool, &c);
    struct compute_gemm g = {
        .n = n,
        .in = spec->in_width,
        .out = spec->out_width,
        .x = l->x,
        .weight = p->dense[spec->dense[0]],
        .y_gradient = p->gradient,
        .x_gradient = p->spare,
        .weight_gradient = p->dense_gradients[spec->dense[0]],
    };
    p->compute->gemm_weight(p->pool, &g);
    if (l->wants_gradient) {
        p->compute->gemm_input(p->pool, &g);
        layer_swap(p);
    }
}

const struct layer_kind layer_linear = {LAYER_LINEAR, no_scratch, linear_forward, linear_backward};

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
        .x = l->x,
        .gain = p->dense[l->spec->dense[0]],
        .bias = p->dense[l->spec->dense[1]],
        .y = l->out,
        .moments = l->scratch,
    };
    p->compute->norm(p->pool, &c);
    l->y = l->out;
}

static void norm_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_norm_back c = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .x = l->x,
        .gain = p->dense[l->spec->dense[0]],
        .moments = l->scratch,
        .y_gradient = p->gradient,
        .x_gradient = p->spare,
        .gain_gradient = p->dense_gradients[l->spec->dense[0]],
        .bias_gradient = p->dense_gradients[l->spec->dense[1]],
    };
    p->compute->norm_back(p->pool, &c);
    layer_swap(p);
}

const struct layer_kind layer_norm = {LAYER_NORM, norm_memory, norm_forward, norm_backward};

/* ---- activation ----------------------------------------------------------------------------- */

static void activation_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_activate a = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .activation = l->spec->activation,
        .x = l->x,
        .y = l->out,
    };
    p->compute->activate(p->pool, &a);
    l->y = l->out;
}

static void activation_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_activate_back a = {p->batch->example_count, l->spec->out_width,
                                      l->spec->activation, l->y, p->gradient};
    p->compute->activate_back(p->pool, &a);
}

const struct layer_kind layer_activation = {LAYER_ACTIVATION, no_scratch, activation_forward,
                                            activation_backward};

/* ---- dropout -------------------------------------------------------------------------------- */

static struct layer_memory dropout_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = spec->out_width, .scratch = spec->out_width};
}

static void dropout_forward(struct layer_pass *p, struct layer *l)
{
    if (!p->training) {
        l->y = l->x;
        return;
    }
    struct compute_dropout d = {
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .rate = l->spec->dropout,
        .key = rng_key(p->seed, "dropout", l->index),
        .step = p->batch->step,
        .first_example = p->first_example,
        .x = l->x,
        .y = l->out,
        .mask = l->scratch,
    };
    p->compute->dropout(p->pool, &d);
    l->y = l->out;
}

static void dropout_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_multiply m = {(size_t)p->batch->example_count * l->spec->out_width, l->scratch,
                                 p->gradient};
    p->compute->multiply(p->pool, &m);
}

const struct layer_kind layer_dropout = {LAYER_DROPOUT, dropout_memory, dropout_forward,
                                         dropout_backward};
