/*
 * board.h - what the coordinator is told of this server's shards: written by their owners, read by
 * member.
 *
 * Every forming of shards has a serial number; what an owner says of an earlier one is dropped, so
 * that a state which follows new orders never has answers to old ones in it.
 *
 * Threads  any; one lock, held for as long as it takes to copy.
 */
#ifndef PARAMD_SERVER_BOARD_H
#define PARAMD_SERVER_BOARD_H

#include <stdint.h>

#include "common/checkpoint.h"
#include "proto/control.pb-c.h"
#include "proto/paramd.pb-c.h"

struct board;

/* `poke` runs when something is worth telling at once; on the owner's thread, without the lock. */
struct board *board_create(void (*poke)(void *context), void *context);
void board_destroy(struct board *b);

/* Forgets everything; from now on these shards, of this serial. */
void board_reset(struct board *b, uint64_t serial, const uint32_t *shards, uint32_t count);
void board_set_job(struct board *b, const char *job, uint64_t generation);

struct board_place { /* of whom an owner speaks */
    struct board *board;
    uint64_t serial;
    uint32_t shard;
};

struct board_reports { /* entries may be NULL; count 0: not the first shard */
    const Paramd__Report *const *list;
    uint32_t count;
};

void board_restored(const struct board_place *p, uint64_t step, struct board_reports reports);
void board_applied(const struct board_place *p, uint64_t step);
void board_drained(const struct board_place *p, uint64_t step, struct board_reports reports);
void board_armed(const struct board_place *p, uint64_t step); /* 0: no more */
void board_arm_refused(const struct board_place *p, uint64_t step);
/* The reports that stand there now are those of the snapshot. */
void board_snapshot_begun(const struct board_place *p);
void board_durable(const struct board_place *p, uint64_t step, const struct checkpoint_file *files,
                   uint32_t count);
void board_abandoned(const struct board_place *p, uint64_t step, const char *why);
void board_size(const struct board_place *p, uint64_t rows, uint64_t memory);
/* The first failure of a serial stays. */
void board_fail(const struct board_place *p, Paramd__Control__Failure__Kind kind, const char *text);

/* Fills job, generation, failure, server; valid until the next call. By one thread only. */
void board_describe(struct board *b, Paramd__Control__MemberState *state);

#endif
