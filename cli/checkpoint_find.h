/*
 * checkpoint_find.h - the checkpoint that a URI means.
 */
#ifndef PARAMD_CLI_CHECKPOINT_FIND_H
#define PARAMD_CLI_CHECKPOINT_FIND_H

#include "common/err.h"

/*
 * `uri` itself when it is named `<generation>-<step>`; else the newest good checkpoint in it, or, when it has none, in its one
 * sub-directory that does (so `runs/demo` works for `runs/demo/demo`). Freed with mem_free(). ERR_NOT_FOUND says what was
 * looked at; refused ones are named on stderr and passed over.
 */
enum err checkpoint_find(const char *uri, char **directory_out) MUST_CHECK;

#endif
