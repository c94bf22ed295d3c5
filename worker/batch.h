/*
 * batch.h - one rank's examples of one step, as arrays that a model can use.
 *
 * Sparse input: for each table the unique keys of the batch, ascending and mixed, and the terms:
 * which row (a batch-local id, an index into keys) with which value, grouped by (example, slot).
 * The same terms stand a second time grouped by row, so that a row's gradient is a sum in a fixed
 * order by one thread, written once.
 *
 * Shapes   offsets: uint32[n * slot_count + 1]; ids, values: [term_count]; slot s of example i has
 *          the terms offsets[i * slot_count + s] … offsets[i * slot_count + s + 1] - 1.
 *          by_row_offsets: uint32[key_count + 1]; by_row_cells, by_row_values: [term_count],
 *          cell = i * slot_count + s, ascending within a row.
 *          values NULL: all are 1. Pooling scales (mean: 1/n, sqrtn: 1/√n) are in the values.
 * Threads  a batch has one owner at a time; its arrays do not change once made.
 */
#ifndef PARAMD_WORKER_BATCH_H
#define PARAMD_WORKER_BATCH_H

#include <stdint.h>

struct batch_table {
    uint64_t *keys;
    uint32_t key_count;
    uint32_t slot_count;
    uint32_t term_count;
    uint32_t *offsets;
    uint32_t *ids;
    float *values;
    uint32_t *by_row_offsets;
    uint32_t *by_row_cells;
    float *by_row_values;
};

struct batch {
    uint64_t step; /* 0: not of training */
    uint32_t rank;
    uint32_t example_count; /* 0: this rank has run out: an empty push */
    uint32_t dense_width;
    float *labels;      /* [n]: 0/1, a number, or a class */
    float *more_labels; /* [n][more_label_count]: job.model.more_labels */
    uint32_t more_label_count;
    float *weights;             /* [n] */
    double weight_sum;          /* in example order */
    float *dense;               /* [n][dense_width], 64-byte aligned */
    uint64_t *groups;           /* [n] hash of the gauc column, or NULL */
    struct batch_table *tables; /* [table_count of features_spec] */
    uint32_t table_count;
    uint64_t read_ns; /* time that went into making it */
    void *arena;      /* of the maker */
};

#endif
