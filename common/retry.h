/*
 * retry.h - how often a call that failed for a passing reason is tried again, and after how long.
 *
 * A call has a number of tries and a deadline; between two tries it waits a random time below a
 * bound that doubles (full jitter), so that many callers who failed together do not come back
 * together. A budget that callers share says how much of a store's load may be retries at all: each
 * retry takes from it, each success gives a little back, and while it is used up nobody retries, so
 * that a store in trouble is not kept there by those who wait for it.
 *
 * Units    milliseconds on the caller's monotonic clock.
 * Threads  none; whoever shares a budget holds a lock.
 * Sources  M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015); the token
 *          bucket is the one of the AWS SDKs' standard retry mode.
 */
#ifndef PARAMD_COMMON_RETRY_H
#define PARAMD_COMMON_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#define RETRY_BUDGET_FULL 500u

struct retry_policy {
    uint32_t first_ms; /* the bound of the first wait */
    uint32_t most_ms;  /* where doubling ends */
    uint32_t tries;    /* in all, the first one included */
};

/* 100 ms to 20 s, 8 tries: what large stores advise. */
extern const struct retry_policy retry_default;

struct retry_budget {
    uint32_t used; /* of RETRY_BUDGET_FULL; zero-initialize */
};

struct retry {
    const struct retry_policy *policy; /* borrowed */
    uint64_t deadline_ms;              /* no try begins after it */
    uint64_t key;                      /* of the random numbers */
    uint32_t failed;                   /* tries so far that failed */
};

struct retry retry_begin(const struct retry_policy *policy, uint64_t deadline_ms, uint64_t key);

/*
 * After a failure that may pass: true: wait *wait_ms and try again. `at_least_ms` is what the peer
 * asked for (Retry-After), 0 for nothing. false: give up, as the tries, the time or the budget (may
 * be NULL) are used up. `r` and the budget count the retry only when it is granted.
 */
bool retry_next(struct retry *r, struct retry_budget *budget, uint64_t now_ms, uint32_t at_least_ms,
                uint32_t *wait_ms);
void retry_succeeded(struct retry_budget *budget);

#endif
