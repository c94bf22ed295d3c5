#include "worker/network.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/fmath.h"
#include "common/mem.h"
#include "worker/compute.h"
#include "worker/layer.h"

struct network {
    const struct model *model;
    const struct compute *compute;
    struct pool *pool;
    uint64_t seed;
    uint32_t max_examples;
    size_t capacity;              /* max_examples rounded up to 16 */
    struct layer *layers;         /* [model->layer_count] */
    struct layer_in *ins;         /* of all layers */
    bool *trains;                 /* [model->layer_count] its output depends on parameters */
    struct compute_table *tables; /* [schema->table_count] */
    float **gradients;            /* arrays that layers' gradients share */
    double *loss_sums;
};

/* ---- making --------------------------------------------------------------------------------- */

static float *alloc_floats(size_t examples, size_t width, enum err *err)
{
    if (width == 0 || *err != ERR_NONE)
        return NULL;
    float *floats = mem_alloc_array(examples, width * sizeof(float));
    if (floats == NULL)
        *err = ERR_MEMORY;
    return floats;
}

/* Has a layer parameters of its own, or in the rows that it reads? */
static bool has_parameters(const struct model *m, const struct model_layer *spec)
{
    return spec->type == LAYER_INPUT ? spec->out_width > m->dense_width
                                     : spec->dense[0] != MODEL_NO_PARAMETER;
}

/* Does what a range holds depend on parameters, so that its reader must give it a gradient? */
static bool range_trains(const struct network *n, const struct model_ref *r)
{
    bool is_dense = n->model->layers[r->layer].type == LAYER_INPUT &&
                    r->first + r->width <= n->model->dense_width;
    return n->trains[r->layer] && !is_dense;
}

static enum err make_layer(struct network *n, uint32_t index, size_t *in_used)
{
    struct layer *l = &n->layers[index];
    l->spec = &n->model->layers[index];
    l->index = index;
    l->in = n->ins + *in_used;
    *in_used += l->spec->in_count;
    const struct layer_kind *kind = layer_kind_find(l->spec->type);
    CHECK(kind != NULL);
    struct layer_memory memory = kind->memory(n->model, l->spec);
    enum err err = ERR_NONE;
    l->out = alloc_floats(n->capacity, memory.out, &err);
    l->scratch = alloc_floats(n->capacity, memory.scratch, &err);
    n->trains[index] = has_parameters(n->model, l->spec);
    for (uint32_t k = 0; k < l->spec->in_count; k++)
        n->trains[index] = n->trains[index] || range_trains(n, &l->spec->in[k]);
    return err;
}

static enum err make_layers(struct network *n)
{
    const struct model *m = n->model;
    size_t in_count = 0, in_used = 0;
    for (uint32_t i = 0; i < m->layer_count; i++)
        in_count += m->layers[i].in_count;
    n->layers = mem_calloc(m->layer_count, sizeof *n->layers);
    n->trains = mem_calloc(m->layer_count, sizeof *n->trains);
    n->ins = mem_calloc(in_count, sizeof *n->ins);
    n->gradients = mem_calloc(m->layer_count, sizeof *n->gradients);
    if (n->layers == NULL || n->trains == NULL || n->ins == NULL || n->gradients == NULL)
        return ERR_MEMORY;
    enum err err = ERR_NONE;
    for (uint32_t i = 0; err == ERR_NONE && i < m->layer_count; i++)
        err = make_layer(n, i, &in_used);
    return err;
}

/* ---- where gradients lie --------------------------------------------------------------------- */

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
    if (!range_trains(p->n, r))
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
        n->gradients[i] = alloc_floats(n->capacity, p->width[i], &err);
    for (uint32_t i = 0; err == ERR_NONE && i < n->model->layer_count; i++) {
        struct layer *l = &n->layers[i];
        if (n->trains[i] && p->array[i] != UINT32_MAX)
            l->gradient = n->gradients[p->array[i]];
        for (uint32_t k = 0; k < l->spec->in_count; k++) {
            const struct model_ref *r = &l->spec->in[k];
            l->in[k].stride = n->model->layers[r->layer].out_width;
            if (range_trains(n, r) && n->trains[i])
                l->in[k].gradient = n->layers[r->layer].gradient + r->first;
        }
    }
    return err;
}

static enum err make_gradients(struct network *n)
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

/* ---- tables ---------------------------------------------------------------------------------- */

static enum err make_tables(struct network *n)
{
    const struct schema *s = n->model->schema;
    uint32_t fields = 0;
    n->tables = mem_calloc(s->table_count, sizeof *n->tables);
    if (n->tables == NULL)
        return ERR_MEMORY;
    for (uint32_t t = 0; t < s->table_count; t++) {
        struct compute_table *table = &n->tables[t];
        table->dim = s->tables[t].dim;
        table->input_offset = n->model->embedding_offset[t];
        table->first_field = fields;
        fields += n->model->slot_count[t];
        for (uint32_t i = 0; i < s->tables[t].component_count; i++) {
            const struct schema_component *c = &s->tables[t].components[i];
            if (strcmp(c->name, "w") == 0)
                table->w_offset = c->offset;
            else if (strcmp(c->name, "v") == 0) {
                table->v_offset = c->offset;
                table->v_dim = c->dim;
            }
        }
    }
    return ERR_NONE;
}

enum err network_create(const struct network_options *o, struct network **out)
{
    CHECK(o->model != NULL && o->compute != NULL && o->max_examples > 0);
    struct network *n = mem_calloc(1, sizeof *n);
    if (n == NULL)
        return ERR_MEMORY;
    n->model = o->model;
    n->compute = o->compute;
    n->pool = o->pool;
    n->seed = o->seed;
    n->max_examples = o->max_examples;
    n->capacity = ((size_t)o->max_examples + 15) / 16 * 16;
    n->loss_sums = mem_alloc_array(o->max_examples / COMPUTE_LOSS_ROWS + 1, sizeof *n->loss_sums);
    enum err err = n->loss_sums != NULL ? make_layers(n) : ERR_MEMORY;
    if (err == ERR_NONE)
        err = make_gradients(n);
    if (err == ERR_NONE)
        err = make_tables(n);
    if (err != ERR_NONE) {
        network_destroy(n);
        return err_prefix(err, "network for %u examples", o->max_examples);
    }
    *out = n;
    return ERR_NONE;
}

void network_destroy(struct network *n)
{
    if (n == NULL)
        return;
    for (uint32_t i = 0; n->layers != NULL && i < n->model->layer_count; i++) {
        mem_free(n->layers[i].out);
        mem_free(n->layers[i].scratch);
    }
    for (uint32_t i = 0; n->gradients != NULL && i < n->model->layer_count; i++)
        mem_free(n->gradients[i]);
    mem_free(n->layers);
    mem_free(n->trains);
    mem_free(n->ins);
    mem_free(n->tables);
    mem_free(n->gradients);
    mem_free(n->loss_sums);
    mem_free(n);
}

/* ---- forward -------------------------------------------------------------------------------- */

static enum err begin(struct network *n, const struct batch *b, const struct network_values *values,
                      const struct network_gradients *gradients, struct layer_pass *pass)
{
    const struct model *m = n->model;
    CHECK(b->table_count == m->schema->table_count);
    CHECK(b->dense_width == m->dense_width);
    if (b->example_count > n->max_examples)
        return err_set(ERR_LIMIT, "batch of %u examples, and the network was made for %u",
                       b->example_count, n->max_examples);
    for (uint32_t t = 0; t < b->table_count; t++) {
        CHECK(b->tables[t].slot_count == m->slot_count[t]);
        n->tables[t].terms = &b->tables[t];
        n->tables[t].rows = values->rows[t];
        n->tables[t].row_gradients = gradients != NULL ? gradients->rows[t] : NULL;
    }
    *pass = (struct layer_pass){
        .compute = n->compute,
        .pool = n->pool,
        .model = m,
        .batch = b,
        .tables = n->tables,
        .dense = values->dense,
        .dense_gradients = gradients != NULL ? gradients->dense : NULL,
        .seed = n->seed,
        .capacity = n->capacity,
        .training = gradients != NULL,
    };
    return ERR_NONE;
}

static void forward(struct network *n, struct layer_pass *pass, float *logits_out)
{
    for (uint32_t i = 0; i < n->model->layer_count; i++) {
        struct layer *l = &n->layers[i];
        for (uint32_t k = 0; k < l->spec->in_count; k++)
            l->in[k].x = n->layers[l->spec->in[k].layer].y + l->spec->in[k].first;
        layer_kind_find(l->spec->type)->forward(pass, l);
    }
    for (uint32_t o = 0; o < n->model->output_count; o++) {
        const struct model_output *output = &n->model->outputs[o];
        struct compute_copy c = {.n = pass->batch->example_count,
                                 .width = output->width,
                                 .x_stride = output->width,
                                 .y_stride = n->model->output_width,
                                 .x = n->layers[output->layer].y,
                                 .y = logits_out + o};
        n->compute->copy(n->pool, &c);
    }
}

enum err network_infer(struct network *n, const struct batch *b,
                       const struct network_values *values, float *logits_out)
{
    struct layer_pass pass;
    enum err err = begin(n, b, values, NULL, &pass);
    if (err == ERR_NONE && b->example_count > 0)
        forward(n, &pass, logits_out);
    return err;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* An output's labels in the batch, and from one to the next. */
static const float *labels_of(const struct batch *b, const struct model_output *o, uint32_t *stride)
{
    *stride = o->label > 0 ? b->more_label_count : 1;
    return o->label > 0 ? b->more_labels + (o->label - 1) : b->labels;
}

/* A label that the loss has no meaning for is an error of the input, not a gradient. */
static enum err check_labels(const struct model_output *o, const struct batch *b)
{
    uint32_t stride;
    const float *labels = labels_of(b, o, &stride);
    for (uint32_t i = 0; i < b->example_count; i++) {
        float label = labels[(size_t)i * stride];
        bool good = isfinite(label) && b->weights[i] >= 0 && isfinite(b->weights[i]);
        if (o->loss == LOSS_LOGISTIC)
            good = good && label >= 0 && label <= 1;
        else if (o->loss == LOSS_SOFTMAX)
            good = good && label >= 0 && label < (float)o->width && label == (float)(uint32_t)label;
        if (good)
            continue;
        static const char *const expected[] = {
            [LOSS_LOGISTIC] = "a label in [0, 1]",
            [LOSS_SQUARED] = "a finite label",
            [LOSS_SOFTMAX] = "a class below model.classes",
        };
        return err_set(ERR_INPUT,
                       "step %llu: example %u has label %g and weight %g; its loss needs "
                       "%s and a weight that is finite and not negative",
                       (unsigned long long)b->step, i, (double)label, (double)b->weights[i],
                       expected[o->loss]);
    }
    return ERR_NONE;
}

/* Fills the gradients of the outputs' layers. -> Σ of outputs' weight × loss */
static double losses(struct network *n, const struct batch *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < n->model->output_count; i++) {
        const struct model_output *o = &n->model->outputs[i];
        struct compute_loss loss = {
            .type = o->loss,
            .n = b->example_count,
            .width = o->width,
            .logits = n->layers[o->layer].y,
            .weights = b->weights,
            .scale = (float)o->weight,
            .gradient = n->layers[o->layer].gradient,
            .sums = n->loss_sums,
        };
        loss.labels = labels_of(b, o, &loss.label_stride);
        sum += o->weight * n->compute->loss(n->pool, &loss);
    }
    return sum;
}

/* Layers that read parts of this one's output add to its gradient, which begins at 0. */
static void clear_gradient(struct network *n, struct layer_pass *pass, struct layer *l)
{
    struct compute_copy zeros = {.n = pass->batch->example_count,
                                 .width = l->spec->out_width,
                                 .y_stride = l->spec->out_width,
                                 .y = l->gradient};
    n->compute->copy(n->pool, &zeros);
}

static void backward(struct network *n, struct layer_pass *pass)
{
    for (uint32_t i = n->model->layer_count; i-- > 0;) {
        struct layer *l = &n->layers[i];
        for (uint32_t k = 0; k < l->spec->in_count; k++)
            if (l->in[k].clears)
                clear_gradient(n, pass, &n->layers[l->spec->in[k].layer]);
        if (n->trains[i])
            layer_kind_find(l->spec->type)->backward(pass, l);
    }
}

static void clear_gradients(const struct model *m, const struct batch *b,
                            const struct network_gradients *g)
{
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        size_t count = (size_t)b->tables[t].key_count * m->schema->tables[t].dim;
        if (count > 0)
            memset(g->rows[t], 0, count * sizeof(float));
    }
    for (uint32_t p = 0; p < m->schema->dense_count; p++)
        memset(g->dense[p], 0, m->schema->dense[p].count * sizeof(float));
}

static bool all_finite(struct network *n, const struct batch *b, const struct network_gradients *g)
{
    const struct schema *s = n->model->schema;
    bool finite = true;
    for (uint32_t t = 0; finite && t < s->table_count; t++)
        finite = n->compute->finite(n->pool, g->rows[t],
                                    (size_t)b->tables[t].key_count * s->tables[t].dim);
    for (uint32_t p = 0; finite && p < s->dense_count; p++)
        finite = n->compute->finite(n->pool, g->dense[p], s->dense[p].count);
    return finite;
}

enum err network_train(struct network *n, const struct batch *b, uint64_t first_example,
                       const struct network_values *values,
                       const struct network_gradients *gradients, float *logits_out,
                       double *loss_out, bool *finite_out)
{
    struct layer_pass pass;
    enum err err = begin(n, b, values, gradients, &pass);
    for (uint32_t o = 0; err == ERR_NONE && o < n->model->output_count; o++)
        err = check_labels(&n->model->outputs[o], b);
    if (err != ERR_NONE)
        return err;
    if (b->example_count == 0) {
        clear_gradients(n->model, b, gradients);
        *loss_out = 0;
        *finite_out = true;
        return ERR_NONE;
    }
    pass.first_example = first_example;
    forward(n, &pass, logits_out);
    *loss_out = losses(n, b);
    backward(n, &pass);
    *finite_out = all_finite(n, b, gradients);
    return ERR_NONE;
}

/* ---- what is left for the trainer ------------------------------------------------------------ */

/* Number i goes to lane i % 8, as in worker/compute_cpu_dense.c. */
static double squares(const float *x, size_t count)
{
    double lanes[8] = {0};
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (size_t k = 0; k < 8; k++)
            lanes[k] += (double)x[i + k] * (double)x[i + k];
    for (size_t k = 0; i + k < count; k++)
        lanes[k] += (double)x[i + k] * (double)x[i + k];
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

static void scale_by(float *x, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

double network_clip(const struct model *m, const struct batch *b,
                    const struct network_gradients *gradients, double norm)
{
    const struct schema *s = m->schema;
    double sum = 0;
    for (uint32_t t = 0; t < s->table_count; t++)
        sum += squares(gradients->rows[t], (size_t)b->tables[t].key_count * s->tables[t].dim);
    for (uint32_t p = 0; p < s->dense_count; p++)
        sum += squares(gradients->dense[p], s->dense[p].count);
    double found = __builtin_sqrt(sum);
    if (!(norm > 0 && found > norm && isfinite(found)))
        return found;
    float factor = (float)(norm / found);
    for (uint32_t t = 0; t < s->table_count; t++)
        scale_by(gradients->rows[t], (size_t)b->tables[t].key_count * s->tables[t].dim, factor);
    for (uint32_t p = 0; p < s->dense_count; p++)
        scale_by(gradients->dense[p], s->dense[p].count, factor);
    return found;
}

struct network_metric network_metric(const struct model *m, const struct batch *b,
                                     const float *logits, float *logit_room, float *label_room)
{
    const struct model_output *o = &m->outputs[m->metric_output];
    uint32_t stride;
    const float *labels = labels_of(b, o, &stride);
    if (m->output_count == 1)
        return (struct network_metric){logits, b->labels};
    for (uint32_t i = 0; i < b->example_count; i++) {
        logit_room[i] = logits[(size_t)i * m->output_width + m->metric_output];
        label_room[i] = labels[(size_t)i * stride];
    }
    return (struct network_metric){logit_room, label_room};
}

double network_loss(const struct model *m, const float *logits, float label)
{
    switch (m->loss) {
    case LOSS_LOGISTIC:
        return fmath_logistic_loss(*logits, label);
    case LOSS_SQUARED:
        return fmath_squared_loss(*logits, label);
    case LOSS_SOFTMAX:
        CHECK(label >= 0 && label < (float)m->output_width);
        return fmath_softmax_loss(logits, m->output_width, (uint32_t)label);
    }
    CHECK(false);
}

static void predict_softmax(const float *logits, uint32_t width, float *prediction)
{
    float largest = logits[0], sum = 0;
    for (uint32_t j = 1; j < width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    for (uint32_t j = 0; j < width; j++)
        sum += prediction[j] = fmath_exp(logits[j] - largest);
    for (uint32_t j = 0; j < width; j++)
        prediction[j] /= sum;
}

void network_predict(const struct model *m, const float *logits, float *prediction)
{
    for (uint32_t o = 0; o < m->output_count; o++) {
        if (m->outputs[o].loss == LOSS_SOFTMAX)
            predict_softmax(logits, m->output_width, prediction);
        else
            prediction[o] =
                m->outputs[o].loss == LOSS_LOGISTIC ? fmath_sigmoid(logits[o]) : logits[o];
    }
}
