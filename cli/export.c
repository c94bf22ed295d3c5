/*
 * export.c - `paramctl export URI -o DIR`: a checkpoint's parameters as one safetensors file.
 *
 * Each table as `<table>.keys` U64[n] (mixed keys, ascending: docs/key-hash.md) and
 * `<table>.values` F32[n, dim], dense parameters as F32 of their shape. Optimizer state is left
 * out.
 * Sources  https://github.com/huggingface/safetensors, "Format": u64 header length, JSON padded to
 *          8, data.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/model_store.h"
#include "cli/store_settings.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/dense.h"
#include "server/table.h"

#define ROWS_AT_ONCE 1024u

struct export
{
    struct model_store store;
    struct storage_writer *writer;
    struct json *header;
    uint64_t offset;
};

/* Adds a tensor of `bytes` to the header; the data must be written in the same order. */
static void declare(struct export *e, const char *name, const char *type, const uint64_t *shape,
                    uint32_t dims, uint64_t bytes)
{
    struct json *tensor = json_object(), *sizes = json_array(), *offsets = json_array();

    for (uint32_t i = 0; i < dims; i++)
        json_push(sizes, json_int((int64_t)shape[i]));
    json_push(offsets, json_int((int64_t)e->offset));
    json_push(offsets, json_int((int64_t)(e->offset + bytes)));
    e->offset += bytes;
    json_set_text(tensor, "dtype", type);
    json_set(tensor, "shape", sizes);
    json_set(tensor, "data_offsets", offsets);
    json_set(e->header, name, tensor);
}

/* Keys first: eight bytes each, at offsets that are multiples of eight. */
static void declare_all(struct export *e)
{
    const struct schema *s = e->store.model->schema;

    for (uint32_t i = 0; i < s->table_count; i++) {
        uint64_t rows = table_rows(shard_table(e->store.shard, i));
        char *keys = must_format("%s.keys", s->tables[i].name);
        declare(e, keys, "U64", &rows, 1, 8 * rows);
        mem_free(keys);
    }
    for (uint32_t i = 0; i < s->dense_count; i++) {
        uint64_t shape[4];
        for (uint32_t k = 0; k < s->dense[i].shape_count; k++)
            shape[k] = s->dense[i].shape[k];
        declare(e, s->dense[i].name, "F32", shape, s->dense[i].shape_count, 4 * s->dense[i].count);
    }
    for (uint32_t i = 0; i < s->table_count; i++) {
        uint64_t shape[2] = {table_rows(shard_table(e->store.shard, i)), s->tables[i].dim};
        char *values = must_format("%s.values", s->tables[i].name);
        declare(e, values, "F32", shape, 2, 4 * shape[0] * shape[1]);
        mem_free(values);
    }
}

enum part { WRITE_KEYS, WRITE_VALUES };

/* One pass over a table in key order: of its keys, or of its values. */
static enum err write_rows(struct export *e, uint32_t index, enum part part)
{
    const struct schema_table *schema = &e->store.model->schema->tables[index];
    struct table *t = shard_table(e->store.shard, index);
    uint64_t *keys = must_alloc(ROWS_AT_ONCE * sizeof *keys);
    float *states = must_alloc((size_t)ROWS_AT_ONCE * schema->state_dim * sizeof *states);
    uint32_t count = 0;
    enum err err;

    table_snapshot_begin(t, UINT64_MAX);
    while (!(err = table_snapshot_next(t, ROWS_AT_ONCE, keys, states, &count)) && count) {
        if (part == WRITE_KEYS)
            err = storage_write(e->writer, keys, count * sizeof *keys);
        for (uint32_t i = 0; part == WRITE_VALUES && i < count && !err; i++)
            err = storage_write(e->writer, states + (size_t)i * schema->state_dim,
                                schema->dim * sizeof *states);
        if (err)
            break;
    }
    table_snapshot_end(t);
    mem_free(keys);
    mem_free(states);
    return err;
}

static enum err write_all(struct export *e)
{
    const struct schema *s = e->store.model->schema;
    struct str header = {0};
    enum err err;

    json_write(e->header, false, &header);
    while (header.size % 8)
        str_append(&header, " ");
    uint64_t size = header.size;
    err = storage_write(e->writer, &size, sizeof size);
    if (!err)
        err = storage_write(e->writer, header.data, header.size);
    str_deinit(&header);
    for (uint32_t i = 0; !err && i < s->table_count; i++)
        err = write_rows(e, i, WRITE_KEYS);
    for (uint32_t i = 0; !err && i < s->dense_count; i++)
        err = storage_write(e->writer, e->store.dense[i], 4 * s->dense[i].count);
    for (uint32_t i = 0; !err && i < s->table_count; i++)
        err = write_rows(e, i, WRITE_VALUES);
    return err;
}

static enum err export_to(struct export *e, const char *uri)
{
    struct json *metadata = json_object();
    enum err err = storage_write_open(uri, true, &e->writer);

    if (err) {
        json_destroy(metadata);
        return err;
    }
    e->header = json_object();
    json_set_text(metadata, "checkpoint", e->store.directory);
    json_set_text(metadata, "job", e->store.manifest->job);
    json_set(e->header, "__metadata__", metadata);
    declare_all(e);
    err = write_all(e);
    json_destroy(e->header);
    if (err) {
        storage_write_abort(e->writer);
        return err;
    }
    return storage_write_close(e->writer);
}

int command_export(int argc, char **argv)
{
    struct option_list words = {0}, sets = {0};
    const char *directory = NULL;
    struct export e = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {{"output", 'o', OPTION_TEXT, &directory},
                                     {"set", 0, OPTION_LIST, &sets}};

    if (!options_parse("export", argc, argv, options, 2, &words))
        goto out;
    const char *other = store_settings_find_other(&sets);
    if (other) {
        usage("export", "--set '%s': only settings of stores have a meaning here", other);
        goto out;
    }
    if (words.count != 1 || !directory) {
        usage("export", "%s",
              words.count == 1 ? "-o DIR is missing" : "one checkpoint URI is wanted");
        goto out;
    }
    char *uri = storage_join(directory, "model.safetensors");
    enum err err = model_store_open(words.items[0], NULL, &e.store);
    if (!err)
        err = export_to(&e, uri);
    code = err ? fail(err) : EXIT_DONE;
    if (!err)
        printf("%s\n", uri);
    model_store_close(&e.store);
    mem_free(uri);
out:
    option_list_free(&sets);
    option_list_free(&words);
    return code;
}
