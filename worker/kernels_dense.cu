#include "worker/kernels.cuh"

#include "worker/activation.h"

/* ---- activations ----------------------------------------------------------------------------- */

KERNEL activate_kernel(struct compute_activate a)
{
    EACH(i, (uint64_t)a.n * a.width)
    {
        float z = a.x[i];
        if (a.bias != NULL)
            z = z + a.bias[place_of(i, a.width).column];
        a.y[i] = activation_of(a.activation, z);
    }
}

int kernel_usable(void)
{
    cudaFuncAttributes attributes;
    return (int)cudaFuncGetAttributes(&attributes, (const void *)activate_kernel);
}

void kernel_activate(struct kernel_stream k, const struct compute_activate *a)
{
    if (a->activation == ACTIVATION_NONE && a->bias == NULL && a->x == a->y)
        return;
    LAUNCH(activate_kernel, blocks_for((uint64_t)a->n * a->width), KERNEL_THREADS, k, *a);
}

KERNEL activate_back_kernel(struct compute_activate_back a)
{
    EACH(i, (uint64_t)a.n * a.width)
    {
        float y = a.y[i], g = a.gradient[i];
        if (a.activation == ACTIVATION_RELU)
            g = y <= 0 ? 0.0f : g;
        else if (a.activation == ACTIVATION_TANH)
            g = g * (1.0f - y * y);
        else
            g = g * (y * (1.0f - y));
        a.gradient[i] = g;
    }
}

void kernel_activate_back(struct kernel_stream k, const struct compute_activate_back *a)
{
    if (a->activation != ACTIVATION_NONE)
        LAUNCH(activate_back_kernel, blocks_for((uint64_t)a->n * a->width), KERNEL_THREADS, k, *a);
}

/* ---- dropout, copies, products --------------------------------------------------------------- */

struct dropout_keys {
    uint64_t step_key, first_example;
    float rate, kept;
};

KERNEL dropout_kernel(uint32_t n, uint32_t width, struct dropout_keys d, const float *x, float *y,
                      float *mask)
{
    EACH(i, (uint64_t)n * width)
    {
        place_at at = place_of(i, width);
        uint64_t key = rng_at(d.step_key, d.first_example + at.row);
        float m = rng_uniform(rng_at(key, at.column)) < d.rate ? 0.0f : d.kept;
        mask[i] = m;
        y[i] = x[i] * m;
    }
}

void kernel_dropout(struct kernel_stream k, const struct compute_dropout *d)
{
    struct dropout_keys keys = {rng_at(d->key, d->step), d->first_example, (float)d->rate,
                                (float)(1.0 / (1.0 - d->rate))};
    LAUNCH(dropout_kernel, blocks_for((uint64_t)d->n * d->width), KERNEL_THREADS, k, d->n, d->width,
           keys, d->x, d->y, d->mask);
}

KERNEL multiply_kernel(struct compute_multiply m)
{
    EACH(i, m.count) m.x[i] = m.x[i] * m.mask[i];
}

void kernel_multiply(struct kernel_stream k, const struct compute_multiply *m)
{
    LAUNCH(multiply_kernel, blocks_for(m->count), KERNEL_THREADS, k, *m);
}

KERNEL copy_kernel(struct compute_copy c)
{
    EACH(i, (uint64_t)c.n * c.width)
    {
        place_at at = place_of(i, c.width);
        float *y = c.y + at.row * c.y_stride + at.column;
        float x = c.x != NULL ? c.x[at.row * c.x_stride + at.column] : 0.0f;
        *y = c.add ? *y + x : x;
    }
}

void kernel_copy(struct kernel_stream k, const struct compute_copy *c)
{
    struct compute_copy copy = *c;
    copy.add = copy.add && copy.x != NULL; /* zeros are written, as on the CPU */
    LAUNCH(copy_kernel, blocks_for((uint64_t)c->n * c->width), KERNEL_THREADS, k, copy);
}

KERNEL cross_kernel(struct compute_cross c)
{
    EACH(i, (uint64_t)c.n * c.width)
    {
        place_at at = place_of(i, c.width);
        float x = c.x[at.row * c.x_stride + at.column];
        float x0 = c.x0[at.row * c.x0_stride + at.column];
        c.y[i] = x0 * (c.t[i] + c.bias[at.column]) + x;
    }
}

void kernel_cross(struct kernel_stream k, const struct compute_cross *c)
{
    LAUNCH(cross_kernel, blocks_for((uint64_t)c->n * c->width), KERNEL_THREADS, k, *c);
}

/* One after the other, as the two gradients may be the same array. */
KERNEL cross_back_kernel(struct compute_cross c)
{
    EACH(i, (uint64_t)c.n * c.width)
    {
        place_at at = place_of(i, c.width);
        float g = c.y_gradient[i], t = c.t[i];
        if (c.x_gradient != NULL) {
            float *out = c.x_gradient + at.row * c.x_stride + at.column;
            *out = c.add_x ? *out + g : g;
        }
        if (c.x0_gradient != NULL) {
            float *out = c.x0_gradient + at.row * c.x0_stride + at.column;
            float gradient = g * (t + c.bias[at.column]);
            *out = c.add_x0 ? *out + gradient : gradient;
        }
        c.t[i] = g * c.x0[at.row * c.x0_stride + at.column];
    }
}

void kernel_cross_back(struct kernel_stream k, const struct compute_cross *c)
{
    LAUNCH(cross_back_kernel, blocks_for((uint64_t)c->n * c->width), KERNEL_THREADS, k, *c);
}

/* ---- check, cast ----------------------------------------------------------------------------- */

/* Whoever writes `bad` writes the same. */
KERNEL check_kernel(struct compute_check c)
{
    EACH(i, c.count)
    {
        float x = c.x[i];
        if (c.scale != 1.0f)
            c.x[i] = x = x * c.scale;
        if ((fmath_bits(x) & 0x7f800000u) == 0x7f800000u)
            *c.bad = 1;
    }
}

void kernel_check(struct kernel_stream k, const struct compute_check *c)
{
    LAUNCH(check_kernel, blocks_for(c->count), KERNEL_THREADS, k, *c);
}

DEVICE uint16_t to_bf16(float x)
{
    uint32_t bits = fmath_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* NaN stays one */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Rounded by an addition that has the half's last digit where a float's is. */
DEVICE uint16_t to_fp16(float x)
{
    uint32_t bits = fmath_bits(x), sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* from 65520 on it is infinity */
    if (bits < 0x38800000u) {              /* below 2^-14: a multiple of 2^-24 */
        float shifted = fmath_from_bits(bits) + 0.5f;
        return (uint16_t)(sign | (fmath_bits(shifted) - fmath_bits(0.5f)));
    }
    uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

KERNEL cast_kernel(struct kernel_cast c)
{
    EACH(i, (uint64_t)c.n * c.y_stride)
    {
        place_at at = place_of(i, c.y_stride);
        float x = at.column < c.width ? c.x[(uint64_t)at.row * c.x_stride + at.column] : 0.0f;
        c.y[i] = c.to == KERNEL_BF16 ? to_bf16(x) : to_fp16(x);
    }
}

void kernel_cast(struct kernel_stream k, const struct kernel_cast *c)
{
    LAUNCH(cast_kernel, blocks_for((uint64_t)c->n * c->y_stride), KERNEL_THREADS, k, *c);
}
