/*
 * Goal: batches hold exactly the examples that the sampler's rule gives them, each once an epoch,
 * with the terms that the rows have; and their bytes depend on nothing else: not on threads, cache,
 * packing, read-ahead, dictionaries, nor on where a stream starts.
 * Method: a data set whose label is the row's number. Every batch is compared term by term with the
 * rows as features_add() gives them in one go; ways of making the batches are compared by a hash of
 * all their arrays. With the real data sets beside the repository, if they are there, examples are
 * counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/support/dataset_fixture.h"
#include "worker/dataset_internal.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- epochs ---------------------------------------------------------------------------------- */

static void check_epochs(struct fixture *f, const struct rows *rows)
{
    static uint8_t seen[2][ROWS];
    uint64_t steps = fixture_epoch_steps(f);
    memset(seen, 0, sizeof seen);
    for (uint32_t rank = 0; rank < f->setup.job->train.ranks; rank++) {
        struct batch_stream *s;
        uint64_t step = 0;
        assert_int_equal(dataset_train_stream(f->d, rank, 1, 2 * steps, rank % 3, &s), ERR_NONE);
        for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b)) {
            assert_int_equal(b->step, ++step);
            assert_int_equal(b->rank, rank);
            fixture_check_batch(b, rows);
            for (uint32_t i = 0; i < b->example_count; i++)
                assert_int_equal(seen[(step - 1) / steps][(size_t)b->labels[i]]++, 0);
        }
        assert_int_equal(step, 2 * steps);
        batch_stream_close(s);
    }
    for (size_t i = 0; i < ROWS; i++)
        assert_true(seen[0][i] == 1 && seen[1][i] == 1);
}

static void test_epochs(void **state)
{
    static const char *const jobs[] = {
        JOB(", shuffle: none", "batch_size: 100"),
        JOB(", shuffle: full", "batch_size: 256"),
        JOB(", shuffle: {window: 1000}", "batch_size: 130, ranks: 2"),
        JOB(", shuffle: full", "batch_size: 77, ranks: 4"),
        JOB(", shuffle: none", "batch_size: 513, ranks: 4"),
        JOB(", shuffle: {window: 50}", "batch_size: 4096, ranks: 3"),
    };
    for (size_t i = 0; i < COUNT(jobs); i++) {
        struct fixture f;
        struct rows rows;
        struct features *features;
        fixture_make(&f, jobs[i], i % 2 == 1);
        fixture_read_rows(&f, &rows, &features);
        check_epochs(&f, &rows);
        rows_deinit(&rows);
        features_destroy(features);
        fixture_remove(&f);
    }
}

/* ---- the same bits --------------------------------------------------------------------------- */

static void test_same_bits(void **state)
{
    struct fixture f, packed;
    const char *yaml = JOB(", shuffle: {window: 2000}", "batch_size: 200, ranks: 2");
    fixture_make(&f, yaml, false);
    fixture_make(&packed, yaml, true);
    uint64_t steps = fixture_epoch_steps(&f), last = 2 * steps;
    uint64_t expected = fixture_digest(&f, 1, 1, last, 0);
    assert_int_equal(fixture_digest(&f, 1, 1, last, 0), expected); /* from the cache */
    assert_int_equal(fixture_digest(&f, 1, 1, last, 5), expected); /* read ahead */
    assert_int_equal(fixture_digest(&packed, 1, 1, last, 1), expected);
    assert_int_not_equal(fixture_digest(&f, 0, 1, last, 0), expected);
    group_set_dictionary_max(1);
    assert_int_equal(fixture_digest(&f, 1, 1, last, 0), expected);
    group_set_dictionary_max(0);
    for (uint32_t threads = 1; threads < 5; threads += 3) {
        dataset_close(f.d);
        mem_free(f.cache);
        f.cache = must_format("%s/cache-%u", f.directory, threads);
        fixture_open(&f, threads);
        assert_int_equal(fixture_digest(&f, 1, 1, last, 2), expected);
    }
    /* A stream that starts later gives the same batches. */
    uint64_t middle[] = {2, steps / 2, steps, steps + 1, last};
    for (size_t i = 0; i < COUNT(middle); i++) {
        uint64_t h = 0;
        struct batch_stream *s;
        assert_int_equal(dataset_train_stream(f.d, 1, 1, last, 0, &s), ERR_NONE);
        for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b)) {
            if (b->step >= middle[i])
                h = batch_digest(b, h);
        }
        batch_stream_close(s);
        assert_int_equal(fixture_digest(&f, 1, middle[i], last, 0), h);
    }
    assert_int_equal(fixture_digest(&f, 1, 5, 4, 0), 0);
    fixture_remove(&f);
    fixture_remove(&packed);
}

/* Memory goes round: with one batch out at a time it is always the same. */
static void test_recycling(void **state)
{
    struct fixture f;
    struct batch_stream *s;
    fixture_make(&f, JOB("", "batch_size: 64"), false);
    assert_int_equal(dataset_train_stream(f.d, 0, 1, 60, 0, &s), ERR_NONE);
    struct batch *first = fixture_next(s), *second = fixture_next(s);
    assert_ptr_not_equal(first, second);
    batch_release(second);
    for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b))
        assert_ptr_equal(b, second);
    batch_release(first);
    batch_release(NULL);
    batch_stream_close(s);
    /* Closed with batches ready and nothing taken. */
    assert_int_equal(dataset_train_stream(f.d, 0, 1, 60, 4, &s), ERR_NONE);
    batch_stream_close(s);
    batch_stream_close(NULL);
    fixture_remove(&f);
}

/* ---- evaluation ------------------------------------------------------------------------------ */

static uint32_t read_eval(struct fixture *f, uint32_t parts, uint32_t batch_size, float *labels)
{
    uint32_t n = 0;
    for (uint32_t part = 0; part < parts; part++) {
        struct batch_stream *s;
        assert_int_equal(dataset_eval_stream(f->d, part, parts, batch_size, &s), ERR_NONE);
        for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b)) {
            assert_int_equal(b->step, 0);
            assert_in_range(b->example_count, 1, batch_size);
            memcpy(labels + n, b->labels, b->example_count * sizeof *labels);
            n += b->example_count;
        }
        batch_stream_close(s);
    }
    return n;
}

static void test_evaluation(void **state)
{
    static float labels[ROWS], again[ROWS];
    static const struct {
        const char *yaml;
        uint32_t least, most; /* examples */
    } cases[] = {
        {JOB(", split: {by: hash, column: user, eval_fraction: 0.2}", "batch_size: 64"), 800, 1600},
        {JOB(", time: ts, split: {by: time, eval_fraction: 0.25}", "batch_size: 64"), 1500, 1500},
        {JOB(", time: ts, split: {by: time, eval_fraction: 0.25}",
             "batch_size: 64}\neval: {examples: 700"),
         700, 700},
        {JOB(", eval: $/d2.csv", "batch_size: 64"), 2790, 2790},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fixture f;
        struct rows rows;
        struct features *features;
        static uint8_t seen[ROWS];
        fixture_make(&f, cases[i].yaml, false);
        uint32_t n = read_eval(&f, 1, 100, labels);
        assert_in_range(n, cases[i].least, cases[i].most);
        for (uint32_t k = 1; k < n; k++)
            assert_true(labels[k - 1] < labels[k]);
        for (uint32_t parts = 2; parts < 8; parts += 5) {
            assert_int_equal(read_eval(&f, parts, 33 * parts, again), n);
            assert_memory_equal(labels, again, n * sizeof *labels);
        }
        /* Of a split nothing is in both sets. */
        if (f.setup.index->file_count == FILES && i < 2) {
            memset(seen, 0, sizeof seen);
            fixture_read_rows(&f, &rows, &features);
            for (uint32_t k = 0; k < n; k++)
                seen[(size_t)labels[k]] = 1;
            struct batch_stream *s;
            uint32_t trained = 0;
            assert_int_equal(dataset_train_stream(f.d, 0, 1, fixture_epoch_steps(&f), 2, &s),
                             ERR_NONE);
            for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b)) {
                fixture_check_batch(b, &rows);
                for (uint32_t k = 0; k < b->example_count; k++)
                    assert_int_equal(seen[(size_t)b->labels[k]]++, 0);
                trained += b->example_count;
            }
            assert_int_equal(trained + n, ROWS);
            batch_stream_close(s);
            rows_deinit(&rows);
            features_destroy(features);
        }
        fixture_remove(&f);
    }
}

/* ---- real data ------------------------------------------------------------------------------- */

static void test_real_data(void **state)
{
    static const struct {
        const char *path, *yaml;
        uint64_t train, eval;
    } cases[] = {
        {"../shared/data/criteo/train.tsv.gz",
         "data: {format: criteo, train: ../shared/data/criteo/train.tsv.gz, eval: "
         "../shared/data/criteo/test.tsv.gz}\nfeatures: {C1..C26: {min_count: 4}}\nmodel: {type: "
         "fm}\n",
         64000, 16000},
        {"../shared/data/hflights/train.csv.gz",
         "data: {format: csv, train: ../shared/data/hflights/train.csv.gz, eval: "
         "../shared/data/hflights/test.csv.gz, label: late}\nfeatures: {carrier: categorical, "
         "distance: "
         "{transform: [log1p, standardize]}}\nmodel: {type: mlp}\n",
         187671, 36920},
        {"../shared/data/movielens/train.libffm.gz",
         "data: {format: libffm, train: ../shared/data/movielens/train.libffm.gz, eval: "
         "../shared/data/movielens/test.libffm.gz}\nmodel: {type: fm}\n",
         90570, 9430},
    };
    bool any = false;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (access(cases[i].path, R_OK) != 0)
            continue;
        struct fixture f = {.directory = data_fixture_make()};
        f.cache = must_format("%s/cache", f.directory);
        data_setup_make(&f.setup, f.directory, cases[i].yaml);
        fixture_open(&f, 2);
        assert_int_equal(f.setup.index->train_examples, cases[i].train);
        assert_int_equal(f.setup.index->eval_examples, cases[i].eval);
        struct batch_stream *s;
        uint64_t n = 0;
        assert_int_equal(dataset_train_stream(f.d, 0, 1, fixture_epoch_steps(&f), 2, &s), ERR_NONE);
        for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b))
            n += b->example_count;
        assert_int_equal(n, cases[i].train);
        batch_stream_close(s);
        fixture_remove(&f);
        any = true;
    }
    if (!any) {
        print_message("no real data beside the repository\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),    cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_recycling), cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_real_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
