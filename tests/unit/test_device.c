/*
 * Goal: settings of devices are read as they are written, and a device that is not there is an
 * error that says what is missing and what to do.
 *
 * Method: lists in a table; the emulated GPU's two devices for lists of what is there; a program of
 * its own (fork) for each backend that cannot be loaded, as one is loaded once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/support/test_device.h"

static void test_lists(void **state)
{
    static const struct {
        const char *text;
        bool good, is_auto, cuda;
        uint32_t count, last;
    } cases[] = {
        {"cpu", true, false, false, 1, 0},
        {"auto", true, true, false, 1, 0},
        {"cuda", true, false, true, 1, 0},
        {"cuda:1", true, false, true, 1, 1},
        {"cuda:0,2", true, false, true, 2, 2},
        {"cuda:3,1,0", true, false, true, 3, 0},
        {"gpu", false, false, false, 0, 0},
        {"", false, false, false, 0, 0},
        {"cuda:", false, false, false, 0, 0},
        {"cuda:1,", false, false, false, 0, 0},
        {"cuda:,1", false, false, false, 0, 0},
        {"cuda:1,1", false, false, false, 0, 0},
        {"cuda:-1", false, false, false, 0, 0},
        {"cuda:1024", false, false, false, 0, 0},
        {"cuda:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", true, false, true, 16, 15},
        {"cuda:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", false, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct device_list list = {.count = 99};
        bool is_auto = false;
        enum err err = device_list_parse(cases[i].text, &list, &is_auto);
        assert_int_equal(err, cases[i].good ? ERR_NONE : ERR_INPUT);
        if (!cases[i].good) {
            assert_non_null(strstr(err_text(), "cuda:0,2"));
            assert_int_equal(list.count, 99);
            continue;
        }
        assert_int_equal(list.cuda, cases[i].cuda);
        assert_int_equal(is_auto, cases[i].is_auto);
        assert_int_equal(list.count, cases[i].count);
        assert_int_equal(list.indexes[list.count - 1], cases[i].last);
    }
}

static void test_found(void **state)
{
    struct device_list list;
    test_device_choose();
    assert_int_equal(device_list_find("cuda:1,0", &list), ERR_NONE);
    assert_int_equal(list.count, 2);
    assert_int_equal(device_list_find("auto", &list), ERR_NONE);
    assert_true(list.cuda);
    assert_int_equal(device_list_find("cuda:0,2", &list), ERR_UNAVAILABLE);
    assert_non_null(strstr(err_text(), "device cuda:0,2: there is no GPU 2: the driver sees 2"));
    assert_int_equal(device_list_find("cpu", &list), ERR_NONE);
    char *name = device_class_text(&list);
    assert_non_null(strstr(name, "cpu openblas"));
    mem_free(name);
    list.cuda = true;
    name = device_class_text(&list);
    assert_non_null(strstr(name, "cuda emulated GPU cuda 13.0 cublas"));
    mem_free(name);
}

/* Kernels are there for 8.0 and 9.0, and in PTX for what comes later. */
static void test_no_machine_code(void **state)
{
    static const struct {
        const char *capability;
        bool good;
    } cases[] = {{"75", false}, {"80", true},  {"89", true}, {"90", true},
                 {"103", true}, {"120", true}, {"61", false}};
    struct device_options o = {.cuda = true};
    struct device_list list;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct device *d = NULL;
        enum err expected = cases[i].good ? ERR_NONE : ERR_UNAVAILABLE;
        setenv("PARAMD_EMULATED_CAPABILITY", cases[i].capability, 1);
        assert_int_equal(device_list_find("auto", &list), ERR_NONE);
        assert_int_equal(list.cuda, cases[i].good);
        assert_int_equal(device_list_find("cuda:1", &list), expected);
        assert_int_equal(device_open(&o, &d), expected);
        if (!cases[i].good) {
            assert_non_null(strstr(err_text(), "emulated GPU has compute capability "));
            assert_non_null(strstr(err_text(), "CUDA_ARCHS=\"80 90\""));
        }
        device_close(d);
    }
    /* What was asked in vain is not taken for a failure of what comes next. */
    unsetenv("PARAMD_EMULATED_CAPABILITY");
    struct device *d = test_device_open(PRECISION_FLOAT32);
    float *x = d->compute->alloc(d, sizeof *x);
    struct compute_copy zero = {.n = 1, .width = 1, .y = x};
    assert_non_null(x);
    d->compute->copy(d, &zero);
    assert_int_equal(d->compute->fence(d), ERR_NONE);
    d->compute->free(d, x);
    device_close(d);
}

static void test_precision_of_cpu(void **state)
{
    struct device *d = NULL;
    struct device_options o = {.precision = PRECISION_BF16};
    assert_int_equal(device_open(&o, &d), ERR_INPUT);
    assert_non_null(strstr(err_text(), "train.precision"));
    o.precision = PRECISION_FLOAT32;
    assert_int_equal(device_open(&o, &d), ERR_NONE);
    struct device_usage usage;
    assert_int_equal(device_usage(d, &usage), ERR_NONE);
    assert_int_equal(usage.memory_total, 0);
    device_close(d);
    device_close(NULL);
}

/* Runs before anything else has loaded a backend. */
static void expect_failure(const char *backend, const char *text)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct device_list list;
        setenv("PARAMD_CUDA_BACKEND", backend, 1);
        bool as_said = device_list_find("cuda", &list) == ERR_UNAVAILABLE &&
                       strstr(err_text(), text) != NULL && strstr(err_text(), "device cuda: ") &&
                       device_list_find("auto", &list) == ERR_NONE && !list.cuda;
        _exit(as_said ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_not_loaded(void **state)
{
    expect_failure("/nowhere/paramd-cuda.so", "it needs cuBLAS 13");
    expect_failure("libm.so.6", "is not a CUDA backend");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_not_loaded),
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_no_machine_code),
        cmocka_unit_test(test_precision_of_cpu),
    };
    unsetenv("PARAMD_TEST_GPU");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
