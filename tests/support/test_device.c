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
#include "common/machine.h"
#include "common/mem.h"

static bool real;

static void choose_emulated(void)
{
    char *directory = machine_program_directory();
    char *path = must_format("%s/paramd-cuda-emulated.so", directory);
    if (access(path, F_OK) != 0) {
        printf("the emulated GPU is not part of this build\n");
        exit(77);
    }
    setenv("PARAMD_CUDA_BACKEND", path, 1);
    mem_free(path);
    mem_free(directory);
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
