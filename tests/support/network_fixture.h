/*
 * network_fixture.h - a model with values, a batch, and room for gradients; one training pass over
 * them.
 *
 * Values are random, functions of fixed seeds. Failures are failures of the test that runs.
 */
#ifndef PARAMD_TESTS_SUPPORT_NETWORK_FIXTURE_H
#define PARAMD_TESTS_SUPPORT_NETWORK_FIXTURE_H

#include "tests/support/model_job.h"
#include "tests/support/random_batch.h"
#include "worker/network.h"

#define FIXTURE_SEED          77 /* of dropout */
#define FIXTURE_FIRST_EXAMPLE 1000
#define FIXTURE_DENSE         32

/* What networks of fixtures compute on; NULL: the processor. */
extern struct device *fixture_device;

struct fixture {
    struct model_job job;
    struct model *model;
    struct batch *batch;
    float *rows[MODEL_JOB_TABLES], *dense[FIXTURE_DENSE];
    float *row_gradients[MODEL_JOB_TABLES], *dense_gradients[FIXTURE_DENSE];
    float *logits;
};

/* The case says how many tables, slots and dense columns the batch has. */
void fixture_init(struct fixture *f, const struct model_case *c, const struct random_batch *r);
void fixture_deinit(struct fixture *f);

size_t fixture_row_floats(const struct fixture *f, uint32_t table);
struct network_values fixture_values(struct fixture *f);
struct network_gradients fixture_gradients(struct fixture *f);
struct network *fixture_network(const struct fixture *f, struct pool *pool);

/* One training pass; returns the loss. */
double fixture_train(struct network *n, struct fixture *f);

#endif
