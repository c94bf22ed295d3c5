#include "worker/compute_cpu.h"

#include <string.h>

#include "common/limits.h"

/*
 * A row is large (a vector for each field), and a pair of terms touches 16 bytes of each of two
 * rows. So both ways go example by example, whose rows stay in the nearest cache while all pairs
 * are gone through. Backwards each thread owns a part of the rows and goes through all examples; a
 * row's terms are added in the order of examples whoever owns it, so the number of parts changes
 * no bit.
 *
 * With g = dL/dlogit: dL/dv_i[f] = g x_i Σ x_j v_j[field of i] over the example's terms j of field
 * f, without i itself: where i has others in its field, what it gives itself is added with theirs
 * and taken off again.
 */
#define KERNEL static inline __attribute__((always_inline))

#define TERM_ROWS 64u /* examples in a piece of the way forth */
#define PARTS_MAX 64u

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
    const float *rows;  /* v of row 0 */
    const float *first; /* v of the first term's row */
    const uint32_t *ids;
    const float *values; /* NULL: 1 */
    size_t dim;
    uint32_t count;
    float x; /* of the first term; 0 if there is none */
};

static inline struct field example_field(const struct compute_table *t, uint32_t example,
                                         uint32_t slot)
{
    const struct batch_table *b = t->terms;
    size_t cell = (size_t)example * b->slot_count + slot;
    uint32_t first = b->offsets[cell], count = b->offsets[cell + 1] - first;
    const float *rows = t->rows + t->v_offset;
    float x = b->values != NULL && count > 0 ? b->values[first] : 1.0f;
    return (struct field){.rows = rows,
                          .first = count > 0 ? rows + (size_t)b->ids[first] * t->dim : rows,
                          .ids = b->ids + first,
                          .values = b->values != NULL ? b->values + first : NULL,
                          .dim = t->dim,
                          .count = count,
                          .x = count > 0 ? x : 0.0f};
}

static inline const float *row_of(const struct field *f, uint32_t k)
{
    return f->rows + f->ids[k] * f->dim;
}

static inline float value_of(const struct field *f, uint32_t k)
{
    return f->values != NULL ? f->values[k] : 1.0f;
}

/* -> whether no field has more than one term. */
static bool list_fields(const struct compute_terms *t, uint32_t example, struct field *fields)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        for (uint32_t s = 0; s < table->terms->slot_count; s++) {
            struct field *f = &fields[table->first_field + s];
            *f = example_field(table, example, s);
            most = f->count > most ? f->count : most;
        }
    }
    return most <= 1;
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

/* The same for fields of one term each, or none. */
KERNEL float single_products(const struct field *fields, uint32_t count, uint32_t dim)
{
    float sum = 0;
    for (uint32_t a = 1; a < count; a++) {
        if (fields[a].count == 0)
            continue;
        vec part = {0};
        float tail = 0;
        const float *va = fields[a].first;
        for (uint32_t b = 0; b < a; b++, va += dim) {
            const float *vb = fields[b].first + (size_t)a * dim;
            uint32_t k = 0;
            for (; k + 4 <= dim; k += 4)
                part += load(va + k) * load(vb + k) * fields[b].x;
            for (; k < dim; k++)
                tail += va[k] * vb[k] * fields[b].x;
        }
        sum += (((part[0] + part[2]) + (part[1] + part[3])) + tail) * fields[a].x;
    }
    return sum;
}

KERNEL float all_products(const struct field *fields, uint32_t count, bool single, uint32_t dim)
{
    if (single)
        return single_products(fields, count, dim);
    float sum = 0;
    for (uint32_t a = 0; a < count; a++) {
        float part = inner_products(fields, a, dim);
        for (uint32_t b = 0; b < a; b++)
            part += field_products(fields, a, b, dim);
        sum += part;
    }
    return sum;
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
        bool single = list_fields(t, i, fields);
        if (t->factor_dim == 4)
            pairs = all_products(fields, t->field_count, single, 4);
        else if (t->factor_dim == 8)
            pairs = all_products(fields, t->field_count, single, 8);
        else
            pairs = all_products(fields, t->field_count, single, t->factor_dim);
        t->logits[i] = cpu_linear(t, i, scale) + pairs * (scale * scale);
    }
}

void cpu_field_terms(struct device *device, const struct compute_terms *t)
{
    pool_run(device->pool, cpu_chunk_count(t->n, TERM_ROWS), forward_piece, (void *)t);
}

/* ---- backward -------------------------------------------------------------------------------- */

struct back_context {
    const struct compute_terms *terms;
    uint32_t parts;
};

/* A term: of which field, its value, and the factor g of its gradient. */
struct term {
    uint32_t field;
    float x, g;
};

KERNEL void add_scaled(float *out, const float *v, float scale, uint32_t dim)
{
    uint32_t k = 0;
    for (; k + 4 <= dim; k += 4)
        store(out + k, load(out + k) + load(v + k) * scale);
    for (; k < dim; k++)
        out[k] += v[k] * scale;
}

/* Adds what one term gives to the gradient of its row, whose vectors are v. */
KERNEL void add_term(const struct field *fields, uint32_t count, const struct term *term,
                     const float *v, uint32_t dim, float *out)
{
    size_t own = (size_t)term->field * dim;
    for (uint32_t g = 0; g < count; g++, out += dim) {
        const struct field *f = &fields[g];
        if (f->count == 0 || (g == term->field && f->count == 1))
            continue;
        add_scaled(out, f->first + own, term->g * f->x, dim);
        for (uint32_t k = 1; k < f->count; k++)
            add_scaled(out, row_of(f, k) + own, term->g * value_of(f, k), dim);
        if (g == term->field)
            add_scaled(out, v + own, -(term->g * term->x), dim);
    }
}

/* The same where no field has two: an absent one counts as 0 times some row. */
KERNEL void add_single(const struct field *fields, uint32_t count, const struct term *term,
                       uint32_t dim, float *out)
{
    size_t own = (size_t)term->field * dim;
    for (uint32_t g = 0; g < term->field; g++)
        add_scaled(out + (size_t)g * dim, fields[g].first + own, term->g * fields[g].x, dim);
    for (uint32_t g = term->field + 1; g < count; g++)
        add_scaled(out + (size_t)g * dim, fields[g].first + own, term->g * fields[g].x, dim);
}

/* The terms of one field of an example, as far as their rows are of this part. */
KERNEL void add_field(const struct back_context *c, const struct compute_table *table,
                      const struct field *fields, uint32_t example, uint32_t field, uint32_t part,
                      bool single, uint32_t dim)
{
    const struct compute_terms *t = c->terms;
    const struct field *f = &fields[field];
    float norm = t->norms != NULL ? t->norms[example] : 1.0f;
    for (uint32_t k = 0; k < f->count; k++) {
        uint32_t row = f->ids[k];
        if (row % c->parts != part)
            continue;
        float *out = table->row_gradients + (size_t)row * table->dim;
        float x = value_of(f, k), g = t->gradient[example] * (x * norm);
        struct term term = {field, x, g * norm};
        out[table->w_offset] += g;
        if (single)
            add_single(fields, t->field_count, &term, dim, out + table->v_offset);
        else
            add_term(fields, t->field_count, &term, row_of(f, k), dim, out + table->v_offset);
    }
}

KERNEL void add_examples(const struct back_context *c, uint32_t part, uint32_t dim)
{
    const struct compute_terms *t = c->terms;
    struct field fields[ROW_DIM_MAX];
    for (uint32_t i = 0; i < t->n; i++) {
        bool single = list_fields(t, i, fields);
        for (uint32_t k = 0; k < t->table_count; k++) {
            const struct compute_table *table = &t->tables[k];
            for (uint32_t s = 0; s < table->terms->slot_count; s++)
                add_field(c, table, fields, i, table->first_field + s, part, single, dim);
        }
    }
}

static void backward_piece(void *context, uint32_t part, uint32_t thread)
{
    const struct back_context *c = context;
    const struct compute_terms *t = c->terms;
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        for (uint32_t row = part; row < table->terms->key_count; row += c->parts)
            memset(table->row_gradients + (size_t)row * table->dim, 0, table->dim * sizeof(float));
    }
    if (t->factor_dim == 4)
        add_examples(c, part, 4);
    else if (t->factor_dim == 8)
        add_examples(c, part, 8);
    else
        add_examples(c, part, t->factor_dim);
}

void cpu_field_terms_back(struct device *device, const struct compute_terms *t)
{
    uint32_t threads = device->pool != NULL ? pool_thread_count(device->pool) : 1;
    struct back_context c = {t, threads < PARTS_MAX ? threads : PARTS_MAX};
    pool_run(device->pool, c.parts, backward_piece, &c);
    *t->bias_gradient = cpu_sum_in_chunks(t->gradient, t->n);
}
