/*
 * Goal: a buffer lives exactly as long as its last reference; a chain gives its bytes back in order
 * however they are cut; a cursor steps over slice ends anywhere. Method: releases are counted; each
 * read is compared with a flat copy, for every pair of cuts of a short text, every offset and every
 * size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/buf.h"
#include "common/mem.h"

#define SIZE 24

static int releases;

static void count_release(void *context)
{
    releases++;
    assert_string_equal(context, "context");
}

static void test_references(void **state)
{
    struct buf *b = buf_create(100);
    assert_non_null(b);
    assert_int_equal((uintptr_t)buf_data(b) % 64, 0);
    assert_int_equal(buf_size(b), 100);
    memset(buf_data(b), 1, 100);
    buf_unref(b);
    buf_unref(NULL);
    b = buf_create(0);
    assert_non_null(b);
    buf_unref(b);
    assert_null(buf_create(SIZE_MAX - 8));
    mem_fail_nth(1);
    assert_null(buf_create(8));

    releases = 0;
    char context[] = "context";
    b = buf_wrap("0123456789", 10, count_release, context);
    assert_ptr_equal(buf_ref(b), b);
    buf_unref(b);
    struct chain c = {0}, copy = {0}, moved = {0};
    chain_append(&c, b, (uint8_t *)buf_data(b) + 2, 3);
    chain_append(&c, b, buf_data(b), 0);
    assert_int_equal(c.count, 1);
    chain_append_take(&c, b);
    chain_share(&copy, &c, 1, 4);
    chain_move(&moved, &c);
    assert_int_equal(c.count, 0);
    assert_int_equal(c.size, 0);
    chain_deinit(&c);
    assert_int_equal(moved.size, 13);
    chain_deinit(&moved);
    assert_int_equal(releases, 0);
    char out[5] = "";
    chain_copy_out(&copy, 0, out, 4);
    assert_string_equal(out, "3401");
    chain_deinit(&copy);
    assert_int_equal(releases, 1);
    chain_deinit(&copy);
    assert_int_equal(releases, 1);

    chain_append_take(&c, buf_create(0)); /* frees it at once */
    assert_int_equal(c.count, 0);
    chain_deinit(&c);
}

static void test_appending(void **state)
{
    struct chain c = {0}, other = {0};
    char text[] = "temporary";
    chain_append(&c, NULL, "static,", 7);
    chain_append_copy(&c, text, 9);
    memset(text, 'x', 9);
    chain_append_copy(&other, ",moved", 6);
    chain_append_copy(&other, NULL, 0);
    chain_move(&c, &other);
    char out[23] = "";
    assert_int_equal(c.size, 22);
    chain_copy_out(&c, 0, out, 22);
    assert_string_equal(out, "static,temporary,moved");
    chain_deinit(&c);
    for (int i = 0; i < 1000; i++)
        chain_append_copy(&c, &i, sizeof i);
    assert_int_equal(c.count, 1000);
    int last;
    chain_copy_out(&c, 999 * sizeof last, &last, sizeof last);
    assert_int_equal(last, 999);
    chain_deinit(&c);
}

static void flat_text(uint8_t flat[SIZE])
{
    for (uint8_t i = 0; i < SIZE; i++)
        flat[i] = (uint8_t)(100 + i);
}

/* `flat` in up to three slices, each in memory of its own so that reading past its end shows. */
static void cut_chain(struct chain *c, const uint8_t flat[SIZE], size_t first, size_t second)
{
    chain_append_copy(c, flat, first);
    chain_append_copy(c, flat + first, second - first);
    chain_append_copy(c, flat + second, SIZE - second);
    assert_int_equal(c->size, SIZE);
}

static void check_steps(const struct chain *c, const uint8_t flat[SIZE], size_t offset, size_t size,
                        size_t step)
{
    struct chain_cursor by_next, by_run, by_read;
    uint8_t carry[SIZE], out[SIZE];
    chain_cursor_init(&by_next, c, offset, size);
    chain_cursor_init(&by_run, c, offset, size);
    chain_cursor_init(&by_read, c, offset, size);
    size_t at = 0;
    for (; at + step <= size; at += step) {
        memset(carry, 0, sizeof carry);
        const void *piece = chain_cursor_next(&by_next, step, carry);
        assert_non_null(piece);
        assert_memory_equal(piece, flat + offset + at, step);
        assert_true(chain_cursor_read(&by_read, out, step));
        assert_memory_equal(out, flat + offset + at, step);
        assert_int_equal(by_read.left, size - at - step);
    }
    assert_null(chain_cursor_next(&by_next, size - at + 1, carry));
    out[0] = 1;
    assert_false(chain_cursor_read(&by_read, out, size - at + 1));
    assert_int_equal(out[0], 1);
    assert_false(chain_cursor_skip(&by_read, size - at + 1));
    assert_true(chain_cursor_skip(&by_read, size - at));
    assert_int_equal(by_read.left, 0);

    size_t part, sum = 0;
    const void *run;
    while (run = chain_cursor_run(&by_run, step, &part), part > 0) {
        assert_true(part <= step);
        assert_memory_equal(run, flat + offset + sum, part);
        sum += part;
    }
    assert_int_equal(sum, size);
}

static void test_every_straddle(void **state)
{
    uint8_t flat[SIZE];
    flat_text(flat);
    for (size_t first = 0; first <= SIZE; first++) {
        for (size_t second = first; second <= SIZE; second++) {
            struct chain c = {0};
            cut_chain(&c, flat, first, second);
            for (size_t offset = 0; offset <= SIZE; offset += offset < 9 ? 1 : 5) {
                static const size_t steps[] = {1, 2, 3, 4, 8, 12};
                for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
                    check_steps(&c, flat, offset, SIZE - offset, steps[s]);
                    check_steps(&c, flat, offset, (SIZE - offset) / 2, steps[s]);
                }
            }
            chain_deinit(&c);
        }
    }
}

static void test_pieces_are_not_copied_needlessly(void **state)
{
    struct buf *b = buf_create(16);
    uint8_t *data = buf_data(b);
    struct chain c = {0};
    chain_append_take(&c, b);
    chain_append_copy(&c, "x", 1);
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, &c, 0, 17);
    uint8_t carry[16];
    assert_ptr_equal(chain_cursor_next(&cursor, 8, carry), data);
    assert_ptr_equal(chain_cursor_next(&cursor, 8, carry), data + 8);
    assert_ptr_not_equal(chain_cursor_next(&cursor, 1, carry), carry);
    chain_cursor_init(&cursor, &c, 9, 8);
    assert_ptr_equal(chain_cursor_next(&cursor, 8, carry), carry);
    chain_deinit(&c);
}

static void test_sharing_every_range(void **state)
{
    uint8_t flat[SIZE], out[SIZE];
    flat_text(flat);
    struct chain c = {0};
    cut_chain(&c, flat, 5, 11);
    for (size_t offset = 0; offset <= SIZE; offset++) {
        for (size_t size = 0; size <= SIZE - offset; size++) {
            struct chain shared = {0};
            chain_share(&shared, &c, offset, size);
            assert_int_equal(shared.size, size);
            chain_copy_out(&shared, 0, out, size);
            assert_memory_equal(out, flat + offset, size);
            chain_deinit(&shared);
        }
    }
    chain_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_appending),
        cmocka_unit_test(test_every_straddle),
        cmocka_unit_test(test_pieces_are_not_copied_needlessly),
        cmocka_unit_test(test_sharing_every_range),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
