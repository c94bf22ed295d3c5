#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/storage.h"
#include "server/coordinator.h"
#include "server/snapshot.h"
#include "tests/sim/sim_parts.h"

/*
 * The coordinator's host, as server/leader.c has it: one that leads parks exchanges until there are
 * other orders, does the coordinator's actions one after the other, and tells it whom the registry
 * does not show any more.
 */

#define TICK_MS    100u
#define LEAD_MS    250u
#define LOOK_MS    100u
#define PARK_MS    1000u
#define MISSES_MAX 2u
#define SETTLE_MS  3000u
#define GRACE_MS   3000u /* registry.grace */
#define WATCHED    64u

struct parked {
    char member[32];
    uint64_t version, since_us;
    struct rpc_call *call;
    struct parked *next;
};

struct watched {
    char id[32];
    uint32_t misses;
};

enum { LINE_REGISTRY, LINE_STORE, LINE_COUNT };

struct line { /* actions, one after the other */
    struct coordinator_action *first, **last;
    bool doing;
};

struct sim_leader {
    struct process *process;
    struct coordinator *machine; /* NULL: does not lead */
    uint64_t term;
    uint32_t reign; /* changes whenever it begins or ends to lead */
    struct parked *parked;
    struct watched watched[WATCHED];
    uint32_t watched_count;
    struct line lines[LINE_COUNT];
    bool watches_unheard;
    uint64_t connected_us, settled_us;
};

static void do_next(struct sim_leader *l, int line);

bool leader_leads(const struct sim_leader *l)
{
    return l->machine != NULL;
}

/* ---- orders ---- */

static void reply_orders(struct sim_leader *l, struct rpc_call *call, const char *member)
{
    struct str packed = {0};
    uint64_t version;
    struct chain reply = {0};
    enum err e = coordinator_orders(l->machine, member, &packed, &version);
    if (e == ERR_NONE)
        chain_append_copy(&reply, packed.data, packed.size);
    if (e == ERR_NONE)
        rpc_call_reply(call, &reply);
    else
        rpc_call_fail(call, RPC_UNAVAILABLE, err_text());
    str_deinit(&packed);
}

/* Its orders are others now, it has waited long enough, or nobody waits for the answer. */
static bool is_due(struct sim_leader *l, const struct parked *p)
{
    uint64_t version = 0;
    if (rpc_call_is_cancelled(p->call))
        return true;
    bool known = coordinator_orders(l->machine, p->member, NULL, &version) == ERR_NONE;
    coordinator_heard(l->machine, p->member, sim.now_us / 1000);
    return !known || version != p->version || sim.now_us - p->since_us >= PARK_MS * SIM_MS;
}

static void answer_parked(struct sim_leader *l, const char *member)
{
    struct parked **at = &l->parked;
    while (*at != NULL) {
        struct parked *p = *at;
        bool replaced = member != NULL && strcmp(member, p->member) == 0;
        if (!is_due(l, p) && !replaced) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        reply_orders(l, p->call, p->member);
        mem_free(p);
    }
}

/* ---- actions ---- */

static void take_actions(struct sim_leader *l)
{
    struct coordinator_action *a;
    while ((a = coordinator_next_action(l->machine)) != NULL) {
        if (a->kind == ACTION_LOG) {
            TRACE("coordinator: %s", a->text);
            coordinator_action_destroy(a);
            continue;
        }
        bool registry = a->kind == ACTION_RECORD || a->kind == ACTION_LOAD;
        struct line *line = &l->lines[registry ? LINE_REGISTRY : LINE_STORE];
        *line->last = a;
        line->last = &a->next;
    }
    for (int i = 0; i < LINE_COUNT; i++)
        do_next(l, i);
}

/* What has happened to the machine is acted upon. */
static void turn(struct sim_leader *l, const char *member)
{
    take_actions(l);
    answer_parked(l, member);
}

static enum err list(struct sim_leader *l, const struct coordinator_action *a,
                     struct coordinator_result *r, struct checkpoint_listing **found)
{
    size_t count;
    if (!registry_reaches(l->process))
        return err_set(ERR_UNAVAILABLE, "the registry is away");
    enum err e = checkpoint_list(a->uri, found, &count);
    if (e != ERR_NONE)
        return e;
    struct coordinator_listing *out = must_alloc((count + 1) * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const struct checkpoint_listing *f = &(*found)[i];
        out[i] = (struct coordinator_listing){f->generation, f->step, f->committed,
                                              f->refused == ERR_NONE ? NULL : f->why};
    }
    r->listing = out;
    r->listing_count = count;
    char *path = must_format("jobs/%s", a->job);
    r->record = registry_get_text(path);
    mem_free(path);
    return ERR_NONE;
}

/* An action of an earlier reign of this very process must not be done under a later one. */
static enum err check_term(const struct sim_leader *l, const struct coordinator_action *a)
{
    if (l->machine != NULL && l->term == a->term)
        return ERR_NONE;
    return err_set(ERR_REFUSED, "this server does not lead by that term any more");
}

static enum err publish(struct sim_leader *l, const struct coordinator_action *a, char *sha256)
{
    enum err e = check_term(l, a);
    if (e != ERR_NONE)
        return ERR_UNAVAILABLE;
    e = checkpoint_publish(a->uri, a->manifest, sha256);
    sim.count.published += e == ERR_NONE;
    return e;
}

static void retain(struct sim_leader *l, const struct coordinator_action *a)
{
    uint32_t removed = 0;
    /* Only while the leadership is sure: what a deposed leader takes for old may be in use. */
    if (!registry_reaches(l->process) || check_term(l, a) != ERR_NONE)
        return;
    sim.count.retained++;
    if (checkpoint_retain(a->uri, a->keep, (const char *const *)a->protect, &removed) != ERR_NONE)
        TRACE("retention failed: %s", err_text());
    sim.count.removed += removed;
}

static enum err put_record(struct sim_leader *l, const struct coordinator_action *a)
{
    enum err e = check_term(l, a);
    if (e == ERR_NONE && a->history != NULL) {
        char *past = must_format("history/%020llu", (unsigned long long)a->sequence);
        e = registry_put_fenced(l->process, a->term, past, a->history);
        mem_free(past);
    }
    char *path = must_format("jobs/%s", a->job);
    if (e == ERR_NONE)
        e = registry_put_fenced(l->process, a->term, path, a->text);
    mem_free(path);
    return e;
}

struct texts {
    const char *list[8];
    size_t count;
};

static void add_text(void *context, const char *path, const char *text)
{
    struct texts *t = context;
    (void)path;
    CHECK(t->count < 8);
    t->list[t->count++] = text;
}

static enum err load(struct sim_leader *l, const struct coordinator_action *a, struct texts *jobs,
                     struct texts *past)
{
    enum err e = check_term(l, a);
    if (e == ERR_NONE && (!registry_reaches(l->process) || sim_fault(sim.plan.registry_fails)))
        e = err_set(ERR_UNAVAILABLE, "the registry is away");
    if (e != ERR_NONE)
        return e;
    registry_for_each("jobs/", add_text, jobs);
    registry_for_each("history/", add_text, past);
    sim.count.takeovers += jobs->count > 0;
    return ERR_NONE;
}

struct done { /* an action that is under way */
    struct sim_leader *leader;
    struct coordinator_action *action;
    int line;
    uint32_t reign;
};

static void done_free(void *context)
{
    struct done *d = context;
    coordinator_action_destroy(d->action);
    mem_free(d);
}

static void do_action(void *context)
{
    struct done *d = context;
    struct sim_leader *l = d->leader;
    struct coordinator_action *a = d->action;
    struct coordinator_result r = {.id = a->id, .text = ""};
    struct checkpoint_listing *found = NULL;
    struct texts jobs = {.count = 0}, past = {.count = 0};
    char sha256[SHA256_HEX_SIZE] = "";
    r.sha256 = sha256;
    if (a->kind == ACTION_LOAD)
        r.code = load(l, a, &jobs, &past);
    else if (a->kind == ACTION_LIST)
        r.code = list(l, a, &r, &found);
    else if (a->kind == ACTION_READ_MANIFEST)
        r.code = checkpoint_read_manifest(a->uri, &r.manifest, sha256);
    else if (a->kind == ACTION_PUBLISH)
        r.code = publish(l, a, sha256);
    else if (a->kind == ACTION_RECORD)
        r.code = put_record(l, a);
    else if (a->kind == ACTION_RETAIN)
        retain(l, a);
    TRACE("did action=%d uri=%s code=%s", a->kind, a->uri != NULL ? a->uri : "", err_name(r.code));
    char *text = must_strdup(r.code != ERR_NONE ? err_text() : "");
    r.text = text;
    r.records = jobs.list;
    r.record_count = jobs.count;
    r.history = past.list;
    r.history_count = past.count;
    l->lines[d->line].doing = false;
    if (l->machine != NULL && l->reign == d->reign) {
        coordinator_result(l->machine, &r, sim.now_us / 1000);
        turn(l, NULL);
    } else {
        checkpoint_manifest_destroy(r.manifest);
    }
    mem_free(text);
    checkpoint_listing_free(found, r.listing_count);
    mem_free((void *)(uintptr_t)r.listing);
    mem_free((void *)(uintptr_t)r.record);
    done_free(d);
}

static void do_next(struct sim_leader *l, int number)
{
    struct line *line = &l->lines[number];
    if (line->doing || line->first == NULL)
        return;
    struct done *d = must_alloc(sizeof *d);
    *d = (struct done){l, line->first, number, l->reign};
    line->first = line->first->next;
    if (line->first == NULL)
        line->last = &line->first;
    d->action->next = NULL;
    line->doing = true;
    uint64_t delay_us = sim_between(200, 5000);
    if (sim_fault(number == LINE_STORE ? sim.plan.store_slow : sim.plan.slow))
        delay_us = sim_between(50, 3000) * SIM_MS;
    sim_after(l->process, delay_us, "action", do_action, done_free, d);
}

/* ---- calls ---- */

static void watch(struct sim_leader *l, const char *id)
{
    uint32_t i = 0;
    while (i < l->watched_count && strcmp(l->watched[i].id, id) != 0)
        i++;
    if (i == l->watched_count && i < WATCHED)
        strcpy(l->watched[l->watched_count++].id, id);
}

static void exchange(struct sim_leader *l, struct rpc_call *call, const uint8_t *bytes, size_t size)
{
    Paramd__Control__MemberState *state = paramd__control__member_state__unpack(NULL, size, bytes);
    CHECK(state != NULL && strlen(state->member) < sizeof l->parked->member);
    struct parked *p = must_alloc(sizeof *p);
    strcpy(p->member, state->member);
    p->version = state->term == l->term ? state->orders_version : 0;
    p->call = call;
    p->since_us = sim.now_us;
    enum err e = coordinator_member(l->machine, state, sim.now_us / 1000);
    if (e != ERR_NONE) {
        rpc_call_fail(call, RPC_FAILED_PRECONDITION, err_text());
        mem_free(p);
        return;
    }
    watch(l, p->member);
    turn(l, p->member);
    if (is_due(l, p)) {
        reply_orders(l, p->call, p->member);
        mem_free(p);
        return;
    }
    p->next = l->parked;
    l->parked = p;
}

/* ---- paramctl ---- */

static void pack(const ProtobufCMessage *m, struct str *out)
{
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = must_alloc(size + 1);
    protobuf_c_message_pack(m, bytes);
    str_append_span(out, span_make((const char *)bytes, size));
    mem_free(bytes);
}

static void submit(struct sim_leader *l, const uint8_t *bytes, size_t size, struct str *out)
{
    Paramd__Control__SubmitRequest *q = paramd__control__submit_request__unpack(NULL, size, bytes);
    Paramd__Control__SubmitReply r = PARAMD__CONTROL__SUBMIT_REPLY__INIT;
    const char *job = "";
    CHECK(q != NULL);
    if (coordinator_submit(l->machine, q, sim.now_us / 1000, &job) != ERR_NONE)
        r.error = (char *)err_text();
    r.job = (char *)job;
    pack(&r.base, out);
    paramd__control__submit_request__free_unpacked(q, NULL);
}

static void stop(struct sim_leader *l, const uint8_t *bytes, size_t size, struct str *out)
{
    Paramd__Control__StopRequest *q = paramd__control__stop_request__unpack(NULL, size, bytes);
    Paramd__Control__SimpleReply r = PARAMD__CONTROL__SIMPLE_REPLY__INIT;
    CHECK(q != NULL);
    if (coordinator_stop(l->machine, q, sim.now_us / 1000) != ERR_NONE)
        r.error = (char *)err_text();
    pack(&r.base, out);
    paramd__control__stop_request__free_unpacked(q, NULL);
}

static void checkpoint_now(struct sim_leader *l, const uint8_t *bytes, size_t size, struct str *out)
{
    Paramd__Control__CheckpointNowRequest *q =
        paramd__control__checkpoint_now_request__unpack(NULL, size, bytes);
    Paramd__Control__SimpleReply r = PARAMD__CONTROL__SIMPLE_REPLY__INIT;
    CHECK(q != NULL);
    if (coordinator_checkpoint_now(l->machine, q->job, sim.now_us / 1000, &r.step) != ERR_NONE)
        r.error = (char *)err_text();
    pack(&r.base, out);
    paramd__control__checkpoint_now_request__free_unpacked(q, NULL);
}

bool leader_ask(struct sim_leader *l, const char *method, const uint8_t *bytes, size_t size,
                struct str *out)
{
    if (l->machine == NULL || !coordinator_is_loaded(l->machine))
        return false;
    if (strcmp(method, CONTROL_SUBMIT) == 0)
        submit(l, bytes, size, out);
    else if (strcmp(method, CONTROL_STOP) == 0)
        stop(l, bytes, size, out);
    else if (strcmp(method, CONTROL_CHECKPOINT_NOW) == 0)
        checkpoint_now(l, bytes, size, out);
    else
        coordinator_status(l->machine, "sim", sim.now_us / 1000, out);
    turn(l, NULL);
    return true;
}

void leader_call(struct sim_leader *l, const char *method, struct rpc_call *call)
{
    (void)method; /* members only exchange */
    if (l->machine == NULL) {
        rpc_call_fail(call, RPC_UNAVAILABLE, "this server does not lead");
        return;
    }
    const struct chain *request = rpc_call_request(call);
    size_t size = request->size;
    uint8_t *bytes = must_alloc(size + 1);
    chain_copy_out(request, 0, bytes, size);
    exchange(l, call, bytes, size);
    mem_free(bytes);
}

/* ---- leading ---- */

static void fall(struct sim_leader *l)
{
    if (l->machine == NULL)
        return;
    while (l->parked != NULL) {
        struct parked *p = l->parked;
        l->parked = p->next;
        rpc_call_fail(p->call, RPC_UNAVAILABLE, "this server leads no more");
        mem_free(p);
    }
    for (int i = 0; i < LINE_COUNT; i++) {
        struct line *line = &l->lines[i];
        while (line->first != NULL) {
            struct coordinator_action *next = line->first->next;
            coordinator_action_destroy(line->first);
            line->first = next;
        }
        line->last = &line->first;
    }
    coordinator_destroy(l->machine);
    l->machine = NULL;
    l->watched_count = 0;
    l->reign++;
}

static void look(struct sim_leader *l)
{
    for (uint32_t i = 0; i < l->watched_count;) {
        struct watched *w = &l->watched[i];
        w->misses = registry_shows(w->id) ? 0 : w->misses + 1;
        if (w->misses < MISSES_MAX) {
            i++;
            continue;
        }
        char id[32];
        strcpy(id, w->id);
        *w = l->watched[--l->watched_count];
        coordinator_member_lost(l->machine, id, "the registry does not show it any more",
                                sim.now_us / 1000);
    }
}

static void look_at_registry(struct sim_leader *l)
{
    if (!registry_reaches(l->process)) {
        l->settled_us = sim.now_us + SETTLE_MS * SIM_MS;
        coordinator_pause(l->machine, sim.now_us - l->connected_us > GRACE_MS * SIM_MS);
        return;
    }
    l->connected_us = sim.now_us;
    coordinator_pause(l->machine, false);
    if (!l->watches_unheard && coordinator_is_loaded(l->machine)) {
        const char *id;
        l->watches_unheard = true;
        for (size_t i = 0; (id = coordinator_unheard(l->machine, i)) != NULL; i++)
            watch(l, id);
    }
    if (sim.now_us >= l->settled_us && !sim_fault(50)) /* a watch may come late */
        look(l);
}

static void tick(void *context)
{
    struct sim_leader *l = context;
    if (l->machine != NULL) {
        look_at_registry(l);
        coordinator_tick(l->machine, sim.now_us / 1000);
        turn(l, NULL);
    } else if (registry_try_lead(l->process, &l->term)) {
        TRACE("leads term=%llu", (unsigned long long)l->term);
        l->reign++;
        l->watches_unheard = false;
        l->connected_us = sim.now_us;
        l->machine = coordinator_create(&(struct coordinator_options){
            .term = l->term,
            .peer_timeout_ms = sim.plan.peer_timeout_ms,
            .stall_timeout_ms = sim.plan.stall_timeout_ms,
            .replace_wait_ms = sim.plan.replace_wait_ms,
        });
        turn(l, NULL);
    }
    uint64_t next_ms = l->machine != NULL ? TICK_MS : LEAD_MS;
    sim_after(l->process, next_ms * SIM_MS, "tick", tick, NULL, l);
}

struct sim_leader *leader_begin(struct process *p)
{
    struct sim_leader *l = must_alloc(sizeof *l);
    l->process = p;
    for (int i = 0; i < LINE_COUNT; i++)
        l->lines[i].last = &l->lines[i].first;
    sim_after(p, sim_between(0, LEAD_MS) * SIM_MS, "tick", tick, NULL, l);
    return l;
}

void leader_end(struct sim_leader *l)
{
    if (l == NULL)
        return;
    fall(l);
    mem_free(l);
}

void leader_expired(struct sim_leader *l)
{
    if (l->machine != NULL) {
        sim.count.deposed++;
        TRACE("is deposed term=%llu", (unsigned long long)l->term);
    }
    fall(l);
}
