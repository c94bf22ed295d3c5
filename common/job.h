/*
 * job.h - one training run, resolved: what the YAML file, --var and --set say, with every default
 * filled in.
 *
 * job_parse() reads YAML text (through common/conf) against the settings table (common/settings.h),
 * checks types, bounds and what must fit together, and gives a struct job that nobody changes
 * afterwards. Errors name file, line, column, the wrong value and what would be right. job_write()
 * gives canonical YAML that parses back to the same job: it is what `config show` prints, what a
 * run directory keeps, and what the coordinator sends to workers and servers.
 *
 * Lists are arrays with a count; text is owned by the job. "~" in JOB.md is NULL, 0 or a has_ flag
 * as noted.
 *
 * Threads  immutable after job_parse(): any.
 * Pure     no file is read here: the caller passes the text. Files named by the job (vocab lists
 *          too) are read by the worker.
 */
#ifndef PARAMD_COMMON_JOB_H
#define PARAMD_COMMON_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"
#include "common/sha256.h"
#include "common/str.h"

struct text_list {
    char **items;
    size_t count;
};

enum data_format { FORMAT_CSV, FORMAT_CRITEO, FORMAT_LIBSVM, FORMAT_LIBFFM, FORMAT_IDX };
enum split_kind { SPLIT_NONE, SPLIT_HASH, SPLIT_TIME };
enum shuffle_kind { SHUFFLE_NONE, SHUFFLE_FULL, SHUFFLE_WINDOW };
enum csv_escape { ESCAPE_DOUBLE, ESCAPE_BACKSLASH };

struct job_data {
    enum data_format format;
    struct text_list train; /* paths, globs, directories; at least one */
    struct text_list eval;  /* may be empty */
    struct {
        enum split_kind kind;
        char *column;         /* SPLIT_HASH; SPLIT_TIME uses data.time */
        double eval_fraction; /* 0: not given */
        int64_t eval_last_ms; /* SPLIT_TIME; 0: not given */
    } split;
    char *label;
    struct {             /* label: {column, positive: ">= 4"}; compare is 0 when not given */
        char compare[3]; /* ">=", "<=", ">", "<", "==", "!=" */
        char *value;     /* number or text */
    } positive;
    char *weight;        /* column or NULL */
    char *time;          /* column or NULL */
    struct text_list id; /* columns */
    struct {
        enum shuffle_kind kind;
        uint64_t window;
    } shuffle;
    double bad_rows; /* fraction, 0 … 1 */
    struct {
        bool header;
        struct text_list columns;
        char delimiter;
        enum csv_escape escape;
        struct text_list null;
    } csv;
};

enum feature_type { FEATURE_CATEGORICAL, FEATURE_NUMERIC, FEATURE_VECTOR };
enum feature_missing { MISSING_OWN, MISSING_ZERO, MISSING_ERROR, MISSING_NUMBER };
enum feature_key { KEY_HASH, KEY_INTEGER };
enum pooling { POOLING_NONE, POOLING_SUM, POOLING_MEAN, POOLING_SQRTN };
enum transform_kind {
    TRANSFORM_CLIP, /* a = lo, b = hi */
    TRANSFORM_LOG1P,
    TRANSFORM_SQRT,
    TRANSFORM_STANDARDIZE, /* has_constants: a = mean, b = std; else from the data index */
    TRANSFORM_MINMAX,      /* a, b */
    TRANSFORM_LOG2_FLOOR,  /* makes it categorical, as do the next two */
    TRANSFORM_HOUR,
    TRANSFORM_WEEKDAY
};

struct job_transform {
    enum transform_kind kind;
    bool has_constants;
    double a, b;
};

/*
 * Features in the job's order, patterns ("C1..C26", "user_*") NOT yet expanded against columns that
 * only the files know: `name` may be a glob ("user_*"); ranges C1..C26 are expanded by job_parse().
 * For the formats criteo, libsvm, libffm and idx the defaults of JOB.md's rule 5 are filled in by
 * job_parse() (criteo: I1..I13 and C1..C26, overridden or configured by what the job lists; libsvm:
 * one feature named "features"; libffm: fields are implicit, one row of this list as the template,
 * named "f"; idx: "pixels").
 */
struct job_feature {
    char *name;
    enum feature_type type;
    bool is_all; /* "all"/"~": no more than the name was given */
    char *column;
    enum feature_missing missing;
    double missing_number;
    enum feature_key key;
    uint64_t buckets;       /* 0: all 64 bits */
    struct text_list vocab; /* the list itself, or vocab_file */
    char *vocab_file;
    uint64_t min_count;
    struct text_list cross; /* names of 2 or 3 features; empty: none */
    double *bucketize;
    size_t bucketize_count;
    enum pooling pooling; /* NONE: single-valued unless `separator` was given in lr/fm/ffm */
    bool multi_valued;
    char separator;
    char value_weights; /* 0: none, else the character between value and weight */
    uint32_t max_values;
    char *table; /* NULL: own (see features_spec.h on how tables are laid out) */
    struct job_transform *transforms;
    size_t transform_count;
    bool missing_flag;
    uint32_t length;              /* vector */
    uint32_t line, column_number; /* where the job file declares it, for errors */
};

enum init_kind {
    INIT_ZERO,
    INIT_NORMAL,
    INIT_UNIFORM,
    INIT_CONSTANT,
    INIT_GLOROT /* dense only */
};
struct init_spec {
    enum init_kind kind;
    double scale; /* standard deviation, half width, or the constant */
};

enum schedule_decay { DECAY_NONE, DECAY_STEP, DECAY_COSINE, DECAY_LINEAR };
struct schedule_spec {
    uint64_t warmup_steps;
    enum schedule_decay decay;
    uint64_t decay_steps; /* step: every so many; cosine, linear: over so many. 0: all of the job */
    double decay_rate;    /* step: the factor */
    double final_fraction; /* cosine, linear: of the learning rate, at the end */
};

/*
 * `type` names a row of the table in server/optimizer.c. Fields that a type lacks are refused by
 * job_parse().
 */
struct optimizer_spec {
    char type[16]; /* sgd momentum adagrad adam rmsprop ftrl */
    double learning_rate;
    double momentum;            /* momentum */
    bool nesterov;              /* momentum */
    double beta1, beta2;        /* adam; rmsprop: beta2 = rho */
    double epsilon;             /* adagrad adam rmsprop */
    double initial_accumulator; /* adagrad */
    double l1, l2, beta;        /* ftrl: lambda1, lambda2, beta */
    double weight_decay;        /* sgd momentum: L2 in the gradient; adam: decoupled (AdamW) */
    struct schedule_spec schedule;
};

struct job_table {
    char *name;
    uint32_t dim; /* 0: model.dim */
    bool has_init;
    struct init_spec init;
    bool has_optimizer;
    struct optimizer_spec optimizer; /* of the embedding component */
    bool has_l2;
    double l2;
    uint64_t max_rows; /* 0: no bound but memory */
};

enum model_type {
    MODEL_LR,
    MODEL_FM,
    MODEL_MLP,
    MODEL_FFM,
    MODEL_WIDE_DEEP,
    MODEL_DEEPFM,
    MODEL_DCN,
    MODEL_DLRM,
    MODEL_LAYERS /* model.layers, put together by the user */
};
enum loss_type { LOSS_LOGISTIC, LOSS_SQUARED, LOSS_SOFTMAX };
enum precision { PRECISION_FLOAT32, PRECISION_TF32, PRECISION_BF16, PRECISION_FP16 };
enum activation { ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_TANH, ACTIVATION_SIGMOID };
enum normalize { NORMALIZE_NONE, NORMALIZE_INSTANCE };

struct width_list {
    uint32_t *items;
    size_t count;
};

/* What a layer of model.layers is; rows of common/model_layers.c give each its shapes. */
enum job_layer_type {
    JOB_LAYER_LINEAR,
    JOB_LAYER_MLP,
    JOB_LAYER_CROSS,
    JOB_LAYER_FM,
    JOB_LAYER_DOT,
    JOB_LAYER_CONCAT,
    JOB_LAYER_SUM,
    JOB_LAYER_NORM,
    JOB_LAYER_ACTIVATION,
    JOB_LAYER_DROPOUT,
    JOB_LAYER_TERMS,
    JOB_LAYER_TYPE_COUNT
};
enum layer_pairs { PAIRS_NONE, PAIRS_FM, PAIRS_FFM };

/* One layer as a job says it; fields that its type lacks are refused by job_parse(). */
struct job_layer {
    char *name;
    enum job_layer_type type;
    struct text_list in; /* dense, embeddings, embeddings(PATTERN), wide, or layers before it */
    uint32_t units;      /* linear */
    struct width_list hidden;   /* mlp */
    enum activation activation; /* linear, mlp, activation */
    double dropout;             /* mlp, dropout */
    bool layer_norm;            /* mlp */
    uint32_t layers, low_rank;  /* cross; low_rank 0: a full matrix */
    enum layer_pairs pairs;     /* terms */
};

/* One of several things that a model learns; of an own label, logistic or squared. */
struct job_output {
    char *from;           /* the layer that gives its logit */
    char *label;          /* column; NULL: data.label's */
    uint32_t label_index; /* 0: data.label, else 1 + its place in more_labels; by job_check() */
    enum loss_type loss;
    double weight; /* of its loss in the sum */
};

enum cross_structure { STRUCTURE_STACKED, STRUCTURE_PARALLEL };

struct job_model {
    enum model_type type;
    uint32_t dim;
    enum loss_type loss;
    uint32_t classes; /* softmax: outputs (idx: 10 by default); else 1 */
    struct width_list hidden;
    enum activation activation;
    double dropout;
    bool layer_norm;
    enum normalize normalize;
    double l2;
    uint32_t cross_layers, low_rank; /* dcn */
    enum cross_structure structure;  /* dcn */
    bool wide;                       /* dcn, dlrm: plus the linear terms */
    struct width_list bottom;        /* dlrm: the hidden layers under its dense input */
    struct job_layer *layers;        /* MODEL_LAYERS */
    size_t layer_count;
    struct job_output *outputs; /* MODEL_LAYERS; none: the last layer, data.label, loss */
    size_t output_count;
    struct text_list more_labels; /* columns of outputs' labels other than data.label */
};

/* lr, fm and ffm: sums over terms, with numbers as terms too; the others have a dense input. */
static inline bool model_is_terms(const struct job_model *m)
{
    for (size_t i = 0; m->type == MODEL_LAYERS && i < m->layer_count; i++)
        if (m->layers[i].type == JOB_LAYER_TERMS)
            return true;
    return m->type == MODEL_LR || m->type == MODEL_FM || m->type == MODEL_FFM;
}

enum consistency { CONSISTENCY_BSP, CONSISTENCY_SSP, CONSISTENCY_ASP };

struct job_train {
    uint32_t batch_size;
    uint32_t epochs;
    uint64_t max_steps; /* 0: none */
    enum consistency consistency;
    uint32_t pipeline_depth;
    uint32_t staleness;
    uint32_t ranks;
    bool ranks_by_default; /* not given: as many as resources.workers */
    uint32_t drain_every;
    double clip_norm; /* 0: none */
    uint32_t max_skipped;
    enum precision precision;
};

enum metric_kind {
    METRIC_LOG_LOSS,
    METRIC_AUC,
    METRIC_ACCURACY,
    METRIC_RMSE,
    METRIC_MAE,
    METRIC_NE,
    METRIC_CALIBRATION,
    METRIC_GAUC,
    METRIC_OBJECTIVE,
    METRIC_COUNT
};

struct job_eval {
    bool every_epoch;     /* eval.every: epoch */
    uint64_t every_steps; /* or a number of steps; 0 with every_epoch false: only at the end */
    uint64_t examples;    /* 0: all */
    uint32_t metrics;     /* bit set of 1u << enum metric_kind */
    char *gauc_column;
    char *output; /* whose metrics; NULL: the first's */
    uint32_t output_index;
    bool progressive;
};

struct job_early_stopping {
    bool enabled;
    enum metric_kind metric;
    uint32_t patience;
    double min_delta;
    bool restore_best;
};

struct job {
    char *name;
    uint64_t seed;
    struct job_data data;
    struct job_feature *features;
    size_t feature_count;
    struct job_table *tables;
    size_t table_count;
    struct job_model model;
    struct {
        struct optimizer_spec linear, embedding, dense;
    } optimizer;
    struct job_train train;
    struct job_eval eval;
    struct job_early_stopping early_stopping;
    struct {
        char *uri;
        uint64_t every_steps;
        uint32_t keep;
        uint64_t memory_bytes;
        uint32_t timeout_ms;
        uint32_t max_age_ms; /* of the newest, before training holds; 0: no bound */
    } checkpoint;
    struct {
        uint32_t servers, workers, gpus_per_worker;
        uint32_t shards;  /* resources.shards: per server */
        uint32_t threads; /* resources.threads: compute threads of a worker; 0: as cores allow */
    } resources;
    char hash[SHA256_HEX_SIZE]; /* over what can influence bits, canonical; see job_hash() */
};

struct job_source {
    const char *what; /* the file's name, for errors; its stem is the default of `name` */
    const char *text;
    size_t size;
    const char *const *sets; /* "a.b=VALUE", NULL-terminated, or NULL */
    const char *const *vars; /* "x=VALUE", NULL-terminated, or NULL */
};

/*
 * ERR_INPUT with "file:line:column: setting: value 'v' …; right alternatives". ERR_UNSUPPORTED:
 * (later).
 */
enum err job_parse(const struct job_source *source, struct job **out) MUST_CHECK;
void job_destroy(struct job *j); /* accepts NULL */

/* Canonical YAML with every setting; parses back to an equal job with an equal hash. */
void job_write(const struct job *j, struct str *out);

/*
 * Bytes that decide whether a checkpoint may be resumed with this job: equal model shapes and data.
 */
enum err job_resumable(const struct job *before,
                       const struct job *now) MUST_CHECK; /* names the setting */
/* Whether a checkpoint's model can be evaluated as this job's, on whatever data: equal model,
   features and tables. */
enum err job_same_model(const struct job *before, const struct job *now) MUST_CHECK;

const char *data_format_name(enum data_format f);
const char *metric_name(enum metric_kind k); /* "log_loss" … */
bool metric_higher_is_better(enum metric_kind k);
const char *consistency_name(enum consistency c);

#endif
