/*
 * settings_table_parts.c - the rows of what a job has several of: features, tables, optimizers.
 */
#include <math.h>

#include "common/limits.h"
#include "common/settings_codec.h"
#include "common/settings_table.h"

#define CODEC(name)                                                                                \
    .type = SETTING_CUSTOM, .read = codec_##name##_read, .write = codec_##name##_write
#define NAMES(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* ---- features ------------------------------------------------------------------------------- */

#define AT(member)  .offset = offsetof(struct job_feature, member)
#define CATEGORICAL CLASS_CATEGORICAL
#define KEYED       (CLASS_CATEGORICAL | CLASS_BINNED)
#define NUMERIC     (CLASS_NUMERIC | CLASS_BINNED)

const struct setting feature_settings[] = {
    {"type", SETTING_CHOICE, AT(type),
     .initial = "<numeric if it has transform, bucketize, missing_flag or a number for missing; "
                "vector if it has length; else categorical>",
     .choices = NAMES("categorical", "numeric", "vector"), .change = CHANGE_NEVER,
     .help = "What the column's text is: a value of its own, a number, or `length` numbers."},
    {"column", SETTING_TEXT, AT(column), .initial = "<the feature's name>", .change = CHANGE_NEVER,
     .applies = ~(uint32_t)CLASS_CROSS, .help = "Where it is read from."},
    {"missing", .type = SETTING_CUSTOM, .read = codec_missing_read, .write = codec_missing_write,
     .initial = "own", .applies = CLASS_CATEGORICAL, .choices = NAMES("own", "zero", "error"),
     .change = CHANGE_NEVER, .help = "A missing value: a row of its own, nothing, or an error."},
    {"missing", CODEC(missing), .initial = "own", .applies = CLASS_BINNED, .change = CHANGE_NEVER,
     .choices = NAMES("own", "zero", "error"), .form = "one of own, zero, error, or a number",
     .help = "Of numbers made categorical: also a number that stands for it."},
    {"missing", CODEC(missing), .initial = "0", .applies = CLASS_NUMERIC | CLASS_VECTOR,
     .change = CHANGE_NEVER, .choices = NAMES("error"), .form = "a number or error",
     .help = "Of numbers: the number that stands for it."},
    {"key", SETTING_CHOICE, AT(key), .initial = "hash", .applies = CATEGORICAL,
     .change = CHANGE_NEVER, .choices = NAMES("hash", "integer"),
     .help = "integer: the value is an integer and is the key itself; wants a table of its own."},
    {"buckets", SETTING_U64, AT(buckets), .initial = "0", .applies = KEYED | CLASS_CROSS,
     .max = 1e15, .change = CHANGE_NEVER, .help = "The hash modulo this; 0: all 64 bits."},
    {"vocab", CODEC(vocab), .initial = "~", .applies = CATEGORICAL, .change = CHANGE_NEVER,
     .form = "a list of values or a file with one a line",
     .help = "Everything else goes to the out-of-vocabulary row."},
    {"min_count", SETTING_U64, AT(min_count), .initial = "1", .min = 1, .max = 1e12,
     .applies = KEYED, .change = CHANGE_NEVER,
     .help = "Values seen less often in the training data go to the out-of-vocabulary row."},
    {"cross", SETTING_LIST, AT(cross), .initial = "~", .applies = CLASS_CROSS,
     .change = CHANGE_NEVER, .form = "a list of two or three categorical features",
     .help = "Makes a feature of combinations."},
    {"bucketize", CODEC(edges), .initial = "~", .applies = NUMERIC, .change = CHANGE_NEVER,
     .form = "a list of ascending numbers",
     .help = "Makes a number categorical: its place among the edges."},
    {"pooling", SETTING_CHOICE, AT(pooling), .initial = "none", .applies = CATEGORICAL,
     .change = CHANGE_NEVER, .choices = NAMES("none", "sum", "mean", "sqrtn"),
     .help = "Makes it multi-valued, and says how the values' rows are put together."},
    {"separator", SETTING_CHAR, AT(separator), .initial = "\"|\"",
     .applies = CLASS_MULTI | CLASS_VECTOR, .change = CHANGE_NEVER,
     .help = "Between values; giving it makes a categorical feature multi-valued."},
    {"value_weights", SETTING_CHAR, AT(value_weights), .initial = "~", .applies = CLASS_MULTI,
     .change = CHANGE_NEVER, .help = "\":\" reads tag:0.7|tag:0.3 as weighted values."},
    {"max_values", SETTING_U32, AT(max_values), .initial = "100", .min = 1, .max = 1 << 22,
     .applies = CLASS_MULTI, .change = CHANGE_NEVER,
     .help = "Keeps the first ones; what was cut is counted."},
    {"table", SETTING_TEXT, AT(table), .initial = "~", .applies = KEYED | CLASS_CROSS,
     .change = CHANGE_NEVER,
     .help = "Features that name the same table share its rows; ~: rows of its own."},
    {"transform", CODEC(transforms), .initial = "[]", .applies = NUMERIC, .change = CHANGE_NEVER,
     .choices = transform_names,
     .form = "a list of {clip: [lo, hi]}, log1p, sqrt, standardize, {standardize: [mean, std]}, "
             "{minmax: [a, b]}, log2_floor, hour, weekday",
     .help = "In order. log1p is ln(1 + max(x, 0)); standardize takes mean and deviation from "
             "the training data. log2_floor (floor(ln(x)²) above 2), hour and weekday make it "
             "categorical."},
    {"missing_flag", SETTING_BOOL, AT(missing_flag), .initial = "false", .applies = CLASS_NUMERIC,
     .change = CHANGE_NEVER, .help = "Adds an input that is 1 where the value is missing."},
    {"length", SETTING_U32, AT(length), .initial = "<required>", .min = 1, .max = 1 << 20,
     .applies = CLASS_VECTOR, .change = CHANGE_NEVER, .help = "Numbers of a vector. idx: 784."},
};
const size_t feature_setting_count = sizeof feature_settings / sizeof *feature_settings;

/* ---- tables --------------------------------------------------------------------------------- */

#undef AT
#define AT(member) .offset = offsetof(struct job_table, member)

const struct setting table_settings[] = {
    {"dim", SETTING_U32, AT(dim), .initial = "<model.dim>", .min = 1, .max = ROW_DIM_MAX - 1,
     .change = CHANGE_NEVER,
     .help = "Length of its embedding vectors. fm needs model.dim everywhere."},
    {"init", CODEC(init), .initial = "{normal: 0.01}", .change = CHANGE_NEVER,
     .form = "zero, {normal: DEVIATION}, {uniform: HALF_WIDTH} or {constant: VALUE}",
     .help = "Initial values of embedding vectors."},
    {"optimizer", SETTING_GROUP, AT(optimizer), .initial = "<optimizer.embedding>",
     .help = "Of its embedding vectors; see Optimizers."},
    {"l2", SETTING_F64, AT(l2), .initial = "<model.l2>", .max = INFINITY,
     .change = CHANGE_ON_RESUME, .help = "L2 penalty of rows that the step touches."},
    {"max_rows", SETTING_U64, AT(max_rows), .initial = "~", .min = 1, .max = 1e15, .no_bits = true,
     .change = CHANGE_ON_RESUME, .help = "More rows fail the job; ~: as memory allows."},
    {"admit_after", SETTING_LATER, .initial = "~", .help = "(later)"},
    {"expire_after", SETTING_LATER, .initial = "~", .help = "(later)"},
};
const size_t table_setting_count = sizeof table_settings / sizeof *table_settings;

/* ---- optimizers ----------------------------------------------------------------------------- */

#undef AT
#define AT(member) .offset = offsetof(struct optimizer_spec, member)
#define RATE(value, bits, text)                                                                    \
    {                                                                                              \
        "learning_rate", SETTING_F64, AT(learning_rate), .initial = value, .max = 1e6,             \
                                                         .exclusive_min = true, .applies = bits,   \
                                                         .change = CHANGE_ON_RESUME, .help = text  \
    }

/* Bits by the order of `type`'s choices. */
#define SGD      1u
#define MOMENTUM 2u
#define ADAGRAD  4u
#define ADAM     8u
#define RMSPROP  16u
#define FTRL     32u

const struct setting optimizer_settings[] = {
    {"type", SETTING_NAME16, AT(type), .initial = "<ftrl, adagrad, adam by part>",
     .change = CHANGE_NEVER,
     .choices = NAMES("sgd", "momentum", "adagrad", "adam", "rmsprop", "ftrl"),
     .help = "How gradients become updates."},
    RATE("0.01", SGD | MOMENTUM, "Per step, of the mean gradient of the batch."),
    RATE("0.05", ADAGRAD, "Duchi et al. 2011; each value has its own, falling rate."),
    RATE("0.001", ADAM | RMSPROP, "As Kingma & Ba 2015 propose."),
    RATE("0.1", FTRL, "alpha of McMahan et al. 2013."),
    {"momentum", SETTING_F64, AT(momentum), .initial = "0.9", .max = 0.99999, .applies = MOMENTUM,
     .change = CHANGE_ON_RESUME, .help = "How much of the last update goes on."},
    {"nesterov", SETTING_BOOL, AT(nesterov), .initial = "false", .applies = MOMENTUM,
     .change = CHANGE_ON_RESUME, .help = "Nesterov's form."},
    {"beta1", SETTING_F64, AT(beta1), .initial = "0.9", .max = 0.999999, .applies = ADAM,
     .change = CHANGE_ON_RESUME, .help = "Decay of the mean of gradients."},
    {"beta2", SETTING_F64, AT(beta2), .initial = "0.999", .max = 0.9999999, .applies = ADAM,
     .change = CHANGE_ON_RESUME, .help = "Decay of the mean of their squares."},
    {"rho", SETTING_F64, AT(beta2), .initial = "0.9", .max = 0.9999999, .applies = RMSPROP,
     .change = CHANGE_ON_RESUME,
     .help = "Decay of the mean of squared gradients (Hinton's lecture 6e)."},
    {"epsilon", SETTING_F64, AT(epsilon), .initial = "1e-8", .max = 1, .exclusive_min = true,
     .applies = ADAGRAD | ADAM | RMSPROP, .change = CHANGE_ON_RESUME, .help = "Added to the root."},
    {"initial_accumulator", SETTING_F64, AT(initial_accumulator), .initial = "0.001", .max = 1e6,
     .applies = ADAGRAD, .change = CHANGE_NEVER,
     .help = "First value of the sum of squares. Gradients are means over the batch and small: "
             "the 0.1 or 1 usual where they are sums would hold rows still, 0 makes the first "
             "steps of rare rows as large as the learning rate."},
    {"l1", SETTING_F64, AT(l1), .initial = "0", .max = INFINITY, .applies = FTRL,
     .change = CHANGE_ON_RESUME, .help = "L1 penalty: makes weights exactly 0."},
    {"l2", SETTING_F64, AT(l2), .initial = "0", .max = INFINITY, .applies = FTRL,
     .change = CHANGE_ON_RESUME, .help = "L2 penalty."},
    {"beta", SETTING_F64, AT(beta), .initial = "0.001", .max = 1e6, .applies = FTRL,
     .change = CHANGE_ON_RESUME,
     .help = "Added to the root of the sum of squares. The 1 of McMahan et al. is for gradients "
             "of single examples; for means over batches of 1024 that is about 1/1024."},
    {"weight_decay", SETTING_F64, AT(weight_decay), .initial = "0", .max = 1,
     .change = CHANGE_ON_RESUME, .applies = SGD | MOMENTUM | ADAM,
     .help = "adam: decoupled (AdamW); sgd, momentum: in the gradient."},
    {"schedule.warmup_steps", SETTING_U64, AT(schedule.warmup_steps), .initial = "0", .max = 1e12,
     .unit = "steps", .change = CHANGE_ON_RESUME,
     .help = "The rate rises from 0 over so many steps."},
    {"schedule.decay", SETTING_CHOICE, AT(schedule.decay), .initial = "none",
     .change = CHANGE_ON_RESUME, .choices = NAMES("none", "step", "cosine", "linear"),
     .help = "How the rate falls afterwards."},
    {"schedule.decay_steps", SETTING_U64, AT(schedule.decay_steps), .initial = "0", .max = 1e12,
     .unit = "steps", .change = CHANGE_ON_RESUME,
     .help = "step: every so many; cosine, linear: over so many, 0 being all of the job."},
    {"schedule.decay_rate", SETTING_F64, AT(schedule.decay_rate), .initial = "0.1", .max = 1,
     .exclusive_min = true, .change = CHANGE_ON_RESUME, .help = "step: the factor."},
    {"schedule.final_fraction", SETTING_F64, AT(schedule.final_fraction), .initial = "0", .max = 1,
     .change = CHANGE_ON_RESUME, .help = "cosine, linear: what remains of the rate at the end."},
};
const size_t optimizer_setting_count = sizeof optimizer_settings / sizeof *optimizer_settings;

/* ---- layers --------------------------------------------------------------------------------- */

#undef AT
#define AT(member)  .offset = offsetof(struct job_layer, member)
#define LAYER(type) (1u << JOB_LAYER_##type)

const struct setting layer_settings[] = {
    {"name", SETTING_TEXT, AT(name), .initial = "<required>", .change = CHANGE_NEVER,
     .help = "How layers after it and its parameters call it."},
    {"type", SETTING_CHOICE, AT(type), .initial = "<required>", .change = CHANGE_NEVER,
     .choices = layer_type_names,
     .help =
         "linear: activation(x W + b). mlp: hidden layers. cross: DCN-V2's cross layers. fm: the "
         "sum of the products of all pairs of vectors. dot: those products, side by side. "
         "concat, sum: of what it reads. norm: layer normalization. terms: the features' linear "
         "terms and bias, with pairs if asked for."},
    {"in", SETTING_LIST, AT(in), .initial = "[]", .change = CHANGE_NEVER,
     .form = "a list of dense, embeddings, embeddings(PATTERN), wide and layers before it",
     .help =
         "What it reads, side by side: the dense input, features' pooled vectors, the sum of the "
         "linear terms, or other layers."},
    {"units", SETTING_U32, AT(units), .initial = "<required>", .min = 1, .max = 65536,
     .applies = LAYER(LINEAR), .change = CHANGE_NEVER, .help = "Numbers that it gives."},
    {"hidden", AT(hidden), CODEC(widths), .initial = "<required>", .min = 1, .max = 65536,
     .applies = LAYER(MLP), .change = CHANGE_NEVER, .form = "a list of widths from 1 to 65536",
     .help = "Widths of its layers."},
    {"activation", SETTING_CHOICE, AT(activation), .initial = "none", .applies = LAYER(LINEAR),
     .change = CHANGE_NEVER, .choices = NAMES("none", "relu", "tanh", "sigmoid"),
     .help = "Of its output."},
    {"activation", SETTING_CHOICE, AT(activation), .initial = "relu",
     .applies = LAYER(MLP) | LAYER(ACTIVATION), .change = CHANGE_NEVER,
     .choices = NAMES("none", "relu", "tanh", "sigmoid"), .help = "Of every layer's output."},
    {"dropout", SETTING_F64, AT(dropout), .initial = "0", .max = 0.99, .applies = LAYER(MLP),
     .change = CHANGE_NEVER, .help = "Fraction of units switched off in a training step."},
    {"rate", SETTING_F64, AT(dropout), .initial = "<required>", .max = 0.99,
     .applies = LAYER(DROPOUT), .change = CHANGE_NEVER,
     .help = "Fraction of numbers switched off in a training step."},
    {"layer_norm", SETTING_BOOL, AT(layer_norm), .initial = "false", .applies = LAYER(MLP),
     .change = CHANGE_NEVER, .help = "Layer normalization before each activation."},
    {"layers", SETTING_U32, AT(layers), .initial = "1", .min = 1, .max = 64,
     .applies = LAYER(CROSS), .change = CHANGE_NEVER, .help = "Cross layers."},
    {"low_rank", SETTING_U32, AT(low_rank), .initial = "0", .max = 65536, .applies = LAYER(CROSS),
     .change = CHANGE_NEVER, .help = "Of its matrices; 0: full ones."},
    {"pairs", SETTING_CHOICE, AT(pairs), .initial = "none", .applies = LAYER(TERMS),
     .change = CHANGE_NEVER, .choices = NAMES("none", "fm", "ffm"),
     .help = "Products of pairs of terms, by one vector a value or by one for each field."},
};
const size_t layer_setting_count = sizeof layer_settings / sizeof *layer_settings;

/* ---- outputs -------------------------------------------------------------------------------- */

#undef AT
#define AT(member) .offset = offsetof(struct job_output, member)

const struct setting output_settings[] = {
    {"from", SETTING_TEXT, AT(from), .initial = "<required>", .change = CHANGE_NEVER,
     .help = "The layer that gives its logit."},
    {"label", SETTING_TEXT, AT(label), .initial = "~", .change = CHANGE_NEVER,
     .help = "Column of its label; ~: data.label."},
    {"loss", SETTING_CHOICE, AT(loss), .initial = "logistic", .change = CHANGE_NEVER,
     .choices = NAMES("logistic", "squared"), .help = "What training minimizes."},
    {"weight", SETTING_F64, AT(weight), .initial = "1", .max = 1e6, .exclusive_min = true,
     .change = CHANGE_NEVER, .help = "Of its loss in the sum of losses."},
};
const size_t output_setting_count = sizeof output_settings / sizeof *output_settings;
