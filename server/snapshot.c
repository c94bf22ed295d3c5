#include "server/snapshot.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "server/dense.h"
#include "server/shard_file.h"
#include "server/snapshot_writer.h"
#include "server/table.h"

#define ROWS_AT_ONCE      256u
#define FETCH_BYTES       (256u << 10) /* of rows fetched at a time: so long is a slice at most */
#define BLOCKS_WAITING    64u
#define BLOCK_BYTES_LEAST (64u << 10)

/* Rows of one partition that the owner is collecting. */
struct pending {
    uint64_t *keys;
    float *states;
    uint32_t count, partition;
};

struct snapshot {
    struct shard *shard;
    const struct schema *schema;
    uint64_t deadline_ms, memory_bytes;
    struct snapshot_writer *writer;

    /* Where serializing has got to. */
    uint32_t table, dense, dense_block;
    uint32_t block_bytes; /* the most of a block of rows */
    uint32_t rows_max;    /* of one block of the present table */
    uint32_t fetch_max;   /* rows fetched at a time */
    struct pending pending;
    uint64_t *keys; /* [fetch_max] */
    float *states;
    uint32_t next_row, row_count; /* of keys and states: fetched, not yet in a block */
    struct snapshot_block *ready; /* made, but the writer had no room */
    bool handed_over, is_held_up;

    /* What is frozen: the tables from `table` on, and these. */
    bool is_frozen;
    struct buf **dense_values, **dense_slots;
    uint64_t held_bytes; /* the most that dense buffers and blocks take */
};

/* ---- beginning ---- */

static uint64_t dense_bytes(struct snapshot *s)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < s->schema->dense_count; i++)
        bytes += dense_value_count(shard_dense(s->shard, i)) * sizeof(float) *
                 (1 + s->schema->dense[i].slot_count);
    return bytes;
}

/*
 * A quarter of the memory at most is for blocks: the one that is collected, one that is ready, one
 * that is being written, and those that wait. The dense values and slots come on top; what is left
 * is for copies of rows.
 */
static enum err plan_memory(struct snapshot *s, size_t *blocks_max)
{
    uint64_t bound = s->memory_bytes ? s->memory_bytes : UINT64_MAX;
    uint64_t block = bound / 4 / 8;

    if (block > CHECKPOINT_BLOCK_MAX)
        block = CHECKPOINT_BLOCK_MAX;
    if (block < BLOCK_BYTES_LEAST)
        block = BLOCK_BYTES_LEAST;
    uint64_t waiting = bound / 4 / block;
    waiting = waiting > BLOCKS_WAITING + 3 ? BLOCKS_WAITING : waiting > 5 ? waiting - 3 : 2;
    s->block_bytes = (uint32_t)block;
    s->held_bytes = dense_bytes(s) + (waiting + 3) * block;
    *blocks_max = waiting;
    if (s->held_bytes > bound)
        return err_set(ERR_LIMIT,
                       "a checkpoint freezes %llu bytes of dense parameters and needs %llu in all, "
                       "more than the %llu of this shard's part of checkpoint.memory: raise it",
                       (unsigned long long)dense_bytes(s), (unsigned long long)s->held_bytes,
                       (unsigned long long)s->memory_bytes);
    return ERR_NONE;
}

static enum err freeze(struct snapshot *s)
{
    const struct schema *schema = s->schema;

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
    s->is_frozen = true;
    uint64_t left = s->memory_bytes ? s->memory_bytes - s->held_bytes + 1 : 0;
    for (uint32_t i = 0; i < schema->table_count; i++)
        table_snapshot_begin(shard_table(s->shard, i), left);
    return ERR_NONE;
}

static void thaw(struct snapshot *s)
{
    for (uint32_t i = s->table; s->is_frozen && i < s->schema->table_count; i++)
        table_snapshot_end(shard_table(s->shard, i));
    s->is_frozen = false;
    for (uint32_t i = 0; i < s->schema->dense_count; i++) {
        if (s->dense_values) {
            buf_unref(s->dense_values[i]);
            s->dense_values[i] = NULL;
        }
        if (s->dense_slots) {
            buf_unref(s->dense_slots[i]);
            s->dense_slots[i] = NULL;
        }
    }
}

static uint32_t widest_row(const struct schema *schema)
{
    uint32_t widest = 1;

    for (uint32_t i = 0; i < schema->table_count; i++)
        if (schema->tables[i].state_dim > widest)
            widest = schema->tables[i].state_dim;
    return widest;
}

static enum err prepare(struct snapshot *s, const struct snapshot_options *o)
{
    static atomic_uint attempts;
    const struct shard_options *shard = shard_options_of(s->shard);
    struct snapshot_writer_options writer = {
        .directory = o->directory,
        .table_count = s->schema->table_count,
        .first_partition = shard->first_partition,
        .end_partition = shard->end_partition,
        .attempt = atomic_fetch_add(&attempts, 1),
        .file_max = o->file_max_bytes ? o->file_max_bytes : CHECKPOINT_FILE_MAX,
    };
    uint32_t row_bytes = widest_row(s->schema) * (uint32_t)sizeof(float);
    enum err err = plan_memory(s, &writer.blocks_max);

    if (err)
        return err;
    s->fetch_max = FETCH_BYTES / row_bytes;
    s->fetch_max = s->fetch_max > ROWS_AT_ONCE ? ROWS_AT_ONCE : s->fetch_max ? s->fetch_max : 1;
    s->keys = mem_alloc(s->fetch_max * sizeof *s->keys);
    s->states = mem_alloc((size_t)s->fetch_max * row_bytes);
    if (!s->keys || !s->states)
        return ERR_MEMORY;
    err = freeze(s);
    return err ? err : snapshot_writer_create(&writer, &s->writer);
}

enum err snapshot_begin(const struct snapshot_options *o, struct snapshot **out)
{
    struct snapshot *s = mem_calloc(1, sizeof *s);

    if (!s)
        return ERR_MEMORY;
    s->shard = o->shard;
    s->schema = shard_options_of(o->shard)->schema;
    s->deadline_ms = o->deadline_ms;
    s->memory_bytes = o->memory_bytes;
    enum err err = prepare(s, o);
    if (err) {
        snapshot_destroy(s);
        return err_prefix(err, "checkpoint of step %llu", (unsigned long long)o->step);
    }
    *out = s;
    return ERR_NONE;
}

/* ---- serializing: rows ---- */

/* The collected rows become a block, in one allocation: keys, then states. */
static enum err flush_pending(struct snapshot *s)
{
    uint32_t state_dim = s->schema->tables[s->table].state_dim;
    uint32_t count = s->pending.count;

    if (!count)
        return ERR_NONE;
    CHECK(!s->ready);
    struct snapshot_block *b = mem_calloc(1, sizeof *b);
    if (!b)
        return ERR_MEMORY;
    size_t keys_size = count * sizeof(uint64_t);
    size_t states_size = (size_t)count * state_dim * sizeof(float);
    b->memory = mem_alloc(keys_size + states_size);
    if (!b->memory) {
        snapshot_block_destroy(b);
        return ERR_MEMORY;
    }
    memcpy(b->memory, s->pending.keys, keys_size);
    memcpy((char *)b->memory + keys_size, s->pending.states, states_size);
    b->table = s->table;
    b->partition = s->pending.partition;
    b->row_count = count;
    snapshot_block_add(b, b->memory, keys_size + states_size);
    s->pending.count = 0;
    s->ready = b;
    return ERR_NONE;
}

static enum err begin_table(struct snapshot *s, uint32_t state_dim)
{
    s->rows_max = s->block_bytes / (8 + 4 * state_dim);
    if (!s->rows_max)
        s->rows_max = 1;
    s->pending = (struct pending){
        .keys = mem_alloc(s->rows_max * sizeof(uint64_t)),
        .states = mem_alloc((size_t)s->rows_max * state_dim * sizeof(float)),
    };
    return s->pending.keys && s->pending.states ? ERR_NONE : ERR_MEMORY;
}

static void free_pending(struct snapshot *s)
{
    mem_free(s->pending.keys);
    mem_free(s->pending.states);
    s->pending = (struct pending){0};
}

/* Its copies go now, so that the tables after it have their memory. */
static void end_table(struct snapshot *s)
{
    free_pending(s);
    table_snapshot_end(shard_table(s->shard, s->table));
    s->table++;
}

/* How many of the fetched rows join the pending block: of its partition, while it has room. */
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

/* The copies of all tables together. Each alone is bounded by the table itself. */
static enum err check_copies(const struct snapshot *s)
{
    uint64_t bytes = s->held_bytes;

    for (uint32_t i = s->table; i < s->schema->table_count; i++)
        bytes += table_snapshot_memory(shard_table(s->shard, i));
    if (s->memory_bytes && bytes > s->memory_bytes)
        return err_set(ERR_LIMIT,
                       "rows that changed meanwhile took its memory to %llu bytes, over the %llu "
                       "of this shard's part of checkpoint.memory",
                       (unsigned long long)bytes, (unsigned long long)s->memory_bytes);
    return ERR_NONE;
}

/* One piece of work on the present table: at most one block. */
static enum err serialize_rows(struct snapshot *s)
{
    uint32_t state_dim = s->schema->tables[s->table].state_dim;
    struct table *table = shard_table(s->shard, s->table);
    enum err err = s->pending.keys ? ERR_NONE : begin_table(s, state_dim);

    if (!err && s->next_row == s->row_count) {
        s->next_row = s->row_count = 0;
        err = table_snapshot_next(table, s->fetch_max, s->keys, s->states, &s->row_count);
    }
    if (err)
        return err;
    if (s->row_count == 0 && s->pending.count == 0) {
        end_table(s);
        return ERR_NONE;
    }
    uint32_t count = s->row_count ? rows_that_join(s) : 0;
    if (!count)
        return flush_pending(s);
    append_rows(s, count, state_dim);
    return ERR_NONE;
}

/* ---- serializing: dense ---- */

static enum err serialize_block(struct snapshot *s)
{
    const struct schema_dense *d = &s->schema->dense[s->dense];
    struct dense *owned = shard_dense(s->shard, s->dense);
    uint32_t block = s->dense_block;
    uint64_t count = schema_block_size(d, block), stride = dense_value_count(owned);
    uint64_t at = schema_block_first(d, block) - schema_block_first(d, dense_first_block(owned));
    struct snapshot_block *b = mem_calloc(1, sizeof *b);

    if (!b)
        return ERR_MEMORY;
    b->table = SHARD_FILE_DENSE;
    b->partition = schema_block_partition(d, block);
    b->row_count = 1;
    b->values = buf_ref(s->dense_values[s->dense]);
    if (d->slot_count)
        b->slots = buf_ref(s->dense_slots[s->dense]);
    dense_block_head_write(&(struct dense_block_head){s->dense, block, count}, b->dense_head);
    snapshot_block_add(b, b->dense_head, sizeof b->dense_head);
    snapshot_block_add(b, (const float *)buf_data(b->values) + at, count * sizeof(float));
    for (uint32_t i = 0; i < d->slot_count; i++)
        snapshot_block_add(b, (const float *)buf_data(b->slots) + i * stride + at,
                           count * sizeof(float));
    s->ready = b;
    return ERR_NONE;
}

static void end_dense(struct snapshot *s)
{
    buf_unref(s->dense_values[s->dense]);
    buf_unref(s->dense_slots[s->dense]);
    s->dense_values[s->dense] = s->dense_slots[s->dense] = NULL;
    s->dense++;
    s->dense_block = 0;
}

static enum err serialize_dense(struct snapshot *s)
{
    struct dense *d = shard_dense(s->shard, s->dense);

    if (s->dense_block < dense_first_block(d))
        s->dense_block = dense_first_block(d);
    if (s->dense_block >= dense_end_block(d)) {
        end_dense(s);
        return ERR_NONE;
    }
    enum err err = serialize_block(s);
    s->dense_block++;
    return err;
}

/* ---- slices ---- */

static void abandon(struct snapshot *s, const char *why)
{
    snapshot_writer_abandon(s->writer, why);
    thaw(s);
}

/* One piece of work. */
static enum err serialize(struct snapshot *s)
{
    if (s->table < s->schema->table_count)
        return serialize_rows(s);
    if (s->dense < s->schema->dense_count)
        return serialize_dense(s);
    snapshot_writer_finish(s->writer);
    s->handed_over = true;
    return ERR_NONE;
}

bool snapshot_step(struct snapshot *s, uint64_t budget_ns)
{
    uint64_t start = clock_ns();

    s->is_held_up = false;
    if (snapshot_writer_state(s->writer) != SNAPSHOT_RUNNING) {
        thaw(s);
        return false;
    }
    enum err err = check_copies(s);
    while (!err && !s->handed_over) {
        if (s->ready) {
            s->is_held_up = snapshot_writer_push(s->writer, s->ready) != ERR_NONE;
            if (s->is_held_up)
                return true;
            s->ready = NULL;
        }
        err = serialize(s);
        if (clock_ns() - start > budget_ns)
            break;
    }
    if (err) {
        abandon(s, err_text());
        return false;
    }
    return !s->handed_over;
}

bool snapshot_is_held_up(const struct snapshot *s)
{
    return s->is_held_up;
}

enum snapshot_state snapshot_poll(struct snapshot *s, uint64_t now_ms,
                                  const struct checkpoint_file **files_out,
                                  uint32_t *file_count_out, const char **why_out)
{
    if (snapshot_writer_state(s->writer) == SNAPSHOT_RUNNING && now_ms > s->deadline_ms)
        abandon(s, "it took longer than checkpoint.timeout");
    enum snapshot_state state = snapshot_writer_state(s->writer);
    if (state == SNAPSHOT_DURABLE)
        *files_out = snapshot_writer_files(s->writer, file_count_out);
    if (state == SNAPSHOT_ABANDONED) {
        *why_out = snapshot_writer_why(s->writer);
        thaw(s);
    }
    return state;
}

void snapshot_destroy(struct snapshot *s)
{
    if (!s)
        return;
    thaw(s);
    snapshot_writer_destroy(s->writer);
    snapshot_block_destroy(s->ready);
    free_pending(s);
    mem_free(s->keys);
    mem_free(s->states);
    mem_free(s->dense_values);
    mem_free(s->dense_slots);
    mem_free(s);
}
