/*
 * storage.h - files, wherever they are: one table of operations per URI scheme.
 *
 * storage_file serves "file:path" (relative to the working directory), "file:///path" and bare
 * paths. hdfs:// and s3:// plug in as further rows.
 *
 * A name is a URI. Listings are in byte order. A written object appears under its name whole, when
 * storage_write_close() succeeded and it is durable then, or not at all. storage_create_exclusive()
 * is the commit of a checkpoint: it succeeds for exactly one writer.
 *
 * Units    bytes. Threads: any; one reader or writer handle by one thread at a time.
 * Errors   ERR_NOT_FOUND, ERR_EXISTS, ERR_IO, ERR_UNAVAILABLE (try later), ERR_LIMIT (disk full:
 *          text says so), ERR_UNSUPPORTED (scheme; the text lists what there is). Texts name the
 *          URI.
 */
#ifndef PARAMD_COMMON_STORAGE_H
#define PARAMD_COMMON_STORAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct storage_info {
    uint64_t size;
    uint64_t modified_ms;
    bool is_directory;
    char mark[64]; /* changes when the content changes: size, time, inode */
};

struct storage_entry {
    char *name; /* last component */
    struct storage_info info;
};

struct storage_list {
    struct storage_entry *entries;
    size_t count;
};

struct storage_reader;
struct storage_writer;

enum err storage_stat(const char *uri, struct storage_info *out) MUST_CHECK;
/* Of a directory, in byte order of names; ERR_NOT_FOUND when there is none. */
enum err storage_list(const char *uri, struct storage_list *out) MUST_CHECK;
void storage_list_deinit(struct storage_list *l);

enum err storage_open(const char *uri, struct storage_reader **out) MUST_CHECK;
uint64_t storage_reader_size(const struct storage_reader *r);
/* Reads exactly `size` bytes at `offset`, or ERR_IO / ERR_CORRUPT (short). Thread-safe on one
   handle. */
enum err storage_read_at(struct storage_reader *r, uint64_t offset, void *out,
                         size_t size) MUST_CHECK;
void storage_close(struct storage_reader *r); /* accepts NULL */
/* The whole of a small object (limit `max` bytes, ERR_LIMIT beyond); freed with mem_free();
   0-terminated. */
enum err storage_read_all(const char *uri, size_t max, char **data_out,
                          size_t *size_out) MUST_CHECK;

/* Makes missing directories. `overwrite` false: ERR_EXISTS at close when it is there. */
enum err storage_write_open(const char *uri, bool overwrite,
                            struct storage_writer **out) MUST_CHECK;
enum err storage_write(struct storage_writer *w, const void *data, size_t size) MUST_CHECK;
/* Durable; frees w either way. */
enum err storage_write_close(struct storage_writer *w) MUST_CHECK;
void storage_write_abort(struct storage_writer *w); /* accepts NULL */

/* All of a small object at once: durable, whole. `overwrite` false: ERR_EXISTS when it is there. */
enum err storage_write_all(const char *uri, bool overwrite, const void *data,
                           size_t size) MUST_CHECK;
/* Durable, whole, first writer wins: ERR_EXISTS for all others. */
enum err storage_create_exclusive(const char *uri, const void *data, size_t size) MUST_CHECK;
enum err storage_remove(const char *uri) MUST_CHECK; /* absent is fine */
/* MANIFEST.json first; absent is fine. */
enum err storage_remove_tree(const char *uri) MUST_CHECK;

/*
 * Removes what writers that died left below `uri` before `before_ms` (Unix time): temporary files,
 * unfinished uploads. Nothing that has a name of its own.
 */
enum err storage_remove_leftovers(const char *uri, uint64_t before_ms,
                                  uint32_t *count_out) MUST_CHECK;

/* Joins with one '/'. Freed with mem_free(). */
char *storage_join(const char *uri, const char *name);

/* Expands paths, globs and directories (`_SUCCESS` when they hold part-*; `_*` and `.*` skipped;
   `key=value` levels become columns) to files in byte order of their URIs. */
struct storage_file {
    char *uri;
    struct storage_info info;
    char **column_names; /* from key=value levels */
    char **column_values;
    size_t column_count;
};
struct storage_files {
    struct storage_file *files;
    size_t count;
};
enum err storage_expand(const char *const *patterns, size_t count,
                        struct storage_files *out) MUST_CHECK;
void storage_files_deinit(struct storage_files *f);

struct storage_settings;
/* How the stores are reached. Once, before the first use; copied. Without it: every default. */
void storage_configure(const struct storage_settings *s);

/* A test's way to fail the nth storage operation of this process: 1 = the next; 0 = off. */
enum storage_fault {
    STORAGE_FAULT_EIO,
    STORAGE_FAULT_ENOSPC,
    STORAGE_FAULT_SHORT, /* a read finds the end early; a write is torn */
    STORAGE_FAULT_FSYNC
};
void storage_fail_nth(enum storage_fault fault, uint64_t n);

#endif
