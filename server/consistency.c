#include "server/consistency.h"

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/plant.h"

enum err consistency_init(struct consistency_state *c, const struct steps *steps,
                          uint32_t rank_count, uint32_t staleness, uint64_t version)
{
    if (rank_count == 0 || rank_count > RANK_MAX)
        return err_set(ERR_LIMIT, "%u ranks; a job has 1 to %u", rank_count, RANK_MAX);
    if (!steps_is_drain(steps, version))
        return err_set(ERR_INPUT, "step %llu is not a drain point, so nothing can begin at it",
                       (unsigned long long)version);
    struct consistency_rank *ranks = mem_calloc(rank_count, sizeof *ranks);
    if (ranks == NULL)
        return ERR_MEMORY;
    for (uint32_t r = 0; r < rank_count; r++) {
        ranks[r].received = version;
        ranks[r].applied = version;
        ranks[r].acked = version;
    }
    *c = (struct consistency_state){
        .steps = *steps,
        .staleness = staleness,
        .rank_count = rank_count,
        .ranks = ranks,
        .version = version,
        .begun_at = version,
    };
    return ERR_NONE;
}

void consistency_deinit(struct consistency_state *c)
{
    mem_free(c->ranks);
    *c = (struct consistency_state){0};
}

/* Replies of `step` are held: nobody has said yet whether the job goes on. */
static bool verdict_missing(const struct consistency_state *c, uint64_t step)
{
    return c->verdict_step < step && consistency_needs_verdict(c, step);
}

enum push_decision consistency_decide(const struct consistency_state *c, uint32_t rank,
                                      uint64_t lease, uint64_t seq)
{
    CHECK(rank < c->rank_count);
    const struct consistency_rank *r = &c->ranks[rank];
    if (lease < r->lease && !PLANT(lease_ignored))
        return PUSH_REPLACED;
    if (seq <= (PLANT(duplicate_by_applied) ? r->applied : r->received))
        return PUSH_DUPLICATE;
    uint64_t window = (uint64_t)c->steps.pipeline_depth + 1;
    if (seq > c->steps.last_step || seq - r->applied > window)
        return PUSH_BEYOND;
    uint64_t barrier = steps_drain_before(&c->steps, seq);
    if (PLANT(drain_no_barrier))
        return PUSH_TAKE;
    if (!consistency_at_drain(c, barrier) || verdict_missing(c, barrier))
        return PUSH_PAST_BARRIER;
    if (c->verdict_stop && barrier >= c->verdict_step)
        return PUSH_PAST_BARRIER;
    return PUSH_TAKE;
}

void consistency_received(struct consistency_state *c, uint32_t rank, uint64_t seq, uint64_t acked)
{
    CHECK(rank < c->rank_count);
    struct consistency_rank *r = &c->ranks[rank];
    CHECK(seq == r->received || seq == r->received + 1);
    r->received = seq;
    if (acked > r->acked)
        r->acked = acked;
}

uint64_t consistency_ready_step(const struct consistency_state *c)
{
    if (c->steps.consistency != CONSISTENCY_BSP)
        return 0;
    for (uint32_t r = 0; r < c->rank_count; r++) {
        if (c->ranks[r].received <= c->version)
            return 0;
    }
    return c->version + 1;
}

void consistency_applied_all(struct consistency_state *c, uint64_t step)
{
    CHECK(step == c->version + 1);
    for (uint32_t r = 0; r < c->rank_count; r++) {
        CHECK(c->ranks[r].received >= step);
        c->ranks[r].applied = step;
    }
    c->version = step;
}

void consistency_applied_one(struct consistency_state *c, uint32_t rank, uint64_t seq)
{
    CHECK(rank < c->rank_count && seq == c->ranks[rank].applied + 1);
    CHECK(seq <= c->ranks[rank].received);
    c->ranks[rank].applied = seq;
    uint64_t slowest = seq;
    for (uint32_t r = 0; r < c->rank_count; r++) {
        if (c->ranks[r].applied < slowest)
            slowest = c->ranks[r].applied;
    }
    c->version = slowest;
}

bool consistency_may_reply(const struct consistency_state *c, uint32_t rank, uint64_t seq)
{
    CHECK(rank < c->rank_count);
    if (c->ranks[rank].applied < seq)
        return false;
    /* All ranks make the same steps up to a drain point, so one that has finished its epoch is not
       the slowest of those that have not. */
    if (c->steps.consistency == CONSISTENCY_SSP && seq > c->version &&
        seq - c->version > c->staleness && !PLANT(staleness_ignored))
        return false;
    if (!steps_is_drain(&c->steps, seq) || PLANT(drain_no_barrier))
        return true;
    bool paused = c->paused && !PLANT(pause_ignored);
    return consistency_at_drain(c, seq) && !verdict_missing(c, seq) && !paused;
}

bool consistency_at_drain(const struct consistency_state *c, uint64_t step)
{
    /* In every mode the version is what all ranks have applied. */
    return c->version >= step;
}

bool consistency_rests(const struct consistency_state *c, uint64_t step)
{
    for (uint32_t r = 0; r < c->rank_count; r++) {
        if (c->ranks[r].applied != step || c->ranks[r].received != step)
            return false;
    }
    return true;
}

bool consistency_needs_verdict(const struct consistency_state *c, uint64_t step)
{
    return step > 0 && (step == c->steps.last_step || steps_is_eval(&c->steps, step));
}
