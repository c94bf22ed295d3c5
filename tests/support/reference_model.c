#include "tests/support/reference_model.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"

struct example {
    const struct model *model;
    const struct batch *batch;
    const struct reference_values *values;
    const struct reference_options *options;
    uint32_t index;
    double **y; /* [layer_count] what each layer gives */
    double *x;  /* what the layer at hand reads, side by side; then what it gives */
};

static const struct schema_component *component(const struct schema_table *t, const char *name)
{
    for (uint32_t i = 0; i < t->component_count; i++) {
        if (strcmp(t->components[i].name, name) == 0)
            return &t->components[i];
    }
    return NULL;
}

/* ---- terms ---------------------------------------------------------------------------------- */

struct term {
    const double *row;
    const struct schema_table *table;
    uint32_t field;
    double x;
};

static uint32_t list_terms(const struct example *e, struct term *terms, uint32_t capacity)
{
    uint32_t count = 0;
    double squares = 0;
    uint32_t field = 0;
    for (uint32_t t = 0; t < e->batch->table_count; t++) {
        const struct batch_table *b = &e->batch->tables[t];
        const struct schema_table *s = &e->model->schema->tables[t];
        for (uint32_t slot = 0; slot < b->slot_count; slot++, field++) {
            uint32_t cell = e->index * b->slot_count + slot;
            for (uint32_t k = b->offsets[cell]; k < b->offsets[cell + 1]; k++) {
                CHECK(count < capacity);
                double x = b->values != NULL ? (double)b->values[k] : 1.0;
                terms[count++] =
                    (struct term){e->values->rows[t] + b->ids[k] * s->dim, s, field, x};
                squares += x * x;
            }
        }
    }
    if (e->model->normalize == NORMALIZE_INSTANCE && squares > 0)
        for (uint32_t k = 0; k < count; k++)
            terms[k].x /= sqrt(squares);
    return count;
}

/* The sum over pairs, pair by pair, as the definition has it. */
static void terms_layer(struct example *e, const struct model_layer *l)
{
    struct term terms[512];
    uint32_t count = list_terms(e, terms, 512);
    double logit = e->values->dense[l->dense[0]][0];
    for (uint32_t i = 0; i < count; i++) {
        logit += terms[i].row[component(terms[i].table, "w")->offset] * terms[i].x;
        for (uint32_t j = 0; l->factor_dim > 0 && j < i; j++) {
            const double *a = terms[i].row + component(terms[i].table, "v")->offset;
            const double *b = terms[j].row + component(terms[j].table, "v")->offset;
            if (l->type == LAYER_FIELD_TERMS) {
                a += terms[j].field * l->factor_dim;
                b += terms[i].field * l->factor_dim;
            }
            double product = 0;
            for (uint32_t k = 0; k < l->factor_dim; k++)
                product += a[k] * b[k];
            logit += product * terms[i].x * terms[j].x;
        }
    }
    e->x[0] = logit;
}

/* ---- deep layers ---------------------------------------------------------------------------- */

static void input_layer(struct example *e, const struct model_layer *l)
{
    const struct batch *b = e->batch;
    memset(e->x, 0, l->out_width * sizeof *e->x);
    for (uint32_t j = 0; j < b->dense_width; j++)
        e->x[j] = (double)b->dense[(size_t)e->index * b->dense_width + j];
    for (uint32_t t = 0; t < b->table_count; t++) {
        const struct batch_table *table = &b->tables[t];
        const struct schema_table *s = &e->model->schema->tables[t];
        const struct schema_component *v = component(s, "v");
        for (uint32_t slot = 0; slot < table->slot_count; slot++) {
            uint32_t cell = e->index * table->slot_count + slot;
            double *out = e->x + e->model->embedding_offset[t] + slot * v->dim;
            for (uint32_t k = table->offsets[cell]; k < table->offsets[cell + 1]; k++) {
                const double *row = e->values->rows[t] + table->ids[k] * s->dim + v->offset;
                double x = table->values != NULL ? (double)table->values[k] : 1.0;
                for (uint32_t j = 0; j < v->dim; j++)
                    out[j] += row[j] * x;
            }
        }
    }
}

static double activate(enum activation activation, double z)
{
    switch (activation) {
    case ACTIVATION_RELU:
        return z > 0 ? z : 0;
    case ACTIVATION_TANH:
        return tanh(z);
    case ACTIVATION_SIGMOID:
        return 1.0 / (1.0 + exp(-z));
    case ACTIVATION_NONE:
        break;
    }
    return z;
}

static void linear_layer(struct example *e, const struct model_layer *l)
{
    const double *weight = e->values->dense[l->dense[0]], *bias = e->values->dense[l->dense[1]];
    double *y = mem_calloc(l->out_width, sizeof *y);
    CHECK(y != NULL);
    for (uint32_t j = 0; j < l->out_width; j++) {
        for (uint32_t i = 0; i < l->in_width; i++)
            y[j] += e->x[i] * weight[(size_t)i * l->out_width + j];
        y[j] = activate(l->activation, y[j] + bias[j]);
    }
    memcpy(e->x, y, l->out_width * sizeof *y);
    mem_free(y);
}

static void norm_layer(struct example *e, const struct model_layer *l)
{
    double mean = 0, variance = 0;
    for (uint32_t j = 0; j < l->out_width; j++)
        mean += e->x[j] / l->out_width;
    for (uint32_t j = 0; j < l->out_width; j++)
        variance += (e->x[j] - mean) * (e->x[j] - mean) / l->out_width;
    for (uint32_t j = 0; j < l->out_width; j++)
        e->x[j] = (e->x[j] - mean) / sqrt(variance + 1e-5) * e->values->dense[l->dense[0]][j] +
                  e->values->dense[l->dense[1]][j];
}

static void dropout_layer(struct example *e, const struct model_layer *l, uint32_t layer)
{
    if (!e->options->training)
        return;
    uint64_t key = rng_at(rng_key(e->options->seed, "dropout", layer), e->batch->step);
    key = rng_at(key, e->options->first_example + e->index);
    for (uint32_t j = 0; j < l->out_width; j++) {
        bool dropped = rng_uniform(rng_at(key, j)) < (float)l->dropout;
        e->x[j] = dropped ? 0 : e->x[j] / (1.0 - l->dropout);
    }
}

static double dot(const double *a, const double *b, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* x stands before x0. */
static void cross_layer(struct example *e, const struct model_layer *l)
{
    uint32_t width = l->out_width, rank = l->low_rank;
    const double *weight = e->values->dense[l->dense[0]], *bias = e->values->dense[l->dense[1]];
    const double *x = e->x, *x0 = e->x + width;
    double *y = mem_calloc(width + rank, sizeof *y), *projected = y + width;
    CHECK(y != NULL);
    for (uint32_t j = 0; j < rank; j++)
        for (uint32_t i = 0; i < width; i++)
            projected[j] += x[i] * e->values->dense[l->dense[2]][(size_t)i * rank + j];
    for (uint32_t j = 0; j < width; j++) {
        double t = bias[j];
        for (uint32_t i = 0; i < (rank > 0 ? rank : width); i++)
            t += (rank > 0 ? projected[i] : x[i]) * weight[(size_t)i * width + j];
        y[j] = x0[j] * t + x[j];
    }
    memcpy(e->x, y, width * sizeof *y);
    mem_free(y);
}

static void vectors_layer(struct example *e, const struct model_layer *l)
{
    double *y = mem_calloc(l->out_width, sizeof *y);
    CHECK(y != NULL);
    uint32_t at = 0;
    for (uint32_t i = 0; i < l->vector_count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            y[at] += dot(e->x + i * l->factor_dim, e->x + j * l->factor_dim, l->factor_dim);
            at += l->type == LAYER_DOT;
        }
    }
    memcpy(e->x, y, l->out_width * sizeof *y);
    mem_free(y);
}

static void sum_layer(struct example *e, const struct model_layer *l)
{
    for (uint32_t k = 1; k < l->in_count; k++)
        for (uint32_t j = 0; j < l->out_width; j++)
            e->x[j] += e->x[k * l->out_width + j];
}

static void read_inputs(struct example *e, const struct model_layer *l)
{
    double *to = e->x;
    for (uint32_t k = 0; k < l->in_count; k++) {
        memcpy(to, e->y[l->in[k].layer] + l->in[k].first, l->in[k].width * sizeof *to);
        to += l->in[k].width;
    }
}

static void run_layer(struct example *e, uint32_t index)
{
    const struct model_layer *l = &e->model->layers[index];
    read_inputs(e, l);
    switch (l->type) {
    case LAYER_TERMS:
    case LAYER_FIELD_TERMS:
        terms_layer(e, l);
        break;
    case LAYER_CONCAT:
        break;
    case LAYER_SUM:
        sum_layer(e, l);
        break;
    case LAYER_CROSS:
        cross_layer(e, l);
        break;
    case LAYER_FM:
    case LAYER_DOT:
        vectors_layer(e, l);
        break;
    case LAYER_INPUT:
        input_layer(e, l);
        break;
    case LAYER_LINEAR:
        linear_layer(e, l);
        break;
    case LAYER_NORM:
        norm_layer(e, l);
        break;
    case LAYER_ACTIVATION:
        for (uint32_t j = 0; j < l->out_width; j++)
            e->x[j] = activate(l->activation, e->x[j]);
        break;
    case LAYER_DROPOUT:
        dropout_layer(e, l, index);
        break;
    }
    memcpy(e->y[index], e->x, l->out_width * sizeof *e->x);
}

/* ---- loss ----------------------------------------------------------------------------------- */

double reference_example_loss(const struct model *m, const double *logits, double label)
{
    double sum = 0;
    switch (m->loss) {
    case LOSS_LOGISTIC:
        return log1p(exp(-fabs(logits[0]))) + fabs(logits[0]) * (logits[0] > 0 ? 1 - label : label);
    case LOSS_SQUARED:
        return 0.5 * (logits[0] - label) * (logits[0] - label);
    case LOSS_SOFTMAX:
        for (uint32_t j = 0; j < m->output_width; j++)
            sum += exp(logits[j] - logits[0]);
        return log(sum) + logits[0] - logits[(uint32_t)label];
    }
    return 0;
}

static double output_loss(const struct model_output *o, const struct batch *b, uint32_t example,
                          const double *logits)
{
    struct model m = {.loss = o->loss, .output_width = o->width};
    float label = b->labels[example];
    if (o->label > 0)
        label = b->more_labels[(size_t)example * b->more_label_count + o->label - 1];
    return reference_example_loss(&m, logits, (double)label);
}

double reference_loss(const struct model *m, const struct batch *b,
                      const struct reference_values *v, const struct reference_options *o,
                      double *logits_out)
{
    uint32_t widest = 1;
    for (uint32_t l = 0; l < m->layer_count; l++) {
        uint32_t width = m->layers[l].out_width;
        for (uint32_t k = 0; k < m->layers[l].in_count; k++)
            width += m->layers[l].in[k].width;
        widest = width > widest ? width : widest;
    }
    struct example e = {.model = m, .batch = b, .values = v, .options = o};
    e.x = mem_calloc(widest, sizeof *e.x);
    e.y = mem_calloc(m->layer_count, sizeof *e.y);
    CHECK(e.x != NULL && e.y != NULL);
    for (uint32_t l = 0; l < m->layer_count; l++)
        CHECK((e.y[l] = mem_calloc(m->layers[l].out_width, sizeof **e.y)) != NULL);
    double loss = 0;
    for (; e.index < b->example_count; e.index++) {
        for (uint32_t l = 0; l < m->layer_count; l++)
            run_layer(&e, l);
        for (uint32_t k = 0; k < m->output_count; k++) {
            const struct model_output *output = &m->outputs[k];
            loss += (double)b->weights[e.index] * output->weight *
                    output_loss(output, b, e.index, e.y[output->layer]);
            if (logits_out != NULL)
                memcpy(logits_out + (size_t)e.index * m->output_width + k, e.y[output->layer],
                       output->width * sizeof *e.x);
        }
    }
    for (uint32_t l = 0; l < m->layer_count; l++)
        mem_free(e.y[l]);
    mem_free(e.y);
    mem_free(e.x);
    return loss;
}
