/*
 * resume.h - what a run that resumes keeps of the checkpoint that it goes on from.
 *
 * `train.ranks` is as large as `resources.workers` where a job leaves it out, and it may not change
 * after the first checkpoint. So that a run goes on with more or fewer workers than it began with,
 * a job that leaves it out takes the checkpoint's.
 *
 * Threads  one.
 * Errors   those of parsing the job. A checkpoint that cannot be looked at changes nothing: who
 *          leads the job looks at it, too, and says what is wrong with it.
 */
#ifndef PARAMD_CLI_RESUME_H
#define PARAMD_CLI_RESUME_H

#include "cli/cli.h"

/* `*job` is of load_job() with the same arguments; it may be replaced. Says so on stderr. */
enum err resume_keep_ranks(const char *file, const struct option_list *sets,
                           const struct option_list *vars, struct job **job) MUST_CHECK;

#endif
