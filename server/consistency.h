/*
 * consistency.h - which pushes may be taken, which steps may be applied, which replies may leave.
 *
 * The rules of PROTOCOL.md 2 and 3 for one shard, without the data: numbers in, decisions out. The
 * shard holds the bodies; the simulator drives this code with none at all.
 *
 * Pure     no I/O, no clock.
 */
#ifndef PARAMD_SERVER_CONSISTENCY_H
#define PARAMD_SERVER_CONSISTENCY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/steps.h"

struct consistency_rank {
    uint64_t lease;
    uint64_t received; /* the last seq taken */
    uint64_t applied;  /* the last seq applied */
    uint64_t acked;    /* never goes down */
};

struct consistency_state {
    struct steps steps;
    uint32_t staleness;
    uint32_t rank_count;
    struct consistency_rank *ranks;
    uint64_t version;      /* bsp: steps applied by all; ssp, asp: the smallest applied */
    uint64_t begun_at;     /* version after load; seq begun_at is expected once more */
    uint64_t verdict_step; /* replies of drain points that need one may leave up to here */
    bool verdict_stop;
    bool paused; /* replies of drain points are held */
};

enum err consistency_init(struct consistency_state *c, const struct steps *steps,
                          uint32_t rank_count, uint32_t staleness, uint64_t version) MUST_CHECK;
void consistency_deinit(struct consistency_state *c);

enum push_decision {
    PUSH_TAKE,        /* seq = received + 1 (or within the window): keep the body */
    PUSH_DUPLICATE,   /* received already: drop the body, attach the call to the reply */
    PUSH_BEYOND,      /* outside the window: answer EXPECTED(received) */
    PUSH_REPLACED,    /* an older lease */
    PUSH_PAST_BARRIER /* a rank pushes past a drain point that is not complete: a bug of the peer */
};
/* Does not change state. */
enum push_decision consistency_decide(const struct consistency_state *c, uint32_t rank,
                                      uint64_t lease, uint64_t seq);
void consistency_received(struct consistency_state *c, uint32_t rank, uint64_t seq, uint64_t acked);

/* bsp: the step that may be applied now (all R have it), or 0. */
uint64_t consistency_ready_step(const struct consistency_state *c);
void consistency_applied_all(struct consistency_state *c, uint64_t step); /* bsp */
void consistency_applied_one(struct consistency_state *c, uint32_t rank,
                             uint64_t seq); /* ssp, asp */

/* May the reply of (rank, seq) leave now? bsp: version ≥ seq; ssp: also within staleness of the
   slowest; asp: applied; in every mode a drain point waits for all, and an evaluation step and the
   last step for the verdict. */
bool consistency_may_reply(const struct consistency_state *c, uint32_t rank, uint64_t seq);
/* True exactly when all R pushes up to drain point `step` are applied. */
bool consistency_at_drain(const struct consistency_state *c, uint64_t step);
/* Do all ranks stand at that very step, and nothing beyond it has come? */
bool consistency_rests(const struct consistency_state *c, uint64_t step);
bool consistency_needs_verdict(const struct consistency_state *c, uint64_t step);

#endif
