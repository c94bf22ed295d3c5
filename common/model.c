#include "common/model.h"

#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/model_presets.h"
#include "common/str.h"

static const struct init_spec init_embedding = {INIT_NORMAL, 0.01};

static enum err make_tables(struct model_builder *b)
{
    const struct features_spec *f = b->features;
    struct model *m = b->model;
    if (f->table_count > TABLE_MAX)
        return err_set(ERR_LIMIT,
                       "features: %zu tables, and a model has at most %u; let features "
                       "share tables",
                       f->table_count, TABLE_MAX);
    uint32_t count = (uint32_t)f->table_count;
    m->schema->tables = mem_calloc(count, sizeof *m->schema->tables);
    m->schema->dense = mem_calloc(DENSE_MAX, sizeof *m->schema->dense);
    m->layers = mem_calloc(LAYER_MAX, sizeof *m->layers);
    m->embedding_offset = mem_calloc(count, sizeof *m->embedding_offset);
    m->slot_count = mem_calloc(count, sizeof *m->slot_count);
    if (m->schema->tables == NULL || m->schema->dense == NULL || m->layers == NULL ||
        m->embedding_offset == NULL || m->slot_count == NULL)
        return ERR_MEMORY;
    m->schema->table_count = count;
    for (uint32_t t = 0; t < count; t++) {
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

static enum err check_outputs(const struct job *j)
{
    const struct job_model *m = &j->model;
    if (m->loss == LOSS_SOFTMAX && m->classes < 2)
        return err_set(ERR_INPUT, "model.classes: %u, and loss softmax needs at least 2",
                       m->classes);
    return ERR_NONE;
}

enum err model_create(const struct job *j, const struct features_spec *features, struct model **out)
{
    struct model *m = mem_calloc(1, sizeof *m);
    if (m == NULL)
        return ERR_MEMORY;
    enum err err = ERR_MEMORY;
    m->schema = mem_calloc(1, sizeof *m->schema);
    if (m->schema == NULL)
        goto fail;
    m->dense_width = features->dense_width;
    m->loss = j->model.loss;
    m->normalize = j->model.normalize;
    m->output_width = m->loss == LOSS_SOFTMAX ? j->model.classes : 1;

    struct model_builder b = {.job = j, .features = features, .model = m};
    const struct model_preset *preset = model_preset_find(j->model.type);
    CHECK(preset != NULL);
    if ((err = check_outputs(j)) != ERR_NONE || (err = make_tables(&b)) != ERR_NONE ||
        (err = preset->make(&b)) != ERR_NONE ||
        (err = schema_finish(m->schema, j->seed)) != ERR_NONE)
        goto fail;
    CHECK(m->layer_count > 0 && m->layers[m->layer_count - 1].out_width == m->output_width);
    *out = m;
    return ERR_NONE;
fail:
    model_destroy(m);
    return err;
}

void model_destroy(struct model *m)
{
    if (m == NULL)
        return;
    schema_destroy(m->schema);
    mem_free(m->layers);
    mem_free(m->embedding_offset);
    mem_free(m->slot_count);
    mem_free(m);
}

/* ---- what presets are made of ---------------------------------------------------------------- */

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

void model_add_linear(struct model_builder *b, uint32_t table)
{
    struct schema_component *c = add_component(b, table, "w");
    c->dim = 1;
    c->optimizer = b->job->optimizer.linear;
    c->init = (struct init_spec){.kind = INIT_ZERO};
}

void model_add_embedding(struct model_builder *b, uint32_t table)
{
    struct schema_component *c = add_component(b, table, "v");
    const struct job_table *job = b->features->tables[table].job;
    c->dim = model_embedding_dim(b, table);
    bool own_optimizer = job != NULL && job->has_optimizer;
    c->optimizer = own_optimizer ? job->optimizer : b->job->optimizer.embedding;
    c->init = job != NULL && job->has_init ? job->init : init_embedding;
}

uint32_t model_embedding_dim(const struct model_builder *b, uint32_t table)
{
    const struct job_table *job = b->features->tables[table].job;
    return job != NULL && job->dim > 0 ? job->dim : b->job->model.dim;
}

enum err model_add_parameter(struct model_builder *b, const struct model_parameter *p,
                             uint32_t *index)
{
    struct schema *s = b->model->schema;
    if (s->dense_count == DENSE_MAX)
        return err_set(ERR_LIMIT, "model: more than %u dense parameters; use fewer layers",
                       DENSE_MAX);
    struct schema_dense *d = &s->dense[s->dense_count];
    struct str name = {0};
    if (p->layer != NULL) {
        str_append(&name, p->layer);
        str_append(&name, ".");
    }
    str_append(&name, p->part);
    CHECK(name.size < sizeof d->name);
    memcpy(d->name, name.data, name.size + 1);
    str_deinit(&name);
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

enum err model_add_layer(struct model_builder *b, const struct model_layer *layer)
{
    struct model *m = b->model;
    if (m->layer_count == LAYER_MAX)
        return err_set(ERR_LIMIT, "model: more than %u layers; use fewer hidden layers", LAYER_MAX);
    CHECK(m->layer_count == 0 || m->layers[m->layer_count - 1].out_width == layer->in_width);
    m->layers[m->layer_count++] = *layer;
    return ERR_NONE;
}
