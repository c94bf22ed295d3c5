/*
 * Goal: every piece runs exactly once and pool_run() returns after the last, for any number of
 * threads and pieces, run after run, with and without pauses that let the threads fall asleep.
 * Method: each piece counts itself without atomics in its own place, so that a piece that ran
 * twice, late or in the next run shows (and is a race to the thread sanitizer).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/clock.h"
#include "common/pool.h"

#define PIECES 100

struct work {
    uint32_t thread_count;
    uint32_t runs[PIECES];
    uint32_t bad_threads[PIECES];
};

static void piece(void *context, uint32_t piece_index, uint32_t thread_index)
{
    struct work *w = context;
    w->runs[piece_index]++;
    w->bad_threads[piece_index] += thread_index >= w->thread_count;
}

static void check_run(struct pool *p, uint32_t count)
{
    struct work w = {.thread_count = pool_thread_count(p)};
    pool_run(p, count, piece, &w);
    for (uint32_t i = 0; i < PIECES; i++) {
        assert_int_equal(w.runs[i], i < count);
        assert_int_equal(w.bad_threads[i], 0);
    }
}

static void test_all_counts(void **state)
{
    static const uint32_t thread_counts[] = {1, 2, 3, 8};
    for (size_t t = 0; t < sizeof thread_counts / sizeof thread_counts[0]; t++) {
        struct pool *p = pool_create(thread_counts[t]);
        assert_non_null(p);
        assert_int_equal(pool_thread_count(p), thread_counts[t]);
        for (int round = 0; round < 20; round++) {
            for (uint32_t count = 0; count <= PIECES; count += count < 10 ? 1 : 30)
                check_run(p, count);
        }
        pool_destroy(p);
    }
}

/* One of the small runs of a step after the other: late threads of one run meet the next. */
static void test_many_short_runs(void **state)
{
    struct pool *p = pool_create(3);
    struct work w = {.thread_count = 3};
    for (uint32_t run = 0; run < 30000; run++)
        pool_run(p, 2 + run % 4, piece, &w);
    assert_int_equal(w.runs[0], 30000);
    assert_int_equal(w.runs[1], 30000);
    assert_int_equal(w.runs[2], 22500);
    assert_int_equal(w.runs[4], 7500);
    pool_destroy(p);
}

static void test_sleeping_threads_wake(void **state)
{
    struct pool *p = pool_create(2);
    for (int i = 0; i < 10; i++) {
        clock_sleep_ms(2);
        check_run(p, PIECES);
    }
    pool_destroy(p);
    for (int i = 0; i < 50; i++) { /* destroyed at once, while starting, after one run */
        p = pool_create(4);
        if (i % 2)
            check_run(p, 7);
        pool_destroy(p);
    }
}

static void test_no_pool(void **state)
{
    assert_int_equal(pool_thread_count(NULL), 1);
    check_run(NULL, 5);
    pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_counts),
        cmocka_unit_test(test_many_short_runs),
        cmocka_unit_test(test_sleeping_threads_wake),
        cmocka_unit_test(test_no_pool),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
