/*
 * test_device.h - the GPU that tests of the CUDA backend run on: the emulated one
 * (tests/emulation), or, with PARAMD_TEST_GPU=1 in the environment, the first real one.
 *
 * Failures are failures of the test that runs; without a real GPU where one is wanted the process
 * says why and ends with 77, which is "skipped".
 */
#ifndef PARAMD_TESTS_SUPPORT_TEST_DEVICE_H
#define PARAMD_TESTS_SUPPORT_TEST_DEVICE_H

#include <stdbool.h>

#include "worker/device.h"

/* Once, before anything asks for a device. */
void test_device_choose(void);
bool test_device_is_real(void);
struct device *test_device_open(enum precision precision);

/* A seed that is another in each run, printed; PARAMD_TEST_SEED=N says which. */
uint64_t test_device_seed(void);

#endif
