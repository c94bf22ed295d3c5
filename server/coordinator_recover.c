#include <string.h>

#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * What becomes of a job when a member is lost, stuck, in want of something, or asks to leave. A
 * worker's ranks move and nothing rolls back; without a server's shards the job begins a new
 * generation at the newest checkpoint. Losses that come faster than progress fail the job.
 */

#define SHUN_MS  5000u  /* a member that failed for want of something is not taken again at once */
#define SHUNS    3u     /* so often that time is four times as long, as a trial may cost a minute */
#define DRAIN_MS 30000u /* a server that leaves waits so long for a checkpoint */

/* true: the job has failed. */
static bool count_trouble(struct coordinator *c, struct job_run *j, const char *why, uint64_t now)
{
    uint64_t high = j->high_step;
    if (j->newest != NO_STEP && j->newest > high)
        high = j->newest;
    if (high > j->trouble_mark) {
        j->trouble_mark = high;
        j->troubles = 0;
    }
    j->troubles++;
    if (c->options.recovery_limit == 0 || j->troubles <= c->options.recovery_limit)
        return false;
    job_fail(c, j, now,
             "%u losses in a row without progress beyond step %llu (recovery_limit %u); the last: "
             "%s",
             j->troubles, (unsigned long long)high, c->options.recovery_limit, why);
    return true;
}

/* ---- a new generation ---- */

static void let_go(struct job_run *j)
{
    for (uint32_t s = 0; s < j->servers_wanted; s++) {
        if (j->servers[s] != NULL)
            j->servers[s]->job = NULL;
        j->servers[s] = NULL;
    }
    for (uint32_t w = 0; w < j->workers_wanted; w++) {
        if (j->workers[w] != NULL)
            j->workers[w]->job = NULL;
        if (j->next_workers[w] != NULL)
            j->next_workers[w]->reserved = NULL;
        j->workers[w] = j->next_workers[w] = NULL;
    }
}

static void forget_formation(struct job_run *j)
{
    let_go(j);
    j->formed = j->adopting = j->form = j->start = false;
    j->recording = RECORD_NONE;
    j->record_id = j->action_id = j->publish_id = 0;
    layout_destroy(j->layout);
    j->layout = NULL;
    checkpoint_manifest_destroy(j->manifest);
    j->manifest = NULL;
    mem_free(j->restore_name);
    j->restore_name = NULL;
    j->server_count = j->servers_wanted;
    j->worker_count = j->workers_wanted;
    j->restored_ms = j->start_step = j->drain_ms = 0;
    j->hold = HOLD_NONE;
    j->hold_stop = j->hold_best = j->verdict_stop = j->stopped_early = false;
    j->hold_step = j->verdict_step = 0;
    j->snap = SNAP_IDLE;
    age_reset(j, 0);
    j->snap_retry_ms = j->snap_failures = j->snap_margin = j->disarm = 0;
    j->latest_step = j->wanted = j->now_wanted = j->newest = j->best_step = NO_STEP;
    j->base = j->latest = j->epoch_base = (struct sums){0};
    j->eval_count = 0;
    j->end_ms = 0;
    mem_free(j->best_name);
    j->best_name = NULL;
    shares_clear(j);
    for (uint32_t r = 0; r < j->job->train.ranks; r++)
        j->lease[r] = 1; /* leases are of a generation */
}

static void pick_anew(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (!j->eval_mode) {
        for (size_t i = 0; i < j->candidate_count; i++)
            mem_free(j->candidates[i].refused);
        mem_free(j->candidates);
        j->candidates = NULL;
        j->candidate_count = 0;
    }
    j->picked = 0;
    j->pick = PICK_LIST;
    j->retry_ms = now;
    pick_ask(c, j, now);
}

void job_recover(struct coordinator *c, struct job_run *j, bool trouble, uint64_t now,
                 const char *why)
{
    if (trouble && count_trouble(c, j, why, now))
        return;
    for (uint32_t w = 0; w < j->worker_count; w++)
        keep_shares(j, j->workers[w]);
    forget_formation(j);
    j->recoveries++;
    if (j->recover_ms == 0)
        j->recover_ms = now > 0 ? now : 1;
    job_set_state(c, j, JOB_RECOVERING, now);
    job_note(c, j, COORDINATOR_WARN, "recovers: %s", why);
    job_set_why(j, "recovers: %s", why);
    pick_anew(c, j, now);
}

/* ---- a member less ---- */

static void vacate(struct coordinator *c, struct job_run *j, uint32_t slot, bool trouble,
                   const char *why, uint64_t now)
{
    const struct fellow *f = j->workers[slot];
    keep_shares(j, f);
    job_note(c, j, COORDINATOR_WARN, "worker '%s' is out (%s): its ranks move", f->id, why);
    j->workers[slot] = NULL;
    j->vacant_ms[slot] = now;
    if (trouble)
        count_trouble(c, j, why, now);
    if (!job_is_over(j))
        job_set_why(j, "waits for a worker in the place of '%s' (%s)", f->id, why);
}

static void lose_worker(struct coordinator *c, struct job_run *j, uint32_t slot, bool trouble,
                        const char *why, uint64_t now)
{
    const struct fellow *f = j->workers[slot];
    bool moves = j->formed && j->state != JOB_FORMING && j->state != JOB_QUEUED;
    if (moves) {
        vacate(c, j, slot, trouble, why, now);
        return;
    }
    char *text = must_format("worker '%s' was lost while the job formed (%s)", f->id, why);
    job_recover(c, j, trouble, now, text);
    mem_free(text);
}

static void lose_server(struct coordinator *c, struct job_run *j, uint32_t index, bool trouble,
                        const char *why, uint64_t now)
{
    char *text = must_format("server '%s' was lost (%s)", j->servers[index]->id, why);
    job_recover(c, j, trouble, now, text);
    mem_free(text);
}

/* Its end is decided and recorded; what it has of shards and ranks is not needed any more. */
static bool is_decided(const struct job_run *j)
{
    return job_is_over(j) || (j->state == JOB_FINISHING && j->hold == HOLD_NONE && !j->adopting);
}

void lose_member(struct coordinator *c, struct job_run *j, struct fellow *f, bool trouble,
                 const char *why, uint64_t now)
{
    for (uint32_t w = 0; w < j->workers_wanted; w++)
        if (j->next_workers[w] == f)
            j->next_workers[w] = NULL;
    if (f->reserved == j)
        f->reserved = NULL;
    struct fellow **list = f->is_server ? j->servers : j->workers;
    uint32_t count = f->is_server ? j->server_count : j->worker_count;
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] != f)
            continue;
        if (f->job == j)
            f->job = NULL;
        if (is_decided(j))
            list[i] = NULL;
        else if (f->is_server)
            lose_server(c, j, i, trouble, why, now);
        else
            lose_worker(c, j, i, trouble, why, now);
        if (job_is_over(j)) /* one loss too many: nothing was formed anew, and `f` may be freed */
            list[i] = NULL;
        return;
    }
}

/* ---- those that are there and yet out ---- */

/* For want of memory, a disk, a peer: another member may do better. */
static bool take_want(struct coordinator *c, struct job_run *j, struct fellow *f, uint64_t now)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    if (s == NULL || s->failure == NULL ||
        (s->failure->kind != PARAMD__CONTROL__FAILURE__KIND__RESOURCE && !PLANT(bad_record_moves)))
        return false;
    f->shuns = f->shunned_job == j->sequence ? f->shuns + 1 : 0;
    f->shunned_job = j->sequence;
    f->shunned_ms = now + (SHUN_MS << 2 * (f->shuns < SHUNS ? f->shuns : SHUNS));
    char *why = must_strdup(s->failure->text);
    lose_member(c, j, f, true, why, now);
    mem_free(why);
    return true;
}

static bool take_stuck(struct coordinator *c, struct job_run *j, struct fellow *f, uint64_t now)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    uint64_t limit = c->options.stuck_timeout_ms, busy = 0, step = 0;
    uint32_t number = 0;
    if (s == NULL || limit == 0)
        return false;
    for (size_t i = 0; s->worker != NULL && i < s->worker->n_ranks; i++) {
        if (s->worker->ranks[i]->busy_ms <= busy)
            continue;
        busy = s->worker->ranks[i]->busy_ms;
        number = s->worker->ranks[i]->rank;
        step = s->worker->ranks[i]->step;
    }
    for (size_t i = 0; s->server != NULL && i < s->server->n_shards; i++) {
        if (s->server->shards[i]->busy_ms <= busy)
            continue;
        busy = s->server->shards[i]->busy_ms;
        number = s->server->shards[i]->shard;
        step = s->server->shards[i]->applied;
    }
    if (busy <= limit)
        return false;
    f->shunned_job = j->sequence;
    f->shunned_ms = UINT64_MAX;
    char *why = must_format("%s %u has been stuck for %llu ms after step %llu, stuck_timeout is "
                            "%llu ms",
                            f->is_server ? "shard" : "rank", number, (unsigned long long)busy,
                            (unsigned long long)step, (unsigned long long)limit);
    lose_member(c, j, f, true, why, now);
    mem_free(why);
    return true;
}

/* A server takes a checkpoint along, if there is time for one. */
static bool server_may_go(struct job_run *j, uint64_t now)
{
    if (j->state != JOB_RUNNING || j->eval_mode || slots_lack(j))
        return j->state != JOB_FINISHING;
    if (j->drain_ms == 0) {
        j->drain_ms = now > 0 ? now : 1;
        j->drain_newest = j->newest;
        uint64_t smallest, largest;
        if (j->now_wanted == NO_STEP && applied_range(j, &smallest, &largest))
            j->now_wanted = largest;
    }
    return j->newest != j->drain_newest || now - j->drain_ms > DRAIN_MS;
}

static bool take_leaving(struct coordinator *c, struct job_run *j, struct fellow *f, uint64_t now)
{
    if (f->state == NULL || !f->state->leaving || (f->is_server && !server_may_go(j, now)))
        return false;
    f->shutdown = true;
    lose_member(c, j, f, false, "it was asked to leave", now);
    return true;
}

static bool take_one(struct coordinator *c, struct job_run *j, struct fellow *f, uint64_t now)
{
    return f != NULL &&
           (take_want(c, j, f, now) || take_stuck(c, j, f, now) || take_leaving(c, j, f, now));
}

void leave_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    for (uint32_t w = 0; w < j->worker_count && !is_decided(j); w++)
        if (take_one(c, j, j->workers[w], now) && !j->formed)
            return;
    for (uint32_t s = 0; s < j->server_count && !is_decided(j); s++)
        if (take_one(c, j, j->servers[s], now) && !j->formed)
            return;
}

void leave_pool(struct coordinator *c)
{
    for (struct fellow *f = c->fellows; f != NULL; f = f->next)
        f->shutdown |= f->job == NULL && f->state != NULL && f->state->leaving;
}
