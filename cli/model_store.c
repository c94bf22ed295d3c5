#include "cli/model_store.h"

#include <stdio.h>
#include <string.h>

#include "cli/checkpoint_find.h"
#include "common/mem.h"
#include "server/dense.h"
#include "server/snapshot.h"
#include "server/table.h"

static void ignore_notice(void *context, const struct shard_notice *notice)
{
    (void)context;
    (void)notice;
}

static enum err parse_own_job(struct model_store *m)
{
    struct job_source source = {
        .what = m->directory, .text = m->manifest->job_yaml, .size = strlen(m->manifest->job_yaml)};

    return job_parse(&source, &m->own_job);
}

static enum err restore(struct model_store *m)
{
    struct shard_options options = {
        .job = m->job->name,
        .generation = m->manifest->generation,
        .end_partition = PARTITION_COUNT,
        .rank_count = m->manifest->rank_count ? m->manifest->rank_count : 1,
        .schema = m->model->schema,
        .steps = steps_make(m->job, 1, false),
        .wait_ms = 1000,
        .read_only = true,
        .notify = ignore_notice,
    };
    enum err err = shard_create(&options, &m->shard);

    if (!err)
        err = snapshot_restore(m->shard, m->directory, m->manifest);
    if (err)
        return err;
    const struct schema *schema = m->model->schema;
    m->dense = must_alloc((schema->dense_count + 1) * sizeof *m->dense);
    m->rows = must_alloc((schema->table_count + 1) * sizeof *m->rows);
    m->row_capacity = must_alloc((schema->table_count + 1) * sizeof *m->row_capacity);
    for (uint32_t i = 0; i < schema->dense_count; i++)
        m->dense[i] = buf_data(dense_values(shard_dense(m->shard, i)));
    return ERR_NONE;
}

/* The checkpoint in m->directory. */
static enum err open_one(struct model_store *m)
{
    enum err err = checkpoint_read_manifest(m->directory, &m->manifest, NULL);

    if (!err)
        err = parse_own_job(m);
    if (!err && m->job) {
        err = job_same_model(m->own_job, m->job);
        if (err)
            err = err_prefix(err, "checkpoint %s is not of this job", m->directory);
    }
    if (!err && !m->job)
        m->job = m->own_job;
    if (!err)
        err = features_spec_create(m->job, (const char *const *)m->manifest->columns,
                                   m->manifest->column_count, &m->features);
    if (!err)
        err = model_create(m->job, m->features, &m->model);
    return err ? err : restore(m);
}

/* What is listed as good may still turn out damaged when all of it is read: then the one before it
   is as good as any. When none is good, the first reason stands. */
enum err model_store_open(const char *uri, const struct job *job, struct model_store *out)
{
    struct model_store m = {.job = job};
    char *directory = NULL, *why = NULL;
    enum err err = checkpoint_find(uri, &directory);

    if (err)
        return err;
    for (;;) {
        m = (struct model_store){.job = job, .directory = directory};
        err = open_one(&m);
        if (err != ERR_CORRUPT)
            break;
        if (!why)
            why = must_strdup(err_text());
        char *refused = must_strdup(directory), *text = must_strdup(err_text());
        model_store_close(&m);
        err = checkpoint_find_older(uri, refused, &directory);
        if (!err)
            fprintf(stderr, "warning: passed over: %s\n", text);
        mem_free(refused);
        mem_free(text);
        if (err == ERR_NOT_FOUND)
            err = err_set(ERR_CORRUPT, "%s", why);
        if (err)
            break;
    }
    mem_free(why);
    if (err)
        model_store_close(&m);
    else
        *out = m;
    return err;
}

void model_store_close(struct model_store *m)
{
    uint32_t table_count = m->model ? m->model->schema->table_count : 0;

    for (uint32_t i = 0; m->rows && i < table_count; i++)
        mem_free(m->rows[i]);
    mem_free(m->rows);
    mem_free(m->row_capacity);
    mem_free(m->dense);
    shard_destroy(m->shard);
    model_destroy(m->model);
    features_spec_destroy(m->features);
    job_destroy(m->own_job);
    checkpoint_manifest_destroy(m->manifest);
    mem_free(m->directory);
    *m = (struct model_store){0};
}

static void copy_rows(const struct table *t, const struct batch_table *b, uint32_t dim, float *out)
{
    float *found[TABLE_BATCH];

    for (uint32_t first = 0; first < b->key_count; first += TABLE_BATCH) {
        uint32_t count = b->key_count - first < TABLE_BATCH ? b->key_count - first : TABLE_BATCH;
        table_find(t, b->keys + first, count, found);
        for (uint32_t i = 0; i < count; i++, out += dim) {
            if (found[i])
                memcpy(out, found[i], dim * sizeof *out);
            else
                memset(out, 0, dim * sizeof *out);
        }
    }
}

enum err model_store_values(struct model_store *m, const struct batch *b,
                            struct network_values *out)
{
    const struct schema *schema = m->model->schema;

    for (uint32_t t = 0; t < schema->table_count; t++) {
        const struct batch_table *table = &b->tables[t];
        if (table->key_count > m->row_capacity[t] || !m->rows[t]) {
            size_t capacity = table->key_count + table->key_count / 2 + 16;
            float *rows = mem_alloc_array(capacity * schema->tables[t].dim, sizeof *rows);
            if (!rows)
                return ERR_MEMORY;
            mem_free(m->rows[t]);
            m->rows[t] = rows;
            m->row_capacity[t] = capacity;
        }
        copy_rows(shard_table(m->shard, t), table, schema->tables[t].dim, m->rows[t]);
    }
    out->rows = (const float *const *)m->rows;
    out->dense = m->dense;
    return ERR_NONE;
}
