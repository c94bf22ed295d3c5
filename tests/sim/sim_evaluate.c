#include <string.h>

#include "common/check.h"
#include "common/evaluation.h"
#include "common/layout.h"
#include "common/mem.h"
#include "common/wire.h"
#include "tests/sim/sim_worker.h"

/*
 * The worker's shares of an evaluation: for each, a few rows and the bias at exactly one version,
 * from the shards that have them. A shard that is at another version refuses: tried again later.
 */

#define EVALUATE_RETRY_MS 500u

struct reading {
    struct sim_worker *worker;
    uint32_t serial;
    uint32_t part; /* from the first of the task's */
    uint32_t shard;
    uint32_t first, count; /* of the part's keys */
    bool bias;
};

void evaluate_drop(struct sim_worker *w)
{
    w->task.is_open = false;
    w->task.serial++;
}

static void again(struct sim_worker *w, const char *why)
{
    TRACE("evaluates again: %s", why);
    evaluate_drop(w);
    w->evaluate_retry_us = sim.now_us + EVALUATE_RETRY_MS * SIM_MS;
}

static void done(struct sim_worker *w)
{
    struct evaluation_task *t = &w->task;
    const struct model *m = reference_model();
    struct evaluation *e;
    CHECK(evaluation_create(m->loss, m->output_width, reference_job()->eval.metrics, &e) ==
          ERR_NONE);
    for (uint32_t i = 0; i < t->count; i++) {
        float logit = reference_eval_logit(t->rows[i], &t->bias), weight = 1;
        float label = reference_eval_label(t->first + i, t->step);
        CHECK(evaluation_add(e, &logit, &label, &weight, NULL, 1) == ERR_NONE);
    }
    str_clear(&w->evaluation);
    evaluation_encode(e, &w->evaluation);
    evaluation_destroy(e);
    t->is_open = false;
    w->evaluated = true;
    w->evaluated_step = t->step;
    w->evaluated_first = t->first;
    w->evaluated_count = t->count;
    sim.count.evaluations++;
    TRACE("evaluated step=%llu parts %u+%u", (unsigned long long)t->step, t->first, t->count);
    member_poked(w->process->member);
}

static void take_blocks(struct evaluation_task *t, const struct reading *r,
                        const struct wire_message *m, const Paramd__ReadReply *reply)
{
    size_t wanted = (r->count > 0) + (size_t)r->bias;
    CHECK(reply->n_blocks == wanted);
    struct chain_cursor from;
    if (r->count > 0) {
        wire_values(m, reply->blocks[0], &from);
        CHECK(chain_cursor_read(&from, t->rows[r->part] + r->first * SIM_DIM,
                                r->count * SIM_DIM * sizeof(float)));
    }
    if (r->bias) {
        wire_values(m, reply->blocks[wanted - 1], &from);
        CHECK(chain_cursor_read(&from, &t->bias, sizeof t->bias));
    }
}

static void arrived(void *context, enum rpc_status status, const char *message, struct chain *reply)
{
    struct reading r = *(struct reading *)context;
    struct evaluation_task *t = &r.worker->task;
    struct wire_message m;
    mem_free(context);
    if (t->serial != r.serial || !t->is_open)
        return;
    if (status != RPC_OK) {
        again(r.worker, message);
        return;
    }
    CHECK(wire_decode(&paramd__read_reply__descriptor, reply, &m) == ERR_NONE);
    const Paramd__ReadReply *q = (const Paramd__ReadReply *)m.message;
    if (q->status == PARAMD__PUSH_PULL_REPLY__STATUS__OK && q->version == t->step) {
        take_blocks(t, &r, &m, q);
        if (--t->left == 0)
            done(r.worker);
    } else {
        again(r.worker, q->message);
    }
    wire_message_deinit(&m);
}

static void send_read(struct sim_worker *w, const struct reading *what, const uint64_t *keys)
{
    Paramd__ReadRequest q = PARAMD__READ_REQUEST__INIT;
    Paramd__Block blocks[2], *list[2] = {&blocks[0], &blocks[1]};
    struct wire_payload payload = {0};
    q.job = w->job;
    q.generation = w->generation;
    q.shard = what->shard;
    q.version = w->task.step;
    q.pull = list;
    if (what->count > 0) {
        Paramd__Block *b = list[q.n_pull++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__KEYS;
        b->count = what->count;
        b->dim = SIM_DIM;
        struct buf *owner = buf_create(what->count * sizeof *keys);
        CHECK(owner != NULL);
        memcpy(buf_data(owner), keys + what->first, what->count * sizeof *keys);
        b->keys_offset =
            wire_payload_add(&payload, owner, buf_data(owner), what->count * sizeof *keys, 8);
        buf_unref(owner);
    }
    if (what->bias) {
        Paramd__Block *b = list[q.n_pull++];
        paramd__block__init(b);
        b->kind = PARAMD__BLOCK__KIND__DENSE_WANTED;
        b->count = b->block_count = 1;
    }
    struct chain request = {0};
    wire_encode(&q.base, &payload, &request);
    struct reading *r = must_alloc(sizeof *r);
    *r = *what;
    struct rpc_call_options options = {.method = WIRE_READ, .timeout_ms = sim.plan.call_timeout_ms};
    rpc_channel_call(w->channels[what->shard], &options, &request, arrived, r);
}

static void read_part(struct sim_worker *w, uint32_t part)
{
    uint64_t keys[EVAL_KEYS];
    reference_eval_keys(w->task.first + part, keys);
    for (uint32_t s = 0; s < w->shard_count; s++) {
        const struct exchange_shard *shard = &w->shards[s];
        struct reading r = {.worker = w,
                            .serial = w->task.serial,
                            .part = part,
                            .shard = s,
                            .bias = shard->first_partition == 0};
        while (r.first < EVAL_KEYS && partition_of_key(keys[r.first]) < shard->first_partition)
            r.first++;
        while (r.first + r.count < EVAL_KEYS &&
               partition_of_key(keys[r.first + r.count]) < shard->end_partition)
            r.count++;
        if (r.count == 0 && !r.bias)
            continue;
        w->task.left++;
        send_read(w, &r, keys);
    }
}

void evaluate_start(struct sim_worker *w)
{
    const Paramd__Control__WorkerOrders *o = w->orders->worker;
    struct evaluation_task *t = &w->task;
    uint32_t serial = t->serial + 1;
    *t = (struct evaluation_task){.is_open = true,
                                  .serial = serial,
                                  .step = o->evaluate_step,
                                  .first = o->evaluate_part,
                                  .count = o->evaluate_part_count,
                                  .parts = o->evaluate_parts};
    CHECK(t->count <= 4);
    if (t->count == 0) { /* nothing is ours: that is told as well */
        done(w);
        return;
    }
    for (uint32_t part = 0; part < t->count && t->is_open; part++)
        read_part(w, part);
}
