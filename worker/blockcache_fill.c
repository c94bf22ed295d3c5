/*
 * blockcache_fill.c - parsing the blocks that are missing.
 *
 * Blocks of a file that can be entered anywhere are read and parsed one by one, in parallel. A
 * packed file is gone through once for all its blocks, by whoever holds a write lock on
 * `<cache>/file-N.claim` (a lock of the open file description: it goes with its holder). The holder
 * writes into the claim how far it is; those who wait take over only when that stands still for
 * CLAIM_PATIENCE_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/blockcache_internal.h"

#define CLAIM_POLL_MS     20
#define CLAIM_PATIENCE_MS 30000

/* A file whose blocks are being made. */
struct file_job {
    struct blockcache *c;
    uint32_t file;
    const struct dataindex_file *info;
    struct scan *scan;
    const uint32_t *blocks; /* missing ones, when the file can be entered */
    uint32_t count;
    int claim; /* -1: none */
    const atomic_bool *cancel;
    struct outcome {
        enum err code;
        char *text;
    } * outcomes; /* [count] */
};

enum err blockcache_prepare_workers(struct blockcache *c)
{
    if (c->workers != NULL)
        return ERR_NONE;
    if (c->pool == NULL)
        c->pool = pool_create(c->o.threads > 0 ? c->o.threads : 1);
    if (c->pool == NULL)
        return ERR_MEMORY;
    c->workers = must_alloc(pool_thread_count(c->pool) * sizeof *c->workers);
    for (uint32_t i = 0; i < pool_thread_count(c->pool); i++)
        rows_init(c->features, &c->workers[i].rows);
    return ERR_NONE;
}

void blockcache_free_workers(struct blockcache *c)
{
    for (uint32_t i = 0; c->workers != NULL && i < pool_thread_count(c->pool); i++) {
        struct fill_worker *w = &c->workers[i];
        reader_destroy(w->reader);
        rows_deinit(&w->rows);
        block_builder_deinit(&w->builder);
        raw_block_deinit(&w->raw);
    }
    mem_free(c->workers);
    c->workers = NULL;
}

static enum err refused(const struct file_job *job, const char *what)
{
    return err_set(ERR_REFUSED, "%s: the file is not the one that was indexed (%s)", job->info->uri,
                   what);
}

/* ---- a block --------------------------------------------------------------------------------- */

static enum err parse(const struct file_job *job, struct fill_worker *w,
                      const struct raw_block *raw, const struct dataindex_block *place)
{
    const struct blockcache *c = job->c;
    const struct features_call call = {.reader = w->reader, .for_eval = job->info->for_eval};
    uint32_t bad = 0;
    rows_clear(&w->rows);
    reader_begin(w->reader, &(struct reader_block){
                                .name = job->info->uri,
                                .data = raw->data,
                                .size = raw->size,
                                .first_line = raw->first_line,
                                .record_count = raw->record_count,
                                .extra_values = (const char *const *)job->info->column_values,
                                .extra_count = job->info->column_count});
    for (;;) {
        const struct record *record;
        enum err e = reader_next(w->reader, &record);
        if (e == ERR_NONE && record == NULL)
            break;
        if (e == ERR_NONE)
            e = features_add(c->features, &call, record, &w->rows);
        if (e == ERR_INPUT && ++bad <= place->bad_count)
            continue;
        if (e != ERR_NONE)
            return e;
    }
    uint32_t train = 0;
    for (uint32_t i = 0; i < w->rows.count; i++)
        train += !w->rows.evals[i];
    if (w->rows.count != place->record_count || bad != place->bad_count ||
        train != place->train_count)
        return refused(job, "its rows are others");
    return ERR_NONE;
}

static enum err make_block(const struct file_job *job, struct fill_worker *w,
                           const struct raw_block *raw, uint32_t block, bool needed)
{
    struct blockcache *c = job->c;
    const struct file_head *head = scan_head(job->scan);
    enum err e = ERR_NONE;
    if (w->reader == NULL) {
        uint32_t own = (uint32_t)c->fields.count - job->info->column_count;
        struct reader_options o = {
            .data = &c->o.job->data, .column_count = own, .record_bytes = head->record_bytes};
        e = reader_create(&o, &w->reader);
    }
    if (e == ERR_NONE)
        e = parse(job, w, raw, &c->o.index->blocks[block]);
    if (e == ERR_NONE)
        e = block_build(&w->builder, &w->rows, (struct block_identity){c->set, block});
    if (e == ERR_NONE)
        e = blockcache_store(c, block, &w->builder, needed);
    if (e == ERR_NONE)
        atomic_fetch_add(&c->parsed_blocks, 1);
    return e;
}

static enum err check_header(const struct file_job *job)
{
    const struct file_head *h = scan_head(job->scan);
    const struct text_list *fields = &job->c->fields;
    for (uint32_t i = 0; i < h->column_count; i++) {
        if (i >= fields->count || strcmp(h->columns[i], fields->items[i]) != 0)
            return refused(job, "its header is another");
    }
    return ERR_NONE;
}

/* ---- files that can be entered anywhere ------------------------------------------------------ */

static void block_piece(void *context, uint32_t piece, uint32_t thread_index)
{
    struct file_job *job = context;
    struct fill_worker *w = &job->c->workers[thread_index];
    uint32_t block = job->blocks[piece];
    enum err e = ERR_NONE;
    if (job->cancel != NULL && atomic_load(job->cancel))
        e = err_set(ERR_CANCELLED, "cancelled");
    if (e == ERR_NONE)
        e = scan_read(job->scan, &job->c->o.index->blocks[block], &w->raw);
    if (e == ERR_NONE)
        e = make_block(job, w, &w->raw, block, true);
    job->outcomes[piece].code = e;
    if (e != ERR_NONE)
        job->outcomes[piece].text = must_strdup(err_text());
}

static enum err fill_entered(struct file_job *job)
{
    enum err e = ERR_NONE;
    job->outcomes = must_alloc(job->count * sizeof *job->outcomes);
    pool_run(job->c->pool, job->count, block_piece, job);
    for (uint32_t i = 0; i < job->count; i++) {
        if (job->outcomes[i].code != ERR_NONE && e == ERR_NONE)
            e = err_set(job->outcomes[i].code, "%s", job->outcomes[i].text);
        mem_free(job->outcomes[i].text);
    }
    mem_free(job->outcomes);
    return e;
}

/* ---- packed files ---------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static enum err visit(void *context, struct raw_block *raw, uint32_t number, uint32_t thread_index)
{
    struct file_job *job = context;
    const struct blockcache *c = job->c;
    uint32_t block = c->first_block[job->file] + number;
    if (block >= c->first_block[job->file + 1])
        return refused(job, "it is longer");
    const struct dataindex_block *place = &c->o.index->blocks[block];
    if (raw->offset != place->offset || raw->length != place->size)
        return refused(job, "its blocks begin elsewhere");
    /* Read by those who wait; any change says that work goes on. */
    uint64_t progress = number + 1;
    if (job->claim >= 0 && pwrite(job->claim, &progress, sizeof progress, 0) < 0)
        log_debug("blockcache", "claim not written file=%u", job->file);
    if (blockcache_has(c, block))
        return ERR_NONE;
    bool needed = bsearch(&block, job->blocks, job->count, sizeof block, by_number) != NULL;
    return make_block(job, &job->c->workers[thread_index], raw, block, needed);
}

static enum err fill_packed(struct file_job *job)
{
    struct scan_visitor v = {
        .visit = visit, .context = job, .pool = job->c->pool, .cancel = job->cancel};
    atomic_fetch_add(&job->c->unpacked_files, 1);
    return scan_each(job->scan, &v);
}

static bool all_there(const struct blockcache *c, const uint32_t *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!blockcache_has(c, blocks[i]))
            return false;
    }
    return true;
}

static enum err try_lock(int fd, bool *locked)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *locked = fcntl(fd, F_OFD_SETLK, &lock) == 0;
    if (!*locked && errno != EAGAIN && errno != EACCES)
        return err_set_errno(ERR_IO, errno, "block cache: cannot lock a claim");
    return ERR_NONE;
}

/* Until the lock is ours, the blocks are there (*done), or the holder stands still (then without a
 * lock). */
static enum err wait_for_claim(struct file_job *job, bool *done)
{
    char *path = must_format("%s/file-%u.claim", job->c->directory, job->file);
    job->claim = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    enum err e = ERR_NONE;
    if (job->claim < 0)
        e = err_set_errno(ERR_IO, errno, "block cache: cannot open '%s'", path);
    uint64_t seen = 0, since = clock_ms();
    bool locked = false;
    while (e == ERR_NONE) {
        e = try_lock(job->claim, &locked);
        *done = e == ERR_NONE && all_there(job->c, job->blocks, job->count);
        if (locked || *done || e != ERR_NONE)
            break;
        if (job->cancel != NULL && atomic_load(job->cancel)) {
            e = err_set(ERR_CANCELLED, "cancelled");
            break;
        }
        uint64_t progress = 0;
        if (pread(job->claim, &progress, sizeof progress, 0) == sizeof progress &&
            progress != seen) {
            seen = progress;
            since = clock_ms();
        }
        if (clock_ms() - since > CLAIM_PATIENCE_MS) {
            log_warn("blockcache", "unpacking of another process stands still uri='%s'",
                     job->info->uri);
            break;
        }
        clock_sleep_ms(CLAIM_POLL_MS);
    }
    mem_free(path);
    return e;
}

/* ---- filling --------------------------------------------------------------------------------- */

static enum err fill_file(struct blockcache *c, uint32_t file, const uint32_t *blocks,
                          uint32_t count, const atomic_bool *cancel)
{
    struct file_job job = {.c = c,
                           .file = file,
                           .info = &c->o.index->files[file],
                           .blocks = blocks,
                           .count = count,
                           .claim = -1,
                           .cancel = cancel};
    bool done = false;
    enum err e = ERR_NONE;
    if (!job.info->splittable)
        e = wait_for_claim(&job, &done);
    if (e == ERR_NONE && !done)
        e = scan_open(&c->o.job->data, job.info->uri, &job.scan);
    if (e == ERR_NONE && !done) {
        e = check_header(&job);
        if (e == ERR_NONE && scan_is_splittable(job.scan) != job.info->splittable)
            e = refused(&job, "packed or not packed");
        if (e == ERR_NONE)
            e = job.info->splittable ? fill_entered(&job) : fill_packed(&job);
        if (e == ERR_NONE && !all_there(c, blocks, count))
            e = refused(&job, "it is shorter");
    }
    scan_close(job.scan);
    if (job.claim >= 0)
        close(job.claim); /* and so unlock it */
    return e;
}

/* `missing` is ascending, so blocks of a file are neighbours. */
static enum err fill_missing(struct blockcache *c, const uint32_t *missing, uint32_t count,
                             const atomic_bool *cancel)
{
    enum err e = blockcache_prepare_workers(c);
    for (uint32_t i = 0, next; i < count && e == ERR_NONE; i = next) {
        uint32_t file = c->o.index->blocks[missing[i]].file;
        for (next = i; next < count && c->o.index->blocks[missing[next]].file == file;)
            next++;
        e = fill_file(c, file, missing + i, next - i, cancel);
    }
    return e;
}

/* One that is there is used now, and so stays. */
static bool is_there(const struct blockcache *c, uint32_t block)
{
    static const struct timespec now[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    char *path = blockcache_path(c, block);
    bool there = utimensat(AT_FDCWD, path, now, 0) == 0 || access(path, R_OK) == 0;
    mem_free(path);
    return there;
}

enum err blockcache_fill(struct blockcache *c, const uint32_t *blocks, uint32_t count,
                         const atomic_bool *cancel)
{
    uint32_t *missing = mem_alloc_array(count, sizeof *missing), missing_count = 0;
    if (missing == NULL)
        return ERR_MEMORY;
    pthread_mutex_lock(&c->lock);
    clock_gettime(CLOCK_REALTIME_COARSE, &c->fill_began);
    for (uint32_t i = 0; i < count; i++) {
        if (!is_there(c, blocks[i]))
            missing[missing_count++] = blocks[i];
    }
    enum err e = ERR_NONE;
    if (missing_count > 0) {
        qsort(missing, missing_count, sizeof *missing, by_number);
        e = fill_missing(c, missing, missing_count, cancel);
    }
    pthread_mutex_unlock(&c->lock);
    mem_free(missing);
    return e;
}
