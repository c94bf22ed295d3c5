/*
 * Goal: operands of matrix products are rounded to 16 bits as IEEE 754 and bfloat16 say: to
 * nearest, ties to even, with subnormal numbers, infinities and NaN.
 *
 * Method: products of one number with 1, in bf16 and fp16, on the GPU that
 * tests/support/test_device.h names: of numbers around every edge, and of random bits. The
 * reference for fp16 is the compiler's _Float16; for bf16 it is the nearer of the two neighbours.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "common/fmath.h"
#include "common/rng.h"
#include "tests/support/test_device.h"

#define COUNT 4096u

static uint64_t seed;

static const float edges[] = {
    0.0f,           -0.0f,       1.0f,        0x1.002p0f,     0x1.006p0f,
    0x1.0020002p0f, 0x1.01p0f,   0x1.03p0f,   0x1.0100002p0f, 65504.0f,
    65519.0f,       65520.0f,    -65520.0f,   1e9f,           3.4e38f,
    -3.4e38f,       0x1.fep127f, 0x1.ffp127f, 0x1p-14f,       0x1.ffcp-15f,
    0x1.ffep-15f,   0x1p-24f,    0x1p-25f,    0x1.8p-24f,     0x1.000002p-25f,
    0x1p-26f,       1e-30f,      0x1p-126f,   0x1p-133f,      INFINITY,
    -INFINITY,
};
#define EDGES (sizeof edges / sizeof edges[0])

static float bf16_of(float x)
{
    if (isinf(x))
        return x;
    uint32_t low = fmath_bits(x) & 0xffff0000u;
    float down = fmath_from_bits(low), up = fmath_from_bits(low + 0x10000u);
    /* Beyond the largest there is infinity, which is as far away as the next number would be. */
    double above = isinf(up) ? copysign(0x1p128, (double)x) : (double)up;
    double to_down = fabs((double)x - (double)down), to_up = fabs(above - (double)x);
    return to_down < to_up || (to_down == to_up && (low >> 16 & 1) == 0) ? down : up;
}

static float fp16_of(float x)
{
    return (float)(_Float16)x;
}

static void multiply_by_one(struct device *d, const float *x, float *y)
{
    const struct compute *c = d->compute;
    float one = 1;
    float *there = c->alloc(d, COUNT * sizeof *x), *out = c->alloc(d, COUNT * sizeof *y);
    float *weight = c->alloc(d, sizeof one);
    assert_true(there != NULL && out != NULL && weight != NULL);
    c->upload(d, there, x, COUNT * sizeof *x);
    c->upload(d, weight, &one, sizeof one);
    c->join(d);
    struct compute_gemm g = {.n = COUNT, .in = 1, .out = 1, .x = there, .weight = weight, .y = out};
    c->gemm_forward(d, &g);
    c->download(d, y, out, COUNT * sizeof *y);
    assert_int_equal(c->fence(d), ERR_NONE);
    c->free(d, there);
    c->free(d, out);
    c->free(d, weight);
}

static void compare(enum precision precision, float (*rounded)(float))
{
    static float x[COUNT], y[COUNT];
    struct device *d = test_device_open(precision);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t bits = (uint32_t)rng_at(seed, i);
        /* Half of them of the size that halves have. */
        x[i] = i < EDGES ? edges[i]
               : i % 2   ? ldexpf(2 * rng_uniform(bits) - 1, (int)(bits % 44) - 26)
                         : fmath_from_bits(bits);
        if (isnan(x[i]))
            x[i] = 1;
    }
    multiply_by_one(d, x, y);
    for (uint32_t i = 0; i < COUNT; i++) {
        /* A GPU may take what is subnormal as a bfloat16 for 0. */
        bool is_tiny = precision == PRECISION_BF16 && fabsf(x[i]) < 0x1p-125f && y[i] == 0;
        if (!(y[i] == rounded(x[i])) && !is_tiny)
            fail_msg("%a became %a, and %a is right", (double)x[i], (double)y[i],
                     (double)rounded(x[i]));
    }
    x[7] = NAN;
    multiply_by_one(d, x, y);
    assert_true(isnan(y[7]) && !isnan(y[8]));
    device_close(d);
}

static void test_bf16(void **state)
{
    compare(PRECISION_BF16, bf16_of);
}

static void test_fp16(void **state)
{
    compare(PRECISION_FP16, fp16_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_fp16),
    };
    test_device_choose();
    seed = test_device_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
