#include <string.h>

#include "common/mem.h"
#include "server/coordinator_internal.h"

static void put_metrics(const struct eval_record *r, Paramd__Control__EvalRecord *o,
                        Paramd__Control__Metric *metrics, Paramd__Control__Metric **list)
{
    o->step = r->step;
    o->epoch = r->epoch;
    o->progressive = r->progressive;
    o->seconds = r->seconds;
    o->examples = r->examples;
    o->n_metrics = r->metric_count;
    o->metrics = list;
    for (uint32_t k = 0; k < r->metric_count; k++) {
        paramd__control__metric__init(&metrics[k]);
        metrics[k].name = (char *)metric_name(r->metrics[k].kind);
        metrics[k].value = r->metrics[k].value;
        list[k] = &metrics[k];
    }
}

static Paramd__Control__TimeShares shares_of(const struct job_run *j)
{
    Paramd__Control__TimeShares sum = j->shares;
    for (uint32_t w = 0; !job_is_over(j) && w < j->worker_count; w++)
        add_shares(j, j->workers[w], &sum);
    return sum;
}

static uint64_t step_of(const struct job_run *j)
{
    uint64_t smallest, largest;
    if (!job_is_over(j) && j->layout != NULL && applied_range(j, &smallest, &largest))
        return smallest;
    uint64_t step = j->latest_step != NO_STEP ? j->latest_step : j->start_step;
    if (j->newest != NO_STEP && j->newest > step)
        step = j->newest;
    return j->eval_mode || step < j->hold_step ? j->hold_step : step;
}

static void put_progress(const struct job_run *j, uint64_t now, Paramd__Control__StatusReply *o)
{
    o->step = step_of(j);
    o->last_step = j->steps.last_step;
    o->steps_per_epoch = j->steps.steps_per_epoch;
    o->epochs = j->job->train.epochs;
    if (o->steps_per_epoch > 0)
        o->epoch = (uint32_t)(o->step / o->steps_per_epoch);
    if (j->latest.examples > j->first_base.examples)
        o->examples = j->latest.examples - j->first_base.examples;
    if (j->begun_unix_ms != 0)
        o->train_seconds = (double)((j->end_ms != 0 ? j->end_ms : now) - j->begin_ms) / 1000;
    int64_t weight = j->latest.weight - j->epoch_base.weight;
    if (weight > 0)
        o->objective = (double)(j->latest.loss - j->epoch_base.loss) / (double)weight;
    o->stopped_early = j->stopped_early;
}

/* The result is the best one of early stopping when it restores that; else, and on the way, the
 * newest. */
static char *put_checkpoint(const struct job_run *j, Paramd__Control__StatusReply *o)
{
    if (j->eval_mode) {
        o->checkpoint_step = j->newest;
        return must_strdup(j->eval_uri);
    }
    bool best = j->state == JOB_DONE && j->job->early_stopping.enabled && j->best_name != NULL &&
                j->job->early_stopping.restore_best;
    const char *name = best ? j->best_name : j->newest_name;
    uint64_t generation;
    if (name == NULL || checkpoint_name_parse(name, &generation, &o->checkpoint_step) != ERR_NONE)
        return must_strdup("");
    return must_format("%s/%s", j->storage_uri, name);
}

static void pack(const Paramd__Control__StatusReply *o, struct str *packed)
{
    size_t size = paramd__control__status_reply__get_packed_size(o);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__status_reply__pack(o, bytes);
    str_clear(packed);
    str_append_span(packed, span_make((const char *)bytes, size));
    mem_free(bytes);
}

void coordinator_status(struct coordinator *c, const char *job, uint64_t now_ms, struct str *packed)
{
    Paramd__Control__StatusReply o = PARAMD__CONTROL__STATUS_REPLY__INIT;
    struct job_run *j = job_find(c, job);
    if (j == NULL) {
        o.job = (char *)job;
        pack(&o, packed);
        return;
    }
    o.found = true;
    o.mode = j->mode;
    o.owner = j->owner;
    o.submitted_unix_ms = j->submitted_unix_ms;
    o.recoveries = j->recoveries;
    o.moves = j->moves;
    struct members_list members = list_members(c, j);
    o.n_members = members.count;
    o.members = members.list;
    o.job = j->name;
    o.state = (char *)job_state_name(j->state);
    o.why = j->why != NULL ? j->why : (char *)"";
    o.generation = j->generation;
    put_progress(j, now_ms, &o);
    o.n_warnings = j->warning_count;
    o.warnings = j->warnings;
    Paramd__Control__TimeShares shares = shares_of(j);
    o.shares = &shares;
    o.checkpoint = put_checkpoint(j, &o);
    o.checkpoint_age_seconds = (double)age_of(j, now_ms) / 1000;
    size_t n = j->eval_count;
    Paramd__Control__EvalRecord *evals = must_alloc((n + 1) * sizeof *evals);
    Paramd__Control__EvalRecord **list = must_alloc((n + 1) * sizeof *list);
    Paramd__Control__Metric *metrics = must_alloc((n + 1) * METRIC_COUNT * sizeof *metrics);
    Paramd__Control__Metric **metric_list =
        must_alloc((n + 1) * METRIC_COUNT * sizeof *metric_list);
    for (size_t i = 0; i < n; i++) {
        paramd__control__eval_record__init(&evals[i]);
        put_metrics(&j->evals[i], &evals[i], &metrics[i * METRIC_COUNT],
                    &metric_list[i * METRIC_COUNT]);
        list[i] = &evals[i];
    }
    o.n_evals = n;
    o.evals = list;
    pack(&o, packed);
    mem_free(o.checkpoint);
    list_members_free(&members);
    mem_free(evals);
    mem_free(list);
    mem_free(metrics);
    mem_free(metric_list);
}
