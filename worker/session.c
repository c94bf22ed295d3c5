#include "worker/session.h"

#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/rng.h"

/* A shard that says WAITING sooner than this after the question is not asked again before. */
#define WAITING_PAUSE_MS 20u

enum phase { PHASE_NONE, PHASE_DUE, PHASE_SENT, PHASE_ANSWERED };

/* One question to one shard: resume, or a push-pull. */
struct ask {
    enum phase phase;
    bool header_only;
    uint32_t attempts; /* in a row without a reply */
    uint64_t due_ms;
    uint64_t sent_ms;
    uint64_t failing_since_ms; /* with attempts > 0 */
};

struct session {
    struct session_options options;
    enum session_state state;
    char *why;
    uint32_t window;  /* d + 1 */
    uint64_t next;    /* the next seq to push */
    uint64_t oldest;  /* the first unanswered one; next: none */
    uint64_t first;   /* the first that this session asks for */
    uint64_t floor;   /* acked when the session began */
    uint64_t stop_at; /* with is_stopping */
    bool is_stopping;
    uint64_t jitter; /* counter of the generator */
    uint32_t due_count;
    uint32_t resumed_count;
    uint64_t resume_acked;
    struct ask *resume; /* [shard_count] */
    struct ask *asks;   /* [window][shard_count]; slot = seq % window */
    uint32_t *answered; /* [window] */
};

enum err session_create(const struct session_options *options, struct session **out)
{
    CHECK(options->shard_count > 0);
    struct session *s = mem_calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_MEMORY;
    s->options = *options;
    s->window = options->steps.pipeline_depth + 1;
    s->resume = mem_calloc(options->shard_count, sizeof *s->resume);
    s->asks = mem_calloc((size_t)s->window * options->shard_count, sizeof *s->asks);
    s->answered = mem_calloc(s->window, sizeof *s->answered);
    if (s->resume == NULL || s->asks == NULL || s->answered == NULL) {
        session_destroy(s);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < options->shard_count; i++)
        s->resume[i].phase = PHASE_DUE;
    s->due_count = options->shard_count;
    s->resume_acked = options->start;
    *out = s;
    return ERR_NONE;
}

void session_destroy(struct session *s)
{
    if (s == NULL)
        return;
    mem_free(s->why);
    mem_free(s->resume);
    mem_free(s->asks);
    mem_free(s->answered);
    mem_free(s);
}

enum session_state session_state(const struct session *s)
{
    return s->state;
}

const char *session_why(const struct session *s)
{
    return s->why != NULL ? s->why : "";
}

uint64_t session_next(const struct session *s)
{
    return s->next;
}

uint64_t session_acked(const struct session *s)
{
    uint64_t answered = s->oldest > 0 ? s->oldest - 1 : 0;
    return answered > s->floor ? answered : s->floor;
}

uint64_t session_first(const struct session *s)
{
    return s->first;
}

bool session_may_push(const struct session *s)
{
    if (s->state != SESSION_RUNNING || s->is_stopping || s->next > s->options.steps.last_step)
        return false;
    if (s->oldest == s->next)
        return true;
    bool drains = steps_is_drain(&s->options.steps, s->next - 1) && !PLANT(drain_no_barrier);
    return s->next - s->oldest < s->window && !drains;
}

uint64_t session_seq_of_values(const struct session *s, uint64_t batch)
{
    uint64_t seq = batch - 1;
    if (s->options.steps.consistency == CONSISTENCY_BSP)
        seq = steps_version_of_batch(&s->options.steps, batch);
    return seq > s->options.start ? seq : s->options.start;
}

void session_batches_pulled(const struct session *s, uint64_t seq, uint64_t *first, uint64_t *last)
{
    steps_batches_pulled(&s->options.steps, seq, first, last);
    if (seq == s->options.start)
        *first = seq + 1;
}

bool session_has_values(const struct session *s, uint64_t batch)
{
    uint64_t seq = session_seq_of_values(s, batch);
    if (s->state == SESSION_RESUMING || seq < s->first || seq >= s->next)
        return false;
    /* Answers come in any order within the window: seqs before `oldest` are answered by all. */
    return seq < s->oldest || s->answered[seq % s->window] == s->options.shard_count;
}

uint64_t session_oldest(const struct session *s)
{
    return s->oldest;
}

static struct ask *ask_of(struct session *s, const struct session_send *call)
{
    CHECK(call->shard < s->options.shard_count);
    if (call->what == SESSION_SEND_RESUME)
        return &s->resume[call->shard];
    if (call->seq < s->oldest || call->seq >= s->next)
        return NULL;
    return &s->asks[(call->seq % s->window) * s->options.shard_count + call->shard];
}

static void make_due(struct session *s, struct ask *a, uint64_t due_ms, bool header_only)
{
    if (a->phase != PHASE_DUE)
        s->due_count++;
    a->phase = PHASE_DUE;
    a->due_ms = due_ms;
    a->header_only = header_only;
}

static void end(struct session *s, enum session_state state, char *why)
{
    s->state = state;
    s->due_count = 0;
    mem_free(s->why);
    s->why = why;
}

/* Opens seq `next` in its slot. */
static void open_seq(struct session *s, uint64_t now_ms, bool header_only)
{
    CHECK(s->next - s->oldest < s->window);
    uint64_t slot = s->next % s->window;
    s->answered[slot] = 0;
    for (uint32_t i = 0; i < s->options.shard_count; i++) {
        struct ask *a = &s->asks[slot * s->options.shard_count + i];
        *a = (struct ask){.phase = PHASE_NONE};
        make_due(s, a, now_ms, header_only);
    }
    s->next++;
}

void session_push(struct session *s, uint64_t now_ms)
{
    CHECK(session_may_push(s));
    open_seq(s, now_ms, false);
}

/* All shards have said what they know: finds the push-pulls that bring batches acked + 1 and on. */
static void begin(struct session *s, uint64_t now_ms)
{
    const struct steps *steps = &s->options.steps;
    uint64_t acked = s->resume_acked + PLANT(cursor_off_by_one);
    bool empty_push = steps->consistency != CONSISTENCY_BSP || acked <= s->options.start;
    s->state = SESSION_RUNNING;
    s->floor = acked;
    s->first = acked;
    if (!empty_push && acked < steps->last_step)
        s->first = session_seq_of_values(s, acked + 1);
    s->oldest = s->next = s->first;
    while (s->next <= acked)
        open_seq(s, now_ms, !empty_push);
}

static bool take_due(struct session *s, struct ask *a, uint64_t now_ms)
{
    if (a->phase != PHASE_DUE || a->due_ms > now_ms)
        return false;
    a->phase = PHASE_SENT;
    a->sent_ms = now_ms;
    s->due_count--;
    return true;
}

bool session_next_send(struct session *s, uint64_t now_ms, struct session_send *out)
{
    if (s->due_count == 0)
        return false;
    if (s->state == SESSION_RESUMING) {
        for (uint32_t i = 0; i < s->options.shard_count; i++) {
            if (!take_due(s, &s->resume[i], now_ms))
                continue;
            *out = (struct session_send){.what = SESSION_SEND_RESUME, .shard = i};
            return true;
        }
        return false;
    }
    /* In the order of seqs: a shard takes them as they come. */
    for (uint64_t seq = s->oldest; seq < s->next; seq++) {
        size_t row = (seq % s->window) * s->options.shard_count;
        for (uint32_t i = 0; i < s->options.shard_count; i++) {
            if (!take_due(s, &s->asks[row + i], now_ms))
                continue;
            *out = (struct session_send){.what = SESSION_SEND_PUSH_PULL,
                                         .seq = seq,
                                         .shard = i,
                                         .header_only = s->asks[row + i].header_only};
            return true;
        }
    }
    return false;
}

uint64_t session_due_ms(const struct session *s)
{
    if (s->due_count == 0)
        return UINT64_MAX;
    bool resuming = s->state == SESSION_RESUMING;
    const struct ask *asks = resuming ? s->resume : s->asks;
    size_t count = (resuming ? 1 : (size_t)s->window) * s->options.shard_count;
    uint64_t due = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        if (asks[i].phase == PHASE_DUE && asks[i].due_ms < due)
            due = asks[i].due_ms;
    }
    return due;
}

/* ---- replies ---- */

static void answered(struct session *s, const struct session_send *call, struct ask *a, bool stop)
{
    a->phase = PHASE_ANSWERED;
    s->answered[call->seq % s->window]++;
    if (stop) {
        s->is_stopping = true;
        s->stop_at = call->seq;
    }
    while (s->oldest < s->next && s->answered[s->oldest % s->window] == s->options.shard_count)
        s->oldest++;
    uint64_t end_at = s->is_stopping ? s->stop_at : s->options.steps.last_step;
    if (s->oldest > end_at)
        end(s, SESSION_FINISHED, NULL);
}

/* No reply, or one that takes nothing: again after a while that doubles, half of it random. */
static void back_off(struct session *s, const struct session_send *call, struct ask *a,
                     bool header_only, const char *text, uint64_t now_ms)
{
    if (a->attempts == 0)
        a->failing_since_ms = a->sent_ms;
    if (now_ms - a->failing_since_ms >= s->options.give_up_ms) {
        end(s, SESSION_UNREACHABLE,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " has not answered %s%" PRIu64
                        " for %" PRIu64 " ms: %s",
                        s->options.rank, call->shard,
                        call->what == SESSION_SEND_RESUME ? "resume " : "push-pull ", call->seq,
                        now_ms - a->failing_since_ms, text));
        return;
    }
    uint64_t delay = s->options.back_off_max_ms;
    if (a->attempts < 16 && (uint64_t)s->options.back_off_ms << a->attempts < delay)
        delay = (uint64_t)s->options.back_off_ms << a->attempts;
    a->attempts++;
    delay = delay / 2 + rng_below(rng_at(s->options.seed, s->jitter++), delay / 2 + 1);
    make_due(s, a, now_ms + delay, header_only);
}

/* The shard wants seq received + 1 first. What is unanswered is still held and goes again, from
 * there on. */
static void expected(struct session *s, const struct session_send *call,
                     const struct session_reply *reply, uint64_t now_ms)
{
    uint64_t from = reply->received + 1;
    if (from < s->oldest || from <= s->floor || from > call->seq) {
        end(s, SESSION_FAILED,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " expects push %" PRIu64
                        ", which it has answered before (unanswered are %" PRIu64 " to %" PRIu64
                        ")",
                        s->options.rank, call->shard, from, s->oldest, s->next - 1));
        return;
    }
    for (uint64_t seq = from; seq <= call->seq; seq++) {
        struct ask *a = &s->asks[(seq % s->window) * s->options.shard_count + call->shard];
        if (seq == call->seq)
            make_due(s, a, now_ms + WAITING_PAUSE_MS, false); /* after those before it */
        else if (a->phase == PHASE_NONE || a->phase == PHASE_DUE)
            make_due(s, a, now_ms, false);
        /* Else its own call is open and will say, or it is answered. */
    }
}

/* Statuses that end the session or ask for patience, alike for resume and push-pull. */
static void other_status(struct session *s, const struct session_send *call, struct ask *a,
                         const struct session_reply *reply, uint64_t now_ms)
{
    const char *text = reply->message != NULL ? reply->message : "";
    switch (reply->status) {
    case PARAMD__PUSH_PULL_REPLY__STATUS__BUSY:
        back_off(s, call, a, false, "busy", now_ms);
        return;
    case PARAMD__PUSH_PULL_REPLY__STATUS__REPLACED:
        end(s, SESSION_REPLACED,
            must_format("rank %" PRIu32 " has been given to another worker", s->options.rank));
        return;
    case PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED:
    case PARAMD__PUSH_PULL_REPLY__STATUS__WRONG_JOB:
        end(s, SESSION_NOT_FORMED,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " is not of this formation: %s",
                        s->options.rank, call->shard, text));
        return;
    case PARAMD__PUSH_PULL_REPLY__STATUS__FAILED:
        end(s, SESSION_FAILED, must_format("shard %" PRIu32 ": %s", call->shard, text));
        return;
    default:
        end(s, SESSION_FAILED,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " answered with status %d",
                        s->options.rank, call->shard, (int)reply->status));
        return;
    }
}

static void resumed(struct session *s, struct ask *a, const struct session_reply *reply,
                    uint64_t now_ms)
{
    a->phase = PHASE_ANSWERED;
    if (reply->acked > s->resume_acked)
        s->resume_acked = reply->acked;
    if (++s->resumed_count == s->options.shard_count)
        begin(s, now_ms);
}

/* The shard does not have that push, or has it no more. */
static void lacking(struct session *s, const struct session_send *call, struct ask *a,
                    const struct session_reply *reply, uint64_t now_ms)
{
    if (reply->acked > session_acked(s))
        end(s, SESSION_OVERTAKEN,
            must_format("rank %" PRIu32 ": an earlier session acknowledged push-pull %" PRIu64
                        " to shard %" PRIu32 " after this one had begun behind %" PRIu64,
                        s->options.rank, reply->acked, call->shard, session_acked(s)));
    else if (call->seq <= s->floor && call->seq > s->options.start &&
             s->options.steps.consistency == CONSISTENCY_BSP)
        end(s, SESSION_FAILED,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " no longer has push-pull %" PRIu64
                        ", which it had answered",
                        s->options.rank, call->shard, call->seq));
    else if (call->header_only)
        make_due(s, a, now_ms + WAITING_PAUSE_MS * PLANT(body_never_again),
                 PLANT(body_never_again));
    else /* no shard lacks what has just been sent; but never in a tight loop */
        back_off(s, call, a, false, "the shard lacks a push that it has been sent", now_ms);
}

enum session_verdict session_replied(struct session *s, const struct session_send *call,
                                     const struct session_reply *reply, uint64_t now_ms)
{
    if (s->state != SESSION_RESUMING && s->state != SESSION_RUNNING)
        return SESSION_NOTHING;
    if ((call->what == SESSION_SEND_RESUME) != (s->state == SESSION_RESUMING))
        return SESSION_NOTHING;
    struct ask *a = ask_of(s, call);
    if (a == NULL || a->phase != PHASE_SENT)
        return SESSION_NOTHING;
    bool lacks_body =
        reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__LACKING && !call->header_only;
    if (reply->status != PARAMD__PUSH_PULL_REPLY__STATUS__BUSY && !lacks_body)
        a->attempts = 0;
    if (call->what == SESSION_SEND_RESUME) {
        if (reply->status == PARAMD__PUSH_PULL_REPLY__STATUS__OK)
            resumed(s, a, reply, now_ms);
        else
            other_status(s, call, a, reply, now_ms);
        return SESSION_NOTHING;
    }
    switch (reply->status) {
    case PARAMD__PUSH_PULL_REPLY__STATUS__OK:
        answered(s, call, a, false);
        return SESSION_TAKE;
    case PARAMD__PUSH_PULL_REPLY__STATUS__STOP:
        answered(s, call, a, !PLANT(stop_ignored));
        return SESSION_TAKE;
    case PARAMD__PUSH_PULL_REPLY__STATUS__WAITING:
        make_due(s, a,
                 now_ms - a->sent_ms < WAITING_PAUSE_MS ? a->sent_ms + WAITING_PAUSE_MS : now_ms,
                 true);
        break;
    case PARAMD__PUSH_PULL_REPLY__STATUS__LACKING:
        lacking(s, call, a, reply, now_ms);
        break;
    case PARAMD__PUSH_PULL_REPLY__STATUS__EXPECTED:
        expected(s, call, reply, now_ms);
        break;
    default:
        other_status(s, call, a, reply, now_ms);
        break;
    }
    return SESSION_NOTHING;
}

void session_call_failed(struct session *s, const struct session_send *call, bool hopeless,
                         const char *text, uint64_t now_ms)
{
    if (s->state != SESSION_RESUMING && s->state != SESSION_RUNNING)
        return;
    if ((call->what == SESSION_SEND_RESUME) != (s->state == SESSION_RESUMING))
        return;
    struct ask *a = ask_of(s, call);
    if (a == NULL || a->phase != PHASE_SENT)
        return;
    if (hopeless)
        end(s, SESSION_FAILED,
            must_format("rank %" PRIu32 ": shard %" PRIu32 " refuses push-pull %" PRIu64 ": %s",
                        s->options.rank, call->shard, call->seq, text));
    else
        back_off(s, call, a, call->what == SESSION_SEND_PUSH_PULL, text, now_ms);
}
