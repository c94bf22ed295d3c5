#include "common/features_spec.h"

#include <string.h>

#include "common/hash.h"
#include "common/job_parts.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/settings_codec.h"

#define SHARED_TABLE "features"

struct builder {
    const struct job *job;
    const char *const *columns;
    size_t column_count;
    struct features_spec *spec;
    size_t feature_capacity, table_capacity;
    /* [table_count] the first feature that reads the table: all others must have keys of its kind.
     */
    size_t *first_reader;
    size_t first_reader_capacity;
};

static enum err expand(struct builder *b);
static enum err check_column(const struct builder *b, const struct feature_spec *f);
static enum err place(struct builder *b, size_t index);
static enum err find_cross_parts(struct builder *b, struct feature_spec *f);
static enum err check_tables(const struct builder *b);

enum err features_spec_create(const struct job *j, const char *const *columns, size_t column_count,
                              struct features_spec **out)
{
    struct builder b = {.job = j, .columns = columns, .column_count = column_count};
    b.spec = must_alloc(sizeof *b.spec);
    enum err e = expand(&b);
    for (size_t i = 0; i < b.spec->feature_count && !e; i++)
        e = check_column(&b, &b.spec->features[i]);
    for (size_t i = 0; i < b.spec->feature_count && !e; i++)
        e = place(&b, i);
    for (size_t i = 0; i < b.spec->feature_count && !e; i++)
        e = find_cross_parts(&b, &b.spec->features[i]);
    if (!e)
        e = check_tables(&b);
    mem_free(b.first_reader);
    if (e) {
        features_spec_destroy(b.spec);
        return e;
    }
    *out = b.spec;
    return ERR_NONE;
}

void features_spec_destroy(struct features_spec *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->feature_count; i++) {
        mem_free(f->features[i].name);
        mem_free(f->features[i].column);
    }
    for (size_t i = 0; i < f->table_count; i++)
        mem_free(f->tables[i].name);
    mem_free(f->features);
    mem_free(f->tables);
    mem_free(f);
}

/* ---- names and columns ---------------------------------------------------------------------- */

static const struct feature_spec *find_feature(const struct features_spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->feature_count; i++)
        if (!strcmp(spec->features[i].name, name))
            return &spec->features[i];
    return NULL;
}

static enum err add_feature(struct builder *b, const struct job_feature *f, const char *name,
                            const char *column)
{
    struct features_spec *spec = b->spec;
    const struct feature_spec *there = find_feature(spec, name);
    if (there)
        return err_set(ERR_INPUT,
                       "features.%s: column '%s' is declared by features.%s too; keep one", f->name,
                       name, there->job->name);
    if (spec->feature_count >= FEATURE_MAX)
        return err_set(ERR_INPUT, "features.%s: more than %u features", f->name, FEATURE_MAX);
    if (!mem_grow(spec->features, b->feature_capacity, spec->feature_count + 1))
        return ERR_MEMORY;
    spec->features[spec->feature_count++] = (struct feature_spec){
        .job = f,
        .name = must_strdup(name),
        .column = column ? must_strdup(column) : NULL,
        .table = UINT32_MAX,
        .acts_categorical =
            f->type == FEATURE_CATEGORICAL || (f->type == FEATURE_NUMERIC && feature_is_binned(f)),
    };
    return ERR_NONE;
}

static bool is_field_name(const char *column)
{
    return column[0] == 'f' && column[1] && strspn(column + 1, "0123456789") == strlen(column + 1);
}

static bool is_more_label(const struct job *j, const char *column)
{
    for (size_t i = 0; i < j->model.more_labels.count; i++)
        if (!strcmp(j->model.more_labels.items[i], column))
            return true;
    return false;
}

/* A pattern stands for features: not for what the job uses otherwise, nor for what has its own
 * entry. */
static bool is_matched(const struct builder *b, const struct job_feature *f, const char *column)
{
    const struct job *j = b->job;
    if (j->data.format == FORMAT_LIBFFM)
        return is_field_name(column);
    if (!str_glob_match(f->name, column) || !strcmp(column, j->data.label) ||
        (j->data.weight && !strcmp(column, j->data.weight)) ||
        (j->data.time && !strcmp(column, j->data.time)) || is_more_label(j, column))
        return false;
    for (size_t i = 0; i < j->feature_count; i++)
        if (!strcmp(j->features[i].name, column))
            return false;
    return true;
}

static enum err expand_pattern(struct builder *b, const struct job_feature *f)
{
    size_t before = b->spec->feature_count;
    for (size_t i = 0; i < b->column_count; i++) {
        if (!is_matched(b, f, b->columns[i]))
            continue;
        enum err e = add_feature(b, f, b->columns[i], b->columns[i]);
        if (e)
            return e;
    }
    if (b->spec->feature_count > before)
        return ERR_NONE;
    return err_set(ERR_INPUT, "features.%s: matches none of the %zu columns of the data", f->name,
                   b->column_count);
}

static enum err expand(struct builder *b)
{
    for (size_t i = 0; i < b->job->feature_count; i++) {
        const struct job_feature *f = &b->job->features[i];
        bool pattern = b->job->data.format == FORMAT_LIBFFM || job_feature_is_pattern(f->name);
        if (pattern && f->column && strcmp(f->column, f->name))
            return err_set(ERR_INPUT,
                           "features.%s: a pattern matches columns, so it has no column "
                           "of its own; remove 'column'",
                           f->name);
        enum err e = pattern ? expand_pattern(b, f) : add_feature(b, f, f->name, f->column);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static const char *nearest_column(const struct builder *b, const char *name)
{
    const char **list = must_alloc((b->column_count + 1) * sizeof *list);
    memcpy(list, b->columns, b->column_count * sizeof *list);
    const char *nearest = str_nearest(name, list);
    mem_free(list);
    return nearest;
}

static enum err check_column(const struct builder *b, const struct feature_spec *f)
{
    size_t found = 0;
    if (!f->column)
        return ERR_NONE;
    if (!strcmp(f->column, b->job->data.label) || is_more_label(b->job, f->column))
        return err_set(ERR_INPUT, "features.%s: column '%s' is the label", f->name, f->column);
    for (size_t i = 0; i < b->column_count; i++)
        found += !strcmp(b->columns[i], f->column);
    /* The formats that name no columns have theirs by definition. */
    if (found == 1 || (!b->column_count && b->job->data.format != FORMAT_CSV))
        return ERR_NONE;
    if (found)
        return err_set(ERR_INPUT, "features.%s: the data has %zu columns '%s'; rename all but one",
                       f->name, found, f->column);
    const char *nearest = nearest_column(b, f->column);
    return err_set(ERR_INPUT, "features.%s: the data has no column '%s'%s%s%s", f->name, f->column,
                   nearest ? "; did you mean '" : "; give column: NAME", nearest ? nearest : "",
                   nearest ? "'?" : "");
}

/* ---- tables and the dense input ------------------------------------------------------------- */

static const struct job_table *find_job_table(const struct job *j, const char *name)
{
    for (size_t i = 0; i < j->table_count; i++)
        if (!strcmp(j->tables[i].name, name))
            return &j->tables[i];
    return NULL;
}

static const char *physical_table(const struct job *j, const struct feature_spec *f)
{
    if (f->job->table)
        return f->job->table;
    if (f->acts_categorical && (f->job->key == KEY_INTEGER || find_job_table(j, f->name)))
        return f->name;
    return SHARED_TABLE;
}

static enum err find_table(struct builder *b, size_t feature, const char *name, uint32_t *out)
{
    struct features_spec *spec = b->spec;
    for (uint32_t i = 0; i < spec->table_count; i++) {
        if (!strcmp(spec->tables[i].name, name)) {
            *out = i;
            return ERR_NONE;
        }
    }
    if (spec->table_count >= TABLE_MAX)
        return err_set(ERR_INPUT, "features.%s: more than %u tables; let features share some",
                       spec->features[feature].name, TABLE_MAX);
    if (!mem_grow(spec->tables, b->table_capacity, spec->table_count + 1) ||
        !mem_grow(b->first_reader, b->first_reader_capacity, spec->table_count + 1))
        return ERR_MEMORY;
    b->first_reader[spec->table_count] = feature;
    *out = (uint32_t)spec->table_count;
    spec->tables[spec->table_count++] = (struct table_spec){
        .name = must_strdup(name),
        .job = find_job_table(b->job, name),
    };
    return ERR_NONE;
}

/* An integer key is the integer itself: beside hashes it would name rows that mean something else.
 */
static enum err check_keys(const struct builder *b, const struct feature_spec *f)
{
    const struct feature_spec *first = &b->spec->features[b->first_reader[f->table]];
    if (first->job->key == f->job->key)
        return ERR_NONE;
    const struct feature_spec *integer = f->job->key == KEY_INTEGER ? f : first;
    const struct feature_spec *hashed = integer == f ? first : f;
    return err_set(ERR_INPUT,
                   "features.%s: has key: integer but shares table '%s' with the hashed "
                   "'%s'; give both the same key, or tables of their own",
                   integer->name, b->spec->tables[f->table].name, hashed->name);
}

static enum err place(struct builder *b, size_t index)
{
    struct feature_spec *f = &b->spec->features[index];
    const char *space = f->job->table ? f->job->table : f->name;
    f->seed = hash64(space, strlen(space), 0);
    bool deep = !model_is_terms(&b->job->model);
    if (!f->acts_categorical && deep) {
        f->dense_offset = b->spec->dense_width;
        f->dense_width = f->job->type == FEATURE_VECTOR ? f->job->length : 1;
        f->dense_width += f->job->missing_flag;
        b->spec->dense_width += f->dense_width;
        return ERR_NONE;
    }
    enum err e = find_table(b, index, physical_table(b->job, f), &f->table);
    if (e)
        return e;
    f->gives_terms = true;
    f->slot = b->spec->tables[f->table].slot_count++;
    return check_keys(b, f);
}

static enum err find_cross_parts(struct builder *b, struct feature_spec *f)
{
    f->cross_count = (uint32_t)f->job->cross.count;
    for (uint32_t i = 0; i < f->cross_count; i++) {
        const char *name = f->job->cross.items[i];
        const struct feature_spec *part = find_feature(b->spec, name);
        const char *wrong = !part ? "is no feature; declare it"
                            : part->cross_count || part->job->cross.count
                                ? "is a cross itself; name its parts"
                            : part->job->multi_valued ? "is multi-valued"
                            : !part->acts_categorical ? "is not categorical; bucketize it"
                                                      : NULL;
        if (wrong)
            return err_set(ERR_INPUT, "features.%s: crosses '%s', which %s", f->name, name, wrong);
        f->cross_parts[i] = (uint32_t)(part - b->spec->features);
    }
    return ERR_NONE;
}

static enum err check_tables(const struct builder *b)
{
    for (size_t i = 0; i < b->job->table_count; i++) {
        const char *name = b->job->tables[i].name;
        bool read = false;
        for (size_t k = 0; k < b->spec->table_count; k++)
            read = read || !strcmp(b->spec->tables[k].name, name);
        if (!read)
            return err_set(ERR_INPUT,
                           "tables.%s: no feature reads it; give a feature table: %s, or "
                           "remove it",
                           name, name);
    }
    return ERR_NONE;
}
