/*
 * Goal: memory goes round: an area is used again only when its last reader has let go of it, on
 * whatever thread, and it may outlive the pool's owner. Method: take, share, let go, and look at
 * the addresses; then many threads that let go of areas which one thread keeps taking.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "common/mem.h"
#include "common/queue.h"
#include "worker/area.h"

static void test_go_round(void **state)
{
    struct area_pool *p = area_pool_create();
    struct buf *first = area_take(p, 1000), *second = area_take(p, 5000);
    void *first_data = buf_data(first), *second_data = buf_data(second);
    assert_true(first_data != second_data);
    assert_int_equal((uintptr_t)first_data % 64, 0);
    memset(first_data, 1, 1000);
    memset(second_data, 2, 5000);
    struct buf *shared = buf_ref(second);
    buf_unref(first);
    buf_unref(second);
    struct buf *third = area_take(p, 900);
    assert_ptr_equal(buf_data(third), first_data); /* the one that is back */
    assert_int_equal(((uint8_t *)second_data)[4999], 2);
    buf_unref(shared);
    struct buf *fourth = area_take(p, 4000);
    assert_ptr_equal(buf_data(fourth), second_data);
    buf_unref(third);
    area_pool_destroy(p);
    memset(buf_data(fourth), 3, 4000); /* outlives the pool's owner */
    buf_unref(fourth);
}

static void test_without_memory(void **state)
{
    struct area_pool *p = area_pool_create();
    for (uint64_t n = 1; n <= 3; n++) {
        mem_fail_nth(n);
        struct buf *b = area_take(p, 1000);
        mem_fail_nth(0);
        buf_unref(b);
    }
    area_pool_destroy(p);
}

/* Threads that check what the owner wrote, and let go of it. */
static void *read_and_let_go(void *context)
{
    void *item;
    uintptr_t wrong = 0;
    while (queue_pop(context, &item, QUEUE_FOREVER) == ERR_NONE) {
        struct buf *b = item;
        const uint8_t *bytes = buf_data(b);
        for (size_t i = 1; i < 100; i++)
            wrong += bytes[i] != bytes[0];
        buf_unref(b);
    }
    return (void *)wrong;
}

static void test_threads(void **state)
{
    struct area_pool *p = area_pool_create();
    struct queue *q = queue_create(8);
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_and_let_go, q), 0);
    for (int i = 0; i < 3000; i++) {
        struct buf *b = area_take(p, 100 + (size_t)(i % 7) * 50);
        assert_non_null(b);
        memset(buf_data(b), i, 100);
        assert_int_equal(queue_push(q, b, 10000), ERR_NONE);
    }
    area_pool_destroy(p);
    queue_close(q);
    for (size_t i = 0; i < 3; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    queue_destroy(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_go_round),
        cmocka_unit_test(test_without_memory),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
