/*
 * snapshot_model.h - a model on real shards, whose every value is a function of a seed, for the
 * tests of snapshots: two tables with slots, three dense parameters, any number of shards.
 */
#ifndef PARAMD_TESTS_SNAPSHOT_MODEL_H
#define PARAMD_TESTS_SNAPSHOT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "server/shard.h"
#include "server/snapshot.h"

struct snapshot_model {
    struct schema *schema;
    struct shard **shards;
    uint32_t shard_count;
    uint64_t rows; /* of each table, over all shards */
};

struct schema *snapshot_schema(void);
/* Shards with initial values, not begun. Takes over `schema`. CHECKs. */
struct snapshot_model *snapshot_model_create(struct schema *schema, uint32_t shard_count);
/* `rows` rows a table, values of `seed`; begins the shards at step 1. */
void snapshot_model_fill(struct snapshot_model *m, uint64_t rows, uint64_t seed);
/* Whether rows, slots, dense values and dense slots are those of fill(). */
bool snapshot_model_is(struct snapshot_model *m, uint64_t rows, uint64_t seed);
void snapshot_model_destroy(struct snapshot_model *m);

/* Changes rows [first, first + count) of all tables as an update does, and inserts those that are
   not there; and, but in _rows(), gives every dense parameter a next version. */
void snapshot_model_change_rows(struct shard *s, uint64_t first, uint64_t count, uint64_t seed);
void snapshot_model_change(struct shard *s, uint64_t first, uint64_t count, uint64_t seed);

/* The options of a quiet snapshot of shard `i`: no bound, no deadline. */
struct snapshot_options snapshot_model_options(const struct snapshot_model *m, uint32_t i,
                                               const char *directory);
/* Steps and polls to the end. The result is snapshot_poll()'s. */
enum snapshot_state snapshot_run(struct snapshot *s, const struct checkpoint_file **files,
                                 uint32_t *file_count, const char **why);
/* A manifest without files. */
struct checkpoint_manifest *snapshot_manifest(uint64_t generation, uint64_t step);
void snapshot_manifest_add(struct checkpoint_manifest *m, const struct checkpoint_file *files,
                           uint32_t count);
/* Snapshots of all shards, published as `directory` says. CHECKs. */
void snapshot_model_save(struct snapshot_model *m, const char *directory);
/* Into new shards; an error of any of them. */
enum err snapshot_model_load(struct snapshot_model *m, const char *directory) MUST_CHECK;

/* Threads of this process beyond those of the first call, which main() makes. */
uint32_t snapshot_threads(void);
/* Waits for the end of the writer threads of destroyed snapshots. CHECKs. */
void snapshot_wait_threads(void);

#endif
