#include <string.h>

#include "common/mem.h"
#include "server/coordinator_internal.h"

#define LOOK_MS   10000u /* between looks at stragglers */
#define STRAGGLES 1.5    /* times what the others take a step */

static void mix(uint64_t *mark, uint64_t value)
{
    *mark = (*mark ^ value) * 0x100000001b3ull;
}

/* Indexing, restoring, evaluating and the last checkpoint take long and show no steps. Then counts
 * that the members are at work; while training it does not, because what is read ahead or logged is
 * no step. */
static bool is_long_task(const struct job_run *j)
{
    return j->state == JOB_FORMING || j->state == JOB_RESTORING || j->state == JOB_FINISHING ||
           j->hold != HOLD_NONE;
}

static void mix_activity(uint64_t *mark, const struct job_run *j,
                         const Paramd__Control__MemberState *m)
{
    if (m != NULL && is_long_task(j))
        mix(mark, m->activity);
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
        mix_activity(&mark, j, m);
        for (size_t i = 0; m != NULL && m->server != NULL && i < m->server->n_shards; i++) {
            const Paramd__Control__ShardState *shard = m->server->shards[i];
            mix(&mark, shard->restored);
            mix(&mark, shard->applied);
            mix(&mark, shard->durable);
        }
    }
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *m = state_of(j, j->workers[w]);
        mix_activity(&mark, j, m);
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

/* Long tasks get more time: a sort or a merge of what was read is not counted. */
static uint64_t patience_ms(const struct coordinator *c, const struct job_run *j)
{
    uint64_t stall = c->options.stall_timeout_ms;
    switch (j->state) {
    case JOB_QUEUED:
    case JOB_RECOVERING: /* for daemons, or the storage; its status says which */
        return UINT64_MAX;
    case JOB_FORMING:
    case JOB_RESTORING:
    case JOB_FINISHING:
        return 10 * stall;
    default:
        if (c->pause || j->is_paused || slots_lack(j) || j->recording != RECORD_NONE)
            return UINT64_MAX; /* for the registry, or a worker */
        return j->hold != HOLD_NONE ? 10 * stall : stall;
    }
}

/* Milliseconds a step of the worker's trainer since the last look, without waiting for shards. */
static bool look_at_pace(struct fellow *f, const Paramd__Control__MemberState *s)
{
    const Paramd__Control__TimeShares *t = s->worker->shares;
    if (t == NULL || s->worker->n_ranks == 0)
        return false;
    uint64_t busy = t->read + t->exchange + t->compute + t->upload, steps = 0;
    for (size_t i = 0; i < s->worker->n_ranks; i++)
        steps += s->worker->ranks[i]->step;
    struct straggling *g = &f->straggling;
    uint64_t made = steps > g->steps && busy > g->busy_ns && g->steps > 0 ? steps - g->steps : 0;
    g->step_ms = made > 0 ? (double)(busy - g->busy_ns) / 1e6 / (double)made : 0;
    g->busy_ns = busy;
    g->steps = steps;
    return made > 0;
}

static void warn_straggler(struct coordinator *c, struct job_run *j, struct fellow *f,
                           double others_ms, uint64_t step)
{
    if (f->straggling.warned)
        return;
    f->straggling.warned = true;
    job_warn(c, j, "worker '%s' is slow: %.1f ms a step of a rank, the others %.1f ms (step %llu)",
             f->id, f->straggling.step_ms, others_ms, (unsigned long long)step);
}

/* Whoever takes half as long again as the mean of the others holds up all. */
static void look_at_stragglers(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->state != JOB_RUNNING || j->hold != HOLD_NONE || now - j->straggler_ms < LOOK_MS)
        return;
    j->straggler_ms = now;
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        if (s == NULL || s->worker == NULL || !look_at_pace(j->workers[w], s))
            continue;
        sum += j->workers[w]->straggling.step_ms;
        count++;
    }
    for (uint32_t w = 0; count > 1 && w < j->worker_count; w++) {
        struct fellow *f = j->workers[w];
        if (f == NULL || f->straggling.step_ms == 0)
            continue;
        double others = (sum - f->straggling.step_ms) / (count - 1);
        if (others > 0 && f->straggling.step_ms > STRAGGLES * others)
            warn_straggler(c, j, f, others, j->high_step);
        else
            f->straggling.warned = false;
    }
}

void watch_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    look_at_stragglers(c, j, now);
    uint64_t mark = progress_mark(j), patience = patience_ms(c, j);
    if (mark != j->progress_mark || patience == UINT64_MAX) {
        j->progress_mark = mark;
        j->progress_ms = now;
        return;
    }
    uint64_t since = now - j->progress_ms;
    if (since <= patience)
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
