/*
 * Goal: logits, loss and gradients of a network are those of lr, fm, mlp, for all losses and input
 * (test_network_layers.c has the other models), and every model's have the same bits for every
 * number of threads.
 *
 * Method: a float64 reference that shares no code with the kernels (tests/support/network_check.h).
 * Dropout masks are part of the reference, so its gradients are tested with a fixed mask.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "tests/support/network_check.h"
#include "tests/support/network_fixture.h"
#include "tests/support/reference_model.h"

static void test_lr_and_fm(void **state)
{
    static const struct {
        uint32_t dim;
        enum loss_type loss;
        enum normalize normalize;
        uint32_t tables;
        bool weighted;
    } cases[] = {
        {0, LOSS_LOGISTIC, NORMALIZE_NONE, 1, false},
        {0, LOSS_LOGISTIC, NORMALIZE_INSTANCE, 2, true},
        {0, LOSS_SQUARED, NORMALIZE_NONE, 2, true},
        {1, LOSS_LOGISTIC, NORMALIZE_NONE, 1, true},
        {3, LOSS_LOGISTIC, NORMALIZE_INSTANCE, 2, false},
        {4, LOSS_SQUARED, NORMALIZE_NONE, 2, true},
        {8, LOSS_LOGISTIC, NORMALIZE_NONE, 1, false},
        {8, LOSS_LOGISTIC, NORMALIZE_INSTANCE, 2, true},
        {16, LOSS_LOGISTIC, NORMALIZE_NONE, 2, true},
        {16, LOSS_LOGISTIC, NORMALIZE_NONE, 3, false},
        {32, LOSS_SQUARED, NORMALIZE_INSTANCE, 2, true},
        {63, LOSS_LOGISTIC, NORMALIZE_NONE, 1, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_case c = {.type = cases[i].dim > 0 ? MODEL_FM : MODEL_LR,
                               .dim = cases[i].dim,
                               .loss = cases[i].loss,
                               .normalize = cases[i].normalize,
                               .table_count = cases[i].tables,
                               .slot_count = {3, 1, 2}};
        struct random_batch r = {.seed = 10 + i,
                                 .example_count = 11,
                                 .key_count = {9, 4, 3},
                                 .max_terms = 2,
                                 .weighted = cases[i].weighted};
        network_check(&c, &r);
    }
}

static void test_mlp(void **state)
{
    static const struct {
        uint32_t dense_width, tables;
        bool weighted;
        uint32_t hidden[2], hidden_count;
        enum activation activation;
        bool layer_norm;
        double dropout;
        enum loss_type loss;
    } cases[] = {
        {5, 0, false, {0}, 0, ACTIVATION_RELU, false, 0, LOSS_LOGISTIC},
        {5, 0, false, {6, 4}, 2, ACTIVATION_RELU, false, 0, LOSS_LOGISTIC},
        {0, 2, false, {6, 4}, 2, ACTIVATION_TANH, false, 0, LOSS_SQUARED},
        {3, 2, true, {6, 4}, 2, ACTIVATION_SIGMOID, false, 0, LOSS_SOFTMAX},
        {3, 2, true, {6, 4}, 2, ACTIVATION_NONE, true, 0, LOSS_SOFTMAX},
        {3, 2, true, {18}, 1, ACTIVATION_TANH, true, 0, LOSS_LOGISTIC},
        {3, 1, false, {8, 5}, 2, ACTIVATION_TANH, false, 0.5, LOSS_LOGISTIC},
        {4, 1, true, {8, 5}, 2, ACTIVATION_RELU, true, 0.3, LOSS_SOFTMAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_case c = {.type = MODEL_MLP,
                               .dim = 5,
                               .loss = cases[i].loss,
                               .classes = 4,
                               .hidden_count = cases[i].hidden_count,
                               .activation = cases[i].activation,
                               .dropout = cases[i].dropout,
                               .layer_norm = cases[i].layer_norm,
                               .dense_width = cases[i].dense_width,
                               .table_count = cases[i].tables,
                               .slot_count = {2, 1}};
        memcpy(c.hidden, cases[i].hidden, sizeof cases[i].hidden);
        struct random_batch r = {.seed = 40 + i,
                                 .example_count = 13,
                                 .key_count = {7, 4},
                                 .max_terms = 3,
                                 .weighted = cases[i].weighted};
        network_check(&c, &r);
    }
}

/* With several outputs, metrics are of the one that the job names. */
static void test_metric_output(void **state)
{
    struct model_output outputs[] = {{.width = 1}, {.width = 1, .label = 1}};
    struct model m = {.outputs = outputs, .output_count = 2, .output_width = 2, .metric_width = 1};
    float logits[] = {1, 2, 3, 4}, labels[] = {0, 1}, more[] = {5, 6}, logit_room[2], label_room[2];
    struct batch b = {.example_count = 2, .labels = labels, .more_labels = more};
    b.more_label_count = 1;
    for (m.metric_output = 0; m.metric_output < 2; m.metric_output++) {
        struct network_metric found = network_metric(&m, &b, logits, logit_room, label_room);
        for (uint32_t i = 0; i < 2; i++) {
            assert_true(found.logits[i] == logits[2 * i + m.metric_output]);
            assert_true(found.labels[i] == (m.metric_output > 0 ? more : labels)[i]);
        }
    }
}

/* ---- bits ------------------------------------------------------------------------------------ */

static const struct model_case big_cases[] = {
    {.type = MODEL_LR, .table_count = 2, .slot_count = {5, 1}},
    {.type = MODEL_FM, .dim = 16, .table_count = 2, .slot_count = {5, 1}},
    {.type = MODEL_FM,
     .dim = 10,
     .normalize = NORMALIZE_INSTANCE,
     .table_count = 1,
     .slot_count = {5}},
    {.type = MODEL_MLP,
     .dim = 12,
     .hidden = {300, 70},
     .hidden_count = 2,
     .loss = LOSS_SOFTMAX,
     .classes = 10,
     .activation = ACTIVATION_TANH,
     .layer_norm = true,
     .dropout = 0.2,
     .dense_width = 20,
     .table_count = 2,
     .slot_count = {3, 1}},
    {.type = MODEL_FFM, .dim = 4, .table_count = 2, .slot_count = {4, 1}},
    {.type = MODEL_DEEPFM,
     .dim = 16,
     .hidden = {100},
     .hidden_count = 1,
     .dense_width = 5,
     .table_count = 2,
     .slot_count = {6, 1}},
    {.type = MODEL_DCN,
     .dim = 10,
     .hidden = {100},
     .hidden_count = 1,
     .low_rank = 8,
     .dense_width = 5,
     .table_count = 2,
     .slot_count = {3, 1}},
    {.type = MODEL_DLRM,
     .dim = 16,
     .hidden = {50},
     .hidden_count = 1,
     .bottom = 20,
     .dense_width = 5,
     .table_count = 2,
     .slot_count = {39, 1}},
};
static const struct random_batch big_batch = {
    .seed = 5, .example_count = 1500, .key_count = {2000, 30}, .max_terms = 3, .weighted = true};

static void assert_same_bits(const float *a, const float *b, size_t count)
{
    if (count > 0)
        assert_memory_equal(a, b, count * sizeof *a);
}

static void test_thread_counts(void **state)
{
    for (size_t i = 0; i < sizeof big_cases / sizeof big_cases[0]; i++) {
        struct fixture one = {0};
        fixture_init(&one, &big_cases[i], &big_batch);
        struct network *n = fixture_network(&one, NULL);
        double loss = fixture_train(n, &one);
        network_destroy(n);
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct fixture many = {0};
            fixture_init(&many, &big_cases[i], &big_batch);
            struct pool *pool = pool_create(threads);
            n = fixture_network(&many, pool);
            double other = fixture_train(n, &many);
            assert_memory_equal(&loss, &other, sizeof loss);
            assert_same_bits(one.logits, many.logits,
                             (size_t)big_batch.example_count * one.model->output_width);
            for (uint32_t t = 0; t < one.batch->table_count; t++)
                assert_same_bits(one.row_gradients[t], many.row_gradients[t],
                                 fixture_row_floats(&one, t));
            for (uint32_t p = 0; p < one.model->schema->dense_count; p++)
                assert_same_bits(one.dense_gradients[p], many.dense_gradients[p],
                                 one.model->schema->dense[p].count);
            network_destroy(n);
            pool_destroy(pool);
            fixture_deinit(&many);
        }
        fixture_deinit(&one);
    }
}

/* A network that has seen other batches gives what a new one gives. */
static void test_no_memory_of_batches(void **state)
{
    struct fixture f = {0}, other = {0};
    fixture_init(&f, &big_cases[3], &big_batch);
    struct random_batch r = big_batch;
    r.seed++;
    fixture_init(&other, &big_cases[3], &r);
    struct network *used = fixture_network(&f, NULL), *fresh = fixture_network(&f, NULL);
    fixture_train(used, &other);
    double after = fixture_train(used, &f);
    float *weight = random_floats(1, f.model->schema->dense[0].count, 0);
    memcpy(weight, f.dense_gradients[0], f.model->schema->dense[0].count * sizeof *weight);
    double alone = fixture_train(fresh, &f);
    assert_memory_equal(&after, &alone, sizeof after);
    assert_same_bits(weight, f.dense_gradients[0], f.model->schema->dense[0].count);
    mem_free(weight);
    network_destroy(used);
    network_destroy(fresh);
    fixture_deinit(&f);
    fixture_deinit(&other);
}

/* ---- edges ----------------------------------------------------------------------------------- */

static void test_empty_batch(void **state)
{
    struct fixture f = {0};
    static const struct random_batch empty = {.seed = 1, .max_terms = 1};
    fixture_init(&f, &big_cases[3], &empty);
    struct network *n = fixture_network(&f, NULL);
    assert_true(fixture_train(n, &f) == 0);
    for (uint32_t p = 0; p < f.model->schema->dense_count; p++)
        for (uint64_t i = 0; i < f.model->schema->dense[p].count; i++)
            assert_true(f.dense_gradients[p][i] == 0);
    struct network_values v = fixture_values(&f);
    assert_int_equal(network_infer(n, f.batch, &v, f.logits), ERR_NONE);
    network_destroy(n);
    fixture_deinit(&f);
}

static void test_refused(void **state)
{
    static const struct {
        enum loss_type loss;
        float label, weight;
        const char *text;
    } cases[] = {
        {LOSS_LOGISTIC, 2, 1, "label 2"},      {LOSS_LOGISTIC, -0.5f, 1, "label -0.5"},
        {LOSS_LOGISTIC, 1, NAN, "weight nan"}, {LOSS_SQUARED, INFINITY, 1, "label inf"},
        {LOSS_SQUARED, 3, -1, "weight -1"},    {LOSS_SOFTMAX, 4, 1, "label 4"},
        {LOSS_SOFTMAX, 1.5f, 1, "label 1.5"},  {LOSS_SOFTMAX, NAN, 1, "label nan"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_case c = {
            .type = MODEL_MLP, .loss = cases[i].loss, .classes = 4, .dense_width = 2};
        struct random_batch r = {.seed = 9, .example_count = 6};
        struct fixture f = {0};
        fixture_init(&f, &c, &r);
        struct network *n = fixture_network(&f, NULL);
        f.batch->labels[5] = cases[i].label;
        f.batch->weights[5] = cases[i].weight;
        struct network_values v = fixture_values(&f);
        struct network_gradients g = fixture_gradients(&f);
        double loss = 42;
        bool finite = true;
        assert_int_equal(network_train(n, f.batch, 0, &v, &g, f.logits, &loss, &finite), ERR_INPUT);
        assert_non_null(strstr(err_text(), cases[i].text));
        assert_non_null(strstr(err_text(), "example 5"));
        assert_true(loss == 42);
        f.batch->example_count = 100;
        assert_int_equal(network_infer(n, f.batch, &v, f.logits), ERR_LIMIT);
        f.batch->example_count = 6;
        network_destroy(n);
        fixture_deinit(&f);
    }
}

static void test_not_finite(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct model_case c = {
            .type = MODEL_FM, .dim = 4, .loss = LOSS_SQUARED, .table_count = 1, .slot_count = {3}};
        struct random_batch r = {.seed = 9, .example_count = 6, .key_count = {5}, .max_terms = 3};
        struct fixture f = {0};
        fixture_init(&f, &c, &r);
        struct network *n = fixture_network(&f, NULL);
        f.rows[0][2] = values[i];
        struct network_values v = fixture_values(&f);
        struct network_gradients g = fixture_gradients(&f);
        double loss;
        bool finite = true;
        assert_int_equal(network_train(n, f.batch, 0, &v, &g, f.logits, &loss, &finite), ERR_NONE);
        assert_false(finite);
        network_destroy(n);
        fixture_deinit(&f);
    }
}

static void test_clip(void **state)
{
    struct fixture f = {0};
    fixture_init(&f, &big_cases[3], &big_batch);
    struct network_gradients g = fixture_gradients(&f);
    double squares = 0;
    for (uint32_t t = 0; t < f.batch->table_count; t++)
        for (size_t i = 0; i < fixture_row_floats(&f, t); i++)
            squares += pow((double)f.row_gradients[t][i], 2);
    for (uint32_t p = 0; p < f.model->schema->dense_count; p++)
        for (size_t i = 0; i < f.model->schema->dense[p].count; i++)
            squares += pow((double)f.dense_gradients[p][i], 2);
    float first = f.row_gradients[0][0];
    double norm = sqrt(squares);
    assert_true(fabs(network_clip(f.model, f.batch, &g, 0) - norm) < 1e-12 * norm);
    assert_true(fabs(network_clip(f.model, f.batch, &g, norm * 1.01) - norm) < 1e-12 * norm);
    assert_true(f.row_gradients[0][0] == first);
    assert_true(fabs(network_clip(f.model, f.batch, &g, norm / 8) - norm) < 1e-12 * norm);
    assert_true(fabs((double)f.row_gradients[0][0] / (double)first - 0.125) < 1e-6);
    assert_true(fabs(network_clip(f.model, f.batch, &g, 0) / norm - 0.125) < 1e-6);
    fixture_deinit(&f);
}

static void test_loss_and_prediction(void **state)
{
    static const struct {
        enum loss_type loss;
        float logits[3], label;
    } cases[] = {
        {LOSS_LOGISTIC, {0}, 1},      {LOSS_LOGISTIC, {3}, 0},         {LOSS_LOGISTIC, {-90}, 1},
        {LOSS_LOGISTIC, {90}, 1},     {LOSS_LOGISTIC, {0.25f}, 0.5f},  {LOSS_SQUARED, {2}, -1},
        {LOSS_SOFTMAX, {1, 2, 3}, 0}, {LOSS_SOFTMAX, {80, 0, -80}, 2}, {LOSS_SOFTMAX, {0, 0, 0}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const float *z = cases[i].logits;
        uint32_t width = cases[i].loss == LOSS_SOFTMAX ? 3 : 1;
        struct model_output output = {.loss = cases[i].loss, .width = width};
        struct model m = {
            .loss = cases[i].loss, .output_width = width, .outputs = &output, .output_count = 1};
        double wide[3] = {(double)z[0], (double)z[1], (double)z[2]};
        double expected = reference_example_loss(&m, wide, (double)cases[i].label);
        double loss = network_loss(&m, z, cases[i].label);
        assert_true(fabs(loss - expected) <= 1e-13 * expected);
        float prediction[3];
        network_predict(&m, z, prediction);
        double sum = exp(wide[0]) + exp(wide[1]) + exp(wide[2]);
        for (uint32_t j = 0; j < m.output_width; j++) {
            double p = m.loss == LOSS_LOGISTIC  ? 1 / (1 + exp(-wide[0]))
                       : m.loss == LOSS_SQUARED ? wide[0]
                                                : exp(wide[j]) / sum;
            assert_true(fabs((double)prediction[j] - p) <= 1e-6 * fabs(p) + 1e-38);
        }
    }
}

static void test_no_memory(void **state)
{
    struct fixture f = {0};
    fixture_init(&f, &big_cases[3], &big_batch);
    struct network_options o = {.model = f.model, .compute = compute_cpu(), .max_examples = 64};
    struct network *n = NULL;
    uint64_t nth = 1;
    for (;; nth++) {
        mem_fail_nth(nth);
        enum err err = network_create(&o, &n);
        mem_fail_nth(0);
        if (err == ERR_NONE)
            break;
        assert_int_equal(err, ERR_MEMORY);
        assert_null(n);
    }
    assert_true(nth > 8);
    network_destroy(n);
    network_destroy(NULL);
    fixture_deinit(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lr_and_fm),
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_metric_output),
        cmocka_unit_test(test_thread_counts),
        cmocka_unit_test(test_no_memory_of_batches),
        cmocka_unit_test(test_empty_batch),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_loss_and_prediction),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
