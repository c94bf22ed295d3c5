/*
 * registry_lock.h - files that a process owns for as long as it lives. For registry*.c and its test
 * only.
 *
 * The locks are of open file descriptions (F_OFD_SETLK): they go when the last descriptor of that
 * open() goes, however the process ends, and they work between registries opened by one process.
 * All are opened O_CLOEXEC; a child that is forked and does not exec would keep them alive, so fork
 * before claiming. Others only ask (F_OFD_GETLK) and never take them. A file is locked before it
 * gets its name, so one without a lock belongs to a dead process. Locks show death, not hanging.
 *
 * Threads  any: every call opens its own description.
 */
#ifndef PARAMD_COMMON_REGISTRY_LOCK_H
#define PARAMD_COMMON_REGISTRY_LOCK_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* The lock of a directory, held for a change: a descriptor to close. ERR_UNAVAILABLE after 10 s. */
enum err registry_lock_take(const char *directory, int *fd_out) MUST_CHECK;

/* Makes `path` with this text, owned by the descriptor: close it to let go. Under the directory's
 * lock. */
enum err registry_lock_claim(const char *directory, const char *path, const char *text,
                             int *fd_out) MUST_CHECK;

/* The text of a file whose owner lives; freed with mem_free(). ERR_NOT_FOUND: there is none, or its
   owner is dead. */
enum err registry_lock_read(size_t max_bytes, const char *path, char **text_out) MUST_CHECK;

/* ERR_REFUSED on a network file system, where locks and deaths of processes are not to be relied
 * on. */
enum err registry_lock_check_file_system(const char *directory) MUST_CHECK;
/* The name of a network file system by statfs()'s magic number; NULL for the others. */
const char *registry_lock_network_name(uint64_t magic);

#endif
