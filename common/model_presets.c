#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/model_builder.h"
#include "common/settings_codec.h"

struct preset {
    enum model_type type;
    enum err (*check)(const struct job *j, const struct features_spec *f);
    void (*make)(const struct job *j, const struct features_spec *f, struct job_layers *out);
};

/* ---- pieces ---------------------------------------------------------------------------------- */

#define INPUTS_MAX 4u

/* Names of what a layer reads; NULL is left out. */
struct inputs {
    const char *names[INPUTS_MAX];
};

#define IN(...)                                                                                    \
    (struct inputs)                                                                                \
    {                                                                                              \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }

/* Appends a layer. */
static struct job_layer *add(struct job_layers *out, const char *name, enum job_layer_type type,
                             struct inputs in)
{
    out->items = must_realloc(out->items, out->count + 1, sizeof *out->items);
    struct job_layer *l = &out->items[out->count++];
    *l = (struct job_layer){.name = must_strdup(name), .type = type};
    l->in.items = must_alloc(INPUTS_MAX * sizeof *l->in.items);
    for (uint32_t i = 0; i < INPUTS_MAX; i++)
        if (in.names[i] != NULL)
            l->in.items[l->in.count++] = must_strdup(in.names[i]);
    return l;
}

static void copy_widths(const struct width_list *from, uint32_t last, struct width_list *to)
{
    to->items = must_alloc((from->count + 1) * sizeof *to->items);
    to->count = from->count;
    if (from->count > 0)
        memcpy(to->items, from->items, from->count * sizeof *to->items);
    if (last > 0)
        to->items[to->count++] = last;
}

/* The inputs, as far as the features give them: NULL is left out. */
static const char *dense_of(const struct features_spec *f)
{
    return f->dense_width > 0 ? "dense" : NULL;
}

static const char *embeddings_of(const struct features_spec *f)
{
    return f->table_count > 0 ? "embeddings" : NULL;
}

/* The hidden layers over `in`, or nothing if there are none. */
static bool add_deep(const struct job *j, const char *name, struct inputs in,
                     struct job_layers *out)
{
    if (j->model.hidden.count == 0)
        return false;
    struct job_layer *l = add(out, name, JOB_LAYER_MLP, in);
    copy_widths(&j->model.hidden, 0, &l->hidden);
    l->activation = j->model.activation;
    l->dropout = j->model.dropout;
    l->layer_norm = j->model.layer_norm;
    return true;
}

static void add_output(const struct job *j, const char *name, struct inputs in,
                       struct job_layers *out)
{
    add(out, name, JOB_LAYER_LINEAR, in)->units =
        j->model.loss == LOSS_SOFTMAX ? j->model.classes : 1;
}

/* ---- lr, fm, ffm ----------------------------------------------------------------------------- */

static enum err check_terms(const struct job *j, const struct features_spec *f)
{
    const char *type = model_type_name(j->model.type);
    if (j->model.loss == LOSS_SOFTMAX)
        return err_set(ERR_INPUT,
                       "model.loss: softmax, and %s has one output; use logistic or squared, "
                       "or type mlp",
                       type);
    if (f->dense_width > 0)
        return err_set(ERR_INPUT,
                       "model.type: %s has no dense input, and the features give %u floats "
                       "of one (vectors); use type mlp",
                       type, f->dense_width);
    if (f->table_count == 0)
        return err_set(ERR_INPUT, "features: none, and %s needs at least one", type);
    return ERR_NONE;
}

static void make_lr(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    add(out, "lr", JOB_LAYER_TERMS, IN(NULL));
}

static void make_fm(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    add(out, "fm", JOB_LAYER_TERMS, IN(NULL))->pairs = PAIRS_FM;
}

static void make_ffm(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    add(out, "ffm", JOB_LAYER_TERMS, IN(NULL))->pairs = PAIRS_FFM;
}

/* ---- deep models ----------------------------------------------------------------------------- */

static enum err check_deep(const struct job *j, const struct features_spec *f)
{
    if (j->model.normalize != NORMALIZE_NONE)
        return err_set(ERR_INPUT, "model.normalize: instance is for lr, fm and ffm; use none, or "
                                  "layer_norm: true");
    if (!(j->model.dropout >= 0 && j->model.dropout < 1))
        return err_set(ERR_INPUT, "model.dropout: %g is not in [0, 1)", j->model.dropout);
    for (size_t i = 0; i < j->model.hidden.count; i++)
        if (j->model.hidden.items[i] == 0)
            return err_set(ERR_INPUT, "model.hidden[%zu]: 0, and a layer has at least 1 unit", i);
    if (f->dense_width == 0 && f->table_count == 0)
        return err_set(ERR_INPUT, "features: none, and %s needs at least one",
                       model_type_name(j->model.type));
    return ERR_NONE;
}

/* One number is added to the sum of linear terms; and there are such terms. */
static enum err check_wide(const struct job *j, const struct features_spec *f)
{
    enum err err = check_deep(j, f);
    if (err != ERR_NONE)
        return err;
    if (j->model.loss == LOSS_SOFTMAX)
        return err_set(ERR_INPUT,
                       "model.loss: softmax, and %s has one output; use logistic or squared, or "
                       "type mlp, or dcn or dlrm without wide",
                       model_type_name(j->model.type));
    if (f->table_count == 0)
        return err_set(ERR_INPUT, "features: none is categorical, and %s needs at least one",
                       model_type_name(j->model.type));
    return ERR_NONE;
}

/* The output of a model that may have a wide part beside it. */
static void add_outputs(const struct job *j, struct inputs in, struct job_layers *out)
{
    add_output(j, j->model.wide ? "deep_output" : "output", in, out);
    if (j->model.wide)
        add(out, "output", JOB_LAYER_SUM, IN("wide", "deep_output"));
}

static enum err check_dcn(const struct job *j, const struct features_spec *f)
{
    return j->model.wide ? check_wide(j, f) : check_deep(j, f);
}

static enum err check_embeddings(const struct job *j, const struct features_spec *f)
{
    enum err err = check_dcn(j, f);
    if (err == ERR_NONE && f->table_count == 0)
        return err_set(ERR_INPUT, "features: none is categorical, and %s needs at least one",
                       model_type_name(j->model.type));
    return err;
}

static void make_mlp(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    struct inputs in = IN(dense_of(f), embeddings_of(f));
    if (add_deep(j, "hidden", in, out))
        in = IN("hidden");
    add_output(j, "output", in, out);
}

/* wide + [fm] + a linear layer over the hidden ones. */
static void make_wide(const struct job *j, const struct features_spec *f, bool has_fm,
                      struct job_layers *out)
{
    struct inputs in = IN(dense_of(f), embeddings_of(f));
    if (has_fm)
        add(out, "fm", JOB_LAYER_FM, IN("embeddings"));
    if (add_deep(j, "deep", in, out))
        in = IN("deep");
    add_output(j, "deep_output", in, out);
    add(out, "output", JOB_LAYER_SUM, IN("wide", has_fm ? "fm" : NULL, "deep_output"));
}

static void make_wide_deep(const struct job *j, const struct features_spec *f,
                           struct job_layers *out)
{
    make_wide(j, f, false, out);
}

static void make_deepfm(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    make_wide(j, f, true, out);
}

/* stacked: input → cross → hidden → output; parallel: both over the input, side by side. */
static void make_dcn(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    struct inputs in = IN(dense_of(f), embeddings_of(f));
    struct job_layer *cross = add(out, "cross", JOB_LAYER_CROSS, in);
    cross->layers = j->model.cross_layers;
    cross->low_rank = j->model.low_rank;
    if (j->model.structure == STRUCTURE_STACKED) {
        bool has_deep = add_deep(j, "deep", IN("cross"), out);
        add_outputs(j, IN(has_deep ? "deep" : "cross"), out);
        return;
    }
    bool has_deep = add_deep(j, "deep", in, out);
    add_outputs(j, IN("cross", has_deep ? "deep" : NULL), out);
}

/* A bottom network makes a vector of the dense input; products of all pairs; a top network. */
static void make_dlrm(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    const char *bottom = NULL;
    if (f->dense_width > 0) {
        struct job_layer *l = add(out, "bottom", JOB_LAYER_MLP, IN("dense"));
        copy_widths(&j->model.bottom, j->model.dim, &l->hidden);
        l->activation = j->model.activation;
        l->dropout = j->model.dropout;
        l->layer_norm = j->model.layer_norm;
        bottom = "bottom";
    }
    add(out, "dot", JOB_LAYER_DOT, IN(bottom, "embeddings"));
    struct inputs in = IN(bottom, "dot");
    bool has_top = add_deep(j, "top", in, out);
    if (has_top)
        in = IN("top");
    add_outputs(j, in, out);
}

/* ---- the table ------------------------------------------------------------------------------- */

static enum err check_layers(const struct job *j, const struct features_spec *f)
{
    if (j->model.layer_count == 0)
        return err_set(ERR_INPUT, "model.layers: empty; give layers, or a model.type");
    if (j->model.normalize != NORMALIZE_NONE && !model_is_terms(&j->model))
        return err_set(ERR_INPUT, "model.normalize: instance is for layers of type terms; use "
                                  "none, or a layer of type norm");
    return ERR_NONE;
}

static void copy_layers(const struct job *j, const struct features_spec *f, struct job_layers *out)
{
    for (size_t i = 0; i < j->model.layer_count; i++) {
        const struct job_layer *from = &j->model.layers[i];
        struct job_layer *to = add(out, from->name, from->type, IN(NULL));
        char *name = to->name;
        mem_free(to->in.items);
        *to = *from;
        to->name = name;
        to->in.items = must_alloc((from->in.count + 1) * sizeof *to->in.items);
        for (size_t k = 0; k < from->in.count; k++)
            to->in.items[k] = must_strdup(from->in.items[k]);
        copy_widths(&from->hidden, 0, &to->hidden);
    }
}

static const struct preset presets[] = {
    {MODEL_LR, check_terms, make_lr},
    {MODEL_FM, check_terms, make_fm},
    {MODEL_FFM, check_terms, make_ffm},
    {MODEL_MLP, check_deep, make_mlp},
    {MODEL_WIDE_DEEP, check_wide, make_wide_deep},
    {MODEL_DEEPFM, check_wide, make_deepfm},
    {MODEL_DCN, check_dcn, make_dcn},
    {MODEL_DLRM, check_embeddings, make_dlrm},
    {MODEL_LAYERS, check_layers, copy_layers},
};

enum err model_preset_layers(const struct job *j, const struct features_spec *features,
                             struct job_layers *out)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        if (presets[i].type != j->model.type)
            continue;
        enum err err = presets[i].check(j, features);
        if (err == ERR_NONE)
            presets[i].make(j, features, out);
        return err;
    }
    CHECK(!"the type has a row");
    return ERR_NONE;
}

void job_layers_deinit(struct job_layers *layers)
{
    for (size_t i = 0; i < layers->count; i++)
        job_layer_deinit(&layers->items[i]);
    mem_free(layers->items);
    *layers = (struct job_layers){0};
}

const char *model_type_name(enum model_type type)
{
    return model_type_names[type];
}
