/*
 * snapshot_restore.c - a checkpoint -> the partitions of one shard.
 */
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/dense.h"
#include "server/shard_file.h"
#include "server/snapshot.h"
#include "server/table.h"

/* A dense parameter arrives block by block, in order, and is handed over whole. */
struct dense_parts {
    float *values, *slots;
    uint32_t next_block;
};

struct restore {
    struct shard *shard;
    const struct shard_options *options;
    struct dense_parts *dense;
};

static bool owns(const struct restore *r, uint32_t partition)
{
    return partition >= r->options->first_partition && partition < r->options->end_partition;
}

static enum err load_rows(struct restore *r, uint32_t table, const struct checkpoint_entry *e,
                          const uint8_t *body, uint64_t size)
{
    const struct schema_table *schema = &r->options->schema->tables[table];
    uint64_t row_bytes = 4ull * schema->state_dim, row_count = e->rows;
    struct table *t = shard_table(r->shard, table);
    enum err err = ERR_NONE;

    if (size != row_count * (8 + row_bytes))
        return err_set(
            ERR_CORRUPT,
            "block %u: %llu rows in %llu bytes: the job's table '%s' has %u floats a row",
            e->number, (unsigned long long)row_count, (unsigned long long)size, schema->name,
            schema->state_dim);
    const uint8_t *states = body + 8 * row_count;
    for (uint64_t i = 0; i < row_count && !err; i++) {
        uint64_t key;
        memcpy(&key, body + 8 * i, 8);
        err = table_load(t, key, states + i * row_bytes);
        if (PLANT(slots_missing) && !err) {
            float *row;
            table_find(t, &key, 1, &row);
            memset(row + schema->dim, 0, row_bytes - 4ull * schema->dim);
        }
    }
    return err;
}

static enum err load_dense_block(struct restore *r, const struct checkpoint_entry *e,
                                 const uint8_t *body, uint64_t size)
{
    const struct schema *schema = r->options->schema;
    struct dense_block_head head = {0};
    enum err err = dense_block_head_parse(body, size, &head);

    if (err)
        return err;
    if (head.dense >= schema->dense_count || head.block >= schema->dense[head.dense].block_count)
        return err_set(ERR_CORRUPT,
                       "block %u: dense parameter %u has no block %u in this job: its "
                       "model is not the checkpoint's",
                       e->number, head.dense, head.block);
    const struct schema_dense *d = &schema->dense[head.dense];
    struct dense *owned = shard_dense(r->shard, head.dense);
    uint64_t count = schema_block_size(d, head.block);
    if (head.value_count != count ||
        size != DENSE_BLOCK_HEAD_BYTES + 4 * count * (1 + d->slot_count) ||
        schema_block_partition(d, head.block) != e->partition)
        return err_set(ERR_CORRUPT,
                       "block %u: block %u of '%s' does not have its shape: the job's model or "
                       "optimizer is not the checkpoint's",
                       e->number, head.block, d->name);
    struct dense_parts *parts = &r->dense[head.dense];
    if (head.block != parts->next_block)
        return err_set(ERR_CORRUPT, "block %u: block %u of '%s', should be %u", e->number,
                       head.block, d->name, parts->next_block);
    parts->next_block++;
    uint64_t stride = dense_value_count(owned);
    uint64_t at =
        schema_block_first(d, head.block) - schema_block_first(d, dense_first_block(owned));
    body += DENSE_BLOCK_HEAD_BYTES;
    memcpy(parts->values + at, body, 4 * count);
    for (uint32_t s = 0; s < d->slot_count; s++)
        memcpy(parts->slots + s * stride + at, body + 4 * count * (s + 1), 4 * count);
    return ERR_NONE;
}

static bool overlaps(const struct restore *r, const struct shard_file_range *range)
{
    return range->first_partition < r->options->end_partition &&
           range->end_partition > r->options->first_partition;
}

/* The rows of a partition begin with entry `i`. Sizes tell how many there are: a file has room for
   no more, whatever else it says. */
static enum err expect_rows(struct restore *r, const struct shard_file *f, uint64_t i)
{
    uint64_t row_bytes = 8 + 4ull * r->options->schema->tables[f->table].state_dim, rows = 0;
    uint32_t partition = f->entries[i].partition;

    for (; i < f->entry_count && f->entries[i].partition == partition; i++)
        rows += f->entries[i].size / row_bytes;
    return table_expect(shard_table(r->shard, f->table), partition, rows);
}

static enum err load_file(struct restore *r, const char *directory,
                          const struct checkpoint_file *listed)
{
    struct shard_file f;
    struct shard_file_range range;
    const uint8_t *body = NULL;
    uint64_t size = 0;
    uint32_t rows = 0;
    enum err err = shard_file_parse_name(listed->name, &range);

    if (err || !overlaps(r, &range))
        return err;
    err = shard_file_open(directory, listed, &f);
    if (err)
        return err;
    for (uint64_t i = 0; i < f.entry_count && !err; i++) {
        const struct checkpoint_entry *e = &f.entries[i];
        if (!owns(r, e->partition))
            continue;
        bool begins = i == 0 || e->partition != e[-1].partition;
        if (f.table != SHARD_FILE_DENSE && begins)
            err = expect_rows(r, &f, i);
        if (!err)
            err = shard_file_read(&f, i, &body, &size, &rows);
        if (err)
            break;
        err = f.table == SHARD_FILE_DENSE ? load_dense_block(r, e, body, size)
                                          : load_rows(r, f.table, e, body, size);
        if (err)
            err_prefix(err, "%s", listed->name);
    }
    shard_file_close(&f);
    return err;
}

static enum err alloc_dense(struct restore *r)
{
    const struct schema *schema = r->options->schema;

    r->dense = mem_calloc(schema->dense_count + 1, sizeof *r->dense);
    if (!r->dense)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < schema->dense_count; i++) {
        uint64_t count = dense_value_count(shard_dense(r->shard, i));
        r->dense[i].next_block = dense_first_block(shard_dense(r->shard, i));
        r->dense[i].values = mem_alloc_array(count + 1, sizeof(float));
        r->dense[i].slots = mem_alloc_array(count * schema->dense[i].slot_count + 1, sizeof(float));
        if (!r->dense[i].values || !r->dense[i].slots)
            return ERR_MEMORY;
    }
    return ERR_NONE;
}

static enum err store_dense(struct restore *r)
{
    const struct schema *schema = r->options->schema;
    enum err err = ERR_NONE;

    for (uint32_t i = 0; i < schema->dense_count && !err; i++) {
        struct dense *d = shard_dense(r->shard, i);
        if (r->dense[i].next_block != dense_end_block(d))
            return err_set(ERR_CORRUPT, "dense parameter '%s': block %u is not in the checkpoint",
                           schema->dense[i].name, r->dense[i].next_block);
        if (dense_value_count(d))
            err = dense_load(d, r->dense[i].values, r->dense[i].slots);
    }
    return err;
}

/* Reports belong to the first shard, whatever shards there were when they were saved. */
static void restore_reports(struct restore *r, const struct checkpoint_manifest *m)
{
    for (uint32_t i = 0; r->options->index == 0 && i < m->rank_count && i < r->options->rank_count;
         i++) {
        Paramd__Report report = PARAMD__REPORT__INIT;
        report.examples = m->ranks[i].examples;
        report.loss_sum = m->ranks[i].loss_sum;
        report.weight_sum = m->ranks[i].weight_sum;
        report.loss_scale = m->ranks[i].loss_scale;
        report.metrics.data = (uint8_t *)m->ranks[i].metrics.data;
        report.metrics.len = m->ranks[i].metrics.size;
        if (!PLANT(reports_missing))
            shard_set_report(r->shard, i, &report);
    }
}

/* Are these the tables of this job? */
static enum err check_tables(const struct restore *r, const struct checkpoint_manifest *m)
{
    uint32_t count = 0;
    enum err err = shard_file_check_set(m, &count);

    if (!err && count != r->options->schema->table_count)
        err = err_set(ERR_CORRUPT, "the checkpoint has %u tables, the job has %u", count,
                      r->options->schema->table_count);
    return err;
}

enum err snapshot_restore(struct shard *s, const char *directory,
                          const struct checkpoint_manifest *m)
{
    struct restore r = {.shard = s, .options = shard_options_of(s)};
    enum err err = check_tables(&r, m);

    if (!err)
        err = alloc_dense(&r);
    for (uint32_t i = 0; i < m->file_count && !err; i++)
        err = load_file(&r, directory, &m->files[i]);
    if (!err)
        err = store_dense(&r);
    if (!err) {
        restore_reports(&r, m);
        shard_begin(s, m->step);
    }
    for (uint32_t i = 0; r.dense && i < r.options->schema->dense_count; i++) {
        mem_free(r.dense[i].values);
        mem_free(r.dense[i].slots);
    }
    mem_free(r.dense);
    return err ? err_prefix(err, "checkpoint %s", directory) : ERR_NONE;
}
