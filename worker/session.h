/*
 * session.h - one rank's protocol state against all shards: numbers in, decisions out (PROTOCOL.md
 * 2, 3).
 *
 * A session knows which push-pulls are unanswered by which shard, what must be asked again, when,
 * and whether with a body or with the header only; worker/exchange holds the bodies and does the
 * I/O, the simulator drives this code with neither. Its life:
 *
 *     session_create()      RESUMING: every shard is asked what it knows of the rank
 *     session_replied()     until all have said it: then RUNNING, and the push-pulls that bring
 *                           the values of the rank's next batches are due
 *     session_push()        the next seq, when session_may_push(); due at every shard
 *     session_next_send()   what is to be sent now, one (seq, shard) at a time
 *     session_replied(), session_call_failed()   what came of it
 *
 * The first push-pulls: where the rank begins, an empty push of the step that the shards began at
 * (in ssp and asp of any step: a duplicate's pull is answered); in bsp, where another worker had
 * begun it, asks with the header only for the values that the shards kept.
 *
 * After a transport error the header goes alone first, because the push may have arrived; a shard
 * that lacks it says so. One that lacks it because more is acknowledged than this session ever said
 * has heard an earlier session of the same worker late, after it had answered this one's resume:
 * what that one acknowledged is gone, and the session is OVERTAKEN. A seq has at most one call open
 * per shard. Waits grow by half-random doubling up to a bound; a shard that has given no reply at
 * all for give_up_ms makes the rank UNREACHABLE.
 *
 * Units    now_ms, due: milliseconds of any monotonic clock. Pure.
 */
#ifndef PARAMD_WORKER_SESSION_H
#define PARAMD_WORKER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/steps.h"
#include "proto/paramd.pb-c.h"

enum session_state {
    SESSION_RESUMING,
    SESSION_RUNNING,
    SESSION_FINISHED,    /* the last step, or the one that STOP named, is answered by all shards */
    SESSION_REPLACED,    /* the rank belongs to another worker now */
    SESSION_NOT_FORMED,  /* another generation: the control plane knows which */
    SESSION_OVERTAKEN,   /* an earlier session's late message: a new one must ask anew */
    SESSION_UNREACHABLE, /* a shard gave no reply within give_up_ms */
    SESSION_FAILED       /* the job cannot go on */
};

struct session_options {
    struct steps steps;
    uint32_t rank; /* for texts */
    uint32_t shard_count;
    uint64_t start; /* the version that the shards began at */
    uint32_t back_off_ms, back_off_max_ms;
    uint32_t give_up_ms;
    uint64_t seed; /* of the jitter */
};

struct session;

enum err session_create(const struct session_options *options, struct session **out) MUST_CHECK;
void session_destroy(struct session *s); /* accepts NULL */

enum session_state session_state(const struct session *s);
const char *session_why(const struct session *s); /* of an end that is not FINISHED; else "" */

/* ---- what is to be done ---- */

uint64_t session_next(const struct session *s);  /* the seq of the next push */
uint64_t session_acked(const struct session *s); /* every shard has answered up to here */
/* RUNNING, within the window, and not behind an unanswered drain point. */
bool session_may_push(const struct session *s);
/* Seq session_next(); CHECKs session_may_push(). */
void session_push(struct session *s, uint64_t now_ms);
/* Every shard has answered the push-pull that brings batch `batch`, and it was asked for. */
bool session_has_values(const struct session *s, uint64_t batch);
/* The push-pull that brings it. */
uint64_t session_seq_of_values(const struct session *s, uint64_t batch);
/* Batches *first … *last (first > last: none) whose values push-pull `seq` brings: as
   steps_batches_pulled(), and those of a drain point at the step that the shards began at, whatever
   the calendar calls it. */
void session_batches_pulled(const struct session *s, uint64_t seq, uint64_t *first, uint64_t *last);
/* The first seq that lacks an answer; session_next(): none does. */
uint64_t session_oldest(const struct session *s);
/* After RESUMING: the first seq that is due. */
uint64_t session_first(const struct session *s);

enum session_what { SESSION_SEND_RESUME, SESSION_SEND_PUSH_PULL };
struct session_send {
    enum session_what what;
    uint64_t seq; /* 0 for resume */
    uint32_t shard;
    bool header_only;
};
/* The next call that is due, which counts as sent then; false: nothing is due at now_ms. */
bool session_next_send(struct session *s, uint64_t now_ms, struct session_send *out);
/* When the next one will be due; UINT64_MAX: nothing is but replies. */
uint64_t session_due_ms(const struct session *s);

/* ---- what came of it ---- */

struct session_reply {
    Paramd__PushPullReply__Status status;
    const char *message;               /* may be NULL */
    uint64_t received, applied, acked; /* what the shard knows of the rank */
};

enum session_verdict {
    SESSION_TAKE,   /* an answer: its values are to be taken */
    SESSION_NOTHING /* not one, or known already */
};
enum session_verdict session_replied(struct session *s, const struct session_send *call,
                                     const struct session_reply *reply, uint64_t now_ms);
/* The call ended without a reply. `hopeless`: asking again will not help (a malformed request);
 * `text` says why. */
void session_call_failed(struct session *s, const struct session_send *call, bool hopeless,
                         const char *text, uint64_t now_ms);

#endif
