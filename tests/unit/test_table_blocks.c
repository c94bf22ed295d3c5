/*
 * Goal: blocks never overlap, begin where they must, and what is freed is used again. Method:
 * random allocations and frees of all orders, each block filled with a pattern of its own that is
 * looked at before it is freed; how much is mapped is told by the number of chunks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "server/table_blocks.h"

#define SLOTS 300u

struct held {
    uint8_t *memory;
    uint32_t order;
    uint8_t pattern;
};

static void fill(struct held *h, uint8_t pattern)
{
    h->pattern = pattern;
    memset(h->memory, pattern, (size_t)blocks_bytes(h->order));
}

static void assert_intact(const struct held *h)
{
    for (uint64_t i = 0; i < blocks_bytes(h->order); i++)
        if (h->memory[i] != h->pattern)
            fail_msg("byte %llu of a block of order %u has changed", (unsigned long long)i,
                     h->order);
}

static void test_random(void **state)
{
    struct table_blocks b = {0};
    static struct held held[SLOTS];
    memset(held, 0, sizeof held);
    for (uint64_t i = 0; i < 20000; i++) {
        struct held *h = &held[rng_below(rng_at(1, i), SLOTS)];
        if (h->memory != NULL) {
            assert_intact(h);
            blocks_free(&b, h->memory, h->order);
            h->memory = NULL;
            continue;
        }
        /* Small ones are frequent, one in some thousand is mapped alone. */
        h->order = (uint32_t)__builtin_ctzll(rng_at(2, i) | UINT64_C(1) << (BLOCKS_ORDERS + 1));
        h->memory = blocks_alloc(&b, h->order);
        assert_non_null(h->memory);
        assert_int_equal((uintptr_t)h->memory % 64, 0);
        fill(h, (uint8_t)i);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (held[i].memory != NULL) {
            assert_intact(&held[i]);
            blocks_free(&b, held[i].memory, held[i].order);
        }
    }
    blocks_deinit(&b);
}

/* As an index grows: each block is replaced by one of twice its size, round after round. */
static void test_growth(void **state)
{
    struct table_blocks b = {0};
    uint8_t *blocks[1024];
    for (uint32_t i = 0; i < 1024; i++)
        assert_non_null(blocks[i] = blocks_alloc(&b, 0));
    for (uint32_t order = 1; order < 9; order++) {
        for (uint32_t i = 0; i < 1024; i++) {
            uint8_t *grown = blocks_alloc(&b, order);
            assert_non_null(grown);
            blocks_free(&b, blocks[i], order - 1);
            blocks[i] = grown;
        }
    }
    /* 64 MiB are in use, and the blocks of half the size were as much: without joining, eight
     * chunks of 16 MiB. */
    assert_true(b.chunk_count <= 7);
    for (uint32_t i = 0; i < 1024; i++)
        blocks_free(&b, blocks[i], 8);
    /* All that was freed is one whole again, but for what the marks take. */
    size_t before = b.chunk_count;
    for (size_t i = 0; i < before - 1; i++)
        assert_non_null(blocks_alloc(&b, BLOCKS_ORDERS - 1));
    assert_int_equal(b.chunk_count, before);
    blocks_deinit(&b);
}

static void test_no_memory(void **state)
{
    struct table_blocks b = {0};
    static const uint32_t orders[] = {3, 12, BLOCKS_ORDERS}; /* small, in a chunk, alone */
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        uint8_t *block = NULL;
        uint64_t n = 1;
        for (; block == NULL && n < 9; n++) {
            mem_fail_nth(n);
            block = blocks_alloc(&b, orders[i]);
            mem_fail_nth(0);
        }
        assert_int_equal(n - 2, i == 1 ? 2 : 1); /* what could fail: list and chunk, or itself */
        blocks_free(&b, block, orders[i]);
    }
    assert_int_equal(b.small_bytes, 0);
    blocks_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
