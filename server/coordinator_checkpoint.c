#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * A checkpoint is armed at a drain point on all shards; one that is past it, or still streams, says
 * no, and a later one is taken. When all shards' files are durable the manifest is published, which
 * is the commit. One at a time.
 */

#define RETRY_MS     2000u
#define RETRY_MAX_MS 30000u
#define MUST_MS      600000u /* one that the job cannot go on without is tried for so long */
#define SLACK_MS     5000u   /* shards watch the time-out themselves */

bool applied_range(const struct job_run *j, uint64_t *smallest, uint64_t *largest)
{
    uint64_t low = UINT64_MAX, high = 0;
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, false);
        if (s == NULL)
            return false;
        low = s->applied < low ? s->applied : low;
        high = s->applied > high ? s->applied : high;
    }
    *smallest = low;
    *largest = high;
    return true;
}

bool drained_all(const struct job_run *j, uint64_t *step)
{
    uint64_t low = UINT64_MAX;
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, false);
        if (s == NULL)
            return false;
        low = s->drained < low ? s->drained : low;
    }
    *step = low;
    return true;
}

/* ---- which one is next ---- */

/* Where all shards rest, or will. */
static uint64_t paused_target(const struct job_run *j, uint64_t largest)
{
    uint64_t smallest, applied, drained;
    if (applied_range(j, &smallest, &applied) && drained_all(j, &drained) && drained > 0 &&
        smallest == applied && drained == applied)
        return drained;
    return steps_drain_at_or_after(&j->steps, largest + 1 + j->snap_margin);
}

/* The drain point where a checkpoint that somebody asked for is taken; NO_STEP: nobody asked, or it
 * is there. */
static uint64_t asked_target(const struct job_run *j, uint64_t largest)
{
    if (j->wanted != NO_STEP)
        return j->wanted;
    if (j->is_paused)
        return paused_target(j, largest);
    if (j->now_wanted == NO_STEP && !j->stop_asked)
        return NO_STEP;
    if (j->hold != HOLD_NONE)
        return j->hold_step;
    if (PLANT(checkpoint_anywhere) && largest + 1 + j->snap_margin < j->steps.last_step)
        return largest + 1 + j->snap_margin;
    return steps_drain_at_or_after(&j->steps, largest + 1 + j->snap_margin);
}

static uint64_t periodic_target(const struct job_run *j, uint64_t largest)
{
    uint64_t every = j->job->checkpoint.every_steps;
    if (every == 0 || j->hold_stop)
        return NO_STEP;
    uint64_t base = j->newest != NO_STEP && j->newest > largest ? j->newest : largest;
    uint64_t step = steps_drain_at_or_after(&j->steps, (base / every + 1) * every);
    return step < j->steps.last_step ? step : NO_STEP;
}

static void arm(struct coordinator *c, struct job_run *j, uint64_t step)
{
    j->snap = SNAP_ARMING;
    j->snap_step = step;
    j->snap_drained_ms = 0;
    j->disarm = 0;
    ask_servers(c, j);
}

static void disarm(struct coordinator *c, struct job_run *j)
{
    j->snap = SNAP_DISARMING;
    j->disarm = j->snap_step;
    ask_servers(c, j);
}

static void stop_now(struct coordinator *c, struct job_run *j, uint64_t now)
{
    job_set_state(c, j, JOB_STOPPED, now);
    job_set_why(j, "stopped; checkpoint %s", j->newest_name);
    job_end(c, j, JOB_STOPPED, now);
}

static void idle_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint64_t smallest, largest;
    if (now < j->snap_retry_ms || !applied_range(j, &smallest, &largest))
        return;
    uint64_t target = asked_target(j, largest);
    if (target != NO_STEP && target == j->newest) {
        /* Held at the very step that has one already. */
        j->wanted = j->now_wanted = NO_STEP;
        age_reset(j, now);
        if (j->stop_asked && j->state == JOB_RUNNING)
            stop_now(c, j, now);
        return;
    }
    if (target == NO_STEP)
        target = periodic_target(j, largest);
    if (target != NO_STEP)
        arm(c, j, target);
}

/* ---- one under way ---- */

struct census {
    uint32_t unheard, armed, durable, refused, abandoned, drained;
    const char *why; /* of one that abandoned */
};

static struct census take_census(const struct job_run *j)
{
    struct census n = {0};
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, true);
        if (s == NULL) {
            n.unheard++;
            continue;
        }
        n.drained += s->drained >= j->snap_step;
        if (s->durable == j->snap_step) {
            n.durable++;
        } else if (s->abandoned == j->snap_step) {
            n.abandoned++;
            n.why = s->abandoned_why;
        } else if (s->refused_arm == j->snap_step) {
            n.refused++;
        } else {
            n.armed += s->armed == j->snap_step;
        }
    }
    return n;
}

/* A store in trouble is not asked more often for it; one that is back is not kept waiting long. */
static uint64_t retry_after_ms(uint64_t failures)
{
    uint64_t wait = RETRY_MS;
    for (uint64_t i = 3; i < failures && wait < RETRY_MAX_MS; i++)
        wait *= 2;
    return wait < RETRY_MAX_MS ? wait : RETRY_MAX_MS;
}

static void give_up(struct coordinator *c, struct job_run *j, const char *why, uint64_t now)
{
    job_warn(c, j, "the checkpoint of step %llu was given up: %s", (unsigned long long)j->snap_step,
             why);
    if (j->snap_failures++ == 0)
        j->snap_first_failure_ms = now;
    j->snap_retry_ms = now + retry_after_ms(j->snap_failures);
    j->pause_lifted = false;
    if (j->wanted == j->snap_step && now - j->snap_first_failure_ms > MUST_MS) {
        job_fail(c, j, now, "the checkpoint of step %llu could not be made in %u attempts: %s",
                 (unsigned long long)j->snap_step, (unsigned)j->snap_failures, why);
        return;
    }
    disarm(c, j);
}

/* Something sooner is asked for, and the one that is armed has not begun. */
static bool is_overtaken(const struct job_run *j, const struct census *n)
{
    uint64_t smallest, largest;
    if (n->drained > 0 || n->durable > 0 || !applied_range(j, &smallest, &largest))
        return false;
    uint64_t target = asked_target(j, largest);
    return target != NO_STEP && target < j->snap_step;
}

static void arming_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    struct census n = take_census(j);
    if (n.abandoned > 0) {
        give_up(c, j, n.why, now);
    } else if (n.refused > 0) {
        job_note(c, j, COORDINATOR_INFO,
                 "drain point %llu came too soon for %u shards; a later one is taken",
                 (unsigned long long)j->snap_step, n.refused);
        j->snap_margin = j->snap_margin * 2 + j->steps.drain_every;
        j->pause_lifted = j->is_paused;
        disarm(c, j);
    } else if (is_overtaken(j, &n)) {
        disarm(c, j);
    } else if (n.armed + n.durable == j->layout->shard_count) {
        j->snap = SNAP_ARMED;
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct checkpoint_file *)a)->name,
                  ((const struct checkpoint_file *)b)->name);
}

static void add_files(struct checkpoint_manifest *m, const Paramd__Control__ShardState *s)
{
    m->files = must_realloc(m->files, m->file_count + s->n_files + 1, sizeof *m->files);
    for (size_t i = 0; i < s->n_files; i++)
        m->files[m->file_count++] = (struct checkpoint_file){
            .name = must_strdup(s->files[i]->name),
            .size = s->files[i]->size,
            .index_crc = s->files[i]->index_crc,
            .rows = s->files[i]->rows,
        };
}

static void add_ranks(struct checkpoint_manifest *m, const Paramd__Control__ShardState *s,
                      uint32_t ranks)
{
    m->rank_count = ranks;
    m->ranks = must_alloc(ranks * sizeof *m->ranks);
    for (size_t i = 0; i < s->n_durable_reports; i++) {
        const Paramd__Control__RankReport *r = s->durable_reports[i];
        if (r->rank >= ranks)
            continue;
        m->ranks[r->rank].examples = r->examples;
        m->ranks[r->rank].loss_sum = r->loss_sum;
        m->ranks[r->rank].weight_sum = r->weight_sum;
        m->ranks[r->rank].loss_scale = r->loss_scale;
        str_append_span(&m->ranks[r->rank].metrics,
                        span_make((const char *)r->metrics.data, r->metrics.len));
    }
}

static struct checkpoint_manifest *make_manifest(const struct job_run *j)
{
    struct checkpoint_manifest *m = must_alloc(sizeof *m);
    m->job = must_strdup(j->name);
    m->generation = j->generation;
    m->step = j->snap_step;
    memcpy(m->job_hash, j->job->hash, sizeof m->job_hash);
    size_t size = strlen(j->index_checksum);
    memcpy(m->index_checksum, j->index_checksum,
           size < SHA256_HEX_SIZE ? size : SHA256_HEX_SIZE - 1);
    struct str yaml = {0};
    job_write(j->job, &yaml);
    m->job_yaml = yaml.data;
    m->columns = must_alloc((j->column_count + 1) * sizeof *m->columns);
    m->column_count = (uint32_t)j->column_count;
    for (size_t i = 0; i < j->column_count; i++)
        m->columns[i] = must_strdup(j->columns[i]);
    m->train_examples = j->train_examples;
    m->has_eval = j->eval_examples > 0;
    m->device_class = must_strdup(j->device_class != NULL ? j->device_class : "");
    for (uint32_t i = 0; i < j->layout->shard_count; i++)
        add_files(m, shard_state(j, i, true));
    qsort(m->files, m->file_count, sizeof *m->files, by_name);
    add_ranks(m, shard_state(j, 0, true), j->job->train.ranks);
    struct str evals = {0};
    evals_write(j, j->snap_step, &evals);
    m->evals_json = evals.data;
    return m;
}

static void publish(struct coordinator *c, struct job_run *j)
{
    char *name = checkpoint_name(j->generation, j->snap_step);
    struct coordinator_action *a = act(c, ACTION_PUBLISH, j);
    a->uri = must_format("%s/%s", j->storage_uri, name);
    a->manifest = make_manifest(j);
    mem_free(name);
    j->publish_id = a->id;
    j->snap = SNAP_PUBLISHING;
}

/* A manifest has the evaluation of its own step, so that who resumes knows it. */
static bool awaits_evaluation(const struct job_run *j)
{
    if (PLANT(evaluation_after_commit))
        return false;
    return j->eval_examples > 0 && steps_is_eval(&j->steps, j->snap_step) &&
           evals_find(j, j->snap_step, false) == NULL;
}

static void armed_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    struct census n = take_census(j);
    if (n.drained > 0 && j->snap_drained_ms == 0)
        j->snap_drained_ms = now > 0 ? now : 1;
    if (n.unheard > 0)
        return;
    if (n.abandoned > 0)
        give_up(c, j, n.why, now);
    else if (n.durable == j->layout->shard_count && !awaits_evaluation(j))
        publish(c, j);
    else if (n.durable > 0 && PLANT(manifest_early))
        publish(c, j);
    else if (n.durable < j->layout->shard_count && j->snap_drained_ms != 0 &&
             now - j->snap_drained_ms > (uint64_t)j->job->checkpoint.timeout_ms + SLACK_MS)
        give_up(c, j, "it took longer than checkpoint.timeout", now);
    else if (is_overtaken(j, &n))
        disarm(c, j);
}

static void disarming_step(struct job_run *j)
{
    struct census n = take_census(j);
    if (n.unheard == 0 && n.armed == 0)
        j->snap = SNAP_IDLE;
}

/* ---- published ---- */

static void retain(struct coordinator *c, const struct job_run *j)
{
    struct coordinator_action *a = act(c, ACTION_RETAIN, j);
    a->uri = must_strdup(j->storage_uri);
    a->keep = j->job->checkpoint.keep;
    a->protect = must_alloc(4 * sizeof *a->protect);
    size_t n = 0;
    a->protect[n++] = must_strdup(j->newest_name);
    if (j->best_name != NULL && !PLANT(best_unprotected))
        a->protect[n++] = must_strdup(j->best_name);
    if (j->restore_name != NULL)
        a->protect[n++] = must_strdup(j->restore_name);
}

void note_best(struct job_run *j)
{
    if (!j->job->early_stopping.restore_best || j->best_step == NO_STEP ||
        j->best_step != j->newest)
        return;
    mem_free(j->best_name);
    j->best_name = must_strdup(j->newest_name);
}

static void published(struct coordinator *c, struct job_run *j, uint64_t now)
{
    j->snap = SNAP_IDLE;
    j->newest = j->snap_step;
    mem_free(j->newest_name);
    j->newest_name = checkpoint_name(j->generation, j->snap_step);
    if (j->is_paused)
        job_note(c, j, COORDINATOR_INFO, "training goes on");
    j->snap_failures = j->snap_margin = 0;
    age_reset(j, now);
    note_best(j);
    if (j->wanted == j->newest)
        j->wanted = NO_STEP;
    if (j->now_wanted != NO_STEP && j->now_wanted <= j->newest)
        j->now_wanted = NO_STEP;
    job_note(c, j, COORDINATOR_INFO, "checkpoint name=%s", j->newest_name);
    record_note(c, j);
    retain(c, j);
    if (j->stop_asked && j->state == JOB_RUNNING)
        stop_now(c, j, now);
}

void snap_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                 uint64_t now)
{
    j->publish_id = 0;
    if (j->snap != SNAP_PUBLISHING)
        return;
    /* One of this generation and step can only be of these very shards: an earlier leader, or an
     * earlier attempt whose answer was lost, committed it. Its files may have other names. */
    if (r->code == ERR_NONE || (r->code == ERR_EXISTS && !PLANT(own_commit_refused)))
        published(c, j, now);
    else if (r->code == ERR_REFUSED)
        job_fail(c, j, now, "checkpoint of step %llu: %s", (unsigned long long)j->snap_step,
                 r->text);
    else
        give_up(c, j, r->text, now);
}

void snap_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    switch (j->snap) {
    case SNAP_IDLE:
        idle_step(c, j, now);
        break;
    case SNAP_ARMING:
        arming_step(c, j, now);
        break;
    case SNAP_ARMED:
        armed_step(c, j, now);
        break;
    case SNAP_PUBLISHING:
        break;
    case SNAP_DISARMING:
        disarming_step(j);
        break;
    }
}
