#include "worker/compute_cpu.h"

#include <string.h>

/*
 * Factors are worked on in tiles of 32, 16, 8, 4 or 1 columns, whose sums stay in registers; the
 * usual dimensions are one tile. `always_inline` with constant arguments makes one loop for each.
 *
 * Backwards every row belongs to one piece, which adds up its terms in the order of the examples
 * and writes the row's gradient once: dL/dw = Σ g x', dL/dv = Σ (g x') S_i - v Σ g x'² over the
 * row's terms, with S_i of the whole example.
 */
#define KERNEL static inline __attribute__((always_inline))

#define TERM_ROWS       128u       /* examples in a piece */
#define GRADIENT_ROWS   512u       /* rows of a table in a piece */
#define PREFETCH_FLOATS (1u << 18) /* of a table too large for the caches next to a core */

/*
 * A tile's sums, in vectors or, if it has less than 8 columns, in `narrow`. The vectors are spelled
 * out because the compiler makes none of loops as short as these.
 */
typedef float vec __attribute__((vector_size(32)));
typedef float vec_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

struct tile {
    vec wide[4];
    float narrow[4];
};

static inline vec load(const float *x)
{
    return *(const vec_unaligned *)x;
}

static inline void store(float *x, vec v)
{
    *(vec_unaligned *)x = v;
}

/* The widest tile for `left` columns; 0: none. */
static inline uint32_t tile_width(uint32_t left)
{
    return left >= 32 ? 32 : left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 1;
}

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
                      uint32_t width, struct tile *sum, struct tile *square)
{
    const float *rows = r->rows + offset;
    for (uint32_t k = 0; k < r->count; k++) {
        const float *v = rows + r->ids[k] * r->dim;
        float x = weighted ? r->values[k] * scale : scale;
        for (uint32_t j = 0; j < width / 8; j++) {
            vec p = load(v + 8 * j) * x;
            sum->wide[j] += p;
            square->wide[j] += p * p;
        }
        for (uint32_t j = 0; j < width % 8; j++) {
            float p = v[j] * x;
            sum->narrow[j] += p;
            square->narrow[j] += p * p;
        }
    }
}

/* Σ_j (S_j² - Q_j) of a tile; stores S. */
KERNEL float finish_tile(uint32_t width, const struct tile *sum, const struct tile *square,
                         float *out)
{
    if (width < 8) {
        float pairs = 0;
        for (uint32_t j = 0; j < width; j++) {
            out[j] = sum->narrow[j];
            pairs += sum->narrow[j] * sum->narrow[j] - square->narrow[j];
        }
        return pairs;
    }
    vec pairs = {0};
    for (uint32_t j = 0; j < width / 8; j++) {
        store(out + 8 * j, sum->wide[j]);
        pairs += sum->wide[j] * sum->wide[j] - square->wide[j];
    }
    return ((pairs[0] + pairs[4]) + (pairs[2] + pairs[6])) +
           ((pairs[1] + pairs[5]) + (pairs[3] + pairs[7]));
}

KERNEL float factor_tile(const struct compute_terms *t, uint32_t example, float scale,
                         uint32_t column, uint32_t width)
{
    struct tile sum = {0}, square = {0};
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        struct term_range r = example_terms(table, example);
        uint32_t offset = table->v_offset + column;
        if (r.values != NULL)
            add_terms(&r, offset, scale, true, width, &sum, &square);
        else
            add_terms(&r, offset, scale, false, width, &sum, &square);
    }
    return finish_tile(width, &sum, &square, t->sums + (size_t)example * t->factor_dim + column);
}

static float factors(const struct compute_terms *t, uint32_t example, float scale)
{
    float pairs = 0;
    uint32_t width;
    for (uint32_t column = 0; (width = tile_width(t->factor_dim - column)) > 0; column += width) {
        switch (width) {
        case 32:
            pairs += factor_tile(t, example, scale, column, 32);
            break;
        case 16:
            pairs += factor_tile(t, example, scale, column, 16);
            break;
        case 8:
            pairs += factor_tile(t, example, scale, column, 8);
            break;
        case 4:
            pairs += factor_tile(t, example, scale, column, 4);
            break;
        default:
            pairs += factor_tile(t, example, scale, column, 1);
            break;
        }
    }
    return 0.5f * pairs;
}

float cpu_linear(const struct compute_terms *t, uint32_t example, float scale)
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

float cpu_inverse_norm(const struct compute_terms *t, uint32_t example)
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

/* Rows of a large table are anywhere in memory: those of the next example are asked for early. */
static inline void prefetch_rows(const struct compute_terms *t, uint32_t example)
{
    for (uint32_t i = 0; i < t->table_count; i++) {
        struct term_range r = example_terms(&t->tables[i], example);
        if (t->tables[i].terms->key_count * r.dim < PREFETCH_FLOATS)
            continue;
        size_t last = r.dim - 1;
        for (uint32_t k = 0; k < r.count; k++) {
            const float *row = r.rows + r.ids[k] * r.dim;
            __builtin_prefetch(row);
            __builtin_prefetch(row + last);
        }
    }
}

static void forward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_terms *t = context;
    struct cpu_range r = cpu_chunk(t->n, TERM_ROWS, index);
    for (uint32_t i = r.first; i < r.end; i++) {
        float scale = 1.0f;
        if (i + 1 < r.end)
            prefetch_rows(t, i + 1);
        if (t->norms != NULL)
            t->norms[i] = scale = cpu_inverse_norm(t, i);
        float logit = cpu_linear(t, i, scale);
        t->logits[i] = t->factor_dim > 0 ? logit + factors(t, i, scale) : logit;
    }
}

void cpu_terms(struct device *device, const struct compute_terms *t)
{
    pool_run(device->pool, cpu_chunk_count(t->n, TERM_ROWS), forward_piece, (void *)t);
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
                              struct tile *sum)
{
    struct row_sums total = {0, 0};
    const float *sums = t->sums + column;
    for (uint32_t k = 0; k < r->count; k++) {
        uint32_t example = cpu_divide(r->slots, r->cells[k]);
        float x = weighted ? r->values[k] : 1.0f;
        if (normalized)
            x *= t->norms[example];
        float gx = t->gradient[example] * x;
        total.linear += gx;
        total.square += gx * x;
        const float *s = sums + (size_t)example * t->factor_dim;
        for (uint32_t j = 0; j < width / 8; j++)
            sum->wide[j] += load(s + 8 * j) * gx;
        for (uint32_t j = 0; j < width % 8; j++)
            sum->narrow[j] += s[j] * gx;
    }
    return total;
}

/* Writes the gradient of the tile's columns of v, and returns that of w. */
KERNEL float gradient_tile(const struct compute_terms *t, const struct row_terms *r, const float *v,
                           float *out, uint32_t column, uint32_t width)
{
    struct tile sum = {0};
    struct row_sums total;
    if (t->norms != NULL && r->values != NULL)
        total = gather(t, r, true, true, column, width, &sum);
    else if (t->norms != NULL)
        total = gather(t, r, false, true, column, width, &sum);
    else if (r->values != NULL)
        total = gather(t, r, true, false, column, width, &sum);
    else
        total = gather(t, r, false, false, column, width, &sum);
    v += column;
    out += column;
    for (uint32_t j = 0; j < width / 8; j++)
        store(out + 8 * j, sum.wide[j] - load(v + 8 * j) * total.square);
    for (uint32_t j = 0; j < width % 8; j++)
        out[j] = sum.narrow[j] - v[j] * total.square;
    return total.linear;
}

/* Every tile gives the same gradient of w. */
static float row_gradient(const struct compute_terms *t, const struct row_terms *r, const float *v,
                          float *out)
{
    if (t->factor_dim == 0)
        return gradient_tile(t, r, v, out, 0, 0);
    float w = 0;
    uint32_t width;
    for (uint32_t column = 0; (width = tile_width(t->factor_dim - column)) > 0; column += width) {
        switch (width) {
        case 32:
            w = gradient_tile(t, r, v, out, column, 32);
            break;
        case 16:
            w = gradient_tile(t, r, v, out, column, 16);
            break;
        case 8:
            w = gradient_tile(t, r, v, out, column, 8);
            break;
        case 4:
            w = gradient_tile(t, r, v, out, column, 4);
            break;
        default:
            w = gradient_tile(t, r, v, out, column, 1);
            break;
        }
    }
    return w;
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

float cpu_sum_in_chunks(const float *x, uint32_t n)
{
    float sum = 0;
    for (uint32_t first = 0; first < n; first += CPU_CHUNK_ROWS) {
        uint32_t end = n - first < CPU_CHUNK_ROWS ? n : first + CPU_CHUNK_ROWS;
        float part = 0;
        for (uint32_t i = first; i < end; i++)
            part += x[i];
        sum += part;
    }
    return sum;
}

void cpu_terms_back(struct device *device, const struct compute_terms *t)
{
    for (uint32_t i = 0; i < t->table_count; i++) {
        const struct compute_table *table = &t->tables[i];
        struct back_context c = {t, table, cpu_divisor_make(table->terms->slot_count)};
        pool_run(device->pool, cpu_chunk_count(table->terms->key_count, GRADIENT_ROWS),
                 backward_piece, &c);
    }
    *t->bias_gradient = cpu_sum_in_chunks(t->gradient, t->n);
}
