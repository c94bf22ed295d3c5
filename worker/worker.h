/*
 * worker.h - a worker as an object: what paramd-worker runs, and what `--servers 0` runs in
 * paramctl's process.
 *
 * worker_start() joins the registry, reports to the leader and follows its orders until
 * worker_stop(). `settings` are borrowed and outlive the worker.
 *
 * Threads  start, stop, wait: one thread of the owner.
 */
#ifndef PARAMD_WORKER_WORKER_H
#define PARAMD_WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/settings.h"

struct worker;

/* `settings` are borrowed until the stop. */
enum err worker_start(const struct daemon_settings *settings, struct worker **out) MUST_CHECK;
int worker_wait(struct worker *w, uint32_t timeout_ms); /* exit code, or -1 */
/* Asks the leader to move the ranks; worker_wait() tells when that is done. true: there are none,
 * it may go at once. */
bool worker_ask_to_leave(struct worker *w);
void worker_stop(struct worker *w); /* accepts NULL */

#endif
