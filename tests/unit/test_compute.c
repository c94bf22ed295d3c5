/*
 * Goal: every operation of the CPU backend computes its formula, and gives the same bits for 1, 2
 * and 3 threads. (lr, fm, pooled embeddings and whole networks are in test_network.c.)
 *
 * Method: one row in a table per operation: the call, and the formula in float64 written plainly.
 * Each is run for several shapes, around the sizes where work is cut; a result may differ from the
 * formula's by a stated part of the largest number of its array, and not at all between numbers of
 * threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/random_batch.h"
#include "tests/support/reference_model.h"
#include "worker/compute.h"
#include "worker/compute_cpu.h"
#include "worker/network.h"

struct shape {
    uint32_t n, in, out;
};

/* Arrays that operations read; `out` has `out_count` floats. */
struct data {
    struct shape s;
    float *x, *weight, *y, *y_gradient, *bias, *gain, *labels, *weights;
};

struct operation {
    const char *name;
    size_t (*out_count)(const struct shape *s);
    void (*run)(struct pool *pool, const struct data *d, float *out);
    void (*formula)(const struct data *d, double *out);
    double tolerance;
};

static size_t count_n_out(const struct shape *s)
{
    return (size_t)s->n * s->out;
}

static size_t count_n_in(const struct shape *s)
{
    return (size_t)s->n * s->in;
}

static size_t count_in_out(const struct shape *s)
{
    return (size_t)s->in * s->out;
}

static size_t count_out(const struct shape *s)
{
    return s->out;
}

/* ---- products -------------------------------------------------------------------------------- */

static void run_gemm_forward(struct pool *pool, const struct data *d, float *out)
{
    struct compute_gemm g = {d->s.n, d->s.in, d->s.out, .x = d->x, .weight = d->weight, .y = out};
    compute_cpu()->gemm_forward(CPU_DEVICE(pool), &g);
}

static void formula_gemm_forward(const struct data *d, double *out)
{
    for (uint32_t i = 0; i < d->s.n; i++)
        for (uint32_t k = 0; k < d->s.in; k++)
            for (uint32_t j = 0; j < d->s.out; j++)
                out[i * d->s.out + j] +=
                    (double)d->x[i * d->s.in + k] * (double)d->weight[k * d->s.out + j];
}

static void run_gemm_input(struct pool *pool, const struct data *d, float *out)
{
    struct compute_gemm g = {
        d->s.n,           d->s.in, d->s.out, .weight = d->weight, .y_gradient = d->y_gradient,
        .x_gradient = out};
    compute_cpu()->gemm_input(CPU_DEVICE(pool), &g);
}

static void formula_gemm_input(const struct data *d, double *out)
{
    for (uint32_t i = 0; i < d->s.n; i++)
        for (uint32_t k = 0; k < d->s.in; k++)
            for (uint32_t j = 0; j < d->s.out; j++)
                out[i * d->s.in + k] +=
                    (double)d->y_gradient[i * d->s.out + j] * (double)d->weight[k * d->s.out + j];
}

static void run_gemm_weight(struct pool *pool, const struct data *d, float *out)
{
    struct compute_gemm g = {
        d->s.n, d->s.in, d->s.out, .x = d->x, .y_gradient = d->y_gradient, .weight_gradient = out};
    compute_cpu()->gemm_weight(CPU_DEVICE(pool), &g);
}

static void formula_gemm_weight(const struct data *d, double *out)
{
    for (uint32_t i = 0; i < d->s.n; i++)
        for (uint32_t k = 0; k < d->s.in; k++)
            for (uint32_t j = 0; j < d->s.out; j++)
                out[k * d->s.out + j] +=
                    (double)d->x[i * d->s.in + k] * (double)d->y_gradient[i * d->s.out + j];
}

/* ---- activations ----------------------------------------------------------------------------- */

static double activation(enum activation a, double z)
{
    return a == ACTIVATION_RELU      ? fmax(z, 0)
           : a == ACTIVATION_TANH    ? tanh(z)
           : a == ACTIVATION_SIGMOID ? 1 / (1 + exp(-z))
                                     : z;
}

static double slope(enum activation a, double y)
{
    return a == ACTIVATION_RELU      ? y > 0
           : a == ACTIVATION_TANH    ? 1 - y * y
           : a == ACTIVATION_SIGMOID ? y * (1 - y)
                                     : 1;
}

#define ACTIVATION_ROW(NAME, KIND)                                                                 \
    static void run_##NAME(struct pool *pool, const struct data *d, float *out)                    \
    {                                                                                              \
        struct compute_activate a = {d->s.n, d->s.out, KIND, d->bias, d->y, out};                  \
        compute_cpu()->activate(CPU_DEVICE(pool), &a);                                             \
    }                                                                                              \
    static void formula_##NAME(const struct data *d, double *out)                                  \
    {                                                                                              \
        for (size_t i = 0; i < count_n_out(&d->s); i++)                                            \
            out[i] = activation(KIND, (double)d->y[i] + (double)d->bias[i % d->s.out]);            \
    }                                                                                              \
    static void run_##NAME##_back(struct pool *pool, const struct data *d, float *out)             \
    {                                                                                              \
        memcpy(out, d->y_gradient, count_n_out(&d->s) * sizeof *out);                              \
        struct compute_activate_back a = {d->s.n, d->s.out, KIND, d->y, out};                      \
        compute_cpu()->activate_back(CPU_DEVICE(pool), &a);                                        \
    }                                                                                              \
    static void formula_##NAME##_back(const struct data *d, double *out)                           \
    {                                                                                              \
        for (size_t i = 0; i < count_n_out(&d->s); i++)                                            \
            out[i] = (double)d->y_gradient[i] * slope(KIND, (double)d->y[i]);                      \
    }

ACTIVATION_ROW(none, ACTIVATION_NONE)
ACTIVATION_ROW(relu, ACTIVATION_RELU)
ACTIVATION_ROW(tanh, ACTIVATION_TANH)
ACTIVATION_ROW(sigmoid, ACTIVATION_SIGMOID)

static void run_columns(struct pool *pool, const struct data *d, float *out)
{
    struct compute_columns c = {d->s.n, d->s.out, d->y, out};
    compute_cpu()->column_sums(CPU_DEVICE(pool), &c);
}

static void formula_columns(const struct data *d, double *out)
{
    for (size_t i = 0; i < count_n_out(&d->s); i++)
        out[i % d->s.out] += (double)d->y[i];
}

/* ---- layer normalization ----------------------------------------------------------------------
 */

static double moments(const struct data *d, uint32_t row, double *scale)
{
    const float *x = d->y + (size_t)row * d->s.out;
    double mean = 0, variance = 0;
    for (uint32_t j = 0; j < d->s.out; j++)
        mean += (double)x[j] / d->s.out;
    for (uint32_t j = 0; j < d->s.out; j++)
        variance += ((double)x[j] - mean) * ((double)x[j] - mean) / d->s.out;
    *scale = 1 / sqrt(variance + 1e-5);
    return mean;
}

static void run_norm(struct pool *pool, const struct data *d, float *out)
{
    float *kept = random_floats(1, 2 * (size_t)d->s.n, 1);
    struct compute_norm c = {d->s.n, d->s.out, d->y, d->gain, d->bias, out, kept};
    compute_cpu()->norm(CPU_DEVICE(pool), &c);
    mem_free(kept);
}

static void formula_norm(const struct data *d, double *out)
{
    for (uint32_t i = 0; i < d->s.n; i++) {
        double scale, mean = moments(d, i, &scale);
        for (uint32_t j = 0; j < d->s.out; j++)
            out[i * d->s.out + j] =
                ((double)d->y[i * d->s.out + j] - mean) * scale * (double)d->gain[j] +
                (double)d->bias[j];
    }
}

/* x_gradient, then gain_gradient, then bias_gradient */
static size_t count_norm_back(const struct shape *s)
{
    return (size_t)s->n * s->out + 2 * s->out;
}

static void run_norm_back(struct pool *pool, const struct data *d, float *out)
{
    size_t count = count_n_out(&d->s);
    float *kept = random_floats(1, 2 * (size_t)d->s.n, 1), *y = random_floats(1, count, 1);
    struct compute_norm c = {d->s.n, d->s.out, d->y, d->gain, d->bias, y, kept};
    compute_cpu()->norm(CPU_DEVICE(pool), &c);
    struct compute_norm_back b = {d->s.n,  d->s.out,    d->y,
                                  d->gain, kept,        d->y_gradient,
                                  out,     out + count, out + count + d->s.out,
                                  false};
    compute_cpu()->norm_back(CPU_DEVICE(pool), &b);
    mem_free(kept);
    mem_free(y);
}

/* The normalization's Jacobian, written out: d h_k / d x_j = scale (δ_jk - 1/w - h_j h_k / w).
 */
static void formula_norm_back(const struct data *d, double *out)
{
    uint32_t width = d->s.out;
    double *gain = out + count_n_out(&d->s), *bias = gain + width;
    for (uint32_t i = 0; i < d->s.n; i++) {
        const float *x = d->y + (size_t)i * width, *g = d->y_gradient + (size_t)i * width;
        double scale, mean = moments(d, i, &scale), sum = 0, product = 0;
        for (uint32_t k = 0; k < width; k++) {
            double h = ((double)x[k] - mean) * scale;
            gain[k] += (double)g[k] * h;
            bias[k] += (double)g[k];
            sum += (double)g[k] * (double)d->gain[k];
            product += (double)g[k] * (double)d->gain[k] * h;
        }
        for (uint32_t j = 0; j < width; j++) {
            double h = ((double)x[j] - mean) * scale;
            out[i * width + j] =
                scale * ((double)g[j] * (double)d->gain[j] - sum / width - h * product / width);
        }
    }
}

/* ---- dropout ----------------------------------------------------------------------------------
 */

static void run_dropout(struct pool *pool, const struct data *d, float *out)
{
    float *mask = random_floats(1, count_n_out(&d->s), 1);
    struct compute_dropout c = {d->s.n, d->s.out, 0.3, 11, 12, 13, d->y, out, mask};
    compute_cpu()->dropout(CPU_DEVICE(pool), &c);
    struct compute_multiply m = {count_n_out(&d->s), mask, out};
    compute_cpu()->multiply(CPU_DEVICE(pool), &m);
    mem_free(mask);
}

static void formula_dropout(const struct data *d, double *out)
{
    for (uint32_t i = 0; i < d->s.n; i++) {
        for (uint32_t j = 0; j < d->s.out; j++) {
            uint64_t bits = rng_at(rng_at(rng_at(11, 12), 13 + i), j);
            double mask = rng_uniform(bits) < 0.3f ? 0 : 1 / 0.7;
            out[i * d->s.out + j] = (double)d->y[i * d->s.out + j] * mask * mask;
        }
    }
}

/* ---- losses: the gradient, then the loss ------------------------------------------------------
 */

static size_t count_softmax(const struct shape *s)
{
    return count_n_out(s) + 1;
}

static size_t count_single(const struct shape *s)
{
    return (size_t)s->n + 1;
}

static void run_loss(struct pool *pool, const struct data *d, enum loss_type type, float *out)
{
    uint32_t width = type == LOSS_SOFTMAX ? d->s.out : 1;
    double sums[64];
    struct compute_loss l = {type, d->s.n, width, d->y, d->labels, d->weights, out, sums, 0, 0};
    compute_cpu()->loss(CPU_DEVICE(pool), &l);
    out[(size_t)d->s.n * width] = (float)compute_loss_total(sums, d->s.n);
}

static double label_of(const struct data *d, uint32_t i, enum loss_type type)
{
    double label = (double)d->labels[i];
    return type == LOSS_LOGISTIC ? label > 0 : label;
}

static void formula_loss(const struct data *d, enum loss_type type, double *out)
{
    uint32_t width = type == LOSS_SOFTMAX ? d->s.out : 1;
    struct model m = {.loss = type, .output_width = width};
    double z[1024], *total = out + (size_t)d->s.n * width;
    for (uint32_t i = 0; i < d->s.n; i++) {
        double weight = (double)d->weights[i], label = label_of(d, i, type), sum = 0;
        for (uint32_t j = 0; j < width; j++) {
            z[j] = (double)d->y[i * width + j];
            sum += exp(z[j]);
        }
        *total += weight * reference_example_loss(&m, z, label);
        for (uint32_t j = 0; j < width; j++) {
            double derivative = type == LOSS_LOGISTIC  ? 1 / (1 + exp(-z[0])) - label
                                : type == LOSS_SQUARED ? z[0] - label
                                                       : exp(z[j]) / sum - (j == (uint32_t)label);
            out[i * width + j] = weight * derivative;
        }
    }
}

static void run_logistic(struct pool *pool, const struct data *d, float *out)
{
    struct data copy = *d;
    copy.labels = random_floats(1, d->s.n, 1);
    for (uint32_t i = 0; i < d->s.n; i++)
        copy.labels[i] = (float)label_of(d, i, LOSS_LOGISTIC);
    run_loss(pool, &copy, LOSS_LOGISTIC, out);
    mem_free(copy.labels);
}

static void formula_logistic(const struct data *d, double *out)
{
    formula_loss(d, LOSS_LOGISTIC, out);
}

static void run_squared(struct pool *pool, const struct data *d, float *out)
{
    run_loss(pool, d, LOSS_SQUARED, out);
}

static void formula_squared(const struct data *d, double *out)
{
    formula_loss(d, LOSS_SQUARED, out);
}

static void run_softmax(struct pool *pool, const struct data *d, float *out)
{
    run_loss(pool, d, LOSS_SOFTMAX, out);
}

static void formula_softmax(const struct data *d, double *out)
{
    formula_loss(d, LOSS_SOFTMAX, out);
}

/* ---- the table --------------------------------------------------------------------------------
 */

static const struct operation operations[] = {
    {"gemm_forward", count_n_out, run_gemm_forward, formula_gemm_forward, 2e-6},
    {"gemm_input", count_n_in, run_gemm_input, formula_gemm_input, 2e-6},
    {"gemm_weight", count_in_out, run_gemm_weight, formula_gemm_weight, 2e-6},
    {"none", count_n_out, run_none, formula_none, 2e-7},
    {"none_back", count_n_out, run_none_back, formula_none_back, 0},
    {"relu", count_n_out, run_relu, formula_relu, 2e-7},
    {"relu_back", count_n_out, run_relu_back, formula_relu_back, 0},
    {"tanh", count_n_out, run_tanh, formula_tanh, 5e-7},
    {"tanh_back", count_n_out, run_tanh_back, formula_tanh_back, 5e-7},
    {"sigmoid", count_n_out, run_sigmoid, formula_sigmoid, 5e-7},
    {"sigmoid_back", count_n_out, run_sigmoid_back, formula_sigmoid_back, 5e-7},
    {"column_sums", count_out, run_columns, formula_columns, 5e-6},
    {"norm", count_n_out, run_norm, formula_norm, 5e-6},
    {"norm_back", count_norm_back, run_norm_back, formula_norm_back, 5e-6},
    {"dropout", count_n_out, run_dropout, formula_dropout, 5e-7},
    {"logistic", count_single, run_logistic, formula_logistic, 5e-7},
    {"squared", count_single, run_squared, formula_squared, 5e-7},
    {"softmax", count_softmax, run_softmax, formula_softmax, 5e-7},
};

static void data_init(struct data *d, const struct shape *s)
{
    d->s = *s;
    d->x = random_floats(1, count_n_in(s), 1);
    d->weight = random_floats(2, count_in_out(s), 1);
    d->y = random_floats(3, count_n_out(s), 3);
    d->y_gradient = random_floats(4, count_n_out(s), 1);
    d->bias = random_floats(5, s->out, 1);
    d->gain = random_floats(6, s->out, 2);
    d->labels = random_floats(7, s->n, 1);
    d->weights = random_floats(8, s->n, 1);
    for (uint32_t i = 0; i < s->n; i++) {
        d->labels[i] = (float)rng_below(rng_at(9, i), s->out);
        d->weights[i] = i % 7 == 3 ? 0 : 1 + d->weights[i];
    }
}

static void data_deinit(struct data *d)
{
    float *arrays[] = {d->x,    d->weight, d->y,      d->y_gradient,
                       d->bias, d->gain,   d->labels, d->weights};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        mem_free(arrays[i]);
}

static void check_operation(const struct operation *o, const struct data *d)
{
    size_t count = o->out_count(&d->s);
    double *expected = mem_calloc(count, sizeof *expected);
    assert_non_null(expected);
    o->formula(d, expected);
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(expected[i]));
    float *first = random_floats(50, count, 1), *other = random_floats(51, count, 1);
    o->run(NULL, d, first);
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)first[i] - expected[i]);
        if (!(error <= o->tolerance * fmax(largest, 1e-3)))
            fail_msg("%s %u x %u x %u [%zu]: %.9g, by its formula %.9g", o->name, d->s.n, d->s.in,
                     d->s.out, i, (double)first[i], expected[i]);
    }
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_create(threads);
        o->run(pool, d, other);
        pool_destroy(pool);
        assert_memory_equal(first, other, count * sizeof *first);
    }
    mem_free(first);
    mem_free(other);
    mem_free(expected);
}

static void test_operations(void **state)
{
    static const struct shape shapes[] = {
        {1, 1, 1},      {3, 5, 2},       {256, 17, 64}, {257, 40, 65},
        {1300, 30, 10}, {600, 270, 130}, {70, 3, 300},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct data d;
        data_init(&d, &shapes[s]);
        for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
            check_operation(&operations[i], &d);
        data_deinit(&d);
    }
}

/* ---- what has no formula ----------------------------------------------------------------------
 */

static void test_no_rows(void **state)
{
    float out[6] = {1, 1, 1, 1, 1, 1};
    struct compute_gemm g = {.n = 0, .in = 3, .out = 2, .weight_gradient = out};
    compute_cpu()->gemm_forward(CPU_DEVICE(NULL), &g);
    compute_cpu()->gemm_weight(CPU_DEVICE(NULL), &g);
    for (int i = 0; i < 6; i++)
        assert_true(out[i] == 0);
    struct compute_columns c = {.n = 0, .width = 6, .sums = out};
    out[5] = 1;
    compute_cpu()->column_sums(CPU_DEVICE(NULL), &c);
    assert_true(out[5] == 0);
}

/* A logit that is not a number, under weight 0, has no part in loss and gradient. */
static void test_weight_zero(void **state)
{
    static const float labels[2] = {1, 1}, weights[2] = {0, 1};
    for (int type = LOSS_LOGISTIC; type <= LOSS_SOFTMAX; type++) {
        uint32_t width = type == LOSS_SOFTMAX ? 2 : 1;
        float logits[4] = {0, 0, 0, 0}, gradient[4];
        logits[0] = NAN;
        double sums[1];
        struct compute_loss l = {
            (enum loss_type)type, 2, width, logits, labels, weights, gradient, sums, 0, 0};
        compute_cpu()->loss(CPU_DEVICE(NULL), &l);
        double loss = compute_loss_total(sums, 2);
        assert_true(loss > 0 && loss < 1);
        assert_true(gradient[0] == 0 && isfinite(gradient[width]) && gradient[width] != 0);
    }
}

static bool is_finite(struct pool *pool, float *x, size_t count)
{
    uint32_t bad = 0;
    struct compute_check c = {x, count, 1.0f, &bad};
    compute_cpu()->check(CPU_DEVICE(pool), &c);
    return bad == 0;
}

static void test_finite(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    size_t count = 200001;
    float *x = random_floats(1, count, 3e38f);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_create(threads);
        assert_true(is_finite(pool, x, count));
        assert_true(is_finite(pool, x, 0));
        for (size_t at = 0; at < count; at += 66666) {
            float kept = x[at];
            x[at] = bad[at / 66666 % 4];
            assert_false(is_finite(pool, x, count));
            x[at] = kept;
        }
        pool_destroy(pool);
    }
    mem_free(x);
}

static void test_divide(void **state)
{
    for (uint32_t divisor = 1; divisor < 70000; divisor = divisor * 3 / 2 + 1) {
        struct cpu_divisor d = cpu_divisor_make(divisor);
        for (uint64_t i = 0; i < 1000; i++) {
            uint32_t x = (uint32_t)rng_at(divisor, i) >> (i % 32);
            assert_int_equal(cpu_divide(d, x), x / divisor);
        }
        assert_int_equal(cpu_divide(d, UINT32_MAX), UINT32_MAX / divisor);
        for (uint32_t k = 1; k < 100; k++) {
            assert_int_equal(cpu_divide(d, k * divisor), k);
            assert_int_equal(cpu_divide(d, k * divisor - 1), (k * divisor - 1) / divisor);
        }
    }
}

/* About the stated part is dropped, and another step, example, layer has another mask. */
static void test_dropout_masks(void **state)
{
    enum { N = 100, WIDTH = 100 };
    float *x = random_floats(1, N * WIDTH, 0), *y = random_floats(1, N * WIDTH, 0);
    float *masks[4];
    for (uint32_t c = 0; c < 4; c++) {
        masks[c] = random_floats(1, N * WIDTH, 0);
        struct compute_dropout d = {N,      WIDTH, 0.25, 1 + (c == 1), 1 + (c == 2),
                                    c == 3, x,     y,    masks[c]};
        compute_cpu()->dropout(CPU_DEVICE(NULL), &d);
    }
    uint32_t dropped = 0, same[4] = {0};
    for (uint32_t i = 0; i < N * WIDTH; i++) {
        dropped += masks[0][i] == 0;
        for (uint32_t c = 1; c < 4; c++)
            same[c] += masks[0][i] == masks[c][i];
    }
    /* Binomial: 2500 ± 43; agreement of independent masks 6250 ± 48. */
    assert_in_range(dropped, 2280, 2720);
    for (uint32_t c = 1; c < 4; c++)
        assert_in_range(same[c], 6000, 6500);
    /* The example's own number counts, not its place in the batch. */
    assert_memory_equal(masks[0] + WIDTH, masks[3], (N - 1) * WIDTH * sizeof(float));
    for (uint32_t c = 0; c < 4; c++)
        mem_free(masks[c]);
    mem_free(x);
    mem_free(y);
}

static void test_family(void **state)
{
    assert_string_equal(compute_cpu()->name, "cpu");
    assert_non_null(strstr(compute_cpu()->family(CPU_DEVICE(NULL)), "openblas "));
    assert_true(strlen(compute_cpu()->family(CPU_DEVICE(NULL))) > strlen("openblas "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),  cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_weight_zero), cmocka_unit_test(test_finite),
        cmocka_unit_test(test_divide),      cmocka_unit_test(test_dropout_masks),
        cmocka_unit_test(test_family),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
