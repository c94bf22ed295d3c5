#include "worker/kernels_rows.cuh"

/* ffm; what is computed is said in compute_cpu_fields.c. Forth a block an example, a thread a pair
 * of fields; back by row. */

#define WARP    32u
#define THREADS 128u

struct field_terms {
    const float *v; /* of row 0 */
    const uint32_t *ids;
    const float *values; /* NULL: 1 */
    uint32_t first, end, dim;
};

DEVICE_CALL static inline field_terms terms_of(const struct compute_table &t, uint32_t example,
                                               uint32_t field)
{
    const struct batch_table *b = t.terms;
    uint64_t cell = (uint64_t)example * b->slot_count + (field - t.first_field);
    return {t.rows + t.v_offset, b->ids, b->values, b->offsets[cell], b->offsets[cell + 1], t.dim};
}

DEVICE_CALL static inline float value_of(const field_terms &f, uint32_t k)
{
    return f.values != NULL ? f.values[k] : 1.0f;
}

DEVICE_CALL static inline const float *vector_of(const field_terms &f, uint32_t k)
{
    return f.v + (uint64_t)f.ids[k] * f.dim;
}

/* ---- forward --------------------------------------------------------------------------------- */

struct example_room {
    float *side;        /* [THREADS / WARP] */
    uint16_t *table_of; /* [field_count] */
};

/* In each thread of the block. */
DEVICE float block_sum(float x, float *side)
{
    float sum = sum_over(x, WARP);
    if (threadIdx.x % WARP == 0)
        side[threadIdx.x / WARP] = sum;
    block_sync();
    sum = side[0];
    for (uint32_t i = 1; i < THREADS / WARP; i++)
        sum += side[i];
    block_sync();
    return sum;
}

/* Products of the terms of field a with those of field b, or, b = a, with each other. */
DEVICE float field_pair(const struct compute_terms &t, const example_room &room, uint32_t example,
                        uint32_t a, uint32_t b)
{
    field_terms fa = terms_of(t.there.tables[room.table_of[a]], example, a);
    field_terms fb = terms_of(t.there.tables[room.table_of[b]], example, b);
    float sum = 0;
    for (uint32_t i = fa.first; i < fa.end; i++) {
        const float *va = vector_of(fa, i) + (uint64_t)b * t.factor_dim;
        uint32_t end = a == b ? i : fb.end;
        float part = 0;
        for (uint32_t j = fb.first; j < end; j++) {
            const float *vb = vector_of(fb, j) + (uint64_t)a * t.factor_dim;
            float product = 0;
            for (uint32_t k = 0; k < t.factor_dim; k++)
                product = fmaf(va[k], vb[k], product);
            part += product * value_of(fb, j);
        }
        sum += part * value_of(fa, i);
    }
    return sum;
}

/* Of number p = a (a + 1) / 2 + b, b <= a: a. */
DEVICE uint32_t first_of(uint32_t p)
{
    uint32_t a = (uint32_t)((sqrtf(8.0f * (float)p + 1.0f) - 1.0f) * 0.5f);
    while (a > 0 && a * (a + 1) / 2 > p)
        a--;
    while ((a + 1) * (a + 2) / 2 <= p)
        a++;
    return a;
}

/* Shares of one thread: Σ x² and Σ w x over the example's terms. */
struct linear_sums {
    float squares, linear;
};
DEVICE linear_sums linear_shares(const struct compute_terms &t, uint32_t example)
{
    linear_sums s = {0, 0};
    for (uint32_t i = 0; i < t.table_count; i++) {
        const struct compute_table &table = t.there.tables[i];
        const struct batch_table *b = table.terms;
        uint32_t end = b->offsets[(uint64_t)(example + 1) * b->slot_count];
        uint32_t k = b->offsets[(uint64_t)example * b->slot_count] + threadIdx.x;
        for (; k < end; k += THREADS) {
            float x = b->values != NULL ? b->values[k] : 1.0f;
            s.squares += x * x;
            s.linear += table.rows[(uint64_t)b->ids[k] * table.dim + table.w_offset] * x;
        }
    }
    return s;
}

KERNEL field_terms_kernel(struct compute_terms t)
{
    SHARED(float, side);
    example_room room = {side, (uint16_t *)(side + THREADS / WARP)};
    uint32_t example = blockIdx.x;
    for (uint32_t i = threadIdx.x; i < t.table_count; i += THREADS) {
        const struct compute_table &table = t.there.tables[i];
        for (uint32_t s = 0; s < table.terms->slot_count; s++)
            room.table_of[table.first_field + s] = (uint16_t)i;
    }
    block_sync();
    linear_sums shares = linear_shares(t, example);
    float pairs = 0;
    uint32_t count = t.field_count * (t.field_count + 1) / 2;
    for (uint32_t p = threadIdx.x; p < count; p += THREADS) {
        uint32_t a = first_of(p);
        pairs += field_pair(t, room, example, a, p - a * (a + 1) / 2);
    }
    float squares = block_sum(shares.squares, side);
    float linear = block_sum(shares.linear, side);
    pairs = block_sum(pairs, side);
    float scale = 1.0f;
    if (t.norms != NULL)
        scale = squares > 0 ? 1.0f / sqrtf(squares) : 1.0f;
    if (threadIdx.x > 0)
        return;
    if (t.norms != NULL)
        t.norms[example] = scale;
    t.logits[example] = *t.bias + linear * scale + pairs * (scale * scale);
}

void kernel_field_terms(struct kernel_stream k, const struct compute_terms *t)
{
    size_t shared = THREADS / WARP * sizeof(float) + t->field_count * sizeof(uint16_t);
    LAUNCH_BLOCKS(field_terms_kernel, t->n, THREADS, shared, k, *t);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* A column of v is factor k of the vector for field `other`. */
struct field_column {
    const struct compute_table *table; /* of that field */
    uint32_t other, k;
};

struct fields_source {
    struct compute_terms t;

    DEVICE_CALL uint32_t columns(const struct compute_table &table) const
    {
        uint32_t count = t.field_count * t.factor_dim;
        return count > 0 ? count : 1;
    }
    DEVICE_CALL field_column column_of(const struct compute_table &table, uint32_t c) const
    {
        if (t.factor_dim == 0)
            return {&table, 0, 0};
        uint32_t other = c / t.factor_dim, i = t.table_count - 1;
        while (t.there.tables[i].first_field > other || t.there.tables[i].terms->slot_count == 0)
            i--;
        return {t.there.tables + i, other, c - other * t.factor_dim};
    }
    DEVICE_CALL void add(const struct compute_table &table, const field_column &column,
                         uint32_t row, uint32_t at, row_sums &sums) const
    {
        const struct batch_table *b = table.terms;
        uint32_t example = b->by_row_cells[at] / b->slot_count;
        uint32_t own = table.first_field + b->by_row_cells[at] - example * b->slot_count;
        float x = b->by_row_values != NULL ? b->by_row_values[at] : 1.0f;
        float norm = t.norms != NULL ? t.norms[example] : 1.0f;
        float g = t.gradient[example] * (x * norm);
        sums.linear += g;
        if (t.factor_dim == 0)
            return;
        g *= norm;
        field_terms f = terms_of(*column.table, example, column.other);
        uint64_t place = (uint64_t)own * t.factor_dim + column.k;
        if (column.other == own && f.end - f.first == 1)
            return;
        for (uint32_t j = f.first; j < f.end; j++)
            sums.sum += vector_of(f, j)[place] * (g * value_of(f, j));
        if (column.other == own)
            sums.sum -= table.rows[(uint64_t)row * table.dim + table.v_offset + place] * (g * x);
    }
    DEVICE_CALL void write(const struct compute_table &table, uint32_t row, uint32_t c,
                           const row_sums &sums) const
    {
        uint64_t first = (uint64_t)row * table.dim;
        if (t.factor_dim > 0)
            table.row_gradients[first + table.v_offset + c] = sums.sum;
        if (c == 0)
            table.row_gradients[first + table.w_offset] = sums.linear;
    }
};

void kernel_field_terms_back(struct kernel_stream k, const struct compute_terms *t)
{
    struct fields_source s = {*t};
    sum_rows(k, s, &t->there, t->table_count, group_size(t->field_count * t->factor_dim));
    struct compute_columns bias = {t->n, 1, t->gradient, t->bias_gradient};
    kernel_column_sums(k, &bias);
}
