/*
 * Goal: what is written can be read and is the same; what is not JSON is refused with line and
 * column; the same calls write the same bytes; numbers keep every bit. Method: tables of texts;
 * random doubles; random damage to a good text (no crash, no leak under asan).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/rng.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct json *parse(const char *text)
{
    struct json *j = NULL;
    if (json_parse("test", text, strlen(text), &j) != ERR_NONE)
        fail_msg("%s: %s", text, err_text());
    return j;
}

static void test_canonical_texts(void **state)
{
    static const char *const same[] = {
        "null",
        "true",
        "false",
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "0.5",
        "-0.0",
        "1.0",
        "1e+300",
        "5e-324",
        "0.1",
        "0.30000000000000004",
        "1.7976931348623157e+308",
        "\"\"",
        "\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\"",
        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "[]",
        "{}",
        "[1,[2,[]],{}]",
        "{\"b\":1,\"a\":{\"c\":[null,true]},\"\":0}",
    };
    for (size_t i = 0; i < COUNT(same); i++) {
        struct json *j = parse(same[i]);
        struct str out = {0};
        json_write(j, false, &out);
        assert_string_equal(out.data, same[i]);
        str_deinit(&out);
        json_destroy(j);
    }
}

static void test_other_spellings(void **state)
{
    static const struct {
        const char *text, *canonical;
    } cases[] = {
        {" [ 1 ,\t2\r\n] ", "[1,2]"},
        {"-0", "0"},
        {"1E2", "100.0"},
        {"1.50", "1.5"},
        {"\"\\u00e9\\/\"", "\"\xc3\xa9/\""},
        {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
        {"\"\\uFFFD\\u20AC\"", "\"\xef\xbf\xbd\xe2\x82\xac\""},
        {"1e-400", "0.0"},
        {"123456789012.0", "123456789012.0"},
        {"1e15", "1e+15"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *j = parse(cases[i].text);
        struct str out = {0};
        json_write(j, false, &out);
        assert_string_equal(out.data, cases[i].canonical);
        str_deinit(&out);
        json_destroy(j);
    }
}

static void test_errors(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "test: line 1, column 1: expected a value, found the end"},
        {"  ", "line 1, column 3: expected a value, found the end"},
        {"[1,\n2,\n  x]", "line 3, column 3: expected a value"},
        {"[1 2]", "line 1, column 4: expected ',' or ']'"},
        {"[1,]", "line 1, column 4: expected a value"},
        {"[1", "line 1, column 3: expected ',' or ']'"},
        {"{\"a\":1,}", "line 1, column 8: expected a member's name"},
        {"{a:1}", "line 1, column 2: expected a member's name"},
        {"{\"a\" 1}", "line 1, column 6: expected ':'"},
        {"{\"a\":1 \"b\":2}", "line 1, column 8: expected ',' or '}'"},
        {"{\"a\":1,\n\"a\":2}", "line 2, column 1: the object has a member of this name"},
        {"{\"a\":{\"b\":[}", "line 1, column 12: expected a value"},
        {"1 2", "line 1, column 3: something follows the value"},
        {"tru", "line 1, column 1: expected a value"},
        {"nul\n", "line 1, column 1: expected a value"},
        {"01", "line 1, column 1: a number cannot begin with 0"},
        {"-", "line 1, column 1: expected a value"},
        {"+1", "line 1, column 1: expected a value"},
        {"1.", "line 1, column 1: expected digits after the decimal point"},
        {".5", "line 1, column 1: expected a value"},
        {"1e", "line 1, column 1: expected digits in the exponent"},
        {"1e999", "line 1, column 1: the number is too large"},
        {"[9223372036854775808]", "line 1, column 2: the integer is not from"},
        {"NaN", "line 1, column 1: expected a value"},
        {"\"abc", "line 1, column 1: the string has no end"},
        {"\"a\nb\"", "line 1, column 3: control character"},
        {"\"a\\q\"", "line 1, column 3: unknown escape"},
        {"\"\\", "line 1, column 2: unknown escape"},
        {"\"\\u12g4\"", "line 1, column 2: \\u needs four"},
        {"\"\\u0000\"", "line 1, column 2: text with \\u0000"},
        {"\"\\ud800\"", "line 1, column 2: half of a surrogate pair"},
        {"\"\\ud800\\u0041\"", "line 1, column 2: half of a surrogate pair"},
        {"\"\\udc00\"", "line 1, column 2: half of a surrogate pair"},
        {"\"\xc0\x80\"", "line 1, column 2: not valid UTF-8"},
        {"\xef\xbb\xbf{}", "line 1, column 1: expected a value"},
        {"'a'", "line 1, column 1: expected a value"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *j = NULL;
        assert_int_equal(json_parse("test", cases[i].text, strlen(cases[i].text), &j), ERR_INPUT);
        assert_null(j);
        if (strstr(err_text(), cases[i].message) == NULL)
            fail_msg("text %s: %s instead of %s", cases[i].text, err_text(), cases[i].message);
    }
    struct json *j = NULL;
    assert_int_equal(json_parse("test", "[\0]", 3, &j), ERR_INPUT);
    /* The size counts, not a final 0. */
    assert_int_equal(json_parse("test", "12", 1, &j), ERR_NONE);
    assert_int_equal(json_as_int(j), 1);
    json_destroy(j);
}

static void test_depth(void **state)
{
    char text[2000];
    memset(text, '[', 1000);
    memset(text + 1000, ']', 1000);
    struct json *j = NULL;
    assert_int_equal(json_parse("test", text, 2000, &j), ERR_INPUT);
    assert_non_null(strstr(err_text(), "nested too deeply"));
    assert_int_equal(json_parse("test", text + 1000 - 100, 200, &j), ERR_NONE);
    json_destroy(j);
}

static void test_numbers_keep_their_bits(void **state)
{
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = rng_at(1, i);
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (i % 3 == 0)
            value = (double)rng_uniform(bits);
        if (!isfinite(value))
            continue;
        struct json *j = json_number(value), *again;
        struct str out = {0};
        json_write(j, false, &out);
        assert_int_equal(json_parse("test", out.data, out.size, &again), ERR_NONE);
        assert_int_equal(json_type(again), JSON_NUMBER);
        back = json_as_number(again);
        assert_memory_equal(&value, &back, sizeof value);
        assert_in_range(out.size, 3, 24);
        json_destroy(j);
        json_destroy(again);
        str_deinit(&out);
    }
    struct json *j = json_number(NAN);
    assert_int_equal(json_type(j), JSON_NULL);
    json_destroy(j);
    j = json_number(-INFINITY);
    assert_int_equal(json_type(j), JSON_NULL);
    json_destroy(j);
}

static void test_building(void **state)
{
    struct json *root = json_object(), *list = json_array();
    json_set_text(root, "name", "a\xff z");
    json_set_int(root, "step", 12);
    json_set_number(root, "loss", 0.25);
    json_set_bool(root, "done", false);
    json_set(root, "list", list);
    json_push(list, json_int(1));
    json_push(list, json_text("x"));
    json_set(root, "none", json_null());
    json_set_int(root, "step", 13); /* replaced in its place */
    json_set(root, "empty", json_object());
    struct str out = {0};
    json_write(root, false, &out);
    assert_string_equal(out.data, "{\"name\":\"a\xef\xbf\xbd z\",\"step\":13,\"loss\":0.25,"
                                  "\"done\":false,"
                                  "\"list\":[1,\"x\"],\"none\":null,\"empty\":{}}");
    str_clear(&out);
    json_write(root, true, &out);
    assert_string_equal(out.data, "{\n  \"name\": \"a\xef\xbf\xbd z\",\n  \"step\": 13,\n"
                                  "  \"loss\": 0.25,\n"
                                  "  \"done\": false,\n  \"list\": [\n    1,\n    \"x\"\n  ],\n"
                                  "  \"none\": null,\n  \"empty\": {}\n}");
    assert_int_equal(json_count(root), 7);
    assert_string_equal(json_key_at(root, 2), "loss");
    assert_true(json_as_number(json_at(root, 2)) == 0.25);
    assert_null(json_key_at(root, 7));
    assert_null(json_at(list, 2));
    assert_string_equal(json_as_text(json_at(list, 1)), "x");
    assert_null(json_get(list, "name"));
    assert_null(json_get(root, "nam"));
    str_deinit(&out);
    json_destroy(root);
    json_destroy(NULL);
}

static void test_typed_access(void **state)
{
    struct json *j = parse("{\"t\":\"x\",\"i\":7,\"m\":-7,\"n\":1.5,\"b\":true,"
                           "\"a\":[1],\"o\":{},\"z\":null}");
    const char *text = "untouched";
    uint64_t u64 = 99;
    double number = 99;
    bool truth = false;
    struct json *inner = NULL;
    assert_int_equal(json_get_text(j, "t", &text), ERR_NONE);
    assert_string_equal(text, "x");
    assert_int_equal(json_get_u64(j, "i", &u64), ERR_NONE);
    assert_int_equal(u64, 7);
    assert_int_equal(json_get_number(j, "n", &number), ERR_NONE);
    assert_true(number == 1.5);
    assert_int_equal(json_get_number(j, "m", &number), ERR_NONE);
    assert_true(number == -7);
    assert_int_equal(json_get_bool(j, "b", &truth), ERR_NONE);
    assert_true(truth);
    assert_int_equal(json_get_array(j, "a", &inner), ERR_NONE);
    assert_int_equal(json_count(inner), 1);
    assert_int_equal(json_get_object(j, "o", &inner), ERR_NONE);
    assert_int_equal(json_type(inner), JSON_OBJECT);

    struct json *before = inner;
    assert_int_equal(json_get_text(j, "i", &text), ERR_INPUT);
    assert_string_equal(err_text(), "member 'i' is an integer; it must be text");
    assert_int_equal(json_get_u64(j, "absent", &u64), ERR_INPUT);
    assert_string_equal(err_text(), "member 'absent' is missing; it must be an integer");
    assert_int_equal(json_get_u64(j, "m", &u64), ERR_INPUT);
    assert_non_null(strstr(err_text(), "'m' is -7"));
    assert_int_equal(json_get_u64(j, "n", &u64), ERR_INPUT);
    assert_int_equal(json_get_number(j, "t", &number), ERR_INPUT);
    assert_int_equal(json_get_bool(j, "z", &truth), ERR_INPUT);
    assert_int_equal(json_get_array(j, "o", &inner), ERR_INPUT);
    assert_int_equal(json_get_object(j, "a", &inner), ERR_INPUT);
    assert_string_equal(text, "x");
    assert_int_equal(u64, 7);
    assert_true(number == -7);
    assert_ptr_equal(inner, before);

    assert_null(json_as_text(json_get(j, "i")));
    assert_null(json_as_text(NULL));
    assert_int_equal(json_as_int(json_get(j, "n")), 0);
    assert_true(json_as_number(json_get(j, "t")) == 0);
    assert_false(json_as_bool(json_get(j, "i")));
    json_destroy(j);
}

/* Beyond the size at which objects get an index. */
static void test_big_object(void **state)
{
    struct json *j = json_object();
    char name[32];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "key%d", i);
        json_set_int(j, name, i);
        if (i % 100 == 50)
            json_set_int(j, "key7", -i);
    }
    assert_int_equal(json_count(j), 3000);
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "key%d", i);
        assert_int_equal(json_as_int(json_get(j, name)), i == 7 ? -2950 : i);
        assert_string_equal(json_key_at(j, (size_t)i), name);
    }
    assert_null(json_get(j, "key3000"));
    struct str out = {0};
    json_write(j, true, &out);
    struct json *again = parse(out.data);
    struct str out_again = {0};
    json_write(again, true, &out_again);
    assert_string_equal(out.data, out_again.data);
    str_deinit(&out);
    str_deinit(&out_again);
    json_destroy(j);
    json_destroy(again);
}

static void test_damage(void **state)
{
    static const char good[] = "{\"a\":[1,2.5,-3e4,\"x\\u00e9\\n\"],"
                               "\"b\":{\"c\":null,\"d\":[true,false,{}]}}";
    char text[sizeof good];
    uint32_t accepted = 0;
    for (uint64_t i = 0; i < 50000; i++) {
        memcpy(text, good, sizeof good);
        size_t size = sizeof good - 1;
        for (uint64_t k = 0; k <= i % 3; k++)
            text[rng_below(rng_at(i, 2 * k), size)] = (char)rng_at(i, 2 * k + 1);
        if (i % 5 == 0)
            size = rng_below(rng_at(i, 99), size);
        struct json *j = NULL;
        if (json_parse("test", text, size, &j) == ERR_NONE) {
            accepted++;
            json_destroy(j);
        }
    }
    assert_in_range(accepted, 1, 25000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical_texts), cmocka_unit_test(test_other_spellings),
        cmocka_unit_test(test_errors),          cmocka_unit_test(test_depth),
        cmocka_unit_test(test_building),        cmocka_unit_test(test_numbers_keep_their_bits),
        cmocka_unit_test(test_typed_access),    cmocka_unit_test(test_big_object),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
