/*
 * Goal: hash64() is XXH64, checksum64_chain() is XXH3, over a chain as over flat bytes. Method:
 * published values; pairs of cuts of texts that are longer than the checksum's own buffers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/hash.h"
#include "common/rng.h"

static void test_vectors(void **state)
{
    assert_true(hash64("", 0, 0) == 0xef46db3751d8e999ull);
    assert_true(hash64("", 0, 2654435761u) == 0xac75fda2929b17efull);
    assert_true(hash64("a", 1, 0) == 0xd24ec4f1a98c6e5bull);
    assert_true(hash64("abc", 3, 0) == 0x44bc2cf5ad770999ull);
    assert_true(hash64("Nobody inspects the spammish repetition", 39, 0) == 0xfbcea83c8a378bf1ull);
}

static uint64_t checksum_of(const void *data, size_t size)
{
    struct chain c = {0};
    chain_append(&c, NULL, data, size);
    uint64_t sum = checksum64_chain(&c, 0, size);
    chain_deinit(&c);
    return sum;
}

static void test_checksum_vectors(void **state)
{
    assert_true(checksum_of("", 0) == 0x2d06800538d394c2ull);
    assert_true(checksum_of("a", 1) == 0xe6c632b61e964e1full);
    assert_true(checksum_of("abc", 3) == 0x78af5f94892f3950ull);
}

static void test_chains(void **state)
{
    static const struct {
        size_t size, step;
    } cases[] = {{80, 1}, {300, 7}, {2100, 97}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = cases[i].size, step = cases[i].step;
        uint8_t flat[2100];
        for (uint64_t k = 0; k < size; k++)
            flat[k] = (uint8_t)rng_at(1, k);
        for (size_t first = 0; first <= size; first += step) {
            for (size_t second = first; second <= size; second += 3 * step) {
                struct chain c = {0};
                chain_append(&c, NULL, flat, first);
                chain_append(&c, NULL, flat + first, second - first);
                chain_append(&c, NULL, flat + second, size - second);
                assert_true(checksum64_chain(&c, 0, size) == checksum_of(flat, size));
                assert_true(checksum64_chain(&c, first / 2, size / 2) ==
                            checksum_of(flat + first / 2, size / 2));
                assert_true(checksum64_chain(&c, second, 0) == checksum_of(flat, 0));
                chain_deinit(&c);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_checksum_vectors),
        cmocka_unit_test(test_chains),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
