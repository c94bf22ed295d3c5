#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * What the registry keeps of a job: the submission, the formation, the last verdict. A record is
 * written whole, with what it is to bring into effect as if it were so already; if another leader
 * reads it before we learn that it was taken, it does what we would have done.
 */

#define RETRY_MS 1000u

static void put_list(struct json *o, const char *name, struct fellow *const *list, uint32_t count)
{
    struct json *a = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_push(a, json_text(list[i] != NULL ? list[i]->id : ""));
    json_set(o, name, a);
}

static void put_ranks(struct json *o, const struct job_run *j, bool moving)
{
    struct json *hosts = json_array(), *leases = json_array();
    for (uint32_t r = 0; r < j->job->train.ranks; r++) {
        uint32_t host = moving ? j->next_host[r] : j->host[r];
        json_push(hosts, json_int(host == NO_SLOT ? -1 : (int64_t)host));
        json_push(leases, json_int((int64_t)(moving ? j->next_lease[r] : j->lease[r])));
    }
    json_set(o, "hosts", hosts);
    json_set(o, "leases", leases);
}

static void put_formation(struct json *record, const struct job_run *j)
{
    struct json *o = json_object();
    bool moving = j->recording == RECORD_MOVE;
    put_list(o, "servers", j->servers, j->server_count);
    put_list(o, "workers", moving ? j->next_workers : j->workers, j->worker_count);
    put_ranks(o, j, moving);
    json_set_bool(o, "running", j->state == JOB_RUNNING || j->state == JOB_FINISHING);
    json_set_text(o, "restore", j->restore_name != NULL ? j->restore_name : "");
    json_set_text(o, "restore_checksum", j->manifest_sha);
    json_set_int(o, "start_step", (int64_t)j->start_step);
    json_set_text(o, "device_class", j->device_class != NULL ? j->device_class : "");
    json_set_int(o, "base_examples", (int64_t)j->base.examples);
    json_set_int(o, "base_loss", j->base.loss);
    json_set_int(o, "base_weight", j->base.weight);
    json_set(record, "formation", o);
}

static void put_index(struct json *record, const struct job_run *j)
{
    struct json *o = json_object(), *columns = json_array();
    json_set_text(o, "checksum", j->index_checksum);
    json_set_int(o, "train_examples", (int64_t)j->train_examples);
    json_set_int(o, "eval_examples", (int64_t)j->eval_examples);
    json_set_int(o, "rounds", j->round);
    for (size_t i = 0; i < j->column_count; i++)
        json_push(columns, json_text(j->columns[i]));
    json_set(o, "columns", columns);
    json_set(record, "index", o);
}

static void put_submission(struct json *o, const struct job_run *j)
{
    json_set_text(o, "yaml", j->yaml);
    json_set_bool(o, "resume", j->resume);
    json_set_bool(o, "resume_auto", j->resume_auto);
    json_set_bool(o, "fresh", j->fresh);
    json_set_bool(o, "shutdown_at_end", j->shutdown_at_end);
    json_set_text(o, "owner", j->owner);
    json_set_int(o, "sequence", (int64_t)j->sequence);
    json_set_int(o, "submitted_unix_ms", (int64_t)j->submitted_unix_ms);
}

static void put_history(struct json *o, const struct job_run *j)
{
    json_set_int(o, "first_generation", (int64_t)j->first_generation);
    json_set_int(o, "ended_unix_ms", (int64_t)j->ended_unix_ms);
    json_set_int(o, "begun_unix_ms", (int64_t)j->begun_unix_ms);
    json_set_int(o, "recoveries", j->recoveries);
    json_set_int(o, "moves", j->moves);
    json_set_int(o, "first_examples", (int64_t)j->first_base.examples);
    json_set_bool(o, "has_begun", j->has_begun);
    json_set_bool(o, "stop_asked", j->stop_asked);
    json_set_bool(o, "stopped_early", j->stopped_early);
    json_set_text(o, "best", j->best_name != NULL ? j->best_name : "");
    json_set_text(o, "why", j->why != NULL ? j->why : "");
    struct str evals = {0};
    evals_write(j, UINT64_MAX - 1, &evals);
    json_set_text(o, "evals", evals.data != NULL ? evals.data : "");
    str_deinit(&evals);
}

static char *write_record(const struct job_run *j)
{
    bool judging = j->recording == RECORD_VERDICT;
    struct json *o = json_object();
    json_set_text(o, "job", j->name);
    json_set_text(o, "mode", j->mode);
    json_set_text(o, "state", job_state_name(j->state));
    json_set_int(o, "generation", (int64_t)j->generation);
    const char *newest = j->newest_name != NULL ? j->newest_name : j->recorded;
    json_set_text(o, "checkpoint", newest != NULL ? newest : "");
    json_set_int(o, "verdict_step", (int64_t)(judging ? j->hold_step : j->verdict_step));
    json_set_bool(o, "verdict_stop", judging ? j->hold_stop : j->verdict_stop);
    put_submission(o, j);
    put_history(o, j);
    if (j->formed || j->recording == RECORD_FORM)
        put_formation(o, j);
    if (j->indexed)
        put_index(o, j);
    struct str text = {0};
    json_write(o, false, &text);
    json_destroy(o);
    return text.data;
}

/* 0: this job has no record. An evaluation may have the name of the job that it evaluates; and
 * nothing is known before the listing. */
static uint64_t act_record(struct coordinator *c, const struct job_run *j)
{
    if (j->eval_mode || j->generation == 0)
        return 0;
    struct coordinator_action *a = act(c, ACTION_RECORD, j);
    a->text = write_record(j);
    if (j->recording == RECORD_END) {
        a->history = past_write(j);
        a->sequence = j->sequence;
    }
    return a->id;
}

static void remember(struct coordinator *c, const struct job_run *j)
{
    char *past = past_write(j);
    past_add(c, past);
    mem_free(past);
}

static void take_effect(struct coordinator *c, struct job_run *j, uint64_t now)
{
    enum record_what what = j->recording;
    j->recording = RECORD_NONE;
    j->record_id = 0;
    switch (what) {
    case RECORD_SUBMIT:
        j->taken = true;
        break;
    case RECORD_FORM:
        j->formed = true;
        j->progress_ms = now;
        job_set_state(c, j, JOB_FORMING, now);
        break;
    case RECORD_MOVE:
        slots_moved(c, j, now);
        break;
    case RECORD_VERDICT:
        j->verdict_step = j->hold_step;
        j->verdict_stop = j->hold_stop;
        j->hold = HOLD_NONE;
        break;
    case RECORD_END:
        remember(c, j);
        break;
    case RECORD_NONE:
        break;
    }
}

void record_begin(struct coordinator *c, struct job_run *j, enum record_what what, uint64_t now)
{
    j->recording = what;
    j->record_id = act_record(c, j);
    j->record_retry_ms = now + RETRY_MS;
    bool early = (what == RECORD_VERDICT && PLANT(verdict_before_record)) ||
                 (what == RECORD_FORM && PLANT(form_before_record));
    if (j->record_id == 0 || early)
        take_effect(c, j, now);
}

void record_note(struct coordinator *c, const struct job_run *j)
{
    act_record(c, j);
}

bool record_awaits_end(const struct coordinator *c, const struct job_run *j)
{
    for (const struct job_run *k = c->jobs; k != j; k = k->next)
        if (k->recording == RECORD_END && strcmp(k->name, j->name) == 0)
            return !PLANT(end_over_successor);
    return false;
}

void record_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->recording != RECORD_NONE && j->record_id == 0 && now >= j->record_retry_ms)
        record_begin(c, j, j->recording, now);
}

void record_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                   uint64_t now)
{
    if (r->code == ERR_NONE) {
        take_effect(c, j, now);
        return;
    }
    job_warn(c, j, "the registry did not take the record: %s", r->text);
    j->record_id = 0;
    j->record_retry_ms = now + RETRY_MS;
}
