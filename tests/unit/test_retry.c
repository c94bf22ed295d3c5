/*
 * Goal: retries are spread, bounded in number and time, and end while the shared budget is used up.
 * Method: the pure policy is walked with many random keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/retry.h"

static void test_waits_are_jittered_below_doubling_bounds(void **state)
{
    static const uint32_t bounds[] = {100, 200, 400, 800, 1600, 3200, 6400};
    uint64_t sums[7] = {0};
    for (uint64_t key = 0; key < 1000; key++) {
        struct retry r = retry_begin(&retry_default, UINT64_MAX, key);
        uint32_t wait = 0;
        for (int i = 0; i < 7; i++) {
            assert_true(retry_next(&r, NULL, 0, 0, &wait));
            assert_true(wait <= bounds[i]);
            sums[i] += wait;
        }
        assert_false(retry_next(&r, NULL, 0, 0, &wait)); /* that was the eighth try */
    }
    for (int i = 0; i < 7; i++) /* full jitter: half the bound in the mean */
        assert_in_range(sums[i] / 1000, bounds[i] * 45 / 100, bounds[i] * 55 / 100);
}

static void test_bound_stops_at_most(void **state)
{
    static const struct retry_policy policy = {.first_ms = 10, .most_ms = 50, .tries = 100};
    struct retry r = retry_begin(&policy, UINT64_MAX, 1);
    uint32_t wait = 0;
    for (int i = 0; i < 99; i++) {
        assert_true(retry_next(&r, NULL, 0, 0, &wait));
        assert_true(wait <= 50);
    }
}

static void test_deadline(void **state)
{
    struct retry r = retry_begin(&retry_default, 1000, 1);
    uint32_t wait = 0;
    assert_true(retry_next(&r, NULL, 0, 900, &wait));
    assert_int_equal(wait, 900); /* the peer asked for more than the jitter */
    assert_false(retry_next(&r, NULL, 900, 150, &wait));
    assert_false(retry_next(&r, NULL, 1000, 0, &wait));
    assert_int_equal(r.failed, 1);
}

static void test_budget(void **state)
{
    struct retry_budget budget = {0};
    uint32_t wait = 0, granted = 0;
    for (int i = 0; i < 1000; i++) {
        struct retry r = retry_begin(&retry_default, UINT64_MAX, (uint64_t)i);
        granted += retry_next(&r, &budget, 0, 0, &wait);
    }
    assert_int_equal(granted, 100);
    struct retry r = retry_begin(&retry_default, UINT64_MAX, 1);
    for (int i = 0; i < 4; i++)
        retry_succeeded(&budget);
    assert_false(retry_next(&r, &budget, 0, 0, &wait));
    retry_succeeded(&budget);
    assert_true(retry_next(&r, &budget, 0, 0, &wait));
    for (int i = 0; i < 1000; i++)
        retry_succeeded(&budget);
    assert_int_equal(budget.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waits_are_jittered_below_doubling_bounds),
        cmocka_unit_test(test_bound_stops_at_most),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_budget),
    };
    return cmocka_run_group_tests_name("retry", tests, NULL, NULL);
}
