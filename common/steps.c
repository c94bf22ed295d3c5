#include "common/steps.h"

#include "common/check.h"
#include "common/plant.h"

static uint64_t saturating_multiply(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t minimum(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t maximum(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

struct steps steps_make(const struct job *j, uint64_t steps_per_epoch, bool has_eval)
{
    uint64_t last = saturating_multiply(j->train.epochs, steps_per_epoch);
    if (j->train.max_steps != 0)
        last = minimum(last, j->train.max_steps);
    return (struct steps){
        .consistency = j->train.consistency,
        .steps_per_epoch = steps_per_epoch,
        .last_step = last,
        .drain_every = j->train.drain_every,
        .eval_every = has_eval ? j->eval.every_steps : 0,
        .eval_every_epoch = has_eval && j->eval.every_epoch,
        .has_eval = has_eval,
        .checkpoint_every = j->checkpoint.every_steps,
        .pipeline_depth = j->train.consistency == CONSISTENCY_BSP ? j->train.pipeline_depth : 0,
    };
}

/*
 * Drain points are the union of periods, of the checkpoint steps in ssp and asp, and of last_step.
 * Each kind can say which of its steps is the last at or before a step and the first after it.
 */
static uint64_t period_at_or_before(uint64_t period, uint64_t step)
{
    return period == 0 ? 0 : step - step % period;
}

static uint64_t period_after(uint64_t period, uint64_t step)
{
    if (period == 0)
        return UINT64_MAX;
    return saturating_multiply(step / period + 1, period);
}

/* ssp, asp: the first multiple of drain_every at or after the k-th multiple of checkpoint_every. */
static uint64_t checkpoint_step(const struct steps *s, uint64_t k)
{
    uint64_t drain = maximum(s->drain_every, 1);
    uint64_t step = saturating_multiply(k, s->checkpoint_every);
    uint64_t blocks = step / drain + (step % drain != 0);
    return saturating_multiply(blocks, drain);
}

static uint64_t checkpoint_at_or_before(const struct steps *s, uint64_t step)
{
    if (s->checkpoint_every == 0)
        return 0;
    /* Every stretch of drain_every steps holds a multiple of checkpoint_every. */
    if (s->checkpoint_every <= s->drain_every)
        return period_at_or_before(s->drain_every, step);
    uint64_t k = step / s->checkpoint_every;
    if (checkpoint_step(s, k) <= step)
        return checkpoint_step(s, k);
    return checkpoint_step(s, k - 1); /* k > 0, because checkpoint_step(0) is 0 */
}

static uint64_t checkpoint_after(const struct steps *s, uint64_t step)
{
    if (s->checkpoint_every == 0)
        return UINT64_MAX;
    if (s->checkpoint_every <= s->drain_every)
        return period_after(s->drain_every, step);
    uint64_t k = step / s->checkpoint_every;
    if (checkpoint_step(s, k) > step)
        return checkpoint_step(s, k);
    return checkpoint_step(s, k + 1);
}

uint64_t steps_epoch_of(const struct steps *s, uint64_t step)
{
    CHECK(step > 0 && s->steps_per_epoch > 0);
    return (step - 1) / s->steps_per_epoch;
}

bool steps_is_epoch_end(const struct steps *s, uint64_t step)
{
    return step > 0 && s->steps_per_epoch > 0 && step % s->steps_per_epoch == 0;
}

bool steps_is_eval(const struct steps *s, uint64_t step)
{
    if (!s->has_eval || step == 0 || step > s->last_step)
        return false;
    if (step == s->last_step || (s->eval_every != 0 && step % s->eval_every == 0))
        return true;
    return s->eval_every_epoch && steps_is_epoch_end(s, step);
}

/* The last drain point <= step. */
static uint64_t drain_at_or_before(const struct steps *s, uint64_t step)
{
    if (step >= s->last_step)
        return s->last_step;
    uint64_t drain = period_at_or_before(s->steps_per_epoch, step);
    if (s->has_eval)
        drain = maximum(drain, period_at_or_before(s->eval_every, step));
    if (s->consistency == CONSISTENCY_BSP)
        return maximum(drain, period_at_or_before(s->drain_every, step));
    return maximum(drain, checkpoint_at_or_before(s, step));
}

bool steps_is_drain(const struct steps *s, uint64_t step)
{
    return step <= s->last_step && drain_at_or_before(s, step) == step;
}

uint64_t steps_drain_before(const struct steps *s, uint64_t step)
{
    return step == 0 ? 0 : drain_at_or_before(s, step - 1);
}

uint64_t steps_drain_next(const struct steps *s, uint64_t step)
{
    if (step >= s->last_step)
        return s->last_step;
    uint64_t next = minimum(s->last_step, period_after(s->steps_per_epoch, step));
    if (s->has_eval)
        next = minimum(next, period_after(s->eval_every, step));
    if (s->consistency == CONSISTENCY_BSP)
        return minimum(next, period_after(s->drain_every, step));
    return minimum(next, checkpoint_after(s, step));
}

uint64_t steps_drain_at_or_after(const struct steps *s, uint64_t step)
{
    return steps_is_drain(s, step) ? step : steps_drain_next(s, step);
}

uint64_t steps_version_of_batch(const struct steps *s, uint64_t batch)
{
    CHECK(batch > 0);
    uint64_t behind = (uint64_t)s->pipeline_depth + 1;
    uint64_t delayed = batch > behind ? batch - behind : 0;
    return maximum(delayed, steps_drain_before(s, batch));
}

void steps_batches_pulled(const struct steps *s, uint64_t seq, uint64_t *first, uint64_t *last)
{
    uint64_t next = steps_drain_next(s, seq);
    uint64_t ahead = seq + 1 + s->pipeline_depth;
    bool drains = steps_is_drain(s, seq) && !PLANT(drain_pulls_one);
    *first = drains ? seq + 1 : ahead;
    *last = minimum(ahead, next);
}
