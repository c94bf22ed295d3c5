#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "server/coordinator_internal.h"

struct eval_record *evals_find(const struct job_run *j, uint64_t step, bool progressive)
{
    for (size_t i = 0; i < j->eval_count; i++)
        if (j->evals[i].step == step && j->evals[i].progressive == progressive)
            return &j->evals[i];
    return NULL;
}

static struct eval_record *add_record(struct job_run *j, uint64_t step, bool progressive)
{
    struct eval_record *r = evals_find(j, step, progressive);
    if (r == NULL) {
        if (j->eval_count == j->eval_capacity) {
            j->eval_capacity = j->eval_capacity * 3 / 2 + 16;
            j->evals = must_realloc(j->evals, j->eval_capacity, sizeof *j->evals);
        }
        r = &j->evals[j->eval_count++];
    }
    *r = (struct eval_record){.step = step, .progressive = progressive};
    if (step > 0 && j->steps.steps_per_epoch > 0)
        r->epoch = (uint32_t)(step / j->steps.steps_per_epoch);
    return r;
}

static void fill_record(struct job_run *j, struct eval_record *r, bool held, uint64_t now)
{
    r->held = held;
    r->examples = evaluation_examples(j->evaluation);
    r->seconds = (double)(now - j->begin_ms) / 1000;
    for (int k = 0; k < METRIC_COUNT; k++) {
        double value;
        if ((j->job->eval.metrics >> k & 1) != 0 &&
            evaluation_metric(j->evaluation, (enum metric_kind)k, &value))
            r->metrics[r->metric_count++] = (struct eval_metric){(enum metric_kind)k, value};
    }
    if (j->job->early_stopping.enabled)
        r->rank_key = evaluation_rank_key(j->evaluation, j->job->early_stopping.metric);
}

static void log_record(struct coordinator *c, struct job_run *j, const struct eval_record *r)
{
    struct str text = {0};
    for (uint32_t i = 0; i < r->metric_count; i++)
        str_append_format(&text, " %s=%.6f", metric_name(r->metrics[i].kind), r->metrics[i].value);
    job_note(c, j, COORDINATOR_INFO, "evaluated step=%llu epoch=%u examples=%llu%s",
             (unsigned long long)r->step, r->epoch, (unsigned long long)r->examples,
             text.data != NULL ? text.data : "");
    str_deinit(&text);
    if (r->metric_count == 0 && r->examples > 0)
        job_warn(c, j,
                 "the evaluation at step %llu has no value of any metric: predictions are not "
                 "numbers, or labels are of one class; a smaller optimizer.learning_rate, l2 or "
                 "tables.*.init keeps the model finite",
                 (unsigned long long)r->step);
}

enum err evals_merge(struct coordinator *c, struct job_run *j, uint64_t step, uint64_t now)
{
    evaluation_clear(j->evaluation);
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const struct str *share = &j->shares_of[w].encoded;
        enum err e = evaluation_decode(j->evaluation, share->data, share->size);
        if (e != ERR_NONE)
            return err_prefix(e, "share %u of the evaluation at step %llu", w,
                              (unsigned long long)step);
    }
    struct eval_record *r = add_record(j, step, false);
    fill_record(j, r, true, now);
    log_record(c, j, r);
    return ERR_NONE;
}

enum err evals_progressive(struct job_run *j, uint64_t step, bool held, uint64_t now)
{
    const Paramd__Control__ShardState *s = shard_state(j, 0, false);
    if (!j->job->eval.progressive || s == NULL || s->drained != step)
        return ERR_NONE;
    evaluation_clear(j->evaluation);
    for (size_t i = 0; i < s->n_reports; i++) {
        if (s->reports[i]->metrics.len == 0)
            continue;
        enum err e = evaluation_decode(j->evaluation, s->reports[i]->metrics.data,
                                       s->reports[i]->metrics.len);
        if (e != ERR_NONE)
            return err_prefix(e, "the report of rank %u at step %llu", s->reports[i]->rank,
                              (unsigned long long)step);
    }
    if (evaluation_examples(j->evaluation) == 0)
        return ERR_NONE;
    fill_record(j, add_record(j, step, true), held, now);
    return ERR_NONE;
}

/* ---- early stopping ---- */

static double metric_of(const struct eval_record *r, enum metric_kind kind)
{
    for (uint32_t i = 0; i < r->metric_count; i++)
        if (r->metrics[i].kind == kind)
            return r->metrics[i].value;
    return 0;
}

/* Integers decide which is better; min_delta compares quotients of the same integers, alike
 * everywhere. */
static bool is_better(const struct job_run *j, const struct eval_record *r,
                      const struct eval_record *best)
{
    if (r->rank_key <= best->rank_key)
        return false;
    double delta = metric_of(r, j->job->early_stopping.metric) -
                   metric_of(best, j->job->early_stopping.metric);
    return (delta < 0 ? -delta : delta) >= j->job->early_stopping.min_delta;
}

struct early evals_early(const struct job_run *j, uint64_t step)
{
    struct early early = {.best_step = NO_STEP};
    if (!j->job->early_stopping.enabled || j->eval_mode)
        return early;
    const struct eval_record *best = NULL;
    uint32_t worse = 0;
    for (size_t i = 0; i < j->eval_count; i++) {
        const struct eval_record *r = &j->evals[i];
        if (r->progressive || r->step > step)
            continue;
        if (best == NULL || is_better(j, r, best)) {
            best = r;
            worse = 0;
        } else {
            worse++;
        }
        early.stop = worse > 0 && worse >= j->job->early_stopping.patience;
        if (early.stop)
            break;
    }
    if (best != NULL)
        early.best_step = best->step;
    return early;
}

/* ---- in manifests ---- */

void evals_write(const struct job_run *j, uint64_t up_to, struct str *out)
{
    struct json *list = json_array();
    for (size_t i = 0; i < j->eval_count; i++) {
        const struct eval_record *r = &j->evals[i];
        if (!r->held || r->step > up_to)
            continue;
        struct json *o = json_object();
        json_set_int(o, "step", (int64_t)r->step);
        json_set_int(o, "epoch", r->epoch);
        json_set_bool(o, "progressive", r->progressive);
        json_set_int(o, "examples", (int64_t)r->examples);
        json_set_int(o, "rank_key", r->rank_key);
        struct json *metrics = json_object();
        for (uint32_t k = 0; k < r->metric_count; k++)
            json_set_number(metrics, metric_name(r->metrics[k].kind), r->metrics[k].value);
        json_set(o, "metrics", metrics);
        json_push(list, o);
    }
    json_write(list, false, out);
    json_destroy(list);
}

static enum err take_one(struct job_run *j, const struct json *o)
{
    uint64_t step, epoch, examples;
    bool progressive;
    struct json *metrics;
    enum err e = json_get_u64(o, "step", &step);
    if (e == ERR_NONE)
        e = json_get_u64(o, "epoch", &epoch);
    if (e == ERR_NONE)
        e = json_get_u64(o, "examples", &examples);
    if (e == ERR_NONE)
        e = json_get_bool(o, "progressive", &progressive);
    if (e == ERR_NONE)
        e = json_get_object(o, "metrics", &metrics);
    if (e == ERR_NONE && json_get(o, "rank_key") == NULL)
        e = err_set(ERR_INPUT, "'rank_key' is missing");
    if (e != ERR_NONE)
        return e;
    struct eval_record *r = add_record(j, step, progressive);
    r->epoch = (uint32_t)epoch;
    r->examples = examples;
    r->rank_key = json_as_int(json_get(o, "rank_key"));
    r->held = true;
    for (int k = 0; k < METRIC_COUNT; k++) {
        const struct json *value = json_get(metrics, metric_name((enum metric_kind)k));
        if (value != NULL)
            r->metrics[r->metric_count++] =
                (struct eval_metric){(enum metric_kind)k, json_as_number(value)};
    }
    return ERR_NONE;
}

enum err evals_take(struct job_run *j, const char *json)
{
    if (json == NULL || json[0] == '\0')
        return ERR_NONE;
    struct json *list;
    enum err e = json_parse("evaluations", json, strlen(json), &list);
    if (e != ERR_NONE)
        return e;
    for (size_t i = 0; e == ERR_NONE && i < json_count(list); i++)
        e = take_one(j, json_at(list, i));
    json_destroy(list);
    return e == ERR_NONE ? e : err_prefix(e, "its evaluations");
}

/* ---- reports of ranks ---- */

struct sums sum_reports(Paramd__Control__RankReport *const *reports, size_t count)
{
    struct sums s = {0};
    for (size_t i = 0; i < count; i++) {
        s.examples += reports[i]->examples;
        s.loss += reports[i]->loss_sum;
        s.weight += reports[i]->weight_sum;
    }
    return s;
}

/* The first shard's, whenever it stands at a new drain point. */
void take_reports(struct job_run *j)
{
    const Paramd__Control__ShardState *s = shard_state(j, 0, true);
    if (s == NULL || s->drained == j->latest_step || s->n_reports == 0)
        return;
    uint64_t per_epoch = j->steps.steps_per_epoch > 0 ? j->steps.steps_per_epoch : 1;
    bool next_epoch =
        j->latest_step != NO_STEP && s->drained > 0 &&
        (s->drained - 1) / per_epoch != (j->latest_step - (j->latest_step > 0)) / per_epoch;
    if (next_epoch)
        j->epoch_base = j->latest;
    j->latest = sum_reports(s->reports, s->n_reports);
    j->latest_step = s->drained;
}
