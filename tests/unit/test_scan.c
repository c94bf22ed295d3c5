/*
 * Goal: a file's blocks cover it without gap or overlap, end where records end, and are found again
 * by their places; packed and plain files give the same; what has no end is refused.
 * Method: a file of several blocks with quoted line ends and long fields, plain and packed; images
 * with labels.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/limits.h"
#include "common/mem.h"
#include "tests/support/data_fixture.h"
#include "worker/scan.h"

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

/* Blocks of a file, and the same fetched by their places. */
static void check_scan(const char *path, const struct job_data *d, struct span text)
{
    struct scan *s;
    struct raw_block b = {0}, again = {0};
    uint64_t at, lines = 0;
    assert_int_equal(scan_open(d, path, &s), ERR_NONE);
    at = scan_head(s)->size;
    lines = scan_head(s)->lines;
    for (;;) {
        if (scan_next(s, &b) != ERR_NONE)
            fail_msg("%s: %s", path, err_text());
        if (b.size == 0)
            break;
        assert_int_equal(b.offset, at);
        assert_int_equal(b.first_line, lines + 1);
        assert_true(b.size <= text.size - at && memcmp(b.data, text.data + at, b.size) == 0);
        assert_true(b.record_count <= DATA_BLOCK_RECORDS);
        for (size_t i = 0; i < b.size; i++)
            lines += b.data[i] == '\n';
        at += b.size;
        if (scan_is_splittable(s)) {
            struct dataindex_block place = {
                .offset = b.offset, .size = b.length, .first_line = b.first_line};
            assert_int_equal(scan_read(s, &place, &again), ERR_NONE);
            assert_int_equal(again.size, b.size);
            assert_memory_equal(again.data, b.data, b.size);
        }
    }
    assert_int_equal(at, text.size);
    raw_block_deinit(&b);
    raw_block_deinit(&again);
    scan_close(s);
}

static void test_scan(void **state)
{
    char *directory = data_fixture_make();
    struct str text = {0};
    uint64_t random = 3;
    str_append(&text, "a,b,c\n");
    while (text.size < 3300000) {
        str_append_format(&text, "%u,", (unsigned)(data_random(&random) % 1000));
        if (data_random(&random) % 50 == 0)
            str_append(&text, "\"quoted \"\"text\"\"\nof two lines\"");
        if (data_random(&random) % 5000 == 0) {
            str_append(&text, ",\"");
            for (int i = 0; i < 3000; i++)
                str_append(&text, "a long field with\n a line end; ");
            str_append(&text, "\"\n");
            continue;
        }
        str_append(&text, ",x\n");
    }
    struct job_data d = make_data(FORMAT_CSV, ESCAPE_DOUBLE, ',');
    d.csv.header = true;
    d.csv.columns.count = 0;
    struct span bytes = span_make(text.data, text.size);
    char *plain = data_fixture_write(directory, "plain.csv", bytes);
    char *packed = data_fixture_gzip(directory, "packed.csv.gz", bytes);
    check_scan(plain, &d, bytes);
    check_scan(packed, &d, bytes);
    mem_free(plain);
    mem_free(packed);
    str_deinit(&text);
    data_fixture_remove(directory);
}

static void test_endless_record(void **state)
{
    char *directory = data_fixture_make();
    struct str text = {0};
    str_append(&text, "a,b\n1,2\n3,\"");
    for (size_t i = 0; i < RECORD_MAX_BYTES / 32 + 40000; i++)
        str_append(&text, "0123456789abcdef0123456789abcde\n");
    char *path = data_fixture_write(directory, "t.csv", span_make(text.data, text.size));
    struct job_data d = make_data(FORMAT_CSV, ESCAPE_DOUBLE, ',');
    d.csv.header = true;
    d.csv.columns.count = 0;
    struct scan *s;
    struct raw_block b = {0};
    assert_int_equal(scan_open(&d, path, &s), ERR_NONE);
    assert_int_equal(scan_next(s, &b), ERR_INPUT);
    assert_non_null(strstr(err_text(), "t.csv:3:1: a record is longer than"));
    raw_block_deinit(&b);
    scan_close(s);
    mem_free(path);
    str_deinit(&text);
    data_fixture_remove(directory);
}

static void test_idx_files(void **state)
{
    char *directory = data_fixture_make();
    struct job_data d = make_data(FORMAT_IDX, ESCAPE_DOUBLE, ',');
    char images[16 + 5 * 6], labels[8 + 5];
    memcpy(images, "\0\0\x08\x03\0\0\0\x05\0\0\0\x02\0\0\0\x03", 16);
    memcpy(labels, "\0\0\x08\x01\0\0\0\x05", 8);
    for (int i = 0; i < 30; i++)
        images[16 + i] = (char)(i * 8);
    for (int i = 0; i < 5; i++)
        labels[8 + i] = (char)(9 - i);
    /* Packed and not packed may be mixed; a short file is found out. */
    mem_free(data_fixture_gzip(directory, "x-labels-idx1-ubyte", span_make(labels, sizeof labels)));
    char *path =
        data_fixture_write(directory, "x-images-idx3-ubyte", span_make(images, sizeof images));
    struct scan *s;
    struct raw_block b = {0};
    struct reader *r;
    const struct record *record;
    assert_int_equal(scan_open(&d, path, &s), ERR_NONE);
    assert_false(scan_is_splittable(s));
    assert_int_equal(scan_next(s, &b), ERR_NONE);
    assert_int_equal(b.record_count, 5);
    struct reader_options o = {.data = &d, .record_bytes = 6};
    assert_int_equal(reader_create(&o, &r), ERR_NONE);
    reader_begin(
        r, &(struct reader_block){
               .name = "t", .data = b.data, .size = b.size, .first_line = 1, .record_count = 5});
    for (int i = 0; i < 5; i++) {
        assert_int_equal(reader_next(r, &record), ERR_NONE);
        assert_non_null(record);
        assert_int_equal(record->fields[0].data[0], '9' - i);
        assert_int_equal(record->byte_count, 6);
        assert_int_equal(record->bytes[1], (i * 6 + 1) * 8);
    }
    assert_int_equal(reader_error(r, NULL, "odd"), ERR_INPUT);
    assert_string_equal(err_text(), "t: record 5: odd");
    assert_int_equal(reader_next(r, &record), ERR_NONE);
    assert_null(record);
    reader_destroy(r);
    assert_int_equal(scan_next(s, &b), ERR_NONE);
    assert_int_equal(b.size, 0);
    scan_close(s);
    mem_free(path);
    path =
        data_fixture_write(directory, "x-images-idx3-ubyte", span_make(images, sizeof images - 1));
    assert_int_equal(scan_open(&d, path, &s), ERR_NONE);
    assert_int_equal(scan_next(s, &b), ERR_INPUT);
    assert_non_null(strstr(err_text(), "the file ends in record 5 of 5"));
    scan_close(s);
    raw_block_deinit(&b);
    mem_free(path);
    data_fixture_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scan),
        cmocka_unit_test(test_endless_record),
        cmocka_unit_test(test_idx_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
