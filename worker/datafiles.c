#include "worker/datafiles.h"

#include <inttypes.h>
#include <string.h>

#include "common/job_parts.h"
#include "common/mem.h"
#include "common/storage.h"
#include "worker/reader.h"
#include "worker/scan.h"

static bool is_labels_file(const struct job_data *d, const char *uri)
{
    return d->format == FORMAT_IDX && strstr(uri, "labels-idx1-ubyte") != NULL;
}

static void take_file(struct storage_file *from, bool for_eval, struct dataindex_file *to)
{
    *to = (struct dataindex_file){.uri = must_strdup(from->uri),
                                  .for_eval = for_eval,
                                  .column_count = (uint32_t)from->column_count};
    to->column_names = must_alloc(from->column_count * sizeof *to->column_names);
    to->column_values = must_alloc(from->column_count * sizeof *to->column_values);
    for (size_t i = 0; i < from->column_count; i++) {
        to->column_names[i] = must_strdup(from->column_names[i]);
        to->column_values[i] = must_strdup(from->column_values[i]);
    }
}

static enum err list_part(const struct job_data *d, const struct text_list *paths, bool for_eval,
                          struct data_files *out)
{
    struct storage_files found = {0};
    if (paths->count == 0)
        return ERR_NONE;
    enum err e = storage_expand((const char *const *)paths->items, paths->count, &found);
    if (e != ERR_NONE)
        return err_prefix(e, "data.%s", for_eval ? "eval" : "train");
    out->files = must_realloc(out->files, out->count + found.count, sizeof *out->files);
    uint32_t before = out->count;
    for (size_t i = 0; i < found.count && e == ERR_NONE; i++) {
        if (is_labels_file(d, found.files[i].uri))
            continue;
        struct dataindex_file *file = &out->files[out->count++];
        take_file(&found.files[i], for_eval, file);
        e = scan_mark(d, file->uri, &file->size, file->mark);
    }
    storage_files_deinit(&found);
    if (e == ERR_NONE && out->count == before)
        e = err_set(ERR_INPUT, "data.%s: no files", for_eval ? "eval" : "train");
    return e;
}

static enum err check_levels(const struct data_files *f)
{
    const struct dataindex_file *first = &f->files[0];
    for (uint32_t i = 1; i < f->count; i++) {
        const struct dataindex_file *file = &f->files[i];
        bool same = file->column_count == first->column_count;
        for (uint32_t c = 0; same && c < first->column_count; c++)
            same = strcmp(file->column_names[c], first->column_names[c]) == 0;
        if (!same)
            return err_set(ERR_INPUT, "%s: its key=value levels are not those of %s", file->uri,
                           first->uri);
    }
    return ERR_NONE;
}

enum err data_files_list(const struct job_data *d, struct data_files *out)
{
    struct data_files list = {0};
    enum err e = list_part(d, &d->train, false, &list);
    if (e == ERR_NONE)
        e = list_part(d, &d->eval, true, &list);
    if (e == ERR_NONE)
        e = check_levels(&list);
    if (e != ERR_NONE) {
        data_files_deinit(&list);
        return e;
    }
    *out = list;
    return ERR_NONE;
}

void data_files_deinit(struct data_files *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct dataindex_file *file = &f->files[i];
        for (uint32_t c = 0; c < file->column_count; c++) {
            mem_free(file->column_names[c]);
            mem_free(file->column_values[c]);
        }
        mem_free(file->column_names);
        mem_free(file->column_values);
        mem_free(file->uri);
    }
    mem_free(f->files);
    *f = (struct data_files){0};
}

/* ---- identity -------------------------------------------------------------------------------- */

/* Settings that say how records are read and what they become. */
static bool matters(const struct job_line *line)
{
    static const char *const model[] = {"type", "loss", "classes"};
    const char *section = line->names[0], *name = line->depth > 1 ? line->names[1] : "";
    if (strcmp(section, "features") == 0)
        return true;
    if (strcmp(section, "data") == 0)
        return strcmp(name, "shuffle") != 0 && strcmp(name, "id") != 0;
    for (size_t i = 0; strcmp(section, "model") == 0 && i < sizeof model / sizeof *model; i++) {
        if (strcmp(name, model[i]) == 0)
            return true;
    }
    return strcmp(section, "eval") == 0 && strcmp(name, "metrics") == 0;
}

static void add_text(struct sha256 *hash, const char *text)
{
    sha256_update(hash, text, strlen(text) + 1);
}

void data_files_identity(const struct job *j, const struct data_files *f, char hex[SHA256_HEX_SIZE])
{
    struct sha256 *hash = sha256_create();
    struct job_lines lines;
    job_lines_init(&lines, j);
    add_text(hash, "data index 1");
    for (size_t i = 0; i < lines.count; i++) {
        const struct job_line *line = &lines.items[i];
        if (!matters(line))
            continue;
        for (uint32_t n = 0; n < line->depth; n++)
            add_text(hash, line->names[n]);
        add_text(hash, line->value);
    }
    job_lines_deinit(&lines);
    for (uint32_t i = 0; i < f->count; i++) {
        const struct dataindex_file *file = &f->files[i];
        add_text(hash, file->uri);
        add_text(hash, file->mark);
        sha256_update(hash, &file->size, sizeof file->size);
        sha256_update(hash, &file->for_eval, sizeof file->for_eval);
    }
    sha256_finish(hash, hex);
}

/* ---- columns --------------------------------------------------------------------------------- */

static void add_name(struct text_list *list, const char *name)
{
    list->items = must_realloc(list->items, list->count + 1, sizeof *list->items);
    list->items[list->count++] = must_strdup(name);
}

void text_list_free(struct text_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        mem_free(list->items[i]);
    mem_free(list->items);
    *list = (struct text_list){0};
}

void data_fields(const struct job_data *d, char *const *header, uint32_t header_count,
                 const struct dataindex_file *file, struct text_list *out)
{
    const char *const *names = (const char *const *)header;
    uint32_t count = header_count;
    *out = (struct text_list){0};
    reader_columns(d->format, &names, &count);
    for (uint32_t i = 0; i < count; i++)
        add_name(out, names[i]);
    for (uint32_t i = 0; i < file->column_count; i++)
        add_name(out, file->column_names[i]);
}

void data_spec_columns(const struct job_data *d, const struct text_list *fields,
                       uint32_t path_columns, uint32_t libffm_fields, struct text_list *out)
{
    size_t own = fields->count - path_columns;
    *out = (struct text_list){0};
    for (size_t i = 0; i < own; i++)
        add_name(out, fields->items[i]);
    if (d->format == FORMAT_LIBSVM)
        add_name(out, "features");
    if (d->format == FORMAT_IDX)
        add_name(out, "pixels");
    for (uint32_t i = 0; d->format == FORMAT_LIBFFM && i < libffm_fields; i++) {
        char *name = must_format("f%" PRIu32, i);
        add_name(out, name);
        mem_free(name);
    }
    for (size_t i = own; i < fields->count; i++)
        add_name(out, fields->items[i]);
}

void data_fields_of_index(const struct job_data *d, const struct dataindex *index,
                          struct text_list *out)
{
    const struct dataindex_file none = {0},
                                *file = index->file_count > 0 ? &index->files[0] : &none;
    uint32_t own = index->column_count - file->column_count;
    data_fields(d, index->columns, own, file, out);
}
