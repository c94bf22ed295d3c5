/*
 * Goal: a preset written out as layers (`config show --expand`) is the same model, and a job is
 * found wrong before its data are seen.
 *
 * Method: each preset's job is parsed, expanded and parsed again; both jobs make models over the
 * same features, which must be equal in every layer, table, component and parameter. Jobs for
 * model_check() are right or wrong by construction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "common/model.h"
#include "common/str.h"

#define DATA "data: {format: csv, train: t.csv}\n"
#define FEATURES                                                                                   \
    "features: {a: categorical, b: {table: t}, c: {table: t, pooling: mean}, x: numeric}\n"

static struct job *parse(const char *text)
{
    struct job_source source = {.what = "j.yaml", .text = text, .size = strlen(text)};
    struct job *j = NULL;
    if (job_parse(&source, &j) != ERR_NONE)
        fail_msg("%s\n%s", err_text(), text);
    return j;
}

static struct model *make(const struct job *j)
{
    static const char *const columns[] = {"label", "a", "b", "c", "x"};
    struct features_spec *features = NULL;
    struct model *m = NULL;
    assert_int_equal(features_spec_create(j, columns, 5, &features), ERR_NONE);
    if (model_create(j, features, &m) != ERR_NONE)
        fail_msg("%s", err_text());
    features_spec_destroy(features);
    return m;
}

static void assert_same_schema(const struct schema *a, const struct schema *b)
{
    assert_int_equal(a->table_count, b->table_count);
    assert_int_equal(a->dense_count, b->dense_count);
    for (uint32_t t = 0; t < a->table_count; t++) {
        assert_string_equal(a->tables[t].name, b->tables[t].name);
        assert_int_equal(a->tables[t].component_count, b->tables[t].component_count);
        assert_int_equal(a->tables[t].state_dim, b->tables[t].state_dim);
        assert_int_equal(a->tables[t].init_key, b->tables[t].init_key);
    }
    for (uint32_t p = 0; p < a->dense_count; p++) {
        assert_string_equal(a->dense[p].name, b->dense[p].name);
        assert_int_equal(a->dense[p].count, b->dense[p].count);
        assert_int_equal(a->dense[p].init_key, b->dense[p].init_key);
        assert_string_equal(a->dense[p].optimizer.type, b->dense[p].optimizer.type);
    }
}

static void assert_same_layers(const struct model *a, const struct model *b)
{
    assert_int_equal(a->layer_count, b->layer_count);
    for (uint32_t i = 0; i < a->layer_count; i++) {
        const struct model_layer *x = &a->layers[i], *y = &b->layers[i];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->type, y->type);
        assert_int_equal(x->in_count, y->in_count);
        assert_memory_equal(x->in, y->in, x->in_count * sizeof x->in[0] + 1);
        assert_memory_equal(x->dense, y->dense, sizeof x->dense);
        assert_int_equal(x->out_width, y->out_width);
        assert_int_equal(x->activation, y->activation);
        assert_true(x->dropout == y->dropout);
        assert_int_equal(x->factor_dim, y->factor_dim);
        assert_int_equal(x->vector_count, y->vector_count);
        assert_int_equal(x->low_rank, y->low_rank);
    }
    assert_int_equal(a->normalize, b->normalize);
    assert_int_equal(a->output_width, b->output_width);
}

static void test_expand(void **state)
{
    static const char *const models[] = {
        "model: {type: lr, normalize: instance}\n",
        "model: {type: fm, dim: 6}\n",
        "model: {type: ffm}\n",
        "model: {type: mlp, hidden: [8, 4], dropout: 0.25, layer_norm: true}\n",
        "model: {type: mlp, hidden: [], loss: softmax, classes: 3}\n",
        "model: {type: wide_deep, hidden: [8], activation: tanh}\n",
        "model: {type: deepfm, dim: 7, loss: squared}\n",
        "model: {type: dcn, cross_layers: 2, low_rank: 3}\n",
        "model: {type: dcn, structure: parallel, wide: true}\n",
        "model: {type: dlrm, bottom: [9, 5], hidden: [6]}\n",
        "model: {type: dlrm, bottom: [], wide: true}\n",
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct str text = {0}, expanded = {0};
        str_append_format(&text, DATA FEATURES "%s", models[i]);
        struct job *preset = parse(text.data);
        assert_int_equal(model_check(preset), ERR_NONE);
        assert_int_equal(model_expand(preset, &expanded), ERR_NONE);
        assert_null(strstr(expanded.data, "  type: lr"));
        struct job *layers = parse(expanded.data);
        assert_int_equal(layers->model.type, MODEL_LAYERS);
        struct model *a = make(preset), *b = make(layers);
        assert_same_schema(a->schema, b->schema);
        assert_same_layers(a, b);
        model_destroy(a);
        model_destroy(b);
        job_destroy(preset);
        job_destroy(layers);
        str_deinit(&text);
        str_deinit(&expanded);
    }
}

static void test_check(void **state)
{
    static const struct {
        const char *text, *error; /* NULL: it is sound, or cannot be known yet */
    } cases[] = {
        {DATA "features: all\nmodel: {type: deepfm}\n", NULL},
        {DATA "features: {'u_*': categorical}\nmodel: {type: fm}\n", NULL},
        {DATA "features: {'u_*': categorical}\nmodel: {layers: [{name: o, type: linear, in: "
              "['embeddings(u_x*)'], units: 1}]}\n",
         NULL},
        {DATA "features: {x: numeric}\nmodel: {type: deepfm}\n", "none is categorical"},
        {DATA FEATURES "tables: {t: {dim: 4}}\nmodel: {type: deepfm, dim: 8}\n",
         "its layer 'fm': multiplies vectors"},
        {DATA FEATURES "model: {layers: [{name: o, type: linear, in: ['embeddings(z)'], units: "
                       "1}]}\n",
         "model.layers.o: reads embeddings(z), which no categorical feature matches"},
        {DATA FEATURES "model: {layers: [{name: o, type: linear, in: [wide, dense, embeddings], "
                       "units: 1}], outputs: [{from: p}]}\n",
         "model.outputs[0].from: 'p' is no layer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct job *j = parse(cases[i].text);
        enum err err = model_check(j);
        if (err != (cases[i].error != NULL ? ERR_INPUT : ERR_NONE))
            fail_msg("%s\n-> %s", cases[i].text, err != ERR_NONE ? err_text() : "no error");
        if (cases[i].error != NULL && strstr(err_text(), cases[i].error) == NULL)
            fail_msg("%s\n-> %s\nnot: %s", cases[i].text, err_text(), cases[i].error);
        job_destroy(j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_expand), cmocka_unit_test(test_check)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
