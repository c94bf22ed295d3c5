#include "worker/dataindex_scan.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "worker/features.h"
#include "worker/scan.h"

/* Keys and numbers of one record, which count only when it turns out to be good and of the training
 * set. */
struct pending {
    uint32_t feature;
    uint64_t key;
    double value;
};

struct worker { /* one a thread */
    struct pass *pass;
    struct reader *reader;
    struct rows rows;
    struct pending *keys, *values;
    size_t key_count, key_capacity, value_count, value_capacity;
    struct keycounts *counts; /* [pass->count_count] */
    struct index_block *blocks;
    size_t block_count, block_capacity;
    struct bad_row {
        uint32_t file, number;
        char *text;
    } bad[INDEX_BAD_SHOWN];
    uint32_t bad_count;
    uint32_t libffm_fields;
    uint64_t cut_values;
    bool no_memory;
};

struct pass {
    const struct index_scan *s;
    struct features_spec *spec;
    struct features *features;
    struct text_list fields, columns;
    uint32_t header_columns, record_bytes;
    uint32_t count_count, moment_count;
    uint32_t *count_of, *moment_of; /* [feature_count] place, or UINT32_MAX */
    struct worker *workers;
    uint32_t worker_count;
    uint32_t *mine; /* files */
    uint32_t mine_count;
    bool *packed; /* [mine_count] */
    struct outcome {
        enum err code;
        char *text;
    } * outcomes; /* [mine_count] */
};

/* A file that is being scanned. */
struct file_task {
    struct pass *pass;
    uint32_t file;
    const struct file_head *head;
    bool by_file; /* then `thread` says which worker; else the pool does */
    uint32_t thread;
};

bool feature_needs_moments(const struct job_feature *f)
{
    for (size_t i = 0; i < f->transform_count; i++) {
        if (f->transforms[i].kind == TRANSFORM_STANDARDIZE && !f->transforms[i].has_constants)
            return true;
    }
    return false;
}

bool index_needs_values(const struct job *j)
{
    for (size_t i = 0; i < j->feature_count; i++) {
        if (j->features[i].min_count > 1 || feature_needs_moments(&j->features[i]))
            return true;
    }
    return false;
}

/* ---- a record -------------------------------------------------------------------------------- */

static void note_key(void *context, uint32_t feature, uint64_t key)
{
    struct worker *w = context;
    if (w->pass->count_of[feature] == UINT32_MAX)
        return;
    if (!mem_grow(w->keys, w->key_capacity, w->key_count + 1)) {
        w->no_memory = true;
        return;
    }
    uint32_t count = w->pass->count_of[feature];
    w->keys[w->key_count++] = (struct pending){.feature = count, .key = key};
    keycounts_prefetch(&w->counts[count], key); /* added when the whole record is right */
}

static void note_moment(void *context, uint32_t feature, double value)
{
    struct worker *w = context;
    if (w->pass->moment_of[feature] == UINT32_MAX)
        return;
    if (!mem_grow(w->values, w->value_capacity, w->value_count + 1)) {
        w->no_memory = true;
        return;
    }
    w->values[w->value_count++] =
        (struct pending){.feature = w->pass->moment_of[feature], .value = value};
}

static enum err commit(struct worker *w, struct index_block *b)
{
    const struct rows *r = &w->rows;
    if (w->no_memory)
        return ERR_MEMORY;
    if (r->evals[r->count - 1])
        return ERR_NONE;
    for (size_t i = 0; i < w->value_count; i++)
        moments_add(&b->moments[w->values[i].feature], w->values[i].value);
    for (size_t i = 0; i < w->key_count; i++) {
        enum err e = keycounts_add(&w->counts[w->keys[i].feature], w->keys[i].key, 1);
        if (e != ERR_NONE)
            return e;
    }
    if (w->pass->s->want_times)
        return keycounts_add(&w->counts[w->pass->count_count - 1],
                             (uint64_t)r->times[r->count - 1] ^ (uint64_t)1 << 63, 1);
    return ERR_NONE;
}

/* Counts the row as bad, or fails with it. */
static enum err bad_row(struct worker *w, struct index_block *b, enum err e)
{
    if (e != ERR_INPUT)
        return e;
    if (w->pass->s->job->data.bad_rows == 0)
        return err_prefix(e, "bad row (data.bad_rows: 0 allows none)");
    b->place.bad_count++;
    if (w->bad_count < INDEX_BAD_SHOWN)
        w->bad[w->bad_count++] =
            (struct bad_row){b->place.file, b->number, must_strdup(err_text())};
    return ERR_NONE;
}

static void note_libffm_fields(struct worker *w, const struct record *record)
{
    for (uint32_t i = 0; i < record->entry_count; i++) {
        if (record->entries[i].field >= w->libffm_fields)
            w->libffm_fields = record->entries[i].field + 1;
    }
}

static enum err scan_records(struct worker *w, const struct file_task *task, struct index_block *b)
{
    const struct features_observer observer = {
        .context = w, .key = note_key, .moment = note_moment};
    const struct index_scan *s = w->pass->s;
    const struct features_call call = {.reader = w->reader,
                                       .for_eval = s->files->files[task->file].for_eval,
                                       .observer = s->want_values ? &observer : NULL};
    for (;;) {
        const struct record *record;
        enum err e = reader_next(w->reader, &record);
        if (e == ERR_NONE && record == NULL)
            return ERR_NONE;
        w->key_count = w->value_count = 0;
        if (e == ERR_NONE)
            e = features_add(w->pass->features, &call, record, &w->rows);
        if (e == ERR_NONE) {
            note_libffm_fields(w, record);
            e = commit(w, b);
        } else {
            e = bad_row(w, b, e);
        }
        if (e != ERR_NONE)
            return e;
    }
}

/* ---- a block --------------------------------------------------------------------------------- */

static enum err visit(void *context, struct raw_block *raw, uint32_t number, uint32_t thread_index)
{
    const struct file_task *task = context;
    struct pass *p = task->pass;
    struct worker *w = &p->workers[task->by_file ? task->thread : thread_index];
    const struct dataindex_file *file = &p->s->files->files[task->file];
    if (!mem_grow(w->blocks, w->block_capacity, w->block_count + 1))
        return ERR_MEMORY;
    struct index_block *b = &w->blocks[w->block_count++];
    *b = (struct index_block){.number = number};
    b->moments = must_alloc(p->moment_count * sizeof *b->moments);
    b->place = (struct dataindex_block){.file = task->file,
                                        .offset = raw->offset,
                                        .size = raw->length,
                                        .first_line = raw->first_line};
    reader_begin(w->reader,
                 &(struct reader_block){.name = file->uri,
                                        .data = raw->data,
                                        .size = raw->size,
                                        .first_line = raw->first_line,
                                        .record_count = raw->record_count,
                                        .extra_values = (const char *const *)file->column_values,
                                        .extra_count = file->column_count});
    rows_clear(&w->rows);
    enum err e = scan_records(w, task, b);
    uint32_t eval = 0;
    for (uint32_t i = 0; i < w->rows.count; i++)
        eval += w->rows.evals[i];
    b->place.record_count = w->rows.count;
    b->place.eval_count = eval;
    b->place.train_count = w->rows.count - eval;
    w->cut_values += w->rows.cut_values;
    return e;
}

static enum err check_head(const struct pass *p, const char *uri, const struct file_head *h)
{
    if (h->empty)
        return ERR_NONE;
    if (p->s->job->data.format == FORMAT_CSV && h->column_count != p->header_columns)
        return err_set(ERR_INPUT, "%s: %u columns, but the files before have %u", uri,
                       h->column_count, p->header_columns);
    for (uint32_t i = 0; i < h->column_count; i++) {
        if (strcmp(h->columns[i], p->fields.items[i]) != 0)
            return err_set(ERR_INPUT, "%s: column %u is '%s', but in the files before it is '%s'",
                           uri, i + 1, h->columns[i], p->fields.items[i]);
    }
    if (h->record_bytes != p->record_bytes)
        return err_set(ERR_INPUT, "%s: images of %u values, but in the files before of %u", uri,
                       h->record_bytes, p->record_bytes);
    return ERR_NONE;
}

static enum err scan_file(struct pass *p, uint32_t i, bool by_file, uint32_t thread)
{
    struct file_task task = {.pass = p, .file = p->mine[i], .by_file = by_file, .thread = thread};
    const char *uri = p->s->files->files[task.file].uri;
    struct scan *scan = NULL;
    enum err e = scan_open(&p->s->job->data, uri, &scan);
    if (e == ERR_NONE)
        e = check_head(p, uri, scan_head(scan));
    if (e == ERR_NONE) {
        p->packed[i] = !scan_is_splittable(scan);
        struct scan_visitor v = {.visit = visit,
                                 .context = &task,
                                 .cancel = p->s->cancel,
                                 .pool = by_file ? NULL : p->s->pool};
        e = scan_each(scan, &v);
    }
    scan_close(scan);
    return e;
}

static void file_piece(void *context, uint32_t piece, uint32_t thread_index)
{
    struct pass *p = context;
    enum err e = scan_file(p, piece, true, thread_index);
    p->outcomes[piece].code = e;
    if (e != ERR_NONE)
        p->outcomes[piece].text = must_strdup(err_text());
}

/* ---- the pass -------------------------------------------------------------------------------- */

/* Of the first file that is not empty. p->spec stays NULL when all are. */
static enum err read_columns(struct pass *p)
{
    const struct job_data *d = &p->s->job->data;
    for (uint32_t i = 0; i < p->mine_count && p->fields.count == 0; i++) {
        const struct dataindex_file *file = &p->s->files->files[p->mine[i]];
        struct scan *scan;
        enum err e = scan_open(d, file->uri, &scan);
        if (e != ERR_NONE)
            return e;
        const struct file_head *h = scan_head(scan);
        p->header_columns = h->column_count;
        p->record_bytes = h->record_bytes;
        if (!h->empty)
            data_fields(d, h->columns, h->column_count, file, &p->fields);
        scan_close(scan);
    }
    if (p->fields.count == 0)
        return ERR_NONE;
    /* libffm: one field is enough to tell good rows from bad ones. */
    uint32_t fields = p->s->libffm_fields > 0 ? p->s->libffm_fields : 1;
    data_spec_columns(d, &p->fields, p->s->files->files[0].column_count, fields, &p->columns);
    return features_spec_create(p->s->job, (const char *const *)p->columns.items, p->columns.count,
                                &p->spec);
}

static void number_counters(struct pass *p)
{
    size_t n = p->spec->feature_count;
    p->count_of = must_alloc(n * sizeof *p->count_of);
    p->moment_of = must_alloc(n * sizeof *p->moment_of);
    for (size_t i = 0; i < n; i++) {
        const struct job_feature *job = p->spec->features[i].job;
        bool counts = p->s->want_values && job->min_count > 1;
        bool moments = p->s->want_values && feature_needs_moments(job);
        p->count_of[i] = counts ? p->count_count++ : UINT32_MAX;
        p->moment_of[i] = moments ? p->moment_count++ : UINT32_MAX;
    }
    p->count_count += p->s->want_times;
}

static enum err prepare_workers(struct pass *p)
{
    p->worker_count = pool_thread_count(p->s->pool);
    p->workers = must_alloc(p->worker_count * sizeof *p->workers);
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < p->worker_count && e == ERR_NONE; i++) {
        struct worker *w = &p->workers[i];
        struct reader_options o = {.data = &p->s->job->data,
                                   .column_count = p->header_columns,
                                   .record_bytes = p->record_bytes};
        w->pass = p;
        w->counts = must_alloc(p->count_count * sizeof *w->counts);
        rows_init(p->features, &w->rows);
        e = reader_create(&o, &w->reader);
    }
    return e;
}

static enum err prepare(struct pass *p)
{
    const struct index_scan *s = p->s;
    enum err e = read_columns(p);
    if (e != ERR_NONE || p->spec == NULL)
        return e;
    number_counters(p);
    struct features_options o = {.job = s->job,
                                 .spec = p->spec,
                                 .columns = (const char *const *)p->fields.items,
                                 .column_count = (uint32_t)p->fields.count,
                                 .has_time_split = s->has_time_split,
                                 .time_split_ms = s->time_split_ms};
    e = features_create(&o, &p->features);
    return e == ERR_NONE ? prepare_workers(p) : e;
}

static enum err scan_files(struct pass *p)
{
    enum err e = ERR_NONE;
    if (p->worker_count < 2 || p->mine_count < 2 * p->worker_count) {
        for (uint32_t i = 0; i < p->mine_count && e == ERR_NONE; i++)
            e = scan_file(p, i, false, 0);
        return e;
    }
    pool_run(p->s->pool, p->mine_count, file_piece, p);
    for (uint32_t i = 0; i < p->mine_count; i++) {
        if (p->outcomes[i].code != ERR_NONE && e == ERR_NONE)
            e = err_set(p->outcomes[i].code, "%s", p->outcomes[i].text);
        mem_free(p->outcomes[i].text);
    }
    return e;
}

static int by_place(const void *a, const void *b)
{
    const struct bad_row *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* The first of all threads' first bad rows. A thread keeps its own in order, so a stable order by
 * block does. */
static void gather_bad(struct pass *p, struct index_part *out)
{
    struct bad_row *all = must_alloc((size_t)p->worker_count * INDEX_BAD_SHOWN * sizeof *all);
    size_t count = 0;
    for (uint32_t i = 0; i < p->worker_count; i++) {
        for (uint32_t k = 0; k < p->workers[i].bad_count; k++)
            all[count++] = p->workers[i].bad[k];
        p->workers[i].bad_count = 0;
    }
    for (size_t i = 1; i < count; i++) {
        struct bad_row held = all[i];
        size_t at = i;
        for (; at > 0 && by_place(&all[at - 1], &held) > 0; at--)
            all[at] = all[at - 1];
        all[at] = held;
    }
    size_t shown = count < INDEX_BAD_SHOWN ? count : INDEX_BAD_SHOWN;
    out->bad.items = must_alloc(shown * sizeof *out->bad.items);
    for (size_t i = 0; i < count; i++) {
        if (i < shown)
            out->bad.items[out->bad.count++] = all[i].text;
        else
            mem_free(all[i].text);
    }
    mem_free(all);
}

static enum err gather_counts(struct pass *p, struct index_part *out)
{
    out->counts = must_alloc(p->count_count * sizeof *out->counts);
    out->count_count = p->count_count;
    for (uint32_t f = 0; f < p->spec->feature_count; f++) {
        if (p->count_of[f] != UINT32_MAX)
            out->counts[p->count_of[f]].feature = f;
    }
    for (uint32_t c = 0; c < p->count_count; c++) {
        struct keycounts *into = &p->workers[0].counts[c];
        for (uint32_t i = 1; i < p->worker_count; i++) {
            const struct keycounts *from = &p->workers[i].counts[c];
            for (size_t k = 0; k < from->size; k++) {
                enum err e = from->slots[k].count == 0
                                 ? ERR_NONE
                                 : keycounts_add(into, from->slots[k].key, from->slots[k].count);
                if (e != ERR_NONE)
                    return e;
            }
        }
        enum err e = keycounts_take(into, &out->counts[c].entries, &out->counts[c].count);
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

static enum err gather(struct pass *p, struct index_part *out)
{
    size_t blocks = 0;
    out->moment_count = p->moment_count;
    for (uint32_t i = 0; i < p->worker_count; i++)
        blocks += p->workers[i].block_count;
    out->blocks = must_alloc(blocks * sizeof *out->blocks);
    for (uint32_t i = 0; i < p->worker_count; i++) {
        struct worker *w = &p->workers[i];
        for (size_t k = 0; k < w->block_count; k++)
            out->blocks[out->block_count++] = w->blocks[k];
        w->block_count = 0;
        out->cut_values += w->cut_values;
        if (w->libffm_fields > out->libffm_fields)
            out->libffm_fields = w->libffm_fields;
    }
    index_part_sort(out);
    out->packed_files = must_alloc(p->mine_count * sizeof *out->packed_files);
    for (uint32_t i = 0; i < p->mine_count; i++) {
        if (p->packed[i])
            out->packed_files[out->packed_count++] = p->mine[i];
    }
    gather_bad(p, out);
    enum err e = gather_counts(p, out);
    out->fields = p->fields;
    p->fields = (struct text_list){0};
    return e;
}

static void pass_deinit(struct pass *p)
{
    for (uint32_t i = 0; p->workers != NULL && i < p->worker_count; i++) {
        struct worker *w = &p->workers[i];
        for (size_t k = 0; k < w->block_count; k++)
            mem_free(w->blocks[k].moments);
        for (uint32_t k = 0; k < w->bad_count; k++)
            mem_free(w->bad[k].text);
        for (uint32_t c = 0; w->counts != NULL && c < p->count_count; c++)
            keycounts_deinit(&w->counts[c]);
        reader_destroy(w->reader);
        rows_deinit(&w->rows);
        mem_free(w->keys);
        mem_free(w->values);
        mem_free(w->counts);
        mem_free(w->blocks);
    }
    features_destroy(p->features);
    features_spec_destroy(p->spec);
    text_list_free(&p->fields);
    text_list_free(&p->columns);
    mem_free(p->workers);
    mem_free(p->count_of);
    mem_free(p->moment_of);
    mem_free(p->mine);
    mem_free(p->packed);
    mem_free(p->outcomes);
}

enum err index_scan_run(const struct index_scan *s, struct index_part *out)
{
    struct pass p = {.s = s};
    struct index_part part = {0};
    p.mine = must_alloc(s->files->count * sizeof *p.mine);
    for (uint32_t f = s->worker; f < s->files->count; f += s->worker_count)
        p.mine[p.mine_count++] = f;
    p.packed = must_alloc(p.mine_count * sizeof *p.packed);
    p.outcomes = must_alloc(p.mine_count * sizeof *p.outcomes);
    enum err e = ERR_NONE;
    if (p.mine_count > 0)
        e = prepare(&p);
    if (e == ERR_NONE && p.spec != NULL)
        e = scan_files(&p);
    if (e == ERR_NONE && p.spec != NULL)
        e = gather(&p, &part);
    pass_deinit(&p);
    if (e != ERR_NONE) {
        index_part_deinit(&part);
        return e;
    }
    *out = part;
    return ERR_NONE;
}
