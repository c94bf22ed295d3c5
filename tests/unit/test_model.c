/*
 * Goal: a model is the layers, tables and dense parameters that its job says, and what cannot be is
 * refused with the setting's name. Method: for each preset a table of what must come out, written
 * down by hand; jobs are made as structs, so that no parser is in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "common/model.h"
#include "tests/support/model_job.h"

static struct model *make(struct model_job *j, const struct model_case *c)
{
    model_job_init(j, c);
    struct model *m = NULL;
    assert_int_equal(model_create(&j->job, &j->features, &m), ERR_NONE);
    return m;
}

static const struct model_case lr = {
    .type = MODEL_LR, .dim = 16, .l2 = 0.25, .table_count = 2, .slot_count = {3, 1}};
static const struct model_case fm = {
    .type = MODEL_FM, .dim = 8, .l2 = 0.25, .table_count = 2, .slot_count = {3, 1}};
static const struct model_case mlp = {
    .type = MODEL_MLP,
    .dim = 4,
    .hidden = {32, 16},
    .hidden_count = 2,
    .activation = ACTIVATION_RELU,
    .dense_width = 5,
    .table_count = 2,
    .slot_count = {3, 2},
};

/* ---- tables and components ------------------------------------------------------------------ */

static void test_lr(void **state)
{
    struct model_job j;
    struct model *m = make(&j, &lr);
    assert_int_equal(m->schema->table_count, 2);
    for (uint32_t t = 0; t < 2; t++) {
        const struct schema_table *table = &m->schema->tables[t];
        assert_string_equal(table->name, j.tables[t].name);
        assert_int_equal(table->component_count, 1);
        assert_int_equal(table->dim, 1);
        assert_string_equal(table->components[0].name, "w");
        assert_string_equal(table->components[0].optimizer.type, "ftrl");
        assert_true(table->components[0].optimizer.l1 == 0.5);
        assert_true(table->components[0].l2 == 0.25);
        assert_int_equal(table->components[0].init.kind, INIT_ZERO);
        assert_int_equal(m->slot_count[t], lr.slot_count[t]);
    }
    assert_int_equal(m->layer_count, 1);
    assert_int_equal(m->layers[0].type, LAYER_TERMS);
    assert_int_equal(m->layers[0].factor_dim, 0);
    assert_int_equal(m->output_width, 1);
    model_destroy(m);
}

static void test_bias(void **state)
{
    struct model_job j;
    struct model *m = make(&j, &lr);
    assert_int_equal(m->schema->dense_count, 1);
    const struct schema_dense *bias = &m->schema->dense[m->layers[0].dense[0]];
    assert_string_equal(bias->name, "bias");
    assert_int_equal(bias->count, 1);
    assert_int_equal(bias->shape_count, 1);
    assert_string_equal(bias->optimizer.type, "ftrl");
    assert_true(bias->optimizer.l1 == 0);
    assert_true(bias->l2 == 0);
    float value = 1;
    schema_dense_init(bias, 0, 1, &value);
    assert_true(value == 0);
    model_destroy(m);
}

static void test_fm(void **state)
{
    struct model_job j;
    model_job_init(&j, &fm);
    static char name[] = "table1";
    struct job_table own = {.name = name,
                            .has_init = true,
                            .init = {INIT_UNIFORM, 0.5},
                            .has_optimizer = true,
                            .optimizer = {.type = "sgd", .learning_rate = 1},
                            .has_l2 = true,
                            .l2 = 0.75,
                            .max_rows = 99};
    j.tables[1].job = &own;
    struct model *m;
    assert_int_equal(model_create(&j.job, &j.features, &m), ERR_NONE);
    static const struct {
        enum init_kind init;
        double scale, l2;
        const char *optimizer;
        uint64_t max_rows;
    } expected[] = {
        {INIT_NORMAL, 0.01, 0.25, "adagrad", 0},
        {INIT_UNIFORM, 0.5, 0.75, "sgd", 99},
    };
    for (uint32_t t = 0; t < 2; t++) {
        const struct schema_table *table = &m->schema->tables[t];
        assert_int_equal(table->component_count, 2);
        assert_int_equal(table->dim, 9);
        assert_int_equal(table->max_rows, expected[t].max_rows);
        assert_string_equal(table->components[0].name, "w");
        assert_string_equal(table->components[0].optimizer.type, "ftrl");
        const struct schema_component *v = &table->components[1];
        assert_string_equal(v->name, "v");
        assert_int_equal(v->dim, 8);
        assert_int_equal(v->offset, 1);
        assert_int_equal(v->init.kind, expected[t].init);
        assert_true(v->init.scale == expected[t].scale);
        assert_true(v->l2 == expected[t].l2);
        assert_string_equal(v->optimizer.type, expected[t].optimizer);
    }
    assert_int_equal(m->layers[0].factor_dim, 8);
    model_destroy(m);
}

/* ---- mlp ------------------------------------------------------------------------------------ */

struct expected_layer {
    const char *name;
    enum layer_type type;
    uint32_t in, out;
    enum activation activation;
};

static void check_layers(const struct model *m, const struct expected_layer *expected,
                         uint32_t count)
{
    assert_int_equal(m->layer_count, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_string_equal(m->layers[i].name, expected[i].name);
        assert_int_equal(m->layers[i].type, expected[i].type);
        assert_int_equal(m->layers[i].in_width, expected[i].in);
        assert_int_equal(m->layers[i].out_width, expected[i].out);
        assert_int_equal(m->layers[i].activation, expected[i].activation);
    }
}

static void test_mlp(void **state)
{
    struct model_job j;
    struct model *m = make(&j, &mlp);
    static const struct expected_layer layers[] = {
        {"input", LAYER_INPUT, 0, 25, ACTIVATION_NONE},
        {"hidden0", LAYER_LINEAR, 25, 32, ACTIVATION_RELU},
        {"hidden1", LAYER_LINEAR, 32, 16, ACTIVATION_RELU},
        {"output", LAYER_LINEAR, 16, 1, ACTIVATION_NONE},
    };
    check_layers(m, layers, 4);
    assert_int_equal(m->embedding_offset[0], 5);
    assert_int_equal(m->embedding_offset[1], 5 + 3 * 4);
    static const struct {
        const char *name;
        uint32_t shape[2], shape_count;
        enum init_kind init;
    } dense[] = {
        {"hidden0.weight", {25, 32}, 2, INIT_GLOROT}, {"hidden0.bias", {32}, 1, INIT_ZERO},
        {"hidden1.weight", {32, 16}, 2, INIT_GLOROT}, {"hidden1.bias", {16}, 1, INIT_ZERO},
        {"output.weight", {16, 1}, 2, INIT_GLOROT},   {"output.bias", {1}, 1, INIT_ZERO},
    };
    assert_int_equal(m->schema->dense_count, 6);
    for (uint32_t p = 0; p < 6; p++) {
        const struct schema_dense *d = &m->schema->dense[p];
        assert_string_equal(d->name, dense[p].name);
        assert_int_equal(d->shape_count, dense[p].shape_count);
        for (uint32_t s = 0; s < d->shape_count; s++)
            assert_int_equal(d->shape[s], dense[p].shape[s]);
        assert_int_equal(d->init.kind, dense[p].init);
        assert_string_equal(d->optimizer.type, "adam");
        assert_int_equal(m->layers[1 + p / 2].dense[p % 2], p);
    }
    assert_int_equal(m->schema->dense[0].fan_in, 25);
    assert_int_equal(m->schema->dense[0].fan_out, 32);
    assert_int_equal(m->schema->tables[0].component_count, 1);
    assert_string_equal(m->schema->tables[0].components[0].name, "v");
    model_destroy(m);
}

static void test_mlp_with_everything(void **state)
{
    struct model_job j;
    struct model_case c = mlp;
    c.loss = LOSS_SOFTMAX;
    c.classes = 10;
    c.layer_norm = true;
    c.dropout = 0.25;
    c.hidden_count = 1;
    struct model *m = make(&j, &c);
    static const struct expected_layer layers[] = {
        {"input", LAYER_INPUT, 0, 25, ACTIVATION_NONE},
        {"hidden0", LAYER_LINEAR, 25, 32, ACTIVATION_NONE},
        {"hidden0.norm", LAYER_NORM, 32, 32, ACTIVATION_NONE},
        {"hidden0.activation", LAYER_ACTIVATION, 32, 32, ACTIVATION_RELU},
        {"hidden0.dropout", LAYER_DROPOUT, 32, 32, ACTIVATION_NONE},
        {"output", LAYER_LINEAR, 32, 10, ACTIVATION_NONE},
    };
    check_layers(m, layers, 6);
    assert_true(m->layers[4].dropout == 0.25);
    assert_string_equal(m->schema->dense[2].name, "hidden0.norm.gain");
    assert_string_equal(m->schema->dense[3].name, "hidden0.norm.bias");
    float gain[32];
    schema_dense_init(&m->schema->dense[2], 0, 32, gain);
    assert_true(gain[0] == 1 && gain[31] == 1);
    assert_int_equal(m->output_width, 10);
    model_destroy(m);
}

static void test_mlp_without_hidden_layers(void **state)
{
    struct model_job j;
    struct model_case c = mlp;
    c.hidden_count = 0;
    c.table_count = 0;
    struct model *m = make(&j, &c);
    static const struct expected_layer layers[] = {
        {"input", LAYER_INPUT, 0, 5, ACTIVATION_NONE},
        {"output", LAYER_LINEAR, 5, 1, ACTIVATION_NONE},
    };
    check_layers(m, layers, 2);
    model_destroy(m);
}

/* A table's dim moves what comes after it. */
static void test_table_dims(void **state)
{
    struct model_job j;
    model_job_init(&j, &mlp);
    struct job_table own = {.dim = 7};
    j.tables[0].job = &own;
    struct model *m;
    assert_int_equal(model_create(&j.job, &j.features, &m), ERR_NONE);
    assert_int_equal(m->schema->tables[0].dim, 7);
    assert_int_equal(m->schema->tables[1].dim, 4);
    assert_int_equal(m->embedding_offset[1], 5 + 3 * 7);
    assert_int_equal(m->layers[0].out_width, 5 + 3 * 7 + 2 * 4);
    model_destroy(m);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    static const struct {
        struct model_case c;
        enum err err;
        const char *text;
    } cases[] = {
        {{.type = MODEL_LR, .table_count = 1, .loss = LOSS_SOFTMAX, .classes = 3},
         ERR_INPUT,
         "model.loss: softmax"},
        {{.type = MODEL_FM, .dim = 4, .table_count = 1, .dense_width = 3},
         ERR_INPUT,
         "model.type: fm"},
        {{.type = MODEL_LR}, ERR_INPUT, "features: none"},
        {{.type = MODEL_MLP}, ERR_INPUT, "features: none"},
        {{.type = MODEL_MLP, .dense_width = 3, .loss = LOSS_SOFTMAX, .classes = 1},
         ERR_INPUT,
         "model.classes: 1"},
        {{.type = MODEL_MLP, .dense_width = 3, .normalize = NORMALIZE_INSTANCE},
         ERR_INPUT,
         "model.normalize"},
        {{.type = MODEL_MLP, .dense_width = 3, .hidden = {4, 0}, .hidden_count = 2},
         ERR_INPUT,
         "model.hidden[1]: 0"},
        {{.type = MODEL_MLP, .dense_width = 3, .dropout = 1}, ERR_INPUT, "model.dropout: 1"},
        {{.type = MODEL_MLP, .dense_width = 1u << 21}, ERR_LIMIT, "2097152"},
        {{.type = MODEL_MLP, .dim = 4096, .table_count = 1, .slot_count = {4096}},
         ERR_LIMIT,
         "tables.table0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_job j;
        model_job_init(&j, &cases[i].c);
        struct model *m = NULL;
        assert_int_equal(model_create(&j.job, &j.features, &m), cases[i].err);
        assert_null(m);
        assert_non_null(strstr(err_text(), cases[i].text));
    }
}

static void test_fm_refuses_other_dim(void **state)
{
    struct model_job j;
    model_job_init(&j, &fm);
    struct job_table own = {.dim = 9};
    j.tables[1].job = &own;
    struct model *m = NULL;
    assert_int_equal(model_create(&j.job, &j.features, &m), ERR_INPUT);
    assert_non_null(strstr(err_text(), "tables.table1.dim: 9"));
}

static void test_no_memory(void **state)
{
    struct model_job j;
    model_job_init(&j, &mlp);
    struct model *m = NULL;
    uint64_t nth = 1;
    for (;; nth++) {
        mem_fail_nth(nth);
        enum err err = model_create(&j.job, &j.features, &m);
        mem_fail_nth(0);
        if (err == ERR_NONE)
            break;
        assert_int_equal(err, ERR_MEMORY);
        assert_null(m);
    }
    assert_true(nth > 5);
    model_destroy(m);
    model_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lr),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_fm),
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_mlp_with_everything),
        cmocka_unit_test(test_mlp_without_hidden_layers),
        cmocka_unit_test(test_table_dims),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fm_refuses_other_dim),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
