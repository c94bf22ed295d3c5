#include "common/retry.h"

#include <stddef.h>

#include "common/rng.h"

#define RETRY_COST   5u
#define SUCCESS_GAIN 1u

const struct retry_policy retry_default = {.first_ms = 100, .most_ms = 20000, .tries = 8};

struct retry retry_begin(const struct retry_policy *policy, uint64_t deadline_ms, uint64_t key)
{
    return (struct retry){.policy = policy, .deadline_ms = deadline_ms, .key = key};
}

bool retry_next(struct retry *r, struct retry_budget *budget, uint64_t now_ms, uint32_t at_least_ms,
                uint32_t *wait_ms)
{
    uint64_t bound = r->policy->first_ms;
    for (uint32_t i = 0; i < r->failed && bound < r->policy->most_ms; i++)
        bound *= 2;
    if (bound > r->policy->most_ms)
        bound = r->policy->most_ms;
    uint64_t wait = rng_below(rng_at(r->key, r->failed), bound + 1);
    if (wait < at_least_ms)
        wait = at_least_ms;
    if (r->failed + 1 >= r->policy->tries || now_ms + wait >= r->deadline_ms ||
        (budget != NULL && budget->used + RETRY_COST > RETRY_BUDGET_FULL))
        return false;
    r->failed++;
    if (budget != NULL)
        budget->used += RETRY_COST;
    *wait_ms = (uint32_t)wait;
    return true;
}

void retry_succeeded(struct retry_budget *budget)
{
    budget->used -= budget->used < SUCCESS_GAIN ? budget->used : SUCCESS_GAIN;
}
