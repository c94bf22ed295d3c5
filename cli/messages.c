#include "cli/messages.h"

#include <inttypes.h>
#include <string.h>

#include "cli/columns.h"
#include "cli/display.h"
#include "common/mem.h"

static struct json *ranks_of(const Paramd__Control__MemberSummary *m)
{
    struct json *list = json_array();

    for (size_t i = 0; i < m->n_ranks; i++)
        json_push(list, json_int(m->ranks[i]));
    return list;
}

struct json *message_member(const Paramd__Control__MemberSummary *m)
{
    struct json *j = json_object();

    json_set_text(j, "member", m->member);
    json_set_text(j, "role", m->role);
    json_set_text(j, "address", m->address);
    json_set_text(j, "state", m->state);
    json_set_text(j, "job", m->job);
    json_set(j, "ranks", ranks_of(m));
    json_set_int(j, "step", (int64_t)m->step);
    json_set_int(j, "cores", m->cores);
    json_set_int(j, "memory_bytes", (int64_t)m->memory_bytes);
    json_set_int(j, "gpus", m->gpus);
    return j;
}

static struct json *evals_of(const Paramd__Control__StatusReply *s)
{
    struct json *list = json_array();

    for (size_t i = 0; i < s->n_evals; i++) {
        const Paramd__Control__EvalRecord *e = s->evals[i];
        struct json *j = json_object();
        json_set_text(j, "kind", e->progressive ? "progressive" : "eval");
        json_set_int(j, "step", (int64_t)e->step);
        json_set_int(j, "epoch", e->epoch);
        json_set_number(j, "seconds", e->seconds);
        json_set_int(j, "examples", (int64_t)e->examples);
        json_set(j, "metrics", display_metrics(e));
        json_push(list, j);
    }
    return list;
}

struct json *message_status(const Paramd__Control__StatusReply *s)
{
    struct json *j = json_object(), *members = json_array(), *warnings = json_array();

    json_set_text(j, "job", s->job);
    json_set_text(j, "state", s->state);
    json_set_text(j, "why", s->why);
    json_set_text(j, "mode", s->mode);
    json_set_text(j, "owner", s->owner);
    json_set_int(j, "submitted_unix_ms", (int64_t)s->submitted_unix_ms);
    json_set_int(j, "generation", (int64_t)s->generation);
    json_set_int(j, "step", (int64_t)s->step);
    json_set_int(j, "last_step", (int64_t)s->last_step);
    json_set_int(j, "epoch", s->epoch);
    json_set_int(j, "epochs", s->epochs);
    json_set_int(j, "examples", (int64_t)s->examples);
    json_set_number(j, "seconds", s->train_seconds);
    json_set_number(j, "objective", s->objective);
    json_set_text(j, "checkpoint", s->checkpoint);
    json_set_int(j, "checkpoint_step", (int64_t)s->checkpoint_step);
    json_set_number(j, "checkpoint_age_seconds", s->checkpoint_age_seconds);
    json_set_int(j, "recoveries", s->recoveries);
    json_set_int(j, "moves", s->moves);
    json_set(j, "eval", display_metrics(display_final_eval(s)));
    json_set(j, "evals", evals_of(s));
    for (size_t i = 0; i < s->n_members; i++)
        json_push(members, message_member(s->members[i]));
    json_set(j, "members", members);
    for (size_t i = 0; i < s->n_warnings; i++)
        json_push(warnings, json_text(s->warnings[i]));
    json_set(j, "warnings", warnings);
    return j;
}

struct json *message_job(const Paramd__Control__JobSummary *s)
{
    struct json *j = json_object(), *metrics = json_object();

    json_set_text(j, "job", s->job);
    json_set_text(j, "state", s->state);
    json_set_text(j, "why", s->why);
    json_set_text(j, "mode", s->mode);
    json_set_text(j, "owner", s->owner);
    json_set_int(j, "sequence", (int64_t)s->sequence);
    json_set_int(j, "servers", s->servers);
    json_set_int(j, "workers", s->workers);
    json_set_int(j, "step", (int64_t)s->step);
    json_set_int(j, "last_step", (int64_t)s->last_step);
    json_set_int(j, "submitted_unix_ms", (int64_t)s->submitted_unix_ms);
    json_set_int(j, "ended_unix_ms", (int64_t)s->ended_unix_ms);
    json_set_number(j, "seconds", s->train_seconds);
    json_set_text(j, "checkpoint", s->checkpoint);
    json_set_int(j, "recoveries", s->recoveries);
    for (size_t i = 0; i < s->n_metrics; i++)
        json_set_number(metrics, s->metrics[i]->name, s->metrics[i]->value);
    json_set(j, "eval", metrics);
    return j;
}

struct json *message_log(const Paramd__Control__LogLine *l)
{
    struct json *j = json_object();

    json_set_int(j, "number", (int64_t)l->number);
    json_set_int(j, "unix_ms", (int64_t)l->unix_ms);
    json_set_text(j, "level", l->level);
    json_set_text(j, "text", l->text);
    return j;
}

struct json *message_result(const Paramd__Control__StatusReply *s, const char *state,
                            const char *digest, const char *why)
{
    struct json *j = json_object(), *train = json_object();

    json_set_text(j, "job", s->job);
    json_set_text(j, "state", state);
    json_set_int(j, "epochs", s->epoch);
    json_set_int(j, "steps", (int64_t)s->step);
    json_set_int(j, "examples", (int64_t)s->examples);
    json_set_number(j, "seconds", s->train_seconds);
    json_set_number(j, "examples_per_second",
                    s->train_seconds > 0 ? (double)s->examples / s->train_seconds : 0);
    json_set_number(train, "objective", s->objective);
    json_set(j, "train", train);
    json_set(j, "eval", display_metrics(display_final_eval(s)));
    json_set_int(j, "recoveries", s->recoveries);
    json_set_int(j, "moves", s->moves);
    json_set_text(j, "checkpoint", s->checkpoint);
    json_set_text(j, "digest", digest ? digest : "");
    if (why && *why)
        json_set_text(j, "why", why);
    return j;
}

/* ---- for people ---- */

static char *doing(const Paramd__Control__MemberSummary *m)
{
    struct str text = {0};

    if (!*m->job)
        return must_strdup("");
    str_append(&text, "");
    for (size_t i = 0; i < m->n_ranks; i++)
        str_append_format(&text, "%s%" PRIu32,
                          i                ? ","
                          : m->n_ranks > 1 ? "ranks "
                                           : "rank ",
                          m->ranks[i]);
    if (m->step)
        str_append_format(&text, "%sstep %" PRIu64, text.size ? ", " : "", m->step);
    return text.data;
}

void members_print(Paramd__Control__MemberSummary *const *members, size_t count, FILE *to)
{
    static const char *const names[] = {"MEMBER", "ROLE", "STATE",   "JOB",  "CORES",
                                        "MEMORY", "GPUS", "ADDRESS", "DOES", NULL};
    struct columns table;

    columns_init(&table, names);
    for (size_t i = 0; i < count; i++) {
        const Paramd__Control__MemberSummary *m = members[i];
        char *memory = m->memory_bytes ? text_of_bytes(m->memory_bytes) : must_strdup("");
        char *does = doing(m);
        columns_add(&table, "%s", m->member);
        columns_add(&table, "%s", m->role);
        columns_add(&table, "%s", m->state);
        columns_add(&table, "%s", m->job);
        columns_add(&table, "%" PRIu32, m->cores);
        columns_add(&table, "%s", memory);
        columns_add(&table, "%" PRIu32, m->gpus);
        columns_add(&table, "%s", m->address);
        columns_add(&table, "%s", does);
        mem_free(memory);
        mem_free(does);
    }
    columns_print(&table, to);
    columns_deinit(&table);
}

/* ---- states ---- */

bool state_is_over(const char *state)
{
    return strcmp(state, "DONE") == 0 || strcmp(state, "FAILED") == 0 ||
           strcmp(state, "STOPPED") == 0;
}

enum exit_code state_exit_code(const char *state)
{
    return strcmp(state, "DONE") == 0     ? EXIT_DONE
           : strcmp(state, "FAILED") == 0 ? EXIT_JOB_FAILED
                                          : EXIT_INTERRUPTED;
}
