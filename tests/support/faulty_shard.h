/*
 * faulty_shard.h - a real shard behind the memory transport, with a network in between that loses,
 * delays and doubles requests and replies.
 *
 * Each shard has its owner thread, as in a server. A request that is lost never reaches the shard,
 * a reply that is lost leaves its effect behind; either way the caller sees a failed call. A
 * doubled request reaches the shard twice, the second time later. Verdicts at drain points are
 * given at once, as a coordinator that always continues would.
 *
 * Faults are drawn from a seed; the threads' order is not, so a failing run may not repeat exactly.
 */
#ifndef PARAMD_TESTS_FAULTY_SHARD_H
#define PARAMD_TESTS_FAULTY_SHARD_H

#include <stdint.h>

#include "server/shard.h"

struct faults {
    uint64_t seed;
    uint32_t lose_request, lose_reply, double_request, delay; /* per mille */
    uint32_t delay_max_ms;
};

struct faulty_shard;

/* `options` without notify; listens on "memory:<name>". */
struct faulty_shard *faulty_shard_create(const char *name, const struct shard_options *options,
                                         const struct faults *faults);
const char *faulty_shard_address(const struct faulty_shard *f);
/* Raises the lease of a rank, as the coordinator does; returns when the shard knows it. */
void faulty_shard_set_lease(struct faulty_shard *f, uint32_t rank, uint64_t lease);
/* What went wrong on purpose so far: a test that saw none has tested nothing. */
uint64_t faulty_shard_fault_count(const struct faulty_shard *f);
/* The text of SHARD_FAILED, or NULL. */
const char *faulty_shard_failure(const struct faulty_shard *f);
void faulty_shard_destroy(struct faulty_shard *f);

#endif
