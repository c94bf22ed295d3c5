/*
 * dataset_predict.c - batches of examples that are in no index: from files, and from JSON lines.
 *
 * Rows become an image of a block as for the cache, and the batch is made of all of it.
 */
#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/storage.h"
#include "worker/datafiles.h"
#include "worker/dataset_internal.h"
#include "worker/scan.h"

struct predict_source {
    struct dataset *d;
    struct features *features;
    struct reader *reader;
    struct rows rows;
    struct block_builder builder;
    struct group group;
    struct batch_maker maker;
    struct arena_list arenas;
    struct sampler_pick *picks;
    size_t pick_capacity;
    uint32_t batch_size;
    struct text_list fields;

    /* ids of the batch: column by column behind each other, example by example */
    struct str ids;
    size_t *id_starts;
    size_t id_capacity;
    uint32_t id_count;

    /* files */
    struct storage_files files;
    struct dataindex_file file; /* path columns of the one at hand */
    size_t next_file;
    struct scan *scan;
    struct raw_block raw;
    bool in_block;

    /* JSON */
    struct str texts;
    size_t *text_starts;
    struct span *spans;
    uint8_t *bytes;
    size_t byte_capacity;
};

/* ---- batches --------------------------------------------------------------------------------- */

static struct predict_source *create(struct dataset *d, uint32_t batch_size)
{
    struct predict_source *p = must_alloc(sizeof *p);
    p->d = d;
    p->batch_size = batch_size;
    arena_list_init(&p->arenas, d->o.features);
    return p;
}

static enum err use_fields(struct predict_source *p)
{
    struct features_options o = {.job = p->d->o.job,
                                 .spec = p->d->o.features,
                                 .index = p->d->o.index,
                                 .columns = (const char *const *)p->fields.items,
                                 .column_count = (uint32_t)p->fields.count,
                                 .label_optional = true};
    rows_deinit(&p->rows);
    features_destroy(p->features);
    p->features = NULL;
    enum err e = features_create(&o, &p->features);
    if (e == ERR_NONE)
        rows_init(p->features, &p->rows);
    return e;
}

static void begin_batch(struct predict_source *p)
{
    rows_clear(&p->rows);
    str_clear(&p->ids);
    p->id_count = 0;
}

static enum err add_record(struct predict_source *p, const struct record *record)
{
    const struct features_call call = {.reader = p->reader};
    enum err e = features_add(p->features, &call, record, &p->rows);
    if (e != ERR_NONE)
        return e;
    uint32_t columns;
    const uint32_t *fields = features_id_fields(p->features, &columns);
    if (!mem_grow(p->id_starts, p->id_capacity, (size_t)p->id_count + columns))
        return ERR_MEMORY;
    for (uint32_t c = 0; c < columns; c++) {
        struct span text = {0};
        if (fields[c] < record->field_count)
            text = record->fields[fields[c]];
        p->id_starts[p->id_count++] = p->ids.size;
        str_append_span(&p->ids, text);
        str_append_span(&p->ids, span_make("", 1));
    }
    return ERR_NONE;
}

static enum err finish_batch(struct predict_source *p, struct batch **out)
{
    const struct block_identity none = {0};
    struct block_view v;
    uint32_t n = p->rows.count;
    /* Whatever a split would say of them, these are examples to predict. */
    memset(p->rows.evals, 0, n * sizeof *p->rows.evals);
    if (!mem_grow(p->picks, p->pick_capacity, n))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < n; i++)
        p->picks[i] = (struct sampler_pick){.example = i};
    enum err e = block_build(&p->builder, &p->rows, none);
    if (e == ERR_NONE)
        e = block_view_open("predict", p->builder.image, p->builder.image_size, none, false, &v);
    if (e != ERR_NONE)
        return e;
    struct batch_arena *a = arena_take(&p->arenas);
    e = a != NULL ? group_of_view(&p->group, &v) : ERR_MEMORY;
    if (e == ERR_NONE)
        e = batch_make(&p->maker, &p->group, p->picks, n, a);
    block_view_close(&v);
    if (e != ERR_NONE) {
        batch_release(a != NULL ? &a->batch : NULL);
        return e;
    }
    a->batch.step = 0;
    a->batch.rank = 0;
    *out = &a->batch;
    return ERR_NONE;
}

const char *predict_id(const struct predict_source *p, uint32_t example, uint32_t column)
{
    uint32_t columns;
    features_id_fields(p->features, &columns);
    CHECK(column < columns && example * columns + column < p->id_count);
    return p->ids.data + p->id_starts[example * columns + column];
}

void predict_close(struct predict_source *p)
{
    if (p == NULL)
        return;
    scan_close(p->scan);
    raw_block_deinit(&p->raw);
    storage_files_deinit(&p->files);
    reader_destroy(p->reader);
    rows_deinit(&p->rows);
    features_destroy(p->features);
    block_builder_deinit(&p->builder);
    group_deinit(&p->group);
    batch_maker_deinit(&p->maker);
    arena_list_deinit(&p->arenas);
    text_list_free(&p->fields);
    str_deinit(&p->ids);
    str_deinit(&p->texts);
    mem_free(p->picks);
    mem_free(p->id_starts);
    mem_free(p->text_starts);
    mem_free(p->spans);
    mem_free(p->bytes);
    mem_free(p);
}

/* ---- files ----------------------------------------------------------------------------------- */

enum err predict_open_files(struct dataset *d, const struct text_list *paths, uint32_t batch_size,
                            struct predict_source **out)
{
    CHECK(batch_size > 0);
    struct predict_source *p = create(d, batch_size);
    enum err e = storage_expand((const char *const *)paths->items, paths->count, &p->files);
    if (e != ERR_NONE) {
        predict_close(p);
        return e;
    }
    *out = p;
    return ERR_NONE;
}

/* The next file's columns decide where features are read. */
static enum err open_file(struct predict_source *p)
{
    const struct job_data *data = &p->d->o.job->data;
    const struct storage_file *f = &p->files.files[p->next_file++];
    p->file = (struct dataindex_file){.uri = f->uri,
                                      .column_names = f->column_names,
                                      .column_values = f->column_values,
                                      .column_count = (uint32_t)f->column_count};
    if (data->format == FORMAT_IDX && strstr(f->uri, "labels-idx1-ubyte") != NULL)
        return ERR_NONE;
    scan_close(p->scan);
    p->scan = NULL;
    enum err e = scan_open(data, f->uri, &p->scan);
    if (e != ERR_NONE || scan_head(p->scan)->empty)
        return e;
    const struct file_head *h = scan_head(p->scan);
    text_list_free(&p->fields);
    data_fields(data, h->columns, h->column_count, &p->file, &p->fields);
    struct rows kept = p->rows; /* rows of the file before go on into the same batch */
    bool first = p->features == NULL;
    struct features *before = p->features;
    p->features = NULL;
    p->rows = (struct rows){0};
    e = use_fields(p);
    if (e == ERR_NONE && !first) {
        rows_deinit(&p->rows);
        p->rows = kept;
    } else if (!first) {
        rows_deinit(&kept);
    }
    features_destroy(before);
    reader_destroy(p->reader);
    p->reader = NULL;
    struct reader_options o = {
        .data = data, .record_bytes = h->record_bytes, .column_count = h->column_count};
    return e == ERR_NONE ? reader_create(&o, &p->reader) : e;
}

/* Stands the reader on the next block; *end behind the last file. */
static enum err next_block(struct predict_source *p, bool *end)
{
    for (;;) {
        if (p->scan != NULL) {
            enum err e = scan_next(p->scan, &p->raw);
            if (e != ERR_NONE)
                return e;
        }
        if (p->scan != NULL && p->raw.size > 0)
            break;
        if (p->next_file == p->files.count) {
            *end = true;
            return ERR_NONE;
        }
        enum err e = open_file(p);
        if (e != ERR_NONE)
            return e;
    }
    reader_begin(p->reader,
                 &(struct reader_block){.name = p->file.uri,
                                        .data = p->raw.data,
                                        .size = p->raw.size,
                                        .first_line = p->raw.first_line,
                                        .record_count = p->raw.record_count,
                                        .extra_values = (const char *const *)p->file.column_values,
                                        .extra_count = p->file.column_count});
    p->in_block = true;
    return ERR_NONE;
}

enum err predict_next(struct predict_source *p, struct batch **out)
{
    bool end = false;
    begin_batch(p);
    while (p->rows.count < p->batch_size) {
        const struct record *record = NULL;
        enum err e = p->in_block ? reader_next(p->reader, &record) : ERR_NONE;
        if (e == ERR_NONE && record != NULL) {
            e = add_record(p, record);
        } else if (e == ERR_NONE) {
            p->in_block = false;
            e = next_block(p, &end);
        }
        if (e != ERR_NONE)
            return e;
        if (end)
            break;
    }
    if (p->rows.count == 0) {
        *out = NULL;
        return ERR_NONE;
    }
    return finish_batch(p, out);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

enum err predict_open_json(struct dataset *d, struct predict_source **out)
{
    struct predict_source *p = create(d, 0);
    const struct job_data *data = &d->o.job->data;
    data_fields_of_index(data, d->o.index, &p->fields);
    p->text_starts = must_alloc((p->fields.count + 1) * sizeof *p->text_starts);
    p->spans = must_alloc(p->fields.count * sizeof *p->spans);
    struct reader_options o = {.data = data, .column_count = (uint32_t)p->fields.count};
    enum err e = use_fields(p);
    if (e == ERR_NONE)
        e = reader_create(&o, &p->reader);
    if (e != ERR_NONE) {
        predict_close(p);
        return e;
    }
    *out = p;
    return ERR_NONE;
}

static void append_scalar(struct str *s, const struct json *value)
{
    switch (json_type(value)) {
    case JSON_TEXT:
        str_append(s, json_as_text(value));
        break;
    case JSON_INT:
        str_append_format(s, "%" PRId64, json_as_int(value));
        break;
    case JSON_BOOL:
        str_append(s, json_as_bool(value) ? "true" : "false");
        break;
    case JSON_NUMBER:
        json_write(value, false, s);
        break;
    default:
        break;
    }
}

/* A list stands for the text that would be in a file. */
static enum err append_value(struct predict_source *p, uint32_t field, const struct json *value)
{
    enum json_type type = json_type(value);
    if (type == JSON_OBJECT)
        return reader_error(p->reader, NULL, "'%s' is an object; give a value or a list",
                            p->fields.items[field]);
    if (type != JSON_ARRAY) {
        append_scalar(&p->texts, value);
        return ERR_NONE;
    }
    uint32_t feature = features_of_field(p->features, field);
    char separator =
        feature != UINT32_MAX ? p->d->o.features->features[feature].job->separator : '|';
    for (size_t i = 0; i < json_count(value); i++) {
        enum json_type inner = json_type(json_at(value, i));
        if (inner == JSON_OBJECT || inner == JSON_ARRAY)
            return reader_error(p->reader, NULL,
                                "'%s' holds an object or a list in its list; give values",
                                p->fields.items[field]);
        if (i > 0)
            str_append_span(&p->texts, span_make(&separator, 1));
        append_scalar(&p->texts, json_at(value, i));
    }
    return ERR_NONE;
}

static enum err take_pixels(struct predict_source *p, const struct json *object, struct record *r)
{
    struct json *pixels;
    enum err e = json_get_array(object, "pixels", &pixels);
    if (e != ERR_NONE)
        return e;
    size_t count = json_count(pixels);
    if (!mem_grow(p->bytes, p->byte_capacity, count + 1))
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int64_t value = json_as_int(json_at(pixels, i));
        if (json_type(json_at(pixels, i)) != JSON_INT || value < 0 || value > 255)
            return reader_error(p->reader, NULL, "pixels[%zu] is not a whole number from 0 to 255",
                                i);
        p->bytes[i] = (uint8_t)value;
    }
    r->bytes = p->bytes;
    r->byte_count = (uint32_t)count;
    return ERR_NONE;
}

static enum err take_entries(struct predict_source *p, const struct json *object, struct record *r)
{
    const char *text;
    const struct record *parsed;
    enum err e = json_get_text(object, "features", &text);
    if (e == ERR_NONE)
        e = reader_parse_entries(p->reader, span_of(text), &parsed);
    if (e != ERR_NONE)
        return e;
    r->entries = parsed->entries;
    r->entry_count = parsed->entry_count;
    return ERR_NONE;
}

static enum err add_object(struct predict_source *p, const struct json *object, uint32_t line)
{
    enum data_format format = p->d->o.job->data.format;
    struct record record = {
        .line = line, .fields = p->spans, .field_count = (uint32_t)p->fields.count};
    enum err e = ERR_NONE;
    str_clear(&p->texts);
    for (uint32_t i = 0; i < p->fields.count && e == ERR_NONE; i++) {
        const struct json *value = json_get(object, p->fields.items[i]);
        p->text_starts[i] = p->texts.size;
        if (value != NULL)
            e = append_value(p, i, value);
    }
    p->text_starts[p->fields.count] = p->texts.size;
    for (uint32_t i = 0; i < p->fields.count && e == ERR_NONE; i++) {
        size_t size = p->text_starts[i + 1] - p->text_starts[i];
        p->spans[i] =
            size > 0 ? span_make(p->texts.data + p->text_starts[i], size) : (struct span){0};
    }
    if (e == ERR_NONE && format == FORMAT_IDX)
        e = take_pixels(p, object, &record);
    if (e == ERR_NONE && (format == FORMAT_LIBSVM || format == FORMAT_LIBFFM))
        e = take_entries(p, object, &record);
    return e == ERR_NONE ? add_record(p, &record) : e;
}

enum err predict_parse_json(struct predict_source *p, const char *const *lines, const size_t *sizes,
                            uint32_t count, struct batch **out)
{
    begin_batch(p);
    for (uint32_t i = 0; i < count; i++) {
        struct json *object = NULL;
        char name[32] = "json";
        reader_begin(p->reader,
                     &(struct reader_block){.name = name, .data = name, .first_line = i + 1});
        enum err e = json_parse("json", lines[i], sizes[i], &object);
        if (e == ERR_NONE && json_type(object) != JSON_OBJECT)
            e = reader_error(p->reader, NULL, "not an object with a member for each column");
        if (e == ERR_NONE)
            e = add_object(p, object, i + 1);
        json_destroy(object);
        if (e != ERR_NONE)
            return err_prefix(e, "line %u", i + 1);
    }
    if (p->rows.count == 0)
        return err_set(ERR_INPUT, "no JSON lines to predict from");
    return finish_batch(p, out);
}
