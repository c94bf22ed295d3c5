/*
 * settings.h - every setting of every program: one row each.
 *
 * A row has the path ("train.batch_size"), type, unit, bounds, default, help, whether it can
 * influence bits (and so belongs to the job's hash) and when it may change. Parsing, bounds, the
 * shipped default files, the documentation (docs/job-file.md, docs/daemon-settings.md) and `config
 * show` are made from these rows.
 *
 * The daemons' settings (common to paramd-server, paramd-worker and paramctl) are a struct of their
 * own, read from --config FILE and --set.
 */
#ifndef PARAMD_COMMON_SETTINGS_H
#define PARAMD_COMMON_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/str.h"

enum setting_change { CHANGE_ALWAYS, CHANGE_ON_RESUME, CHANGE_NEVER };

/* How to reach the stores: hdfs://, s3://. The programs give it to storage_configure(). */
struct storage_settings {
    uint32_t timeout_ms;   /* one operation, retries included; of a large object: its beginning */
    uint32_t stall_ms;     /* a transfer that moves nothing for so long has failed */
    char *ca_file;         /* NULL: the system's */
    char *hdfs_user;       /* NULL: HADOOP_USER_NAME, or the process's */
    char *hdfs_auth;       /* "simple" | "kerberos" */
    char *hdfs_token_file; /* NULL: none */
    char *hdfs_namenodes;  /* "name=host:port,host:port; name=…"; NULL: none */
    bool hdfs_tls;
    char *s3_endpoint;         /* NULL: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or AWS */
    char *s3_region;           /* NULL: AWS_REGION, AWS_DEFAULT_REGION, or us-east-1 */
    char *s3_addressing;       /* "auto" | "path" | "virtual" */
    char *s3_credentials_file; /* NULL: the chain of docs/storage.md */
    char *s3_profile;          /* in that file; NULL: AWS_PROFILE, or "default" */
};

struct daemon_settings {
    char *registry; /* "local:DIR", "zk://host:port,…/cluster" */
    uint32_t registry_session_timeout_ms;
    char *registry_auth_file; /* NULL: none */
    char *listen;    /* "127.0.0.1:0", "unix:/path", "unix-abstract:name"; later host names */
    char *advertise; /* address told to others; NULL: what listen got */
    char *name;      /* member name; NULL: role-<pid> */
    char *log_level;
    char *log_file; /* NULL: stderr */
    char *scratch;  /* worker: directory of the block cache; NULL: under the run directory */
    uint64_t scratch_limit_bytes; /* worker: 0: 80 % of the file system */
    uint64_t memory_bytes; /* server: for parameters and buffers; 0: 80 % of what the machine has */
    uint32_t threads;      /* worker: compute threads; server: shard threads. 0: by cores */
    char *device;          /* worker: "cpu", "cuda:0,2", "auto" */
    uint32_t transport_threads; /* completion-queue threads */
    uint32_t call_timeout_ms;   /* one RPC */
    uint32_t peer_timeout_ms;   /* silence after which a member counts as lost */
    uint32_t stall_timeout_ms;  /* no progress of a step */
    uint32_t stuck_timeout_ms;  /* one piece of work: its member counts as lost; 0: never */
    uint32_t replace_wait_ms;   /* for a replacement of a lost member, before going on with fewer */
    uint32_t recovery_limit;    /* losses in a row without progress; 0: any number */
    uint32_t registry_grace_ms; /* the registry away for longer: training holds */
    uint32_t drain_timeout_ms;  /* SIGTERM: for handing work over */
    uint64_t message_max_bytes;
    bool unix_sockets; /* also listen on an abstract unix socket for peers on this host */
    struct storage_settings storage;
};

/* `text` NULL: only defaults and `sets`. Unknown names get the nearest right one in the error. */
enum err daemon_settings_parse(const char *what, const char *text, size_t size,
                               const char *const *sets, struct daemon_settings **out) MUST_CHECK;
void daemon_settings_destroy(struct daemon_settings *s);
void daemon_settings_write(const struct daemon_settings *s, struct str *out);

/* The pages docs/job-file.md and docs/daemon-settings.md, in Markdown. */
void settings_document_job(struct str *out);
void settings_document_daemon(struct str *out);

/*
 * conf/server.yaml and conf/worker.yaml: every default as a comment. `role` is "server" or
 * "worker".
 */
void settings_write_defaults(const char *role, struct str *out);

#endif
