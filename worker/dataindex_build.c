/*
 * dataindex_build.c - the data index, round by round (dataset.h).
 *
 *   round 0   each worker scans its files: blocks, counts of rows, columns; times when a split by
 *             time asks for its threshold; counts and moments too, where the training set is known
 *   round 1   without a second pass worker 0 merges and publishes. Else (split by time, libffm's
 *             fields) all merge what round 0 found and scan again
 *   round 2   worker 0 merges and publishes
 *
 * Parts stand under `<uri>/index-parts/<identity>/`, the identity being that of settings and files,
 * so that a part never meets one of another data set. The file `done` there names the index that
 * came out.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage.h"
#include "worker/datafiles.h"
#include "worker/dataindex_scan.h"
#include "worker/dataset.h"

#define PART_MAX  ((size_t)1 << 40)
#define INDEX_MAX ((size_t)1 << 36)

struct build {
    const struct dataset_index_options *o;
    const struct job_data *data;
    struct data_files files;
    char *directory; /* of this identity's parts */
    bool needs_values, two_passes;
};

/* ---- stored things --------------------------------------------------------------------------- */

static char *part_uri(const struct build *b, uint32_t pass, uint32_t worker)
{
    char *name = must_format("pass%u-%u-of-%u", pass, worker, b->o->worker_count);
    char *uri = storage_join(b->directory, name);
    mem_free(name);
    return uri;
}

static enum err store_part(const struct build *b, uint32_t pass, const struct index_part *part)
{
    struct str bytes = {0};
    char *uri = part_uri(b, pass, b->o->worker);
    index_part_write(part, &bytes);
    enum err e = storage_write_all(uri, true, bytes.data, bytes.size);
    mem_free(uri);
    str_deinit(&bytes);
    return e;
}

static enum err load_part(const struct build *b, uint32_t pass, uint32_t worker,
                          struct index_part *out)
{
    char *uri = part_uri(b, pass, worker), *bytes = NULL;
    size_t size;
    enum err e = storage_read_all(uri, PART_MAX, &bytes, &size);
    if (e == ERR_NOT_FOUND)
        e = err_set(
            ERR_REFUSED,
            "%s: worker %u left no part of the data index; does it see other files, or were "
            "they changed meanwhile?",
            uri, worker);
    if (e == ERR_NONE)
        e = index_part_parse(uri, bytes, size, out);
    mem_free(bytes);
    mem_free(uri);
    return e;
}

static enum err load_parts(const struct build *b, uint32_t pass, struct index_part *out)
{
    struct index_part all = {0};
    enum err e = ERR_NONE;
    for (uint32_t w = 0; w < b->o->worker_count && e == ERR_NONE; w++) {
        struct index_part part = {0};
        e = load_part(b, pass, w, &part);
        if (e == ERR_NONE)
            e = index_part_merge(&all, &part);
        index_part_deinit(&part);
    }
    if (e == ERR_NONE && all.fields.count == 0)
        e = err_set(ERR_INPUT, "data.train: all %u files are empty", b->files.count);
    if (e != ERR_NONE) {
        index_part_deinit(&all);
        return e;
    }
    index_part_sort(&all);
    *out = all;
    return ERR_NONE;
}

static char *index_uri(const char *uri, const char *checksum, const char *suffix)
{
    char *name = must_format("index-%s.%s", checksum, suffix);
    char *joined = storage_join(uri, name);
    mem_free(name);
    return joined;
}

enum err dataset_index_load(const char *uri, const char *checksum, struct dataindex **out)
{
    char *json_uri = index_uri(uri, checksum, "json"), *bulk_uri = index_uri(uri, checksum, "bin");
    char *json = NULL, *bulk = NULL;
    size_t json_size, bulk_size;
    struct dataindex *index = NULL;
    enum err e = storage_read_all(json_uri, INDEX_MAX, &json, &json_size);
    if (e == ERR_NONE)
        e = storage_read_all(bulk_uri, INDEX_MAX, &bulk, &bulk_size);
    if (e == ERR_NONE)
        e = dataindex_parse(json_uri, json, json_size, bulk, bulk_size, &index);
    if (e == ERR_NONE && strcmp(index->checksum, checksum) != 0)
        e = err_set(ERR_CORRUPT, "%s: the data index does not have the checksum in its name",
                    json_uri);
    if (e == ERR_NONE)
        *out = index;
    else
        dataindex_destroy(index);
    mem_free(json);
    mem_free(bulk);
    mem_free(json_uri);
    mem_free(bulk_uri);
    return e;
}

/* An index of the same identity that is still there and whole. */
static bool find_stored(const struct build *b, char checksum[SHA256_HEX_SIZE])
{
    char *uri = storage_join(b->directory, "done"), *text = NULL;
    size_t size = 0;
    struct dataindex *index = NULL;
    bool found = storage_read_all(uri, SHA256_HEX_SIZE, &text, &size) == ERR_NONE &&
                 size == SHA256_HEX_SIZE - 1 &&
                 dataset_index_load(b->o->uri, text, &index) == ERR_NONE;
    if (found)
        memcpy(checksum, text, SHA256_HEX_SIZE);
    dataindex_destroy(index);
    mem_free(text);
    mem_free(uri);
    return found;
}

static enum err publish(const struct build *b, struct dataindex *d)
{
    struct str json = {0}, bulk = {0};
    dataindex_write(d, &json, &bulk);
    struct sha256 *hash = sha256_create();
    sha256_update(hash, json.data, json.size);
    sha256_update(hash, bulk.data, bulk.size);
    sha256_finish(hash, d->checksum);
    char *json_uri = index_uri(b->o->uri, d->checksum, "json");
    char *bulk_uri = index_uri(b->o->uri, d->checksum, "bin");
    char *done_uri = storage_join(b->directory, "done");
    enum err e = storage_write_all(bulk_uri, true, bulk.data, bulk.size);
    if (e == ERR_NONE)
        e = storage_write_all(json_uri, true, json.data, json.size);
    if (e == ERR_NONE)
        e = storage_write_all(done_uri, true, d->checksum, strlen(d->checksum));
    /* Parts are of no more use; one that cannot be removed does no harm. */
    for (uint32_t w = 0; e == ERR_NONE && w < b->o->worker_count; w++) {
        for (uint32_t pass = 0; pass < 2; pass++) {
            char *uri = part_uri(b, pass, w);
            if (storage_remove(uri) != ERR_NONE)
                log_warn("dataset", "part of the data index stays: %s", err_text());
            mem_free(uri);
        }
    }
    mem_free(json_uri);
    mem_free(bulk_uri);
    mem_free(done_uri);
    str_deinit(&json);
    str_deinit(&bulk);
    return e;
}

/* ---- merged results -------------------------------------------------------------------------- */

/* The time from which on records evaluate. */
static enum err find_time_split(const struct job_data *d, const struct index_part *part,
                                int64_t *out)
{
    CHECK(part->count_count > 0);
    const struct index_count *times = &part->counts[part->count_count - 1];
    uint64_t total = 0, kept = 0;
    for (size_t i = 0; i < times->count; i++)
        total += times->entries[i].count;
    if (total == 0)
        return err_set(ERR_INPUT, "data.split: there is no row in data.train");
    int64_t last = (int64_t)(times->entries[times->count - 1].key ^ (uint64_t)1 << 63);
    if (d->split.eval_last_ms > 0) {
        *out = last - d->split.eval_last_ms + 1;
        return ERR_NONE;
    }
    /* The earliest time with no more than the fraction from it on. */
    uint64_t allowed = (uint64_t)floor(d->split.eval_fraction * (double)total);
    size_t first = times->count;
    while (first > 0 && kept + times->entries[first - 1].count <= allowed)
        kept += times->entries[--first].count;
    if (first == times->count)
        return err_set(ERR_INPUT,
                       "data.split.eval_fraction: the last moment alone has %" PRIu64 " of %" PRIu64
                       " rows, more than the fraction %g",
                       times->entries[times->count - 1].count, total, d->split.eval_fraction);
    *out = (int64_t)(times->entries[first].key ^ (uint64_t)1 << 63);
    return ERR_NONE;
}

static enum err check_bad_rows(const struct job_data *d, const struct index_part *part)
{
    uint64_t good = 0, bad = 0;
    for (uint32_t i = 0; i < part->block_count; i++) {
        good += part->blocks[i].place.record_count;
        bad += part->blocks[i].place.bad_count;
    }
    for (size_t i = 0; i < part->bad.count; i++)
        log_warn("dataset", "bad row skipped: %s", part->bad.items[i]);
    if (part->cut_values > 0)
        log_warn("dataset", "values beyond max_values were cut count=%" PRIu64, part->cut_values);
    if ((double)bad <= d->bad_rows * (double)(good + bad))
        return ERR_NONE;
    return err_set(ERR_INPUT,
                   "%" PRIu64 " of %" PRIu64 " rows are bad, more than data.bad_rows: %g; "
                   "the first: %s",
                   bad, good + bad, d->bad_rows, part->bad.count > 0 ? part->bad.items[0] : "");
}

static void fill_files(const struct build *b, const struct index_part *part, struct dataindex *d)
{
    d->file_count = b->files.count;
    d->files = must_alloc(d->file_count * sizeof *d->files);
    for (uint32_t i = 0; i < d->file_count; i++) {
        const struct dataindex_file *from = &b->files.files[i];
        struct dataindex_file *to = &d->files[i];
        *to = *from;
        to->uri = must_strdup(from->uri);
        to->splittable = true;
        to->column_names = must_alloc(from->column_count * sizeof *to->column_names);
        to->column_values = must_alloc(from->column_count * sizeof *to->column_values);
        for (uint32_t c = 0; c < from->column_count; c++) {
            to->column_names[c] = must_strdup(from->column_names[c]);
            to->column_values[c] = must_strdup(from->column_values[c]);
        }
    }
    for (uint32_t i = 0; i < part->packed_count; i++)
        d->files[part->packed_files[i]].splittable = false;
}

static void fill_blocks(const struct index_part *part, struct dataindex *d)
{
    d->block_count = part->block_count;
    d->blocks = must_alloc(d->block_count * sizeof *d->blocks);
    for (uint32_t i = 0; i < d->block_count; i++) {
        d->blocks[i] = part->blocks[i].place;
        d->train_examples += d->blocks[i].train_count;
        d->eval_examples += d->blocks[i].eval_count;
        d->bad_rows += d->blocks[i].bad_count;
    }
}

/* Moments are combined in the order of blocks, so the sums have the same bits whoever made them. */
static void fill_moments(const struct features_spec *spec, const struct index_part *part,
                         struct dataindex *d)
{
    uint32_t place = 0;
    d->feature_count = (uint32_t)spec->feature_count;
    d->means = must_alloc(d->feature_count * sizeof *d->means);
    d->deviations = must_alloc(d->feature_count * sizeof *d->deviations);
    for (uint32_t f = 0; f < d->feature_count; f++) {
        d->deviations[f] = 1;
        if (!feature_needs_moments(spec->features[f].job) || place >= part->moment_count)
            continue;
        struct moments all = {0};
        for (uint32_t i = 0; i < part->block_count; i++)
            moments_merge(&all, &part->blocks[i].moments[place]);
        place++;
        d->means[f] = all.mean;
        if (all.count > 0 && all.squares > 0)
            d->deviations[f] = sqrt(all.squares / (double)all.count);
    }
}

static enum err fill_vocabs(const struct features_spec *spec, const struct index_part *part,
                            struct dataindex *d)
{
    d->vocabs = must_alloc(part->count_count * sizeof *d->vocabs);
    for (uint32_t c = 0; c < part->count_count; c++) {
        const struct index_count *counts = &part->counts[c];
        if (counts->feature >= spec->feature_count ||
            spec->features[counts->feature].job->min_count <= 1)
            continue; /* times */
        struct dataindex_vocab *v = &d->vocabs[d->vocab_count++];
        v->feature = counts->feature;
        v->keys = mem_alloc_array(counts->count, sizeof *v->keys);
        if (v->keys == NULL)
            return ERR_MEMORY;
        for (size_t i = 0; i < counts->count; i++) {
            if (counts->entries[i].count >= spec->features[counts->feature].job->min_count)
                v->keys[v->count++] = counts->entries[i].key;
        }
    }
    return ERR_NONE;
}

static enum err check_sizes(const struct build *b, const struct dataindex *d)
{
    if (d->train_examples == 0)
        return err_set(ERR_INPUT, "data.train: no examples to train on in %u files", d->file_count);
    if (b->data->split.kind != SPLIT_NONE && d->eval_examples == 0)
        return err_set(ERR_INPUT, "data.split: leaves none of %" PRIu64 " rows for evaluation",
                       d->train_examples);
    if (b->data->eval.count > 0 && d->eval_examples == 0)
        return err_set(ERR_INPUT, "data.eval: no examples to evaluate with in its files");
    return ERR_NONE;
}

/* `part` has blocks, moments and counts of the last pass; consumed fields decide the columns. */
static enum err finish(const struct build *b, const struct index_part *part, uint32_t libffm_fields,
                       int64_t time_split_ms, char checksum[SHA256_HEX_SIZE])
{
    struct dataindex *d = must_alloc(sizeof *d);
    struct features_spec *spec = NULL;
    struct text_list columns;
    data_spec_columns(b->data, &part->fields, b->files.files[0].column_count, libffm_fields,
                      &columns);
    enum err e =
        features_spec_create(b->o->job, (const char *const *)columns.items, columns.count, &spec);
    d->columns = columns.items;
    d->column_count = (uint32_t)columns.count;
    d->time_split_ms = time_split_ms;
    if (e == ERR_NONE) {
        fill_files(b, part, d);
        fill_blocks(part, d);
        fill_moments(spec, part, d);
        e = fill_vocabs(spec, part, d);
    }
    if (e == ERR_NONE)
        e = check_sizes(b, d);
    if (e == ERR_NONE)
        e = publish(b, d);
    if (e == ERR_NONE) {
        memcpy(checksum, d->checksum, SHA256_HEX_SIZE);
        log_info("dataset",
                 "indexed files=%u blocks=%u train=%" PRIu64 " eval=%" PRIu64 " bad=%" PRIu64,
                 d->file_count, d->block_count, d->train_examples, d->eval_examples, d->bad_rows);
    }
    features_spec_destroy(spec);
    dataindex_destroy(d);
    return e;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static enum err scan_pass(const struct build *b, uint32_t pass, const struct index_part *before,
                          int64_t time_split_ms)
{
    const struct dataset_index_options *o = b->o;
    bool by_time = b->data->split.kind == SPLIT_TIME;
    struct pool *pool = pool_create(o->threads > 0 ? o->threads : 1);
    if (pool == NULL)
        return ERR_MEMORY;
    struct index_scan s = {.job = o->job,
                           .files = &b->files,
                           .worker = o->worker,
                           .worker_count = o->worker_count,
                           .pool = pool,
                           .cancel = o->cancel,
                           .want_values = b->needs_values && (pass == 1 || !b->two_passes),
                           .want_times = by_time && pass == 0,
                           .has_time_split = by_time && pass == 1,
                           .time_split_ms = time_split_ms,
                           .libffm_fields = before != NULL ? before->libffm_fields : 0};
    struct index_part part = {0};
    enum err e = index_scan_run(&s, &part);
    pool_destroy(pool);
    if (e == ERR_NONE)
        e = store_part(b, pass, &part);
    index_part_deinit(&part);
    return e;
}

static enum err round_one(const struct build *b, bool *done, char checksum[SHA256_HEX_SIZE])
{
    struct index_part all = {0};
    int64_t split = 0;
    if (!b->two_passes && b->o->worker != 0)
        return ERR_NONE;
    enum err e = load_parts(b, 0, &all);
    if (e == ERR_NONE && b->o->worker == 0)
        e = check_bad_rows(b->data, &all);
    if (e == ERR_NONE && b->data->split.kind == SPLIT_TIME)
        e = find_time_split(b->data, &all, &split);
    if (e == ERR_NONE && b->two_passes) {
        e = scan_pass(b, 1, &all, split);
    } else if (e == ERR_NONE) {
        e = finish(b, &all, all.libffm_fields, 0, checksum);
        *done = e == ERR_NONE;
    }
    index_part_deinit(&all);
    return e;
}

static enum err round_two(const struct build *b, bool *done, char checksum[SHA256_HEX_SIZE])
{
    struct index_part before = {0}, all = {0};
    int64_t split = 0;
    if (b->o->worker != 0)
        return ERR_NONE;
    enum err e = load_parts(b, 0, &before);
    if (e == ERR_NONE && b->data->split.kind == SPLIT_TIME)
        e = find_time_split(b->data, &before, &split);
    if (e == ERR_NONE)
        e = load_parts(b, 1, &all);
    if (e == ERR_NONE)
        e = finish(b, &all, before.libffm_fields, split, checksum);
    *done = e == ERR_NONE;
    index_part_deinit(&before);
    index_part_deinit(&all);
    return e;
}

static enum err start(struct build *b, const struct dataset_index_options *o)
{
    char identity[SHA256_HEX_SIZE];
    *b = (struct build){.o = o, .data = &o->job->data};
    enum err e = data_files_list(b->data, &b->files);
    if (e != ERR_NONE)
        return e;
    data_files_identity(o->job, &b->files, identity);
    char *parts = storage_join(o->uri, "index-parts");
    b->directory = storage_join(parts, identity);
    mem_free(parts);
    b->needs_values = index_needs_values(o->job);
    b->two_passes =
        b->data->split.kind == SPLIT_TIME || (b->data->format == FORMAT_LIBFFM && b->needs_values);
    return ERR_NONE;
}

enum err dataset_index_round(const struct dataset_index_options *o, uint32_t round, bool *done,
                             char checksum[SHA256_HEX_SIZE])
{
    CHECK(o->worker < o->worker_count);
    struct build b;
    *done = false;
    enum err e = start(&b, o);
    if (e == ERR_NONE && round == 0) {
        if (find_stored(&b, checksum))
            *done = true;
        else
            e = scan_pass(&b, 0, NULL, 0);
    } else if (e == ERR_NONE && round == 1) {
        e = round_one(&b, done, checksum);
    } else if (e == ERR_NONE && round == 2) {
        e = round_two(&b, done, checksum);
    } else if (e == ERR_NONE) {
        e = err_set(ERR_INPUT, "round %u of the data index: there are at most 3", round);
    }
    data_files_deinit(&b.files);
    mem_free(b.directory);
    return e;
}
