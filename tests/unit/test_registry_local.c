/*
 * Goal: members and leaders are there exactly as long as their process or registry; one leads, with
 * a term that only rises; a record changes only for who knows its version.
 *
 * Method: several registries of one directory in this process, forked children that are killed with
 * SIGKILL, threads that race for a counter in a record, files damaged by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/registry.h"
#include "common/registry_lock.h"
#include "common/storage.h"

static char uri[64];
#define DIRECTORY (uri + strlen("local:"))

static struct registry *open_registry(void)
{
    struct registry *r = NULL;
    if (registry_open(uri, &r) != ERR_NONE)
        fail_msg("%s", err_text());
    return r;
}

static void assert_text_has(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}

static size_t count_members(struct registry *r, const char *role)
{
    struct registry_entry *entries;
    size_t count;
    if (registry_members(r, role, &entries, &count) != ERR_NONE)
        fail_msg("%s", err_text());
    registry_entries_free(entries, count);
    return count;
}

static size_t count_member_files(void)
{
    struct storage_list l;
    char *path = storage_join(DIRECTORY, "members");
    assert_int_equal(storage_list(path, &l), ERR_NONE);
    size_t count = l.count;
    storage_list_deinit(&l);
    mem_free(path);
    return count;
}

static void test_open(void **state)
{
    struct registry *r = NULL;
    assert_int_equal(registry_open("zk://a:2181/paramd", &r), ERR_UNSUPPORTED);
    assert_text_has("zk://a:2181/paramd");
    assert_int_equal(registry_open("etcd://a", &r), ERR_INPUT);
    assert_text_has("local:DIR");
    assert_int_equal(registry_open("local:", &r), ERR_INPUT);
    assert_int_equal(registry_open("local:/proc/none", &r), ERR_IO);
    registry_close(NULL);
    char deep[100];
    snprintf(deep, sizeof deep, "%s/a/b/c", uri);
    assert_int_equal(registry_open(deep, &r), ERR_NONE);
    registry_close(r);

    assert_string_equal(registry_lock_network_name(0x6969), "NFS");
    assert_string_equal(registry_lock_network_name(0xff534d42), "CIFS");
    assert_string_equal(registry_lock_network_name(0x65735546), "FUSE");
    assert_null(registry_lock_network_name(0xef53));     /* ext4 */
    assert_null(registry_lock_network_name(0x01021994)); /* tmpfs */
}

static void test_members(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    struct registry_member *m[4];
    assert_int_equal(count_members(a, NULL), 0);
    assert_int_equal(registry_join(a, "worker", "w-1", "{\"a\":\n1}", &m[0]), ERR_NONE);
    assert_int_equal(registry_join(b, "worker", "w", "", &m[1]), ERR_NONE);
    assert_int_equal(registry_join(b, "server", "w", "s", &m[2]), ERR_NONE);
    assert_int_equal(count_members(a, NULL), 3);
    assert_int_equal(count_members(b, "worker"), 2);
    assert_int_equal(count_members(b, "work"), 0);

    struct registry_entry *entries;
    size_t count;
    assert_int_equal(registry_members(b, NULL, &entries, &count), ERR_NONE);
    assert_string_equal(entries[0].id, registry_member_id(m[2]));
    assert_string_equal(entries[0].role, "server");
    assert_string_equal(entries[0].record, "s");
    for (size_t i = 1; i < count; i++) {
        assert_true(strcmp(entries[i - 1].id, entries[i].id) < 0);
        bool is_first = strcmp(entries[i].id, registry_member_id(m[0])) == 0;
        assert_string_equal(entries[i].role, "worker");
        assert_string_equal(entries[i].record, is_first ? "{\"a\":\n1}" : "");
    }
    registry_entries_free(entries, count);

    /* A name is taken for as long as its member lives; then a new member has another id. */
    assert_int_equal(registry_join(b, "worker", "w-1", "", &m[3]), ERR_EXISTS);
    assert_text_has(registry_member_id(m[0]));
    char *old_id = must_strdup(registry_member_id(m[0]));
    registry_leave(m[0]);
    assert_int_equal(count_members(a, "worker"), 1);
    assert_int_equal(registry_join(b, "worker", "w-1", "", &m[3]), ERR_NONE);
    assert_string_not_equal(registry_member_id(m[3]), old_id);
    mem_free(old_id);

    assert_int_equal(registry_join(b, "worker", "a/b", "", &m[0]), ERR_INPUT);
    assert_int_equal(registry_join(b, "wor-ker", "a", "", &m[0]), ERR_INPUT);
    assert_int_equal(registry_join(b, "worker", "", "", &m[0]), ERR_INPUT);
    registry_close(b);
    assert_int_equal(count_members(a, NULL), 0);
    assert_int_equal(count_member_files(), 0);
    registry_close(a);
}

static void test_leader(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    char *record = NULL;
    uint64_t term = 0, seen = 0, last = 0;
    bool is_leader = true;
    assert_int_equal(registry_leader(a, &record, &seen), ERR_NOT_FOUND);
    for (int round = 0; round < 5; round++) {
        struct registry *winner = round % 2 ? a : b, *loser = round % 2 ? b : a;
        assert_int_equal(registry_lead(winner, "tcp://w\nx", &is_leader, &term), ERR_NONE);
        assert_true(is_leader);
        assert_true(term > last);
        last = term;
        term = 0;
        assert_int_equal(registry_lead(loser, "loser", &is_leader, &term), ERR_NONE);
        assert_false(is_leader);
        assert_int_equal(registry_leader(loser, &record, &seen), ERR_NONE);
        assert_string_equal(record, "tcp://w\nx");
        assert_int_equal(seen, last);
        mem_free(record);
        assert_int_equal(registry_lead(winner, "again", &is_leader, &term), ERR_NONE);
        assert_true(is_leader);
        assert_int_equal(term, last);
        registry_resign(winner);
        registry_resign(winner);
        assert_int_equal(registry_leader(loser, &record, &seen), ERR_NOT_FOUND);
    }
    assert_int_equal(registry_lead(a, "a", &is_leader, &term), ERR_NONE);
    registry_close(a);
    assert_int_equal(registry_leader(b, &record, &seen), ERR_NOT_FOUND);
    registry_close(b);
}

/* A child that joins and leads, says so, and waits to be killed. */
static pid_t start_child(void)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct registry *r;
        struct registry_member *m;
        bool is_leader = false;
        uint64_t term;
        alarm(30);
        if (registry_open(uri, &r) != ERR_NONE ||
            registry_join(r, "server", "child", "record", &m) != ERR_NONE ||
            registry_lead(r, "child", &is_leader, &term) != ERR_NONE || !is_leader ||
            write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void test_killed(void **state)
{
    struct registry *r = open_registry();
    struct registry_member *m;
    char *record;
    uint64_t before = 0, term = 0;
    bool is_leader = true;
    for (int round = 0; round < 3; round++) {
        pid_t child = start_child();
        assert_int_equal(count_members(r, "server"), 1);
        assert_int_equal(registry_leader(r, &record, &before), ERR_NONE);
        assert_string_equal(record, "child");
        mem_free(record);
        assert_int_equal(registry_lead(r, "me", &is_leader, &term), ERR_NONE);
        assert_false(is_leader);
        assert_int_equal(registry_join(r, "server", "child", "", &m), ERR_EXISTS);
        assert_int_equal(count_member_files(), 1);

        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(count_members(r, "server"), 0);
        assert_int_equal(count_member_files(), 0);
        assert_int_equal(registry_leader(r, &record, &term), ERR_NOT_FOUND);
        assert_int_equal(registry_lead(r, "me", &is_leader, &term), ERR_NONE);
        assert_true(is_leader);
        assert_true(term > before);
        assert_int_equal(registry_join(r, "server", "child", "", &m), ERR_NONE);
        registry_leave(m);
        registry_resign(r);
    }
    registry_close(r);
}

static void test_records(void **state)
{
    struct registry *r = open_registry();
    void *data;
    size_t size;
    uint64_t version = 0, next = 0;
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NOT_FOUND);
    assert_text_has("jobs/a/state");
    assert_int_equal(registry_put(r, "jobs/a/state", "one", 3, 7, NULL), ERR_NOT_FOUND);
    assert_int_equal(registry_put(r, "jobs/a/state", "one", 3, 0, &version), ERR_NONE);
    assert_int_equal(registry_put(r, "jobs/a/state", "two", 3, 0, NULL), ERR_EXISTS);
    assert_int_equal(registry_put(r, "jobs/a/state", "two", 3, version + 1, NULL), ERR_EXISTS);
    assert_int_equal(registry_put(r, "jobs/a/state", "t\0o", 3, version, &next), ERR_NONE);
    assert_true(next > version);
    assert_int_equal(registry_put(r, "jobs/a/state", "old", 3, version, NULL), ERR_EXISTS);
    registry_close(r);

    r = open_registry(); /* what is written stays */
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NONE);
    assert_int_equal(version, next);
    assert_int_equal(size, 3);
    assert_memory_equal(data, "t\0o", 4);
    mem_free(data);
    assert_int_equal(registry_put(r, "jobs/a", "", 0, 0, NULL), ERR_NONE);
    assert_int_equal(registry_get(r, "jobs/a", &data, &size, &version), ERR_NONE);
    assert_int_equal(size, 0);
    mem_free(data);
    assert_int_equal(registry_remove(r, "jobs/a/state"), ERR_NONE);
    assert_int_equal(registry_remove(r, "jobs/a/state"), ERR_NONE);
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NOT_FOUND);

    char *big = calloc(1, (512 << 10) + 1);
    assert_int_equal(registry_put(r, "big", big, 512 << 10, 0, NULL), ERR_NONE);
    assert_int_equal(registry_put(r, "bigger", big, (512 << 10) + 1, 0, NULL), ERR_LIMIT);
    assert_int_equal(registry_get(r, "big", &data, &size, &version), ERR_NONE);
    assert_int_equal(size, 512 << 10);
    mem_free(data);
    free(big);

    static const char *const bad[] = {"",  "a//b", "a/",  "/a",      "a/..",
                                      ".", "a b",  "a!b", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(registry_put(r, bad[i], "x", 1, 0, NULL), ERR_INPUT);
    registry_close(r);
}

static void test_any_version(void **state)
{
    struct registry *r = open_registry();
    void *data;
    size_t size;
    uint64_t first = 0, second = 0, version = 0;
    assert_int_equal(registry_put(r, "any", "one", 3, REGISTRY_ANY_VERSION, &first), ERR_NONE);
    assert_int_equal(registry_put(r, "any", "two", 3, REGISTRY_ANY_VERSION, &second), ERR_NONE);
    assert_true(second > first);
    assert_int_equal(registry_get(r, "any", &data, &size, &version), ERR_NONE);
    assert_string_equal(data, "two");
    assert_int_equal(version, second);
    mem_free(data);
    registry_close(r);
}

/* Only the newest leader writes, also when the older does not know of it. */
static void test_led(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    bool is_leader = false;
    uint64_t term = 0, version = 0;
    assert_false(registry_leads(a, NULL));
    assert_int_equal(registry_put_led(a, "led", "x", 1, 0, NULL), ERR_REFUSED);
    assert_int_equal(registry_lead(a, "a", &is_leader, &term), ERR_NONE);
    uint64_t seen = 0;
    assert_true(registry_leads(a, &seen));
    assert_int_equal(seen, term);
    assert_int_equal(registry_put_led(a, "led", "a", 1, 0, &version), ERR_NONE);
    assert_int_equal(registry_put_led(a, "led", "a", 1, 0, NULL), ERR_EXISTS);
    assert_int_equal(registry_put_led(b, "led", "b", 1, version, NULL), ERR_REFUSED);
    assert_int_equal(registry_remove_led(b, "led"), ERR_REFUSED);

    char *path = storage_join(DIRECTORY, "leader");
    assert_int_equal(unlink(path), 0); /* as if somebody tidied up */
    mem_free(path);
    assert_int_equal(registry_lead(b, "b", &is_leader, &term), ERR_NONE);
    assert_true(is_leader && term == seen + 1);
    assert_int_equal(registry_put_led(a, "led", "a", 1, version, NULL), ERR_REFUSED);
    assert_text_has("by term 1 and were deposed by term 2");
    assert_false(registry_leads(a, NULL));
    assert_int_equal(registry_remove_led(a, "led"), ERR_REFUSED);
    assert_int_equal(registry_put_led(b, "led", "b", 1, version, NULL), ERR_NONE);
    assert_int_equal(registry_remove_led(b, "led"), ERR_NONE);
    registry_resign(b);
    assert_false(registry_leads(b, NULL));
    assert_int_equal(registry_lead(a, "a", &is_leader, &term), ERR_NONE);
    assert_true(is_leader && term == seen + 2);
    uint64_t away_ms = 1;
    assert_int_equal(registry_state(a, &away_ms), REGISTRY_CONNECTED);
    assert_int_equal(away_ms, 0);
    registry_close(a);
    registry_close(b);
}

static void test_list(void **state)
{
    struct registry *r = open_registry();
    static const char *const paths[] = {"jobs/b",   "jobs/a", "jobs/a/state", "jobs/c/state",
                                        "jobs-2/x", "top",    "jobs/a/b/c"};
    static const struct {
        const char *path, *names;
    } cases[] = {{"jobs", "a b "}, {"", "top "},     {"jobs/a", "state "}, {"jobs/a/b", "c "},
                 {"none", ""},     {"jobs-2", "x "}, {"top", ""}};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        assert_int_equal(registry_put(r, paths[i], "", 0, 0, NULL), ERR_NONE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char **names;
        size_t count;
        char text[100] = "";
        assert_int_equal(registry_list(r, cases[i].path, &names, &count), ERR_NONE);
        for (size_t n = 0; n < count; n++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s ", names[n]);
        assert_string_equal(text, cases[i].names);
        registry_names_free(names, count);
    }
    char **names;
    size_t count;
    assert_int_equal(registry_list(r, "jobs/", &names, &count), ERR_INPUT);
    registry_close(r);
}

static void test_damaged_record(void **state)
{
    struct registry *r = open_registry();
    void *data;
    size_t size;
    uint64_t version;
    assert_int_equal(registry_put(r, "damaged", "payload", 7, 0, NULL), ERR_NONE);
    char *path = storage_join(DIRECTORY, "records/damaged");
    char *text;
    assert_int_equal(storage_read_all(path, 1000, &text, &size), ERR_NONE);
    static const char flips[] = {0x20, 0x01};
    for (size_t at = 0; at < 2 * size; at++) {
        char flip = flips[at / size];
        text[at % size] ^= flip;
        FILE *f = fopen(path, "wb");
        fwrite(text, 1, size, f);
        fclose(f);
        enum err e = registry_get(r, "damaged", &data, &size, &version);
        text[at % size] ^= flip;
        if (e == ERR_NONE) { /* capital letters of the checksum */
            mem_free(data);
            size = strlen(text);
            assert_true(flip == 0x20 && at < strcspn(text, "\n"));
        } else {
            assert_int_equal(e, ERR_CORRUPT);
        }
    }
    mem_free(text);
    mem_free(path);
    registry_close(r);
}

/* A failed write leaves the record as it was. */
static void test_disk_full(void **state)
{
    struct registry *r = open_registry();
    void *data;
    size_t size;
    uint64_t version, read_version;
    assert_int_equal(registry_put(r, "full", "old", 3, 0, &version), ERR_NONE);
    for (uint64_t n = 1; n <= 2; n++) {
        storage_fail_nth(STORAGE_FAULT_ENOSPC, n);
        assert_int_equal(registry_put(r, "full", "new", 3, version, NULL), ERR_LIMIT);
        assert_text_has("disk full");
        assert_int_equal(registry_get(r, "full", &data, &size, &read_version), ERR_NONE);
        assert_memory_equal(data, "old", 4);
        assert_int_equal(read_version, version);
        mem_free(data);
    }
    storage_fail_nth(STORAGE_FAULT_ENOSPC, 1);
    bool is_leader = false;
    uint64_t term;
    char *record;
    assert_int_equal(registry_lead(r, "me", &is_leader, &term), ERR_LIMIT);
    assert_int_equal(registry_leader(r, &record, &term), ERR_NOT_FOUND);
    storage_fail_nth(STORAGE_FAULT_ENOSPC, 0);
    registry_close(r);
}

#define RACERS    4
#define ADDITIONS 25

/* Adds to a counter in a record as often as it says. */
static void *add(void *context)
{
    struct registry *r = context;
    for (int done = 0; done < ADDITIONS;) {
        void *data = NULL;
        size_t size;
        uint64_t version = 0;
        int value = 0;
        enum err e = registry_get(r, "counter", &data, &size, &version);
        if (e == ERR_NONE)
            value = atoi(data);
        else if (e != ERR_NOT_FOUND)
            return "cannot read";
        mem_free(data);
        char text[16];
        int text_size = snprintf(text, sizeof text, "%d", value + 1);
        e = registry_put(r, "counter", text, (size_t)text_size, version, NULL);
        if (e != ERR_NONE && e != ERR_EXISTS)
            return "cannot write";
        done += e == ERR_NONE;
    }
    return NULL;
}

static void test_compare_and_set_race(void **state)
{
    struct registry *registries[RACERS];
    pthread_t threads[RACERS];
    for (int i = 0; i < RACERS; i++) {
        registries[i] = i % 2 == 0 ? open_registry() : registries[i - 1];
        assert_int_equal(pthread_create(&threads[i], NULL, add, registries[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        if (complaint != NULL)
            fail_msg("%s", (char *)complaint);
    }
    void *data;
    size_t size;
    uint64_t version;
    assert_int_equal(registry_get(registries[0], "counter", &data, &size, &version), ERR_NONE);
    assert_int_equal(atoi(data), RACERS * ADDITIONS);
    assert_int_equal(version, RACERS * ADDITIONS);
    mem_free(data);
    for (int i = 0; i < RACERS; i += 2)
        registry_close(registries[i]);
}

static void *lead_and_resign(void *context)
{
    static _Atomic int leaders;
    struct registry *r = context;
    uint64_t term = 0, last = 0;
    for (int i = 0; i < ADDITIONS; i++) {
        bool is_leader;
        if (registry_lead(r, "racer", &is_leader, &term) != ERR_NONE)
            return "cannot lead";
        if (!is_leader)
            continue;
        if (leaders++ != 0)
            return "two lead";
        if (term <= last)
            return "the term did not rise";
        last = term;
        leaders--;
        registry_resign(r);
    }
    return NULL;
}

static void test_leader_race(void **state)
{
    struct registry *registries[RACERS];
    pthread_t threads[RACERS];
    for (int i = 0; i < RACERS; i++) {
        registries[i] = open_registry();
        assert_int_equal(pthread_create(&threads[i], NULL, lead_and_resign, registries[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        registry_close(registries[i]);
        if (complaint != NULL)
            fail_msg("%s", (char *)complaint);
    }
}

static int set_up(void **state)
{
    strcpy(uri, "local:/tmp/test_registry-XXXXXX");
    return mkdtemp(DIRECTORY) == NULL;
}

static int tear_down(void **state)
{
    return storage_remove_tree(DIRECTORY) != ERR_NONE;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_open),        CASE(test_members),     CASE(test_leader),
        CASE(test_killed),      CASE(test_records),     CASE(test_damaged_record),
        CASE(test_any_version), CASE(test_led),         CASE(test_list),
        CASE(test_disk_full),   CASE(test_leader_race), CASE(test_compare_and_set_race),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
