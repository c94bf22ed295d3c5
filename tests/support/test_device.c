#include "tests/support/test_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

static bool real;

static void choose_emulated(void)
{
    char path[4096];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 40);
    assert_true(size > 0);
    path[size] = '\0';
    strcpy(strrchr(path, '/'), "/paramd-cuda-emulated.so");
    if (access(path, F_OK) != 0) {
        printf("the emulated GPU is not part of this build\n");
        exit(77);
    }
    setenv("PARAMD_CUDA_BACKEND", path, 1);
}

void test_device_choose(void)
{
    const char *wanted = getenv("PARAMD_TEST_GPU");
    struct device_list list;
    real = wanted != NULL && strcmp(wanted, "1") == 0;
    if (!real)
        choose_emulated();
    if (device_list_find("cuda", &list) == ERR_NONE)
        return;
    printf("%s\n", err_text());
    exit(real ? 77 : 1);
}

bool test_device_is_real(void)
{
    return real;
}

struct device *test_device_open(enum precision precision)
{
    struct device_options o = {.cuda = true, .precision = precision};
    struct device *d = NULL;
    if (device_open(&o, &d) != ERR_NONE)
        fail_msg("%s", err_text());
    return d;
}

uint64_t test_device_seed(void)
{
    const char *given = getenv("PARAMD_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : clock_ns() % 1000000007;
    printf("PARAMD_TEST_SEED=%" PRIu64 "\n", seed);
    return seed;
}
