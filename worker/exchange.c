#include "worker/exchange.h"

#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/rng.h"
#include "worker/exchange_internal.h"

/* How often a wait looks whether it is cancelled. */
#define CANCEL_LOOK_MS  50u
#define BACK_OFF_MS     50u
#define BACK_OFF_MAX_MS 2000u

enum err exchange_open(const struct exchange_options *options, struct exchange **out)
{
    const struct exchange_options *o = options;
    CHECK(o->shard_count > 0 && o->call_timeout_ms > 0);
    struct exchange *x = must_alloc(sizeof *x);
    x->options = *o;
    if (x->options.back_off_ms == 0)
        x->options.back_off_ms = BACK_OFF_MS;
    x->job = must_strdup(o->job);
    x->areas = area_pool_create();
    uint32_t blocks = 2 * (o->schema->table_count + o->schema->dense_count);
    x->blocks = must_alloc((blocks + 1) * sizeof *x->blocks);
    x->block_pointers = must_alloc((blocks + 1) * sizeof *x->block_pointers);
    for (uint32_t i = 0; i < blocks; i++)
        x->block_pointers[i] = &x->blocks[i];
    uint32_t window = o->steps.pipeline_depth + 1;
    x->targets = must_alloc(window * sizeof *x->targets);
    x->ranks = must_alloc((o->rank_max + 1) * sizeof *x->ranks);
    /* One call a shard and unanswered seq, and one of a read: so the queue is never full. */
    x->arrived = queue_create(((size_t)o->rank_max * window + 1) * o->shard_count);
    enum err e = exchange_connect(x);
    if (e != ERR_NONE) {
        exchange_close(x);
        return e;
    }
    *out = x;
    return ERR_NONE;
}

static void rank_deinit(struct rank *r)
{
    for (uint32_t i = 0; i < r->step_count; i++) {
        exchange_step_release(&r->steps[i]);
        str_deinit(&r->steps[i].rank_state);
        str_deinit(&r->steps[i].metrics);
    }
    if (r->resumed != NULL)
        paramd__resume_reply__free_unpacked(r->resumed, NULL);
    session_destroy(r->session);
    mem_free(r->steps);
    mem_free(r->pointers);
}

void exchange_close(struct exchange *x)
{
    if (x == NULL)
        return;
    for (uint32_t i = 0; i < x->channel_count; i++)
        rpc_channel_close(x->channels[i]);
    void *item; /* not until it fails: the text of why we are closed is for our caller */
    while (queue_length(x->arrived) > 0 && queue_pop(x->arrived, &item, 0) == ERR_NONE)
        exchange_call_drop(x, item);
    CHECK(x->open_calls == 0);
    while (x->free_calls != NULL) {
        struct call *c = x->free_calls;
        x->free_calls = c->next;
        mem_free(c);
    }
    queue_destroy(x->arrived);
    for (uint32_t i = 0; i < x->rank_count; i++)
        rank_deinit(&x->ranks[i]);
    mem_free(x->ranks);
    mem_free(x->targets);
    mem_free(x->block_pointers);
    mem_free(x->blocks);
    mem_free(x->channels);
    mem_free(x->shards);
    area_pool_destroy(x->areas);
    mem_free(x->job);
    mem_free(x);
}

bool exchange_is_cancelled(const struct exchange *x)
{
    return x->options.cancel != NULL &&
           atomic_load_explicit(x->options.cancel, memory_order_relaxed);
}

struct call *exchange_call_take(struct exchange *x)
{
    struct call *c = x->free_calls;
    if (c != NULL)
        x->free_calls = c->next;
    else
        c = must_alloc(sizeof *c);
    c->exchange = x;
    c->message[0] = '\0';
    x->open_calls++;
    return c;
}

void exchange_call_drop(struct exchange *x, struct call *c)
{
    chain_deinit(&c->reply);
    c->next = x->free_calls;
    x->free_calls = c;
    x->open_calls--;
}

/* ---- ranks ---- */

enum err exchange_add_rank(struct exchange *x, const struct exchange_rank_options *o,
                           uint32_t *index_out)
{
    _Static_assert(sizeof(void *) >= 2 * sizeof(uint32_t),
                   "two counts fit in the place of a pointer");
    CHECK(x->rank_count < x->options.rank_max);
    struct rank *r = &x->ranks[x->rank_count];
    *r = (struct rank){.options = *o};
    struct session_options session = {
        .steps = x->options.steps,
        .rank = o->rank,
        .shard_count = x->options.shard_count,
        .start = o->start,
        .back_off_ms = x->options.back_off_ms,
        .back_off_max_ms = BACK_OFF_MAX_MS,
        .give_up_ms = x->options.give_up_ms,
        .seed = rng_at(o->lease, o->rank),
    };
    enum err e = session_create(&session, &r->session);
    if (e != ERR_NONE)
        return e;
    exchange_steps_make(x, r);
    *index_out = x->rank_count++;
    return ERR_NONE;
}

/* ---- the pump ---- */

static void send_due(struct exchange *x, uint64_t now_ms)
{
    struct session_send send;
    for (uint32_t i = 0; i < x->rank_count; i++) {
        struct rank *r = &x->ranks[i];
        bool may_send = r->has_begun || session_state(r->session) == SESSION_RESUMING;
        while (may_send && session_next_send(r->session, now_ms, &send))
            exchange_send(x, i, &send);
    }
}

static void release_answered(struct exchange *x)
{
    for (uint32_t i = 0; i < x->rank_count; i++) {
        struct rank *r = &x->ranks[i];
        if (!r->has_begun)
            continue;
        for (; r->oldest < session_oldest(r->session); r->oldest++) {
            struct step *s = exchange_step(r, r->oldest);
            if (s != NULL)
                exchange_step_release(s);
        }
    }
}

void exchange_take_arrived(struct exchange *x, uint64_t wait_ms)
{
    void *item;
    uint64_t start_ns = clock_ns();
    enum err e = queue_pop(x->arrived, &item, (uint32_t)wait_ms);
    x->wait_ns += clock_ns() - start_ns;
    while (e == ERR_NONE) {
        struct call *c = item;
        if (c->kind == CALL_READ)
            exchange_read_received(x, c);
        else
            exchange_received(x, c);
        exchange_call_drop(x, c);
        e = queue_pop(x->arrived, &item, 0);
    }
}

/* Sends what is due and takes in what arrives, waiting at most wait_ms for the first of it. */
static void pump(struct exchange *x, uint64_t wait_ms)
{
    uint64_t now_ms = clock_ms();
    send_due(x, now_ms);
    for (uint32_t i = 0; i < x->rank_count; i++) {
        uint64_t due_ms = UINT64_MAX;
        if (x->ranks[i].has_begun || session_state(x->ranks[i].session) == SESSION_RESUMING)
            due_ms = session_due_ms(x->ranks[i].session);
        uint64_t left_ms = due_ms > now_ms ? due_ms - now_ms : 0;
        if (left_ms < wait_ms)
            wait_ms = left_ms;
    }
    exchange_take_arrived(x, wait_ms);
    release_answered(x);
    if (x->rank_count > 0)
        send_due(x, clock_ms());
}

static enum err cancelled(void)
{
    return err_set(ERR_CANCELLED, "the exchange was told to stop");
}

enum err exchange_resume(struct exchange *x)
{
    for (;;) {
        bool resuming = false;
        for (uint32_t i = 0; i < x->rank_count; i++)
            resuming = resuming || session_state(x->ranks[i].session) == SESSION_RESUMING;
        if (!resuming)
            break;
        if (exchange_is_cancelled(x))
            return cancelled();
        pump(x, CANCEL_LOOK_MS);
    }
    for (uint32_t i = 0; i < x->rank_count; i++) {
        struct rank *r = &x->ranks[i];
        if (session_state(r->session) != SESSION_RUNNING)
            continue;
        uint64_t last;
        r->oldest = session_first(r->session);
        session_batches_pulled(r->session, r->oldest, &r->first_batch, &last);
        r->given = r->first_batch - 1;
    }
    return ERR_NONE;
}

void exchange_resumed(const struct exchange *x, uint32_t index, struct exchange_resumed *out)
{
    const struct rank *r = &x->ranks[index];
    *out = (struct exchange_resumed){
        .acked = session_acked(r->session),
        .first_batch = r->first_batch,
        .report = r->resumed != NULL ? r->resumed->report : NULL,
    };
}

uint64_t exchange_batches_needed(const struct exchange *x, uint32_t index)
{
    const struct rank *r = &x->ranks[index];
    uint64_t first, last, needed = r->given;
    uint64_t from = r->has_begun ? session_next(r->session) : session_first(r->session);
    uint64_t to = r->has_begun ? from : session_next(r->session) - 1;
    if (session_state(r->session) != SESSION_RUNNING)
        return needed;
    for (uint64_t seq = from; seq <= to; seq++) {
        session_batches_pulled(r->session, seq, &first, &last);
        if (first <= last && last > needed)
            needed = last;
    }
    return needed;
}

enum err exchange_give(struct exchange *x, uint32_t index, const struct batch *b)
{
    struct rank *r = &x->ranks[index];
    uint32_t tables = x->options.schema->table_count;
    struct step *s = exchange_step_make(r, r->given + 1);
    struct area_cutter size = {0};
    bool is_empty = b->example_count == 0;
    for (uint32_t t = 0; t < tables && !is_empty; t++)
        (void)area_cut(&size, b->tables[t].key_count, sizeof(uint64_t));
    s->keys_area = area_take(x->areas, size.offset);
    if (s->keys_area == NULL) {
        if (!s->has_push)
            s->is_used = false;
        return ERR_MEMORY;
    }
    struct area_cutter cutter = {.base = buf_data(s->keys_area)};
    for (uint32_t t = 0; t < tables; t++) {
        s->key_counts[t] = is_empty ? 0 : b->tables[t].key_count;
        s->keys[t] = area_cut(&cutter, s->key_counts[t], sizeof(uint64_t));
        if (s->key_counts[t] > 0)
            memcpy(s->keys[t], b->tables[t].keys, s->key_counts[t] * sizeof(uint64_t));
    }
    s->is_empty = is_empty;
    s->has_batch = true;
    r->given++;
    return ERR_NONE;
}

enum err exchange_begin(struct exchange *x, uint32_t index)
{
    struct rank *r = &x->ranks[index];
    if (session_state(r->session) != SESSION_RUNNING)
        return err_set(ERR_REFUSED, "%s", session_why(r->session));
    CHECK(!r->has_begun && exchange_batches_needed(x, index) <= r->given);
    uint64_t first = session_first(r->session), last = session_next(r->session) - 1;
    bool bsp = x->options.steps.consistency == CONSISTENCY_BSP;
    for (uint64_t seq = first; seq <= last; seq++) {
        struct step *s = exchange_step_make(r, seq);
        s->has_push = !bsp || seq <= r->options.start;
        s->push_is_empty = true;
        s->skipped = false;
        s->weight = 0;
        enum err e = exchange_step_pull(x, r, s);
        if (e != ERR_NONE)
            return e;
    }
    r->has_begun = true;
    pump(x, 0);
    return ERR_NONE;
}

/* ---- steps ---- */

enum err exchange_wait(struct exchange *x, uint32_t index, struct exchange_work *out)
{
    struct rank *r = &x->ranks[index];
    CHECK(r->has_begun);
    uint64_t step = session_next(r->session);
    while (!session_has_values(r->session, step) || !session_may_push(r->session)) {
        if (session_state(r->session) != SESSION_RUNNING)
            return err_set(ERR_REFUSED, "%s", session_why(r->session));
        if (exchange_is_cancelled(x))
            return cancelled();
        pump(x, CANCEL_LOOK_MS);
    }
    struct step *s = exchange_step(r, step);
    CHECK(s != NULL && s->has_batch && !s->has_push);
    enum err e = ERR_NONE;
    if (!s->is_empty && s->gradients_area == NULL)
        e = exchange_step_gradients(x, s);
    if (e != ERR_NONE)
        return e;
    *out = (struct exchange_work){
        .step = step,
        .rows = (const float *const *)s->rows,
        .dense = (const float *const *)s->dense,
        .row_gradients = s->row_gradients,
        .dense_gradients = s->dense_gradients,
    };
    return ERR_NONE;
}

enum err exchange_push(struct exchange *x, uint32_t index, const struct exchange_push *p)
{
    struct rank *r = &x->ranks[index];
    struct step *s = exchange_step(r, session_next(r->session));
    CHECK(s != NULL && s->has_batch && exchange_batches_needed(x, index) <= r->given);
    CHECK(p->is_empty || !s->is_empty);
    if (!session_may_push(r->session))
        return err_set(ERR_REFUSED, "%s", session_why(r->session));
    enum err e = exchange_step_pull(x, r, s);
    if (e != ERR_NONE)
        return e;
    s->has_push = true;
    s->push_is_empty = p->is_empty;
    s->skipped = p->skipped;
    s->weight = p->weight;
    exchange_step_report(s, p->report);
    buf_unref(s->values_area);
    s->values_area = NULL;
    session_push(r->session, clock_ms());
    pump(x, 0);
    return ERR_NONE;
}

enum err exchange_finish(struct exchange *x, uint32_t index)
{
    struct rank *r = &x->ranks[index];
    while (session_state(r->session) == SESSION_RUNNING) {
        if (exchange_is_cancelled(x))
            return cancelled();
        pump(x, CANCEL_LOOK_MS);
    }
    if (session_state(r->session) != SESSION_FINISHED)
        return err_set(ERR_REFUSED, "%s", session_why(r->session));
    return ERR_NONE;
}

enum session_state exchange_state(const struct exchange *x, uint32_t index)
{
    return session_state(x->ranks[index].session);
}

const char *exchange_why(const struct exchange *x, uint32_t index)
{
    return session_why(x->ranks[index].session);
}

uint64_t exchange_next_step(const struct exchange *x, uint32_t index)
{
    return session_next(x->ranks[index].session);
}

void exchange_let_go(struct exchange *x, uint32_t index)
{
    x->ranks[index].is_over = true;
}

bool exchange_behind(const struct exchange *x, uint32_t *index_out)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < x->rank_count; i++) {
        uint64_t next = session_next(x->ranks[i].session);
        if (x->ranks[i].is_over || next > x->options.steps.last_step || next >= least)
            continue;
        least = PLANT(ranks_in_turn) ? 0 : next;
        *index_out = i;
    }
    return least != UINT64_MAX;
}

uint64_t exchange_acked(const struct exchange *x, uint32_t index)
{
    return session_acked(x->ranks[index].session);
}

uint64_t exchange_wait_ns(const struct exchange *x)
{
    return x->wait_ns;
}
