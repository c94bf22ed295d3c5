#include "tests/support/snapshot_model.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/dense.h"
#include "server/table.h"

struct schema *snapshot_schema(void)
{
    struct schema *s = must_alloc(sizeof *s);

    s->table_count = 2;
    s->tables = must_alloc(s->table_count * sizeof *s->tables);
    strcpy(s->tables[0].name, "wide");
    s->tables[0].component_count = 2;
    s->tables[0].components[0] =
        (struct schema_component){.name = "w", .dim = 1, .optimizer.type = "ftrl"};
    s->tables[0].components[1] =
        (struct schema_component){.name = "v", .dim = 4, .optimizer.type = "adagrad"};
    strcpy(s->tables[1].name, "thin");
    s->tables[1].component_count = 1;
    s->tables[1].components[0] =
        (struct schema_component){.name = "w", .dim = 1, .optimizer.type = "sgd"};
    s->dense_count = 3;
    s->dense = must_alloc(s->dense_count * sizeof *s->dense);
    s->dense[0] = (struct schema_dense){
        .name = "big", .shape = {200, 250}, .shape_count = 2, .optimizer.type = "adam"};
    s->dense[1] = (struct schema_dense){
        .name = "small", .shape = {7}, .shape_count = 1, .optimizer.type = "sgd"};
    s->dense[2] = (struct schema_dense){
        .name = "last", .shape = {3}, .shape_count = 1, .optimizer.type = "momentum"};
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

struct snapshot_model *snapshot_model_create(struct schema *schema, uint32_t shard_count)
{
    struct snapshot_model *m = must_alloc(sizeof *m);

    m->schema = schema;
    m->shard_count = shard_count;
    m->shards = must_alloc(shard_count * sizeof *m->shards);
    for (uint32_t i = 0; i < shard_count; i++) {
        struct shard_options o = {
            .job = "snap",
            .generation = 1,
            .index = i,
            .first_partition = i * PARTITION_COUNT / shard_count,
            .end_partition = (i + 1) * PARTITION_COUNT / shard_count,
            .rank_count = 2,
            .schema = schema,
            .steps = {.steps_per_epoch = 100, .last_step = 1000, .drain_every = 1},
            .wait_ms = 1000,
        };
        CHECK(shard_create(&o, &m->shards[i]) == ERR_NONE);
    }
    return m;
}

void snapshot_model_destroy(struct snapshot_model *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->shard_count; i++)
        shard_destroy(m->shards[i]);
    mem_free(m->shards);
    schema_destroy(m->schema);
    mem_free(m);
}

static float value_of(uint64_t seed, uint64_t what, uint64_t which, uint64_t i)
{
    return rng_uniform(rng_at(rng_at(seed, what), which * 4096 + i));
}

static bool owns(const struct shard *s, uint64_t key)
{
    const struct shard_options *o = shard_options_of(s);
    uint32_t partition = partition_of_key(key);

    return partition >= o->first_partition && partition < o->end_partition;
}

static void set_dense(struct shard *s, uint32_t index, uint64_t seed)
{
    const struct schema_dense *schema = &shard_options_of(s)->schema->dense[index];
    struct dense *d = shard_dense(s, index);
    uint64_t count = dense_value_count(d), first;
    float *values;

    if (count == 0)
        return;
    first = schema_block_first(schema, dense_first_block(d));
    CHECK(dense_next(d, &values) == ERR_NONE);
    for (uint64_t i = 0; i < count; i++)
        values[i] = value_of(seed, 100 + index, 0, first + i);
    dense_commit(d);
    for (uint32_t k = 0; k < schema->slot_count; k++)
        for (uint64_t i = 0; i < count; i++)
            dense_slots(d)[k * count + i] = value_of(seed, 100 + index, k + 1, first + i);
}

void snapshot_model_change_rows(struct shard *s, uint64_t first, uint64_t count, uint64_t seed)
{
    const struct schema *schema = shard_options_of(s)->schema;

    for (uint32_t t = 0; t < schema->table_count; t++) {
        struct table *table = shard_table(s, t);
        for (uint64_t i = first; i < first + count; i++) {
            uint64_t key = mix64(i);
            float *row = NULL;
            if (!owns(s, key))
                continue;
            CHECK(table_find_or_insert(table, &key, 1, &row) == ERR_NONE);
            (void)!table_touch(table, &key, &row, 1); /* an abandoned snapshot stops nobody */
            for (uint32_t k = 0; k < schema->tables[t].state_dim; k++)
                row[k] = value_of(seed, t, i, k);
        }
    }
}

void snapshot_model_change(struct shard *s, uint64_t first, uint64_t count, uint64_t seed)
{
    snapshot_model_change_rows(s, first, count, seed);
    for (uint32_t d = 0; d < shard_options_of(s)->schema->dense_count; d++)
        set_dense(s, d, seed);
}

void snapshot_model_fill(struct snapshot_model *m, uint64_t rows, uint64_t seed)
{
    m->rows = rows;
    for (uint32_t i = 0; i < m->shard_count; i++) {
        snapshot_model_change(m->shards[i], 0, rows, seed);
        shard_begin(m->shards[i], 1);
    }
}

static bool dense_is(struct shard *s, uint32_t index, uint64_t seed)
{
    const struct schema_dense *schema = &shard_options_of(s)->schema->dense[index];
    struct dense *d = shard_dense(s, index);
    uint64_t count = dense_value_count(d);
    uint64_t first = count ? schema_block_first(schema, dense_first_block(d)) : 0;

    for (uint64_t i = 0; i < count; i++) {
        if (((float *)buf_data(dense_values(d)))[i] != value_of(seed, 100 + index, 0, first + i))
            return false;
        for (uint32_t k = 0; k < schema->slot_count; k++)
            if (dense_slots(d)[k * count + i] != value_of(seed, 100 + index, k + 1, first + i))
                return false;
    }
    return true;
}

bool snapshot_model_is(struct snapshot_model *m, uint64_t rows, uint64_t seed)
{
    for (uint32_t s = 0; s < m->shard_count; s++) {
        struct shard *shard = m->shards[s];
        for (uint32_t t = 0; t < m->schema->table_count; t++) {
            uint64_t count = 0;
            for (uint64_t i = 0; i < rows; i++) {
                uint64_t key = mix64(i);
                float *row;
                if (!owns(shard, key))
                    continue;
                table_find(shard_table(shard, t), &key, 1, &row);
                count++;
                for (uint32_t k = 0; k < m->schema->tables[t].state_dim; k++)
                    if (!row || row[k] != value_of(seed, t, i, k))
                        return false;
            }
            if (count != table_rows(shard_table(shard, t)))
                return false;
        }
        for (uint32_t d = 0; d < m->schema->dense_count; d++)
            if (!dense_is(shard, d, seed))
                return false;
    }
    return true;
}

/* ---- saving and loading ---- */

struct snapshot_options snapshot_model_options(const struct snapshot_model *m, uint32_t i,
                                               const char *directory)
{
    return (struct snapshot_options){
        .shard = m->shards[i], .directory = directory, .step = 1, .deadline_ms = UINT64_MAX};
}

enum snapshot_state snapshot_run(struct snapshot *s, const struct checkpoint_file **files,
                                 uint32_t *file_count, const char **why)
{
    enum snapshot_state state = SNAPSHOT_RUNNING;

    for (int i = 0; i < 200000 && state == SNAPSHOT_RUNNING; i++) {
        snapshot_step(s, 1000000);
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        state = snapshot_poll(s, 1, files, file_count, why);
    }
    CHECK(state != SNAPSHOT_RUNNING);
    return state;
}

struct checkpoint_manifest *snapshot_manifest(uint64_t generation, uint64_t step)
{
    struct checkpoint_manifest *m = must_alloc(sizeof *m);

    m->job = must_strdup("snap");
    m->generation = generation;
    m->step = step;
    m->rank_count = 2;
    m->ranks = must_alloc(2 * sizeof *m->ranks);
    m->ranks[0].examples = 1000;
    m->ranks[1].examples = 1001;
    m->ranks[1].loss_sum = -5;
    str_append(&m->ranks[1].metrics, "abc");
    return m;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct checkpoint_file *)a)->name,
                  ((const struct checkpoint_file *)b)->name);
}

void snapshot_manifest_add(struct checkpoint_manifest *m, const struct checkpoint_file *files,
                           uint32_t count)
{
    m->files = must_realloc(m->files, m->file_count + count, sizeof *m->files);
    for (uint32_t i = 0; i < count; i++) {
        m->files[m->file_count] = files[i];
        m->files[m->file_count++].name = must_strdup(files[i].name);
    }
    qsort(m->files, m->file_count, sizeof *m->files, by_name);
}

void snapshot_model_save(struct snapshot_model *m, const char *directory)
{
    const char *slash = strrchr(directory, '/');
    uint64_t generation, step;

    CHECK(checkpoint_name_parse(slash ? slash + 1 : directory, &generation, &step) == ERR_NONE);
    struct checkpoint_manifest *manifest = snapshot_manifest(generation, step);
    for (uint32_t i = 0; i < m->shard_count; i++) {
        struct snapshot_options o = snapshot_model_options(m, i, directory);
        const struct checkpoint_file *files;
        struct snapshot *s;
        uint32_t count;
        const char *why;
        CHECK(snapshot_begin(&o, &s) == ERR_NONE);
        CHECK(snapshot_run(s, &files, &count, &why) == SNAPSHOT_DURABLE);
        snapshot_manifest_add(manifest, files, count);
        snapshot_destroy(s);
    }
    CHECK(checkpoint_publish(directory, manifest, NULL) == ERR_NONE);
    checkpoint_manifest_destroy(manifest);
}

enum err snapshot_model_load(struct snapshot_model *m, const char *directory)
{
    struct checkpoint_manifest *manifest = NULL;
    enum err err = checkpoint_read_manifest(directory, &manifest, NULL);

    for (uint32_t i = 0; i < m->shard_count && !err; i++)
        err = snapshot_restore(m->shards[i], directory, manifest);
    checkpoint_manifest_destroy(manifest);
    return err;
}

/* ---- threads ---- */

static void *do_nothing(void *context)
{
    return context;
}

/* A sanitizer may start one of its own with the first thread. */
static void start_first_thread(void)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

uint32_t snapshot_threads(void)
{
    static uint32_t at_first;
    if (at_first == 0)
        start_first_thread();
    DIR *d = opendir("/proc/self/task");
    uint32_t count = 0;

    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        count += e->d_name[0] != '.';
    closedir(d);
    /* A thread that was joined may still have been listed when they were counted first. */
    if (at_first == 0 || count < at_first)
        at_first = count;
    return count - at_first;
}

void snapshot_wait_threads(void)
{
    for (int i = 0; snapshot_threads() > 0; i++) {
        CHECK(i < 100000);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
}
