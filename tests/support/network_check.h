/*
 * network_check.h - a network's logits, loss and every gradient beside a float64 reference.
 *
 * Logits and loss may differ from reference_model.c's by 2e-5 of the largest one. Every single
 * gradient is compared with the reference's central difference, step 1e-5 (error below 1e-8), to
 * 1e-4 of the largest gradient of its array. Failures are failures of the test that runs.
 */
#ifndef PARAMD_TESTS_SUPPORT_NETWORK_CHECK_H
#define PARAMD_TESTS_SUPPORT_NETWORK_CHECK_H

#include "tests/support/model_job.h"
#include "tests/support/random_batch.h"

void network_check(const struct model_case *c, const struct random_batch *r);

#endif
