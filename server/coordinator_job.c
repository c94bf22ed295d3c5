#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

#define RELEASE_MS 10000u /* servers wait so long for workers that do not let go */

struct job_run *job_find(struct coordinator *c, const char *name)
{
    struct job_run *found = NULL;
    for (struct job_run *j = c->jobs; j != NULL; j = j->next)
        if (!job_is_refused(j) && (name[0] == '\0' || strcmp(j->name, name) == 0))
            found = j;
    return found;
}

bool job_is_refused(const struct job_run *j)
{
    return job_is_over(j) && !j->taken && j->recording == RECORD_NONE;
}

/* ---- making one ---- */

static enum err set_eval(struct job_run *j, const char *uri)
{
    char *directory = must_strdup(uri);
    size_t size = strlen(directory);
    while (size > 1 && directory[size - 1] == '/')
        directory[--size] = '\0';
    char *slash = strrchr(directory, '/');
    const char *name = slash != NULL ? slash + 1 : directory;
    struct candidate *one = must_alloc(sizeof *one);
    j->candidates = one;
    j->candidate_count = 1;
    enum err e = checkpoint_name_parse(name, &one->generation, &one->step);
    if (e != ERR_NONE) {
        mem_free(directory);
        return err_prefix(e, "checkpoint '%s'", uri);
    }
    one->committed = true;
    j->eval_uri = must_strdup(directory);
    j->newest_name = must_strdup(name);
    j->newest = one->step;
    if (slash != NULL)
        *slash = '\0';
    j->storage_uri = must_strdup(slash != NULL ? directory : ".");
    mem_free(directory);
    return ERR_NONE;
}

static void set_storage(struct job_run *j)
{
    const char *uri = j->job->checkpoint.uri;
    size_t size = strlen(uri);
    while (size > 1 && uri[size - 1] == '/')
        size--;
    j->storage_uri = must_format("%.*s/%s", (int)size, uri, j->name);
}

static enum err check_job(const struct job_run *j)
{
    const struct job *job = j->job;
    if (!j->eval_mode && strcmp(j->mode, "train") != 0)
        return err_set(ERR_UNSUPPORTED, "mode '%s': there are train and eval", j->mode);
    if (job->train.ranks < job->resources.workers)
        return err_set(
            ERR_INPUT,
            "train.ranks is %u, resources.workers %u: a worker without a rank has nothing "
            "to do; set train.ranks to %u or more, or take fewer workers",
            job->train.ranks, job->resources.workers, job->resources.workers);
    if (job->resources.servers == 0 || job->resources.workers == 0)
        return err_set(ERR_INPUT,
                       "resources.servers is %u, resources.workers %u: both must be 1 or more",
                       job->resources.servers, job->resources.workers);
    if (j->resume && j->fresh)
        return err_set(ERR_INPUT, "--resume and --fresh exclude each other");
    return ERR_NONE;
}

enum err job_make(const Paramd__Control__SubmitRequest *request, struct job_run **out)
{
    struct job_run *j = must_alloc(sizeof *j);
    j->yaml = must_strdup(request->job_yaml);
    j->mode = must_strdup(request->mode[0] != '\0' ? request->mode : "train");
    j->eval_mode = strcmp(j->mode, "eval") == 0;
    j->resume = request->resume || request->resume_auto;
    j->resume_auto = request->resume_auto;
    j->fresh = request->fresh;
    j->owner = must_strdup(request->owner);
    j->shutdown_at_end = request->shutdown_at_end;
    paramd__control__time_shares__init(&j->shares);
    j->latest_step = j->newest = j->best_step = j->wanted = j->now_wanted = NO_STEP;
    struct job_source source = {.what = "job", .text = j->yaml, .size = strlen(j->yaml)};
    enum err e = job_parse(&source, &j->job);
    if (e == ERR_NONE) {
        j->name = must_strdup(j->job->name);
        e = check_job(j);
    }
    if (e == ERR_NONE && j->eval_mode)
        e = set_eval(j, request->checkpoint);
    else if (e == ERR_NONE)
        set_storage(j);
    if (e != ERR_NONE) {
        job_free(j);
        return e;
    }
    j->server_count = j->servers_wanted = j->job->resources.servers;
    j->worker_count = j->workers_wanted = j->job->resources.workers;
    j->servers = must_alloc(j->server_count * sizeof *j->servers);
    slots_init(j);
    *out = j;
    return ERR_NONE;
}

void job_free(struct job_run *j)
{
    if (j == NULL)
        return;
    for (size_t i = 0; i < j->candidate_count; i++)
        mem_free(j->candidates[i].refused);
    mem_free(j->candidates);
    for (size_t i = 0; i < j->column_count; i++)
        mem_free(j->columns[i]);
    mem_free(j->columns);
    for (uint32_t i = 0; i < j->warning_count; i++)
        mem_free(j->warnings[i]);
    checkpoint_manifest_destroy(j->manifest);
    evaluation_destroy(j->evaluation);
    layout_destroy(j->layout);
    model_destroy(j->model);
    features_spec_destroy(j->features);
    job_destroy(j->job);
    char *texts[] = {j->name,  j->yaml,           j->mode,        j->eval_uri,  j->storage_uri,
                     j->why,   j->index_checksum, j->newest_name, j->best_name, j->recorded,
                     j->owner, j->device_class,   j->restore_name};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        mem_free(texts[i]);
    for (uint32_t w = 0; j->shares_of != NULL && w < j->workers_wanted; w++)
        str_deinit(&j->shares_of[w].encoded);
    for (uint32_t i = 0; i < LINES_KEPT; i++)
        mem_free(j->lines[i].text);
    void *const arrays[] = {j->servers,    j->workers,   j->lease,        j->host,     j->vacant_ms,
                            j->next_lease, j->next_host, j->next_workers, j->shares_of};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        mem_free(arrays[i]);
    mem_free(j->evals);
    mem_free(j);
}

/* ---- states ---- */

bool job_is_over(const struct job_run *j)
{
    return j->state == JOB_DONE || j->state == JOB_FAILED || j->state == JOB_STOPPED;
}

const char *job_state_name(enum job_state s)
{
    static const char *const names[] = {"QUEUED",  "FORMING",   "RESTORING",
                                        "RUNNING", "FINISHING", "RECOVERING",
                                        "DONE",    "FAILED",    "STOPPED"};
    return names[s];
}

void job_set_state(struct coordinator *c, struct job_run *j, enum job_state s, uint64_t now)
{
    if (j->state == s)
        return;
    job_note(c, j, COORDINATOR_INFO, "state=%s was=%s generation=%llu", job_state_name(s),
             job_state_name(j->state), (unsigned long long)j->generation);
    j->state = s;
    j->progress_ms = now;
    if (s != JOB_FAILED)
        job_why_take(j, NULL);
}

void job_why_take(struct job_run *j, char *text)
{
    mem_free(j->why);
    j->why = text;
}

void job_warn_take(struct coordinator *c, struct job_run *j, char *text)
{
    job_note(c, j, COORDINATOR_WARN, "%s", text);
    bool told = false;
    for (uint32_t i = 0; i < j->warning_count; i++)
        told |= strcmp(j->warnings[i], text) == 0;
    if (!told && j->warning_count < WARNING_MAX)
        j->warnings[j->warning_count++] = text;
    else
        mem_free(text);
}

void job_fail_take(struct coordinator *c, struct job_run *j, uint64_t now, char *text)
{
    if (job_is_over(j)) {
        mem_free(text);
        return;
    }
    job_note(c, j, COORDINATOR_ERROR, "failed: %s", text);
    job_why_take(j, text);
    job_end(c, j, JOB_FAILED, now);
}

void add_shares(const struct job_run *j, const struct fellow *f, Paramd__Control__TimeShares *to)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    if (s == NULL || s->worker == NULL || s->worker->shares == NULL)
        return;
    const Paramd__Control__TimeShares *t = s->worker->shares;
    to->read += t->read;
    to->exchange += t->exchange;
    to->upload += t->upload;
    to->compute += t->compute;
    to->wait += t->wait;
    to->total += t->total;
}

void keep_shares(struct job_run *j, const struct fellow *f)
{
    add_shares(j, f, &j->shares);
}

void job_end(struct coordinator *c, struct job_run *j, enum job_state s, uint64_t now)
{
    j->ended_unix_ms = now + c->options.unix_offset_ms;
    j->adopting = false;
    if (j->begun_unix_ms != 0 && j->end_ms == 0)
        j->end_ms = now;
    for (uint32_t w = 0; w < j->worker_count; w++)
        keep_shares(j, j->workers[w]);
    job_set_state(c, j, s, now);
    j->action_id = j->publish_id = 0;
    j->hold = HOLD_NONE;
    j->snap = SNAP_IDLE;
    if (j->taken || j->recording != RECORD_NONE)
        record_begin(c, j, RECORD_END, now);
    j->releasing = true;
    j->released_ms = now;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        if (j->workers[w] == NULL)
            continue;
        j->workers[w]->job = NULL;
        j->workers[w]->shutdown |= j->shutdown_at_end;
    }
    for (uint32_t w = 0; w < j->workers_wanted; w++) {
        if (j->next_workers[w] != NULL)
            j->next_workers[w]->reserved = NULL;
        j->next_workers[w] = NULL;
    }
    job_release(c, j, now);
}

static bool has_let_go(const struct job_run *j, const struct fellow *f)
{
    return f == NULL || f->job != NULL || f->state == NULL || strcmp(f->state->job, j->name) != 0;
}

void job_release(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (!j->releasing)
        return;
    bool gone = true;
    for (uint32_t w = 0; w < j->worker_count; w++)
        gone &= has_let_go(j, j->workers[w]);
    if (!gone && now - j->released_ms < RELEASE_MS)
        return;
    j->releasing = false;
    for (uint32_t s = 0; s < j->server_count; s++) {
        if (j->servers[s] != NULL)
            j->servers[s]->job = NULL;
        j->servers[s] = NULL;
    }
    for (uint32_t w = 0; w < j->worker_count; w++)
        j->workers[w] = NULL;
    for (struct fellow *f = c->fellows; j->shutdown_at_end && f != NULL; f = f->next)
        f->shutdown |= f->job == NULL;
}

/* ---- what members say ---- */

const Paramd__Control__MemberState *state_of(const struct job_run *j, const struct fellow *f)
{
    if (f == NULL || f->state == NULL || strcmp(f->state->job, j->name) != 0 ||
        f->state->generation != j->generation)
        return NULL;
    return f->state;
}

const Paramd__Control__MemberState *answer_of(const struct job_run *j, const struct fellow *f)
{
    const Paramd__Control__MemberState *s = state_of(j, f);
    bool answers = s != NULL && s->orders_version >= f->answer_version;
    return answers || PLANT(answers_unasked) ? s : NULL;
}

uint32_t shards_per_server(const struct job_run *j)
{
    return j->job->resources.shards > 0 ? j->job->resources.shards : 1;
}

const Paramd__Control__ShardState *shard_state(const struct job_run *j, uint32_t shard,
                                               bool answered)
{
    const struct fellow *f = j->servers[shard / shards_per_server(j)];
    const Paramd__Control__MemberState *s = answered ? answer_of(j, f) : state_of(j, f);
    if (s == NULL || s->server == NULL)
        return NULL;
    for (size_t i = 0; i < s->server->n_shards; i++)
        if (s->server->shards[i]->shard == shard)
            return s->server->shards[i];
    return NULL;
}

/* ---- actions ---- */

struct coordinator_action *act(struct coordinator *c, enum coordinator_action_kind kind,
                               const struct job_run *j)
{
    struct coordinator_action *a = must_alloc(sizeof *a);
    a->kind = kind;
    a->id = ++c->next_id;
    a->term = c->options.term;
    a->job = j != NULL ? must_strdup(j->name) : NULL;
    *c->actions_end = a;
    c->actions_end = &a->next;
    return a;
}

void job_note_take(struct coordinator *c, struct job_run *j, enum coordinator_log level, char *text)
{
    act_log(c, level, "job=%s %s", j->name, text);
    struct log_line *l = &j->lines[j->line_count % LINES_KEPT];
    mem_free(l->text);
    *l = (struct log_line){
        .number = ++j->line_count,
        .unix_ms = c->now_ms + c->options.unix_offset_ms,
        .level = level,
        .text = text,
    };
}

void act_log_take(struct coordinator *c, enum coordinator_log level, char *text)
{
    struct coordinator_action *a = act(c, ACTION_LOG, NULL);
    a->level = level;
    a->text = text;
}
