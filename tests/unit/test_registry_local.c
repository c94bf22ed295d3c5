/*
 * Goal: a registry in a directory does what every registry must, and what a directory needs
 * besides:
 * dead processes leave nothing behind, damaged files are refused, a full disk changes nothing.
 *
 * Method: the contract; forked children that are killed with SIGKILL; files damaged by hand.
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

#include "common/mem.h"
#include "common/registry.h"
#include "common/registry_lock.h"
#include "common/storage.h"
#include "tests/support/registry_contract.h"

static char uri[64];
#define DIRECTORY (uri + strlen("local:"))

static struct registry *open_registry(void)
{
    struct registry *r = NULL;
    if (registry_open(uri, &r) != ERR_NONE)
        fail_msg("%s", err_text());
    return r;
}

static struct registry *open_another(struct registry_contract *c)
{
    return open_registry();
}

static void take_leader(struct registry_contract *c)
{
    char *path = storage_join(DIRECTORY, "leader");
    assert_int_equal(unlink(path), 0);
    mem_free(path);
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
    assert_int_equal(registry_open("etcd://a", &r), ERR_INPUT);
    registry_assert_text_has("local:DIR");
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

/* The files of the dead go when somebody looks. */
static void test_tidies_up(void **state)
{
    struct registry_child child;
    struct registry *r = open_registry();
    registry_child_start(*state, &child);
    assert_int_equal(registry_count_members(r, "server"), 1);
    assert_int_equal(count_member_files(), 1);
    registry_child_kill(&child);
    assert_int_equal(registry_count_members(r, "server"), 0);
    assert_int_equal(count_member_files(), 0);
    registry_close(r);
}

static void test_deposed_text(void **state)
{
    struct registry *a = open_registry(), *b = open_registry();
    registry_await_lead(a, "a");
    take_leader(*state);
    registry_await_lead(b, "b");
    assert_true(registry_leads(a, NULL));
    assert_int_equal(registry_put_led(a, "x", "a", 1, 0, NULL), ERR_REFUSED);
    registry_assert_text_has("by term 1 and were deposed by term 2");
    registry_close(a);
    registry_close(b);
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
        registry_assert_text_has("disk full");
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

static int set_up(void **state)
{
    static struct registry_contract contract = {
        .open = open_another, .take_leader = take_leader, .uri = uri};
    *state = &contract;
    strcpy(uri, "local:/tmp/test_registry-XXXXXX");
    return mkdtemp(DIRECTORY) == NULL;
}

static int tear_down(void **state)
{
    return storage_remove_tree(DIRECTORY) != ERR_NONE;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    if (registry_contract_is_child(argc))
        return registry_contract_child(argv);
    const struct CMUnitTest tests[] = {
        REGISTRY_CONTRACT_CASES(set_up, tear_down),
        CASE(test_open),
        CASE(test_tidies_up),
        CASE(test_deposed_text),
        CASE(test_damaged_record),
        CASE(test_disk_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
