#include "server/snapshot.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "common/storage.h"
#include "server/dense.h"
#include "server/shard_file.h"
#include "server/table.h"

#define ROWS_AT_ONCE 256u
#define BLOCKS_WAITING_MAX 64u
#define MAX_PARTS (2 + SLOT_MAX)

/* A block on its way to the writer: parts of one body, and what keeps them alive. */
struct block {
    uint32_t table;                  /* or SHARD_FILE_DENSE */
    uint32_t partition, row_count;
    const void *parts[MAX_PARTS];
    size_t sizes[MAX_PARTS];
    size_t part_count, size;
    uint8_t dense_head[DENSE_BLOCK_HEAD_BYTES];
    void *memory;
    struct buf *values, *slots;
};

/* Rows of one partition that the owner is collecting. */
struct pending {
    uint64_t *keys;
    float *states;
    uint32_t count, partition;
};

/* The writer thread's file. */
struct output {
    struct storage_writer *writer;
    char *name;
    uint32_t table, piece;
    uint64_t offset, rows;
    struct checkpoint_entry *entries;
    size_t entry_count, entry_capacity;
};

struct snapshot {
    struct shard *shard;
    char *directory;
    uint64_t step, deadline_ms, memory_bytes;

    /* The owner's: where serializing has got to. */
    uint32_t table, dense, dense_block;
    uint32_t rows_max;               /* of one block of the present table */
    struct pending pending;
    uint64_t *keys;                  /* [ROWS_AT_ONCE] */
    float *states;
    uint32_t next_row, row_count;    /* of keys and states: fetched, not yet in a block */
    struct block *ready;             /* made, but the writer had no room */
    struct buf **dense_values, **dense_slots;
    bool handed_over, frozen;

    /* Between the threads. */
    struct queue *blocks;
    pthread_t writer;
    bool writer_started;
    atomic_bool stop;
    atomic_int state;                /* enum snapshot_state, written by the writer at its end */
    char why[512];

    /* The writer's. */
    struct output out;
    struct checkpoint_file *files;
    size_t file_count, file_capacity;
};

static void *write_blocks(void *context);

/* ---- beginning ---- */

static enum err freeze(struct snapshot *s)
{
    const struct schema *schema = shard_options_of(s->shard)->schema;

    s->frozen = true;
    for (uint32_t i = 0; i < schema->table_count; i++)
        table_snapshot_begin(shard_table(s->shard, i), s->memory_bytes);
    s->dense_values = mem_calloc(schema->dense_count + 1, sizeof *s->dense_values);
    s->dense_slots = mem_calloc(schema->dense_count + 1, sizeof *s->dense_slots);
    if (!s->dense_values || !s->dense_slots)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < schema->dense_count; i++) {
        struct dense *d = shard_dense(s->shard, i);
        if (!dense_value_count(d))
            continue;
        s->dense_values[i] = buf_ref(dense_values(d));
        if (schema->dense[i].slot_count) {
            enum err err = dense_freeze_slots(d, &s->dense_slots[i]);
            if (err)
                return err;
        }
    }
    return ERR_NONE;
}

static uint32_t widest_row(const struct schema *schema)
{
    uint32_t widest = 1;

    for (uint32_t i = 0; i < schema->table_count; i++)
        if (schema->tables[i].state_dim > widest)
            widest = schema->tables[i].state_dim;
    return widest;
}

enum err snapshot_begin(const struct snapshot_options *o, struct snapshot **out)
{
    const struct schema *schema = shard_options_of(o->shard)->schema;
    struct snapshot *s = mem_calloc(1, sizeof *s);
    enum err err = ERR_MEMORY;

    if (!s)
        return ERR_MEMORY;
    s->shard = o->shard;
    s->directory = must_strdup(o->directory);
    s->step = o->step;
    s->deadline_ms = o->deadline_ms;
    s->memory_bytes = o->memory_bytes;
    atomic_init(&s->stop, false);
    atomic_init(&s->state, SNAPSHOT_RUNNING);
    s->keys = mem_alloc(ROWS_AT_ONCE * sizeof *s->keys);
    s->states = mem_alloc(ROWS_AT_ONCE * sizeof(float) * widest_row(schema));
    uint64_t waiting = s->memory_bytes / (2ull * CHECKPOINT_BLOCK_MAX);
    if (waiting < 2)
        waiting = 2;
    s->blocks = queue_create(waiting > BLOCKS_WAITING_MAX ? BLOCKS_WAITING_MAX : waiting);
    if (!s->keys || !s->states || !s->blocks)
        goto fail;
    err = freeze(s);
    if (err)
        goto fail;
    if (pthread_create(&s->writer, NULL, write_blocks, s) != 0) {
        err = err_set(ERR_IO, "cannot start a thread that writes the checkpoint of step %llu",
                      (unsigned long long)s->step);
        goto fail;
    }
    s->writer_started = true;
    *out = s;
    return ERR_NONE;
fail:
    snapshot_destroy(s);
    return err;
}

/* ---- serializing: the owner ---- */

static void block_free(struct block *b)
{
    if (!b)
        return;
    mem_free(b->memory);
    buf_unref(b->values);
    buf_unref(b->slots);
    mem_free(b);
}

static void block_add(struct block *b, const void *data, size_t size)
{
    CHECK(b->part_count < MAX_PARTS);
    b->parts[b->part_count] = data;
    b->sizes[b->part_count++] = size;
    b->size += size;
}

/* The collected rows become a block, in one allocation: keys, then states. */
static enum err flush_pending(struct snapshot *s)
{
    uint32_t state_dim = shard_options_of(s->shard)->schema->tables[s->table].state_dim;
    uint32_t count = s->pending.count;

    if (!count)
        return ERR_NONE;
    CHECK(!s->ready);
    struct block *b = mem_calloc(1, sizeof *b);
    if (!b)
        return ERR_MEMORY;
    size_t keys_size = count * sizeof(uint64_t), states_size = (size_t)count * state_dim * sizeof(float);
    b->memory = mem_alloc(keys_size + states_size);
    if (!b->memory) {
        block_free(b);
        return ERR_MEMORY;
    }
    memcpy(b->memory, s->pending.keys, keys_size);
    memcpy((char *)b->memory + keys_size, s->pending.states, states_size);
    b->table = s->table;
    b->partition = s->pending.partition;
    b->row_count = count;
    block_add(b, b->memory, keys_size + states_size);
    s->pending.count = 0;
    s->ready = b;
    return ERR_NONE;
}

static enum err begin_table(struct snapshot *s, uint32_t state_dim)
{
    s->rows_max = CHECKPOINT_BLOCK_MAX / (8 + 4 * state_dim);
    mem_free(s->pending.keys);
    mem_free(s->pending.states);
    s->pending = (struct pending){
        .keys = mem_alloc(s->rows_max * sizeof(uint64_t)),
        .states = mem_alloc((size_t)s->rows_max * state_dim * sizeof(float)),
    };
    return s->pending.keys && s->pending.states ? ERR_NONE : ERR_MEMORY;
}

/* How many of the fetched rows go into the pending block: of its partition, and while it has room. */
static uint32_t rows_that_join(const struct snapshot *s)
{
    uint32_t partition = partition_of_key(s->keys[s->next_row]), count = 0;

    if (s->pending.count && s->pending.partition != partition)
        return 0;
    while (s->next_row + count < s->row_count && s->pending.count + count < s->rows_max &&
           partition_of_key(s->keys[s->next_row + count]) == partition)
        count++;
    return count;
}

static void append_rows(struct snapshot *s, uint32_t count, uint32_t state_dim)
{
    struct pending *p = &s->pending;

    p->partition = partition_of_key(s->keys[s->next_row]);
    memcpy(p->keys + p->count, s->keys + s->next_row, count * sizeof(uint64_t));
    memcpy(p->states + (size_t)p->count * state_dim, s->states + (size_t)s->next_row * state_dim,
           (size_t)count * state_dim * sizeof(float));
    p->count += count;
    s->next_row += count;
}

/* Makes at most one block; *done when the table has no more rows. */
static enum err serialize_rows(struct snapshot *s, bool *done)
{
    const struct schema_table *schema = &shard_options_of(s->shard)->schema->tables[s->table];
    enum err err = ERR_NONE;

    if (!s->pending.keys)
        err = begin_table(s, schema->state_dim);
    if (!err && s->next_row == s->row_count) {
        s->next_row = s->row_count = 0;
        err = table_snapshot_next(shard_table(s->shard, s->table), ROWS_AT_ONCE, s->keys, s->states,
                                  &s->row_count);
    }
    if (err)
        return err;
    if (s->row_count == 0) {
        *done = true;
        return flush_pending(s);
    }
    uint32_t count = rows_that_join(s);
    if (!count)
        return flush_pending(s);
    append_rows(s, count, schema->state_dim);
    return ERR_NONE;
}

static enum err serialize_dense(struct snapshot *s)
{
    const struct schema_dense *d = &shard_options_of(s->shard)->schema->dense[s->dense];
    struct dense *owned = shard_dense(s->shard, s->dense);
    uint32_t block = s->dense_block;
    uint64_t count = schema_block_size(d, block), stride = dense_value_count(owned);
    uint64_t at = schema_block_first(d, block) - schema_block_first(d, dense_first_block(owned));
    struct block *b = mem_calloc(1, sizeof *b);

    if (!b)
        return ERR_MEMORY;
    b->table = SHARD_FILE_DENSE;
    b->partition = schema_block_partition(d, block);
    b->row_count = 1;
    b->values = buf_ref(s->dense_values[s->dense]);
    if (d->slot_count)
        b->slots = buf_ref(s->dense_slots[s->dense]);
    dense_block_head_write(&(struct dense_block_head){s->dense, block, count}, b->dense_head);
    block_add(b, b->dense_head, sizeof b->dense_head);
    block_add(b, (const float *)buf_data(b->values) + at, count * sizeof(float));
    for (uint32_t i = 0; i < d->slot_count; i++)
        block_add(b, (const float *)buf_data(b->slots) + i * stride + at, count * sizeof(float));
    s->ready = b;
    return ERR_NONE;
}

/* One piece of work; *done when there is none left. */
static enum err serialize(struct snapshot *s, bool *done)
{
    const struct schema *schema = shard_options_of(s->shard)->schema;

    if (s->table < schema->table_count) {
        bool table_done = false;
        enum err err = serialize_rows(s, &table_done);
        if (!err && table_done) {
            mem_free(s->pending.keys);
            mem_free(s->pending.states);
            s->pending = (struct pending){0};
            s->table++;
        }
        return err;
    }
    while (s->dense < schema->dense_count) {
        struct dense *d = shard_dense(s->shard, s->dense);
        if (s->dense_block < dense_first_block(d))
            s->dense_block = dense_first_block(d);
        if (s->dense_block < dense_end_block(d)) {
            enum err err = serialize_dense(s);
            s->dense_block++;
            return err;
        }
        s->dense++;
        s->dense_block = 0;
    }
    *done = true;
    return ERR_NONE;
}

static void abandon(struct snapshot *s, const char *why)
{
    int running = SNAPSHOT_RUNNING;

    if (atomic_load(&s->state) == SNAPSHOT_RUNNING) {
        char text[sizeof s->why] = {0};
        strncpy(text, why, sizeof text - 1);
        atomic_store(&s->stop, true);
        queue_close(s->blocks);
        if (s->writer_started)
            pthread_join(s->writer, NULL);
        s->writer_started = false;
        /* The writer has ended: the text is ours. It may have finished in the meantime; then so be it. */
        if (atomic_compare_exchange_strong(&s->state, &running, SNAPSHOT_ABANDONED))
            memcpy(s->why, text, sizeof s->why);
    }
    s->handed_over = true;
}

bool snapshot_step(struct snapshot *s, uint64_t budget_ns)
{
    uint64_t start = clock_ns();
    bool done = false;

    while (!s->handed_over && atomic_load(&s->state) == SNAPSHOT_RUNNING) {
        if (s->ready) {
            if (queue_push(s->blocks, s->ready, 0) != ERR_NONE)
                return true; /* the writer is behind: later */
            s->ready = NULL;
        }
        enum err err = done ? ERR_NONE : serialize(s, &done);
        if (err) {
            abandon(s, err_text());
            return false;
        }
        if (done && !s->ready) {
            queue_close(s->blocks);
            s->handed_over = true;
        }
        if (clock_ns() - start > budget_ns)
            break;
    }
    return !s->handed_over && atomic_load(&s->state) == SNAPSHOT_RUNNING;
}

/* ---- writing: a thread of its own ---- */

static enum err output_open(struct snapshot *s, uint32_t table, uint32_t piece)
{
    const struct shard_options *o = shard_options_of(s->shard);
    struct output *out = &s->out;

    out->name = shard_file_name(table, o->first_partition, o->end_partition, piece);
    out->table = table;
    out->piece = piece;
    out->offset = out->rows = 0;
    out->entry_count = 0;
    char *uri = storage_join(s->directory, out->name);
    /* An attempt before this one may have left the name: nothing refers to it without a manifest. */
    enum err err = storage_write_open(uri, true, &out->writer);
    mem_free(uri);
    if (!err)
        err = storage_write(out->writer, "PDSHARD1", CHECKPOINT_HEAD_BYTES);
    out->offset = CHECKPOINT_HEAD_BYTES;
    return err;
}

static enum err output_close(struct snapshot *s)
{
    struct output *out = &s->out;
    struct str footer = {0};
    struct checkpoint_file file;

    checkpoint_footer(out->entries, out->entry_count, out->offset, &footer, &file.index_crc);
    file.size = out->offset + footer.size;
    file.rows = out->rows;
    enum err err = storage_write(out->writer, footer.data, footer.size);
    str_deinit(&footer);
    if (err)
        return err;
    err = storage_write_close(out->writer);
    out->writer = NULL;
    if (err)
        return err;
    if (!mem_grow(s->files, s->file_capacity, s->file_count + 1))
        return ERR_MEMORY;
    file.name = out->name;
    out->name = NULL;
    s->files[s->file_count++] = file;
    return ERR_NONE;
}

static enum err output_block(struct snapshot *s, const struct block *b)
{
    struct output *out = &s->out;
    uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES];
    uint64_t size = sizeof head + b->size;
    enum err err = ERR_NONE;

    if (out->writer && out->table == b->table && out->offset + size > CHECKPOINT_FILE_MAX) {
        uint32_t piece = out->piece + 1;
        err = output_close(s);
        if (!err)
            err = output_open(s, b->table, piece);
    }
    if (err)
        return err;
    if (!mem_grow(out->entries, out->entry_capacity, out->entry_count + 1))
        return ERR_MEMORY;
    checkpoint_block_head((uint32_t)out->entry_count, b->partition, b->row_count, b->parts, b->sizes,
                          b->part_count, head);
    err = storage_write(out->writer, head, sizeof head);
    for (size_t i = 0; i < b->part_count && !err; i++)
        err = storage_write(out->writer, b->parts[i], b->sizes[i]);
    out->entries[out->entry_count] = (struct checkpoint_entry){
        b->partition, (uint32_t)out->entry_count, out->offset, size, b->row_count};
    out->entry_count++;
    out->offset += size;
    out->rows += b->row_count;
    return err;
}

/* Closes the present file and opens the next ones up to the one of `table`: empty tables have files too. */
static enum err output_advance(struct snapshot *s, uint32_t table)
{
    uint32_t table_count = shard_options_of(s->shard)->schema->table_count;
    enum err err = ERR_NONE;

    while (!err && (!s->out.writer || s->out.table != table)) {
        uint32_t next = 0;
        if (s->out.writer) {
            next = s->out.table + 1;
            err = output_close(s);
        }
        if (next == table_count)
            next = SHARD_FILE_DENSE;
        if (!err)
            err = output_open(s, next, 0);
    }
    return err;
}

static enum err write_all(struct snapshot *s)
{
    void *item = NULL;
    enum err err = ERR_NONE;

    while (!err && (err = queue_pop(s->blocks, &item, 1000)) != ERR_CANCELLED) {
        if (atomic_load(&s->stop))
            return err_set(ERR_CANCELLED, "it was given up");
        if (err == ERR_TIMEOUT) {
            err = ERR_NONE;
            continue;
        }
        struct block *b = item;
        err = output_advance(s, b->table);
        if (!err)
            err = output_block(s, b);
        block_free(b);
    }
    if (err != ERR_CANCELLED)
        return err;
    if (atomic_load(&s->stop))
        return err_set(ERR_CANCELLED, "it was given up");
    err = output_advance(s, SHARD_FILE_DENSE);
    return err ? err : output_close(s);
}

static void *write_blocks(void *context)
{
    struct snapshot *s = context;
    enum err err = write_all(s);

    if (err) {
        storage_write_abort(s->out.writer);
        s->out.writer = NULL;
        if (!atomic_load(&s->stop)) {
            strncpy(s->why, err_text(), sizeof s->why - 1);
            atomic_store(&s->state, SNAPSHOT_ABANDONED);
        }
    } else {
        atomic_store(&s->state, SNAPSHOT_DURABLE);
    }
    return NULL;
}

/* ---- the outcome ---- */

enum snapshot_state snapshot_poll(struct snapshot *s, uint64_t now_ms,
                                  const struct checkpoint_file **files_out, uint32_t *file_count_out,
                                  const char **why_out)
{
    enum snapshot_state state = (enum snapshot_state)atomic_load(&s->state);

    if (state == SNAPSHOT_RUNNING && now_ms > s->deadline_ms) {
        abandon(s, "it took longer than checkpoint.timeout");
        state = (enum snapshot_state)atomic_load(&s->state);
    }
    if (state == SNAPSHOT_DURABLE) {
        *files_out = s->files;
        *file_count_out = (uint32_t)s->file_count;
    } else if (state == SNAPSHOT_ABANDONED) {
        *why_out = s->why;
    }
    return state;
}

static void remove_files(struct snapshot *s)
{
    for (size_t i = 0; i < s->file_count; i++) {
        char *uri = storage_join(s->directory, s->files[i].name);
        if (storage_remove(uri) != ERR_NONE)
            log_warn("snapshot", "cannot remove what an abandoned checkpoint left: %s", err_text());
        mem_free(uri);
    }
}

static void thaw(struct snapshot *s)
{
    const struct schema *schema = shard_options_of(s->shard)->schema;

    for (uint32_t i = 0; s->frozen && i < schema->table_count; i++)
        table_snapshot_end(shard_table(s->shard, i));
    for (uint32_t i = 0; i < schema->dense_count; i++) {
        if (s->dense_values)
            buf_unref(s->dense_values[i]);
        if (s->dense_slots)
            buf_unref(s->dense_slots[i]);
    }
}

void snapshot_destroy(struct snapshot *s)
{
    void *item = NULL;

    if (!s)
        return;
    if (s->blocks)
        abandon(s, "it was given up");
    if (s->writer_started)
        pthread_join(s->writer, NULL);
    while (s->blocks && queue_pop(s->blocks, &item, 0) == ERR_NONE)
        block_free(item);
    queue_destroy(s->blocks);
    if (atomic_load(&s->state) != SNAPSHOT_DURABLE)
        remove_files(s);
    thaw(s);
    block_free(s->ready);
    mem_free(s->pending.keys);
    mem_free(s->pending.states);
    mem_free(s->keys);
    mem_free(s->states);
    mem_free(s->dense_values);
    mem_free(s->dense_slots);
    mem_free(s->out.entries);
    mem_free(s->out.name);
    for (size_t i = 0; i < s->file_count; i++)
        mem_free(s->files[i].name);
    mem_free(s->files);
    mem_free(s->directory);
    mem_free(s);
}
