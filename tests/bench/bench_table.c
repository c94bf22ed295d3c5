/*
 * Goal     the table costs little beyond the memory that it must touch: gathering and updating
 * 64-float rows through the index run at 0.7 or more of a plain loop over a plain array that
 * prefetches its rows. Method   2 GiB of rows; batches of ascending random keys; the plain loop
 * visits as many random rows of an array of the same size, and updates them with the same
 * optimizer. Rounds of both alternate, and the best of each counts.
 *
 * bench_table [rows]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/optimizer.h"
#include "server/table.h"

#define DIM        64
#define BATCH_KEYS 131072
#define BATCHES    12
#define ROUNDS     4
#define AHEAD      32
#define TARGET     0.70

struct bench {
    struct schema schema;
    struct schema_table table;
    uint32_t rows;
    float *plain;
    struct table *t;
    uint64_t *keys;   /* [BATCHES][BATCH_KEYS], ascending in each */
    uint32_t *places; /* rows of `plain` to visit */
    float *out;       /* [BATCH_KEYS][DIM] */
};

static uint64_t key_of(uint64_t i)
{
    return mix64(i);
}

/* The thread's own time: what others do on this machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void setup(struct bench *b)
{
    b->table = (struct schema_table){.name = "bench", .component_count = 1};
    b->table.components[0] = (struct schema_component){
        .name = "v", .dim = DIM, .optimizer = {.type = "sgd", .learning_rate = 0.1}};
    b->schema = (struct schema){.tables = &b->table, .table_count = 1};
    CHECK(schema_finish(&b->schema, 1) == ERR_NONE);
    CHECK(table_create(&b->table, 0, PARTITION_COUNT, &b->t) == ERR_NONE);
    float row[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        row[i] = (float)i;
    for (uint32_t i = 0; i < b->rows; i++)
        CHECK(table_load(b->t, key_of(i), row) == ERR_NONE);
    size_t bytes = (size_t)b->rows * DIM * sizeof(float);
    b->plain = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(b->plain != MAP_FAILED);
    (void)madvise(b->plain, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < (size_t)b->rows * DIM; i++)
        b->plain[i] = 1.0f;
    b->keys = mem_alloc_array((size_t)BATCHES * BATCH_KEYS, sizeof *b->keys);
    b->places = mem_alloc_array((size_t)BATCHES * BATCH_KEYS, sizeof *b->places);
    b->out = mem_alloc_array((size_t)BATCH_KEYS * DIM, sizeof *b->out);
    CHECK(b->keys != NULL && b->places != NULL && b->out != NULL);
    for (size_t i = 0; i < (size_t)BATCHES * BATCH_KEYS; i++) {
        uint64_t pick = rng_below(rng_at(7, i), b->rows);
        b->places[i] = (uint32_t)pick;
        b->keys[i] = key_of(pick);
    }
    for (size_t i = 0; i < BATCHES; i++)
        qsort(b->keys + i * BATCH_KEYS, BATCH_KEYS, sizeof *b->keys, compare_keys);
    memset(b->out, 0, (size_t)BATCH_KEYS * DIM * sizeof *b->out);
}

static void gather_plain(struct bench *b, size_t batch)
{
    const uint32_t *places = b->places + batch * BATCH_KEYS;
    for (size_t i = 0; i < BATCH_KEYS; i++) {
        if (i + AHEAD < BATCH_KEYS) {
            const float *row = b->plain + (size_t)places[i + AHEAD] * DIM;
            for (size_t k = 0; k < DIM; k += 16)
                __builtin_prefetch(row + k);
        }
        memcpy(b->out + i * DIM, b->plain + (size_t)places[i] * DIM, DIM * sizeof(float));
    }
}

static void update_plain(struct bench *b, size_t batch)
{
    struct optimizer_step step;
    const struct optimizer *o = optimizer_prepare(&b->table.components[0].optimizer, 1, 1, &step);
    const uint32_t *places = b->places + batch * BATCH_KEYS;
    for (size_t i = 0; i < BATCH_KEYS; i++) {
        if (i + AHEAD < BATCH_KEYS) {
            const float *row = b->plain + (size_t)places[i + AHEAD] * DIM;
            for (size_t k = 0; k < DIM; k += 16)
                __builtin_prefetch(row + k);
        }
        float *row = b->plain + (size_t)places[i] * DIM;
        struct optimizer_update u = {
            .param = row, .out = row, .count = DIM, .grad = b->out + i * DIM, .grad_scale = 1.0f};
        o->apply(&step, &u);
    }
}

/* Begins a pass: the first two batches of keys and the first one's rows are asked for. */
static void begin(struct bench *b, const uint64_t *keys, float **rows)
{
    table_prefetch(b->t, keys, 2 * TABLE_BATCH);
    table_find(b->t, keys, TABLE_BATCH, rows);
    for (uint32_t k = 0; k < TABLE_BATCH; k++)
        table_ahead(rows[k], DIM);
}

static void gather_table(struct bench *b, size_t batch)
{
    const uint64_t *keys = b->keys + batch * BATCH_KEYS, *end = keys + BATCH_KEYS;
    float *buffers[2][TABLE_BATCH] = {{NULL}}, *out = b->out;
    begin(b, keys, buffers[0]);
    for (uint32_t turn = 0; keys < end; turn ^= 1, keys += TABLE_BATCH) {
        float **rows = buffers[turn], **next = buffers[turn ^ 1];
        if (keys + 2 * TABLE_BATCH < end)
            table_prefetch(b->t, keys + 2 * TABLE_BATCH, TABLE_BATCH);
        if (keys + TABLE_BATCH < end)
            table_find(b->t, keys + TABLE_BATCH, TABLE_BATCH, next);
        for (uint32_t k = 0; k < TABLE_BATCH; k++, out += DIM) {
            table_ahead(next[k], DIM);
            memcpy(out, rows[k], DIM * sizeof(float));
        }
    }
}

static void update_table(struct bench *b, size_t batch)
{
    const uint64_t *keys = b->keys + batch * BATCH_KEYS, *end = keys + BATCH_KEYS;
    struct optimizer_step step;
    const struct optimizer *o = optimizer_prepare(&b->table.components[0].optimizer, 1, 1, &step);
    float *buffers[2][TABLE_BATCH] = {{NULL}}, *grad = b->out;
    begin(b, keys, buffers[0]);
    for (uint32_t turn = 0; keys < end; turn ^= 1, keys += TABLE_BATCH) {
        float **rows = buffers[turn], **next = buffers[turn ^ 1];
        if (keys + 2 * TABLE_BATCH < end)
            table_prefetch(b->t, keys + 2 * TABLE_BATCH, TABLE_BATCH);
        if (keys + TABLE_BATCH < end)
            CHECK(table_find_or_insert(b->t, keys + TABLE_BATCH, TABLE_BATCH, next) == ERR_NONE);
        for (uint32_t k = 0; k < TABLE_BATCH; k++, grad += DIM) {
            table_ahead(next[k], DIM);
            struct optimizer_update u = {
                .param = rows[k], .out = rows[k], .count = DIM, .grad = grad, .grad_scale = 1.0f};
            o->apply(&step, &u);
        }
    }
}

/* M rows/s of one pass over all batches. */
static double rate(struct bench *b, void (*pass)(struct bench *b, size_t batch))
{
    uint64_t start = cpu_ns();
    for (size_t i = 0; i < BATCHES; i++)
        pass(b, i);
    return (double)BATCHES * BATCH_KEYS * 1e3 / (double)(cpu_ns() - start);
}

static void compare(struct bench *b, const char *what, void (*plain)(struct bench *, size_t),
                    void (*table)(struct bench *, size_t))
{
    double best_plain = 0.0, best_table = 0.0;
    for (int i = 0; i < ROUNDS; i++) {
        double p = rate(b, plain), t = rate(b, table);
        best_plain = p > best_plain ? p : best_plain;
        best_table = t > best_table ? t : best_table;
    }
    printf(
        "table %s 64 floats: %.1f M rows/s, plain loop %.1f M rows/s, ratio %.2f (target %.2f)\n",
        what, best_table, best_plain, best_table / best_plain, TARGET);
}

int main(int argc, char **argv)
{
    struct bench b = {.rows = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 8u << 20};
    setup(&b);
    compare(&b, "gather", gather_plain, gather_table);
    compare(&b, "update", update_plain, update_table);
    printf("table memory: %.1f bytes/row, of which values %zu\n",
           (double)table_memory(b.t) / (double)table_rows(b.t), DIM * sizeof(float));
    table_destroy(b.t);
    mem_free(b.keys);
    mem_free(b.places);
    mem_free(b.out);
    munmap(b.plain, (size_t)b.rows * DIM * sizeof(float));
    return 0;
}
