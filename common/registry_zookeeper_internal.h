/*
 * registry_zookeeper_internal.h - what the files of the registry in ZooKeeper share.
 *
 *     registry_zookeeper.c           opens, closes, says how it is; the backend's table
 *     registry_zookeeper_session.c   one connection to ZooKeeper; the library's callbacks
 *     registry_zookeeper_call.c      questions with deadlines, repeated where that is harmless
 *     registry_zookeeper_keeper.c    the thread that makes sessions anew and watches over the term
 *     registry_zookeeper_members.c   members, our own and all
 *     registry_zookeeper_leader.c    the election and the leader's record
 *     registry_zookeeper_records.c   records
 *
 * The nodes, all below the cluster's root:
 *
 *     term                  "id <the cluster's id>"; its version is the term
 *     leader                ephemeral: "<term> <nonce>\n<record>"
 *     election/c-NONCE-N    ephemeral and sequential: one for each contender
 *     members/ID            ephemeral: "<role>\n<record>"
 *     names/ROLE-NAME       ephemeral: the id of the member that has the name
 *     records/A!/B!/C       "<nonce>\n" and the bytes of record A/B/C; levels end in '!'
 *
 * Becoming the leader is one multi: raise the term from the version read, create the leader's node.
 * What a leader writes is one multi with a check of the term's version.
 *
 * After a lost connection nobody knows whether a write took place. So every write carries a nonce,
 * and whoever is in doubt reads and looks for it.
 *
 * Threads  callbacks of the library run on its own thread; they take the mutex, note what came and
 *          wake those who wait. No call of the library that blocks is made under the mutex.
 */
#ifndef PARAMD_COMMON_REGISTRY_ZOOKEEPER_INTERNAL_H
#define PARAMD_COMMON_REGISTRY_ZOOKEEPER_INTERNAL_H

#define THREADED /* the flavour of the library that has threads of its own */
#include <pthread.h>
#include <zookeeper/zookeeper.h>

#include "common/registry_internal.h"
#include "common/ring.h"
#include "common/str.h"

#define ZK_NONCE_DIGITS 16
#define ZK_OPS_MAX      4
#define ZK_ANY          (-1) /* version */

/* ---- questions ---- */

enum zk_op_kind {
    ZK_OP_CREATE,
    ZK_OP_CREATE_OPEN, /* without the credentials' restrictions */
    ZK_OP_CREATE_EPHEMERAL,
    ZK_OP_SET,
    ZK_OP_DELETE,
    ZK_OP_CHECK
};
struct zk_op {
    enum zk_op_kind kind;
    const char *path;
    struct span data;
    int32_t version; /* of set, delete, check */
};

enum zk_kind { ZK_GET, ZK_EXISTS, ZK_CHILDREN, ZK_APPEND, ZK_MULTI };
struct zk_ask {
    enum zk_kind kind;
    const char *path;
    struct span data;           /* of append: an ephemeral, sequential node */
    bool is_watched, is_synced; /* synced: sees all that was written before the question */
    const struct zk_op *ops;    /* of multi */
    size_t op_count;
};

/* A question under way, or its answer. */
struct zk_request {
    struct link of_session;
    struct zk *zk;
    uint64_t session; /* its number */
    bool is_done, is_abandoned;
    int rc;           /* ZOK, ZNONODE, … */
    struct Stat stat; /* of get, exists */
    char *data;       /* of get, append (the name); a zero follows */
    size_t size;
    char **names; /* of children */
    size_t count;
    zoo_op_result_t results[ZK_OPS_MAX];
    struct Stat op_stats[ZK_OPS_MAX];
};

struct zk_session {
    struct zk *zk;
    zhandle_t *handle;
    uint64_t number;
    int64_t id; /* ZooKeeper's; the owner of ephemeral nodes */
    bool is_connected, is_expired;
    struct link requests;
};

/* ---- the registry ---- */

struct zk_member {
    struct registry_member base;
    struct link of_registry;
    struct zk *zk;
    char *id, *role, *name, *record;
    bool is_registered; /* false: the keeper has to do it */
};

/* Ephemeral nodes of this session that could not be removed when they should have been. */
struct zk_remains {
    struct link of_registry;
    struct zk_op ops[ZK_OPS_MAX]; /* their paths are owned */
    size_t op_count;
};

/* What is known of the members; read anew when ZooKeeper says that it changed. */
struct zk_members {
    struct registry_entry *entries; /* ascending by id */
    size_t count;
    bool is_stale, is_busy;
};

struct zk_leader {
    char *record; /* NULL: none */
    uint64_t term;
    bool is_stale, is_busy;
    uint64_t gone_ms; /* since when there is none */
};

/* Our own part in the election. */
struct zk_candidate {
    char nonce[ZK_NONCE_DIGITS + 1]; /* of our node in the queue; "": we have none */
    char *node;                      /* its path, NULL while it is not known */
    char *predecessor;               /* NULL, or the node whose end we wait for */
    bool is_busy, leads;
    uint64_t term;
};

struct zk_paths {
    char *term, *leader, *election, *members, *names, *records;
};

struct zk {
    struct registry base;
    char *uri, *hosts, *root, *credentials;
    uint32_t session_timeout_ms, call_timeout_ms;
    struct zk_paths paths;
    pthread_t keeper;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    uint64_t random_key, random_count;
    struct zk_session *session; /* NULL: none now */
    uint64_t session_count;
    bool is_closing, is_ready, is_opened;
    uint64_t away_since_ms;
    enum err open_error;
    char *open_text, *wiped_text; /* NULL: not */
    char *cluster_id;
    uint64_t seen_term;
    int64_t seen_zxid;
    bool is_term_stale;
    struct link own_members, remains;
    bool is_clearing; /* one of the remains is being removed */
    struct zk_members members;
    struct zk_leader leader;
    struct zk_candidate candidate;
};

/* ---- registry_zookeeper_session.c ---- */

enum err zk_session_open(struct zk *z, struct zk_session **out) MUST_CHECK;
/* Fails what is under way. Takes a few seconds at most. NULL is no session. */
void zk_session_close(struct zk_session *s);
/* `s` NULL: the registry's own, once it is ready. NULL when there is none. */
struct zk_request *zk_start(struct zk *z, struct zk_session *s, const struct zk_ask *ask);
/* The request's rc; ZOPERATIONTIMEOUT when the deadline passed first. */
int zk_wait(struct zk_request *q, uint64_t deadline_ms);
void zk_request_free(struct zk_request *q);

/* ---- registry_zookeeper_call.c ---- */

uint64_t zk_deadline(const struct zk *z);
/* Under the mutex. */
void zk_wait_changed(struct zk *z, uint64_t until_ms);
bool zk_is_usable(const struct zk *z);
enum err zk_refuse_unusable(const struct zk *z);
uint64_t zk_random(struct zk *z);
/* From half of `ms` to `ms` and a half. */
uint32_t zk_jitter(struct zk *z, uint32_t ms);
void zk_make_nonce(struct zk *z, char nonce[ZK_NONCE_DIGITS + 1]);
/* Whether a question that ended so may have been carried out or not. */
bool zk_is_lost(int rc);
enum err zk_error(const struct zk *z, int rc, const char *path);
enum err zk_await_usable(struct zk *z, uint64_t deadline_ms) MUST_CHECK;

/* Of a session that is not in use yet. */
enum err zk_ask_session(struct zk *z, struct zk_session *s, const struct zk_ask *ask,
                        uint64_t deadline_ms, struct zk_request **out) MUST_CHECK;
/* Once. ERR_NONE: there is an answer, also ZNONODE and the like, also a lost one; free it. */
enum err zk_ask_once(struct zk *z, const struct zk_ask *ask, uint64_t deadline_ms,
                     struct zk_request **out) MUST_CHECK;
/* Again and again until there is an answer that is not lost; for what may be repeated. */
enum err zk_ask(struct zk *z, const struct zk_ask *ask, uint64_t deadline_ms,
                struct zk_request **out) MUST_CHECK;
/* The op of a multi that made it fail; op_count when none did. */
size_t zk_failed_op(const struct zk_request *q, size_t op_count);

/* ---- registry_zookeeper_keeper.c ---- */

void *zk_keeper_run(void *context);
/* Removes nodes of the session of this number: now, or, when ZooKeeper is away, once it is back. */
void zk_remove_nodes(struct zk *z, uint64_t session, const struct zk_op *ops, size_t op_count);
/* Under the mutex: all that the session held is lost. */
void zk_forget_session(struct zk *z);
/* Under the mutex: a larger term, of whoever, is the newest. */
void zk_note_term(struct zk *z, uint64_t term);
/* Under the mutex. */
void zk_note_wiped(struct zk *z, const char *what);

/* ---- registry_zookeeper_members.c ---- */

enum err zk_join(struct registry *base, const char *role, const char *name, const char *record,
                 struct registry_member **out);
const char *zk_member_id(const struct registry_member *m);
void zk_leave(struct registry_member *base);
enum err zk_list_members(struct registry *base, const char *role, struct registry_entry **out,
                         size_t *count_out);
/* Makes the nodes of a member. `s`: a session not in use yet; NULL: the registry's own. *session:
   the number of the one that they belong to. */
enum err zk_register(struct zk *z, struct zk_session *s, const struct zk_member *m,
                     uint64_t deadline_ms, uint64_t *session) MUST_CHECK;
/* Removes them. `session`: which they belong to. */
void zk_unregister(struct zk *z, uint64_t session, const struct zk_member *m);
struct zk_member *zk_member_find(struct zk *z, const char *id); /* under the mutex */
void zk_member_free(struct zk_member *m);

/* ---- registry_zookeeper_leader.c ---- */

enum err zk_lead(struct registry *base, const char *record, bool *is_leader, uint64_t *term);
bool zk_leads(struct registry *base, uint64_t *term);
void zk_resign(struct registry *base);
enum err zk_leader(struct registry *base, char **record_out, uint64_t *term);
/* Called and returns locked: brings z->leader up to date. */
enum err zk_refresh_leader(struct zk *z, uint64_t deadline_ms) MUST_CHECK;

/* ---- registry_zookeeper_records.c ---- */

enum err zk_put(struct registry *base, const struct registry_write *w, uint64_t *version_out);
enum err zk_get(struct registry *base, const char *path, void **data_out, size_t *size_out,
                uint64_t *version_out);
enum err zk_remove(struct registry *base, const char *path, bool is_led);
enum err zk_list(struct registry *base, const char *path, char ***names_out, size_t *count_out);

#endif
