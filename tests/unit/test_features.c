/*
 * Goal: records become the labels, terms and dense inputs that JOB.md's rules say; a wrong value is
 * refused with its place and the feature.
 * Method: tables of one-row CSV data with a job each. Expected terms are written as text,
 * "space=value*weight", cells apart by ";", and hashed here by the public rule, which
 * test_key_vectors.c checks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/features_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static uint64_t public_key(struct span space, struct span text)
{
    return hash64(text.data, text.size, hash64(space.data, space.size, 0));
}

static struct span until(const char **at, const char *stops)
{
    size_t size = strcspn(*at, stops);
    struct span part = span_make(*at, size);
    *at += size;
    return part;
}

/* "space=text*value,space=text;…": cells of all tables. "#n" as text stands for the key n itself.
 */
static void check_terms(const struct rows *r, uint32_t example, const char *expected)
{
    const char *at = expected;
    for (uint32_t t = 0; t < r->table_count; t++) {
        const struct rows_table *x = &r->tables[t];
        for (uint32_t s = 0; s < x->slot_count; s++) {
            size_t cell = (size_t)example * x->slot_count + s;
            uint32_t k = cell > 0 ? x->ends[cell - 1] : 0;
            for (; k < x->ends[cell]; k++) {
                struct span space = until(&at, "=;");
                if (*at != '=')
                    fail_msg("'%s': a term too much in cell %u of table %u", expected, s, t);
                at++;
                struct span text = until(&at, "*,;");
                double value = 1;
                if (*at == '*') {
                    at++;
                    assert_int_equal(str_parse_f64(until(&at, ",;"), &value), ERR_NONE);
                }
                uint64_t key = public_key(space, text);
                if (text.size > 1 && text.data[0] == '#')
                    key = (uint64_t)strtoll(text.data + 1, NULL, 10);
                if (x->keys[k] != mix64(key))
                    fail_msg("'%s': another key at '%.*s'", expected, (int)text.size, text.data);
                float found = x->has_values ? x->values[k] : 1;
                if (fabs(found - value) > 1e-6)
                    fail_msg("'%s': value %g at '%.*s'", expected, (double)found, (int)text.size,
                             text.data);
                at += *at == ',';
            }
            if (*at != ';' && *at != '\0')
                fail_msg("'%s': a term is missing in cell %u of table %u", expected, s, t);
            at += *at == ';';
        }
    }
    if (*at != '\0')
        fail_msg("'%s' expects more", expected);
}

#define FM(features)                                                                               \
    "data: {format: csv, train: x, label: y}\nmodel: {type: fm}\nfeatures: " features
#define MLP(features)                                                                              \
    "data: {format: csv, train: x, label: y}\nmodel: {type: mlp}\nfeatures: " features

/* ---- terms ----------------------------------------------------------------------------------- */

static void test_terms(void **state)
{
    static const struct {
        const char *yaml, *row, *expected;
    } cases[] = {
        {FM("{a: categorical, b: categorical}"), "1,x,y z", "a=x;b=y z"},
        {FM("{a: categorical, b: categorical}"), "1,,\\N", "a=;b="},
        {FM("{a: {missing: zero}, b: {missing: zero}}"), "1,,x", ";b=x"},
        {FM("{a: {vocab: [x, z]}, b: {vocab: [x, z]}}"), "1,x,y", "a=x;b=\xff"},
        {FM("{a: {vocab: [x, z]}}"), "1,,y", "a="},
        {FM("{a: {key: integer, table: t}}"), "1,-5,y", "t=#-5"},
        {FM("{a: {key: integer, table: t, buckets: 10}}"), "1,47,y", "t=#7"},
        {FM("{a: {key: integer, table: t}}"), "1,,y", "t="},
        {FM("{a: {table: t}, b: {table: t}}"), "1,x,x", "t=x;t=x"},
        {FM("{a: {column: b}}"), "1,x,q", "a=q"},
        {FM("{a: {type: numeric}, b: categorical}"), "1,2.5,q", "a=\xfe*2.5;b=q"},
        {FM("{a: {type: numeric}}"), "1,,q", "a=\xfe*0"},
        {FM("{a: {missing: 3}}"), "1,,q", "a=\xfe*3"},
        {FM("{a: {missing_flag: true}}"), "1,,q", "a=\xfe*0,a="},
        {FM("{a: {missing_flag: true}}"), "1,4,q", "a=\xfe*4"},
        {FM("{a: {transform: [log1p]}}"), "1,-1,q", "a=\xfe*0"},
        {FM("{a: {transform: [{clip: [0, 2]}, {minmax: [0, 4]}]}}"), "1,9,q", "a=\xfe*0.5"},
        {FM("{a: {transform: [sqrt, {standardize: [1, 2]}]}}"), "1,25,q", "a=\xfe*2"},
        {FM("{a: {bucketize: [18, 25, 35]}, b: {bucketize: [0.5]}}"), "1,24.9,0.5", "a=1;b=1"},
        {FM("{a: {bucketize: [18, 25, 35]}}"), "1,-3,0.5", "a=0"},
        {FM("{a: {bucketize: [18, 25, 35]}}"), "1,,0.5", "a="},
        {FM("{a: {bucketize: [18, 25, 35], missing: zero}}"), "1,,0.5", ""},
        {FM("{a: {bucketize: [18, 25, 35], missing: 30}}"), "1,,0.5", "a=2"},
        {FM("{a: {transform: [log2_floor]}, b: {transform: [log2_floor]}}"), "1,3,-1", "a=1;b=-1"},
        {FM("{a: {transform: [hour]}, b: {transform: [weekday]}}"),
         "1,2026-05-02T23:59:59+02:00,2026-05-02", "a=21;b=5"},
        {FM("{a: {pooling: sum}}"), "1,u|v|u,q", "a=u,a=v,a=u"},
        {FM("{a: {pooling: mean}}"), "1,u|v||w|x,q", "a=u*0.25,a=v*0.25,a=w*0.25,a=x*0.25"},
        {FM("{a: {pooling: sqrtn}}"), "1,u|v|w|x,q", "a=u*0.5,a=v*0.5,a=w*0.5,a=x*0.5"},
        {FM("{a: {pooling: mean}}"), "1,u,q", "a=u"},
        {FM("{a: {pooling: mean, max_values: 2}}"), "1,u|v|w|x,q", "a=u*0.5,a=v*0.5"},
        {FM("{a: {separator: ' '}}"), "1, u  v ,q", "a=u,a=v"},
        {FM("{a: {pooling: sum, value_weights: ':'}}"), "1,u:0.7|v:w:-2|x,q",
         "a=u*0.7,a=v:w*-2,a=x"},
        {FM("{a: {pooling: mean, value_weights: ':'}}"), "1,u:4|v,q", "a=u*2,a=v*0.5"},
        {FM("{a: {pooling: sum}}"), "1,,q", "a="},
        {FM("{a: {pooling: sum, missing: zero}}"), "1,||,q", ""},
        {FM("{a: {pooling: sum, table: t, key: integer}}"), "1,4|5,q", "t=#4,t=#5"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct features_setup s;
        if (features_setup_make(&s, cases[i].yaml, "y,a,b", false) != ERR_NONE ||
            features_setup_add(&s, cases[i].row) != ERR_NONE)
            fail_msg("%s: %s", cases[i].yaml, err_text());
        assert_int_equal(s.rows.count, 1);
        check_terms(&s.rows, 0, cases[i].expected);
        features_setup_remove(&s);
    }
}

static void test_many_rows(void **state)
{
    struct features_setup s;
    assert_int_equal(
        features_setup_make(&s, FM("{a: {pooling: sum}, b: {value_weights: ':', missing: zero}}"),
                            "y,a,b", false),
        ERR_NONE);
    assert_int_equal(features_setup_add(&s, "1,u|v,x"), ERR_NONE);
    assert_false(s.rows.tables[0].has_values);
    assert_int_equal(features_setup_add(&s, "0,u,"), ERR_NONE);
    /* A wrong record leaves no trace, wherever in it the mistake is. */
    assert_int_equal(features_setup_add(&s, "0,p|q,z:z"), ERR_INPUT);
    assert_int_equal(features_setup_add(&s, "1,w,x:2"), ERR_NONE);
    assert_int_equal(s.rows.count, 3);
    check_terms(&s.rows, 0, "a=u,a=v;b=x");
    check_terms(&s.rows, 1, "a=u;");
    check_terms(&s.rows, 2, "a=w;b=x*2");
    assert_false(s.rows.tables[0].uniform);
    rows_clear(&s.rows);
    assert_int_equal(features_setup_add(&s, "1,w,x"), ERR_NONE);
    assert_true(s.rows.tables[0].uniform);
    check_terms(&s.rows, 0, "a=w;b=x");
    features_setup_remove(&s);
}

/* ---- dense inputs ---------------------------------------------------------------------------- */

static void test_dense(void **state)
{
    static const struct {
        const char *yaml, *row;
        uint32_t width;
        double expected[4];
    } cases[] = {
        {MLP("{a: numeric, b: numeric}"), "1,2.5,-3", 2, {2.5, -3}},
        {MLP("{a: numeric, b: numeric}"), "1,,-3", 2, {0, -3}},
        {MLP("{a: {missing: 7}, b: categorical}"), "1,,x", 1, {7}},
        {MLP("{a: {missing_flag: true}, b: numeric}"), "1,,4", 3, {0, 1, 4}},
        {MLP("{a: {missing_flag: true}, b: numeric}"), "1,5,4", 3, {5, 0, 4}},
        {MLP("{a: {length: 3, missing: 9}, b: numeric}"), "1,1|2.5|-3,4", 4, {1, 2.5, -3, 4}},
        {MLP("{a: {length: 3, missing: 9}, b: numeric}"), "1,,4", 4, {9, 9, 9, 4}},
        {MLP("{a: {transform: [log1p]}, b: {transform: [sqrt]}}"), "1,1,-9", 2, {0.6931472, 0}},
        {MLP("{a: {missing: 3, transform: [log1p]}, b: categorical}"), "1,,x", 1, {1.3862944}},
        {MLP("{a: {transform: [standardize]}, b: categorical}"), "1,5,x", 1, {5}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct features_setup s;
        if (features_setup_make(&s, cases[i].yaml, "y,a,b", false) != ERR_NONE ||
            features_setup_add(&s, cases[i].row) != ERR_NONE)
            fail_msg("%s: %s", cases[i].yaml, err_text());
        assert_int_equal(s.rows.dense_width, cases[i].width);
        for (uint32_t c = 0; c < cases[i].width; c++)
            assert_true(fabs(s.rows.dense[c] - cases[i].expected[c]) < 1e-6);
        features_setup_remove(&s);
    }
}

/* ---- labels, weights, times, splits ---------------------------------------------------------- */

#define LABEL(data, model)                                                                         \
    "data: {format: csv, train: x, " data "}\nmodel: {" model "}\nfeatures: {a: categorical}"

static void test_labels(void **state)
{
    static const struct {
        const char *yaml, *row;
        double label, weight;
    } cases[] = {
        {LABEL("label: y", "type: lr"), "1,a,b", 1, 1},
        {LABEL("label: y", "type: lr"), "-1,a,b", 0, 1},
        {LABEL("label: y", "type: lr"), " +1 ,a,b", 1, 1},
        {LABEL("label: y", "type: lr"), "0.0,a,b", 0, 1},
        {LABEL("label: y", "type: lr, loss: squared"), "-2.5,a,b", -2.5, 1},
        {LABEL("label: y, weight: b", "type: lr"), "1,a,0.25", 1, 0.25},
        {LABEL("label: y, weight: b", "type: lr"), "1,a,0", 1, 0},
        {LABEL("label: {column: y, positive: \">= 4\"}", "type: lr"), "4,a,b", 1, 1},
        {LABEL("label: {column: y, positive: \">= 4\"}", "type: lr"), "3.9,a,b", 0, 1},
        {LABEL("label: {column: y, positive: \"> 4\"}", "type: lr"), "4,a,b", 0, 1},
        {LABEL("label: {column: y, positive: \"<= 4\"}", "type: lr"), "4,a,b", 1, 1},
        {LABEL("label: {column: y, positive: \"< 4\"}", "type: lr"), "4,a,b", 0, 1},
        {LABEL("label: {column: y, positive: \"== yes\"}", "type: lr"), "yes,a,b", 1, 1},
        {LABEL("label: {column: y, positive: \"== yes\"}", "type: lr"), "no,a,b", 0, 1},
        {LABEL("label: {column: y, positive: \"!= no\"}", "type: lr"), "no,a,b", 0, 1},
        {LABEL("label: {column: y, positive: \"== 2\"}", "type: lr"), "2.0,a,b", 1, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct features_setup s;
        if (features_setup_make(&s, cases[i].yaml, "y,a,b", false) != ERR_NONE ||
            features_setup_add(&s, cases[i].row) != ERR_NONE)
            fail_msg("%s %s: %s", cases[i].yaml, cases[i].row, err_text());
        if (s.rows.labels[0] != (float)cases[i].label ||
            s.rows.weights[0] != (float)cases[i].weight)
            fail_msg("%s %s: label %g weight %g", cases[i].yaml, cases[i].row,
                     (double)s.rows.labels[0], (double)s.rows.weights[0]);
        features_setup_remove(&s);
    }
}

static void test_predict_needs_no_label(void **state)
{
    struct features_setup s;
    assert_int_equal(
        features_setup_make(&s, LABEL("label: y, weight: w, time: t", "type: lr"), "a,b", true),
        ERR_NONE);
    assert_int_equal(features_setup_add(&s, "x,z"), ERR_NONE);
    assert_true(s.rows.labels[0] == 0 && s.rows.weights[0] == 1);
    features_setup_remove(&s);
}

static void test_hash_split(void **state)
{
    struct features_setup s;
    uint32_t eval = 0;
    bool first = false;
    assert_int_equal(
        features_setup_make(&s,
                            "data: {format: csv, train: x, label: y, split: {by: hash, column: b, "
                            "eval_fraction: 0.2}}\nmodel: {type: lr}\nfeatures: {a: categorical}",
                            "y,a,b", false),
        ERR_NONE);
    for (int i = 0; i < 5000; i++) {
        char row[32];
        rows_clear(&s.rows);
        sprintf(row, "1,x,user%d", i);
        assert_int_equal(features_setup_add(&s, row), ERR_NONE);
        eval += s.rows.evals[0];
        if (i == 0)
            first = s.rows.evals[0];
    }
    assert_in_range(eval, 900, 1100); /* deviation 28 */
    rows_clear(&s.rows);
    assert_int_equal(features_setup_add(&s, "0,other,user0"), ERR_NONE);
    assert_int_equal(s.rows.evals[0], first);
    features_setup_remove(&s);
}

static void test_times(void **state)
{
    static const struct {
        const char *text;
        bool good;
        int64_t ms;
    } cases[] = {
        {"0", true, 0},
        {"1293890700", true, 1293890700000},
        {"1293890700.25", true, 1293890700250},
        {"1293890700123", true, 1293890700123},
        {"-1", true, -1000},
        {"1970-01-01", true, 0},
        {"2000-02-29", true, 951782400000},
        {"2026-05-02T10:30:00Z", true, 1777717800000},
        {"2026-05-02 10:30", true, 1777717800000},
        {"2026-05-02T10:30:00.5", true, 1777717800500},
        {"2026-05-02T10:30:00.123456Z", true, 1777717800123},
        {"2026-05-02T12:30:00+02:00", true, 1777717800000},
        {"2026-05-02T05:00:00-0530", true, 1777717800000},
        {"2026-05-02T12:30:00+02", true, 1777717800000},
        {" 2026-05-02 ", true, 1777680000000},
        {"1969-12-31T23:59:59Z", true, -1000},
        {"", false, 0},
        {"x", false, 0},
        {"2026-13-01", false, 0},
        {"2026-02-29", false, 0},
        {"2026-05-32", false, 0},
        {"2026-05-02T", false, 0},
        {"2026-05-02T25:00", false, 0},
        {"2026-05-02T10:60", false, 0},
        {"2026-05-02T10:30:00.", false, 0},
        {"2026-05-02T10:30:00X", false, 0},
        {"2026-05-02T10:30+2", false, 0},
        {"2026-5-2", false, 0},
        {"1e30", false, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t ms = 0;
        bool good = features_parse_time(span_of(cases[i].text), &ms);
        if (good != cases[i].good || (good && ms != cases[i].ms))
            fail_msg("'%s' read as %d %" PRId64, cases[i].text, good, ms);
    }
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_bad_values(void **state)
{
    static const struct {
        const char *yaml, *row, *message;
    } cases[] = {
        {LABEL("label: y", "type: lr"), ",a,b", "t:7:1: the label is missing in column 'y'"},
        {LABEL("label: y", "type: lr"), "x,a,b", "t:7:1: label 'x' is not a number"},
        {LABEL("label: y", "type: lr"), "2,a,b", "t:7:1: label '2' is not 0, 1 or -1"},
        {LABEL("label: y", "type: mlp, loss: softmax, classes: 3"), "3,a,b",
         "label '3' is not a class"},
        {LABEL("label: y", "type: mlp, loss: softmax, classes: 3"), "1.5,a,b", "is not a class"},
        {LABEL("label: y", "type: lr, loss: squared"), "1e300,a,b", "label '1e300' is too large"},
        {LABEL("label: {column: y, positive: \"> 4\"}", "type: lr"), "x,a,b",
         "label 'x' is not a number"},
        {LABEL("label: y, weight: b", "type: lr"), "1,a,", "t:7:1: the weight is missing"},
        {LABEL("label: y, weight: b", "type: lr"), "1,a,-2",
         "t:7:5: weight '-2' is not a number from 0"},
        {LABEL("label: y, weight: b", "type: lr"), "1,a,x", "t:7:5: weight 'x'"},
        {LABEL("label: y, time: b", "type: lr"), "1,a,noon", "t:7:5: 'noon' is not a time"},
        {LABEL("label: y, time: b", "type: lr"), "1,a,", "the time is missing"},
        {FM("{a: {type: numeric}}"), "1,4x,b", "t:7:3: '4x' is not a number; feature 'a'"},
        {FM("{a: {type: numeric, missing: error}}"), "1,,b",
         "t:7:1: the value is missing; feature 'a'"},
        {FM("{a: {type: numeric}}"), "1,1e200,b",
         "t:7:3: 1e+200 is too large a value; feature 'a'"},
        {FM("{b: {missing: error}}"), "1,a,", "the value is missing; feature 'b'"},
        {FM("{b: {key: integer, table: t}}"), "1,a,4.5", "t:7:5: '4.5' is not an integer"},
        {FM("{b: {transform: [hour]}}"), "1,a,later", "t:7:5: 'later' is not a time"},
        {FM("{b: {pooling: sum, value_weights: ':'}}"), "1,a,u:1|v:w",
         "t:7:9: the weight in 'v:w'"},
        {FM("{b: {pooling: sum, missing: error}}"), "1,a,|", "the value is missing; feature 'b'"},
        {FM("{b: {pooling: sum, key: integer, table: t}}"), "1,a,1|x",
         "t:7:7: 'x' is not an integer"},
        {MLP("{b: {length: 2}}"), "1,a,1|2|3", "t:7:5: 3 numbers, but length is 2; feature 'b'"},
        {MLP("{b: {length: 2}}"), "1,a,1", "t:7:5: 1 numbers, but length is 2"},
        {MLP("{b: {length: 2}}"), "1,a,1|x",
         "t:7:7: 'x' is not a number of a vector of 2 with '|' between"},
        {MLP("{b: {length: 2, missing: error}}"), "1,a,", "the value is missing; feature 'b'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct features_setup s;
        if (features_setup_make(&s, cases[i].yaml, "y,a,b", false) != ERR_NONE)
            fail_msg("%s: %s", cases[i].yaml, err_text());
        enum err e = features_setup_add(&s, cases[i].row);
        if (e != ERR_INPUT || strstr(err_text(), cases[i].message) == NULL)
            fail_msg("%s %s: %s '%s', not '%s'", cases[i].yaml, cases[i].row, err_name(e),
                     e != ERR_NONE ? err_text() : "", cases[i].message);
        assert_int_equal(s.rows.count, 0);
        features_setup_remove(&s);
    }
}

static void test_missing_columns(void **state)
{
    static const struct {
        const char *yaml, *message;
    } cases[] = {
        {LABEL("label: clicked", "type: lr"), "data.label: the data has no column 'clicked'"},
        {LABEL("label: y, weight: weigth", "type: lr"),
         "no column 'weigth'; did you mean 'weight'?"},
        {LABEL("label: y, time: ts", "type: lr"), "data.time: the data has no column 'ts'"},
        {FM("{q: categorical}"), "no column 'q'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct features_setup s;
        assert_int_equal(features_setup_make(&s, cases[i].yaml, "y,a,weight", false), ERR_INPUT);
        if (strstr(err_text(), cases[i].message) == NULL)
            fail_msg("%s: '%s'", cases[i].yaml, err_text());
        features_setup_remove(&s);
    }
}

/* ---- other formats --------------------------------------------------------------------------- */

static void test_sparse_formats(void **state)
{
    struct features_setup s;
    assert_int_equal(features_setup_make(&s, "data: {format: libsvm, train: x}\nmodel: {type: lr}",
                                         "label,features", false),
                     ERR_NONE);
    assert_int_equal(features_setup_add(&s, "-1 7:0.5 3:1 7:2"), ERR_NONE);
    check_terms(&s.rows, 0, "=#7*0.5,=#3,=#7*2");
    assert_true(s.rows.labels[0] == 0);
    assert_int_equal(features_setup_add(&s, "1"), ERR_NONE);
    check_terms(&s.rows, 1, "");
    features_setup_remove(&s);

    /* Fields stand in their slots whatever their order; a field that the data never had is not
     * read. */
    assert_int_equal(features_setup_make(&s, "data: {format: libffm, train: x}\nmodel: {type: fm}",
                                         "label,f0,f1,f2", false),
                     ERR_NONE);
    assert_int_equal(features_setup_add(&s, "1 2:9:1 0:4:1 2:8:0.5 3:1:1"), ERR_NONE);
    check_terms(&s.rows, 0, "=#4;;=#9,=#8*0.5");
    features_setup_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terms),           cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_dense),           cmocka_unit_test(test_labels),
        cmocka_unit_test(test_times),           cmocka_unit_test(test_predict_needs_no_label),
        cmocka_unit_test(test_hash_split),      cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_missing_columns), cmocka_unit_test(test_sparse_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
