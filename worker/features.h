/*
 * features.h - records -> labels, keys and numbers, as the job's features say (JOB.md,
 * docs/key-hash.md).
 *
 * features_add() appends one record to a struct rows, columns of arrays that a block's records
 * fill: per table the terms (key, value), cell by cell, a cell being (example, slot); and the dense
 * inputs. A record that is wrong leaves the rows as they were.
 *
 * Shapes   tables[t].ends: uint32[count * slot_count], where a cell's terms end; keys, values:
 *          [term_count]. keys are mixed. dense: float[count][dense_width].
 * Threads  struct features does not change once made; rows belong to one thread.
 * Errors   ERR_INPUT "file:line:column: …" with the value and the feature.
 */
#ifndef PARAMD_WORKER_FEATURES_H
#define PARAMD_WORKER_FEATURES_H

#include "common/dataindex.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "worker/reader.h"

struct rows_table {
    uint64_t *keys;
    float *values; /* meaningful when has_values; else all are 1 */
    uint32_t *ends;
    size_t term_count;
    size_t committed_terms; /* of the whole examples; what a wrong record added lies behind */
    size_t key_capacity, value_capacity, end_capacity;
    uint32_t slot_count;
    bool has_values;
    bool uniform; /* each cell has one term */
};

struct rows {
    uint32_t count;
    uint32_t table_count, dense_width;
    struct rows_table *tables;
    float *labels, *weights, *dense;
    float *more_labels; /* [count][more_label_count] */
    uint32_t more_label_count;
    uint64_t *groups;    /* hash of the gauc column; NULL without one */
    int64_t *times;      /* ms since 1970; NULL without data.time */
    bool *evals;         /* belongs to the evaluation set */
    struct rows_lookup { /* [feature count], and which of them: of the record at hand */
        uint64_t key, final_key;
    } * lookups;
    uint32_t *order;
    uint64_t cut_values; /* by max_values */
    bool has_groups, has_times, has_weights;
    size_t label_capacity, more_label_capacity, weight_capacity, dense_capacity, group_capacity,
        time_capacity, eval_capacity;
};

struct features;

/* What is called while values pass, for the data index and describe. Any may be NULL. Of a record
   that turns out to be wrong some calls have been made. */
struct features_observer {
    void *context;
    void (*key)(void *context, uint32_t feature, uint64_t key);    /* before vocab and buckets */
    void (*number)(void *context, uint32_t feature, double value); /* before transforms */
    void (*moment)(void *context, uint32_t feature, double value); /* what standardize gets */
    void (*missing)(void *context, uint32_t feature);
};

struct features_options {
    const struct job *job; /* all are borrowed */
    const struct features_spec *spec;
    const char *const *columns; /* names of a record's fields */
    uint32_t column_count;
    const struct dataindex *index; /* vocabularies, standardize; NULL: while it is made */
    bool label_optional;           /* predict: absent columns and values are 0 */
    bool has_time_split;           /* while the index is made */
    int64_t time_split_ms;
};
enum err features_create(const struct features_options *o, struct features **out) MUST_CHECK;
void features_destroy(struct features *f); /* accepts NULL */

void rows_init(const struct features *f, struct rows *r);
void rows_clear(struct rows *r);
void rows_deinit(struct rows *r);

struct features_call {
    const struct reader *reader; /* for positions */
    bool for_eval;               /* the file is of data.eval */
    const struct features_observer *observer;
};
enum err features_add(const struct features *f, const struct features_call *call,
                      const struct record *record, struct rows *rows) MUST_CHECK;

/* Fields that predict copies: the places of data.id's columns. */
const uint32_t *features_id_fields(const struct features *f, uint32_t *count_out);
/* The feature that reads a field, or UINT32_MAX. */
uint32_t features_of_field(const struct features *f, uint32_t field);

/* Epoch seconds or milliseconds (beyond 10^11), or ISO 8601 ("2026-05-02",
 * "2026-05-02T10:30:00.5+02:00"). */
bool features_parse_time(struct span text, int64_t *ms_out);

#endif
