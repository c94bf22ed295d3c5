/*
 * Goal: whole models on the CUDA backend have the logits, loss and gradients that their formulas
 * say, those of the CPU backend, and the same bits each time; batches of all sizes go through one
 * network, sent ahead or not; and after the first step no memory of the device is allocated.
 *
 * Method: networks on the GPU that tests/support/test_device.h names. network_check() compares
 * every gradient with finite differences in float64; larger batches, with rows of thousands of
 * terms, are compared with the CPU's network as ‖a - b‖ / ‖b‖.
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
#include "tests/support/test_device.h"

static uint64_t seed;

static const struct model_case cases[] = {
    {.type = MODEL_LR},
    {.type = MODEL_FM, .dim = 6, .normalize = NORMALIZE_INSTANCE},
    {.type = MODEL_FFM, .dim = 4},
    {.type = MODEL_FFM, .dim = 3, .normalize = NORMALIZE_INSTANCE},
    {.type = MODEL_MLP,
     .dim = 5,
     .hidden = {6, 4},
     .hidden_count = 2,
     .activation = ACTIVATION_TANH,
     .layer_norm = true,
     .dropout = 0.3,
     .loss = LOSS_SOFTMAX,
     .classes = 4},
    {.type = MODEL_WIDE_DEEP, .dim = 4, .hidden = {7}, .hidden_count = 1, .table_dims = {3, 5}},
    {.type = MODEL_DEEPFM, .dim = 8, .hidden = {6}, .hidden_count = 1, .dropout = 0.25},
    {.type = MODEL_DCN, .dim = 3, .hidden = {6}, .hidden_count = 1, .low_rank = 2},
    {.type = MODEL_DCN,
     .dim = 4,
     .hidden = {6},
     .hidden_count = 1,
     .cross_layers = 2,
     .loss = LOSS_SQUARED},
    {.type = MODEL_DLRM, .dim = 4, .hidden = {6}, .hidden_count = 1, .bottom = 5},
};
#define CASES (sizeof cases / sizeof cases[0])

static struct model_case with_input(const struct model_case *c)
{
    struct model_case whole = *c;
    bool takes_dense = c->type != MODEL_LR && c->type != MODEL_FM && c->type != MODEL_FFM;
    whole.activation = c->type == MODEL_MLP ? c->activation : ACTIVATION_TANH;
    whole.dense_width = takes_dense ? 3 : 0;
    whole.table_count = 2;
    whole.slot_count[0] = 3;
    whole.slot_count[1] = 1;
    return whole;
}

static void test_formulas(void **state)
{
    for (size_t i = 0; i < CASES; i++) {
        struct model_case c = with_input(&cases[i]);
        struct random_batch r = {.seed = seed + i,
                                 .example_count = 11,
                                 .key_count = {7, 4},
                                 .max_terms = 2,
                                 .weighted = i % 2 > 0};
        network_check(&c, &r);
    }
}

/* ---- beside the CPU -------------------------------------------------------------------------- */

static void compare(const char *what, size_t index, const float *cpu, const float *gpu,
                    size_t count, double limit)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)cpu[i] - (double)gpu[i], 2);
        size += pow((double)cpu[i], 2);
    }
    if (!(sqrt(difference) <= limit * sqrt(size) + 1e-30))
        fail_msg("case %zu: %s differs by %g of %g", index, what, sqrt(difference), sqrt(size));
}

static void compare_fixtures(size_t index, const struct fixture *cpu, const struct fixture *gpu,
                             double limit)
{
    compare("logits", index, cpu->logits, gpu->logits,
            (size_t)cpu->batch->example_count * cpu->model->output_width, limit);
    for (uint32_t t = 0; t < cpu->batch->table_count; t++)
        compare(cpu->model->schema->tables[t].name, index, cpu->row_gradients[t],
                gpu->row_gradients[t], fixture_row_floats(cpu, t), limit);
    for (uint32_t p = 0; p < cpu->model->schema->dense_count; p++)
        compare(cpu->model->schema->dense[p].name, index, cpu->dense_gradients[p],
                gpu->dense_gradients[p], cpu->model->schema->dense[p].count, limit);
}

/* Rows with hundreds of terms, which are summed in parts. */
static const struct random_batch big_batch = {
    .example_count = 700, .key_count = {300, 5}, .max_terms = 3, .weighted = true};

static double train_on(struct device *device, struct fixture *f, const struct model_case *c,
                       const struct random_batch *r)
{
    struct device *kept = fixture_device;
    fixture_init(f, c, r);
    fixture_device = device;
    struct network *n = fixture_network(f, NULL);
    double loss = fixture_train(n, f);
    network_destroy(n);
    fixture_device = kept;
    return loss;
}

static void compare_with_cpu(struct device *gpu, double limit)
{
    for (size_t i = 0; i < CASES; i++) {
        struct model_case c = with_input(&cases[i]);
        struct random_batch r = big_batch;
        struct fixture cpu = {0}, first = {0}, second = {0};
        r.seed = seed + 50 + i;
        double expected = train_on(NULL, &cpu, &c, &r);
        double found = train_on(gpu, &first, &c, &r);
        double again = train_on(gpu, &second, &c, &r);
        compare_fixtures(i, &cpu, &first, limit);
        compare_fixtures(i, &first, &second, 0);
        assert_true(fabs(expected - found) <= limit * fabs(expected));
        assert_true(found == again);
        fixture_deinit(&cpu);
        fixture_deinit(&first);
        fixture_deinit(&second);
    }
}

static void test_beside_cpu(void **state)
{
    compare_with_cpu(fixture_device, 5e-5);
}

static void test_narrow(void **state)
{
    static const struct {
        enum precision precision;
        double limit;
    } narrow[] = {{PRECISION_TF32, 1e-2}, {PRECISION_BF16, 5e-2}, {PRECISION_FP16, 1e-2}};
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        struct device *gpu = test_device_open(narrow[i].precision);
        compare_with_cpu(gpu, narrow[i].limit);
        device_close(gpu);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

#define STEPS 6u

/* The batches that are sent while each one is computed. */
static const char *const sent[][STEPS] = {
    {"", "52", "33", "", "5", ""}, /* the next one, twice, not at all; or another one before it */
    {"2", "", "3", "", "", ""},    /* the one after the next, which is then not sent itself */
    {"12", "32", "53", "5", "", ""},
};

/* One network, batches of other sizes, sent ahead or not: each gives what it gives alone. */
static void train_in_steps(const char *const *sent_in)
{
    static const uint32_t examples[STEPS] = {90, 90, 80, 37, 0, 1};
    struct model_case c = with_input(&cases[6]);
    struct fixture f[STEPS] = {0}, alone[STEPS] = {0};
    struct network *n = NULL;
    for (uint32_t i = 0; i < STEPS; i++) {
        struct random_batch r = {
            .seed = seed + i, .example_count = examples[i], .key_count = {60, 9}, .max_terms = 1};
        fixture_init(&f[i], &c, &r);
        f[i].batch->step = 10 + i;
        fixture_init(&alone[i], &c, &r);
        alone[i].batch->step = 10 + i;
    }
    n = fixture_network(&f[0], NULL);
    for (uint32_t i = 0; i < STEPS; i++) {
        struct network_values v = fixture_values(&f[i]);
        struct network_gradients g = fixture_gradients(&f[i]);
        double loss = 0;
        bool finite = false;
        assert_int_equal(network_start(n, f[i].batch, FIXTURE_FIRST_EXAMPLE, &v, &g, f[i].logits),
                         ERR_NONE);
        for (const char *k = sent_in[i]; *k != '\0'; k++)
            assert_int_equal(network_send(n, f[*k - '0'].batch), ERR_NONE);
        assert_int_equal(network_finish(n, &loss, &finite), ERR_NONE);
        assert_true(finite);
        struct network *other = fixture_network(&alone[0], NULL);
        assert_true(loss == fixture_train(other, &alone[i]));
        compare_fixtures(i, &alone[i], &f[i], 0);
        network_destroy(other);
    }
    network_destroy(n);
    for (uint32_t i = 0; i < STEPS; i++) {
        fixture_deinit(&f[i]);
        fixture_deinit(&alone[i]);
    }
}

static void test_steps(void **state)
{
    for (size_t i = 0; i < sizeof sent / sizeof sent[0]; i++)
        train_in_steps(sent[i]);
}

/* Batches of up to max_examples and one term a slot: all memory is there after the first. */
static void test_no_allocation(void **state)
{
    struct model_case c = with_input(&cases[9]);
    struct random_batch small = {
        .seed = seed, .example_count = 20, .key_count = {9, 3}, .max_terms = 1};
    struct random_batch large = {
        .seed = seed + 1, .example_count = 200, .key_count = {600, 200}, .max_terms = 1};
    struct fixture few = {0}, many = {0};
    struct device_usage before, after;
    fixture_init(&few, &c, &small);
    fixture_init(&many, &c, &large);
    struct network *n = fixture_network(&many, NULL);
    fixture_train(n, &few);
    assert_int_equal(device_usage(fixture_device, &before), ERR_NONE);
    fixture_train(n, &many);
    fixture_train(n, &few);
    fixture_train(n, &many);
    assert_int_equal(device_usage(fixture_device, &after), ERR_NONE);
    assert_int_equal(before.allocations, after.allocations);
    network_destroy(n);
    fixture_deinit(&few);
    fixture_deinit(&many);
}

/*
 * A batch that was sent is given up for one whose arrays need more room, and networks end with
 * batches sent and a pass not waited for: no memory is freed that a copy still reads or writes.
 */
static void test_on_its_way(void **state)
{
    struct model_case c = with_input(&cases[6]);
    struct random_batch small = {
        .seed = seed, .example_count = 60, .key_count = {40, 9}, .max_terms = 1};
    struct random_batch large = small;
    struct fixture f[3] = {0};
    large.max_terms = 40;
    fixture_init(&f[0], &c, &small);
    fixture_init(&f[1], &c, &small);
    fixture_init(&f[2], &c, &large);
    f[1].batch->step = 11;
    f[2].batch->step = 12;
    for (uint32_t round = 0; round < 20; round++) {
        struct network *n = fixture_network(&f[0], NULL);
        struct network_values v = fixture_values(&f[0]);
        struct network_gradients g = fixture_gradients(&f[0]);
        assert_int_equal(network_send(n, f[1].batch), ERR_NONE);
        assert_int_equal(network_send(n, f[0].batch), ERR_NONE);
        assert_int_equal(network_start(n, f[0].batch, 0, &v, &g, f[0].logits), ERR_NONE);
        assert_int_equal(network_send(n, f[1].batch), ERR_NONE);
        if (round % 2 > 0)
            assert_int_equal(network_send(n, f[2].batch), ERR_NONE);
        network_destroy(n);
    }
    for (uint32_t i = 0; i < 3; i++)
        fixture_deinit(&f[i]);
}

/* Megabytes of rows, which several threads copy. */
static void test_many_rows(void **state)
{
    struct model_case c = {
        .type = MODEL_FM, .dim = 63, .table_count = 1, .slot_count = {3}, .loss = LOSS_LOGISTIC};
    struct random_batch r = {
        .seed = seed, .example_count = 40, .key_count = {9000}, .max_terms = 2};
    struct fixture cpu = {0}, gpu = {0};
    struct pool *pool = pool_create(3);
    struct device_options o = {.cuda = true, .pool = pool};
    struct device *d = NULL;
    assert_int_equal(device_open(&o, &d), ERR_NONE);
    double expected = train_on(NULL, &cpu, &c, &r), found = train_on(d, &gpu, &c, &r);
    assert_true(fabs(expected - found) <= 5e-5 * fabs(expected));
    compare_fixtures(0, &cpu, &gpu, 5e-5);
    device_close(d);
    pool_destroy(pool);
    fixture_deinit(&cpu);
    fixture_deinit(&gpu);
}

/* A loss of 2^k times the size gives the same gradients, but for what overflows. */
static void test_loss_scale(void **state)
{
    struct model_case c = with_input(&cases[6]);
    struct random_batch r = {
        .seed = seed, .example_count = 50, .key_count = {20, 5}, .max_terms = 2};
    struct fixture plain = {0}, scaled = {0};
    double loss = train_on(fixture_device, &plain, &c, &r);
    fixture_init(&scaled, &c, &r);
    struct network *n = fixture_network(&scaled, NULL);
    network_set_loss_scale(n, 1024.0f);
    assert_true(loss == fixture_train(n, &scaled));
    compare_fixtures(0, &plain, &scaled, 1e-6);
    network_set_loss_scale(n, 0x1p127f);
    struct network_values v = fixture_values(&scaled);
    struct network_gradients g = fixture_gradients(&scaled);
    bool finite = true;
    assert_int_equal(network_train(n, scaled.batch, 0, &v, &g, scaled.logits, &loss, &finite),
                     ERR_NONE);
    assert_false(finite);
    network_destroy(n);
    fixture_deinit(&plain);
    fixture_deinit(&scaled);
}

/* Two networks on two devices, or on one, by turns: several ranks in a worker. */
static void test_two_devices(void **state)
{
    struct model_case c = with_input(&cases[8]);
    struct random_batch r = {
        .seed = seed, .example_count = 60, .key_count = {30, 5}, .max_terms = 2};
    struct fixture one = {0}, two = {0};
    struct device_options options = {.cuda = true};
    struct device *other = NULL;
    struct network *networks[2];
    uint32_t count = 0;
    assert_int_equal(device_count(&count), ERR_NONE);
    options.index = count > 1;
    assert_int_equal(device_open(&options, &other), ERR_NONE);
    fixture_init(&one, &c, &r);
    fixture_init(&two, &c, &r);
    networks[0] = fixture_network(&one, NULL);
    struct device *kept = fixture_device;
    fixture_device = other;
    networks[1] = fixture_network(&two, NULL);
    fixture_device = kept;
    struct network_values v[2] = {fixture_values(&one), fixture_values(&two)};
    struct network_gradients g[2] = {fixture_gradients(&one), fixture_gradients(&two)};
    float *logits[2] = {one.logits, two.logits};
    struct batch *batches[2] = {one.batch, two.batch};
    double loss[2];
    bool finite;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(network_start(networks[i], batches[i], 0, &v[i], &g[i], logits[i]),
                             ERR_NONE);
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(network_finish(networks[i], &loss[i], &finite), ERR_NONE);
        assert_true(loss[0] == loss[1]);
        compare_fixtures(round, &one, &two, 0);
    }
    network_destroy(networks[0]);
    network_destroy(networks[1]);
    device_close(other);
    fixture_deinit(&one);
    fixture_deinit(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),      cmocka_unit_test(test_beside_cpu),
        cmocka_unit_test(test_narrow),        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_no_allocation), cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_loss_scale),    cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_on_its_way),
    };
    test_device_choose();
    seed = test_device_seed();
    fixture_device = test_device_open(PRECISION_FLOAT32);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(fixture_device);
    return failed;
}
