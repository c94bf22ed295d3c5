/*
 * reference_model.h - a model's loss in float64, written as plainly as its formulas are.
 *
 * Shares nothing with worker/compute*.c: it goes example by example through the model's layers, so
 * it is what the float32 kernels and, by finite differences, their gradients are compared with.
 */
#ifndef PARAMD_TESTS_SUPPORT_REFERENCE_MODEL_H
#define PARAMD_TESTS_SUPPORT_REFERENCE_MODEL_H

#include <stdbool.h>

#include "common/model.h"
#include "worker/batch.h"

struct reference_values {
    double **rows;  /* [table][key_count * dim] */
    double **dense; /* [parameter][count] */
};

struct reference_options {
    bool training; /* with dropout */
    uint64_t seed, first_example;
};

/* Σ weight × loss; logits_out: double[n][output_width], or NULL. */
double reference_loss(const struct model *m, const struct batch *b,
                      const struct reference_values *v, const struct reference_options *o,
                      double *logits_out);

/* log(1 + exp(-|z|)) and so on, by libm. */
double reference_example_loss(const struct model *m, const double *logits, double label);

#endif
