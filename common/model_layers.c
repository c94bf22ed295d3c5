#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/model_builder.h"
#include "common/str.h"

static const struct model_layer_kind kinds[] = {
    {JOB_LAYER_LINEAR, model_make_linear},
    {JOB_LAYER_MLP, model_make_mlp},
    {JOB_LAYER_CROSS, model_make_cross},
    {JOB_LAYER_FM, model_make_fm},
    {JOB_LAYER_DOT, model_make_dot},
    {JOB_LAYER_CONCAT, model_make_concat},
    {JOB_LAYER_SUM, model_make_sum},
    {JOB_LAYER_NORM, model_make_norm},
    {JOB_LAYER_ACTIVATION, model_make_activation},
    {JOB_LAYER_DROPOUT, model_make_dropout},
    {JOB_LAYER_TERMS, model_make_terms},
};

/* ---- what a layer reads ---------------------------------------------------------------------- */

/* Ranges of one layer that lie side by side are one. */
static enum err append_ref(const struct model_builder *b, const struct job_layer *l,
                           struct model_refs *refs, struct model_ref ref)
{
    struct model_ref *last = refs->count > refs->closed ? &refs->items[refs->count - 1] : NULL;
    if (ref.width > INPUT_WIDTH_MAX - refs->width)
        return layer_error(b, l, ERR_LIMIT,
                           "reads more than %u numbers an example; let it read fewer, or smaller "
                           "layers",
                           INPUT_WIDTH_MAX);
    refs->width += ref.width;
    if (last != NULL && last->layer == ref.layer && last->first + last->width == ref.first) {
        last->width += ref.width;
        return ERR_NONE;
    }
    if (refs->count == LAYER_REF_MAX)
        return layer_error(b, l, ERR_LIMIT,
                           "reads more than %u separate ranges; put features that belong together "
                           "next to each other",
                           LAYER_REF_MAX);
    refs->items[refs->count++] = ref;
    return ERR_NONE;
}

/* The slot `slot` of table `t` is of the feature that has it. */
static const struct feature_spec *slot_feature(const struct model_builder *b, uint32_t table,
                                               uint32_t slot)
{
    for (size_t i = 0; i < b->features->feature_count; i++) {
        const struct feature_spec *f = &b->features->features[i];
        if (f->gives_terms && f->table == table && f->slot == slot)
            return f;
    }
    return NULL;
}

/* embeddings, or embeddings(PATTERN): pattern NULL is all. */
static enum err append_embeddings(const struct model_builder *b, const struct job_layer *l,
                                  const char *pattern, struct model_refs *refs)
{
    const struct model *m = b->model;
    uint32_t before = refs->width;
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        uint32_t dim = model_embedding_dim(b, t);
        for (uint32_t s = 0; s < m->slot_count[t]; s++) {
            const struct feature_spec *f = pattern != NULL ? slot_feature(b, t, s) : NULL;
            if (pattern != NULL && (f == NULL || !str_glob_match(pattern, f->name)))
                continue;
            struct model_ref ref = {b->input, m->embedding_offset[t] + s * dim, dim};
            enum err err = append_ref(b, l, refs, ref);
            if (err != ERR_NONE)
                return err;
        }
    }
    if (refs->width > before)
        return ERR_NONE;
    if (pattern == NULL)
        return layer_error(b, l, ERR_INPUT,
                           "reads embeddings, and no feature is categorical; remove it from 'in'");
    return layer_error(b, l, ERR_INPUT,
                       "reads embeddings(%s), which no categorical feature matches", pattern);
}

static enum err unknown_input(const struct model_builder *b, const struct job_layer *l,
                              const char *name)
{
    const char *names[LAYER_MAX + 5] = {"dense", "embeddings", "wide"};
    size_t count = 3;
    for (size_t i = 0; i < b->value_count; i++)
        names[count++] = b->values[i].name;
    for (size_t i = 0; i < b->list_count; i++)
        if (strcmp(b->list[i].name, name) == 0)
            return layer_error(b, l, ERR_INPUT,
                               "reads '%s', which stands %s; a layer reads those before it", name,
                               &b->list[i] == l ? "for itself" : "after it");
    const char *nearest = str_nearest(name, names);
    return layer_error(b, l, ERR_INPUT,
                       "reads '%s', which is no layer%s%s%s; there are dense, embeddings, "
                       "embeddings(PATTERN), wide and the layers before it",
                       name, nearest != NULL ? "; did you mean '" : "",
                       nearest != NULL ? nearest : "", nearest != NULL ? "'?" : "");
}

static enum err append_named(struct model_builder *b, const struct job_layer *l, const char *name,
                             struct model_refs *refs)
{
    for (size_t i = 0; i < b->value_count; i++) {
        if (strcmp(b->values[i].name, name) == 0) {
            b->values[i].is_read = true;
            return append_ref(b, l, refs, b->values[i].ref);
        }
    }
    return unknown_input(b, l, name);
}

static enum err append_input(struct model_builder *b, const struct job_layer *l, const char *name,
                             struct model_refs *refs)
{
    size_t size = strlen(name);
    if (strcmp(name, "dense") == 0) {
        if (b->model->dense_width == 0)
            return layer_error(b, l, ERR_INPUT,
                               "reads dense, and no feature gives a dense input (vectors do, and "
                               "numbers where no layer is of type terms); remove it from 'in'");
        return append_ref(b, l, refs, (struct model_ref){b->input, 0, b->model->dense_width});
    }
    if (strcmp(name, "embeddings") == 0)
        return append_embeddings(b, l, NULL, refs);
    if (strncmp(name, "embeddings(", 11) == 0 && name[size - 1] == ')') {
        char *pattern = must_format("%.*s", (int)(size - 12), name + 11);
        enum err err = append_embeddings(b, l, pattern, refs);
        mem_free(pattern);
        return err;
    }
    return append_named(b, l, name, refs);
}

/* ---- a layer of the list --------------------------------------------------------------------- */

enum err model_add_job_layer(struct model_builder *b, const struct job_layer *l)
{
    struct model_refs in = {.count = 0};
    struct model_ref out = {0, 0, 0};
    if (l->type == JOB_LAYER_TERMS && l->in.count > 0)
        return layer_error(b, l, ERR_INPUT, "reads the features' terms and has no 'in'; remove it");
    if (l->type != JOB_LAYER_TERMS && l->in.count == 0)
        return layer_error(b, l, ERR_INPUT, "has an empty 'in'; name what it reads");
    for (size_t i = 0; i < l->in.count; i++) {
        in.closed = l->type == JOB_LAYER_SUM ? in.count : 0; /* each is an addend of its own */
        enum err err = append_input(b, l, l->in.items[i], &in);
        if (err != ERR_NONE)
            return err;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i].type != l->type)
            continue;
        enum err err = kinds[i].make(b, l, &in, &out);
        if (err == ERR_NONE)
            b->values[b->value_count++] = (struct model_value){.name = l->name, .ref = out};
        return err;
    }
    CHECK(!"the type has a row");
    return ERR_NONE;
}

enum err model_place_error(const struct model_builder *b, const struct job_layer *l, enum err code)
{
    if (b->is_preset)
        return err_prefix(code, "model.type: %s: its layer '%s'",
                          model_type_name(b->job->model.type), l->name);
    return err_prefix(code, "model.layers.%s", l->name);
}

/* ---- helpers --------------------------------------------------------------------------------- */

struct model_layer model_layer_init(enum layer_type type, const char *name,
                                    const struct model_refs *refs, uint32_t out_width)
{
    struct model_layer layer = {
        .type = type,
        .in_count = refs->count,
        .in_width = refs->width,
        .out_width = out_width,
        .dense = {MODEL_NO_PARAMETER, MODEL_NO_PARAMETER, MODEL_NO_PARAMETER},
    };
    size_t size = strlen(name);
    CHECK(size < sizeof layer.name && refs->count <= LAYER_REF_MAX);
    memcpy(layer.name, name, size + 1);
    memcpy(layer.in, refs->items, refs->count * sizeof refs->items[0]);
    return layer;
}

struct model_refs model_refs_of(struct model_ref ref)
{
    return (struct model_refs){.items = {ref}, .count = 1, .width = ref.width};
}

enum err model_join(struct model_builder *b, const char *name, const struct model_refs *in,
                    struct model_ref *out)
{
    if (in->count == 1) {
        *out = in->items[0];
        return ERR_NONE;
    }
    char *joined = must_format("%.50s.in", name);
    struct model_layer layer = model_layer_init(LAYER_CONCAT, joined, in, in->width);
    mem_free(joined);
    return model_add_layer(b, &layer, out);
}
