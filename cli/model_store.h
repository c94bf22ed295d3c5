/*
 * model_store.h - a checkpoint as a model in this process: for predict and export.
 *
 * One shard over all partitions is restored from the checkpoint; values are looked up in it
 * directly. Absent rows read as zeros and are not created (docs/job-file.md, rule 6).
 *
 * Threads  one.
 */
#ifndef PARAMD_CLI_MODEL_STORE_H
#define PARAMD_CLI_MODEL_STORE_H

#include "common/checkpoint.h"
#include "common/err.h"
#include "common/model.h"
#include "server/shard.h"
#include "worker/batch.h"
#include "worker/network.h"

struct model_store {
    char *directory;
    struct checkpoint_manifest *manifest;
    struct job *own_job; /* parsed from the manifest, when the caller gave none */
    const struct job *job;
    struct features_spec *features;
    struct model *model;
    struct shard *shard;
    const float **dense; /* [schema->dense_count], whole parameters */
    float **rows;        /* [table_count], of the last model_store_values() */
    size_t *row_capacity;
};

/* `uri`: as checkpoint_find() takes it; one that turns out damaged is passed over with a warning.
   `job` NULL: the manifest's own; else borrowed. */
enum err model_store_open(const char *uri, const struct job *job,
                          struct model_store *out) MUST_CHECK;
void model_store_close(struct model_store *m);
/* The values that a batch needs; valid until the next call. */
enum err model_store_values(struct model_store *m, const struct batch *b,
                            struct network_values *out) MUST_CHECK;

#endif
