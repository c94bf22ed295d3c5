/*
 * dataindex_scan.h - one pass over a worker's files for the data index.
 *
 * Blocks are parsed in parallel; with many files, files are. What is gathered goes into lists of
 * the threads, and these are put in order at the end, so the part does not depend on the number of
 * threads.
 *
 * Errors   ERR_INPUT for the first bad row when data.bad_rows is 0, else they are counted.
 */
#ifndef PARAMD_WORKER_DATAINDEX_SCAN_H
#define PARAMD_WORKER_DATAINDEX_SCAN_H

#include <stdatomic.h>

#include "common/job.h"
#include "common/pool.h"
#include "worker/datafiles.h"
#include "worker/dataindex_part.h"

#define INDEX_BAD_SHOWN 10

struct index_scan {
    const struct job *job;
    const struct data_files *files;
    uint32_t worker, worker_count; /* files f % worker_count == worker */
    struct pool *pool;
    const atomic_bool *cancel;
    bool want_values; /* counts for min_count, moments for standardize */
    bool want_times;  /* counts of times, for a split by time */
    bool has_time_split;
    int64_t time_split_ms;
    uint32_t libffm_fields; /* libffm: as far as known; 0: not yet */
};

enum err index_scan_run(const struct index_scan *s, struct index_part *out) MUST_CHECK;

/* Does any feature need counts or moments? Features are known to the job even where columns are
 * not. */
bool index_needs_values(const struct job *j);
bool feature_needs_moments(const struct job_feature *f);

#endif
