#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "worker/datafiles.h"
#include "worker/dataindex_scan.h"
#include "worker/dataset.h"
#include "worker/features.h"
#include "worker/keycounts.h"
#include "worker/scan.h"

/* Distinct values are counted one by one as far as memory allows; then the number is a lower bound.
 */
#define DISTINCT_MAX (4u << 20)

struct column_summary {
    uint64_t missing, values;
    struct keycounts distinct;
    bool too_many;
    double minimum, maximum;
};

struct summary {
    const struct job *job;
    struct data_files files;
    struct index_part part;
    struct features_spec *spec;
    struct features *features;
    struct column_summary *columns; /* [feature_count] */
    struct rows rows;
    struct reader *reader;
    uint64_t examples, eval_examples, bad_rows;
    double label_sum, label_minimum, label_maximum;
    uint32_t first_count;
    struct json *first;
    enum err error; /* of an observer */
};

/* ---- what passes by -------------------------------------------------------------------------- */

static void note_missing(void *context, uint32_t feature)
{
    ((struct summary *)context)->columns[feature].missing++;
}

static void note_key(void *context, uint32_t feature, uint64_t key)
{
    struct summary *s = context;
    struct column_summary *c = &s->columns[feature];
    c->values++;
    if (c->distinct.used >= DISTINCT_MAX)
        c->too_many = true;
    else if (s->error == ERR_NONE)
        s->error = keycounts_add(&c->distinct, key, 1);
}

static void note_number(void *context, uint32_t feature, double value)
{
    struct summary *s = context;
    struct column_summary *c = &s->columns[feature];
    bool counted = s->spec->features[feature].acts_categorical; /* then its key is counted, too */
    c->minimum = value < c->minimum ? value : c->minimum;
    c->maximum = value > c->maximum ? value : c->maximum;
    c->values += !counted;
}

static void keep_example(struct summary *s, const struct record *record)
{
    struct json *o = json_object();
    for (uint32_t i = 0; i < record->field_count && i < s->part.fields.count; i++) {
        struct span field = record->fields[i];
        char *text = field.data != NULL ? must_format("%.*s", (int)field.size, field.data) : NULL;
        json_set(o, s->part.fields.items[i], text != NULL ? json_text(text) : json_null());
        mem_free(text);
    }
    if (record->entry_count > 0) {
        struct str terms = {0};
        for (uint32_t i = 0; i < record->entry_count; i++) {
            const struct record_entry *e = &record->entries[i];
            if (s->job->data.format == FORMAT_LIBFFM)
                str_append_format(&terms, "%u:", e->field);
            str_append_format(&terms, "%" PRIu64 ":%g ", e->index, (double)e->value);
        }
        terms.data[--terms.size] = '\0';
        json_set_text(o, "features", terms.data);
        str_deinit(&terms);
    }
    json_push(s->first, o);
}

static enum err describe_block(struct summary *s, const struct dataindex_file *file,
                               const struct raw_block *raw)
{
    const struct features_observer observer = {
        .context = s, .key = note_key, .number = note_number, .missing = note_missing};
    const struct features_call call = {
        .reader = s->reader, .for_eval = file->for_eval, .observer = &observer};
    rows_clear(&s->rows);
    reader_begin(s->reader,
                 &(struct reader_block){.name = file->uri,
                                        .data = raw->data,
                                        .size = raw->size,
                                        .first_line = raw->first_line,
                                        .record_count = raw->record_count,
                                        .extra_values = (const char *const *)file->column_values,
                                        .extra_count = file->column_count});
    for (;;) {
        const struct record *record;
        enum err e = reader_next(s->reader, &record);
        if (e == ERR_NONE && record == NULL)
            return s->error;
        if (e == ERR_NONE)
            e = features_add(s->features, &call, record, &s->rows);
        if (e == ERR_INPUT)
            continue; /* counted by the scan before */
        if (e != ERR_NONE)
            return e;
        double label = s->rows.labels[s->rows.count - 1];
        s->label_sum += label;
        s->label_minimum = label < s->label_minimum ? label : s->label_minimum;
        s->label_maximum = label > s->label_maximum ? label : s->label_maximum;
        s->eval_examples += s->rows.evals[s->rows.count - 1];
        s->examples++;
        if (json_count(s->first) < s->first_count)
            keep_example(s, record);
    }
}

/* ---- passes ---------------------------------------------------------------------------------- */

static enum err describe_file(struct summary *s, const struct dataindex_file *file)
{
    struct scan *scan = NULL;
    struct raw_block raw = {0};
    enum err e = scan_open(&s->job->data, file->uri, &scan);
    if (e == ERR_NONE && s->reader == NULL) {
        struct reader_options o = {.data = &s->job->data,
                                   .column_count = scan_head(scan)->column_count,
                                   .record_bytes = scan_head(scan)->record_bytes};
        if (!scan_head(scan)->empty)
            e = reader_create(&o, &s->reader);
    }
    while (e == ERR_NONE && !scan_head(scan)->empty) {
        e = scan_next(scan, &raw);
        if (e != ERR_NONE || raw.size == 0)
            break;
        e = describe_block(s, file, &raw);
    }
    raw_block_deinit(&raw);
    scan_close(scan);
    return e;
}

/* The scan for the index finds columns, bad rows and libffm's fields. */
static enum err prepare(struct summary *s)
{
    struct index_scan scan = {.job = s->job, .files = &s->files, .worker_count = 1};
    struct text_list columns;
    enum err e = data_files_list(&s->job->data, &s->files);
    if (e == ERR_NONE)
        e = index_scan_run(&scan, &s->part);
    if (e == ERR_NONE && s->part.fields.count == 0)
        e = err_set(ERR_INPUT, "data.train: all %u files are empty", s->files.count);
    if (e != ERR_NONE)
        return e;
    for (uint32_t i = 0; i < s->part.block_count; i++)
        s->bad_rows += s->part.blocks[i].place.bad_count;
    data_spec_columns(&s->job->data, &s->part.fields, s->files.files[0].column_count,
                      s->part.libffm_fields, &columns);
    e = features_spec_create(s->job, (const char *const *)columns.items, columns.count, &s->spec);
    text_list_free(&columns);
    if (e != ERR_NONE)
        return e;
    struct features_options o = {.job = s->job,
                                 .spec = s->spec,
                                 .columns = (const char *const *)s->part.fields.items,
                                 .column_count = (uint32_t)s->part.fields.count};
    e = features_create(&o, &s->features);
    if (e != ERR_NONE)
        return e;
    rows_init(s->features, &s->rows);
    s->columns = must_alloc(s->spec->feature_count * sizeof *s->columns);
    for (size_t i = 0; i < s->spec->feature_count; i++) {
        s->columns[i].minimum = INFINITY;
        s->columns[i].maximum = -INFINITY;
    }
    return ERR_NONE;
}

static struct json *write_feature(const struct summary *s, size_t i)
{
    static const char *const types[] = {"categorical", "numeric", "vector"};
    const struct feature_spec *f = &s->spec->features[i];
    const struct column_summary *c = &s->columns[i];
    struct json *o = json_object();
    json_set_text(o, "name", f->name);
    json_set_text(o, "type", f->cross_count > 0 ? "cross" : types[f->job->type]);
    if (f->gives_terms)
        json_set_text(o, "table", s->spec->tables[f->table].name);
    json_set_int(o, "values", (int64_t)c->values);
    json_set_int(o, "missing", (int64_t)c->missing);
    if (f->acts_categorical) {
        json_set_int(o, "distinct", (int64_t)c->distinct.used);
        if (c->too_many)
            json_set_bool(o, "distinct_is_lower_bound", true);
    }
    if (c->minimum <= c->maximum) {
        json_set_number(o, "minimum", c->minimum);
        json_set_number(o, "maximum", c->maximum);
    }
    return o;
}

static struct json *write_summary(struct summary *s)
{
    struct json *o = json_object(), *label = json_object(), *features = json_array();
    json_set_int(o, "files", s->files.count);
    json_set_int(o, "examples", (int64_t)s->examples);
    if (s->job->data.split.kind != SPLIT_TIME)
        json_set_int(o, "eval_examples", (int64_t)s->eval_examples);
    json_set_int(o, "bad_rows", (int64_t)s->bad_rows);
    if (s->part.bad.count > 0) {
        struct json *bad = json_array();
        for (size_t i = 0; i < s->part.bad.count; i++)
            json_push(bad, json_text(s->part.bad.items[i]));
        json_set(o, "first_bad_rows", bad);
    }
    if (s->part.cut_values > 0)
        json_set_int(o, "values_cut_by_max_values", (int64_t)s->part.cut_values);
    if (s->examples > 0) {
        json_set_number(label, "mean", s->label_sum / (double)s->examples);
        json_set_number(label, "minimum", s->label_minimum);
        json_set_number(label, "maximum", s->label_maximum);
    }
    json_set(o, "label", label);
    for (size_t i = 0; i < s->spec->feature_count; i++)
        json_push(features, write_feature(s, i));
    json_set(o, "features", features);
    json_set(o, "first_examples", s->first);
    s->first = NULL;
    return o;
}

enum err dataset_describe(const struct job *j, uint32_t first_examples, struct json **out)
{
    /* Here bad rows are a finding, not a failure. */
    struct job tolerant = *j;
    tolerant.data.bad_rows = 1;
    struct summary s = {.job = &tolerant,
                        .first_count = first_examples,
                        .first = json_array(),
                        .label_minimum = INFINITY,
                        .label_maximum = -INFINITY};
    enum err e = prepare(&s);
    for (uint32_t i = 0; i < s.files.count && e == ERR_NONE; i++)
        e = describe_file(&s, &s.files.files[i]);
    if (e == ERR_NONE)
        *out = write_summary(&s);
    for (size_t i = 0; s.columns != NULL && i < s.spec->feature_count; i++)
        keycounts_deinit(&s.columns[i].distinct);
    mem_free(s.columns);
    json_destroy(s.first);
    rows_deinit(&s.rows);
    reader_destroy(s.reader);
    features_destroy(s.features);
    features_spec_destroy(s.spec);
    index_part_deinit(&s.part);
    data_files_deinit(&s.files);
    return e;
}
