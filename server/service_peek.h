/*
 * service_peek.h - which shard a data-plane request is for, without decoding it.
 *
 * Walks the top-level fields of a PushPullRequest, ResumeRequest or ReadRequest in any order and
 * skips what it does not know, of every wire type.
 *
 * Pure     bytes in, numbers out.
 * Errors   ERR_INPUT: it is not a protobuf message, or the job's name is too long.
 */
#ifndef PARAMD_SERVER_SERVICE_PEEK_H
#define PARAMD_SERVER_SERVICE_PEEK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/limits.h"

struct request_head {
    char job[NAME_MAX_BYTES + 1];
    uint64_t generation;
    uint32_t shard;
};

/* ReadRequest has the shard in another field than the others. */
enum err request_peek(const struct chain *request, bool is_read,
                      struct request_head *out) MUST_CHECK;

#endif
