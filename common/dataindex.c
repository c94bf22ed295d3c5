#include "common/dataindex.h"

#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/json.h"
#include "common/mem.h"

#define INDEX_FORMAT  1
#define BLOCK_MEMBERS 8

uint64_t dataindex_steps_per_epoch(uint64_t train_examples, uint32_t batch_size,
                                   uint32_t rank_count)
{
    CHECK(rank_count > 0 && batch_size >= rank_count);
    uint64_t steps = 0;
    for (uint32_t r = 0; r < rank_count; r++) {
        unsigned __int128 n = train_examples;
        uint64_t owned = (uint64_t)(n * (r + 1) / rank_count) - (uint64_t)(n * r / rank_count);
        uint64_t share =
            (uint64_t)batch_size * (r + 1) / rank_count - (uint64_t)batch_size * r / rank_count;
        uint64_t needed = owned / share + (owned % share > 0);
        if (needed > steps)
            steps = needed;
    }
    return steps;
}

/* ---- writing --------------------------------------------------------------------------------- */

static struct json *write_texts(char *const *texts, uint32_t count)
{
    struct json *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_push(array, json_text(texts[i]));
    return array;
}

static struct json *write_numbers(const double *numbers, uint32_t count)
{
    struct json *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_push(array, json_number(numbers[i]));
    return array;
}

static struct json *write_file(const struct dataindex_file *f)
{
    struct json *o = json_object();
    json_set_text(o, "uri", f->uri);
    json_set_int(o, "size", (int64_t)f->size);
    json_set_text(o, "mark", f->mark);
    json_set_bool(o, "for_eval", f->for_eval);
    json_set_bool(o, "splittable", f->splittable);
    json_set(o, "column_names", write_texts(f->column_names, f->column_count));
    json_set(o, "column_values", write_texts(f->column_values, f->column_count));
    return o;
}

/* A block is an array, because a big index has very many: see read_block() for the order. */
static struct json *write_block(const struct dataindex_block *b)
{
    const uint64_t members[BLOCK_MEMBERS] = {b->file,        b->offset,       b->size,
                                             b->first_line,  b->record_count, b->bad_count,
                                             b->train_count, b->eval_count};
    struct json *a = json_array();
    for (int i = 0; i < BLOCK_MEMBERS; i++)
        json_push(a, json_int((int64_t)members[i]));
    return a;
}

static void write_bulk(const struct dataindex *d, struct str *bulk)
{
    for (uint32_t i = 0; i < d->vocab_count; i++) {
        const struct dataindex_vocab *v = &d->vocabs[i];
        str_append_span(bulk, span_make((const char *)v->keys, v->count * sizeof *v->keys));
    }
}

void dataindex_write(const struct dataindex *d, struct str *json, struct str *bulk)
{
    struct json *o = json_object();
    json_set_int(o, "index_format", INDEX_FORMAT);
    struct json *files = json_array(), *blocks = json_array(), *vocabs = json_array();
    for (uint32_t i = 0; i < d->file_count; i++)
        json_push(files, write_file(&d->files[i]));
    for (uint32_t i = 0; i < d->block_count; i++)
        json_push(blocks, write_block(&d->blocks[i]));
    for (uint32_t i = 0; i < d->vocab_count; i++) {
        struct json *v = json_object();
        json_set_int(v, "feature", d->vocabs[i].feature);
        json_set_int(v, "count", (int64_t)d->vocabs[i].count);
        json_push(vocabs, v);
    }
    json_set(o, "files", files);
    json_set(o, "columns", write_texts(d->columns, d->column_count));
    json_set_int(o, "train_examples", (int64_t)d->train_examples);
    json_set_int(o, "eval_examples", (int64_t)d->eval_examples);
    json_set_int(o, "bad_rows", (int64_t)d->bad_rows);
    json_set_int(o, "time_split_ms", d->time_split_ms);
    json_set(o, "means", write_numbers(d->means, d->feature_count));
    json_set(o, "deviations", write_numbers(d->deviations, d->feature_count));
    json_set(o, "vocabs", vocabs);
    json_set(o, "blocks", blocks);
    json_write(o, false, json);
    json_destroy(o);
    write_bulk(d, bulk);
}

/* ---- reading --------------------------------------------------------------------------------- */

static enum err malformed(const char *name)
{
    return err_set(ERR_CORRUPT, "data index: '%s' is malformed", name);
}

static enum err read_texts(const struct json *o, const char *name, char ***out, uint32_t *count_out)
{
    struct json *a;
    enum err e = json_get_array(o, name, &a);
    if (e != ERR_NONE)
        return e;
    size_t count = json_count(a);
    *out = must_alloc(count * sizeof **out);
    *count_out = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        const char *text = json_as_text(json_at(a, i));
        if (text == NULL)
            return malformed(name);
        (*out)[i] = must_strdup(text);
    }
    return ERR_NONE;
}

static enum err read_numbers(const struct json *o, const char *name, double **out,
                             uint32_t *count_out)
{
    struct json *a;
    enum err e = json_get_array(o, name, &a);
    if (e != ERR_NONE)
        return e;
    size_t count = json_count(a);
    *out = must_alloc(count * sizeof **out);
    *count_out = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        enum json_type type = json_type(json_at(a, i));
        if (type != JSON_NUMBER && type != JSON_INT)
            return malformed(name);
        (*out)[i] = json_as_number(json_at(a, i));
    }
    return ERR_NONE;
}

static enum err read_file(const struct json *o, struct dataindex_file *f)
{
    const char *uri, *mark;
    enum err e;
    if ((e = json_get_text(o, "uri", &uri)) != ERR_NONE ||
        (e = json_get_text(o, "mark", &mark)) != ERR_NONE ||
        (e = json_get_u64(o, "size", &f->size)) != ERR_NONE ||
        (e = json_get_bool(o, "for_eval", &f->for_eval)) != ERR_NONE ||
        (e = json_get_bool(o, "splittable", &f->splittable)) != ERR_NONE)
        return e;
    if (strlen(mark) >= sizeof f->mark)
        return malformed("mark");
    strcpy(f->mark, mark);
    f->uri = must_strdup(uri);
    uint32_t values = 0, names = 0;
    e = read_texts(o, "column_names", &f->column_names, &names);
    f->column_count = names;
    char **texts = NULL;
    if (e == ERR_NONE)
        e = read_texts(o, "column_values", &texts, &values);
    if (e == ERR_NONE && values != names)
        e = malformed("column_values");
    f->column_values = must_alloc(names * sizeof *texts);
    for (uint32_t i = 0; i < values; i++) {
        if (e == ERR_NONE)
            f->column_values[i] = texts[i];
        else
            mem_free(texts[i]);
    }
    mem_free(texts);
    return e;
}

static enum err read_block(const struct json *a, const struct dataindex *d,
                           struct dataindex_block *b)
{
    uint64_t m[BLOCK_MEMBERS];
    if (json_count(a) != BLOCK_MEMBERS)
        return malformed("blocks");
    for (size_t i = 0; i < BLOCK_MEMBERS; i++) {
        const struct json *member = json_at(a, i);
        if (json_type(member) != JSON_INT || json_as_int(member) < 0)
            return malformed("blocks");
        m[i] = (uint64_t)json_as_int(member);
    }
    bool fits = m[0] < d->file_count && m[4] + m[5] <= DATA_BLOCK_RECORDS && m[6] <= m[4] &&
                m[7] <= m[4] && m[6] + m[7] == m[4];
    if (!fits)
        return malformed("blocks");
    *b = (struct dataindex_block){.file = (uint32_t)m[0],
                                  .offset = m[1],
                                  .size = m[2],
                                  .first_line = m[3],
                                  .record_count = (uint32_t)m[4],
                                  .bad_count = (uint32_t)m[5],
                                  .train_count = (uint32_t)m[6],
                                  .eval_count = (uint32_t)m[7]};
    return ERR_NONE;
}

static enum err read_arrays(const struct json *o, struct dataindex *d)
{
    struct json *files, *blocks;
    enum err e;
    if ((e = json_get_array(o, "files", &files)) != ERR_NONE ||
        (e = json_get_array(o, "blocks", &blocks)) != ERR_NONE)
        return e;
    d->file_count = (uint32_t)json_count(files);
    d->files = must_alloc(d->file_count * sizeof *d->files);
    for (uint32_t i = 0; i < d->file_count && e == ERR_NONE; i++)
        e = read_file(json_at(files, i), &d->files[i]);
    d->block_count = (uint32_t)json_count(blocks);
    d->blocks = mem_calloc(d->block_count, sizeof *d->blocks);
    if (d->blocks == NULL)
        return ERR_MEMORY;
    uint64_t train = 0, eval = 0;
    for (uint32_t i = 0; i < d->block_count && e == ERR_NONE; i++) {
        e = read_block(json_at(blocks, i), d, &d->blocks[i]);
        train += d->blocks[i].train_count;
        eval += d->blocks[i].eval_count;
    }
    if (e == ERR_NONE && (train != d->train_examples || eval != d->eval_examples))
        e = malformed("train_examples");
    return e;
}

static enum err read_vocab_keys(struct dataindex_vocab *v, const uint8_t *bulk, size_t left)
{
    if (v->count > left / sizeof *v->keys)
        return malformed("vocabs");
    v->keys = mem_alloc_array(v->count, sizeof *v->keys);
    if (v->keys == NULL)
        return ERR_MEMORY;
    if (v->count > 0)
        memcpy(v->keys, bulk, v->count * sizeof *v->keys);
    for (uint64_t i = 1; i < v->count; i++) {
        if (v->keys[i - 1] >= v->keys[i])
            return malformed("vocabs");
    }
    return ERR_NONE;
}

static enum err read_vocabs(const struct json *o, const void *bulk, size_t bulk_size,
                            struct dataindex *d)
{
    struct json *vocabs;
    enum err e = json_get_array(o, "vocabs", &vocabs);
    if (e != ERR_NONE)
        return e;
    d->vocab_count = (uint32_t)json_count(vocabs);
    d->vocabs = must_alloc(d->vocab_count * sizeof *d->vocabs);
    size_t used = 0;
    for (uint32_t i = 0; i < d->vocab_count; i++) {
        struct dataindex_vocab *v = &d->vocabs[i];
        uint64_t feature;
        if ((e = json_get_u64(json_at(vocabs, i), "feature", &feature)) != ERR_NONE ||
            (e = json_get_u64(json_at(vocabs, i), "count", &v->count)) != ERR_NONE)
            return e;
        if (feature >= d->feature_count)
            return malformed("vocabs");
        v->feature = (uint32_t)feature;
        e = read_vocab_keys(v, (const uint8_t *)bulk + used, bulk_size - used);
        if (e != ERR_NONE)
            return e;
        used += v->count * sizeof *v->keys;
    }
    return used == bulk_size ? ERR_NONE : malformed("vocabs");
}

static enum err read_index(const struct json *o, const void *bulk, size_t bulk_size,
                           struct dataindex *d)
{
    uint64_t format;
    uint32_t deviations;
    enum err e;
    if ((e = json_get_u64(o, "index_format", &format)) != ERR_NONE)
        return e;
    if (format != INDEX_FORMAT)
        return err_set(ERR_UNSUPPORTED,
                       "index_format %" PRIu64 " is not known; this version reads %d", format,
                       INDEX_FORMAT);
    const struct json *split = json_get(o, "time_split_ms");
    if (json_type(split) != JSON_INT)
        return malformed("time_split_ms");
    d->time_split_ms = json_as_int(split);
    if ((e = json_get_u64(o, "train_examples", &d->train_examples)) != ERR_NONE ||
        (e = json_get_u64(o, "eval_examples", &d->eval_examples)) != ERR_NONE ||
        (e = json_get_u64(o, "bad_rows", &d->bad_rows)) != ERR_NONE ||
        (e = read_texts(o, "columns", &d->columns, &d->column_count)) != ERR_NONE ||
        (e = read_numbers(o, "means", &d->means, &d->feature_count)) != ERR_NONE ||
        (e = read_numbers(o, "deviations", &d->deviations, &deviations)) != ERR_NONE)
        return e;
    if (deviations != d->feature_count)
        return malformed("deviations");
    e = read_arrays(o, d);
    return e == ERR_NONE ? read_vocabs(o, bulk, bulk_size, d) : e;
}

enum err dataindex_parse(const char *what, const char *json, size_t json_size, const void *bulk,
                         size_t bulk_size, struct dataindex **out)
{
    struct json *tree = NULL;
    struct dataindex *d = must_alloc(sizeof *d);
    enum err e = json_parse(what, json, json_size, &tree);
    if (e == ERR_NONE)
        e = read_index(tree, bulk, bulk_size, d);
    json_destroy(tree);
    if (e != ERR_NONE) {
        dataindex_destroy(d);
        return err_prefix(e == ERR_INPUT ? ERR_CORRUPT : e, "%s", what);
    }
    struct sha256 *hash = sha256_create();
    sha256_update(hash, json, json_size);
    sha256_update(hash, bulk, bulk_size);
    sha256_finish(hash, d->checksum);
    *out = d;
    return ERR_NONE;
}

static void free_texts(char **texts, uint32_t count)
{
    for (uint32_t i = 0; texts != NULL && i < count; i++)
        mem_free(texts[i]);
    mem_free(texts);
}

void dataindex_destroy(struct dataindex *d)
{
    if (d == NULL)
        return;
    for (uint32_t i = 0; d->files != NULL && i < d->file_count; i++) {
        mem_free(d->files[i].uri);
        free_texts(d->files[i].column_names, d->files[i].column_count);
        free_texts(d->files[i].column_values, d->files[i].column_count);
    }
    for (uint32_t i = 0; d->vocabs != NULL && i < d->vocab_count; i++)
        mem_free(d->vocabs[i].keys);
    mem_free(d->files);
    mem_free(d->blocks);
    free_texts(d->columns, d->column_count);
    mem_free(d->means);
    mem_free(d->deviations);
    mem_free(d->vocabs);
    mem_free(d);
}
