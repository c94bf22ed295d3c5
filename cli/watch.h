/*
 * watch.h - following a job of a cluster to its end: for `submit --wait` and `status -w`.
 *
 * Asks for the job's status a few times a second. When nobody answers it says so, once, and keeps
 * asking: a leader that dies is followed by another one. It gives up after WATCH_SILENCE_MS
 * without any answer, so that a watch of a cluster that is gone ends.
 *
 * Threads  one; counts SIGINT and SIGTERM while it runs.
 * Errors   ERR_CANCELLED: interrupted; ERR_TIMEOUT: the job is not over within timeout_s;
 *          ERR_UNAVAILABLE: silence; ERR_NOT_FOUND: no such job.
 */
#ifndef PARAMD_CLI_WATCH_H
#define PARAMD_CLI_WATCH_H

#include <stdint.h>

#include "cli/cluster.h"
#include "cli/display.h"

#define WATCH_SILENCE_MS 300000u

struct watch {
    struct cluster *cluster;
    const char *job;
    int64_t timeout_s; /* 0: as long as it takes */
    struct display *display;
    /* Each answer, if not NULL. */
    void (*seen)(void *context, const Paramd__Control__StatusReply *s);
    void *context;
};

/* *last_out is the newest status that was seen, also after an error; NULL: none. Freed by the
 * caller. */
enum err watch_job(const struct watch *w, Paramd__Control__StatusReply **last_out) MUST_CHECK;

/* For loops like watch_job()'s: whether a call that failed with `err` may do better later. Says
 * once that it waits, and for how long it did when `err` is ERR_NONE. */
struct patience {
    uint64_t silent_ms; /* since; 0: answers come */
};
bool patience_goes_on(struct patience *p, enum err err, struct display *display);

#endif
