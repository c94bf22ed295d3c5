#include "worker/compute_cpu.h"

#include <string.h>

/* ---- copy ------------------------------------------------------------------------------------ */

static void copy_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_copy *c = context;
    struct cpu_range r = cpu_chunk(c->n, CPU_CHUNK_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        float *restrict y = c->y + i * c->y_stride;
        if (c->x == NULL) {
            memset(y, 0, c->width * sizeof *y);
            continue;
        }
        const float *restrict x = c->x + i * c->x_stride;
        if (!c->add)
            memcpy(y, x, c->width * sizeof *y);
        else
            for (uint32_t j = 0; j < c->width; j++)
                y[j] += x[j];
    }
}

void cpu_copy(struct device *device, const struct compute_copy *c)
{
    pool_run(device->pool, cpu_chunk_count(c->n, CPU_CHUNK_ROWS), copy_piece, (void *)c);
}

/* ---- cross ----------------------------------------------------------------------------------- */

static void cross_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_cross *c = context;
    struct cpu_range r = cpu_chunk(c->n, CPU_CHUNK_ROWS, index);
    const float *restrict bias = c->bias;
    for (uint32_t i = r.first; i < r.end; i++) {
        const float *x = c->x + i * c->x_stride, *x0 = c->x0 + i * c->x0_stride;
        const float *restrict t = c->t + (size_t)i * c->width;
        float *restrict y = c->y + (size_t)i * c->width;
        for (uint32_t j = 0; j < c->width; j++)
            y[j] = x0[j] * (t[j] + bias[j]) + x[j];
    }
}

void cpu_cross(struct device *device, const struct compute_cross *c)
{
    pool_run(device->pool, cpu_chunk_count(c->n, CPU_CHUNK_ROWS), cross_piece, (void *)c);
}

static void cross_back_row(const struct compute_cross *c, uint32_t i)
{
    uint32_t width = c->width;
    const float *restrict g = c->y_gradient + (size_t)i * width;
    const float *restrict x0 = c->x0 + i * c->x0_stride, *restrict bias = c->bias;
    float *restrict t = c->t + (size_t)i * width;
    if (c->x_gradient != NULL) {
        float *restrict out = c->x_gradient + i * c->x_stride;
        if (c->add_x)
            for (uint32_t j = 0; j < width; j++)
                out[j] += g[j];
        else
            memcpy(out, g, width * sizeof *out);
    }
    if (c->x0_gradient != NULL) {
        float *restrict out = c->x0_gradient + i * c->x0_stride;
        if (c->add_x0)
            for (uint32_t j = 0; j < width; j++)
                out[j] += g[j] * (t[j] + bias[j]);
        else
            for (uint32_t j = 0; j < width; j++)
                out[j] = g[j] * (t[j] + bias[j]);
    }
    for (uint32_t j = 0; j < width; j++)
        t[j] = g[j] * x0[j];
}

static void cross_back_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_cross *c = context;
    struct cpu_range r = cpu_chunk(c->n, CPU_CHUNK_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++)
        cross_back_row(c, i);
}

void cpu_cross_back(struct device *device, const struct compute_cross *c)
{
    pool_run(device->pool, cpu_chunk_count(c->n, CPU_CHUNK_ROWS), cross_back_piece, (void *)c);
}
