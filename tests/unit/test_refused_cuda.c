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

/* ---- two devices ----------------------------------------------------------------------------- */

/* By turns, each operation after one of the other device. */
static void test_two_devices(void **state)
{
    struct device *devices[2] = {NULL};
    float *x[2];
    uint32_t count = 0;
    assert_int_equal(device_count(&count), ERR_NONE);
    for (uint32_t i = 0; i < 2; i++) {
        struct device_options o = {.cuda = true, .index = count > 1 ? i : 0};
        assert_int_equal(device_open(&o, &devices[i]), ERR_NONE);
        x[i] = to_device(devices[i], i, 16);
    }
    for (uint32_t kind = 0; kind < 7; kind++) {
        for (uint32_t i = 0; i < 2; i++) {
            const struct compute *c = devices[i]->compute;
            struct compute_gemm g = {.n = 2, .in = 2, .out = 2, .x = x[i], .weight = x[i] + 4};
            g.y_gradient = g.y = x[i] + 8;
            g.x_gradient = g.weight_gradient = x[i] + 12;
            struct compute_activate a = {2, 2, ACTIVATION_RELU, x[i], x[i] + 8, x[i] + 8};
            struct compute_check check = {x[i], 8, 1, (uint32_t *)(x[i] + 15)};
            kind == 0   ? c->gemm_forward(devices[i], &g)
            : kind == 1 ? c->gemm_input(devices[i], &g)
            : kind == 2 ? c->gemm_weight(devices[i], &g)
            : kind == 3 ? c->linear(devices[i], &g, &a)
            : kind == 4 ? c->activate(devices[i], &a)
            : kind == 5 ? c->check(devices[i], &check)
                        : mem_free(from_device(devices[i], x[i], 16));
        }
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(devices[i]->compute->fence(devices[i]), ERR_NONE);
        devices[i]->compute->free(devices[i], x[i]);
    }
    device_close(devices[0]);
    device_close(devices[1]);
}

/* ---- what does not fit at once --------------------------------------------------------------- */

/* More columns than the scratch memory holds sums of. */
static void test_wide(void **state)
{
    static const uint32_t widths[] = {65536, 65537, 131100, (1u << 20) + 5};
    struct device *d = test_device_open(PRECISION_FLOAT32);
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        uint32_t n = 3, width = widths[i];
        float *x = to_device(d, i, (size_t)n * width), *sums = to_device(d, 0, width);
        struct compute_columns c = {.n = n, .width = width, .x = x, .sums = sums};
        d->compute->column_sums(d, &c);
        float *all = from_device(d, x, (size_t)n * width), *found = from_device(d, sums, width);
        for (uint32_t k = 0; k < width; k++)
            assert_float_equal(found[k], all[k] + all[width + k] + all[2 * width + k], 1e-6);
        mem_free(all);
        mem_free(found);
        d->compute->free(d, x);
        d->compute->free(d, sums);
    }
    device_close(d);
}

/* Vectors of an example that fill what a block may have of shared memory, and that do not fit. */
static void test_long_vectors(void **state)
{
    static const uint32_t dims[] = {4000, 4010, 4011, 4050, 4096, 4097};
    struct device *d = test_device_open(PRECISION_FLOAT32);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        uint32_t dim = dims[i];
        struct compute_vectors v = {.n = 1, .count = 3, .dim = dim, .x_stride = 3 * (size_t)dim};
        float *x = to_device(d, i, v.x_stride);
        v.x = x;
        v.y = to_device(d, 0, 3);
        d->compute->dot(d, &v);
        float *all = from_device(d, x, v.x_stride), *found = from_device(d, v.y, 3);
        double expected = 0;
        for (uint32_t k = 0; k < dim; k++)
            expected += (double)all[k] * (double)all[dim + k];
        assert_float_equal(found[0], expected, 1e-3);
        mem_free(all);
        mem_free(found);
        d->compute->free(d, x);
        d->compute->free(d, v.y);
    }
    device_close(d);
}

/* What fails once leaves the process its GPU; what CUDA then fails for ever does not. */
static void test_lost(void **state)
{
    struct device *d = test_device_open(PRECISION_FLOAT32);
    if (test_device_is_real())
        skip();
    struct compute_gemm bad = {.n = 2, .in = 0, .out = 2};
    bad.y = to_device(d, 1, 8);
    bad.x = bad.weight = bad.y;
    d->compute->gemm_forward(d, &bad); /* cuBLAS refuses it: inner size 0 */
    assert_int_equal(d->compute->fence(d), ERR_IO);
    assert_null(strstr(err_text(), "start again"));
    assert_false(device_is_lost());
    assert_int_equal(d->compute->fence(d), ERR_NONE);
    char path[] = "/tmp/test_refused_cuda.XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    setenv("PARAMD_EMULATED_FAULT", path, 1);
    assert_int_equal(d->compute->fence(d), ERR_IO);
    assert_non_null(strstr(err_text(), "has to start again"));
    assert_true(device_is_lost());
    unsetenv("PARAMD_EMULATED_FAULT");
    d->compute->free(d, bad.y);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_products),
        cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_long_vectors),
        cmocka_unit_test(test_lost), /* the last: its GPU stays so */
    };
    test_device_choose();
    seed = test_device_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
