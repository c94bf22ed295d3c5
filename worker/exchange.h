/*
 * exchange.h - the I/O of the sessions of all ranks in this process: requests from arrays, replies
 * into arrays.
 *
 * The owner reads batches, gives their keys to the exchange, and gets values and room for gradients
 * back:
 *
 *     exchange_open(); exchange_add_rank() for each; exchange_resume()
 *     for each rank:  give batches first_batch … exchange_batches_needed(), then exchange_begin()
 *     for each step, for each rank:
 *         exchange_wait()      → values of the batch `step`, room for its gradients
 *         give batches up to exchange_batches_needed()
 *         exchange_push()      → sent to every shard before anything is waited for
 *     exchange_finish()
 *
 * Gradients go out as slices of the memory where they were computed, and that memory comes back
 * when the last request has let go of it (worker/area). Keys are copied once a batch. Values are
 * copied once, from the received slices into the arrays of the batches that they are for. Replies
 * are checked as strictly as a shard checks requests.
 *
 * Shapes   as in network.h: rows[t] float[key_count][dim], dense[p] float[count].
 * Threads  one owner. Transport threads only put what arrived into a bounded queue.
 * Errors   ERR_CANCELLED: `cancel` was set. ERR_REFUSED: the session of the rank has ended,
 *          exchange_state() says how, err_text() why. ERR_MEMORY.
 */
#ifndef PARAMD_WORKER_EXCHANGE_H
#define PARAMD_WORKER_EXCHANGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/schema.h"
#include "common/steps.h"
#include "worker/batch.h"
#include "worker/session.h"

struct exchange;

struct exchange_shard {
    uint32_t first_partition, end_partition;
    const char *const
        *addresses; /* as rpc_channel_open() takes them; the first reaches from everywhere */
    uint32_t address_count;
    const char *host_id; /* of the server; may be NULL */
};

struct exchange_options {
    const char *job;
    uint64_t generation;
    const struct schema *schema; /* borrowed */
    struct steps steps;
    const struct exchange_shard *shards;
    uint32_t shard_count;
    uint32_t rank_max;   /* ranks that will be added; 0: for exchange_read() only */
    const char *host_id; /* ours; equal ones try unix sockets. May be NULL */
    uint32_t call_timeout_ms;
    uint32_t give_up_ms;        /* a shard that gives no reply for so long cannot be reached */
    uint32_t back_off_ms;       /* the first pause after a failure; 0: 50 */
    uint64_t message_max_bytes; /* 0: MESSAGE_MAX_BYTES */
    const atomic_bool *cancel;  /* may be NULL */
};

enum err exchange_open(const struct exchange_options *options, struct exchange **out) MUST_CHECK;
void exchange_close(struct exchange *x); /* cancels what is open; accepts NULL */

/* ---- ranks ---- */

struct exchange_rank_options {
    uint32_t rank;
    uint64_t lease;
    uint64_t start; /* the version that the shards began at */
};
/* Ranks are numbered from 0 in the order of adding: *index_out. */
enum err exchange_add_rank(struct exchange *x, const struct exchange_rank_options *o,
                           uint32_t *index_out) MUST_CHECK;

/* Asks all shards where the ranks stand; waits for the answers. A rank that cannot go on has ended
 * then. */
enum err exchange_resume(struct exchange *x) MUST_CHECK;

struct exchange_resumed {
    uint64_t acked;       /* the rank goes on with batch acked + 1 … */
    uint64_t first_batch; /* … but the keys of batches from here on are needed */
    const Paramd__Report
        *report; /* of the last push that the first shard had; NULL: none. Until close */
};
void exchange_resumed(const struct exchange *x, uint32_t index, struct exchange_resumed *out);

/* The last batch whose keys must be given before exchange_begin(), or before the next
 * exchange_push(). */
uint64_t exchange_batches_needed(const struct exchange *x, uint32_t index);
/* The next batch in order, from first_batch on; its keys are copied. An empty batch needs no
 * tables. */
enum err exchange_give(struct exchange *x, uint32_t index, const struct batch *b) MUST_CHECK;
enum err exchange_begin(struct exchange *x, uint32_t index) MUST_CHECK;

struct exchange_work {
    uint64_t step;
    const float *const *rows;    /* [table_count] */
    const float *const *dense;   /* [dense_count] */
    float *const *row_gradients; /* to be filled */
    float *const *dense_gradients;
};
/* Waits for the values of the rank's next batch. What *out points to is the caller's until
 * exchange_push(). */
enum err exchange_wait(struct exchange *x, uint32_t index, struct exchange_work *out) MUST_CHECK;

struct exchange_push {
    bool is_empty; /* no gradients: the rank ran out of examples, or the step is skipped */
    bool skipped;  /* … because a gradient was not finite */
    double weight; /* sum of the example weights behind the gradients */
    const Paramd__Report *report; /* copied; may be NULL */
};
/* Pushes the step that exchange_wait() gave out, pulling what the calendar says. */
enum err exchange_push(struct exchange *x, uint32_t index,
                       const struct exchange_push *p) MUST_CHECK;

/* Waits until every push of the rank is answered or its session has ended; ERR_REFUSED unless it is
 * FINISHED. */
enum err exchange_finish(struct exchange *x, uint32_t index) MUST_CHECK;

enum session_state exchange_state(const struct exchange *x, uint32_t index);
const char *exchange_why(const struct exchange *x, uint32_t index);
uint64_t exchange_next_step(const struct exchange *x, uint32_t index); /* the next to be pushed */
/* The caller has done with this rank. */
void exchange_let_go(struct exchange *x, uint32_t index);
/* The rank that is behind of those that are not over: for each step a worker sends for every rank
 * before it waits. false: all are over. */
bool exchange_behind(const struct exchange *x, uint32_t *index_out);
uint64_t exchange_acked(const struct exchange *x, uint32_t index);
uint64_t exchange_wait_ns(const struct exchange *x); /* spent waiting for replies, so far */

/* ---- reading ---- */

/*
 * Values of a batch at exactly `version`; waits. rows, dense: arrays of the caller, either may be
 * NULL. ERR_REFUSED: the shards are at another version or of another formation. After a failure
 * nothing more can be read.
 */
enum err exchange_read(struct exchange *x, uint64_t version, const struct batch *b,
                       float *const *rows, float *const *dense) MUST_CHECK;

#endif
