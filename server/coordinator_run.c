#include <string.h>

#include "common/mem.h"
#include "server/coordinator_internal.h"

#define FINISH_MS 2000u /* ranks that do not say that they finished are not waited for longer */

/* ---- held drain points: evaluate, checkpoint, record the verdict, give it ---- */

static void decide(struct coordinator *c, struct job_run *j, uint64_t now)
{
    struct early early = evals_early(j, j->hold_step);
    if (early.best_step != NO_STEP)
        j->best_step = early.best_step;
    note_best(j); /* a new leader may have published it before it asked what is best */
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
    if (evaluate) {
        j->hold = HOLD_EVALUATE;
        shares_clear(j);
    } else {
        decide(c, j, now);
    }
}

static void hold_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->hold == HOLD_EVALUATE) {
        uint32_t missing = shares_take(j);
        if (missing > 0) {
            job_set_why(j, "evaluates step %llu: %u of %u shares are missing",
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
    }
    if (j->hold == HOLD_RECORD && j->eval_mode) {
        j->hold = HOLD_NONE;
        j->verdict_stop = true;
    }
    if (j->hold == HOLD_RECORD && j->recording == RECORD_NONE)
        record_begin(c, j, RECORD_VERDICT, now);
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
    uint64_t smallest, largest;
    if (applied_range(j, &smallest, &largest) && largest > j->high_step)
        j->high_step = largest;
    if (j->hold == HOLD_NONE && !j->eval_mode) {
        hold_begin(c, j, now);
        note_progressive(c, j, now);
    }
    if (j->hold != HOLD_NONE && j->hold != HOLD_EVALUATE && j->hold_stop)
        job_set_state(c, j, JOB_FINISHING, now);
    if (j->state == JOB_RUNNING && j->hold != HOLD_NONE)
        hold_step(c, j, now);
    if (j->state == JOB_RUNNING && !j->eval_mode) {
        age_step(c, j, now);
        snap_step(c, j, now);
    }
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
