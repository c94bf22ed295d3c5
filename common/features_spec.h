/*
 * features_spec.h - a job's features, resolved: which table each reads, which slot of the model it
 * fills.
 *
 * This is the bridge between the job file (patterns, defaults by format) and the arrays of a batch.
 * Columns must be known, because "user_*" and "C1..C26" match them; the data index carries their
 * names.
 *
 * Tables   A categorical feature whose key is a hash and that names no table lives in the shared
 *          physical table "features": its key space is its own name, so rows never meet, and one
 *          table means one array on the wire. A feature that names a table, has `key: integer`, or
 *          has an entry of its own name under `tables:` gets that physical table. In lr, fm
 *          and ffm numeric features are one row each, in "features", multiplied by the value; in
 *          other models they are columns of the dense input.
 * Keys     hash: XXH64(text, seed = XXH64(space, 0)), space = named table or feature name. Missing
 *          (own): the empty text. Out of vocabulary: the one byte 0xff. A numeric feature's row:
 *          the one byte 0xfe. cross: XXH64 over the parts' 8-byte little-endian keys in order,
 *          seeded by the cross' space. buckets: key % buckets, and then XXH64 of its decimal text
 *          with the same seed unless key: integer. On entry to batches keys are mixed: mix64(key).
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_FEATURES_SPEC_H
#define PARAMD_COMMON_FEATURES_SPEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/job.h"

struct feature_spec {
    const struct job_feature *job; /* borrowed from the job */
    char *name;                    /* expanded */
    char *column;                  /* expanded */
    uint64_t seed;                 /* XXH64(space, 0) */
    uint32_t table;          /* index into features_spec.tables; UINT32_MAX: none (dense input) */
    uint32_t slot;           /* categorical: its position among the slots of that table */
    uint32_t dense_offset;   /* numeric in mlp, vector: first column of the dense input */
    uint32_t dense_width;    /* 0: none. missing_flag adds one */
    uint32_t cross_parts[3]; /* indices of features, for crosses */
    uint32_t cross_count;
    bool acts_categorical; /* categorical, or numeric made so by bucketize or a transform */
    bool gives_terms;      /* contributes (id, value) terms to a table */
};

struct table_spec {
    char *name;
    uint32_t slot_count;         /* features that read it */
    const struct job_table *job; /* NULL: not mentioned under `tables:` */
};

struct features_spec {
    struct feature_spec *features;
    size_t feature_count;
    struct table_spec *tables;
    size_t table_count;
    uint32_t dense_width; /* of the dense input of an example */
};

/* `columns`: names that the files have (csv header; fixed for criteo, idx; "f0".. for libffm).
   ERR_INPUT names the feature when a column is missing, ambiguous, declared twice, or a cross part
   is not there. */
enum err features_spec_create(const struct job *j, const char *const *columns, size_t column_count,
                              struct features_spec **out) MUST_CHECK;
void features_spec_destroy(struct features_spec *f);

#endif
