#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * A new leader reads all records. Jobs that had not begun, or were between formations, are queued
 * again and form anew. A formation that ran is adopted: when all its servers say that they hold
 * their shards of that generation, it goes on where it stands; else it recovers. Until that is
 * known nobody is told anything, because an order that says less than the last leader's would undo
 * it.
 */

#define LOAD_RETRY_MS 1000u

void load_begin(struct coordinator *c)
{
    c->load_id = act(c, ACTION_LOAD, NULL)->id;
}

/* ---- a record ---- */

/* The text, or NULL when it is absent or empty; to be freed. */
static char *text_of(const struct json *o, const char *name)
{
    const char *text = json_as_text(json_get(o, name));
    return text != NULL && text[0] != '\0' ? must_strdup(text) : NULL;
}

static uint64_t number_of(const struct json *o, const char *name)
{
    return (uint64_t)json_as_int(json_get(o, name));
}

static bool flag_of(const struct json *o, const char *name)
{
    return json_as_bool(json_get(o, name));
}

static enum job_state state_of_record(const struct json *o)
{
    const char *name = json_as_text(json_get(o, "state"));
    for (int s = JOB_QUEUED; name != NULL && s <= JOB_STOPPED; s++)
        if (strcmp(name, job_state_name((enum job_state)s)) == 0)
            return (enum job_state)s;
    return JOB_FAILED;
}

static enum err make_job(const struct json *o, struct job_run **out)
{
    const char *yaml, *mode;
    enum err e = json_get_text(o, "yaml", &yaml);
    if (e == ERR_NONE)
        e = json_get_text(o, "mode", &mode);
    if (e != ERR_NONE)
        return e;
    const char *owner = json_as_text(json_get(o, "owner"));
    Paramd__Control__SubmitRequest request = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    request.job_yaml = (char *)yaml;
    request.mode = (char *)mode;
    request.resume = flag_of(o, "resume");
    request.resume_auto = flag_of(o, "resume_auto");
    request.fresh = flag_of(o, "fresh");
    request.owner = (char *)(owner != NULL ? owner : "");
    request.shutdown_at_end = flag_of(o, "shutdown_at_end");
    return job_make(&request, out);
}

static void take_past(struct job_run *j, const struct json *o)
{
    j->resume = flag_of(o, "resume");
    j->sequence = number_of(o, "sequence");
    j->submitted_unix_ms = number_of(o, "submitted_unix_ms");
    j->ended_unix_ms = number_of(o, "ended_unix_ms");
    j->begun_unix_ms = number_of(o, "begun_unix_ms");
    j->generation = number_of(o, "generation");
    j->first_generation = number_of(o, "first_generation");
    j->recoveries = (uint32_t)number_of(o, "recoveries");
    j->moves = (uint32_t)number_of(o, "moves");
    j->first_base.examples = number_of(o, "first_examples");
    j->has_begun = flag_of(o, "has_begun");
    j->stop_asked = flag_of(o, "stop_asked");
    j->stopped_early = flag_of(o, "stopped_early");
    j->newest_name = text_of(o, "checkpoint");
    j->why = text_of(o, "why");
    j->taken = true;
}

static void take_index_of(struct job_run *j, const struct json *o)
{
    struct json *index;
    if (json_get_object(o, "index", &index) != ERR_NONE)
        return;
    const struct json *columns = json_get(index, "columns");
    j->index_checksum = text_of(index, "checksum");
    j->train_examples = number_of(index, "train_examples");
    j->eval_examples = number_of(index, "eval_examples");
    j->round = (uint32_t)number_of(index, "rounds");
    j->column_count = json_count(columns);
    j->columns = must_alloc((j->column_count + 1) * sizeof *j->columns);
    for (size_t i = 0; i < j->column_count; i++) {
        const char *name = json_as_text(json_at(columns, i));
        j->columns[i] = must_strdup(name != NULL ? name : "");
    }
    j->indexed = j->index_checksum != NULL && make_model(j) == ERR_NONE;
}

/* ---- a formation ---- */

static bool take_members(struct coordinator *c, struct job_run *j, const struct json *list,
                         bool servers, uint64_t now)
{
    uint32_t most = servers ? j->servers_wanted : j->workers_wanted;
    uint32_t count = (uint32_t)json_count(list);
    if (count == 0 || count > most)
        return false;
    *(servers ? &j->server_count : &j->worker_count) = count;
    for (uint32_t i = 0; i < count; i++) {
        const char *id = json_as_text(json_at(list, i));
        if (id == NULL || id[0] == '\0') {
            if (servers)
                return false;
            j->vacant_ms[i] = now;
            continue;
        }
        struct fellow *f = fellow_find(c, id);
        if (f == NULL) {
            f = fellow_add(c, id, servers);
            f->named = true;
            f->seen_ms = now;
        }
        if (f->job != NULL || f->is_server != servers)
            return false;
        f->job = j;
        f->index = i;
        (servers ? j->servers : j->workers)[i] = f;
    }
    return true;
}

static bool take_ranks(struct job_run *j, const struct json *hosts, const struct json *leases)
{
    uint32_t ranks = j->job->train.ranks;
    if (json_count(hosts) != ranks || json_count(leases) != ranks)
        return false;
    for (uint32_t r = 0; r < ranks; r++) {
        int64_t host = json_as_int(json_at(hosts, r));
        if (host >= (int64_t)j->worker_count)
            return false;
        j->host[r] = host < 0 ? NO_SLOT : (uint32_t)host;
        j->lease[r] = (uint64_t)json_as_int(json_at(leases, r));
    }
    return true;
}

static bool take_formation(struct coordinator *c, struct job_run *j, const struct json *o,
                           uint64_t now)
{
    struct json *f;
    if (json_get_object(o, "formation", &f) != ERR_NONE || !flag_of(f, "running") || !j->indexed)
        return false;
    if (!take_members(c, j, json_get(f, "servers"), true, now) ||
        !take_members(c, j, json_get(f, "workers"), false, now) ||
        !take_ranks(j, json_get(f, "hosts"), json_get(f, "leases")))
        return false;
    j->restore_name = text_of(f, "restore");
    const char *sha = json_as_text(json_get(f, "restore_checksum"));
    if (sha != NULL && strlen(sha) < sizeof j->manifest_sha)
        memcpy(j->manifest_sha, sha, strlen(sha) + 1);
    j->start_step = number_of(f, "start_step");
    j->device_class = text_of(f, "device_class");
    j->base.examples = number_of(f, "base_examples");
    j->base.loss = json_as_int(json_get(f, "base_loss"));
    j->base.weight = json_as_int(json_get(f, "base_weight"));
    j->latest = j->epoch_base = j->base;
    j->verdict_step = PLANT(verdict_forgotten) ? 0 : number_of(o, "verdict_step");
    j->verdict_stop = flag_of(o, "verdict_stop");
    j->best_name = text_of(o, "best");
    uint64_t generation;
    j->newest = NO_STEP;
    if (j->newest_name != NULL &&
        checkpoint_name_parse(j->newest_name, &generation, &j->newest) != ERR_NONE)
        j->newest = NO_STEP;
    const char *evals = json_as_text(json_get(o, "evals"));
    return evals_take(j, evals) == ERR_NONE;
}

/* ---- taking over ---- */

static void insert_job(struct coordinator *c, struct job_run *j)
{
    struct job_run **at = &c->jobs;
    while (*at != NULL && (*at)->sequence < j->sequence)
        at = &(*at)->next;
    j->next = *at;
    *at = j;
    if (j->sequence > c->next_sequence)
        c->next_sequence = j->sequence;
}

static void resume_job(struct coordinator *c, struct job_run *j, const struct json *o,
                       enum job_state was, uint64_t now)
{
    take_index_of(j, o);
    j->pick = PICK_LIST;
    if (was == JOB_QUEUED && json_get(o, "formation") == NULL) {
        j->state = JOB_QUEUED;
        job_note(c, j, COORDINATOR_INFO, "is queued again by a new leader, term=%llu",
                 (unsigned long long)c->options.term);
        pick_ask(c, j, now);
        return;
    }
    j->state = JOB_RECOVERING;
    j->recover_ms = now > 0 ? now : 1;
    if (!take_formation(c, j, o, now)) {
        job_recover(c, j, false, now, "the leader was lost while the job had no running formation");
        return;
    }
    j->pick = PICK_DONE;
    j->formed = j->adopting = j->form = true;
    job_set_why(j, "a new leader asks the members how they stand");
    job_note(c, j, COORDINATOR_INFO, "is taken over by a new leader, term=%llu generation=%llu",
             (unsigned long long)c->options.term, (unsigned long long)j->generation);
}

static void load_one(struct coordinator *c, const char *text, uint64_t now)
{
    struct json *o;
    struct job_run *j = NULL;
    if (json_parse("registry record", text, strlen(text), &o) != ERR_NONE) {
        act_log(c, COORDINATOR_ERROR, "a job's record does not parse and is left alone: %s",
                err_text());
        return;
    }
    enum job_state was = state_of_record(o);
    if (make_job(o, &j) != ERR_NONE) {
        const char *name = json_as_text(json_get(o, "job"));
        act_log(c, COORDINATOR_ERROR, "the record of job '%s' cannot be taken over: %s",
                name != NULL ? name : "", err_text());
        json_destroy(o);
        return;
    }
    take_past(j, o);
    if (j->begun_unix_ms != 0)
        j->begin_ms = j->begun_unix_ms - c->options.unix_offset_ms;
    if (j->ended_unix_ms != 0)
        j->end_ms = j->ended_unix_ms - c->options.unix_offset_ms;
    insert_job(c, j);
    j->progress_ms = now;
    if (was == JOB_DONE || was == JOB_FAILED || was == JOB_STOPPED) {
        j->state = was;
        j->best_name = text_of(o, "best"); /* its result, if it stopped early */
    } else {
        resume_job(c, j, o, was, now);
    }
    json_destroy(o);
}

void load_result(struct coordinator *c, const struct coordinator_result *r, uint64_t now)
{
    c->load_id = 0;
    if (r->code != ERR_NONE) {
        act_log(c, COORDINATOR_WARN, "cannot read the records of the registry: %s", r->text);
        c->load_retry_ms = now + LOAD_RETRY_MS;
        return;
    }
    c->loaded = true;
    for (size_t i = 0; i < r->history_count; i++)
        past_add(c, r->history[i]);
    for (size_t i = 0; i < r->record_count; i++)
        load_one(c, r->records[i], now);
}

/* ---- adopting ---- */

/* The server holds all its shards of this generation. *heard: it has said something at all. */
static bool holds_shards(const struct job_run *j, uint32_t server, bool *heard)
{
    const struct fellow *f = j->servers[server];
    *heard = f->state != NULL;
    uint32_t each = shards_per_server(j);
    for (uint32_t i = 0; i < each; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, server * each + i, false);
        if (s == NULL || !s->restored)
            return false;
    }
    return true;
}

/* Drain point of a snapshot that the last leader had armed or not yet published; 0: none. */
static uint64_t find_snapshot(const struct job_run *j)
{
    uint64_t step = 0;
    for (uint32_t i = 0; i < j->layout->shard_count; i++) {
        const Paramd__Control__ShardState *s = shard_state(j, i, false);
        if (s->armed > step)
            step = s->armed;
        bool unpublished = j->newest == NO_STEP || s->durable > j->newest;
        if (unpublished && s->durable > step)
            step = s->durable;
    }
    return step;
}

static void adopted(struct coordinator *c, struct job_run *j, uint64_t now)
{
    j->adopting = false;
    if (make_layout(j) != ERR_NONE) {
        job_fail(c, j, now, "%s", err_text());
        return;
    }
    uint64_t snapshot = find_snapshot(j);
    j->start = true;
    j->recover_ms = 0;
    job_set_state(c, j, j->verdict_stop ? JOB_FINISHING : JOB_RUNNING, now);
    job_note(c, j, COORDINATOR_INFO, "goes on under the new leader, nothing rolls back");
    if (snapshot != 0 && !j->verdict_stop) {
        j->snap = SNAP_ARMING;
        j->snap_step = snapshot;
        j->snap_drained_ms = 0;
    }
    ask_servers(c, j);
}

void adopt_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    uint32_t unheard = 0;
    for (uint32_t s = 0; s < j->server_count; s++) {
        bool heard = false;
        if (j->servers[s] != NULL && holds_shards(j, s, &heard))
            continue;
        if (j->servers[s] != NULL && !heard) {
            unheard++;
            continue;
        }
        char *why = must_format("server '%s' does not hold its shards any more",
                                j->servers[s] != NULL ? j->servers[s]->id : "?");
        job_recover(c, j, true, now, why);
        mem_free(why);
        return;
    }
    if (unheard == 0)
        adopted(c, j, now);
}
