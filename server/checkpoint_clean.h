/*
 * checkpoint_clean.h - removing what attempts that died left in a job's directory.
 *
 * That is: directories that are named as checkpoints and were never committed, files in a committed
 * one that its manifest does not list, and what the store itself keeps of unfinished writes. Only
 * what is older than a given age goes, by the store's times, so that an attempt under way is never
 * touched; only under the job's own directory, and nothing there that is not named as a checkpoint
 * is looked at.
 *
 * Units    milliseconds.
 * Threads  any. It may run beside a training job.
 * Errors   the store's. One thing that cannot be removed does not stop the others.
 */
#ifndef PARAMD_SERVER_CHECKPOINT_CLEAN_H
#define PARAMD_SERVER_CHECKPOINT_CLEAN_H

#include <stdint.h>

#include "common/err.h"

struct checkpoint_cleaned {
    uint32_t directories; /* never committed */
    uint32_t files;       /* that no manifest lists */
    uint32_t writes;      /* unfinished, of the store */
};

enum err checkpoint_clean(const char *job_uri, uint64_t older_than_ms,
                          struct checkpoint_cleaned *out) MUST_CHECK;

#endif
