/*
 * storage_hdfs_internal.h - WebHDFS in parts: names and NameNodes, one request and what its failure
 * means; for storage_hdfs*.c only.
 *
 * A NameNode answers what concerns names. Where bytes are concerned it answers with the address of
 * a DataNode, which is used as it is. NameNodes are tried in turn, beginning with the one that
 * answered last; only the caller knows whether a request that was maybe carried out can be made
 * again, but all of them can: asking, making a directory, deleting and finding a DataNode come to
 * the same twice, and after a renaming the caller looks.
 *
 * Threads  any.
 * Errors   ERR_UNAVAILABLE: no NameNode or DataNode did it, and trying later may help. Texts name
 *          the URI, what was being done, the server and its reason; never a token.
 * Sources  Hadoop's "WebHDFS REST API"; HDFS-7433 for excludedatanodes.
 */
#ifndef PARAMD_COMMON_STORAGE_HDFS_INTERNAL_H
#define PARAMD_COMMON_STORAGE_HDFS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/http.h"
#include "common/storage_internal.h"
#include "common/str.h"

#define HDFS_NODES_MAX    8u
#define HDFS_ANSWER_BYTES ((size_t)64 << 20) /* a directory's listing */

/* The NameNodes that one authority stands for. Lives as long as the process. */
struct hdfs_cluster {
    char *authority;
    char *nodes[HDFS_NODES_MAX]; /* "http://host:port" */
    uint32_t node_count;
    _Atomic uint32_t current; /* the one that answered last */
};

struct hdfs_name {
    struct hdfs_cluster *cluster;
    char *uri;  /* as given, for texts */
    char *path; /* "/a/b", without //, . and .., not encoded */
};

/* "hdfs://host:port,host:port/path" or "hdfs://NAME/path". */
enum err hdfs_name_init(const char *uri, struct hdfs_name *out) MUST_CHECK;
void hdfs_name_deinit(struct hdfs_name *n);
/* "&name=value", the value encoded; appended. */
void hdfs_parameter(struct str *s, const char *name, const char *value);

/* What a server's refusal means. */
struct hdfs_failure {
    enum err code;
    bool may_pass;   /* trying again may help */
    bool other_node; /* another NameNode may do it */
};

struct hdfs_call {
    const struct hdfs_name *name;
    enum http_method method;
    const char *op;
    const char *path;       /* NULL: the name's */
    const char *parameters; /* "&a=b…"; NULL: none */
    const char *doing;      /* "list": for texts */
    bool excludes;          /* DataNodes; an IOException may say that no other is left */
};

struct retry hdfs_retry_begin(void);
/*
 * Asks the NameNodes until one answers with 2xx or 307, for as long as `r` allows; the caller
 * deinits *out, which is empty on failure.
 */
enum err hdfs_ask(const struct hdfs_call *q, struct retry *r, struct http_answer *out) MUST_CHECK;
/*
 * The same, where bytes are concerned: the address of a DataNode that is not `excluded`
 * (hdfs_exclude()); freed with mem_free(). `parameters`: the call's own, to which that is added.
 * When no other is left, perhaps one of them is back: `excluded` is emptied then, and
 * *may_pass_out is true.
 */
enum err hdfs_locate(struct hdfs_call *q, struct str *parameters, struct str *excluded,
                     struct retry *r, char **out, bool *may_pass_out) MUST_CHECK;

/*
 * Asks a DataNode, once. `q` has the method, the body or where the answer goes; the rest is filled
 * in. Of a failure *failure_out says what it means.
 */
enum err hdfs_data(const struct hdfs_call *c, const char *location, struct http_request *q,
                   struct http_answer *out, struct hdfs_failure *failure_out) MUST_CHECK;
/* After a DataNode failed: adds it to the list that the NameNode is to leave out. */
void hdfs_exclude(struct str *excluded, const char *location);

/* A file's or directory's status as WebHDFS gives it. */
struct hdfs_status {
    struct storage_info info;
    uint64_t file_id; /* 0: the server (HttpFS) does not say */
};
struct json;
enum err hdfs_status_parse(const struct hdfs_name *n, const struct json *j,
                           struct hdfs_status *out) MUST_CHECK;
/* `path` NULL: the name's. */
enum err hdfs_status(const struct hdfs_name *n, const char *path, struct retry *r,
                     struct hdfs_status *out) MUST_CHECK;
/* Parses a 2xx answer; ERR_UNAVAILABLE when it is no JSON. */
enum err hdfs_json(const struct hdfs_call *q, const struct http_answer *a,
                   struct json **out) MUST_CHECK;

/* A file that is being written; is not to be listed. */
bool hdfs_is_temporary(const char *name);

enum err hdfs_write_open(const char *uri, bool overwrite, struct storage_writer **out) MUST_CHECK;
enum err hdfs_write(struct storage_writer *w, const void *data, size_t size) MUST_CHECK;
enum err hdfs_write_close(struct storage_writer *w) MUST_CHECK;
void hdfs_write_abort(struct storage_writer *w);

#endif
