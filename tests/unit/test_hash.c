/*
 * Goal: hash64() is XXH64, over a chain as over flat bytes. Method: published values; every pair of
 * cuts of a text that is longer than the hash's own 32-byte stripe.
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

static void test_chains(void **state)
{
    enum { SIZE = 80 };
    uint8_t flat[SIZE];
    for (uint64_t i = 0; i < SIZE; i++)
        flat[i] = (uint8_t)rng_at(1, i);
    for (size_t first = 0; first <= SIZE; first++) {
        for (size_t second = first; second <= SIZE; second += 3) {
            struct chain c = {0};
            chain_append_copy(&c, flat, first);
            chain_append_copy(&c, flat + first, second - first);
            chain_append_copy(&c, flat + second, SIZE - second);
            assert_true(hash64_chain(&c, 0, SIZE, 5) == hash64(flat, SIZE, 5));
            assert_true(hash64_chain(&c, first / 2, 40, 0) == hash64(flat + first / 2, 40, 0));
            assert_true(hash64_chain(&c, second, 0, 9) == hash64(flat, 0, 9));
            chain_deinit(&c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_chains),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
