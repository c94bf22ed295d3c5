#include "tests/support/rpc_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/clock.h"

/* ---- a server ---- */

struct fixture_desk fixture_desk = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void handle_echo(void *context, struct rpc_call *call)
{
    struct chain reply = {0};
    const struct chain *request = rpc_call_request(call);
    chain_share(&reply, request, 0, request->size);
    rpc_call_reply(call, &reply);
}

static void handle_hold(void *context, struct rpc_call *call)
{
    pthread_mutex_lock(&fixture_desk.mutex);
    fixture_desk.held[fixture_desk.held_count++] = call;
    pthread_mutex_unlock(&fixture_desk.mutex);
}

static void handle_fail(void *context, struct rpc_call *call)
{
    uint8_t status;
    chain_copy_out(rpc_call_request(call), 0, &status, 1);
    rpc_call_fail(call, status, "as told");
}

static void handle_left(void *context, struct rpc_call *call)
{
    uint32_t left_ms = rpc_call_left_ms(call);
    struct chain reply = {0};
    chain_append_copy(&reply, &left_ms, sizeof left_ms);
    rpc_call_reply(call, &reply);
}

const struct rpc_method fixture_methods[FIXTURE_METHOD_COUNT] = {
    {ECHO, handle_echo, NULL},
    {HOLD, handle_hold, NULL},
    {FAIL, handle_fail, NULL},
    {LEFT, handle_left, NULL},
};

struct rpc_server *fixture_serve(const char *const *addresses, uint32_t calls_max,
                                 uint64_t message_max_bytes)
{
    struct rpc_server_options o = {
        .listen = addresses,
        .methods = fixture_methods,
        .method_count = FIXTURE_METHOD_COUNT,
        .threads = 2,
        .calls_max = calls_max,
        .message_max_bytes = message_max_bytes,
    };
    struct rpc_server *s = NULL;
    if (rpc_server_create(&o, &s) != ERR_NONE)
        fail_msg("%s", err_text());
    return s;
}

struct rpc_channel *fixture_dial(const char *address)
{
    struct rpc_channel *c = NULL;
    if (rpc_channel_open(address, NULL, &c) != ERR_NONE)
        fail_msg("%s", err_text());
    return c;
}

void fixture_wait_held(size_t count)
{
    for (uint64_t until = clock_ms() + WAIT_MS; clock_ms() < until; clock_sleep_ms(1)) {
        pthread_mutex_lock(&fixture_desk.mutex);
        size_t held = fixture_desk.held_count;
        pthread_mutex_unlock(&fixture_desk.mutex);
        if (held >= count)
            return;
    }
    fail_msg("no %zu calls arrived", count);
}

void fixture_end_held(void)
{
    pthread_mutex_lock(&fixture_desk.mutex);
    size_t count = fixture_desk.held_count;
    struct rpc_call *calls[HELD_MAX];
    memcpy(calls, fixture_desk.held, sizeof calls);
    fixture_desk.held_count = 0;
    pthread_mutex_unlock(&fixture_desk.mutex);
    for (size_t i = 0; i < count; i++) {
        struct chain reply = {0};
        rpc_call_reply(calls[i], &reply);
    }
}

/* ---- a client ---- */

void fixture_note(void *context, enum rpc_status status, const char *message, struct chain *reply)
{
    struct outcome *o = context;
    o->status = status;
    snprintf(o->message, sizeof o->message, "%s", message);
    chain_move(&o->reply, reply);
    atomic_fetch_add(&o->times, 1);
}

void fixture_wait_outcome(struct outcome *o)
{
    for (uint64_t until = clock_ms() + WAIT_MS; clock_ms() < until; clock_sleep_ms(1)) {
        if (atomic_load(&o->times) > 0)
            return;
    }
    fail_msg("no callback");
}

void fixture_call(struct rpc_channel *c, const char *method, uint32_t timeout_ms, struct outcome *o)
{
    struct rpc_call_options options = {.method = method, .timeout_ms = timeout_ms};
    struct chain request = {0};
    chain_append_copy(&request, "x", 1);
    memset(o, 0, sizeof *o);
    rpc_channel_call(c, &options, &request, fixture_note, o);
    assert_int_equal(request.count, 0);
}

enum rpc_status fixture_call_sync(struct rpc_channel *c, const char *method, const void *data,
                                  size_t size, struct chain *reply)
{
    struct rpc_call_options options = {.method = method, .timeout_ms = WAIT_MS};
    struct chain request = {0};
    chain_append_copy(&request, data, size);
    return rpc_channel_call_sync(c, &options, &request, reply);
}

void fixture_assert_text(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}
