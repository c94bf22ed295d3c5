/*
 * Goal: an index says exactly what the data is, reads back as it was written, refuses damage, and
 * does not depend on how many workers and threads made it; it is reused as long as files and
 * settings are the same.
 * Method: indices written by hand and damaged one way after the other; small generated data indexed
 * by several numbers of workers and threads, its counts and moments compared with sums made here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/dataindex.h"
#include "common/hash.h"
#include "common/mem.h"
#include "tests/support/data_fixture.h"
#include "worker/dataset.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- the written form ------------------------------------------------------------------------ */

static void write_sample(struct str *json, struct str *bulk)
{
    char *names[] = {(char *)"dt"}, *values[] = {(char *)"2026-05-02"};
    char *columns[] = {(char *)"y", (char *)"a \"b\"", (char *)"dt"};
    uint64_t keys[] = {3, 9, UINT64_MAX};
    double means[] = {0.1, -1e300}, deviations[] = {1, 1.0 / 3};
    struct dataindex_file files[] = {
        {.uri = (char *)"file:x/dt=2026-05-02/part-0",
         .size = 1234,
         .mark = "m-1",
         .splittable = true,
         .column_names = names,
         .column_values = values,
         .column_count = 1},
        {.uri = (char *)"file:y",
         .size = 99,
         .mark = "m-2",
         .for_eval = true,
         .column_names = names,
         .column_values = values,
         .column_count = 1},
    };
    struct dataindex_block blocks[] = {
        {.file = 0,
         .offset = 10,
         .size = 1000,
         .first_line = 2,
         .record_count = 50,
         .bad_count = 1,
         .train_count = 40,
         .eval_count = 10},
        {.file = 1,
         .offset = 0,
         .size = (uint64_t)1 << 40,
         .first_line = 1,
         .record_count = 7,
         .eval_count = 7},
    };
    struct dataindex_vocab vocabs[] = {{.feature = 1, .keys = keys, .count = 3}};
    struct dataindex d = {.files = files,
                          .file_count = 2,
                          .blocks = blocks,
                          .block_count = 2,
                          .columns = columns,
                          .column_count = 3,
                          .train_examples = 40,
                          .eval_examples = 17,
                          .bad_rows = 1,
                          .time_split_ms = -5,
                          .means = means,
                          .deviations = deviations,
                          .feature_count = 2,
                          .vocabs = vocabs,
                          .vocab_count = 1};
    dataindex_write(&d, json, bulk);
}

static void test_round_trip(void **state)
{
    struct str json = {0}, bulk = {0}, json2 = {0}, bulk2 = {0};
    struct dataindex *d;
    write_sample(&json, &bulk);
    assert_int_equal(dataindex_parse("t", json.data, json.size, bulk.data, bulk.size, &d),
                     ERR_NONE);
    assert_int_equal(d->file_count, 2);
    assert_string_equal(d->files[0].uri, "file:x/dt=2026-05-02/part-0");
    assert_string_equal(d->files[0].column_values[0], "2026-05-02");
    assert_true(d->files[1].for_eval && !d->files[1].splittable);
    assert_int_equal(d->blocks[1].size, (uint64_t)1 << 40);
    assert_string_equal(d->columns[1], "a \"b\"");
    assert_int_equal(d->time_split_ms, -5);
    assert_true(d->means[1] == -1e300 && d->deviations[1] == 1.0 / 3);
    assert_int_equal(d->vocabs[0].keys[2], UINT64_MAX);
    dataindex_write(d, &json2, &bulk2);
    assert_string_equal(json.data, json2.data);
    assert_int_equal(bulk.size, bulk2.size);
    assert_memory_equal(bulk.data, bulk2.data, bulk.size);
    struct str both = {0};
    char checksum[SHA256_HEX_SIZE];
    str_append_span(&both, span_make(json.data, json.size));
    str_append_span(&both, span_make(bulk.data, bulk.size));
    sha256_hex(both.data, both.size, checksum);
    assert_string_equal(d->checksum, checksum);
    dataindex_destroy(d);
    dataindex_destroy(NULL);
    str_deinit(&json);
    str_deinit(&bulk);
    str_deinit(&json2);
    str_deinit(&bulk2);
    str_deinit(&both);
}

static void test_damage(void **state)
{
    static const struct {
        const char *from, *to; /* one replacement in the JSON */
    } cases[] = {
        {"\"index_format\":1", "\"index_format\":7"},
        {"\"train_examples\":40", "\"train_examples\":41"},
        {"\"eval_examples\":17", "\"eval_examples\":\"17\""},
        {"[0,10,1000,2,50,1,40,10]", "[0,10,1000,2,50,1,40]"},
        {"[0,10,1000,2,50,1,40,10]", "[2,10,1000,2,50,1,40,10]"},
        {"[0,10,1000,2,50,1,40,10]", "[0,10,1000,2,50,1,40,11]"},
        {"[0,10,1000,2,50,1,40,10]", "[0,-1,1000,2,50,1,40,10]"},
        {"[0,10,1000,2,50,1,40,10]", "[0,10,1000,2,16384,1,40,10]"},
        {"\"feature\":1", "\"feature\":2"},
        {"\"count\":3", "\"count\":4"},
        {"\"count\":3", "\"count\":2"},
        {"\"mark\":\"m-1\"", "\"mark\":5"},
        {"\"column_values\":[\"2026-05-02\"]", "\"column_values\":[]"},
        {"\"time_split_ms\":-5", "\"time_split_ms\":null"},
        {"\"columns\":[", "\"columns\":[5,"},
        {"\"deviations\":[1.0,", "\"deviations\":["},
        {"}", "}}"},
    };
    struct str json = {0}, bulk = {0};
    write_sample(&json, &bulk);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *at = strstr(json.data, cases[i].from);
        if (at == NULL)
            fail_msg("'%s' is not in %s", cases[i].from, json.data);
        char *damaged = must_format("%.*s%s%s", (int)(at - json.data), json.data, cases[i].to,
                                    at + strlen(cases[i].from));
        struct dataindex *d = NULL;
        enum err e = dataindex_parse("t.json", damaged, strlen(damaged), bulk.data, bulk.size, &d);
        if ((e != ERR_CORRUPT && e != ERR_UNSUPPORTED) || d != NULL)
            fail_msg("'%s' -> '%s': %s", cases[i].from, cases[i].to, err_name(e));
        assert_non_null(strstr(err_text(), "t.json"));
        mem_free(damaged);
    }
    struct dataindex *d = NULL;
    uint64_t swapped[3] = {9, 3, UINT64_MAX};
    assert_int_equal(dataindex_parse("t", json.data, json.size, swapped, sizeof swapped, &d),
                     ERR_CORRUPT);
    assert_int_equal(dataindex_parse("t", json.data, json.size, bulk.data, bulk.size - 8, &d),
                     ERR_CORRUPT);
    assert_int_equal(dataindex_parse("t", json.data, json.size / 2, bulk.data, bulk.size, &d),
                     ERR_CORRUPT);
    str_deinit(&json);
    str_deinit(&bulk);
}

/* ---- made from data -------------------------------------------------------------------------- */

#define FILES 5

struct sums {
    uint64_t rows;
    double sum, squares;
};

/* Five files of some thousand rows: y, ts, city (skewed), price (some missing). */
static void write_files(const char *directory, bool packed, struct sums *sums)
{
    uint64_t random = 11;
    *sums = (struct sums){0};
    for (int f = 0; f < FILES; f++) {
        struct str text = {0};
        char name[32];
        str_append(&text, "y,ts,city,price\n");
        for (int i = 0; i < 3000 + 700 * f; i++) {
            uint64_t r = data_random(&random);
            double price = (double)(r % 1000) / 10 + 1000;
            bool missing = r % 97 == 0;
            str_append_format(&text, "%d,%d,c%d,", (int)(r >> 10 & 1), 1000000 + f * 5000 + i,
                              (int)((r >> 20) % 300 * ((r >> 40) % 300) / 300));
            if (!missing)
                str_append_format(&text, "%.1f", price);
            str_append(&text, "\n");
            double value = missing ? 0 : price;
            sums->rows++;
            sums->sum += value;
            sums->squares += value * value;
        }
        strcpy(name, "part-0.csv");
        name[5] = (char)('0' + f);
        mem_free(packed ? data_fixture_gzip(directory, name, span_make(text.data, text.size))
                        : data_fixture_write(directory, name, span_make(text.data, text.size)));
        str_deinit(&text);
    }
}

static const char job_text[] =
    "data: {format: csv, train: $/part-*.csv, label: y, time: ts}\n"
    "features: {city: {min_count: 20}, price: {transform: [standardize]}}\n"
    "model: {type: mlp}\n";

static void check_counts(const struct dataindex *d, const struct sums *sums)
{
    uint64_t train = 0;
    assert_int_equal(d->file_count, FILES);
    assert_int_equal(d->train_examples, sums->rows);
    for (uint32_t b = 0; b < d->block_count; b++) {
        assert_true(b == 0 || d->blocks[b].file >= d->blocks[b - 1].file);
        train += d->blocks[b].train_count;
    }
    assert_int_equal(train, sums->rows);
    double n = (double)sums->rows, mean = sums->sum / n;
    assert_true(fabs(d->means[1] - mean) < 1e-8);
    assert_true(fabs(d->deviations[1] - sqrt(sums->squares / n - mean * mean)) < 1e-4);
    assert_int_equal(d->vocab_count, 1);
    assert_int_equal(d->vocabs[0].feature, 0);
    assert_in_range(d->vocabs[0].count, 50, 299);
}

static void test_same_for_all(void **state)
{
    static const struct {
        uint32_t workers, threads;
    } cases[] = {{1, 1}, {1, 3}, {2, 1}, {3, 2}, {7, 1}, {1, 2}};
    for (int packed = 0; packed < 2; packed++) {
        char *directory = data_fixture_make(), first[SHA256_HEX_SIZE] = "";
        struct sums sums;
        write_files(directory, packed, &sums);
        struct job *job = data_fixture_job(directory, job_text);
        for (size_t i = 0; i < COUNT(cases); i++) {
            char *uri = must_format("%s/index-%zu", directory, i), checksum[SHA256_HEX_SIZE];
            struct index_run run = {job, uri, cases[i].workers, cases[i].threads};
            if (data_fixture_index(&run, checksum) != ERR_NONE)
                fail_msg("%s", err_text());
            if (i == 0) {
                struct dataindex *d;
                strcpy(first, checksum);
                assert_int_equal(dataset_index_load(uri, checksum, &d), ERR_NONE);
                check_counts(d, &sums);
                assert_int_equal(d->files[0].splittable, !packed);
                dataindex_destroy(d);
            }
            assert_string_equal(checksum, first);
            mem_free(uri);
        }
        job_destroy(job);
        data_fixture_remove(directory);
    }
}

/* The vocabulary holds just the values that are frequent in what is trained on. */
static void test_vocabulary(void **state)
{
    char *directory = data_fixture_make(), checksum[SHA256_HEX_SIZE];
    const char *train = "y,a\n1,x\n1,x\n0,y\n0,y\n0,y\n1,\n1,\n1,\n1,z\n";
    const char *eval = "y,a\n1,z\n1,z\n1,z\n";
    mem_free(data_fixture_write(directory, "train.csv", span_of(train)));
    mem_free(data_fixture_write(directory, "eval.csv", span_of(eval)));
    struct job *job = data_fixture_job(
        directory, "data: {format: csv, train: $/train.csv, eval: $/eval.csv, label: y}\n"
                   "features: {a: {min_count: 2}}\nmodel: {type: lr}\n");
    struct dataindex *d;
    assert_int_equal(
        data_fixture_index(&(struct index_run){.job = job, .uri = directory}, checksum), ERR_NONE);
    assert_int_equal(dataset_index_load(directory, checksum, &d), ERR_NONE);
    uint64_t seed = hash64("a", 1, 0), x = hash64("x", 1, seed), y = hash64("y", 1, seed);
    assert_int_equal(d->vocabs[0].count, 2);
    assert_int_equal(d->vocabs[0].keys[0], x < y ? x : y);
    assert_int_equal(d->vocabs[0].keys[1], x < y ? y : x);
    assert_int_equal(d->eval_examples, 3);
    dataindex_destroy(d);
    job_destroy(job);
    data_fixture_remove(directory);
}

static void test_time_split(void **state)
{
    static const struct {
        const char *split;
        uint64_t eval; /* rows; 0: refused */
        int64_t from_ms;
    } cases[] = {
        {"eval_fraction: 0.3", 3, 1700},  {"eval_fraction: 0.35", 4, 1600},
        {"eval_fraction: 0.42", 4, 1600}, {"eval_fraction: 0.6", 7, 1500},
        {"eval_last: 400ms", 4, 1501},    {"eval_last: 1ms", 1, 1900},
        {"eval_fraction: 0.05", 0, 0},
    };
    char *directory = data_fixture_make();
    struct str text = {0};
    /* Times in no order: 1.0 s … 1.9 s, and 1.5 s three times. */
    str_append(&text, "y,ts,a\n");
    for (int i = 0; i < 12; i++)
        str_append_format(&text, "1,1.%d,x\n", i < 10 ? i * 7 % 10 : 5);
    mem_free(data_fixture_write(directory, "t.csv", span_make(text.data, text.size)));
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *yaml = must_format(
                 "data: {format: csv, train: $/t.csv, label: y, time: ts, split: {by: time, "
                 "%s}}\nfeatures: {a: {min_count: 5}}\nmodel: {type: lr}\n",
                 cases[i].split),
             checksum[SHA256_HEX_SIZE];
        struct job *job = data_fixture_job(directory, yaml);
        for (uint32_t workers = 1; workers < 4; workers += 2) {
            char *uri = must_format("%s/index-%zu-%u", directory, i, workers);
            enum err e = data_fixture_index(
                &(struct index_run){.job = job, .uri = uri, .workers = workers}, checksum);
            assert_int_equal(e, cases[i].eval > 0 ? ERR_NONE : ERR_INPUT);
            struct dataindex *d;
            if (e != ERR_NONE) {
                assert_non_null(strstr(err_text(), "eval_fraction"));
            } else {
                assert_int_equal(dataset_index_load(uri, checksum, &d), ERR_NONE);
                assert_int_equal(d->eval_examples, cases[i].eval);
                assert_int_equal(d->train_examples, 12 - cases[i].eval);
                assert_int_equal(d->time_split_ms, cases[i].from_ms);
                assert_int_equal(d->vocabs[0].count, 12 - cases[i].eval >= 5);
                dataindex_destroy(d);
            }
            mem_free(uri);
        }
        job_destroy(job);
        mem_free(yaml);
    }
    str_deinit(&text);
    data_fixture_remove(directory);
}

static uint64_t inode_of(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_ino : 0;
}

/* Reused while nothing changed; another index when a setting, a file or the stored bytes did. */
static void test_reuse(void **state)
{
    char *directory = data_fixture_make(), first[SHA256_HEX_SIZE], again[SHA256_HEX_SIZE];
    char *path = data_fixture_write(directory, "t.csv", span_of("y,a\n1,x\n0,y\n"));
    static const char with[] = "data: {format: csv, train: $/t.csv, label: y}\nmodel: {type: lr}\n";
    char *plain = must_format("%sfeatures: {a: categorical}\n", with);
    char *other = must_format("%sfeatures: {a: {min_count: 2}}\n", with);
    struct job *job = data_fixture_job(directory, plain),
               *changed = data_fixture_job(directory, other);
    struct index_run run = {.job = job, .uri = directory};
    bool done;
    assert_int_equal(data_fixture_index(&run, first), ERR_NONE);
    struct dataset_index_options o = {.job = job, .uri = directory, .worker_count = 1};
    assert_int_equal(dataset_index_round(&o, 0, &done, again), ERR_NONE);
    assert_true(done);
    assert_string_equal(first, again);
    o.job = changed;
    assert_int_equal(dataset_index_round(&o, 0, &done, again), ERR_NONE);
    assert_false(done);
    /* Damage of the stored index makes a new one, equal to the first. */
    char *json = must_format("%s/index-%s.json", directory, first);
    uint64_t inode = inode_of(json);
    mem_free(data_fixture_write(directory, json + strlen(directory) + 1, span_of("{}")));
    assert_int_equal(data_fixture_index(&run, again), ERR_NONE);
    assert_string_equal(first, again);
    assert_int_not_equal(inode, 0);
    struct dataindex *d;
    assert_int_equal(dataset_index_load(directory, first, &d), ERR_NONE);
    dataindex_destroy(d);
    /* A file that grew is another data set. */
    mem_free(data_fixture_write(directory, "t.csv", span_of("y,a\n1,x\n0,y\n1,z\n")));
    assert_int_equal(data_fixture_index(&run, again), ERR_NONE);
    assert_string_not_equal(first, again);
    char none[SHA256_HEX_SIZE];
    memset(none, 'a', sizeof none - 1);
    none[sizeof none - 1] = '\0';
    assert_int_equal(dataset_index_load(directory, none, &d), ERR_NOT_FOUND);
    job_destroy(job);
    job_destroy(changed);
    mem_free(plain);
    mem_free(other);
    mem_free(json);
    mem_free(path);
    data_fixture_remove(directory);
}

static void test_refused_data(void **state)
{
    static const struct {
        const char *first, *second; /* files */
        const char *settings;       /* more of data: */
        const char *message;
    } cases[] = {
        {"y,a\n1,x\n2,x\n", NULL, "", "t1.csv:3:1: label '2' is not 0, 1 or -1"},
        {"y,a\n1,x\n1,x,x\n", NULL, "", "t1.csv:3:1: 3 fields"},
        {"y,a\n1,x\n", "y,b\n1,x\n", "", "column 2 is 'b', but in the files before it is 'a'"},
        {"y,a\n1,x\n", "y,a,b\n1,x,x\n", "", "t2.csv: 3 columns, but the files before have 2"},
        {"y,a\n1,x\n2,x\n3,x\n0,x\n", NULL, ", bad_rows: 0.4",
         "2 of 4 rows are bad, more than data.bad_rows"},
        {"y,b\n1,x\n", NULL, "", "the data has no column 'a'"},
        {"y,a\n", NULL, "", "no examples to train on"},
        {"", "", "", "all 2 files are empty"},
        {"y,a\n1,x\n", NULL, ", eval: $/e.csv", "data.eval: no examples"},
        {"y,a\n1,x\n", NULL, ", split: {by: hash, column: a, eval_fraction: 0.0001}",
         "data.split: leaves none"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *directory = data_fixture_make(), checksum[SHA256_HEX_SIZE];
        mem_free(data_fixture_write(directory, "t1.csv", span_of(cases[i].first)));
        mem_free(data_fixture_write(directory, "e.csv", span_of("y,a\n")));
        if (cases[i].second != NULL)
            mem_free(data_fixture_write(directory, "t2.csv", span_of(cases[i].second)));
        char *yaml = must_format("data: {format: csv, train: '$/t*.csv', label: y%s}\n"
                                 "features: {a: categorical}\nmodel: {type: lr}\n",
                                 cases[i].settings);
        struct job *job = data_fixture_job(directory, yaml);
        enum err e =
            data_fixture_index(&(struct index_run){.job = job, .uri = directory}, checksum);
        if (e != ERR_INPUT || strstr(err_text(), cases[i].message) == NULL)
            fail_msg("case %zu: %s '%s', not '%s'", i, err_name(e), e != ERR_NONE ? err_text() : "",
                     cases[i].message);
        job_destroy(job);
        mem_free(yaml);
        data_fixture_remove(directory);
    }
}

/* Skipped rows are counted; an empty file among others is none. */
static void test_bad_rows_and_empty_files(void **state)
{
    char *directory = data_fixture_make(), checksum[SHA256_HEX_SIZE];
    mem_free(data_fixture_write(directory, "t1.csv", span_of("")));
    mem_free(data_fixture_write(directory, "t2.csv", span_of("y,a\n1,x\n7,x\n0,x,x\n0,x\n1,z\n")));
    mem_free(data_fixture_write(directory, "t3.csv", span_of("y,a\n")));
    struct job *job = data_fixture_job(
        directory, "data: {format: csv, train: '$/t*.csv', label: y, bad_rows: 0.4}\n"
                   "features: {a: categorical}\nmodel: {type: lr}\n");
    struct dataindex *d;
    for (uint32_t workers = 1; workers < 4; workers++) {
        char *uri = must_format("%s/index-%u", directory, workers);
        if (data_fixture_index(&(struct index_run){.job = job, .uri = uri, .workers = workers},
                               checksum) != ERR_NONE ||
            dataset_index_load(uri, checksum, &d) != ERR_NONE)
            fail_msg("%s", err_text());
        assert_int_equal(d->train_examples, 3);
        assert_int_equal(d->bad_rows, 2);
        dataindex_destroy(d);
        mem_free(uri);
    }
    job_destroy(job);
    data_fixture_remove(directory);
}

/* A worker that sees other files than worker 0 leaves its part elsewhere, and that is said. */
static void test_lost_part(void **state)
{
    char *directory = data_fixture_make(), checksum[SHA256_HEX_SIZE];
    mem_free(data_fixture_write(directory, "t.csv", span_of("y,a\n1,x\n")));
    struct job *job =
        data_fixture_job(directory, "data: {format: csv, train: $/t.csv, label: y}\nfeatures: {a: "
                                    "categorical}\nmodel: {type: lr}\n");
    struct dataset_index_options o = {.job = job, .uri = directory, .worker_count = 2};
    bool done;
    assert_int_equal(dataset_index_round(&o, 0, &done, checksum), ERR_NONE);
    assert_int_equal(dataset_index_round(&o, 1, &done, checksum), ERR_REFUSED);
    assert_non_null(strstr(err_text(), "worker 1 left no part"));
    job_destroy(job);
    data_fixture_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_same_for_all), cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_time_split),   cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_refused_data), cmocka_unit_test(test_bad_rows_and_empty_files),
        cmocka_unit_test(test_lost_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
