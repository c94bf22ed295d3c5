#include <string.h>

#include "common/dataindex.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

#define ROUND_MAX 64u
#define READY_MS  10000u /* workers that are not ready after this start when they are */

/* ---- QUEUED ---- */

bool is_free(const struct job_run *j, const struct fellow *f, bool server, uint64_t now)
{
    if (f->is_server != server || f->job != NULL || f->reserved != NULL || f->shutdown ||
        f->state == NULL || f->state->job[0] != '\0' || f->state->leaving)
        return false;
    return f->shunned_job != j->sequence || now >= f->shunned_ms;
}

static uint32_t count_free(const struct coordinator *c, const struct job_run *j, bool server)
{
    uint32_t count = 0;
    for (const struct fellow *f = c->fellows; f != NULL; f = f->next)
        count += is_free(j, f, server, c->now_ms);
    return count;
}

static void assign(struct coordinator *c, struct job_run *j)
{
    uint32_t servers = 0, workers = 0;
    for (struct fellow *f = c->fellows; f != NULL; f = f->next) {
        bool take = is_free(j, f, f->is_server, c->now_ms) &&
                    (f->is_server ? servers < j->server_count : workers < j->worker_count);
        if (!take)
            continue;
        f->job = j;
        f->index = f->is_server ? servers++ : workers++;
        (f->is_server ? j->servers : j->workers)[f->index] = f;
    }
    for (uint32_t r = 0; r < j->job->train.ranks; r++)
        j->host[r] = (uint32_t)((uint64_t)r * j->worker_count / j->job->train.ranks);
}

enum err make_layout(struct job_run *j)
{
    const char **members = must_alloc(j->server_count * sizeof *members);
    const char **addresses = must_alloc(j->server_count * sizeof *addresses);
    for (uint32_t s = 0; s < j->server_count; s++) {
        members[s] = j->servers[s]->id;
        addresses[s] = j->servers[s]->state->address;
    }
    enum err e = layout_create(j->generation, members, addresses, j->server_count,
                               shards_per_server(j), j->job->train.ranks, &j->layout);
    mem_free(members);
    mem_free(addresses);
    return e;
}

/* Jobs that lost something come first, then those submitted earlier. One whose storage is away
 * keeps nobody waiting. */
static const struct job_run *waits_before(const struct coordinator *c, const struct job_run *j)
{
    bool earlier = true;
    for (const struct job_run *k = c->jobs; k != NULL; k = k->next) {
        if (k == j) {
            earlier = false;
            continue;
        }
        if (k->formed || k->pick == PICK_LIST || !k->taken)
            continue;
        bool recovers = k->state == JOB_RECOVERING;
        bool before = j->state == JOB_RECOVERING ? recovers && earlier
                                                 : recovers || (k->state == JOB_QUEUED && earlier);
        if (before)
            return k;
    }
    return NULL;
}

/* How many members it begins with; false: it waits. */
static bool members_suffice(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint32_t servers = count_free(c, j, true), workers = count_free(c, j, false);
    j->server_count = servers < j->servers_wanted ? servers : j->servers_wanted;
    j->worker_count = workers < j->workers_wanted ? workers : j->workers_wanted;
    if (j->server_count == j->servers_wanted && j->worker_count == j->workers_wanted)
        return true;
    bool waited = j->state == JOB_RECOVERING && now - j->recover_ms >= c->options.replace_wait_ms;
    if (waited && servers > 0 && workers > 0) {
        job_warn(c, j, "goes on with %u of %u servers and %u of %u workers", j->server_count,
                 j->servers_wanted, j->worker_count, j->workers_wanted);
        return true;
    }
    job_set_why(j, "waits for %u servers (%u free) and %u workers (%u free)", j->servers_wanted,
                servers, j->workers_wanted, workers);
    return false;
}

static void pick_again(struct coordinator *c, struct job_run *j, uint64_t now)
{
    bool asking = j->pick == PICK_LIST || j->pick == PICK_READ;
    if (!j->taken && j->pick == PICK_LIST && record_awaits_end(c, j))
        job_set_why(j, "waits until the registry has the end of the job of this name before it");
    else if (asking && j->action_id == 0 && now >= j->retry_ms)
        pick_ask(c, j, now);
}

void queued_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    pick_again(c, j, now);
    if (j->pick == PICK_LIST || job_is_over(j))
        return;
    if (!j->taken && j->pick != PICK_DONE)
        return;
    if (!j->taken && j->recording == RECORD_NONE)
        record_begin(c, j, RECORD_SUBMIT, now);
    if (j->recording != RECORD_NONE)
        return;
    const struct job_run *before = waits_before(c, j);
    if (before != NULL) {
        job_set_why(j, "waits behind job '%s'", before->name);
        return;
    }
    if (!members_suffice(c, j, now))
        return;
    assign(c, j);
    if (make_layout(j) != ERR_NONE) {
        job_fail(c, j, now, "%s", err_text());
        return;
    }
    if (!j->indexed)
        j->round = 1; /* workers begin anew with the generation, so do the rounds */
    record_begin(c, j, RECORD_FORM, now);
}

/* ---- FORMING ---- */

void rank_range(const struct job_run *j, uint32_t worker, uint32_t *first, uint32_t *end)
{
    /* Rank r belongs to worker r·W/R: these are the r that give `worker`. */
    uint64_t ranks = j->job->train.ranks, workers = j->worker_count;
    *first = (uint32_t)((worker * ranks + workers - 1) / workers);
    *end = (uint32_t)(((worker + 1) * ranks + workers - 1) / workers);
}

static bool check_devices(struct coordinator *c, struct job_run *j, uint64_t now)
{
    const Paramd__Control__MemberState *first = j->workers[0]->state;
    for (uint32_t w = 1; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = j->workers[w]->state;
        if (strcmp(first->device_class, s->device_class) == 0)
            continue;
        job_fail(c, j, now, "workers of one job must compute alike: '%s' is '%s', but '%s' is '%s'",
                 first->member, first->device_class, s->member, s->device_class);
        return false;
    }
    mem_free(j->device_class);
    j->device_class = must_strdup(first->device_class);
    return true;
}

static double gib(double bytes)
{
    return bytes / (1024.0 * 1024.0 * 1024.0);
}

/*
 * Ranks × ((d + 1) push + 2 (d + 1) pull), were all keys of a batch different and every feature
 * had one value; and the dense parameters, which are known exactly. Spread over the servers evenly,
 * as mixed keys are.
 */
static bool check_memory(struct coordinator *c, struct job_run *j, uint64_t now)
{
    const struct job *job = j->job;
    double examples = (double)job->train.batch_size / job->train.ranks;
    double message = 0, parameters = 0;
    for (uint32_t t = 0; t < j->model->schema->table_count; t++)
        message +=
            examples * j->model->slot_count[t] * (8.0 + 4.0 * j->model->schema->tables[t].dim);
    for (uint32_t p = 0; p < j->model->schema->dense_count; p++) {
        const struct schema_dense *d = &j->model->schema->dense[p];
        message += 4.0 * (double)d->count;
        parameters += 4.0 * (double)d->count * (1 + d->slot_count);
    }
    double in_flight = job->train.consistency == CONSISTENCY_BSP
                           ? 3.0 * job->train.ranks * (job->train.pipeline_depth + 1)
                           : 2.0 * job->train.ranks;
    double each = (in_flight * message + parameters) / j->server_count;
    for (uint32_t s = 0; s < j->server_count; s++) {
        uint64_t has = j->servers[s]->state->memory_bytes;
        if (has == 0 || each <= (double)has)
            continue;
        job_fail(
            c, j, now,
            "server '%s' has %.2f GiB, the job needs %.2f GiB there for messages in flight and "
            "dense "
            "parameters (%u ranks, pipeline_depth %u, %.3f GiB a message, %u servers): use more "
            "servers, a smaller train.batch_size or a smaller train.pipeline_depth",
            j->servers[s]->id, gib((double)has), gib(each), job->train.ranks,
            job->train.pipeline_depth, gib(message), j->server_count);
        return false;
    }
    return true;
}

enum err make_model(struct job_run *j)
{
    enum err e = features_spec_create(j->job, (const char *const *)j->columns, j->column_count,
                                      &j->features);
    if (e == ERR_NONE)
        e = model_create(j->job, j->features, &j->model);
    if (e != ERR_NONE)
        return e;
    uint64_t per_epoch =
        dataindex_steps_per_epoch(j->train_examples, j->job->train.batch_size, j->job->train.ranks);
    j->steps = steps_make(j->job, per_epoch, j->eval_examples > 0);
    return evaluation_create(j->model->loss, j->model->metric_width, j->job->eval.metrics,
                             &j->evaluation);
}

static bool check_data(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (!j->eval_mode && j->train_examples == 0)
        job_fail(c, j, now, "data.train has no training examples");
    else if (j->eval_mode && j->eval_examples == 0)
        job_fail(c, j, now,
                 "there is nothing to evaluate: data.eval and data.split give no examples");
    else if (!j->eval_mode && j->job->early_stopping.enabled && j->eval_examples == 0)
        job_fail(
            c, j, now,
            "early_stopping needs an evaluation set: data.eval and data.split give no examples");
    return !job_is_over(j);
}

static void take_index(struct coordinator *c, struct job_run *j,
                       const Paramd__Control__WorkerState *w, uint64_t now)
{
    j->indexed = true;
    j->index_checksum = must_strdup(w->index_checksum);
    j->train_examples = w->train_examples;
    j->eval_examples = w->eval_examples;
    j->column_count = w->n_columns;
    j->columns = must_alloc((w->n_columns + 1) * sizeof *j->columns);
    for (size_t i = 0; i < w->n_columns; i++)
        j->columns[i] = must_strdup(w->columns[i]);
    if (!check_data(c, j, now) || !check_devices(c, j, now))
        return;
    if (make_model(j) != ERR_NONE) {
        job_fail(c, j, now, "%s", err_text());
        return;
    }
    if (!check_memory(c, j, now))
        return;
    job_note(c, j, COORDINATOR_INFO,
             "index=%.12s train_examples=%llu eval_examples=%llu steps_per_epoch=%llu "
             "last_step=%llu",
             j->index_checksum, (unsigned long long)j->train_examples,
             (unsigned long long)j->eval_examples, (unsigned long long)j->steps.steps_per_epoch,
             (unsigned long long)j->steps.last_step);
}

/* A round begins when all workers have finished the one before. Who finds an index that is stored
 * already, or has stored it, is done: the others' rounds are of no use then, and may not end. */
static void index_rounds(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint32_t behind = 0;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        if (s != NULL && s->worker != NULL && s->worker->index_done) {
            take_index(c, j, s->worker, now);
            return;
        }
        behind += s == NULL || s->worker == NULL || s->worker->prepared_round < j->round;
    }
    if (behind > 0)
        job_set_why(j, "indexes the data: round %u, %u of %u workers at it", j->round, behind,
                    j->worker_count);
    else if (j->round == ROUND_MAX)
        job_fail(c, j, now, "the data index was not complete after %u rounds", ROUND_MAX);
    else
        j->round++;
}

/* The checkpoint is of this job and of these data. */
static bool check_manifest(struct coordinator *c, struct job_run *j, uint64_t now)
{
    const struct checkpoint_manifest *m = j->manifest;
    if (m == NULL || j->eval_mode)
        return true;
    char *name = checkpoint_name(m->generation, m->step);
    if (strcmp(m->index_checksum, j->index_checksum) != 0)
        job_fail(
            c, j, now,
            "checkpoint %s was made with other data (index %.12s, now %.12s): bring the files back "
            "as they were, or start anew with --fresh",
            name, m->index_checksum, j->index_checksum);
    else if (m->rank_count != j->job->train.ranks)
        job_fail(c, j, now, "checkpoint %s was made with train.ranks %u, the job has %u", name,
                 m->rank_count, j->job->train.ranks);
    else if (m->step > j->steps.last_step)
        job_fail(c, j, now,
                 "checkpoint %s lies beyond the job's last step %llu: raise train.epochs", name,
                 (unsigned long long)j->steps.last_step);
    else if (!steps_is_drain(&j->steps, m->step))
        job_fail(c, j, now,
                 "step %llu of checkpoint %s is no drain point of this job (train.max_steps may "
                 "have ended its run there): resume with train.drain_every %llu, or a divisor of "
                 "it, or start anew with --fresh",
                 (unsigned long long)m->step, name, (unsigned long long)m->step);
    else if (strcmp(m->device_class, j->device_class) != 0)
        job_warn(c, j, "checkpoint %s was made on '%s', the workers are '%s': bits will differ",
                 name, m->device_class, j->device_class);
    mem_free(name);
    return !job_is_over(j);
}

static void order_restore(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (!check_manifest(c, j, now))
        return;
    j->form = true;
    j->start_step = j->manifest != NULL ? j->manifest->step : 0;
    mem_free(j->restore_name);
    j->restore_name =
        j->manifest != NULL ? checkpoint_name(j->manifest->generation, j->manifest->step) : NULL;
    job_set_state(c, j, JOB_RESTORING, now);
    ask_servers(c, j);
}

void forming_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    pick_again(c, j, now);
    if (j->indexed && !job_is_over(j) && !check_devices(c, j, now))
        return;
    if (!j->indexed && !job_is_over(j))
        index_rounds(c, j, now);
    if (j->indexed && j->pick == PICK_DONE && !job_is_over(j))
        order_restore(c, j, now);
}

/* ---- RESTORING ---- */

static void exclude(struct coordinator *c, struct job_run *j, const struct fellow *f,
                    const char *why, uint64_t now)
{
    struct candidate *k = &j->candidates[j->picked];
    char *name = checkpoint_name(k->generation, k->step);
    job_warn(c, j, "checkpoint %s is refused by '%s' and so by all: %s", name, f->id, why);
    mem_free(name);
    if (!PLANT(refused_again))
        k->refused = must_strdup(why);
    j->form = false;
    checkpoint_manifest_destroy(j->manifest);
    j->manifest = NULL;
    j->pick = PICK_CHOOSE;
    ask_servers(c, j);
    pick_ask(c, j, now);
}

/* true: somebody refuses what is being restored. */
static bool take_refusals(struct coordinator *c, struct job_run *j, uint64_t now)
{
    for (uint32_t s = 0; s < j->server_count; s++) {
        const Paramd__Control__MemberState *m = answer_of(j, j->servers[s]);
        if (m == NULL || m->failure == NULL ||
            m->failure->kind != PARAMD__CONTROL__FAILURE__KIND__RESTORE_REFUSED)
            continue;
        if (j->manifest == NULL)
            job_fail(c, j, now, "server '%s' refuses the initial state: %s", m->member,
                     m->failure->text);
        else
            exclude(c, j, j->servers[s], m->failure->text, now);
        return true;
    }
    return false;
}

static uint32_t shards_missing(const struct job_run *j)
{
    uint32_t missing = 0;
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, true);
        missing += s == NULL || !s->restored;
    }
    return missing;
}

static uint32_t workers_unready(const struct job_run *j)
{
    uint32_t missing = 0;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        bool ready = s != NULL && s->worker != NULL && s->worker->ready;
        missing += j->workers[w] != NULL && !ready;
    }
    return missing;
}

/* The checkpoint of an earlier run that early stopping would restore. */
static void find_best(struct job_run *j, uint64_t step)
{
    j->best_step = step;
    for (size_t i = 0; step != NO_STEP && i < j->candidate_count; i++) {
        const struct candidate *k = &j->candidates[i];
        if (k->step != step || !k->committed || k->refused != NULL || j->best_name != NULL)
            continue;
        j->best_name = checkpoint_name(k->generation, k->step);
    }
}

/* What the restored state has behind it: evaluations, sums, whether there is anything left to
 * train. */
static void begin(struct coordinator *c, struct job_run *j, uint64_t now)
{
    const struct checkpoint_manifest *m = j->manifest;
    if (m != NULL && !j->eval_mode) {
        if (evals_take(j, PLANT(evaluations_forgotten) ? NULL : m->evals_json) != ERR_NONE) {
            job_fail(c, j, now, "checkpoint %llu-%llu: %s", (unsigned long long)m->generation,
                     (unsigned long long)m->step, err_text());
            return;
        }
        j->base = (struct sums){0};
        for (uint32_t r = 0; r < m->rank_count; r++) {
            j->base.examples += m->ranks[r].examples;
            j->base.loss += m->ranks[r].loss_sum;
            j->base.weight += m->ranks[r].weight_sum;
        }
        j->latest = j->epoch_base = j->base;
        j->newest = m->step;
        mem_free(j->newest_name);
        j->newest_name = checkpoint_name(m->generation, m->step);
    }
    if (!j->has_begun)
        j->first_base = j->base;
    if (j->begun_unix_ms == 0) {
        j->begin_ms = now > 0 ? now : 1;
        j->begun_unix_ms = j->begin_ms + c->options.unix_offset_ms;
    }
    j->has_begun = true;
    j->listed_again = false;
    job_set_state(c, j, JOB_RUNNING, now);
    if (j->recover_ms != 0)
        job_note(c, j, COORDINATOR_INFO, "goes on at step=%llu after_ms=%llu",
                 (unsigned long long)j->start_step, (unsigned long long)(now - j->recover_ms));
    j->recover_ms = 0;
    uint64_t step = j->start_step;
    struct early early = evals_early(j, step);
    find_best(j, early.best_step);
    if (j->eval_mode || (step > 0 && (step == j->steps.last_step || early.stop))) {
        bool evaluate =
            j->eval_mode || (steps_is_eval(&j->steps, step) && evals_find(j, step, false) == NULL);
        j->hold = evaluate ? HOLD_EVALUATE : HOLD_CHECKPOINT;
        shares_clear(j);
        j->hold_step = step;
        j->hold_stop = true;
        j->stopped_early = early.stop && step < j->steps.last_step;
    } else {
        j->verdict_step = step;
        j->start = true;
    }
    /* Not sooner: who takes a running job over must know what is best, and what has its verdict. */
    record_note(c, j);
}

void restoring_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    pick_again(c, j, now);
    if (job_is_over(j))
        return;
    if (!j->form) {
        if (j->pick == PICK_DONE)
            order_restore(c, j, now);
        return;
    }
    if (take_refusals(c, j, now) || job_is_over(j))
        return;
    uint32_t missing = shards_missing(j);
    if (missing > 0) {
        job_set_why(j, "%u of %u shards have not restored yet", missing, j->layout->shard_count);
        return;
    }
    if (j->restored_ms == 0)
        j->restored_ms = now > 0 ? now : 1;
    uint32_t unready = workers_unready(j);
    if (unready > 0 && now - j->restored_ms < READY_MS) {
        job_set_why(j, "%u of %u workers are not ready yet", unready, j->worker_count);
        return;
    }
    begin(c, j, now);
}
