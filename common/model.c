#include "common/model.h"

#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/model_builder.h"
#include "common/str.h"

/* Values of one parameter: a matrix of 16 GiB, which a worker and a server hold several times. */
#define PARAMETER_VALUES_MAX (UINT64_C(1) << 32)

static const struct init_spec init_embedding = {INIT_NORMAL, 0.01};
static const struct init_spec init_zero = {INIT_ZERO, 0};

static enum err make_arrays(struct model_builder *b);
static enum err check_outputs(const struct job *j);
static enum err make_components(struct model_builder *b);
static enum err make_inputs(struct model_builder *b);
static enum err make_layers(struct model_builder *b);

enum err model_create(const struct job *j, const struct features_spec *features, struct model **out)
{
    struct model_builder b = {.job = j, .features = features, .input = UINT32_MAX};
    struct job_layers list = {0};
    struct model *m = b.model = mem_calloc(1, sizeof *m);
    if (m == NULL)
        return ERR_MEMORY;
    enum err err = check_outputs(j);
    if (err == ERR_NONE)
        err = model_preset_layers(j, features, &list);
    b.list = list.items;
    b.list_count = list.count;
    b.is_preset = j->model.type != MODEL_LAYERS;
    if (err == ERR_NONE)
        err = make_arrays(&b);
    if (err == ERR_NONE)
        err = make_components(&b);
    if (err == ERR_NONE)
        err = make_inputs(&b);
    if (err == ERR_NONE)
        err = make_layers(&b);
    if (err == ERR_NONE)
        err = schema_finish(m->schema, j->seed);
    mem_free(b.values);
    job_layers_deinit(&list);
    if (err != ERR_NONE) {
        model_destroy(m);
        return err;
    }
    *out = m;
    return ERR_NONE;
}

void model_destroy(struct model *m)
{
    if (m == NULL)
        return;
    schema_destroy(m->schema);
    mem_free(m->layers);
    mem_free(m->outputs);
    mem_free(m->embedding_offset);
    mem_free(m->slot_count);
    mem_free(m);
}

/* ---- what there is before the layers --------------------------------------------------------- */

static enum err check_outputs(const struct job *j)
{
    const struct job_model *m = &j->model;
    if (m->loss == LOSS_SOFTMAX && m->classes < 2)
        return err_set(ERR_INPUT, "model.classes: %u, and loss softmax needs at least 2",
                       m->classes);
    return ERR_NONE;
}

static enum err name_tables(struct model_builder *b)
{
    const struct features_spec *f = b->features;
    struct model *m = b->model;
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        struct schema_table *table = &m->schema->tables[t];
        size_t size = strlen(f->tables[t].name);
        if (size > NAME_MAX_BYTES)
            return err_set(ERR_LIMIT,
                           "tables: the name '%.40s…' has %zu bytes, and at most %u are "
                           "allowed",
                           f->tables[t].name, size, NAME_MAX_BYTES);
        memcpy(table->name, f->tables[t].name, size + 1);
        table->max_rows = f->tables[t].job != NULL ? f->tables[t].job->max_rows : 0;
        m->slot_count[t] = f->tables[t].slot_count;
    }
    return ERR_NONE;
}

static enum err make_arrays(struct model_builder *b)
{
    const struct features_spec *f = b->features;
    const struct job_model *j = &b->job->model;
    struct model *m = b->model;
    if (f->table_count > TABLE_MAX)
        return err_set(ERR_LIMIT,
                       "features: %zu tables, and a model has at most %u; let features "
                       "share tables",
                       f->table_count, TABLE_MAX);
    uint32_t count = (uint32_t)f->table_count;
    m->dense_width = f->dense_width;
    m->loss = j->loss;
    m->normalize = j->normalize;
    m->metric_output = b->job->eval.output_index;
    m->metric_width = m->loss == LOSS_SOFTMAX ? j->classes : 1;
    m->output_count = j->output_count > 0 ? (uint32_t)j->output_count : 1;
    m->output_width = j->output_count > 0 ? m->output_count : m->metric_width;
    m->outputs = mem_calloc(m->output_count, sizeof *m->outputs);
    m->schema = mem_calloc(1, sizeof *m->schema);
    if (m->schema == NULL)
        return ERR_MEMORY;
    m->schema->tables = mem_calloc(count, sizeof *m->schema->tables);
    m->embedding_offset = mem_calloc(count, sizeof *m->embedding_offset);
    m->slot_count = mem_calloc(count, sizeof *m->slot_count);
    b->values = mem_calloc(b->list_count + 1, sizeof *b->values);
    if (m->schema->tables == NULL || m->embedding_offset == NULL || m->slot_count == NULL ||
        b->values == NULL || m->outputs == NULL)
        return ERR_MEMORY;
    m->schema->table_count = count;
    return name_tables(b);
}

/* ---- components of tables -------------------------------------------------------------------- */

/* What the layers of the list read of tables and of the dense input. */
struct uses {
    bool wide, embeddings, dense;
    const struct job_layer *terms; /* with the linear terms and their vectors */
    const struct job_layer *more;  /* a second one of that type */
};

static bool is_embeddings(const char *name)
{
    return strcmp(name, "embeddings") == 0 || strncmp(name, "embeddings(", 11) == 0;
}

static struct uses find_uses(const struct model_builder *b)
{
    struct uses uses = {0};
    for (size_t i = 0; i < b->list_count; i++) {
        const struct job_layer *l = &b->list[i];
        if (l->type == JOB_LAYER_TERMS && uses.terms != NULL)
            uses.more = l;
        else if (l->type == JOB_LAYER_TERMS)
            uses.terms = l;
        for (size_t k = 0; k < l->in.count; k++) {
            uses.wide = uses.wide || strcmp(l->in.items[k], "wide") == 0;
            uses.dense = uses.dense || strcmp(l->in.items[k], "dense") == 0;
            uses.embeddings = uses.embeddings || is_embeddings(l->in.items[k]);
        }
    }
    return uses;
}

static struct schema_component *add_component(struct model_builder *b, uint32_t table,
                                              const char *name)
{
    struct schema_table *t = &b->model->schema->tables[table];
    CHECK(t->component_count < COMPONENT_MAX);
    struct schema_component *c = &t->components[t->component_count++];
    CHECK(strlen(name) < sizeof c->name);
    memcpy(c->name, name, strlen(name) + 1);
    const struct job_table *job = b->features->tables[table].job;
    c->l2 = job != NULL && job->has_l2 ? job->l2 : b->job->model.l2;
    return c;
}

static void add_linear(struct model_builder *b, uint32_t table)
{
    struct schema_component *c = add_component(b, table, "w");
    c->dim = 1;
    c->optimizer = b->job->optimizer.linear;
    c->init = init_zero;
}

static void add_vectors(struct model_builder *b, uint32_t table, uint32_t dim)
{
    struct schema_component *c = add_component(b, table, "v");
    const struct job_table *job = b->features->tables[table].job;
    c->dim = dim;
    bool own_optimizer = job != NULL && job->has_optimizer;
    c->optimizer = own_optimizer ? job->optimizer : b->job->optimizer.embedding;
    c->init = job != NULL && job->has_init ? job->init : init_embedding;
}

uint32_t model_embedding_dim(const struct model_builder *b, uint32_t table)
{
    const struct job_table *job = b->features->tables[table].job;
    return job != NULL && job->dim > 0 ? job->dim : b->job->model.dim;
}

/* Pairs of terms multiply vectors of all tables. */
static enum err check_pair_dims(const struct model_builder *b, const struct job_layer *l)
{
    for (uint32_t t = 0; t < b->model->schema->table_count; t++) {
        uint32_t dim = model_embedding_dim(b, t);
        if (dim != b->job->model.dim)
            return err_set(ERR_INPUT,
                           "tables.%s.dim: %u, and %s multiplies rows of all tables, so all "
                           "have model.dim, which is %u",
                           b->features->tables[t].name, dim,
                           b->is_preset ? model_type_name(b->job->model.type) : l->name,
                           b->job->model.dim);
    }
    return ERR_NONE;
}

/* Columns of LAYER_INPUT: each table's slots after the tables before it. */
static enum err place_embeddings(struct model_builder *b)
{
    struct model *m = b->model;
    uint64_t width = m->dense_width;
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        m->embedding_offset[t] = (uint32_t)width;
        width += (uint64_t)m->slot_count[t] * model_embedding_dim(b, t);
        if (width > INPUT_WIDTH_MAX)
            return err_set(ERR_LIMIT,
                           "tables.%s: with it the input of %s has more than %u floats an "
                           "example; use fewer features or a smaller dim",
                           m->schema->tables[t].name, model_type_name(b->job->model.type),
                           INPUT_WIDTH_MAX);
    }
    return ERR_NONE;
}

static enum err make_components(struct model_builder *b)
{
    const struct uses uses = find_uses(b);
    const struct model *m = b->model;
    uint32_t fields = 0;
    enum err err = ERR_NONE;
    for (uint32_t t = 0; t < m->schema->table_count; t++)
        fields += m->slot_count[t];
    if (uses.terms != NULL && (uses.embeddings || uses.wide))
        return layer_error(b, uses.terms, ERR_INPUT,
                           "has the tables' linear terms and vectors to itself, and another layer "
                           "reads %s; let that read the layer, or remove this one",
                           uses.wide ? "wide" : "embeddings");
    if (uses.more != NULL)
        return layer_error(b, uses.more, ERR_INPUT,
                           "has the tables' linear terms and the bias, and so has layer '%s'; let "
                           "what reads this one read that, and remove this one",
                           uses.terms->name);
    if (uses.terms != NULL && uses.terms->pairs != PAIRS_NONE)
        err = check_pair_dims(b, uses.terms);
    if (err == ERR_NONE && uses.embeddings)
        err = place_embeddings(b);
    for (uint32_t t = 0; err == ERR_NONE && t < m->schema->table_count; t++) {
        uint32_t dim = model_embedding_dim(b, t);
        uint64_t floats = dim;
        if (uses.terms != NULL && uses.terms->pairs == PAIRS_FFM)
            floats *= fields;
        if (floats >= ROW_DIM_MAX)
            return err_set(ERR_LIMIT,
                           "model.dim: %u for each of %u fields makes rows of more than %u "
                           "floats; use a smaller dim or fewer features",
                           dim, fields, ROW_DIM_MAX);
        if (uses.wide || uses.terms != NULL)
            add_linear(b, t);
        if (uses.embeddings || (uses.terms != NULL && uses.terms->pairs != PAIRS_NONE))
            add_vectors(b, t, (uint32_t)floats);
    }
    return err;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

/* The bias is a number and not a row, so it always exists; l1 would only pull it to 0. */
static enum err add_wide(struct model_builder *b)
{
    if (b->model->schema->table_count == 0)
        return err_set(ERR_INPUT, "features: none gives linear terms, and the model reads wide");
    static const struct job_layer wide = {.name = (char *)"wide", .type = JOB_LAYER_TERMS};
    struct model_refs none = {.count = 0};
    struct model_value *value = &b->values[b->value_count++];
    value->name = "wide";
    b->layer = &wide;
    return model_make_terms(b, &wide, &none, &value->ref);
}

static enum err make_inputs(struct model_builder *b)
{
    const struct uses uses = find_uses(b);
    const struct model *m = b->model;
    enum err err = ERR_NONE;
    uint64_t width = m->dense_width;
    for (uint32_t t = 0; uses.embeddings && t < m->schema->table_count; t++)
        width += (uint64_t)m->slot_count[t] * model_embedding_dim(b, t);
    if (width > INPUT_WIDTH_MAX)
        return err_set(ERR_LIMIT,
                       "model: the dense input has %llu floats an example, and at most %u are "
                       "allowed",
                       (unsigned long long)width, INPUT_WIDTH_MAX);
    if (width > 0 && (uses.embeddings || uses.dense)) {
        struct model_refs none = {.count = 0};
        struct model_layer layer = model_layer_init(LAYER_INPUT, "input", &none, (uint32_t)width);
        struct model_ref all;
        err = model_add_layer(b, &layer, &all);
        b->input = all.layer;
    }
    return err == ERR_NONE && uses.wide ? add_wide(b) : err;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static enum err unread_table(const struct model_builder *b, uint32_t table)
{
    const struct features_spec *f = b->features;
    for (size_t i = 0; i < f->feature_count; i++)
        if (f->features[i].gives_terms && f->features[i].table == table)
            return err_set(ERR_INPUT,
                           "features.%s: no layer reads its table '%s'; let one read embeddings "
                           "or wide, or remove the feature",
                           f->features[i].name, f->tables[table].name);
    return err_set(ERR_INPUT, "tables.%s: no layer reads it; let one read embeddings or wide",
                   f->tables[table].name);
}

static enum err check_unread(const struct model_builder *b)
{
    const struct schema *s = b->model->schema;
    for (uint32_t t = 0; t < s->table_count; t++)
        if (s->tables[t].component_count == 0)
            return unread_table(b, t);
    for (size_t i = 0; i < b->value_count; i++) {
        const struct model_value *v = &b->values[i];
        if (!v->is_read)
            return err_set(ERR_INPUT, "model.layers.%s: no layer reads it; let one, or remove it",
                           v->name);
    }
    return ERR_NONE;
}

/* The whole of the last layer. */
static enum err make_output(struct model_builder *b)
{
    struct model_value *last = &b->values[b->value_count - 1];
    const struct model *m = b->model;
    last->is_read = true;
    if (last->ref.width != m->output_width || last->ref.first != 0 ||
        last->ref.width != m->layers[last->ref.layer].out_width)
        return layer_error(b, &b->list[b->list_count - 1], ERR_INPUT,
                           "gives %u numbers, and as the last layer it gives the model's output, "
                           "which is %u (model.loss, model.classes); end with a linear layer of "
                           "that many units",
                           last->ref.width, m->output_width);
    m->outputs[0] = (struct model_output){.name = last->name,
                                          .layer = last->ref.layer,
                                          .width = m->output_width,
                                          .loss = m->loss,
                                          .weight = 1};
    return ERR_NONE;
}

static enum err make_outputs(struct model_builder *b)
{
    const struct job_model *j = &b->job->model;
    const struct model *m = b->model;
    if (j->output_count == 0)
        return make_output(b);
    for (uint32_t i = 0; i < m->output_count; i++) {
        const struct job_output *o = &j->outputs[i];
        struct model_value *v = NULL;
        for (size_t k = 0; k < b->value_count; k++)
            if (strcmp(b->values[k].name, o->from) == 0)
                v = &b->values[k];
        if (v == NULL)
            return err_set(ERR_INPUT, "model.outputs[%u].from: '%s' is no layer", i, o->from);
        if (v->ref.width != 1 || m->layers[v->ref.layer].out_width != 1)
            return err_set(ERR_INPUT,
                           "model.outputs[%u].from: '%s' gives %u numbers, and an output has one; "
                           "put a linear layer with units: 1 over it",
                           i, o->from, v->ref.width);
        for (uint32_t k = 0; k < i; k++)
            if (m->outputs[k].layer == v->ref.layer)
                return err_set(ERR_INPUT, "model.outputs[%u].from: '%s' is an output already", i,
                               o->from);
        v->is_read = true;
        m->outputs[i] = (struct model_output){.name = o->from,
                                              .layer = v->ref.layer,
                                              .width = 1,
                                              .loss = o->loss,
                                              .label = o->label_index,
                                              .weight = o->weight};
    }
    return ERR_NONE;
}

static enum err make_layers(struct model_builder *b)
{
    enum err err = ERR_NONE;
    for (size_t i = 0; err == ERR_NONE && i < b->list_count; i++) {
        b->layer = &b->list[i];
        err = model_add_job_layer(b, b->layer);
    }
    if (err == ERR_NONE)
        err = make_outputs(b);
    return err == ERR_NONE && !b->is_preset ? check_unread(b) : err;
}

/* ---- what layers are made of ----------------------------------------------------------------- */

/* Layers that are made of others give those names of their own: NAME0, NAME1, … */
static enum err check_parameter(const struct model_builder *b, const char *name,
                                const struct model_parameter *p)
{
    const struct schema *s = b->model->schema;
    if ((uint64_t)p->rows * p->columns > PARAMETER_VALUES_MAX)
        return layer_error(b, b->layer, ERR_LIMIT,
                           "has %llu values in '%s', of %u rows and %u columns, and at most %llu "
                           "are allowed; let it read or give fewer numbers",
                           (unsigned long long)p->rows * p->columns, name, p->rows, p->columns,
                           (unsigned long long)PARAMETER_VALUES_MAX);
    for (uint32_t i = 0; i < s->dense_count; i++)
        if (strcmp(s->dense[i].name, name) == 0)
            return layer_error(b, b->layer, ERR_INPUT,
                               "has a parameter '%s', and a layer before it has one of that name; "
                               "rename one of them",
                               name);
    return ERR_NONE;
}

enum err model_add_parameter(struct model_builder *b, const struct model_parameter *p,
                             uint32_t *index)
{
    struct schema *s = b->model->schema;
    if (s->dense_count == DENSE_MAX)
        return err_set(ERR_LIMIT, "model: more than %u dense parameters; use fewer layers",
                       DENSE_MAX);
    if (!mem_grow(s->dense, b->dense_capacity, s->dense_count + 1))
        return ERR_MEMORY;
    struct schema_dense *d = &s->dense[s->dense_count];
    *d = (struct schema_dense){0};
    struct str name = {0};
    if (p->layer != NULL) {
        str_append(&name, p->layer);
        str_append(&name, ".");
    }
    str_append(&name, p->part);
    CHECK(name.size < sizeof d->name);
    memcpy(d->name, name.data, name.size + 1);
    str_deinit(&name);
    enum err err = check_parameter(b, d->name, p);
    if (err != ERR_NONE)
        return err;
    uint32_t shape = 0;
    if (p->rows > 0)
        d->shape[shape++] = p->rows;
    d->shape[shape++] = p->columns;
    d->shape_count = shape;
    d->fan_in = p->rows > 0 ? p->rows : 1;
    d->fan_out = p->columns;
    d->init = p->init;
    d->optimizer = *p->optimizer;
    *index = s->dense_count++;
    return ERR_NONE;
}

enum err model_add_layer(struct model_builder *b, const struct model_layer *layer,
                         struct model_ref *out)
{
    struct model *m = b->model;
    if (m->layer_count == LAYER_MAX)
        return err_set(ERR_LIMIT, "model: more than %u layers; use fewer hidden layers", LAYER_MAX);
    for (uint32_t i = 0; i < layer->in_count; i++) {
        const struct model_ref *r = &layer->in[i];
        CHECK(r->layer < m->layer_count && r->width > 0 &&
              r->first + r->width <= m->layers[r->layer].out_width);
    }
    if (!mem_grow(m->layers, b->layer_capacity, m->layer_count + 1))
        return ERR_MEMORY;
    *out = (struct model_ref){m->layer_count, 0, layer->out_width};
    m->layers[m->layer_count++] = *layer;
    return ERR_NONE;
}
