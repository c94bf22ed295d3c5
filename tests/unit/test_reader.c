/*
 * Goal: each format's bytes become the records that its description says, and what is wrong is
 * refused with file, line, column and the value.
 * Method: tables of texts. A good text must also come out the same when its records are cut off one
 * by one while bytes arrive a few at a time, as a file's do. Records are printed: fields behind
 * each other with "," between, "~" for a missing one, "<" and ">" around; terms as
 * field:index:value.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "worker/reader.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static char *null_texts[] = {"", "\\N"};
static char *named_columns[] = {"a", "b", "c"};

/* d: defaults of a csv with three columns. */
static struct job_data make_data(enum data_format format, enum csv_escape escape, char delimiter)
{
    struct job_data d = {.format = format};
    d.csv.delimiter = delimiter;
    d.csv.escape = escape;
    d.csv.null = (struct text_list){null_texts, 2};
    d.csv.columns = (struct text_list){named_columns, 3};
    return d;
}

static void print_record(const struct record *r, struct str *out)
{
    str_append(out, "<");
    for (uint32_t i = 0; i < r->field_count; i++) {
        str_append(out, i > 0 ? "," : "");
        if (r->fields[i].data == NULL)
            str_append(out, "~");
        else
            str_append_span(out, r->fields[i]);
    }
    for (uint32_t i = 0; i < r->entry_count; i++)
        str_append_format(out, " %u:%" PRIu64 ":%g", r->entries[i].field, r->entries[i].index,
                          (double)r->entries[i].value);
    str_append(out, ">");
}

/* All records of a text; the first error ends it. */
static enum err print_all(const struct job_data *d, uint32_t columns, struct span text,
                          struct str *out)
{
    struct reader *r;
    struct reader_options o = {.data = d, .column_count = columns};
    assert_int_equal(reader_create(&o, &r), ERR_NONE);
    char *copy = must_alloc(text.size + 1);
    memcpy(copy, text.data, text.size);
    reader_begin(
        r, &(struct reader_block){.name = "t", .data = copy, .size = text.size, .first_line = 1});
    enum err e;
    const struct record *record;
    while ((e = reader_next(r, &record)) == ERR_NONE && record != NULL)
        print_record(record, out);
    mem_free(copy);
    reader_destroy(r);
    return e;
}

/* The same, each record cut off by itself, with `step` more bytes each time that it does not end
 * yet. */
static void print_cut(const struct job_data *d, uint32_t columns, struct span text, size_t step,
                      struct str *out)
{
    const struct reader_format *format = reader_format_find(d->format);
    uint32_t all_lines = 0, newlines = 0;
    for (size_t at = 0, known = 0; at < text.size;) {
        uint32_t lines = 0;
        size_t size =
            format->cut(d, span_make(text.data + at, known - at), known == text.size, &lines);
        if (size == 0) {
            assert_true(known < text.size);
            known = known + step < text.size ? known + step : text.size;
            continue;
        }
        assert_true(lines > 0);
        all_lines += lines;
        assert_int_equal(print_all(d, columns, span_make(text.data + at, size), out), ERR_NONE);
        at += size;
    }
    for (size_t i = 0; i < text.size; i++)
        newlines += text.data[i] == '\n';
    bool open_end = text.size > 0 && text.data[text.size - 1] != '\n';
    assert_int_equal(all_lines, newlines + open_end);
}

static void check_good(const struct job_data *d, uint32_t columns, const char *text,
                       const char *expected)
{
    struct str out = {0};
    str_append(&out, "");
    if (print_all(d, columns, span_of(text), &out) != ERR_NONE)
        fail_msg("%s: %s", text, err_text());
    assert_string_equal(out.data, expected);
    for (size_t step = 1; step < 9; step += 3) {
        str_clear(&out);
        print_cut(d, columns, span_of(text), step, &out);
        assert_string_equal(out.data, expected);
    }
    str_deinit(&out);
}

static void check_bad(const struct job_data *d, uint32_t columns, const char *text,
                      const char *message)
{
    struct str out = {0};
    enum err e = print_all(d, columns, span_of(text), &out);
    if (e != ERR_INPUT || strstr(err_text(), message) == NULL)
        fail_msg("'%s' gave %s '%s', not '%s'", text, err_name(e), e != ERR_NONE ? err_text() : "",
                 message);
    str_deinit(&out);
}

/* ---- csv ------------------------------------------------------------------------------------- */

static void test_csv_good(void **state)
{
    static const struct {
        enum csv_escape escape;
        char delimiter;
        const char *text, *expected;
    } cases[] = {
        {ESCAPE_DOUBLE, ',', "1,2,3\n4,5,6\n", "<1,2,3><4,5,6>"},
        {ESCAPE_DOUBLE, ',', "1,2,3", "<1,2,3>"},
        {ESCAPE_DOUBLE, ',', "1,2,3\r\n4,5,6\r\n", "<1,2,3><4,5,6>"},
        {ESCAPE_DOUBLE, ',', "1,2,3\r\n\r\n\n4,5,6\r", "<1,2,3><4,5,6>"},
        {ESCAPE_DOUBLE, ',', ",,\n\\N,x,\\N\n", "<~,~,~><~,x,~>"},
        {ESCAPE_DOUBLE, ',', "\"1\",\"2,3\",\"4\"\n", "<1,2,3,4>"},
        {ESCAPE_DOUBLE, ',', "\"a\"\"b\",\"\"\"\",\"\"\n", "<a\"b,\",~>"},
        {ESCAPE_DOUBLE, ',', "\"two\nlines\",b,\"x\r\ny\"\r\n1,2,3\n",
         "<two\nlines,b,x\r\ny><1,2,3>"},
        {ESCAPE_DOUBLE, ',', "a\"b,5\"\"6,c\"\n1,2,3\n", "<a\"b,5\"\"6,c\"><1,2,3>"},
        {ESCAPE_DOUBLE, ',', "\"a\",5\"\"6,c\n1,2,3\n", "<a,5\"\"6,c><1,2,3>"},
        {ESCAPE_DOUBLE, ',', " 1 ,2\t, 3\n", "< 1 ,2\t, 3>"},
        {ESCAPE_DOUBLE, ',', "\\,\"\\\",x\n", "<\\,\\,x>"},
        {ESCAPE_DOUBLE, ',', "\"a,\"\"b\nc\"\"\",\"\n\",z\n", "<a,\"b\nc\",\n,z>"},
        {ESCAPE_DOUBLE, ';', "1;2,5;3\n", "<1,2,5,3>"},
        {ESCAPE_DOUBLE, '\t', "1\t\t3\n\t\"a\tb\"\t\n", "<1,~,3><~,a\tb,~>"},
        {ESCAPE_DOUBLE, '|', "\"a|b\"|c|\"d\"", "<a|b,c,d>"},
        {ESCAPE_BACKSLASH, ',', "\"a\\\"b\",\"c\\\\\",d\n", "<a\"b,c\\,d>"},
        {ESCAPE_BACKSLASH, ',', "\"a\\\nb\",\"\\\",\",d\n1,2,3\n", "<a\nb,\",,d><1,2,3>"},
        {ESCAPE_BACKSLASH, ',', "a\\b,\\N,\"c\"\n", "<a\\b,~,c>"},
        {ESCAPE_DOUBLE, ',', "1,2,\"3\"\r", "<1,2,3>"},
        {ESCAPE_DOUBLE, ',', "", ""},
        {ESCAPE_DOUBLE, ',', "\n\r\n\n", ""},
        {ESCAPE_DOUBLE, ',', "\xc3\xa4,\xe2\x82\xac,\"\xf0\x9f\x99\x82\"\n",
         "<\xc3\xa4,\xe2\x82\xac,\xf0\x9f\x99\x82>"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct job_data d = make_data(FORMAT_CSV, cases[i].escape, cases[i].delimiter);
        check_good(&d, 3, cases[i].text, cases[i].expected);
    }
}

static void test_csv_bad(void **state)
{
    static const struct {
        enum csv_escape escape;
        const char *text, *message;
    } cases[] = {
        {ESCAPE_DOUBLE, "1,2\n", "t:1:1: 2 fields, but there are 3 columns"},
        {ESCAPE_DOUBLE, "1,2,3\n1,2,3,4\n", "t:2:1: 4 fields, but there are 3 columns"},
        {ESCAPE_DOUBLE, "1,2,3\n\n\nx\n", "t:4:1: 1 fields"},
        {ESCAPE_DOUBLE, "\"a\nb\",2,3\n1\n", "t:3:1: 1 fields"},
        {ESCAPE_DOUBLE, "1,\"2,3\n", "t:1:3: a quoted field is not closed"},
        {ESCAPE_DOUBLE, "1,2,3\n\"a\nb\",\"c,3\n4,5,6\n", "t:3:4: a quoted field is not closed"},
        {ESCAPE_DOUBLE, "\"", "t:1:1: a quoted field is not closed"},
        {ESCAPE_DOUBLE, "1,\"2\"x,3\n", "t:1:6: text follows the closing quote"},
        {ESCAPE_DOUBLE, "1,\"2\" ,3\n", "t:1:6: text follows the closing quote"},
        {ESCAPE_DOUBLE, "\"a\"\"\nb\"z,2,3\n", "t:2:3: text follows the closing quote"},
        {ESCAPE_BACKSLASH, "1,2,\"a\\\"\n", "t:1:5: a quoted field is not closed"},
        {ESCAPE_BACKSLASH, "1,2,\"a\"\"b\"\n", "t:1:8: text follows the closing quote"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct job_data d = make_data(FORMAT_CSV, cases[i].escape, ',');
        check_bad(&d, 3, cases[i].text, cases[i].message);
    }
}

/* After a bad record the reader goes on with the next. */
static void test_going_on(void **state)
{
    static const struct {
        enum data_format format;
        const char *text;
        const char *good; /* the records that are good */
        int bad;
    } cases[] = {
        {FORMAT_CSV, "1,2,3\n1,2\n\"4\"x,5\n7,8,9\n", "<1,2,3><7,8,9>", 2},
        {FORMAT_LIBSVM, "1 1:1\n0 a:1\n0 2:2\n", "<1 0:1:1><0 0:2:2>", 1},
        {FORMAT_LIBFFM, "1 1:1:1\n0 1:1\n0 1:2:2\n", "<1 1:1:1><0 1:2:2>", 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct job_data d = make_data(cases[i].format, ESCAPE_DOUBLE, ',');
        struct reader *r;
        struct str out = {0};
        struct reader_options o = {.data = &d, .column_count = 3};
        assert_int_equal(reader_create(&o, &r), ERR_NONE);
        char *copy = must_strdup(cases[i].text);
        reader_begin(r, &(struct reader_block){
                            .name = "t", .data = copy, .size = strlen(copy), .first_line = 1});
        int bad = 0;
        for (;;) {
            const struct record *record;
            enum err e = reader_next(r, &record);
            if (e == ERR_NONE && record == NULL)
                break;
            bad += e == ERR_INPUT;
            assert_true(bad < 10);
            if (e == ERR_NONE)
                print_record(record, &out);
        }
        assert_string_equal(out.data, cases[i].good);
        assert_int_equal(bad, cases[i].bad);
        str_deinit(&out);
        mem_free(copy);
        reader_destroy(r);
    }
}

/* ---- heads ----------------------------------------------------------------------------------- */

static void test_csv_heads(void **state)
{
    static const struct {
        const char *text;
        const char *names; /* of the columns with blanks behind; NULL: an error */
        size_t size;
        const char *message;
    } cases[] = {
        {"a,b\n1,2\n", "a b ", 4, NULL},
        {"\xef\xbb\xbf"
         "a,b\n1,2\n",
         "a b ", 7, NULL},
        {"\xef\xbb\xbf\"a\",\"b c\"\r\n1,2\n", "a b c ", 14, NULL},
        {"a,\"b\nc\"\n1,2\n", "a b\nc ", 8, NULL},
        {"a,b", "a b ", 3, NULL},
        {"", "", 0, NULL},
        {"a,b,a\n", NULL, 0, "t:1: the header has the column 'a' twice"},
        {"a,,b\n", NULL, 0, "t:1: column 2 of the header has no name"},
        {"a,\"b\n", NULL, 0, "t:1:3: a quoted field is not closed"},
        {"\n1,2\n", NULL, 0, "t:1: column 1 of the header has no name"},
    };
    struct job_data d = make_data(FORMAT_CSV, ESCAPE_DOUBLE, ',');
    d.csv.columns.count = 0;
    d.csv.header = true;
    const struct reader_format *format = reader_format_find(FORMAT_CSV);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct file_head h = {0};
        struct str names = {0};
        str_append(&names, "");
        enum err e = format->head(&d, "t", span_of(cases[i].text), true, &h);
        if (cases[i].names == NULL) {
            assert_int_equal(e, ERR_INPUT);
            assert_non_null(strstr(err_text(), cases[i].message));
            file_head_deinit(&h);
            str_deinit(&names);
            continue;
        }
        if (e != ERR_NONE)
            fail_msg("%s: %s", cases[i].text, err_text());
        for (uint32_t c = 0; c < h.column_count; c++)
            str_append_format(&names, "%s ", h.columns[c]);
        assert_string_equal(names.data, cases[i].names);
        assert_int_equal(h.size, cases[i].size);
        assert_int_equal(h.empty, cases[i].text[0] == '\0');
        file_head_deinit(&h);
        str_deinit(&names);
    }
    /* A header that has not arrived as a whole asks for more. */
    struct file_head h = {0};
    assert_int_equal(format->head(&d, "t", span_of("a,b"), false, &h), ERR_LIMIT);
    file_head_deinit(&h);
    d.csv.header = false;
    assert_int_equal(format->head(&d, "t", span_of("1,2\n"), true, &h), ERR_INPUT);
    assert_non_null(strstr(err_text(), "csv.columns"));
}

static void test_idx_heads(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *message; /* NULL: good */
    } images[] = {
        {"\0\0\x08\x03\0\0\0\x05\0\0\0\x02\0\0\0\x03", 16, NULL},
        {"\0\0\x08\x01\0\0\0\x05\0\0\0\x02\0\0\0\x03", 16,
         "magic 0x00000801 is not that of idx images"},
        {"\0\0\x0d\x03\0\0\0\x05\0\0\0\x02\0\0\0\x03", 16, "magic 0x00000d03"},
        {"\0\0\x08\x03\0\0\0\x05\0\0\0\0\0\0\0\x03", 16, "images of 0 x 3 values"},
        {"\0\0\x08\x03\0\0\0\x05\0\x01\0\0\0\x01\0\0", 16, "images of 65536 x 65536 values"},
        {"\0\0\x08\x03\0\0\0\x05", 8, "8 bytes are too few"},
    };
    struct job_data d = make_data(FORMAT_IDX, ESCAPE_DOUBLE, ',');
    const struct reader_format *format = reader_format_find(FORMAT_IDX);
    for (size_t i = 0; i < COUNT(images); i++) {
        struct file_head h = {0};
        enum err e = format->head(&d, "t", span_make(images[i].bytes, images[i].size), true, &h);
        assert_int_equal(e, images[i].message != NULL ? ERR_INPUT : ERR_NONE);
        if (e != ERR_NONE)
            assert_non_null(strstr(err_text(), images[i].message));
        else
            assert_true(h.record_bytes == 6 && h.record_count == 5 && h.size == 16);
    }
    size_t size = 0;
    assert_int_equal(reader_idx_labels_head("l", span_make("\0\0\x08\x01\0\0\0\x05", 8), 5, &size),
                     ERR_NONE);
    assert_int_equal(size, 8);
    assert_int_equal(reader_idx_labels_head("l", span_make("\0\0\x08\x01\0\0\0\x04", 8), 5, &size),
                     ERR_INPUT);
    assert_non_null(strstr(err_text(), "l: 4 labels, but 5 images"));
    assert_int_equal(reader_idx_labels_head("l", span_make("\0\0\x08\x03\0\0\0\x05", 8), 5, &size),
                     ERR_INPUT);
    assert_non_null(strstr(err_text(), "is not that of idx labels"));
    assert_int_equal(reader_idx_labels_head("l", span_make("\0\0\x08", 3), 5, &size), ERR_INPUT);
    char *uri;
    assert_int_equal(reader_idx_labels_uri("d/train-images-idx3-ubyte.gz", &uri), ERR_NONE);
    assert_string_equal(uri, "d/train-labels-idx1-ubyte.gz");
    mem_free(uri);
    assert_int_equal(reader_idx_labels_uri("d/train.gz", &uri), ERR_INPUT);
    assert_non_null(strstr(err_text(), "images-idx3-ubyte"));
}

/* ---- criteo, libsvm, libffm ------------------------------------------------------------------ */

static void test_criteo(void **state)
{
    struct job_data d = make_data(FORMAT_CRITEO, ESCAPE_DOUBLE, ',');
    check_good(
        &d, 40,
        "1\t1\t-"
        "1\t\t4\t\t\t\t\t\t\t\t\t13\ta\t\tc\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tz\r\n"
        "\n0\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
        "<1,1,-1,~,4,~,~,~,~,~,~,~,~,13,a,~,c,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,z>"
        "<0,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~,~>");
    check_bad(&d, 40, "1\t2\t3\n", "t:1:1: 3 fields, but a criteo line has 40");
    check_bad(&d, 40, "\n1,2,3\n", "t:2:1: 1 fields, but a criteo line has 40");
    check_bad(&d, 40,
              "1\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\n",
              "t:1:1: 41 fields");
}

static void test_entries(void **state)
{
    static const struct {
        enum data_format format;
        const char *text, *expected; /* good ones */
    } good[] = {
        {FORMAT_LIBSVM, "1 1:0.5 7:2\n-1 3:-1e-3\n", "<1 0:1:0.5 0:7:2><-1 0:3:-0.001>"},
        {FORMAT_LIBSVM, "# head\n\n  +1\t 2:1   3:1 # tail 9:9\n   \n0\n", "<+1 0:2:1 0:3:1><0>"},
        {FORMAT_LIBSVM, "2.5 18446744073709551615:1\r\n", "<2.5 0:18446744073709551615:1>"},
        {FORMAT_LIBSVM, "1 1:1 1:2", "<1 0:1:1 0:1:2>"},
        {FORMAT_LIBSVM, "1 0:+3\n#\n", "<1 0:0:3>"},
        {FORMAT_LIBFFM, "1 0:5:1 3:7:0.25\n0\n", "<1 0:5:1 3:7:0.25><0>"},
        {FORMAT_LIBFFM, "1 4095:0:1 # c\n", "<1 4095:0:1>"},
    };
    static const struct {
        enum data_format format;
        const char *text, *message;
    } bad[] = {
        {FORMAT_LIBSVM, "1 a:1\n", "t:1:3: the index is not a whole number in 'a:1'"},
        {FORMAT_LIBSVM, "1 1:1\n1 2:1 -3:1\n", "t:2:7: the index is not a whole number in '-3:1'"},
        {FORMAT_LIBSVM, "1 1.5:1\n", "t:1:3: the index is not a whole number in '1.5:1'"},
        {FORMAT_LIBSVM, "1 :1\n", "t:1:3: the index is not a whole number in ':1'"},
        {FORMAT_LIBSVM, "1 qid:3 1:1\n", "t:1:3: the index is not a whole number in 'qid:3'"},
        {FORMAT_LIBSVM, "1 18446744073709551616:1\n", "the index is not a whole number"},
        {FORMAT_LIBSVM, "1 5\n", "t:1:3: the value is missing in '5'; a term is index:value"},
        {FORMAT_LIBSVM, "1 5:\n", "t:1:3: the value is not a number in '5:'"},
        {FORMAT_LIBSVM, "1 5:x\n", "the value is not a number in '5:x'"},
        {FORMAT_LIBSVM, "1 5:1e99\n", "the value is not a number in '5:1e99'"},
        {FORMAT_LIBSVM, "1 5:nan\n", "the value is not a number in '5:nan'"},
        {FORMAT_LIBSVM, "1 5:inf\n", "the value is not a number in '5:inf'"},
        {FORMAT_LIBSVM, "1 1:2:3\n", "the value is not a number in '1:2:3'"},
        {FORMAT_LIBSVM, "# x\n\n1:1 2:2\n", "t:3:1: '1:1' stands where the label should be"},
        {FORMAT_LIBFFM, "1 5:1\n", "the value is missing in '5:1'; a term is field:index:value"},
        {FORMAT_LIBFFM, "1 0:1:1 a:1:1\n", "t:1:9: the field is not a whole number in 'a:1:1'"},
        {FORMAT_LIBFFM, "1 0:b:1\n", "t:1:3: the index is not a whole number in '0:b:1'"},
        {FORMAT_LIBFFM, "1 7\n", "t:1:3: the index is missing in '7'"},
        {FORMAT_LIBFFM, "1 4096:1:1\n", "t:1:3: field 4096 in '4096:1:1' is too large"},
        {FORMAT_LIBFFM, "1 1:1:\n", "the value is not a number in '1:1:'"},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        struct job_data d = make_data(good[i].format, ESCAPE_DOUBLE, ',');
        check_good(&d, 1, good[i].text, good[i].expected);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct job_data d = make_data(bad[i].format, ESCAPE_DOUBLE, ',');
        check_bad(&d, 1, bad[i].text, bad[i].message);
    }
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        bool good;
        double value;
    } cases[] = {
        {"0", true, 0},
        {"-0.5", true, -0.5},
        {"123456789012345", true, 123456789012345.0},
        {"1e3", true, 1000},
        {"0.1", true, 0.1},
        {"123456789.123456789", true, 123456789.123456789},
        {"+7", true, 7},
        {".5", true, .5},
        {"179769e303", true, 179769e303},
        {"", false, 0},
        {"-", false, 0},
        {"+", false, 0},
        {"1 ", false, 0},
        {"0x10", false, 0},
        {"nan", false, 0},
        {"inf", false, 0},
        {"1e999", false, 0},
        {"1,5", false, 0},
        {"--1", false, 0},
        {"+-1", false, 0},
        {"1..2", false, 0},
        {".", false, 0},
        {"1.2.3", false, 0},
        {"0.30000000000000004", true, 0.30000000000000004},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        double value = 0;
        bool good = reader_number(span_of(cases[i].text), &value);
        if (good != cases[i].good || (good && value != cases[i].value))
            fail_msg("'%s' read as %d %.17g", cases[i].text, good, value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv_good),  cmocka_unit_test(test_csv_bad),
        cmocka_unit_test(test_going_on),  cmocka_unit_test(test_csv_heads),
        cmocka_unit_test(test_idx_heads), cmocka_unit_test(test_criteo),
        cmocka_unit_test(test_entries),   cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
