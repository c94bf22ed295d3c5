/*
 * Goal: ZooKeeper may be away, hang, come back, come back empty or as it was long ago, and a
 * process
 * may be paused until its session is over: members are kept or registered anew under their ids, who
 * was deposed writes nothing, every call ends within its time, nothing is written twice, and a
 * registry that has lost what it held is refused by name.
 *
 * Method: a real server that is killed, paused, wiped and set back; a child process that is paused
 * or killed; a proxy that lets writes through and loses their answers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/registry_zookeeper_internal.h"
#include "tests/support/answer_loser.h"
#include "tests/support/registry_contract.h"
#include "tests/support/zookeeper_server.h"

#define SESSION_MS 4000u
#define SHORT_MS   1000u /* of sessions that are to end */
#define CALL_MS    500u
/* More than any call takes that has CALL_MS, on a slow machine. */
#define SLOW_MS 8000u

static struct zookeeper_server server;
static char uri[100];

static struct registry *open_registry(uint32_t session_ms)
{
    struct registry *r = NULL;
    const struct registry_options options = {.session_timeout_ms = session_ms,
                                             .call_timeout_ms = CALL_MS};
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    while (registry_open_with(uri, &options, &r) != ERR_NONE) {
        if (clock_ms() > until)
            fail_msg("%s", err_text());
    }
    return r;
}

static char *read_text(struct registry *r, const char *path)
{
    void *data = NULL;
    size_t size;
    uint64_t version;
    enum err e;
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    while ((e = registry_get(r, path, &data, &size, &version)) == ERR_UNAVAILABLE &&
           clock_ms() < until)
        continue;
    if (e != ERR_NONE)
        fail_msg("%s", err_text());
    return data;
}

/* Every call says so, and none hangs. */
static void assert_all_fail(struct registry *r, enum err expected)
{
    struct registry_member *m;
    struct registry_entry *entries;
    char **names, *record;
    void *data;
    size_t size;
    uint64_t n, start = clock_ms();
    bool is_leader;
    assert_int_equal(registry_join(r, "worker", "x", "", &m), expected);
    assert_int_equal(registry_members(r, NULL, &entries, &size), expected);
    assert_int_equal(registry_leader(r, &record, &n), expected);
    assert_int_equal(registry_get(r, "a", &data, &size, &n), expected);
    assert_int_equal(registry_put(r, "a", "x", 1, REGISTRY_ANY_VERSION, NULL), expected);
    assert_int_equal(registry_remove(r, "a"), expected);
    assert_int_equal(registry_list(r, "", &names, &size), expected);
    if (!registry_leads(r, NULL))
        assert_int_equal(registry_lead(r, "x", &is_leader, &n), expected);
    assert_true(clock_ms() - start < SLOW_MS);
}

/* A restart, or a pause, that is shorter than the session's time-out changes nothing. */
static void test_restarted(void **state)
{
    struct registry *r = open_registry(SESSION_MS), *other = open_registry(SESSION_MS);
    struct registry_member *m;
    struct registry_entry *entries;
    size_t count;
    uint64_t away_ms = 0, term = 0, seen = 0;
    assert_int_equal(registry_join(r, "server", "s", "record", &m), ERR_NONE);
    char *id = must_strdup(registry_member_id(m));
    term = registry_await_lead(r, "r");
    registry_await_members(other, "server", 1);

    zookeeper_server_kill(&server);
    registry_await_state(r, REGISTRY_AWAY);
    registry_await_state(other, REGISTRY_AWAY);
    assert_all_fail(r, ERR_UNAVAILABLE);
    registry_assert_text_has(uri);
    assert_true(registry_leads(r, &seen) && seen == term);
    assert_int_equal(registry_put_led(r, "led", "x", 1, 0, NULL), ERR_UNAVAILABLE);
    assert_int_equal(registry_state(r, &away_ms), REGISTRY_AWAY);
    assert_true(away_ms >= CALL_MS);

    zookeeper_server_start(&server);
    registry_await_state(r, REGISTRY_CONNECTED);
    registry_await_state(other, REGISTRY_CONNECTED);
    assert_true(registry_leads(r, &seen) && seen == term);
    assert_int_equal(registry_put_led(r, "led", "x", 1, 0, NULL), ERR_NONE);
    registry_await_members(other, "server", 1);
    assert_int_equal(registry_members(other, "server", &entries, &count), ERR_NONE);
    assert_string_equal(entries[0].id, id);
    registry_entries_free(entries, count);
    registry_close(r);
    registry_await_members(other, NULL, 0);
    registry_close(other);
    mem_free(id);
}

/* The server hangs: calls end all the same, and go on when it does. */
static void test_hangs(void **state)
{
    struct registry *r = open_registry(SESSION_MS);
    void *data;
    size_t size;
    uint64_t version;
    assert_int_equal(registry_put(r, "a", "x", 1, 0, NULL), ERR_NONE);
    zookeeper_server_pause(&server);
    uint64_t start = clock_ms();
    assert_int_equal(registry_get(r, "a", &data, &size, &version), ERR_UNAVAILABLE);
    assert_int_equal(registry_put(r, "a", "y", 1, 1, NULL), ERR_UNAVAILABLE);
    assert_true(clock_ms() - start < SLOW_MS);
    zookeeper_server_resume(&server);
    registry_await_state(r, REGISTRY_CONNECTED);
    char *text = read_text(r, "a"); /* it may have been written */
    assert_true(strcmp(text, "x") == 0 || strcmp(text, "y") == 0);
    mem_free(text);
    registry_close(r);
}

/* A leader that sleeps past its session: another leads, and it writes nothing when it wakes up. Its
   member comes back under the same id. */
static void test_paused_leader(void **state)
{
    const struct registry_contract contract = {.uri = uri, .session_ms = SHORT_MS};
    struct registry *r = open_registry(SESSION_MS);
    struct registry_child child;
    struct registry_entry *entries;
    size_t count;
    registry_child_start(&contract, &child);
    registry_await_members(r, "server", 1);
    assert_int_equal(registry_members(r, "server", &entries, &count), ERR_NONE);
    char *id = must_strdup(entries[0].id);
    registry_entries_free(entries, count);
    assert_int_equal(registry_child_put_led(&child), ERR_NONE);
    assert_true(registry_child_leads(&child));

    assert_int_equal(kill(child.pid, SIGSTOP), 0);
    assert_true(registry_await_lead(r, "r") > 1);
    registry_await_members(r, "server", 0);
    assert_int_equal(registry_put_led(r, "child", "mine", 4, REGISTRY_ANY_VERSION, NULL), ERR_NONE);
    assert_int_equal(kill(child.pid, SIGCONT), 0);
    enum err e = registry_child_put_led(&child);
    assert_true(e == ERR_REFUSED || e == ERR_UNAVAILABLE);
    registry_await_members(r, "server", 1);
    assert_int_equal(registry_child_put_led(&child), ERR_REFUSED);
    assert_false(registry_child_leads(&child));
    char *text = read_text(r, "child");
    assert_string_equal(text, "mine");
    mem_free(text);
    assert_int_equal(registry_members(r, "server", &entries, &count), ERR_NONE);
    assert_string_equal(entries[0].id, id);
    assert_string_equal(entries[0].record, "record");
    registry_entries_free(entries, count);
    mem_free(id);
    registry_child_kill(&child);
    registry_close(r);
}

/* Leadership goes with the session, also when nobody else took it. */
static void test_paused_alone(void **state)
{
    const struct registry_contract contract = {.uri = uri, .session_ms = SHORT_MS};
    struct registry *r = open_registry(SESSION_MS);
    struct registry_child child;
    registry_child_start(&contract, &child);
    registry_await_members(r, "server", 1);
    assert_int_equal(kill(child.pid, SIGSTOP), 0);
    registry_await_members(r, "server", 0);
    registry_await_no_leader(r);
    assert_int_equal(kill(child.pid, SIGCONT), 0);
    registry_await_members(r, "server", 1);
    assert_false(registry_child_leads(&child));
    assert_int_equal(registry_child_put_led(&child), ERR_REFUSED);
    registry_child_kill(&child);
    registry_close(r);
}

/* A process that is killed and at once started anew under its name waits for its earlier
 * session. */
static void test_killed_and_restarted(void **state)
{
    const struct registry_contract contract = {.uri = uri, .session_ms = SHORT_MS};
    struct registry *r = open_registry(SESSION_MS);
    struct registry_child child;
    registry_child_start(&contract, &child);
    registry_child_kill(&child);
    registry_child_start(&contract, &child);
    registry_await_members(r, "server", 1);
    assert_int_equal(registry_child_put_led(&child), ERR_NONE);
    registry_child_kill(&child);
    registry_close(r);
}

/* What was left while ZooKeeper was away is gone when it is back. */
static void test_left_while_away(void **state)
{
    struct registry *r = open_registry(SESSION_MS), *other = open_registry(SESSION_MS);
    struct registry_member *m;
    assert_int_equal(registry_join(r, "worker", "w", "", &m), ERR_NONE);
    registry_await_lead(r, "r");
    registry_await_members(other, "worker", 1);
    zookeeper_server_kill(&server);
    registry_await_state(r, REGISTRY_AWAY);
    registry_leave(m);
    registry_resign(r);
    assert_false(registry_leads(r, NULL));
    zookeeper_server_start(&server);
    registry_await_state(other, REGISTRY_CONNECTED);
    registry_await_members(other, "worker", 0);
    registry_await_lead(other, "other");
    registry_close(r);
    registry_close(other);
}

/* A registry that is empty, or was made anew by somebody, or is as it was once. */
static void test_wiped(void **state)
{
    static const struct {
        const char *text;
        bool is_saved, remakes; /* else wiped; remakes: somebody uses it before we look */
    } cases[] = {
        {"its term is gone", false, false},
        {"it was made anew", false, true},
        {"its term is smaller", true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(uri, sizeof uri, "zk://127.0.0.1:%d/wiped/%zu", server.port, i);
        struct registry *r = open_registry(SESSION_MS), *fresh;
        struct registry_member *m;
        if (cases[i].is_saved) {
            zookeeper_server_kill(&server);
            zookeeper_server_save(&server);
            zookeeper_server_start(&server);
            registry_await_state(r, REGISTRY_CONNECTED);
        }
        assert_int_equal(registry_join(r, "server", "s", "", &m), ERR_NONE);
        registry_await_lead(r, "r");
        zookeeper_server_kill(&server);
        if (cases[i].is_saved)
            zookeeper_server_go_back(&server);
        else
            zookeeper_server_wipe(&server);
        if (cases[i].remakes) { /* before the other comes back: it has to look for itself */
            registry_await_state(r, REGISTRY_AWAY);
        }
        zookeeper_server_start(&server);
        if (cases[i].remakes) {
            fresh = open_registry(SESSION_MS);
            registry_close(fresh);
        }
        registry_await_state(r, REGISTRY_WIPED);
        assert_false(registry_leads(r, NULL));
        assert_all_fail(r, ERR_REFUSED);
        registry_assert_text_has(uri);
        if (!cases[i].remakes)
            registry_assert_text_has(cases[i].text);
        else if (strstr(err_text(), cases[i].text) == NULL)
            registry_assert_text_has("its term is gone");
        fresh = open_registry(SESSION_MS);
        assert_int_equal(registry_count_members(fresh, NULL), 0);
        registry_close(fresh);
        registry_close(r);
    }
}

/* The same term, but records that were written since are lost. */
static void test_set_back(void **state)
{
    struct registry *r = open_registry(SHORT_MS);
    assert_int_equal(registry_put(r, "a", "0", 1, 0, NULL), ERR_NONE);
    zookeeper_server_kill(&server);
    zookeeper_server_save(&server);
    zookeeper_server_start(&server);
    registry_await_state(r, REGISTRY_CONNECTED);
    for (int i = 0; i < 100; i++)
        assert_int_equal(registry_put(r, "a", "1", 1, REGISTRY_ANY_VERSION, NULL), ERR_NONE);
    zookeeper_server_kill(&server);
    zookeeper_server_go_back(&server);
    zookeeper_server_start(&server);
    registry_await_state(r, REGISTRY_WIPED);
    assert_all_fail(r, ERR_REFUSED);
    registry_assert_text_has("an earlier state");
    registry_close(r);
}

/* Until it is connected and has nothing to tidy up: the next write is the one that a test makes. */
static void await_settled(struct registry *r)
{
    struct zk *z = (struct zk *)r;
    bool is_settled = false;
    for (uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS; !is_settled;) {
        assert_true(clock_ms() < until);
        pthread_mutex_lock(&z->mutex);
        is_settled = zk_is_usable(z) && ring_is_empty(&z->remains) && !z->is_clearing;
        pthread_mutex_unlock(&z->mutex);
        clock_sleep_ms(5);
    }
}

/* Each write takes place, and its answer is lost with the connection: whoever made it finds out,
   and does not make it twice. */
static void test_lost_answers(void **state)
{
    struct registry *other = open_registry(SESSION_MS), *r = NULL;
    struct registry_member *m;
    struct answer_loser loser;
    char through[100];
    const struct registry_options options = {.session_timeout_ms = SESSION_MS,
                                             .call_timeout_ms = SLOW_MS};
    answer_loser_start(&loser, server.port);
    snprintf(through, sizeof through, "zk://127.0.0.1:%d%s", loser.port,
             strchr(uri + strlen("zk://"), '/'));
    assert_int_equal(registry_open_with(through, &options, &r), ERR_NONE);
    int lost = 0;

    for (uint64_t version = 0; version < 3; version++) {
        char text = (char)('0' + version);
        uint64_t found = 0;
        answer_loser_arm(&loser);
        assert_int_equal(registry_put(r, "a/b", &text, 1, version, &found), ERR_NONE);
        assert_int_equal(found, version + 1);
        assert_int_equal(loser.lost, ++lost);
    }
    answer_loser_arm(&loser);
    assert_int_equal(registry_put(r, "a/b", "x", 1, 2, NULL), ERR_EXISTS);
    answer_loser_arm(&loser); /* it might have become version 2, and have been replaced by 3 */
    assert_int_equal(registry_put(r, "a/b", "x", 1, 1, NULL), ERR_UNAVAILABLE);
    registry_assert_text_has("is not known");
    answer_loser_arm(&loser);
    assert_int_equal(registry_remove(r, "a/b"), ERR_NONE);
    lost += 3;
    assert_int_equal(loser.lost, lost);

    answer_loser_arm(&loser);
    assert_int_equal(registry_join(r, "worker", "w", "", &m), ERR_NONE);
    assert_int_equal(loser.lost, ++lost);
    registry_await_members(other, "worker", 1);
    answer_loser_arm(&loser);
    registry_leave(m);
    registry_await_members(other, "worker", 0);
    assert_int_equal(loser.lost, ++lost);

    bool is_leader = false;
    uint64_t term = 0;
    await_settled(r);
    answer_loser_arm(&loser); /* the place in the queue */
    assert_int_equal(registry_lead(r, "r", &is_leader, &term), ERR_UNAVAILABLE);
    assert_int_equal(loser.lost, ++lost);
    await_settled(r);
    answer_loser_arm(&loser); /* the leader's node */
    assert_int_equal(registry_await_lead(r, "r"), 1);
    assert_int_equal(loser.lost, ++lost);
    answer_loser_arm(&loser);
    assert_int_equal(registry_put_led(r, "led", "x", 1, 0, NULL), ERR_NONE);
    assert_int_equal(loser.lost, ++lost);
    answer_loser_arm(&loser);
    registry_resign(r);
    assert_int_equal(registry_await_lead(other, "other"), 2);
    assert_int_equal(registry_lead(r, "r", &is_leader, &term), ERR_NONE);
    assert_false(is_leader);
    registry_close(r);
    registry_close(other);
    answer_loser_stop(&loser);
}

static int set_up(void **state)
{
    static int number;
    snprintf(uri, sizeof uri, "zk://127.0.0.1:%d/faults/%d", server.port, ++number);
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

#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, NULL)

int main(int argc, char **argv)
{
    if (registry_contract_is_child(argc))
        return registry_contract_child(argv);
    if (!zookeeper_is_installed()) {
        puts("the package zookeeper, or a java, is not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        CASE(test_restarted),
        CASE(test_hangs),
        CASE(test_paused_leader),
        CASE(test_paused_alone),
        CASE(test_killed_and_restarted),
        CASE(test_left_while_away),
        CASE(test_wiped),
        CASE(test_set_back),
        CASE(test_lost_answers),
    };
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
