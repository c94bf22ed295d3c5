#include "worker/network.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "worker/area.h"
#include "worker/compute.h"
#include "worker/layer.h"
#include "worker/network_internal.h"

/* ---- making --------------------------------------------------------------------------------- */

/* Has a layer parameters of its own, or in the rows that it reads? */
static bool has_parameters(const struct model *m, const struct model_layer *spec)
{
    return spec->type == LAYER_INPUT ? spec->out_width > m->dense_width
                                     : spec->dense[0] != MODEL_NO_PARAMETER;
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
    l->out = network_floats(n, n->capacity, memory.out, &err);
    l->scratch = network_floats(n, n->capacity, memory.scratch, &err);
    n->trains[index] = has_parameters(n->model, l->spec);
    for (uint32_t k = 0; k < l->spec->in_count; k++)
        n->trains[index] = n->trains[index] || network_range_trains(n, &l->spec->in[k]);
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

/* Cuts one piece of memory; NULL: only its size. */
static void cut_result(const struct network *n, void *base, struct network_result *r)
{
    struct area_cutter c = {.base = base};
    uint32_t groups = compute_loss_groups(n->max_examples);
    r->bad = area_cut(&c, 1, sizeof *r->bad);
    r->loss_sums = area_cut(&c, (size_t)n->model->output_count * groups, sizeof *r->loss_sums);
    r->logits = area_cut(&c, (size_t)n->max_examples * n->model->output_width, sizeof(float));
    r->size = c.offset;
}

static enum err make_result(struct network *n)
{
    cut_result(n, NULL, &n->there);
    void *there = n->compute->alloc(n->device, n->there.size);
    if (there == NULL)
        return ERR_MEMORY;
    cut_result(n, there, &n->there);
    n->here = n->there;
    if (n->compute->shares_memory)
        return ERR_NONE;
    n->here = (struct network_result){0};
    void *here = n->compute->host_alloc(n->device, n->there.size);
    if (here == NULL)
        return ERR_MEMORY;
    cut_result(n, here, &n->here);
    struct staging_options o = {n->device, n->model, n->max_examples};
    return staging_create(&o, &n->staging);
}

/* What one layer gives for all examples must fit in the machine: else no later try will do. */
static enum err check_room(const struct network *n)
{
    uint64_t memory = n->compute->shares_memory ? machine_memory() : 0;
    for (uint32_t i = 0; memory > 0 && i < n->model->layer_count; i++) {
        const struct model_layer *l = &n->model->layers[i];
        uint64_t bytes = (uint64_t)n->capacity * l->out_width * sizeof(float);
        if (bytes > memory)
            return err_set(ERR_LIMIT,
                           "layer '%s' gives %u numbers an example, which is %.0f GiB for a rank's "
                           "part of train.batch_size, and the machine has %.0f GiB; use a smaller "
                           "train.batch_size, more train.ranks or a narrower layer",
                           l->name, l->out_width, (double)bytes / (1 << 30),
                           (double)memory / (1 << 30));
    }
    return ERR_NONE;
}

enum err network_create(const struct network_options *o, struct network **out)
{
    CHECK(o->model != NULL && o->max_examples > 0 && (o->compute != NULL || o->device != NULL));
    struct network *n = mem_calloc(1, sizeof *n);
    if (n == NULL)
        return ERR_MEMORY;
    n->model = o->model;
    n->host = (struct device){.compute = o->compute, .pool = o->pool};
    n->device = o->device != NULL ? o->device : &n->host;
    n->compute = n->device->compute;
    n->seed = o->seed;
    n->loss_scale = 1.0f;
    n->max_examples = o->max_examples;
    n->capacity = ((size_t)o->max_examples + 15) / 16 * 16;
    enum err err = check_room(n);
    if (err == ERR_NONE)
        err = make_result(n);
    if (err == ERR_NONE)
        err = make_layers(n);
    if (err == ERR_NONE)
        err = network_plan(n);
    if (err == ERR_NONE)
        err = make_tables(n);
    if (err != ERR_NONE) {
        network_destroy(n);
        return err_prefix(err, "network for %u examples", o->max_examples);
    }
    *out = n;
    return ERR_NONE;
}

/* Of a pass that was not finished, or a batch that was sent, something may be on its way. */
static void settle(struct network *n)
{
    n->compute->join(n->device);
    if (n->compute->fence(n->device) != ERR_NONE)
        log_warn("network", "a pass that nobody waited for failed: %s", err_text());
}

void network_destroy(struct network *n)
{
    if (n == NULL)
        return;
    const struct compute *c = n->compute;
    if (!c->shares_memory)
        settle(n);
    for (uint32_t i = 0; n->layers != NULL && i < n->model->layer_count; i++) {
        c->free(n->device, n->layers[i].out);
        c->free(n->device, n->layers[i].scratch);
    }
    for (uint32_t i = 0; n->gradients != NULL && i < n->model->layer_count; i++)
        c->free(n->device, n->gradients[i]);
    staging_destroy(n->staging);
    if (!c->shares_memory)
        c->host_free(n->device, n->here.bad);
    c->free(n->device, n->there.bad);
    mem_free(n->layers);
    mem_free(n->trains);
    mem_free(n->ins);
    mem_free(n->tables);
    mem_free(n->gradients);
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
    for (uint32_t t = 0; t < b->table_count; t++)
        CHECK(b->tables[t].slot_count == m->slot_count[t]);
    *pass = (struct layer_pass){
        .compute = n->compute,
        .device = n->device,
        .model = m,
        .batch = b,
        .tables = n->tables,
        .dense = values->dense,
        .dense_gradients = gradients != NULL ? gradients->dense : NULL,
        .seed = n->seed,
        .capacity = n->capacity,
        .training = gradients != NULL,
    };
    if (b->example_count == 0)
        return ERR_NONE;
    if (n->staging == NULL) {
        for (uint32_t t = 0; t < b->table_count; t++) {
            n->tables[t].terms = &b->tables[t];
            n->tables[t].rows = values->rows[t];
            n->tables[t].row_gradients = gradients != NULL ? gradients->rows[t] : NULL;
        }
        return ERR_NONE;
    }
    struct staging_view view;
    uint64_t start_ns = clock_ns();
    enum err err = staging_open(n->staging, b, values, gradients != NULL, n->tables, &view);
    n->upload_ns += clock_ns() - start_ns;
    if (err != ERR_NONE)
        return err;
    pass->batch = view.batch;
    pass->there = view.there;
    pass->dense = view.dense;
    pass->dense_gradients = gradients != NULL ? view.dense_gradients : NULL;
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
                                 .y = (n->staging != NULL ? n->there.logits : logits_out) + o};
        n->compute->copy(n->device, &c);
    }
}

/* Waits for what the pass leaves. */
static enum err collect(struct network *n, const struct batch *b, float *logits_out)
{
    if (n->staging == NULL)
        return ERR_NONE;
    n->compute->download(n->device, n->here.bad, n->there.bad, n->there.size);
    enum err err = n->compute->fence(n->device);
    if (err == ERR_NONE)
        memcpy(logits_out, n->here.logits,
               (size_t)b->example_count * n->model->output_width * sizeof *logits_out);
    return err;
}

enum err network_infer(struct network *n, const struct batch *b,
                       const struct network_values *values, float *logits_out)
{
    struct layer_pass pass;
    enum err err = begin(n, b, values, NULL, &pass);
    if (err != ERR_NONE || b->example_count == 0)
        return err;
    forward(n, &pass, logits_out);
    return collect(n, b, logits_out);
}

/* ---- backward ------------------------------------------------------------------------------- */

/* A label that the loss has no meaning for is an error of the input, not a gradient. */
static enum err check_labels(const struct model_output *o, const struct batch *b)
{
    uint32_t stride;
    const float *labels = network_labels(b, o, &stride);
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

/* Fills the gradients of the outputs' layers, and the sums of losses. */
static void losses(struct network *n, const struct batch *b)
{
    uint32_t groups = compute_loss_groups(n->max_examples);
    for (uint32_t i = 0; i < n->model->output_count; i++) {
        const struct model_output *o = &n->model->outputs[i];
        struct compute_loss loss = {
            .type = o->loss,
            .n = b->example_count,
            .width = o->width,
            .logits = n->layers[o->layer].y,
            .weights = b->weights,
            .scale = (float)o->weight * n->loss_scale,
            .gradient = n->layers[o->layer].gradient,
            .sums = n->there.loss_sums + (size_t)i * groups,
        };
        loss.labels = network_labels(b, o, &loss.label_stride);
        n->compute->loss(n->device, &loss);
    }
}

/* Layers that read parts of this one's output add to its gradient, which begins at 0. */
static void clear_gradient(struct network *n, struct layer_pass *pass, struct layer *l)
{
    struct compute_copy zeros = {.n = pass->batch->example_count,
                                 .width = l->spec->out_width,
                                 .y_stride = l->spec->out_width,
                                 .y = l->gradient};
    n->compute->copy(n->device, &zeros);
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

/* Takes the scale of the loss off all gradients, and looks for one that is not finite. */
static void check(struct network *n, const struct batch *b, float *const *rows, float *const *dense)
{
    const struct schema *s = n->model->schema;
    struct compute_copy clear = {.n = 1, .width = 1, .y = (float *)n->there.bad};
    n->compute->copy(n->device, &clear);
    struct compute_check c = {.scale = 1.0f / n->loss_scale, .bad = n->there.bad};
    for (uint32_t t = 0; t < s->table_count; t++) {
        c.x = rows[t];
        c.count = (size_t)b->tables[t].key_count * s->tables[t].dim;
        if (c.count > 0)
            n->compute->check(n->device, &c);
    }
    for (uint32_t p = 0; p < s->dense_count; p++) {
        c.x = dense[p];
        c.count = s->dense[p].count;
        n->compute->check(n->device, &c);
    }
}

enum err network_start(struct network *n, const struct batch *b, uint64_t first_example,
                       const struct network_values *values,
                       const struct network_gradients *gradients, float *logits_out)
{
    struct layer_pass pass;
    CHECK(n->batch == NULL);
    for (uint32_t o = 0; o < n->model->output_count; o++) {
        enum err err = check_labels(&n->model->outputs[o], b);
        if (err != ERR_NONE)
            return err;
    }
    enum err err = begin(n, b, values, gradients, &pass);
    if (err != ERR_NONE)
        return err;
    n->batch = b;
    n->given = gradients;
    n->logits_out = logits_out;
    if (b->example_count == 0) {
        clear_gradients(n->model, b, gradients);
        return ERR_NONE;
    }
    pass.first_example = first_example;
    forward(n, &pass, logits_out);
    losses(n, pass.batch);
    backward(n, &pass);
    if (n->staging == NULL) {
        check(n, b, gradients->rows, gradients->dense);
        return ERR_NONE;
    }
    check(n, b, staging_row_gradients(n->staging), pass.dense_gradients);
    staging_fetch(n->staging);
    return ERR_NONE;
}

enum err network_send(struct network *n, const struct batch *next)
{
    if (n->staging == NULL)
        return ERR_NONE;
    uint64_t start_ns = clock_ns();
    enum err err = staging_send(n->staging, next);
    n->upload_ns += clock_ns() - start_ns;
    return err;
}

enum err network_finish(struct network *n, double *loss_out, bool *finite_out)
{
    const struct batch *b = n->batch;
    CHECK(b != NULL);
    n->batch = NULL;
    double loss = 0;
    if (b->example_count > 0) {
        enum err err = collect(n, b, n->logits_out);
        if (err != ERR_NONE)
            return err;
        if (n->staging != NULL)
            staging_give(n->staging, n->given);
        uint32_t groups = compute_loss_groups(n->max_examples);
        for (uint32_t i = 0; i < n->model->output_count; i++)
            loss += n->model->outputs[i].weight *
                    compute_loss_total(n->here.loss_sums + (size_t)i * groups, b->example_count);
    }
    *loss_out = loss;
    *finite_out = b->example_count == 0 || *n->here.bad == 0;
    return ERR_NONE;
}

enum err network_train(struct network *n, const struct batch *b, uint64_t first_example,
                       const struct network_values *values,
                       const struct network_gradients *gradients, float *logits_out,
                       double *loss_out, bool *finite_out)
{
    enum err err = network_start(n, b, first_example, values, gradients, logits_out);
    return err == ERR_NONE ? network_finish(n, loss_out, finite_out) : err;
}

uint64_t network_upload_ns(const struct network *n)
{
    return n->upload_ns;
}

void network_set_loss_scale(struct network *n, float scale)
{
    n->loss_scale = scale;
}
