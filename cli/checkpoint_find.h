/*
 * checkpoint_find.h - the checkpoint that a URI means.
 */
#ifndef PARAMD_CLI_CHECKPOINT_FIND_H
#define PARAMD_CLI_CHECKPOINT_FIND_H

#include "cli/cli.h"
#include "common/err.h"

/*
 * `uri` itself when it is named `<generation>-<step>`; else the newest good checkpoint in it; else
 * the newest good one of the only job in it (so `runs/demo` works for `runs/demo/demo`; ERR_INPUT
 * when there are several). Freed with mem_free(). ERR_NOT_FOUND says what was looked at; refused
 * ones are named on stderr and passed over.
 */
enum err checkpoint_find(const char *uri, char **directory_out) MUST_CHECK;
/* The next older one, after `refused`, which one of these two gave, turned out not to be good.
   ERR_NOT_FOUND also when `uri` named that very checkpoint. */
enum err checkpoint_find_older(const char *uri, const char *refused,
                               char **directory_out) MUST_CHECK;
/*
 * What lists all checkpoints: `uri` if there are any in it, else the only job's directory in it
 * that has some, else `uri`. Freed with mem_free().
 */
enum err checkpoint_find_directory(const char *uri, char **directory_out) MUST_CHECK;
/* The job that the checkpoint was made with, changed by `sets`. `uri`: as checkpoint_find(). */
enum err checkpoint_find_job(const char *uri, const struct option_list *sets,
                             const struct option_list *vars, struct job **out) MUST_CHECK;

#endif
