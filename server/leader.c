#include "server/leader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/metrics.h"
#include "common/queue.h"
#include "server/coordinator.h"
#include "server/leader_storage.h"
#include "server/leader_watch.h"

#define TICK_MS    100u
#define SUBMIT_MS  3000u
#define PARK_MS    1000u
#define EVENTS_MAX 4096u

enum event_kind { EVENT_CALL, EVENT_LED, EVENT_DEPOSED, EVENT_GONE, EVENT_RESULT };

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

struct submitted { /* a submission that waits for a look at the store */
    struct rpc_call *call;
    char *job;
    uint64_t since_ms;
    struct submitted *next;
};

struct method {
    struct leader *host;
    const char *name;
    const ProtobufCMessageDescriptor *type;
};

struct leader {
    struct leader_options options;
    struct method methods[CONTROL_METHOD_COUNT];
    struct queue *events;
    struct leader_storage *storage;
    char *record;
    pthread_t machine_thread;
    struct leader_watch *watch;
    bool started;
    atomic_bool stopping, leads;

    /* the machine's thread */
    struct coordinator *machine;
    uint64_t term;
    bool watches_unheard;
    struct parked *parked;
    struct submitted *submitted;

    /* guarded by lock */
    pthread_mutex_t lock;
    uint64_t end_told_ms; /* a status with an end was given; 0: not yet */
    uint64_t asked_leave_ms;
};

static void *machine_run(void *context);
static bool take_leadership(void *context, uint64_t term);
static void take_gone(void *context, const char *member);
static void take_deposed(void *context);
static void handle_call(void *context, struct rpc_call *call);
static void storage_done(void *context, struct storage_answer *answer);

struct leader *leader_create(const struct leader_options *o)
{
    struct leader *h = must_alloc(sizeof *h);
    h->options = *o;
    h->events = queue_create(EVENTS_MAX);
    CHECK(h->events != NULL);
    pthread_mutex_init(&h->lock, NULL);
    const struct method methods[CONTROL_METHOD_COUNT] = {
        {h, CONTROL_EXCHANGE, &paramd__control__member_state__descriptor},
        {h, CONTROL_SUBMIT, &paramd__control__submit_request__descriptor},
        {h, CONTROL_STATUS, &paramd__control__status_request__descriptor},
        {h, CONTROL_STOP, &paramd__control__stop_request__descriptor},
        {h, CONTROL_CHECKPOINT_NOW, &paramd__control__checkpoint_now_request__descriptor},
        {h, CONTROL_LIST, &paramd__control__list_request__descriptor},
        {h, CONTROL_LOGS, &paramd__control__logs_request__descriptor},
    };
    memcpy(h->methods, methods, sizeof methods);
    return h;
}

void leader_methods(struct leader *h, struct rpc_method *out)
{
    for (size_t i = 0; i < CONTROL_METHOD_COUNT; i++)
        out[i] = (struct rpc_method){h->methods[i].name, handle_call, &h->methods[i]};
}

void leader_start(struct leader *h, const char *const *addresses)
{
    h->record = member_leader_record(addresses);
    h->storage = leader_storage_create(h->options.registry, storage_done, h);
    h->watch = leader_watch_create(&(struct leader_watch_options){
        .registry = h->options.registry,
        .record = h->record,
        .led = take_leadership,
        .gone = take_gone,
        .deposed = take_deposed,
        .context = h,
    });
    CHECK(pthread_create(&h->machine_thread, NULL, machine_run, h) == 0);
    leader_watch_start(h->watch);
    h->started = true;
}

void leader_stop(struct leader *h)
{
    atomic_store(&h->stopping, true);
    queue_close(h->events);
    if (!h->started)
        return;
    pthread_join(h->machine_thread, NULL);
    leader_storage_destroy(h->storage);
    leader_watch_destroy(h->watch);
    h->started = false;
}

void leader_destroy(struct leader *h)
{
    if (h == NULL)
        return;
    CHECK(!h->started);
    queue_destroy(h->events);
    pthread_mutex_destroy(&h->lock);
    mem_free(h->record);
    mem_free(h);
}

bool leader_may_leave(struct leader *h, const char *member, uint32_t grace_ms)
{
    if (!atomic_load(&h->leads))
        return true;
    uint64_t now = clock_ms();
    pthread_mutex_lock(&h->lock);
    if (h->asked_leave_ms == 0)
        h->asked_leave_ms = now;
    bool late = now - h->asked_leave_ms > grace_ms;
    bool told = h->end_told_ms != 0;
    pthread_mutex_unlock(&h->lock);
    return late || (told && leader_watch_is_alone(h->watch, member));
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
static enum err post(struct leader *h, struct event *e, uint32_t timeout_ms)
{
    return queue_push(h->events, e, timeout_ms);
}

static void handle_call(void *context, struct rpc_call *call)
{
    const struct method *m = context;
    struct leader *h = m->host;
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
    struct leader *h = context;
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_RESULT;
    e->answer = answer;
    if (post(h, e, 10000) != ERR_NONE)
        event_free(e);
}

/* ---- what the watch sees ---- */

static void take_gone(void *context, const char *member)
{
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_GONE;
    e->member = must_strdup(member);
    if (post(context, e, 10000) != ERR_NONE)
        event_free(e);
}

static void take_deposed(void *context)
{
    struct leader *h = context;
    atomic_store(&h->leads, false);
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_DEPOSED;
    if (post(h, e, 10000) != ERR_NONE)
        event_free(e);
}

static bool take_leadership(void *context, uint64_t term)
{
    struct leader *h = context;
    struct event *e = must_alloc(sizeof *e);
    e->kind = EVENT_LED;
    e->term = term;
    if (post(h, e, 10000) != ERR_NONE) {
        event_free(e);
        return false;
    }
    atomic_store(&h->leads, true);
    return true;
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

static void reply_orders(struct leader *h, struct rpc_call *call, const char *member)
{
    struct str packed = {0};
    uint64_t version;
    if (coordinator_orders(h->machine, member, &packed, &version) == ERR_NONE)
        reply_bytes(call, packed.data, packed.size);
    else
        rpc_call_fail(call, RPC_UNAVAILABLE, err_text());
    str_deinit(&packed);
}

/* Answers those whose orders are others now, that have waited long enough, or that `member` has
 * replaced. */
static void answer_parked(struct leader *h, uint64_t now, const char *member)
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

static void exchange(struct leader *h, struct event *e, uint64_t now)
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
    leader_watch_add(h->watch, p->member);
    answer_parked(h, now, p->member);
    p->next = h->parked;
    h->parked = p;
}

static void reply_submit(struct rpc_call *call, const char *job, const char *error)
{
    Paramd__Control__SubmitReply reply = PARAMD__CONTROL__SUBMIT_REPLY__INIT;
    reply.job = (char *)job;
    reply.error = (char *)error;
    reply_message(call, &reply.base);
}

static void submit(struct leader *h, struct event *e, uint64_t now)
{
    const char *job;
    const Paramd__Control__SubmitRequest *request = (Paramd__Control__SubmitRequest *)e->message;
    if (coordinator_submit(h->machine, request, now, &job) != ERR_NONE) {
        reply_submit(e->call, "", err_text());
        return;
    }
    struct submitted *s = must_alloc(sizeof *s);
    s->call = e->call;
    s->job = must_strdup(job);
    s->since_ms = now;
    s->next = h->submitted;
    h->submitted = s;
}

/* A store that is away does not keep the user waiting: the job is refused, as nothing could be
 * recorded of it that a next leader would find. */
static void answer_submitted(struct leader *h, uint64_t now)
{
    struct submitted **at = &h->submitted;
    while (*at != NULL) {
        struct submitted *s = *at;
        bool pending;
        if (now - s->since_ms >= SUBMIT_MS)
            coordinator_withdraw(h->machine, s->job, now);
        enum err e = coordinator_submitted(h->machine, s->job, &pending);
        if (pending) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        reply_submit(s->call, e == ERR_NONE ? s->job : "", e == ERR_NONE ? "" : err_text());
        mem_free(s->job);
        mem_free(s);
    }
}

static void status(struct leader *h, struct event *e, uint64_t now)
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

static void stop_or_checkpoint(struct leader *h, struct event *e, uint64_t now)
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

static void list_or_logs(struct leader *h, struct event *e, uint64_t now)
{
    struct str packed = {0};
    if (e->message->descriptor == &paramd__control__list_request__descriptor) {
        coordinator_list(h->machine, ((Paramd__Control__ListRequest *)e->message)->all, now,
                         &packed);
    } else {
        const Paramd__Control__LogsRequest *r = (Paramd__Control__LogsRequest *)e->message;
        coordinator_logs(h->machine, r->job, r->after, &packed);
    }
    reply_bytes(e->call, packed.data, packed.size);
    str_deinit(&packed);
}

static void take_call(struct leader *h, struct event *e, uint64_t now)
{
    bool exchanges = strcmp(e->method, CONTROL_EXCHANGE) == 0;
    if (h->machine == NULL || (!exchanges && !coordinator_is_loaded(h->machine)))
        rpc_call_fail(e->call, RPC_UNAVAILABLE, "this server does not lead yet");
    else if (strcmp(e->method, CONTROL_EXCHANGE) == 0)
        exchange(h, e, now);
    else if (strcmp(e->method, CONTROL_SUBMIT) == 0)
        submit(h, e, now);
    else if (strcmp(e->method, CONTROL_STATUS) == 0)
        status(h, e, now);
    else if (strcmp(e->method, CONTROL_LIST) == 0 || strcmp(e->method, CONTROL_LOGS) == 0)
        list_or_logs(h, e, now);
    else
        stop_or_checkpoint(h, e, now);
}

static void fail_parked(struct leader *h, const char *why)
{
    while (h->parked != NULL) {
        struct parked *p = h->parked;
        h->parked = p->next;
        rpc_call_fail(p->call, RPC_UNAVAILABLE, why);
        mem_free(p->member);
        mem_free(p);
    }
    while (h->submitted != NULL) {
        struct submitted *s = h->submitted;
        h->submitted = s->next;
        rpc_call_fail(s->call, RPC_UNAVAILABLE, why);
        mem_free(s->job);
        mem_free(s);
    }
}

static void begin_to_lead(struct leader *h, uint64_t term, uint64_t now)
{
    log_info("coordinator", "leads term=%llu", (unsigned long long)term);
    coordinator_destroy(h->machine);
    h->term = term;
    h->watches_unheard = false;
    h->machine = coordinator_create(&(struct coordinator_options){
        .term = term,
        .peer_timeout_ms = h->options.peer_timeout_ms,
        .stall_timeout_ms = h->options.stall_timeout_ms,
        .stuck_timeout_ms = h->options.stuck_timeout_ms,
        .replace_wait_ms = h->options.replace_wait_ms,
        .recovery_limit = h->options.recovery_limit,
        .unix_offset_ms = clock_wall_ms() - now,
    });
}

static void take_event(struct leader *h, struct event *e, uint64_t now)
{
    switch (e->kind) {
    case EVENT_CALL:
        take_call(h, e, now);
        break;
    case EVENT_LED:
        begin_to_lead(h, e->term, now);
        break;
    case EVENT_DEPOSED:
        fail_parked(h, "this server does not lead any more");
        coordinator_destroy(h->machine);
        h->machine = NULL;
        break;
    case EVENT_GONE:
        if (h->machine != NULL)
            coordinator_member_lost(h->machine, e->member, "the registry does not show it any more",
                                    now);
        break;
    case EVENT_RESULT:
        if (h->machine != NULL && storage_answer_term(e->answer) == h->term)
            coordinator_result(h->machine, storage_answer_result(e->answer), now);
        break;
    }
    event_free(e);
}

static void take_actions(struct leader *h)
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
            leader_storage_do(h->storage, a);
        }
    }
}

static void look_at_registry(struct leader *h)
{
    uint64_t away_ms = 0;
    registry_state(h->options.registry, &away_ms);
    coordinator_pause(h->machine, away_ms > h->options.registry_grace_ms);
    if (h->watches_unheard || !coordinator_is_loaded(h->machine))
        return;
    /* Whom the records name and the registry does not show is gone, though it was never seen. */
    h->watches_unheard = true;
    const char *id;
    for (size_t i = 0; (id = coordinator_unheard(h->machine, i)) != NULL; i++)
        leader_watch_add(h->watch, id);
}

static void *machine_run(void *context)
{
    struct leader *h = context;
    uint64_t ticked = 0;
    struct metric *checkpoint_age = metric_gauge(
        "paramd_checkpoint_age_seconds",
        "Of the jobs that train: the age of the newest checkpoint, the oldest of them.");
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
            look_at_registry(h);
            coordinator_tick(h->machine, now);
            metric_set(checkpoint_age,
                       (double)coordinator_checkpoint_age_ms(h->machine, now) / 1000);
        }
        take_actions(h);
        answer_parked(h, now, NULL);
        answer_submitted(h, now);
    }
    fail_parked(h, MEMBER_LEAVING);
    coordinator_destroy(h->machine);
    h->machine = NULL;
    return NULL;
}
