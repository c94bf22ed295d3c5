/*
 * model_job.h - the part of a job and of its features that model_create() reads, for tests of
 * models.
 */
#ifndef PARAMD_TESTS_SUPPORT_MODEL_JOB_H
#define PARAMD_TESTS_SUPPORT_MODEL_JOB_H

#include "common/features_spec.h"
#include "common/job.h"

#define MODEL_JOB_TABLES 3u
#define MODEL_JOB_HIDDEN 3u

/* What a case of a test says; the rest are the job file's defaults. */
struct model_case {
    enum model_type type;
    uint32_t dim;
    enum loss_type loss;
    uint32_t classes;
    uint32_t hidden[MODEL_JOB_HIDDEN];
    uint32_t hidden_count;
    enum activation activation;
    double dropout;
    bool layer_norm;
    enum normalize normalize;
    double l2;
    uint32_t cross_layers, low_rank;
    enum cross_structure structure;
    bool wide;
    uint32_t bottom;            /* dlrm: width of its one hidden layer */
    struct job_output *outputs; /* MODEL_LAYERS: complete, as job_check() leaves them */
    uint32_t output_count;
    const char *layers;                    /* MODEL_LAYERS: the YAML of model.layers */
    uint32_t table_dims[MODEL_JOB_TABLES]; /* 0: dim */
    uint32_t dense_width;
    uint32_t table_count;
    uint32_t slot_count[MODEL_JOB_TABLES];
};

struct model_job {
    struct job job;
    struct features_spec features;
    struct table_spec tables[MODEL_JOB_TABLES];
    struct job_table job_tables[MODEL_JOB_TABLES];
    uint32_t hidden[MODEL_JOB_HIDDEN], bottom[1];
};

/* Tables are named "table0" …; `out` must not be moved afterwards. */
void model_job_init(struct model_job *out, const struct model_case *c);
void model_job_deinit(struct model_job *j);

#endif
