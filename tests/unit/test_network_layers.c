/*
 * Goal: logits, loss and gradients of ffm, of the deep models and of whatever layers a user
 * composes are those of their formulas.
 *
 * Method: a float64 reference that shares no code with the kernels, and for every single gradient
 * its central difference (tests/support/network_check.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tests/support/network_check.h"

static void test_ffm(void **state)
{
    static const struct {
        uint32_t dim;
        enum normalize normalize;
        uint32_t tables;
        bool weighted;
    } cases[] = {
        {1, NORMALIZE_NONE, 1, true}, {3, NORMALIZE_INSTANCE, 2, false},
        {4, NORMALIZE_NONE, 2, true}, {4, NORMALIZE_INSTANCE, 2, true},
        {6, NORMALIZE_NONE, 2, true}, {8, NORMALIZE_NONE, 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_case c = {.type = MODEL_FFM,
                               .dim = cases[i].dim,
                               .normalize = cases[i].normalize,
                               .table_count = cases[i].tables,
                               .slot_count = {3, 1}};
        struct random_batch r = {.seed = 60 + i,
                                 .example_count = 11,
                                 .key_count = {9, 4},
                                 .max_terms = 2,
                                 .weighted = cases[i].weighted};
        network_check(&c, &r);
    }
}

/* Presets over a dense input of 3 and two tables with 3 and 1 slots. */
static void test_deep_models(void **state)
{
    static const struct model_case cases[] = {
        {.type = MODEL_WIDE_DEEP, .dim = 4, .hidden = {6, 5}, .hidden_count = 2},
        {.type = MODEL_WIDE_DEEP, .dim = 4, .hidden_count = 0, .table_dims = {3, 5}},
        {.type = MODEL_DEEPFM, .dim = 8, .hidden = {6}, .hidden_count = 1},
        {.type = MODEL_DEEPFM, .dim = 5, .hidden = {6}, .hidden_count = 1, .dropout = 0.25},
        {.type = MODEL_DEEPFM, .dim = 11, .hidden = {6}, .hidden_count = 1, .layer_norm = true},
        {.type = MODEL_DCN, .dim = 3, .hidden = {6}, .hidden_count = 1, .cross_layers = 2},
        {.type = MODEL_DCN, .dim = 3, .hidden = {6}, .hidden_count = 1, .low_rank = 2},
        {.type = MODEL_DCN,
         .dim = 4,
         .hidden = {6},
         .hidden_count = 1,
         .low_rank = 3,
         .loss = LOSS_SOFTMAX,
         .classes = 3,
         .structure = STRUCTURE_PARALLEL},
        {.type = MODEL_DCN, .dim = 3, .cross_layers = 1, .structure = STRUCTURE_PARALLEL},
        {.type = MODEL_DCN, .dim = 3, .hidden = {6}, .hidden_count = 1, .wide = true},
        {.type = MODEL_DLRM, .dim = 4, .bottom = 5, .hidden = {6}, .hidden_count = 1},
        {.type = MODEL_DLRM, .dim = 9, .hidden = {6}, .hidden_count = 1},
        {.type = MODEL_DLRM, .dim = 24, .loss = LOSS_SQUARED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (uint32_t weighted = 0; weighted < 2; weighted++) {
            struct model_case c = cases[i];
            struct random_batch r = {.seed = 70 + i,
                                     .example_count = 7,
                                     .key_count = {7, 4},
                                     .max_terms = 2,
                                     .weighted = weighted > 0};
            c.activation = ACTIVATION_TANH;
            c.dense_width = 3;
            c.table_count = 2;
            c.slot_count[0] = 3;
            c.slot_count[1] = 1;
            network_check(&c, &r);
        }
    }
}

/* What a user can compose: parts of the input, one layer read by several, all types of layers. */
static void test_layers(void **state)
{
    static const char *const lists[] = {
        "[{name: a, type: linear, in: [dense], units: 1}]",
        "[{name: a, type: linear, in: [embeddings], units: 1}]",
        "[{name: a, type: linear, in: [embeddings, dense, wide], units: 1}]",
        "[{name: n, type: norm, in: [dense]}, {name: a, type: linear, in: [n, dense], units: 1}]",
        "[{name: n, type: norm, in: [dense, embeddings]}, {name: d, type: dropout, in: [n], rate: "
        "0.5}, {name: a, type: linear, in: [n, d], units: 1}]",
        "[{name: d, type: dropout, in: [embeddings], rate: 0.3}, {name: t, type: activation, in: "
        "[d], activation: tanh}, {name: a, type: linear, in: [t], units: 1}]",
        "[{name: p, type: dot, in: [embeddings]}, {name: f, type: fm, in: [embeddings]}, {name: b, "
        "type: linear, in: [p, f], units: 1}, {name: a, type: sum, in: [wide, b, f]}]",
        "[{name: c, type: cross, in: [embeddings], layers: 2}, {name: h, type: mlp, in: [c, "
        "dense], hidden: [4, 3], activation: sigmoid, layer_norm: true}, {name: s, type: concat, "
        "in: [h, c, h]}, {name: a, type: linear, in: [s], units: 1}]",
        "[{name: x, type: linear, in: [dense], units: 4, activation: tanh}, {name: y, type: "
        "linear, in: [embeddings], units: 4}, {name: z, type: sum, in: [x, y, x]}, {name: v, type: "
        "dot, in: [x, z, embeddings, y]}, {name: a, type: linear, in: [v], units: 1}]",
        "[{name: x, type: terms}]",
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct model_case c = {.type = MODEL_LAYERS,
                               .dim = 4,
                               .layers = lists[i],
                               .dense_width = strstr(lists[i], "dense") != NULL ? 3 : 0,
                               .table_count = strcmp(lists[i], lists[0]) != 0 ? 2 : 0,
                               .slot_count = {2, 1}};
        struct random_batch r = {.seed = 90 + i,
                                 .example_count = 7,
                                 .key_count = {7, 4},
                                 .max_terms = 3,
                                 .weighted = true};
        if (strstr(lists[i], "n, dense") != NULL)
            c.table_count = 0;
        network_check(&c, &r);
    }
}

/* Two labels over a shared bottom, one output that another layer reads, weights of losses. */
static void test_outputs(void **state)
{
    static char click[] = "click", buy[] = "buy", price[] = "price";
    struct job_output outputs[] = {
        {.from = click, .weight = 1, .loss = LOSS_LOGISTIC},
        {.from = price, .weight = 0.25, .loss = LOSS_SQUARED, .label_index = 2},
        {.from = buy, .weight = 3, .loss = LOSS_LOGISTIC, .label_index = 1},
    };
    struct model_case c = {
        .type = MODEL_LAYERS,
        .dim = 4,
        .layers = "[{name: bottom, type: mlp, in: [dense, embeddings], hidden: [6], activation: "
                  "tanh}, {name: click, type: linear, in: [bottom], units: 1}, {name: buy, type: "
                  "linear, in: [bottom, click, wide], units: 1}, {name: price, type: linear, in: "
                  "[bottom], units: 1}]",
        .outputs = outputs,
        .output_count = 3,
        .dense_width = 3,
        .table_count = 2,
        .slot_count = {2, 1}};
    struct random_batch r = {
        .seed = 120, .example_count = 9, .key_count = {7, 4}, .max_terms = 2, .more_labels = 2};
    network_check(&c, &r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ffm),
        cmocka_unit_test(test_deep_models),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
