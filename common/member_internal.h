/*
 * member_internal.h - what member.c, member_call.c and the simulator's member share.
 */
#ifndef PARAMD_COMMON_MEMBER_INTERNAL_H
#define PARAMD_COMMON_MEMBER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/member.h"
#include "common/plant.h"
#include "proto/control.pb-c.h"

/* What a member's entry in the registry holds; freed with mem_free(). */
char *member_record(const struct member_options *o);
/* The address to dial of a record that member_leader_record() made; NULL when it is not one.
 * mem_free(). */
char *member_record_address(const char *record);

/* `term` is not that of an earlier leader than the one that is followed. */
static inline bool member_may_follow(uint64_t followed, uint64_t term)
{
    return term >= followed || PLANT(old_term_followed);
}

/*
 * Whoever is going to tell a leader how it stands promises to follow no earlier one: else a deposed
 * leader could undo what the new one builds on. Versions of orders count anew then.
 */
static inline void member_promise(uint64_t *term, uint64_t *version, uint64_t leader_term)
{
    if (leader_term <= *term)
        return;
    *term = leader_term;
    *version = 0;
}

/* Newer than what is followed already, and not of an earlier leader. */
static inline bool member_is_news(uint64_t term, uint64_t version,
                                  const Paramd__Control__MemberOrders *o)
{
    return member_may_follow(term, o->term) && (o->term != term || o->orders_version > version);
}

#endif
