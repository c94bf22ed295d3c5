#include "server/coordinator.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "server/coordinator_internal.h"

#define JOBS_KEPT 64u /* of those that are over, for their status */

struct coordinator *coordinator_create(const struct coordinator_options *o)
{
    struct coordinator *c = must_alloc(sizeof *c);
    c->options = *o;
    c->actions_end = &c->actions;
    return c;
}

static void fellow_free(struct fellow *f)
{
    if (f->state != NULL)
        paramd__control__member_state__free_unpacked(f->state, NULL);
    str_deinit(&f->orders);
    mem_free(f->id);
    mem_free(f);
}

void coordinator_destroy(struct coordinator *c)
{
    if (c == NULL)
        return;
    while (c->jobs != NULL) {
        struct job_run *next = c->jobs->next;
        job_free(c->jobs);
        c->jobs = next;
    }
    while (c->fellows != NULL) {
        struct fellow *next = c->fellows->next;
        fellow_free(c->fellows);
        c->fellows = next;
    }
    while (c->actions != NULL)
        coordinator_action_destroy(coordinator_next_action(c));
    mem_free(c);
}

/* ---- the machine's turn ---- */

static bool fail_by_member(struct coordinator *c, struct job_run *j, const struct fellow *f,
                           uint64_t now)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    if (s == NULL || s->failure == NULL ||
        s->failure->kind == PARAMD__CONTROL__FAILURE__KIND__NONE ||
        s->failure->kind == PARAMD__CONTROL__FAILURE__KIND__RESTORE_REFUSED)
        return false;
    job_fail(c, j, now, "%s '%s': %s", f->is_server ? "server" : "worker", f->id, s->failure->text);
    return true;
}

static void take_failures(struct coordinator *c, struct job_run *j, uint64_t now)
{
    for (uint32_t w = 0; w < j->worker_count; w++)
        if (j->workers[w] != NULL && fail_by_member(c, j, j->workers[w], now))
            return;
    for (uint32_t s = 0; s < j->server_count; s++)
        if (j->servers[s] != NULL && fail_by_member(c, j, j->servers[s], now))
            return;
}

static void job_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->state != JOB_QUEUED && !job_is_over(j))
        take_failures(c, j, now);
    switch (j->state) {
    case JOB_QUEUED:
        queued_step(c, j, now);
        break;
    case JOB_FORMING:
        forming_step(c, j, now);
        break;
    case JOB_RESTORING:
        restoring_step(c, j, now);
        break;
    case JOB_RUNNING:
        running_step(c, j, now);
        break;
    case JOB_FINISHING:
        finishing_step(c, j, now);
        break;
    case JOB_RECOVERING:
    case JOB_DONE:
    case JOB_FAILED:
    case JOB_STOPPED:
        break;
    }
    if (!job_is_over(j))
        watch_step(c, j, now);
    job_release(c, j, now);
}

/* Until nothing moves: a job may pass several states on one report. */
static void advance(struct coordinator *c, uint64_t now)
{
    for (struct job_run *j = c->jobs; j != NULL; j = j->next) {
        enum job_state before;
        do {
            before = j->state;
            job_step(c, j, now);
        } while (j->state != before);
    }
}

/* ---- members ---- */

static struct fellow *fellow_find(const struct coordinator *c, const char *id)
{
    struct fellow *f = c->fellows;
    while (f != NULL && strcmp(f->id, id) != 0)
        f = f->next;
    return f;
}

/* Keeps them in the order of their ids, so that the same members are dealt out the same way. */
static struct fellow *fellow_add(struct coordinator *c, const Paramd__Control__MemberState *state)
{
    struct fellow *f = must_alloc(sizeof *f);
    f->id = must_strdup(state->member);
    f->is_server = strcmp(state->role, "server") == 0;
    struct fellow **at = &c->fellows;
    while (*at != NULL && strcmp((*at)->id, f->id) < 0)
        at = &(*at)->next;
    f->next = *at;
    *at = f;
    act_log(c, COORDINATOR_INFO, "member joined member=%s role=%s address=%s", f->id, state->role,
            state->address);
    return f;
}

enum err coordinator_member(struct coordinator *c, Paramd__Control__MemberState *state,
                            uint64_t now_ms)
{
    enum err e = ERR_NONE;
    if (state->term > c->options.term)
        e = err_set(ERR_REFUSED, "member '%s' knows term %llu, this leader has %llu", state->member,
                    (unsigned long long)state->term, (unsigned long long)c->options.term);
    else if (state->member[0] == '\0' ||
             (strcmp(state->role, "server") != 0 && strcmp(state->role, "worker") != 0))
        e = err_set(ERR_INPUT, "member '%s' has the role '%s'; there are server and worker",
                    state->member, state->role);
    if (e != ERR_NONE) {
        paramd__control__member_state__free_unpacked(state, NULL);
        return e;
    }
    struct fellow *f = fellow_find(c, state->member);
    if (f == NULL)
        f = fellow_add(c, state);
    f->seen_ms = now_ms;
    /* Two exchanges of a member may arrive in either order. */
    bool older = f->state != NULL && state->sequence != 0 && state->sequence < f->state->sequence;
    if (older) {
        paramd__control__member_state__free_unpacked(state, NULL);
        return ERR_NONE;
    }
    if (f->state != NULL)
        paramd__control__member_state__free_unpacked(f->state, NULL);
    f->state = state;
    /* Versions of an earlier leader say nothing of our orders. */
    if (state->term < c->options.term)
        state->orders_version = 0;
    advance(c, now_ms);
    return ERR_NONE;
}

void coordinator_heard(struct coordinator *c, const char *member, uint64_t now_ms)
{
    struct fellow *f = fellow_find(c, member);
    if (f != NULL)
        f->seen_ms = now_ms;
}

static void lose_from_job(struct coordinator *c, struct job_run *j, struct fellow *f,
                          const char *why, uint64_t now)
{
    struct fellow **list = f->is_server ? j->servers : j->workers;
    uint32_t count = f->is_server ? j->server_count : j->worker_count;
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] != f)
            continue;
        list[i] = NULL;
        if (j->state == JOB_QUEUED || j->state == JOB_FINISHING || job_is_over(j))
            continue;
        const char *from = j->newest_name != NULL ? j->newest_name : "the initial state";
        job_fail(c, j, now, "%s '%s' was lost (%s); `paramctl run --resume` continues from %s%s",
                 f->is_server ? "server" : "worker", f->id, why,
                 j->newest_name != NULL ? "checkpoint " : "", from);
    }
}

void coordinator_member_lost(struct coordinator *c, const char *member, const char *why,
                             uint64_t now_ms)
{
    struct fellow **at = &c->fellows;
    while (*at != NULL && strcmp((*at)->id, member) != 0)
        at = &(*at)->next;
    struct fellow *f = *at;
    if (f == NULL)
        return;
    act_log(c, f->shutdown ? COORDINATOR_INFO : COORDINATOR_WARN, "member left member=%s why='%s'",
            f->id, why);
    for (struct job_run *j = c->jobs; j != NULL; j = j->next)
        lose_from_job(c, j, f, why, now_ms);
    *at = f->next;
    fellow_free(f);
    advance(c, now_ms);
}

void coordinator_tick(struct coordinator *c, uint64_t now_ms)
{
    struct fellow *f = c->fellows;
    while (f != NULL) {
        struct fellow *next = f->next;
        if (now_ms - f->seen_ms > c->options.peer_timeout_ms) {
            char *id = must_strdup(f->id);
            char *why =
                must_format("silent for %llu ms", (unsigned long long)(now_ms - f->seen_ms));
            coordinator_member_lost(c, id, why, now_ms);
            mem_free(id);
            mem_free(why);
        }
        f = next;
    }
    advance(c, now_ms);
}

bool coordinator_is_last(const struct coordinator *c, const char *member)
{
    for (const struct fellow *f = c->fellows; f != NULL; f = f->next)
        if (strcmp(f->id, member) != 0)
            return false;
    return true;
}

/* ---- requests ---- */

static void forget_old(struct coordinator *c, const char *same_name)
{
    uint32_t over = 0;
    for (const struct job_run *j = c->jobs; j != NULL; j = j->next)
        over += job_is_over(j);
    struct job_run **at = &c->jobs;
    while (*at != NULL) {
        struct job_run *j = *at;
        bool same = strcmp(j->name, same_name) == 0;
        if (!job_is_over(j) || j->releasing || (!same && over <= JOBS_KEPT)) {
            at = &j->next;
            continue;
        }
        over--;
        *at = j->next;
        job_free(j);
    }
}

static bool is_same(const struct job_run *j, const struct job_run *k)
{
    return strcmp(j->yaml, k->yaml) == 0 && strcmp(j->mode, k->mode) == 0 &&
           j->resume == k->resume && j->fresh == k->fresh;
}

enum err coordinator_submit(struct coordinator *c, const Paramd__Control__SubmitRequest *request,
                            uint64_t now_ms, const char **job_out)
{
    struct job_run *j;
    enum err e = job_make(request, &j);
    if (e != ERR_NONE)
        return e;
    forget_old(c, j->name);
    struct job_run *other = job_find(c, j->name);
    /* One that is over but still being released does not stand in the way: its generation is
     * another. */
    if (other != NULL && !job_is_over(other)) {
        bool same = is_same(other, j);
        if (!same)
            e = err_set(ERR_EXISTS,
                        "a job named '%s' is %s; stop it, or give this one another name",
                        other->name, job_state_name(other->state));
        job_free(j);
        if (same)
            *job_out = other->name;
        return e;
    }
    j->sequence = ++c->next_sequence;
    j->progress_ms = now_ms;
    struct job_run **end = &c->jobs;
    while (*end != NULL)
        end = &(*end)->next;
    *end = j;
    act_log(c, COORDINATOR_INFO,
            "submitted job=%s mode=%s servers=%u workers=%u ranks=%u hash=%.12s", j->name, j->mode,
            j->server_count, j->worker_count, j->job->train.ranks, j->job->hash);
    pick_ask(c, j, now_ms);
    *job_out = j->name;
    advance(c, now_ms);
    return ERR_NONE;
}

enum err coordinator_submitted(struct coordinator *c, const char *job, bool *pending)
{
    const struct job_run *j = job_find(c, job);
    *pending = j != NULL && !job_is_over(j) && j->pick != PICK_DONE;
    bool refused = j != NULL && j->state == JOB_FAILED && (j->round == 0 || j->pick != PICK_DONE);
    return refused ? err_set(ERR_REFUSED, "%s", j->why) : ERR_NONE;
}

static enum err find_live(struct coordinator *c, const char *name, struct job_run **out)
{
    struct job_run *j = job_find(c, name);
    if (j == NULL)
        return err_set(ERR_NOT_FOUND, "there is no job '%s'", name);
    if (job_is_over(j))
        return err_set(ERR_REFUSED, "job '%s' is %s already", j->name, job_state_name(j->state));
    *out = j;
    return ERR_NONE;
}

enum err coordinator_stop(struct coordinator *c, const Paramd__Control__StopRequest *request,
                          uint64_t now_ms)
{
    struct job_run *j;
    enum err e = find_live(c, request->job, &j);
    if (e != ERR_NONE)
        return e;
    bool gracefully = request->checkpoint && !request->kill && !j->eval_mode &&
                      (j->state == JOB_RUNNING || j->state == JOB_FINISHING);
    if (gracefully) {
        act_log(c, COORDINATOR_INFO, "job=%s stops at the next drain point", j->name);
        j->stop_asked = true;
    } else {
        job_set_state(c, j, JOB_STOPPED, now_ms);
        job_set_why(j, "%s", request->kill ? "killed" : "stopped without a checkpoint");
        job_end(c, j, JOB_STOPPED, now_ms);
    }
    advance(c, now_ms);
    return ERR_NONE;
}

enum err coordinator_checkpoint_now(struct coordinator *c, const char *job, uint64_t now_ms,
                                    uint64_t *step_out)
{
    struct job_run *j;
    enum err e = find_live(c, job, &j);
    if (e != ERR_NONE)
        return e;
    uint64_t smallest, largest;
    if (j->eval_mode || j->state != JOB_RUNNING || !applied_range(j, &smallest, &largest))
        return err_set(ERR_REFUSED, "job '%s' is %s; only a running training job takes checkpoints",
                       j->name, job_state_name(j->state));
    if (j->now_wanted == NO_STEP)
        j->now_wanted = largest;
    *step_out = steps_drain_at_or_after(&j->steps, largest + 1);
    advance(c, now_ms);
    return ERR_NONE;
}

/* ---- actions ---- */

struct coordinator_action *coordinator_next_action(struct coordinator *c)
{
    struct coordinator_action *a = c->actions;
    if (a == NULL)
        return NULL;
    c->actions = a->next;
    if (c->actions == NULL)
        c->actions_end = &c->actions;
    a->next = NULL;
    return a;
}

void coordinator_action_destroy(struct coordinator_action *a)
{
    if (a == NULL)
        return;
    for (char **p = a->protect; p != NULL && *p != NULL; p++)
        mem_free(*p);
    mem_free(a->protect);
    checkpoint_manifest_destroy(a->manifest);
    mem_free(a->job);
    mem_free(a->uri);
    mem_free(a->text);
    mem_free(a);
}

static void record_result(struct coordinator *c, struct job_run *j,
                          const struct coordinator_result *r, uint64_t now)
{
    j->record_id = 0;
    if (r->code == ERR_NONE) {
        j->verdict_step = j->hold_step;
        j->verdict_stop = j->hold_stop;
        j->hold = HOLD_NONE;
        return;
    }
    job_warn(c, j, "the registry did not take the verdict of step %llu: %s",
             (unsigned long long)j->hold_step, r->text);
    j->record_retry_ms = now + 1000;
}

void coordinator_result(struct coordinator *c, const struct coordinator_result *r, uint64_t now_ms)
{
    struct checkpoint_manifest *unclaimed = r->manifest;
    for (struct job_run *j = c->jobs; r->id != 0 && j != NULL; j = j->next) {
        if (job_is_over(j))
            continue;
        if (j->action_id == r->id) {
            pick_result(c, j, r, now_ms);
            unclaimed = NULL;
        } else if (j->publish_id == r->id) {
            snap_result(c, j, r, now_ms);
        } else if (j->record_id == r->id) {
            record_result(c, j, r, now_ms);
        }
    }
    checkpoint_manifest_destroy(unclaimed);
    advance(c, now_ms);
}
