/*
 * Goal: following the gradients learns what a model can learn, and a model that cannot represent
 * the task does not seem to. Method: gradient descent in the test itself, on a task that is the
 * product of two features; fm and multi-layer models must reach a small loss, logistic regression
 * must not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/network_fixture.h"

static void descend(float *values, const float *gradient, size_t count, double rate)
{
    for (size_t i = 0; i < count; i++)
        values[i] -= (float)(rate * (double)gradient[i]);
}

/* Plain gradient descent on the batch; the mean loss before the last step. */
static double learn(struct fixture *f, uint32_t steps, double rate)
{
    struct network *n = fixture_network(f, NULL);
    double mean = 0;
    for (uint32_t step = 0; step < steps; step++) {
        mean = fixture_train(n, f) / f->batch->weight_sum;
        double scaled = rate / f->batch->weight_sum;
        for (uint32_t t = 0; t < f->batch->table_count; t++)
            descend(f->rows[t], f->row_gradients[t], fixture_row_floats(f, t), scaled);
        for (uint32_t p = 0; p < f->model->schema->dense_count; p++)
            descend(f->dense[p], f->dense_gradients[p], f->model->schema->dense[p].count, scaled);
    }
    network_destroy(n);
    return mean;
}

/*
 * Two slots with 10 values each; the label is whether both values are of one half. No linear model
 * of the two does better than ln 2 = 0.693 (the label does not depend on either alone); fm learns
 * it from the product.
 */
static void make_pairs(struct fixture *f)
{
    struct batch_table *t = &f->batch->tables[0];
    for (uint32_t i = 0; i < f->batch->example_count; i++) {
        uint32_t a = t->ids[2 * i], b = t->ids[2 * i + 1];
        f->batch->labels[i] = a % 2 == b % 2 ? 1.0f : 0.0f;
    }
}

static const struct random_batch full_cells = {
    .seed = 21, .example_count = 400, .key_count = {20}, .max_terms = 1};

/* Cells of exactly one term, the two slots with ids of their own; by hand, as terms are random. */
static void fill_cells(struct fixture *f)
{
    struct batch *b = f->batch;
    struct batch_table *t = &b->tables[0];
    uint32_t cells = b->example_count * 2;
    t->term_count = cells;
    t->ids = mem_realloc(t->ids, cells, sizeof *t->ids);
    t->by_row_cells = mem_realloc(t->by_row_cells, cells, sizeof *t->by_row_cells);
    assert_true(t->ids != NULL && t->by_row_cells != NULL);
    for (uint32_t cell = 0; cell <= cells; cell++)
        t->offsets[cell] = cell;
    for (uint32_t cell = 0; cell < cells; cell++)
        t->ids[cell] = (uint32_t)rng_below(rng_at(8, cell), 10) + cell % 2 * 10;
    uint32_t at = 0;
    for (uint32_t row = 0; row < t->key_count; row++) {
        t->by_row_offsets[row] = at;
        for (uint32_t cell = 0; cell < cells; cell++)
            if (t->ids[cell] == row)
                t->by_row_cells[at++] = cell;
    }
    t->by_row_offsets[t->key_count] = at;
}

static void test_learning(void **state)
{
    static const struct {
        struct model_case c;
        uint32_t steps;
        double rate, above, below;
    } cases[] = {
        {{.type = MODEL_LR, .table_count = 1, .slot_count = {2}}, 300, 1.0, 0.6, 0.7},
        {{.type = MODEL_FM, .dim = 4, .table_count = 1, .slot_count = {2}}, 400, 2.0, 0, 0.05},
        {{.type = MODEL_MLP,
          .dim = 4,
          .hidden = {16},
          .hidden_count = 1,
          .activation = ACTIVATION_TANH,
          .table_count = 1,
          .slot_count = {2}},
         800,
         1.0,
         0,
         0.05},
        {{.type = MODEL_MLP,
          .dim = 4,
          .hidden = {24, 12},
          .hidden_count = 2,
          .layer_norm = true,
          .loss = LOSS_SOFTMAX,
          .classes = 2,
          .activation = ACTIVATION_RELU,
          .table_count = 1,
          .slot_count = {2}},
         400,
         0.5,
         0,
         0.05},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f = {0};
        fixture_init(&f, &cases[i].c, &full_cells);
        fill_cells(&f);
        make_pairs(&f);
        double loss = learn(&f, cases[i].steps, cases[i].rate);
        print_message("case %zu: mean loss %.4f\n", i, loss);
        assert_true(loss > cases[i].above && loss < cases[i].below);
        fixture_deinit(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
