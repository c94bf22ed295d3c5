/*
 * secret.h - what a process that holds credentials does about them.
 *
 * Threads  any.
 */
#ifndef PARAMD_COMMON_SECRET_H
#define PARAMD_COMMON_SECRET_H

#include <stddef.h>

/*
 * From now on this process leaves no core dump, and no other process of its user can read its
 * memory (PR_SET_DUMPABLE). Called by whoever reads a secret, before reading it, and at
 * the beginning where the environment holds one.
 */
void secret_protect(void);

/* Overwrites and frees; accepts NULL. */
void secret_free(char *text);
void secret_wipe(void *memory, size_t size);

#endif
