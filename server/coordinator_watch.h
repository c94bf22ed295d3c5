/*
 * coordinator_watch.h - looks at the registry: may we lead, and who is not there any more.
 *
 * A thread of its own, as the registry may block. While this process does not lead it tries to;
 * once it does, it compares the members that were seen with those that the registry shows.
 *
 * Threads  callbacks on the watch's thread; everything else from any.
 */
#ifndef PARAMD_SERVER_COORDINATOR_WATCH_H
#define PARAMD_SERVER_COORDINATOR_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/registry.h"

struct coordinator_watch;

struct coordinator_watch_options {
    struct registry *registry;                 /* borrowed */
    const char *record;                        /* of the leader: how it is dialled; borrowed */
    bool (*led)(void *context, uint64_t term); /* false: it could not be taken; try again */
    void (*gone)(void *context, const char *member);
    void *context;
};

struct coordinator_watch *coordinator_watch_create(const struct coordinator_watch_options *o);
void coordinator_watch_start(struct coordinator_watch *w);
void coordinator_watch_destroy(struct coordinator_watch *w); /* it was started */

/* A member that spoke to us: it is missed, too, when it leaves between two looks. */
void coordinator_watch_add(struct coordinator_watch *w, const char *member);
/* Nobody else is left. */
bool coordinator_watch_is_alone(struct coordinator_watch *w, const char *member);

#endif
