/*
 * schema.h - what a model keeps on the servers: tables of rows and dense parameters, by number.
 *
 * The schema is a pure function of the job and the data index (common/model makes it); servers,
 * checkpoints and workers agree on it by that. Table and parameter numbers on the wire and on disk
 * are indices here.
 *
 * Shapes   A row has `dim` floats: its components' values one after another, in order. A shard
 *          keeps optimizer slots after them: for each component, slot_count × component.dim floats,
 *          in component order. state_dim = dim + Σ slot_count × component.dim. A dense parameter
 *          has `count` floats cut into blocks of block_values (the last may be short); a block's
 *          state is values, then slots [slot_count][values in block].
 * Pure     no I/O; immutable once made: any thread.
 */
#ifndef PARAMD_COMMON_SCHEMA_H
#define PARAMD_COMMON_SCHEMA_H

#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/limits.h"

struct schema_component {
    char name[16]; /* "w", "v" */
    uint32_t dim;
    uint32_t offset;      /* of its values in the row */
    uint32_t slot_count;  /* arrays of optimizer state */
    uint32_t slot_offset; /* of its first slot in the row's state */
    struct optimizer_spec optimizer;
    struct init_spec init;
    double l2; /* added to the gradient of rows that the step touches: l2 * value */
};

struct schema_table {
    char name[NAME_MAX_BYTES + 1];
    uint32_t component_count;
    struct schema_component components[COMPONENT_MAX];
    uint32_t dim;       /* floats of values */
    uint32_t state_dim; /* floats of values and slots */
    uint64_t max_rows;  /* 0: no bound; over the whole model */
    uint64_t init_key;  /* rng key of initial values: see schema_row_init() */
};

struct schema_dense {
    char name[NAME_MAX_BYTES + 1]; /* "layer0.weight" */
    uint32_t shape[4];
    uint32_t shape_count;
    uint64_t count; /* floats */
    uint32_t block_values;
    uint32_t block_count;
    uint32_t slot_count;
    struct optimizer_spec optimizer;
    struct init_spec init;
    uint32_t fan_in, fan_out; /* for INIT_GLOROT */
    double l2;
    uint64_t init_key;
};

struct schema {
    struct schema_table *tables;
    uint32_t table_count;
    struct schema_dense *dense;
    uint32_t dense_count;
};

/* Computes offsets, dims, slot counts and blocks from what the caller filled in (names, dims,
   shapes, optimizers, inits, l2); ERR_LIMIT / ERR_INPUT names what does not fit. */
enum err schema_finish(struct schema *s, uint64_t seed) MUST_CHECK;
void schema_destroy(struct schema *s); /* heap; accepts NULL */

/* Optimizer state arrays by type name; the one table of types that job_parse and servers share. */
uint32_t optimizer_slot_count(const char *type);

/* The initial values of an absent row: a pure function of (seed, table, component, mixed key). */
void schema_row_init(const struct schema_table *t, uint64_t mixed_key, float *values /* [dim] */);
/* The initial state of a row: values, then slots (adagrad: initial_accumulator; else 0).
   [state_dim] */
void schema_row_init_state(const struct schema_table *t, uint64_t mixed_key, float *state);
/* Initial values of values [first, first + count) of a dense parameter. */
void schema_dense_init(const struct schema_dense *d, uint64_t first, uint32_t count, float *values);
float schema_slot_init(const struct optimizer_spec *optimizer, uint32_t slot);

/* Of block `i`: its partition, first value, and number of values. */
uint32_t schema_block_partition(const struct schema_dense *d, uint32_t block);
uint64_t schema_block_first(const struct schema_dense *d, uint32_t block);
uint32_t schema_block_size(const struct schema_dense *d, uint32_t block);

#endif
