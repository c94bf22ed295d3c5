/*
 * Goal: numbers are read whole or refused with the value in the text, strings grow and stay
 * terminated, patterns match as a shell's do, the nearest word is found, UTF-8 is judged by RFC
 * 3629. Method: tables of cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/str.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void test_spans(void **state)
{
    assert_true(span_is(span_make("abcdef", 3), "abc"));
    assert_false(span_is(span_make("abcdef", 3), "abcd"));
    assert_true(span_equal(span_make(NULL, 0), span_of("")));
    assert_true(span_is(span_trim(span_of(" \t a b\t ")), "a b"));
    assert_int_equal(span_trim(span_of(" \t ")).size, 0);
    assert_true(span_is(span_trim(span_of("x\n")), "x\n"));
}

static void test_growing(void **state)
{
    struct str s = {0};
    str_append(&s, "");
    assert_string_equal(s.data, "");
    char expected[5000] = "";
    size_t size = 0;
    for (int i = 0; i < 300; i++) {
        str_append_format(&s, "%d,", i * i);
        size += (size_t)sprintf(expected + size, "%d,", i * i);
        str_append(&s, "x");
        expected[size++] = 'x';
        expected[size] = '\0';
        str_append_span(&s, span_make("yz", 1));
        expected[size++] = 'y';
        expected[size] = '\0';
    }
    assert_string_equal(s.data, expected);
    assert_int_equal(s.size, size);
    str_clear(&s);
    assert_int_equal(s.size, 0);
    assert_string_equal(s.data, "");
    str_append_format(&s, "%0200d", 7);
    assert_int_equal(strlen(s.data), 200);
    str_append_span(&s, span_make("a\0b", 3));
    assert_int_equal(s.size, 203);
    assert_memory_equal(s.data + 200, "a\0b", 4);
    str_deinit(&s);
    assert_null(s.data);
    str_deinit(&s);
}

/* Exactly the lengths around the first capacity, where an error by one would show. */
static void test_format_at_every_length(void **state)
{
    for (int length = 0; length < 200; length++) {
        struct str s = {0};
        str_append_format(&s, "%*s", length, "");
        assert_int_equal(s.size, length);
        assert_int_equal(strlen(s.data), length);
        assert_true(s.capacity > s.size);
        str_deinit(&s);
    }
}

static void test_parse_u64(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {
        {"0", true, 0},
        {"7", true, 7},
        {"007", true, 7},
        {"18446744073709551615", true, UINT64_MAX},
        {"18446744073709551616", false, 0},
        {"99999999999999999999", false, 0},
        {"", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"1x", false, 0},
        {"0x10", false, 0},
        {"1.0", false, 0},
        {"1e3", false, 0},
        {"\xd9\xa1", false, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t value = 12345;
        enum err error = str_parse_u64(span_of(cases[i].text), &value);
        assert_int_equal(error, cases[i].good ? ERR_NONE : ERR_INPUT);
        assert_int_equal(value, cases[i].good ? cases[i].value : 12345);
        if (!cases[i].good) {
            char quoted[64];
            snprintf(quoted, sizeof quoted, "'%s'", cases[i].text);
            assert_non_null(strstr(err_text(), quoted));
        }
    }
    uint64_t value;
    assert_int_equal(str_parse_u64(span_make("123456", 3), &value), ERR_NONE);
    assert_int_equal(value, 123);
}

static void test_parse_i64(void **state)
{
    static const struct {
        const char *text;
        bool good;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"-7", true, -7},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"--1", false, 0},
        {"+1", false, 0},
        {"1-", false, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t value = 12345;
        enum err error = str_parse_i64(span_of(cases[i].text), &value);
        assert_int_equal(error, cases[i].good ? ERR_NONE : ERR_INPUT);
        assert_true(value == (cases[i].good ? cases[i].value : 12345));
    }
}

static void test_parse_f64(void **state)
{
    static const struct {
        const char *text;
        bool good;
        double value;
    } cases[] = {
        {"0", true, 0},
        {"-0.0", true, -0.0},
        {"1.5", true, 1.5},
        {"1e-3", true, 1e-3},
        {"-1.25E+2", true, -125},
        {".5", true, 0.5},
        {"5.", true, 5},
        {"1e-400", true, 0},
        {"1.7976931348623157e308", true, 0x1.fffffffffffffp1023},
        {"5e-324", true, 0x1p-1074},
        {"0.1", true, 0.1},
        {"1e309", false, 0},
        {"", false, 0},
        {".", false, 0},
        {"-", false, 0},
        {"e5", false, 0},
        {"1e", false, 0},
        {"1e+", false, 0},
        {"nan", false, 0},
        {"inf", false, 0},
        {"-inf", false, 0},
        {"0x1p3", false, 0},
        {"1 ", false, 0},
        {" 1", false, 0},
        {"+1", false, 0},
        {"1,5", false, 0},
        {"1.2.3", false, 0},
        {"1f", false, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        double value = 12345;
        enum err error = str_parse_f64(span_of(cases[i].text), &value);
        assert_int_equal(error, cases[i].good ? ERR_NONE : ERR_INPUT);
        double expected = cases[i].good ? cases[i].value : 12345;
        assert_memory_equal(&value, &expected, sizeof value);
    }
    char digits[1000];
    memset(digits, '1', sizeof digits);
    double value;
    assert_int_equal(str_parse_f64(span_make(digits, 300), &value), ERR_NONE);
    assert_int_equal(str_parse_f64(span_make(digits, 1000), &value), ERR_INPUT);
    assert_int_equal(str_parse_f64(span_make("1.25junk", 4), &value), ERR_NONE);
    assert_true(value == 1.25);
}

static void test_glob(void **state)
{
    static const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "abc", true},
        {"a*", "abc", true},
        {"*c", "abc", true},
        {"a*c", "abc", true},
        {"a*c", "abd", false},
        {"a*b*c", "aXbYbZc", true},
        {"*ab", "aab", true},
        {"*aab", "aaaab", true},
        {"?", "", false},
        {"?", "a", true},
        {"a?c", "abc", true},
        {"a?c", "ac", false},
        {"[abc]x", "bx", true},
        {"[abc]x", "dx", false},
        {"[a-c]", "b", true},
        {"[a-c]", "-", false},
        {"[a-]", "-", true},
        {"[!a-c]", "d", true},
        {"[!a-c]", "b", false},
        {"[]a]", "]", true},
        {"[]a]", "b", false},
        {"[a", "[a", true},
        {"part-*", "part-00000.csv", true},
        {"part-*", "_SUCCESS", false},
        {"user_**", "user_id", true},
        {"[", "[", true},
        {"a\\", "a\\", true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (str_glob_match(cases[i].pattern, cases[i].text) != cases[i].match)
            fail_msg("pattern '%s' and text '%s'", cases[i].pattern, cases[i].text);
    }
    /* Takes for ever where each '*' gives back. */
    char text[201];
    memset(text, 'a', 200);
    text[200] = '\0';
    assert_false(str_glob_match("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
}

static void test_nearest(void **state)
{
    static const char *const words[] = {"batch_size", "batches", "seed", "epochs", "lr", NULL};
    static const struct {
        const char *text, *nearest;
    } cases[] = {
        {"batch_sise", "batch_size"},
        {"batchsize", "batch_size"},
        {"bacth_size", "batch_size"},
        {"sede", "seed"},
        {"epoch", "epochs"},
        {"seed", "seed"},
        {"l", "lr"},
        {"model", NULL},
        {"completely_other", NULL},
        {"xx", NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *found = str_nearest(cases[i].text, words);
        if (cases[i].nearest == NULL)
            assert_null(found);
        else
            assert_string_equal(found, cases[i].nearest);
    }
    char text[200];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_null(str_nearest(text, words));
    assert_null(str_nearest("x", (const char *const[]){text, NULL}));
}

static void test_utf8(void **state)
{
    static const struct {
        const char *text;
        size_t length;
    } cases[] = {
        {"", 0},
        {"a", 1},
        {"\x7f", 1},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xee\x80\x80", 3},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\x80", 0},
        {"\xc0\x80", 0},
        {"\xc1\xbf", 0},
        {"\xc2", 0},
        {"\xc2z", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xed\xa0\x80", 0},
        {"\xe1\x80", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(str_utf8_length(span_of(cases[i].text)), cases[i].length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),     cmocka_unit_test(test_growing),
        cmocka_unit_test(test_parse_u64), cmocka_unit_test(test_parse_i64),
        cmocka_unit_test(test_parse_f64), cmocka_unit_test(test_format_at_every_length),
        cmocka_unit_test(test_glob),      cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
