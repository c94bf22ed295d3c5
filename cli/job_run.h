/*
 * job_run.h - one job on a cluster of this machine, from submission to its end: for run and eval.
 *
 * Processes that die are started again one by one, and the coordinator recovers the job; one that
 * dies again and again ends the run.
 *
 * Threads  one; installs handlers for SIGINT and SIGTERM while it runs. The first signal asks for a
 *          stop with a checkpoint; a second one, or INTERRUPT_GRACE, ends the processes.
 */
#ifndef PARAMD_CLI_JOB_RUN_H
#define PARAMD_CLI_JOB_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/display.h"
#include "common/err.h"
#include "common/job.h"
#include "common/str.h"
#include "proto/control.pb-c.h"

struct job_request {
    const struct job *job;
    const char *mode;          /* "train" | "eval" */
    const char *directory;     /* the run directory */
    uint32_t servers, workers; /* servers 0: within this process */
    const char *const *daemon_sets;
    bool resume, resume_auto, fresh;
    const char *checkpoint; /* eval */
};

enum job_outcome_kind { JOB_ENDED, JOB_FAILED, JOB_INTERRUPTED };

struct job_outcome {
    enum job_outcome_kind kind;
    struct str why;                       /* FAILED */
    Paramd__Control__StatusReply *status; /* the last one; NULL when there was none */
};

/* An error means that nothing ran: the cluster did not come up, or the job was refused. */
enum err job_run(const struct job_request *request, struct display *display,
                 struct job_outcome *out) MUST_CHECK;
void job_outcome_deinit(struct job_outcome *o);

#endif
