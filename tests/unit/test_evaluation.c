/*
 * Goal: metrics are what their definitions say, the same bits however the examples were dealt, and
 * bytes from anywhere decode to the same evaluation or are refused.
 *
 * Method: brute force in double over the examples (AUC by all pairs, O(n²)), weights and ties;
 * the same examples added in one, in many parts, in other orders, through bytes; random and damaged
 * bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/evaluation.h"
#include "common/mem.h"
#include "common/rng.h"

#define ALL ((1u << METRIC_COUNT) - 1)
#define N   600u

/* ---- examples ------------------------------------------------------------------------------- */

struct examples {
    enum loss_type loss;
    uint32_t width;
    float logits[N * 4], labels[N], weights[N];
    uint64_t groups[N];
};

/* Logits on a grid of 1/8 from -4 to 4, so there are ties, and each value is a bin's edge. */
static void make_examples(struct examples *e, enum loss_type loss, uint64_t seed, bool weighted)
{
    *e = (struct examples){.loss = loss, .width = loss == LOSS_SOFTMAX ? 4 : 1};
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < e->width; j++) {
            uint64_t bits = rng_at(seed, i * 4 + j);
            e->logits[i * e->width + j] = (float)((int)rng_below(bits, 65) - 32) / 8.0f;
        }
        uint64_t bits = rng_at(seed + 1, i);
        if (loss == LOSS_LOGISTIC)
            e->labels[i] = rng_uniform(bits) < 0.5f + e->logits[i] / 10 ? 1.0f : 0.0f;
        else
            e->labels[i] = (float)rng_below(bits, 4);
        e->weights[i] = weighted ? (float)rng_below(rng_at(seed + 2, i), 5) / 4 : 1.0f;
        e->groups[i] = rng_at(3, rng_below(rng_at(seed + 3, i), 40));
    }
}

static struct evaluation *make(const struct examples *e, uint32_t metrics)
{
    struct evaluation *v = NULL;
    assert_int_equal(evaluation_create(e->loss, e->width, metrics, &v), ERR_NONE);
    return v;
}

static void add(struct evaluation *v, const struct examples *e, uint32_t first, uint32_t count)
{
    assert_int_equal(evaluation_add(v, e->logits + first * e->width, e->labels + first,
                                    e->weights + first, e->groups + first, count),
                     ERR_NONE);
}

/* ---- brute force ---------------------------------------------------------------------------- */

static bool auc_of(const struct examples *e, bool all, uint64_t group, double *out)
{
    double pairs = 0, right = 0;
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            if (e->labels[i] != 1 || e->labels[j] != 0 ||
                (!all && (e->groups[i] != group || e->groups[j] != group)))
                continue;
            double weight = (double)e->weights[i] * (double)e->weights[j];
            pairs += weight;
            if (e->logits[i] > e->logits[j])
                right += weight;
            else if (e->logits[i] == e->logits[j])
                right += weight / 2;
        }
    }
    *out = right / pairs;
    return pairs > 0;
}

static double gauc_of(const struct examples *e)
{
    double sum = 0, examples = 0;
    for (uint32_t g = 0; g < 40; g++) {
        uint64_t group = rng_at(3, g);
        double auc, count = 0;
        for (uint32_t i = 0; i < N; i++)
            count += e->groups[i] == group && e->weights[i] > 0;
        if (!auc_of(e, false, group, &auc))
            continue;
        sum += count * auc;
        examples += count;
    }
    return sum / examples;
}

/* NAN: not defined. */
static void expect(const struct examples *e, double out[METRIC_COUNT])
{
    double weight = 0, loss = 0, correct = 0, square = 0, absolute = 0, predictions = 0, labels = 0;
    for (uint32_t i = 0; i < N; i++) {
        double w = (double)e->weights[i], y = (double)e->labels[i], z = (double)e->logits[i];
        double p = e->loss == LOSS_LOGISTIC ? 1 / (1 + exp(-z)) : z, sum = 0;
        const float *row = e->logits + i * e->width;
        uint32_t best = 0;
        for (uint32_t j = 0; j < e->width; j++) {
            sum += exp((double)row[j]);
            best = row[j] > row[best] ? j : best;
        }
        weight += w;
        if (e->loss == LOSS_LOGISTIC)
            loss -= w * (y * log(p) + (1 - y) * log(1 - p));
        else if (e->loss == LOSS_SQUARED)
            loss += w * (p - y) * (p - y) / 2;
        else
            loss -= w * ((double)row[(int)y] - log(sum));
        bool right = e->loss == LOSS_SOFTMAX ? best == (uint32_t)y : (p > 0.5) == (y > 0.5);
        correct += right ? w : 0;
        square += w * (p - y) * (p - y);
        absolute += w * fabs(p - y);
        predictions += w * p;
        labels += w * y;
    }
    bool logistic = e->loss == LOSS_LOGISTIC, softmax = e->loss == LOSS_SOFTMAX;
    double q = labels / weight;
    out[METRIC_OBJECTIVE] = loss / weight;
    out[METRIC_LOG_LOSS] = e->loss == LOSS_SQUARED ? NAN : loss / weight;
    out[METRIC_ACCURACY] = e->loss == LOSS_SQUARED ? NAN : correct / weight;
    out[METRIC_RMSE] = softmax ? NAN : sqrt(square / weight);
    out[METRIC_MAE] = softmax ? NAN : absolute / weight;
    out[METRIC_CALIBRATION] = softmax ? NAN : predictions / labels;
    out[METRIC_NE] = logistic ? loss / weight / -(q * log(q) + (1 - q) * log(1 - q)) : NAN;
    out[METRIC_GAUC] = logistic ? gauc_of(e) : NAN;
    if (!logistic || !auc_of(e, true, 0, &out[METRIC_AUC]))
        out[METRIC_AUC] = NAN;
}

static void test_definitions(void **state)
{
    static const enum loss_type losses[] = {LOSS_LOGISTIC, LOSS_SQUARED, LOSS_SOFTMAX};
    for (uint32_t c = 0; c < 6; c++) {
        struct examples e;
        make_examples(&e, losses[c / 2], 10 + c, c % 2 == 1);
        double expected[METRIC_COUNT];
        expect(&e, expected);
        struct evaluation *v = make(&e, ALL);
        add(v, &e, 0, N);
        assert_int_equal(evaluation_examples(v), N);
        for (uint32_t kind = 0; kind < METRIC_COUNT; kind++) {
            double value = NAN;
            bool defined = evaluation_metric(v, kind, &value);
            assert_int_equal(defined, !isnan(expected[kind]));
            if (defined && !(fabs(value - expected[kind]) <= 1e-9 * fabs(expected[kind])))
                fail_msg("%s of loss %d: %.12g, by definition %.12g", metric_name(kind),
                         (int)e.loss, value, expected[kind]);
        }
        evaluation_destroy(v);
    }
}

/* Exact values: separated classes, one bin, the two outermost bins, the one around 0. */
static void test_auc_ends(void **state)
{
    static const struct {
        float logits[4];
        float labels[4];
        double auc;
    } cases[] = {
        {{-1, -2, 1, 2}, {0, 0, 1, 1}, 1.0},
        {{-1, -2, 1, 2}, {1, 1, 0, 0}, 0.0},
        {{3, 3, 3, 3}, {0, 1, 0, 1}, 0.5},
        {{-INFINITY, -40, 40, INFINITY}, {0, 0, 1, 1}, 1.0},
        {{-INFINITY, -40, 40, INFINITY}, {0, 1, 0, 1}, 0.5},
        {{1e-9f, -1e-9f, 0, -0.0f}, {0, 1, 0, 1}, 0.5},
        {{0.001f, -0.001f, 0, 0}, {1, 0, 1, 0}, 0.875},
    };
    static const float ones[4] = {1, 1, 1, 1};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct evaluation *v = NULL;
        assert_int_equal(evaluation_create(LOSS_LOGISTIC, 1, 1u << METRIC_AUC, &v), ERR_NONE);
        assert_int_equal(evaluation_add(v, cases[i].logits, cases[i].labels, ones, NULL, 4),
                         ERR_NONE);
        double value;
        assert_true(evaluation_metric(v, METRIC_AUC, &value));
        assert_true(value == cases[i].auc);
        evaluation_destroy(v);
    }
}

/* Bins are a 2048th of a power of two wide: AUC of continuous logits is right to a few millionths.
 */
static void test_auc_resolution(void **state)
{
    struct examples e;
    make_examples(&e, LOSS_LOGISTIC, 5, true);
    for (uint32_t i = 0; i < N; i++)
        e.logits[i] += rng_uniform(rng_at(77, i)) * 0.1f;
    double exact, value;
    assert_true(auc_of(&e, true, 0, &exact));
    struct evaluation *v = make(&e, 1u << METRIC_AUC);
    add(v, &e, 0, N);
    assert_true(evaluation_metric(v, METRIC_AUC, &value));
    assert_true(fabs(value - exact) < 2e-4);
    evaluation_destroy(v);
}

/* ---- merging and bytes ---------------------------------------------------------------------- */

static void assert_equal(const struct evaluation *a, const struct evaluation *b)
{
    struct str x = {0}, y = {0};
    evaluation_encode(a, &x);
    evaluation_encode(b, &y);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    str_deinit(&x);
    str_deinit(&y);
    for (uint32_t kind = 0; kind < METRIC_COUNT; kind++) {
        double p = -1, q = -1;
        assert_int_equal(evaluation_metric(a, kind, &p), evaluation_metric(b, kind, &q));
        assert_memory_equal(&p, &q, sizeof p);
        assert_int_equal(evaluation_rank_key(a, kind), evaluation_rank_key(b, kind));
    }
}

static void test_any_order(void **state)
{
    static const enum loss_type losses[] = {LOSS_LOGISTIC, LOSS_SQUARED, LOSS_SOFTMAX};
    for (uint32_t c = 0; c < 3; c++) {
        struct examples e;
        make_examples(&e, losses[c], 20 + c, true);
        struct evaluation *whole = make(&e, ALL);
        add(whole, &e, 0, N);
        for (uint32_t parts = 1; parts <= 7; parts += 3) {
            /* Example i goes to part i % parts, backwards; parts are merged from the last one on.
             */
            struct evaluation *merged = make(&e, ALL);
            for (uint32_t part = parts; part-- > 0;) {
                struct evaluation *v = make(&e, ALL);
                for (uint32_t i = N; i-- > 0;)
                    if (i % parts == part)
                        add(v, &e, i, 1);
                assert_int_equal(evaluation_merge(merged, v), ERR_NONE);
                evaluation_destroy(v);
            }
            assert_equal(whole, merged);
            evaluation_destroy(merged);
        }
        evaluation_destroy(whole);
    }
}

static void test_bytes(void **state)
{
    static const uint32_t metrics[] = {ALL, 1u << METRIC_AUC, 1u << METRIC_LOG_LOSS, 0};
    for (uint32_t c = 0; c < 4; c++) {
        struct examples e;
        make_examples(&e, LOSS_LOGISTIC, 30 + c, true);
        struct evaluation *whole = make(&e, metrics[c]), *decoded = make(&e, metrics[c]);
        add(whole, &e, 0, N);
        for (uint32_t first = 0; first < N; first += 200) {
            struct evaluation *v = make(&e, metrics[c]);
            add(v, &e, first, 200);
            struct str bytes = {0};
            evaluation_encode(v, &bytes);
            assert_int_equal(evaluation_decode(decoded, bytes.data, bytes.size), ERR_NONE);
            str_deinit(&bytes);
            evaluation_destroy(v);
        }
        assert_equal(whole, decoded);
        evaluation_clear(decoded);
        struct evaluation *empty = make(&e, metrics[c]);
        assert_equal(empty, decoded);
        evaluation_destroy(empty);
        evaluation_destroy(whole);
        evaluation_destroy(decoded);
    }
}

/* What is decoded is encoded to the same bytes: no two forms. What is refused changes nothing. */
static void try_bytes(struct evaluation *v, const struct evaluation *before, const void *data,
                      size_t size, uint32_t *accepted)
{
    enum err err = evaluation_decode(v, data, size);
    if (err == ERR_NONE) {
        struct str bytes = {0};
        evaluation_encode(v, &bytes);
        assert_int_equal(bytes.size, size);
        assert_memory_equal(bytes.data, data, size);
        str_deinit(&bytes);
        evaluation_clear(v);
        ++*accepted;
    } else {
        assert_int_equal(err, ERR_INPUT);
        assert_equal(v, before);
    }
}

static void test_damaged_bytes(void **state)
{
    struct examples e;
    make_examples(&e, LOSS_LOGISTIC, 40, true);
    const uint32_t metrics = 1u << METRIC_AUC | 1u << METRIC_GAUC | 1u << METRIC_LOG_LOSS;
    struct evaluation *v = make(&e, metrics), *empty = make(&e, metrics), *from = make(&e, metrics);
    add(from, &e, 0, 20);
    struct str good = {0};
    evaluation_encode(from, &good);
    uint32_t accepted = 0;
    for (size_t size = 0; size < good.size; size++)
        try_bytes(v, empty, good.data, size, &accepted);
    assert_int_equal(accepted, 0);
    uint8_t bytes[2000];
    assert_true(good.size + 1 < sizeof bytes);
    memcpy(bytes, good.data, good.size);
    bytes[good.size] = 0;
    try_bytes(v, empty, bytes, good.size + 1, &accepted);
    assert_int_equal(accepted, 0);
    try_bytes(v, empty, bytes, good.size, &accepted);
    assert_int_equal(accepted, 1);
    for (uint32_t i = 0; i < 400; i++) {
        memcpy(bytes, good.data, good.size);
        uint64_t bits = rng_at(9, i);
        bytes[rng_below(bits, good.size)] ^= (uint8_t)(1u << (bits & 7));
        try_bytes(v, empty, bytes, good.size, &accepted);
    }
    for (uint32_t i = 0; i < 400; i++) {
        size_t size = rng_below(rng_at(10, i), sizeof bytes);
        /* A good beginning, so that the rest is looked at. */
        for (size_t k = 0; k < size; k++)
            bytes[k] = (uint8_t)rng_at(i, k);
        size_t kept = i % 2 == 0 ? 8 : 140;
        memcpy(bytes, good.data, size < kept ? size : kept);
        try_bytes(v, empty, bytes, size, &accepted);
    }
    str_deinit(&good);
    evaluation_destroy(v);
    evaluation_destroy(empty);
    evaluation_destroy(from);
}

/* ---- edges ---------------------------------------------------------------------------------- */

static void test_not_defined(void **state)
{
    struct examples e;
    make_examples(&e, LOSS_LOGISTIC, 50, false);
    struct evaluation *v = make(&e, ALL & ~(1u << METRIC_MAE));
    double value = 42;
    for (uint32_t kind = 0; kind < METRIC_COUNT; kind++) {
        assert_false(evaluation_metric(v, kind, &value));
        assert_true(evaluation_rank_key(v, kind) == INT64_MIN);
    }
    for (uint32_t i = 0; i < N; i++)
        e.labels[i] = 0;
    add(v, &e, 0, N);
    static const enum metric_kind missing[] = {METRIC_AUC, METRIC_NE, METRIC_CALIBRATION,
                                               METRIC_GAUC, METRIC_MAE};
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
        assert_false(evaluation_metric(v, missing[i], &value));
    assert_true(evaluation_metric(v, METRIC_LOG_LOSS, &value));
    e.logits[7] = NAN;
    add(v, &e, 7, 1);
    assert_false(evaluation_metric(v, METRIC_LOG_LOSS, &value));
    assert_int_equal(evaluation_examples(v), N + 1);
    evaluation_clear(v);
    add(v, &e, 0, 5);
    assert_true(evaluation_metric(v, METRIC_LOG_LOSS, &value));
    evaluation_destroy(v);
    evaluation_destroy(NULL);
}

static void test_weight_zero_does_nothing(void **state)
{
    struct examples e;
    make_examples(&e, LOSS_LOGISTIC, 60, true);
    struct evaluation *with = make(&e, ALL), *without = make(&e, ALL);
    add(with, &e, 0, N);
    for (uint32_t i = 0; i < N; i++) {
        if (e.weights[i] == 0)
            e.logits[i] = NAN;
        add(without, &e, i, 1);
    }
    assert_equal(with, without);
    evaluation_destroy(with);
    evaluation_destroy(without);
}

static void test_refused(void **state)
{
    static const struct {
        enum loss_type loss;
        float label, weight;
        const char *text;
    } cases[] = {
        {LOSS_LOGISTIC, 1.5f, 1, "label 1.5"}, {LOSS_LOGISTIC, NAN, 1, "label nan"},
        {LOSS_LOGISTIC, 1, -1, "weight -1"},   {LOSS_LOGISTIC, 1, NAN, "weight nan"},
        {LOSS_SQUARED, INFINITY, 1, "inf"},    {LOSS_SQUARED, 1, INFINITY, "weight inf"},
        {LOSS_SOFTMAX, 4, 1, "label 4"},       {LOSS_SOFTMAX, -1, 1, "label -1"},
        {LOSS_SOFTMAX, 0.5f, 1, "label 0.5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct examples e;
        make_examples(&e, cases[i].loss, 70, false);
        struct evaluation *v = make(&e, ALL), *empty = make(&e, ALL);
        e.labels[3] = cases[i].label;
        e.weights[3] = cases[i].weight;
        assert_int_equal(evaluation_add(v, e.logits, e.labels, e.weights, e.groups, 10), ERR_INPUT);
        assert_non_null(strstr(err_text(), cases[i].text));
        assert_non_null(strstr(err_text(), "example 3"));
        assert_equal(v, empty);
        struct evaluation *other = make(&e, ALL & ~1u);
        assert_int_equal(evaluation_merge(v, other), ERR_INPUT);
        evaluation_destroy(v);
        evaluation_destroy(empty);
        evaluation_destroy(other);
    }
}

/* A loss that is out of all bounds is limited, and the metric stays a number. */
static void test_huge(void **state)
{
    static const float logits[2] = {3e38f, -3e38f}, labels[2] = {0, 1}, weights[2] = {1e30f, 1};
    struct evaluation *v = NULL;
    assert_int_equal(evaluation_create(LOSS_LOGISTIC, 1, ALL, &v), ERR_NONE);
    assert_int_equal(evaluation_add(v, logits, labels, weights, NULL, 2), ERR_NONE);
    for (uint32_t kind = 0; kind < METRIC_COUNT; kind++) {
        double value;
        if (evaluation_metric(v, kind, &value))
            assert_true(isfinite(value));
    }
    evaluation_destroy(v);
}

/* The order of keys is the order of goodness, whatever the direction and the sign. */
static void test_rank_keys(void **state)
{
    static const float labels[2] = {1, -1}, weights[2] = {1, 1};
    int64_t last_rmse = INT64_MIN, last_calibration = INT64_MIN;
    for (int i = 0; i <= 20; i++) {
        struct evaluation *v = NULL;
        assert_int_equal(evaluation_create(LOSS_SQUARED, 1, ALL, &v), ERR_NONE);
        float logits[2] = {1 + (float)(20 - i) / 8, -1};
        assert_int_equal(evaluation_add(v, logits, labels, weights, NULL, 2), ERR_NONE);
        int64_t key = evaluation_rank_key(v, METRIC_RMSE);
        assert_true(key > last_rmse);
        last_rmse = key;
        evaluation_clear(v);
        /* Sum of labels 1, of predictions from 3.5 down to 1: calibration comes nearer to 1. */
        float one = 1, prediction = 1 + (float)(20 - i) / 8;
        assert_int_equal(evaluation_add(v, &prediction, &one, &one, NULL, 1), ERR_NONE);
        key = evaluation_rank_key(v, METRIC_CALIBRATION);
        assert_true(key > last_calibration);
        last_calibration = key;
        evaluation_destroy(v);
    }
    struct examples good, bad;
    make_examples(&good, LOSS_LOGISTIC, 80, false);
    bad = good;
    for (uint32_t i = 0; i < N; i++)
        bad.logits[i] = -bad.logits[i];
    struct evaluation *a = make(&good, ALL), *b = make(&bad, ALL);
    add(a, &good, 0, N);
    add(b, &bad, 0, N);
    static const enum metric_kind kinds[] = {METRIC_AUC, METRIC_LOG_LOSS, METRIC_ACCURACY,
                                             METRIC_NE,  METRIC_GAUC,     METRIC_OBJECTIVE};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        assert_true(evaluation_rank_key(a, kinds[i]) > evaluation_rank_key(b, kinds[i]));
    evaluation_destroy(a);
    evaluation_destroy(b);
}

static void test_no_memory(void **state)
{
    struct examples e;
    make_examples(&e, LOSS_LOGISTIC, 90, false);
    struct evaluation *v = NULL, *empty = make(&e, ALL);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        mem_fail_nth(nth);
        assert_int_equal(evaluation_create(LOSS_LOGISTIC, 1, ALL, &v), ERR_MEMORY);
        mem_fail_nth(0);
        assert_null(v);
    }
    v = make(&e, ALL);
    mem_fail_nth(1);
    assert_int_equal(evaluation_add(v, e.logits, e.labels, e.weights, e.groups, N), ERR_MEMORY);
    mem_fail_nth(0);
    assert_equal(v, empty);
    evaluation_destroy(v);
    evaluation_destroy(empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definitions),    cmocka_unit_test(test_auc_ends),
        cmocka_unit_test(test_auc_resolution), cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_bytes),          cmocka_unit_test(test_damaged_bytes),
        cmocka_unit_test(test_not_defined),    cmocka_unit_test(test_weight_zero_does_nothing),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_huge),
        cmocka_unit_test(test_rank_keys),      cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
