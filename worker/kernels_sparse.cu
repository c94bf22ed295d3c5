#include "worker/kernels_rows.cuh"

#define WARP 32u

/* ---- lr, fm: a group of threads an example, a thread a factor -------------------------------- */

struct term_range {
    uint32_t first, end;
};

DEVICE term_range example_terms(const struct compute_table &t, uint32_t example)
{
    const struct batch_table *b = t.terms;
    return {b->offsets[(uint64_t)example * b->slot_count],
            b->offsets[(uint64_t)(example + 1) * b->slot_count]};
}

DEVICE float value_at(const struct batch_table *b, uint32_t k)
{
    return b->values != NULL ? b->values[k] : 1.0f;
}

/* 1 / |x| of the example's terms, in each thread of the group. */
DEVICE float inverse_norm(const struct compute_terms &t, uint32_t example, bool active,
                          uint32_t lane, uint32_t group)
{
    float squares = 0;
    for (uint32_t i = 0; active && i < t.table_count; i++) {
        const struct compute_table &table = t.there.tables[i];
        term_range r = example_terms(table, example);
        for (uint32_t k = r.first + lane; k < r.end; k += group) {
            float x = value_at(table.terms, k);
            squares += x * x;
        }
    }
    squares = sum_over(squares, group);
    return squares > 0 ? 1.0f / sqrtf(squares) : 1.0f;
}

/* Of one thread: its share of Σ w x'. */
DEVICE float linear_share(const struct compute_terms &t, uint32_t example, float scale,
                          uint32_t lane, uint32_t group)
{
    float sum = 0;
    for (uint32_t i = 0; i < t.table_count; i++) {
        const struct compute_table &table = t.there.tables[i];
        term_range r = example_terms(table, example);
        for (uint32_t k = r.first + lane; k < r.end; k += group) {
            uint64_t row = (uint64_t)table.terms->ids[k] * table.dim;
            sum += table.rows[row + table.w_offset] * (value_at(table.terms, k) * scale);
        }
    }
    return sum;
}

/* S² - Σ v² x'² of one column; S is stored. */
DEVICE float factor_pairs(const struct compute_terms &t, uint32_t example, float scale,
                          uint32_t column)
{
    float sum = 0, square = 0;
    for (uint32_t i = 0; i < t.table_count; i++) {
        const struct compute_table &table = t.there.tables[i];
        term_range r = example_terms(table, example);
        const float *v = table.rows + table.v_offset + column;
        UNROLL
        for (uint32_t k = r.first; k < r.end; k++) {
            float p =
                v[(uint64_t)table.terms->ids[k] * table.dim] * (value_at(table.terms, k) * scale);
            sum += p;
            square += p * p;
        }
    }
    t.sums[(uint64_t)example * t.factor_dim + column] = sum;
    return sum * sum - square;
}

KERNEL terms_kernel(struct compute_terms t, uint32_t group)
{
    uint32_t lane = threadIdx.x % group;
    uint64_t number = ((uint64_t)blockIdx.x * KERNEL_THREADS + threadIdx.x) / group;
    bool active = number < t.n;
    uint32_t example = active ? (uint32_t)number : 0;
    float scale = t.norms != NULL ? inverse_norm(t, example, active, lane, group) : 1.0f;
    float linear = active ? linear_share(t, example, scale, lane, group) : 0.0f;
    float pairs = 0;
    for (uint32_t column = lane; active && column < t.factor_dim; column += group)
        pairs += factor_pairs(t, example, scale, column);
    linear = sum_over(linear, group);
    pairs = sum_over(pairs, group);
    if (!active || lane > 0)
        return;
    if (t.norms != NULL)
        t.norms[example] = scale;
    t.logits[example] = *t.bias + linear + 0.5f * pairs;
}

void kernel_terms(struct kernel_stream k, const struct compute_terms *t)
{
    uint32_t group = group_size(t->factor_dim);
    group = group < WARP ? group : WARP;
    LAUNCH_BLOCKS(terms_kernel, ceil_div(t->n, KERNEL_THREADS / group), KERNEL_THREADS, 0, k, *t,
                  group);
}

/* dL/dw = Σ g x', dL/dv = Σ (g x') S - v Σ g x'². */
struct terms_source {
    struct compute_terms t;

    DEVICE_CALL uint32_t columns(const struct compute_table &table) const
    {
        return t.factor_dim > 0 ? t.factor_dim : 1;
    }
    DEVICE_CALL uint32_t column_of(const struct compute_table &table, uint32_t c) const
    {
        return c;
    }
    DEVICE_CALL void add(const struct compute_table &table, uint32_t column, uint32_t row,
                         uint32_t k, row_sums &sums) const
    {
        const struct batch_table *b = table.terms;
        uint32_t example = b->by_row_cells[k] / b->slot_count;
        float x = b->by_row_values != NULL ? b->by_row_values[k] : 1.0f;
        if (t.norms != NULL)
            x *= t.norms[example];
        float gx = t.gradient[example] * x;
        sums.linear += gx;
        sums.square += gx * x;
        if (t.factor_dim > 0)
            sums.sum += t.sums[(uint64_t)example * t.factor_dim + column] * gx;
    }
    DEVICE_CALL void write(const struct compute_table &table, uint32_t row, uint32_t c,
                           const row_sums &sums) const
    {
        uint64_t first = (uint64_t)row * table.dim;
        if (c < t.factor_dim) {
            uint64_t at = first + table.v_offset + c;
            table.row_gradients[at] = sums.sum - table.rows[at] * sums.square;
        }
        if (c == 0)
            table.row_gradients[first + table.w_offset] = sums.linear;
    }
};

void kernel_terms_back(struct kernel_stream k, const struct compute_terms *t)
{
    struct terms_source s = {*t};
    sum_rows(k, s, &t->there, t->table_count, group_size(t->factor_dim));
    struct compute_columns bias = {t->n, 1, t->gradient, t->bias_gradient};
    kernel_column_sums(k, &bias);
}

/* ---- dense input and pooled embeddings ------------------------------------------------------- */

KERNEL input_kernel(struct compute_input c)
{
    const struct compute_table &t = c.there.tables[blockIdx.y];
    const struct batch_table *b = t.terms;
    uint32_t width = b->slot_count * t.v_dim;
    EACH(i, (uint64_t)c.n * width)
    {
        place_at at = place_of(i, width);
        uint64_t cell = (uint64_t)at.row * b->slot_count + at.column / t.v_dim;
        const float *v = t.rows + t.v_offset + at.column % t.v_dim;
        uint32_t end = b->offsets[cell + 1];
        float sum = 0;
        for (uint32_t k = b->offsets[cell]; k < end; k++)
            sum += v[(uint64_t)b->ids[k] * t.dim] * value_at(b, k);
        c.y[(uint64_t)at.row * c.width + t.input_offset + at.column] = sum;
    }
}

void kernel_input(struct kernel_stream k, const struct compute_input *c)
{
    struct compute_copy dense = {c->n,     c->dense_width, c->dense_width, c->width,
                                 c->dense, c->y,           false};
    if (c->dense_width > 0)
        kernel_copy(k, &dense);
    uint64_t most = 0;
    for (uint32_t i = 0; i < c->table_count; i++) {
        uint64_t width = (uint64_t)c->tables[i].terms->slot_count * c->tables[i].v_dim;
        most = width > most ? width : most;
    }
    dim3 blocks(blocks_for(c->n * most), c->table_count);
    if (most > 0)
        LAUNCH(input_kernel, blocks, KERNEL_THREADS, k, *c);
}

struct input_source {
    struct compute_input c;

    DEVICE_CALL uint32_t columns(const struct compute_table &table) const
    {
        return table.v_dim;
    }
    DEVICE_CALL uint32_t column_of(const struct compute_table &table, uint32_t column) const
    {
        return column;
    }
    DEVICE_CALL void add(const struct compute_table &table, uint32_t column, uint32_t row,
                         uint32_t k, row_sums &sums) const
    {
        const struct batch_table *b = table.terms;
        uint32_t example = b->by_row_cells[k] / b->slot_count;
        uint32_t slot = b->by_row_cells[k] - example * b->slot_count;
        float x = b->by_row_values != NULL ? b->by_row_values[k] : 1.0f;
        const float *g = c.y_gradient + (uint64_t)example * c.width + table.input_offset;
        sums.sum += g[(uint64_t)slot * table.v_dim + column] * x;
    }
    DEVICE_CALL void write(const struct compute_table &table, uint32_t row, uint32_t column,
                           const row_sums &sums) const
    {
        table.row_gradients[(uint64_t)row * table.dim + table.v_offset + column] = sums.sum;
    }
};

void kernel_input_back(struct kernel_stream k, const struct compute_input *c)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < c->table_count; i++)
        widest = c->tables[i].v_dim > widest ? c->tables[i].v_dim : widest;
    struct input_source s = {*c};
    sum_rows(k, s, &c->there, c->table_count, group_size(widest));
}
