/*
 * Goal: allocations are as sized, zeroed and aligned as promised, refuse products that overflow,
 * and fail exactly when a test asks for it, with a text. Method: direct calls; each allocating
 * function is made to fail by mem_fail_nth().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/err.h"
#include "common/mem.h"

static void *by_alloc(void)
{
    return mem_alloc(100);
}

static void *by_calloc(void)
{
    return mem_calloc(10, 10);
}

static void *by_realloc(void)
{
    return mem_realloc(NULL, 10, 10);
}

static void *by_array(void)
{
    return mem_alloc_array(25, 4);
}

static void test_fail_nth(void **state)
{
    void *(*const functions[])(void) = {by_alloc, by_calloc, by_realloc, by_array};
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        mem_fail_nth(3);
        for (int call = 1; call <= 5; call++) {
            err_set(ERR_NONE, "none");
            void *memory = functions[f]();
            assert_true((memory == NULL) == (call == 3));
            if (memory == NULL)
                assert_non_null(strstr(err_text(), "cannot allocate"));
            else
                memset(memory, 0xaa, 100);
            mem_free(memory);
        }
        mem_fail_nth(1);
        mem_fail_nth(0);
        void *memory = functions[f]();
        assert_non_null(memory);
        mem_free(memory);
    }
    mem_fail_nth(1);
    mem_free(must_alloc(5)); /* neither fails nor counts */
    assert_null(mem_alloc(1));
}

static void test_overflow(void **state)
{
    assert_null(mem_calloc(SIZE_MAX / 2, 3));
    assert_non_null(strstr(err_text(), "x 3 bytes"));
    assert_null(mem_alloc_array(SIZE_MAX / 4, 5));
    assert_null(mem_alloc_array(SIZE_MAX - 3, 1));
    assert_null(mem_realloc(NULL, SIZE_MAX / 8, 9));
}

static void test_contents(void **state)
{
    static const size_t counts[] = {0, 1, 15, 16, 17, 1000, 100000};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        float *array = mem_alloc_array(counts[i], sizeof *array);
        assert_non_null(array);
        assert_int_equal((uintptr_t)array % 64, 0);
        memset(array, 1, counts[i] * sizeof *array);
        mem_free(array);
        char *zeros = mem_calloc(counts[i], 3);
        assert_non_null(zeros);
        for (size_t k = 0; k < 3 * counts[i]; k++)
            assert_int_equal(zeros[k], 0);
        mem_free(zeros);
    }
    char *zeroed = must_alloc(100);
    for (int k = 0; k < 100; k++)
        assert_int_equal(zeroed[k], 0);
    mem_free(zeroed);
    char *text = must_strdup("text");
    text = must_realloc(text, 1000, 1);
    assert_string_equal(text, "text");
    mem_free(text);
    text = must_format("%s-%d", "server", 3);
    assert_string_equal(text, "server-3");
    mem_free(text);
    errno = EAGAIN;
    mem_free(NULL);
    assert_int_equal(errno, EAGAIN);
}

static void test_grow(void **state)
{
    uint32_t *array = NULL;
    size_t capacity = 0, allocations = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        size_t before = capacity;
        assert_true(mem_grow(array, capacity, (size_t)i + 1));
        allocations += capacity != before;
        array[i] = i;
    }
    for (uint32_t i = 0; i < 10000; i++)
        assert_int_equal(array[i], i);
    assert_in_range(allocations, 5, 25);
    uint32_t *same = array;
    size_t before = capacity;
    mem_fail_nth(1);
    assert_false(mem_grow(array, capacity, before + 1));
    assert_ptr_equal(array, same);
    assert_int_equal(capacity, before);
    assert_true(mem_grow(array, capacity, 5 * before));
    assert_int_equal(capacity, 5 * before);
    mem_free(array);
    uint64_t *first = NULL;
    size_t first_capacity = 0;
    assert_true(mem_grow(first, first_capacity, 1));
    assert_int_equal(first_capacity, 16);
    mem_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_nth),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_contents),
        cmocka_unit_test(test_grow),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
