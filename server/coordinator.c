#include "server/coordinator.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

#define JOBS_KEPT 64u /* of those that are over, for their status */

struct coordinator *coordinator_create(const struct coordinator_options *o)
{
    struct coordinator *c = must_alloc(sizeof *c);
    c->options = *o;
    c->actions_end = &c->actions;
    load_begin(c);
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
    past_free(c);
    mem_free(c);
}

/* ---- the machine's turn ---- */

/* Input and bugs meet every member alike; for want of something, another may do better
 * (coordinator_recover). */
static bool fail_by_member(struct coordinator *c, struct job_run *j, const struct fellow *f,
                           uint64_t now)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    if (s == NULL || s->failure == NULL || PLANT(bad_record_moves) ||
        (s->failure->kind != PARAMD__CONTROL__FAILURE__KIND__INPUT &&
         s->failure->kind != PARAMD__CONTROL__FAILURE__KIND__BUG))
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
    if (!job_is_over(j) && j->formed)
        take_failures(c, j, now);
    if (!job_is_over(j) && j->formed)
        leave_step(c, j, now);
    record_step(c, j, now);
    switch (j->state) {
    case JOB_QUEUED:
        queued_step(c, j, now);
        break;
    case JOB_RECOVERING:
        if (j->adopting)
            adopt_step(c, j, now);
        else
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
    case JOB_DONE:
    case JOB_FAILED:
    case JOB_STOPPED:
        break;
    }
    if (!job_is_over(j) && j->formed)
        slots_step(c, j, now);
    if (!job_is_over(j))
        watch_step(c, j, now);
    job_release(c, j, now);
}

/* Until nothing moves: a job may pass several states on one report. */
static void advance(struct coordinator *c, uint64_t now)
{
    c->now_ms = now;
    if (!c->loaded) {
        if (c->load_id == 0 && now >= c->load_retry_ms)
            load_begin(c);
        return;
    }
    leave_pool(c);
    for (struct job_run *j = c->jobs; j != NULL; j = j->next) {
        enum job_state before;
        do {
            before = j->state;
            job_step(c, j, now);
        } while (j->state != before);
    }
}

/* ---- members ---- */

struct fellow *fellow_find(const struct coordinator *c, const char *id)
{
    struct fellow *f = c->fellows;
    while (f != NULL && strcmp(f->id, id) != 0)
        f = f->next;
    return f;
}

/* Keeps them in the order of their ids, so that the same members are dealt out the same way. */
struct fellow *fellow_add(struct coordinator *c, const char *id, bool is_server)
{
    struct fellow *f = must_alloc(sizeof *f);
    f->id = must_strdup(id);
    f->is_server = is_server;
    struct fellow **at = &c->fellows;
    while (*at != NULL && strcmp((*at)->id, f->id) < 0)
        at = &(*at)->next;
    f->next = *at;
    *at = f;
    return f;
}

enum err coordinator_member(struct coordinator *c, Paramd__Control__MemberState *state,
                            uint64_t now_ms)
{
    enum err e = ERR_NONE;
    if (state->term > c->options.term && !PLANT(old_term_followed))
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
        f = fellow_add(c, state->member, strcmp(state->role, "server") == 0);
    if (f->state == NULL)
        act_log(c, COORDINATOR_INFO, "member joined member=%s role=%s address=%s", f->id,
                state->role, state->address);
    f->named = false;
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
    c->now_ms = now_ms;
    for (struct job_run *j = c->jobs; j != NULL; j = j->next)
        lose_member(c, j, f, true, why, now_ms);
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

static void forget_old(struct coordinator *c)
{
    uint32_t over = 0;
    for (const struct job_run *j = c->jobs; j != NULL; j = j->next)
        over += job_is_over(j);
    struct job_run **at = &c->jobs;
    while (*at != NULL) {
        struct job_run *j = *at;
        bool hidden = job_find(c, j->name) != j; /* refused, or another one has the name */
        if (!job_is_over(j) || j->releasing || j->recording != RECORD_NONE ||
            (!hidden && over <= JOBS_KEPT)) {
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
    c->now_ms = now_ms;
    if (!c->loaded)
        return err_set(ERR_UNAVAILABLE, "this leader is new and reads the registry; try again");
    enum err e = job_make(request, &j);
    if (e != ERR_NONE)
        return e;
    forget_old(c);
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
    j->submitted_unix_ms = now_ms + c->options.unix_offset_ms;
    struct job_run **end = &c->jobs;
    while (*end != NULL)
        end = &(*end)->next;
    *end = j;
    job_note(c, j, COORDINATOR_INFO, "submitted mode=%s servers=%u workers=%u ranks=%u hash=%.12s",
             j->mode, j->server_count, j->worker_count, j->job->train.ranks, j->job->hash);
    *job_out = j->name;
    advance(c, now_ms);
    return ERR_NONE;
}

/* The latest of this name, refused or not. */
static struct job_run *find_submitted(struct coordinator *c, const char *name)
{
    struct job_run *found = NULL;
    for (struct job_run *j = c->jobs; j != NULL; j = j->next)
        if (strcmp(j->name, name) == 0)
            found = j;
    return found;
}

enum err coordinator_submitted(struct coordinator *c, const char *job, bool *pending)
{
    const struct job_run *j = find_submitted(c, job);
    *pending = j != NULL && !job_is_over(j) && !j->taken;
    return j != NULL && job_is_refused(j) ? err_set(ERR_REFUSED, "%s", j->why) : ERR_NONE;
}

void coordinator_withdraw(struct coordinator *c, const char *job, uint64_t now_ms)
{
    struct job_run *j = find_submitted(c, job);
    if (j == NULL || job_is_over(j) || j->taken || j->recording != RECORD_NONE)
        return;
    c->now_ms = now_ms;
    job_fail(c, j, now_ms, "the job is not taken, because its checkpoints cannot be looked at: %s",
             j->why != NULL ? j->why : j->storage_uri);
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
                      (j->state == JOB_RUNNING || j->state == JOB_FINISHING || j->adopting);
    c->now_ms = now_ms;
    if (gracefully) {
        job_note(c, j, COORDINATOR_INFO, "stops at the next drain point");
        j->stop_asked = true;
        record_note(c, j);
    } else {
        job_set_state(c, j, JOB_STOPPED, now_ms);
        const char *newest = j->newest_name;
        job_set_why(j, "%s; %s%s", request->kill ? "killed" : "stopped without a new checkpoint",
                    newest != NULL ? "the newest checkpoint is " : "there is no checkpoint",
                    newest != NULL ? newest : "");
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

void coordinator_pause(struct coordinator *c, bool pause)
{
    if (c->pause == pause)
        return;
    c->pause = pause;
    act_log(c, pause ? COORDINATOR_WARN : COORDINATOR_INFO, "%s",
            pause ? "the registry is away for too long: shards hold at the next drain point"
                  : "the registry is back: shards go on");
}

bool coordinator_is_loaded(const struct coordinator *c)
{
    return c->loaded;
}

const char *coordinator_unheard(const struct coordinator *c, size_t index)
{
    for (const struct fellow *f = c->fellows; f != NULL; f = f->next)
        if (f->named && index-- == 0)
            return f->id;
    return NULL;
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
    mem_free(a->history);
    mem_free(a);
}

void coordinator_result(struct coordinator *c, const struct coordinator_result *r, uint64_t now_ms)
{
    struct checkpoint_manifest *unclaimed = r->manifest;
    c->now_ms = now_ms;
    if (r->id != 0 && r->id == c->load_id)
        load_result(c, r, now_ms);
    for (struct job_run *j = c->jobs; r->id != 0 && j != NULL; j = j->next) {
        if (j->record_id == r->id) {
            record_result(c, j, r, now_ms);
            break;
        }
        if (job_is_over(j))
            continue;
        if (j->action_id == r->id) {
            pick_result(c, j, r, now_ms);
            unclaimed = NULL;
        } else if (j->publish_id == r->id) {
            snap_result(c, j, r, now_ms);
        }
    }
    checkpoint_manifest_destroy(unclaimed);
    advance(c, now_ms);
}
