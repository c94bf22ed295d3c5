/*
 * activation.h - the activations, for processor and GPU alike: one sequence of operations, so that
 * both have the same bits.
 *
 * Threads  none; pure.
 */
#ifndef PARAMD_WORKER_ACTIVATION_H
#define PARAMD_WORKER_ACTIVATION_H

#include "common/fmath.h"
#include "common/job.h"

DEVICE_CALL static inline float activation_of(enum activation activation, float z)
{
    switch (activation) {
    case ACTIVATION_RELU:
        return z < 0 ? 0.0f : z; /* NaN stays */
    case ACTIVATION_TANH:
        return fmath_tanh(z);
    case ACTIVATION_SIGMOID:
        return fmath_sigmoid(z);
    case ACTIVATION_NONE:
        break;
    }
    return z;
}

#endif
