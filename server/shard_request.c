#include "server/shard_internal.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/str.h"

#define STATUS(name) PARAMD__PUSH_PULL_REPLY__STATUS__##name

/* One push-pull on its way through the checks. */
struct request {
    struct shard *shard;
    struct chain body;
    struct wire_message message;
    const Paramd__PushPullRequest *q;
    shard_reply reply;
    void *context;
};

static void answer(struct request *r, Paramd__PushPullReply__Status status, const char *message)
{
    answer_status(r->shard, r->q->rank, status, message, r->reply, r->context);
}

/* ---- lease and acknowledgement ---- */

/* A newer lease is known to its worker before the coordinator has told us; calls of the old one
 * end. */
static void raise_lease(struct shard *s, uint32_t rank, uint64_t lease)
{
    struct consistency_rank *r = &s->consistency.ranks[rank];
    if (lease <= r->lease)
        return;
    r->lease = lease;
    for (uint32_t i = 0; i < s->ring; i++) {
        struct shard_push *p = &s->ranks[rank].pushes[i];
        if (p->state != PUSH_NONE)
            answer_waiting(s, rank, p, STATUS(REPLACED), "the rank has a new lease");
    }
}

void shard_set_lease(struct shard *s, uint32_t rank, uint64_t lease)
{
    CHECK(rank < s->options.rank_count);
    if (s->begun)
        raise_lease(s, rank, lease);
    else if (lease > s->ranks[rank].lease)
        s->ranks[rank].lease = lease;
}

static enum err check_acked(const struct shard *s, const Paramd__PushPullRequest *q)
{
    const struct consistency_rank *r = &s->consistency.ranks[q->rank];
    uint64_t window = (uint64_t)s->consistency.steps.pipeline_depth + 1;
    uint64_t acked = q->acked > r->acked ? q->acked : r->acked;
    if (q->acked > r->applied)
        return err_set(ERR_INPUT, "rank %u: acked %llu, but only %llu is applied here", q->rank,
                       (unsigned long long)q->acked, (unsigned long long)r->applied);
    if (q->seq > acked && q->seq - acked > window)
        return err_set(
            ERR_INPUT, "rank %u: seq %llu with acked %llu; at most %llu may be unanswered", q->rank,
            (unsigned long long)q->seq, (unsigned long long)acked, (unsigned long long)window);
    return ERR_NONE;
}

/* The request is in order: what it says of its rank is believed. */
static void accept(struct request *r)
{
    raise_lease(r->shard, r->q->rank, r->q->lease);
    kept_acknowledge(r->shard, r->q->rank, r->q->acked);
}

/* ---- what a request brings ---- */

static enum err check_push(const struct shard *s, const Paramd__PushPullRequest *q)
{
    if (!isfinite(q->weight) || q->weight < 0.0)
        return err_set(ERR_INPUT, "rank %u: weight %g of seq %llu; it must be 0 or more", q->rank,
                       q->weight, (unsigned long long)q->seq);
    if (q->skipped && q->n_push > 0)
        return err_set(ERR_INPUT, "rank %u: seq %llu is skipped, yet it brings %zu blocks", q->rank,
                       (unsigned long long)q->seq, q->n_push);
    if (s->options.read_only)
        return err_set(ERR_REFUSED, "this shard is for reading only");
    return ERR_NONE;
}

static enum err check_blocks(const struct request *r, bool with_push)
{
    const struct wire_limits limits = {
        .schema = r->shard->options.schema,
        .first_partition = r->shard->options.first_partition,
        .end_partition = r->shard->options.end_partition,
    };
    enum err e = ERR_NONE;
    if (with_push)
        e = wire_check_blocks(&r->message, r->q->push, r->q->n_push, &limits, true);
    if (e == ERR_NONE)
        e = wire_check_blocks(&r->message, r->q->pull, r->q->n_pull, &limits, false);
    if (e != ERR_NONE)
        return err_prefix(e, "rank %u, seq %llu", r->q->rank, (unsigned long long)r->q->seq);
    return ERR_NONE;
}

static void want(struct request *r, struct shard_push *p)
{
    struct shard *s = r->shard;
    s->held_bytes -= p->wanted.chain.size;
    p->bytes -= p->wanted.chain.size;
    block_list_deinit(&p->wanted);
    block_list_want(&p->wanted, &r->message, r->q->pull, r->q->n_pull);
    s->held_bytes += p->wanted.chain.size;
    p->bytes += p->wanted.chain.size;
}

/* The call waits for the answer of this push, alone: an older one is told to ask again. */
static void attach(struct request *r, struct shard_push *p)
{
    answer_waiting(r->shard, r->q->rank, p, STATUS(WAITING), "asked again by another call");
    p->reply = r->reply;
    p->context = r->context;
    p->since_ms = r->shard->now_ms;
    answer_try(r->shard, r->q->rank, p);
}

/* bsp: the values at this version, kept for whoever asks. */
static enum err keep_answer(struct shard *s, struct shard_push *p)
{
    enum err e = answer_make(s, &p->wanted, false, &p->answer);
    if (e != ERR_NONE)
        return e;
    uint64_t bytes = 0; /* dense values are counted by their owner */
    for (size_t i = 0; i < p->answer.count; i++) {
        const Paramd__Block *b = &p->answer.blocks[i];
        if (b->kind == PARAMD__BLOCK__KIND__ROWS)
            bytes += b->count * b->dim * sizeof(float);
    }
    p->bytes += bytes;
    s->held_bytes += bytes;
    return ERR_NONE;
}

/* ---- applying ---- */

/* Parameters that outgrow the budget would end in the kernel's hands: better by name. */
static enum err check_parameters_fit(const struct shard *s)
{
    uint64_t bytes = shard_memory(s) - s->held_bytes;
    if (s->options.memory_bytes == 0 || bytes <= s->options.memory_bytes)
        return ERR_NONE;
    return err_set(ERR_LIMIT,
                   "parameters take %llu bytes of the %llu that this shard may use: use more "
                   "servers, fewer keys (min_count, buckets, max_rows) or smaller rows",
                   (unsigned long long)bytes, (unsigned long long)s->options.memory_bytes);
}

/* Half an update may have been made: the shard ends here, at the version that it had. */
static void fail_at(struct shard *s, enum err e, uint64_t step)
{
    err_prefix(e, "shard %u, step %llu", s->options.index, (unsigned long long)step);
    shard_fail(s, err_text());
}

/* bsp: the step of which all ranks' pushes are here. */
static enum err apply_step(struct shard *s, uint64_t step)
{
    uint32_t ranks = s->options.rank_count;
    struct shard_push *pushes[RANK_MAX];
    for (uint32_t r = 0; r < ranks; r++) {
        pushes[r] = kept_find(s, r, step);
        CHECK(pushes[r] != NULL && pushes[r]->state == PUSH_HELD);
    }
    enum err e = check_parameters_fit(s);
    if (e == ERR_NONE)
        e = shard_apply(s, pushes, ranks, step);
    for (uint32_t r = 0; e == ERR_NONE && r < ranks; r++) {
        pushes[r]->state = PUSH_APPLIED;
        kept_drop_body(s, pushes[r]);
        e = keep_answer(s, pushes[r]);
    }
    if (e == ERR_NONE)
        consistency_applied_all(&s->consistency, step);
    return e;
}

/* ssp, asp: on arrival, straight from its slices. */
static enum err apply_one(struct shard *s, uint32_t rank, struct shard_push *p)
{
    enum err e = check_parameters_fit(s);
    if (e == ERR_NONE)
        e = shard_apply(s, &p, 1, p->seq);
    if (e != ERR_NONE)
        return e;
    p->state = PUSH_APPLIED;
    kept_drop_body(s, p);
    consistency_applied_one(&s->consistency, rank, p->seq);
    return ERR_NONE;
}

static void apply_ready(struct shard *s)
{
    for (;;) {
        uint64_t step = consistency_ready_step(&s->consistency);
        if (s->failed != NULL || step == 0)
            return;
        enum err e = apply_step(s, step);
        if (e != ERR_NONE)
            fail_at(s, e, step);
        else
            shard_advanced(s);
    }
}

/* ---- the ways of a request ---- */

/* A push that is new: held, in its turn received, and applied when its step is complete. */
static void take(struct request *r)
{
    struct shard *s = r->shard;
    const Paramd__PushPullRequest *q = r->q;
    uint32_t rank = q->rank;
    accept(r);
    struct shard_push *p = kept_add(s, rank, q->seq);
    p->state = PUSH_HELD;
    p->checksum = q->checksum;
    Paramd__PushPullRequest *owned = (Paramd__PushPullRequest *)r->message.message;
    p->report = owned->report;
    owned->report = NULL;
    want(r, p);
    chain_move(&p->body, &r->body);
    p->message = r->message;
    p->message.chain = &p->body;
    r->message = (struct wire_message){0};
    p->bytes += p->body.size;
    s->held_bytes += p->body.size;
    p->reply = r->reply;
    p->context = r->context;
    p->since_ms = s->now_ms;

    /* It may be the one that others wait for, which came before their turn. */
    struct consistency_rank *c = &s->consistency.ranks[rank];
    while (kept_find(s, rank, c->received + 1) != NULL)
        consistency_received(&s->consistency, rank, c->received + 1, c->acked);
    if (PLANT(kept_until_pushed) && shard_is_bsp(s))
        kept_acknowledge(s, rank, q->seq);
    if (shard_is_bsp(s)) {
        apply_ready(s);
    } else if (p->seq == c->received) {
        enum err e = apply_one(s, rank, p);
        if (e != ERR_NONE)
            fail_at(s, e, p->seq);
        else
            shard_advanced(s);
    }
}

/* The push is here already; its call, and in ssp and asp its pull, are new. */
static void take_again(struct request *r, struct shard_push *p)
{
    struct shard *s = r->shard;
    if (shard_is_bsp(s) && p->checksum != r->q->checksum) {
        struct str text = {0};
        str_append_format(
            &text,
            "rank %u, seq %llu: the push came twice with different contents (checksum "
            "%016llx, then %016llx): the gradient is not reproducible",
            r->q->rank, (unsigned long long)p->seq, (unsigned long long)p->checksum,
            (unsigned long long)r->q->checksum);
        shard_fail(s, text.data);
        answer(r, STATUS(FAILED), s->failed);
        str_deinit(&text);
        return;
    }
    if (!shard_is_bsp(s)) {
        enum err e = check_blocks(r, false);
        if (e != ERR_NONE) {
            shard_hand_back(s, e, r->reply, r->context);
            return;
        }
    }
    accept(r);
    p = kept_find(s, r->q->rank, r->q->seq);
    if (p == NULL) { /* it says itself that it has the answer */
        answer(r, STATUS(WAITING), "this push has been acknowledged");
        return;
    }
    if (!shard_is_bsp(s))
        want(r, p);
    if (PLANT(duplicate_applied) && !shard_is_bsp(s)) {
        struct shard_push twice = {.message = r->message}, *one = &twice;
        CHECK(shard_apply(s, &one, 1, p->seq) == ERR_NONE);
    }
    attach(r, p);
}

/* The empty push-pull with which each rank begins after a load: pushed and applied long ago. */
static void take_first(struct request *r)
{
    struct shard *s = r->shard;
    const Paramd__PushPullRequest *q = r->q;
    enum err e = check_blocks(r, true);
    if (e == ERR_NONE && q->n_push > 0)
        e = err_set(ERR_INPUT,
                    "rank %u: seq %llu repeats the step that was loaded, so it must be empty",
                    q->rank, (unsigned long long)q->seq);
    if (e != ERR_NONE) {
        shard_hand_back(s, e, r->reply, r->context);
        return;
    }
    accept(r);
    struct shard_push *p = kept_add(s, q->rank, q->seq);
    p->state = PUSH_APPLIED;
    p->checksum = q->checksum;
    if (q->report != NULL && s->ranks[q->rank].report == NULL)
        kept_set_report(s, q->rank, q->seq, q->report);
    want(r, p);
    e = shard_is_bsp(s) ? keep_answer(s, p) : ERR_NONE;
    if (e != ERR_NONE) {
        shard_fail(s, err_text());
        answer(r, STATUS(FAILED), s->failed);
        return;
    }
    attach(r, p);
}

static void new_push(struct request *r)
{
    struct shard *s = r->shard;
    const struct consistency_rank *c = &s->consistency.ranks[r->q->rank];
    struct shard_push *p = kept_find(s, r->q->rank, r->q->seq);
    if (p != NULL && !PLANT(duplicate_by_applied)) { /* before its turn, but here */
        take_again(r, p);
        return;
    }
    bool next = r->q->seq == c->applied + 1 && !PLANT(busy_for_all);
    if (s->options.memory_bytes != 0 && !next &&
        shard_memory(s) + r->body.size > s->options.memory_bytes) {
        answer(r, STATUS(BUSY), "over the memory budget");
        return;
    }
    enum err e = check_push(s, r->q);
    if (e == ERR_NONE) {
        e = check_blocks(r, !PLANT(push_unchecked));
        if (e == ERR_REFUSED) { /* not finite, past all that should have kept it back */
            shard_fail(s, err_text());
            answer(r, STATUS(FAILED), s->failed);
            return;
        }
    }
    if (e != ERR_NONE)
        shard_hand_back(s, e, r->reply, r->context);
    else
        take(r);
}

static void known_push(struct request *r)
{
    struct shard *s = r->shard;
    struct shard_push *p = kept_find(s, r->q->rank, r->q->seq);
    if (p != NULL)
        take_again(r, p);
    else if (r->q->seq == s->consistency.begun_at &&
             s->consistency.ranks[r->q->rank].acked <= r->q->seq && r->q->acked <= r->q->seq &&
             s->consistency.version == r->q->seq)
        take_first(r);
    else
        answer(r, STATUS(LACKING), "the values of this push were acknowledged and are gone");
}

static void ask_again(struct request *r)
{
    struct shard_push *p = kept_find(r->shard, r->q->rank, r->q->seq);
    if (p == NULL) {
        answer(r, STATUS(LACKING), "this push is not here");
        return;
    }
    accept(r);
    p = kept_find(r->shard, r->q->rank, r->q->seq);
    if (p == NULL)
        answer(r, STATUS(WAITING), "this push has been acknowledged");
    else
        attach(r, p);
}

static void decide(struct request *r)
{
    const Paramd__PushPullRequest *q = r->q;
    enum err e = shard_check_index(r->shard, q->shard);
    if (e == ERR_NONE && q->rank >= r->shard->options.rank_count)
        e = err_set(ERR_INPUT, "rank %u; the job has %u", q->rank, r->shard->options.rank_count);
    if (e != ERR_NONE) {
        shard_hand_back(r->shard, e, r->reply, r->context);
        return;
    }
    enum push_decision d = consistency_decide(&r->shard->consistency, q->rank, q->lease, q->seq);
    if (d == PUSH_TAKE || d == PUSH_DUPLICATE)
        e = check_acked(r->shard, q);
    if (e != ERR_NONE) {
        shard_hand_back(r->shard, e, r->reply, r->context);
        return;
    }
    switch (d) {
    case PUSH_REPLACED:
        answer(r, STATUS(REPLACED), "the rank has a new lease");
        break;
    case PUSH_BEYOND:
        answer(r, STATUS(EXPECTED), "beyond the window");
        break;
    case PUSH_PAST_BARRIER:
        e = err_set(ERR_REFUSED, "rank %u: seq %llu lies past a drain point that is not complete",
                    q->rank, (unsigned long long)q->seq);
        shard_hand_back(r->shard, e, r->reply, r->context);
        break;
    case PUSH_DUPLICATE:
        if (q->header_only)
            ask_again(r);
        else
            known_push(r);
        break;
    case PUSH_TAKE:
        if (q->header_only)
            ask_again(r);
        else
            new_push(r);
        break;
    }
}

void shard_push_pull(struct shard *s, struct chain *request, shard_reply reply, void *context,
                     uint64_t now_ms)
{
    struct request r = {.shard = s, .reply = reply, .context = context};
    s->now_ms = now_ms;
    chain_move(&r.body, request);
    enum err e = wire_decode(&paramd__push_pull_request__descriptor, &r.body, &r.message);
    if (e != ERR_NONE) {
        shard_hand_back(s, e, reply, context);
    } else {
        r.q = (const Paramd__PushPullRequest *)r.message.message;
        const struct shard_identity i = {r.q->job, r.q->generation};
        const char *why;
        Paramd__PushPullReply__Status status = shard_identify(s, &i, &why);
        if (status != STATUS(OK))
            answer(&r, status, why);
        else
            decide(&r);
    }
    wire_message_deinit(&r.message);
    chain_deinit(&r.body);
}
