/*
 * dataset.h - a job's data as batches: index, block cache, sampler, read-ahead.
 *
 * dataset_index_*() make the data index: every worker of W indexes the files f with f % W == its
 * number, in as many rounds as the job needs; worker 0 merges. dataset_open() then serves batches.
 * Blocks are parsed and hashed once into columnar files in a cache directory that workers of one
 * machine share (written under a temporary name, renamed); which examples are batch (epoch, step,
 * rank) is worker/sampler's pure answer.
 *
 * Threads  a stream belongs to one thread; its read-ahead has its own, with a bounded queue of
 *          batches.
 * Errors   ERR_INPUT "file:line:column: …" for bad rows beyond data.bad_rows; ERR_REFUSED for a
 *          file that differs from the index; both fail the job.
 */
#ifndef PARAMD_WORKER_DATASET_H
#define PARAMD_WORKER_DATASET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/dataindex.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "worker/batch.h"

struct dataset_index_options {
    const struct job *job;
    const char *uri; /* where index files go: `<checkpoint.uri>/<job>` */
    uint32_t worker, worker_count;
    uint32_t threads;
    const atomic_bool *cancel; /* checked often; may be NULL */
};
/*
 * One round. Round 0, 1, … are run by all workers, each after all have finished the one before.
 * *done is set by worker 0 when the index is complete and stored; then `checksum` is filled. An
 * index of equal job data and unchanged files that is stored already is reused (round 0 says done
 * at once).
 */
enum err dataset_index_round(const struct dataset_index_options *o, uint32_t round, bool *done,
                             char checksum[SHA256_HEX_SIZE]) MUST_CHECK;
/* Reads `<uri>/index-<checksum>.json` and `.bin`, and verifies them. */
enum err dataset_index_load(const char *uri, const char *checksum,
                            struct dataindex **out) MUST_CHECK;

struct dataset;
struct dataset_options {
    const struct job *job; /* all three are borrowed and outlive the dataset */
    const struct features_spec *features;
    const struct dataindex *index;
    const char *cache_directory; /* a local path; made if missing */
    uint64_t cache_limit_bytes;  /* 0: 80 % of its file system */
    uint32_t threads;            /* for parsing */
};
enum err dataset_open(const struct dataset_options *o, struct dataset **out) MUST_CHECK;
void dataset_close(struct dataset *d);

struct batch_stream;
/* Batches first_step, first_step + 1, … last_step of a rank. `ahead`: batches kept ready. */
enum err dataset_train_stream(struct dataset *d, uint32_t rank, uint64_t first_step,
                              uint64_t last_step, uint32_t ahead,
                              struct batch_stream **out) MUST_CHECK;
/* Share `part` of `parts` of the evaluation set (job.eval.examples at most in all), in order, in
   batches of at most `batch_size` examples; step is 0. The same examples whatever `parts` is. */
enum err dataset_eval_stream(struct dataset *d, uint32_t part, uint32_t parts, uint32_t batch_size,
                             struct batch_stream **out) MUST_CHECK;
/* *out = NULL at the end. A batch goes back with batch_release(), from any thread, before its
 * stream closes. */
enum err batch_stream_next(struct batch_stream *s, struct batch **out) MUST_CHECK;
void batch_release(struct batch *b);             /* accepts NULL */
void batch_stream_close(struct batch_stream *s); /* stops the read-ahead; accepts NULL */

/*
 * For predict: batches from files or from JSON lines outside the index (min_count and standardize
 * from it). `ids` gives, for the batch just read, the data.id columns' text per example.
 */
struct predict_source;
enum err predict_open_files(struct dataset *d, const struct text_list *paths, uint32_t batch_size,
                            struct predict_source **out) MUST_CHECK;
enum err predict_open_json(struct dataset *d, struct predict_source **out) MUST_CHECK;
/* One JSON object a line → a batch of one line each; labels may be absent. */
enum err predict_parse_json(struct predict_source *p, const char *const *lines, const size_t *sizes,
                            uint32_t count, struct batch **out) MUST_CHECK;
enum err predict_next(struct predict_source *p,
                      struct batch **out) MUST_CHECK; /* files: NULL at the end */
const char *predict_id(const struct predict_source *p, uint32_t example, uint32_t column);
void predict_close(struct predict_source *p);

/* `paramctl data describe`: per feature missing, distinct, minimum, maximum, label rate; first
 * examples. JSON. */
struct json;
enum err dataset_describe(const struct job *j, uint32_t first_examples,
                          struct json **out) MUST_CHECK;

#endif
