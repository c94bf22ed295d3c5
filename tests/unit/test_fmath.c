/*
 * Goal: our exp, log, sigmoid and tanh are as precise as their header says, at their ends too, and
 * a loop over them has the same bits wherever it is cut. Method: dense sweeps against libm's double
 * functions; bitwise comparison of arrays computed from every offset.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/fmath.h"

/* |value - exact| in units of the last place of a float next to `exact`. */
static double ulps(float value, double exact)
{
    double unit = exact == 0 ? 0 : ldexp(1.0, ilogb(exact) - 23);
    return fabs((double)value - exact) / fmax(unit, 0x1p-149);
}

static void test_float_functions(void **state)
{
    static const struct {
        const char *name;
        float (*ours)(float);
        double (*exact)(double);
        float first, last;
        double bound;
    } cases[] = {
        {"exp", fmath_exp, exp, -87.3f, 88.72f, 2.0},
        {"exp", fmath_exp, exp, -1e-3f, 1e-3f, 1.0},
        {"exp subnormal", fmath_exp, exp, -103.0f, -87.4f, 1.0},
        {"tanh", fmath_tanh, tanh, -12.0f, 12.0f, 3.0},
        {"tanh", fmath_tanh, tanh, -0.6f, 0.6f, 3.0},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const int count = 500000;
        double worst = 0;
        for (int i = 0; i <= count; i++) {
            float x = cases[c].first + (cases[c].last - cases[c].first) * (float)i / (float)count;
            worst = fmax(worst, ulps(cases[c].ours(x), cases[c].exact((double)x)));
        }
        if (!(worst <= cases[c].bound))
            fail_msg("%s: %.3f ulp", cases[c].name, worst);
    }
    for (float x = -87.0f; x < 100.0f; x += 0.001f)
        assert_true(ulps(fmath_sigmoid(x), 1.0 / (1.0 + exp(-(double)x))) <= 3.0);
}

static void test_double_functions(void **state)
{
    for (double x = -700; x < 700; x += 0.003) {
        assert_true(fabs(fmath_exp64(x) / exp(x) - 1) <= 1e-15);
        assert_true(fabs(fmath_log1p_exp(x) / log1p(exp(-fabs(x))) - 1) <= 2e-15);
        double y = exp(x) * 1.37;
        assert_true(fabs(fmath_log64(y) - log(y)) <= 1e-15 * fmax(1.0, fabs(log(y))));
    }
    for (double y = 0.5; y < 2; y += 1e-5)
        assert_true(fabs(fmath_log64(y) - log(y)) <= 1e-15 * fabs(log(y)) + 1e-18);
}

static void test_ends(void **state)
{
    assert_true(fmath_exp(0) == 1 && fmath_exp64(0) == 1 && fmath_log64(1) == 0);
    assert_true(fmath_exp(INFINITY) == INFINITY && fmath_exp(89) == INFINITY);
    assert_true(fmath_exp(-INFINITY) == 0 && fmath_exp(-FLT_MAX) == 0);
    assert_true(fmath_exp64(1000) == INFINITY && fmath_exp64(-1000) == 0);
    assert_true(fmath_sigmoid(INFINITY) == 1 && fmath_sigmoid(-INFINITY) == 0);
    assert_true(fmath_sigmoid(0) == 0.5f);
    assert_true(fmath_tanh(INFINITY) == 1 && fmath_tanh(-INFINITY) == -1 && fmath_tanh(0) == 0);
    assert_true(isnan(fmath_exp(NAN)) && isnan(fmath_exp64(NAN)) && isnan(fmath_tanh(NAN)));
    assert_true(isnan(fmath_sigmoid(NAN)) && isnan(fmath_logistic_loss(NAN, 1)));
    assert_true(fmath_logistic_loss(100, 0) == 100);
    assert_true(fabs(fmath_logistic_loss(100, 1) / exp(-100) - 1) < 1e-14);
    assert_true(fabs(fmath_logistic_loss(0, 0.5f) - log(2)) < 1e-15);
    const float logits[] = {1000, 0, -1000};
    assert_true(fmath_softmax_loss(logits, 3, 0) == 0);
    assert_true(fmath_softmax_loss(logits, 3, 2) == 2000);
    assert_true(fmath_squared_loss(3, 5) == 2);
}

/* Vectorized or not, by the compiler's choice: here a loop whose length it does not know. */
static void __attribute__((noinline)) run(const float *x, float *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] = fmath_tanh(x[i]) + fmath_exp(x[i]);
}

static void test_same_bits_from_any_offset(void **state)
{
    enum { COUNT = 100 };
    float x[COUNT], whole[COUNT], part[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(i - 50) * 0.173f;
    run(x, whole, COUNT);
    for (size_t first = 0; first < 40; first++) {
        for (size_t count = 1; count < 40; count++) {
            run(x + first, part, count);
            assert_memory_equal(part, whole + first, count * sizeof *part);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_functions),
        cmocka_unit_test(test_double_functions),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_same_bits_from_any_offset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
