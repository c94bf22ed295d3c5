#include "common/job.h"

#include <string.h>

#include "common/check.h"
#include "common/conf.h"
#include "common/job_parts.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/settings_codec.h"

struct variable {
    char *name, *value;
    const char *declared; /* of --var: not NULL when the file declares it */
    bool used;
};

struct variables {
    struct variable *items;
    size_t count;
    const char *job_name; /* ${name}; NULL until it is known */
};

static enum err apply_sets(struct conf_node *root, const char *const *sets);
static enum err read_variables(struct variables *v, const struct job_source *source,
                               const struct conf_node *root);
static void variables_deinit(struct variables *v);
static enum err resolve_text(struct variables *v, const struct job_source *source,
                             struct conf_node *root, char **name_out);
static enum err read_job(struct job *j, const struct conf_node *root);
static void hash_job(struct job *j);

enum err job_parse(const struct job_source *source, struct job **out)
{
    struct conf_node *root = NULL;
    struct variables variables = {0};
    struct job *j = must_alloc(sizeof *j);
    enum err e = conf_parse(source->what, source->text, source->size, &root);
    if (!e && !conf_is_null(root) && root->kind != CONF_MAP)
        e = setting_error(ERR_INPUT, root, "", "a job is a map of settings: data, features, model");
    if (!e)
        e = apply_sets(root, source->sets);
    if (!e)
        e = read_variables(&variables, source, root);
    if (!e)
        e = resolve_text(&variables, source, root, &j->name);
    if (!e)
        e = read_job(j, root);
    variables_deinit(&variables);
    conf_destroy(root);
    if (e) {
        job_destroy(j);
        return e;
    }
    hash_job(j);
    *out = j;
    return ERR_NONE;
}

void job_destroy(struct job *j)
{
    if (!j)
        return;
    struct settings_view rows = {.rows = job_settings, .count = job_setting_count};
    settings_clear(&rows, j);
    mem_free(j->data.label);
    mem_free(j->data.positive.value);
    mem_free(j->model.hidden.items);
    mem_free(j->model.bottom.items);
    for (size_t i = 0; i < j->model.layer_count; i++)
        job_layer_deinit(&j->model.layers[i]);
    mem_free(j->model.layers);
    for (size_t i = 0; i < j->model.output_count; i++)
        job_output_deinit(&j->model.outputs[i]);
    mem_free(j->model.outputs);
    value_list_clear(&j->model.more_labels);
    mem_free(j->eval.gauc_column);
    for (size_t i = 0; i < j->feature_count; i++)
        job_feature_deinit(&j->features[i]);
    mem_free(j->features);
    for (size_t i = 0; i < j->table_count; i++)
        mem_free(j->tables[i].name);
    mem_free(j->tables);
    mem_free(j);
}

const char *data_format_name(enum data_format f)
{
    return data_format_names[f];
}

const char *metric_name(enum metric_kind k)
{
    CHECK(k < METRIC_COUNT);
    return metric_names[k];
}

bool metric_higher_is_better(enum metric_kind k)
{
    return k == METRIC_AUC || k == METRIC_ACCURACY || k == METRIC_GAUC;
}

const char *consistency_name(enum consistency c)
{
    return consistency_names[c];
}

struct settings_view job_view(const struct job *j)
{
    uint32_t csv = j->data.format == FORMAT_CSV ? JOB_APPLIES_CSV : 0;
    return (struct settings_view){.rows = job_settings,
                                  .count = job_setting_count,
                                  .applies = 1u << j->model.type | csv,
                                  .kind = "a job of this format and model"};
}

/* ---- --set and variables -------------------------------------------------------------------- */

static enum err apply_sets(struct conf_node *root, const char *const *sets)
{
    for (size_t i = 0; sets && sets[i]; i++) {
        const char *equals = strchr(sets[i], '=');
        if (!equals || equals == sets[i])
            return err_set(ERR_INPUT, "--set: '%s' is not of the form train.epochs=3", sets[i]);
        char *path = must_format("%.*s", (int)(equals - sets[i]), sets[i]);
        enum err e = conf_set(root, path, equals + 1, "--set");
        mem_free(path);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static struct variable *find_variable(struct variables *v, const char *name)
{
    for (size_t i = 0; i < v->count; i++)
        if (!strcmp(v->items[i].name, name))
            return &v->items[i];
    return NULL;
}

static enum err given_variable(struct variables *v, const char *argument)
{
    const char *equals = strchr(argument, '=');
    if (!equals || equals == argument)
        return err_set(ERR_INPUT, "--var: '%s' is not of the form name=value", argument);
    char *name = must_format("%.*s", (int)(equals - argument), argument);
    if (find_variable(v, name) || !strcmp(name, "name")) {
        enum err e =
            err_set(ERR_INPUT, "--var: '%s' is %s", name,
                    strcmp(name, "name") ? "given twice" : "the job's name; use --set name=…");
        mem_free(name);
        return e;
    }
    v->items[v->count++] = (struct variable){.name = name, .value = must_strdup(equals + 1)};
    return ERR_NONE;
}

static enum err declared_variable(struct variables *v, const char *name, const struct conf_node *n)
{
    char *path = must_format("vars.%s", name);
    struct variable *given = find_variable(v, name);
    enum err e = ERR_NONE;
    if (!strcmp(name, "name"))
        e = setting_error(ERR_INPUT, n, path, "${name} is the job's name; choose another");
    else if (n->kind != CONF_SCALAR)
        e = setting_error(ERR_INPUT, n, path, "is not one value but a list or map");
    else if (given)
        given->used = true;
    else if (conf_is_null(n))
        e = setting_error(ERR_INPUT, n, path, "has no value; give --var %s=VALUE", name);
    else
        v->items[v->count++] = (struct variable){
            .name = must_strdup(name), .value = must_strdup(n->text), .used = true};
    mem_free(path);
    return e;
}

static enum err read_variables(struct variables *v, const struct job_source *source,
                               const struct conf_node *root)
{
    const struct conf_node *map = conf_get(root, "vars");
    size_t given = 0;
    while (source->vars && source->vars[given])
        given++;
    if (!conf_is_null(map) && map->kind != CONF_MAP)
        return setting_error(ERR_INPUT, map, "vars", "is not a map of names and values");
    size_t declared = conf_is_null(map) ? 0 : map->count;
    v->items = must_alloc((given + declared + 1) * sizeof *v->items);
    for (size_t i = 0; i < given; i++) {
        enum err e = given_variable(v, source->vars[i]);
        if (e)
            return e;
    }
    for (size_t i = 0; i < declared; i++) {
        enum err e = declared_variable(v, map->names[i], map->items[i]);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static void variables_deinit(struct variables *v)
{
    for (size_t i = 0; i < v->count; i++) {
        mem_free(v->items[i].name);
        mem_free(v->items[i].value);
    }
    mem_free(v->items);
}

static const char *lookup(void *context, const char *name)
{
    struct variables *v = context;
    if (!strcmp(name, "name"))
        return v->job_name;
    struct variable *variable = find_variable(v, name);
    if (!variable)
        return NULL;
    variable->used = true;
    return variable->value;
}

static enum err refuse_unused(const struct variables *v)
{
    const char **names = must_alloc((v->count + 1) * sizeof *names);
    const struct variable *unused = NULL;
    size_t count = 0;
    for (size_t i = 0; i < v->count; i++) {
        if (!v->items[i].used)
            unused = &v->items[i];
        else
            names[count++] = v->items[i].name;
    }
    const char *nearest = unused ? str_nearest(unused->name, names) : NULL;
    enum err e = ERR_NONE;
    if (nearest)
        e = err_set(ERR_INPUT, "--var: the job has no variable '%s'; did you mean '%s'?",
                    unused->name, nearest);
    else if (unused)
        e = err_set(ERR_INPUT, "--var: the job has no variable '%s'; '${%s}' stands nowhere in it",
                    unused->name, unused->name);
    mem_free(names);
    return e;
}

static bool is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

/* "conf/my job.yaml" is my-job. */
static char *name_of_file(const char *what)
{
    const char *slash = strrchr(what, '/');
    const char *base = slash ? slash + 1 : what;
    const char *dot = strrchr(base, '.');
    size_t size = dot && dot != base ? (size_t)(dot - base) : strlen(base);
    if (size > NAME_MAX_BYTES)
        size = NAME_MAX_BYTES;
    char *name = must_format("%.*s", (int)size, base);
    for (char *p = name; *p; p++)
        if (!is_name_character(*p))
            *p = '-';
    if (!*name || *name == '-' || *name == '.') {
        mem_free(name);
        name = must_strdup("job");
    }
    return name;
}

static enum err check_name(const struct conf_node *n)
{
    bool valid = n->kind == CONF_SCALAR && *n->text && *n->text != '-' && *n->text != '.' &&
                 strlen(n->text) <= NAME_MAX_BYTES;
    for (const char *p = valid ? n->text : ""; *p; p++)
        valid = valid && is_name_character(*p);
    if (valid)
        return ERR_NONE;
    return setting_error(ERR_INPUT, n, "name",
                         "value '%s' is no name; give up to %u letters, digits, '.', '_' and '-'",
                         n->kind == CONF_SCALAR ? n->text : "", NAME_MAX_BYTES);
}

/* Puts variables into all text, the job's name first because others refer to it. */
static enum err resolve_text(struct variables *v, const struct job_source *source,
                             struct conf_node *root, char **name_out)
{
    struct conf_node *name = conf_get(root, "name");
    enum err e = ERR_NONE;
    if (!conf_is_null(name)) {
        e = conf_substitute(name, lookup, v);
        if (!e)
            e = check_name(name);
        if (e)
            return e;
        *name_out = must_strdup(name->text);
    } else {
        *name_out = name_of_file(source->what);
    }
    v->job_name = *name_out;
    for (size_t i = 0; root->kind == CONF_MAP && i < root->count && !e; i++)
        if (strcmp(root->names[i], "vars") && strcmp(root->names[i], "name"))
            e = conf_substitute(root->items[i], lookup, v);
    return e ? e : refuse_unused(v);
}

/* ---- the rows ------------------------------------------------------------------------------- */

/* Reads one row ahead of the others; without a value it stays as it is. */
static enum err read_row(struct job *j, const struct conf_node *root, const char *path)
{
    const struct conf_node *n = settings_at(root, path);
    if (conf_is_null(n))
        return ERR_NONE;
    for (size_t i = 0; i < job_setting_count; i++)
        if (!strcmp(job_settings[i].path, path))
            return value_read(&job_settings[i], n, path, (char *)j + job_settings[i].offset);
    CHECK(!"the path has a row");
    return ERR_NONE;
}

static enum err read_job(struct job *j, const struct conf_node *root)
{
    struct settings_view all = {.rows = job_settings, .count = job_setting_count};
    settings_set_defaults(&all, j);
    /* The one default that refers to another setting: its row has it in the user's notation. */
    mem_free(j->checkpoint.uri);
    j->checkpoint.uri = must_format("file:runs/%s", j->name);

    /* Which rows the job has depends on its format and model. Without those every name is looked
       up, so that a misspelt section is called that rather than missing. */
    enum err e = read_row(j, root, "data.format");
    if (!e)
        e = read_row(j, root, "model.type");
    if (e)
        return e;
    bool has_type = !conf_is_null(settings_at(root, "model.type"));
    const struct conf_node *layers = settings_at(root, "model.layers");
    if (has_type && !conf_is_null(layers) && j->model.type != MODEL_LAYERS)
        return setting_error(ERR_INPUT, layers, "model.layers",
                             "and model.type %s are both given; keep one",
                             model_type_names[j->model.type]);
    const struct conf_node *outputs = settings_at(root, "model.outputs");
    if (has_type && !conf_is_null(outputs) && outputs->count && j->model.type != MODEL_LAYERS)
        return setting_error(ERR_INPUT, outputs, "model.outputs",
                             "are from layers of model.layers, and model.type is %s; give its "
                             "layers (paramctl config show --expand prints them), or remove it",
                             model_type_names[j->model.type]);
    if (!has_type && !conf_is_null(layers)) {
        j->model.type = MODEL_LAYERS;
        has_type = true;
    }
    bool known = has_type && !conf_is_null(settings_at(root, "data.format"));
    struct settings_view view = known ? job_view(j) : all;
    e = settings_read(&view, root, "", j);
    if (!e)
        e = settings_require(&view, root, "");
    if (!e && !has_type)
        e = setting_error(ERR_INPUT, &(struct conf_node){.what = root->what}, "",
                          "model.type is required; give one of lr, fm, mlp, ffm, wide_deep, "
                          "deepfm, dcn, dlrm, or model.layers");
    if (!e)
        e = job_read_optimizers(j, root);
    if (!e)
        e = job_read_features(j, root);
    if (!e)
        e = job_read_tables(j, root);
    if (!e)
        e = job_check(j, root);
    return e;
}

/* ---- identity ------------------------------------------------------------------------------- */

static bool counts_to_end(const struct optimizer_spec *o)
{
    return (o->schedule.decay == DECAY_COSINE || o->schedule.decay == DECAY_LINEAR) &&
           !o->schedule.decay_steps;
}

static bool schedule_depends_on_end(const struct job *j)
{
    bool depends = counts_to_end(&j->optimizer.linear) || counts_to_end(&j->optimizer.embedding) ||
                   counts_to_end(&j->optimizer.dense);
    for (size_t i = 0; i < j->table_count; i++)
        depends = depends || counts_to_end(&j->tables[i].optimizer);
    return depends;
}

/* Names are separated by tabs, which they cannot hold unescaped, so two paths never read alike. */
static void print_line(const struct job_line *line, struct str *out)
{
    for (uint32_t i = 0; i < line->depth; i++) {
        value_print_name(line->names[i], out);
        str_append(out, "\t");
    }
    str_append(out, line->value);
    str_append(out, "\n");
}

static void hash_job(struct job *j)
{
    struct job_lines lines;
    struct str text = {0};
    bool to_end = schedule_depends_on_end(j);
    job_lines_init(&lines, j);
    for (size_t i = 0; i < lines.count; i++) {
        const struct setting *row = lines.items[i].row;
        if (!row->no_bits && (!row->bits_if_schedule || to_end))
            print_line(&lines.items[i], &text);
    }
    sha256_hex(text.data, text.size, j->hash);
    str_deinit(&text);
    job_lines_deinit(&lines);
}

static bool same_path(const struct job_line *a, const struct job_line *b)
{
    bool same = a->depth == b->depth;
    for (uint32_t i = 0; same && i < a->depth; i++)
        same = !strcmp(a->names[i], b->names[i]);
    return same;
}

/* model.loss is looked at by job_same_model(). */
static bool is_of_model(const struct job_line *line)
{
    const char *section = line->names[0];
    if (line->depth == 2 && !strcmp(section, "model") && !strcmp(line->names[1], "loss"))
        return false;
    return !strcmp(section, "model") || !strcmp(section, "features") || !strcmp(section, "tables");
}

static const struct job_line *next_fixed(const struct job_lines *lines, bool model_only,
                                         size_t *index)
{
    while (*index < lines->count && (lines->items[*index].row->change != CHANGE_NEVER ||
                                     (model_only && !is_of_model(&lines->items[*index]))))
        ++*index;
    return *index < lines->count ? &lines->items[(*index)++] : NULL;
}

static const struct job_line *find_line(const struct job_lines *lines, const struct job_line *like)
{
    for (size_t i = 0; like && i < lines->count; i++)
        if (same_path(&lines->items[i], like))
            return &lines->items[i];
    return NULL;
}

/* Of two lines that stand side by side one may be new, or one may be gone, or the order another. */
static enum err differ(const struct job_lines *old_lines, const struct job_line *before,
                       const struct job_lines *new_lines, const struct job_line *now)
{
    bool same = before && now && same_path(before, now);
    bool gone = before && !find_line(new_lines, before), moved = !gone && !same;
    const struct job_line *named = gone || !now ? before : now;
    moved = moved && find_line(old_lines, named);
    struct str path = {0};
    for (uint32_t i = 0; i < named->depth; i++)
        str_append_format(&path, "%s%s", i ? "." : "", named->names[i]);
    enum err e =
        moved ? err_set(ERR_REFUSED,
                        "%s: stands at another place; the order must be the checkpoint's: undo "
                        "that",
                        path.data)
              : err_set(ERR_REFUSED,
                        "%s: was %s and is now %s; it must be the checkpoint's: undo that",
                        path.data, same || gone ? before->value : "not there",
                        same || !gone ? now->value : "not there");
    str_deinit(&path);
    return e;
}

static enum err compare(const struct job *before, const struct job *now, bool model_only)
{
    struct job_lines old_lines, new_lines;
    job_lines_init(&old_lines, before);
    job_lines_init(&new_lines, now);
    size_t old_index = 0, new_index = 0;
    enum err e = ERR_NONE;
    for (;;) {
        const struct job_line *a = next_fixed(&old_lines, model_only, &old_index);
        const struct job_line *b = next_fixed(&new_lines, model_only, &new_index);
        if (!a && !b)
            break;
        if (!a || !b || !same_path(a, b) || strcmp(a->value, b->value)) {
            e = differ(&old_lines, a, &new_lines, b);
            break;
        }
    }
    job_lines_deinit(&old_lines);
    job_lines_deinit(&new_lines);
    return e;
}

enum err job_resumable(const struct job *before, const struct job *now)
{
    return compare(before, now, false);
}

enum err job_same_model(const struct job *before, const struct job *now)
{
    /* Of several outputs it is that of the one whose metrics are reported. */
    if (!now->model.output_count && before->model.loss != now->model.loss)
        return err_set(ERR_REFUSED, "model.loss: is not the checkpoint's: undo that");
    return compare(before, now, true);
}
