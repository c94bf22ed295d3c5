/*
 * settings_table.c - the rows of a job. Their order is the canonical one: of `config show`, of the
 * job's hash, of docs/job-file.md.
 */
#include "common/settings_table.h"

#include <math.h>

#include "common/limits.h"
#include "common/settings_codec.h"

#define AT(member) .offset = offsetof(struct job, member)
#define CODEC(name)                                                                                \
    .type = SETTING_CUSTOM, .read = codec_##name##_read, .write = codec_##name##_write
#define NAMES(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
#define STEPS_MAX 1e12

#define LR        (1u << MODEL_LR)
#define FM        (1u << MODEL_FM)
#define MLP       (1u << MODEL_MLP)
#define FFM       (1u << MODEL_FFM)
#define WIDE_DEEP (1u << MODEL_WIDE_DEEP)
#define DEEPFM    (1u << MODEL_DEEPFM)
#define DCN       (1u << MODEL_DCN)
#define DLRM      (1u << MODEL_DLRM)
#define LAYERS    (1u << MODEL_LAYERS)
#define HIDDEN    (MLP | WIDE_DEEP | DEEPFM | DCN | DLRM)
#define CSV       JOB_APPLIES_CSV

const struct setting job_settings[] = {
    {"name", SETTING_TEXT, AT(name), .initial = "<file stem>", .no_bits = true,
     .form = "a name of letters, digits, '.', '_' and '-'",
     .help = "Names the run in the registry, in logs and in checkpoint paths; ${name} in other "
             "settings."},
    {"seed", SETTING_U64, AT(seed), .initial = "1", .change = CHANGE_NEVER,
     .help = "Of the order of examples, initial values and dropout."},
    {"vars", SETTING_GROUP, .initial = "{}", .no_bits = true,
     .help = "Variables: ${x} in any string, --var x=VALUE on the command line. One without a "
             "value must be given there."},

    {"data.format", SETTING_CHOICE, AT(data.format), .initial = "<required>",
     .change = CHANGE_NEVER, .choices = data_format_names, .later = NAMES("tfrecord", "parquet"),
     .help = "What the files are. (later) tfrecord, parquet."},
    {"data.train", SETTING_LIST, AT(data.train), .initial = "<required>", .change = CHANGE_NEVER,
     .form = "a path or a list of paths",
     .help = "Paths, globs or directories (which need _SUCCESS when they hold part-*); "
             "key=value levels are columns. idx takes the images file; its labels file is found "
             "by name."},
    {"data.eval", SETTING_LIST, AT(data.eval), .initial = "~", .change = CHANGE_ON_RESUME,
     .form = "a path or a list of paths",
     .help = "What evaluations read, if not a split of data.train."},
    {"data.split.by", SETTING_CHOICE, AT(data.split.kind), .initial = "none",
     .change = CHANGE_NEVER, .choices = NAMES("none", "hash", "time"),
     .help = "Keeps a part of data.train for evaluation: by the hash of a column, or the last "
             "by data.time."},
    {"data.split.column", SETTING_TEXT, AT(data.split.column), .initial = "~",
     .change = CHANGE_NEVER, .help = "by: hash. Rows with equal values stay on one side."},
    {"data.split.eval_fraction", SETTING_F64, AT(data.split.eval_fraction), .initial = "~",
     .change = CHANGE_NEVER, .max = 0.9, .exclusive_min = true,
     .help = "How much is kept for evaluation."},
    {"data.split.eval_last", SETTING_MS64, AT(data.split.eval_last_ms), .initial = "~",
     .change = CHANGE_NEVER, .help = "by: time. The last so much time is kept for evaluation."},
    {"data.label", AT(data), CODEC(label), .initial = "label", .change = CHANGE_NEVER,
     .form = "a column, or {column: NAME, positive: \">= 4\"}",
     .help = "Column of the label. With `positive` the label is 1 where the comparison holds, "
             "else 0. The formats criteo, libsvm, libffm and idx have their own."},
    {"data.weight", SETTING_TEXT, AT(data.weight), .initial = "~", .change = CHANGE_NEVER,
     .help = "Column of the example's weight; 0 is read and not trained."},
    {"data.time", SETTING_TEXT, AT(data.time), .initial = "~", .change = CHANGE_NEVER,
     .help = "Column of the example's time: epoch seconds or milliseconds, or ISO 8601."},
    {"data.id", SETTING_LIST, AT(data.id), .initial = "~", .no_bits = true,
     .help = "Columns that predict copies to its output."},
    {"data.shuffle", AT(data), CODEC(shuffle), .initial = "{window: 100000}",
     .change = CHANGE_NEVER, .min = 1, .max = 1e9, .form = "none, full or {window: N}",
     .help = "The order of an epoch: as in the files, a permutation of everything, or one "
             "within windows of N examples."},
    {"data.bad_rows", SETTING_F64, AT(data.bad_rows), .initial = "0", .max = 1, .no_bits = true,
     .change = CHANGE_ON_RESUME,
     .help = "Fraction of rows that may be skipped for being malformed. They are counted; the "
             "first ten are shown with file and line."},
    {"data.csv.header", SETTING_BOOL, AT(data.csv.header), .applies = CSV, .initial = "true",
     .change = CHANGE_NEVER, .help = "The first line of each file names the columns."},
    {"data.csv.columns", SETTING_LIST, AT(data.csv.columns), .applies = CSV, .initial = "~",
     .change = CHANGE_NEVER, .help = "Names of the columns, for files without a header."},
    {"data.csv.delimiter", SETTING_CHAR, AT(data.csv.delimiter), .applies = CSV, .initial = "\",\"",
     .change = CHANGE_NEVER, .form = "one character; \"\\t\" is the tab",
     .help = "Between fields."},
    {"data.csv.escape", SETTING_CHOICE, AT(data.csv.escape), .applies = CSV, .initial = "double",
     .change = CHANGE_NEVER, .choices = NAMES("double", "backslash"),
     .help = "How a quote stands within quotes: doubled (RFC 4180), or after a backslash (Spark)."},
    {"data.csv.null", SETTING_LIST, AT(data.csv.null), .applies = CSV,
     .initial = "[\"\", \"\\\\N\"]", .change = CHANGE_NEVER,
     .help = "Fields that mean a missing value."},

    {"features", SETTING_GROUP, .initial = "<by format>",
     .help = "Features by name, in order; see Features."},
    {"tables", SETTING_GROUP, .initial = "{}", .help = "Embedding tables by name; see Tables."},

    {"model.type", SETTING_CHOICE, AT(model.type), .initial = "<layers, if those are given>",
     .change = CHANGE_NEVER, .choices = model_type_names,
     .help = "Linear (logistic) regression, (field-aware) factorization machine, multi-layer "
             "perceptron, or a model of both kinds; docs/models.md has their formulas. Each stands "
             "for a list of layers, which `paramctl config show --expand` prints."},
    {"model.dim", SETTING_U32, AT(model.dim), .initial = "4", .min = 1, .max = ROW_DIM_MAX - 1,
     .change = CHANGE_NEVER, .applies = FFM,
     .help = "Length of a value's vector for one field; it has one for each."},
    {"model.dim", SETTING_U32, AT(model.dim), .initial = "16", .min = 1, .max = ROW_DIM_MAX - 1,
     .change = CHANGE_NEVER, .applies = LR | FM | HIDDEN | LAYERS,
     .help = "Length of embedding vectors; lr has none."},
    {"model.loss", SETTING_CHOICE, AT(model.loss), .initial = "<logistic; idx: softmax>",
     .change = CHANGE_NEVER, .choices = NAMES("logistic", "squared", "softmax"),
     .help =
         "What training minimizes. softmax is for mlp, dcn, dlrm and layers. Each of model.outputs "
         "has its own."},
    {"model.classes", SETTING_U32, AT(model.classes), .initial = "<softmax of idx: 10; else 1>",
     .change = CHANGE_NEVER, .min = 1, .max = 65536,
     .help = "Outputs of softmax: labels are 0 … classes-1."},
    {"model.hidden", AT(model.hidden), CODEC(widths), .initial = "[256, 128]", .applies = HIDDEN,
     .change = CHANGE_NEVER, .min = 1, .max = 65536, .form = "a list of widths from 1 to 65536",
     .help = "Widths of the hidden layers (dlrm: of the top network); [] leaves them out."},
    {"model.activation", SETTING_CHOICE, AT(model.activation), .initial = "relu", .applies = HIDDEN,
     .change = CHANGE_NEVER, .choices = NAMES("none", "relu", "tanh", "sigmoid"),
     .help = "Of the hidden layers."},
    {"model.dropout", SETTING_F64, AT(model.dropout), .initial = "0", .max = 0.99,
     .applies = HIDDEN, .change = CHANGE_ON_RESUME,
     .help = "Fraction of hidden units switched off in a training step."},
    {"model.layer_norm", SETTING_BOOL, AT(model.layer_norm), .initial = "false", .applies = HIDDEN,
     .change = CHANGE_NEVER, .help = "Layer normalization before each activation."},
    {"model.cross_layers", SETTING_U32, AT(model.cross_layers), .initial = "3", .min = 1, .max = 64,
     .applies = DCN, .change = CHANGE_NEVER, .help = "Cross layers."},
    {"model.low_rank", SETTING_U32, AT(model.low_rank), .initial = "0", .max = 65536,
     .applies = DCN, .change = CHANGE_NEVER,
     .help = "Of the cross layers' matrices; 0: full ones."},
    {"model.structure", SETTING_CHOICE, AT(model.structure), .initial = "stacked", .applies = DCN,
     .change = CHANGE_NEVER, .choices = NAMES("stacked", "parallel"),
     .help = "The hidden layers read the cross layers' output, or stand beside them."},
    {"model.wide", SETTING_BOOL, AT(model.wide), .initial = "false", .applies = DCN | DLRM,
     .change = CHANGE_NEVER, .help = "Adds the sum of the linear terms to the output."},
    {"model.bottom", AT(model.bottom), CODEC(widths), .initial = "[64]", .applies = DLRM,
     .change = CHANGE_NEVER, .min = 1, .max = 65536, .form = "a list of widths from 1 to 65536",
     .help = "Widths of the hidden layers over the dense input; one of model.dim follows."},
    {"model.normalize", SETTING_CHOICE, AT(model.normalize), .initial = "none",
     .applies = LR | FM | FFM | LAYERS, .change = CHANGE_NEVER,
     .choices = NAMES("none", "instance"),
     .help =
         "instance: an example's values divided by their Euclidean norm, libffm's habit. Of terms "
         "only."},
    {"model.l2", SETTING_F64, AT(model.l2), .initial = "0", .max = INFINITY,
     .change = CHANGE_ON_RESUME, .help = "L2 penalty of rows that the step touches."},
    {"model.layers", AT(model), CODEC(layers), .initial = "[]", .applies = LAYERS,
     .change = CHANGE_NEVER, .form = "a list of layers {name: NAME, type: TYPE, in: [NAME, …], …}",
     .help = "A model composed of layers, in order; the last one gives the output. See Layers."},
    {"model.outputs", AT(model), CODEC(outputs), .initial = "[]", .applies = LAYERS,
     .change = CHANGE_NEVER, .form = "a list of outputs {from: LAYER, label: COLUMN, …}",
     .help = "Several things to learn, each from a layer of one unit; see Outputs. None: the last "
             "layer learns data.label."},

    {"optimizer.linear", SETTING_GROUP, AT(optimizer.linear), .initial = "{type: ftrl}",
     .help = "Of the linear terms; see Optimizers."},
    {"optimizer.embedding", SETTING_GROUP, AT(optimizer.embedding), .initial = "{type: adagrad}",
     .help = "Of embedding vectors; tables.X.optimizer overrides it."},
    {"optimizer.dense", SETTING_GROUP, AT(optimizer.dense), .initial = "{type: adam}",
     .help = "Of layers and biases."},

    {"train.batch_size", SETTING_U32, AT(train.batch_size), .initial = "1024", .min = 1,
     .max = 1 << 24, .unit = "examples", .change = CHANGE_NEVER,
     .help = "Of a whole step, over all ranks. The gradient is the weighted mean over it."},
    {"train.epochs", SETTING_U32, AT(train.epochs), .initial = "1", .min = 1, .max = 1e6,
     .bits_if_schedule = true, .change = CHANGE_ON_RESUME,
     .help = "Passes over the training data."},
    {"train.max_steps", SETTING_U64, AT(train.max_steps), .initial = "~", .min = 1,
     .max = STEPS_MAX, .bits_if_schedule = true, .change = CHANGE_ON_RESUME,
     .help = "Stops there, if epochs end later."},
    {"train.consistency", SETTING_CHOICE, AT(train.consistency), .initial = "bsp",
     .change = CHANGE_ON_RESUME, .choices = consistency_names,
     .help = "bsp: every step sees all ranks' previous one, and results are bit-identical. ssp: "
             "a rank may be `staleness` steps ahead of the slowest. asp: no waiting."},
    {"train.pipeline_depth", SETTING_U32, AT(train.pipeline_depth), .initial = "0",
     .max = PIPELINE_DEPTH_MAX, .unit = "steps", .change = CHANGE_ON_RESUME,
     .help = "bsp: gradients are delayed by so many steps, which hides the network."},
    {"train.staleness", SETTING_U32, AT(train.staleness), .initial = "0", .max = 1e6,
     .unit = "steps", .change = CHANGE_ON_RESUME, .help = "ssp: how far a rank may be ahead."},
    {"train.ranks", SETTING_U32, AT(train.ranks), .initial = "<resources.workers>", .min = 1,
     .max = RANK_MAX, .change = CHANGE_NEVER,
     .help = "Data-parallel replicas. They are part of the arithmetic; the workers that host "
             "them are not."},
    {"train.drain_every", SETTING_U32, AT(train.drain_every), .initial = "100", .min = 1,
     .max = 1e9, .unit = "steps", .change = CHANGE_ON_RESUME,
     .help = "Distance of drain points, where checkpoints can be taken; with pipeline_depth it "
             "is part of the arithmetic."},
    {"train.clip_norm", SETTING_F64, AT(train.clip_norm), .initial = "~", .max = INFINITY,
     .exclusive_min = true, .change = CHANGE_ON_RESUME,
     .help = "Scales a rank's gradient down to this Euclidean norm."},
    {"train.max_skipped", SETTING_U32, AT(train.max_skipped), .initial = "10", .max = 1e9,
     .no_bits = true, .unit = "steps", .change = CHANGE_ON_RESUME,
     .help =
         "So many steps in a row may have a gradient that is not finite; one more fails the job."},

    {"train.precision", SETTING_CHOICE, AT(train.precision), .initial = "float32",
     .choices = NAMES("float32", "tf32", "bf16", "fp16"), .change = CHANGE_ON_RESUME,
     .help = "What matrix products are computed with on a GPU; parameters, sums and all else are "
             "float32. fp16 scales the loss, by as much as the gradients allow."},

    {"eval.every", AT(eval), CODEC(every), .initial = "epoch", .min = 1, .max = STEPS_MAX,
     .form = "epoch, end or a number of steps", .change = CHANGE_ON_RESUME,
     .help = "When to evaluate."},
    {"eval.examples", SETTING_U64, AT(eval.examples), .initial = "~", .min = 1, .max = STEPS_MAX,
     .change = CHANGE_ON_RESUME, .help = "Evaluates the first so many only."},
    {"eval.metrics", AT(eval), CODEC(metrics),
     .initial = "<logistic: [log_loss, auc]; squared: [rmse, mae]; softmax: [log_loss, accuracy]>",
     .choices = metric_names, .no_bits = true, .change = CHANGE_ON_RESUME,
     .help = "What to report.",
     .form = "a list of log_loss, auc, accuracy, rmse, mae, ne, calibration, objective, {gauc: "
             "column}"},
    {"eval.output", SETTING_TEXT, AT(eval.output), .initial = "~", .applies = LAYERS,
     .change = CHANGE_ON_RESUME,
     .help = "Of several outputs the one whose metrics are reported and watched, by its layer; ~: "
             "the first."},
    {"eval.progressive", SETTING_BOOL, AT(eval.progressive), .initial = "true", .no_bits = true,
     .change = CHANGE_ON_RESUME,
     .help = "Reports the loss of training batches, computed before they are learned from."},
    {"early_stopping.metric", AT(early_stopping), CODEC(metric), .initial = "~",
     .choices = metric_names, .change = CHANGE_ON_RESUME,
     .help = "Stops training when this metric of eval.metrics gets no better."},
    {"early_stopping.patience", SETTING_U32, AT(early_stopping.patience), .initial = "2", .min = 1,
     .max = 1e6, .unit = "evaluations", .change = CHANGE_ON_RESUME,
     .help = "How long it may get no better."},
    {"early_stopping.min_delta", SETTING_F64, AT(early_stopping.min_delta), .initial = "0",
     .max = INFINITY, .change = CHANGE_ON_RESUME, .help = "What counts as better."},
    {"early_stopping.restore", AT(early_stopping), CODEC(restore), .initial = "best",
     .choices = NAMES("best", "last"), .form = "one of best, last", .change = CHANGE_ON_RESUME,
     .help = "Which model the job ends with."},

    {"checkpoint.uri", SETTING_TEXT, AT(checkpoint.uri), .initial = "file:runs/${name}",
     .no_bits = true, .help = "Where checkpoints go."},
    {"checkpoint.every_steps", SETTING_U64, AT(checkpoint.every_steps), .initial = "1000",
     .max = STEPS_MAX, .no_bits = true, .unit = "steps",
     .help = "Taken at the next drain point; 0: only at the end and on request."},
    {"checkpoint.keep", SETTING_U32, AT(checkpoint.keep), .initial = "3", .min = 1, .max = 1e6,
     .no_bits = true, .help = "Older ones are deleted."},
    {"checkpoint.memory", SETTING_BYTES, AT(checkpoint.memory_bytes), .initial = "256MiB",
     .min = 1 << 20, .max = 1e15, .no_bits = true,
     .help =
         "What a server may use for rows that change while a checkpoint is written; over it, the "
         "checkpoint is given up and the next one tried."},
    {"checkpoint.timeout", SETTING_MS32, AT(checkpoint.timeout_ms), .initial = "5min", .min = 1000,
     .max = 4e9, .no_bits = true, .help = "How long one may take before it is given up."},
    {"checkpoint.max_age", SETTING_MS32, AT(checkpoint.max_age_ms), .initial = "0", .max = 4e9,
     .no_bits = true,
     .help = "The store away, slow or full: when the newest one is older, training holds at the "
             "next drain point until there is one; 0: it never does."},

    {"resources.servers", SETTING_U32, AT(resources.servers), .initial = "1", .max = SHARD_MAX,
     .no_bits = true, .help = "Server processes; 0: the shards live in the worker's process."},
    {"resources.workers", SETTING_U32, AT(resources.workers), .initial = "1", .min = 1,
     .max = RANK_MAX, .no_bits = true, .help = "Worker processes."},
    {"resources.gpus_per_worker", SETTING_U32, AT(resources.gpus_per_worker), .initial = "0",
     .max = 16, .no_bits = true,
     .help = "GPUs that each worker must have (its setting `device`); run gives them out. 0: none "
             "is asked for, and a worker computes on whatever device it has."},
    {"resources.shards", SETTING_U32, AT(resources.shards), .initial = "2", .min = 1, .max = 256,
     .no_bits = true, .help = "Of each server; each has its own thread."},
    {"resources.threads", SETTING_U32, AT(resources.threads), .initial = "0", .max = 1024,
     .no_bits = true, .help = "Compute threads of a worker; 0: as many as there are cores."},
};
const size_t job_setting_count = sizeof job_settings / sizeof *job_settings;
