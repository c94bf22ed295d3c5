#include "worker/layer.h"

static struct compute_vectors vectors_make(const struct layer_pass *p, const struct layer *l)
{
    return (struct compute_vectors){
        .n = p->batch->example_count,
        .count = l->spec->vector_count,
        .dim = l->spec->factor_dim,
        .x_stride = l->in[0].stride,
        .x = l->in[0].x,
        .y = l->out,
        .sums = l->scratch,
        .y_gradient = l->gradient,
        .x_gradient = l->in[0].gradient,
        .add = l->in[0].add,
    };
}

/* ---- fm: scratch is the sums of the way forth ------------------------------------------------ */

static struct layer_memory fm_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = 1, .scratch = spec->factor_dim};
}

static void fm_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_vectors v = vectors_make(p, l);
    p->compute->fm(p->device, &v);
    l->y = l->out;
}

static void fm_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_vectors v = vectors_make(p, l);
    if (v.x_gradient != NULL)
        p->compute->fm_back(p->device, &v);
}

const struct layer_kind layer_fm = {LAYER_FM, fm_memory, fm_forward, fm_backward, false};

/* ---- dot ------------------------------------------------------------------------------------- */

static void dot_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_vectors v = vectors_make(p, l);
    p->compute->dot(p->device, &v);
    l->y = l->out;
}

static void dot_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_vectors v = vectors_make(p, l);
    if (v.x_gradient != NULL)
        p->compute->dot_back(p->device, &v);
}

const struct layer_kind layer_dot = {LAYER_DOT, layer_memory_of_output, dot_forward, dot_backward,
                                     false};
