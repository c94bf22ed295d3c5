/*
 * Goal: the block cache gives the same batches whatever happens to its files and whoever else uses
 * its directory; packed files are gone through once; what is not the indexed data is refused by
 * name; keys are sorted whatever they are.
 * Method: block files are damaged, four data sets share a directory from four threads, data files
 * are changed under an open data set, and each allocation fails in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/dataset_fixture.h"
#include "worker/blockcache_internal.h"
#include "worker/dataset_internal.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- sorting --------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Even keys, many equal ones, and all in one bucket. */
static void test_keysort(void **state)
{
    static uint64_t keys[20000], expected[20000];
    static uint32_t numbers[20000];
    struct keysort scratch = {0};
    uint64_t random = 5;
    for (uint32_t kind = 0; kind < 3; kind++) {
        for (size_t n = 0; n <= COUNT(keys); n = n * 3 + 1) {
            for (size_t i = 0; i < n; i++) {
                uint64_t r = data_random(&random);
                keys[i] = expected[i] = kind == 0 ? r : kind == 1 ? mix64(r % 50) : r & 0xffff;
                numbers[i] = (uint32_t)i;
            }
            qsort(expected, n, sizeof *expected, by_key);
            uint64_t *before = must_alloc((n + 1) * sizeof *before);
            memcpy(before, keys, n * sizeof *before);
            assert_int_equal(keysort_run(&scratch, keys, numbers, n), ERR_NONE);
            assert_memory_equal(keys, expected, n * sizeof *keys);
            for (size_t i = 0; i < n; i++) {
                assert_true(before[numbers[i]] == keys[i]);
                assert_true(i == 0 || keys[i - 1] != keys[i] || numbers[i - 1] < numbers[i]);
            }
            mem_free(before);
        }
    }
    keysort_deinit(&scratch);
}

/* ---- the cache ------------------------------------------------------------------------------- */

/* Does something to every block file; returns how many there are. */
static uint32_t for_blocks(const struct fixture *f, void (*act)(const char *path))
{
    uint32_t count = 0;
    DIR *top = opendir(f->cache);
    assert_non_null(top);
    for (struct dirent *set; (set = readdir(top)) != NULL;) {
        char *path = must_format("%s/%s", f->cache, set->d_name);
        DIR *blocks = set->d_name[0] == '.' ? NULL : opendir(path);
        for (struct dirent *x; blocks != NULL && (x = readdir(blocks)) != NULL;) {
            if (strstr(x->d_name, ".tmp") != NULL)
                fail_msg("%s was left", x->d_name);
            if (strstr(x->d_name, ".block") == NULL)
                continue;
            char *block = must_format("%s/%s", path, x->d_name);
            if (act != NULL)
                act(block);
            mem_free(block);
            count++;
        }
        if (blocks != NULL)
            closedir(blocks);
        mem_free(path);
    }
    closedir(top);
    return count;
}

static void flip_byte(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -5, SEEK_END);
    int c = fgetc(f);
    fseek(f, -5, SEEK_END);
    fputc(c ^ 4, f);
    fclose(f);
}

static void cut_short(const char *path)
{
    assert_int_equal(truncate(path, 100), 0);
}

static void empty(const char *path)
{
    assert_int_equal(truncate(path, 0), 0);
}

static void test_damaged_cache(void **state)
{
    static void (*const acts[])(const char *) = {flip_byte, cut_short, empty};
    struct fixture f;
    fixture_make(&f, JOB("", "batch_size: 300"), false);
    uint64_t last = fixture_epoch_steps(&f), expected = fixture_digest(&f, 0, 1, last, 0);
    for (size_t i = 0; i < COUNT(acts); i++) {
        assert_int_equal(for_blocks(&f, acts[i]), f.setup.index->block_count);
        dataset_close(f.d);
        fixture_open(&f, 1);
        assert_int_equal(fixture_digest(&f, 0, 1, last, 0), expected);
        assert_int_equal(blockcache_counters(f.d->cache).parsed_blocks, f.setup.index->block_count);
    }
    fixture_remove(&f);
}

struct sharer {
    struct fixture f;
    uint64_t digest;
    pthread_t thread;
};

static void *share(void *context)
{
    struct sharer *s = context;
    s->digest = fixture_digest(&s->f, 0, 1, fixture_epoch_steps(&s->f), 0);
    return NULL;
}

/* Several that use one cache at once: a packed file is gone through once, whoever is first. */
static void test_shared_cache(void **state)
{
    struct sharer sharers[4];
    struct fixture f;
    fixture_make(&f, JOB("", "batch_size: 300"), true);
    for (size_t i = 0; i < COUNT(sharers); i++) {
        sharers[i].f = f;
        fixture_open(&sharers[i].f, 2);
    }
    for (size_t i = 0; i < COUNT(sharers); i++)
        assert_int_equal(pthread_create(&sharers[i].thread, NULL, share, &sharers[i]), 0);
    uint64_t unpacked = 0, parsed = 0;
    for (size_t i = 0; i < COUNT(sharers); i++) {
        assert_int_equal(pthread_join(sharers[i].thread, NULL), 0);
        struct blockcache_counters c = blockcache_counters(sharers[i].f.d->cache);
        unpacked += c.unpacked_files;
        parsed += c.parsed_blocks;
        assert_int_equal(sharers[i].digest, sharers[0].digest);
        dataset_close(sharers[i].f.d);
    }
    assert_int_equal(unpacked, FILES);
    assert_int_equal(parsed, f.setup.index->block_count);
    assert_int_equal(for_blocks(&f, NULL), f.setup.index->block_count);
    fixture_remove(&f);
}

static uint64_t bytes_seen;

static void add_size(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    bytes_seen += (uint64_t)info.st_blocks * 512;
}

static uint64_t cache_bytes(const struct fixture *f)
{
    bytes_seen = 0;
    for_blocks(f, add_size);
    return bytes_seen;
}

static void remove_block(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

/* Less room than the data need: what was not used for longest goes and comes back, and the batches
 * are the same. What other data sets left goes first. */
static void test_bounded_cache(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct fixture f;
        fixture_make(&f, JOB(", shuffle: {window: 200}", "batch_size: 50"), packed);
        uint64_t last = fixture_epoch_steps(&f) * 3;
        uint64_t expected = fixture_digest(&f, 0, 1, last, 0), whole = cache_bytes(&f);
        struct blockcache_counters c = blockcache_counters(f.d->cache);
        assert_int_equal(c.parsed_blocks, f.setup.index->block_count);
        assert_int_equal(c.removed_blocks, 0);
        for_blocks(&f, remove_block);
        dataset_close(f.d);
        char *other = must_format("%s/0123456789abcdef", f.cache);
        assert_int_equal(mkdir(other, 0777), 0);
        char *stale = data_fixture_write(other, "00000000.block", span_of("of other data"));
        assert_int_equal(utimes(stale, (struct timeval[2]){{1, 0}, {1, 0}}), 0);

        f.cache_limit = whole / 2;
        fixture_open(&f, 2);
        assert_int_equal(fixture_digest(&f, 0, 1, last, 2), expected);
        c = blockcache_counters(f.d->cache);
        assert_true(c.parsed_blocks > f.setup.index->block_count);
        assert_true(c.removed_blocks > 0);
        assert_int_not_equal(access(stale, F_OK), 0);
        /* What is in use, and what was used within a tick of the clock, stays; then it goes. */
        clock_sleep_ms(20);
        clock_gettime(CLOCK_REALTIME_COARSE, &f.d->cache->fill_began);
        assert_true(blockcache_make_room(f.d->cache, whole / 2 / 10, false));
        assert_in_range(cache_bytes(&f), 1, whole / 2);
        mem_free(other);
        mem_free(stale);
        fixture_remove(&f);
    }
}

/* One packed file of several blocks. */
static void make_long(struct fixture *f)
{
    struct str text = {0};
    str_append(&text, "id,w,user,item,tags,price,ts\n");
    for (int id = 0; id < 40000; id++)
        str_append_format(&text, "%d,1,u%d,%d,,1.5,%d\n", id, id % 97, id % 31, id);
    *f = (struct fixture){.directory = data_fixture_make()};
    f->cache = must_format("%s/cache", f->directory);
    mem_free(data_fixture_gzip(f->directory, "d0.csv", span_make(text.data, text.size)));
    str_deinit(&text);
    data_setup_make(&f->setup, f->directory, JOB(", shuffle: {window: 1000}", "batch_size: 1000"));
    fixture_open(f, 2);
}

/* Blocks of a packed file that nobody waits for are left out when there is no room at all. */
static void test_no_room(void **state)
{
    struct fixture f;
    make_long(&f);
    assert_true(f.setup.index->block_count > 2);
    uint64_t last = fixture_epoch_steps(&f), expected = fixture_digest(&f, 0, 1, last, 0);
    for_blocks(&f, remove_block);
    dataset_close(f.d);
    f.cache_limit = 1;
    fixture_open(&f, 1);
    assert_int_equal(fixture_digest(&f, 0, 1, last, 0), expected);
    struct blockcache_counters c = blockcache_counters(f.d->cache);
    assert_true(c.skipped_blocks > 0);
    assert_true(c.unpacked_files > 1);
    /* A full disk: something goes, though the limit does not ask for it. */
    dataset_close(f.d);
    f.cache_limit = 0;
    fixture_open(&f, 1);
    assert_int_equal(fixture_digest(&f, 0, 1, last, 0), expected);
    clock_sleep_ms(20);
    clock_gettime(CLOCK_REALTIME_COARSE, &f.d->cache->fill_began);
    uint32_t before = for_blocks(&f, NULL);
    assert_true(blockcache_make_room(f.d->cache, 1, true));
    assert_in_range(for_blocks(&f, NULL), 1, before - 1);
    fixture_remove(&f);
}

/* What changed since it was indexed is refused by name, when opened or later. */
static void test_changed_files(void **state)
{
    struct fixture f;
    struct batch_stream *s;
    struct batch *b;
    fixture_make(&f, JOB("", "batch_size: 300"), false);
    struct dataset_options o = {.job = f.setup.job,
                                .features = f.setup.spec,
                                .index = f.setup.index,
                                .cache_directory = f.cache,
                                .threads = 1};
    struct dataset *other;
    mem_free(data_fixture_write(f.directory, "d1.csv", span_of("id,w,user,item,tags,price,ts\n")));
    assert_int_equal(dataset_open(&o, &other), ERR_REFUSED);
    assert_non_null(strstr(err_text(), "d1.csv: the file is not the one that was indexed"));
    for (uint32_t ahead = 0; ahead < 2; ahead++) {
        assert_int_equal(dataset_train_stream(f.d, 0, 1, 20, ahead, &s), ERR_NONE);
        enum err e = batch_stream_next(s, &b);
        if (e == ERR_NONE)
            fail_msg("a batch of a file that is gone");
        assert_non_null(strstr(err_text(), "d1.csv"));
        batch_stream_close(s);
    }
    assert_int_equal(unlink(f.setup.index->files[1].uri), 0);
    assert_int_equal(dataset_open(&o, &other), ERR_REFUSED);
    assert_non_null(strstr(err_text(), "it is gone"));
    fixture_remove(&f);
}

/* Each allocation in turn fails: an error, no crash, and afterwards all is as before. */
static void test_no_memory(void **state)
{
    struct fixture f;
    fixture_make(&f, JOB("", "batch_size: 300"), false);
    uint64_t expected = fixture_digest(&f, 0, 1, 10, 0);
    uint32_t failed = 0;
    for (uint64_t n = 1; n < 120; n++) {
        struct batch_stream *s = NULL;
        enum err e;
        mem_fail_nth(n);
        e = dataset_train_stream(f.d, 0, 1, 10, 0, &s);
        for (struct batch *b = NULL; e == ERR_NONE;) {
            e = batch_stream_next(s, &b);
            if (e == ERR_NONE && b == NULL)
                break;
            if (e == ERR_NONE)
                batch_release(b);
        }
        mem_fail_nth(0);
        assert_true(e == ERR_NONE || e == ERR_MEMORY);
        failed += e == ERR_MEMORY;
        batch_stream_close(s);
    }
    assert_in_range(failed, 10, 118);
    assert_int_equal(fixture_digest(&f, 0, 1, 10, 0), expected);
    fixture_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keysort),       cmocka_unit_test(test_damaged_cache),
        cmocka_unit_test(test_shared_cache),  cmocka_unit_test(test_changed_files),
        cmocka_unit_test(test_bounded_cache), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
