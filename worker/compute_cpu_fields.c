#include "worker/compute_cpu.h"

#include <string.h>

#include "common/limits.h"

/*
 * Forwards all pairs of an example's fields, then the pairs within a field that has several terms.
 * Backwards, as in lr and fm, a row belongs to one piece, which adds up its terms in the order of
 * the examples and writes the row's gradient once. With g = dL/dlogit: dL/dv_i[f] = g x_i Σ x_j
 * v_j[field of i] over the example's terms j of field f, without i itself: where i has others in
 * its field, what it gives itself is added with theirs and taken off again.
 */
#define KERNEL static inline __attribute__((always_inline))

#define TERM_ROWS     64u  /* examples in a piece */
#define GRADIENT_ROWS 128u /* rows of a table in a piece */

typedef float vec __attribute__((vector_size(16)));
typedef float vec_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

static inline vec load(const float *x)
{
    return *(const vec_unaligned *)x;
}

static inline void store(float *x, vec v)
{
    *(vec_unaligned *)x = v;
}

/* The terms of one field of an example. */
struct field {
    const uint32_t *ids;
    const float *values; /* NULL: 1 */
    const float *rows;   /* v of row 0 */
    size_t dim;
    uint32_t count;
};

static inline struct field example_field(const struct compute_table *t, uint32_t example,
                                         uint32_t slot)
{
    const struct batch_table *b = t->terms;
    size_t cell = (size_t)example * b->slot_count + slot;
    uint32_t first = b->offsets[cell];
    return (struct field){.ids = b->ids + first,
                          .values = b->values != NULL ? b->values + first : NULL,
                          .rows = t->rows + t->v_offset,
                          .dim = t->dim,
                          .count = b->offsets[cell + 1] - first};
}

static inline const float *row_of(const struct field *f, uint32_t k)
{
    return f->rows + f->ids[k] * f->dim;
}

static inline float value_of(const struct field *f, uint32_t k)
{
    return f->values != NULL ? f->values[k] : 1.0f;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* <a, b>; dim a constant of 4, 8 or 16, or any other number. */
KERNEL float product(const float *a, const float *b, uint32_t dim)
{
    vec sum = {0};
    uint32_t k = 0;
    for (; k + 4 <= dim; k += 4)
        sum += load(a + k) * load(b + k);
    float tail = 0;
    for (; k < dim; k++)
        tail += a[k] * b[k];
    return ((sum[0] + sum[2]) + (sum[1] + sum[3])) + tail;
}

/* Products of the terms of field a with those of field b. */
KERNEL float field_products(const struct field *fields, uint32_t a, uint32_t b, uint32_t dim)
{
    const struct field *fa = &fields[a], *fb = &fields[b];
    float sum = 0;
    for (uint32_t i = 0; i < fa->count; i++) {
        const float *va = row_of(fa, i) + b * dim;
        float part = 0;
        for (uint32_t j = 0; j < fb->count; j++)
            part += product(va, row_of(fb, j) + a * dim, dim) * value_of(fb, j);
        sum += part * value_of(fa, i);
    }
    return sum;
}

/* Products of the terms of one field with each other. */
KERNEL float inner_products(const struct field *fields, uint32_t a, uint32_t dim)
{
    const struct field *f = &fields[a];
    float sum = 0;
    for (uint32_t i = 1; i < f->count; i++) {
        const float *v = row_of(f, i) + a * dim;
        float part = 0;
        for (uint32_t j = 0; j < i; j++)
            part += product(v, row_of(f, j) + a * dim, dim) * value_of(f, j);
        sum += part * value_of(f, i);
    }
    return sum;
}

KERNEL float all_products(const struct field *fields, uint32_t count, uint32_t dim)
{
    float sum = 0;
    for (uint32_t a = 0; a < count; a++) {
        float part = inner_products(fields, a, dim);
        for (uint32_t b = 0; b < a; b++)
            part += field_products(fields, a, b, dim);
        sum += part;
    }
    return sum;
}

static void list_fields(const struct compute_terms *t, uint32_t example, struct field *fields)
{
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        for (uint32_t s = 0; s < table->terms->slot_count; s++)
            fields[table->first_field + s] = example_field(table, example, s);
    }
}

static void forward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_terms *t = context;
    struct cpu_range r = cpu_chunk(t->n, TERM_ROWS, index);
    struct field fields[ROW_DIM_MAX];
    for (uint32_t i = r.first; i < r.end; i++) {
        float scale = 1.0f, pairs;
        if (t->norms != NULL)
            t->norms[i] = scale = cpu_inverse_norm(t, i);
        list_fields(t, i, fields);
        if (t->factor_dim == 4)
            pairs = all_products(fields, t->field_count, 4);
        else if (t->factor_dim == 8)
            pairs = all_products(fields, t->field_count, 8);
        else
            pairs = all_products(fields, t->field_count, t->factor_dim);
        t->logits[i] = cpu_linear(t, i, scale) + pairs * (scale * scale);
    }
}

void cpu_field_terms(struct pool *pool, const struct compute_terms *t)
{
    pool_run(pool, cpu_chunk_count(t->n, TERM_ROWS), forward_piece, (void *)t);
}

/* ---- backward -------------------------------------------------------------------------------- */

struct back_context {
    const struct compute_terms *terms;
    const struct compute_table *table;
    struct cpu_divisor slots;
};

KERNEL void add_scaled(float *out, const float *v, float scale, uint32_t dim)
{
    uint32_t k = 0;
    for (; k + 4 <= dim; k += 4)
        store(out + k, load(out + k) + load(v + k) * scale);
    for (; k < dim; k++)
        out[k] += v[k] * scale;
}

/* A term: of which field, its value, and the factor g of its gradient. */
struct term {
    uint32_t field;
    float x, g;
};

/* Adds what one term gives to the gradient of its row, whose vectors are v. */
KERNEL void add_term(const struct compute_terms *t, uint32_t example, const struct term *term,
                     const float *v, uint32_t dim, float *out)
{
    size_t own = (size_t)term->field * dim;
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        uint32_t slots = table->terms->slot_count;
        for (uint32_t s = 0; s < slots; s++) {
            struct field f = example_field(table, example, s);
            float *to = out + (table->first_field + s) * dim;
            bool is_own = table->first_field + s == term->field;
            if (is_own && f.count == 1)
                continue;
            for (uint32_t k = 0; k < f.count; k++)
                add_scaled(to, row_of(&f, k) + own, term->g * value_of(&f, k), dim);
            if (is_own)
                add_scaled(to, v + own, -(term->g * term->x), dim);
        }
    }
}

KERNEL void row_gradient(const struct back_context *c, uint32_t row, uint32_t dim)
{
    const struct compute_terms *t = c->terms;
    const struct compute_table *table = c->table;
    const struct batch_table *b = table->terms;
    float *out = table->row_gradients + (size_t)row * table->dim;
    const float *v = table->rows + (size_t)row * table->dim + table->v_offset;
    float w = 0;
    memset(out + table->v_offset, 0, (size_t)t->field_count * dim * sizeof *out);
    for (uint32_t k = b->by_row_offsets[row]; k < b->by_row_offsets[row + 1]; k++) {
        uint32_t example = cpu_divide(c->slots, b->by_row_cells[k]);
        uint32_t slot = b->by_row_cells[k] - example * b->slot_count;
        float x = b->values != NULL ? b->by_row_values[k] : 1.0f;
        float norm = t->norms != NULL ? t->norms[example] : 1.0f;
        float g = t->gradient[example] * (x * norm);
        w += g;
        struct term term = {table->first_field + slot, x, g * norm};
        add_term(t, example, &term, v, dim, out + table->v_offset);
    }
    out[table->w_offset] = w;
}

static void backward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct back_context *c = context;
    struct cpu_range range = cpu_chunk(c->table->terms->key_count, GRADIENT_ROWS, index);
    for (uint32_t row = range.first; row < range.end; row++) {
        if (c->terms->factor_dim == 4)
            row_gradient(c, row, 4);
        else if (c->terms->factor_dim == 8)
            row_gradient(c, row, 8);
        else
            row_gradient(c, row, c->terms->factor_dim);
    }
}

void cpu_field_terms_back(struct pool *pool, const struct compute_terms *t)
{
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        struct back_context c = {t, table, cpu_divisor_make(table->terms->slot_count)};
        pool_run(pool, cpu_chunk_count(table->terms->key_count, GRADIENT_ROWS), backward_piece, &c);
    }
    *t->bias_gradient = cpu_sum_in_chunks(t->gradient, t->n);
}
