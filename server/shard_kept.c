#include "server/shard_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

/*
 * With a = acked, pushes up to a + d + 1 may be here, and of those applied, the values of push t
 * are needed until its last batch, at most t + d + 1, is acknowledged: from a - d on. See
 * PROTOCOL.md 3.
 */
uint32_t kept_ring_size(const struct steps *steps)
{
    return 2 * steps->pipeline_depth + 3;
}

static struct shard_push *place(const struct shard *s, uint32_t rank, uint64_t seq)
{
    return &s->ranks[rank].pushes[seq % s->ring];
}

struct shard_push *kept_find(struct shard *s, uint32_t rank, uint64_t seq)
{
    struct shard_push *p = place(s, rank, seq);
    return p->state != PUSH_NONE && p->seq == seq ? p : NULL;
}

static void report_free(Paramd__Report *r)
{
    if (r != NULL)
        paramd__report__free_unpacked(r, NULL);
}

/* The report of a push that goes stays if it is the latest. */
static void retire_report(struct shard_rank *r, struct shard_push *p)
{
    if (p->report != NULL && p->seq >= r->report_seq) {
        report_free(r->report);
        r->report = p->report;
        r->report_seq = p->seq;
    } else {
        report_free(p->report);
    }
    p->report = NULL;
}

void kept_drop_body(struct shard *s, struct shard_push *p)
{
    s->held_bytes -= p->body.size;
    p->bytes -= p->body.size;
    wire_message_deinit(&p->message);
    chain_deinit(&p->body);
}

static void drop(struct shard *s, uint32_t rank, struct shard_push *p)
{
    CHECK(p->reply == NULL);
    kept_drop_body(s, p);
    s->held_bytes -= p->bytes;
    retire_report(&s->ranks[rank], p);
    block_list_deinit(&p->wanted);
    block_list_deinit(&p->answer);
    *p = (struct shard_push){.state = PUSH_NONE};
}

struct shard_push *kept_add(struct shard *s, uint32_t rank, uint64_t seq)
{
    struct shard_push *p = place(s, rank, seq);
    CHECK(p->state == PUSH_NONE);
    *p = (struct shard_push){.seq = seq};
    return p;
}

void kept_acknowledge(struct shard *s, uint32_t rank, uint64_t acked)
{
    struct consistency_rank *r = &s->consistency.ranks[rank];
    if (acked <= r->acked)
        return;
    r->acked = acked;
    for (uint32_t i = 0; i < s->ring; i++) {
        struct shard_push *p = &s->ranks[rank].pushes[i];
        uint64_t first, last;
        if (p->state != PUSH_APPLIED || p->seq >= acked)
            continue;
        steps_batches_pulled(&s->consistency.steps, p->seq, &first, &last);
        if (last > acked)
            continue;
        answer_waiting(s, rank, p, PARAMD__PUSH_PULL_REPLY__STATUS__WAITING,
                       "this push has been acknowledged");
        drop(s, rank, p);
    }
}

void kept_deinit(struct shard *s)
{
    for (uint32_t rank = 0; s->ranks != NULL && rank < s->options.rank_count; rank++) {
        struct shard_rank *r = &s->ranks[rank];
        for (uint32_t i = 0; r->pushes != NULL && i < s->ring; i++) {
            if (r->pushes[i].state != PUSH_NONE)
                drop(s, rank, &r->pushes[i]);
        }
        report_free(r->report);
        mem_free(r->pushes);
    }
    mem_free(s->ranks);
    s->ranks = NULL;
}

const Paramd__Report *kept_report(const struct shard *s, uint32_t rank, uint64_t seq)
{
    const struct shard_rank *r = &s->ranks[rank];
    const Paramd__Report *report = r->report;
    uint64_t best = r->report_seq;
    for (uint32_t i = 0; r->pushes != NULL && i < s->ring; i++) {
        const struct shard_push *p = &r->pushes[i];
        if (p->state == PUSH_NONE || p->report == NULL || p->seq > seq || p->seq < best)
            continue;
        best = p->seq;
        report = p->report;
    }
    return report;
}

void kept_set_report(struct shard *s, uint32_t rank, uint64_t seq, const Paramd__Report *report)
{
    struct shard_rank *r = &s->ranks[rank];
    Paramd__Report *copy = NULL;
    if (report != NULL) {
        size_t size = paramd__report__get_packed_size(report);
        uint8_t *bytes = must_alloc(size);
        paramd__report__pack(report, bytes);
        copy = paramd__report__unpack(NULL, size, bytes);
        mem_free(bytes);
        CHECK(copy != NULL);
    }
    report_free(r->report);
    r->report = copy;
    r->report_seq = seq;
}

void block_list_alloc(struct block_list *l, size_t count)
{
    *l = (struct block_list){.count = count};
    l->blocks = must_alloc(count * (sizeof *l->blocks + sizeof *l->pointers));
    l->pointers = (Paramd__Block **)(l->blocks + count);
    for (size_t i = 0; i < count; i++) {
        paramd__block__init(&l->blocks[i]);
        l->pointers[i] = &l->blocks[i];
    }
}

void block_list_want(struct block_list *l, const struct wire_message *m,
                     Paramd__Block *const *blocks, size_t count)
{
    block_list_alloc(l, count);
    for (size_t i = 0; i < count; i++) {
        Paramd__Block *b = &l->blocks[i];
        b->kind = blocks[i]->kind;
        b->index = blocks[i]->index;
        b->count = blocks[i]->count;
        b->first_block = blocks[i]->first_block;
        b->block_count = blocks[i]->block_count;
        if (b->kind != PARAMD__BLOCK__KIND__KEYS)
            continue;
        b->keys_offset = l->chain.size;
        chain_share(&l->chain, m->chain, m->payload_offset + blocks[i]->keys_offset,
                    b->count * sizeof(uint64_t));
    }
}

void block_list_deinit(struct block_list *l)
{
    mem_free(l->blocks);
    chain_deinit(&l->chain);
    *l = (struct block_list){0};
}
