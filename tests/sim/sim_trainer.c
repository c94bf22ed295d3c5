#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "tests/sim/sim_worker.h"
#include "worker/exchange_internal.h"

/*
 * worker/trainer.c without its thread, over the real exchange: where that would wait it finds
 * `yield` set, says ERR_CANCELLED, and is asked again when a reply has come or a call is due.
 */

#define LOOK_MS 50u

static void compute_done(void *context);

static void wake_event(void *context)
{
    struct sim_worker *w = context;
    worker_arrived(w);
}

/* Calls into the exchange are between these two. */
static void enter(struct trainer *t)
{
    atomic_store(&t->yield, false);
    stub_yield = &t->yield;
}

static void leave(void)
{
    stub_yield = NULL;
}

static void finish(struct trainer *t, enum trainer_end end, const char *why)
{
    t->phase = TRAINER_OVER;
    t->end = end;
    snprintf(t->why, sizeof t->why, "%s", why);
    if (end != END_FINISHED)
        TRACE("training ends: %s", why);
}

/* An exchange call failed for a rank; false: the trainer is over. */
static bool rank_over(struct trainer *t, struct replica *r, enum err e)
{
    if (e != ERR_REFUSED) {
        finish(t, END_BUG, err_text());
        return false;
    }
    r->is_over = true;
    exchange_let_go(t->exchange, r->index);
    switch (exchange_state(t->exchange, r->index)) {
    case SESSION_FINISHED:
        return true;
    case SESSION_REPLACED:
        sim.count.replaced++;
        return true;
    case SESSION_NOT_FORMED:
        finish(t, END_NOT_FORMED, exchange_why(t->exchange, r->index));
        return false;
    case SESSION_OVERTAKEN:
        finish(t, END_OVERTAKEN, exchange_why(t->exchange, r->index));
        return false;
    case SESSION_UNREACHABLE:
        finish(t, END_RESOURCE, exchange_why(t->exchange, r->index));
        return false;
    default:
        finish(t, END_BUG, exchange_why(t->exchange, r->index));
        return false;
    }
}

void trainer_start(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    const Paramd__Control__WorkerOrders *o = w->orders->worker;
    uint32_t serial = t->serial + 1;
    *t = (struct trainer){.serial = serial, .phase = TRAINER_RESUMES};
    struct exchange_options options = {
        .job = w->job,
        .generation = w->generation,
        .schema = reference_model()->schema,
        .steps = *reference_steps(),
        .shards = w->shards,
        .shard_count = w->shard_count,
        .rank_max = (uint32_t)o->n_ranks,
        .call_timeout_ms = sim.plan.call_timeout_ms,
        .give_up_ms = sim.plan.stall_timeout_ms,
        .cancel = &t->yield,
    };
    CHECK(o->n_ranks <= 4);
    enter(t);
    CHECK(exchange_open(&options, &t->exchange) == ERR_NONE);
    for (uint32_t i = 0; i < o->n_ranks; i++) {
        struct replica *r = &t->replicas[t->count++];
        *r = (struct replica){.rank = o->ranks[i]->rank, .lease = o->ranks[i]->lease};
        struct exchange_rank_options rank = {r->rank, r->lease, o->start_step};
        CHECK(exchange_add_rank(t->exchange, &rank, &r->index) == ERR_NONE);
        sim.count.resumed_ranks++;
    }
    leave();
    TRACE("trains %u ranks from step %llu", t->count, (unsigned long long)o->start_step);
    trainer_step(w);
}

void trainer_stop(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    enter(t);
    exchange_close(t->exchange);
    leave();
    for (uint32_t i = 0; i < t->count; i++)
        tally_destroy(t->replicas[i].tally);
    *t = (struct trainer){.serial = t->serial + 1};
}

/* ---- batches ---- */

static void give(struct trainer *t, struct replica *r, uint64_t step)
{
    struct sim_batch from;
    reference_batch(r->rank, step, &from);
    struct batch_table table = {.keys = from.keys, .key_count = from.key_count};
    struct batch b = {.step = step,
                      .rank = r->rank,
                      .example_count = from.examples,
                      .tables = &table,
                      .table_count = 1};
    enum err e = exchange_give(t->exchange, r->index, &b);
    CHECK(e == ERR_NONE);
}

/* false: there is a record that does not parse, and the trainer is over. */
static bool read_batches(struct trainer *t, struct replica *r)
{
    uint64_t needed = exchange_batches_needed(t->exchange, r->index);
    while (r->read_to < needed) {
        uint64_t step = ++r->read_to;
        if (step == sim.plan.bad_step && r->rank == sim.plan.bad_rank) {
            sim.count.bad_records++;
            finish(t, END_INPUT, "a.csv: a record does not parse");
            return false;
        }
        give(t, r, step);
    }
    return true;
}

/* ---- resuming ---- */

static bool open_replica(struct trainer *t, struct replica *r)
{
    struct exchange_resumed at;
    if (exchange_state(t->exchange, r->index) != SESSION_RUNNING)
        return rank_over(t, r, ERR_REFUSED);
    exchange_resumed(t->exchange, r->index, &at);
    CHECK(tally_create(reference_job(), reference_steps(), 1, &r->tally) == ERR_NONE);
    tally_restore(r->tally, at.acked, at.report);
    r->read_to = at.first_batch - 1;
    TRACE("rank %u goes on after step %llu, batches from %llu", r->rank,
          (unsigned long long)at.acked, (unsigned long long)at.first_batch);
    return true;
}

/* false: it would wait, or the trainer is over. */
static bool resume(struct trainer *t)
{
    if (exchange_resume(t->exchange) != ERR_NONE)
        return false;
    for (uint32_t i = 0; i < t->count; i++)
        if (!open_replica(t, &t->replicas[i]))
            return false;
    for (uint32_t i = 0; i < t->count; i++) {
        struct replica *r = &t->replicas[i];
        if (r->is_over)
            continue;
        if (!read_batches(t, r))
            return false;
        enum err e = exchange_begin(t->exchange, r->index);
        if (e != ERR_NONE && !rank_over(t, r, e))
            return false;
    }
    t->phase = TRAINER_TRAINS;
    return true;
}

/* ---- training ---- */

/* The rank that is behind, or NULL when all are over. */
static struct replica *pick(struct trainer *t)
{
    uint32_t index;
    return exchange_behind(t->exchange, &index) ? &t->replicas[index] : NULL;
}

static void count(struct replica *r, uint64_t step, const struct sim_batch *b)
{
    float ones[4] = {1, 1, 1, 1}, labels[4] = {0}, logits[4];
    CHECK(b->examples <= 4);
    for (uint32_t i = 0; i < b->examples; i++)
        logits[i] = (float)reference_loss(r->rank, step) - 2;
    struct batch batch = {.step = step,
                          .example_count = b->examples,
                          .labels = labels,
                          .weights = ones,
                          .weight_sum = b->weight};
    struct tally_step counted = {.step = step,
                                 .batch = &batch,
                                 .skipped = b->skipped,
                                 .loss = reference_loss(r->rank, step),
                                 .logits = logits};
    enum err e = tally_count(r->tally, &counted);
    CHECK(e == ERR_NONE);
}

/* The step that `r` waits for has come with its values. false: the trainer is over. */
static bool train(struct trainer *t, struct replica *r, const struct exchange_work *work)
{
    struct sim_batch b;
    reference_batch(r->rank, work->step, &b);
    if (b.examples > 0)
        reference_gradient(r->rank, work->step, &b, work->rows[0], work->dense[0],
                           work->row_gradients[0], work->dense_gradients[0]);
    count(r, work->step, &b);
    if (!read_batches(t, r))
        return false;
    bool is_empty = b.skipped || b.examples == 0;
    struct exchange_push push = {
        .is_empty = is_empty,
        .skipped = b.skipped,
        .weight = is_empty ? 0 : b.weight,
        .report = tally_report(r->tally),
    };
    enum err e = exchange_push(t->exchange, r->index, &push);
    sim.count.steps++;
    return e == ERR_NONE || rank_over(t, r, e);
}

struct computing {
    struct sim_worker *worker;
    uint32_t serial;
};

/* One look at the rank that is behind; false: nothing more can be done now. */
static bool train_step(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    struct exchange_work work;
    struct replica *r = pick(t);
    if (r == NULL) {
        t->phase = TRAINER_FINISHES;
        return true;
    }
    enum err e = exchange_wait(t->exchange, r->index, &work);
    if (e == ERR_CANCELLED)
        return false;
    if (e != ERR_NONE)
        return rank_over(t, r, e);
    if (sim_chance(200))
        return train(t, r, &work);
    struct computing *c = must_alloc(sizeof *c);
    *c = (struct computing){w, t->serial};
    t->phase = TRAINER_COMPUTES;
    t->computing = (uint32_t)(r - t->replicas);
    sim_after(w->process, sim_between(20, 2500), "compute", compute_done, mem_free, c);
    return false;
}

static void compute_done(void *context)
{
    struct computing c = *(struct computing *)context;
    struct sim_worker *w = c.worker;
    struct trainer *t = &w->trainer;
    struct exchange_work work;
    mem_free(context);
    if (t->serial != c.serial || t->phase != TRAINER_COMPUTES)
        return;
    struct replica *r = &t->replicas[t->computing];
    t->phase = TRAINER_TRAINS;
    enter(t);
    enum err e = exchange_wait(t->exchange, r->index, &work);
    if (e == ERR_NONE)
        train(t, r, &work);
    else if (e != ERR_CANCELLED)
        rank_over(t, r, e);
    leave();
    worker_arrived(w);
}

static bool finish_ranks(struct trainer *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct replica *r = &t->replicas[i];
        if (r->is_over)
            continue;
        enum err e = exchange_finish(t->exchange, r->index);
        if (e == ERR_CANCELLED)
            return false;
        if (e != ERR_NONE && !rank_over(t, r, e))
            return false;
        r->is_over = true;
    }
    finish(t, END_FINISHED, "");
    return false;
}

/* When a call of a session is due, or a while. */
static void sleep_until_due(struct sim_worker *w)
{
    const struct exchange *x = w->trainer.exchange;
    uint64_t now_ms = sim.now_us / 1000, wait_ms = LOOK_MS;
    for (uint32_t i = 0; i < x->rank_count; i++) {
        if (!x->ranks[i].has_begun && session_state(x->ranks[i].session) != SESSION_RESUMING)
            continue;
        uint64_t due_ms = session_due_ms(x->ranks[i].session);
        uint64_t left_ms = due_ms > now_ms ? due_ms - now_ms : 0;
        wait_ms = left_ms < wait_ms ? left_ms : wait_ms;
    }
    if (wait_ms < LOOK_MS)
        sim_after(w->process, wait_ms * SIM_MS + 1, "due", wake_event, NULL, w);
}

void trainer_step(struct sim_worker *w)
{
    struct trainer *t = &w->trainer;
    bool goes_on = t->phase != TRAINER_NONE && t->phase != TRAINER_OVER;
    if (!goes_on)
        return;
    enter(t);
    while (goes_on) {
        atomic_store(&t->yield, false);
        switch (t->phase) {
        case TRAINER_RESUMES:
            goes_on = resume(t);
            break;
        case TRAINER_TRAINS:
            goes_on = train_step(w);
            break;
        case TRAINER_FINISHES:
            goes_on = finish_ranks(t);
            break;
        default:
            goes_on = false;
            break;
        }
    }
    leave();
    if (t->phase != TRAINER_OVER && t->phase != TRAINER_COMPUTES)
        sleep_until_due(w);
}
