/*
 * leader_watch.h - looks at the registry: may we lead, and who is not there any more.
 *
 * A thread of its own, as the registry may block. While this process does not lead it tries to;
 * once it does, it compares the members that were seen with those that the registry shows. Nobody
 * is missed while the registry is away, nor just after: members have to come back first.
 *
 * Threads  callbacks on the watch's thread; everything else from any.
 */
#ifndef PARAMD_SERVER_LEADER_WATCH_H
#define PARAMD_SERVER_LEADER_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/registry.h"

struct leader_watch;

struct leader_watch_options {
    struct registry *registry;                 /* borrowed */
    const char *record;                        /* of the leader: how it is dialled; borrowed */
    bool (*led)(void *context, uint64_t term); /* false: it could not be taken; try again */
    void (*gone)(void *context, const char *member);
    void (*deposed)(void *context); /* we do not lead any more; it tries again */
    void *context;
};

struct leader_watch *leader_watch_create(const struct leader_watch_options *o);
void leader_watch_start(struct leader_watch *w);
void leader_watch_destroy(struct leader_watch *w); /* it was started */

/* A member that spoke to us: it is missed, too, when it leaves between two looks. */
void leader_watch_add(struct leader_watch *w, const char *member);
/* Nobody else is left. */
bool leader_watch_is_alone(struct leader_watch *w, const char *member);

#endif
