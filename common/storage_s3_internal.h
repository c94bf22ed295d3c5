/*
 * storage_s3_internal.h - what the parts of the S3 storage share: names, one request with its
 * tries, the writer. For storage_s3*.c only.
 *
 * Sources  Amazon S3 API Reference.
 */
#ifndef PARAMD_COMMON_STORAGE_S3_INTERNAL_H
#define PARAMD_COMMON_STORAGE_S3_INTERNAL_H

#include <stdatomic.h>

#include "common/http.h"
#include "common/storage_internal.h"

#define S3_PART_BYTES   ((size_t)8 << 20)
#define S3_ANSWER_BYTES ((size_t)32 << 20) /* of a listing's page, generously */
#define S3_HEADERS_MAX  6u

/* ---- names: storage_s3_name.c ---- */

/* "s3://bucket/key": the key is what follows the slash, byte for byte. */
struct s3_name {
    const char *uri; /* borrowed, for texts */
    char *bucket;
    const char *key; /* in `uri`; "": the bucket itself */
};

enum err s3_name_parse(const char *uri, struct s3_name *out) MUST_CHECK;
void s3_name_deinit(struct s3_name *n);

/* Where requests for a bucket go. */
struct s3_place {
    char *host; /* as in the Host header */
    char *base; /* "https://host" */
    char *path; /* of the bucket: "" or "/bucket", encoded */
    char *region;
};

void s3_place_find(const char *bucket, struct s3_place *out);
void s3_place_deinit(struct s3_place *p);
/* The store told a bucket's region: for all requests from now on. */
void s3_place_learn(const char *bucket, struct span region);

/* ---- one request: storage_s3_call.c ---- */

struct s3_call {
    const struct s3_name *name;
    const char *doing; /* "read", for texts */
    enum http_method method;
    const char *query;                       /* encoded; NULL: none */
    bool of_bucket;                          /* not of the key */
    const char *headers[S3_HEADERS_MAX + 1]; /* signed */
    const void *body;
    size_t body_size;
    uint64_t range_first, range_size; /* 0: no range */
    void *into;                       /* range_size bytes; NULL: into memory */
    bool is_slow;                     /* the store may think for minutes */
};

struct s3_answer {
    struct http_answer http;
    char code[64];      /* of the error: "NoSuchKey"; "" for none */
    bool was_uncertain; /* an earlier try may have been carried out */
};

/*
 * Signs, sends, tries again. ERR_NONE: 2xx. ERR_NOT_FOUND: 404. ERR_EXISTS: 412. ERR_REFUSED: 403
 * and what else will not pass. ERR_UNSUPPORTED: 501. ERR_LIMIT: the store is full. The text names
 * the URI, the status and what the store said. `out` is filled either way.
 */
enum err s3_perform(const struct s3_call *c, struct s3_answer *out) MUST_CHECK;
void s3_answer_deinit(struct s3_answer *a);
/* Appends "NAME=VALUE" with an '&' in front unless it is the first, VALUE encoded. */
void s3_query_add(struct str *query, const char *name, const char *value);

/* ---- looking: storage_s3.c ---- */

/* "s3://b/k" as a directory has the prefix "k/", the bucket "". Freed with mem_free(). */
char *s3_prefix_of(const struct s3_name *n);
enum err s3_head(const struct s3_name *n, struct s3_answer *out) MUST_CHECK;
/* Without quotes, cut to what fits. */
void s3_mark(struct span etag, uint64_t size, char mark[64]);

/* ---- listing: storage_s3_list.c ---- */

struct s3_object {
    const char *key; /* whole; NULL: a common prefix */
    const char *prefix;
    struct storage_info info;
};

typedef enum err s3_visit(void *context, const struct s3_object *o);
/* Every object and common prefix under `prefix`, page by page. delimiter "": all levels. */
enum err s3_list(const struct s3_name *n, const char *prefix, const char *delimiter,
                 uint32_t page_max, s3_visit *visit, void *context) MUST_CHECK;

/* Unfinished multipart uploads under `prefix` that began before `before_ms` are aborted. */
enum err s3_abort_uploads(const struct s3_name *n, const char *prefix, uint64_t before_ms,
                          uint32_t *count_out) MUST_CHECK;

/* ---- writing: storage_s3_write.c ---- */

enum err s3_write_open(const char *uri, bool overwrite, struct storage_writer **out);
enum err s3_write(struct storage_writer *base, const void *data, size_t size);
enum err s3_write_close(struct storage_writer *base);
void s3_write_abort(struct storage_writer *base);

#endif
