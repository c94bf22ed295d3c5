#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/wire.h"
#include "tests/sim/sim_parts.h"

/*
 * A call is a request event at the callee and a reply event at the caller. Either may be lost,
 * late, or come twice; the caller hears of it exactly once: a reply, a broken connection, or its
 * deadline. A connection breaks when the callee crashes, not when it is paused or cut off.
 */

struct client_call {
    struct rpc_channel *channel; /* NULL: ended */
    uint32_t references;
    rpc_callback callback;
    void *context;
    struct client_call *next, **at; /* among the channel's open ones */
};

struct rpc_channel {
    char address[32];
    struct process *owner;
    struct client_call *open;
};

struct rpc_call {
    struct client_call *client; /* a reference */
    struct process *caller, *server;
    uint32_t caller_life, server_life;
    char method[40];
    struct chain request;
    uint64_t deadline_us;
    bool is_ended, is_copy;      /* the second of a doubled request */
    struct rpc_call *next, **at; /* among all */
};

/* A reply, or the end of a connection, on its way. */
struct answer {
    struct client_call *client;
    enum rpc_status status;
    char message[128];
    struct chain reply;
};

static struct rpc_call *calls;

static void unref(struct client_call *c)
{
    if (--c->references == 0)
        mem_free(c);
}

static void finish(struct client_call *c, enum rpc_status status, const char *message,
                   struct chain *reply)
{
    if (c->channel == NULL)
        return;
    *c->at = c->next;
    if (c->next != NULL)
        c->next->at = c->at;
    c->channel = NULL;
    c->callback(c->context, status, message, reply);
    unref(c);
}

/* ---- back to the caller ---- */

static void answer_free(void *context)
{
    struct answer *a = context;
    chain_deinit(&a->reply);
    unref(a->client);
    mem_free(a);
}

static void answer_arrives(void *context)
{
    struct answer *a = context;
    finish(a->client, a->status, a->message, &a->reply);
    answer_free(a);
    if (sim.here != NULL && sim.here->worker != NULL)
        worker_arrived(sim.here->worker);
}

static void send_answer(struct process *caller, struct client_call *client, uint64_t delay_us,
                        struct answer from)
{
    struct answer *a = must_alloc(sizeof *a);
    *a = from;
    a->client = client;
    client->references++;
    sim_after(caller, delay_us, "answer", answer_arrives, answer_free, a);
}

static void break_connection(const struct rpc_call *call, const char *why)
{
    struct answer a = {.status = RPC_UNAVAILABLE};
    snprintf(a.message, sizeof a.message, "%s", why);
    if (process_life(call->caller) == call->caller_life)
        send_answer(call->caller, call->client, sim_between(100, 2000), a);
}

static uint64_t delay_us(void)
{
    if (sim_fault(sim.plan.slow)) {
        sim.count.late++;
        return (sim_chance(150) ? sim_between(400, 2500) : sim_between(2, 400)) * SIM_MS;
    }
    return sim_between(80, 1500);
}

static bool is_cut(const struct process *from, const struct process *to)
{
    return from != to && (from->cut >> to->number & 1) != 0;
}

/* ---- serving ---- */

static void call_free(struct rpc_call *call)
{
    *call->at = call->next;
    if (call->next != NULL)
        call->next->at = call->at;
    chain_deinit(&call->request);
    unref(call->client);
    mem_free(call);
}

const struct chain *rpc_call_request(const struct rpc_call *call)
{
    return &call->request;
}

bool rpc_call_is_cancelled(const struct rpc_call *call)
{
    return call->client->channel == NULL;
}

uint32_t rpc_call_left_ms(const struct rpc_call *call)
{
    return call->deadline_us > sim.now_us ? (uint32_t)((call->deadline_us - sim.now_us) / 1000) : 0;
}

const char *rpc_call_caller(const struct rpc_call *call)
{
    return call->caller->name;
}

static void end_call(struct rpc_call *call, enum rpc_status status, const char *message,
                     struct chain *reply)
{
    CHECK(!call->is_ended);
    call->is_ended = true;
    bool alive = process_life(call->server) == call->server_life &&
                 process_life(call->caller) == call->caller_life;
    struct answer a = {.status = status};
    snprintf(a.message, sizeof a.message, "%s", message);
    if (alive && !is_cut(call->server, call->caller) && !call->is_copy) {
        if (sim_fault(sim.plan.loss)) {
            sim.count.lost++;
            if (sim_chance(500))
                break_connection(call, "the connection was reset");
        } else {
            if (reply != NULL && reply->size > 0) {
                struct buf *b = buf_create(reply->size);
                CHECK(b != NULL);
                chain_copy_out(reply, 0, buf_data(b), reply->size);
                chain_append_take(&a.reply, b);
            }
            send_answer(call->caller, call->client, delay_us(), a);
        }
    }
    call_free(call);
}

void rpc_call_reply(struct rpc_call *call, struct chain *reply)
{
    end_call(call, RPC_OK, "", reply);
    chain_deinit(reply);
}

void rpc_call_fail(struct rpc_call *call, enum rpc_status status, const char *message)
{
    end_call(call, status, message, NULL);
}

static void request_arrives(void *context)
{
    struct rpc_call *call = context;
    rpc_serve(call->server, call->method, call);
}

static void request_dropped(void *context)
{
    struct rpc_call *call = context;
    break_connection(call, "the peer has gone");
    call_free(call);
}

/* ---- calling ---- */

enum err rpc_channel_open(const char *address, const struct rpc_channel_options *options,
                          struct rpc_channel **out)
{
    (void)options;
    struct rpc_channel *c = must_alloc(sizeof *c);
    snprintf(c->address, sizeof c->address, "%s", address);
    c->owner = sim.here;
    *out = c;
    return ERR_NONE;
}

void rpc_channel_close(struct rpc_channel *c)
{
    if (c == NULL)
        return;
    struct chain empty = {0};
    while (c->open != NULL)
        finish(c->open, RPC_CANCELLED, "the channel was closed", &empty);
    mem_free(c);
}

bool rpc_unix_listens(const char *address)
{
    return false;
}

const char *rpc_channel_address(const struct rpc_channel *c)
{
    return c->address;
}

static void deadline(void *context)
{
    struct client_call *c = context;
    struct chain empty = {0};
    if (c->channel != NULL) {
        sim.count.deadlines++;
        finish(c, RPC_DEADLINE, "the deadline has passed", &empty);
        if (sim.here->worker != NULL)
            worker_arrived(sim.here->worker);
    }
    unref(c);
}

static void drop_deadline(void *context)
{
    unref(context);
}

static struct rpc_call *make_call(struct client_call *client, struct process *to,
                                  const struct rpc_call_options *o, const struct buf *body,
                                  size_t size)
{
    struct rpc_call *call = must_alloc(sizeof *call);
    call->client = client;
    client->references++;
    call->caller = sim.here;
    call->caller_life = process_life(sim.here);
    call->server = to;
    call->server_life = process_life(to);
    call->deadline_us = sim.now_us + o->timeout_ms * SIM_MS;
    snprintf(call->method, sizeof call->method, "%s", o->method);
    if (size > 0)
        chain_append(&call->request, (struct buf *)(uintptr_t)body, buf_data((struct buf *)body),
                     size);
    call->next = calls;
    call->at = &calls;
    if (calls != NULL)
        calls->at = &call->next;
    calls = call;
    return call;
}

static void send_request(struct rpc_call *call)
{
    if (!call->server->is_up) {
        break_connection(call, "connection refused");
        call_free(call);
        return;
    }
    if (is_cut(call->caller, call->server)) {
        call_free(call);
        return;
    }
    if (sim_fault(sim.plan.loss)) {
        sim.count.lost++;
        if (sim_chance(500))
            break_connection(call, "the connection was reset");
        call_free(call);
        return;
    }
    if (sim_fault(sim.plan.reset)) { /* it arrives, but nobody hears of the answer */
        sim.count.resets++;
        break_connection(call, "the connection was reset");
    }
    sim_after(call->server, delay_us(), "request", request_arrives, request_dropped, call);
}

/* The copy that comes without anybody waiting for its answer may be damaged, so that its keys are
 * out of order. What is refused must leave nothing behind. */
static bool mangle(struct rpc_call *call)
{
    struct wire_message m;
    if (strcmp(call->method, WIRE_PUSH_PULL) != 0 || !sim_fault(sim.plan.mangled) ||
        wire_decode(&paramd__push_pull_request__descriptor, &call->request, &m) != ERR_NONE)
        return false;
    const Paramd__PushPullRequest *q = (const Paramd__PushPullRequest *)m.message;
    const Paramd__Block *b = q->n_push > 0 ? q->push[0] : NULL;
    bool can = b != NULL && b->kind == PARAMD__BLOCK__KIND__ROWS && b->count > 1;
    if (can) {
        struct buf *mine = buf_create(call->request.size);
        CHECK(mine != NULL);
        uint8_t *bytes = buf_data(mine);
        chain_copy_out(&call->request, 0, bytes, call->request.size);
        uint8_t *keys = bytes + m.payload_offset + b->keys_offset;
        uint64_t two[2];
        memcpy(two, keys, sizeof two);
        memcpy(keys, &two[1], sizeof two[1]);
        memcpy(keys + sizeof two[1], &two[0], sizeof two[0]);
        chain_deinit(&call->request);
        chain_append_take(&call->request, mine);
        sim.count.mangled++;
    }
    wire_message_deinit(&m);
    return can;
}

void rpc_channel_call(struct rpc_channel *c, const struct rpc_call_options *options,
                      struct chain *request, rpc_callback callback, void *context)
{
    struct client_call *client = must_alloc(sizeof *client);
    *client = (struct client_call){.channel = c,
                                   .references = 1,
                                   .callback = callback,
                                   .context = context,
                                   .next = c->open,
                                   .at = &c->open};
    if (c->open != NULL)
        c->open->at = &client->next;
    c->open = client;
    sim.count.messages++;
    struct process *to = process_by_name(c->address);
    CHECK(to != NULL);
    size_t size = request->size;
    struct buf *body = buf_create(size > 0 ? size : 1);
    CHECK(body != NULL);
    chain_copy_out(request, 0, buf_data(body), size);
    chain_deinit(request);
    client->references++;
    sim_after(sim.here, options->timeout_ms * SIM_MS, "deadline", deadline, drop_deadline, client);
    struct rpc_call *first = make_call(client, to, options, body, size), *second = NULL;
    if (to->is_up && sim_fault(sim.plan.doubled)) {
        sim.count.doubled++;
        second = make_call(client, to, options, body, size);
        second->is_copy = true;
        mangle(second);
    }
    buf_unref(body);
    send_request(first);
    if (second != NULL)
        send_request(second);
}

const char *rpc_status_name(enum rpc_status s)
{
    static char text[16];
    snprintf(text, sizeof text, "rpc%d", (int)s);
    return text;
}

void rpc_break(struct process *p)
{
    for (const struct rpc_call *call = calls; call != NULL; call = call->next)
        if (call->server == p)
            break_connection(call, "the peer has gone");
}

void rpc_end(void)
{
    while (calls != NULL)
        call_free(calls);
}
