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

/* ---- presets with several layers ------------------------------------------------------------- */

/* Three columns of dense input, a table with three slots and one with a slot. */
static const struct model_case deep = {.dim = 4,
                                       .hidden = {8},
                                       .hidden_count = 1,
                                       .activation = ACTIVATION_RELU,
                                       .bottom = 6,
                                       .cross_layers = 2,
                                       .dense_width = 3,
                                       .table_count = 2,
                                       .slot_count = {3, 1}};

static const struct {
    enum model_type type;
    uint32_t low_rank;
    enum cross_structure structure;
    bool has_wide;
    struct expected_layer layers[8];
    uint32_t count;
} presets[] = {
    {MODEL_FFM, 0, 0, true, {{"ffm", LAYER_FIELD_TERMS, 0, 1, 0}}, 1},
    {MODEL_WIDE_DEEP,
     0,
     0,
     true,
     {{"input", LAYER_INPUT, 0, 19, 0},
      {"wide", LAYER_TERMS, 0, 1, 0},
      {"deep0", LAYER_LINEAR, 19, 8, ACTIVATION_RELU},
      {"deep_output", LAYER_LINEAR, 8, 1, 0},
      {"output", LAYER_SUM, 2, 1, 0}},
     5},
    {MODEL_DEEPFM,
     0,
     0,
     true,
     {{"input", LAYER_INPUT, 0, 19, 0},
      {"wide", LAYER_TERMS, 0, 1, 0},
      {"fm", LAYER_FM, 16, 1, 0},
      {"deep0", LAYER_LINEAR, 19, 8, ACTIVATION_RELU},
      {"deep_output", LAYER_LINEAR, 8, 1, 0},
      {"output", LAYER_SUM, 3, 1, 0}},
     6},
    {MODEL_DCN,
     0,
     STRUCTURE_STACKED,
     false,
     {{"input", LAYER_INPUT, 0, 19, 0},
      {"cross0", LAYER_CROSS, 19, 19, 0},
      {"cross1", LAYER_CROSS, 19, 19, 0},
      {"deep0", LAYER_LINEAR, 19, 8, ACTIVATION_RELU},
      {"output", LAYER_LINEAR, 8, 1, 0}},
     5},
    {MODEL_DCN,
     5,
     STRUCTURE_PARALLEL,
     false,
     {{"input", LAYER_INPUT, 0, 19, 0},
      {"cross0", LAYER_CROSS, 19, 19, 0},
      {"cross1", LAYER_CROSS, 19, 19, 0},
      {"deep0", LAYER_LINEAR, 19, 8, ACTIVATION_RELU},
      {"output.in", LAYER_CONCAT, 27, 27, 0},
      {"output", LAYER_LINEAR, 27, 1, 0}},
     6},
    {MODEL_DLRM,
     0,
     0,
     false,
     {{"input", LAYER_INPUT, 0, 19, 0},
      {"bottom0", LAYER_LINEAR, 3, 6, ACTIVATION_RELU},
      {"bottom1", LAYER_LINEAR, 6, 4, ACTIVATION_RELU},
      {"dot.in", LAYER_CONCAT, 20, 20, 0},
      {"dot", LAYER_DOT, 20, 10, 0},
      {"top.in", LAYER_CONCAT, 14, 14, 0},
      {"top0", LAYER_LINEAR, 14, 8, ACTIVATION_RELU},
      {"output", LAYER_LINEAR, 8, 1, 0}},
     8},
};

static void test_presets(void **state)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        struct model_job j;
        struct model_case c = deep;
        c.type = presets[i].type;
        c.low_rank = presets[i].low_rank;
        c.structure = presets[i].structure;
        c.dense_width = c.type == MODEL_FFM ? 0 : 3;
        struct model *m = make(&j, &c);
        check_layers(m, presets[i].layers, presets[i].count);
        const struct schema_table *t = &m->schema->tables[0];
        assert_int_equal(t->component_count, 1 + presets[i].has_wide);
        assert_string_equal(t->components[0].name, presets[i].has_wide ? "w" : "v");
        assert_int_equal(t->components[t->component_count - 1].dim, c.type == MODEL_FFM ? 16 : 4);
        model_destroy(m);
    }
}

static void test_cross_parameters(void **state)
{
    struct model_job j;
    struct model_case c = deep;
    c.type = MODEL_DCN;
    c.low_rank = 5;
    struct model *m = make(&j, &c);
    static const struct {
        const char *name;
        uint32_t shape[2], shape_count;
    } expected[] = {{"cross0.u", {5, 19}, 2}, {"cross0.bias", {19}, 1}, {"cross0.v", {19, 5}, 2}};
    for (uint32_t p = 0; p < 3; p++) {
        const struct schema_dense *d = &m->schema->dense[m->layers[1].dense[p]];
        assert_string_equal(d->name, expected[p].name);
        assert_int_equal(d->shape_count, expected[p].shape_count);
        for (uint32_t s = 0; s < d->shape_count; s++)
            assert_int_equal(d->shape[s], expected[p].shape[s]);
    }
    model_destroy(m);
}

/* Lists that cannot be, and the part of the error that says where and why. */
static void test_layers_refused(void **state)
{
    static const struct {
        const char *list, *text;
    } cases[] = {
        {"[]", "model.layers: empty"},
        {"[{name: a, type: concat, in: []}]", "model.layers.a: has an empty 'in'"},
        {"[{name: a, type: linear, in: [dense, deeep], units: 1}]",
         "model.layers.a: reads 'deeep', which is no layer"},
        {"[{name: a, type: linear, in: [a], units: 1}]", "reads 'a', which stands for itself"},
        {"[{name: a, type: linear, in: [b], units: 1}, {name: b, type: concat, in: [dense]}]",
         "model.layers.a: reads 'b', which stands after it"},
        {"[{name: a, type: linear, in: [dense, embeddings], units: 2}]",
         "model.layers.a: gives 2 numbers"},
        {"[{name: b, type: concat, in: [embeddings]}, {name: a, type: linear, in: [dense], units: "
         "1}]",
         "model.layers.b: no layer reads it"},
        {"[{name: a, type: linear, in: [dense], units: 1}]", "tables.table0: no layer reads it"},
        {"[{name: f, type: fm, in: [dense, embeddings]}]",
         "model.layers.f: multiplies vectors, which must have one length, and reads the dense"},
        {"[{name: f, type: fm, in: [embeddings]}]", "reads tables of different dims"},
        {"[{name: x, type: linear, in: [dense], units: 3}, {name: y, type: linear, in: "
         "[embeddings], units: 4}, {name: f, type: dot, in: [x, y]}]",
         "model.layers.f: multiplies vectors, which must have one length, and reads some of 3 and "
         "some of 4"},
        {"[{name: x, type: linear, in: [dense, embeddings], units: 3}, {name: f, type: dot, in: "
         "[x]}]",
         "model.layers.f: multiplies pairs of vectors, and reads only one"},
        {"[{name: s, type: sum, in: [dense, embeddings]}]",
         "model.layers.s: adds arrays, which must have one width, and reads some of 3"},
        {"[{name: c, type: cross, in: [dense, embeddings], low_rank: 22}]",
         "model.layers.c: low_rank: 22, and its input has 22 columns"},
        {"[{name: t, type: terms, in: [dense]}]", "model.layers.t: reads the features' terms"},
        {"[{name: t, type: terms, pairs: fm}, {name: s, type: terms, pairs: ffm}]",
         "model.layers.s: has the tables' linear terms and the bias, and so has layer 't'"},
        {"[{name: a, type: mlp, in: [dense], hidden: [3]}, {name: a0, type: linear, in: [a, "
         "embeddings], units: 1}]",
         "model.layers.a0: has a parameter 'a0.weight', and a layer before it has one of that"},
        {"[{name: t, type: terms}, {name: s, type: sum, in: [t, wide]}]",
         "model.layers.t: has the tables' linear terms and vectors to itself"},
        {"[{name: a, type: linear, in: ['embeddings(user_*)'], units: 1}]",
         "reads embeddings(user_*), which no categorical feature matches"},
        {"[{name: a, type: linear, in: [dense], units: 65536}, {name: b, type: concat, in: [a, a, "
         "a, a, a, a, a, a, a, a, a, a, a, a, a, a]}, {name: c, type: concat, in: [b, a]}]",
         "model.layers.c: reads more than 1048576 numbers an example"},
        {"[{name: a, type: linear, in: [dense], units: 65536}, {name: b, type: concat, in: [a, a]}"
         ", {name: c, type: cross, in: [b], layers: 2}]",
         "model.layers.c: has 17179869184 values in 'c0.weight', of 131072 rows and 131072"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_job j;
        struct model_case c = deep;
        c.type = MODEL_LAYERS;
        c.layers = cases[i].list;
        c.table_dims[1] = 7;
        model_job_init(&j, &c);
        struct model *m = NULL;
        enum err err = model_create(&j.job, &j.features, &m);
        assert_true(err == ERR_INPUT || err == ERR_LIMIT);
        assert_null(m);
        if (strstr(err_text(), cases[i].text) == NULL)
            fail_msg("%s\n-> %s\nnot: %s", cases[i].list, err_text(), cases[i].text);
        model_job_deinit(&j);
    }
}

/* embeddings(PATTERN) are the columns of the features that match, side by side where they are. */
static void test_embeddings_by_name(void **state)
{
    static char names[4][8] = {"user", "item", "city", "item2"};
    struct feature_spec features[4];
    for (uint32_t i = 0; i < 4; i++)
        features[i] = (struct feature_spec){
            .name = names[i], .table = i == 3, .slot = i % 3, .gives_terms = true};
    static const struct {
        const char *list;
        struct model_ref in[2];
        uint32_t count;
    } cases[] = {
        {"[{name: a, type: concat, in: [embeddings]}, {name: b, type: linear, in: [a], units: 1}]",
         {{0, 3, 16}},
         1},
        {"[{name: a, type: concat, in: ['embeddings(item*)', dense]}, {name: b, type: linear, in: "
         "[a], units: 1}]",
         {{0, 7, 4}, {0, 15, 4}},
         3},
        {"[{name: a, type: concat, in: [dense, 'embeddings(user)', 'embeddings(item)']}, {name: b, "
         "type: linear, in: [a], units: 1}]",
         {{0, 0, 11}},
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_job j;
        struct model_case c = deep;
        c.type = MODEL_LAYERS;
        c.layers = cases[i].list;
        model_job_init(&j, &c);
        j.features.features = features;
        j.features.feature_count = 4;
        struct model *m = NULL;
        assert_int_equal(model_create(&j.job, &j.features, &m), ERR_NONE);
        assert_int_equal(m->layers[1].in_count, cases[i].count);
        for (uint32_t k = 0; k < cases[i].count && k < 2; k++) {
            assert_int_equal(m->layers[1].in[k].first, cases[i].in[k].first);
            assert_int_equal(m->layers[1].in[k].width, cases[i].in[k].width);
        }
        model_destroy(m);
        model_job_deinit(&j);
    }
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
        {{.type = MODEL_MLP, .dim = 4000, .table_count = 1, .slot_count = {4096}},
         ERR_LIMIT,
         "tables.table0"},
        {{.type = MODEL_FFM, .dim = 64, .table_count = 1, .slot_count = {64}},
         ERR_LIMIT,
         "model.dim: 64 for each of 64 fields"},
        {{.type = MODEL_DEEPFM, .dim = 4, .dense_width = 3}, ERR_INPUT, "none is categorical"},
        {{.type = MODEL_WIDE_DEEP, .dim = 4, .table_count = 1, .loss = LOSS_SOFTMAX, .classes = 3},
         ERR_INPUT,
         "model.loss: softmax, and wide_deep has one output"},
        {{.type = MODEL_DEEPFM,
          .dim = 4,
          .table_count = 2,
          .slot_count = {1, 1},
          .table_dims = {4, 5}},
         ERR_INPUT,
         "model.type: deepfm: its layer 'fm'"},
        {{.type = MODEL_DLRM, .dim = 4, .table_count = 1, .slot_count = {1}},
         ERR_INPUT,
         "model.type: dlrm: its layer 'dot'"},
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
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_cross_parameters),
        cmocka_unit_test(test_layers_refused),
        cmocka_unit_test(test_embeddings_by_name),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fm_refuses_other_dim),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
