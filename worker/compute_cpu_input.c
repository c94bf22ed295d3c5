#include "worker/compute_cpu.h"

#include <string.h>

/*
 * Columns of the input: the dense ones, then for every table its slots' pooled embeddings. As in lr
 * and fm the way back is by row of the table: one piece owns a row, adds its terms in order, writes
 * it once.
 */
#define KERNEL static inline __attribute__((always_inline))

#define INPUT_ROWS    128u /* examples in a piece */
#define GRADIENT_ROWS 512u /* rows of a table in a piece */

/* ---- forward -------------------------------------------------------------------------------- */

KERNEL void pool_slot(const struct compute_table *t, uint32_t first, uint32_t end, uint32_t width,
                      uint32_t column, float *out)
{
    const struct batch_table *b = t->terms;
    const float *rows = t->rows + t->v_offset + column;
    float sum[16] = {0};
    for (uint32_t k = first; k < end; k++) {
        const float *v = rows + (size_t)b->ids[k] * t->dim;
        float x = b->values != NULL ? b->values[k] : 1.0f;
        for (uint32_t j = 0; j < width; j++)
            sum[j] += v[j] * x;
    }
    memcpy(out + column, sum, width * sizeof(float));
}

static void pool_example(const struct compute_table *t, uint32_t example, float *y)
{
    const struct batch_table *b = t->terms;
    for (uint32_t s = 0; s < b->slot_count; s++) {
        size_t cell = (size_t)example * b->slot_count + s;
        uint32_t first = b->offsets[cell], end = b->offsets[cell + 1];
        float *out = y + t->input_offset + (size_t)s * t->v_dim;
        uint32_t column = 0;
        for (; t->v_dim - column >= 16; column += 16)
            pool_slot(t, first, end, 16, column, out);
        for (; t->v_dim - column >= 4; column += 4)
            pool_slot(t, first, end, 4, column, out);
        for (; column < t->v_dim; column++)
            pool_slot(t, first, end, 1, column, out);
    }
}

static void forward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_input *c = context;
    struct cpu_range r = cpu_chunk(c->n, INPUT_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        float *y = c->y + (size_t)i * c->width;
        if (c->dense_width > 0)
            memcpy(y, c->dense + (size_t)i * c->dense_width, c->dense_width * sizeof *y);
        for (uint32_t t = 0; t < c->table_count; t++)
            pool_example(&c->tables[t], i, y);
    }
}

void cpu_input(struct device *device, const struct compute_input *c)
{
    pool_run(device->pool, cpu_chunk_count(c->n, INPUT_ROWS), forward_piece, (void *)c);
}

/* ---- backward ------------------------------------------------------------------------------- */

struct back_context {
    const struct compute_input *input;
    const struct compute_table *table;
    struct cpu_divisor slots;
};

KERNEL void row_tile(const struct back_context *c, uint32_t row, uint32_t width, uint32_t column)
{
    const struct compute_table *t = c->table;
    const struct batch_table *b = t->terms;
    const float *gradient = c->input->y_gradient + t->input_offset + column;
    float sum[16] = {0};
    for (uint32_t k = b->by_row_offsets[row]; k < b->by_row_offsets[row + 1]; k++) {
        uint32_t example = cpu_divide(c->slots, b->by_row_cells[k]);
        uint32_t slot = b->by_row_cells[k] - example * b->slot_count;
        float x = b->values != NULL ? b->by_row_values[k] : 1.0f;
        const float *g = gradient + (size_t)example * c->input->width + (size_t)slot * t->v_dim;
        for (uint32_t j = 0; j < width; j++)
            sum[j] += g[j] * x;
    }
    memcpy(t->row_gradients + (size_t)row * t->dim + t->v_offset + column, sum,
           width * sizeof(float));
}

static void backward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct back_context *c = context;
    struct cpu_range r = cpu_chunk(c->table->terms->key_count, GRADIENT_ROWS, index);
    uint32_t dim = c->table->v_dim;
    for (uint32_t row = r.first; row < r.end; row++) {
        uint32_t column = 0;
        for (; dim - column >= 16; column += 16)
            row_tile(c, row, 16, column);
        for (; dim - column >= 4; column += 4)
            row_tile(c, row, 4, column);
        for (; column < dim; column++)
            row_tile(c, row, 1, column);
    }
}

void cpu_input_back(struct device *device, const struct compute_input *c)
{
    for (uint32_t i = 0; i < c->table_count; i++) {
        const struct compute_table *table = &c->tables[i];
        struct back_context b = {c, table, cpu_divisor_make(table->terms->slot_count)};
        pool_run(device->pool, cpu_chunk_count(table->terms->key_count, GRADIENT_ROWS),
                 backward_piece, &b);
    }
}
