#include "server/shard_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"

#define STATUS(name) PARAMD__PUSH_PULL_REPLY__STATUS__##name

/* Whoever resumes can ask for kept values push by push as well; a reply that would be huge leaves
 * them out. */
#define KEPT_MAX_BYTES (MESSAGE_MAX_BYTES / 4)

Paramd__PushPullReply__Status shard_identify(const struct shard *s, const struct shard_identity *i,
                                             const char **why)
{
    *why = "";
    if (strcmp(i->job, s->job) != 0) {
        *why = "this shard belongs to another job";
        return STATUS(WRONG_JOB);
    }
    if (i->generation != s->options.generation && !PLANT(generation_ignored)) {
        *why = "this shard is of another generation";
        return STATUS(NOT_FORMED);
    }
    if (s->failed != NULL) {
        *why = s->failed;
        return STATUS(FAILED);
    }
    if (!s->begun) {
        *why = "this shard is still being restored";
        return STATUS(NOT_FORMED);
    }
    return STATUS(OK);
}

enum err shard_check_index(const struct shard *s, uint32_t index)
{
    if (index == s->options.index)
        return ERR_NONE;
    return err_set(ERR_INPUT, "request for shard %u reached shard %u", index, s->options.index);
}

void shard_hand_back(struct shard *s, enum err code, shard_reply reply, void *context)
{
    struct chain empty = {0};
    err_prefix(code, "shard %u", s->options.index);
    reply(context, code, &empty);
}

/* ---- resume ---- */

/* What is kept of one push: its wanted keys and its values, in the reply's payload. */
static Paramd__ResumeReply__Kept *kept_entry(struct shard *s, const struct shard_push *p,
                                             struct wire_payload *payload,
                                             struct block_list *blocks)
{
    Paramd__ResumeReply__Kept *k = must_alloc(sizeof *k);
    uint64_t last;
    paramd__resume_reply__kept__init(k);
    steps_batches_pulled(&s->consistency.steps, p->seq, &k->batch, &last);
    k->version = p->seq;
    block_list_alloc(blocks, p->wanted.count + p->answer.count);
    uint64_t keys_at = wire_payload_add(payload, NULL, NULL, 0, 8);
    chain_share(&payload->chain, &p->wanted.chain, 0, p->wanted.chain.size);
    uint64_t values_at = payload->chain.size;
    chain_share(&payload->chain, &p->answer.chain, 0, p->answer.chain.size);
    for (size_t i = 0; i < p->wanted.count; i++) {
        blocks->blocks[i] = p->wanted.blocks[i];
        if (blocks->blocks[i].kind == PARAMD__BLOCK__KIND__KEYS)
            blocks->blocks[i].keys_offset += keys_at;
    }
    for (size_t i = 0; i < p->answer.count; i++) {
        Paramd__Block *b = &blocks->blocks[p->wanted.count + i];
        *b = p->answer.blocks[i];
        b->values_offset += values_at;
    }
    k->n_wanted = p->wanted.count;
    k->wanted = blocks->pointers;
    k->n_blocks = p->answer.count;
    k->blocks = blocks->pointers + p->wanted.count;
    return k;
}

/* The kept values of batches acked + 1 …, by push. */
static void fill_kept(struct shard *s, uint32_t rank, Paramd__ResumeReply *r,
                      struct wire_payload *payload, struct block_list *lists)
{
    const struct consistency_rank *c = &s->consistency.ranks[rank];
    uint64_t behind = s->consistency.steps.pipeline_depth;
    uint64_t from = c->acked > behind ? c->acked - behind : 0;
    for (uint64_t seq = from; shard_is_bsp(s) && seq <= c->applied; seq++) {
        struct shard_push *p = kept_find(s, rank, seq);
        uint64_t first, last;
        steps_batches_pulled(&s->consistency.steps, seq, &first, &last);
        if (p == NULL || first > last || last <= c->acked ||
            !consistency_may_reply(&s->consistency, rank, seq) ||
            payload->chain.size + p->wanted.chain.size + p->answer.chain.size > KEPT_MAX_BYTES)
            continue;
        r->kept[r->n_kept] = kept_entry(s, p, payload, &lists[r->n_kept]);
        r->n_kept++;
    }
}

static void resume_reply(struct shard *s, uint32_t rank, Paramd__PushPullReply__Status status,
                         const char *message, shard_reply reply, void *context)
{
    Paramd__ResumeReply r = PARAMD__RESUME_REPLY__INIT;
    struct wire_payload payload = {0};
    struct chain out = {0};
    struct block_list *lists = must_alloc(s->ring * sizeof *lists);
    r.status = status;
    r.message = (char *)(uintptr_t)message;
    r.kept = must_alloc(s->ring * sizeof(Paramd__ResumeReply__Kept *));
    if (status == STATUS(OK)) {
        const struct consistency_rank *c = &s->consistency.ranks[rank];
        const Paramd__Report *before = kept_report(s, rank, c->acked);
        r.received = c->received;
        r.applied = c->applied;
        r.acked = c->acked;
        r.report = (Paramd__Report *)(uintptr_t)kept_report(s, rank, c->received);
        if (before != NULL) {
            r.cursor = before->cursor;
            r.rank_state = before->rank_state;
        }
        fill_kept(s, rank, &r, &payload, lists);
    }
    wire_encode(&r.base, &payload, &out);
    reply(context, ERR_NONE, &out);
    chain_deinit(&out);
    for (size_t i = 0; i < r.n_kept; i++) {
        block_list_deinit(&lists[i]);
        mem_free(r.kept[i]);
    }
    mem_free(r.kept);
    mem_free(lists);
}

static void resume(struct shard *s, const Paramd__ResumeRequest *q, shard_reply reply,
                   void *context)
{
    const struct shard_identity i = {q->job, q->generation};
    const char *why;
    Paramd__PushPullReply__Status status = shard_identify(s, &i, &why);
    enum err e = status == STATUS(OK) ? shard_check_index(s, q->shard) : ERR_NONE;
    if (status == STATUS(OK) && e == ERR_NONE && q->rank >= s->options.rank_count)
        e = err_set(ERR_INPUT, "rank %u; the job has %u", q->rank, s->options.rank_count);
    if (e != ERR_NONE) {
        shard_hand_back(s, e, reply, context);
        return;
    }
    if (status == STATUS(OK) && q->lease < s->consistency.ranks[q->rank].lease) {
        status = STATUS(REPLACED);
        why = "the rank has a new lease";
    }
    if (status == STATUS(OK))
        shard_set_lease(s, q->rank, q->lease);
    resume_reply(s, q->rank, status, why, reply, context);
}

void shard_resume(struct shard *s, struct chain *request, shard_reply reply, void *context)
{
    struct chain body = {0};
    struct wire_message m = {0};
    chain_move(&body, request);
    enum err e = wire_decode(&paramd__resume_request__descriptor, &body, &m);
    if (e != ERR_NONE)
        shard_hand_back(s, e, reply, context);
    else
        resume(s, (const Paramd__ResumeRequest *)m.message, reply, context);
    wire_message_deinit(&m);
    chain_deinit(&body);
}

/* ---- read ---- */

static void read_reply(struct shard *s, Paramd__PushPullReply__Status status, const char *message,
                       const struct block_list *values, shard_reply reply, void *context)
{
    Paramd__ReadReply r = PARAMD__READ_REPLY__INIT;
    struct wire_payload payload = {0};
    struct chain out = {0};
    r.status = status;
    r.message = (char *)(uintptr_t)message;
    r.version = s->consistency.version;
    if (values != NULL) {
        r.n_blocks = values->count;
        r.blocks = values->pointers;
        chain_share(&payload.chain, &values->chain, 0, values->chain.size);
    }
    wire_encode(&r.base, &payload, &out);
    reply(context, ERR_NONE, &out);
    chain_deinit(&out);
}

/* In ssp and asp some ranks may be ahead of the version: then no version is exactly here. */
static bool is_at_version(const struct shard *s, uint64_t version)
{
    if (version != s->consistency.version)
        return false;
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        if (s->consistency.ranks[r].applied != version)
            return false;
    }
    return true;
}

/* The request's values; *values_out is the caller's to free. */
static enum err read_values(struct shard *s, const struct wire_message *m,
                            const Paramd__ReadRequest *q, struct block_list *values_out)
{
    const struct wire_limits limits = {
        .schema = s->options.schema,
        .first_partition = s->options.first_partition,
        .end_partition = s->options.end_partition,
    };
    enum err e = wire_check_blocks(m, q->pull, q->n_pull, &limits, false);
    if (e != ERR_NONE)
        return e;
    struct block_list wanted;
    block_list_want(&wanted, m, q->pull, q->n_pull);
    /* Evaluation knows no row that training has not made: an unseen key counts as zeros. */
    e = answer_make(s, &wanted, true, values_out);
    block_list_deinit(&wanted);
    return e;
}

static void read_request(struct shard *s, const struct wire_message *m, shard_reply reply,
                         void *context)
{
    const Paramd__ReadRequest *q = (const Paramd__ReadRequest *)m->message;
    const struct shard_identity i = {q->job, q->generation};
    const char *why;
    Paramd__PushPullReply__Status status = shard_identify(s, &i, &why);
    if (status == STATUS(OK) && !q->any_version && !is_at_version(s, q->version)) {
        status = STATUS(EXPECTED);
        why = "this shard has another version";
    }
    struct block_list values = {0};
    enum err e = ERR_NONE;
    if (status == STATUS(OK))
        e = shard_check_index(s, q->shard);
    if (status == STATUS(OK) && e == ERR_NONE)
        e = read_values(s, m, q, &values);
    if (e != ERR_NONE)
        shard_hand_back(s, e, reply, context);
    else
        read_reply(s, status, why, &values, reply, context);
    block_list_deinit(&values);
}

void shard_read(struct shard *s, struct chain *request, shard_reply reply, void *context)
{
    struct chain body = {0};
    struct wire_message m = {0};
    chain_move(&body, request);
    enum err e = wire_decode(&paramd__read_request__descriptor, &body, &m);
    if (e != ERR_NONE)
        shard_hand_back(s, e, reply, context);
    else
        read_request(s, &m, reply, context);
    wire_message_deinit(&m);
    chain_deinit(&body);
}
