/*
 * Goal: crc32c() is CRC32C, by the instruction and by tables, at every length and alignment, in
 * parts too. Method: RFC 3720's vectors; a bit-by-bit reference.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/crc.h"
#include "common/rng.h"

static uint32_t reference(const uint8_t *data, size_t size)
{
    uint32_t state = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        state ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            state = state & 1 ? (state >> 1) ^ 0x82f63b78u : state >> 1;
    }
    return ~state;
}

static void test_vectors(void **state)
{
    uint8_t data[32];
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
    static const uint32_t expected[] = {0x8a9136aau, 0x62a8ab43u, 0x46dd794eu, 0x113fdb5cu};
    for (uint8_t kind = 0; kind < 4; kind++) {
        for (uint8_t i = 0; i < 32; i++)
            data[i] = (uint8_t[]){0, 0xff, i, (uint8_t)(31 - i)}[kind];
        assert_int_equal(crc32c(0, data, 32), expected[kind]);
        assert_int_equal(crc32c_portable(0, data, 32), expected[kind]);
    }
}

static void test_lengths_alignments_and_parts(void **state)
{
    uint8_t data[600];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)rng_at(3, i);
    for (size_t start = 0; start < 9; start++) {
        for (size_t size = 0; size <= 500; size += size < 70 ? 1 : 43) {
            uint32_t expected = reference(data + start, size);
            assert_int_equal(crc32c(0, data + start, size), expected);
            assert_int_equal(crc32c_portable(0, data + start, size), expected);
            size_t cut = size * 5 / 7;
            uint32_t part = crc32c(0, data + start, cut);
            assert_int_equal(crc32c(part, data + start + cut, size - cut), expected);
            assert_int_equal(crc32c_portable(part, data + start + cut, size - cut), expected);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_lengths_alignments_and_parts),
    };
    return cmocka_run_group_tests_name("crc", tests, NULL, NULL);
}
