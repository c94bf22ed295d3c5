#include "tests/sim/sim_worker.h"

#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

/*
 * A worker as worker/agent.c has it: adopts the job of its orders, indexes in rounds, loads, trains
 * the ranks that it is given, evaluates its shares; drops everything when the orders name another
 * job or generation.
 */

#define ROUNDS            2u
#define LOOK_MS           200u
#define FORM_RETRY_MS     1000u
#define EVALUATE_RETRY_MS 500u

static const char index_checksum[] =
    "1111111111111111111111111111111111111111111111111111111111111111";

static void step(struct sim_worker *w);

void worker_fail(struct sim_worker *w, int kind, const char *text)
{
    TRACE("fails kind=%d: %s", kind, text);
    if (w->failure != 0)
        return;
    w->failure = kind;
    snprintf(w->failure_text, sizeof w->failure_text, "%s", text);
    member_poked(w->process->member);
}

/* ---- adopting and dropping ---- */

static void copy_shards(struct sim_worker *w)
{
    const Paramd__Control__MemberOrders *o = w->orders;
    CHECK(o->n_shards <= WORKER_SHARDS);
    for (uint32_t i = 0; i < WORKER_SHARDS; i++) {
        rpc_channel_close(w->channels[i]);
        w->channels[i] = NULL;
    }
    w->shard_count = (uint32_t)o->n_shards;
    for (uint32_t i = 0; i < w->shard_count; i++) {
        const Paramd__Control__LayoutShard *from = o->shards[i];
        snprintf(w->addresses[i], sizeof w->addresses[i], "%s",
                 from->n_addresses > 0 ? from->addresses[0] : "server-0");
        w->address_list[i][0] = w->addresses[i];
        w->shards[i] = (struct exchange_shard){
            .first_partition = from->first_partition,
            .end_partition = from->end_partition,
            .addresses = w->address_list[i],
            .address_count = 1,
        };
        CHECK(rpc_channel_open(w->addresses[i], NULL, &w->channels[i]) == ERR_NONE);
    }
}

static void drop(struct sim_worker *w)
{
    if (w->job[0] == '\0')
        return;
    trainer_stop(w);
    evaluate_drop(w);
    for (uint32_t i = 0; i < WORKER_SHARDS; i++) {
        rpc_channel_close(w->channels[i]);
        w->channels[i] = NULL;
    }
    str_deinit(&w->evaluation);
    w->serial++;
    w->job[0] = '\0';
    w->generation = 0;
    w->failure = 0;
    w->failure_text[0] = '\0';
    w->rounds = w->shard_count = 0;
    w->indexing = w->index_done = w->loading = w->ready = w->evaluated = false;
    w->retry_us = w->retried_since_us = w->evaluate_retry_us = 0;
    member_poked(w->process->member);
}

static void adopt(struct sim_worker *w)
{
    const Paramd__Control__MemberOrders *o = w->orders;
    snprintf(w->job, sizeof w->job, "%s", o->job);
    w->generation = o->generation;
    copy_shards(w);
    TRACE("adopts job=%s generation=%llu", w->job, (unsigned long long)w->generation);
    member_poked(w->process->member);
}

/* ---- indexing and loading: they take a while ---- */

struct later {
    struct sim_worker *worker;
    uint32_t serial;
};

static void later(struct sim_worker *w, uint64_t delay_us, void (*run)(void *context))
{
    struct later *l = must_alloc(sizeof *l);
    *l = (struct later){w, w->serial};
    sim_after(w->process, delay_us, "task", run, mem_free, l);
}

/* The worker, if it still has the job that this was for. */
static struct sim_worker *take_later(void *context)
{
    struct later l = *(struct later *)context;
    mem_free(context);
    return l.worker->serial == l.serial ? l.worker : NULL;
}

static void indexed(void *context)
{
    struct sim_worker *w = take_later(context);
    if (w == NULL)
        return;
    w->indexing = false;
    w->index_done = sim.index_stored && w->rounds == 0;
    w->rounds++;
    const Paramd__Control__WorkerOrders *o = w->orders->worker;
    if (w->rounds == ROUNDS && o != NULL && o->worker_index == 0)
        sim.index_stored = w->index_done = true;
    member_poked(w->process->member);
    step(w);
}

static void loaded(void *context)
{
    struct sim_worker *w = take_later(context);
    if (w == NULL)
        return;
    w->loading = false;
    w->ready = true;
    member_poked(w->process->member);
    step(w);
}

/* One long task at a time; true: one is under way. */
static bool step_task(struct sim_worker *w, const Paramd__Control__WorkerOrders *o)
{
    if (w->indexing || w->loading)
        return true;
    if (o->index_checksum[0] == '\0') {
        w->indexing = w->rounds < o->prepare_round && !w->index_done;
        if (w->indexing)
            later(w, sim_between(1, 60) * SIM_MS, indexed);
        return w->indexing;
    }
    if (!w->ready) {
        w->loading = true;
        later(w, sim_between(1, 60) * SIM_MS, loaded);
        return true;
    }
    bool same = w->evaluated && w->evaluated_step == o->evaluate_step &&
                w->evaluated_first == o->evaluate_part &&
                w->evaluated_count == o->evaluate_part_count;
    if (o->evaluate && !same && !w->task.is_open && sim.now_us >= w->evaluate_retry_us)
        evaluate_start(w);
    return false;
}

/* ---- training ---- */

static bool same_ranks(const struct sim_worker *w, const Paramd__Control__WorkerOrders *o)
{
    const struct trainer *t = &w->trainer;
    if (t->count != o->n_ranks)
        return false;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->replicas[i].rank != o->ranks[i]->rank || t->replicas[i].lease != o->ranks[i]->lease)
            return false;
    return true;
}

static void not_formed(struct sim_worker *w)
{
    sim.count.not_formed++;
    if (w->retried_since_us == 0)
        w->retried_since_us = sim.now_us;
    if (sim.now_us - w->retried_since_us >= sim.plan.stall_timeout_ms * SIM_MS) {
        worker_fail(w, PARAMD__CONTROL__FAILURE__KIND__RESOURCE, w->trainer.why);
        return;
    }
    trainer_stop(w);
    w->retry_us = sim.now_us + FORM_RETRY_MS * SIM_MS;
    worker_step_soon(w, FORM_RETRY_MS * SIM_MS);
}

static void look_at_trainer(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    enum trainer_end end = t->end;
    if (t->phase != TRAINER_OVER || end == END_NONE)
        return;
    t->end = END_NONE;
    switch (end) {
    case END_BUG:
        worker_fail(w, PARAMD__CONTROL__FAILURE__KIND__BUG, t->why);
        break;
    case END_INPUT:
        worker_fail(w, PARAMD__CONTROL__FAILURE__KIND__INPUT, t->why);
        break;
    case END_RESOURCE:
        worker_fail(w, PARAMD__CONTROL__FAILURE__KIND__RESOURCE, t->why);
        break;
    case END_NOT_FORMED:
        not_formed(w);
        break;
    case END_OVERTAKEN:
        trainer_stop(w);
        worker_step_soon(w, 1);
        break;
    default:
        w->retried_since_us = 0;
        break;
    }
    member_poked(w->process->member);
}

static void step_training(struct sim_worker *w, const Paramd__Control__WorkerOrders *o)
{
    if (w->trainer.phase != TRAINER_NONE && !same_ranks(w, o)) {
        trainer_stop(w);
        w->retry_us = 0;
    }
    if (w->trainer.phase != TRAINER_NONE)
        trainer_step(w);
    else if (o->n_ranks > 0 && sim.now_us >= w->retry_us)
        trainer_start(w);
    look_at_trainer(w);
}

/* ---- one step towards what the orders say ---- */

static void step(struct sim_worker *w)
{
    const Paramd__Control__MemberOrders *o = w->orders;
    if (o == NULL)
        return;
    if (strcmp(w->job, o->job) != 0 || w->generation != o->generation || o->shutdown)
        drop(w);
    if (o->job[0] == '\0' || o->shutdown)
        return;
    if (w->job[0] == '\0') {
        if (o->job_yaml[0] == '\0')
            return;
        adopt(w);
    }
    if (w->failure != 0 || o->worker == NULL)
        return;
    if (o->n_shards > 0 && w->trainer.phase == TRAINER_NONE && !w->task.is_open)
        copy_shards(w);
    if (!step_task(w, o->worker) && w->ready && o->worker->start)
        step_training(w, o->worker);
}

static void step_event(void *context)
{
    struct sim_worker *w = context;
    w->stepping = false;
    step(w);
}

void worker_step_soon(struct sim_worker *w, uint64_t delay_us)
{
    if (w->stepping && delay_us > 0)
        return;
    w->stepping = true;
    sim_after(w->process, delay_us, "step", step_event, NULL, w);
}

void worker_arrived(struct sim_worker *w)
{
    step(w);
}

static void look(void *context)
{
    struct sim_worker *w = context;
    step(w);
    sim_after(w->process, LOOK_MS * SIM_MS, "look", look, NULL, w);
}

void worker_follow(struct sim_worker *w, const Paramd__Control__MemberOrders *orders)
{
    size_t size = paramd__control__member_orders__get_packed_size(orders);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_orders__pack(orders, bytes);
    if (w->orders != NULL)
        paramd__control__member_orders__free_unpacked(w->orders, NULL);
    w->orders = paramd__control__member_orders__unpack(NULL, size, bytes);
    mem_free(bytes);
    const Paramd__Control__WorkerOrders *o = w->orders->worker;
    /* States say from now on that they reflect these orders. */
    if (o != NULL && o->evaluate &&
        (w->evaluated_step != o->evaluate_step || w->evaluated_first != o->evaluate_part ||
         w->evaluated_count != o->evaluate_part_count))
        w->evaluated = false;
    worker_step_soon(w, sim_between(1, 300));
}

/* ---- describing ---- */

static void describe_ranks(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    for (uint32_t i = 0; i < t->count; i++) {
        Paramd__Control__RankState *r = w->rank_list[i] = &w->rank_states[i];
        paramd__control__rank_state__init(r);
        r->rank = t->replicas[i].rank;
        r->lease = t->replicas[i].lease;
        r->step = w->orders->worker != NULL ? w->orders->worker->start_step : 0;
        if (t->exchange == NULL || exchange_state(t->exchange, i) == SESSION_RESUMING)
            continue;
        r->step = exchange_acked(t->exchange, i);
        r->finished = exchange_state(t->exchange, i) == SESSION_FINISHED;
    }
    w->state.n_ranks = t->count;
    w->state.ranks = w->rank_list;
}

void worker_describe(struct sim_worker *w, Paramd__Control__MemberState *state)
{
    Paramd__Control__WorkerState *o = &w->state;
    paramd__control__worker_state__init(o);
    state->job = w->job;
    state->generation = w->generation;
    state->worker = o;
    if (w->failure != 0) {
        paramd__control__failure__init(&w->failure_message);
        w->failure_message.kind = (Paramd__Control__Failure__Kind)w->failure;
        w->failure_message.text = w->failure_text;
        state->failure = &w->failure_message;
    }
    o->prepared_round = w->rounds;
    o->index_done = w->index_done;
    if (w->index_done) {
        o->index_checksum = (char *)index_checksum;
        o->train_examples = sim.plan.train_examples;
        o->eval_examples = sim.plan.eval_examples;
        o->n_columns = sim_column_count;
        o->columns = (char **)(uintptr_t)sim_columns;
    }
    o->ready = w->ready;
    if (w->evaluated) {
        o->evaluated_step = w->evaluated_step + 1;
        o->evaluated_part = w->evaluated_first;
        o->evaluated_part_count = w->evaluated_count;
        o->evaluation = (ProtobufCBinaryData){w->evaluation.size, (uint8_t *)w->evaluation.data};
    }
    describe_ranks(w);
}

/* ---- life ---- */

struct sim_worker *worker_begin(struct process *p)
{
    struct sim_worker *w = must_alloc(sizeof *w);
    w->process = p;
    sim_after(p, LOOK_MS * SIM_MS, "look", look, NULL, w);
    return w;
}

void worker_end(struct sim_worker *w)
{
    if (w == NULL)
        return;
    drop(w);
    if (w->orders != NULL)
        paramd__control__member_orders__free_unpacked(w->orders, NULL);
    mem_free(w);
}
