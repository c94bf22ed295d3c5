/*
 * Goal: a wrong job file is refused with file, line, column, setting, value and what would be
 * right; what this version does not have is refused by name. Method: a table of texts and of the
 * error expected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/job.h"

#define DATA     "data: {format: csv, train: t.csv}\n"
#define FEATURES "features: {a: categorical, b: categorical, x: numeric}\n"
#define FM       "model: {type: fm}\n"
#define MLP      "model: {type: mlp}\n"
#define BASE     DATA FEATURES FM
#define OUTPUTS(list)                                                                              \
    DATA FEATURES                                                                                  \
        "model: {layers: [{name: a, type: linear, in: dense, units: 1}], outputs: [" list "]}\n"
#define LAYERS(list) DATA FEATURES "model: {layers: [" list "]}\n"

static enum err try(const char *text, const char *const *sets, const char *const *vars,
                    struct job **out)
{
    struct job_source source = {
        .what = "jobs/j.yaml", .text = text, .size = strlen(text), .sets = sets, .vars = vars};
    return job_parse(&source, out);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static const struct bad_case {
    const char *text, *error;
    enum err code; /* 0: ERR_INPUT */
} bad_cases[] = {
    /* form */
    {"- a\n", "j.yaml:1:1: a job is a map of settings", 0},
    {"", "jobs/j.yaml: data.format is required; give one of csv, criteo, libsvm, libffm, idx", 0},
    {"data: {format: csv}\nmodel: {type: lr}\n", "data.train is required; give a path or a list",
     0},
    {DATA FEATURES, "j.yaml: model.type is required; give one of lr, fm, mlp, ffm", 0},
    {BASE "train: 5\n", "j.yaml:4:8: train: is a group of settings", 0},
    {BASE "train: {batch_size: [1]}\n", "4:21: train.batch_size: a list is not a single value", 0},
    /* names */
    {BASE "trian: {epochs: 1}\n", "4:8: trian: unknown setting; did you mean 'train'?", 0},
    {BASE "train: {batchsize: 1}\n",
     "4:20: train.batchsize: unknown setting; did you mean 'batch_size'? it has batch_size, epochs",
     0},
    {BASE "train:\n  epohcs: 1\n", "5:11: train.epohcs: unknown setting; did you mean 'epochs'", 0},
    {BASE "resources: {zzzzzzzzz: 1}\n",
     "resources.zzzzzzzzz: unknown setting; it has servers, workers", 0},
    {DATA "features: {a: {vocabulary: [x]}}\n" FM, "2:28: features.a.vocabulary: unknown", 0},
    {BASE "tables: {a: {dims: 4}}\n", "4:20: tables.a.dims: unknown setting; did you mean 'dim'",
     0},
    {BASE "optimizer: {dens: {type: sgd}}\n",
     "optimizer.dens: unknown setting; did you mean 'dense'", 0},
    {DATA FEATURES "model: {type: fm, hiden: [8]}\n", "3:26: model.hiden: unknown setting", 0},
    {"data: {format: libsvm, train: t, csv: {header: false}}\nmodel: {type: lr}\n",
     "1:39: data.csv: a job of this format and model has no such setting", 0},
    {BASE "train: {epochs: 1, epochs: 2}\n", "4:28: 'epochs' is given twice", 0},
    /* values */
    {BASE "train: {batch_size: 0}\n",
     "jobs/j.yaml:4:21: train.batch_size: value '0' is below 1; give a whole number from 1 to "
     "16777216",
     0},
    {BASE "train: {batch_size: -3}\n", "value '-3' is below 1; give", 0},
    {BASE "train: {batch_size: 16777217}\n", "value '16777217' is above 16777216", 0},
    {BASE "train: {batch_size: 1.5}\n", "value '1.5' is not a whole number", 0},
    {BASE "train: {batch_size: many}\n", "value 'many' is not a whole number", 0},
    {BASE "train: {batch_size: \"64\"}\n", "value '64' is text, being in quotes", 0},
    {BASE "train: {batch_size: ~}\n", "train.batch_size: value '~' is nothing", 0},
    {BASE "train: {batch_size: 99999999999999999999}\n", "is not a whole number", 0},
    {BASE "train: {clip_norm: 0}\n",
     "train.clip_norm: value '0' is not above 0; give a number above", 0},
    {BASE "train: {precision: float16}\n",
     "train.precision: value 'float16' is unknown; did you mean 'float32'? give one of float32", 0},
    {BASE "train: {clip_norm: nan}\n", "value 'nan' is not a number", 0},
    {BASE "train: {pipeline_depth: 65}\n", "value '65' is above 64", 0},
    {BASE "train: {ranks: 1025}\n", "value '1025' is above 1024", 0},
    {BASE "eval: {progressive: yes}\n", "value 'yes' is neither true nor false; give true or false",
     0},
    {BASE "train: {consistency: bps}\n",
     "train.consistency: value 'bps' is unknown; did you mean 'bsp'? give one of bsp, ssp, asp", 0},
    {BASE "checkpoint: {timeout: 5}\n",
     "checkpoint.timeout: value '5' lacks its unit; give a duration", 0},
    {BASE "checkpoint: {timeout: 5 parsecs}\n", "value '5 parsecs' has an unknown unit", 0},
    {BASE "checkpoint: {timeout: fast}\n", "value 'fast' does not begin with a number", 0},
    {BASE "checkpoint: {timeout: 1ms}\n", "is below 1000", 0},
    {BASE "checkpoint: {timeout: 100d}\n", "is longer than 49 days", 0},
    {BASE "checkpoint: {memory: 1.3B}\n", "is not a whole number of the smallest unit", 0},
    {BASE "checkpoint: {uri: ''}\n", "checkpoint.uri: value '' is empty", 0},
    {BASE "name: 'a b'\n", "j.yaml:4:7: name: value 'a b' is no name; give up to 128 letters", 0},
    {BASE "name: ../x\n", "name: value '../x' is no name", 0},
    {BASE "eval: {every: never}\n",
     "eval.every: value 'never' is not a whole number; give epoch, end", 0},
    {BASE "eval: {metrics: [auk]}\n", "eval.metrics: value 'auk' is unknown; did you mean 'auc'",
     0},
    {BASE "eval: {metrics: []}\n", "eval.metrics: a list is empty", 0},
    {BASE "eval: {metrics: gauc}\n", "value 'gauc' lacks its column", 0},
    {BASE "eval: {metrics: [{auc: x}]}\n", "eval.metrics.auc: value 'x' stands at an unknown name",
     0},
    {DATA FEATURES "model: {type: mlp, hidden: 64}\n", "model.hidden: value '64' is not a list", 0},
    {DATA FEATURES "model: {type: deepfm, hidden: [64], loss: softmax, classes: 3}\n",
     "model.loss: is softmax, which deepfm does not have", 0},
    {DATA FEATURES "model: {type: dcn, structure: both}\n",
     "model.structure: value 'both' is unknown; give one of stacked", 0},
    /* layers */
    {DATA FEATURES "model: {type: mlp, layers: []}\n",
     "3:28: model.layers: and model.type mlp are both given; keep one", 0},
    {LAYERS("3"), "model.layers[0]: is not a map {name: …", 0},
    {LAYERS("{name: a}"), "3:18: model.layers.a: has no type; give type:", 0},
    {LAYERS("{type: mlp, in: dense, hidden: [3]}"), "model.layers[0].name is required", 0},
    {LAYERS("{name: a, type: deep}"),
     "model.layers.a.type: value 'deep' is unknown; give one of linear", 0},
    {LAYERS("{name: a, type: mlp, in: dense}"), "model.layers.a.hidden is required", 0},
    {LAYERS("{name: a, type: linear, in: dense, units: 0}"),
     "model.layers.a.units: value '0' is below 1", 0},
    {LAYERS("{name: a, type: linear, in: dense, hidden: [3]}"),
     "model.layers.a.hidden: a layer of type linear has no such setting; it has name, type, in, "
     "units",
     0},
    {LAYERS("{name: wide, type: linear, in: dense, units: 1}"),
     "model.layers.wide: 'wide' is the name of an input", 0},
    {LAYERS("{name: a b, type: linear, in: dense, units: 1}"), "has no name of 1 to 40 letters", 0},
    /* outputs */
    {OUTPUTS("{label: b}"), "model.outputs[0].from is required", 0},
    {OUTPUTS("{from: a, loss: softmax}"), "model.outputs[0].loss: value 'softmax' is unknown", 0},
    {OUTPUTS("{from: a, weight: 0}"), "model.outputs[0].weight: value '0' is not above 0", 0},
    {OUTPUTS("{from: a}, {from: a}"), "model.outputs: has two outputs from 'a'", 0},
    {OUTPUTS("{from: a}") "eval: {output: b}\n", "eval.output: is 'b', which is no output", 0},
    {LAYERS("{name: a, type: fm, in: embeddings}, {name: a, type: fm, in: embeddings}"),
     "model.layers.a: there is a layer 'a' before it", 0},
    {DATA FEATURES "model: {type: mlp, hidden: [64, 0]}\n",
     "3:33: model.hidden: value '0' is below 1", 0},
    {"data: {format: csv, train: []}\n" FEATURES FM, "1:28: data.train: is empty", 0},
    {"data: {format: csv, train: [a, '']}\n" FEATURES FM, "data.train: has an empty path", 0},
    {"data: {format: csv, train: {a: b}}\n" FEATURES FM, "data.train: a map is not a list", 0},
    {"data: {format: csv, train: t, shuffle: {size: 5}}\n" FEATURES FM,
     "data.shuffle.size: value '5' stands at an unknown name; give none, full or {window: N}", 0},
    {"data: {format: csv, train: t, shuffle: {window: 0}}\n" FEATURES FM, "value '0' is below 1",
     0},
    {"data: {format: csv, train: t, shuffle: some}\n" FEATURES FM, "value 'some' is unknown", 0},
    {"data: {format: csv, train: t, label: {column: y, positive: '>= many'}}\n" FEATURES FM,
     "data.label: value '>= many' compares the order of what is not a number", 0},
    {"data: {format: csv, train: t, label: {column: y, positive: '>='}}\n" FEATURES FM,
     "value '>=' compares with nothing", 0},
    {"data: {format: csv, train: t, csv: {delimiter: ';;'}}\n" FEATURES FM,
     "data.csv.delimiter: value ';;' is not one character", 0},
    {BASE "optimizer: {dense: {type: adma}}\n",
     "4:27: optimizer.dense.type: value 'adma' is unknown; did you mean 'adam'", 0},
    {BASE "optimizer: {dense: {type: sgd, beta1: 0.9}}\n",
     "4:39: optimizer.dense.beta1: optimizer sgd has no such setting; it has type, learning_rate",
     0},
    {BASE "optimizer: {embedding: {l1: 0.1}}\n", "optimizer adagrad has no such setting", 0},
    {BASE "optimizer: {dense: {schedule: {decay: step}}}\n", "schedule.decay is step without", 0},
    {BASE "tables: {a: {init: {gauss: 1}}}\n", "tables.a.init: a map names an unknown kind", 0},
    {BASE "tables: {a: {init: {normal: -1}}}\n", "tables.a.init: value '-1' is not above 0", 0},
    /* later */
    {"data: {format: parquet, train: t}\n" FEATURES FM,
     "1:16: data.format: 'parquet' is not in this version; give one of csv", ERR_UNSUPPORTED},
    {"data: {format: tfrecord, train: t}\n" FEATURES FM, "'tfrecord' is not in", ERR_UNSUPPORTED},
    {BASE "tables: {a: {admit_after: 3}}\n", "tables.a.admit_after: this", ERR_UNSUPPORTED},
    {BASE "tables: {a: {expire_after: 3d}}\n", "tables.a.expire_after: this", ERR_UNSUPPORTED},
    /* features */
    {DATA FM, "features: format csv needs them; name columns", 0},
    {DATA "features: [a, b]\n" FM, "2:11: features: is a list; give a map", 0},
    {DATA "features: everything\n" FM,
     "value 'everything' is unknown; give a map of features, or all", 0},
    {DATA "features: {a: categorial}\n" FM,
     "2:15: features.a: value 'categorial' is unknown; did you mean 'categorical'", 0},
    {DATA "features: {a: [x]}\n" FM, "2:15: features.a: is a list", 0},
    {DATA "features: {C5..C1: ~}\n" FM, "'C5..C1' is not a range", 0},
    {DATA "features: {C1..D5: ~}\n" FM, "'C1..D5' is not a range", 0},
    {DATA "features: {C1..C99999: ~}\n" FM, "is not a range of at most 4096", 0},
    {DATA "features: {C1..C3: ~, C2..C4: ~}\n" FM,
     "'C1..C3' and 'C2..C4' both declare the feature 'C2'", 0},
    {DATA "features: {a: {type: numeric, vocab: [x]}}\n" FM,
     "2:38: features.a.vocab: a numeric feature has no such setting; it has type, column, missing",
     0},
    {DATA "features: {a: {type: numeric, missing: own}}\n" FM,
     "features.a.missing: value 'own' is not a number; give a number or error", 0},
    {DATA "features: {a: {missing: lots}}\n" FM, "value 'lots' is unknown; give one of own, zero",
     0},
    {DATA "features: {a: {bucketize: [1, 1]}}\n" FM,
     "2:31: features.a.bucketize: value '1' is not above", 0},
    {DATA "features: {a: {bucketize: []}}\n" FM, "features.a.bucketize: a list is empty", 0},
    {DATA "features: {a: {transform: [log1q]}}\n" FM,
     "value 'log1q' is unknown; did you mean 'log1p'", 0},
    {DATA "features: {a: {transform: [clip]}}\n" FM, "value 'clip' lacks its two numbers", 0},
    {DATA "features: {a: {transform: [{clip: [3, 1]}]}}\n" FM, "value '1' is not above the lower",
     0},
    {DATA "features: {a: {transform: [{standardize: [0, 0]}]}}\n" FM,
     "no standard deviation above 0", 0},
    {DATA "features: {a: {transform: [{log1p: [3, 1]}]}}\n" FM, "names no transform that has", 0},
    {DATA "features: {a: {transform: [hour, log1p]}}\n" FM,
     "value 'hour' makes it categorical, so it must", 0},
    {DATA "features: {a: {transform: [hour], bucketize: [3]}}\n" FM, "both make it categorical", 0},
    {DATA "features: {a: {key: integer, min_count: 2}}\n" FM, "so min_count and vocab do not fit",
     0},
    {DATA "features: {a: ~, b: {cross: [a]}}\n" FM, "features.b: crosses 1 features; give two or",
     0},
    {DATA "features: {a: ~, b: {cross: [a, c]}}\n" FM, "crosses 'c', which is no feature", 0},
    {DATA "features: {a: ~, b: {cross: [a, a]}}\n" FM, "crosses 'a' with itself", 0},
    {DATA "features: {a: ~, x: numeric, b: {cross: [a, x]}}\n" FM, "'x', which is not categorical",
     0},
    {DATA "features: {a: ~, t: {pooling: sum}, b: {cross: [a, t]}}\n" FM,
     "'t', which is multi-valued", 0},
    {DATA "features: {a: ~, b: {cross: [a, a], vocab: [x]}}\n" FM, "a cross has no such setting",
     0},
    {DATA "features: {a: {column: label}}\n" FM, "features.a: column 'label' is the label", 0},
    {DATA "features: {a: {type: vector}}\n" MLP, "a vector needs its length", 0},
    {DATA "features: {a: {length: 8}}\n" FM, "is a vector, which lr, fm and ffm do not take", 0},
    {DATA "features: {a: {separator: ','}}\n" MLP, "which mlp pools first; give pooling", 0},
    {DATA "features: {a: {value_weights: '|'}}\n" FM, "separator and value_weights are both '|'",
     0},
    {"data: {format: criteo, train: t}\nfeatures: {C27: ~}\n" FM,
     "2:17: features.C27: format criteo has no column 'C27'; it has I1..I13 and C1..C26", 0},
    {"data: {format: criteo, train: t}\nfeatures: {D*: ~}\n" FM, "'D*' matches no column", 0},
    {"data: {format: libsvm, train: t}\nfeatures: {a: ~}\n" FM,
     "format libsvm has one feature, 'features'; 'a' is not there", 0},
    /* what must fit together */
    {"data: {format: libsvm, train: t, weight: w}\n" FM,
     "1:42: data.weight: names a column, and format", 0},
    {"data: {format: criteo, train: t, label: y}\n" FM,
     "data.label: is 'y', but format criteo has a", 0},
    {"data: {format: csv, train: t, csv: {header: false}}\n" FEATURES FM,
     "j.yaml: data.csv.columns: is missing", 0},
    {"data: {format: csv, train: t, csv: {columns: [a]}}\n" FEATURES FM,
     "that the header names too", 0},
    {"data: {format: csv, train: t, split: {eval_fraction: 0.1}}\n" FEATURES FM, "lacks 'by'", 0},
    {"data: {format: csv, train: t, split: {by: hash, eval_fraction: 0.1}}\n" FEATURES FM,
     "1:38: data.split: by: hash needs the column", 0},
    {"data: {format: csv, train: t, split: {by: hash, column: a}}\n" FEATURES FM,
     "by: hash needs eval_fraction", 0},
    {"data: {format: csv, train: t, split: {by: time, eval_last: 2h}}\n" FEATURES FM,
     "by: time needs the column of times; give data.time", 0},
    {"data: {format: csv, train: t, time: s, split: {by: time}}\n" FEATURES FM,
     "by: time needs one of eval_last and eval_fraction", 0},
    {"data: {format: csv, train: t, eval: e, split: {by: hash, column: a, eval_fraction: "
     ".1}}\n" FEATURES FM,
     "data.split: and data.eval are both given", 0},
    {DATA FEATURES "model: {type: lr, loss: softmax}\n",
     "model.loss: is softmax, which lr does not have; use mlp", 0},
    {DATA FEATURES "model: {type: mlp, loss: softmax}\n",
     "j.yaml: model.classes: is needed by softmax", 0},
    {DATA FEATURES "model: {type: lr, classes: 3}\n",
     "3:28: model.classes: is 3, and only loss softmax", 0},
    {BASE "train: {consistency: ssp}\n", "train.staleness: is needed by consistency ssp", 0},
    {BASE "train: {staleness: 3}\n", "train.staleness: is 3, and only consistency ssp has it", 0},
    {BASE "train: {consistency: asp, pipeline_depth: 2}\n",
     "4:43: train.pipeline_depth: is 2, and only", 0},
    {BASE "train: {batch_size: 3}\nresources: {workers: 4}\n",
     "4:21: train.batch_size: is 3, less than one example for each of 4 ranks", 0},
    {BASE "eval: {metrics: [rmse]}\n",
     "eval.metrics: has rmse, which loss logistic does not have; it has", 0},
    {BASE "early_stopping: {metric: auc}\n", "4:17: early_stopping: has nothing to evaluate", 0},
    {BASE "early_stopping: {patience: 3}\n", "early_stopping: lacks the metric to watch", 0},
    {"data: {format: csv, train: t, eval: e}\n" FEATURES FM "early_stopping: {metric: accuracy}\n",
     "4:26: early_stopping.metric: watches accuracy, which eval.metrics does not have; it has "
     "log_loss",
     0},
    {BASE "tables: {user: {dim: 16}}\n", "4:16: tables.user: is read by no feature", 0},
    {BASE "tables: {a: {dim: 4}}\n", "tables.a: dim is 4 and model.dim 16; fm multiplies", 0},
    {BASE "resources: {servers: 1000}\n", "1000 servers with 2 shards each make 2000; at most 1024",
     0},
    /* variables */
    {"vars: {day: }\n" BASE, "1:13: vars.day: has no value; give --var day=VALUE", 0},
    {"vars: {day: [1]}\n" BASE, "vars.day: is not one value", 0},
    {"vars: {name: x}\n" BASE, "vars.name: ${name} is the job's name", 0},
    {"vars: 5\n" BASE, "vars: is not a map", 0},
    {"data: {format: csv, train: \"x/${dya}\"}\n" FEATURES FM,
     "1:28: unknown variable '${dya}'; declare it under vars: or give --var dya=VALUE", 0},
    {"name: \"x${name}\"\n" BASE, "1:7: unknown variable '${name}'", 0},
};

static void test_refused(void **state)
{
    size_t count = sizeof bad_cases / sizeof *bad_cases, failed = 0;
    assert_true(count >= 40);
    for (size_t i = 0; i < count; i++) {
        struct job *j = NULL;
        enum err expected = bad_cases[i].code ? bad_cases[i].code : ERR_INPUT;
        enum err e = try(bad_cases[i].text, NULL, NULL, &j);
        if (e == expected && !j && strstr(err_text(), bad_cases[i].error))
            continue;
        failed++;
        print_error("%s-> %s: %s\nnot: %s\n\n", bad_cases[i].text, err_name(e),
                    e ? err_text() : "no error", bad_cases[i].error);
        job_destroy(j);
    }
    assert_int_equal(failed, 0);
}

static void test_refused_arguments(void **state)
{
    static const struct {
        const char *text, *set, *var, *error;
    } cases[] = {
        {BASE, "train.epochs", NULL, "--set: 'train.epochs' is not of the form"},
        {BASE, "train.epoch=3", NULL, "--set: train.epoch: unknown setting; did you mean 'epochs'"},
        {BASE, "train.epochs=0", NULL, "--set: train.epochs: value '0' is below 1"},
        {BASE, "train.epochs=[1", NULL, "--set train.epochs:2:1: not valid YAML"},
        {BASE, "features.a.min_count=2", NULL,
         "'features.a' is not a map of settings but categorical"},
        {BASE, NULL, "x", "--var: 'x' is not of the form name=value"},
        {BASE, NULL, "name=x", "--var: 'name' is the job's name; use --set name="},
        {"vars: {day: 1}\n" BASE, NULL, "dya=2",
         "--var: the job has no variable 'dya'; did you mean 'day'"},
        {BASE, NULL, "zone=2", "--var: the job has no variable 'zone'; '${zone}' stands nowhere"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *sets[] = {cases[i].set, NULL}, *vars[] = {cases[i].var, NULL};
        struct job *j = NULL;
        assert_int_equal(try(cases[i].text, sets, vars, &j), ERR_INPUT);
        if (!strstr(err_text(), cases[i].error))
            fail_msg("%s\nnot: %s", err_text(), cases[i].error);
    }
    const char *twice[] = {"x=1", "x=2", NULL};
    struct job *j = NULL;
    assert_int_equal(try(BASE, NULL, twice, &j), ERR_INPUT);
    assert_non_null(strstr(err_text(), "'x' is given twice"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
