#include "server/table.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "server/table_internal.h"

#define LINE_FLOATS    16u
#define PREFETCH_LINES 16u /* of one row; the rest is left to the hardware */

/*
 * max_rows is meant for the whole model. Mixed keys spread evenly, so a shard's part is its part of
 * the partitions, give or take a few standard deviations; one shard alone has the bound itself.
 */
static uint64_t rows_max_of(const struct schema_table *schema, uint32_t partitions)
{
    if (schema->max_rows == 0 || partitions == PARTITION_COUNT)
        return schema->max_rows;
    double part = (double)schema->max_rows * partitions / PARTITION_COUNT;
    double bound = ceil(part + 6.0 * sqrt(part)) + 1.0;
    return bound < (double)schema->max_rows ? (uint64_t)bound : schema->max_rows;
}

enum err table_create(const struct schema_table *schema, uint32_t first_partition,
                      uint32_t end_partition, struct table **out)
{
    struct table *t = mem_calloc(1, sizeof *t);
    if (t == NULL)
        return ERR_MEMORY;
    t->schema = schema;
    t->first_partition = first_partition;
    t->end_partition = end_partition;
    t->rows_max = rows_max_of(schema, end_partition - first_partition);
    arena_init(&t->arena, schema->state_dim);
    enum err e = index_init(&t->index, first_partition, end_partition);
    if (e != ERR_NONE) {
        table_destroy(t);
        return err_prefix(e, "table %s", schema->name);
    }
    *out = t;
    return ERR_NONE;
}

void table_destroy(struct table *t)
{
    if (t == NULL)
        return;
    table_snapshot_end(t);
    arena_deinit(&t->arena);
    index_deinit(&t->index);
    mem_free(t);
}

uint64_t table_rows(const struct table *t)
{
    return t->index.count;
}

uint64_t table_memory(const struct table *t)
{
    return sizeof *t + t->index.bytes + arena_memory(&t->arena) + table_snapshot_memory(t);
}

static bool owns_all(const struct table *t, const uint64_t *keys, uint32_t count)
{
    return count == 0 || (partition_of_key(keys[0]) >= t->first_partition &&
                          partition_of_key(keys[count - 1]) < t->end_partition);
}

void table_prefetch(const struct table *t, const uint64_t *keys, uint32_t count)
{
    CHECK(owns_all(t, keys, count));
    for (uint32_t i = 0; i < count; i++)
        index_prefetch(&t->index, keys[i]);
}

void table_find(const struct table *t, const uint64_t *keys, uint32_t count, float **rows)
{
    CHECK(count <= TABLE_BATCH && owns_all(t, keys, count));
    /* First all slots are on their way, then all rows; each key waits for what the others asked
     * for. */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = index_find(&t->index, keys[i]);
        rows[i] = row != INDEX_EMPTY ? arena_row(&t->arena, row) : NULL;
    }
}

/* A row whose state the caller fills before commit_row(), which comes next. */
struct new_row {
    float *state;
    struct index_place place;
};

static enum err prepare_row(struct table *t, uint64_t key, struct new_row *out)
{
    if (t->rows_max != 0 && t->index.count >= t->rows_max)
        return err_set(ERR_LIMIT,
                       "table %s has %llu rows in this shard, and max_rows is %llu in all: raise "
                       "tables.%s.max_rows or see fewer keys (min_count, buckets)",
                       t->schema->name, (unsigned long long)t->index.count,
                       (unsigned long long)t->schema->max_rows, t->schema->name);
    enum err e = index_reserve(&t->index, key, &out->place);
    if (e == ERR_NONE)
        e = arena_reserve(&t->arena);
    if (e != ERR_NONE)
        return err_prefix(e, "table %s", t->schema->name);
    out->state = arena_row(&t->arena, t->arena.rows);
    return ERR_NONE;
}

static void commit_row(struct table *t, uint64_t key, const struct new_row *row)
{
    index_insert(&t->index, key, t->arena.rows, &row->place);
    t->arena.rows++;
}

enum err table_find_or_insert(struct table *t, const uint64_t *keys, uint32_t count, float **rows)
{
    CHECK(count <= TABLE_BATCH && owns_all(t, keys, count));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = index_find(&t->index, keys[i]);
        if (row != INDEX_EMPTY) {
            rows[i] = arena_row(&t->arena, row);
            continue;
        }
        struct new_row new;
        enum err e = prepare_row(t, keys[i], &new);
        if (e != ERR_NONE)
            return e;
        rows[i] = new.state;
        schema_row_init_state(t->schema, keys[i], new.state);
        commit_row(t, keys[i], &new);
    }
    return ERR_NONE;
}

enum err table_expect(struct table *t, uint32_t partition, uint64_t rows)
{
    if (t->rows_max != 0 && rows > t->rows_max)
        rows = t->rows_max; /* the first row too many is refused when it comes */
    enum err e = index_expect(&t->index, partition, rows);
    return e == ERR_NONE ? e : err_prefix(e, "table %s", t->schema->name);
}

enum err table_load(struct table *t, uint64_t key, const void *state)
{
    struct new_row row;
    if (!owns_all(t, &key, 1))
        return err_set(ERR_CORRUPT, "table %s: key %llu is not in partitions %u to %u",
                       t->schema->name, (unsigned long long)key, t->first_partition,
                       t->end_partition - 1);
    enum err e = prepare_row(t, key, &row);
    if (e != ERR_NONE)
        return e;
    if (index_has(&row.place, key))
        return err_set(ERR_CORRUPT, "table %s: key %llu is there twice", t->schema->name,
                       (unsigned long long)key);
    memcpy(row.state, state, t->schema->state_dim * sizeof(float));
    commit_row(t, key, &row);
    return ERR_NONE;
}
