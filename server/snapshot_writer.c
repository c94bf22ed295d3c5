#include "server/snapshot_writer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/queue.h"
#include "common/storage.h"

#define JOIN_WAIT_MS 200
#define POP_WAIT_MS  1000
#define WHY_BYTES    512

/* The thread's present file. */
struct output {
    struct storage_writer *writer;
    char *name; /* also of one whose closing failed: it may be there */
    uint32_t table, piece;
    uint64_t offset, rows;
    struct checkpoint_entry *entries;
    size_t entry_count, entry_capacity;
};

struct snapshot_writer {
    char *directory;
    uint32_t table_count, first_partition, end_partition, attempt;
    uint64_t file_max;

    struct queue *blocks;
    pthread_t thread;
    pthread_mutex_t lock; /* of `ended` */
    pthread_cond_t has_ended;
    bool ended;
    atomic_uint references;    /* the owner's and the thread's */
    atomic_int state;          /* enum snapshot_state; leaves RUNNING once */
    char owner_why[WHY_BYTES]; /* whoever makes it ABANDONED says why */
    char thread_why[WHY_BYTES];

    struct output out;
    struct checkpoint_file *files;
    size_t file_count, file_capacity;
};

/* ---- blocks ---- */

void snapshot_block_add(struct snapshot_block *b, const void *data, size_t size)
{
    CHECK(b->part_count < SNAPSHOT_PARTS_MAX);
    b->parts[b->part_count] = data;
    b->sizes[b->part_count++] = size;
    b->size += size;
}

void snapshot_block_destroy(struct snapshot_block *b)
{
    if (!b)
        return;
    mem_free(b->memory);
    buf_unref(b->values);
    buf_unref(b->slots);
    mem_free(b);
}

/* ---- life ---- */

static void *write_blocks(void *context);

/* Drops one of the two references. */
static void release(struct snapshot_writer *w)
{
    void *item = NULL;

    if (atomic_fetch_sub(&w->references, 1) > 1)
        return;
    while (w->blocks && queue_length(w->blocks) > 0 && queue_pop(w->blocks, &item, 0) == ERR_NONE)
        snapshot_block_destroy(item);
    queue_destroy(w->blocks);
    pthread_cond_destroy(&w->has_ended);
    pthread_mutex_destroy(&w->lock);
    for (size_t i = 0; i < w->file_count; i++)
        mem_free(w->files[i].name);
    mem_free(w->files);
    mem_free(w->out.entries);
    mem_free(w->out.name);
    mem_free(w->directory);
    mem_free(w);
}

enum err snapshot_writer_create(const struct snapshot_writer_options *o,
                                struct snapshot_writer **out)
{
    struct snapshot_writer *w = mem_calloc(1, sizeof *w);
    pthread_condattr_t monotonic;

    if (!w)
        return ERR_MEMORY;
    w->directory = must_strdup(o->directory);
    w->table_count = o->table_count;
    w->first_partition = o->first_partition;
    w->end_partition = o->end_partition;
    w->attempt = o->attempt;
    w->file_max = o->file_max;
    w->blocks = queue_create(o->blocks_max);
    CHECK(pthread_condattr_init(&monotonic) == 0);
    CHECK(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&w->has_ended, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
    CHECK(pthread_mutex_init(&w->lock, NULL) == 0);
    atomic_init(&w->state, SNAPSHOT_RUNNING);
    atomic_init(&w->references, 2);
    int failed = pthread_create(&w->thread, NULL, write_blocks, w);
    if (failed) {
        atomic_store(&w->references, 1);
        release(w);
        return err_set_errno(ERR_IO, failed, "cannot start a thread that writes '%s'",
                             o->directory);
    }
    *out = w;
    return ERR_NONE;
}

enum err snapshot_writer_push(struct snapshot_writer *w, struct snapshot_block *b)
{
    return queue_push(w->blocks, b, 0);
}

void snapshot_writer_finish(struct snapshot_writer *w)
{
    queue_close(w->blocks);
}

static bool leave_running(struct snapshot_writer *w, enum snapshot_state state)
{
    int running = SNAPSHOT_RUNNING;
    return atomic_compare_exchange_strong(&w->state, &running, (int)state);
}

void snapshot_writer_abandon(struct snapshot_writer *w, const char *why)
{
    char text[WHY_BYTES] = {0};

    strncpy(text, why, sizeof text - 1);
    if (leave_running(w, SNAPSHOT_ABANDONED))
        memcpy(w->owner_why, text, sizeof text);
    queue_close(w->blocks);
}

enum snapshot_state snapshot_writer_state(const struct snapshot_writer *w)
{
    return (enum snapshot_state)atomic_load(&w->state);
}

const char *snapshot_writer_why(const struct snapshot_writer *w)
{
    return w->owner_why[0] ? w->owner_why : w->thread_why;
}

const struct checkpoint_file *snapshot_writer_files(const struct snapshot_writer *w,
                                                    uint32_t *count_out)
{
    CHECK(snapshot_writer_state(w) == SNAPSHOT_DURABLE);
    *count_out = (uint32_t)w->file_count;
    return w->files;
}

void snapshot_writer_destroy(struct snapshot_writer *w)
{
    struct timespec until;

    if (!w)
        return;
    snapshot_writer_abandon(w, "it was given up");
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += JOIN_WAIT_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&w->lock);
    while (!w->ended && pthread_cond_timedwait(&w->has_ended, &w->lock, &until) == 0)
        ;
    bool ended = w->ended;
    pthread_mutex_unlock(&w->lock);
    if (ended)
        pthread_join(w->thread, NULL);
    else
        pthread_detach(w->thread);
    release(w);
}

/* ---- the thread: files ---- */

static enum err output_open(struct snapshot_writer *w, uint32_t table, uint32_t piece)
{
    struct output *out = &w->out;
    struct shard_file_range range = {table, w->first_partition, w->end_partition, w->attempt,
                                     piece};

    mem_free(out->name);
    out->name = shard_file_name(&range);
    out->table = table;
    out->piece = piece;
    out->rows = 0;
    out->entry_count = 0;
    char *uri = storage_join(w->directory, out->name);
    enum err err = storage_write_open(uri, true, &out->writer);
    mem_free(uri);
    if (!err)
        err = storage_write(out->writer, "PDSHARD1", CHECKPOINT_HEAD_BYTES);
    out->offset = CHECKPOINT_HEAD_BYTES;
    return err;
}

static enum err output_close(struct snapshot_writer *w)
{
    struct output *out = &w->out;
    struct str footer = {0};
    struct checkpoint_file file;

    if (!mem_grow(w->files, w->file_capacity, w->file_count + 1))
        return ERR_MEMORY;
    checkpoint_footer(out->entries, out->entry_count, out->offset, &footer, &file.index_crc);
    file.size = out->offset + footer.size;
    file.rows = out->rows;
    enum err err = storage_write(out->writer, footer.data, footer.size);
    str_deinit(&footer);
    if (err)
        return err;
    struct storage_writer *writer = out->writer;
    out->writer = NULL;
    err = storage_write_close(writer);
    if (err && !PLANT(close_unchecked))
        return err;
    file.name = out->name;
    out->name = NULL;
    w->files[w->file_count++] = file;
    return ERR_NONE;
}

/* Closes the present file and opens the next ones up to the one of `table`: each table has one. */
static enum err output_advance(struct snapshot_writer *w, uint32_t table)
{
    enum err err = ERR_NONE;

    while (!err && (!w->out.writer || w->out.table != table)) {
        uint32_t next = 0;
        if (w->out.writer) {
            CHECK(w->out.table < table);
            next = w->out.table + 1;
            err = output_close(w);
        }
        if (next == w->table_count)
            next = SHARD_FILE_DENSE;
        if (!err)
            err = output_open(w, next, 0);
    }
    return err;
}

static enum err output_block(struct snapshot_writer *w, const struct snapshot_block *b)
{
    struct output *out = &w->out;
    uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES];
    uint64_t size = sizeof head + b->size;
    enum err err = output_advance(w, b->table);

    if (!err && out->entry_count > 0 && out->offset + size > w->file_max) {
        uint32_t piece = out->piece + 1;
        err = output_close(w);
        if (!err)
            err = output_open(w, b->table, piece);
    }
    if (err)
        return err;
    if (!mem_grow(out->entries, out->entry_capacity, out->entry_count + 1))
        return ERR_MEMORY;
    uint32_t number = (uint32_t)out->entry_count;
    uint32_t head_crc = checkpoint_block_head(number, b->partition, b->row_count, b->parts,
                                              b->sizes, b->part_count, head);
    err = storage_write(out->writer, head, sizeof head);
    for (size_t i = 0; i < b->part_count && !err; i++)
        err = storage_write(out->writer, b->parts[i], b->sizes[i]);
    out->entries[out->entry_count] =
        (struct checkpoint_entry){b->partition, number, out->offset, size, b->row_count, head_crc};
    out->entry_count++;
    out->offset += size;
    out->rows += b->row_count;
    return err;
}

static enum err write_all(struct snapshot_writer *w)
{
    enum err err = ERR_NONE;

    while (!err) {
        void *item = NULL;
        enum err popped = queue_pop(w->blocks, &item, POP_WAIT_MS);
        if (snapshot_writer_state(w) != SNAPSHOT_RUNNING) {
            snapshot_block_destroy(item);
            return err_set(ERR_CANCELLED, "it was given up");
        }
        if (popped == ERR_CANCELLED) /* closed, and nothing is left */
            break;
        if (popped)
            continue;
        err = output_block(w, item);
        snapshot_block_destroy(item);
    }
    if (!err)
        err = output_advance(w, SHARD_FILE_DENSE);
    return err ? err : output_close(w);
}

/* ---- the thread: its end ---- */

static void remove_file(struct snapshot_writer *w, const char *name)
{
    char *uri = storage_join(w->directory, name);

    if (storage_remove(uri) != ERR_NONE)
        log_warn("snapshot", "cannot remove what an abandoned checkpoint left: %s", err_text());
    mem_free(uri);
}

static void remove_files(struct snapshot_writer *w)
{
    for (size_t i = 0; i < w->file_count; i++)
        remove_file(w, w->files[i].name);
    if (w->out.name)
        remove_file(w, w->out.name);
}

static void *write_blocks(void *context)
{
    struct snapshot_writer *w = context;
    enum err err = write_all(w);

    if (err) {
        strncpy(w->thread_why, err_text(), sizeof w->thread_why - 1);
        storage_write_abort(w->out.writer);
        w->out.writer = NULL;
        remove_files(w);
        leave_running(w, SNAPSHOT_ABANDONED);
    } else if (!leave_running(w, SNAPSHOT_DURABLE)) {
        remove_files(w);
    }
    pthread_mutex_lock(&w->lock);
    w->ended = true;
    pthread_cond_signal(&w->has_ended);
    pthread_mutex_unlock(&w->lock);
    release(w);
    return NULL;
}
