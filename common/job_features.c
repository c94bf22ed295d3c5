/*
 * job_features.c - the `features:` map: patterns, shorthand, what each format has by itself.
 */
#include <string.h>

#include "common/check.h"
#include "common/job_parts.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/settings_codec.h"

#define CRITEO_NUMERIC     13
#define CRITEO_CATEGORICAL 26
#define IDX_LENGTH         784
#define VALUES_MAX         (1u << 22)

/* How a name came into the list: a name of its own beats a range, a range a glob, and each the
 * format. */
enum origin { ORIGIN_NAME, ORIGIN_RANGE, ORIGIN_GLOB, ORIGIN_FORMAT };

struct entry {
    char *name;
    const struct conf_node *node; /* NULL: what the format says */
    const char *pattern;          /* as written */
    enum origin origin;
};

struct entries {
    struct entry *items;
    size_t count, capacity;
};

static enum err collect(const struct job *j, const struct conf_node *map, struct entries *list);
static enum err read_feature(const struct job *j, const struct entry *entry, struct job_feature *f);

static enum err refuse_missing_features(const struct job *j, const struct conf_node *root)
{
    struct conf_node place = {.what = root->what};
    return setting_error(ERR_INPUT, &place, "features",
                         "format %s needs them; name columns, such as {city: categorical, price: "
                         "numeric}, or write all",
                         data_format_names[j->data.format]);
}

enum err job_read_features(struct job *j, const struct conf_node *root)
{
    const struct conf_node *map = conf_get(root, "features");
    struct conf_node star = {.kind = CONF_SCALAR, .text = (char *)"all"};
    struct conf_node *star_item = &star;
    char *star_name = (char *)"*";
    struct conf_node everything = {
        .kind = CONF_MAP, .items = &star_item, .names = &star_name, .count = 1};
    if (map && map->kind == CONF_SCALAR && !conf_is_null(map)) {
        if (strcmp(map->text, "all"))
            return setting_error(ERR_INPUT, map, "features",
                                 "value '%s' is unknown; give a map of features, or all",
                                 map->text);
        everything.what = star.what = map->what;
        everything.line = star.line = map->line;
        everything.column = star.column = map->column;
        map = j->data.format == FORMAT_CSV ? &everything : NULL;
    }
    if (map && map->kind == CONF_LIST)
        return setting_error(ERR_INPUT, map, "features",
                             "is a list; give a map {name: type} or {name: {…}}");
    if (conf_is_null(map))
        map = NULL;

    struct entries list = {0};
    enum err e = collect(j, map, &list);
    if (!e && !list.count)
        e = refuse_missing_features(j, root);
    if (!e)
        j->features = must_alloc(list.count * sizeof *j->features);
    for (size_t i = 0; i < list.count && !e; i++)
        e = read_feature(j, &list.items[i], &j->features[j->feature_count++]);
    for (size_t i = 0; i < list.count; i++)
        mem_free(list.items[i].name);
    mem_free(list.items);
    return e;
}

void job_feature_deinit(struct job_feature *f)
{
    struct settings_view rows = {.rows = feature_settings, .count = feature_setting_count};
    settings_clear(&rows, f);
    value_list_clear(&f->vocab);
    mem_free(f->vocab_file);
    mem_free(f->bucketize);
    mem_free(f->transforms);
    mem_free(f->name);
}

bool job_feature_is_pattern(const char *name)
{
    return strpbrk(name, "*?[") != NULL;
}

/* ---- names ---------------------------------------------------------------------------------- */

static enum err merge(struct entries *list, struct entry entry)
{
    for (size_t i = 0; i < list->count; i++) {
        struct entry *there = &list->items[i];
        if (strcmp(there->name, entry.name))
            continue;
        if (there->origin == entry.origin)
            return setting_error(ERR_INPUT, entry.node, "features",
                                 "'%s' and '%s' both declare the feature '%s'; keep one",
                                 there->pattern, entry.pattern, entry.name);
        if (there->origin > entry.origin) {
            there->node = entry.node;
            there->pattern = entry.pattern;
            there->origin = entry.origin;
        }
        return ERR_NONE;
    }
    if (list->count >= FEATURE_MAX)
        return setting_error(ERR_INPUT, entry.node, "features", "more than %u features",
                             FEATURE_MAX);
    CHECK(mem_grow(list->items, list->capacity, list->count + 1));
    entry.name = must_strdup(entry.name);
    list->items[list->count++] = entry;
    return ERR_NONE;
}

/* "C1..C26": the text before the numbers, and the numbers. */
struct range {
    struct span stem;
    uint64_t first, last;
    int digits; /* "C01..C26" keeps two */
};

static bool split_number(struct span text, struct span *stem, uint64_t *number)
{
    size_t at = text.size;
    while (at && text.data[at - 1] >= '0' && text.data[at - 1] <= '9')
        at--;
    *stem = span_make(text.data, at);
    return at < text.size &&
           str_parse_u64(span_make(text.data + at, text.size - at), number) == ERR_NONE;
}

static bool parse_range(const char *name, struct range *r)
{
    const char *dots = strstr(name, "..");
    struct span first = span_make(name, (size_t)(dots - name)), last = span_of(dots + 2), stem;
    if (!split_number(first, &r->stem, &r->first) || !split_number(last, &stem, &r->last))
        return false;
    bool padded = first.data[r->stem.size] == '0' && first.size - r->stem.size > 1;
    r->digits = padded ? (int)(first.size - r->stem.size) : 1;
    return span_equal(r->stem, stem) && r->first <= r->last && r->last - r->first < FEATURE_MAX &&
           r->digits < 20;
}

static enum err add_range(struct entries *list, const char *name, const struct conf_node *n)
{
    struct range r;
    if (!parse_range(name, &r))
        return setting_error(ERR_INPUT, n, "features",
                             "'%s' is not a range of at most %u numbered columns such as C1..C26",
                             name, FEATURE_MAX);
    enum err e = ERR_NONE;
    for (uint64_t i = r.first; i <= r.last && !e; i++) {
        char *one = must_format("%.*s%0*llu", (int)r.stem.size, r.stem.data, r.digits,
                                (unsigned long long)i);
        e = merge(list, (struct entry){one, n, name, ORIGIN_RANGE});
        mem_free(one);
    }
    return e;
}

/* Columns that the format fixes match a glob here; those of csv are known to features_spec only. */
static enum err add_glob(struct entries *list, size_t fixed, const char *name,
                         const struct conf_node *n)
{
    bool matched = false;
    enum err e = ERR_NONE;
    for (size_t i = 0; i < fixed && !e; i++) {
        if (!str_glob_match(name, list->items[i].name))
            continue;
        matched = true;
        e = merge(list, (struct entry){list->items[i].name, n, name, ORIGIN_GLOB});
    }
    if (!e && fixed && !matched)
        e = setting_error(ERR_INPUT, n, "features", "'%s' matches no column of the format", name);
    if (!fixed)
        e = merge(list, (struct entry){(char *)name, n, name, ORIGIN_NAME});
    return e;
}

static enum err add_format(const struct job *j, struct entries *list)
{
    static const char *const single[] = {
        [FORMAT_LIBSVM] = "features", [FORMAT_LIBFFM] = "f", [FORMAT_IDX] = "pixels"};
    enum err e = ERR_NONE;
    if (j->data.format == FORMAT_CSV)
        return e;
    if (j->data.format != FORMAT_CRITEO)
        return merge(list, (struct entry){(char *)single[j->data.format], .origin = ORIGIN_FORMAT});
    for (int i = 0; i < CRITEO_NUMERIC + CRITEO_CATEGORICAL && !e; i++) {
        char *name = i < CRITEO_NUMERIC ? must_format("I%d", i + 1)
                                        : must_format("C%d", i + 1 - CRITEO_NUMERIC);
        e = merge(list, (struct entry){name, .origin = ORIGIN_FORMAT});
        mem_free(name);
    }
    return e;
}

static enum err check_feature_name(const char *name, const struct conf_node *n)
{
    bool valid = strlen(name) <= NAME_MAX_BYTES;
    for (const char *p = name; *p; p++)
        valid = valid && (unsigned char)*p >= 0x20 && *p != 0x7f;
    if (valid)
        return ERR_NONE;
    return setting_error(ERR_INPUT, n, "features",
                         "'%.40s' is no name; give up to %u bytes without control characters", name,
                         NAME_MAX_BYTES);
}

static enum err collect(const struct job *j, const struct conf_node *map, struct entries *list)
{
    enum err e = add_format(j, list);
    size_t fixed = list->count;
    for (size_t i = 0; map && i < map->count && !e; i++) {
        const char *name = map->names[i];
        const struct conf_node *n = map->items[i];
        size_t count = list->count;
        e = check_feature_name(name, n);
        if (e)
            break;
        if (strstr(name, ".."))
            e = add_range(list, name, n);
        else if (job_feature_is_pattern(name))
            e = add_glob(list, fixed, name, n);
        else
            e = merge(list, (struct entry){(char *)name, n, name, ORIGIN_NAME});
        if (!e && fixed == 1 && list->count > count)
            e = setting_error(ERR_INPUT, n, "features",
                              "format %s has one feature, '%s'; '%s' is not there",
                              data_format_names[j->data.format], list->items[0].name, name);
    }
    return e;
}

/* ---- one feature ---------------------------------------------------------------------------- */

static bool given(const struct conf_node *map, const char *name)
{
    return !conf_is_null(conf_get(map, name));
}

static bool is_criteo_number(const struct job *j, const char *name)
{
    return j->data.format == FORMAT_CRITEO && name[0] == 'I' && strlen(name) <= 3 &&
           strspn(name + 1, "0123456789") == strlen(name + 1);
}

static bool is_sparse_format(const struct job *j)
{
    return j->data.format == FORMAT_LIBSVM || j->data.format == FORMAT_LIBFFM;
}

static const struct setting *feature_row(const char *path)
{
    for (size_t i = 0; i < feature_setting_count; i++)
        if (!strcmp(feature_settings[i].path, path))
            return &feature_settings[i];
    CHECK(!"there is no such row");
    return NULL;
}

/* Said, or seen from what else is said, or what the format says. */
static enum err find_type(const struct job *j, const struct entry *entry, const char *path,
                          enum feature_type *out, bool *said)
{
    const struct conf_node *n = entry->node;
    const struct conf_node *type = n && n->kind == CONF_MAP ? conf_get(n, "type") : n;
    double number;
    if (n && n->kind == CONF_LIST)
        return setting_error(ERR_INPUT, n, path, "is a list; give a type or a map of settings");
    *said = !conf_is_null(type) && (type != n || strcmp(n->text, "all"));
    if (*said) {
        char *full = must_format(type == n ? "%s" : "%s.type", path);
        enum err e = value_read(feature_row("type"), type, full, out);
        mem_free(full);
        return e;
    }
    const struct conf_node *missing = conf_get(n, "missing");
    bool numeric = given(n, "transform") || given(n, "bucketize") || given(n, "missing_flag");
    if (missing && missing->kind == CONF_SCALAR)
        numeric = numeric || !str_parse_f64(span_of(missing->text), &number);
    if (given(n, "cross"))
        *out = FEATURE_CATEGORICAL;
    else if (given(n, "length") || j->data.format == FORMAT_IDX)
        *out = FEATURE_VECTOR;
    else if (numeric || is_criteo_number(j, entry->name))
        *out = FEATURE_NUMERIC;
    else
        *out = FEATURE_CATEGORICAL;
    return ERR_NONE;
}

static bool names_categorical_transform(const struct conf_node *n)
{
    if (!n || n->kind == CONF_MAP)
        return false;
    for (size_t i = 0; n->kind == CONF_LIST && i < n->count; i++)
        if (names_categorical_transform(n->items[i]))
            return true;
    for (uint32_t k = 0; n->kind == CONF_SCALAR && transform_names[k]; k++)
        if (!strcmp(n->text, transform_names[k]))
            return transform_makes_categorical((enum transform_kind)k);
    return false;
}

static uint32_t find_class(const struct conf_node *n, enum feature_type type, bool sparse_format,
                           bool binned)
{
    const struct conf_node *pooling = conf_get(n, "pooling");
    if (type == FEATURE_VECTOR)
        return CLASS_VECTOR;
    if (type == FEATURE_NUMERIC)
        return binned || given(n, "bucketize") ||
                       names_categorical_transform(conf_get(n, "transform"))
                   ? CLASS_BINNED
                   : CLASS_NUMERIC;
    if (given(n, "cross"))
        return CLASS_CROSS;
    bool pooled = pooling && (pooling->kind != CONF_SCALAR || strcmp(pooling->text, "none"));
    bool multi = sparse_format || pooled || given(n, "separator") || given(n, "value_weights") ||
                 given(n, "max_values");
    return CLASS_CATEGORICAL | (multi ? CLASS_MULTI : 0);
}

struct settings_view job_feature_view(const struct job_feature *f)
{
    uint32_t class = CLASS_CATEGORICAL | (f->multi_valued ? CLASS_MULTI : 0);
    if (f->type == FEATURE_VECTOR)
        class = CLASS_VECTOR;
    else if (f->type == FEATURE_NUMERIC)
        class = feature_is_binned(f) ? CLASS_BINNED : CLASS_NUMERIC;
    else if (f->cross.count)
        class = CLASS_CROSS;
    return (struct settings_view){
        .rows = feature_settings, .count = feature_setting_count, .applies = class};
}

static const char *class_name(uint32_t class)
{
    return class & CLASS_CATEGORICAL ? "a categorical feature"
           : class == CLASS_NUMERIC  ? "a numeric feature"
           : class == CLASS_BINNED   ? "a number made categorical"
           : class == CLASS_VECTOR   ? "a vector"
                                     : "a cross";
}

/* JOB.md's rule 5: Criteo's numbers become categories where terms are linear, inputs elsewhere. */
static void set_criteo_transforms(const struct job *j, struct job_feature *f)
{
    bool deep = !model_is_terms(&j->model);
    mem_free(f->transforms);
    f->transforms = must_alloc(2 * sizeof *f->transforms);
    f->transform_count = deep ? 2 : 1;
    f->transforms[0].kind = deep ? TRANSFORM_LOG1P : TRANSFORM_LOG2_FLOOR;
    if (deep)
        f->transforms[1].kind = TRANSFORM_STANDARDIZE;
}

static void set_sparse_defaults(const struct job *j, struct job_feature *f)
{
    f->key = KEY_INTEGER;
    f->pooling = POOLING_SUM;
    f->separator = ' ';
    f->value_weights = ':';
    f->max_values = VALUES_MAX;
    /* libffm's indices are one space over all fields. */
    if (j->data.format == FORMAT_LIBFFM)
        f->table = must_strdup("features");
}

static enum err check_feature(const struct job *j, const struct job_feature *f,
                              const struct conf_node *n, const char *path)
{
    if (f->type == FEATURE_VECTOR && !f->length)
        return setting_error(ERR_INPUT, n, path,
                             "a vector needs its length; give the number of values");
    if (f->type == FEATURE_VECTOR && model_is_terms(&j->model))
        return setting_error(ERR_INPUT, n, path,
                             "is a vector, which lr, fm and ffm do not take; use model mlp");
    if (f->cross.count && (f->cross.count < 2 || f->cross.count > 3))
        return setting_error(ERR_INPUT, n, path, "crosses %zu features; give two or three",
                             f->cross.count);
    if (f->key == KEY_INTEGER && (f->min_count > 1 || f->vocab.count || f->vocab_file))
        return setting_error(ERR_INPUT, n, path,
                             "key: integer keeps every integer, so min_count and vocab do not fit");
    if (f->bucketize_count && f->transform_count &&
        transform_makes_categorical(f->transforms[f->transform_count - 1].kind))
        return setting_error(ERR_INPUT, n, path,
                             "transform and bucketize both make it categorical; keep one");
    if (f->multi_valued && f->pooling == POOLING_NONE && !model_is_terms(&j->model))
        return setting_error(ERR_INPUT, n, path,
                             "is multi-valued, which %s pools first; give pooling: sum, mean or "
                             "sqrtn",
                             model_type_names[j->model.type]);
    if (f->multi_valued && f->value_weights && f->value_weights == f->separator)
        return setting_error(ERR_INPUT, n, path, "separator and value_weights are both '%c'",
                             f->separator);
    return ERR_NONE;
}

static enum err check_column(const struct job *j, const struct job_feature *f,
                             const struct conf_node *n, const char *path)
{
    unsigned number = 0;
    if (!f->column)
        return ERR_NONE;
    if (!strcmp(f->column, j->data.label) && !job_feature_is_pattern(f->name))
        return setting_error(ERR_INPUT, n, path,
                             "column '%s' is the label; a model that reads it learns nothing else",
                             f->column);
    if (j->data.format != FORMAT_CRITEO)
        return ERR_NONE;
    for (const char *p = f->column + 1; *f->column && *p >= '0' && *p <= '9' && number < 100; p++)
        number = number * 10 + (unsigned)(*p - '0');
    char *canonical = must_format("%c%u", *f->column, number);
    bool known = !strcmp(canonical, f->column) && number &&
                 ((*f->column == 'I' && number <= CRITEO_NUMERIC) ||
                  (*f->column == 'C' && number <= CRITEO_CATEGORICAL));
    mem_free(canonical);
    if (known)
        return ERR_NONE;
    return setting_error(ERR_INPUT, n, path,
                         "format criteo has no column '%s'; it has I1..I13 and C1..C26", f->column);
}

/* The format's and the class's defaults, before what the job says about it. */
static void set_feature_defaults(const struct job *j, const struct settings_view *view,
                                 bool criteo_number, struct job_feature *f)
{
    settings_set_defaults(view, f);
    f->multi_valued = view->applies & CLASS_MULTI;
    if (criteo_number)
        set_criteo_transforms(j, f);
    if (is_sparse_format(j))
        set_sparse_defaults(j, f);
    if (j->data.format == FORMAT_IDX)
        f->length = IDX_LENGTH;
    if (view->applies != CLASS_CROSS)
        f->column = must_strdup(f->name);
}

static enum err read_feature(const struct job *j, const struct entry *entry, struct job_feature *f)
{
    const struct conf_node *n = entry->node;
    const struct conf_node *map = n && n->kind == CONF_MAP ? n : NULL;
    char *path = must_format("features.%s", entry->pattern ? entry->pattern : entry->name);
    f->name = must_strdup(entry->name);
    f->line = n ? n->line : 0;
    f->column_number = n ? n->column : 0;
    f->is_all = !n || (n->kind == CONF_SCALAR && (conf_is_null(n) || !strcmp(n->text, "all")));

    bool said = false;
    enum err e = find_type(j, entry, path, &f->type, &said);
    if (!e) {
        bool criteo_number = !said && f->type == FEATURE_NUMERIC && is_criteo_number(j, f->name) &&
                             !conf_get(map, "transform") && !given(map, "bucketize");
        struct settings_view view = {.rows = feature_settings, .count = feature_setting_count};
        view.applies = find_class(map, f->type, is_sparse_format(j),
                                  criteo_number && model_is_terms(&j->model));
        view.kind = class_name(view.applies);
        set_feature_defaults(j, &view, criteo_number, f);
        if (map)
            e = settings_read(&view, map, path, f);
    }
    if (!e)
        e = check_feature(j, f, n, path);
    if (!e)
        e = check_column(j, f, n, path);
    mem_free(path);
    return e;
}
