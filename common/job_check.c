/*
 * job_check.c - what must fit together, and the defaults that depend on more than one setting.
 */
#include <string.h>

#include "common/job_parts.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/settings_codec.h"

#define METRIC_BIT(name) (1u << METRIC_##name)

/* An error at the place of a setting, or at the file when the setting is not given. */
#define complain(root, path, ...)                                                                  \
    setting_place(err_set(ERR_INPUT, __VA_ARGS__), place_of((root), (path)), (path))

static const struct conf_node *place_of(const struct conf_node *root, const char *path)
{
    static _Thread_local struct conf_node file;
    const struct conf_node *n = settings_at(root, path);
    file = (struct conf_node){.what = root->what};
    return n && n->what ? n : &file;
}

static enum err check_data(struct job *j, const struct conf_node *root);
static enum err check_split(struct job *j, const struct conf_node *root);
static enum err check_model(struct job *j, const struct conf_node *root);
static enum err check_tables(struct job *j, const struct conf_node *root);
static enum err check_crosses(struct job *j, const struct conf_node *root);
static enum err check_train(struct job *j, const struct conf_node *root);
static enum err check_eval(struct job *j, const struct conf_node *root);
static enum err check_early_stopping(struct job *j, const struct conf_node *root);
static enum err check_resources(struct job *j, const struct conf_node *root);

enum err job_check(struct job *j, const struct conf_node *root)
{
    static enum err (*const checks[])(struct job *, const struct conf_node *) = {
        check_data,  check_split, check_model,          check_tables,    check_crosses,
        check_train, check_eval,  check_early_stopping, check_resources,
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        enum err e = checks[i](j, root);
        if (e)
            return e;
    }
    return ERR_NONE;
}

/* ---- data ----------------------------------------------------------------------------------- */

static enum err check_paths(const struct text_list *list, const char *path,
                            const struct conf_node *root)
{
    for (size_t i = 0; i < list->count; i++)
        if (!*list->items[i])
            return complain(root, path, "has an empty path");
    return ERR_NONE;
}

/* libsvm, libffm and idx have no columns but their own. */
static enum err refuse_columns(struct job *j, const struct conf_node *root)
{
    const struct {
        const char *path;
        bool given;
    } columns[] = {
        {"data.weight", j->data.weight},
        {"data.time", j->data.time},
        {"data.id", j->data.id.count},
        {"data.split.column", j->data.split.column},
    };
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (columns[i].given)
            return complain(root, columns[i].path, "names a column, and format %s has none",
                            data_format_names[j->data.format]);
    return ERR_NONE;
}

static enum err check_data(struct job *j, const struct conf_node *root)
{
    enum data_format format = j->data.format;
    bool named = format == FORMAT_CSV || format == FORMAT_CRITEO;
    if (!j->data.train.count)
        return complain(root, "data.train", "is empty; give a path or a list of paths");
    enum err e = check_paths(&j->data.train, "data.train", root);
    if (!e)
        e = check_paths(&j->data.eval, "data.eval", root);
    if (!e && !named)
        e = refuse_columns(j, root);
    if (e)
        return e;
    if (format != FORMAT_CSV && strcmp(j->data.label, "label"))
        return complain(root, "data.label",
                        "is '%s', but format %s has a label of its own; leave "
                        "it out, or call it label",
                        j->data.label, data_format_names[format]);
    if (format == FORMAT_CSV && !j->data.csv.header && !j->data.csv.columns.count)
        return complain(root, "data.csv.columns",
                        "is missing; files without a header need the names of their columns");
    if (format == FORMAT_CSV && j->data.csv.header && j->data.csv.columns.count)
        return complain(root, "data.csv.columns",
                        "names columns that the header names too; set data.csv.header: false");
    return ERR_NONE;
}

static enum err check_split(struct job *j, const struct conf_node *root)
{
    bool fraction = j->data.split.eval_fraction > 0, last = j->data.split.eval_last_ms > 0;
    enum split_kind kind = j->data.split.kind;
    if (kind != SPLIT_NONE && j->data.eval.count)
        return complain(root, "data.split", "and data.eval are both given; keep one");
    if (kind == SPLIT_NONE && (fraction || last || j->data.split.column))
        return complain(root, "data.split", "lacks 'by'; give by: hash or by: time");
    if (kind == SPLIT_HASH && !j->data.split.column)
        return complain(root, "data.split", "by: hash needs the column to hash; give column: NAME");
    if (kind == SPLIT_HASH && (!fraction || last))
        return complain(root, "data.split",
                        "by: hash needs eval_fraction, a number from 0 to 0.9%s",
                        last ? ", and has no eval_last" : "");
    if (kind == SPLIT_TIME && !j->data.time)
        return complain(root, "data.split",
                        "by: time needs the column of times; give data.time: NAME");
    if (kind == SPLIT_TIME && j->data.split.column)
        return complain(root, "data.split.column", "is for by: hash; by: time uses data.time");
    if (kind == SPLIT_TIME && fraction == last)
        return complain(root, "data.split", "by: time needs one of eval_last and eval_fraction");
    return ERR_NONE;
}

/* ---- model ---------------------------------------------------------------------------------- */

static bool has_classes(enum model_type type)
{
    return type == MODEL_MLP || type == MODEL_DCN || type == MODEL_DLRM || type == MODEL_LAYERS;
}

/* Which label each output has: data.label, or one of more_labels. */
static void number_label(struct job *j, struct job_output *o)
{
    struct text_list *list = &j->model.more_labels;
    o->label_index = 0;
    if (!o->label || !strcmp(o->label, j->data.label))
        return;
    for (size_t i = 0; i < list->count && !o->label_index; i++)
        if (!strcmp(list->items[i], o->label))
            o->label_index = (uint32_t)i + 1;
    if (o->label_index)
        return;
    list->items = must_realloc(list->items, list->count + 1, sizeof *list->items);
    list->items[list->count++] = must_strdup(o->label);
    o->label_index = (uint32_t)list->count;
}

static enum err check_outputs(struct job *j, const struct conf_node *root)
{
    struct job_model *m = &j->model;
    bool found = !j->eval.output;
    if (m->output_count && conf_is_null(settings_at(root, "data.label")) && m->outputs[0].label) {
        mem_free(j->data.label);
        j->data.label = must_strdup(m->outputs[0].label);
    }
    for (size_t i = 0; i < m->output_count; i++) {
        struct job_output *o = &m->outputs[i];
        number_label(j, o);
        if (o->label_index && j->data.format != FORMAT_CSV)
            return complain(root, "model.outputs",
                            "has the label '%s', and format %s has one label", o->label,
                            data_format_names[j->data.format]);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(m->outputs[k].from, o->from))
                return complain(root, "model.outputs",
                                "has two outputs from '%s'; give each a layer", o->from);
        if (j->eval.output && !strcmp(j->eval.output, o->from)) {
            j->eval.output_index = (uint32_t)i;
            found = true;
        }
    }
    if (!found)
        return complain(root, "eval.output", "is '%s', which is no output of model.outputs",
                        j->eval.output);
    if (m->output_count)
        m->loss = m->outputs[j->eval.output_index].loss;
    return ERR_NONE;
}

static enum err check_model(struct job *j, const struct conf_node *root)
{
    bool idx = j->data.format == FORMAT_IDX;
    if (conf_is_null(settings_at(root, "model.loss")))
        j->model.loss = idx ? LOSS_SOFTMAX : LOSS_LOGISTIC;
    enum err e = check_outputs(j, root);
    if (e)
        return e;
    bool softmax = j->model.loss == LOSS_SOFTMAX;
    if (!j->model.classes)
        j->model.classes = !softmax ? 1 : idx ? 10 : 0;
    if (softmax && !has_classes(j->model.type))
        return complain(
            root, "model.loss",
            "is softmax, which %s does not have; use mlp (with hidden: [] it is linear), "
            "dcn, dlrm or layers",
            model_type_names[j->model.type]);
    if (softmax && j->model.classes < 2)
        return complain(root, "model.classes",
                        "is needed by softmax; give the number of classes, "
                        "at least 2");
    if (!softmax && j->model.classes != 1)
        return complain(root, "model.classes", "is %u, and only loss softmax has more than one",
                        j->model.classes);
    if (softmax && j->data.positive.value)
        return complain(root, "data.label",
                        "has 'positive', which makes two classes; use loss: "
                        "logistic");
    return ERR_NONE;
}

static bool has_patterns(const struct job *j)
{
    if (j->data.format == FORMAT_LIBFFM)
        return true;
    for (size_t i = 0; i < j->feature_count; i++)
        if (job_feature_is_pattern(j->features[i].name))
            return true;
    return false;
}

/* Whether some feature reads the table of this name: by naming it, or by having that name. */
static bool is_table_read(const struct job *j, const char *name)
{
    if (!strcmp(name, "features"))
        return true;
    for (size_t i = 0; i < j->feature_count; i++) {
        const struct job_feature *f = &j->features[i];
        if (f->table ? !strcmp(f->table, name) : !strcmp(f->name, name))
            return true;
    }
    return false;
}

static enum err check_tables(struct job *j, const struct conf_node *root)
{
    for (size_t i = 0; i < j->table_count; i++) {
        const struct job_table *t = &j->tables[i];
        char *path = must_format("tables.%s", t->name);
        enum err e = ERR_NONE;
        if ((j->model.type == MODEL_FM || j->model.type == MODEL_FFM) && t->dim != j->model.dim)
            e = complain(root, path,
                         "dim is %u and model.dim %u; %s multiplies vectors of all "
                         "tables, so they must be equal",
                         t->dim, j->model.dim, model_type_names[j->model.type]);
        else if (!has_patterns(j) && !is_table_read(j, t->name))
            e = complain(root, path,
                         "is read by no feature; give a feature table: %s, or remove it", t->name);
        mem_free(path);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static const struct job_feature *find_feature(const struct job *j, const char *name)
{
    for (size_t i = 0; i < j->feature_count; i++)
        if (!strcmp(j->features[i].name, name))
            return &j->features[i];
    return NULL;
}

static const char *why_no_part(const struct job_feature *part)
{
    if (part->cross.count)
        return "is a cross itself; name its parts instead";
    if (part->multi_valued)
        return "is multi-valued; a cross takes one value of each part";
    if (part->type != FEATURE_CATEGORICAL && !feature_is_binned(part))
        return "is not categorical; bucketize it";
    return NULL;
}

static enum err check_parts(struct job *j, const struct job_feature *f, const char *path,
                            const struct conf_node *root)
{
    for (size_t i = 0; i < f->cross.count; i++) {
        const char *name = f->cross.items[i];
        const struct job_feature *part = find_feature(j, name);
        if (!part && !has_patterns(j))
            return complain(root, path, "crosses '%s', which is no feature; declare it", name);
        const char *why = part ? why_no_part(part) : NULL;
        if (why)
            return complain(root, path, "crosses '%s', which %s", name, why);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(name, f->cross.items[k]))
                return complain(root, path, "crosses '%s' with itself", name);
    }
    return ERR_NONE;
}

static enum err check_crosses(struct job *j, const struct conf_node *root)
{
    for (size_t i = 0; i < j->feature_count; i++) {
        char *path = must_format("features.%s", j->features[i].name);
        enum err e = check_parts(j, &j->features[i], path, root);
        mem_free(path);
        if (e)
            return e;
    }
    return ERR_NONE;
}

/* ---- training ------------------------------------------------------------------------------- */

static enum err check_train(struct job *j, const struct conf_node *root)
{
    enum consistency mode = j->train.consistency;
    j->train.ranks_by_default = !j->train.ranks;
    if (j->train.ranks_by_default)
        j->train.ranks = j->resources.workers;
    if (mode == CONSISTENCY_SSP && !j->train.staleness)
        return complain(root, "train.staleness",
                        "is needed by consistency ssp; give how many steps "
                        "a rank may be ahead, at least 1");
    if (mode != CONSISTENCY_SSP && j->train.staleness)
        return complain(root, "train.staleness",
                        "is %u, and only consistency ssp has it; the "
                        "consistency is %s",
                        j->train.staleness, consistency_names[mode]);
    if (mode != CONSISTENCY_BSP && j->train.pipeline_depth)
        return complain(root, "train.pipeline_depth",
                        "is %u, and only consistency bsp has it; the "
                        "consistency is %s",
                        j->train.pipeline_depth, consistency_names[mode]);
    if (j->train.ranks > j->train.batch_size)
        return complain(root, "train.batch_size",
                        "is %u, less than one example for each of %u ranks; "
                        "give more, or fewer train.ranks (resources.workers)",
                        j->train.batch_size, j->train.ranks);
    return ERR_NONE;
}

static uint32_t metrics_of_loss(enum loss_type loss)
{
    switch (loss) {
    case LOSS_SQUARED:
        return METRIC_BIT(RMSE) | METRIC_BIT(MAE) | METRIC_BIT(CALIBRATION) | METRIC_BIT(OBJECTIVE);
    case LOSS_SOFTMAX:
        return METRIC_BIT(LOG_LOSS) | METRIC_BIT(ACCURACY) | METRIC_BIT(OBJECTIVE);
    case LOSS_LOGISTIC:
        break;
    }
    return METRIC_BIT(LOG_LOSS) | METRIC_BIT(AUC) | METRIC_BIT(ACCURACY) | METRIC_BIT(NE) |
           METRIC_BIT(CALIBRATION) | METRIC_BIT(GAUC) | METRIC_BIT(OBJECTIVE);
}

static uint32_t default_metrics(enum loss_type loss)
{
    return loss == LOSS_SQUARED   ? METRIC_BIT(RMSE) | METRIC_BIT(MAE)
           : loss == LOSS_SOFTMAX ? METRIC_BIT(LOG_LOSS) | METRIC_BIT(ACCURACY)
                                  : METRIC_BIT(LOG_LOSS) | METRIC_BIT(AUC);
}

static void list_metrics(uint32_t metrics, struct str *out)
{
    for (uint32_t i = 0; i < METRIC_COUNT; i++)
        if (metrics & 1u << i)
            str_append_format(out, "%s%s", out->size ? ", " : "", metric_names[i]);
}

static enum err check_eval(struct job *j, const struct conf_node *root)
{
    static const char *const losses[] = {"logistic", "squared", "softmax"};
    uint32_t allowed = metrics_of_loss(j->model.loss);
    if (!j->eval.metrics)
        j->eval.metrics = default_metrics(j->model.loss);
    uint32_t wrong = j->eval.metrics & ~allowed;
    if (!wrong)
        return ERR_NONE;
    struct str right = {0};
    list_metrics(allowed, &right);
    enum err e = complain(root, "eval.metrics",
                          "has %s, which loss %s does not have; it has %s; ~ takes the usual ones",
                          metric_names[__builtin_ctz(wrong)], losses[j->model.loss], right.data);
    str_deinit(&right);
    return e;
}

static enum err check_early_stopping(struct job *j, const struct conf_node *root)
{
    bool has_eval = j->data.eval.count || j->data.split.kind != SPLIT_NONE;
    const struct conf_node *section = conf_get(root, "early_stopping");
    if (!j->early_stopping.enabled) {
        if (!conf_is_null(section) && section->count && !conf_get(section, "metric"))
            return complain(root, "early_stopping", "lacks the metric to watch; give metric: NAME");
        return ERR_NONE;
    }
    if (!(j->eval.metrics & 1u << j->early_stopping.metric)) {
        struct str right = {0};
        list_metrics(j->eval.metrics, &right);
        enum err e = complain(root, "early_stopping.metric",
                              "watches %s, which eval.metrics does not have; it has %s",
                              metric_names[j->early_stopping.metric], right.data);
        str_deinit(&right);
        return e;
    }
    if (!has_eval)
        return complain(root, "early_stopping",
                        "has nothing to evaluate; give data.eval or "
                        "data.split");
    return ERR_NONE;
}

static enum err check_resources(struct job *j, const struct conf_node *root)
{
    uint64_t servers = j->resources.servers ? j->resources.servers : 1;
    uint64_t shards = servers * j->resources.shards;
    if (shards > SHARD_MAX)
        return complain(root, "resources.shards",
                        "%u servers with %u shards each make %llu; at "
                        "most %u are possible",
                        j->resources.servers, j->resources.shards, (unsigned long long)shards,
                        SHARD_MAX);
    return ERR_NONE;
}
