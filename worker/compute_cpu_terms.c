#include "worker/compute_cpu.h"

#include <string.h>

/*
 * Factors are worked on in tiles of 32, 16, 8, 4, 2 or 1 columns, whose sums stay in registers;
 * usual dimensions are one tile. `always_inline` with a constant width makes one loop for each.
 *
 * Backwards every row belongs to one piece, which adds up its terms in the order of the examples
 * and writes the row's gradient once: dL/dw = Σ g x',  dL/dv = Σ (g x') S_i - v Σ g x'²,  over the
 * row's terms, with S_i of the whole example.
 */
#define KERNEL static inline __attribute__((always_inline))

#define TERM_ROWS     128u /* examples in a piece */
#define GRADIENT_ROWS 512u /* rows of a table in a piece */

/* ---- forward -------------------------------------------------------------------------------- */

struct term_range {
    const float *rows;
    const uint32_t *ids;
    const float *values; /* NULL: 1 */
    uint32_t count;
    size_t dim;
};

static inline struct term_range example_terms(const struct compute_table *t, uint32_t example)
{
    const struct batch_table *b = t->terms;
    uint32_t first = b->offsets[(size_t)example * b->slot_count];
    uint32_t end = b->offsets[(size_t)(example + 1) * b->slot_count];
    return (struct term_range){.rows = t->rows,
                               .ids = b->ids + first,
                               .values = b->values != NULL ? b->values + first : NULL,
                               .count = end - first,
                               .dim = t->dim};
}

KERNEL void add_terms(const struct term_range *r, uint32_t offset, float scale, bool weighted,
                      uint32_t width, float *sum, float *square)
{
    const float *rows = r->rows + offset;
    for (uint32_t k = 0; k < r->count; k++) {
        const float *v = rows + r->ids[k] * r->dim;
        float x = weighted ? r->values[k] * scale : scale;
        for (uint32_t j = 0; j < width; j++) {
            float p = v[j] * x;
            sum[j] += p;
            square[j] = __builtin_fmaf(p, p, square[j]);
        }
    }
}

/* Σ_j (S_j² - Q_j) of the tile at `column`, and S. */
KERNEL float factor_tile(const struct compute_terms *t, uint32_t example, float scale,
                         uint32_t column, uint32_t width)
{
    float sum[32] = {0}, square[32] = {0};
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        struct term_range r = example_terms(table, example);
        uint32_t offset = table->v_offset + column;
        if (r.values != NULL)
            add_terms(&r, offset, scale, true, width, sum, square);
        else
            add_terms(&r, offset, scale, false, width, sum, square);
    }
    memcpy(t->sums + (size_t)example * t->factor_dim + column, sum, width * sizeof(float));
    for (uint32_t j = 0; j < width; j++)
        square[j] = sum[j] * sum[j] - square[j];
    for (uint32_t half = width / 2; half > 0; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            square[j] += square[j + half];
    return square[0];
}

static float factors(const struct compute_terms *t, uint32_t example, float scale)
{
    float pairs = 0;
    uint32_t column = 0, dim = t->factor_dim;
    for (; dim - column >= 32; column += 32)
        pairs += factor_tile(t, example, scale, column, 32);
    if (dim - column >= 16) {
        pairs += factor_tile(t, example, scale, column, 16);
        column += 16;
    }
    if (dim - column >= 8) {
        pairs += factor_tile(t, example, scale, column, 8);
        column += 8;
    }
    if (dim - column >= 4) {
        pairs += factor_tile(t, example, scale, column, 4);
        column += 4;
    }
    for (; column < dim; column++)
        pairs += factor_tile(t, example, scale, column, 1);
    return 0.5f * pairs;
}

static float linear(const struct compute_terms *t, uint32_t example, float scale)
{
    float sum = *t->bias;
    for (uint32_t i = 0; i < t->table_count; i++) {
        struct term_range r = example_terms(&t->tables[i], example);
        const float *w = r.rows + t->tables[i].w_offset;
        float part = 0;
        if (r.values != NULL) {
            for (uint32_t k = 0; k < r.count; k++)
                part += w[r.ids[k] * r.dim] * (r.values[k] * scale);
        } else {
            for (uint32_t k = 0; k < r.count; k++)
                part += w[r.ids[k] * r.dim] * scale;
        }
        sum += part;
    }
    return sum;
}

/* 1 / |x|; an example without terms, or with zeros alone, keeps its zeros. */
static float inverse_norm(const struct compute_terms *t, uint32_t example)
{
    float squares = 0;
    for (uint32_t i = 0; i < t->table_count; i++) {
        struct term_range r = example_terms(&t->tables[i], example);
        float part = r.values == NULL ? (float)r.count : 0;
        for (uint32_t k = 0; r.values != NULL && k < r.count; k++)
            part += r.values[k] * r.values[k];
        squares += part;
    }
    return squares > 0 ? 1.0f / __builtin_sqrtf(squares) : 1.0f;
}

static void forward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_terms *t = context;
    struct cpu_range r = cpu_chunk(t->n, TERM_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        float scale = 1.0f;
        if (t->norms != NULL)
            t->norms[i] = scale = inverse_norm(t, i);
        float logit = linear(t, i, scale);
        t->logits[i] = t->factor_dim > 0 ? logit + factors(t, i, scale) : logit;
    }
}

void cpu_terms(struct pool *pool, const struct compute_terms *t)
{
    pool_run(pool, cpu_chunk_count(t->n, TERM_ROWS), forward_piece, (void *)t);
}

/* ---- backward ------------------------------------------------------------------------------- */

struct row_terms {
    const uint32_t *cells;
    const float *values; /* NULL: 1 */
    uint32_t count;
    struct cpu_divisor slots;
};

struct row_sums {
    float linear; /* Σ g x' */
    float square; /* Σ g x'² */
};

KERNEL struct row_sums gather(const struct compute_terms *t, const struct row_terms *r,
                              bool weighted, bool normalized, uint32_t column, uint32_t width,
                              float *sum)
{
    struct row_sums total = {0, 0};
    for (uint32_t k = 0; k < r->count; k++) {
        uint32_t example = cpu_divide(r->slots, r->cells[k]);
        float x = weighted ? r->values[k] : 1.0f;
        if (normalized)
            x *= t->norms[example];
        float gx = weighted || normalized ? t->gradient[example] * x : t->gradient[example];
        total.linear += gx;
        if (weighted || normalized)
            total.square += gx * x;
        const float *s = t->sums + (size_t)example * t->factor_dim + column;
        for (uint32_t j = 0; j < width; j++)
            sum[j] = __builtin_fmaf(gx, s[j], sum[j]);
    }
    if (!weighted && !normalized)
        total.square = total.linear;
    return total;
}

KERNEL float gradient_tile(const struct compute_terms *t, const struct row_terms *r, const float *v,
                           float *out, uint32_t column, uint32_t width)
{
    float sum[32] = {0};
    struct row_sums total;
    if (t->norms != NULL && r->values != NULL)
        total = gather(t, r, true, true, column, width, sum);
    else if (t->norms != NULL)
        total = gather(t, r, false, true, column, width, sum);
    else if (r->values != NULL)
        total = gather(t, r, true, false, column, width, sum);
    else
        total = gather(t, r, false, false, column, width, sum);
    for (uint32_t j = 0; j < width; j++)
        out[column + j] = sum[j] - v[column + j] * total.square;
    return total.linear;
}

/* Each tile gives the same sum for w; the last one's is taken. */
static float row_gradient(const struct compute_terms *t, const struct row_terms *r, const float *v,
                          float *out)
{
    float linear_sum = 0;
    uint32_t column = 0, dim = t->factor_dim;
    for (; dim - column >= 32; column += 32)
        linear_sum = gradient_tile(t, r, v, out, column, 32);
    if (dim - column >= 16) {
        linear_sum = gradient_tile(t, r, v, out, column, 16);
        column += 16;
    }
    if (dim - column >= 8) {
        linear_sum = gradient_tile(t, r, v, out, column, 8);
        column += 8;
    }
    if (dim - column >= 4) {
        linear_sum = gradient_tile(t, r, v, out, column, 4);
        column += 4;
    }
    for (; column < dim; column++)
        linear_sum = gradient_tile(t, r, v, out, column, 1);
    return dim > 0 ? linear_sum : gradient_tile(t, r, v, out, 0, 0);
}

struct back_context {
    const struct compute_terms *terms;
    const struct compute_table *table;
    struct cpu_divisor slots;
};

static void backward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct back_context *c = context;
    const struct compute_table *t = c->table;
    const struct batch_table *b = t->terms;
    struct cpu_range range = cpu_chunk(b->key_count, GRADIENT_ROWS, index);
    for (uint32_t row = range.first; row < range.end; row++) {
        uint32_t first = b->by_row_offsets[row];
        struct row_terms r = {.cells = b->by_row_cells + first,
                              .values = b->values != NULL ? b->by_row_values + first : NULL,
                              .count = b->by_row_offsets[row + 1] - first,
                              .slots = c->slots};
        float *out = t->row_gradients + (size_t)row * t->dim;
        const float *v = t->rows + (size_t)row * t->dim;
        out[t->w_offset] = row_gradient(c->terms, &r, v + t->v_offset, out + t->v_offset);
    }
}

void cpu_terms_back(struct pool *pool, const struct compute_terms *t)
{
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        struct back_context c = {t, table, cpu_divisor_make(table->terms->slot_count)};
        pool_run(pool, cpu_chunk_count(table->terms->key_count, GRADIENT_ROWS), backward_piece, &c);
    }
    float sum = 0;
    for (uint32_t first = 0; first < t->n; first += CPU_CHUNK_ROWS) {
        uint32_t end = t->n - first < CPU_CHUNK_ROWS ? t->n : first + CPU_CHUNK_ROWS;
        float part = 0;
        for (uint32_t i = first; i < end; i++)
            part += t->gradient[i];
        sum += part;
    }
    *t->bias_gradient = sum;
}
