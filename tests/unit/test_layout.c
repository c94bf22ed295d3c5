/*
 * Goal: the shards of a layout cover all partitions once, and everybody finds the same owner of a
 * partition and of a dense block. Method: every partition and every block, for many shard counts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/layout.h"

static const char *const members[] = {"a", "b", "c", "d", "e", "f", "g"};
static const char *const addresses[] = {"h:1", "h:2", "h:3", "h:4", "h:5", "h:6", "h:7"};

static void check_shards(uint32_t servers, uint32_t per_server)
{
    struct layout *l = NULL;
    assert_int_equal(layout_create(3, members, addresses, servers, per_server, 2, &l), ERR_NONE);
    assert_int_equal(l->shard_count, servers * per_server);
    uint32_t end = 0;
    for (uint32_t s = 0; s < l->shard_count; s++) {
        assert_int_equal(l->shards[s].first_partition, end);
        assert_true(l->shards[s].end_partition > end);
        end = l->shards[s].end_partition;
        assert_string_equal(l->shards[s].member, members[s / per_server]);
        assert_string_equal(l->shards[s].address, addresses[s / per_server]);
    }
    assert_int_equal(end, PARTITION_COUNT);
    for (uint32_t p = 0; p < PARTITION_COUNT; p++) {
        const struct layout_shard *s = &l->shards[layout_shard_of_partition(l, p)];
        assert_true(p >= s->first_partition && p < s->end_partition);
    }
    layout_destroy(l);
}

static void test_shards(void **state)
{
    for (uint32_t servers = 1; servers <= 7; servers++) {
        for (uint32_t per_server = 1; per_server <= 146; per_server += 29)
            check_shards(servers, per_server);
    }
}

static void test_blocks(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 7, 100, 4095, 4096};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct schema_dense d = {.block_count = counts[i]};
        for (uint32_t shards = 1; shards <= 1024; shards = shards * 3 + 1) {
            uint32_t next = 0;
            for (uint32_t s = 0; s < shards; s++) {
                uint32_t first, end;
                uint32_t p = s * PARTITION_COUNT / shards, q = (s + 1) * PARTITION_COUNT / shards;
                layout_blocks(&d, p, q, &first, &end);
                assert_int_equal(first, next);
                for (uint32_t b = first; b < end; b++) {
                    assert_true(schema_block_partition(&d, b) >= p);
                    assert_true(schema_block_partition(&d, b) < q);
                }
                next = end;
            }
            assert_int_equal(next, counts[i]);
        }
    }
}

static void test_refusals(void **state)
{
    static const struct {
        uint32_t servers, per_server, ranks;
        enum err code;
    } cases[] = {
        {0, 1, 1, ERR_INPUT},          {1, 0, 1, ERR_INPUT}, {7, 147, 1, ERR_LIMIT},
        {2, UINT32_MAX, 1, ERR_LIMIT}, {1, 1, 0, ERR_LIMIT}, {1, 1, RANK_MAX + 1, ERR_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct layout *l = NULL;
        assert_int_equal(layout_create(1, members, addresses, cases[i].servers, cases[i].per_server,
                                       cases[i].ranks, &l),
                         cases[i].code);
        assert_null(l);
    }
    layout_destroy(NULL);
}

static void test_keys(void **state)
{
    assert_int_equal(partition_of_key(0), 0);
    assert_int_equal(partition_of_key(UINT64_MAX), PARTITION_COUNT - 1);
    assert_true(partition_first_key(1) == UINT64_C(1) << 52);
    assert_int_equal(partition_of_key(partition_first_key(77)), 77);
    assert_int_equal(partition_of_key(partition_first_key(77) - 1), 76);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
