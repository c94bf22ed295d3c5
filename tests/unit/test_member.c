/*
 * Goal: a member survives a leader that is not there yet, fails or changes; sends what changed at
 * once; follows each orders once and never those of an earlier leader. Method: the real member
 * against leaders that this test plays over the memory transport, with a local registry. It waits
 * for events under a deadline, never for a time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/rpc.h"
#include "common/storage.h"

#define WAIT_MS   10000u
#define CALLS_MAX 64

/* A leader as the test plays it: calls are kept until the test answers them. */
struct stage {
    char directory[64];
    struct registry *registry, *members_registry;
    struct rpc_server *server;
    struct member *member;
    pthread_mutex_t lock;
    struct rpc_call *calls[CALLS_MAX];
    Paramd__Control__MemberState *states[CALLS_MAX];
    uint32_t call_count, answered;
    uint32_t described, followed, orphaned;
    uint64_t orphaned_ms;   /* as told last */
    uint64_t term, version; /* followed last */
};

static bool wait_for(struct stage *s, const uint32_t *counter, uint32_t at_least)
{
    uint64_t until = clock_ms() + WAIT_MS;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool there = *counter >= at_least;
        pthread_mutex_unlock(&s->lock);
        if (there || clock_ms() > until)
            return there;
        clock_sleep_ms(1);
    }
}

static void take_exchange(void *context, struct rpc_call *call)
{
    struct stage *s = context;
    const struct chain *request = rpc_call_request(call);
    uint8_t *bytes = must_alloc(request->size + 1);
    chain_copy_out(request, 0, bytes, request->size);
    pthread_mutex_lock(&s->lock);
    assert_true(s->call_count < CALLS_MAX);
    s->states[s->call_count] = paramd__control__member_state__unpack(NULL, request->size, bytes);
    s->calls[s->call_count++] = call;
    pthread_mutex_unlock(&s->lock);
    mem_free(bytes);
}

static void describe(void *context, Paramd__Control__MemberState *state)
{
    struct stage *s = context;
    pthread_mutex_lock(&s->lock);
    s->described++;
    pthread_mutex_unlock(&s->lock);
    state->job = (char *)"clicks";
}

static void follow(void *context, const Paramd__Control__MemberOrders *orders)
{
    struct stage *s = context;
    pthread_mutex_lock(&s->lock);
    s->followed++;
    s->term = orders->term;
    s->version = orders->orders_version;
    pthread_mutex_unlock(&s->lock);
}

static void orphaned(void *context, uint64_t for_ms)
{
    struct stage *s = context;
    pthread_mutex_lock(&s->lock);
    s->orphaned++;
    s->orphaned_ms = for_ms;
    pthread_mutex_unlock(&s->lock);
}

static void stage_init(struct stage *s)
{
    *s = (struct stage){.directory = "/tmp/paramd-test-member-XXXXXX"};
    assert_non_null(mkdtemp(s->directory));
    pthread_mutex_init(&s->lock, NULL);
    char *uri = must_format("local:%s", s->directory);
    assert_int_equal(registry_open(uri, &s->members_registry), ERR_NONE);
    mem_free(uri);
    static const char *const addresses[] = {"memory:somebody", NULL};
    struct member_options o = {
        .registry = s->members_registry,
        .role = "server",
        .name = "a",
        .addresses = addresses,
        .capacity = {.cores = 3, .gpus = 1, .memory_bytes = 5000000000, .device_class = "cpu avx2"},
        .call_timeout_ms = WAIT_MS,
        .describe = describe,
        .follow = follow,
        .orphaned = orphaned,
        .context = s};
    assert_int_equal(member_start(&o, &s->member), ERR_NONE);
}

/* Another process becomes the leader: a registry connection and a server of its own. */
static void lead(struct stage *s, const char *address)
{
    char *uri = must_format("local:%s", s->directory);
    assert_int_equal(registry_open(uri, &s->registry), ERR_NONE);
    mem_free(uri);
    const char *const listen[] = {address, NULL};
    const struct rpc_method methods[] = {{CONTROL_EXCHANGE, take_exchange, s}};
    struct rpc_server_options o = {.listen = listen, .methods = methods, .method_count = 1};
    assert_int_equal(rpc_server_create(&o, &s->server), ERR_NONE);
    char *record = member_leader_record(listen);
    bool leads = false;
    uint64_t term;
    assert_int_equal(registry_lead(s->registry, record, &leads, &term), ERR_NONE);
    assert_true(leads);
    mem_free(record);
}

static void answer(struct stage *s, uint32_t call, uint64_t term, uint64_t version)
{
    Paramd__Control__MemberOrders o = PARAMD__CONTROL__MEMBER_ORDERS__INIT;
    o.term = term;
    o.orders_version = version;
    uint8_t bytes[64];
    size_t size = paramd__control__member_orders__pack(&o, bytes);
    struct chain reply = {0};
    chain_append_copy(&reply, bytes, size);
    assert_true(wait_for(s, &s->call_count, call + 1));
    rpc_call_reply(s->calls[call], &reply);
    chain_deinit(&reply);
    s->answered = call + 1;
}

static void step_down(struct stage *s)
{
    registry_close(s->registry); /* first, so that nobody finds this one again */
    for (uint32_t i = s->answered; i < s->call_count; i++)
        rpc_call_fail(s->calls[i], RPC_UNAVAILABLE, "leaving");
    s->answered = s->call_count;
    rpc_server_destroy(s->server);
}

static void stage_deinit(struct stage *s)
{
    member_stop(s->member);
    step_down(s);
    registry_close(s->members_registry);
    for (uint32_t i = 0; i < s->call_count; i++)
        paramd__control__member_state__free_unpacked(s->states[i], NULL);
    pthread_mutex_destroy(&s->lock);
    assert_int_equal(storage_remove_tree(s->directory), ERR_NONE);
}

static void test_no_leader_yet(void **state)
{
    struct stage s;
    stage_init(&s);
    assert_true(wait_for(&s, &s.orphaned, 1));
    assert_true(s.orphaned_ms >= 1000);
    assert_int_equal(s.described, 0);
    lead(&s, "memory:member-1");
    answer(&s, 0, 5, 1);
    assert_true(wait_for(&s, &s.followed, 1));
    assert_true(wait_for(&s, &s.orphaned, 2));
    assert_int_equal(s.orphaned_ms, 0); /* one is there */
    assert_string_equal(s.states[0]->job, "clicks");
    assert_string_equal(s.states[0]->role, "server");
    assert_string_equal(s.states[0]->address, "memory:somebody");
    assert_string_equal(s.states[0]->host_id, member_host_id());
    assert_int_equal(s.states[0]->orders_version, 0);
    assert_true(wait_for(&s, &s.call_count, 2));
    assert_int_equal(s.states[1]->term, 5);
    assert_int_equal(s.states[1]->orders_version, 1);
    assert_true(s.states[1]->sequence > s.states[0]->sequence);
    stage_deinit(&s);
}

/* In the registry, for whoever looks there, and in the state. */
static void test_capacity(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-3");
    assert_true(wait_for(&s, &s.call_count, 1));
    assert_int_equal(s.states[0]->cores, 3);
    assert_int_equal(s.states[0]->gpus, 1);
    assert_int_equal(s.states[0]->memory_bytes, 5000000000);
    assert_string_equal(s.states[0]->device_class, "cpu avx2");
    struct registry_entry *entries;
    size_t count;
    struct json *o;
    assert_int_equal(registry_members(s.registry, "server", &entries, &count), ERR_NONE);
    assert_int_equal(count, 1);
    const char *record = entries[0].record;
    assert_int_equal(json_parse("record", record, strlen(record), &o), ERR_NONE);
    assert_string_equal(json_as_text(json_get(o, "role")), "server");
    assert_string_equal(json_as_text(json_at(json_get(o, "addresses"), 0)), "memory:somebody");
    assert_int_equal(json_as_int(json_get(o, "cores")), 3);
    assert_int_equal(json_as_int(json_get(o, "gpus")), 1);
    assert_int_equal(json_as_int(json_get(o, "memory_bytes")), 5000000000);
    assert_string_equal(json_as_text(json_get(o, "device_class")), "cpu avx2");
    json_destroy(o);
    registry_entries_free(entries, count);
    stage_deinit(&s);
}

static void test_poke(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-2");
    assert_true(wait_for(&s, &s.call_count, 1));
    member_poke(s.member); /* the first is parked: a second comes at once */
    assert_true(wait_for(&s, &s.call_count, 2));
    member_poke(s.member); /* a third waits for one of them */
    answer(&s, 0, 3, 1);
    assert_true(wait_for(&s, &s.call_count, 3));
    assert_int_equal(s.states[2]->orders_version, 1);
    stage_deinit(&s);
}

static void test_orders_once(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-3");
    answer(&s, 0, 4, 7);
    assert_true(wait_for(&s, &s.followed, 1));
    answer(&s, 1, 4, 7);  /* the same again */
    answer(&s, 2, 4, 6);  /* older ones, late */
    answer(&s, 3, 3, 99); /* of an earlier leader */
    answer(&s, 4, 4, 8);
    assert_true(wait_for(&s, &s.call_count, 6));
    assert_int_equal(s.followed, 2);
    assert_int_equal(s.version, 8);
    assert_int_equal(s.states[5]->orders_version, 8);
    assert_int_equal(s.states[5]->term, 4);
    stage_deinit(&s);
}

static void test_leader_changes(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-4");
    answer(&s, 0, 1, 9);
    assert_true(wait_for(&s, &s.followed, 1));
    assert_true(wait_for(&s, &s.call_count, 2));
    step_down(&s);
    lead(&s, "memory:member-5");
    uint32_t next = s.answered;
    answer(&s, next, 2, 1); /* a later term counts from the beginning */
    assert_true(wait_for(&s, &s.followed, 2));
    assert_int_equal(s.term, 2);
    assert_int_equal(s.version, 1);
    stage_deinit(&s);
}

/* The old leader still answers, or still keeps us waiting: the registry names another one. */
static void test_newer_leader(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-6");
    answer(&s, 0, 1, 9);
    assert_true(wait_for(&s, &s.followed, 1));
    assert_true(wait_for(&s, &s.call_count, 2)); /* parked */
    struct rpc_server *old = s.server;
    registry_close(s.registry);
    lead(&s, "memory:member-7");
    answer(&s, 2, 2, 1);
    assert_true(wait_for(&s, &s.followed, 2));
    assert_int_equal(s.term, 2);
    rpc_call_fail(s.calls[1], RPC_UNAVAILABLE, "leaving");
    rpc_server_destroy(old);
    stage_deinit(&s);
}

/* A socket in the abstract namespace, and one of a path, are dialled only where they take a
   connection: a container on our host has the same boot id and other sockets. */
static void test_address(void **state)
{
#ifdef __SANITIZE_THREAD__
    skip(); /* the distribution's gRPC is not instrumented */
#endif
    char here[64], nobody[64], path[] = "/tmp/paramd-member-XXXXXX", by_path[80];
    assert_non_null(mkdtemp(path));
    snprintf(here, sizeof here, "unix-abstract:paramd-test-member-%d", (int)getpid());
    snprintf(nobody, sizeof nobody, "unix-abstract:paramd-test-nobody-%d", (int)getpid());
    snprintf(by_path, sizeof by_path, "unix:%s/s", path);
    const char *const listen[] = {here, by_path, NULL};
    const struct rpc_method method = {CONTROL_EXCHANGE, take_exchange, NULL};
    const struct rpc_server_options options = {
        .listen = listen, .methods = &method, .method_count = 1};
    struct rpc_server *server;
    assert_int_equal(rpc_server_create(&options, &server), ERR_NONE);

    const char *const mine = member_host_id();
    const struct {
        const char *addresses[3], *host_id, *picked;
    } cases[] = {
        {{"10.0.0.1:7", here}, mine, here},
        {{"10.0.0.1:7", by_path}, mine, by_path},
        {{"10.0.0.1:7", here}, "another", "10.0.0.1:7"},
        {{here, "10.0.0.1:7"}, "", "10.0.0.1:7"},
        {{"10.0.0.1:7", nobody}, mine, "10.0.0.1:7"},
        {{nobody, "10.0.0.1:7"}, mine, "10.0.0.1:7"},
        {{nobody, here}, mine, here},
        {{nobody}, mine, nobody},
        {{NULL}, mine, NULL},
    };
    assert_string_not_equal(mine, "");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t count = 0;
        while (cases[i].addresses[count] != NULL)
            count++;
        const char *picked =
            member_pick_address((char *const *)cases[i].addresses, count, cases[i].host_id);
        if (cases[i].picked == NULL)
            assert_null(picked);
        else
            assert_string_equal(picked, cases[i].picked);
    }
    rpc_server_destroy(server);
    assert_int_equal(storage_remove_tree(path), ERR_NONE);
}

/* A member that has told a leader how it stands takes no orders of the one before, whoever brings
 * them. */
static void test_promise(void **state)
{
    struct stage s;
    stage_init(&s);
    lead(&s, "memory:member-6");
    answer(&s, 0, 1, 9);
    assert_true(wait_for(&s, &s.followed, 1));
    assert_true(wait_for(&s, &s.call_count, 2));
    step_down(&s);
    lead(&s, "memory:member-7");
    uint32_t next = s.answered;
    answer(&s, next, 1, 10); /* newer than what it follows, but of the first leader */
    assert_true(wait_for(&s, &s.call_count, next + 2));
    assert_int_equal(s.states[next]->term, 2);
    assert_int_equal(s.states[next]->orders_version, 0);
    assert_int_equal(s.followed, 1);
    answer(&s, next + 1, 2, 1);
    assert_true(wait_for(&s, &s.followed, 2));
    assert_int_equal(s.term, 2);
    stage_deinit(&s);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_leader_yet),  cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_poke),           cmocka_unit_test(test_orders_once),
        cmocka_unit_test(test_leader_changes), cmocka_unit_test(test_promise),
        cmocka_unit_test(test_newer_leader),   cmocka_unit_test(test_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
