/*
 * Goal: the contract of rpc.h holds on every transport alike: within the process, over TCP, over an
 * abstract unix socket.
 *
 * Method: one list of cases, run once for each transport. A server echoes,
 * holds calls until told, or fails them; callbacks are counted, so that "exactly once" is seen.
 * Waits are for events, with a limit that only a failure reaches; the one deadline that must pass
 * is a short one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/rpc_fixture.h"

static const char *const *listen_on; /* of the transport at hand */

static struct rpc_server *serve(void)
{
    return fixture_serve(listen_on, 0, 0);
}

/* ---- the cases ---- */

static _Atomic int releases;

static void count_release(void *context)
{
    free(context);
    atomic_fetch_add(&releases, 1);
}

/* `size` bytes that depend on their place, cut into slices of uneven sizes, each with an owner. */
static int fill_request(struct chain *c, size_t size)
{
    int slices = 0;
    for (size_t at = 0, part = 1; at < size; at += part, part = part * 3 % 70001 + 1) {
        if (part > size - at)
            part = size - at;
        uint8_t *bytes = malloc(part);
        for (size_t i = 0; i < part; i++)
            bytes[i] = (uint8_t)((at + i) * 131 >> 3);
        struct buf *b = buf_wrap(bytes, part, count_release, bytes);
        chain_append_take(c, b);
        slices++;
    }
    return slices;
}

static void test_echo(void **state)
{
    static const size_t sizes[] = {0, 1, 127, 128, 129, 4096, 65536, 1000003, 5 << 20};
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct rpc_call_options options = {.method = ECHO, .timeout_ms = WAIT_MS};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct chain request = {0}, reply = {0};
        atomic_store(&releases, 0);
        int slices = fill_request(&request, sizes[i]);
        assert_int_equal(rpc_channel_call_sync(c, &options, &request, &reply), RPC_OK);
        assert_int_equal(reply.size, sizes[i]);
        struct chain_cursor cursor;
        chain_cursor_init(&cursor, &reply, 0, reply.size);
        for (size_t at = 0; at < sizes[i];) {
            size_t run;
            const uint8_t *bytes = chain_cursor_run(&cursor, SIZE_MAX, &run);
            assert_true(run > 0);
            for (size_t k = 0; k < run; k++) {
                if (bytes[k] != (uint8_t)((at + k) * 131 >> 3))
                    fail_msg("byte %zu of %zu is wrong", at + k, sizes[i]);
            }
            at += run;
        }
        chain_deinit(&reply);
        /* What was sent is let go of, on some thread, soon after the call. */
        for (uint64_t until = clock_ms() + WAIT_MS; clock_ms() < until && releases < slices;)
            clock_sleep_ms(1);
        assert_int_equal(releases, slices);
    }
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void test_statuses(void **state)
{
    static const enum rpc_status statuses[] = {
        RPC_INVALID,       RPC_DEADLINE, RPC_NOT_FOUND,
        RPC_EXISTS,        RPC_BUSY,     RPC_FAILED_PRECONDITION,
        RPC_UNIMPLEMENTED, RPC_INTERNAL, RPC_UNAVAILABLE,
    };
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        struct chain reply = {0};
        uint8_t wanted = (uint8_t)statuses[i];
        assert_int_equal(fixture_call_sync(c, FAIL, &wanted, 1, &reply), statuses[i]);
        fixture_assert_text("as told");
        fixture_assert_text(rpc_status_name(statuses[i]));
        fixture_assert_text(FAIL);
        assert_int_equal(reply.count, 0);
    }
    struct chain reply = {0};
    assert_int_equal(fixture_call_sync(c, "/test.Service/Nothing", "x", 1, &reply),
                     RPC_UNIMPLEMENTED);
    fixture_assert_text("/test.Service/Nothing");
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void test_deadline(void **state)
{
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct chain reply = {0};
    assert_int_equal(fixture_call_sync(c, LEFT, "x", 1, &reply), RPC_OK);
    uint32_t left_ms;
    chain_copy_out(&reply, 0, &left_ms, sizeof left_ms);
    chain_deinit(&reply);
    assert_true(left_ms > 0 && left_ms <= WAIT_MS + WAIT_MS / 50);

    struct outcome o;
    fixture_call(c, HOLD, 100, &o);
    fixture_wait_outcome(&o);
    assert_int_equal(o.status, RPC_DEADLINE);
    fixture_wait_held(1);
    for (uint64_t until = clock_ms() + WAIT_MS; clock_ms() < until; clock_sleep_ms(1)) {
        if (rpc_call_is_cancelled(fixture_desk.held[0]))
            break;
    }
    assert_true(rpc_call_is_cancelled(fixture_desk.held[0]));
    assert_int_equal(rpc_call_left_ms(fixture_desk.held[0]), 0);
    fixture_end_held();
    assert_int_equal(fixture_call_sync(c, ECHO, "x", 1, &reply), RPC_OK);
    chain_deinit(&reply);
    assert_int_equal(o.times, 1);
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void test_close_cancels(void **state)
{
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct outcome o[5];
    for (int i = 0; i < 5; i++)
        fixture_call(c, HOLD, WAIT_MS, &o[i]);
    fixture_wait_held(5);
    rpc_channel_close(c);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(o[i].times, 1);
        assert_int_equal(o[i].status, RPC_CANCELLED);
    }
    fixture_end_held();
    rpc_server_destroy(s);
}

/* A callback that calls again, as a caller who retries would, must not keep close() from ending. */
struct again {
    struct rpc_channel *channel;
    _Atomic int times;
    enum rpc_status last;
};

static void call_again(void *context, enum rpc_status status, const char *message,
                       struct chain *reply)
{
    struct again *a = context;
    a->last = status;
    if (atomic_fetch_add(&a->times, 1) > 0)
        return;
    struct rpc_call_options options = {.method = HOLD, .timeout_ms = WAIT_MS};
    struct chain request = {0};
    rpc_channel_call(a->channel, &options, &request, call_again, a);
}

static void test_call_while_closing(void **state)
{
    struct rpc_server *s = serve();
    struct again a = {.channel = fixture_dial(rpc_server_address(s, 0))};
    struct rpc_call_options options = {.method = HOLD, .timeout_ms = WAIT_MS};
    struct chain request = {0};
    rpc_channel_call(a.channel, &options, &request, call_again, &a);
    fixture_wait_held(1);
    rpc_channel_close(a.channel);
    assert_int_equal(a.times, 2);
    assert_int_equal(a.last, RPC_CANCELLED);
    fixture_end_held();
    rpc_server_destroy(s);
}

static void test_busy(void **state)
{
    struct rpc_server *s = fixture_serve(listen_on, 2, 0);
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct outcome o[2];
    fixture_call(c, HOLD, WAIT_MS, &o[0]);
    fixture_call(c, HOLD, WAIT_MS, &o[1]);
    fixture_wait_held(2);
    struct chain reply = {0};
    assert_int_equal(fixture_call_sync(c, ECHO, "x", 1, &reply), RPC_BUSY);
    fixture_assert_text("2 calls open");
    fixture_end_held();
    fixture_wait_outcome(&o[0]);
    fixture_wait_outcome(&o[1]);
    assert_int_equal(o[0].status, RPC_OK);
    /* An ended call may be counted for a moment longer. */
    enum rpc_status status = RPC_BUSY;
    for (uint64_t until = clock_ms() + WAIT_MS; clock_ms() < until && status == RPC_BUSY;) {
        status = fixture_call_sync(c, ECHO, "x", 1, &reply);
        chain_deinit(&reply);
    }
    assert_int_equal(status, RPC_OK);
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void test_too_large(void **state)
{
    static const struct {
        uint64_t server_max, channel_max;
        size_t size;
        enum rpc_status status;
    } cases[] = {
        {1000, 0, 1000, RPC_OK},
        {1000, 0, 1001, RPC_BUSY},
        {0, 1000, 1001, RPC_BUSY},
        {0, 1000, 1000, RPC_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rpc_server *s = fixture_serve(listen_on, 0, cases[i].server_max);
        struct rpc_channel_options o = {.message_max_bytes = cases[i].channel_max};
        struct rpc_channel *c;
        assert_int_equal(rpc_channel_open(rpc_server_address(s, 0), &o, &c), ERR_NONE);
        struct chain reply = {0};
        char *data = calloc(1, cases[i].size);
        assert_int_equal(fixture_call_sync(c, ECHO, data, cases[i].size, &reply), cases[i].status);
        if (cases[i].status != RPC_OK) {
            fixture_assert_text("1001");
            fixture_assert_text("1000");
        }
        chain_deinit(&reply);
        free(data);
        rpc_channel_close(c);
        rpc_server_destroy(s);
    }
}

#define CALLERS    32
#define CALLS_EACH 40

static void *caller_run(void *context)
{
    struct rpc_channel *c = context;
    for (uint32_t i = 0; i < CALLS_EACH; i++) {
        struct chain reply = {0};
        uint32_t number = (uint32_t)(uintptr_t)&reply + i, echoed = 0;
        if (fixture_call_sync(c, ECHO, &number, sizeof number, &reply) != RPC_OK || reply.size != 4)
            return "a call failed";
        chain_copy_out(&reply, 0, &echoed, sizeof echoed);
        chain_deinit(&reply);
        if (echoed != number)
            return "another's reply";
    }
    return NULL;
}

static void test_many_callers(void **state)
{
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, caller_run, c), 0);
    for (int i = 0; i < CALLERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        if (complaint != NULL)
            fail_msg("%s", (char *)complaint);
    }
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void *end_held_later(void *context)
{
    clock_sleep_ms(20);
    fixture_end_held();
    return NULL;
}

static void test_server_destroyed_with_open_calls(void **state)
{
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct outcome o[3];
    for (int i = 0; i < 3; i++)
        fixture_call(c, HOLD, WAIT_MS, &o[i]);
    fixture_wait_held(3);
    pthread_t thread;
    pthread_create(&thread, NULL, end_held_later, NULL);
    rpc_server_destroy(s);
    pthread_join(thread, NULL);
    for (int i = 0; i < 3; i++) {
        fixture_wait_outcome(&o[i]);
        assert_int_equal(o[i].status, RPC_UNAVAILABLE);
    }
    rpc_channel_close(c);
    for (int i = 0; i < 3; i++)
        assert_int_equal(o[i].times, 1);
}

/* A dead port fails at once; who waits gets through when a server comes up there. */
static void test_dead_port(void **state)
{
    struct rpc_server *s = serve();
    char address[128];
    snprintf(address, sizeof address, "%s", rpc_server_address(s, 0));
    rpc_server_destroy(s);

    struct rpc_channel *c = fixture_dial(address);
    struct outcome o, waits;
    fixture_call(c, ECHO, 60000, &o);
    fixture_wait_outcome(&o);
    assert_int_equal(o.status, RPC_UNAVAILABLE);
    struct rpc_call_options options = {.method = ECHO, .timeout_ms = 100, .wait_for_ready = true};
    struct chain request = {0};
    memset(&waits, 0, sizeof waits);
    rpc_channel_call(c, &options, &request, fixture_note, &waits);
    fixture_wait_outcome(&waits);
    assert_int_equal(waits.status, RPC_DEADLINE);

    options.timeout_ms = WAIT_MS;
    memset(&waits, 0, sizeof waits);
    rpc_channel_call(c, &options, &request, fixture_note, &waits);
    const char *const again[] = {address, NULL};
    s = fixture_serve(again, 0, 0);
    fixture_wait_outcome(&waits);
    if (waits.status != RPC_OK)
        fail_msg("%s: %s", rpc_status_name(waits.status), waits.message);
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

static void test_address_in_use(void **state)
{
    struct rpc_server *s = serve(), *other = NULL;
    const char *const same[] = {rpc_server_address(s, 0), NULL};
    struct rpc_server_options o = {.listen = same, .methods = fixture_methods, .method_count = 1};
    assert_int_equal(rpc_server_create(&o, &other), ERR_EXISTS);
    fixture_assert_text(same[0]);
    rpc_server_destroy(s);
}

/* A reply outlives its channel and its server. */
static void test_reply_outlives(void **state)
{
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    struct chain reply = {0};
    char data[300000];
    memset(data, 7, sizeof data);
    assert_int_equal(fixture_call_sync(c, ECHO, data, sizeof data, &reply), RPC_OK);
    rpc_channel_close(c);
    rpc_server_destroy(s);
    char copy[sizeof data];
    chain_copy_out(&reply, 0, copy, sizeof copy);
    assert_memory_equal(copy, data, sizeof data);
    chain_deinit(&reply);
}

static int select_memory(void **state)
{
    static const char *const addresses[] = {"memory:test", NULL};
    listen_on = addresses;
    return 0;
}

static int select_tcp(void **state)
{
    static const char *const addresses[] = {"127.0.0.1:0", NULL};
    listen_on = addresses;
    return 0;
}

static int select_local(void **state)
{
    static char name[64];
    static const char *addresses[] = {name, NULL};
    snprintf(name, sizeof name, "unix-abstract:test_rpc-%ld", (long)getpid());
    listen_on = addresses;
    return 0;
}

#define ON(select, test)                                                                           \
    {                                                                                              \
#test " on " #select, test, select_##select, NULL, NULL                                    \
    }
#define CONTRACT(select)                                                                           \
    ON(select, test_echo), ON(select, test_statuses), ON(select, test_deadline),                   \
        ON(select, test_close_cancels), ON(select, test_call_while_closing),                       \
        ON(select, test_busy), ON(select, test_too_large), ON(select, test_many_callers),          \
        ON(select, test_server_destroyed_with_open_calls), ON(select, test_dead_port),             \
        ON(select, test_address_in_use), ON(select, test_reply_outlives)

int main(void)
{
    const struct CMUnitTest memory[] = {CONTRACT(memory)};
    const struct CMUnitTest grpc[] = {
        CONTRACT(tcp),
        CONTRACT(local),
    };
    int failed = cmocka_run_group_tests(memory, NULL, NULL);
    /* The distribution's gRPC is not instrumented: what it does looks like races. */
    if (FIXTURE_THREAD_SANITIZER)
        return failed;
    return failed + cmocka_run_group_tests(grpc, NULL, NULL);
}
