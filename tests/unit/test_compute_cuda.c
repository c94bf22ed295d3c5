/*
 * Goal: every operation of the CUDA backend computes what the CPU's computes, twice with the same
 * bits, in every precision.
 *
 * Method: one row in a table an operation: a function that makes its arrays and asks for it, run on
 * the CPU and twice on the GPU (an emulated one where tests/support/test_device.h says so), with
 * fresh random numbers each time; what it writes is downloaded and compared as ‖a - b‖ / ‖b‖.
 * Shapes lie around the sizes where kernels cut their work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/random_batch.h"
#include "tests/support/test_device.h"
#include "worker/compute_cpu.h"
#include "worker/staging.h"

/* What an operation's arguments do not name yet is 0. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define OUTPUTS 16u
#define INPUTS  64u

struct shape {
    uint32_t n, in, out;
};

/* One run of an operation on one device: its arrays, and what it wrote. */
struct run {
    struct device *device;
    struct shape s;
    uint64_t seed;
    bool add;
    uint32_t input_count, output_count;
    void *inputs[INPUTS];
    float *outputs[OUTPUTS]; /* of the device, then of the host */
    size_t counts[OUTPUTS];
    struct batch *batch;
    struct staging *staging;
    struct compute_table tables[2];
    struct compute_tables_there there;
};

struct operation {
    const char *name;
    void (*run)(struct run *r);
    bool is_product; /* of matrices: the precision counts */
};

static uint64_t seed;

/* ---- arrays ---------------------------------------------------------------------------------- */

static void *to_device(struct run *r, const void *from, size_t bytes)
{
    const struct compute *c = r->device->compute;
    void *there = c->alloc(r->device, bytes);
    assert_non_null(there);
    c->upload(r->device, there, from, bytes);
    c->join(r->device);
    assert_int_equal(c->fence(r->device), ERR_NONE); /* `from` is freed now */
    assert_true(r->input_count < INPUTS);
    r->inputs[r->input_count++] = there;
    return there;
}

/* Random numbers in [-scale, scale), the same on every device. */
static float *input(struct run *r, size_t count, float scale)
{
    float *x = random_floats(r->seed + r->input_count, count, scale);
    float *there = to_device(r, x, count * sizeof *x);
    mem_free(x);
    return there;
}

static float *output(struct run *r, size_t count)
{
    float *there = input(r, count, 1.0f);
    assert_true(r->output_count < OUTPUTS);
    r->outputs[r->output_count] = there;
    r->counts[r->output_count++] = count;
    return there;
}

static void run_on(struct device *device, const struct operation *o, const struct shape *s,
                   bool add, uint64_t at, struct run *r)
{
    *r = (struct run){.device = device, .s = *s, .seed = at, .add = add};
    o->run(r);
    for (uint32_t i = 0; i < r->output_count; i++) {
        float *here = random_floats(1, r->counts[i], 0);
        device->compute->download(device, here, r->outputs[i], r->counts[i] * sizeof *here);
        r->outputs[i] = here;
    }
    if (device->compute->fence(device) != ERR_NONE)
        fail_msg("%s: %s", o->name, err_text());
    for (uint32_t i = 0; i < r->input_count; i++)
        device->compute->free(device, r->inputs[i]);
    staging_destroy(r->staging);
    if (r->batch != NULL)
        random_batch_destroy(r->batch);
}

static void run_free(struct run *r)
{
    for (uint32_t i = 0; i < r->output_count; i++)
        mem_free(r->outputs[i]);
}

/* ---- products -------------------------------------------------------------------------------- */

static struct compute_gemm gemm_make(struct run *r)
{
    uint32_t stride = r->s.in + (r->add ? 3 : 0);
    return (struct compute_gemm){.n = r->s.n,
                                 .in = r->s.in,
                                 .out = r->s.out,
                                 .x_stride = stride,
                                 .x = input(r, (size_t)r->s.n * stride, 1),
                                 .weight = input(r, (size_t)r->s.in * r->s.out, 1),
                                 .y_gradient = input(r, (size_t)r->s.n * r->s.out, 1),
                                 .add = r->add};
}

static void gemm_forward(struct run *r)
{
    struct compute_gemm g = gemm_make(r);
    g.y = output(r, (size_t)g.n * g.out);
    r->device->compute->gemm_forward(r->device, &g);
}

static void gemm_input(struct run *r)
{
    struct compute_gemm g = gemm_make(r);
    g.x_gradient = output(r, (size_t)g.n * g.x_stride);
    r->device->compute->gemm_input(r->device, &g);
}

static void gemm_weight(struct run *r)
{
    struct compute_gemm g = gemm_make(r);
    g.weight_gradient = output(r, (size_t)g.in * g.out);
    r->device->compute->gemm_weight(r->device, &g);
}

static void linear(struct run *r)
{
    for (int kind = ACTIVATION_NONE; kind <= ACTIVATION_RELU; kind++) {
        struct compute_gemm g = gemm_make(r);
        struct compute_activate a = {g.n, g.out, (enum activation)kind, input(r, g.out, 1)};
        a.x = a.y = g.y = output(r, (size_t)g.n * g.out);
        r->device->compute->linear(r->device, &g, &a);
    }
}

static void linear_curved(struct run *r)
{
    struct compute_gemm g = gemm_make(r);
    struct compute_activate a = {g.n, g.out, r->add ? ACTIVATION_TANH : ACTIVATION_SIGMOID,
                                 input(r, g.out, 1)};
    a.x = a.y = g.y = output(r, (size_t)g.n * g.out);
    r->device->compute->linear(r->device, &g, &a);
}

/* ---- element by element, and rows ------------------------------------------------------------ */

static void activate(struct run *r)
{
    for (int kind = ACTIVATION_NONE; kind <= ACTIVATION_SIGMOID; kind++) {
        struct compute_activate a = {r->s.n, r->s.out, (enum activation)kind};
        a.bias = r->add ? input(r, a.width, 1) : NULL;
        a.x = input(r, (size_t)a.n * a.width, 4);
        a.y = output(r, (size_t)a.n * a.width);
        r->device->compute->activate(r->device, &a);
    }
}

static void activate_back(struct run *r)
{
    for (int kind = ACTIVATION_NONE; kind <= ACTIVATION_SIGMOID; kind++) {
        struct compute_activate_back a = {r->s.n, r->s.out, (enum activation)kind};
        a.y = input(r, (size_t)a.n * a.width, 1);
        a.gradient = output(r, (size_t)a.n * a.width);
        r->device->compute->activate_back(r->device, &a);
    }
}

static void column_sums(struct run *r)
{
    struct compute_columns c = {r->s.n, r->s.out, input(r, (size_t)r->s.n * r->s.out, 1),
                                output(r, r->s.out)};
    r->device->compute->column_sums(r->device, &c);
}

static void norm(struct run *r)
{
    size_t count = (size_t)r->s.n * r->s.out;
    struct compute_norm c = {r->s.n, r->s.out, input(r, count, 2)};
    c.gain = input(r, c.width, 1);
    c.bias = input(r, c.width, 1);
    c.y = output(r, count);
    c.moments = output(r, 2 * (size_t)c.n);
    r->device->compute->norm(r->device, &c);
    struct compute_norm_back b = {c.n, c.width, c.x, c.gain, c.moments, input(r, count, 1)};
    b.x_gradient = output(r, count);
    b.gain_gradient = output(r, c.width);
    b.bias_gradient = output(r, c.width);
    b.add = r->add;
    r->device->compute->norm_back(r->device, &b);
}

static void dropout(struct run *r)
{
    size_t count = (size_t)r->s.n * r->s.out;
    struct compute_dropout d = {r->s.n, r->s.out, 0.3, r->seed, 7, 1000, input(r, count, 1)};
    d.y = output(r, count);
    d.mask = output(r, count);
    r->device->compute->dropout(r->device, &d);
    struct compute_multiply m = {count, d.mask, output(r, count)};
    r->device->compute->multiply(r->device, &m);
}

static void copy(struct run *r)
{
    size_t x_stride = r->s.out + 2, y_stride = r->s.out + 5;
    struct compute_copy c = {r->s.n, r->s.out, x_stride, y_stride};
    c.x = input(r, r->s.n * x_stride, 1);
    c.y = output(r, r->s.n * y_stride);
    c.add = r->add;
    r->device->compute->copy(r->device, &c);
    c.x = NULL;
    c.y = output(r, r->s.n * y_stride);
    r->device->compute->copy(r->device, &c);
}

static void cross(struct run *r)
{
    struct compute_cross c = {r->s.n, r->s.out, r->s.out + 1, r->s.out + 3};
    size_t count = (size_t)c.n * c.width;
    c.x = input(r, c.n * c.x_stride, 1);
    c.x0 = input(r, c.n * c.x0_stride, 1);
    c.bias = input(r, c.width, 1);
    c.t = output(r, count);
    c.y = output(r, count);
    r->device->compute->cross(r->device, &c);
    c.y_gradient = input(r, count, 1);
    c.x_gradient = output(r, c.n * c.x_stride);
    c.x0_gradient = output(r, c.n * c.x0_stride);
    c.add_x = r->add;
    c.add_x0 = !r->add;
    r->device->compute->cross_back(r->device, &c);
    /* Both gradients to one array. */
    c.x0_stride = c.x_stride;
    c.x0_gradient = c.x_gradient = output(r, c.n * c.x_stride);
    c.add_x0 = true;
    r->device->compute->cross_back(r->device, &c);
}

/* in: of vectors; out: their length. */
static struct compute_vectors vectors_make(struct run *r)
{
    struct compute_vectors v = {r->s.n, r->s.in, r->s.out, (size_t)r->s.in * r->s.out + 7};
    v.x = input(r, v.n * v.x_stride, 1);
    v.add = r->add;
    return v;
}

static void fm(struct run *r)
{
    struct compute_vectors v = vectors_make(r);
    v.y = output(r, v.n);
    v.sums = output(r, (size_t)v.n * v.dim);
    r->device->compute->fm(r->device, &v);
    v.y_gradient = input(r, v.n, 1);
    v.x_gradient = output(r, v.n * v.x_stride);
    r->device->compute->fm_back(r->device, &v);
}

static void dot(struct run *r)
{
    struct compute_vectors v = vectors_make(r);
    size_t count = (size_t)v.n * v.count * (v.count - 1) / 2;
    v.y = output(r, count);
    r->device->compute->dot(r->device, &v);
    v.y_gradient = input(r, count, 1);
    v.x_gradient = output(r, v.n * v.x_stride);
    r->device->compute->dot_back(r->device, &v);
}

static void loss(struct run *r)
{
    for (int type = LOSS_LOGISTIC; type <= LOSS_SOFTMAX; type++) {
        uint32_t n = r->s.n, width = type == LOSS_SOFTMAX ? r->s.out : 1;
        float *labels = random_floats(r->seed, n, 0), *weights = random_floats(r->seed + 9, n, 1);
        for (uint32_t i = 0; i < n; i++) {
            labels[i] = (float)rng_below(rng_at(r->seed, i), type == LOSS_SOFTMAX ? width : 2);
            weights[i] = i % 7 == 3 ? 0.0f : 1.5f + weights[i];
        }
        struct compute_loss l = {(enum loss_type)type, n, width, input(r, (size_t)n * width, 8)};
        l.labels = to_device(r, labels, n * sizeof *labels);
        l.weights = to_device(r, weights, n * sizeof *weights);
        l.gradient = output(r, (size_t)n * width);
        l.scale = r->add ? 0.25f : 0.0f;
        l.sums = (double *)input(r, 2 * compute_loss_groups(n), 1);
        r->device->compute->loss(r->device, &l);
        double sums[16];
        r->device->compute->download(r->device, sums, l.sums,
                                     compute_loss_groups(n) * sizeof *sums);
        assert_int_equal(r->device->compute->fence(r->device), ERR_NONE);
        float total = (float)compute_loss_total(sums, n);
        r->outputs[r->output_count] = to_device(r, &total, sizeof total);
        r->counts[r->output_count++] = 1;
        mem_free(labels);
        mem_free(weights);
    }
}

static void check(struct run *r)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    size_t count = (size_t)r->s.n * r->s.out;
    for (uint32_t i = 0; i < 4; i++) {
        float *x = random_floats(r->seed + i, count, 1e6f);
        uint32_t zero = 0, found = 7;
        if (i > 0)
            x[rng_below(rng_at(r->seed, i), count)] = bad[i - 1];
        struct compute_check c = {to_device(r, x, count * sizeof *x), count, r->add ? 0.125f : 1.0f,
                                  to_device(r, &zero, sizeof zero)};
        r->device->compute->check(r->device, &c);
        r->device->compute->download(r->device, &found, c.bad, sizeof found);
        assert_int_equal(r->device->compute->fence(r->device), ERR_NONE);
        assert_int_equal(found, i > 0);
        if (i == 0) {
            r->outputs[r->output_count] = c.x;
            r->counts[r->output_count++] = count;
        }
        mem_free(x);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

static const struct random_batch batches = {
    .dense_width = 3, .table_count = 2, .slot_count = {3, 2}, .max_terms = 2, .weighted = true};

/* Two tables; in: their keys; out: of v. With a schema and a staging of their own. */
static void tables_make(struct run *r, uint32_t v_dim)
{
    struct random_batch b = batches;
    b.seed = r->seed;
    b.example_count = r->s.n;
    b.key_count[0] = r->s.in;
    b.key_count[1] = 1 + r->s.in / 7;
    b.weighted = r->add;
    r->batch = random_batch_create(&b);
    for (uint32_t t = 0; t < 2; t++) {
        r->tables[t] = (struct compute_table){.terms = &r->batch->tables[t],
                                              .dim = 1 + v_dim,
                                              .w_offset = t == 0 ? 0 : v_dim,
                                              .v_offset = t == 0 ? 1 : 0,
                                              .v_dim = v_dim,
                                              .input_offset = 3 + t * 3 * v_dim,
                                              .first_field = 3 * t};
        size_t count = (size_t)b.key_count[t] * (1 + v_dim);
        r->tables[t].rows = input(r, count, 1);
        r->tables[t].row_gradients = output(r, count);
    }
}

/* Brings the tables to a device that does not share memory: rows are there already. */
static void tables_send(struct run *r)
{
    struct schema_table schema_tables[2] = {{.dim = r->tables[0].dim}, {.dim = r->tables[1].dim}};
    struct schema schema = {.tables = schema_tables, .table_count = 2};
    uint32_t slots[] = {3, 2};
    struct model model = {.schema = &schema, .slot_count = slots, .dense_width = 3};
    struct staging_options o = {r->device, &model, r->s.n};
    struct staging_view view;
    float *here[2];
    struct compute_table made[2];
    if (r->device->compute->shares_memory)
        return;
    memcpy(made, r->tables, sizeof made);
    assert_int_equal(staging_create(&o, &r->staging), ERR_NONE);
    for (uint32_t t = 0; t < 2; t++) {
        size_t count = (size_t)made[t].terms->key_count * made[t].dim;
        here[t] = random_floats(1, count, 0);
        r->device->compute->download(r->device, here[t], made[t].rows, count * sizeof(float));
    }
    assert_int_equal(r->device->compute->fence(r->device), ERR_NONE);
    struct network_values values = {(const float *const *)here, NULL};
    assert_int_equal(staging_open(r->staging, r->batch, &values, true, r->tables, &view), ERR_NONE);
    r->there = view.there;
    for (uint32_t t = 0; t < 2; t++) {
        r->outputs[t] = r->tables[t].row_gradients;
        mem_free(here[t]);
    }
}

/* Gradients of rows begin as they were made: what an operation leaves out is compared as well. */
static void tables_clear(struct run *r)
{
    for (uint32_t t = 0; t < 2; t++) {
        struct compute_copy c = {.n = 1, .width = (uint32_t)r->counts[t], .y = r->outputs[t]};
        r->device->compute->copy(r->device, &c);
    }
}

static void terms_with(struct run *r, uint32_t factor_dim, bool fields)
{
    const struct compute *c = r->device->compute;
    tables_make(r, fields ? 5 * factor_dim : factor_dim);
    tables_send(r);
    tables_clear(r);
    struct compute_terms t = {.n = r->s.n,
                              .factor_dim = factor_dim,
                              .field_count = 5,
                              .table_count = 2,
                              .tables = r->tables,
                              .there = r->there};
    t.bias = input(r, 1, 1);
    t.norms = r->add ? output(r, r->s.n) : NULL;
    t.sums = fields ? NULL : output(r, (size_t)r->s.n * (factor_dim > 0 ? factor_dim : 1));
    t.logits = output(r, r->s.n);
    t.gradient = input(r, r->s.n, 1);
    t.bias_gradient = output(r, 1);
    (fields ? c->field_terms : c->terms)(r->device, &t);
    (fields ? c->field_terms_back : c->terms_back)(r->device, &t);
}

/* A length of 1 stands for lr, which has no vectors. */
static void terms(struct run *r)
{
    terms_with(r, r->s.out > 1 ? r->s.out : 0, false);
}

static void field_terms(struct run *r)
{
    terms_with(r, r->s.out, true);
}

static void pooled(struct run *r)
{
    const struct compute *c = r->device->compute;
    uint32_t width = 3 + 5 * r->s.out;
    tables_make(r, r->s.out);
    tables_send(r);
    tables_clear(r);
    struct compute_input i = {.n = r->s.n,
                              .width = width,
                              .dense_width = 3,
                              .table_count = 2,
                              .tables = r->tables,
                              .there = r->there};
    i.dense = input(r, (size_t)r->s.n * 3, 1);
    i.y = output(r, (size_t)r->s.n * width);
    i.y_gradient = input(r, (size_t)r->s.n * width, 1);
    c->input(r->device, &i);
    c->input_back(r->device, &i);
}

/* ---- the tests ------------------------------------------------------------------------------- */

static const struct operation operations[] = {
    {"gemm_forward", gemm_forward, true},
    {"gemm_input", gemm_input, true},
    {"gemm_weight", gemm_weight, true},
    {"linear", linear, true},
    {"linear_curved", linear_curved, true},
    {"activate", activate, false},
    {"activate_back", activate_back, false},
    {"column_sums", column_sums, false},
    {"norm", norm, false},
    {"dropout", dropout, false},
    {"copy", copy, false},
    {"cross", cross, false},
    {"fm", fm, false},
    {"dot", dot, false},
    {"loss", loss, false},
    {"check", check, false},
    {"terms", terms, false},
    {"field_terms", field_terms, false},
    {"input", pooled, false},
};
static const struct shape shapes[] = {
    {1, 2, 1}, {3, 5, 4}, {33, 7, 16}, {257, 3, 31}, {700, 9, 2}, {1025, 40, 3}, {40, 26, 66},
};

static void compare(const struct operation *o, const struct shape *s, const struct run *cpu,
                    const struct run *gpu, double limit)
{
    assert_int_equal(cpu->output_count, gpu->output_count);
    for (uint32_t i = 0; i < cpu->output_count; i++) {
        /* Where sums happen to be near 0, what they are made of is not. */
        double difference = 0, size = o->is_product ? 0.25 * (double)cpu->counts[i] : 0;
        for (size_t k = 0; k < cpu->counts[i]; k++) {
            double a = (double)cpu->outputs[i][k], b = (double)gpu->outputs[i][k];
            difference += (a - b) * (a - b);
            size += a * a;
        }
        if (!(sqrt(difference) <= limit * sqrt(size) + 1e-6 * sqrt((double)s->n)))
            fail_msg("%s, n %u, in %u, out %u, output %u: differs by %g of %g", o->name, s->n,
                     s->in, s->out, i, sqrt(difference), sqrt(size));
    }
}

static void compare_all(enum precision precision, bool products_only, double limit)
{
    struct device *gpu = test_device_open(precision), *cpu = CPU_DEVICE(NULL);
    for (size_t o = 0; o < sizeof operations / sizeof operations[0]; o++) {
        for (size_t k = 0; k < 2 * sizeof shapes / sizeof shapes[0]; k++) {
            const struct shape *s = &shapes[k / 2];
            struct run expected, found, again;
            if (products_only && !operations[o].is_product)
                continue;
            uint64_t at = rng_at(seed, 100 * o + k);
            run_on(cpu, &operations[o], s, k % 2 > 0, at, &expected);
            run_on(gpu, &operations[o], s, k % 2 > 0, at, &found);
            run_on(gpu, &operations[o], s, k % 2 > 0, at, &again);
            compare(&operations[o], s, &expected, &found, operations[o].is_product ? limit : 1e-5);
            for (uint32_t i = 0; i < found.output_count; i++)
                assert_memory_equal(found.outputs[i], again.outputs[i],
                                    found.counts[i] * sizeof(float));
            run_free(&expected);
            run_free(&found);
            run_free(&again);
        }
    }
    device_close(gpu);
}

static void test_float32(void **state)
{
    compare_all(PRECISION_FLOAT32, false, 1e-4);
}

static void test_narrow(void **state)
{
    compare_all(PRECISION_TF32, true, 2e-3);
    compare_all(PRECISION_BF16, true, 1e-2);
    compare_all(PRECISION_FP16, true, 2e-3);
}

/* The limits of narrow precisions are not met by float32's: they are in use. */
static void test_narrow_is_narrow(void **state)
{
    static const enum precision narrow[] = {PRECISION_TF32, PRECISION_BF16, PRECISION_FP16};
    static const struct operation o = {"gemm_forward", gemm_forward, true};
    static const struct shape s = {64, 64, 64};
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        struct device *gpu = test_device_open(narrow[i]);
        struct run cpu, found;
        run_on(CPU_DEVICE(NULL), &o, &s, false, seed, &cpu);
        run_on(gpu, &o, &s, false, seed, &found);
        double part = 0;
        for (size_t k = 0; k < cpu.counts[0]; k++)
            part += fabs((double)cpu.outputs[0][k] - (double)found.outputs[0][k]);
        assert_true(part / (double)cpu.counts[0] > 5e-5);
        run_free(&cpu);
        run_free(&found);
        device_close(gpu);
    }
}

/* More memory than there is: an error with the number, and the device goes on. */
static void test_no_room(void **state)
{
    struct device *gpu = test_device_open(PRECISION_FLOAT32);
    assert_null(gpu->compute->alloc(gpu, (size_t)1 << 46));
    assert_non_null(strstr(err_text(), "70368744177664 bytes"));
    void *memory = gpu->compute->alloc(gpu, 1000);
    assert_non_null(memory);
    gpu->compute->free(gpu, memory);
    assert_int_equal(gpu->compute->fence(gpu), ERR_NONE);
    device_close(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32),
        cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_narrow_is_narrow),
        cmocka_unit_test(test_no_room),
    };
    test_device_choose();
    seed = test_device_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
