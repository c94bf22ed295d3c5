#include <string.h>

#include "common/mem.h"
#include "server/coordinator_internal.h"

#define FINISH_MS 2000u /* ranks that do not say that they finished are not waited for longer */

/* ---- held drain points: evaluate, checkpoint, record the verdict, give it ---- */

static uint32_t unevaluated(const struct job_run *j)
{
    uint32_t missing = 0;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        missing += s == NULL || s->worker == NULL || s->worker->evaluated_step != j->hold_step + 1;
    }
    return missing;
}

static void decide(struct coordinator *c, struct job_run *j, uint64_t now)
{
    struct early early = evals_early(j, j->hold_step);
    if (early.best_step != NO_STEP)
        j->best_step = early.best_step;
    bool last = j->hold_stop || j->hold_step == j->steps.last_step;
    j->hold_stop = last || early.stop;
    j->stopped_early |= early.stop && j->hold_step < j->steps.last_step;
    j->hold_best = j->job->early_stopping.restore_best && early.best_step == j->hold_step;
    j->hold = HOLD_CHECKPOINT;
    if (j->hold_stop)
        job_set_state(c, j, JOB_FINISHING, now);
}

static void hold_begin(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint64_t step;
    if (!drained_all(j, &step) || step <= j->verdict_step)
        return;
    bool evaluate = j->eval_examples > 0 && steps_is_eval(&j->steps, step);
    if (!evaluate && step != j->steps.last_step)
        return;
    j->hold_step = step;
    j->hold_stop = j->hold_best = false;
    if (evals_progressive(j, step, true, now) != ERR_NONE)
        job_warn(c, j, "%s", err_text());
    if (evaluate)
        j->hold = HOLD_EVALUATE;
    else
        decide(c, j, now);
}

static void hold_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->hold == HOLD_EVALUATE) {
        uint32_t missing = unevaluated(j);
        if (missing > 0) {
            job_set_why(j, "evaluates step %llu: %u of %u workers at it",
                        (unsigned long long)j->hold_step, missing, j->worker_count);
            return;
        }
        if (evals_merge(c, j, j->hold_step, now) != ERR_NONE) {
            job_fail(c, j, now, "%s", err_text());
            return;
        }
        job_why_take(j, NULL);
        decide(c, j, now);
    }
    if (j->hold == HOLD_CHECKPOINT) {
        bool needed = (j->hold_stop || j->hold_best) && !j->eval_mode;
        if (needed && j->newest != j->hold_step) {
            j->wanted = j->hold_step;
            return;
        }
        j->hold = HOLD_RECORD;
        j->record_retry_ms = now;
    }
    if (j->hold == HOLD_RECORD && j->eval_mode) {
        j->hold = HOLD_NONE;
        j->verdict_stop = true;
    }
    if (j->hold == HOLD_RECORD && j->record_id == 0 && now >= j->record_retry_ms)
        j->record_id = act_record(c, j);
}

/* Epoch ends that nobody waits at: what training itself counted, for the status alone. */
static void note_progressive(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint64_t step = j->latest_step;
    if (j->hold != HOLD_NONE || step == NO_STEP || step == 0 ||
        !steps_is_epoch_end(&j->steps, step) || evals_find(j, step, true) != NULL)
        return;
    if (evals_progressive(j, step, false, now) != ERR_NONE)
        job_warn(c, j, "%s", err_text());
}

void running_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    take_reports(j);
    if (j->hold == HOLD_NONE && !j->eval_mode) {
        hold_begin(c, j, now);
        note_progressive(c, j, now);
    }
    if (j->hold != HOLD_NONE && j->hold != HOLD_EVALUATE && j->hold_stop)
        job_set_state(c, j, JOB_FINISHING, now);
    if (j->state == JOB_RUNNING && j->hold != HOLD_NONE)
        hold_step(c, j, now);
    if (j->state == JOB_RUNNING && !j->eval_mode)
        snap_step(c, j, now);
}

static bool all_finished(const struct job_run *j)
{
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        if (s == NULL || s->worker == NULL)
            continue;
        for (size_t i = 0; i < s->worker->n_ranks; i++)
            if (!s->worker->ranks[i]->finished)
                return false;
    }
    return true;
}

void finishing_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->hold != HOLD_NONE) {
        hold_step(c, j, now);
        if (!job_is_over(j) && !j->eval_mode)
            snap_step(c, j, now);
        return;
    }
    if (j->end_ms == 0)
        j->end_ms = now > 0 ? now : 1;
    if (j->start && !all_finished(j) && now - j->end_ms < FINISH_MS)
        return;
    job_end(c, j, JOB_DONE, now);
}

/* ---- the watch: no wait without an end ---- */

static void mix(uint64_t *mark, uint64_t value)
{
    *mark = (*mark ^ value) * 0x100000001b3ull;
}

/* Changes whenever anything moves. */
static uint64_t progress_mark(const struct job_run *j)
{
    uint64_t mark = 0xcbf29ce484222325ull;
    const uint64_t own[] = {j->state,     j->round,         j->pick,         j->picked,
                            j->hold,      j->hold_step,     j->verdict_step, j->snap,
                            j->snap_step, j->snap_failures, j->eval_count};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        mix(&mark, own[i]);
    for (uint32_t s = 0; s < j->server_count; s++) {
        const Paramd__Control__MemberState *m = state_of(j, j->servers[s]);
        for (size_t i = 0; m != NULL && m->server != NULL && i < m->server->n_shards; i++) {
            const Paramd__Control__ShardState *shard = m->server->shards[i];
            mix(&mark, shard->restored);
            mix(&mark, shard->applied);
            mix(&mark, shard->durable);
        }
    }
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *m = state_of(j, j->workers[w]);
        if (m == NULL || m->worker == NULL)
            continue;
        mix(&mark, m->worker->prepared_round);
        mix(&mark, m->worker->ready);
        mix(&mark, m->worker->evaluated_step);
        for (size_t i = 0; i < m->worker->n_ranks; i++)
            mix(&mark, m->worker->ranks[i]->step);
    }
    return mark;
}

/* The rank and the shard that are furthest behind. */
static void describe_slowest(const struct job_run *j, struct str *out)
{
    const Paramd__Control__RankState *rank = NULL;
    const struct fellow *on = NULL;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *m = state_of(j, j->workers[w]);
        for (size_t i = 0; m != NULL && m->worker != NULL && i < m->worker->n_ranks; i++) {
            if (rank != NULL && rank->step <= m->worker->ranks[i]->step)
                continue;
            rank = m->worker->ranks[i];
            on = j->workers[w];
        }
    }
    if (rank != NULL)
        str_append_format(out, "; rank %u of worker '%s' stands at step %llu", rank->rank, on->id,
                          (unsigned long long)rank->step);
    uint32_t slowest = UINT32_MAX;
    uint64_t step = UINT64_MAX;
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, false);
        if (s != NULL && s->applied < step) {
            step = s->applied;
            slowest = i;
        }
    }
    if (slowest != UINT32_MAX)
        str_append_format(out, ", shard %u of server '%s' at %llu", slowest,
                          j->layout->shards[slowest].member, (unsigned long long)step);
}

/* Indexing, restoring and evaluating show no steps while they work, so they get more time. */
static uint64_t patience_ms(const struct coordinator *c, const struct job_run *j)
{
    uint64_t stall = c->options.stall_timeout_ms;
    switch (j->state) {
    case JOB_QUEUED:
        return UINT64_MAX;
    case JOB_FORMING:
        return 30 * stall;
    case JOB_RESTORING:
    case JOB_FINISHING:
        return 10 * stall;
    default:
        return j->hold != HOLD_NONE ? 10 * stall : stall;
    }
}

void watch_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint64_t mark = progress_mark(j);
    if (mark != j->progress_mark) {
        j->progress_mark = mark;
        j->progress_ms = now;
        return;
    }
    uint64_t since = now - j->progress_ms;
    if (since <= patience_ms(c, j))
        return;
    struct str who = {0};
    if (j->why != NULL && j->why[0] != '\0')
        str_append_format(&who, "; it %s", j->why);
    if (j->layout != NULL && j->state >= JOB_RUNNING)
        describe_slowest(j, &who);
    job_fail(c, j, now, "no progress for %llu s while %s%s", (unsigned long long)(since / 1000),
             job_state_name(j->state), who.data != NULL ? who.data : "");
    str_deinit(&who);
}
