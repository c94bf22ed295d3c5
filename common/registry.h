/*
 * registry.h - where daemons find each other: members, one leader, and small records with versions.
 *
 * registry_local keeps it in a directory of one machine (PROTOCOL.md 8); ZooKeeper comes behind the
 * same calls. Opened by URI: "local:DIR".
 *
 * A member is alive as long as its process (local: an open-file-description lock) or session holds
 * it. Records are bytes with a version; registry_put() compares it.
 *
 * Units    a record is at most 512 KiB.
 * Threads  any; calls may block on the disk, so not from a transport thread.
 * Errors   ERR_NOT_FOUND, ERR_EXISTS (a version differs, a name is taken by a live member),
 *          ERR_UNAVAILABLE (registry away), ERR_REFUSED (directory on a network file system).
 */
#ifndef PARAMD_COMMON_REGISTRY_H
#define PARAMD_COMMON_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct registry;
struct registry_member;              /* our own membership */

enum err registry_open(const char *uri, struct registry **out) MUST_CHECK;
/* Leaves members and leadership held through it first. */
void registry_close(struct registry *r);

/* Joins as `role`-`name` with a record (JSON); a restarted process is a new member: the id is name
   + nonce. */
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
   before; the record (the leader's address) is readable by all. Else *is_leader is false. Held
   until _close or _resign. */
enum err registry_lead(struct registry *r, const char *record, bool *is_leader, uint64_t *term)
    MUST_CHECK;
void registry_resign(struct registry *r);
/* The leader's record and term; ERR_NOT_FOUND while there is none. *record_out is freed with
   mem_free(). */
enum err registry_leader(struct registry *r, char **record_out, uint64_t *term) MUST_CHECK;

/* version 0 = must not exist yet; else must equal the version read (ERR_NOT_FOUND when it is gone).
   *version_out (may be NULL) is the new one. After a removal versions begin anew. */
enum err registry_put(struct registry *r, const char *path, const void *data, size_t size,
                      uint64_t version, uint64_t *version_out) MUST_CHECK;
enum err registry_get(struct registry *r, const char *path, void **data_out, size_t *size_out,
                      uint64_t *version_out) MUST_CHECK;
enum err registry_remove(struct registry *r, const char *path) MUST_CHECK;

#endif
