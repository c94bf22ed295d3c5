/*
 * Goal     reading keeps up with training: 400 000 records a second and core are parsed in the
 *          first epoch, and later epochs make batches from the block cache several times as fast
 *          as a core trains on them.
 * Method   records in Criteo's format, generated with skewed values, and Criteo's own where they
 *          lie beside the project. One thread, no read-ahead; each figure is CPU time, the median
 *          of ROUNDS data sets with caches of their own.
 *
 *     bench_dataset [RECORDS]
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "tests/support/data_fixture.h"
#include "worker/dataset.h"

#define ROUNDS     3
#define EPOCHS     4
#define BATCH      8192
#define REAL_TRAIN "../shared/data/criteo/train.tsv.gz"

struct figures {
    double index, fill, batches; /* records a second of CPU time */
    uint64_t records;
};

static double cpu_seconds(void)
{
    struct rusage u;
    CHECK(getrusage(RUSAGE_SELF, &u) == 0);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Few values often, many rarely. */
static uint64_t skewed(uint64_t *state, double distinct)
{
    double u = (double)(data_random(state) >> 11) * 0x1p-53;
    return (uint64_t)pow(distinct, u);
}

static void generate(const char *path, uint64_t records)
{
    FILE *f = fopen(path, "w");
    uint64_t state = 1;
    CHECK(f != NULL);
    for (uint64_t i = 0; i < records; i++) {
        fprintf(f, "%d", data_random(&state) % 4 == 0);
        for (int c = 0; c < 13; c++) {
            fputc('\t', f);
            if (data_random(&state) % 5 > 0)
                fprintf(f, "%llu", (unsigned long long)skewed(&state, 1e4) - 1);
        }
        for (int c = 0; c < 26; c++) {
            fputc('\t', f);
            if (data_random(&state) % 20 > 0)
                fprintf(f, "%08x", (unsigned)mix64(skewed(&state, c % 3 == 0 ? 1e6 : 1e3)));
        }
        fputc('\n', f);
    }
    CHECK(fclose(f) == 0);
}

static void require(enum err e)
{
    if (e == ERR_NONE)
        return;
    fprintf(stderr, "bench_dataset: %s\n", err_text());
    exit(1);
}

/* Makes the batches of an epoch; returns the CPU seconds. */
static double read_epoch(struct batch_stream *s, uint64_t steps, uint64_t *examples)
{
    double start = cpu_seconds();
    for (uint64_t i = 0; i < steps; i++) {
        struct batch *b;
        require(batch_stream_next(s, &b));
        CHECK(b != NULL);
        *examples += b->example_count;
        batch_release(b);
    }
    return cpu_seconds() - start;
}

static struct figures measure(const char *directory, const char *train)
{
    struct figures f = {0};
    struct data_setup s;
    char *yaml = must_format("data: {format: criteo, train: \"%s\"}\n"
                             "features: {C1..C26: {min_count: 4}}\n"
                             "model: {type: fm}\ntrain: {batch_size: %d, epochs: %d}\n",
                             train, BATCH, EPOCHS);
    char *cache = must_format("%s/cache", directory);
    double start = cpu_seconds();
    data_setup_make(&s, directory, yaml);
    f.records = s.index->train_examples;
    f.index = (double)f.records / (cpu_seconds() - start);

    struct dataset_options o = {
        .job = s.job, .features = s.spec, .index = s.index, .cache_directory = cache, .threads = 1};
    struct dataset *d;
    struct batch_stream *stream;
    uint64_t steps = (f.records + BATCH - 1) / BATCH, read = 0;
    require(dataset_open(&o, &d));
    require(dataset_train_stream(d, 0, 1, EPOCHS * steps, 0, &stream));
    double first = read_epoch(stream, steps, &read);
    double later = read_epoch(stream, (EPOCHS - 1) * steps, &read);
    CHECK(read == EPOCHS * f.records);
    f.batches = (double)((EPOCHS - 1) * f.records) / later;
    f.fill = (double)f.records / (first - later / (EPOCHS - 1));
    batch_stream_close(stream);
    dataset_close(d);
    data_setup_remove(&s);
    mem_free(cache);
    mem_free(yaml);
    return f;
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, compare_doubles);
    return values[ROUNDS / 2];
}

static void report(const char *name, const char *train)
{
    double index[ROUNDS], fill[ROUNDS], batches[ROUNDS];
    uint64_t records = 0;
    for (int i = 0; i < ROUNDS; i++) {
        char *directory = data_fixture_make();
        struct figures f = measure(directory, train);
        index[i] = f.index;
        fill[i] = f.fill;
        batches[i] = f.batches;
        records = f.records;
        data_fixture_remove(directory);
    }
    printf("dataset %-22s %7llu records; a core and second: index %4.0f k, parsing into the block "
           "cache %4.0f k (target 400 k), batches of %d %5.0f k\n",
           name, (unsigned long long)records, median(index) / 1e3, median(fill) / 1e3, BATCH,
           median(batches) / 1e3);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    uint64_t records = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    char *directory = data_fixture_make();
    char *path = must_format("%s/train.tsv", directory);
    mem_keep_freed();
    generate(path, records);
    report("generated, plain", path);
    data_fixture_remove(directory);
    mem_free(path);
    if (access(REAL_TRAIN, R_OK) == 0)
        report("criteo, gzip", REAL_TRAIN);
    else
        printf("dataset %s is not there: skipped\n", REAL_TRAIN);
    return 0;
}
