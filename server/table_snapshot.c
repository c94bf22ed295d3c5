#include <string.h>

#include "common/check.h"
#include "common/plant.h"
#include "server/table_internal.h"

void table_snapshot_begin(struct table *t, uint64_t memory_bytes)
{
    CHECK(t->snapshot.state == SNAPSHOT_NONE);
    t->snapshot = (struct table_snapshot){
        .state = SNAPSHOT_ACTIVE,
        .memory_bytes = memory_bytes,
        .rows_at_begin = t->arena.rows,
    };
    arena_init(&t->snapshot.copies, t->schema->state_dim);
}

uint64_t table_snapshot_memory(const struct table *t)
{
    return t->snapshot.copy_index.bytes + arena_memory(&t->snapshot.copies);
}

static void drop_copies(struct table_snapshot *s)
{
    index_deinit(&s->copy_index);
    arena_deinit(&s->copies);
}

/* What the copies weigh, to the byte; table_snapshot_memory() rounds to pages. */
static uint64_t copy_bytes(const struct table_snapshot *s, uint32_t copies)
{
    return s->copy_index.bytes + (uint64_t)copies * s->copies.stride * sizeof(float);
}

/* Keeps the state of a row that is about to change. */
static enum err copy_row(struct table *t, uint64_t key, const float *row)
{
    struct table_snapshot *s = &t->snapshot;
    struct index_place place;
    enum err e = ERR_NONE;
    if (s->copy_index.segments == NULL)
        e = index_init(&s->copy_index, t->first_partition, t->end_partition);
    if (e == ERR_NONE)
        e = index_reserve(&s->copy_index, key, &place);
    if (e == ERR_NONE)
        e = arena_reserve(&s->copies);
    if (e != ERR_NONE)
        return e;
    uint64_t bytes = copy_bytes(s, s->copies.rows + 1);
    if (s->memory_bytes != 0 && bytes > s->memory_bytes)
        return err_set(
            ERR_LIMIT, "table %s: the snapshot's copies take %llu bytes, and it may have %llu",
            t->schema->name, (unsigned long long)bytes, (unsigned long long)s->memory_bytes);
    memcpy(arena_row(&s->copies, s->copies.rows), row, t->schema->state_dim * sizeof *row);
    index_insert(&s->copy_index, key, s->copies.rows, &place);
    s->copies.rows++;
    return ERR_NONE;
}

enum err table_touch(struct table *t, const uint64_t *keys, float *const *rows, uint32_t count)
{
    struct table_snapshot *s = &t->snapshot;
    if (s->state != SNAPSHOT_ACTIVE || s->done || PLANT(rows_not_frozen))
        return ERR_NONE;
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i] < s->next_key || index_find(&t->index, keys[i]) >= s->rows_at_begin)
            continue;
        if (s->copy_index.segments != NULL && index_find(&s->copy_index, keys[i]) != INDEX_EMPTY)
            continue;
        enum err e = copy_row(t, keys[i], rows[i]);
        if (e != ERR_NONE) {
            s->state = SNAPSHOT_ABANDONED;
            drop_copies(s);
            return e;
        }
    }
    return ERR_NONE;
}

static const float *frozen_row(const struct table *t, uint64_t key, uint32_t row)
{
    const struct table_snapshot *s = &t->snapshot;
    uint32_t copy = INDEX_EMPTY;
    if (s->copy_index.segments != NULL)
        copy = index_find(&s->copy_index, key);
    return copy != INDEX_EMPTY ? arena_row(&s->copies, copy) : arena_row(&t->arena, row);
}

enum err table_snapshot_next(struct table *t, uint32_t max, uint64_t *keys, float *states,
                             uint32_t *count_out)
{
    struct table_snapshot *s = &t->snapshot;
    CHECK(s->state != SNAPSHOT_NONE && max > 0);
    if (s->state == SNAPSHOT_ABANDONED)
        return err_set(ERR_LIMIT,
                       "table %s: the snapshot was abandoned, because copies of rows that changed "
                       "meanwhile took more than %llu bytes",
                       t->schema->name, (unsigned long long)s->memory_bytes);
    const float *rows[TABLE_BATCH];
    uint32_t count = 0, ahead = 0, row;
    uint64_t key = s->next_key;
    while (count < max && !s->done) {
        /*
         * Rows lie where they were created: all of a batch are asked for before the first is read.
         */
        uint32_t most = max - count < TABLE_BATCH ? max - count : TABLE_BATCH;
        for (ahead = 0; ahead < most && !s->done && index_next(&t->index, &key, &row);) {
            if (row < s->rows_at_begin) {
                keys[count + ahead] = key;
                rows[ahead] = frozen_row(t, key, row);
                table_ahead(rows[ahead++], t->schema->state_dim);
            }
            s->done = key == UINT64_MAX;
            key++;
        }
        if (ahead < most)
            s->done = true;
        for (uint32_t i = 0; i < ahead; i++)
            memcpy(states + (size_t)(count + i) * t->schema->state_dim, rows[i],
                   t->schema->state_dim * sizeof *states);
        count += ahead;
    }
    if (count < max)
        s->done = true;
    s->next_key = key;
    *count_out = count;
    return ERR_NONE;
}

void table_snapshot_end(struct table *t)
{
    drop_copies(&t->snapshot);
    t->snapshot = (struct table_snapshot){0};
}

bool table_snapshot_active(const struct table *t)
{
    return t->snapshot.state == SNAPSHOT_ACTIVE;
}
