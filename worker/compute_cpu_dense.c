#include "worker/compute_cpu.h"

#include <string.h>

#include "common/fmath.h"
#include "common/rng.h"
#include "worker/activation.h"

/*
 * Sums over many numbers have LANES partial sums, number i in lane i % LANES, which are added by
 * halves at the end: the compiler makes vectors of them without having to reorder anything.
 */
#define LANES        16u
#define COLUMN_TILE  64u    /* columns in a piece of column sums */
#define FINITE_CHUNK 65536u /* floats in a piece */
#define NORM_EPSILON 1e-5f

static inline float lanes_sum(float lanes[LANES])
{
    for (uint32_t half = LANES / 2; half > 0; half /= 2)
        for (uint32_t k = 0; k < half; k++)
            lanes[k] += lanes[k + half];
    return lanes[0];
}

/* ---- activations ---------------------------------------------------------------------------- */

static inline void activate_row(enum activation activation, uint32_t width, const float *bias,
                                float *restrict y)
{
    if (bias != NULL) {
        for (uint32_t j = 0; j < width; j++)
            y[j] = activation_of(activation, y[j] + bias[j]);
    } else {
        for (uint32_t j = 0; j < width; j++)
            y[j] = activation_of(activation, y[j]);
    }
}

static void activate_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_activate *a = context;
    struct cpu_range r = cpu_chunk(a->n, CPU_CHUNK_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        float *y = a->y + (size_t)i * a->width;
        if (a->x != a->y)
            memcpy(y, a->x + (size_t)i * a->width, a->width * sizeof *y);
        /* The switch stands outside of the loop over the row, which is inlined with a constant. */
        switch (a->activation) {
        case ACTIVATION_NONE:
            activate_row(ACTIVATION_NONE, a->width, a->bias, y);
            break;
        case ACTIVATION_RELU:
            activate_row(ACTIVATION_RELU, a->width, a->bias, y);
            break;
        case ACTIVATION_TANH:
            activate_row(ACTIVATION_TANH, a->width, a->bias, y);
            break;
        case ACTIVATION_SIGMOID:
            activate_row(ACTIVATION_SIGMOID, a->width, a->bias, y);
            break;
        }
    }
}

void cpu_activate(struct device *device, const struct compute_activate *a)
{
    if (a->activation == ACTIVATION_NONE && a->bias == NULL && a->x == a->y)
        return;
    pool_run(device->pool, cpu_chunk_count(a->n, CPU_CHUNK_ROWS), activate_piece, (void *)a);
}

static void activate_back_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_activate_back *a = context;
    struct cpu_range r = cpu_chunk(a->n, CPU_CHUNK_ROWS, index);
    size_t first = (size_t)r.first * a->width, end = (size_t)r.end * a->width;
    const float *restrict y = a->y;
    float *restrict g = a->gradient;
    switch (a->activation) {
    case ACTIVATION_NONE:
        break;
    case ACTIVATION_RELU:
        for (size_t i = first; i < end; i++)
            g[i] = y[i] <= 0 ? 0.0f : g[i];
        break;
    case ACTIVATION_TANH:
        for (size_t i = first; i < end; i++)
            g[i] = g[i] * (1.0f - y[i] * y[i]);
        break;
    case ACTIVATION_SIGMOID:
        for (size_t i = first; i < end; i++)
            g[i] = g[i] * (y[i] * (1.0f - y[i]));
        break;
    }
}

void cpu_activate_back(struct device *device, const struct compute_activate_back *a)
{
    if (a->activation != ACTIVATION_NONE)
        pool_run(device->pool, cpu_chunk_count(a->n, CPU_CHUNK_ROWS), activate_back_piece,
                 (void *)a);
}

/* ---- column sums ---------------------------------------------------------------------------- */

/* For the columns of one tile, in chunks of rows: a sum of sums is more precise than one long sum.
 */
static inline void tile_sums(uint32_t n, size_t stride, uint32_t width, const float *restrict x,
                             float *restrict total)
{
    float part[COLUMN_TILE];
    memset(total, 0, width * sizeof *total);
    for (uint32_t first = 0; first < n; first += CPU_CHUNK_ROWS) {
        uint32_t end = n - first < CPU_CHUNK_ROWS ? n : first + CPU_CHUNK_ROWS;
        memset(part, 0, width * sizeof *part);
        for (uint32_t i = first; i < end; i++)
            for (uint32_t j = 0; j < width; j++)
                part[j] += x[i * stride + j];
        for (uint32_t j = 0; j < width; j++)
            total[j] += part[j];
    }
}

static void columns_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_columns *c = context;
    struct cpu_range r = cpu_chunk(c->width, COLUMN_TILE, index);
    if (r.end - r.first == COLUMN_TILE)
        tile_sums(c->n, c->width, COLUMN_TILE, c->x + r.first, c->sums + r.first);
    else
        tile_sums(c->n, c->width, r.end - r.first, c->x + r.first, c->sums + r.first);
}

void cpu_column_sums(struct device *device, const struct compute_columns *c)
{
    pool_run(device->pool, cpu_chunk_count(c->width, COLUMN_TILE), columns_piece, (void *)c);
}

/* ---- layer normalization -------------------------------------------------------------------- */

static inline float row_sum(const float *restrict x, uint32_t width)
{
    float lanes[LANES] = {0};
    uint32_t j = 0;
    for (; j + LANES <= width; j += LANES)
        for (uint32_t k = 0; k < LANES; k++)
            lanes[k] += x[j + k];
    for (uint32_t k = 0; j + k < width; k++)
        lanes[k] += x[j + k];
    return lanes_sum(lanes);
}

static inline float row_squares(const float *restrict x, uint32_t width, float mean)
{
    float lanes[LANES] = {0};
    uint32_t j = 0;
    for (; j + LANES <= width; j += LANES)
        for (uint32_t k = 0; k < LANES; k++)
            lanes[k] += (x[j + k] - mean) * (x[j + k] - mean);
    for (uint32_t k = 0; j + k < width; k++)
        lanes[k] += (x[j + k] - mean) * (x[j + k] - mean);
    return lanes_sum(lanes);
}

static void norm_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_norm *c = context;
    struct cpu_range r = cpu_chunk(c->n, CPU_CHUNK_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        const float *restrict x = c->x + (size_t)i * c->width;
        float *restrict y = c->y + (size_t)i * c->width;
        float mean = row_sum(x, c->width) / (float)c->width;
        float variance = row_squares(x, c->width, mean) / (float)c->width;
        float scale = 1.0f / __builtin_sqrtf(variance + NORM_EPSILON);
        c->moments[2 * i] = mean;
        c->moments[2 * i + 1] = scale;
        for (uint32_t j = 0; j < c->width; j++)
            y[j] = (x[j] - mean) * scale * c->gain[j] + c->bias[j];
    }
}

void cpu_norm(struct device *device, const struct compute_norm *c)
{
    pool_run(device->pool, cpu_chunk_count(c->n, CPU_CHUNK_ROWS), norm_piece, (void *)c);
}

/* With h = (x - mean) * scale and d = gain * y_gradient: scale * (d - mean(d) - h * mean(d h)). */
static void norm_back_row(const struct compute_norm_back *c, uint32_t i)
{
    uint32_t width = c->width;
    const float *restrict x = c->x + (size_t)i * width;
    const float *restrict g = c->y_gradient + (size_t)i * width;
    float *restrict out = c->x_gradient + (size_t)i * width;
    float mean = c->moments[2 * i], scale = c->moments[2 * i + 1];
    float sum[LANES] = {0}, product[LANES] = {0};
    uint32_t j = 0;
    for (; j + LANES <= width; j += LANES) {
        for (uint32_t k = 0; k < LANES; k++) {
            float d = g[j + k] * c->gain[j + k];
            sum[k] += d;
            product[k] += d * ((x[j + k] - mean) * scale);
        }
    }
    for (uint32_t k = 0; j + k < width; k++) {
        float d = g[j + k] * c->gain[j + k];
        sum[k] += d;
        product[k] += d * ((x[j + k] - mean) * scale);
    }
    float d_mean = lanes_sum(sum) / (float)width;
    float dh_mean = lanes_sum(product) / (float)width;
    for (j = 0; j < width; j++) {
        float h = (x[j] - mean) * scale;
        float gradient = scale * (g[j] * c->gain[j] - d_mean - h * dh_mean);
        out[j] = c->add ? out[j] + gradient : gradient;
    }
}

static void norm_back_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_norm_back *c = context;
    struct cpu_range r = cpu_chunk(c->n, CPU_CHUNK_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++)
        norm_back_row(c, i);
}

static void gain_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_norm_back *c = context;
    struct cpu_range r = cpu_chunk(c->width, COLUMN_TILE, index);
    uint32_t width = r.end - r.first;
    float *gain = c->gain_gradient + r.first, *bias = c->bias_gradient + r.first;
    memset(gain, 0, width * sizeof *gain);
    memset(bias, 0, width * sizeof *bias);
    float gain_part[COLUMN_TILE], bias_part[COLUMN_TILE];
    for (uint32_t first = 0; first < c->n; first += CPU_CHUNK_ROWS) {
        uint32_t end = c->n - first < CPU_CHUNK_ROWS ? c->n : first + CPU_CHUNK_ROWS;
        memset(gain_part, 0, sizeof gain_part);
        memset(bias_part, 0, sizeof bias_part);
        for (uint32_t i = first; i < end; i++) {
            const float *x = c->x + (size_t)i * c->width + r.first;
            const float *g = c->y_gradient + (size_t)i * c->width + r.first;
            float mean = c->moments[2 * i], scale = c->moments[2 * i + 1];
            for (uint32_t j = 0; j < width; j++) {
                gain_part[j] += g[j] * ((x[j] - mean) * scale);
                bias_part[j] += g[j];
            }
        }
        for (uint32_t j = 0; j < width; j++) {
            gain[j] += gain_part[j];
            bias[j] += bias_part[j];
        }
    }
}

void cpu_norm_back(struct device *device, const struct compute_norm_back *c)
{
    pool_run(device->pool, cpu_chunk_count(c->width, COLUMN_TILE), gain_piece, (void *)c);
    pool_run(device->pool, cpu_chunk_count(c->n, CPU_CHUNK_ROWS), norm_back_piece, (void *)c);
}

/* ---- dropout -------------------------------------------------------------------------------- */

static void dropout_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_dropout *d = context;
    struct cpu_range r = cpu_chunk(d->n, CPU_CHUNK_ROWS, index);
    float rate = (float)d->rate;
    float kept = (float)(1.0 / (1.0 - d->rate));
    uint64_t step_key = rng_at(d->key, d->step);
    for (uint32_t i = r.first; i < r.end; i++) {
        const float *restrict x = d->x + (size_t)i * d->width;
        float *restrict y = d->y + (size_t)i * d->width;
        float *restrict mask = d->mask + (size_t)i * d->width;
        uint64_t key = rng_at(step_key, d->first_example + i);
        for (uint32_t j = 0; j < d->width; j++)
            mask[j] = rng_uniform(rng_at(key, j)) < rate ? 0.0f : kept;
        for (uint32_t j = 0; j < d->width; j++)
            y[j] = x[j] * mask[j];
    }
}

void cpu_dropout(struct device *device, const struct compute_dropout *d)
{
    pool_run(device->pool, cpu_chunk_count(d->n, CPU_CHUNK_ROWS), dropout_piece, (void *)d);
}

static struct cpu_range float_chunk(size_t count, uint32_t index, size_t *first)
{
    *first = (size_t)index * FINITE_CHUNK;
    size_t left = count - *first;
    return (struct cpu_range){0, left < FINITE_CHUNK ? (uint32_t)left : FINITE_CHUNK};
}

static void multiply_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_multiply *m = context;
    size_t first;
    struct cpu_range r = float_chunk(m->count, index, &first);
    float *restrict x = m->x + first;
    const float *restrict mask = m->mask + first;
    for (uint32_t i = 0; i < r.end; i++)
        x[i] *= mask[i];
}

void cpu_multiply(struct device *device, const struct compute_multiply *m)
{
    pool_run(device->pool, cpu_chunk_count(m->count, FINITE_CHUNK), multiply_piece, (void *)m);
}

/* ---- check ---------------------------------------------------------------------------------- */

static void check_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_check *c = context;
    size_t first;
    struct cpu_range r = float_chunk(c->count, index, &first);
    float *x = c->x + first;
    uint32_t bad = 0;
    for (uint32_t i = 0; c->scale != 1.0f && i < r.end; i++)
        x[i] *= c->scale;
    for (uint32_t i = 0; i < r.end; i++)
        bad |= (fmath_bits(x[i]) & 0x7f800000u) == 0x7f800000u;
    if (bad)
        __atomic_store_n(c->bad, 1, __ATOMIC_RELAXED);
}

void cpu_check(struct device *device, const struct compute_check *c)
{
    pool_run(device->pool, cpu_chunk_count(c->count, FINITE_CHUNK), check_piece, (void *)c);
}
