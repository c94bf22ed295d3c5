/*
 * Goal: whatever call fails, and however, a checkpoint is published whole or is not there, the one
 * before it stands, nothing half-written can be seen, and the next attempt works. Publishing twice
 * is harmless. Retention removes what it says, and never the last good one.
 *
 * Method: every storage operation of a snapshot and its commit fails in turn, with each kind of
 * fault, until none is left to fail; likewise every allocation, of a snapshot and of a restore.
 * Retention is a table of directories, what is wrong with them, and what is left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/storage.h"
#include "tests/support/small_checkpoint.h"
#include "tests/support/snapshot_model.h"

#define SEED 7
#define ROWS 300

/* Faults are planted before it is called; whether the disk is real is not tested here. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' is not in '%s'", part, text);
}

static size_t names_in(const char *directory)
{
    DIR *d = opendir(directory);
    size_t count = 0;

    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return count;
}

/* ---- faults ---- */

struct attempt {
    enum snapshot_state state;
    bool is_published;
    struct checkpoint_manifest *manifest; /* DURABLE */
    char why[600];
};

/* One snapshot and its commit. */
static void try_once(struct snapshot_model *m, const char *directory, struct attempt *a)
{
    struct snapshot_options o = snapshot_model_options(m, 0, directory);
    const struct checkpoint_file *files;
    struct snapshot *s = NULL;
    const char *why = "";
    uint32_t count;

    *a = (struct attempt){.state = SNAPSHOT_ABANDONED};
    if (snapshot_begin(&o, &s) != ERR_NONE) {
        snprintf(a->why, sizeof a->why, "%s", err_text());
        return;
    }
    a->state = snapshot_run(s, &files, &count, &why);
    if (a->state == SNAPSHOT_DURABLE) {
        a->manifest = snapshot_manifest(1, 2);
        snapshot_manifest_add(a->manifest, files, count);
        a->is_published = checkpoint_publish(directory, a->manifest, NULL) == ERR_NONE;
        why = a->is_published ? "" : err_text();
    }
    snprintf(a->why, sizeof a->why, "%s", why);
    snapshot_destroy(s);
}

/* faulty/1-1 is good; 1-2 is good or not there; nothing else. */
static void assert_all_or_nothing(const struct attempt *a, const char *digest)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    char hex[SHA256_HEX_SIZE];

    assert_int_equal(checkpoint_list("faulty", &l, &count), ERR_NONE);
    assert_true(count >= 1);
    assert_string_equal(l[count - 1].directory, "faulty/1-1");
    assert_int_equal(l[count - 1].refused, ERR_NONE);
    if (a->is_published)
        assert_true(count == 2 && l[0].committed);
    if (count == 2 && l[0].committed) {
        if (l[0].refused != ERR_NONE || checkpoint_verify("faulty/1-2") != ERR_NONE)
            fail_msg("%s", l[0].why ? l[0].why : err_text());
        assert_int_equal(checkpoint_digest("faulty/1-2", hex), ERR_NONE);
        assert_string_equal(hex, digest);
    }
    if (a->state == SNAPSHOT_ABANDONED) {
        assert_true(strlen(a->why) > 10);
        assert_int_equal(names_in("faulty/1-2"), 0);
    } else {
        size_t names = names_in("faulty/1-2"); /* no temporary one among them */
        assert_true(names == 3 || names == 4);
    }
    checkpoint_listing_free(l, count);
}

static void test_storage_faults(void **state)
{
    static const struct {
        enum storage_fault fault;
        const char *says;
        uint32_t at_least; /* failing operations */
    } kinds[] = {
        {STORAGE_FAULT_EIO, "Input/output error", 10},
        {STORAGE_FAULT_ENOSPC, "disk full", 8},
        {STORAGE_FAULT_SHORT, "", 4},
        {STORAGE_FAULT_FSYNC, "sync", 8},
    };
    struct snapshot_model *m = snapshot_model_create(snapshot_schema(), 1);
    char digest[SHA256_HEX_SIZE];

    snapshot_model_fill(m, ROWS, SEED);
    snapshot_model_save(m, "faulty/1-1");
    assert_int_equal(checkpoint_digest("faulty/1-1", digest), ERR_NONE);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct attempt a = {0};
        uint32_t n = 0;
        while (!a.is_published && n < 1000) {
            storage_fail_nth(kinds[k].fault, ++n);
            try_once(m, "faulty/1-2", &a);
            storage_fail_nth(kinds[k].fault, 0);
            snapshot_wait_threads();
            assert_all_or_nothing(&a, digest);
            if (!a.is_published)
                assert_says(a.why, kinds[k].says);
            /* What only failed to be committed can be committed now. */
            if (a.state == SNAPSHOT_DURABLE && !a.is_published) {
                assert_int_equal(checkpoint_publish("faulty/1-2", a.manifest, NULL), ERR_NONE);
                struct attempt again = {.state = a.state, .is_published = true};
                assert_all_or_nothing(&again, digest);
            }
            checkpoint_manifest_destroy(a.manifest);
            assert_int_equal(storage_remove_tree("faulty/1-2"), ERR_NONE);
        }
        if (n <= kinds[k].at_least)
            fail_msg("fault %zu: only %u operations could fail", k, n - 1);
    }
    snapshot_model_destroy(m);
}

static void test_allocation_faults(void **state)
{
    struct snapshot_model *m = snapshot_model_create(snapshot_schema(), 1);
    struct attempt a = {0};
    char digest[SHA256_HEX_SIZE];
    uint64_t n = 0;

    assert_int_equal(storage_remove_tree("faulty"), ERR_NONE);
    snapshot_model_fill(m, 40, SEED);
    snapshot_model_save(m, "faulty/1-1");
    assert_int_equal(checkpoint_digest("faulty/1-1", digest), ERR_NONE);
    while (!a.is_published && n < 5000) {
        mem_fail_nth(++n);
        try_once(m, "faulty/1-2", &a);
        mem_fail_nth(0);
        snapshot_wait_threads();
        assert_all_or_nothing(&a, digest);
        if (!a.is_published)
            assert_says(a.why, "allocate");
        checkpoint_manifest_destroy(a.manifest);
        assert_int_equal(storage_remove_tree("faulty/1-2"), ERR_NONE);
    }
    assert_true(n > 50 && n < 5000);
    snapshot_model_destroy(m);

    enum err err = ERR_MEMORY;
    for (n = 1; err == ERR_MEMORY && n < 5000; n++) {
        struct snapshot_model *r = snapshot_model_create(snapshot_schema(), 1);
        mem_fail_nth(n);
        err = snapshot_model_load(r, "faulty/1-1");
        mem_fail_nth(0);
        if (err == ERR_NONE)
            assert_true(snapshot_model_is(r, 40, SEED));
        snapshot_model_destroy(r);
    }
    assert_int_equal(err, ERR_NONE);
    assert_true(n > 10 && n < 5000);
}

/* A read that fails is no reason to refuse a checkpoint for good. */
static void test_restore_faults(void **state)
{
    struct snapshot_model *m = snapshot_model_create(snapshot_schema(), 1);
    enum err err = ERR_IO;
    uint64_t n;

    snapshot_model_fill(m, 40, SEED);
    snapshot_model_save(m, "reading/1-1");
    snapshot_model_destroy(m);
    for (n = 1; err == ERR_IO && n < 1000; n++) {
        struct snapshot_model *r = snapshot_model_create(snapshot_schema(), 1);
        storage_fail_nth(STORAGE_FAULT_EIO, n);
        err = snapshot_model_load(r, "reading/1-1");
        storage_fail_nth(STORAGE_FAULT_EIO, 0);
        if (err == ERR_NONE)
            assert_true(snapshot_model_is(r, 40, SEED));
        else
            assert_says(err_text(), "Input/output error");
        snapshot_model_destroy(r);
    }
    assert_int_equal(err, ERR_NONE);
    assert_true(n > 20 && n < 1000);
    for (n = 1; n < 5; n++) { /* neither for a listing: it fails, and hides nothing */
        struct checkpoint_listing *l = NULL;
        size_t count = 0;
        storage_fail_nth(STORAGE_FAULT_EIO, n);
        assert_int_equal(checkpoint_list("reading", &l, &count), ERR_IO);
        assert_null(l);
        storage_fail_nth(STORAGE_FAULT_EIO, 0);
    }
}

/* ---- publishing ---- */

static void test_publish_twice(void **state)
{
    const struct small_checkpoint c = {.generation = 1, .step = 1};
    struct checkpoint_manifest *m = small_checkpoint_files("publish/1-1", &c);
    char first[SHA256_HEX_SIZE] = "", second[SHA256_HEX_SIZE] = "", of_bytes[SHA256_HEX_SIZE];
    size_t size;

    assert_int_equal(checkpoint_publish("publish/1-1", m, first), ERR_NONE);
    assert_int_equal(checkpoint_publish("publish/1-1", m, second), ERR_NONE);
    assert_string_equal(first, second);
    char *data = small_file_read("publish/1-1", CHECKPOINT_MANIFEST, &size);
    sha256_hex(data, size, of_bytes);
    assert_string_equal(first, of_bytes);
    struct checkpoint_manifest *back = NULL;
    assert_int_equal(checkpoint_read_manifest("publish/1-1", &back, second), ERR_NONE);
    assert_string_equal(first, second);
    checkpoint_manifest_destroy(back);
    m->ranks[0].examples++;
    struct checkpoint_file last = m->files[--m->file_count];
    m->files++, m->file_count--; /* the dense parameters are missing */
    assert_int_equal(checkpoint_publish("publish/1-2", m, second), ERR_INPUT);
    assert_says(err_text(), "missing");
    m->files--, m->file_count++;
    m->files[m->file_count++] = m->files[0];
    assert_int_equal(checkpoint_publish("publish/1-2", m, second), ERR_INPUT);
    assert_says(err_text(), "out of order");
    m->files[m->file_count - 1] = last;
    assert_int_equal(names_in("publish/1-2"), 0);
    assert_int_equal(checkpoint_publish("publish/1-1", m, second), ERR_EXISTS);
    assert_says(err_text(), "publish/1-1");
    size_t size_after;
    char *after = small_file_read("publish/1-1", CHECKPOINT_MANIFEST, &size_after);
    assert_int_equal(size, size_after);
    assert_memory_equal(data, after, size);
    mem_free(data);
    mem_free(after);
    checkpoint_manifest_destroy(m);
}

/* ---- retention ---- */

/* G: good; C: its manifest is damaged; U: has none. */
struct retained {
    const char *before; /* "1-1G 1-2U" */
    uint32_t keep;
    const char *protect[3];
    const char *after;
    uint32_t removed;
};

static void make_all(const char *list)
{
    for (const char *at = list; *at; at += strspn(at, " ")) {
        uint64_t generation, step;
        size_t size = strcspn(at, "GCU");
        char *name = must_format("%.*s", (int)size, at);
        char *directory = storage_join("retain", name);
        assert_int_equal(checkpoint_name_parse(name, &generation, &step), ERR_NONE);
        struct small_checkpoint c = {.generation = generation, .step = step};
        if (at[size] == 'U')
            checkpoint_manifest_destroy(small_checkpoint_files(directory, &c));
        else
            small_checkpoint_write(directory, &c);
        if (at[size] == 'C')
            small_file_write(directory, CHECKPOINT_MANIFEST, "{}", 2);
        mem_free(directory);
        mem_free(name);
        at += size + 1;
    }
}

static void test_retention(void **state)
{
    static const struct retained cases[] = {
        {"1-1G 1-2G 1-3G", 3, {0}, "1-1 1-2 1-3", 0},
        {"1-1G 1-2G 1-3G", 2, {0}, "1-2 1-3", 1},
        {"1-1G 1-2G 1-3G", 1, {0}, "1-3", 2},
        {"1-1G 1-2G 1-3G", 0, {0}, "1-3", 2},
        {"1-9G 1-10G 2-1G", 2, {0}, "1-10 2-1", 1},
        {"1-1G 1-2G 1-3G", 1, {"1-1"}, "1-1 1-3", 1},
        {"1-1G 1-2G 1-3G", 1, {"1-1", "1-2"}, "1-1 1-2 1-3", 0},
        {"1-1G 1-2G 1-3G", 1, {"1-11", "1-"}, "1-3", 2},
        {"1-1G 1-2U 1-3G", 2, {0}, "1-1 1-3", 1},
        {"1-1G 1-2U 1-3G", 2, {"1-2"}, "1-1 1-2 1-3", 0},
        {"1-1G 1-2U 1-3U", 1, {0}, "1-1 1-2 1-3", 0}, /* under way, it may be */
        {"1-1U 1-2U", 1, {0}, "1-1 1-2", 0},
        {"1-1C 1-2C", 1, {0}, "1-1 1-2", 0},
        {"1-1G 1-2C", 1, {0}, "1-1 1-2", 0},
        {"1-1G 1-2C 1-3C", 1, {0}, "1-1 1-2 1-3", 0}, /* a refused one does not count */
        {"1-1G 1-2C 1-3G", 2, {0}, "1-1 1-3", 1},
        {"1-1U 1-2C 1-3G", 3, {0}, "1-3", 2},
        {"2-5U 1-3G 1-2G", 1, {0}, "1-3 2-5", 1},
        {"", 1, {0}, "", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(mkdir("retain", 0755) == 0 && mkdir("retain/other", 0755) == 0);
        small_file_write("retain", "1-0", "a file", 6);
        make_all(cases[i].before);
        uint32_t removed = 99;
        if (checkpoint_retain("retain", cases[i].keep, cases[i].protect, &removed) != ERR_NONE)
            fail_msg("%s", err_text());
        struct storage_list list = {0};
        struct str names = {0};
        str_append(&names, "");
        assert_int_equal(storage_list("retain", &list), ERR_NONE);
        for (size_t k = 0; k < list.count; k++)
            if (strcmp(list.entries[k].name, "other") != 0 && strcmp(list.entries[k].name, "1-0"))
                str_append_format(&names, "%s%s", names.size ? " " : "", list.entries[k].name);
        assert_int_equal(list.count, 2 + (cases[i].after[0] ? 1 : 0) +
                                         (strlen(cases[i].after) > 4) +
                                         (strlen(cases[i].after) > 8));
        assert_string_equal(names.data, cases[i].after);
        assert_int_equal(removed, cases[i].removed);
        storage_list_deinit(&list);
        str_deinit(&names);
        assert_int_equal(storage_remove_tree("retain"), ERR_NONE);
    }
    uint32_t removed = 99;
    assert_int_equal(checkpoint_retain("nowhere", 1, NULL, &removed), ERR_NONE);
    assert_int_equal(removed, 0);
}

/* One that cannot be removed does not keep the others. */
static void test_retention_fault(void **state)
{
    struct storage_info info;
    uint32_t removed = 99;
    uint64_t n;

    for (n = 1; removed == 99 && n < 1000; n++) {
        make_all("1-1G 1-2G 1-3G");
        storage_fail_nth(STORAGE_FAULT_EIO, n);
        (void)!checkpoint_retain("retain", 1, NULL, &removed);
        storage_fail_nth(STORAGE_FAULT_EIO, 0);
        assert_int_equal(checkpoint_verify("retain/1-3"), ERR_NONE);
        bool first = storage_stat("retain/1-1", &info) == ERR_NONE;
        bool second = storage_stat("retain/1-2", &info) == ERR_NONE;
        assert_true(removed != 99 || first || second);
        if (removed != 99)
            assert_true(!first && !second);
        /* Removing is the last thing: when it fails, all else has gone well. */
        if (removed == 99 && !first + !second == 1)
            removed = 98;
        assert_int_equal(storage_remove_tree("retain"), ERR_NONE);
    }
    assert_int_equal(removed, 98);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storage_faults), cmocka_unit_test(test_allocation_faults),
        cmocka_unit_test(test_restore_faults), cmocka_unit_test(test_publish_twice),
        cmocka_unit_test(test_retention),      cmocka_unit_test(test_retention_fault),
    };
    char directory[] = "/tmp/test_snapshot_faults-XXXXXX";
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return 1;
    (void)snapshot_threads();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (chdir("/") != 0 || storage_remove_tree(directory) != ERR_NONE)
        return 1;
    return failed;
}
