/*
 * Goal: a version of dense values stays as it was as long as somebody holds it, versions are used
 * again when nobody does, and no failed allocation leaks or breaks. Method: versions held across
 * commits and across the end of their owner; memory counted; each allocation failed in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "server/dense.h"

static struct schema_dense shape;

static int setup(void **state)
{
    shape = (struct schema_dense){.name = "w",
                                  .shape = {40000},
                                  .shape_count = 1,
                                  .optimizer = {.type = "adagrad", .initial_accumulator = 0.25},
                                  .init = {INIT_NORMAL, 1.0}};
    struct schema s = {.dense = &shape, .dense_count = 1};
    return schema_finish(&s, 3) == ERR_NONE ? 0 : -1;
}

static void test_parts(void **state)
{
    struct dense *whole, *low, *high, *none;
    assert_int_equal(dense_create(&shape, 0, 4096, &whole), ERR_NONE);
    assert_int_equal(dense_create(&shape, 0, 1, &low), ERR_NONE);
    assert_int_equal(dense_create(&shape, 1, 4096, &high), ERR_NONE);
    assert_int_equal(dense_create(&shape, 4000, 4096, &none), ERR_NONE);
    assert_int_equal(dense_value_count(whole), 40000);
    assert_int_equal(dense_value_count(low), 16384);
    assert_int_equal(dense_first_block(high), 1);
    assert_int_equal(dense_end_block(high), 3);
    assert_int_equal(dense_value_count(none), 0);
    const float *values = buf_data(dense_values(whole));
    assert_memory_equal(buf_data(dense_values(low)), values, 16384 * 4);
    assert_memory_equal(buf_data(dense_values(high)), values + 16384, (40000 - 16384) * 4);
    assert_true(dense_slots(high)[0] == 0.25f && dense_slots(whole)[39999] == 0.25f);
    assert_int_equal(dense_load(none, NULL, NULL), ERR_NONE);
    dense_destroy(whole);
    dense_destroy(low);
    dense_destroy(high);
    dense_destroy(none);
    dense_destroy(NULL);
}

static void next_version(struct dense *d, float value)
{
    float *next = NULL;
    assert_int_equal(dense_next(d, &next), ERR_NONE);
    for (uint64_t i = 0; i < dense_value_count(d); i++)
        next[i] = value;
    dense_commit(d);
}

static void test_versions(void **state)
{
    struct dense *d;
    assert_int_equal(dense_create(&shape, 0, 4096, &d), ERR_NONE);
    next_version(d, 1.0f);
    struct buf *held = buf_ref(dense_values(d));
    uint64_t memory = 0;
    for (int i = 2; i < 20; i++) {
        next_version(d, (float)i);
        assert_true(((float *)buf_data(held))[39999] == 1.0f);
        assert_true(((float *)buf_data(dense_values(d)))[0] == (float)i);
        if (i == 4)
            memory = dense_memory(d);
    }
    /* Three versions go round: the held one, the current one, the next. */
    assert_int_equal(dense_memory(d), memory);
    assert_int_equal(memory, 4 * 40000 * sizeof(float));
    struct buf *slots;
    assert_int_equal(dense_freeze_slots(d, &slots), ERR_NONE);
    dense_slots(d)[7] = 9.0f;
    assert_true(((float *)buf_data(slots))[7] == 0.25f);
    dense_destroy(d);
    assert_true(((float *)buf_data(held))[5] == 1.0f);
    buf_unref(held);
    buf_unref(slots);
}

static void test_load(void **state)
{
    struct dense *d;
    static float values[40000], slots[40000];
    for (int i = 0; i < 40000; i++) {
        values[i] = (float)i;
        slots[i] = (float)-i;
    }
    assert_int_equal(dense_create(&shape, 0, 4096, &d), ERR_NONE);
    assert_int_equal(dense_load(d, values, slots), ERR_NONE);
    assert_memory_equal(buf_data(dense_values(d)), values, sizeof values);
    assert_memory_equal(dense_slots(d), slots, sizeof slots);
    dense_destroy(d);
}

static void test_no_memory(void **state)
{
    uint64_t n = 1;
    for (;; n++) {
        struct dense *d = NULL;
        mem_fail_nth(n);
        enum err e = dense_create(&shape, 0, 4096, &d);
        mem_fail_nth(0);
        if (e == ERR_NONE) {
            dense_destroy(d);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
        assert_null(d);
    }
    assert_in_range(n, 5, 10);
    struct dense *d;
    assert_int_equal(dense_create(&shape, 0, 4096, &d), ERR_NONE);
    float before = ((float *)buf_data(dense_values(d)))[9], *next = NULL;
    for (n = 1; n < 4; n++) {
        mem_fail_nth(n);
        enum err e = dense_next(d, &next);
        mem_fail_nth(0);
        assert_true(((float *)buf_data(dense_values(d)))[9] == before);
        if (e == ERR_NONE)
            break;
    }
    next_version(d, 3.0f);
    dense_destroy(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
