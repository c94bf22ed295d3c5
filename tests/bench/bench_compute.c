/*
 * bench_compute.c - what the CPU backend makes of a processor: examples a second of fm and of a
 * multi-layer model, forward and backward, and how much of raw sgemm the latter reaches.
 *
 * Method: one batch that stays in memory, one thread unless an argument says how many; the best of
 * several rounds, because other work on the machine only ever makes a round slower. Raw sgemm is
 * measured between the rounds of the model, by the very products that its layers consist of.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/compute.h"
#include "worker/compute_cpu.h"
#include "worker/network.h"

#define ROUNDS 15

static float *floats(size_t count, float scale)
{
    float *x = mem_alloc_array(count, sizeof *x);
    CHECK(x != NULL);
    for (size_t i = 0; i < count; i++)
        x[i] = (rng_uniform(rng_at(7, i)) - 0.5f) * scale;
    return x;
}

/* ---- fm ------------------------------------------------------------------------------------- */

struct fm_case {
    uint32_t n, terms, rows, dim;
};

/* Term k of an example takes one of rows / terms rows, as features with vocabularies of their own
 * do. */
static struct batch_table make_terms(const struct fm_case *c)
{
    size_t count = (size_t)c->n * c->terms;
    struct batch_table t = {
        .key_count = c->rows, .slot_count = c->terms, .term_count = (uint32_t)count};
    t.offsets = mem_alloc_array(count + 1, sizeof *t.offsets);
    t.ids = mem_alloc_array(count, sizeof *t.ids);
    t.by_row_offsets = mem_calloc(c->rows + 2, sizeof *t.by_row_offsets);
    t.by_row_cells = mem_alloc_array(count, sizeof *t.by_row_cells);
    uint32_t share = c->rows / c->terms;
    for (size_t i = 0; i < count; i++) {
        t.offsets[i] = (uint32_t)i;
        t.ids[i] = (uint32_t)(i % c->terms * share + rng_below(rng_at(3, i), share));
        t.by_row_offsets[t.ids[i] + 2]++;
    }
    t.offsets[count] = (uint32_t)count;
    for (uint32_t r = 2; r < c->rows + 2; r++)
        t.by_row_offsets[r] += t.by_row_offsets[r - 1];
    for (size_t i = 0; i < count; i++)
        t.by_row_cells[t.by_row_offsets[t.ids[i] + 1]++] = (uint32_t)i;
    return t;
}

static void bench_fm(const struct compute *cpu, struct pool *pool, const struct fm_case *c)
{
    struct batch_table terms = make_terms(c);
    uint32_t dim = 1 + c->dim;
    struct compute_table table = {
        .terms = &terms,
        .rows = floats((size_t)c->rows * dim, 0.1f),
        .row_gradients = floats((size_t)c->rows * dim, 0),
        .dim = dim,
        .v_offset = 1,
        .v_dim = c->dim,
    };
    float bias = 0, bias_gradient;
    float *logits = floats(c->n, 0), *gradient = floats(c->n, 1);
    float *sums = floats((size_t)c->n * c->dim, 0);
    struct compute_terms t = {.n = c->n,
                              .factor_dim = c->dim,
                              .table_count = 1,
                              .tables = &table,
                              .bias = &bias,
                              .sums = sums,
                              .logits = logits,
                              .gradient = gradient,
                              .bias_gradient = &bias_gradient};
    uint64_t forward = UINT64_MAX, backward = UINT64_MAX, both = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_ns();
        cpu->terms(CPU_DEVICE(pool), &t);
        uint64_t middle = clock_ns();
        cpu->terms_back(CPU_DEVICE(pool), &t);
        uint64_t end = clock_ns();
        forward = middle - start < forward ? middle - start : forward;
        backward = end - middle < backward ? end - middle : backward;
        both = end - start < both ? end - start : both;
    }
    printf("fm dim %-2u batch %u x %u terms, %6u rows: forward %5.2f, backward %5.2f, both %5.2f "
           "million examples/s\n",
           c->dim, c->n, c->terms, c->rows, c->n * 1e3 / (double)forward,
           c->n * 1e3 / (double)backward, c->n * 1e3 / (double)both);
    mem_free(terms.offsets);
    mem_free(terms.ids);
    mem_free(terms.by_row_offsets);
    mem_free(terms.by_row_cells);
    mem_free((void *)table.rows);
    mem_free(table.row_gradients);
    mem_free(logits);
    mem_free(gradient);
    mem_free(sums);
}

/* ---- mlp ------------------------------------------------------------------------------------ */

static const uint32_t widths[] = {784, 256, 128, 10};
#define LAYERS 3

/* Forward and both gradients of every layer, without the input's gradient of the first. */
static uint64_t gemm_round(const struct compute *cpu, struct pool *pool, struct compute_gemm *gemms)
{
    uint64_t start = clock_ns();
    for (int l = 0; l < LAYERS; l++) {
        cpu->gemm_forward(CPU_DEVICE(pool), &gemms[l]);
        cpu->gemm_weight(CPU_DEVICE(pool), &gemms[l]);
        if (l > 0)
            cpu->gemm_input(CPU_DEVICE(pool), &gemms[l]);
    }
    return clock_ns() - start;
}

static struct model *make_model(void)
{
    struct model *m = mem_calloc(1, sizeof *m);
    CHECK(m != NULL);
    *m = (struct model){
        .layer_count = LAYERS + 1, .dense_width = 784, .output_width = 10, .loss = LOSS_SOFTMAX};
    m->output_count = 1;
    m->metric_width = 10;
    m->outputs = mem_calloc(1, sizeof *m->outputs);
    m->outputs[0] = (struct model_output){
        .name = "output", .layer = LAYERS, .width = 10, .loss = LOSS_SOFTMAX, .weight = 1};
    m->schema = mem_calloc(1, sizeof *m->schema);
    m->layers = mem_calloc(LAYERS + 1, sizeof *m->layers);
    m->schema->dense = mem_calloc(2 * LAYERS, sizeof *m->schema->dense);
    m->schema->dense_count = 2 * LAYERS;
    m->layers[0] =
        (struct model_layer){.type = LAYER_INPUT, .out_width = 784, .dense = {UINT32_MAX}};
    for (uint32_t l = 0; l < LAYERS; l++) {
        m->layers[l + 1] = (struct model_layer){
            .type = LAYER_LINEAR,
            .in = {{l, 0, widths[l]}},
            .in_count = 1,
            .in_width = widths[l],
            .out_width = widths[l + 1],
            .dense = {2 * l, 2 * l + 1},
            .activation = l + 1 < LAYERS ? ACTIVATION_RELU : ACTIVATION_NONE,
        };
        m->schema->dense[2 * l].count = (uint64_t)widths[l] * widths[l + 1];
        m->schema->dense[2 * l + 1].count = widths[l + 1];
    }
    return m;
}

static void bench_mlp(const struct compute *cpu, struct pool *pool, uint32_t n)
{
    struct model *m = make_model();
    float *dense[2 * LAYERS], *gradients[2 * LAYERS];
    struct compute_gemm gemms[LAYERS];
    double operations = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t in = widths[l], out = widths[l + 1];
        for (uint32_t p = 2 * l; p < 2 * l + 2; p++) {
            dense[p] = floats(m->schema->dense[p].count, 0.1f);
            gradients[p] = floats(m->schema->dense[p].count, 0);
        }
        gemms[l] = (struct compute_gemm){.n = n,
                                         .in = in,
                                         .out = out,
                                         .x = floats((size_t)n * in, 1),
                                         .weight = dense[2 * l],
                                         .y = floats((size_t)n * out, 0),
                                         .y_gradient = floats((size_t)n * out, 1),
                                         .x_gradient = floats((size_t)n * in, 0),
                                         .weight_gradient = gradients[2 * l]};
        operations += 2.0 * n * in * out * (l > 0 ? 3 : 2);
    }
    struct batch b = {.step = 1,
                      .example_count = n,
                      .dense_width = 784,
                      .labels = floats(n, 0),
                      .weights = floats(n, 0),
                      .dense = floats((size_t)n * 784, 1)};
    for (uint32_t i = 0; i < n; i++) {
        b.labels[i] = (float)(i % 10);
        b.weights[i] = 1;
    }
    struct network_options options = {.model = m, .compute = cpu, .pool = pool, .max_examples = n};
    struct network *network;
    CHECK(network_create(&options, &network) == ERR_NONE);
    struct network_values values = {NULL, (const float *const *)dense};
    struct network_gradients out = {NULL, gradients};
    float *logits = floats((size_t)n * 10, 0);
    uint64_t best = UINT64_MAX, raw = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        double loss;
        bool finite;
        uint64_t start = clock_ns();
        CHECK(network_train(network, &b, 0, &values, &out, logits, &loss, &finite) == ERR_NONE);
        uint64_t time = clock_ns() - start;
        best = time < best ? time : best;
        time = gemm_round(cpu, pool, gemms);
        raw = time < raw ? time : raw;
    }
    printf("mlp 784-256-128-10 batch %u: %.0f examples/s, %.1f GFLOP/s; its products alone %.1f "
           "GFLOP/s; share %.0f %%\n",
           n, n * 1e9 / (double)best, operations / (double)best, operations / (double)raw,
           100.0 * (double)raw / (double)best);
    network_destroy(network);
    for (uint32_t p = 0; p < 2 * LAYERS; p++) {
        mem_free(dense[p]);
        mem_free(gradients[p]);
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        mem_free((void *)gemms[l].x);
        mem_free(gemms[l].y);
        mem_free((void *)gemms[l].y_gradient);
        mem_free(gemms[l].x_gradient);
    }
    mem_free(b.labels);
    mem_free(b.weights);
    mem_free(b.dense);
    mem_free(logits);
    model_destroy(m);
}

/* One product as large as caches like it: the most that this OpenBLAS gives. */
static void bench_gemm(const struct compute *cpu)
{
    uint32_t n = 768;
    struct compute_gemm g = {.n = 256,
                             .in = n,
                             .out = n,
                             .x = floats((size_t)n * n, 1),
                             .weight = floats((size_t)n * n, 1),
                             .y = floats((size_t)n * n, 1)};
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_ns();
        cpu->gemm_forward(CPU_DEVICE(NULL), &g);
        uint64_t time = clock_ns() - start;
        best = time < best ? time : best;
    }
    printf("sgemm 256 x %u x %u, one thread: %.1f GFLOP/s (%s)\n", n, n,
           2.0 * 256 * n * n / (double)best, cpu->family(CPU_DEVICE(NULL)));
}

int main(int argc, char **argv)
{
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    struct pool *pool = threads > 1 ? pool_create(threads) : NULL;
    const struct compute *cpu = compute_cpu();
    static const struct fm_case cases[] = {
        {8192, 39, 3900, 16}, {8192, 39, 39000, 16}, {8192, 39, 195000, 16}, {8192, 39, 3900, 8},
        {8192, 39, 3900, 4},  {8192, 39, 3900, 32},  {8192, 39, 3900, 10},   {8192, 39, 3900, 0},
    };
    printf("%u thread%s\n", threads, threads > 1 ? "s" : "");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        bench_fm(cpu, pool, &cases[i]);
    bench_gemm(cpu);
    bench_mlp(cpu, pool, 1024);
    bench_mlp(cpu, pool, 8192);
    pool_destroy(pool);
    return 0;
}
