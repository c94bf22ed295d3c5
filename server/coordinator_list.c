#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "server/coordinator_internal.h"

/* Lists for paramctl: jobs of now and of the past, members, lines of a job's log. */

#define PAST_KEPT 500u

/* ---- members ---- */

static uint64_t step_of_member(const Paramd__Control__MemberState *s)
{
    uint64_t step = UINT64_MAX;
    for (size_t i = 0; s->server != NULL && i < s->server->n_shards; i++)
        step = s->server->shards[i]->applied < step ? s->server->shards[i]->applied : step;
    for (size_t i = 0; s->worker != NULL && i < s->worker->n_ranks; i++)
        step = s->worker->ranks[i]->step < step ? s->worker->ranks[i]->step : step;
    return step == UINT64_MAX ? 0 : step;
}

static void put_ranks(const struct fellow *f, Paramd__Control__MemberSummary *m)
{
    const struct job_run *j = f->job;
    if (j == NULL || f->is_server)
        return;
    m->ranks = must_alloc((j->job->train.ranks + 1) * sizeof *m->ranks);
    for (uint32_t r = 0; r < j->job->train.ranks; r++)
        if (j->formed && j->host[r] == f->index)
            m->ranks[m->n_ranks++] = r;
}

static void put_member(const struct fellow *f, Paramd__Control__MemberSummary *m)
{
    paramd__control__member_summary__init(m);
    m->member = f->id;
    m->role = f->is_server ? "server" : "worker";
    m->job = f->job != NULL ? f->job->name : (char *)"";
    m->state = f->state == NULL ? "unheard" : f->job != NULL ? "busy" : "free";
    if (f->state == NULL)
        return;
    if (f->state->leaving || f->shutdown)
        m->state = "leaving";
    else if (f->job == NULL && f->state->job[0] != '\0')
        m->state = "dropping";
    m->address = f->state->address;
    m->cores = f->state->cores;
    m->memory_bytes = f->state->memory_bytes;
    m->gpus = f->state->gpus;
    m->step = step_of_member(f->state);
    put_ranks(f, m);
}

struct members_list list_members(const struct coordinator *c, const struct job_run *j)
{
    struct members_list l = {0};
    size_t most = 1;
    for (const struct fellow *f = c->fellows; f != NULL; f = f->next)
        most++;
    l.list = must_alloc(most * sizeof *l.list);
    for (const struct fellow *f = c->fellows; f != NULL; f = f->next) {
        if (j != NULL && f->job != j)
            continue;
        l.list[l.count] = must_alloc(sizeof **l.list);
        put_member(f, l.list[l.count++]);
    }
    return l;
}

void list_members_free(struct members_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        mem_free(l->list[i]->ranks);
        mem_free(l->list[i]);
    }
    mem_free(l->list);
}

/* ---- the past ---- */

struct past_job {
    uint64_t sequence;
    struct json *json;
    struct past_job *next;
};

static double seconds_of(const struct job_run *j, uint64_t now)
{
    if (j->begun_unix_ms == 0)
        return 0;
    return (double)((j->end_ms != 0 ? j->end_ms : now) - j->begin_ms) / 1000;
}

static const struct eval_record *last_evaluation(const struct job_run *j)
{
    for (size_t i = j->eval_count; i > 0; i--)
        if (!j->evals[i - 1].progressive)
            return &j->evals[i - 1];
    return NULL;
}

static char *checkpoint_of(const struct job_run *j)
{
    if (j->eval_mode || j->newest_name == NULL)
        return must_strdup(j->eval_uri != NULL ? j->eval_uri : "");
    return must_format("%s/%s", j->storage_uri, j->newest_name);
}

static uint64_t step_of_job(const struct job_run *j)
{
    uint64_t smallest, largest;
    if (!job_is_over(j) && j->layout != NULL && applied_range(j, &smallest, &largest))
        return smallest;
    uint64_t step = j->newest != NO_STEP ? j->newest : 0;
    return j->hold_step > step ? j->hold_step : step;
}

char *past_write(const struct job_run *j)
{
    struct json *o = json_object(), *metrics = json_object();
    char *checkpoint = checkpoint_of(j);
    json_set_int(o, "sequence", (int64_t)j->sequence);
    json_set_text(o, "job", j->name);
    json_set_text(o, "state", job_state_name(j->state));
    json_set_text(o, "why", j->why != NULL ? j->why : "");
    json_set_text(o, "mode", j->mode);
    json_set_text(o, "owner", j->owner);
    json_set_int(o, "servers", j->servers_wanted);
    json_set_int(o, "workers", j->workers_wanted);
    json_set_int(o, "step", (int64_t)step_of_job(j));
    json_set_int(o, "last_step", (int64_t)j->steps.last_step);
    json_set_int(o, "submitted_unix_ms", (int64_t)j->submitted_unix_ms);
    json_set_int(o, "ended_unix_ms", (int64_t)j->ended_unix_ms);
    json_set_number(o, "train_seconds", seconds_of(j, j->end_ms));
    json_set_text(o, "checkpoint", checkpoint);
    json_set_int(o, "recoveries", j->recoveries);
    const struct eval_record *r = last_evaluation(j);
    for (uint32_t k = 0; r != NULL && k < r->metric_count; k++)
        json_set_number(metrics, metric_name(r->metrics[k].kind), r->metrics[k].value);
    json_set(o, "metrics", metrics);
    struct str text = {0};
    json_write(o, false, &text);
    json_destroy(o);
    mem_free(checkpoint);
    return text.data;
}

void past_add(struct coordinator *c, const char *json)
{
    struct json *o;
    uint64_t sequence;
    if (json_parse("history", json, strlen(json), &o) != ERR_NONE)
        return;
    if (json_get_u64(o, "sequence", &sequence) != ERR_NONE) {
        json_destroy(o);
        return;
    }
    struct past_job **at = &c->past;
    while (*at != NULL && (*at)->sequence > sequence)
        at = &(*at)->next;
    if (*at != NULL && (*at)->sequence == sequence) {
        json_destroy((*at)->json);
        (*at)->json = o;
        return;
    }
    struct past_job *p = must_alloc(sizeof *p);
    *p = (struct past_job){.sequence = sequence, .json = o, .next = *at};
    *at = p;
    uint32_t count = 0;
    for (at = &c->past; *at != NULL && count < PAST_KEPT; at = &(*at)->next)
        count++;
    struct past_job *rest = *at;
    *at = NULL;
    while (rest != NULL) {
        struct past_job *next = rest->next;
        json_destroy(rest->json);
        mem_free(rest);
        rest = next;
    }
    if (sequence > c->next_sequence)
        c->next_sequence = sequence;
}

void past_free(struct coordinator *c)
{
    while (c->past != NULL) {
        struct past_job *next = c->past->next;
        json_destroy(c->past->json);
        mem_free(c->past);
        c->past = next;
    }
}

/* ---- jobs ---- */

struct summary { /* with what it points to */
    Paramd__Control__JobSummary message;
    Paramd__Control__Metric metrics[METRIC_COUNT];
    Paramd__Control__Metric *metric_list[METRIC_COUNT];
    char *checkpoint;
};

static void put_metric(struct summary *s, const char *name, double value)
{
    Paramd__Control__Metric *m = &s->metrics[s->message.n_metrics];
    paramd__control__metric__init(m);
    m->name = (char *)name;
    m->value = value;
    s->metric_list[s->message.n_metrics++] = m;
    s->message.metrics = s->metric_list;
}

static void put_live(const struct job_run *j, uint64_t now, struct summary *s)
{
    Paramd__Control__JobSummary *m = &s->message;
    paramd__control__job_summary__init(m);
    m->job = j->name;
    m->state = (char *)job_state_name(j->state);
    m->why = j->why != NULL ? j->why : (char *)"";
    m->mode = j->mode;
    m->owner = j->owner;
    m->servers = j->servers_wanted;
    m->workers = j->workers_wanted;
    m->step = step_of_job(j);
    m->last_step = j->steps.last_step;
    m->submitted_unix_ms = j->submitted_unix_ms;
    m->train_seconds = seconds_of(j, now);
    m->checkpoint = s->checkpoint = checkpoint_of(j);
    m->recoveries = j->recoveries;
    m->sequence = j->sequence;
    const struct eval_record *r = last_evaluation(j);
    for (uint32_t k = 0; r != NULL && k < r->metric_count; k++)
        put_metric(s, metric_name(r->metrics[k].kind), r->metrics[k].value);
}

static char *borrow_text(const struct json *o, const char *name)
{
    const char *text = json_as_text(json_get(o, name));
    return (char *)(text != NULL ? text : "");
}

static uint64_t borrow_number(const struct json *o, const char *name)
{
    return (uint64_t)json_as_int(json_get(o, name));
}

static void put_past(const struct json *o, struct summary *s)
{
    Paramd__Control__JobSummary *m = &s->message;
    paramd__control__job_summary__init(m);
    m->job = borrow_text(o, "job");
    m->state = borrow_text(o, "state");
    m->why = borrow_text(o, "why");
    m->mode = borrow_text(o, "mode");
    m->owner = borrow_text(o, "owner");
    m->servers = (uint32_t)borrow_number(o, "servers");
    m->workers = (uint32_t)borrow_number(o, "workers");
    m->step = borrow_number(o, "step");
    m->last_step = borrow_number(o, "last_step");
    m->submitted_unix_ms = borrow_number(o, "submitted_unix_ms");
    m->ended_unix_ms = borrow_number(o, "ended_unix_ms");
    m->train_seconds = json_as_number(json_get(o, "train_seconds"));
    m->checkpoint = borrow_text(o, "checkpoint");
    m->recoveries = (uint32_t)borrow_number(o, "recoveries");
    m->sequence = borrow_number(o, "sequence");
    const struct json *metrics = json_get(o, "metrics");
    for (size_t k = 0; k < json_count(metrics) && k < METRIC_COUNT; k++) {
        const char *name = json_key_at(metrics, k);
        put_metric(s, name, json_as_number(json_get(metrics, name)));
    }
}

static void pack_into(const ProtobufCMessage *m, struct str *packed)
{
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = must_alloc(size + 1);
    protobuf_c_message_pack(m, bytes);
    str_clear(packed);
    str_append_span(packed, span_make((const char *)bytes, size));
    mem_free(bytes);
}

void coordinator_list(struct coordinator *c, bool all, uint64_t now_ms, struct str *packed)
{
    size_t most = 1, count = 0;
    for (const struct job_run *j = c->jobs; j != NULL; j = j->next)
        most++;
    for (const struct past_job *p = c->past; p != NULL; p = p->next)
        most++;
    struct summary *summaries = must_alloc(most * sizeof *summaries);
    Paramd__Control__JobSummary **list = must_alloc(most * sizeof *list);
    for (const struct job_run *j = c->jobs; j != NULL; j = j->next) {
        if (job_is_over(j) && j->recording == RECORD_NONE)
            continue;
        put_live(j, now_ms, &summaries[count]);
        list[count] = &summaries[count].message;
        count++;
    }
    for (const struct past_job *p = c->past; all && p != NULL; p = p->next) {
        put_past(p->json, &summaries[count]);
        list[count] = &summaries[count].message;
        count++;
    }
    Paramd__Control__ListReply reply = PARAMD__CONTROL__LIST_REPLY__INIT;
    struct members_list members = list_members(c, NULL);
    reply.n_jobs = count;
    reply.jobs = list;
    reply.n_members = members.count;
    reply.members = members.list;
    reply.term = c->options.term;
    pack_into(&reply.base, packed);
    for (size_t i = 0; i < count; i++)
        mem_free(summaries[i].checkpoint);
    list_members_free(&members);
    mem_free(summaries);
    mem_free(list);
}

/* ---- log lines ---- */

void coordinator_logs(struct coordinator *c, const char *job, uint64_t after, struct str *packed)
{
    static const char *const levels[] = {"error", "warn", "info"};
    Paramd__Control__LogsReply reply = PARAMD__CONTROL__LOGS_REPLY__INIT;
    reply.term = c->options.term;
    const struct job_run *j = job_find(c, job);
    Paramd__Control__LogLine *lines = must_alloc(LINES_KEPT * sizeof *lines);
    Paramd__Control__LogLine **list = must_alloc(LINES_KEPT * sizeof *list);
    if (j != NULL) {
        reply.found = true;
        reply.over = job_is_over(j) && j->recording == RECORD_NONE;
        uint64_t first = j->line_count > LINES_KEPT ? j->line_count - LINES_KEPT : 0;
        for (uint64_t n = after > first ? after : first; n < j->line_count; n++) {
            const struct log_line *l = &j->lines[n % LINES_KEPT];
            Paramd__Control__LogLine *m = &lines[reply.n_lines];
            paramd__control__log_line__init(m);
            m->number = l->number;
            m->unix_ms = l->unix_ms;
            m->level = (char *)levels[l->level];
            m->text = l->text;
            list[reply.n_lines++] = m;
        }
    }
    reply.lines = list;
    pack_into(&reply.base, packed);
    mem_free(lines);
    mem_free(list);
}
