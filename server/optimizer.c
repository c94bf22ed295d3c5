#include "server/optimizer.h"

#include <string.h>

#include "common/check.h"

/*
 * Each update is one loop of IEEE additions, multiplications, divisions and square roots, all of
 * them exact roundings; the build forbids contraction and reassociation. So the vectorized body and
 * the scalar tail give the same bits. The arrays of one update do not overlap, but that out may be
 * param, which the loops allow because element i only needs element i.
 */

/* Gradients are read where they arrived, which may be anywhere. */
typedef float loose_float __attribute__((aligned(1), may_alias));

#define SQRT __builtin_sqrtf

/* base^exponent by squaring: no libm, and the same bits everywhere. */
static double power(double base, uint64_t exponent)
{
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1)
            result *= base;
        base *= base;
    }
    return result;
}

/* ---- sgd: p -= lr g ---- */

static void sgd_prepare(const struct optimizer_spec *spec, uint64_t step,
                        struct optimizer_step *out)
{
    out->a = (float)spec->weight_decay;
}

static void sgd_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out;
    const float scale = u->grad_scale, decay = u->l2 + step->a, rate = step->learning_rate;
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + decay * p;
        out[i] = p - rate * g;
    }
}

/* ---- momentum: v = mu v + g; p -= lr v, or with Nesterov p -= lr (g + mu v) ---- */

static void momentum_prepare(const struct optimizer_spec *spec, uint64_t step,
                             struct optimizer_step *out)
{
    out->a = (float)spec->weight_decay;
    out->b = (float)spec->momentum;
    /* The direction is c g + d v. */
    out->c = spec->nesterov ? 1.0f : 0.0f;
    out->d = spec->nesterov ? (float)spec->momentum : 1.0f;
}

static void momentum_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out, *velocity = u->slots;
    const float scale = u->grad_scale, decay = u->l2 + step->a, rate = step->learning_rate;
    const float mu = step->b, of_grad = step->c, of_velocity = step->d;
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + decay * p;
        float v = mu * velocity[i] + g;
        velocity[i] = v;
        out[i] = p - rate * (of_grad * g + of_velocity * v);
    }
}

/* ---- adagrad: s += g^2; p -= lr g / (sqrt(s) + epsilon) ---- */

static void adagrad_prepare(const struct optimizer_spec *spec, uint64_t step,
                            struct optimizer_step *out)
{
    out->a = (float)spec->weight_decay;
    out->b = (float)spec->epsilon;
}

static void adagrad_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out, *squares = u->slots;
    const float scale = u->grad_scale, decay = u->l2 + step->a, rate = step->learning_rate;
    const float epsilon = step->b;
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + decay * p;
        float s = squares[i] + g * g;
        squares[i] = s;
        out[i] = p - rate * g / (SQRT(s) + epsilon);
    }
}

/*
 * ---- adam: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr m^ / (sqrt(v^) + epsilon) ----
 * m^ = m / (1 - b1^t), v^ = v / (1 - b2^t). Decay is decoupled: p -= lr weight_decay p (AdamW).
 */

static void adam_prepare(const struct optimizer_spec *spec, uint64_t step,
                         struct optimizer_step *out)
{
    double rate = out->learning_rate;
    out->a = (float)(1.0 - rate * spec->weight_decay);
    out->b = (float)(rate / (1.0 - power(spec->beta1, step)));
    out->c = (float)(1.0 / (1.0 - power(spec->beta2, step)));
    out->d = (float)spec->epsilon;
}

static void adam_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out, *first = u->slots, *second = u->slots + u->slot_stride;
    const float scale = u->grad_scale, l2 = u->l2;
    const float keep = step->a, rate = step->b, unbias = step->c, epsilon = step->d;
    const float beta1 = (float)step->spec->beta1, beta2 = (float)step->spec->beta2;
    const float new1 = (float)(1.0 - step->spec->beta1), new2 = (float)(1.0 - step->spec->beta2);
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + l2 * p;
        float m = beta1 * first[i] + new1 * g;
        float v = beta2 * second[i] + new2 * (g * g);
        first[i] = m;
        second[i] = v;
        out[i] = p * keep - rate * m / (SQRT(v * unbias) + epsilon);
    }
}

/* ---- rmsprop: s = rho s + (1 - rho) g^2; p -= lr g / (sqrt(s) + epsilon) ---- */

static void rmsprop_prepare(const struct optimizer_spec *spec, uint64_t step,
                            struct optimizer_step *out)
{
    out->a = (float)spec->weight_decay;
    out->b = (float)spec->beta2;
    out->c = (float)(1.0 - spec->beta2);
    out->d = (float)spec->epsilon;
}

static void rmsprop_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out, *squares = u->slots;
    const float scale = u->grad_scale, decay = u->l2 + step->a, rate = step->learning_rate;
    const float rho = step->b, rest = step->c, epsilon = step->d;
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + decay * p;
        float s = rho * squares[i] + rest * (g * g);
        squares[i] = s;
        out[i] = p - rate * g / (SQRT(s) + epsilon);
    }
}

/*
 * ---- ftrl: s = (sqrt(n + g^2) - sqrt(n)) / lr; z += g - s p; n += g^2 ----
 * p = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / lr + l2).
 */

static void ftrl_prepare(const struct optimizer_spec *spec, uint64_t step,
                         struct optimizer_step *out)
{
    out->a = (float)spec->l1;
    out->b = (float)spec->l2;
    out->c = (float)spec->beta;
}

static void ftrl_apply(const struct optimizer_step *step, const struct optimizer_update *u)
{
    const float *param = u->param;
    const loose_float *grad = (const loose_float *)u->grad;
    float *out = u->out, *sums = u->slots, *squares = u->slots + u->slot_stride;
    const float scale = u->grad_scale, decay = u->l2, rate = step->learning_rate;
    const float l1 = step->a, l2 = step->b, beta = step->c;
#pragma GCC ivdep
    for (uint32_t i = 0; i < u->count; i++) {
        float p = param[i];
        float g = grad[i] * scale + decay * p;
        float n = squares[i] + g * g;
        float root = SQRT(n);
        float z = sums[i] + (g - (root - SQRT(squares[i])) / rate * p);
        squares[i] = n;
        sums[i] = z;
        float beyond = __builtin_fabsf(z) - l1;
        float size = beyond / ((beta + root) / rate + l2);
        float away = __builtin_copysignf(size, -z);
        out[i] = beyond <= 0.0f ? 0.0f : away;
    }
}

static const struct optimizer optimizers[] = {
    {"sgd", 0, sgd_prepare, sgd_apply},
    {"momentum", 1, momentum_prepare, momentum_apply},
    {"adagrad", 1, adagrad_prepare, adagrad_apply},
    {"adam", 2, adam_prepare, adam_apply},
    {"rmsprop", 1, rmsprop_prepare, rmsprop_apply},
    {"ftrl", 2, ftrl_prepare, ftrl_apply},
};

const struct optimizer *optimizer_find(const char *name)
{
    for (size_t i = 0; i < sizeof optimizers / sizeof optimizers[0]; i++) {
        if (strcmp(name, optimizers[i].name) == 0)
            return &optimizers[i];
    }
    return NULL;
}

const struct optimizer *optimizer_prepare(const struct optimizer_spec *spec, uint64_t step,
                                          uint64_t last_step, struct optimizer_step *out)
{
    const struct optimizer *o = optimizer_find(spec->type);
    CHECK(o != NULL);
    *out = (struct optimizer_step){.spec = spec};
    out->learning_rate =
        (float)(spec->learning_rate * schedule_factor(&spec->schedule, step, last_step));
    o->prepare(spec, step, out);
    return o;
}
