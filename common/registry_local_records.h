/*
 * registry_local_records.h - the files of a local registry that outlive its processes: its term and
 * its records. For registry_local*.c only.
 *
 *     DIR/term              the highest term so far
 *     DIR/records/PATH      version, checksum of both, and bytes; a '/' of the path is written '!'
 *
 * Writers hold the lock of the directory; readers see whole files, because they appear by rename.
 *
 * Threads  any.
 * Errors   as registry.h says; ERR_CORRUPT for a file that somebody else wrote in.
 */
#ifndef PARAMD_COMMON_REGISTRY_LOCAL_RECORDS_H
#define PARAMD_COMMON_REGISTRY_LOCAL_RECORDS_H

#include "common/registry_internal.h"
#include "common/str.h"

#define REGISTRY_LOCAL_TERM    "term"
#define REGISTRY_LOCAL_RECORDS "records"
/* Records and the line or two in front of them. */
#define REGISTRY_LOCAL_FILE_MAX_BYTES (REGISTRY_RECORD_MAX_BYTES + 4096)

/* A file with `head` and `data`, durable and whole or not at all. */
enum err registry_local_write(const char *path, struct span head, struct span data) MUST_CHECK;

/* 0 before the first leader. */
enum err registry_local_read_term(const char *directory, uint64_t *term) MUST_CHECK;

/* `led_term` other than 0: only while it is the newest. */
enum err registry_local_put(const char *directory, const struct registry_write *w,
                            uint64_t led_term, uint64_t *version_out) MUST_CHECK;
enum err registry_local_get(const char *directory, const char *path, void **data_out,
                            size_t *size_out, uint64_t *version_out) MUST_CHECK;
enum err registry_local_remove(const char *directory, const char *path,
                               uint64_t led_term) MUST_CHECK;
enum err registry_local_list(const char *directory, const char *path, char ***names_out,
                             size_t *count_out) MUST_CHECK;

#endif
