/*
 * Goal: the operations on parts of arrays (copies, cross layers, pairs of vectors, products that
 * add to what is there) compute their formulas, leave alone what they do not own, and give the same
 * bits for 1, 2 and 3 threads.
 *
 * Method: x lies in rows that are longer than it, with marks behind each row; formulas in float64,
 * written plainly, over shapes around the sizes where work and blocks are cut. A result may differ
 * by 2e-6 of the largest number of its array; fm's, a small difference of large sums, by 2e-5.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "tests/support/random_batch.h"
#include "worker/compute.h"
#include "worker/compute_cpu.h"
#include "worker/network.h"

#define PADDING 3u
#define MARK    12345.0f

struct shape {
    uint32_t n, count, dim; /* examples; vectors of an example; floats of a vector */
};

static const struct shape shapes[] = {
    {1, 2, 1},   {3, 2, 8},    {5, 3, 4},   {63, 7, 16}, {64, 8, 5},   {65, 9, 24},
    {257, 2, 3}, {66, 27, 16}, {2, 33, 64}, {3, 40, 65}, {2, 65, 130}, {600, 5, 10},
};

struct arrays {
    struct shape s;
    uint32_t width; /* of x: count * dim */
    size_t stride;  /* of x and x_gradient */
    uint32_t pairs; /* of vectors */
    float *x, *x0, *t, *bias, *y_gradient, *x_gradient, *weight;
};

static float *padded(uint64_t seed, const struct arrays *a)
{
    float *x = random_floats(seed, a->s.n * a->stride, 1);
    for (uint32_t i = 0; i < a->s.n; i++)
        for (uint32_t j = a->width; j < a->stride; j++)
            x[i * a->stride + j] = MARK;
    return x;
}

static void arrays_init(struct arrays *a, const struct shape *s)
{
    *a = (struct arrays){.s = *s, .width = s->count * s->dim};
    a->stride = a->width + PADDING;
    a->pairs = s->count * (s->count - 1) / 2;
    uint32_t widest = a->width > a->pairs ? a->width : a->pairs;
    a->x = padded(1, a);
    a->x0 = padded(2, a);
    a->x_gradient = padded(3, a);
    a->t = random_floats(4, (size_t)s->n * a->width, 1);
    a->bias = random_floats(5, a->width, 1);
    a->y_gradient = random_floats(6, (size_t)s->n * widest, 1);
    a->weight = random_floats(7, (size_t)a->width * 4, 1);
}

static void arrays_deinit(struct arrays *a)
{
    float *const all[] = {a->x, a->x0, a->x_gradient, a->t, a->bias, a->y_gradient, a->weight};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mem_free(all[i]);
}

static double x_at(const struct arrays *a, const float *x, uint32_t i, uint32_t j)
{
    return (double)x[i * a->stride + j];
}

/* ---- operations ------------------------------------------------------------------------------ */

/* `out` is where the operation writes: of `width` columns, with a stride. */
struct operation {
    const char *name;
    bool is_gradient; /* out is like x_gradient, else it is [n][out_width] */
    uint32_t (*out_width)(const struct arrays *a);
    void (*run)(struct pool *pool, const struct arrays *a, float *out, bool add);
    double (*formula)(const struct arrays *a, uint32_t i, uint32_t j);
};

static uint32_t one(const struct arrays *a)
{
    return 1;
}

static uint32_t pairs(const struct arrays *a)
{
    return a->pairs;
}

static uint32_t width(const struct arrays *a)
{
    return a->width;
}

static void run_copy(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_copy c = {a->s.n, a->width, a->stride, a->stride, a->x, out, add};
    compute_cpu()->copy(CPU_DEVICE(pool), &c);
}

static double formula_copy(const struct arrays *a, uint32_t i, uint32_t j)
{
    return x_at(a, a->x, i, j);
}

static void run_zeros(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_copy c = {.n = a->s.n, .width = a->width, .y_stride = a->stride, .y = out};
    if (!add)
        compute_cpu()->copy(CPU_DEVICE(pool), &c);
}

static double formula_zeros(const struct arrays *a, uint32_t i, uint32_t j)
{
    return 0;
}

static struct compute_cross cross_of(const struct arrays *a)
{
    return (struct compute_cross){.n = a->s.n,
                                  .width = a->width,
                                  .x_stride = a->stride,
                                  .x0_stride = a->stride,
                                  .x = a->x,
                                  .x0 = a->x0,
                                  .bias = a->bias,
                                  .t = a->t,
                                  .y_gradient = a->y_gradient};
}

static void run_cross(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_cross c = cross_of(a);
    c.y = out;
    compute_cpu()->cross(CPU_DEVICE(pool), &c);
}

static double formula_cross(const struct arrays *a, uint32_t i, uint32_t j)
{
    double t = (double)a->t[(size_t)i * a->width + j] + (double)a->bias[j];
    return x_at(a, a->x0, i, j) * t + x_at(a, a->x, i, j);
}

/* Runs the way back with a copy of t, which it changes. */
static void cross_back(struct pool *pool, struct compute_cross *c, float *t_out)
{
    size_t count = (size_t)c->n * c->width;
    float *t = random_floats(0, count, 0);
    memcpy(t, c->t, count * sizeof *t);
    c->t = t;
    compute_cpu()->cross_back(CPU_DEVICE(pool), c);
    if (t_out != NULL)
        memcpy(t_out, t, count * sizeof *t);
    mem_free(t);
}

static void run_cross_x(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_cross c = cross_of(a);
    c.x_gradient = out;
    c.add_x = add;
    cross_back(pool, &c, NULL);
}

static double formula_cross_x(const struct arrays *a, uint32_t i, uint32_t j)
{
    return (double)a->y_gradient[(size_t)i * a->width + j];
}

static void run_cross_x0(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_cross c = cross_of(a);
    c.x0_gradient = out;
    c.add_x0 = add;
    cross_back(pool, &c, NULL);
}

static double formula_cross_x0(const struct arrays *a, uint32_t i, uint32_t j)
{
    double t = (double)a->t[(size_t)i * a->width + j] + (double)a->bias[j];
    return (double)a->y_gradient[(size_t)i * a->width + j] * t;
}

/* x and x0 are one array, as in a first cross layer. */
static void run_cross_both(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_cross c = cross_of(a);
    c.x_gradient = c.x0_gradient = out;
    c.add_x = add;
    c.add_x0 = true;
    cross_back(pool, &c, NULL);
}

static double formula_cross_both(const struct arrays *a, uint32_t i, uint32_t j)
{
    return formula_cross_x(a, i, j) + formula_cross_x0(a, i, j);
}

static void run_cross_t(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_cross c = cross_of(a);
    cross_back(pool, &c, out);
}

static double formula_cross_t(const struct arrays *a, uint32_t i, uint32_t j)
{
    return (double)a->y_gradient[(size_t)i * a->width + j] * x_at(a, a->x0, i, j);
}

static struct compute_vectors vectors_of(const struct arrays *a)
{
    return (struct compute_vectors){.n = a->s.n,
                                    .count = a->s.count,
                                    .dim = a->s.dim,
                                    .x_stride = a->stride,
                                    .x = a->x,
                                    .y_gradient = a->y_gradient};
}

static double product(const struct arrays *a, uint32_t example, uint32_t i, uint32_t j)
{
    double sum = 0;
    for (uint32_t k = 0; k < a->s.dim; k++)
        sum += x_at(a, a->x, example, i * a->s.dim + k) * x_at(a, a->x, example, j * a->s.dim + k);
    return sum;
}

static void run_fm(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_vectors v = vectors_of(a);
    v.sums = random_floats(0, (size_t)a->s.n * a->s.dim, 0);
    v.y = out;
    compute_cpu()->fm(CPU_DEVICE(pool), &v);
    mem_free(v.sums);
}

static double formula_fm(const struct arrays *a, uint32_t example, uint32_t column)
{
    double sum = 0;
    for (uint32_t i = 0; i < a->s.count; i++)
        for (uint32_t j = 0; j < i; j++)
            sum += product(a, example, i, j);
    return sum;
}

static void run_fm_back(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_vectors v = vectors_of(a);
    float *y = random_floats(0, a->s.n, 0);
    v.sums = random_floats(0, (size_t)a->s.n * a->s.dim, 0);
    v.y = y;
    compute_cpu()->fm(CPU_DEVICE(pool), &v);
    v.x_gradient = out;
    v.add = add;
    compute_cpu()->fm_back(CPU_DEVICE(pool), &v);
    mem_free(v.sums);
    mem_free(y);
}

static double formula_fm_back(const struct arrays *a, uint32_t i, uint32_t column)
{
    double sum = 0;
    for (uint32_t k = 0; k < a->s.count; k++)
        if (k != column / a->s.dim)
            sum += x_at(a, a->x, i, k * a->s.dim + column % a->s.dim);
    return sum * (double)a->y_gradient[i];
}

static void run_dot(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_vectors v = vectors_of(a);
    v.y = out;
    compute_cpu()->dot(CPU_DEVICE(pool), &v);
}

static double formula_dot(const struct arrays *a, uint32_t example, uint32_t column)
{
    uint32_t i = 1;
    while (i * (i + 1) / 2 <= column)
        i++;
    return product(a, example, i, column - i * (i - 1) / 2);
}

static void run_dot_back(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_vectors v = vectors_of(a);
    v.x_gradient = out;
    v.add = add;
    compute_cpu()->dot_back(CPU_DEVICE(pool), &v);
}

static double formula_dot_back(const struct arrays *a, uint32_t example, uint32_t column)
{
    uint32_t i = column / a->s.dim;
    double sum = 0;
    for (uint32_t j = 0; j < a->s.count; j++) {
        if (j == i)
            continue;
        uint32_t big = i > j ? i : j, small = i > j ? j : i;
        float g = a->y_gradient[(size_t)example * a->pairs + big * (big - 1) / 2 + small];
        sum += (double)g * x_at(a, a->x, example, j * a->s.dim + column % a->s.dim);
    }
    return sum;
}

/* y_gradient and weight with 4 columns. */
static void run_gemm_input(struct pool *pool, const struct arrays *a, float *out, bool add)
{
    struct compute_gemm g = {.n = a->s.n,
                             .in = a->width,
                             .out = 4,
                             .x_stride = (uint32_t)a->stride,
                             .weight = a->weight,
                             .y_gradient = a->x,
                             .x_gradient = out,
                             .add = add};
    float *y_gradient = random_floats(8, (size_t)a->s.n * 4, 1);
    g.y_gradient = y_gradient;
    compute_cpu()->gemm_input(CPU_DEVICE(pool), &g);
    mem_free(y_gradient);
}

static double formula_gemm_input(const struct arrays *a, uint32_t i, uint32_t j)
{
    float *y_gradient = random_floats(8, (size_t)a->s.n * 4, 1);
    double sum = 0;
    for (uint32_t k = 0; k < 4; k++)
        sum += (double)y_gradient[i * 4 + k] * (double)a->weight[j * 4 + k];
    mem_free(y_gradient);
    return sum;
}

static const struct operation operations[] = {
    {"copy", true, width, run_copy, formula_copy},
    {"zeros", true, width, run_zeros, formula_zeros},
    {"gemm_input", true, width, run_gemm_input, formula_gemm_input},
    {"cross", false, width, run_cross, formula_cross},
    {"cross back to x", true, width, run_cross_x, formula_cross_x},
    {"cross back to x0", true, width, run_cross_x0, formula_cross_x0},
    {"cross back to both", true, width, run_cross_both, formula_cross_both},
    {"cross back to t", false, width, run_cross_t, formula_cross_t},
    {"fm", false, one, run_fm, formula_fm},
    {"fm back", true, width, run_fm_back, formula_fm_back},
    {"dot", false, pairs, run_dot, formula_dot},
    {"dot back", true, width, run_dot_back, formula_dot_back},
};

/* ---- the test -------------------------------------------------------------------------------- */

static float *result(const struct operation *o, const struct arrays *a, struct pool *pool, bool add)
{
    size_t count = o->is_gradient ? a->s.n * a->stride : (size_t)a->s.n * o->out_width(a);
    float *out = random_floats(0, count, 0);
    if (o->is_gradient)
        memcpy(out, a->x_gradient, count * sizeof *out);
    o->run(pool, a, out, add);
    return out;
}

static void check_formula(const struct operation *o, const struct arrays *a, const float *out,
                          bool add)
{
    uint32_t columns = o->out_width(a);
    size_t stride = o->is_gradient ? a->stride : columns;
    double largest = 1e-3, worst = 0;
    for (uint32_t i = 0; i < a->s.n; i++) {
        for (uint32_t j = 0; j < columns; j++) {
            double expected = o->formula(a, i, j);
            if (add)
                expected += (double)a->x_gradient[i * stride + j];
            largest = fmax(largest, fabs(expected));
            worst = fmax(worst, fabs(expected - (double)out[i * stride + j]));
        }
        for (size_t j = columns; j < stride; j++)
            assert_true(out[i * stride + j] == MARK);
    }
    if (!(worst <= (o->run == run_fm ? 2e-5 : 2e-6) * largest))
        fail_msg("%s of %u x %u x %u, add %d: off by %g, largest %g", o->name, a->s.n, a->s.count,
                 a->s.dim, add, worst, largest);
}

static void check_operation(const struct operation *o, const struct shape *s, bool add)
{
    struct arrays a;
    arrays_init(&a, s);
    float *alone = result(o, &a, NULL, add);
    check_formula(o, &a, alone, add);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_create(threads);
        float *out = result(o, &a, pool, add);
        size_t count = o->is_gradient ? a.s.n * a.stride : (size_t)a.s.n * o->out_width(&a);
        assert_memory_equal(out, alone, count * sizeof *out);
        mem_free(out);
        pool_destroy(pool);
    }
    mem_free(alone);
    arrays_deinit(&a);
}

static void test_operations(void **state)
{
    for (size_t o = 0; o < sizeof operations / sizeof operations[0]; o++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            check_operation(&operations[o], &shapes[s], false);
            if (operations[o].is_gradient && operations[o].run != run_zeros)
                check_operation(&operations[o], &shapes[s], true);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
