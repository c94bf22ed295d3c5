/*
 * shard_internal.h - what the files of server/shard share.
 *
 *     shard.c           life, commands, failing
 *     shard_request.c   a request: identity, checks, what becomes of it
 *     shard_kept.c      what is kept of each rank: pushes, values not yet acknowledged, reports
 *     shard_apply.c     gradients into tables and dense blocks
 *     shard_answer.c    values out of them, and replies
 *     shard_query.c     resume and read
 *
 * A shard_push is what is known of one (rank, seq). It is HELD from arrival until its step is
 * applied, then APPLIED until nobody can need it any more: until the rank has acknowledged the last
 * batch whose values it brought, and its cursor is not that of the rank's next batch.
 */
#ifndef PARAMD_SERVER_SHARD_INTERNAL_H
#define PARAMD_SERVER_SHARD_INTERNAL_H

#include "server/consistency.h"
#include "server/dense.h"
#include "server/optimizer.h"
#include "server/shard.h"
#include "server/table.h"

/* Descriptors of our own, with offsets into `chain`. */
struct block_list {
    Paramd__Block *blocks; /* [count]; pointers lie behind them */
    Paramd__Block **pointers;
    size_t count;
    struct chain chain;
};

enum push_state { PUSH_NONE, PUSH_HELD, PUSH_APPLIED };

struct shard_push {
    enum push_state state;
    uint64_t seq;
    uint64_t checksum;
    struct chain body;           /* HELD */
    struct wire_message message; /* HELD: over body */
    Paramd__Report *report;      /* ours, or NULL */
    struct block_list wanted;    /* the pull, keys shared with the request */
    struct block_list answer;    /* bsp, APPLIED: the values at version seq */
    uint64_t bytes;              /* counted in shard.held_bytes */
    shard_reply reply;           /* the call that waits for this answer, or NULL */
    void *context;
    uint64_t since_ms;
};

struct shard_rank {
    struct shard_push *pushes; /* [ring]: seq % ring */
    Paramd__Report *report;    /* the latest of those whose push is gone */
    uint64_t report_seq;
    uint64_t lease; /* until shard_begin() */
};

struct apply_scratch;

struct shard {
    struct shard_options options;
    char *job;
    bool begun;
    char *failed; /* why, or NULL */
    struct table **tables;
    struct dense **dense;
    struct consistency_state consistency;
    struct shard_rank *ranks;
    uint32_t ring;
    uint64_t held_bytes;            /* bodies and kept values */
    const Paramd__Report **reports; /* [rank_count]: room for shard_reports() */
    struct apply_scratch *scratch;
    uint64_t now_ms;
    uint64_t told_ms, told_step; /* the latest SHARD_PROGRESS */
    uint64_t early_verdict_step; /* a verdict on a step that is not applied yet */
    bool early_verdict_stop;
};

/* ---- shard.c ---- */
bool shard_is_bsp(const struct shard *s);
/* The version has moved: tells, then lets go what may leave. */
void shard_advanced(struct shard *s);

/* ---- shard_kept.c ---- */
uint32_t kept_ring_size(const struct steps *steps);
/* NULL: nothing is known of this push. */
struct shard_push *kept_find(struct shard *s, uint32_t rank, uint64_t seq);
/* A free place for a push that kept_find() does not know, within the window. */
struct shard_push *kept_add(struct shard *s, uint32_t rank, uint64_t seq);
void kept_drop_body(struct shard *s, struct shard_push *p);
/* Raises acked and lets go what nobody can need any more. */
void kept_acknowledge(struct shard *s, uint32_t rank, uint64_t acked);
void kept_deinit(struct shard *s);
/* Of the last push of this rank up to `seq` that had one; or NULL. */
const Paramd__Report *kept_report(const struct shard *s, uint32_t rank, uint64_t seq);
void kept_set_report(struct shard *s, uint32_t rank, uint64_t seq, const Paramd__Report *report);
/* Copies the pull blocks and shares their keys. */
void block_list_want(struct block_list *l, const struct wire_message *m,
                     Paramd__Block *const *blocks, size_t count);
void block_list_alloc(struct block_list *l, size_t count);
void block_list_deinit(struct block_list *l);

/* ---- shard_apply.c ---- */
enum err apply_scratch_create(const struct shard_options *options,
                              struct apply_scratch **out) MUST_CHECK;
void apply_scratch_destroy(struct apply_scratch *a);
/* Applies the pushes, in this order, as one update of step `step`. */
enum err shard_apply(struct shard *s, struct shard_push *const *pushes, uint32_t count,
                     uint64_t step) MUST_CHECK;

/* ---- shard_answer.c ---- */
/* The values that `wanted` asks for, as they are now. Absent rows: initial values, or zeros. */
enum err answer_make(struct shard *s, const struct block_list *wanted, bool absent_is_zero,
                     struct block_list *out) MUST_CHECK;
void answer_status(struct shard *s, uint32_t rank, Paramd__PushPullReply__Status status,
                   const char *message, shard_reply reply, void *context);
/* Answers the waiting call with a status, if there is one. */
void answer_waiting(struct shard *s, uint32_t rank, struct shard_push *p,
                    Paramd__PushPullReply__Status status, const char *message);
/* Answers the waiting call with values, if there is one and its answer may leave. */
void answer_try(struct shard *s, uint32_t rank, struct shard_push *p);

/* ---- shard_query.c ---- */
struct shard_identity {
    const char *job;
    uint64_t generation;
};
/* OK, or the status with which a request for somebody else, or too early, or too late, is answered.
   */
Paramd__PushPullReply__Status shard_identify(const struct shard *s, const struct shard_identity *i,
                                             const char **why);
enum err shard_check_index(const struct shard *s, uint32_t index) MUST_CHECK;
/* Malformed: nothing has been taken. */
void shard_hand_back(struct shard *s, enum err code, shard_reply reply, void *context);

#endif
