/*
 * trainer.h - the loop: read, wait for values, forward and backward, push.
 *
 * One thread trains all ranks of this process. It always takes the rank that is behind, so for each
 * step it has sent the push-pulls of every rank that it hosts before it waits for any (PROTOCOL.md
 * 3). It begins by asking the shards where each rank stands, so starting anew, after a checkpoint
 * and in place of a lost worker are one path.
 *
 * Threads  start, status, stop: any, one at a time for stop. `changed` is called on the trainer's
 *          thread.
 * Errors   end in the status: which kind of failure, and the text.
 */
#ifndef PARAMD_WORKER_TRAINER_H
#define PARAMD_WORKER_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/model.h"
#include "worker/dataset.h"
#include "worker/device.h"
#include "worker/exchange.h"

struct trainer;

struct trainer_rank {
    uint32_t rank;
    uint64_t lease;
};

struct trainer_options {
    struct exchange_options exchange; /* rank_max and cancel are the trainer's own */
    const struct job *job; /* this and what follows is borrowed and outlives the trainer */
    const struct model *model;
    struct dataset *dataset;
    const struct trainer_rank *ranks;
    uint32_t rank_count;
    uint64_t start_step;               /* the version that the shards began at */
    uint32_t threads;                  /* for arithmetic; at least 1 */
    const struct device_list *devices; /* ranks take them in turn; NULL: the processor */
    void (*changed)(void *context);    /* the status is worth a look; may be NULL */
    void *context;
};

enum trainer_end {
    TRAINER_RUNS,
    TRAINER_FINISHED, /* every rank has made its last step, or was replaced */
    TRAINER_CANCELLED,
    TRAINER_NOT_FORMED,     /* the shards belong to another formation */
    TRAINER_OVERTAKEN,      /* by a late message of the trainer before it: to be started again */
    TRAINER_FAILED_INPUT,   /* the job's data or configuration */
    TRAINER_FAILED_BUG,     /* ours, or not reproducible */
    TRAINER_FAILED_RESOURCE /* memory, a disk, a peer */
};

struct trainer_rank_status {
    uint32_t rank;
    uint64_t lease;
    uint64_t step; /* answered by all shards */
    bool finished;
    uint64_t busy_ms; /* at computing one step for so long; 0: it does something else */
};

struct trainer_shares { /* nanoseconds of the trainer's thread */
    uint64_t read, exchange, compute, upload, wait, total;
};

struct trainer_status {
    enum trainer_end end;
    char why[512]; /* "" unless it failed */
    struct trainer_shares shares;
};

enum err trainer_start(const struct trainer_options *options, struct trainer **out) MUST_CHECK;
void trainer_status(struct trainer *t, struct trainer_status *out);
/* Of the rank at place `index` of options.ranks. */
struct trainer_rank_status trainer_rank_status(struct trainer *t, uint32_t index);
uint32_t trainer_rank_count(const struct trainer *t);
void trainer_cancel(struct trainer *t); /* returns at once */
void trainer_stop(struct trainer *t);   /* cancels, waits for the thread, frees; accepts NULL */

#endif
