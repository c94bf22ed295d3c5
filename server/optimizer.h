/*
 * optimizer.h - how a server turns a gradient into a parameter update.
 *
 * An optimizer is a pure function over arrays of one length, so it is tested without a server, a
 * socket or a thread. Its running averages live in slots that the shard keeps beside the parameter
 * and writes to the checkpoint. Adding one is a function and a row of the table in optimizer.c, and
 * its name and fields in the settings table.
 *
 * Shapes   param, out, grad: float[count]; slots: slot i begins at slots + i * slot_stride.
 * Units    step counts from 1; learning_rate is per step, the schedule's factor already in it.
 * Bits     an element's result does not depend on its place in the array or on count: one
 *          expression for body and tail, no libm call with a vector twin.
 * Threads  none; the caller owns every array for the length of the call.
 * Errors   optimizer_find() returns NULL for an unknown name. Updates cannot fail: a non-finite
 *          gradient is refused earlier, in shard_push_pull().
 * Sources  adagrad: Duchi et al., JMLR 2011; adam: Kingma & Ba, ICLR 2015, Algorithm 1; AdamW:
 *          Loshchilov & Hutter, ICLR 2019; rmsprop: Tieleman & Hinton 2012; ftrl: McMahan et al.,
 *          KDD 2013, Algorithm 1; momentum and Nesterov: Sutskever et al., ICML 2013, as PyTorch
 *          writes them.
 */
#ifndef PARAMD_SERVER_OPTIMIZER_H
#define PARAMD_SERVER_OPTIMIZER_H

#include <stdint.h>

#include "common/job.h"

struct optimizer_update {
    const float *param;
    float *out;        /* may be param */
    const float *grad; /* the sum over ranks */
    float grad_scale;  /* 1 / Σ weight: multiplies grad */
    float l2;          /* adds l2 * param to the scaled gradient */
    float *slots;
    uint64_t slot_stride; /* floats */
    uint32_t count;
};

/* What is the same for all elements of a step, computed once in double by optimizer_prepare(). */
struct optimizer_step {
    const struct optimizer_spec *spec;
    float learning_rate; /* scheduled */
    float a, b, c, d, e; /* by type */
};

struct optimizer {
    const char *name;
    uint32_t slot_count;
    void (*prepare)(const struct optimizer_spec *spec, uint64_t step, struct optimizer_step *out);
    void (*apply)(const struct optimizer_step *step, const struct optimizer_update *update);
};

const struct optimizer *optimizer_find(const char *name);

/* Schedules (server/schedule.c): the factor on the learning rate at `step` of `last_step`; pure. */
double schedule_factor(const struct schedule_spec *schedule, uint64_t step, uint64_t last_step);

/* Finds, evaluates the schedule, prepares. CHECKs that the type is known (job_parse saw to it). */
const struct optimizer *optimizer_prepare(const struct optimizer_spec *spec, uint64_t step,
                                          uint64_t last_step, struct optimizer_step *out);

#endif
