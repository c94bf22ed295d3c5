#include "worker/sampler.h"

#include "common/check.h"
#include "common/dataindex.h"
#include "common/mem.h"
#include "common/rng.h"

/* In file order groups have no meaning for the result, only a size to work in. */
#define ORDERED_GROUP_EXAMPLES 65536u

struct sampler {
    uint64_t seed, epoch;
    enum shuffle_kind shuffle;
    uint64_t window;
    uint32_t batch_size, rank_count;
    uint32_t block_count;
    uint64_t steps;
    uint32_t *order;  /* [block_count] */
    uint64_t *starts; /* [block_count + 1] examples before block order[i] */
};

/* part * index / count without overflow. */
static uint64_t portion(uint64_t whole, uint32_t index, uint32_t count)
{
    return (uint64_t)((unsigned __int128)whole * index / count);
}

/* ---- permutations ---------------------------------------------------------------------------- */

#define FEISTEL_ROUNDS 6

/* A Feistel network with halves of a and b bits: a bijection of [0, 2^(a+b)). */
static uint64_t feistel(uint64_t key, uint32_t low_bits, uint32_t high_bits, uint64_t x)
{
    uint64_t low_mask = ((uint64_t)1 << low_bits) - 1, high_mask = ((uint64_t)1 << high_bits) - 1;
    uint64_t low = x & low_mask, high = x >> low_bits;
    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round += 2) {
        high ^= mix64(key + round * 0x9e3779b97f4a7c15ull + low) & high_mask;
        low ^= mix64(key + (round + 1) * 0x9e3779b97f4a7c15ull + high) & low_mask;
    }
    return high << low_bits | low;
}

uint64_t sampler_permute(uint64_t key, uint64_t count, uint64_t index)
{
    CHECK(index < count);
    if (count == 1)
        return 0;
    uint32_t bits = 64 - (uint32_t)__builtin_clzll(count - 1);
    uint32_t low_bits = bits - bits / 2, high_bits = bits / 2;
    /* Walking the cycle until it comes back into range keeps it a bijection: under two rounds on
     * average. */
    do
        index = feistel(key, low_bits, high_bits, index);
    while (index >= count);
    return index;
}

/* ---- the order of an epoch ------------------------------------------------------------------- */

static void order_blocks(struct sampler *s, const uint32_t *counts)
{
    for (uint32_t i = 0; i < s->block_count; i++)
        s->order[i] = i;
    if (s->shuffle != SHUFFLE_NONE) {
        uint64_t key = rng_key(s->seed, "shuffle blocks", s->epoch);
        for (uint32_t i = s->block_count; i > 1; i--) { /* Fisher-Yates */
            uint32_t other = (uint32_t)rng_below(rng_at(key, i), i);
            uint32_t held = s->order[i - 1];
            s->order[i - 1] = s->order[other];
            s->order[other] = held;
        }
    }
    s->starts[0] = 0;
    for (uint32_t i = 0; i < s->block_count; i++)
        s->starts[i + 1] = s->starts[i] + counts[s->order[i]];
}

enum err sampler_create(const struct sampler_options *o, uint64_t epoch, struct sampler **out)
{
    CHECK(o->rank_count > 0 && o->batch_size >= o->rank_count);
    struct sampler *s = mem_calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_MEMORY;
    *s = (struct sampler){.seed = o->seed,
                          .epoch = epoch,
                          .shuffle = o->shuffle,
                          .window = o->window,
                          .batch_size = o->batch_size,
                          .rank_count = o->rank_count,
                          .block_count = o->block_count};
    s->order = mem_alloc_array(o->block_count, sizeof *s->order);
    s->starts = mem_alloc_array((size_t)o->block_count + 1, sizeof *s->starts);
    if (s->order == NULL || s->starts == NULL) {
        sampler_destroy(s);
        return ERR_MEMORY;
    }
    order_blocks(s, o->counts);
    s->steps = dataindex_steps_per_epoch(s->starts[s->block_count], o->batch_size, o->rank_count);
    *out = s;
    return ERR_NONE;
}

void sampler_destroy(struct sampler *s)
{
    if (s == NULL)
        return;
    mem_free(s->order);
    mem_free(s->starts);
    mem_free(s);
}

uint64_t sampler_steps(const struct sampler *s)
{
    return s->steps;
}

uint32_t sampler_share(const struct sampler *s, uint32_t rank)
{
    return (uint32_t)(portion(s->batch_size, rank + 1, s->rank_count) -
                      portion(s->batch_size, rank, s->rank_count));
}

/* Steps of a group: whole steps only, at least one. */
static uint64_t group_steps(const struct sampler *s, uint32_t rank)
{
    if (s->shuffle == SHUFFLE_FULL)
        return s->steps;
    uint64_t window = s->shuffle == SHUFFLE_NONE ? ORDERED_GROUP_EXAMPLES : s->window;
    uint64_t share = s->shuffle == SHUFFLE_NONE ? s->batch_size : sampler_share(s, rank);
    return window > share ? window / share : 1;
}

uint64_t sampler_group_of(const struct sampler *s, uint32_t rank, uint64_t step)
{
    CHECK(rank < s->rank_count && step < s->steps);
    return step / group_steps(s, rank);
}

/* Examples [*begin, *end) of the global order that make up a group. */
static void group_bounds(const struct sampler *s, uint32_t rank, uint64_t group, uint64_t *begin,
                         uint64_t *end)
{
    uint64_t total = s->starts[s->block_count], first = 0, last = total;
    uint64_t stride = s->batch_size;
    if (s->shuffle != SHUFFLE_NONE) {
        first = portion(total, rank, s->rank_count);
        last = portion(total, rank + 1, s->rank_count);
        stride = sampler_share(s, rank);
    }
    uint64_t steps = group_steps(s, rank), from = group * steps;
    uint64_t to = from + steps < s->steps ? from + steps : s->steps;
    *begin = first + from * stride < last ? first + from * stride : last;
    *end = first + to * stride < last ? first + to * stride : last;
}

/* The place in the epoch's order of the block with example `at`: the last one that begins at or
 * before. */
static uint32_t block_at(const struct sampler *s, uint64_t at)
{
    uint32_t low = 0, high = s->block_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (s->starts[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

enum err sampler_group(const struct sampler *s, uint32_t rank, uint64_t group,
                       struct sampler_range **ranges_out, uint32_t *count_out)
{
    CHECK(rank < s->rank_count);
    uint64_t begin, end;
    group_bounds(s, rank, group, &begin, &end);
    uint32_t count = 0, first = begin < end ? block_at(s, begin) : 0;
    if (begin < end)
        count = block_at(s, end - 1) - first + 1;
    struct sampler_range *ranges = mem_calloc(count > 0 ? count : 1, sizeof *ranges);
    if (ranges == NULL)
        return ERR_MEMORY;
    uint32_t used = 0;
    for (uint32_t i = first; i < first + count; i++) {
        uint64_t from = s->starts[i] > begin ? s->starts[i] : begin;
        uint64_t to = s->starts[i + 1] < end ? s->starts[i + 1] : end;
        if (from >= to)
            continue; /* a block without training examples */
        ranges[used++] = (struct sampler_range){.block = s->order[i],
                                                .begin = (uint32_t)(from - s->starts[i]),
                                                .end = (uint32_t)(to - s->starts[i]),
                                                .base = from - begin};
    }
    *ranges_out = ranges;
    *count_out = used;
    return ERR_NONE;
}

static struct sampler_pick pick_at(const struct sampler_range *ranges, uint32_t range_count,
                                   uint64_t at)
{
    uint32_t low = 0, high = range_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (ranges[middle].base <= at)
            low = middle;
        else
            high = middle;
    }
    CHECK(at - ranges[low].base < ranges[low].end - ranges[low].begin);
    return (struct sampler_pick){low, ranges[low].begin + (uint32_t)(at - ranges[low].base)};
}

uint32_t sampler_batch(const struct sampler *s, uint32_t rank, uint64_t step,
                       const struct sampler_range *ranges, uint32_t range_count,
                       struct sampler_pick *out)
{
    uint64_t group = sampler_group_of(s, rank, step), begin, end;
    group_bounds(s, rank, group, &begin, &end);
    uint64_t size = end - begin, in_group = step - group * group_steps(s, rank);
    uint64_t from, to;
    if (s->shuffle == SHUFFLE_NONE) {
        from = in_group * s->batch_size + portion(s->batch_size, rank, s->rank_count);
        to = in_group * s->batch_size + portion(s->batch_size, rank + 1, s->rank_count);
    } else {
        from = in_group * sampler_share(s, rank);
        to = from + sampler_share(s, rank);
    }
    if (to > size)
        to = size;
    uint64_t key = rng_key(rng_at(rng_key(s->seed, "shuffle group", s->epoch), rank), "", group);
    for (uint64_t i = from; i < to; i++) {
        uint64_t at = s->shuffle == SHUFFLE_NONE ? i : sampler_permute(key, size, i);
        out[i - from] = pick_at(ranges, range_count, at);
    }
    return from < to ? (uint32_t)(to - from) : 0;
}
