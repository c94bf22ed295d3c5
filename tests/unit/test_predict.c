/*
 * Goal: examples from outside the index become the same batches as those within; ids come along;
 * wrong lines are refused with their number; describe counts what is there.
 * Method: the data set's own files are predicted and compared with its rows; tables of JSON lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "tests/support/dataset_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- predict and describe -------------------------------------------------------------------- */

static void test_predict_files(void **state)
{
    struct fixture f;
    struct rows rows;
    struct features *features;
    struct predict_source *p;
    struct batch *b;
    uint32_t n = 0;
    fixture_make(&f, JOB(", id: [id, user]", "batch_size: 300"), false);
    fixture_read_rows(&f, &rows, &features);
    char *pattern = must_format("%s/d*.csv", f.directory);
    struct text_list paths = {&pattern, 1};
    assert_int_equal(predict_open_files(f.d, &paths, 700, &p), ERR_NONE);
    for (;;) {
        if (predict_next(p, &b) != ERR_NONE)
            fail_msg("%s", err_text());
        if (b == NULL)
            break;
        assert_int_equal(b->example_count, ROWS - n < 700 ? ROWS - n : 700);
        fixture_check_batch(b, &rows);
        for (uint32_t i = 0; i < b->example_count; i++, n++) {
            assert_int_equal((uint32_t)b->labels[i], n);
            assert_int_equal(atoi(predict_id(p, i, 0)), n);
            assert_int_equal(predict_id(p, i, 1)[0], 'u');
        }
        batch_release(b);
    }
    assert_int_equal(n, ROWS);
    predict_close(p);
    /* Columns in another order, without label and weight; then one that a feature needs is missing.
     */
    mem_free(data_fixture_write(f.directory, "p.csv",
                                span_of("user,id,price,tags,item\nu5,77,1.5,t1|t2,9\n")));
    mem_free(pattern);
    pattern = must_format("%s/p.csv", f.directory);
    assert_int_equal(predict_open_files(f.d, &paths, 10, &p), ERR_NONE);
    assert_int_equal(predict_next(p, &b), ERR_NONE);
    assert_int_equal(b->example_count, 1);
    assert_string_equal(predict_id(p, 0, 0), "77");
    batch_release(b);
    predict_close(p);
    mem_free(
        data_fixture_write(f.directory, "p.csv", span_of("user,id,price,tags\nu5,77,1.5,t1|t2\n")));
    assert_int_equal(predict_open_files(f.d, &paths, 10, &p), ERR_NONE);
    assert_int_equal(predict_next(p, &b), ERR_INPUT);
    assert_non_null(strstr(err_text(), "no column 'item'"));
    predict_close(p);
    mem_free(pattern);
    rows_deinit(&rows);
    features_destroy(features);
    fixture_remove(&f);
}

static void test_predict_json(void **state)
{
    static const char *const lines[] = {
        "{\"id\": 5, \"w\": 1.25, \"user\": \"u7\", \"item\": 9, \"tags\": [\"t1\", \"t2\"], "
        "\"price\": 2.5}",
        "{\"user\": \"u7\", \"item\": \"9\", \"tags\": \"t1|t2\", \"price\": \"2.5\", \"more\": 1}",
        "{\"user\": null, \"item\": 9}",
    };
    static const struct {
        const char *line, *message;
    } bad[] = {
        {"[1]", "line 1: json:1:1: not an object"},
        {"{\"item\": 1.5}", "'1.5' is not an integer"},
        {"{\"item\": {}}", "'item' is an object"},
        {"{\"item\": 1", "line 1: json"},
        {"{\"price\": \"x\"}", "'x' is not a number; feature 'price'"},
    };
    struct fixture f;
    struct predict_source *p;
    struct batch *b;
    size_t sizes[COUNT(lines)];
    fixture_make(&f, JOB(", id: user", "batch_size: 300"), false);
    assert_int_equal(predict_open_json(f.d, &p), ERR_NONE);
    for (size_t i = 0; i < COUNT(lines); i++)
        sizes[i] = strlen(lines[i]);
    if (predict_parse_json(p, lines, sizes, COUNT(lines), &b) != ERR_NONE)
        fail_msg("%s", err_text());
    assert_int_equal(b->example_count, 3);
    assert_true(b->labels[0] == 5 && b->weights[0] == 1.25f && b->labels[1] == 0 &&
                b->weights[1] == 1);
    assert_string_equal(predict_id(p, 1, 0), "u7");
    assert_string_equal(predict_id(p, 2, 0), "");
    for (uint32_t t = 0; t < b->table_count; t++) {
        const struct batch_table *x = &b->tables[t];
        for (uint32_t s = 0; s < x->slot_count; s++) {
            uint32_t first = x->offsets[s], second = x->offsets[x->slot_count + s];
            uint32_t count = x->offsets[s + 1] - first;
            assert_int_equal(x->offsets[x->slot_count + s + 1] - second, count);
            assert_memory_equal(x->ids + first, x->ids + second, count * sizeof *x->ids);
        }
    }
    batch_release(b);
    for (size_t i = 0; i < COUNT(bad); i++) {
        size_t size = strlen(bad[i].line);
        assert_int_equal(predict_parse_json(p, &bad[i].line, &size, 1, &b), ERR_INPUT);
        if (strstr(err_text(), bad[i].message) == NULL)
            fail_msg("%s: '%s'", bad[i].line, err_text());
    }
    predict_close(p);
    fixture_remove(&f);
}

static void test_describe(void **state)
{
    char *directory = data_fixture_make();
    mem_free(data_fixture_write(directory, "t.csv",
                                span_of("y,a,n\n1,x,2\n0,y,\n9,y,1\n1,,-3.5\n0,x,10\n")));
    struct job *job = data_fixture_job(directory, "data: {format: csv, train: $/t.csv, label: y}\n"
                                                  "features: {a: categorical, n: numeric}\n"
                                                  "model: {type: lr}\n");
    struct json *o, *features, *label, *first;
    uint64_t value;
    double number;
    assert_int_equal(dataset_describe(job, 2, &o), ERR_NONE);
    assert_int_equal(json_get_u64(o, "examples", &value), ERR_NONE);
    assert_int_equal(value, 4);
    assert_int_equal(json_get_u64(o, "bad_rows", &value), ERR_NONE);
    assert_int_equal(value, 1);
    assert_int_equal(json_get_object(o, "label", &label), ERR_NONE);
    assert_int_equal(json_get_number(label, "mean", &number), ERR_NONE);
    assert_true(number == 0.5);
    assert_int_equal(json_get_array(o, "features", &features), ERR_NONE);
    assert_int_equal(json_get_u64(json_at(features, 0), "distinct", &value), ERR_NONE);
    assert_int_equal(value, 2);
    assert_int_equal(json_get_u64(json_at(features, 0), "missing", &value), ERR_NONE);
    assert_int_equal(value, 1);
    assert_int_equal(json_get_number(json_at(features, 1), "minimum", &number), ERR_NONE);
    assert_true(number == -3.5);
    assert_int_equal(json_get_u64(json_at(features, 1), "missing", &value), ERR_NONE);
    assert_int_equal(value, 1);
    assert_int_equal(json_get_array(o, "first_examples", &first), ERR_NONE);
    assert_int_equal(json_count(first), 2);
    assert_string_equal(json_as_text(json_get(json_at(first, 1), "a")), "y");
    assert_int_equal(json_type(json_get(json_at(first, 1), "n")), JSON_NULL);
    json_destroy(o);
    job_destroy(job);
    data_fixture_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predict_files),
        cmocka_unit_test(test_predict_json),
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
