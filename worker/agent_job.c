#include "worker/agent_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"

#define FORM_RETRY_MS     1000u /* between looks whether the shards are formed meanwhile */
#define EVALUATE_RETRY_MS 500u

/* ---- adopting ---- */

static void free_shards(struct agent_job *j)
{
    for (uint32_t i = 0; i < j->shard_count; i++) {
        for (uint32_t k = 0; k < j->shards[i].address_count; k++)
            mem_free((char *)(uintptr_t)j->shards[i].addresses[k]);
        mem_free((void *)(uintptr_t)j->shards[i].addresses);
        mem_free((char *)(uintptr_t)j->shards[i].host_id);
    }
    mem_free(j->shards);
}

static void copy_shards(struct agent_job *j, const Paramd__Control__MemberOrders *o)
{
    j->shard_count = (uint32_t)o->n_shards;
    j->shards = must_alloc((o->n_shards + 1) * sizeof *j->shards);
    for (size_t i = 0; i < o->n_shards; i++) {
        const Paramd__Control__LayoutShard *from = o->shards[i];
        struct exchange_shard *to = &j->shards[i];
        const char **addresses = must_alloc((from->n_addresses + 1) * sizeof *addresses);
        for (size_t k = 0; k < from->n_addresses; k++)
            addresses[k] = must_strdup(from->addresses[k]);
        to->first_partition = from->first_partition;
        to->end_partition = from->end_partition;
        to->addresses = addresses;
        to->address_count = (uint32_t)from->n_addresses;
        to->host_id = must_strdup(from->host_id);
    }
}

enum err agent_job_adopt(struct agent *a, const Paramd__Control__MemberOrders *o)
{
    struct agent_job *j = must_alloc(sizeof *j);
    j->id = must_strdup(o->job);
    j->uri = must_strdup(o->storage_uri);
    j->generation = o->generation;
    j->is_eval = strcmp(o->mode, "eval") == 0;
    copy_shards(j, o);
    a->job = j;
    pthread_mutex_lock(&a->lock);
    agent_state_clear(&a->state);
    a->state.job = must_strdup(o->job);
    a->state.generation = o->generation;
    pthread_mutex_unlock(&a->lock);
    log_info("agent", "adopts the job job='%s' generation=%" PRIu64 " mode=%s", j->id,
             j->generation, o->mode);
    struct job_source source = {.what = o->job, .text = o->job_yaml, .size = strlen(o->job_yaml)};
    enum err e = job_parse(&source, &j->job);
    if (e == ERR_NONE && o->rank_count != j->job->train.ranks)
        e = err_set(ERR_INPUT, "the orders say %" PRIu32 " ranks, the job %" PRIu32, o->rank_count,
                    j->job->train.ranks);
    return e;
}

static void stop_trainer(struct agent *a)
{
    struct agent_job *j = a->job;
    if (j->trainer == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->shown_trainer = NULL;
    pthread_mutex_unlock(&a->lock);
    struct trainer_status status;
    trainer_status(j->trainer, &status);
    trainer_stop(j->trainer);
    j->trainer = NULL;
    j->trainer_is_over = false;
    mem_free(j->ranks);
    j->ranks = NULL;
    j->rank_count = 0;
    pthread_mutex_lock(&a->lock);
    struct trainer_shares *s = &a->state.shares;
    s->read += status.shares.read;
    s->exchange += status.shares.exchange;
    s->compute += status.shares.compute;
    s->upload += status.shares.upload;
    s->wait += status.shares.wait;
    s->total += status.shares.total;
    pthread_mutex_unlock(&a->lock);
}

void agent_job_drop(struct agent *a)
{
    struct agent_job *j = a->job;
    if (j == NULL)
        return;
    atomic_store(&j->cancel, true);
    if (j->trainer != NULL)
        trainer_cancel(j->trainer);
    agent_task_join(j);
    agent_task_deinit(&j->task);
    stop_trainer(a);
    dataset_close(j->dataset);
    model_destroy(j->model);
    features_spec_destroy(j->features);
    dataindex_destroy(j->index);
    job_destroy(j->job);
    free_shards(j);
    mem_free(j->id);
    mem_free(j->uri);
    mem_free(j);
    a->job = NULL;
    pthread_mutex_lock(&a->lock);
    agent_state_clear(&a->state);
    pthread_mutex_unlock(&a->lock);
    a->poke(a->context);
}

/* ---- what a task has brought ---- */

static void take_index(struct agent *a, struct task *t)
{
    struct agent_job *j = a->job;
    pthread_mutex_lock(&a->lock);
    struct agent_state *s = &a->state;
    s->prepared_round = t->round + 1;
    if (t->index_done) {
        s->index_done = true;
        memcpy(s->index_checksum, t->checksum, sizeof s->index_checksum);
        s->train_examples = t->index->train_examples;
        s->eval_examples = t->index->eval_examples;
        s->column_count = t->index->column_count;
        s->columns = must_alloc((s->column_count + 1) * sizeof *s->columns);
        for (size_t i = 0; i < s->column_count; i++)
            s->columns[i] = must_strdup(t->index->columns[i]);
    }
    pthread_mutex_unlock(&a->lock);
    if (t->index_done) {
        dataindex_destroy(j->index);
        j->index = t->index;
        t->index = NULL;
    }
}

static void take_evaluation(struct agent *a, struct task *t)
{
    pthread_mutex_lock(&a->lock);
    a->state.evaluated = t->key;
    str_deinit(&a->state.evaluation);
    a->state.evaluation = t->evaluation;
    t->evaluation = (struct str){0};
    pthread_mutex_unlock(&a->lock);
    log_info("agent", "evaluated step=%" PRIu64 " parts=%" PRIu32 "+%" PRIu32 " of %" PRIu32,
             t->key.step, t->key.first, t->key.count, t->key.parts);
}

/* A task that has ended; its failure is the job's, but for evaluations, which shards may refuse for
 * a while. */
static void reap_task(struct agent *a)
{
    struct agent_job *j = a->job;
    struct task *t = &j->task;
    if (t->kind == TASK_NONE || !atomic_load_explicit(&t->is_done, memory_order_acquire))
        return;
    agent_task_join(j);
    if (t->result == ERR_CANCELLED) {
        agent_task_deinit(t);
        return;
    }
    if (t->result != ERR_NONE && t->kind == TASK_EVALUATE && t->result == ERR_REFUSED) {
        log_warn("agent", "evaluation is tried again: %s", t->text);
        j->evaluate_retry_ms = clock_ms() + EVALUATE_RETRY_MS;
    } else if (t->result != ERR_NONE) {
        agent_fail(a, agent_failure_of(t->result), t->text);
    } else if (t->kind == TASK_INDEX) {
        take_index(a, t);
    } else if (t->kind == TASK_EVALUATE) {
        take_evaluation(a, t);
    } else {
        j->is_loaded = true;
        pthread_mutex_lock(&a->lock);
        a->state.is_ready = true;
        pthread_mutex_unlock(&a->lock);
        log_info("agent", "ready steps_per_epoch=%" PRIu64 " last_step=%" PRIu64,
                 j->steps.steps_per_epoch, j->steps.last_step);
    }
    agent_task_deinit(t);
    a->poke(a->context);
}

/* ---- training ---- */

static bool same_ranks(const struct agent_job *j, const Paramd__Control__WorkerOrders *w)
{
    if (j->rank_count != w->n_ranks)
        return false;
    for (uint32_t i = 0; i < j->rank_count; i++) {
        if (j->ranks[i].rank != w->ranks[i]->rank || j->ranks[i].lease != w->ranks[i]->lease)
            return false;
    }
    return true;
}

static void start_trainer(struct agent *a, const Paramd__Control__WorkerOrders *w)
{
    struct agent_job *j = a->job;
    j->ranks = must_alloc((w->n_ranks + 1) * sizeof *j->ranks);
    j->rank_count = (uint32_t)w->n_ranks;
    for (uint32_t i = 0; i < j->rank_count; i++)
        j->ranks[i] = (struct trainer_rank){.rank = w->ranks[i]->rank, .lease = w->ranks[i]->lease};
    uint32_t threads =
        j->job->resources.threads > 0 ? j->job->resources.threads : a->settings->threads;
    if (agent_gpus(a) < j->job->resources.gpus_per_worker) {
        err_set(ERR_INPUT,
                "the job asks for %u GPUs a worker (resources.gpus_per_worker), and this one has "
                "%u (its setting device is '%s')",
                j->job->resources.gpus_per_worker, agent_gpus(a), a->settings->device);
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__INPUT, err_text());
        return;
    }
    struct trainer_options o = {
        .exchange = {.job = j->id,
                     .generation = j->generation,
                     .schema = j->model->schema,
                     .steps = j->steps,
                     .shards = j->shards,
                     .shard_count = j->shard_count,
                     .host_id = member_host_id(),
                     .call_timeout_ms = a->settings->call_timeout_ms,
                     .give_up_ms = agent_give_up_ms(a),
                     .message_max_bytes = a->settings->message_max_bytes},
        .job = j->job,
        .model = j->model,
        .dataset = j->dataset,
        .ranks = j->ranks,
        .rank_count = j->rank_count,
        .start_step = w->start_step,
        .threads = threads > 0 ? threads : a->cores,
        .devices = &a->devices,
        .changed = agent_wake,
        .context = a,
    };
    enum err e = trainer_start(&o, &j->trainer);
    if (e != ERR_NONE) {
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__RESOURCE, err_text());
        return;
    }
    log_info("agent", "training starts ranks=%" PRIu32 " start_step=%" PRIu64, j->rank_count,
             w->start_step);
    pthread_mutex_lock(&a->lock);
    a->shown_trainer = j->trainer;
    pthread_mutex_unlock(&a->lock);
}

/* The shards are of another formation: orders are on their way; if they stay the same, try again
 * for a while. */
static void not_formed(struct agent *a, const char *why)
{
    struct agent_job *j = a->job;
    uint64_t now_ms = clock_ms();
    if (j->retried_since_ms == 0)
        j->retried_since_ms = now_ms;
    if (now_ms - j->retried_since_ms >= a->settings->stall_timeout_ms) {
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__RESOURCE, why);
        return;
    }
    stop_trainer(a);
    j->retry_ms = now_ms + FORM_RETRY_MS;
}

/* What the trainer's end means; it has ended by itself. */
static void look_at_trainer(struct agent *a)
{
    struct agent_job *j = a->job;
    struct trainer_status status;
    trainer_status(j->trainer, &status);
    if (status.end == TRAINER_RUNS || j->trainer_is_over)
        return;
    j->trainer_is_over = true;
    switch (status.end) {
    case TRAINER_FAILED_INPUT:
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__INPUT, status.why);
        break;
    case TRAINER_FAILED_BUG:
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__BUG, status.why);
        break;
    case TRAINER_FAILED_RESOURCE:
        agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__RESOURCE, status.why);
        break;
    case TRAINER_NOT_FORMED:
        not_formed(a, status.why);
        break;
    case TRAINER_OVERTAKEN:
        stop_trainer(a);
        agent_wake(a);
        break;
    default:
        j->retried_since_ms = 0;
        log_info("agent", "training has ended");
        break;
    }
    a->poke(a->context);
}

static void step_training(struct agent *a, const Paramd__Control__WorkerOrders *w)
{
    struct agent_job *j = a->job;
    if (j->trainer != NULL && !same_ranks(j, w)) {
        log_info("agent", "ranks have changed: training goes on with those of now");
        stop_trainer(a);
        j->retry_ms = 0;
    }
    if (j->trainer != NULL)
        look_at_trainer(a);
    else if (w->n_ranks > 0 && clock_ms() >= j->retry_ms)
        start_trainer(a, w);
}

/* ---- one step ---- */

static void step_task(struct agent *a, const Paramd__Control__WorkerOrders *w)
{
    struct agent_job *j = a->job;
    struct task *t = &j->task;
    t->worker = w->worker_index;
    t->worker_count = w->worker_count > 0 ? w->worker_count : 1;
    pthread_mutex_lock(&a->lock);
    uint32_t prepared = a->state.prepared_round;
    bool index_done = a->state.index_done;
    struct evaluation_key evaluated = a->state.evaluated;
    pthread_mutex_unlock(&a->lock);
    if (w->index_checksum[0] == '\0') {
        if (prepared < w->prepare_round && !index_done) {
            t->round = prepared;
            agent_task_start(a, TASK_INDEX);
        }
        return;
    }
    if (!j->is_loaded) {
        size_t size = strlen(w->index_checksum);
        if (size >= sizeof t->checksum) {
            agent_fail(a, PARAMD__CONTROL__FAILURE__KIND__BUG,
                       "the orders' index checksum is too long");
            return;
        }
        memcpy(t->checksum, w->index_checksum, size + 1);
        agent_task_start(a, TASK_LOAD);
        return;
    }
    struct evaluation_key key = agent_evaluation_of(w);
    if (key.is_set && !agent_same_evaluation(&key, &evaluated) &&
        clock_ms() >= j->evaluate_retry_ms) {
        t->key = key;
        agent_task_start(a, TASK_EVALUATE);
    }
}

void agent_job_step(struct agent *a, const Paramd__Control__MemberOrders *o)
{
    struct agent_job *j = a->job;
    const Paramd__Control__WorkerOrders *w = o->worker;
    reap_task(a);
    if (j->has_failed || w == NULL)
        return;
    if (o->n_shards > 0 && j->trainer == NULL && j->task.kind == TASK_NONE) {
        free_shards(j);
        copy_shards(j, o);
    }
    if (j->task.kind == TASK_NONE)
        step_task(a, w);
    if (j->is_loaded && w->start && !j->is_eval && !j->has_failed)
        step_training(a, w);
}
