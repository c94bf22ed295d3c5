#include "worker/compute_cpu.h"

#include <string.h>

/*
 * Vectors of the machine run over the columns of x, except in dot's way forth, where they run over
 * j of <x_i, x_j>: there x is turned around in blocks, so that no sum goes across a vector. Sums
 * are added in the order of columns, then of vectors of x.
 */
#define KERNEL static inline __attribute__((always_inline))

#define VECTOR_ROWS 64u /* examples in a piece */
#define BLOCK_J     32u /* of the products' second index */
#define BLOCK_K     64u /* of columns */

typedef float vec __attribute__((vector_size(32)));
typedef float vec_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

static inline vec load(const float *x)
{
    return *(const vec_unaligned *)x;
}

static inline void store(float *x, vec v)
{
    *(vec_unaligned *)x = v;
}

/* ---- fm -------------------------------------------------------------------------------------- */

/* Σ (S² - Σ x²) over `width` columns, 8 or 1; stores S. */
KERNEL float fm_columns(const float *x, uint32_t count, uint32_t dim, uint32_t width, float *sums)
{
    if (width == 1) {
        float sum = 0, square = 0;
        for (uint32_t i = 0; i < count; i++) {
            float p = x[(size_t)i * dim];
            sum += p;
            square += p * p;
        }
        *sums = sum;
        return sum * sum - square;
    }
    vec sum = {0}, square = {0};
    for (uint32_t i = 0; i < count; i++) {
        vec p = load(x + (size_t)i * dim);
        sum += p;
        square += p * p;
    }
    store(sums, sum);
    vec pairs = sum * sum - square;
    return ((pairs[0] + pairs[4]) + (pairs[2] + pairs[6])) +
           ((pairs[1] + pairs[5]) + (pairs[3] + pairs[7]));
}

static void fm_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_vectors *v = context;
    struct cpu_range r = cpu_chunk(v->n, VECTOR_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        const float *x = v->x + i * v->x_stride;
        float *sums = v->sums + (size_t)i * v->dim;
        float pairs = 0;
        uint32_t k = 0;
        for (; k + 8 <= v->dim; k += 8)
            pairs += fm_columns(x + k, v->count, v->dim, 8, sums + k);
        for (; k < v->dim; k++)
            pairs += fm_columns(x + k, v->count, v->dim, 1, sums + k);
        v->y[i] = 0.5f * pairs;
    }
}

void cpu_fm(struct device *device, const struct compute_vectors *v)
{
    pool_run(device->pool, cpu_chunk_count(v->n, VECTOR_ROWS), fm_piece, (void *)v);
}

KERNEL void fm_gradient(const struct compute_vectors *v, uint32_t example, bool add)
{
    const float *restrict x = v->x + example * v->x_stride;
    const float *restrict sums = v->sums + (size_t)example * v->dim;
    float *restrict out = v->x_gradient + example * v->x_stride;
    float g = v->y_gradient[example];
    uint32_t dim = v->dim;
    for (uint32_t i = 0; i < v->count; i++, x += dim, out += dim) {
        for (uint32_t k = 0; k < dim; k++) {
            float gradient = g * (sums[k] - x[k]);
            out[k] = add ? out[k] + gradient : gradient;
        }
    }
}

static void fm_back_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_vectors *v = context;
    struct cpu_range r = cpu_chunk(v->n, VECTOR_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        if (v->add)
            fm_gradient(v, i, true);
        else
            fm_gradient(v, i, false);
    }
}

void cpu_fm_back(struct device *device, const struct compute_vectors *v)
{
    pool_run(device->pool, cpu_chunk_count(v->n, VECTOR_ROWS), fm_back_piece, (void *)v);
}

/* ---- dot ------------------------------------------------------------------------------------- */

/* turned[k][j] = x[j0 + j][k0 + k]; what lies beyond x is 0. */
static void turn_block(const struct compute_vectors *v, const float *x, uint32_t j0, uint32_t k0,
                       uint32_t width, float turned[BLOCK_K][BLOCK_J])
{
    uint32_t left = v->count - j0;
    uint32_t count = left < BLOCK_J ? left : BLOCK_J;
    for (uint32_t j = 0; j < BLOCK_J; j++) {
        const float *from = x + (size_t)(j0 + j) * v->dim + k0;
        for (uint32_t k = 0; k < width; k++)
            turned[k][j] = j < count ? from[k] : 0.0f;
    }
}

/* <x_i, x_j> over a block of columns for `groups` times 8 values of j. */
KERNEL void block_products(const float *x, uint32_t width, uint32_t groups,
                           const float turned[BLOCK_K][BLOCK_J], vec *sum)
{
    for (uint32_t k = 0; k < width; k++)
        for (uint32_t g = 0; g < groups; g++)
            sum[g] += load(turned[k] + 8 * g) * x[k];
}

static void row_products(const float *x, uint32_t width, uint32_t count,
                         const float turned[BLOCK_K][BLOCK_J], bool add, float *y)
{
    vec sum[BLOCK_J / 8] = {{0}};
    float products[BLOCK_J] = {0};
    uint32_t groups = (count + 7) / 8;
    if (groups == 1)
        block_products(x, width, 1, turned, sum);
    else if (groups == 2)
        block_products(x, width, 2, turned, sum);
    else if (groups == 3)
        block_products(x, width, 3, turned, sum);
    else
        block_products(x, width, 4, turned, sum);
    for (uint32_t g = 0; g < groups; g++)
        store(products + 8 * g, sum[g]);
    for (uint32_t j = 0; j < count; j++)
        y[j] = add ? y[j] + products[j] : products[j];
}

static void dot_example(const struct compute_vectors *v, const float *x, float *y)
{
    float turned[BLOCK_K][BLOCK_J];
    for (uint32_t j0 = 0; j0 + 1 < v->count; j0 += BLOCK_J) {
        for (uint32_t k0 = 0; k0 < v->dim; k0 += BLOCK_K) {
            uint32_t width = v->dim - k0 < BLOCK_K ? v->dim - k0 : BLOCK_K;
            turn_block(v, x, j0, k0, width, turned);
            for (uint32_t i = j0 + 1; i < v->count; i++) {
                uint32_t count = i - j0 < BLOCK_J ? i - j0 : BLOCK_J;
                row_products(x + (size_t)i * v->dim + k0, width, count, turned, k0 > 0,
                             y + (size_t)i * (i - 1) / 2 + j0);
            }
        }
    }
}

static size_t product_count(const struct compute_vectors *v)
{
    return (size_t)v->count * (v->count - 1) / 2;
}

static void dot_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_vectors *v = context;
    struct cpu_range r = cpu_chunk(v->n, VECTOR_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++)
        dot_example(v, v->x + i * v->x_stride, v->y + i * product_count(v));
}

void cpu_dot(struct device *device, const struct compute_vectors *v)
{
    pool_run(device->pool, cpu_chunk_count(v->n, VECTOR_ROWS), dot_piece, (void *)v);
}

/* Σ_{j≠i} g_ij x_j over `width` columns, 16, 8 or 1. */
KERNEL void dot_gradient(const struct compute_vectors *v, const float *x, const float *g,
                         uint32_t i, uint32_t width, float *out)
{
    vec sum[2] = {{0}};
    float narrow = 0;
    const float *row = g + (size_t)i * (i - 1) / 2; /* of j < i; 0 for i = 0 */
    for (uint32_t j = 0; j < v->count; j++, x += v->dim) {
        if (j == i)
            continue;
        float weight = j < i ? row[j] : g[(size_t)j * (j - 1) / 2 + i];
        for (uint32_t k = 0; k < width / 8; k++)
            sum[k] += load(x + 8 * k) * weight;
        if (width == 1)
            narrow += *x * weight;
    }
    for (uint32_t k = 0; k < width / 8; k++)
        store(out + 8 * k, v->add ? load(out + 8 * k) + sum[k] : sum[k]);
    if (width == 1)
        *out = v->add ? *out + narrow : narrow;
}

static void dot_back_example(const struct compute_vectors *v, const float *x, const float *g,
                             float *out)
{
    for (uint32_t i = 0; i < v->count; i++, out += v->dim) {
        uint32_t k = 0;
        for (; k + 16 <= v->dim; k += 16)
            dot_gradient(v, x + k, g, i, 16, out + k);
        for (; k + 8 <= v->dim; k += 8)
            dot_gradient(v, x + k, g, i, 8, out + k);
        for (; k < v->dim; k++)
            dot_gradient(v, x + k, g, i, 1, out + k);
    }
}

static void dot_back_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_vectors *v = context;
    struct cpu_range r = cpu_chunk(v->n, VECTOR_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++)
        dot_back_example(v, v->x + i * v->x_stride, v->y_gradient + i * product_count(v),
                         v->x_gradient + i * v->x_stride);
}

void cpu_dot_back(struct device *device, const struct compute_vectors *v)
{
    pool_run(device->pool, cpu_chunk_count(v->n, VECTOR_ROWS), dot_back_piece, (void *)v);
}
