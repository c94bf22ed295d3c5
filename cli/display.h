/*
 * display.h - what a run shows while it goes on, and at its end.
 *
 * On a terminal one live line (step, epoch, examples/s, loss, time left); elsewhere a plain line
 * every ten seconds. Evaluations, warnings and recoveries get a line of their own, once. All of it
 * goes to stderr; metrics.jsonl gets a JSON object a line: a sample a second, every evaluation,
 * every warning, every recovery with its time.
 *
 * Threads  one.
 */
#ifndef PARAMD_CLI_DISPLAY_H
#define PARAMD_CLI_DISPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"
#include "proto/control.pb-c.h"

struct display;

/* `metrics_path` NULL: no file; it is appended to. `quiet`: evaluations and warnings only. */
enum err display_create(const char *metrics_path, bool quiet, struct display **out) MUST_CHECK;
void display_update(struct display *p, const Paramd__Control__StatusReply *status);
/* A process of the job has died now: says so; the time to the next step counts from here. */
void display_lost(struct display *p, const char *text);
/* A message on a line of its own. */
void display_say(struct display *p, const char *format, ...) PRINTF_LIKE(2, 3);
/* Ends the live line. */
void display_destroy(struct display *p);

/* {"log_loss": …, "auc": …} of an evaluation. */
struct json *display_metrics(const Paramd__Control__EvalRecord *e);
/*
 * The evaluation that belongs to the result: of checkpoint_step if there is one, else the last;
 * NULL: none.
 */
const Paramd__Control__EvalRecord *display_final_eval(const Paramd__Control__StatusReply *status);
/* The table at the end: outcome, rate, shares of time, metrics, checkpoint, digest. */
void display_summary(const Paramd__Control__StatusReply *status, const char *digest,
                     uint32_t pipeline_depth);

#endif
