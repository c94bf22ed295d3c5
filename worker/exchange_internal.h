/*
 * exchange_internal.h - what the files of worker/exchange share.
 *
 * exchange.c           ranks, steps, the pump
 * exchange_channel.c   which address of a shard to use, one channel for each distinct one
 * exchange_step.c      a step's memory: keys, values, gradients, what it pulls
 * exchange_send.c      requests from steps
 * exchange_receive.c   replies into the arrays of batches
 * exchange_read.c      values at a version, for evaluation
 */
#ifndef PARAMD_WORKER_EXCHANGE_INTERNAL_H
#define PARAMD_WORKER_EXCHANGE_INTERNAL_H

#include "common/buf.h"
#include "common/layout.h"
#include "common/queue.h"
#include "common/rpc.h"
#include "common/str.h"
#include "common/wire.h"
#include "worker/area.h"
#include "worker/exchange.h"

/* Keys wanted of all shards: one ascending list a table. */
struct wanted {
    struct buf *owner;     /* of the lists' memory */
    const uint64_t **keys; /* [table_count] */
    uint32_t *counts;      /* [table_count] */
    bool dense;            /* all dense parameters too */
};

/* Arrays that an answer is for: rows belong to `keys`, a subset of those wanted. */
struct target {
    const uint64_t *const *keys;
    const uint32_t *counts;
    float *const *rows;  /* NULL: none are wanted */
    float *const *dense; /* NULL: none are wanted */
};

/* A step of a rank: a batch with its values, and the push-pull of that seq. */
struct step {
    uint64_t seq;
    bool is_used;
    /* the batch */
    bool has_batch;
    bool is_empty; /* no examples */
    struct buf *keys_area;
    uint64_t **keys; /* [table_count] */
    uint32_t *key_counts;
    struct buf *values_area; /* NULL: not asked for yet, or used up */
    float **rows;
    float **dense;
    /* the push */
    bool has_push; /* else a seq of before this session, asked for with the header only */
    bool push_is_empty;
    bool skipped;
    double weight;
    struct buf *gradients_area;
    float **row_gradients;
    float **dense_gradients;
    bool has_report;
    Paramd__Report report; /* its bytes lie in the two that follow */
    struct str rank_state, metrics;
    /* the pull: batches pull_first … pull_last */
    uint64_t pull_first, pull_last;
    struct wanted wanted;
};

struct rank {
    struct exchange_rank_options options;
    struct session *session;
    bool has_begun, is_over;
    uint64_t given; /* the last batch that was given */
    uint64_t first_batch;
    uint64_t oldest;              /* steps before it are released */
    Paramd__ResumeReply *resumed; /* the first shard's */
    struct step *steps;           /* ring: seq % step_count */
    uint32_t step_count;
    void **pointers; /* memory of all the arrays of pointers in `steps` */
};

enum call_kind { CALL_SESSION, CALL_READ };

/* One RPC in flight; filled by the transport's thread, then handed to the owner through the queue.
 */
struct call {
    struct exchange *exchange;
    enum call_kind kind;
    uint32_t rank_index;
    struct session_send send; /* for reads: the shard only */
    enum rpc_status status;
    char message[256];
    struct chain reply;
    struct call *next; /* of those not in use */
};

struct shard_peer {
    uint32_t first_partition, end_partition;
    struct rpc_channel *channel; /* borrowed from exchange.channels */
    uint64_t silent_ms;          /* since when calls fail; 0: they do not */
};

struct read_state;

struct exchange {
    struct exchange_options options;
    char *job;
    struct shard_peer *shards;
    struct rpc_channel **channels;
    uint32_t channel_count;
    struct rank *ranks;
    uint32_t rank_count;
    struct area_pool *areas;
    struct queue *arrived;
    struct call *free_calls;
    uint32_t open_calls;
    uint64_t wait_ns;
    /* scratch of one request */
    Paramd__Block *blocks; /* [2 * (table_count + dense_count)] */
    Paramd__Block **block_pointers;
    struct target *targets;     /* [d + 1] */
    struct read_state *reading; /* while exchange_read() runs */
    bool read_failed;           /* calls of a read that failed may still be open */
};

/* exchange_channel.c */
enum err exchange_connect(struct exchange *x) MUST_CHECK;

/* exchange.c */
struct call *exchange_call_take(struct exchange *x);
void exchange_call_drop(struct exchange *x, struct call *c);
/* Waits at most wait_ms for the first thing that arrives, and takes in all that has. */
void exchange_take_arrived(struct exchange *x, uint64_t wait_ms);
bool exchange_is_cancelled(const struct exchange *x);

/* exchange_step.c */
/* Gives every step of the ring its arrays of pointers, once. */
void exchange_steps_make(struct exchange *x, struct rank *r);
struct step *exchange_step(const struct rank *r, uint64_t seq); /* NULL: not held */
struct step *exchange_step_make(struct rank *r, uint64_t seq);  /* or the one that is there */
void exchange_step_release(struct step *s);
/* Decides what the push-pull of `s` pulls, and makes room for the answer. */
enum err exchange_step_pull(struct exchange *x, struct rank *r, struct step *s) MUST_CHECK;
enum err exchange_step_gradients(struct exchange *x, struct step *s) MUST_CHECK;
void exchange_step_report(struct step *s, const Paramd__Report *report);

/* exchange_send.c */
/* The part of ascending keys that a shard owns. */
void exchange_key_range(const struct shard_peer *shard, const uint64_t *keys, uint32_t count,
                        uint32_t *first, uint32_t *end);
uint32_t exchange_pull_blocks(struct exchange *x, const struct shard_peer *shard,
                              const struct wanted *w, Paramd__Block *blocks,
                              struct wire_payload *payload);
void exchange_send(struct exchange *x, uint32_t rank_index, const struct session_send *send);
void exchange_call(struct exchange *x, struct call *c, const char *method, struct chain *request);

/* exchange_receive.c */
void exchange_received(struct exchange *x, struct call *c);
enum err exchange_check_answer(const struct exchange *x, uint32_t shard, const struct wanted *w,
                               const struct wire_message *m, Paramd__Block *const *blocks,
                               size_t count) MUST_CHECK;
/* The answer must have been checked. */
void exchange_take_answer(const struct exchange *x, uint32_t shard, const struct wanted *w,
                          const struct wire_message *m, Paramd__Block *const *blocks,
                          const struct target *targets, uint32_t target_count);

/* exchange_read.c */
void exchange_read_received(struct exchange *x, struct call *c);

#endif
