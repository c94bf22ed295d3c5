#include "tests/support/small_checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot_writer.h"

#define KEYS 6u

/* Spread over all partitions, two of them neighbours within one. */
static const uint64_t keys[KEYS] = {
    0x0000000000000001, 0x3ff0000000000007, 0x3ff0000000000009,
    0x8000000000000000, 0xabcdef0123456789, 0xfffffffffffffffe,
};

static void push(struct snapshot_writer *w, struct snapshot_block *b)
{
    while (snapshot_writer_push(w, b) != ERR_NONE)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void push_rows(struct snapshot_writer *w, uint32_t table, uint32_t first, uint32_t count,
                      uint32_t state_dim, float add)
{
    struct snapshot_block *b = must_alloc(sizeof *b);
    size_t keys_size = 8 * count, size = keys_size + 4 * (size_t)count * state_dim;

    b->memory = must_alloc(size);
    memcpy(b->memory, keys + first, keys_size);
    for (uint32_t i = 0; i < count * state_dim; i++) {
        float value = (float)(first * state_dim + i) + add;
        memcpy((char *)b->memory + keys_size + 4 * i, &value, 4);
    }
    b->table = table;
    b->partition = partition_of_key(keys[first]);
    b->row_count = count;
    snapshot_block_add(b, b->memory, size);
    push(w, b);
}

static void push_dense(struct snapshot_writer *w, uint32_t block, uint32_t partition, float add)
{
    static const uint32_t counts[2] = {4, 1};
    struct snapshot_block *b = must_alloc(sizeof *b);
    float *values = must_alloc(2 * counts[block] * sizeof *values);

    for (uint32_t i = 0; i < 2 * counts[block]; i++)
        values[i] = (float)(100 * block + i) + add;
    b->memory = values;
    b->table = SHARD_FILE_DENSE;
    b->partition = partition;
    b->row_count = 1;
    dense_block_head_write(&(struct dense_block_head){0, block, counts[block]}, b->dense_head);
    snapshot_block_add(b, b->dense_head, sizeof b->dense_head);
    snapshot_block_add(b, values, counts[block] * sizeof *values);
    snapshot_block_add(b, values + counts[block], counts[block] * sizeof *values);
    push(w, b);
}

static void write_shard(const char *directory, const struct small_checkpoint *c, uint32_t first,
                        uint32_t end, struct checkpoint_manifest *m)
{
    struct snapshot_writer_options o = {.directory = directory,
                                        .table_count = 2,
                                        .first_partition = first,
                                        .end_partition = end,
                                        .blocks_max = 4,
                                        .file_max = CHECKPOINT_FILE_MAX};
    struct snapshot_writer *w = NULL;
    CHECK(snapshot_writer_create(&o, &w) == ERR_NONE);
    for (uint32_t table = 0; table < 2; table++) {
        for (uint32_t i = 0; i < KEYS; i++) {
            uint32_t partition = partition_of_key(keys[i]), count = 1;
            if (partition < first || partition >= end)
                continue;
            while (i + count < KEYS && partition_of_key(keys[i + count]) == partition)
                count++;
            push_rows(w, table, i, count, table ? 1 : 3, c->add);
            i += count - 1;
        }
    }
    for (uint32_t block = 0; block < 2; block++)
        if (block * 2048 >= first && block * 2048 < end)
            push_dense(w, block, block * 2048, c->add);
    snapshot_writer_finish(w);
    for (int i = 0; snapshot_writer_state(w) == SNAPSHOT_RUNNING && i < 100000; i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    CHECK(snapshot_writer_state(w) == SNAPSHOT_DURABLE);
    uint32_t count;
    const struct checkpoint_file *files = snapshot_writer_files(w, &count);
    m->files = must_realloc(m->files, m->file_count + count, sizeof *m->files);
    for (uint32_t i = 0; i < count; i++) {
        m->files[m->file_count] = files[i];
        m->files[m->file_count++].name = must_strdup(files[i].name);
    }
    snapshot_writer_destroy(w);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct checkpoint_file *)a)->name,
                  ((const struct checkpoint_file *)b)->name);
}

struct checkpoint_manifest *small_checkpoint_files(const char *directory,
                                                   const struct small_checkpoint *c)
{
    struct checkpoint_manifest *m = must_alloc(sizeof *m);
    uint32_t shards = c->shard_count ? c->shard_count : 1;

    m->job = must_strdup(c->job ? c->job : "small");
    m->generation = c->generation;
    m->step = c->step;
    sha256_hex(m->job, strlen(m->job), m->job_hash);
    sha256_hex("index", 5, m->index_checksum);
    m->job_yaml = must_strdup("name: \"small\"\nseed: 1\n");
    m->columns = must_alloc(2 * sizeof *m->columns);
    m->columns[0] = must_strdup("label");
    m->columns[1] = must_strdup("a\\b\"\xc3\xa4");
    m->column_count = 2;
    m->train_examples = UINT64_MAX;
    m->has_eval = true;
    m->device_class = must_strdup("cpu");
    m->ranks = must_alloc(2 * sizeof *m->ranks);
    m->rank_count = 2;
    m->ranks[1].examples = 1ull << 63;
    m->ranks[1].loss_sum = INT64_MIN;
    m->ranks[1].weight_sum = INT64_MAX;
    str_append_span(&m->ranks[1].metrics, span_make("\0\xff\x10", 3));
    m->evals_json = must_strdup("[{\"step\":1}]");
    for (uint32_t i = 0; i < shards; i++)
        write_shard(directory, c, i * PARTITION_COUNT / shards, (i + 1) * PARTITION_COUNT / shards,
                    m);
    qsort(m->files, m->file_count, sizeof *m->files, by_name);
    return m;
}

void small_checkpoint_write(const char *directory, const struct small_checkpoint *c)
{
    struct checkpoint_manifest *m = small_checkpoint_files(directory, c);

    CHECK(checkpoint_publish(directory, m, NULL) == ERR_NONE);
    checkpoint_manifest_destroy(m);
}

char *small_file_read(const char *directory, const char *name, size_t *size_out)
{
    char *uri = storage_join(directory, name), *data = NULL;

    CHECK(storage_read_all(uri, 1 << 20, &data, size_out) == ERR_NONE);
    mem_free(uri);
    return data;
}

/* In place and unsynced: it is called thousands of times. */
void small_file_write(const char *directory, const char *name, const char *data, size_t size)
{
    char *path = storage_join(directory, name);
    FILE *f = fopen(path, "we");

    CHECK(f && (size == 0 || fwrite(data, size, 1, f) == 1) && fclose(f) == 0);
    mem_free(path);
}
