/*
 * Goal: what a GPU, its driver or cuBLAS does not do as it is asked first is done another way, or
 * is an error that says what to do.
 *
 * Method: the emulated GPU (tests/support/test_device.h), which refuses certain things
 * (tests/emulation); on a real one the same calls have to work, refused or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "tests/support/random_batch.h"
#include "tests/support/test_device.h"

static uint64_t seed;

static float *to_device(struct device *d, uint64_t at, size_t count)
{
    float *x = random_floats(seed + at, count, 1);
    float *there = d->compute->alloc(d, count * sizeof *x);
    assert_non_null(there);
    d->compute->upload(d, there, x, count * sizeof *x);
    d->compute->join(d);
    assert_int_equal(d->compute->fence(d), ERR_NONE);
    mem_free(x);
    return there;
}

static float *from_device(struct device *d, const float *there, size_t count)
{
    float *x = random_floats(1, count, 0);
    d->compute->download(d, x, there, count * sizeof *x);
    if (d->compute->fence(d) != ERR_NONE)
        fail_msg("%s", err_text());
    return x;
}

/* ---- products -------------------------------------------------------------------------------- */

/* Of n examples: product, bias and activation in one call have the bits that they have in two. */
static void compare_linear(struct device *d, uint32_t n, enum activation activation)
{
    uint32_t in = 24, out = 16;
    size_t count = (size_t)n * out;
    float *y = to_device(d, 9, count);
    struct compute_gemm g = {.n = n, .in = in, .out = out, .y = y};
    g.x = to_device(d, 1, (size_t)n * in);
    g.weight = to_device(d, 2, (size_t)in * out);
    struct compute_activate a = {n, out, activation, to_device(d, 3, out), y, y};
    d->compute->linear(d, &g, &a);
    float *one = from_device(d, y, count);
    d->compute->gemm_forward(d, &g);
    d->compute->activate(d, &a);
    float *two = from_device(d, y, count);
    if (test_device_is_real())
        for (size_t i = 0; i < count; i++)
            assert_float_equal(one[i], two[i], 1e-4);
    else
        assert_memory_equal(one, two, count * sizeof *one);
    mem_free(one);
    mem_free(two);
    d->compute->free(d, (void *)g.x);
    d->compute->free(d, (void *)g.weight);
    d->compute->free(d, (void *)a.bias);
    d->compute->free(d, y);
}

static uint32_t lines_with(const char *path, const char *text)
{
    char line[1024];
    uint32_t count = 0;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL)
        count += strstr(line, text) != NULL;
    fclose(f);
    return count;
}

/* The emulated cublasLt refuses 33 examples when asked for a way, and 40 when it is to go it. */
static void test_refused_products(void **state)
{
    static const uint32_t examples[] = {32, 40, 33, 40, 33, 64};
    char path[] = "/tmp/test_refused_cuda.XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(log_open("test", path), ERR_NONE);
    for (int precision = PRECISION_FLOAT32; precision <= PRECISION_FP16; precision++) {
        struct device *d = test_device_open((enum precision)precision);
        for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++)
            for (int kind = ACTIVATION_NONE; kind <= ACTIVATION_SIGMOID; kind++)
                compare_linear(d, examples[i], (enum activation)kind);
        device_close(d);
    }
    assert_int_equal(log_open("test", NULL), ERR_NONE);
    if (!test_device_is_real())
        assert_int_equal(lines_with(path, "cublasLt refuses a product with bias of [40][24]"), 4);
    assert_true(lines_with(path, "cublasLt refuses") <= 4); /* a device says so once */
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_products),
    };
    test_device_choose();
    seed = test_device_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
