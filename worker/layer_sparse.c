#include "worker/layer.h"

/* ---- terms: scratch is [capacity] norms, then [capacity][factor_dim] sums ---------------------
 */

static struct layer_memory terms_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = 1, .scratch = 1 + (size_t)spec->factor_dim};
}

static struct compute_terms terms_make(const struct layer_pass *p, const struct layer *l)
{
    uint32_t bias = l->spec->dense[0];
    return (struct compute_terms){
        .n = p->batch->example_count,
        .factor_dim = l->spec->factor_dim,
        .field_count = l->spec->vector_count,
        .table_count = p->batch->table_count,
        .tables = p->tables,
        .there = p->there,
        .bias = p->dense[bias],
        .norms = p->model->normalize == NORMALIZE_INSTANCE ? l->scratch : NULL,
        .sums = l->spec->type == LAYER_TERMS ? l->scratch + p->capacity : NULL,
        .logits = l->out,
        .gradient = l->gradient,
        .bias_gradient = p->dense_gradients != NULL ? p->dense_gradients[bias] : NULL,
    };
}

static void terms_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_terms t = terms_make(p, l);
    p->compute->terms(p->device, &t);
    l->y = l->out;
}

static void terms_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_terms t = terms_make(p, l);
    p->compute->terms_back(p->device, &t);
}

const struct layer_kind layer_terms = {LAYER_TERMS, terms_memory, terms_forward, terms_backward,
                                       false};

/* ---- field terms: scratch is norms ---------------------------------------------------------- */

static struct layer_memory field_terms_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = 1, .scratch = 1};
}

static void field_terms_forward(struct layer_pass *p, struct layer *l)
{
    struct compute_terms t = terms_make(p, l);
    p->compute->field_terms(p->device, &t);
    l->y = l->out;
}

static void field_terms_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_terms t = terms_make(p, l);
    p->compute->field_terms_back(p->device, &t);
}

const struct layer_kind layer_field_terms = {LAYER_FIELD_TERMS, field_terms_memory,
                                             field_terms_forward, field_terms_backward, false};

/* ---- input ---------------------------------------------------------------------------------- */

static bool has_embeddings(const struct model *m, const struct model_layer *spec)
{
    return spec->out_width > m->dense_width;
}

static struct layer_memory input_memory(const struct model *m, const struct model_layer *spec)
{
    return (struct layer_memory){.out = has_embeddings(m, spec) ? spec->out_width : 0};
}

static struct compute_input input_make(const struct layer_pass *p, const struct layer *l)
{
    return (struct compute_input){
        .n = p->batch->example_count,
        .width = l->spec->out_width,
        .dense_width = p->model->dense_width,
        .dense = p->batch->dense,
        .table_count = p->batch->table_count,
        .tables = p->tables,
        .there = p->there,
        .y = l->out,
        .y_gradient = l->gradient,
    };
}

static void input_forward(struct layer_pass *p, struct layer *l)
{
    if (!has_embeddings(p->model, l->spec)) {
        l->y = p->batch->dense;
        return;
    }
    struct compute_input c = input_make(p, l);
    p->compute->input(p->device, &c);
    l->y = l->out;
}

static void input_backward(struct layer_pass *p, struct layer *l)
{
    struct compute_input c = input_make(p, l);
    p->compute->input_back(p->device, &c);
}

const struct layer_kind layer_input = {LAYER_INPUT, input_memory, input_forward, input_backward,
                                       false};
