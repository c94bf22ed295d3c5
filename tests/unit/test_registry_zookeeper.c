/*
 * Goal: a registry in a real ZooKeeper does what every registry must, and besides: an address is
 * checked, credentials keep others out, hundreds of members are listed whole, and what is too large
 * is refused before it is sent.
 *
 * Method: the contract, each case in a cluster of its own of one server; a second client of the
 * library that removes nodes behind the registry's back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/registry_zookeeper_internal.h"
#include "tests/support/registry_contract.h"
#include "tests/support/zookeeper_server.h"

/* Tests wait until sessions expire, and a machine that is busy elsewhere must not lose one. */
#define SESSION_MS 4000u
#define CALL_MS    10000u

static struct zookeeper_server server;
static char uri[100];

static struct registry *open_registry(void)
{
    struct registry *r = NULL;
    const struct registry_options options = {.session_timeout_ms = SESSION_MS,
                                             .call_timeout_ms = CALL_MS};
    if (registry_open_with(uri, &options, &r) != ERR_NONE)
        fail_msg("%s", err_text());
    return r;
}

static struct registry *open_another(struct registry_contract *c)
{
    return open_registry();
}

/* Removes a node below the cluster's root with a client of its own. */
static void remove_node(const char *name)
{
    char hosts[40], path[200];
    snprintf(hosts, sizeof hosts, "127.0.0.1:%d", server.port);
    snprintf(path, sizeof path, "%s/%s", strchr(uri + strlen("zk://"), '/'), name);
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    zhandle_t *handle = zookeeper_init(hosts, NULL, 10000, NULL, NULL, 0);
    assert_non_null(handle);
    int rc = ZCONNECTIONLOSS;
    for (uint64_t until = clock_ms() + CALL_MS; rc != ZOK && clock_ms() < until;) {
        rc = zoo_delete(handle, path, -1);
        if (rc != ZOK)
            clock_sleep_ms(10);
    }
    assert_int_equal(rc, ZOK);
    zookeeper_close(handle);
}

static void take_leader(struct registry_contract *c)
{
    remove_node("leader");
}

static void test_addresses(void **state)
{
    static const struct {
        const char *uri, *text;
    } bad[] = {
        {"zk://", "HOST:PORT"},
        {"zk:///paramd", "HOST:PORT"},
        {"zk://a/paramd", "'a' is not HOST:PORT"},
        {"zk://a:1,b/paramd", "'b' is not HOST:PORT"},
        {"zk://a:1,/paramd", "'' is not HOST:PORT"},
        {"zk://a:0/paramd", "'0' is no port"},
        {"zk://a:65536/paramd", "'65536' is no port"},
        {"zk://a:2181", "names no cluster"},
        {"zk://a:2181/", "names no cluster"},
        {"zk://a:2181/a//b", "an empty level"},
        {"zk://a:2181/a/", "an empty level"},
        {"zk://a:2181/..", "an empty level"},
        {"zk://a:2181/a b", "has a ' '"},
        {"zk://a:2181/zookeeper", "ZooKeeper's own"},
        {"zk://a:2181/zookeeper/x", "ZooKeeper's own"},
        {"zoo://a", "zk://HOST:PORT"},
    };
    struct registry *r = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(registry_open(bad[i].uri, &r), ERR_INPUT);
        registry_assert_text_has(bad[i].text);
    }
    const struct registry_options hasty = {.call_timeout_ms = 200};
    assert_int_equal(registry_open_with("zk://127.0.0.1:1/paramd", &hasty, &r), ERR_UNAVAILABLE);
    registry_assert_text_has("zk://127.0.0.1:1/paramd");
    assert_int_equal(registry_open_with("zk://no.such.host.invalid:1/paramd", &hasty, &r),
                     ERR_UNAVAILABLE);
}

/* A cluster of several levels is made once, and by several at a time. */
static void test_first_use(void **state)
{
    struct registry *r[3];
    uint64_t version;
    strcat(uri, "/deep/er");
    for (size_t i = 0; i < 3; i++)
        r[i] = open_registry();
    assert_int_equal(registry_put(r[0], "a", "x", 1, 0, &version), ERR_NONE);
    assert_int_equal(registry_put(r[1], "a", "y", 1, version, NULL), ERR_NONE);
    assert_int_equal(registry_put(r[2], "a", "y", 1, version, NULL), ERR_EXISTS);
    for (size_t i = 0; i < 3; i++)
        registry_close(r[i]);
}

static void write_credentials(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fchmod(fileno(f), 0600);
    fputs(text, f);
    fclose(f);
}

static void test_credentials(void **state)
{
    char path[100];
    snprintf(path, sizeof path, "%s/auth", server.directory);
    const struct registry_options known = {
        .session_timeout_ms = SESSION_MS, .call_timeout_ms = CALL_MS, .auth_file = path};
    const struct registry_options unknown = {.session_timeout_ms = SESSION_MS,
                                             .call_timeout_ms = CALL_MS};
    struct registry *a, *b;
    struct registry_member *m;
    bool is_leader;
    uint64_t term, version;

    static const char *const bad[] = {"", "user", ":password", "user:", "a:b\nc:d\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_credentials(path, bad[i]);
        assert_int_equal(registry_open_with(uri, &known, &a), ERR_INPUT);
        registry_assert_text_has("user:password");
    }
    unlink(path);
    assert_int_equal(registry_open_with(uri, &known, &a), ERR_NOT_FOUND);
    registry_assert_text_has("registry_auth_file");

    write_credentials(path, "user:password\n");
    assert_int_equal(registry_open_with(uri, &known, &a), ERR_NONE);
    assert_int_equal(registry_join(a, "server", "a", "{}", &m), ERR_NONE);
    assert_int_equal(registry_lead(a, "a", &is_leader, &term), ERR_NONE);
    assert_true(is_leader);
    assert_int_equal(registry_put_led(a, "x/y", "1", 1, 0, &version), ERR_NONE);
    assert_int_equal(registry_open_with(uri, &unknown, &b), ERR_REFUSED);
    registry_assert_text_has("not given");
    assert_int_equal(registry_open_with(uri, &known, &b), ERR_NONE);
    assert_int_equal(registry_put(b, "x/y", "2", 1, version, NULL), ERR_NONE);
    registry_close(b);
    write_credentials(path, "user:other\n");
    assert_int_equal(registry_open_with(uri, &known, &b), ERR_REFUSED);
    registry_assert_text_has("other credentials");
    registry_close(a);
}

#define MANY 400

static void test_many_members(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    struct registry_member *members[MANY];
    char name[16];
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "w%d", i);
        assert_int_equal(registry_join(a, "worker", name, name, &members[i]), ERR_NONE);
    }
    assert_int_equal(registry_count_members(a, "worker"), MANY);
    registry_await_members(b, "worker", MANY);
    uint64_t start = clock_ns();
    for (int i = 0; i < 100; i++)
        assert_int_equal(registry_count_members(b, NULL), MANY);
    printf("# one look at %d members: %.1f us\n", MANY, clock_seconds_since(start) * 1e4);
    for (int i = 0; i < MANY; i += 2)
        registry_leave(members[i]);
    assert_int_equal(registry_count_members(a, "worker"), MANY / 2);
    registry_await_members(b, "worker", MANY / 2);
    struct registry_entry *entries;
    size_t count;
    assert_int_equal(registry_members(b, "worker", &entries, &count), ERR_NONE);
    for (size_t i = 0; i < count; i++) {
        assert_true(strncmp(entries[i].id + strlen("worker-"), entries[i].record,
                            strlen(entries[i].record)) == 0);
        assert_true(i == 0 || strcmp(entries[i - 1].id, entries[i].id) < 0);
    }
    registry_entries_free(entries, count);
    registry_close(a);
    registry_await_members(b, NULL, 0);
    registry_close(b);
}

/* Somebody removed the cluster under a running server. */
static void test_term_removed(void **state)
{
    struct registry *r = open_registry();
    bool is_leader;
    uint64_t term;
    struct registry_entry *entries;
    size_t count;
    registry_await_lead(r, "r");
    remove_node("term");
    registry_await_state(r, REGISTRY_WIPED);
    assert_false(registry_leads(r, NULL));
    assert_int_equal(registry_lead(r, "r", &is_leader, &term), ERR_REFUSED);
    registry_assert_text_has("its term is gone");
    assert_int_equal(registry_put(r, "a", "x", 1, 0, NULL), ERR_REFUSED);
    assert_int_equal(registry_members(r, NULL, &entries, &count), ERR_REFUSED);
    registry_close(r);
}

/* A leader that has not heard of its end is stopped by the term that is checked with the write. */
static void test_fenced(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    struct zk *z = (struct zk *)a;
    void *data;
    size_t size;
    uint64_t version, first = registry_await_lead(a, "a");
    assert_int_equal(registry_put_led(a, "x", "first", 5, 0, NULL), ERR_NONE);
    remove_node("leader");
    assert_true(registry_await_lead(b, "b") > first);
    for (int i = 0; i < 2; i++) {
        pthread_mutex_lock(&z->mutex);
        z->candidate.leads = true; /* as if no news had come */
        z->candidate.term = first;
        pthread_mutex_unlock(&z->mutex);
        if (i == 0)
            assert_int_equal(registry_put_led(a, "x", "late", 4, REGISTRY_ANY_VERSION, NULL),
                             ERR_REFUSED);
        else
            assert_int_equal(registry_remove_led(a, "x"), ERR_REFUSED);
        registry_assert_text_has("by term 1 and were deposed by term 2");
        assert_false(registry_leads(a, NULL));
    }
    assert_int_equal(registry_get(b, "x", &data, &size, &version), ERR_NONE);
    assert_string_equal(data, "first");
    mem_free(data);
    registry_close(a);
    registry_close(b);
}

/* A contender that stands first and does not come for the leadership is passed by. */
static void test_passed_by(void **state)
{
    struct registry *a = open_registry(), *b = open_registry(), *c = open_registry();
    bool is_leader = false;
    uint64_t term, first = registry_await_lead(a, "a");
    assert_int_equal(registry_lead(b, "b", &is_leader, &term), ERR_NONE);
    assert_int_equal(registry_lead(c, "c", &is_leader, &term), ERR_NONE);
    assert_false(is_leader);
    registry_resign(a);
    assert_true(registry_await_lead(c, "c") > first); /* b stands before it, and does not ask */
    assert_int_equal(registry_lead(b, "b", &is_leader, &term), ERR_NONE);
    assert_false(is_leader);
    registry_close(c);
    registry_await_lead(b, "b");
    registry_close(b);
    registry_close(a);
}

static int set_up(void **state)
{
    static int number;
    static struct registry_contract contract = {
        .open = open_another, .take_leader = take_leader, .uri = uri, .session_ms = SESSION_MS};
    *state = &contract;
    snprintf(uri, sizeof uri, "zk://127.0.0.1:%d/test/%d", server.port, ++number);
    return 0;
}

static int tear_down(void **state)
{
    return 0;
}

static int start_server(void **state)
{
    zookeeper_server_init(&server);
    zookeeper_server_start(&server);
    return 0;
}

static int stop_server(void **state)
{
    zookeeper_server_deinit(&server);
    return 0;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    if (registry_contract_is_child(argc))
        return registry_contract_child(argv);
    if (!zookeeper_is_installed()) {
        puts("the package zookeeper, or a java, is not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        REGISTRY_CONTRACT_CASES(set_up, tear_down),
        CASE(test_addresses),
        CASE(test_first_use),
        CASE(test_credentials),
        CASE(test_many_members),
        CASE(test_term_removed),
        CASE(test_fenced),
        CASE(test_passed_by),
    };
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
