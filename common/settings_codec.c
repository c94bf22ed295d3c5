#include "common/settings_codec.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

const char *const metric_names[] = {"log_loss", "auc",         "accuracy", "rmse",      "mae",
                                    "ne",       "calibration", "gauc",     "objective", NULL};
const char *const data_format_names[] = {"csv", "criteo", "libsvm", "libffm", "idx", NULL};
const char *const consistency_names[] = {"bsp", "ssp", "asp", NULL};
const char *const transform_names[] = {"clip",       "log1p", "sqrt",    "standardize", "minmax",
                                       "log2_floor", "hour",  "weekday", NULL};

static const char *const comparisons[] = {">=", "<=", "==", "!=", ">", "<", NULL};

static uint32_t index_of(const char *const *list, const char *text)
{
    uint32_t i = 0;
    while (list[i] && strcmp(list[i], text))
        i++;
    return i;
}

/* Only `name` may stand in a map of one or more of `allowed`. */
static enum err refuse_others(const struct setting *row, const struct conf_node *map,
                              const char *path, const char *const *allowed)
{
    for (size_t i = 0; i < map->count; i++) {
        if (allowed[index_of(allowed, map->names[i])])
            continue;
        char *full = must_format("%s.%s", path, map->names[i]);
        enum err e = value_error(row, map->items[i], full, "stands at an unknown name");
        mem_free(full);
        return e;
    }
    return ERR_NONE;
}

/* ---- data.label ----------------------------------------------------------------------------- */

/* ">= 4": a comparison and a value; a value alone means "==". */
static enum err read_positive(const struct setting *row, const struct conf_node *n,
                              const char *path, struct job_data *data)
{
    const char *text;
    enum err e = value_text(row, n, path, &text);
    if (e)
        return e;
    const char *compare = "==";
    for (size_t i = 0; comparisons[i]; i++) {
        if (!strncmp(text, comparisons[i], strlen(comparisons[i]))) {
            compare = comparisons[i];
            text += strlen(compare);
            break;
        }
    }
    struct span value = span_trim(span_of(text));
    double number;
    if (!value.size)
        return value_error(row, n, path, "compares with nothing");
    if ((compare[0] == '<' || compare[0] == '>') && str_parse_f64(value, &number))
        return value_error(row, n, path, "compares the order of what is not a number");
    strcpy(data->positive.compare, compare);
    mem_free(data->positive.value);
    data->positive.value = must_format("%.*s", (int)value.size, value.data);
    return ERR_NONE;
}

enum err codec_label_read(const struct setting *row, const struct conf_node *n, const char *path,
                          void *place)
{
    static const char *const allowed[] = {"column", "positive", NULL};
    struct job_data *data = place;
    const struct conf_node *column = n->kind == CONF_MAP ? conf_get(n, "column") : n;
    const struct conf_node *positive = n->kind == CONF_MAP ? conf_get(n, "positive") : NULL;
    const char *text = "label";
    enum err e = ERR_NONE;
    if (n->kind == CONF_MAP)
        e = refuse_others(row, n, path, allowed);
    if (!e && column)
        e = value_text(row, column, path, &text);
    if (!e) {
        mem_free(data->label);
        data->label = must_strdup(text);
    }
    if (!e && positive)
        e = read_positive(row, positive, path, data);
    return e;
}

void codec_label_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_data *data = place;
    if (!data->positive.compare[0]) {
        value_print_text(data->label, out);
        return;
    }
    char *positive = must_format("%s %s", data->positive.compare, data->positive.value);
    str_append(out, "{column: ");
    value_print_text(data->label, out);
    str_append(out, ", positive: ");
    value_print_text(positive, out);
    str_append(out, "}");
    mem_free(positive);
}

/* ---- data.shuffle --------------------------------------------------------------------------- */

enum err codec_shuffle_read(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    static const char *const allowed[] = {"window", NULL};
    struct job_data *data = place;
    uint64_t window = 0;
    if (n->kind == CONF_MAP) {
        enum err e = refuse_others(row, n, path, allowed);
        const struct conf_node *value = conf_get(n, "window");
        if (!e)
            e = value ? value_u64(row, value, path, &window)
                      : value_error(row, n, path, "lacks 'window'");
        if (e)
            return e;
        data->shuffle.kind = SHUFFLE_WINDOW;
    } else if (n->kind == CONF_SCALAR && !strcmp(n->text, "none")) {
        data->shuffle.kind = SHUFFLE_NONE;
    } else if (n->kind == CONF_SCALAR && !strcmp(n->text, "full")) {
        data->shuffle.kind = SHUFFLE_FULL;
    } else {
        return value_error(row, n, path, "is unknown");
    }
    data->shuffle.window = window;
    return ERR_NONE;
}

void codec_shuffle_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_data *data = place;
    if (data->shuffle.kind == SHUFFLE_WINDOW)
        str_append_format(out, "{window: %llu}", (unsigned long long)data->shuffle.window);
    else
        str_append(out, data->shuffle.kind == SHUFFLE_FULL ? "full" : "none");
}

/* ---- eval and early stopping ---------------------------------------------------------------- */

enum err codec_every_read(const struct setting *row, const struct conf_node *n, const char *path,
                          void *place)
{
    struct job_eval *eval = place;
    bool epoch = n->kind == CONF_SCALAR && !strcmp(n->text, "epoch");
    bool end = n->kind == CONF_SCALAR && !strcmp(n->text, "end");
    uint64_t steps = 0;
    enum err e = epoch || end ? ERR_NONE : value_u64(row, n, path, &steps);
    if (e)
        return e;
    eval->every_epoch = epoch;
    eval->every_steps = steps;
    return ERR_NONE;
}

void codec_every_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_eval *eval = place;
    if (eval->every_steps)
        str_append_format(out, "%llu", (unsigned long long)eval->every_steps);
    else
        str_append(out, eval->every_epoch ? "epoch" : "end");
}

static enum err read_gauc(const struct setting *row, const struct conf_node *n, const char *path,
                          struct job_eval *eval)
{
    static const char *const allowed[] = {"gauc", NULL};
    const char *column = NULL;
    enum err e = refuse_others(row, n, path, allowed);
    if (!e)
        e = n->count ? value_text(row, n->items[0], path, &column)
                     : value_error(row, n, path, "is empty");
    if (e)
        return e;
    mem_free(eval->gauc_column);
    eval->gauc_column = must_strdup(column);
    eval->metrics |= 1u << METRIC_GAUC;
    return ERR_NONE;
}

static enum err read_metric(const struct setting *row, const struct conf_node *n, const char *path,
                            struct job_eval *eval)
{
    uint32_t index;
    if (n->kind == CONF_MAP)
        return read_gauc(row, n, path, eval);
    enum err e = value_choice(row, n, path, &index);
    if (e)
        return e;
    if (index == METRIC_GAUC)
        return value_error(row, n, path, "lacks its column: {gauc: column}");
    eval->metrics |= 1u << index;
    return ERR_NONE;
}

enum err codec_metrics_read(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    struct job_eval *eval = place;
    eval->metrics = 0;
    if (n->kind != CONF_LIST)
        return read_metric(row, n, path, eval);
    enum err e = n->count ? ERR_NONE : value_error(row, n, path, "is empty");
    for (size_t i = 0; i < n->count && !e; i++)
        e = read_metric(row, n->items[i], path, eval);
    return e;
}

void codec_metrics_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_eval *eval = place;
    const char *comma = "";
    str_append(out, "[");
    for (uint32_t i = 0; i < METRIC_COUNT; i++) {
        if (!(eval->metrics & 1u << i))
            continue;
        str_append(out, comma);
        comma = ", ";
        if (i == METRIC_GAUC) {
            str_append(out, "{gauc: ");
            value_print_text(eval->gauc_column, out);
            str_append(out, "}");
        } else {
            str_append(out, metric_names[i]);
        }
    }
    str_append(out, "]");
}

enum err codec_metric_read(const struct setting *row, const struct conf_node *n, const char *path,
                           void *place)
{
    struct job_early_stopping *stop = place;
    uint32_t index = 0;
    if (conf_is_null(n)) {
        stop->enabled = false;
        return ERR_NONE;
    }
    enum err e = value_choice(row, n, path, &index);
    if (e)
        return e;
    stop->enabled = true;
    stop->metric = index;
    return ERR_NONE;
}

void codec_metric_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_early_stopping *stop = place;
    str_append(out, stop->enabled ? metric_names[stop->metric] : "~");
}

enum err codec_restore_read(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    struct job_early_stopping *stop = place;
    uint32_t index;
    enum err e = value_choice(row, n, path, &index);
    if (!e)
        stop->restore_best = index == 0;
    return e;
}

void codec_restore_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_early_stopping *stop = place;
    str_append(out, row->choices[stop->restore_best ? 0 : 1]);
}

/* ---- features ------------------------------------------------------------------------------- */

enum err codec_missing_read(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    static const char *const words[] = {"own", "zero", "error", NULL};
    struct job_feature *f = place;
    const char *text;
    enum err e = value_text(row, n, path, &text);
    if (e)
        return e;
    uint32_t word = index_of(words, text);
    bool listed = row->choices[index_of(row->choices, text)];
    if (words[word] && listed) {
        f->missing = (enum feature_missing)word;
        f->missing_number = 0;
        return ERR_NONE;
    }
    if (row->applies & (CLASS_NUMERIC | CLASS_BINNED | CLASS_VECTOR)) {
        e = value_f64(row, n, path, &f->missing_number);
        if (!e)
            f->missing = MISSING_NUMBER;
        return e;
    }
    return value_error(row, n, path, "is unknown");
}

void codec_missing_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_feature *f = place;
    if (f->missing == MISSING_NUMBER)
        value_print_f64(f->missing_number, out);
    else
        str_append(out, f->missing == MISSING_OWN    ? "own"
                        : f->missing == MISSING_ZERO ? "zero"
                                                     : "error");
}

enum err codec_vocab_read(const struct setting *row, const struct conf_node *n, const char *path,
                          void *place)
{
    struct job_feature *f = place;
    enum err e = ERR_NONE;
    const char *file = NULL;
    if (n->kind == CONF_LIST) {
        if (!n->count)
            return value_error(row, n, path, "is empty");
        e = value_list(row, n, path, &f->vocab);
    } else if (!conf_is_null(n)) {
        e = value_text(row, n, path, &file);
    }
    if (e)
        return e;
    if (n->kind != CONF_LIST)
        value_list_clear(&f->vocab);
    mem_free(f->vocab_file);
    f->vocab_file = file ? must_strdup(file) : NULL;
    return ERR_NONE;
}

void codec_vocab_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_feature *f = place;
    if (f->vocab.count)
        value_print_list(&f->vocab, out);
    else if (f->vocab_file)
        value_print_text(f->vocab_file, out);
    else
        str_append(out, "~");
}

enum err codec_edges_read(const struct setting *row, const struct conf_node *n, const char *path,
                          void *place)
{
    struct job_feature *f = place;
    size_t count = n->kind == CONF_LIST ? n->count : 0;
    double *edges = NULL;
    enum err e = ERR_NONE;
    if (n->kind == CONF_LIST ? !count : !conf_is_null(n))
        return value_error(row, n, path, n->kind == CONF_LIST ? "is empty" : "is no list of edges");
    if (count)
        edges = must_alloc(count * sizeof *edges);
    for (size_t i = 0; i < count && !e; i++) {
        e = value_f64(row, n->items[i], path, &edges[i]);
        if (!e && i && edges[i] <= edges[i - 1])
            e = value_error(row, n->items[i], path, "is not above the edge before it");
    }
    if (e) {
        mem_free(edges);
        return e;
    }
    mem_free(f->bucketize);
    f->bucketize = edges;
    f->bucketize_count = count;
    return ERR_NONE;
}

void codec_edges_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_feature *f = place;
    str_append(out, f->bucketize_count ? "[" : "~");
    for (size_t i = 0; i < f->bucketize_count; i++) {
        if (i)
            str_append(out, ", ");
        value_print_f64(f->bucketize[i], out);
    }
    if (f->bucketize_count)
        str_append(out, "]");
}

bool transform_makes_categorical(enum transform_kind kind)
{
    return kind == TRANSFORM_LOG2_FLOOR || kind == TRANSFORM_HOUR || kind == TRANSFORM_WEEKDAY;
}

bool feature_is_binned(const struct job_feature *f)
{
    for (size_t i = 0; i < f->transform_count; i++)
        if (transform_makes_categorical(f->transforms[i].kind))
            return true;
    return f->bucketize_count > 0;
}

static bool wants_constants(enum transform_kind kind)
{
    return kind == TRANSFORM_CLIP || kind == TRANSFORM_MINMAX;
}

/* {clip: [lo, hi]}, {standardize: [mean, std]}, {minmax: [a, b]} */
static enum err read_constants(const struct setting *row, const struct conf_node *n,
                               const char *path, struct job_transform *t)
{
    if (n->kind != CONF_LIST || n->count != 2)
        return value_error(row, n, path, "is not a list of two numbers");
    enum err e = value_f64(row, n->items[0], path, &t->a);
    if (!e)
        e = value_f64(row, n->items[1], path, &t->b);
    if (e)
        return e;
    if (t->kind == TRANSFORM_STANDARDIZE ? t->b <= 0 : t->b <= t->a)
        return value_error(row, n->items[1], path,
                           t->kind == TRANSFORM_STANDARDIZE ? "is no standard deviation above 0"
                                                            : "is not above the lower bound");
    t->has_constants = true;
    return ERR_NONE;
}

static enum err read_transform(const struct setting *row, const struct conf_node *n,
                               const char *path, struct job_transform *t)
{
    if (n->kind == CONF_MAP && n->count == 1) {
        t->kind = (enum transform_kind)index_of(transform_names, n->names[0]);
        if (!wants_constants(t->kind) && t->kind != TRANSFORM_STANDARDIZE)
            return value_error(row, n, path, "names no transform that has constants");
        return read_constants(row, n->items[0], path, t);
    }
    uint32_t index;
    enum err e = value_choice(row, n, path, &index);
    if (e)
        return e;
    t->kind = (enum transform_kind)index;
    if (wants_constants(t->kind))
        return value_error(row, n, path, "lacks its two numbers");
    return ERR_NONE;
}

enum err codec_transforms_read(const struct setting *row, const struct conf_node *n,
                               const char *path, void *place)
{
    struct job_feature *f = place;
    size_t count = n->kind == CONF_LIST ? n->count : conf_is_null(n) ? 0 : 1;
    if (count > 16)
        return value_error(row, n, path, "has more than 16 transforms");
    struct job_transform *list = must_alloc((count + 1) * sizeof *list);
    enum err e = ERR_NONE;
    for (size_t i = 0; i < count && !e; i++) {
        const struct conf_node *item = n->kind == CONF_LIST ? n->items[i] : n;
        e = read_transform(row, item, path, &list[i]);
        if (!e && i + 1 < count && transform_makes_categorical(list[i].kind))
            e = value_error(row, item, path, "makes it categorical, so it must be the last");
    }
    if (e) {
        mem_free(list);
        return e;
    }
    mem_free(f->transforms);
    f->transforms = list;
    f->transform_count = count;
    return ERR_NONE;
}

void codec_transforms_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_feature *f = place;
    str_append(out, "[");
    for (size_t i = 0; i < f->transform_count; i++) {
        const struct job_transform *t = &f->transforms[i];
        str_append(out, i ? ", " : "");
        if (!t->has_constants) {
            str_append(out, transform_names[t->kind]);
            continue;
        }
        str_append_format(out, "{%s: [", transform_names[t->kind]);
        value_print_f64(t->a, out);
        str_append(out, ", ");
        value_print_f64(t->b, out);
        str_append(out, "]}");
    }
    str_append(out, "]");
}

/* ---- tables --------------------------------------------------------------------------------- */

static const char *const init_names[] = {"zero", "normal", "uniform", "constant", NULL};

enum err codec_init_read(const struct setting *row, const struct conf_node *n, const char *path,
                         void *place)
{
    struct job_table *t = place;
    struct init_spec init = {INIT_ZERO, 0};
    if (n->kind == CONF_SCALAR && !strcmp(n->text, "zero")) {
        t->init = init;
        return ERR_NONE;
    }
    if (n->kind != CONF_MAP || n->count != 1)
        return value_error(row, n, path, "is unknown");
    uint32_t index = index_of(init_names, n->names[0]);
    if (!init_names[index] || index == INIT_ZERO)
        return value_error(row, n, path, "names an unknown kind of initial value");
    enum err e = value_f64(row, n->items[0], path, &init.scale);
    if (e)
        return e;
    init.kind = (enum init_kind)(index == 1   ? INIT_NORMAL
                                 : index == 2 ? INIT_UNIFORM
                                              : INIT_CONSTANT);
    if (init.kind != INIT_CONSTANT && init.scale <= 0)
        return value_error(row, n->items[0], path, "is not above 0");
    t->init = init;
    return ERR_NONE;
}

void codec_init_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_table *t = place;
    if (t->init.kind == INIT_ZERO) {
        str_append(out, "zero");
        return;
    }
    str_append_format(out, "{%s: ",
                      t->init.kind == INIT_NORMAL    ? "normal"
                      : t->init.kind == INIT_UNIFORM ? "uniform"
                                                     : "constant");
    value_print_f64(t->init.scale, out);
    str_append(out, "}");
}
