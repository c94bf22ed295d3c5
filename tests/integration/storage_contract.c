/*
 * storage_contract.c - what common/storage.h promises, of any store.
 *
 *     storage_contract [--weak] URI [--set NAME=VALUE]...
 *
 * --weak: the store's conditional writes are not atomic, so several writers at once may all win;
 * what is there must then be of one of them.
 *
 * Goal: every promise of storage.h holds at URI: whole or not at all, one winner, byte order, exact
 * ranges, names with any character.
 *
 * Method: everything happens in a new directory under URI that is removed at the end. Each case is
 * a function that says what it saw. Prints one line a case and ends with `N passed, N failed, N
 * skipped`; exit code 1 when one failed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "common/str.h"
#include "tests/support/storage_tool.h"

#define RACERS  8
#define READERS 6
#define LARGE   ((size_t)21 * 1024 * 1024 + 17) /* more than a buffer, parts, windows */

static const char *base;
static bool is_weak;
static const char *failure; /* of the present case: what was not as it should be */
static char failure_text[1000];

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            snprintf(failure_text, sizeof failure_text, "line %d: %s  (last error: %s)", __LINE__, \
                     #condition, err_text());                                                      \
            failure = failure_text;                                                                \
            return;                                                                                \
        }                                                                                          \
    } while (0)

static char *under(const char *name)
{
    return storage_join(base, name); /* a few hundred of them are never freed */
}

static enum err put(const char *uri, const char *text)
{
    const bool overwrite = true;
    return storage_write_all(uri, overwrite, text, strlen(text));
}

static bool holds(const char *uri, const char *text)
{
    char *data;
    size_t size;
    if (storage_read_all(uri, 1 << 20, &data, &size) != ERR_NONE)
        return false;
    bool same = size == strlen(text) && memcmp(data, text, size) == 0;
    mem_free(data);
    return same;
}

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(rng_at(7, offset / 8) >> (offset % 8 * 8));
}

static uint8_t *make_bytes(size_t size)
{
    uint8_t *data = must_alloc(size + 1);
    for (size_t i = 0; i < size; i++)
        data[i] = byte_at(i);
    return data;
}

static bool are_bytes(const uint8_t *data, uint64_t offset, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] != byte_at(offset + i))
            return false;
    return true;
}

/* ---- writing and reading ---- */

static void sizes(void)
{
    static const size_t cases[] = {0, 1, 4095, 65536, 1 << 20, LARGE};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[40], *data;
        size_t size;
        struct storage_info info;
        snprintf(name, sizeof name, "sizes/%zu", cases[i]);
        uint8_t *bytes = make_bytes(cases[i]);
        EXPECT(storage_write_all(under(name), false, bytes, cases[i]) == ERR_NONE);
        EXPECT(storage_stat(under(name), &info) == ERR_NONE);
        EXPECT(info.size == cases[i] && !info.is_directory && info.mark[0] != '\0');
        EXPECT(storage_read_all(under(name), LARGE, &data, &size) == ERR_NONE);
        EXPECT(size == cases[i] && memcmp(data, bytes, size) == 0);
        mem_free(data);
        mem_free(bytes);
    }
    char *data;
    size_t size;
    EXPECT(storage_read_all(under("sizes/65536"), 65535, &data, &size) == ERR_LIMIT);
}

/* In pieces of every size, as a snapshot writes. */
static void pieces(void)
{
    struct storage_writer *w;
    uint8_t *bytes = make_bytes(LARGE);
    size_t at = 0;
    EXPECT(storage_write_open(under("pieces/large"), true, &w) == ERR_NONE);
    for (uint64_t i = 0; at < LARGE; i++) {
        size_t part = (size_t)rng_below(rng_at(3, i), i % 7 == 0 ? 3 << 20 : 5000);
        if (part > LARGE - at)
            part = LARGE - at;
        EXPECT(storage_write(w, bytes + at, part) == ERR_NONE);
        at += part;
    }
    EXPECT(storage_write_close(w) == ERR_NONE);
    mem_free(bytes);
    struct storage_reader *r;
    uint8_t *back = must_alloc(3 << 20);
    EXPECT(storage_open(under("pieces/large"), &r) == ERR_NONE);
    EXPECT(storage_reader_size(r) == LARGE);
    /* In order, and then here and there. */
    at = 0;
    for (uint64_t i = 0; at < LARGE; i++) {
        size_t part = (size_t)rng_below(rng_at(4, i), i % 5 == 0 ? 3 << 20 : 300000);
        if (part > LARGE - at)
            part = LARGE - at;
        EXPECT(storage_read_at(r, at, back, part) == ERR_NONE);
        EXPECT(are_bytes(back, at, part));
        at += part;
    }
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t offset = rng_below(rng_at(5, i), LARGE);
        size_t part = (size_t)rng_below(rng_at(6, i), 70000);
        if (part > LARGE - offset)
            part = (size_t)(LARGE - offset);
        EXPECT(storage_read_at(r, offset, back, part) == ERR_NONE);
        EXPECT(are_bytes(back, offset, part));
    }
    EXPECT(storage_read_at(r, LARGE, back, 0) == ERR_NONE);
    EXPECT(storage_read_at(r, LARGE, back, 1) == ERR_CORRUPT);
    EXPECT(storage_read_at(r, LARGE - 1, back, 2) == ERR_CORRUPT);
    EXPECT(strstr(err_text(), "pieces/large") != NULL);
    EXPECT(storage_read_at(r, (uint64_t)1 << 40, back, 2) == ERR_CORRUPT);
    mem_free(back);
    storage_close(r);
}

struct reading {
    struct storage_reader *r;
    uint64_t seed;
    bool good;
};

static void *read_some(void *context)
{
    struct reading *x = context;
    uint8_t *back = must_alloc(400000);
    x->good = true;
    for (uint64_t i = 0; i < 12 && x->good; i++) {
        uint64_t offset = rng_below(rng_at(x->seed, i), LARGE - 400000);
        size_t size = (size_t)rng_below(rng_at(x->seed, 100 + i), 400000);
        x->good =
            storage_read_at(x->r, offset, back, size) == ERR_NONE && are_bytes(back, offset, size);
    }
    mem_free(back);
    return NULL;
}

static void one_reader_many_threads(void)
{
    pthread_t threads[READERS];
    struct reading readings[READERS];
    struct storage_reader *r;
    EXPECT(storage_open(under("pieces/large"), &r) == ERR_NONE);
    for (uint64_t i = 0; i < READERS; i++) {
        readings[i] = (struct reading){.r = r, .seed = 50 + i};
        EXPECT(pthread_create(&threads[i], NULL, read_some, &readings[i]) == 0);
    }
    for (size_t i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    storage_close(r);
    for (size_t i = 0; i < READERS; i++)
        EXPECT(readings[i].good);
}

static void nothing_there(void)
{
    struct storage_info info;
    struct storage_list list = {0};
    struct storage_reader *r;
    EXPECT(put(under("some/file"), "1") == ERR_NONE);
    EXPECT(storage_stat(under("nowhere"), &info) == ERR_NOT_FOUND);
    EXPECT(strstr(err_text(), "nowhere") != NULL);
    EXPECT(storage_stat(under("nowhere/at/all"), &info) == ERR_NOT_FOUND);
    EXPECT(storage_open(under("nowhere"), &r) == ERR_NOT_FOUND);
    EXPECT(storage_list(under("nowhere"), &list) == ERR_NOT_FOUND);
    EXPECT(storage_list(under("some/file"), &list) == ERR_NOT_FOUND);
    EXPECT(storage_remove(under("nowhere")) == ERR_NONE);
    EXPECT(storage_remove_tree(under("nowhere")) == ERR_NONE);
}

/* ---- whole or not at all ---- */

static bool is_there(const char *name)
{
    struct storage_info info;
    return storage_stat(under(name), &info) == ERR_NONE;
}

static size_t count_in(const char *name)
{
    struct storage_list list = {0};
    if (storage_list(under(name), &list) != ERR_NONE)
        return 0;
    size_t count = list.count;
    storage_list_deinit(&list);
    return count;
}

static void whole_or_not_at_all(void)
{
    struct storage_writer *w;
    uint8_t *bytes = make_bytes(LARGE);
    EXPECT(put(under("whole/other"), "1") == ERR_NONE);
    for (int i = 0; i < 4; i++) {
        size_t size = i % 2 == 0 ? 1000 : LARGE;
        EXPECT(storage_write_open(under("whole/file"), false, &w) == ERR_NONE);
        EXPECT(storage_write(w, bytes, size) == ERR_NONE);
        EXPECT(!is_there("whole/file"));
        EXPECT(count_in("whole") == 1);
        if (i < 2) {
            storage_write_abort(w);
            EXPECT(!is_there("whole/file"));
        } else {
            EXPECT(storage_write_close(w) == ERR_NONE);
            EXPECT(is_there("whole/file"));
            EXPECT(storage_remove(under("whole/file")) == ERR_NONE);
        }
        EXPECT(count_in("whole") == 1);
    }
    mem_free(bytes);
}

static void overwriting(void)
{
    struct storage_info first, second;
    uint8_t *bytes = make_bytes(LARGE);
    EXPECT(put(under("over/file"), "old") == ERR_NONE);
    EXPECT(storage_stat(under("over/file"), &first) == ERR_NONE);
    EXPECT(storage_write_all(under("over/file"), false, "new", 3) == ERR_EXISTS);
    EXPECT(strstr(err_text(), "over/file") != NULL);
    EXPECT(storage_write_all(under("over/file"), false, bytes, LARGE) == ERR_EXISTS);
    EXPECT(holds(under("over/file"), "old"));
    clock_sleep_ms(20); /* marks may go by time */
    EXPECT(put(under("over/file"), "newer") == ERR_NONE);
    EXPECT(holds(under("over/file"), "newer"));
    EXPECT(storage_stat(under("over/file"), &second) == ERR_NONE);
    EXPECT(strcmp(first.mark, second.mark) != 0);
    EXPECT(count_in("over") == 1);
    mem_free(bytes);
}

struct racer {
    char text[32];
    const char *uri;
    enum err result;
};

static void *race(void *context)
{
    struct racer *x = context;
    x->result = storage_create_exclusive(x->uri, x->text, strlen(x->text));
    return NULL;
}

static void one_winner(void)
{
    for (int round = 0; round < 5; round++) {
        pthread_t threads[RACERS];
        struct racer racers[RACERS];
        char name[40];
        snprintf(name, sizeof name, "race/%d/MANIFEST.json", round);
        for (size_t i = 0; i < RACERS; i++) {
            racers[i] = (struct racer){.uri = under(name)};
            snprintf(racers[i].text, sizeof racers[i].text, "{\"racer\": %zu}", i);
            EXPECT(pthread_create(&threads[i], NULL, race, &racers[i]) == 0);
        }
        for (size_t i = 0; i < RACERS; i++)
            pthread_join(threads[i], NULL);
        size_t winners = 0, holders = 0;
        for (size_t i = 0; i < RACERS; i++) {
            EXPECT(racers[i].result == ERR_NONE || racers[i].result == ERR_EXISTS);
            winners += racers[i].result == ERR_NONE;
            holders += racers[i].result == ERR_NONE && holds(racers[i].uri, racers[i].text);
        }
        EXPECT(holders == 1);
        EXPECT(winners == 1 || is_weak);
    }
}

/* ---- names and listings ---- */

static const char *const names[] = {
    "%41",
    "%2F",
    "+",
    "A",
    "a",
    "a b",
    "a%b",
    "a&b=c",
    "a+b",
    "a,b",
    "a;b",
    "a=b",
    "a@b",
    "a#b",
    "a'b\"c",
    "key=v%2Fw",
    "part-00",
    "~",
    "\xc3\xa9",
    "\xe6\x97\xa5\xe6\x9c\xac",
    "\xf0\x9f\x8c\x8d",
};
#define NAME_COUNT (sizeof names / sizeof *names)

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void odd_names(void)
{
    const char *sorted[NAME_COUNT];
    struct storage_list list = {0};
    for (size_t i = 0; i < NAME_COUNT; i++) {
        char *directory = under("odd names+%41 \xc3\xbc"), *uri = storage_join(directory, names[i]);
        sorted[i] = names[i];
        EXPECT(put(uri, names[i]) == ERR_NONE);
        EXPECT(holds(uri, names[i]));
    }
    qsort(sorted, NAME_COUNT, sizeof *sorted, compare_names);
    EXPECT(storage_list(under("odd names+%41 \xc3\xbc"), &list) == ERR_NONE);
    EXPECT(list.count == NAME_COUNT);
    for (size_t i = 0; i < NAME_COUNT; i++) {
        EXPECT(strcmp(list.entries[i].name, sorted[i]) == 0);
        EXPECT(list.entries[i].info.size == strlen(sorted[i]));
    }
    storage_list_deinit(&list);
    EXPECT(storage_remove(storage_join(under("odd names+%41 \xc3\xbc"), "a+b")) == ERR_NONE);
    EXPECT(holds(storage_join(under("odd names+%41 \xc3\xbc"), "a b"), "a b"));
    EXPECT(count_in("odd names+%41 \xc3\xbc") == NAME_COUNT - 1);
}

static void listing(void)
{
    struct storage_list list = {0};
    struct storage_info info;
    EXPECT(put(under("list/b"), "22") == ERR_NONE);
    EXPECT(put(under("list/a/x"), "1") == ERR_NONE);
    EXPECT(put(under("list/a.b"), "333") == ERR_NONE);
    EXPECT(put(under("list/c/d/e"), "1") == ERR_NONE);
    EXPECT(storage_list(under("list"), &list) == ERR_NONE);
    EXPECT(list.count == 4);
    static const char *const expected[] = {"a", "a.b", "b", "c"};
    for (size_t i = 0; i < 4; i++) {
        EXPECT(strcmp(list.entries[i].name, expected[i]) == 0);
        EXPECT(list.entries[i].info.is_directory == (i == 0 || i == 3));
    }
    EXPECT(list.entries[1].info.size == 3);
    storage_list_deinit(&list);
    EXPECT(storage_list(under("list/"), &list) == ERR_NONE);
    EXPECT(list.count == 4);
    storage_list_deinit(&list);
    EXPECT(storage_stat(under("list/c"), &info) == ERR_NONE && info.is_directory);
    struct storage_reader *r;
    EXPECT(storage_open(under("list/c"), &r) != ERR_NONE);
}

static void removing(void)
{
    EXPECT(put(under("trees/one/MANIFEST.json"), "1") == ERR_NONE);
    EXPECT(put(under("trees/one/deep/er/x"), "1") == ERR_NONE);
    EXPECT(put(under("trees/one.more/x"), "1") == ERR_NONE);
    EXPECT(put(under("trees/one2"), "1") == ERR_NONE);
    EXPECT(storage_remove_tree(under("trees/one")) == ERR_NONE);
    EXPECT(!is_there("trees/one") && !is_there("trees/one/deep/er/x"));
    EXPECT(is_there("trees/one.more/x") && is_there("trees/one2"));
    EXPECT(count_in("trees") == 2);
    EXPECT(storage_remove(under("trees/one2")) == ERR_NONE);
    EXPECT(count_in("trees") == 1);
}

static void patterns(void)
{
    struct storage_files files = {0};
    const char *pattern;
    EXPECT(put(under("data/day=1/part-00000"), "1") == ERR_NONE);
    EXPECT(put(under("data/day=1/part-00001"), "22") == ERR_NONE);
    EXPECT(put(under("data/day=2/part-00000"), "333") == ERR_NONE);
    pattern = under("data");
    EXPECT(storage_expand(&pattern, 1, &files) == ERR_INPUT); /* no _SUCCESS */
    EXPECT(put(under("data/_SUCCESS"), "") == ERR_NONE);
    EXPECT(storage_expand(&pattern, 1, &files) == ERR_NONE);
    EXPECT(files.count == 3 && files.files[2].info.size == 3);
    EXPECT(files.files[2].column_count == 1 && strcmp(files.files[2].column_values[0], "2") == 0);
    storage_files_deinit(&files);
    pattern = under("data/day=*/part-*0");
    EXPECT(storage_expand(&pattern, 1, &files) == ERR_NONE);
    EXPECT(files.count == 2 && holds(files.files[1].uri, "333"));
    storage_files_deinit(&files);
    pattern = under("data/day=3*");
    EXPECT(storage_expand(&pattern, 1, &files) == ERR_NOT_FOUND);
}

/* ---- running them ---- */

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"objects of many sizes", sizes},
    {"written in pieces, read in order and here and there", pieces},
    {"one reader, many threads", one_reader_many_threads},
    {"what is not there", nothing_there},
    {"whole or not at all", whole_or_not_at_all},
    {"overwriting and not", overwriting},
    {"one of many writers wins", one_winner},
    {"names with any character", odd_names},
    {"listings", listing},
    {"removing", removing},
    {"patterns", patterns},
};

int main(int count, char **arguments)
{
    int passed = 0, failed = 0;
    is_weak = count > 1 && strcmp(arguments[1], "--weak") == 0;
    int first = is_weak ? 2 : 1;
    int code = storage_tool_begin(count, arguments, first,
                                  "storage_contract [--weak] URI [--set NAME=VALUE]...");
    if (code != 0)
        return code;
    char *name =
        must_format("contract-%ld-%llu", (long)getpid(), (unsigned long long)clock_wall_ms());
    base = storage_join(arguments[first], name);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t start = clock_ns();
        failure = NULL;
        cases[i].run();
        printf("%s %s%s%s  %.2f s\n", failure != NULL ? "FAILED " : "ok     ", cases[i].name,
               failure != NULL ? "  " : "", failure != NULL ? failure : "",
               clock_seconds_since(start));
        fflush(stdout);
        failed += failure != NULL;
        passed += failure == NULL;
    }
    if (storage_remove_tree(base) != ERR_NONE)
        fprintf(stderr, "cannot remove %s: %s\n", base, err_text());
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    storage_tool_end();
    return failed > 0;
}
