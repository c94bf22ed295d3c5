/*
 * Goal: random numbers are the same for ever and everywhere, however they are asked for, and have
 * the distribution that they claim. Method: values known from SplitMix64's publication and from an
 * independent program; bitwise comparison of one call with many; moments against their standard
 * errors (the numbers are fixed, so no test is flaky).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"

static void test_mix64(void **state)
{
    assert_true(mix64(0) == 0);
    /* SplitMix64 from seed 0: its first three outputs. */
    assert_true(mix64(0x9e3779b97f4a7c15ull) == 0xe220a8397b1dcdafull);
    assert_true(mix64(0x9e3779b97f4a7c15ull * 2) == 0x6e789e6aa1b965f4ull);
    assert_true(mix64(0x9e3779b97f4a7c15ull * 3) == 0x06c45d188009454full);
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t x = i < 64 ? 1ull << i : i * 0x9e3779b97f4a7c15ull;
        assert_true(mix64_inverse(mix64(x)) == x);
        assert_true(mix64(mix64_inverse(x)) == x);
    }
    assert_true(mix64_inverse(mix64(UINT64_MAX)) == UINT64_MAX);
}

static void test_known_values(void **state)
{
    assert_true(rng_at(0, 0) == 0x07fdd88ab03a824dull);
    assert_true(rng_at(1, 2) == 0x22db1aa9338950aaull);
    assert_true(rng_at(UINT64_MAX, UINT64_MAX) == 0x7765df3e9fe83824ull);
    assert_true(rng_key(42, "dropout", 3) == 0xc54118ab942f8093ull);
    assert_true(rng_key(0, "", 0) == 0xd45610e22cc63692ull);
    assert_true(rng_below(UINT64_MAX, 10) == 9);
    assert_true(rng_below(0, 10) == 0);
    assert_true(rng_below(UINT64_MAX, 1) == 0);
    assert_true(rng_uniform(UINT64_MAX) == 0x1.fffffep-1f);
    assert_true(rng_uniform(0) == 0);

    static const struct {
        uint64_t key, counter;
        uint32_t bits;
    } normals[] = {
        {0, 0, 0xbf7e774c},
        {1, 0, 0x3ea21553},
        {42, 7, 0xbf034eea},
        {UINT64_MAX, UINT64_MAX, 0xbf601548},
        {12345, 1ull << 40, 0x3f91d243},
    };
    for (size_t i = 0; i < sizeof normals / sizeof normals[0]; i++) {
        float value;
        uint32_t bits;
        rng_normal_fill(normals[i].key, normals[i].counter, &value, 1);
        memcpy(&bits, &value, sizeof bits);
        assert_int_equal(bits, normals[i].bits);
    }
}

/*
 * Vector code runs in long calls only: every length and start must give the same bits as single
 * ones.
 */
static void test_normal_fill_is_a_pure_function(void **state)
{
    float single[300], block[301];
    for (uint32_t i = 0; i < 300; i++)
        rng_normal_fill(99, UINT64_MAX - 100 + i, &single[i], 1);
    for (uint32_t start = 0; start < 20; start++) {
        for (uint32_t count = 0; count <= 300 - start; count += count < 40 ? 1 : 37) {
            block[count] = 77;
            rng_normal_fill(99, UINT64_MAX - 100 + start, block, count);
            assert_memory_equal(block, single + start, count * sizeof(float));
            assert_true(block[count] == 77);
        }
    }
}

static void test_normal_moments(void **state)
{
    enum { COUNT = 1 << 20 };
    float *values = mem_alloc_array(COUNT, sizeof *values);
    assert_non_null(values);
    rng_normal_fill(rng_key(7, "moments", 0), 0, values, COUNT);
    double sums[5] = {0}, largest = 0, neighbours = 0;
    uint32_t beyond_two = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        double x = values[i], power = 1;
        for (int k = 1; k <= 4; k++)
            sums[k] += power *= x;
        beyond_two += fabs(x) > 2;
        largest = fmax(largest, fabs(x));
        if (i > 0)
            neighbours += x * values[i - 1];
    }
    mem_free(values);
    double error = 4 / sqrt(COUNT); /* four standard errors of a variable of variance 1 */
    assert_true(fabs(sums[1] / COUNT) < error);
    assert_true(fabs(sums[2] / COUNT - 1) < error * sqrt(2));
    assert_true(fabs(sums[3] / COUNT) < error * sqrt(15));
    assert_true(fabs(sums[4] / COUNT - 3) < error * sqrt(96));
    assert_true(fabs(neighbours / COUNT) < error);
    assert_true(fabs((double)beyond_two / COUNT - 0.0455003) < error * 0.2084);
    assert_true(largest > 4.5 && largest < 6.7);
}

static void test_uniforms(void **state)
{
    enum { COUNT = 1 << 18, BOUND = 10 };
    double sum = 0, square = 0;
    uint32_t hits[BOUND] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        float u = rng_uniform(rng_at(5, i));
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += (double)u * u;
        hits[rng_below(rng_at(6, i), BOUND)]++;
    }
    assert_true(fabs(sum / COUNT - 0.5) < 4 * sqrt(1.0 / 12 / COUNT));
    assert_true(fabs(square / COUNT - 1.0 / 3) < 4 * sqrt(4.0 / 45 / COUNT));
    for (int k = 0; k < BOUND; k++)
        assert_true(fabs((double)hits[k] - COUNT / 10.0) < 4 * sqrt(COUNT * 0.09));
}

static void test_keys_differ(void **state)
{
    const uint64_t base = rng_key(1, "dropout", 0);
    assert_true(base != rng_key(2, "dropout", 0));
    assert_true(base != rng_key(1, "dropouu", 0));
    assert_true(base != rng_key(1, "dropout", 1));
    assert_true(rng_key(1, "a", 0) != rng_key(1, "", 0));
    assert_true(rng_at(1, 2) != rng_at(2, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mix64),
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_normal_fill_is_a_pure_function),
        cmocka_unit_test(test_normal_moments),
        cmocka_unit_test(test_uniforms),
        cmocka_unit_test(test_keys_differ),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
