/*
 * leader_storage.h - does the coordinator's actions: listings, manifests, retention, registry
 * records.
 *
 * Threads  _do() from the coordinator's thread, which never waits: the queue takes what it can, and
 * an action that does not fit is answered ERR_UNAVAILABLE. What concerns the registry is done by
 * one thread, in order; what concerns the store by another.
 */
#ifndef PARAMD_SERVER_LEADER_STORAGE_H
#define PARAMD_SERVER_LEADER_STORAGE_H

#include "common/registry.h"
#include "server/coordinator.h"

struct leader_storage;
struct storage_answer;

/* `done` takes over the answer; called on those threads, or within _do(). */
struct leader_storage *
leader_storage_create(struct registry *registry,
                      void (*done)(void *context, struct storage_answer *answer), void *context);
void leader_storage_do(struct leader_storage *s, struct coordinator_action *a); /* takes over `a` */
void leader_storage_destroy(struct leader_storage *s); /* finishes what it is at; accepts NULL */

/* Valid while the answer lives. Its manifest is handed over by the first call. */
const struct coordinator_result *storage_answer_result(struct storage_answer *a);
/* Of the leadership that wanted it. */
uint64_t storage_answer_term(const struct storage_answer *a);
void storage_answer_destroy(struct storage_answer *a); /* accepts NULL */

#endif
