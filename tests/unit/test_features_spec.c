/*
 * Goal: the features of a job meet the columns of its data as common/features_spec.h says: patterns
 * find their columns, each feature the table, slot, seed and dense input that are its own, and what
 * does not fit is refused by name. Method: jobs with columns and the whole layout expected, as one
 * line a feature.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/features_spec.h"
#include "common/hash.h"
#include "common/str.h"

#define COLUMN_MAX 64
#define CSV        "data: {format: csv, train: t, label: y, weight: w, time: ts}\n"

static struct job *parse(const char *text)
{
    struct job_source source = {.what = "j.yaml", .text = text, .size = strlen(text)};
    struct job *j = NULL;
    if (job_parse(&source, &j))
        fail_msg("%s\n%s", text, err_text());
    return j;
}

/* Columns are given as one text, separated by spaces. */
static enum err create(const struct job *j, const char *columns, struct features_spec **out)
{
    char text[1024];
    const char *list[COLUMN_MAX];
    size_t count = 0;
    char *rest = NULL;
    strncpy(text, columns, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (char *p = strtok_r(text, " ", &rest); p; p = strtok_r(NULL, " ", &rest))
        list[count++] = p;
    return features_spec_create(j, list, count, out);
}

/* "name<column table/slot dense+width (parts)" a feature, then "table:slots" a table. */
static void describe(const struct features_spec *s, struct str *out)
{
    for (size_t i = 0; i < s->feature_count; i++) {
        const struct feature_spec *f = &s->features[i];
        str_append_format(out, "%s", f->name);
        if (f->column && strcmp(f->column, f->name))
            str_append_format(out, "<%s", f->column);
        if (f->gives_terms)
            str_append_format(out, " %s/%u", s->tables[f->table].name, f->slot);
        else
            assert_int_equal(f->table, UINT32_MAX);
        if (f->dense_width)
            str_append_format(out, " %u+%u", f->dense_offset, f->dense_width);
        for (uint32_t k = 0; k < f->cross_count; k++)
            str_append_format(out, "%c%s", k ? 'x' : '=', s->features[f->cross_parts[k]].name);
        str_append(out, f->acts_categorical ? "\n" : " #\n");
    }
    for (size_t i = 0; i < s->table_count; i++)
        str_append_format(out, "%s:%u%s ", s->tables[i].name, s->tables[i].slot_count,
                          s->tables[i].job ? "!" : "");
    str_append_format(out, "%u", s->dense_width);
}

static void test_layout(void **state)
{
    static const struct {
        const char *job, *columns, *expected;
    } cases[] = {
        {CSV "features: {a: ~, x: numeric, b: {buckets: 10}}\nmodel: {type: lr}\n", "y x a b other",
         "a features/0\nx features/1 #\nb features/2\nfeatures:3 0"},
        {CSV "features: {a: ~, x: {type: numeric, missing_flag: true}, b: ~, z: {bucketize: [1]}, "
             "v: {length: 5}}\nmodel: {type: mlp}\n",
         "v y x a b z", "a features/0\nx 0+2 #\nb features/1\nz features/2\nv 2+5 #\nfeatures:3 7"},
        {CSV
         "features: {user: {table: u}, item: {key: integer}, own: ~, a: ~, friend: {table: u}}\n"
         "tables: {own: ~, u: ~}\nmodel: {type: fm}\n",
         "user item own a friend",
         "user u/0\nitem item/0\nown own/0\na features/0\nfriend u/1\nu:2! item:1 own:1! "
         "features:1 0"},
        {CSV "features: {a: ~, h: {column: ts, transform: [hour]}, axh: {cross: [a, h]}}\n"
             "model: {type: fm}\n",
         "a ts", "a features/0\nh<ts features/1\naxh features/2=axh\nfeatures:3 0"},
        {CSV
         "features: {user_id: {min_count: 2}, \"user_*\": ~, \"*\": numeric}\nmodel: {type: lr}\n",
         "user_id user_age", NULL},
        {CSV "features: {\"user_*\": ~, user_id: {table: u}, C01..C03: ~}\nmodel: {type: lr}\n",
         "w user_b y user_id ts user_a C03 C02 C01",
         "user_b features/0\nuser_a features/1\nuser_id u/0\nC01 features/2\nC02 features/3\n"
         "C03 features/4\nfeatures:5 u:1 0"},
        {CSV "features: all\nmodel: {type: lr}\n", "w a y ts b",
         "a features/0\nb features/1\nfeatures:2 0"},
        {"data: {format: libsvm, train: t}\nmodel: {type: lr}\n", "",
         "features features/0\nfeatures:1 0"},
        {"data: {format: libffm, train: t}\nmodel: {type: fm}\n", "f0 f1 f12",
         "f0 features/0\nf1 features/1\nf12 features/2\nfeatures:3 0"},
        {"data: {format: idx, train: t}\nmodel: {type: mlp}\n", "pixels", "pixels 0+784 #\n784"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job *j = parse(cases[i].job);
        struct features_spec *spec = NULL;
        struct str text = {0};
        enum err e = create(j, cases[i].columns, &spec);
        if (!cases[i].expected) {
            assert_int_equal(e, ERR_INPUT);
        } else {
            if (e)
                fail_msg("%s", err_text());
            describe(spec, &text);
            assert_string_equal(text.data, cases[i].expected);
        }
        str_deinit(&text);
        features_spec_destroy(spec);
        job_destroy(j);
    }
    features_spec_destroy(NULL);
}

static void test_criteo(void **state)
{
    struct job *lr = parse("data: {format: criteo, train: t}\nmodel: {type: lr}\n");
    struct job *mlp = parse("data: {format: criteo, train: t}\nmodel: {type: mlp}\n");
    struct features_spec *spec = NULL;
    assert_int_equal(create(lr, "", &spec), 0); /* the columns of the format go without saying */
    assert_int_equal(spec->feature_count, 39);
    assert_true(spec->features[0].acts_categorical);
    assert_int_equal(spec->tables[0].slot_count, 39);
    features_spec_destroy(spec);
    assert_int_equal(create(mlp, "", &spec), 0);
    assert_int_equal(spec->dense_width, 13);
    assert_int_equal(spec->tables[0].slot_count, 26);
    features_spec_destroy(spec);
    job_destroy(lr);
    job_destroy(mlp);
}

/* Serving computes these, so they are fixed: the seed is the hash of the table's or feature's name.
 */
static void test_seeds(void **state)
{
    struct job *j =
        parse(CSV "features: {a: ~, b: {table: a}, c: {table: t}, \"d*\": ~}\nmodel: {type: lr}\n");
    struct features_spec *spec = NULL;
    assert_int_equal(create(j, "a b c d1", &spec), 0);
    assert_true(spec->features[0].seed == hash64("a", 1, 0));
    assert_true(spec->features[0].seed == 0xd24ec4f1a98c6e5bull); /* XXH64's published vector */
    assert_true(spec->features[1].seed == spec->features[0].seed);
    assert_true(spec->features[2].seed == hash64("t", 1, 0));
    assert_true(spec->features[3].seed == hash64("d1", 2, 0));
    features_spec_destroy(spec);
    job_destroy(j);
}

static void test_refused(void **state)
{
    static const struct {
        const char *features, *columns, *error;
    } cases[] = {
        {"price: ~", "prise qty",
         "features.price: the data has no column 'price'; did you mean 'prise'?"},
        {"price: ~", "a", "features.price: the data has no column 'price'; give column: NAME"},
        {"a: ~", "a b a", "features.a: the data has 2 columns 'a'; rename all but one"},
        {"b: {column: zz}", "a b", "features.b: the data has no column 'zz'"},
        {"\"u_*\": ~", "a b", "features.u_*: matches none of the 2 columns"},
        {"\"u_*\": ~, \"*_x\": ~", "u_x",
         "features.*_x: column 'u_x' is declared by features.u_* too"},
        {"\"u_*\": {column: a}", "u_x",
         "features.u_*: a pattern matches columns, so it has no column"},
        {"\"*\": ~, ab: {cross: [a, c]}", "a b", "features.ab: crosses 'c', which is no feature"},
        {"\"*\": numeric, ab: {cross: [a, b]}", "a b", "crosses 'a', which is not categorical"},
        {"\"*\": {pooling: sum}, ab: {cross: [a, b]}", "a b", "crosses 'a', which is multi-valued"},
        {"a: {table: t, key: integer}, b: {table: t}", "a b",
         "features.a: has key: integer but shares table 't' with the hashed 'b'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str text = {0};
        str_append_format(&text, "%sfeatures: {%s}\nmodel: {type: lr}\n", CSV, cases[i].features);
        struct job *j = parse(text.data);
        struct features_spec *spec = NULL;
        assert_int_equal(create(j, cases[i].columns, &spec), ERR_INPUT);
        assert_null(spec);
        if (!strstr(err_text(), cases[i].error))
            fail_msg("%s\nnot: %s", err_text(), cases[i].error);
        job_destroy(j);
        str_deinit(&text);
    }
    struct job *j = parse(CSV "features: {\"*\": ~}\ntables: {user: ~}\nmodel: {type: lr}\n");
    struct features_spec *spec = NULL;
    assert_int_equal(create(j, "a b", &spec), ERR_INPUT);
    assert_non_null(strstr(err_text(), "tables.user: no feature reads it"));
    assert_int_equal(create(j, "a user", &spec), 0);
    features_spec_destroy(spec);
    job_destroy(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_criteo),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
