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
    struct compute_table *tables; /* [schema->table_count] */
    float *gradients[2];          /* [capacity][widest gradient] */
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

/* Does a layer have parameters of its own, so that what comes after it must give it a gradient? */
static bool trains(const struct model *m, const struct model_layer *spec)
{
    return spec->type == LAYER_INPUT ? spec->out_width > m->dense_width
                                     : spec->dense[0] != UINT32_MAX;
}

static enum err make_layers(struct network *n)
{
    const struct model *m = n->model;
    n->layers = mem_calloc(m->layer_count, sizeof *n->layers);
    if (n->layers == NULL)
        return ERR_MEMORY;
    enum err err = ERR_NONE;
    bool wants = false;
    size_t widest = m->output_width;
    for (uint32_t i = 0; i < m->layer_count; i++) {
        struct layer *l = &n->layers[i];
        l->spec = &m->layers[i];
        l->index = i;
        l->wants_gradient = wants;
        const struct layer_kind *kind = layer_kind_find(l->spec->type);
        CHECK(kind != NULL);
        struct layer_memory memory = kind->memory(m, l->spec);
        l->out = alloc_floats(n->capacity, memory.out, &err);
        l->scratch = alloc_floats(n->capacity, memory.scratch, &err);
        wants = wants || trains(m, l->spec);
        if (wants && l->spec->out_width > widest)
            widest = l->spec->out_width;
    }
    n->gradients[0] = alloc_floats(n->capacity, widest, &err);
    n->gradients[1] = alloc_floats(n->capacity, widest, &err);
    return err;
}

static enum err make_tables(struct network *n)
{
    const struct schema *s = n->model->schema;
    n->tables = mem_calloc(s->table_count, sizeof *n->tables);
    if (n->tables == NULL)
        return ERR_MEMORY;
    for (uint32_t t = 0; t < s->table_count; t++) {
        struct compute_table *table = &n->tables[t];
        table->dim = s->tables[t].dim;
        table->input_offset = n->model->embedding_offset[t];
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
    mem_free(n->layers);
    mem_free(n->tables);
    mem_free(n->gradients[0]);
    mem_free(n->gradients[1]);
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
        .gradient = n->gradients[0],
        .spare = n->gradients[1],
    };
    return ERR_NONE;
}

static void forward(struct network *n, struct layer_pass *pass, float *logits_out)
{
    const float *latest = NULL;
    for (uint32_t i = 0; i < n->model->layer_count; i++) {
        struct layer *l = &n->layers[i];
        l->x = latest;
        layer_kind_find(l->spec->type)->forward(pass, l);
        latest = l->y;
    }
    memcpy(logits_out, latest,
           (size_t)pass->batch->example_count * n->model->output_width * sizeof *logits_out);
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

/* A label that the loss has no meaning for is an error of the input, not a gradient. */
static enum err check_labels(const struct model *m, const struct batch *b)
{
    for (uint32_t i = 0; i < b->example_count; i++) {
        float label = b->labels[i];
        bool good = isfinite(label) && b->weights[i] >= 0 && isfinite(b->weights[i]);
        if (m->loss == LOSS_LOGISTIC)
            good = good && label >= 0 && label <= 1;
        else if (m->loss == LOSS_SOFTMAX)
            good = good && label >= 0 && label < (float)m->output_width &&
                   label == (float)(uint32_t)label;
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
                       expected[m->loss]);
    }
    return ERR_NONE;
}

static void backward(struct network *n, struct layer_pass *pass)
{
    for (uint32_t i = n->model->layer_count; i-- > 0;) {
        struct layer *l = &n->layers[i];
        layer_kind_find(l->spec->type)->backward(pass, l);
        if (!l->wants_gradient)
            return;
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
    if (err == ERR_NONE)
        err = check_labels(n->model, b);
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
    struct compute_loss loss = {
        .type = n->model->loss,
        .n = b->example_count,
        .width = n->model->output_width,
        .logits = n->layers[n->model->layer_count - 1].y,
        .labels = b->labels,
        .weights = b->weights,
        .gradient = pass.gradient,
        .sums = n->loss_sums,
    };
    *loss_out = n->compute->loss(n->pool, &loss);
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

void network_predict(const struct model *m, const float *logits, float *prediction)
{
    switch (m->loss) {
    case LOSS_LOGISTIC:
        *prediction = fmath_sigmoid(*logits);
        return;
    case LOSS_SQUARED:
        *prediction = *logits;
        return;
    case LOSS_SOFTMAX:
        break;
    }
    float largest = logits[0], sum = 0;
    for (uint32_t j = 1; j < m->output_width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    for (uint32_t j = 0; j < m->output_width; j++)
        sum += prediction[j] = fmath_exp(logits[j] - largest);
    for (uint32_t j = 0; j < m->output_width; j++)
        prediction[j] /= sum;
}
