#include "worker/agent_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "worker/evaluator.h"

#define EVALUATION_BATCH_MAX 4096u

static uint32_t thread_count(const struct agent *a)
{
    if (a->job->job->resources.threads > 0)
        return a->job->job->resources.threads;
    return a->settings->threads > 0 ? a->settings->threads : a->cores;
}

/* ---- indexing ---- */

static enum err run_index(struct agent *a, struct task *t)
{
    struct agent_job *j = a->job;
    struct dataset_index_options o = {
        .job = j->job,
        .uri = j->uri,
        .worker = t->worker,
        .worker_count = t->worker_count,
        .threads = thread_count(a),
        .cancel = &j->cancel,
    };
    enum err e = dataset_index_round(&o, t->round, &t->index_done, t->checksum);
    if (e == ERR_NONE && t->index_done)
        e = dataset_index_load(j->uri, t->checksum, &t->index);
    return e;
}

/* ---- loading: what the job and its index fix ---- */

static enum err run_load(struct agent *a, struct task *t)
{
    struct agent_job *j = a->job;
    enum err e = ERR_NONE;
    if (j->index != NULL && strcmp(j->index->checksum, t->checksum) != 0) {
        dataindex_destroy(j->index);
        j->index = NULL;
    }
    if (j->index == NULL)
        e = dataset_index_load(j->uri, t->checksum, &j->index);
    if (e == ERR_NONE)
        e = features_spec_create(j->job, (const char *const *)j->index->columns,
                                 j->index->column_count, &j->features);
    if (e == ERR_NONE)
        e = model_create(j->job, j->features, &j->model);
    if (e != ERR_NONE)
        return e;
    uint64_t per_epoch = dataindex_steps_per_epoch(j->index->train_examples,
                                                   j->job->train.batch_size, j->job->train.ranks);
    j->steps = steps_make(j->job, per_epoch, j->index->eval_examples > 0);
    struct dataset_options o = {
        .job = j->job,
        .features = j->features,
        .index = j->index,
        .cache_directory = a->cache_directory,
        .cache_limit_bytes = a->settings->scratch_limit_bytes,
        .threads = thread_count(a),
    };
    return dataset_open(&o, &j->dataset);
}

/* ---- evaluating ---- */

static enum err open_evaluation(struct agent *a, struct exchange_source *source,
                                struct evaluator **out)
{
    struct agent_job *j = a->job;
    struct exchange_options exchange = {
        .job = j->id,
        .generation = j->generation,
        .schema = j->model->schema,
        .steps = j->steps,
        .shards = j->shards,
        .shard_count = j->shard_count,
        .host_id = member_host_id(),
        .call_timeout_ms = a->settings->call_timeout_ms,
        .give_up_ms = agent_give_up_ms(a),
        .message_max_bytes = a->settings->message_max_bytes,
        .cancel = &j->cancel,
    };
    enum err e = exchange_open(&exchange, &source->exchange);
    if (e != ERR_NONE)
        return e;
    struct evaluator_options o = {
        .model = j->model,
        .source = exchange_source_make(source),
        .max_examples = EVALUATION_BATCH_MAX,
        .threads = thread_count(a),
        .device = {.cuda = a->devices.cuda, .index = a->devices.indexes[0]},
    };
    if (o.device.cuda)
        o.device.precision = j->job->train.precision;
    return evaluator_create(&o, out);
}

/* Why it failed, before what is closed then says things of its own. */
static void note_failure(struct task *t)
{
    if (t->text[0] != '\0')
        return;
    size_t size = strlen(err_text());
    size = size < sizeof t->text - 1 ? size : sizeof t->text - 1;
    memcpy(t->text, err_text(), size);
    t->text[size] = '\0';
}

static enum err evaluate_part(struct agent_job *j, struct evaluator *evaluator, uint32_t part,
                              uint32_t parts, struct evaluation *into)
{
    /* Of the job alone, so that a batch is the same wherever it is evaluated. */
    uint32_t size = j->job->train.batch_size;
    struct batch_stream *stream = NULL;
    enum err e =
        dataset_eval_stream(j->dataset, part, parts,
                            size < EVALUATION_BATCH_MAX ? size : EVALUATION_BATCH_MAX, &stream);
    if (e == ERR_NONE)
        e = evaluator_run(evaluator, stream, &j->cancel, into);
    if (e != ERR_NONE)
        note_failure(&j->task);
    batch_stream_close(stream);
    return e;
}

static enum err run_evaluate(struct agent *a, struct task *t)
{
    struct agent_job *j = a->job;
    struct exchange_source source = {.version = t->key.step};
    struct evaluator *evaluator = NULL;
    struct evaluation *sums = NULL;
    enum err e =
        evaluation_create(j->job->model.loss, j->model->metric_width, j->job->eval.metrics, &sums);
    if (e == ERR_NONE)
        e = open_evaluation(a, &source, &evaluator);
    for (uint32_t i = 0; i < t->key.count && e == ERR_NONE; i++)
        e = evaluate_part(j, evaluator, t->key.first + i, t->key.parts, sums);
    if (e == ERR_NONE)
        evaluation_encode(sums, &t->evaluation);
    evaluator_destroy(evaluator);
    exchange_close(source.exchange);
    evaluation_destroy(sums);
    return e;
}

/* ---- the thread ---- */

static void *run(void *context)
{
    struct task *t = context;
    enum err e = ERR_NONE;
    if (t->kind == TASK_INDEX)
        e = run_index(t->agent, t);
    else if (t->kind == TASK_LOAD)
        e = run_load(t->agent, t);
    else
        e = run_evaluate(t->agent, t);
    if (e != ERR_NONE)
        note_failure(t);
    t->result = e;
    atomic_store_explicit(&t->is_done, true, memory_order_release);
    agent_wake(t->agent);
    return NULL;
}

void agent_task_start(struct agent *a, enum task_kind kind)
{
    struct task *t = &a->job->task;
    CHECK(t->kind == TASK_NONE);
    t->kind = kind;
    t->agent = a;
    t->result = ERR_NONE;
    t->text[0] = '\0';
    atomic_store(&t->is_done, false);
    CHECK(pthread_create(&t->thread, NULL, run, t) == 0);
}

void agent_task_join(struct agent_job *j)
{
    if (j->task.kind == TASK_NONE)
        return;
    pthread_join(j->task.thread, NULL);
}

void agent_task_deinit(struct task *t)
{
    dataindex_destroy(t->index);
    str_deinit(&t->evaluation);
    *t = (struct task){0};
}
