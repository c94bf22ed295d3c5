#include "worker/network_internal.h"

#include "common/mem.h"

float *network_floats(struct network *n, size_t examples, size_t width, enum err *err)
{
    if (width == 0 || *err != ERR_NONE)
        return NULL;
    float *floats = n->compute->alloc(n->device, examples * width * sizeof(float));
    if (floats == NULL)
        *err = ERR_MEMORY;
    return floats;
}

bool network_range_trains(const struct network *n, const struct model_ref *r)
{
    bool is_dense = n->model->layers[r->layer].type == LAYER_INPUT &&
                    r->first + r->width <= n->model->dense_width;
    return n->trains[r->layer] && !is_dense;
}

/*
 * A layer's gradient is needed from the first write, by the last layer that reads it, until its own
 * way back; then its array serves another. A chain of layers needs two.
 */
struct gradient_plan {
    struct network *n;
    uint32_t *array;   /* [layer_count] of a layer's gradient; UINT32_MAX: none yet */
    uint32_t *readers; /* [layer_count] ranges that are read of a layer */
    bool *taken;       /* [layer_count] of an array */
    size_t *width;     /* [layer_count] of an array, in floats per example */
    uint32_t count;    /* of arrays */
};

/* The free array that is nearest to the width, or a new one. */
static uint32_t take_array(struct gradient_plan *p, size_t width)
{
    uint32_t best = p->count;
    for (uint32_t i = 0; i < p->count; i++) {
        bool fits = best < p->count && p->width[best] >= width;
        if (!p->taken[i] &&
            (best == p->count || (p->width[i] >= width ? !fits || p->width[i] < p->width[best]
                                                       : !fits && p->width[i] > p->width[best])))
            best = i;
    }
    p->count += best == p->count;
    p->taken[best] = true;
    if (p->width[best] < width)
        p->width[best] = width;
    return best;
}

/* Where the layer writes its gradient by one of the ranges that it reads. */
static void plan_range(struct gradient_plan *p, struct layer *l, uint32_t k)
{
    const struct model_ref *r = &l->spec->in[k];
    struct layer_in *in = &l->in[k];
    const struct model_layer *from = &p->n->model->layers[r->layer];
    bool whole = r->first == 0 && r->width == from->out_width;
    if (!network_range_trains(p->n, r))
        return;
    in->add = p->array[r->layer] != UINT32_MAX;
    if (in->add)
        return;
    if (layer_kind_find(l->spec->type)->in_place && whole && p->readers[r->layer] == 1) {
        in->in_place = true;
        p->array[r->layer] = p->array[l->index];
        return;
    }
    p->array[r->layer] = take_array(p, from->out_width);
    in->add = !whole;
    in->clears = !whole;
}

static void plan_layer(struct gradient_plan *p, uint32_t index)
{
    struct layer *l = &p->n->layers[index];
    bool passed_on = false;
    for (uint32_t k = 0; k < l->spec->in_count; k++) {
        plan_range(p, l, k);
        passed_on = passed_on || l->in[k].in_place;
    }
    if (p->array[index] != UINT32_MAX && !passed_on)
        p->taken[p->array[index]] = false;
}

static void count_readers(struct gradient_plan *p)
{
    const struct model *m = p->n->model;
    for (uint32_t i = 0; i < m->layer_count; i++) {
        p->array[i] = UINT32_MAX;
        for (uint32_t k = 0; k < m->layers[i].in_count; k++)
            p->readers[m->layers[i].in[k].layer]++;
    }
    for (uint32_t o = 0; o < m->output_count; o++)
        p->readers[m->outputs[o].layer]++;
}

static enum err place_gradients(struct gradient_plan *p)
{
    struct network *n = p->n;
    enum err err = ERR_NONE;
    for (uint32_t i = 0; i < p->count; i++)
        n->gradients[i] = network_floats(n, n->capacity, p->width[i], &err);
    for (uint32_t i = 0; err == ERR_NONE && i < n->model->layer_count; i++) {
        struct layer *l = &n->layers[i];
        if (n->trains[i] && p->array[i] != UINT32_MAX)
            l->gradient = n->gradients[p->array[i]];
        for (uint32_t k = 0; k < l->spec->in_count; k++) {
            const struct model_ref *r = &l->spec->in[k];
            l->in[k].stride = n->model->layers[r->layer].out_width;
            if (network_range_trains(n, r) && n->trains[i])
                l->in[k].gradient = n->layers[r->layer].gradient + r->first;
        }
    }
    return err;
}

enum err network_plan(struct network *n)
{
    uint32_t count = n->model->layer_count;
    struct gradient_plan p = {.n = n};
    p.array = mem_calloc(count, sizeof *p.array);
    p.readers = mem_calloc(count, sizeof *p.readers);
    p.taken = mem_calloc(count, sizeof *p.taken);
    p.width = mem_calloc(count, sizeof *p.width);
    enum err err = ERR_MEMORY;
    if (p.array != NULL && p.readers != NULL && p.taken != NULL && p.width != NULL) {
        count_readers(&p);
        for (uint32_t o = 0; o < n->model->output_count; o++)
            p.array[n->model->outputs[o].layer] = take_array(&p, n->model->outputs[o].width);
        for (uint32_t i = count; i-- > 0;)
            if (n->trains[i])
                plan_layer(&p, i);
        err = place_gradients(&p);
    }
    mem_free(p.array);
    mem_free(p.readers);
    mem_free(p.taken);
    mem_free(p.width);
    return err;
}
