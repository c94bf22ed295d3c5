#include "worker/agent_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

static void free_columns(struct agent_state *s)
{
    for (size_t i = 0; i < s->column_count; i++)
        mem_free(s->columns[i]);
    mem_free(s->columns);
}

void agent_state_clear(struct agent_state *s)
{
    mem_free(s->job);
    mem_free(s->failure_text);
    free_columns(s);
    str_deinit(&s->evaluation);
    mem_free(s->ranks);
    *s = (struct agent_state){0};
}

Paramd__Control__Failure__Kind agent_failure_of(enum err e)
{
    switch (e) {
    case ERR_INPUT:
    case ERR_REFUSED:
    case ERR_CORRUPT:
    case ERR_NOT_FOUND:
    case ERR_UNSUPPORTED:
    case ERR_LIMIT:
        return PARAMD__CONTROL__FAILURE__KIND__INPUT;
    default:
        return PARAMD__CONTROL__FAILURE__KIND__RESOURCE;
    }
}

void agent_fail(struct agent *a, Paramd__Control__Failure__Kind kind, const char *text)
{
    static const char *const names[] = {"none", "input", "bug", "resource", "restore refused"};
    log_error("agent", "failed kind='%s' why='%s'", names[kind], text);
    if (a->job != NULL)
        a->job->has_failed = true;
    pthread_mutex_lock(&a->lock);
    if (a->state.failure == PARAMD__CONTROL__FAILURE__KIND__NONE) {
        a->state.failure = kind;
        a->state.failure_text = must_strdup(text);
    }
    pthread_mutex_unlock(&a->lock);
    a->poke(a->context);
}

/* ---- describing ---- */

static void add_shares(struct trainer_shares *to, const struct trainer_shares *more)
{
    to->read += more->read;
    to->exchange += more->exchange;
    to->compute += more->compute;
    to->upload += more->upload;
    to->wait += more->wait;
    to->total += more->total;
}

/* The trainer's own figures, as of now; the lock is held. */
static void look_at_trainer(struct agent *a)
{
    struct agent_state *s = &a->state;
    s->shown = s->shares;
    if (a->shown_trainer == NULL)
        return;
    struct trainer_status status;
    trainer_status(a->shown_trainer, &status);
    add_shares(&s->shown, &status.shares);
    s->rank_count = trainer_rank_count(a->shown_trainer);
    s->ranks = must_realloc(s->ranks, s->rank_count + 1, sizeof *s->ranks);
    for (uint32_t i = 0; i < s->rank_count; i++)
        s->ranks[i] = trainer_rank_status(a->shown_trainer, i);
}

static void copy_state(struct agent_state *to, const struct agent_state *from)
{
    agent_state_clear(to);
    *to = *from;
    to->job = from->job != NULL ? must_strdup(from->job) : NULL;
    to->failure_text = from->failure_text != NULL ? must_strdup(from->failure_text) : NULL;
    to->columns = must_alloc((from->column_count + 1) * sizeof *to->columns);
    for (size_t i = 0; i < from->column_count; i++)
        to->columns[i] = must_strdup(from->columns[i]);
    to->evaluation = (struct str){0};
    if (from->evaluation.size > 0)
        str_append_span(&to->evaluation, span_make(from->evaluation.data, from->evaluation.size));
    to->ranks = must_alloc((from->rank_count + 1) * sizeof *to->ranks);
    if (from->rank_count > 0)
        memcpy(to->ranks, from->ranks, from->rank_count * sizeof *to->ranks);
}

static void describe_ranks(struct agent *a, Paramd__Control__WorkerState *w)
{
    const struct agent_state *s = &a->told;
    a->rank_messages = must_realloc(a->rank_messages, s->rank_count + 1, sizeof *a->rank_messages);
    a->rank_pointers = must_realloc(a->rank_pointers, s->rank_count + 1, sizeof *a->rank_pointers);
    for (size_t i = 0; i < s->rank_count; i++) {
        Paramd__Control__RankState *r = &a->rank_messages[i];
        paramd__control__rank_state__init(r);
        r->rank = s->ranks[i].rank;
        r->lease = s->ranks[i].lease;
        r->step = s->ranks[i].step;
        r->finished = s->ranks[i].finished;
        r->busy_ms = s->ranks[i].busy_ms;
        a->rank_pointers[i] = r;
    }
    w->n_ranks = s->rank_count;
    w->ranks = a->rank_pointers;
}

void agent_describe(void *agent, Paramd__Control__MemberState *state)
{
    struct agent *a = agent;
    pthread_mutex_lock(&a->lock);
    look_at_trainer(a);
    copy_state(&a->told, &a->state);
    pthread_mutex_unlock(&a->lock);

    const struct agent_state *s = &a->told;
    Paramd__Control__WorkerState *w = &a->worker_state;
    paramd__control__worker_state__init(w);
    state->job = s->job != NULL ? s->job : (char *)"";
    state->generation = s->generation;
    state->worker = w;
    if (s->failure != PARAMD__CONTROL__FAILURE__KIND__NONE) {
        paramd__control__failure__init(&a->failure_message);
        a->failure_message.kind = s->failure;
        a->failure_message.text = s->failure_text;
        state->failure = &a->failure_message;
    }
    w->prepared_round = s->prepared_round;
    w->index_done = s->index_done;
    w->index_checksum = a->told.index_checksum;
    w->train_examples = s->train_examples;
    w->eval_examples = s->eval_examples;
    w->n_columns = s->column_count;
    w->columns = s->columns;
    w->ready = s->is_ready;
    if (s->evaluated.is_set) {
        w->evaluated_step = s->evaluated.step + 1;
        w->evaluated_part = s->evaluated.first;
        w->evaluated_part_count = s->evaluated.count;
        w->evaluation = (ProtobufCBinaryData){s->evaluation.size, (uint8_t *)s->evaluation.data};
    }
    describe_ranks(a, w);
    paramd__control__time_shares__init(&a->shares_message);
    a->shares_message.read = s->shown.read;
    a->shares_message.exchange = s->shown.exchange;
    a->shares_message.compute = s->shown.compute;
    a->shares_message.upload = s->shown.upload;
    a->shares_message.wait = s->shown.wait;
    a->shares_message.total = s->shown.total;
    w->shares = &a->shares_message;
}
