#include "server/service.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/plant.h"
#include "common/wire.h"
#include "server/board.h"
#include "server/owner.h"
#include "server/service_peek.h"

struct entrance { /* one method */
    struct service *service;
    enum request_kind kind;
};

struct service {
    struct service_options options;
    struct board *board;
    struct owner **owners;
    struct entrance entrances[SHARD_METHOD_COUNT];

    pthread_mutex_t lock; /* of what the handlers look at */
    bool stopped;
    char job[NAME_MAX_BYTES + 1];
    uint64_t generation;
    struct formation *formation; /* NULL: no shards */

    /* member's thread */
    uint64_t serial;
    char *yaml;
    Paramd__Control__MemberOrders *layout; /* the orders that came with YAML and layout */
};

static void handle_request(void *context, struct rpc_call *call);

struct service *service_create(const struct service_options *o)
{
    struct service *s = must_alloc(sizeof *s);
    s->options = *o;
    s->board = board_create(o->poke, o->context);
    pthread_mutex_init(&s->lock, NULL);
    s->owners = must_alloc(o->owner_count * sizeof *s->owners);
    for (uint32_t i = 0; i < o->owner_count; i++)
        s->owners[i] = owner_create(s->board, i, o->owner_count);
    return s;
}

void service_methods(struct service *s, struct rpc_method *out)
{
    static const char *const names[SHARD_METHOD_COUNT] = {WIRE_PUSH_PULL, WIRE_RESUME, WIRE_READ};
    for (uint32_t i = 0; i < SHARD_METHOD_COUNT; i++) {
        s->entrances[i] = (struct entrance){s, (enum request_kind)i};
        out[i] = (struct rpc_method){names[i], handle_request, &s->entrances[i]};
    }
}

void service_stop(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    struct owner **owners = s->owners;
    s->owners = NULL;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; owners != NULL && i < s->options.owner_count; i++)
        owner_destroy(owners[i]);
    mem_free(owners);
}

void service_destroy(struct service *s)
{
    if (s == NULL)
        return;
    service_stop(s);
    formation_unref(s->formation);
    if (s->layout != NULL)
        paramd__control__member_orders__free_unpacked(s->layout, NULL);
    board_destroy(s->board);
    pthread_mutex_destroy(&s->lock);
    mem_free(s->yaml);
    mem_free(s);
}

/* ---- requests ---- */

/* The owner of the shard, or the status to answer. Called locked. */
static bool find_owner(struct service *s, const struct request_head *head, struct owner **out,
                       Paramd__PushPullReply__Status *status, const char **text)
{
    if (s->job[0] != '\0' && strcmp(head->job, s->job) != 0) {
        *status = PARAMD__PUSH_PULL_REPLY__STATUS__WRONG_JOB;
        *text = "this server works for another job";
        return false;
    }
    *status = PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED;
    *text = "this server has no such shard of that generation";
    if (s->formation == NULL || (head->generation != s->generation && !PLANT(generation_ignored)))
        return false;
    for (uint32_t i = 0; i < s->formation->shard_count; i++) {
        if (s->formation->shards[i] != head->shard)
            continue;
        *out = s->owners[i % s->options.owner_count];
        return true;
    }
    return false;
}

static void handle_request(void *context, struct rpc_call *call)
{
    const struct entrance *e = context;
    struct service *s = e->service;
    struct request_head head;
    if (request_peek(rpc_call_request(call), e->kind == REQUEST_READ, &head) != ERR_NONE) {
        rpc_call_fail(call, RPC_INVALID, err_text());
        return;
    }
    struct owner *owner = NULL;
    Paramd__PushPullReply__Status status = PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED;
    const char *text = "";
    enum err pushed = ERR_NONE;
    /* Enqueued under the lock, so that no owner goes while a request is on its way to it. */
    pthread_mutex_lock(&s->lock);
    bool stopped = s->stopped;
    bool found = !stopped && find_owner(s, &head, &owner, &status, &text);
    if (found)
        pushed = owner_request(owner, e->kind, head.shard, call);
    pthread_mutex_unlock(&s->lock);
    if (stopped)
        rpc_call_fail(call, RPC_UNAVAILABLE, MEMBER_LEAVING);
    else if (!found)
        owner_answer(e->kind, call, status, text);
    else if (pushed != ERR_NONE)
        rpc_call_fail(call, pushed == ERR_LIMIT ? RPC_BUSY : RPC_UNAVAILABLE, err_text());
}

/* ---- orders ---- */

static void set_formation(struct service *s, struct formation *f)
{
    pthread_mutex_lock(&s->lock);
    struct formation *before = s->formation;
    s->formation = f;
    pthread_mutex_unlock(&s->lock);
    formation_unref(before);
}

static void tell_owners(struct service *s, const Paramd__Control__MemberOrders *orders)
{
    struct formation *f = s->formation != NULL ? formation_ref(s->formation) : NULL;
    struct directive *d = directive_create(f, orders);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; s->owners != NULL && i < s->options.owner_count; i++)
        owner_direct(s->owners[i], d);
    pthread_mutex_unlock(&s->lock);
    directive_unref(d);
}

/* Into another job or generation, or into the pool. */
static void change_job(struct service *s, const Paramd__Control__MemberOrders *orders)
{
    if (strcmp(s->job, orders->job) == 0 && s->generation == orders->generation)
        return;
    log_info("service", "job='%s' generation=%" PRIu64 " was='%s'", orders->job, orders->generation,
             s->job);
    set_formation(s, NULL);
    pthread_mutex_lock(&s->lock);
    size_t size = strlen(orders->job);
    size = size < NAME_MAX_BYTES ? size : NAME_MAX_BYTES;
    memcpy(s->job, orders->job, size);
    s->job[size] = '\0';
    s->generation = orders->generation;
    pthread_mutex_unlock(&s->lock);
    board_reset(s->board, ++s->serial, NULL, 0);
}

static void keep_layout(struct service *s, const Paramd__Control__MemberOrders *orders)
{
    if (orders->job_yaml[0] == '\0')
        return;
    mem_free(s->yaml);
    s->yaml = must_strdup(orders->job_yaml);
    if (s->layout != NULL)
        paramd__control__member_orders__free_unpacked(s->layout, NULL);
    size_t size = paramd__control__member_orders__get_packed_size(orders);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_orders__pack(orders, bytes);
    s->layout = paramd__control__member_orders__unpack(NULL, size, bytes);
    CHECK(s->layout != NULL);
    mem_free(bytes);
}

static bool is_same_formation(const struct formation *f, const Paramd__Control__ServerOrders *o)
{
    return f != NULL && strcmp(f->restore, o->restore) == 0 &&
           strcmp(f->restore_checksum, o->restore_checksum) == 0;
}

static void form(struct service *s, const Paramd__Control__MemberOrders *orders)
{
    const Paramd__Control__ServerOrders *o = orders->server;
    struct formation_options options = {
        .yaml = s->yaml,
        .layout = s->layout,
        .orders = orders,
        .serial = ++s->serial,
        .memory_bytes = s->options.memory_bytes,
        .wait_ms = s->options.wait_ms,
    };
    board_reset(s->board, s->serial, o->shards, (uint32_t)o->n_shards);
    struct formation *f;
    enum err e = formation_create(&options, &f);
    if (e == ERR_NONE) {
        set_formation(s, f);
        return;
    }
    log_error("service", "cannot form the shards of job '%s': %s", orders->job, err_text());
    struct board_place nobody = {s->board, s->serial, UINT32_MAX};
    board_fail(&nobody, PARAMD__CONTROL__FAILURE__KIND__INPUT, err_text());
}

void service_follow(struct service *s, const Paramd__Control__MemberOrders *orders)
{
    change_job(s, orders);
    keep_layout(s, orders);
    const Paramd__Control__ServerOrders *o = orders->server;
    bool has_job = orders->job[0] != '\0' && o != NULL && s->yaml != NULL;
    bool wanted = has_job && o->form;
    if (!wanted && s->formation != NULL) {
        set_formation(s, NULL);
        board_reset(s->board, ++s->serial, NULL, 0);
    }
    if (wanted && !is_same_formation(s->formation, o)) {
        set_formation(s, NULL);
        form(s, orders);
    }
    tell_owners(s, orders);
    /* Job and generation last: they say that the layout is here. */
    board_set_job(s->board, s->job, s->generation);
    s->options.poke(s->options.context);
}

void service_set_orphaned(struct service *s, bool orphaned)
{
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; s->owners != NULL && i < s->options.owner_count; i++)
        owner_set_orphaned(s->owners[i], orphaned);
    pthread_mutex_unlock(&s->lock);
}

/* How long the owner of each shard has been at one request. */
static void put_busy(struct service *s, Paramd__Control__ServerState *state)
{
    pthread_mutex_lock(&s->lock);
    uint32_t count = s->formation != NULL && s->owners != NULL ? s->formation->shard_count : 0;
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < state->n_shards; k++)
            if (state->shards[k]->shard == s->formation->shards[i])
                state->shards[k]->busy_ms = owner_busy_ms(s->owners[i % s->options.owner_count]);
    pthread_mutex_unlock(&s->lock);
}

bool service_is_idle(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    bool is_idle = s->formation == NULL;
    pthread_mutex_unlock(&s->lock);
    return is_idle;
}

void service_describe(struct service *s, Paramd__Control__MemberState *state)
{
    board_describe(s->board, state);
    put_busy(s, state->server);
}
