/*
 * Goal: read-ahead gives the store's bytes whatever the order, the sizes and the number of threads;
 * reads in order become few large requests, others stay what they are; a failure is told to whom it
 * concerns, and passes.
 * Method: a backend in memory that counts its reads and fails on request.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/storage_ahead.h"
#include "common/storage_internal.h"

#define SIZE    (9 * AHEAD_PIECE_BYTES + 12345)
#define THREADS 6

static atomic_uint read_count;
static atomic_ullong read_bytes;
static atomic_bool is_broken;

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(mix64(offset / 8) >> (8 * (offset % 8)));
}

static enum err fake_read_at(struct storage_reader *r, uint64_t offset, void *out, size_t size)
{
    atomic_fetch_add(&read_count, 1);
    atomic_fetch_add(&read_bytes, size);
    if (atomic_load(&is_broken))
        return err_set(ERR_UNAVAILABLE, "the store is away");
    if (offset > r->size || size > r->size - offset)
        return err_set(ERR_CORRUPT, "past the end");
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = byte_at(offset + i);
    return ERR_NONE;
}

static const struct storage_backend fake = {.read_at = fake_read_at};

static struct storage_reader reader = {.backend = &fake, .size = SIZE};

static void begin(void)
{
    atomic_store(&read_count, 0);
    atomic_store(&read_bytes, 0);
    atomic_store(&is_broken, false);
}

/* Returns false, so that threads other than cmocka's may call it. */
static bool holds(const uint8_t *data, uint64_t offset, size_t size)
{
    for (size_t i = 0; i < size; i += 61) {
        if (data[i] != byte_at(offset + i))
            return false;
    }
    return size == 0 || data[size - 1] == byte_at(offset + size - 1);
}

static void test_in_order(void **state)
{
    static const size_t steps[] = {70000, 4096, 1 << 20, AHEAD_PIECE_BYTES, 5000000};
    uint8_t *data = must_alloc(5000000);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct storage_ahead *a = storage_ahead_create(&reader);
        begin();
        for (uint64_t at = 0; at < SIZE; at += steps[i]) {
            size_t size = SIZE - at < steps[i] ? (size_t)(SIZE - at) : steps[i];
            assert_int_equal(storage_ahead_read(a, at, data, size), ERR_NONE);
            assert_true(holds(data, at, size));
        }
        storage_ahead_destroy(a);
        assert_in_range(atomic_load(&read_count), 9, 10 + 3 * 2);
        assert_true(atomic_load(&read_bytes) <= SIZE + 3 * steps[i]);
    }
    mem_free(data);
}

static void test_here_and_there(void **state)
{
    uint8_t data[100];
    struct storage_ahead *a = storage_ahead_create(&reader);
    begin();
    for (uint64_t i = 0; i < 50; i++) { /* far from each other: none is fetched ahead */
        uint64_t at = (i * 17 % 9) * AHEAD_PIECE_BYTES + i;
        assert_int_equal(storage_ahead_read(a, at, data, sizeof data), ERR_NONE);
        assert_true(holds(data, at, sizeof data));
    }
    assert_int_equal(atomic_load(&read_count), 50);
    assert_int_equal(atomic_load(&read_bytes), 50 * sizeof data);
    assert_int_equal(storage_ahead_read(a, SIZE, data, 0), ERR_NONE);
    assert_int_equal(storage_ahead_read(a, SIZE - 50, data, 100), ERR_CORRUPT);
    storage_ahead_destroy(a);
}

static void test_large_read(void **state)
{
    uint8_t *data = must_alloc(SIZE);
    struct storage_ahead *a = storage_ahead_create(&reader);
    begin();
    assert_int_equal(storage_ahead_read(a, 3, data, SIZE - 3), ERR_NONE);
    assert_true(holds(data, 3, SIZE - 3));
    assert_int_equal(atomic_load(&read_count), 10); /* side by side */
    atomic_store(&is_broken, true);
    assert_int_equal(storage_ahead_read(a, 3, data, SIZE - 3), ERR_UNAVAILABLE);
    assert_string_equal(err_text(), "the store is away");
    storage_ahead_destroy(a);
    mem_free(data);
}

static void test_failures_pass(void **state)
{
    static uint8_t data[1 << 20];
    struct storage_ahead *a = storage_ahead_create(&reader);
    uint64_t at = 0;
    begin();
    for (; at < 4 << 20; at += sizeof data)
        assert_int_equal(storage_ahead_read(a, at, data, sizeof data), ERR_NONE);
    atomic_store(&is_broken, true);
    while (at + sizeof data <= SIZE && storage_ahead_read(a, at, data, sizeof data) == ERR_NONE)
        at += sizeof data; /* what was fetched before is still good */
    assert_true(at + sizeof data <= SIZE);
    assert_string_equal(err_text(), "the store is away");
    atomic_store(&is_broken, false);
    for (; at + sizeof data <= SIZE; at += sizeof data) {
        assert_int_equal(storage_ahead_read(a, at, data, sizeof data), ERR_NONE);
        assert_true(holds(data, at, sizeof data));
    }
    storage_ahead_destroy(a);
}

struct racer {
    struct storage_ahead *ahead;
    uint64_t first;
    bool is_good;
};

static void *race(void *context)
{
    struct racer *x = context;
    uint8_t *data = must_alloc(300000);
    x->is_good = true;
    for (uint64_t at = x->first; at < SIZE; at += THREADS * 300000u) {
        size_t size = SIZE - at < 300000 ? (size_t)(SIZE - at) : 300000;
        x->is_good &= storage_ahead_read(x->ahead, at, data, size) == ERR_NONE;
        x->is_good &= holds(data, at, size);
    }
    mem_free(data);
    return NULL;
}

static void test_threads_on_one_handle(void **state)
{
    struct storage_ahead *a = storage_ahead_create(&reader);
    struct racer racers[THREADS];
    pthread_t threads[THREADS];
    begin();
    for (uint64_t i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){.ahead = a, .first = i * 300000};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(racers[i].is_good);
    }
    storage_ahead_destroy(a);
}

/* More readers than there is memory for all: all are served. */
static void test_memory_is_bounded(void **state)
{
    enum { READERS = 2 * AHEAD_TOTAL_BYTES / (AHEAD_PIECES * AHEAD_PIECE_BYTES) };
    static uint8_t data[100000];
    struct storage_ahead *readers[READERS];
    begin();
    for (size_t i = 0; i < READERS; i++)
        readers[i] = storage_ahead_create(&reader);
    for (uint64_t at = 0; at < 5 * sizeof data; at += sizeof data) {
        for (size_t i = 0; i < READERS; i++) {
            assert_int_equal(storage_ahead_read(readers[i], at, data, sizeof data), ERR_NONE);
            assert_true(holds(data, at, sizeof data));
        }
    }
    for (size_t i = 0; i < READERS; i++)
        storage_ahead_destroy(readers[i]);
    /* What was asked for, and no more than the shared memory besides. */
    assert_true(atomic_load(&read_bytes) <= AHEAD_TOTAL_BYTES + READERS * 5 * sizeof data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_here_and_there),
        cmocka_unit_test(test_large_read),
        cmocka_unit_test(test_failures_pass),
        cmocka_unit_test(test_threads_on_one_handle),
        cmocka_unit_test(test_memory_is_bounded),
    };
    return cmocka_run_group_tests_name("storage_ahead", tests, NULL, NULL);
}
