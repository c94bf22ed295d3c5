/*
 * registry.h - where daemons find each other: members, one leader, and small records with versions.
 *
 * registry_local keeps it in a directory of one machine (PROTOCOL.md 8); registry_zookeeper in
 * ZooKeeper. Opened by URI: "local:DIR", "zk://host:port,host:port/cluster".
 *
 * A member is alive as long as its process (local: an open-file-description lock) or its session
 * (ZooKeeper) holds it. Records are bytes with a version; registry_put() compares it. What the
 * leader writes goes through registry_put_led() and registry_remove_led(): a leader that was
 * deposed, and does not know it yet, cannot write.
 *
 * A registry in ZooKeeper is away at times. A session outlives a disconnection shorter than the
 * session time-out, and a restart of ZooKeeper; when it has expired, our members are registered
 * anew under the same ids by themselves, and leadership is lost. What others changed is seen soon,
 * not at once: registry_members() and registry_leader() answer from what ZooKeeper has reported so
 * far. What was done through the same struct registry is seen at once.
 *
 * Units    a record is at most 512 KiB; times are in milliseconds.
 * Threads  any; calls may block (local: on the disk; ZooKeeper: until call_timeout_ms), so not from
 *          a transport thread. registry_state() and registry_leads() do no input or output.
 * Errors   ERR_NOT_FOUND, ERR_EXISTS (a version differs, a name is taken by a live member),
 *          ERR_UNAVAILABLE (registry away; whether a write took place may not be known),
 *          ERR_REFUSED (directory on a network file system; deposed; wrong credentials; a registry
 *          that has lost what it held).
 */
#ifndef PARAMD_COMMON_REGISTRY_H
#define PARAMD_COMMON_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct registry;
struct registry_member; /* our own membership */

/* Zero stands for the default. A local registry has no use for them. */
struct registry_options {
    uint32_t session_timeout_ms; /* 10 s; ZooKeeper keeps it within 2 to 20 of its ticks */
    uint32_t call_timeout_ms;    /* 5 s */
    const char *auth_file;       /* holds "user:password"; NULL: nodes are open to everybody */
};

/* With the defaults. */
enum err registry_open(const char *uri, struct registry **out) MUST_CHECK;
enum err registry_open_with(const char *uri, const struct registry_options *options,
                            struct registry **out) MUST_CHECK;
/* Leaves members and leadership held through it first. No other call may be under way. */
void registry_close(struct registry *r);

enum registry_state {
    REGISTRY_CONNECTED, /* always, with a local one */
    REGISTRY_AWAY,      /* not reachable, or our session is being made anew */
    REGISTRY_WIPED      /* it came back without what it held: every call is ERR_REFUSED until the
                           process is restarted */
};
/* *away_ms (may be NULL): for how long it has not been connected; 0 when it is. */
enum registry_state registry_state(struct registry *r, uint64_t *away_ms);

/* Joins as `role`-`name` with a record (JSON); a restarted process is a new member: the id is name
   + nonce. A name that a live member has is refused; in ZooKeeper only after it has been waited for
   for as long as the session of a killed process may last. */
enum err registry_join(struct registry *r, const char *role, const char *name, const char *record,
                       struct registry_member **out) MUST_CHECK;
const char *registry_member_id(const struct registry_member *m);
void registry_leave(struct registry_member *m);

struct registry_entry {
    char *id;
    char *role;
    char *record;
};
/* The live members of a role (NULL: all), ascending by id. Free with registry_entries_free(). */
enum err registry_members(struct registry *r, const char *role, struct registry_entry **out,
                          size_t *count_out) MUST_CHECK;
void registry_entries_free(struct registry_entry *entries, size_t count);

/* Tries to become the leader. On success *is_leader is true and *term is larger than any term
   before; the record (the leader's address) is readable by all. Else *is_leader is false: ask again
   soon, contenders lead in the order in which they first asked. Held until _close or _resign, or
   until it is lost (registry_leads()). */
enum err registry_lead(struct registry *r, const char *record, bool *is_leader,
                       uint64_t *term) MUST_CHECK;
/* Whether, as far as is known here, we lead, and (may be NULL) by which term. False for good once
   our session expired or the leader's record vanished; registry_lead() then tries anew. */
bool registry_leads(struct registry *r, uint64_t *term);
/* Also gives up the place among the contenders. */
void registry_resign(struct registry *r);
/* The leader's record and term; ERR_NOT_FOUND while there is none. *record_out is freed with
   mem_free(). */
enum err registry_leader(struct registry *r, char **record_out, uint64_t *term) MUST_CHECK;

#define REGISTRY_ANY_VERSION UINT64_MAX /* overwrites what is there, or creates */

/* version 0 = must not exist yet; else must equal the version read (ERR_NOT_FOUND when it is gone).
   *version_out (may be NULL) is the new one. After a removal versions begin anew. */
enum err registry_put(struct registry *r, const char *path, const void *data, size_t size,
                      uint64_t version, uint64_t *version_out) MUST_CHECK;
/* A zero follows the data. */
enum err registry_get(struct registry *r, const char *path, void **data_out, size_t *size_out,
                      uint64_t *version_out) MUST_CHECK;
/* What is not there is removed already. */
enum err registry_remove(struct registry *r, const char *path) MUST_CHECK;

/* The same, but only while the leadership held through `r` is the newest, which is checked together
   with the write. ERR_REFUSED: we do not lead, or were deposed. */
enum err registry_put_led(struct registry *r, const char *path, const void *data, size_t size,
                          uint64_t version, uint64_t *version_out) MUST_CHECK;
enum err registry_remove_led(struct registry *r, const char *path) MUST_CHECK;

/* The names of the records directly under a path ("" is the top), ascending: of "jobs/a" and
   "jobs/b/state" under "jobs" only "a". None is no error. Free with registry_names_free(). */
enum err registry_list(struct registry *r, const char *path, char ***names_out,
                       size_t *count_out) MUST_CHECK;
void registry_names_free(char **names, size_t count);

#endif
