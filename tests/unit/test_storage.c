/*
 * Goal: a written object is there whole or not at all, whatever fails; exactly one writer wins an
 * exclusive name; patterns stand for the files that they say.
 *
 * Method: a directory of the test's own. Every storage operation of a write is made to fail in
 * turn, with each kind of fault, and the directory is looked at after. Threads race for one name.
 * Expansion is a table of trees, patterns and what they stand for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/storage.h"
#include "common/str.h"

static void put(const char *uri, const char *text)
{
    struct storage_writer *w;
    const bool overwrite = true;
    if (storage_write_open(uri, overwrite, &w) != ERR_NONE ||
        storage_write(w, text, strlen(text)) != ERR_NONE || storage_write_close(w) != ERR_NONE)
        fail_msg("%s", err_text());
}

static void assert_holds(const char *uri, const char *text)
{
    char *data;
    size_t size;
    if (storage_read_all(uri, 1000, &data, &size) != ERR_NONE)
        fail_msg("%s", err_text());
    assert_string_equal(data, text);
    assert_int_equal(size, strlen(text));
    mem_free(data);
}

static void assert_text_has(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}

/* All names in the directory, also those that listings leave out. */
static size_t count_names(const char *directory)
{
    size_t count = 0;
    DIR *d = opendir(directory);
    assert_non_null(d);
    while (readdir(d) != NULL)
        count++;
    closedir(d);
    return count - 2;
}

static void test_names(void **state)
{
    char absolute[200], here[150];
    assert_non_null(getcwd(here, sizeof here));
    put("file:names/a", "1");
    assert_holds("names/a", "1");
    snprintf(absolute, sizeof absolute, "file://%s/names/a", here);
    assert_holds(absolute, "1");
    snprintf(absolute, sizeof absolute, "file://localhost%s/names/a", here);
    assert_holds(absolute, "1");
    snprintf(absolute, sizeof absolute, "%s/names/a", here);
    assert_holds(absolute, "1");
    put("names/with: a colon", "2");
    assert_holds("names/with: a colon", "2");

    struct storage_info info;
    assert_int_equal(storage_stat("ftp://host/x", &info), ERR_UNSUPPORTED);
    assert_text_has("ftp");
    assert_text_has("file:///path");
    assert_int_equal(storage_stat("file://host/x", &info), ERR_INPUT);
    assert_int_equal(storage_stat("", &info), ERR_INPUT);
    assert_int_equal(storage_stat("file:", &info), ERR_INPUT);
    assert_int_equal(storage_stat("names/none", &info), ERR_NOT_FOUND);
    assert_int_equal(storage_stat("names/a/none", &info), ERR_NOT_FOUND);
    assert_int_equal(storage_stat("names", &info), ERR_NONE);
    assert_true(info.is_directory);

    static const char *const joins[][3] = {
        {"a", "b", "a/b"},
        {"a/", "b", "a/b"},
        {"a/", "/b", "a/b"},
        {"/", "b", "/b"},
        {"", "b", "b"},
        {"s3://x", "b", "s3://x/b"},
        {"s3://x/a", "/", "s3://x/a//"},
        {"s3://x/a//", "b", "s3://x/a//b"},
    };
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        char *joined = storage_join(joins[i][0], joins[i][1]);
        assert_string_equal(joined, joins[i][2]);
        mem_free(joined);
    }
}

static void test_read_and_list(void **state)
{
    put("read/b", "0123456789");
    put("read/a", "");
    put("read/Z", "z");
    put("read/c/d", "d");
    struct storage_reader *r;
    char bytes[11] = {0};
    assert_int_equal(storage_open("read/b", &r), ERR_NONE);
    assert_int_equal(storage_reader_size(r), 10);
    assert_int_equal(storage_read_at(r, 3, bytes, 4), ERR_NONE);
    assert_string_equal(bytes, "3456");
    assert_int_equal(storage_read_at(r, 10, bytes, 0), ERR_NONE);
    assert_int_equal(storage_read_at(r, 7, bytes, 4), ERR_CORRUPT);
    assert_text_has("read/b");
    assert_text_has("10");
    storage_close(r);
    storage_close(NULL);
    assert_int_equal(storage_open("read", &r), ERR_IO);
    assert_int_equal(storage_open("read/none", &r), ERR_NOT_FOUND);
    char *data;
    size_t size;
    assert_int_equal(storage_read_all("read/b", 9, &data, &size), ERR_LIMIT);
    assert_int_equal(storage_read_all("read/b", 10, &data, &size), ERR_NONE);
    mem_free(data);
    assert_holds("read/a", "");

    struct storage_list l;
    assert_int_equal(storage_list("read", &l), ERR_NONE);
    static const char *const order[] = {"Z", "a", "b", "c"};
    assert_int_equal(l.count, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(l.entries[i].name, order[i]);
        assert_int_equal(l.entries[i].info.is_directory, i == 3);
    }
    char mark[64];
    memcpy(mark, l.entries[2].info.mark, sizeof mark);
    storage_list_deinit(&l);
    assert_int_equal(storage_list("read/none", &l), ERR_NOT_FOUND);
    assert_int_equal(storage_list("read/b", &l), ERR_NOT_FOUND);

    struct storage_info info;
    assert_int_equal(storage_stat("read/b", &info), ERR_NONE);
    assert_string_equal(info.mark, mark);
    put("read/b", "9876543210");
    assert_int_equal(storage_stat("read/b", &info), ERR_NONE);
    assert_string_not_equal(info.mark, mark);
}

static void test_write(void **state)
{
    struct storage_writer *w;
    put("write/a", "old");
    assert_int_equal(storage_write_open("write/a", true, &w), ERR_NONE);
    assert_int_equal(storage_write(w, "new", 3), ERR_NONE);
    assert_holds("write/a", "old"); /* until it is closed */
    struct storage_list l;
    assert_int_equal(storage_list("write", &l), ERR_NONE);
    assert_int_equal(l.count, 1); /* what is being written is not listed */
    storage_list_deinit(&l);
    assert_int_equal(storage_write_close(w), ERR_NONE);
    assert_holds("write/a", "new");

    assert_int_equal(storage_write_open("write/a", false, &w), ERR_NONE);
    assert_int_equal(storage_write(w, "third", 5), ERR_NONE);
    assert_int_equal(storage_write_close(w), ERR_EXISTS);
    assert_text_has("write/a");
    assert_int_equal(storage_write_open("write/b", false, &w), ERR_NONE);
    storage_write_abort(w);
    storage_write_abort(NULL);
    assert_holds("write/a", "new");
    assert_int_equal(storage_write_open("write/a/below", true, &w), ERR_NOT_FOUND);
    assert_int_equal(storage_write_open("write/", true, &w), ERR_INPUT);
    assert_int_equal(count_names("write"), 1);

    /* Larger than any buffer, in pieces of all sizes. */
    size_t total = 3 << 20, at = 0;
    char *big = malloc(total);
    for (size_t i = 0; i < total; i++)
        big[i] = (char)(i * 2654435761u >> 13);
    assert_int_equal(storage_write_open("write/big", true, &w), ERR_NONE);
    for (size_t part = 1; at < total; at += part, part = part * 5 % 400009 + 1) {
        if (part > total - at)
            part = total - at;
        assert_int_equal(storage_write(w, big + at, part), ERR_NONE);
    }
    assert_int_equal(storage_write_close(w), ERR_NONE);
    char *data;
    size_t size;
    assert_int_equal(storage_read_all("write/big", total, &data, &size), ERR_NONE);
    assert_int_equal(size, total);
    assert_memory_equal(data, big, total);
    mem_free(data);
    free(big);
}

static void test_remove(void **state)
{
    put("remove/tree/MANIFEST.json", "{}");
    put("remove/tree/a/b/c", "c");
    put("remove/tree/.hidden", "h");
    put("remove/other", "o");
    assert_int_equal(symlink("../other", "remove/tree/link"), 0);
    assert_int_equal(symlink("..", "remove/tree/a/up"), 0);
    assert_int_equal(storage_remove("remove/none"), ERR_NONE);
    assert_int_equal(storage_remove("remove/tree"), ERR_IO);
    assert_int_equal(storage_remove_tree("remove/none"), ERR_NONE);
    assert_int_equal(storage_remove_tree("remove/tree"), ERR_NONE);
    assert_int_equal(storage_remove_tree("/"), ERR_INPUT);
    assert_int_equal(storage_remove_tree("file:///"), ERR_INPUT);
    assert_int_equal(storage_remove_tree(".."), ERR_INPUT);
    assert_int_equal(count_names("remove"), 1);
    assert_holds("remove/other", "o");
    assert_int_equal(storage_remove("remove/other"), ERR_NONE);
    assert_int_equal(count_names("remove"), 0);
}

#define RACERS 8
#define ROUNDS 12
static pthread_barrier_t barrier;

static void *race(void *context)
{
    static _Thread_local char text[16], uri[32];
    intptr_t wins = 0;
    for (int round = 0; round < ROUNDS; round++) {
        snprintf(uri, sizeof uri, "race/%d", round);
        snprintf(text, sizeof text, "racer %ld", (long)(intptr_t)context);
        pthread_barrier_wait(&barrier);
        enum err e = storage_create_exclusive(uri, text, strlen(text));
        if (e == ERR_NONE)
            wins++;
        else if (e != ERR_EXISTS)
            wins = -1000;
    }
    return (void *)wins;
}

static void test_exclusive_race(void **state)
{
    pthread_t threads[RACERS];
    intptr_t wins = 0;
    assert_int_equal(mkdir("race", 0777), 0);
    pthread_barrier_init(&barrier, NULL, RACERS);
    for (intptr_t i = 0; i < RACERS; i++)
        pthread_create(&threads[i], NULL, race, (void *)i);
    for (int i = 0; i < RACERS; i++) {
        void *won;
        pthread_join(threads[i], &won);
        wins += (intptr_t)won;
    }
    pthread_barrier_destroy(&barrier);
    assert_int_equal(wins, ROUNDS);
    assert_int_equal(count_names("race"), ROUNDS);
}

/* A write of two buffers' length and a replaced file, with the nth operation failing. */
static enum err write_some(const char *uri, bool overwrite)
{
    static char data[600000];
    memset(data, 'n', sizeof data);
    struct storage_writer *w;
    enum err e = storage_write_open(uri, overwrite, &w);
    if (e != ERR_NONE)
        return e;
    e = storage_write(w, "begin", 5);
    if (e == ERR_NONE)
        e = storage_write(w, data, sizeof data);
    if (e == ERR_NONE)
        e = storage_write(w, "end", 3);
    if (e == ERR_NONE)
        return storage_write_close(w);
    /* A caller that overlooks a failure must still not publish a torn file. */
    char text[500];
    snprintf(text, sizeof text, "%s", err_text());
    assert_int_equal(storage_write_close(w), e);
    assert_text_has("earlier");
    return err_set(e, "%s", text);
}

static void test_faults(void **state)
{
    static const struct {
        enum storage_fault fault;
        enum err err;
        uint64_t at_least; /* so many operations can fail */
    } cases[] = {
        {STORAGE_FAULT_EIO, ERR_IO, 4},
        {STORAGE_FAULT_ENOSPC, ERR_LIMIT, 3},
        {STORAGE_FAULT_SHORT, ERR_IO, 2},
        {STORAGE_FAULT_FSYNC, ERR_IO, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int overwrite = 0; overwrite < 2; overwrite++) {
            enum err e = ERR_IO;
            uint64_t n = 1;
            for (; e != ERR_NONE && n < 100; n++) {
                assert_int_equal(storage_remove_tree("faults"), ERR_NONE);
                assert_int_equal(mkdir("faults", 0777), 0);
                if (overwrite)
                    put("faults/f", "old");
                storage_fail_nth(cases[i].fault, n);
                e = write_some("faults/f", overwrite);
                storage_fail_nth(cases[i].fault, 0);
                if (e != ERR_NONE) {
                    assert_int_equal(e, cases[i].err);
                    assert_text_has("faults/f");
                }
                if (e == ERR_LIMIT)
                    assert_text_has("disk full");
                /* Whole and new, or as it was; nothing else is left. */
                struct storage_info info = {0};
                enum err found = storage_stat("faults/f", &info);
                assert_int_equal(count_names("faults"), found == ERR_NONE);
                if (found == ERR_NONE && info.size != 600008)
                    assert_holds("faults/f", "old");
                else if (found != ERR_NONE)
                    assert_true(!overwrite && found == ERR_NOT_FOUND);
            }
            assert_true(n - 1 > cases[i].at_least);
        }
    }
    put("faults/r", "0123456789");
    struct storage_reader *r;
    char bytes[10];
    assert_int_equal(storage_open("faults/r", &r), ERR_NONE);
    storage_fail_nth(STORAGE_FAULT_SHORT, 1);
    assert_int_equal(storage_read_at(r, 0, bytes, 10), ERR_CORRUPT);
    assert_int_equal(storage_read_at(r, 0, bytes, 10), ERR_NONE);
    storage_fail_nth(STORAGE_FAULT_EIO, 2);
    assert_int_equal(storage_read_at(r, 0, bytes, 10), ERR_NONE);
    assert_int_equal(storage_read_at(r, 0, bytes, 10), ERR_IO);
    storage_close(r);
    storage_fail_nth(STORAGE_FAULT_EIO, 1);
    struct storage_list l;
    assert_int_equal(storage_list("faults", &l), ERR_IO);
}

/* The trees are made once; "stands_for" is "file[column=value,…]" in order, or NULL with the
 * error's text. */
static const char *const expand_tree[] = {
    "x/csv/b.csv",
    "x/csv/a.csv",
    "x/csv/_meta",
    "x/csv/.crc",
    "x/csv/c.txt",
    "x/done/part-1",
    "x/done/part-0",
    "x/done/_SUCCESS",
    "x/undone/part-0",
    "x/days/day=2/part-0",
    "x/days/day=1/hour=0/part-0",
    "x/days/_SUCCESS",
    "x/d/day=2%2F3/part-0",
    "x/d/day=1/part-0",
    "x/d/day=1/part-1",
    "x/d/_SUCCESS",
    "x/open/day=1/part-0",
    "x/nested/a/f",
    "x/odd/[1]*.csv",
    "x/odd/1.csv",
    "x/_h/f",
    "x/none/_only",
};
static const struct {
    const char *patterns[3];
    enum err err;
    const char *stands_for;
} expand_cases[] = {
    {{"x/csv/a.csv"}, ERR_NONE, "x/csv/a.csv "},
    {{"x/csv"}, ERR_NONE, "x/csv/a.csv x/csv/b.csv x/csv/c.txt "},
    {{"x/csv/"}, ERR_NONE, "x/csv/a.csv x/csv/b.csv x/csv/c.txt "},
    {{"x/csv/*.csv"}, ERR_NONE, "x/csv/a.csv x/csv/b.csv "},
    {{"file:x/csv/*.csv"}, ERR_NONE, "file:./x/csv/a.csv file:./x/csv/b.csv "},
    {{"x/*/[ab].csv"}, ERR_NONE, "x/csv/a.csv x/csv/b.csv "},
    {{"?/csv/b.csv"}, ERR_NONE, "x/csv/b.csv "},
    {{"x/csv/_*"}, ERR_NONE, "x/csv/_meta "},
    {{"x/csv/*.csv", "x/csv/b.csv"}, ERR_NONE, "x/csv/a.csv x/csv/b.csv "},
    {{"x/done", "x/csv/c.txt"}, ERR_NONE, "x/csv/c.txt x/done/part-0 x/done/part-1 "},
    {{"x/undone"}, ERR_INPUT, "_SUCCESS"},
    {{"x/undone/part-*"}, ERR_NONE, "x/undone/part-0 "},
    {{"x/d"},
     ERR_NONE,
     "x/d/day=1/part-0[day=1] x/d/day=1/part-1[day=1] x/d/day=2%2F3/part-0[day=2/3] "},
    {{"x/d/day=*"},
     ERR_NONE,
     "x/d/day=1/part-0[day=1] x/d/day=1/part-1[day=1] x/d/day=2%2F3/part-0[day=2/3] "},
    {{"x/d/day=1"}, ERR_NONE, "x/d/day=1/part-0 x/d/day=1/part-1 "},
    {{"x/*/day=1/hour=*/part-0"}, ERR_NONE, "x/days/day=1/hour=0/part-0[hour=0] "},
    {{"x/days"}, ERR_INPUT, "different key=value levels"},
    {{"x/open"}, ERR_INPUT, "_SUCCESS"},
    {{"x/open/day=1"}, ERR_INPUT, "_SUCCESS"},
    {{"x/nested"}, ERR_INPUT, "'a'"},
    {{"x/nested/*"}, ERR_NONE, "x/nested/a/f "},
    {{"x/odd/[1]*.csv"}, ERR_NONE, "x/odd/[1]*.csv "},
    {{"x/odd/[1].csv"}, ERR_NONE, "x/odd/1.csv "},
    {{"x/_h"}, ERR_NONE, "x/_h/f "},
    {{"x/*/nowhere"}, ERR_NOT_FOUND, "x/*/nowhere"},
    {{"x/nowhere"}, ERR_NOT_FOUND, "x/nowhere"},
    {{"x/nowhere/*"}, ERR_NOT_FOUND, "x/nowhere/*"},
    {{"x/none"}, ERR_NOT_FOUND, "stands for no file"},
    {{"ftp://x/y"}, ERR_UNSUPPORTED, "ftp"},
};

static void test_expand(void **state)
{
    for (size_t i = 0; i < sizeof expand_tree / sizeof expand_tree[0]; i++)
        put(expand_tree[i], "data");
    for (size_t i = 0; i < sizeof expand_cases / sizeof expand_cases[0]; i++) {
        size_t count = 0;
        while (expand_cases[i].patterns[count] != NULL)
            count++;
        struct storage_files f = {0};
        enum err e = storage_expand(expand_cases[i].patterns, count, &f);
        struct str got = {0};
        str_append(&got, "");
        for (size_t k = 0; k < f.count; k++) {
            str_append(&got, f.files[k].uri);
            assert_int_equal(f.files[k].info.size, 4);
            for (size_t c = 0; c < f.files[k].column_count; c++)
                str_append_format(&got, "[%s=%s]", f.files[k].column_names[c],
                                  f.files[k].column_values[c]);
            str_append(&got, " ");
        }
        if (e != expand_cases[i].err)
            fail_msg("%s: %s: %s", expand_cases[i].patterns[0], err_name(e), err_text());
        if (e == ERR_NONE)
            assert_string_equal(got.data, expand_cases[i].stands_for);
        else
            assert_text_has(expand_cases[i].stands_for);
        str_deinit(&got);
        storage_files_deinit(&f);
    }
    assert_int_equal(chdir("x/csv"), 0);
    const char *const here[] = {"*.csv"};
    struct storage_files f = {0};
    assert_int_equal(storage_expand(here, 1, &f), ERR_NONE);
    assert_int_equal(f.count, 2);
    assert_string_equal(f.files[0].uri, "a.csv");
    storage_files_deinit(&f);
    assert_int_equal(chdir("../.."), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),  cmocka_unit_test(test_read_and_list),
        cmocka_unit_test(test_write),  cmocka_unit_test(test_remove),
        cmocka_unit_test(test_faults), cmocka_unit_test(test_exclusive_race),
        cmocka_unit_test(test_expand),
    };
    char directory[] = "/tmp/test_storage-XXXXXX";
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (chdir("/") != 0 || storage_remove_tree(directory) != ERR_NONE)
        return 1;
    return failed;
}
