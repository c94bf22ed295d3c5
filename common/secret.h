/*
 * secret.h - what a process that holds credentials does about them.
 *
 * Threads  any.
 */
#ifndef PARAMD_COMMON_SECRET_H
#define PARAMD_COMMON_SECRET_H

#include <stddef.h>

#include "common/str.h"

/*
 * From now on this process leaves no core dump, and no other process of its user can read its
 * memory (PR_SET_DUMPABLE). Called by whoever reads a secret, before reading it, and at
 * the beginning where the environment holds one.
 */
void secret_protect(void);

/*
 * A copy in pages of its own that no core dump holds, not even one that root asks for (gcore); for
 * what is kept for long. secret_release() overwrites and unmaps it; accepts NULL.
 */
char *secret_keep(struct span text);
void secret_release(char *text);

/* Overwrites and frees what is on the heap; accepts NULL. */
void secret_free(char *text);
void secret_wipe(void *memory, size_t size);

#endif
