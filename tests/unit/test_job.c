/*
 * Goal: a job file means what docs/job-file.md says, and a job's text and hash depend on what it
 * says and not on how it says it. What is refused is in test_job_errors.c. Method: the jobs of the
 * design, each read, written, read back and compared; pairs of texts that must, and must not, hash
 * alike.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/job.h"
#include "common/mem.h"
#include "common/schema.h"

#define DATA     "data: {format: csv, train: t.csv}\n"
#define FEATURES "features: {a: categorical, b: categorical, x: numeric}\n"
#define FM       "model: {type: fm}\n"
#define MLP      "model: {type: mlp}\n"
#define BASE     DATA FEATURES FM

static const char *const no_arguments[] = {NULL};

static enum err try(const char *text, const char *const *sets, const char *const *vars,
                    struct job **out)
{
    struct job_source source = {
        .what = "jobs/j.yaml", .text = text, .size = strlen(text), .sets = sets, .vars = vars};
    return job_parse(&source, out);
}

static struct job *parse_with(const char *text, const char *const *sets, const char *const *vars)
{
    struct job *j = NULL;
    if (try(text, sets, vars, &j))
        fail_msg("%s\n%s", text, err_text());
    return j;
}

static struct job *parse(const char *text)
{
    return parse_with(text, no_arguments, NULL);
}

/* ---- what is read --------------------------------------------------------------------------- */

#define FLIGHTS                                                                                    \
    "data:     {format: csv, train: train.csv.gz, eval: test.csv.gz, label: late}\n"               \
    "features: {carrier: categorical, origin: categorical, dest: categorical, hour: categorical, " \
    "distance: {transform: [log1p, standardize]}}\n"                                               \
    "model:    {type: fm}\n"
#define CRITEO                                                                                     \
    "data:     {format: criteo, train: train.tsv.gz, eval: test.tsv.gz}\n"                         \
    "features: {C1..C26: {min_count: 4}}\n"                                                        \
    "model:    {type: fm, dim: 16}\n"
#define FILMS                                                                                      \
    "name: films\n"                                                                                \
    "data: {format: csv, train: ratings.csv.gz, label: rating, time: ts, split: {by: time, "       \
    "eval_fraction: 0.1}, shuffle: full}\n"                                                        \
    "features:\n"                                                                                  \
    "  user:   categorical\n"                                                                      \
    "  item:   {key: integer, table: item}\n"                                                      \
    "  age:    {bucketize: [18, 25, 35, 50]}\n"                                                    \
    "  genres: {separator: \"|\", pooling: mean}\n"                                                \
    "model: {type: fm, dim: 16, loss: squared, l2: 1.0e-4}\n"                                      \
    "train: {epochs: 30}\n"                                                                        \
    "early_stopping: {metric: rmse}\n"
/* JOB.md's fourth with what this version has in place of parquet and dcn. */
#define FEED(FORMAT, TYPE)                                                                         \
    "name: feed\n"                                                                                 \
    "vars: {day: }\n"                                                                              \
    "data:\n"                                                                                      \
    "  format: " FORMAT "\n"                                                                       \
    "  train: [\"s3://logs/impressions/dt=${day}/\"]\n"                                            \
    "  split: {by: time, eval_last: 2h}\n"                                                         \
    "  label: click\n"                                                                             \
    "  weight: sample_weight\n"                                                                    \
    "  time: ts\n"                                                                                 \
    "  id: request_id\n"                                                                           \
    "features:\n"                                                                                  \
    "  user_id:      {table: user}\n"                                                              \
    "  item_id:      {table: item}\n"                                                              \
    "  last_items:   {table: item, pooling: mean, max_values: 50}\n"                               \
    "  tags:         {pooling: sum, max_values: 20}\n"                                             \
    "  country:      categorical\n"                                                                \
    "  os:           categorical\n"                                                                \
    "  hour:         {column: ts, transform: [hour]}\n"                                            \
    "  price:        {transform: [log1p, standardize]}\n"                                          \
    "  user_ctr_7d:  numeric\n"                                                                    \
    "  os_x_country: {cross: [os, country], buckets: 100000}\n"                                    \
    "tables: {user: {dim: 32}, item: {dim: 32}}\n"                                                 \
    "model: {type: " TYPE ", hidden: [512, 256, 128], dropout: 0.1}\n"                             \
    "train: {batch_size: 16384, clip_norm: 10}\n"                                                  \
    "checkpoint: {uri: \"s3://ml/feed/${day}\", every_steps: 2000}\n"                              \
    "resources: {servers: 8, workers: 4, gpus_per_worker: 1}\n"

static const char *const day[] = {"day=2026-05-02", NULL};

static void test_defaults(void **state)
{
    struct job *j = parse(FLIGHTS);
    assert_string_equal(j->name, "j");
    assert_string_equal(j->checkpoint.uri, "file:runs/j");
    assert_int_equal(j->seed, 1);
    assert_int_equal(j->data.format, FORMAT_CSV);
    assert_int_equal(j->data.train.count, 1);
    assert_string_equal(j->data.eval.items[0], "test.csv.gz");
    assert_int_equal(j->data.shuffle.kind, SHUFFLE_WINDOW);
    assert_int_equal(j->data.shuffle.window, 100000);
    assert_int_equal(j->data.csv.delimiter, ',');
    assert_int_equal(j->data.csv.null.count, 2);
    assert_string_equal(j->data.csv.null.items[1], "\\N");
    assert_int_equal(j->feature_count, 5);
    assert_int_equal(j->features[0].type, FEATURE_CATEGORICAL);
    assert_int_equal(j->features[0].missing, MISSING_OWN);
    assert_int_equal(j->features[0].min_count, 1);
    assert_string_equal(j->features[0].column, "carrier");
    assert_int_equal(j->features[0].line, 2);
    assert_int_equal(j->features[4].type, FEATURE_NUMERIC);
    assert_int_equal(j->features[4].missing, MISSING_NUMBER);
    assert_int_equal(j->features[4].transform_count, 2);
    assert_int_equal(j->features[4].transforms[1].kind, TRANSFORM_STANDARDIZE);
    assert_int_equal(j->model.dim, 16);
    assert_int_equal(j->model.classes, 1);
    assert_string_equal(j->optimizer.linear.type, "ftrl");
    assert_true(j->optimizer.linear.learning_rate == 0.1);
    assert_string_equal(j->optimizer.embedding.type, "adagrad");
    assert_true(j->optimizer.embedding.learning_rate == 0.05);
    assert_string_equal(j->optimizer.dense.type, "adam");
    assert_true(j->optimizer.dense.beta2 == 0.999);
    assert_int_equal(j->train.batch_size, 1024);
    assert_int_equal(j->train.ranks, 1);
    assert_int_equal(j->train.drain_every, 100);
    assert_true(j->eval.every_epoch);
    assert_int_equal(j->eval.metrics, 1u << METRIC_LOG_LOSS | 1u << METRIC_AUC);
    assert_false(j->early_stopping.enabled);
    assert_int_equal(j->checkpoint.memory_bytes, 256 << 20);
    assert_int_equal(j->checkpoint.timeout_ms, 300000);
    assert_int_equal(j->resources.shards, 2);
    assert_int_equal(strlen(j->hash), 64);
    job_destroy(j);
}

static void test_formats(void **state)
{
    struct job *j = parse(CRITEO);
    assert_int_equal(j->feature_count, 39);
    assert_string_equal(j->features[0].name, "I1");
    assert_int_equal(j->features[0].transforms[0].kind, TRANSFORM_LOG2_FLOOR);
    assert_int_equal(j->features[0].missing, MISSING_OWN);
    assert_string_equal(j->features[38].name, "C26");
    assert_int_equal(j->features[38].min_count, 4);
    job_destroy(j);

    j = parse(
        "data: {format: criteo, train: t}\nfeatures: {C*: {min_count: 3}, C1..C4: {min_count: 2}, "
        "C2: {buckets: 7}, I1: {transform: [sqrt]}, I2: categorical, x: {cross: [C1, C2]}}\n" MLP);
    assert_int_equal(j->feature_count, 40);
    assert_int_equal(j->features[0].transforms[0].kind, TRANSFORM_SQRT);
    assert_int_equal(j->features[1].type, FEATURE_CATEGORICAL);
    assert_int_equal(j->features[2].transform_count, 2); /* log1p, standardize: mlp */
    assert_int_equal(j->features[13].min_count, 2);      /* C1: the range beats the pattern */
    assert_int_equal(j->features[14].min_count, 1);      /* C2: its own name beats both */
    assert_int_equal(j->features[14].buckets, 7);
    assert_int_equal(j->features[17].min_count, 3); /* C5 */
    assert_null(j->features[39].column);
    job_destroy(j);

    j = parse("data: {format: libsvm, train: t}\nmodel: {type: lr}\n");
    assert_int_equal(j->feature_count, 1);
    assert_string_equal(j->features[0].name, "features");
    assert_int_equal(j->features[0].key, KEY_INTEGER);
    assert_true(j->features[0].multi_valued);
    assert_int_equal(j->features[0].value_weights, ':');
    job_destroy(j);

    j = parse("data: {format: libffm, train: t}\nfeatures: all\n" FM);
    assert_string_equal(j->features[0].name, "f");
    assert_string_equal(j->features[0].table, "features");
    job_destroy(j);

    j = parse("data: {format: idx, train: t}\n" MLP);
    assert_int_equal(j->features[0].type, FEATURE_VECTOR);
    assert_int_equal(j->features[0].length, 784);
    assert_int_equal(j->model.loss, LOSS_SOFTMAX);
    assert_int_equal(j->model.classes, 10);
    assert_int_equal(j->eval.metrics, 1u << METRIC_LOG_LOSS | 1u << METRIC_ACCURACY);
    job_destroy(j);

    j = parse(DATA "features: all\n" FM);
    assert_string_equal(j->features[0].name, "*");
    assert_true(j->features[0].is_all);
    job_destroy(j);
}

static void test_values(void **state)
{
    struct job *j = parse_with(FEED("csv", "mlp"), NULL, day);
    assert_string_equal(j->data.train.items[0], "s3://logs/impressions/dt=2026-05-02/");
    assert_string_equal(j->checkpoint.uri, "s3://ml/feed/2026-05-02");
    assert_int_equal(j->data.split.kind, SPLIT_TIME);
    assert_int_equal(j->data.split.eval_last_ms, 7200000);
    assert_int_equal(j->data.id.count, 1);
    assert_true(j->features[2].multi_valued);
    assert_int_equal(j->features[2].max_values, 50);
    assert_int_equal(j->features[6].type, FEATURE_NUMERIC);
    assert_string_equal(j->features[6].column, "ts");
    assert_int_equal(j->features[9].cross.count, 2);
    assert_int_equal(j->features[9].buckets, 100000);
    assert_int_equal(j->table_count, 2);
    assert_int_equal(j->tables[1].dim, 32);
    assert_int_equal(j->model.hidden.count, 3);
    assert_int_equal(j->train.ranks, 4);
    job_destroy(j);

    j = parse("data: {format: csv, train: t, label: {column: r, positive: \">= 4\"}}\n" FEATURES FM
              "optimizer: {linear: sgd, embedding: {learning_rate: 0.2}, dense: {type: rmsprop, "
              "rho: 0.8}}\n"
              "tables: {a: {optimizer: {learning_rate: 0.3}, init: {uniform: 0.5}, l2: 1}}\n"
              "eval: {every: 50, metrics: [auc, {gauc: user}]}\n");
    assert_string_equal(j->data.label, "r");
    assert_string_equal(j->data.positive.compare, ">=");
    assert_string_equal(j->data.positive.value, "4");
    assert_string_equal(j->optimizer.linear.type, "sgd");
    assert_true(j->optimizer.linear.learning_rate == 0.01);
    assert_string_equal(j->optimizer.embedding.type, "adagrad");
    assert_true(j->optimizer.embedding.learning_rate == 0.2);
    assert_true(j->optimizer.dense.beta2 == 0.8);
    assert_string_equal(j->tables[0].optimizer.type, "adagrad");
    assert_true(j->tables[0].optimizer.learning_rate == 0.3);
    assert_int_equal(j->tables[0].init.kind, INIT_UNIFORM);
    assert_int_equal(j->eval.every_steps, 50);
    assert_string_equal(j->eval.gauc_column, "user");
    job_destroy(j);

    const char *sets[] = {"model.hidden=[64, 32]", "train.max_steps=7", "early_stopping=~",
                          "features.[x.y]=numeric", NULL};
    const char *vars[] = {"dir=/a", NULL};
    j = parse_with("name: \"n-${dir2}\"\nvars: {dir2: b}\n"
                   "data: {format: csv, train: \"${dir}/${name}/$${x}\"}\n" FEATURES MLP
                   "early_stopping: {metric: bad}\n",
                   sets, vars);
    assert_int_equal(j->model.hidden.count, 2);
    assert_int_equal(j->train.max_steps, 7);
    assert_string_equal(j->features[3].name, "x.y");
    assert_string_equal(j->name, "n-b");
    assert_string_equal(j->data.train.items[0], "/a/n-b/${x}");
    job_destroy(j);
}

/* ---- text and hash -------------------------------------------------------------------------- */

static void check_round_trip(const char *text, const char *const *vars)
{
    struct job *first = parse_with(text, NULL, vars);
    struct str a = {0}, b = {0};
    job_write(first, &a);
    struct job_source source = {.what = "other.yaml", .text = a.data, .size = a.size};
    struct job *second = NULL;
    if (job_parse(&source, &second))
        fail_msg("%s\n%s", a.data, err_text());
    job_write(second, &b);
    assert_string_equal(a.data, b.data);
    assert_string_equal(first->hash, second->hash);
    assert_int_equal(job_resumable(first, second), 0);
    str_deinit(&a);
    str_deinit(&b);
    job_destroy(first);
    job_destroy(second);
}

static void test_round_trips(void **state)
{
    check_round_trip(FLIGHTS, NULL);
    check_round_trip(CRITEO, NULL);
    check_round_trip(FILMS, NULL);
    check_round_trip(FEED("csv", "mlp"), day);
    check_round_trip("data: {format: criteo, train: t}\n" MLP, NULL);
    check_round_trip("data: {format: libsvm, train: t}\nmodel: {type: lr}\n", NULL);
    check_round_trip("data: {format: libffm, train: t}\n" FM, NULL);
    check_round_trip("data: {format: idx, train: t}\n" MLP, NULL);
    check_round_trip(DATA "features: all\n" FM, NULL);
    check_round_trip(
        "data: {format: csv, train: ['a b', \"x: y\", 'null', '5'], label: {column: '#', positive: "
        "\"== yes\"}, csv: {delimiter: \"\\t\", escape: backslash, null: [], header: false, "
        "columns: "
        "[a, b, \"#\"]}, shuffle: none, bad_rows: 0.001, split: {by: hash, column: a, "
        "eval_fraction: "
        "0.05}}\n"
        "features: {a: {vocab: [\"true\", '1', \"q\\\"\\\\\\t\"]}, \"b.c\": {transform: [{clip: "
        "[-1, "
        "1e9]}, {standardize: [0.1, 3]}], missing: 1e-7}, \"user_*\": {value_weights: ':', "
        "pooling: "
        "sqrtn}, \"$${x}\": {vocab: \"$${y}\"}, v: {length: 3}}\n"
        "model: {type: mlp, hidden: [], dropout: 0.3333333333333333}\n"
        "optimizer: {dense: {type: sgd, schedule: {decay: step, decay_steps: 10}}}\n"
        "eval: {every: end, metrics: [ne, {gauc: 'a b'}]}\n"
        "early_stopping: {metric: ne, restore: last}\n"
        "train: {consistency: ssp, staleness: 2}\n",
        NULL);
}

static void test_feed_as_written(void **state)
{
    struct job *j = NULL;
    assert_int_equal(try(FEED("parquet", "dcn"), NULL, day, &j), ERR_UNSUPPORTED);
    assert_non_null(
        strstr(err_text(), "j.yaml:4:11: data.format: 'parquet' is not in this version"));
    assert_int_equal(try(FEED("parquet", "dcn"), NULL, NULL, &j), ERR_INPUT);
    assert_non_null(strstr(err_text(), "vars.day: has no value"));
}

static void test_hash(void **state)
{
    static const struct {
        const char *text;
        bool same; /* as BASE */
    } cases[] = {
        {"name: other\n" BASE, true},
        {BASE "train: {batch_size: 1024}\n", true},
        {BASE "train: {epochs: 7}\n", true},
        {BASE "optimizer: {embedding: {type: adagrad, learning_rate: 5.0e-2}}\n", true},
        {BASE "resources: {servers: 5, shards: 3, threads: 2, gpus_per_worker: 1}\n", true},
        {BASE "checkpoint: {every_steps: 7, memory: 1GiB, uri: \"s3://x\"}\n", true},
        {"model: {type: fm, dim: 16}\n" FEATURES DATA, true},
        {DATA "features: {a: ~, b: {type: categorical, missing: own}, x: {type: numeric}}\n" FM,
         true},
        {BASE "tables: {}\n", true},
        {BASE "seed: 2\n", false},
        {BASE "train: {ranks: 2}\n", false},
        {BASE "resources: {workers: 2}\n", false}, /* by way of ranks */
        {BASE "resources: {workers: 2}\ntrain: {ranks: 1}\n", true},
        {BASE "train: {drain_every: 50}\n", false},
        {BASE "optimizer: {dense: {learning_rate: 0.002}}\n", false},
        {DATA "features: {b: categorical, a: categorical, x: numeric}\n" FM, false},
        {DATA "features: {a: {min_count: 2}, b: categorical, x: numeric}\n" FM, false},
        {DATA FEATURES "model: {type: lr}\n", false},
        {"data: {format: csv, train: u.csv}\n" FEATURES FM, false},
    };
    struct job *base = parse(BASE);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job *j = parse(cases[i].text);
        if (!strcmp(j->hash, base->hash) != cases[i].same)
            fail_msg("%s hashes %s", cases[i].text, cases[i].same ? "differently" : "alike");
        job_destroy(j);
    }
    job_destroy(base);

#define COSINE "optimizer: {dense: {schedule: {decay: cosine}}}\n"
    struct job *one = parse(BASE COSINE "train: {epochs: 1}\n");
    struct job *two = parse(BASE COSINE "train: {epochs: 2}\n");
    assert_string_not_equal(one->hash, two->hash); /* the schedule counts to the end */
    job_destroy(one);
    job_destroy(two);
}

static void test_resumable(void **state)
{
    static const struct {
        const char *text, *error; /* NULL: may resume BASE */
    } cases[] = {
        {BASE "train: {epochs: 9, clip_norm: 1}\n", NULL},
        {BASE "optimizer: {dense: {learning_rate: 0.5}}\nresources: {servers: 4}\n", NULL},
        {BASE "eval: {every: 5}\nearly_stopping: ~\n", NULL},
        {BASE "train: {batch_size: 512}\n", "train.batch_size: was 1024 and is now 512"},
        {BASE "seed: 3\n", "seed: was 1 and is now 3"},
        {DATA FEATURES "model: {type: fm, dim: 8}\n", "model.dim: was 16 and is now 8"},
        {BASE "optimizer: {linear: sgd}\n", "optimizer.linear.type: was ftrl and is now sgd"},
        {DATA "features: {a: categorical, b: categorical, x: numeric, z: ~}\n" FM,
         "features.z.type: was not there and is now categorical"},
        {DATA "features: {a: categorical, x: numeric}\n" FM,
         "features.b.type: was categorical and is now not there"},
        {DATA "features: {a: categorical, b: categorical}\n" FM,
         "features.x.type: was numeric and is now not there"},
        {DATA "features: {b: categorical, a: categorical, x: numeric}\n" FM,
         "features.b.type: stands at another place"},
        {BASE "tables: {a: ~}\n", "tables.a.dim: was not there and is now 16"},
        {"data: {format: csv, train: other.csv}\n" FEATURES FM,
         "data.train: was [t.csv] and is now"},
    };
    struct job *base = parse(BASE);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job *j = parse(cases[i].text);
        enum err e = job_resumable(base, j);
        assert_int_equal(e, cases[i].error ? ERR_REFUSED : 0);
        if (e && !strstr(err_text(), cases[i].error))
            fail_msg("%s\nnot: %s", err_text(), cases[i].error);
        job_destroy(j);
    }
    job_destroy(base);
}

/* The table of optimizer types that servers use is another one: each type here must be there. */
static void test_optimizer_types(void **state)
{
    static const char *const types[] = {"sgd", "momentum", "adagrad", "adam", "rmsprop", "ftrl"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char text[512];
        snprintf(text, sizeof text, "%soptimizer: {linear: %s}\n", BASE, types[i]);
        check_round_trip(text, NULL);
        assert_true(optimizer_slot_count(types[i]) <= 2);
    }
}

/* What another type of model would use is passed over, and no part of the job's identity. */
static void test_settings_of_other_models(void **state)
{
    static const char *const to_lr[] = {"model.type=lr", NULL};
    struct job *plain = parse("data: {format: libsvm, train: t}\nmodel: {type: lr}\n");
    struct job *switched = parse_with("data: {format: libsvm, train: t}\n"
                                      "model: {type: mlp, hidden: [8], dropout: 0.5}\n",
                                      to_lr, NULL);
    assert_int_equal(switched->model.type, MODEL_LR);
    assert_string_equal(plain->hash, switched->hash);
    job_destroy(plain);
    job_destroy(switched);
}

static void test_names(void **state)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++)
        assert_non_null(metric_name((enum metric_kind)i));
    assert_string_equal(metric_name(METRIC_OBJECTIVE), "objective");
    assert_string_equal(metric_name(METRIC_CALIBRATION), "calibration");
    assert_true(metric_higher_is_better(METRIC_AUC));
    assert_false(metric_higher_is_better(METRIC_LOG_LOSS));
    assert_string_equal(data_format_name(FORMAT_IDX), "idx");
    assert_string_equal(consistency_name(CONSISTENCY_ASP), "asp");
    job_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_of_other_models),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_feed_as_written),
        cmocka_unit_test(test_resumable),
        cmocka_unit_test(test_optimizer_types),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
