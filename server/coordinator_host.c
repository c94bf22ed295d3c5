#include "server/coordinator_host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/queue.h"
#include "server/coordinator.h"
#include "server/coordinator_storage.h"

#define LEAD_EVERY_MS  250u
#define WATCH_EVERY_MS 100u
#define TICK_MS        100u
#define PARK_MS        1000u
#define EVENTS_MAX     4096u
#define MISSES_MAX     2u /* looks at the registry without a member before it counts as gone */

enum event_kind { EVENT_CALL, EVENT_LED, EVENT_GONE, EVENT_RESULT };

struct event {
    enum event_kind kind;
    struct rpc_call *call;
    const char *method;
    ProtobufCMessage *message;
    uint64_t term;
    char *member;
    struct storage_answer *answer;
};

struct parked { /* an exchange that waits for other orders */
    struct rpc_call *call;
    char *member;
    uint64_t version, since_ms;
    struct parked *next;
};

struct watched { /* a member as the registry shows it */
    char *id;
    uint32_t misses;
    struct watched *next;
};

struct method {
    struct coordinator_host *host;
    const char *name;
    const ProtobufCMessageDescriptor *type;
};

struct coordinator_host {
    struct coordinator_host_options options;
    struct method methods[CONTROL_METHOD_COUNT];
    struct queue *events;
    struct coordinator_storage *storage;
    char *record;
    pthread_t machine_thread, watch_thread;
    bool started;
    atomic_bool stopping, leads;

    /* the machine's thread */
    struct coordinator *machine;
    uint64_t term;
    struct parked *parked;

    /* guarded by lock: for the watch, and for who asks whether to leave */
    pthread_mutex_t lock;
    pthread_cond_t woken;
    struct watched *watched;
    uint64_t end_told_ms; /* a status with an end was given; 0: not yet */
    uint64_t asked_leave_ms;
};

static void *machine_run(void *context);
static void *watch_run(void *context);
static void handle_call(void *context, struct rpc_call *call);
static void storage_done(void *context, struct storage_answer *answer);

struct coordinator_host *coordinator_host_create(const struct coordinator_host_options *o)
{
    struct coordinator_host *h = must_alloc(sizeof *h);
    h->options = *o;
    h->events = queue_create(EVENTS_MAX);
    CHECK(h->events != NULL);
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->woken, &monotonic);
    pthread_condattr_destroy(&monotonic);
    const struct method methods[CONTROL_METHOD_COUNT] = {
        {h, CONTROL_EXCHANGE, &paramd__control__member_state__descriptor},
        {h, CONTROL_SUBMIT, &paramd__control__submit_request__descriptor},
        {h, CONTROL_STATUS, &paramd__control__status_request__descriptor},
        {h, CONTROL_STOP, &paramd__control__stop_request__descriptor},
        {h, CONTROL_CHECKPOINT_NOW, &paramd__control__checkpoint_now_request__descriptor},
    };
    memcpy(h->methods, methods, sizeof methods);
    return h;
}

void coordinator_host_methods(struct coordinator_host *h, struct rpc_method *out)
{
    for (size_t i = 0; i < CONTROL_METHOD_COUNT; i++)
        out[i] = (struct rpc_method){h->methods[i].name, handle_call, &h->methods[i]};
}

void coordinator_host_start(struct coordinator_host *h, const char *const *addresses)
{
    h->record = member_leader_record(addresses);
    h->storage = coordinator_storage_create(h->options.registry, storage_done, h);
    CHECK(pthread_create(&h->machine_thread, NULL, machine_run, h) == 0);
    CHECK(pthread_create(&h->watch_thread, NULL, watch_run, h) == 0);
    h->started = true;
}

void coordinator_host_stop(struct coordinator_host *h)
{
    atomic_store(&h->stopping, true);
    queue_close(h->events);
    if (!h->started)
        return;
    pthread_mutex_lock(&h->lock);
    pthread_cond_signal(&h->woken);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->watch_thread, NULL);
    pthread_join(h->machine_thread, NULL);
    coordinator_storage_destroy(h->storage);
    if (atomic_load(&h->leads))
        registry_resign(h->options.registry);
    h->started = false;
}

void coordinator_host_destroy(struct coordinator_host *h)
{
    if (h == NULL)
        return;
    CHECK(!h->started);
    queue_destroy(h->events);
    while (h->watched != NULL) {
        struct watched *next = h->watched->next;
        mem_free(h->watched->id);
        mem_free(h->watched);
        h->watched = next;
    }
    pthread_cond_destroy(&h->woken);
    pthread_mutex_destroy(&h->lock);
    mem_free(h->record);
    mem_free(h);
}

bool coordinator_host_may_leave(struct coordinator_host *h, const char *member, uint32_t grace_ms)
{
    if (!atomic_load(&h->leads))
        return true;
    uint64_t now = clock_ms();
    pthread_mutex_lock(&h->lock);
    if (h->asked_leave_ms == 0)
        h->asked_leave_ms = now;
    bool late = now - h->asked_leave_ms > grace_ms;
    bool told = h->end_told_ms != 0;
    bool alone = true;
    for (const struct watched *w = h->watched; w != NULL; w = w->next)
        alone &= strcmp(w->id, member) == 0;
    pthread_mutex_unlock(&h->lock);
    return late || (told && alone);
}

/* ---- events, from any thread ---- */

static void event_free(struct event *e)
{
    if (e->message != NULL)
        protobuf_c_message_free_unpacked(e->message, NULL);
    storage_answer_destroy(e->answer);
    mem_free(e->member);
    mem_free(e);
}

/* Results and losses must arrive, calls need not. */
static enum err post(struct coordinator_host *h, struct event *e, uint32_t timeout_ms)
{
    return queue_push(h->events, e, timeout_ms);
}

static void handle_call(void *context, struct rpc_call *call)
{
    const struct method *m = context;
    struct coordinator_host *h = m->host;
    if (!atomic_load(&h->leads) || atomic_load(&h->stopping)) {
        rpc_call_fail(call, RPC_UNAVAILABLE,
                      "this server does not lead; ask the registry who does");
        return;
    }
    const struct chain *request = rpc_call_request(call);
    void *bytes = must_alloc(request->size + 1);
    chain_copy_out(request, 0, bytes, request->size);
    ProtobufCMessage *message = protobuf_c_message_unpack(m->type, NULL, request->size, bytes);
    mem_free(bytes);
    if (message == NULL) {
        rpc_call_fail(call, RPC_INVALID, "the request does not decode");
        return;
    }
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_CALL;
    e->call = call;
    e->method = m->name;
    e->message = message;
    enum err pushed = post(h, e, 0);
    if (pushed == ERR_NONE)
        return;
    event_free(e);
    rpc_call_fail(call, pushed == ERR_LIMIT ? RPC_BUSY : RPC_UNAVAILABLE,
                  "the coordinator is busy");
}

static void storage_done(void *context, struct storage_answer *answer)
{
    struct coordinator_host *h = context;
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_RESULT;
    e->answer = answer;
    if (post(h, e, 10000) != ERR_NONE)
        event_free(e);
}

/* ---- the watch: leadership, and members that the registry does not show any more ---- */

static void post_gone(struct coordinator_host *h, const char *id)
{
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_GONE;
    e->member = must_strdup(id);
    if (post(h, e, 10000) != ERR_NONE)
        event_free(e);
}

static bool is_listed(const struct registry_entry *entries, size_t count, const char *id)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(entries[i].id, id) == 0)
            return true;
    return false;
}

/* Called locked. */
static void watch_one(struct coordinator_host *h, const char *id)
{
    struct watched *w = h->watched;
    while (w != NULL && strcmp(w->id, id) != 0)
        w = w->next;
    if (w != NULL)
        return;
    w = must_alloc(sizeof *w);
    w->id = must_strdup(id);
    w->next = h->watched;
    h->watched = w;
}

static void watch_members(struct coordinator_host *h)
{
    struct registry_entry *entries;
    size_t count;
    if (registry_members(h->options.registry, NULL, &entries, &count) != ERR_NONE) {
        log_warn("coordinator", "cannot read the members: %s", err_text());
        return;
    }
    pthread_mutex_lock(&h->lock);
    struct watched **at = &h->watched;
    while (*at != NULL) {
        struct watched *w = *at;
        w->misses = is_listed(entries, count, w->id) ? 0 : w->misses + 1;
        if (w->misses < MISSES_MAX) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        post_gone(h, w->id);
        mem_free(w->id);
        mem_free(w);
    }
    for (size_t i = 0; i < count; i++)
        watch_one(h, entries[i].id);
    pthread_mutex_unlock(&h->lock);
    registry_entries_free(entries, count);
}

static void try_to_lead(struct coordinator_host *h)
{
    bool leads = false;
    uint64_t term = 0;
    if (registry_lead(h->options.registry, h->record, &leads, &term) != ERR_NONE) {
        log_warn("coordinator", "cannot try to lead: %s", err_text());
        return;
    }
    if (!leads)
        return;
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_LED;
    e->term = term;
    if (post(h, e, 10000) != ERR_NONE) {
        event_free(e);
        return;
    }
    atomic_store(&h->leads, true);
}

static void *watch_run(void *context)
{
    struct coordinator_host *h = context;
    while (!atomic_load(&h->stopping)) {
        if (!atomic_load(&h->leads))
            try_to_lead(h);
        else
            watch_members(h);
        uint64_t until = clock_ms() + (atomic_load(&h->leads) ? WATCH_EVERY_MS : LEAD_EVERY_MS);
        struct timespec t = {.tv_sec = (time_t)(until / 1000),
                             .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&h->lock);
        if (!atomic_load(&h->stopping))
            pthread_cond_timedwait(&h->woken, &h->lock, &t);
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}

/* ---- the machine's thread ---- */

static void reply_bytes(struct rpc_call *call, const void *data, size_t size)
{
    struct chain reply = {0};
    chain_append_copy(&reply, data, size);
    rpc_call_reply(call, &reply);
    chain_deinit(&reply);
}

static void reply_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = must_alloc(size + 1);
    protobuf_c_message_pack(message, bytes);
    reply_bytes(call, bytes, size);
    mem_free(bytes);
}

static void reply_orders(struct coordinator_host *h, struct rpc_call *call, const char *member)
{
    struct str packed = {0};
    uint64_t version;
    if (coordinator_orders(h->machine, member, &packed, &version) == ERR_NONE)
        reply_bytes(call, packed.data, packed.size);
    else
        rpc_call_fail(call, RPC_NOT_FOUND, err_text());
    str_deinit(&packed);
}

/* Answers those whose orders are others now, that have waited long enough, or that `member` has
 * replaced. */
static void answer_parked(struct coordinator_host *h, uint64_t now, const char *member)
{
    struct parked **at = &h->parked;
    while (*at != NULL) {
        struct parked *p = *at;
        uint64_t version = 0;
        bool known = coordinator_orders(h->machine, p->member, NULL, &version) == ERR_NONE;
        bool replaced = member != NULL && strcmp(member, p->member) == 0;
        bool gone = rpc_call_is_cancelled(p->call);
        if (!gone)
            coordinator_heard(h->machine, p->member, now);
        if (known && version == p->version && now - p->since_ms < PARK_MS && !replaced && !gone) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        reply_orders(h, p->call, p->member);
        mem_free(p->member);
        mem_free(p);
    }
}

static void exchange(struct coordinator_host *h, struct event *e, uint64_t now)
{
    Paramd__Control__MemberState *state = (Paramd__Control__MemberState *)e->message;
    e->message = NULL;
    struct parked *p = must_alloc(sizeof *p);
    p->member = must_strdup(state->member);
    p->version = state->term == h->term ? state->orders_version : 0;
    p->call = e->call;
    p->since_ms = now;
    enum err code = coordinator_member(h->machine, state, now);
    if (code != ERR_NONE) {
        rpc_call_fail(e->call, code == ERR_INPUT ? RPC_INVALID : RPC_FAILED_PRECONDITION,
                      err_text());
        mem_free(p->member);
        mem_free(p);
        return;
    }
    /* One that joins and leaves between two looks at the registry is missed, too. */
    pthread_mutex_lock(&h->lock);
    watch_one(h, p->member);
    pthread_mutex_unlock(&h->lock);
    answer_parked(h, now, p->member);
    p->next = h->parked;
    h->parked = p;
}

static void submit(struct coordinator_host *h, struct event *e, uint64_t now)
{
    const char *job;
    Paramd__Control__SubmitReply reply = PARAMD__CONTROL__SUBMIT_REPLY__INIT;
    if (coordinator_submit(h->machine, (Paramd__Control__SubmitRequest *)e->message, now, &job) ==
        ERR_NONE)
        reply.job = (char *)job;
    else
        reply.error = (char *)err_text();
    reply_message(e->call, &reply.base);
}

static void status(struct coordinator_host *h, struct event *e, uint64_t now)
{
    struct str packed = {0};
    coordinator_status(h->machine, ((Paramd__Control__StatusRequest *)e->message)->job, now,
                       &packed);
    reply_bytes(e->call, packed.data, packed.size);
    Paramd__Control__StatusReply *said =
        paramd__control__status_reply__unpack(NULL, packed.size, (const uint8_t *)packed.data);
    bool end =
        said != NULL && (strcmp(said->state, "DONE") == 0 || strcmp(said->state, "FAILED") == 0 ||
                         strcmp(said->state, "STOPPED") == 0);
    if (said != NULL)
        paramd__control__status_reply__free_unpacked(said, NULL);
    str_deinit(&packed);
    if (!end)
        return;
    pthread_mutex_lock(&h->lock);
    h->end_told_ms = now;
    pthread_mutex_unlock(&h->lock);
}

static void stop_or_checkpoint(struct coordinator_host *h, struct event *e, uint64_t now)
{
    Paramd__Control__SimpleReply reply = PARAMD__CONTROL__SIMPLE_REPLY__INIT;
    uint64_t step = 0;
    enum err code;
    if (e->message->descriptor == &paramd__control__stop_request__descriptor)
        code = coordinator_stop(h->machine, (Paramd__Control__StopRequest *)e->message, now);
    else
        code = coordinator_checkpoint_now(
            h->machine, ((Paramd__Control__CheckpointNowRequest *)e->message)->job, now, &step);
    if (code != ERR_NONE)
        reply.error = (char *)err_text();
    reply.step = step;
    reply_message(e->call, &reply.base);
}

static void take_call(struct coordinator_host *h, struct event *e, uint64_t now)
{
    if (h->machine == NULL)
        rpc_call_fail(e->call, RPC_UNAVAILABLE, "this server does not lead yet");
    else if (strcmp(e->method, CONTROL_EXCHANGE) == 0)
        exchange(h, e, now);
    else if (strcmp(e->method, CONTROL_SUBMIT) == 0)
        submit(h, e, now);
    else if (strcmp(e->method, CONTROL_STATUS) == 0)
        status(h, e, now);
    else
        stop_or_checkpoint(h, e, now);
}

static void take_event(struct coordinator_host *h, struct event *e, uint64_t now)
{
    switch (e->kind) {
    case EVENT_CALL:
        take_call(h, e, now);
        break;
    case EVENT_LED:
        log_info("coordinator", "leads term=%llu", (unsigned long long)e->term);
        h->term = e->term;
        h->machine = coordinator_create(&(struct coordinator_options){
            .term = e->term,
            .peer_timeout_ms = h->options.peer_timeout_ms,
            .stall_timeout_ms = h->options.stall_timeout_ms,
        });
        break;
    case EVENT_GONE:
        coordinator_member_lost(h->machine, e->member, "the registry does not show it any more",
                                now);
        break;
    case EVENT_RESULT:
        coordinator_result(h->machine, storage_answer_result(e->answer), now);
        break;
    }
    event_free(e);
}

static void take_actions(struct coordinator_host *h)
{
    struct coordinator_action *a;
    while ((a = coordinator_next_action(h->machine)) != NULL) {
        if (a->kind == ACTION_LOG) {
            enum log_level level = a->level == COORDINATOR_ERROR  ? LOG_ERROR
                                   : a->level == COORDINATOR_WARN ? LOG_WARN
                                                                  : LOG_INFO;
            log_write(level, "coordinator", "%s", a->text);
            coordinator_action_destroy(a);
        } else {
            coordinator_storage_do(h->storage, a);
        }
    }
}

static void *machine_run(void *context)
{
    struct coordinator_host *h = context;
    uint64_t ticked = 0;
    for (;;) {
        void *item = NULL;
        enum err e = queue_pop(h->events, &item, TICK_MS);
        uint64_t now = clock_ms();
        if (e == ERR_CANCELLED)
            break;
        if (item != NULL)
            take_event(h, item, now);
        if (h->machine == NULL)
            continue;
        if (now - ticked >= TICK_MS) {
            ticked = now;
            coordinator_tick(h->machine, now);
        }
        take_actions(h);
        answer_parked(h, now, NULL);
    }
    while (h->parked != NULL) {
        struct parked *p = h->parked;
        h->parked = p->next;
        rpc_call_fail(p->call, RPC_UNAVAILABLE, "this server is leaving");
        mem_free(p->member);
        mem_free(p);
    }
    coordinator_destroy(h->machine);
    h->machine = NULL;
    return NULL;
}
