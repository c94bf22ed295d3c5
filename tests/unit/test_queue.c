/*
 * Goal: items pass once, in order, never more than the capacity at a time; full, empty and closed
 * say so; closing wakes everybody. Method: the single-threaded rules one by one; then several
 * producers and consumers through a small queue, counting each item. No test depends on how long
 * anything takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "common/queue.h"

#define PRODUCERS    3
#define CONSUMERS    3
#define PER_PRODUCER 20000

static void *number(uintptr_t n)
{
    return (void *)n;
}

static void test_rules(void **state)
{
    struct queue *q = queue_create(3);
    void *item = number(99);
    assert_int_equal(queue_pop(q, &item, 0), ERR_TIMEOUT);
    assert_int_equal(queue_pop(q, &item, 1), ERR_TIMEOUT);
    assert_ptr_equal(item, number(99));
    uintptr_t in = 0, out = 0;
    for (int round = 0; round < 10; round++) { /* the ring goes round */
        while (queue_length(q) < 3)
            assert_int_equal(queue_push(q, number(in++), 0), ERR_NONE);
        assert_int_equal(queue_push(q, number(77), 0), ERR_LIMIT);
        assert_int_equal(queue_push(q, number(77), 1), ERR_LIMIT);
        for (int i = 0; i < 1 + round % 3; i++) {
            assert_int_equal(queue_pop(q, &item, QUEUE_FOREVER), ERR_NONE);
            assert_ptr_equal(item, number(out++));
        }
    }
    size_t left = queue_length(q);
    queue_close(q);
    assert_int_equal(queue_push(q, number(77), 1000), ERR_CANCELLED);
    while (left-- > 0) {
        assert_int_equal(queue_pop(q, &item, QUEUE_FOREVER), ERR_NONE);
        assert_ptr_equal(item, number(out++));
    }
    assert_int_equal(queue_pop(q, &item, QUEUE_FOREVER), ERR_CANCELLED);
    queue_destroy(q);
    queue_destroy(NULL);
}

struct shared {
    struct queue *queue;
    _Atomic uint32_t next_producer;
    _Atomic uint32_t most;
    _Atomic uint8_t seen[PRODUCERS * PER_PRODUCER];
};

static void *produce(void *argument)
{
    struct shared *s = argument;
    uintptr_t base = (uintptr_t)atomic_fetch_add(&s->next_producer, 1) * PER_PRODUCER;
    for (uintptr_t i = 0; i < PER_PRODUCER; i++) {
        if (queue_push(s->queue, number(base + i), 60000) != ERR_NONE)
            return s;
    }
    return NULL;
}

/* Returns NULL when each producer's items came in their order and the end was the closing. */
static void *consume(void *argument)
{
    struct shared *s = argument;
    uintptr_t latest[PRODUCERS] = {0};
    void *item;
    enum err error;
    while ((error = queue_pop(s->queue, &item, 60000)) == ERR_NONE) {
        uintptr_t value = (uintptr_t)item;
        if (value + 1 <= latest[value / PER_PRODUCER])
            return s;
        latest[value / PER_PRODUCER] = value + 1;
        atomic_fetch_add(&s->seen[value], 1);
        uint32_t length = (uint32_t)queue_length(s->queue);
        uint32_t most = atomic_load(&s->most);
        while (length > most && !atomic_compare_exchange_weak(&s->most, &most, length))
            continue;
    }
    return error == ERR_CANCELLED ? NULL : s;
}

static void test_many_threads(void **state)
{
    static struct shared s;
    s.queue = queue_create(4);
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];
    void *failed;
    for (int i = 0; i < CONSUMERS; i++)
        assert_int_equal(pthread_create(&consumers[i], NULL, consume, &s), 0);
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, produce, &s), 0);
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_join(producers[i], &failed), 0);
        assert_null(failed);
    }
    queue_close(s.queue);
    for (int i = 0; i < CONSUMERS; i++) {
        assert_int_equal(pthread_join(consumers[i], &failed), 0);
        assert_null(failed);
    }
    for (size_t i = 0; i < PRODUCERS * PER_PRODUCER; i++)
        assert_int_equal(s.seen[i], 1);
    assert_true(s.most <= 4);
    queue_destroy(s.queue);
}

static void *push_until_closed(void *queue)
{
    return number((uintptr_t)queue_push(queue, NULL, QUEUE_FOREVER));
}

static void *pop_until_closed(void *queue)
{
    void *item;
    return number((uintptr_t)queue_pop(queue, &item, QUEUE_FOREVER));
}

static void test_closing_wakes(void **state)
{
    void *(*const functions[])(void *) = {push_until_closed, pop_until_closed};
    for (int kind = 0; kind < 2; kind++) {
        struct queue *q = queue_create(1);
        if (kind == 0)
            assert_int_equal(queue_push(q, NULL, 0), ERR_NONE);
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, functions[kind], q), 0);
        queue_close(q);
        for (int i = 0; i < 3; i++) {
            void *result;
            assert_int_equal(pthread_join(threads[i], &result), 0);
            assert_ptr_equal(result, number(ERR_CANCELLED));
        }
        queue_destroy(q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_closing_wakes),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
