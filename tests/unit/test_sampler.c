/*
 * Goal: an epoch gives every example to exactly one batch of one rank, in the order that sampler.h
 * promises, and batches depend on nothing but (seed, epoch, rank, step).
 * Method: brute force over shapes of blocks, ranks, batch sizes and windows; each batch is asked
 * for in another order of steps than that of time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/data_fixture.h"
#include "worker/sampler.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define BLOCKS_MAX   40
#define EXAMPLES_MAX 4000

struct shape {
    uint32_t counts[BLOCKS_MAX];
    uint32_t block_count;
    uint32_t starts[BLOCKS_MAX + 1];
};

/* Takes one batch; returns its size and puts global example numbers (in file order) into `out`. */
static uint32_t take(const struct sampler *s, const struct shape *shape, uint32_t rank,
                     uint64_t step, uint32_t *out)
{
    struct sampler_range *ranges;
    struct sampler_pick picks[EXAMPLES_MAX + 1];
    uint32_t count;
    uint64_t group = sampler_group_of(s, rank, step);
    assert_int_equal(sampler_group(s, rank, group, &ranges, &count), ERR_NONE);
    for (uint32_t i = 0; i < count; i++)
        assert_true(ranges[i].begin < ranges[i].end &&
                    ranges[i].end <= shape->counts[ranges[i].block]);
    uint32_t n = sampler_batch(s, rank, step, ranges, count, picks);
    assert_true(n <= sampler_share(s, rank));
    for (uint32_t i = 0; i < n; i++) {
        assert_true(picks[i].range < count);
        out[i] = shape->starts[ranges[picks[i].range].block] + picks[i].example;
    }
    mem_free(ranges);
    return n;
}

static struct shape make_shape(uint64_t *state)
{
    struct shape s = {0};
    s.block_count = 1 + (uint32_t)(data_random(state) % BLOCKS_MAX);
    for (uint32_t b = 0; b < s.block_count; b++) {
        uint64_t kind = data_random(state) % 4;
        s.counts[b] = kind == 0 ? 0 : kind == 1 ? 1 : (uint32_t)(data_random(state) % 90);
        s.starts[b + 1] = s.starts[b] + s.counts[b];
    }
    return s;
}

static void check_epoch(const struct sampler_options *o, const struct shape *shape, uint64_t epoch)
{
    static uint8_t seen[EXAMPLES_MAX];
    static uint32_t batch[EXAMPLES_MAX + 1];
    struct sampler *s;
    uint32_t total = shape->starts[shape->block_count];
    memset(seen, 0, sizeof seen);
    assert_int_equal(sampler_create(o, epoch, &s), ERR_NONE);
    assert_int_equal(sampler_steps(s),
                     dataindex_steps_per_epoch(total, o->batch_size, o->rank_count));
    uint32_t shares = 0, dealt = 0;
    for (uint32_t r = 0; r < o->rank_count; r++) {
        bool ended = false;
        shares += sampler_share(s, r);
        for (uint64_t step = 0; step < sampler_steps(s); step++) {
            uint32_t n = take(s, shape, r, step, batch);
            /* Only the last batch of a rank may be short, and then nothing follows. */
            assert_true(!ended || n == 0);
            ended = n < sampler_share(s, r);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(seen[batch[i]]++, 0);
                if (o->shuffle == SHUFFLE_NONE)
                    assert_int_equal(batch[i], step * o->batch_size +
                                                   (uint64_t)o->batch_size * r / o->rank_count + i);
            }
            dealt += n;
        }
    }
    assert_int_equal(shares, o->batch_size);
    assert_int_equal(dealt, total);
    sampler_destroy(s);
}

static void test_every_example_once(void **state)
{
    static const uint64_t windows[] = {1, 7, 64, 500, 100000};
    uint64_t random = 1;
    for (uint32_t round = 0; round < 400; round++) {
        struct shape shape = make_shape(&random);
        uint32_t ranks = 1 + (uint32_t)(data_random(&random) % 9);
        struct sampler_options o = {.seed = round,
                                    .shuffle = (enum shuffle_kind)(round % 3),
                                    .window = windows[data_random(&random) % COUNT(windows)],
                                    .batch_size = ranks + (uint32_t)(data_random(&random) % 70),
                                    .rank_count = ranks,
                                    .counts = shape.counts,
                                    .block_count = shape.block_count};
        check_epoch(&o, &shape, round % 5);
    }
}

static void test_nothing_to_train(void **state)
{
    uint32_t counts[3] = {0, 0, 0};
    struct sampler_options o = {.shuffle = SHUFFLE_FULL,
                                .batch_size = 4,
                                .rank_count = 2,
                                .counts = counts,
                                .block_count = 3};
    struct sampler *s;
    assert_int_equal(sampler_create(&o, 0, &s), ERR_NONE);
    assert_int_equal(sampler_steps(s), 0);
    sampler_destroy(s);
}

static struct shape even_shape(uint32_t blocks, uint32_t each)
{
    struct shape s = {.block_count = blocks};
    for (uint32_t b = 0; b < blocks; b++) {
        s.counts[b] = each;
        s.starts[b + 1] = s.starts[b] + each;
    }
    return s;
}

/* All batches of rank 0, one after the other. */
static uint32_t take_epoch(const struct sampler_options *o, const struct shape *shape,
                           uint64_t epoch, uint32_t *out)
{
    struct sampler *s;
    uint32_t n = 0;
    assert_int_equal(sampler_create(o, epoch, &s), ERR_NONE);
    for (uint64_t step = 0; step < sampler_steps(s); step++)
        n += take(s, shape, 0, step, out + n);
    sampler_destroy(s);
    return n;
}

static uint32_t count_equal(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint32_t equal = 0;
    for (uint32_t i = 0; i < n; i++)
        equal += a[i] == b[i];
    return equal;
}

static void test_orders_differ(void **state)
{
    static uint32_t first[EXAMPLES_MAX], again[EXAMPLES_MAX], other[EXAMPLES_MAX];
    struct shape shape = even_shape(40, 50);
    for (int kind = SHUFFLE_FULL; kind <= SHUFFLE_WINDOW; kind++) {
        struct sampler_options o = {.seed = 5,
                                    .shuffle = (enum shuffle_kind)kind,
                                    .window = 400,
                                    .batch_size = 32,
                                    .rank_count = 1,
                                    .counts = shape.counts,
                                    .block_count = shape.block_count};
        uint32_t n = take_epoch(&o, &shape, 0, first);
        assert_int_equal(n, 2000);
        take_epoch(&o, &shape, 0, again);
        assert_memory_equal(first, again, n * sizeof *first);
        /* Of 2000 examples in another order about one stands where it stood. */
        take_epoch(&o, &shape, 1, other);
        assert_true(count_equal(first, other, n) < 12);
        o.seed = 6;
        take_epoch(&o, &shape, 0, other);
        assert_true(count_equal(first, other, n) < 12);
    }
}

/* Of one block only the order within groups is drawn: by epoch, rank and group. */
static void test_groups_differ(void **state)
{
    static uint32_t orders[4][EXAMPLES_MAX];
    struct shape shape = even_shape(1, 800);
    struct sampler_options o = {.seed = 5,
                                .shuffle = SHUFFLE_WINDOW,
                                .window = 200,
                                .batch_size = 400,
                                .rank_count = 2,
                                .counts = shape.counts,
                                .block_count = 1};
    for (uint32_t epoch = 0; epoch < 2; epoch++) {
        struct sampler *s;
        assert_int_equal(sampler_create(&o, epoch, &s), ERR_NONE);
        for (uint32_t rank = 0; rank < 2; rank++) {
            assert_int_equal(take(s, &shape, rank, 0, orders[2 * epoch + rank]), 200);
            for (uint32_t i = 0; i < 200; i++)
                orders[2 * epoch + rank][i] -= 400 * rank;
        }
        if (epoch == 0) {
            static uint32_t second[EXAMPLES_MAX];
            assert_int_equal(take(s, &shape, 0, 1, second), 200);
            for (uint32_t i = 0; i < 200; i++)
                second[i] -= 200;
            assert_true(count_equal(orders[0], second, 200) < 10);
        }
        sampler_destroy(s);
    }
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < a; b++)
            assert_true(count_equal(orders[a], orders[b], 200) < 10);
    }
}

/* What a window shuffles lies within as many examples of the order of blocks. */
static void test_window_is_local(void **state)
{
    static uint32_t order[EXAMPLES_MAX];
    struct shape shape = even_shape(40, 50);
    struct sampler_options o = {.seed = 9,
                                .shuffle = SHUFFLE_WINDOW,
                                .window = 200,
                                .batch_size = 50,
                                .rank_count = 1,
                                .counts = shape.counts,
                                .block_count = shape.block_count};
    assert_int_equal(take_epoch(&o, &shape, 3, order), 2000);
    for (uint32_t group = 0; group < 10; group++) {
        bool blocks[BLOCKS_MAX] = {false};
        uint32_t distinct = 0, in_place = 0;
        for (uint32_t i = 0; i < 200; i++) {
            uint32_t block = order[group * 200 + i] / 50;
            distinct += !blocks[block];
            blocks[block] = true;
            in_place += i > 0 && order[group * 200 + i] == order[group * 200 + i - 1] + 1;
        }
        assert_int_equal(distinct, 4);
        assert_true(in_place < 12);
    }
}

static void test_permutations(void **state)
{
    static uint8_t seen[5000];
    for (uint64_t n = 1; n < 5000; n = n * 3 / 2 + 1) {
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < n; i++)
            assert_int_equal(seen[sampler_permute(n * 77, n, i)]++, 0);
    }
    /* Where 0 of 10 goes, over many keys: each place about 1000 times (deviation 30). */
    uint32_t places[10] = {0};
    for (uint64_t key = 0; key < 10000; key++)
        places[sampler_permute(mix64(key), 10, 0)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(places[i], 850, 1150);
}

static void test_steps_per_epoch(void **state)
{
    static const struct {
        uint64_t examples;
        uint32_t batch, ranks;
        uint64_t steps;
    } cases[] = {
        {0, 10, 1, 0}, {1, 10, 1, 1}, {10, 10, 1, 1}, {11, 10, 1, 2},
        {10, 4, 4, 3}, {9, 3, 2, 4},  {8, 4, 2, 2},   {1000000007, 1024, 1, 976563},
        {7, 7, 7, 1},  {8, 7, 7, 2},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(
            dataindex_steps_per_epoch(cases[i].examples, cases[i].batch, cases[i].ranks),
            cases[i].steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_example_once), cmocka_unit_test(test_nothing_to_train),
        cmocka_unit_test(test_orders_differ),      cmocka_unit_test(test_groups_differ),
        cmocka_unit_test(test_window_is_local),    cmocka_unit_test(test_permutations),
        cmocka_unit_test(test_steps_per_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
