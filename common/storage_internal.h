/*
 * storage_internal.h - what a storage backend is: the table that storage.c dispatches through, and
 * the tests' faults. For storage*.c only.
 *
 * A backend derives its reader and writer from the bases below, each as its first member, and fills
 * in the base. A new one is a file and a row in storage_backends.c. All slots but the last MUST be
 * there. Texts name the URI.
 */
#ifndef PARAMD_COMMON_STORAGE_INTERNAL_H
#define PARAMD_COMMON_STORAGE_INTERNAL_H

#include "common/settings.h"
#include "common/storage.h"

struct storage_ahead;

struct storage_backend {
    bool is_remote;     /* a read costs a round trip: reads in order are fetched ahead */
    const char *scheme; /* "file" serves "file:…" and names without a scheme */
    const char *forms;  /* the names it takes, for texts */
    enum err (*stat)(const char *uri, struct storage_info *out);
    enum err (*list)(const char *uri, struct storage_list *out); /* in any order */
    enum err (*open)(const char *uri, struct storage_reader **out);
    enum err (*read_at)(struct storage_reader *r, uint64_t offset, void *out, size_t size);
    void (*close)(struct storage_reader *r);
    enum err (*write_open)(const char *uri, bool overwrite, struct storage_writer **out);
    enum err (*write)(struct storage_writer *w, const void *data, size_t size);
    enum err (*write_close)(struct storage_writer *w);
    void (*write_abort)(struct storage_writer *w);
    enum err (*remove)(const char *uri);
    enum err (*remove_tree)(const char *uri);
    /* MAY be there: without it a writer that dies leaves nothing. */
    enum err (*remove_leftovers)(const char *uri, uint64_t before_ms, uint32_t *count_out);
};

struct storage_reader {
    const struct storage_backend *backend;
    uint64_t size;
    struct storage_ahead *ahead; /* storage.c's; NULL: none */
};

struct storage_writer {
    const struct storage_backend *backend;
};

extern const struct storage_backend storage_file_backend;
extern const struct storage_backend storage_hdfs_backend;
extern const struct storage_backend storage_s3_backend;

/* Never NULL, and as it is for the rest of the process. */
const struct storage_settings *storage_settings(void);

/* The first one serves names without a scheme. */
extern const struct storage_backend *const storage_backends[];
extern const size_t storage_backend_count;

/* True when the test's nth operation is this one. A backend asks once for each thing that it does,
   with each fault that can befall it. */
bool storage_fault_now(enum storage_fault fault);

#endif
