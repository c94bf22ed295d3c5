#include "worker/keysort.h"

#include <stdbool.h>
#include <string.h>

#include "common/mem.h"

#define BUCKET_ITEMS  4 /* on average */
#define INSERTION_MAX 48

static bool is_less(uint64_t a_key, uint32_t a_number, uint64_t b_key, uint32_t b_number)
{
    return a_key < b_key || (a_key == b_key && a_number < b_number);
}

static void insertion_sort(uint64_t *keys, uint32_t *numbers, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        uint64_t key = keys[i];
        uint32_t number = numbers[i];
        size_t at = i;
        for (; at > 0 && is_less(key, number, keys[at - 1], numbers[at - 1]); at--) {
            keys[at] = keys[at - 1];
            numbers[at] = numbers[at - 1];
        }
        keys[at] = key;
        numbers[at] = number;
    }
}

static void sift_down(uint64_t *keys, uint32_t *numbers, size_t root, size_t count)
{
    uint64_t key = keys[root];
    uint32_t number = numbers[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count &&
            is_less(keys[child], numbers[child], keys[child + 1], numbers[child + 1]))
            child++;
        if (!is_less(key, number, keys[child], numbers[child]))
            break;
        keys[root] = keys[child];
        numbers[root] = numbers[child];
    }
    keys[root] = key;
    numbers[root] = number;
}

static void heap_sort(uint64_t *keys, uint32_t *numbers, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sift_down(keys, numbers, i, count);
    for (size_t last = count; last-- > 1;) {
        uint64_t key = keys[0];
        uint32_t number = numbers[0];
        keys[0] = keys[last];
        numbers[0] = numbers[last];
        keys[last] = key;
        numbers[last] = number;
        sift_down(keys, numbers, 0, last);
    }
}

static void sort_bucket(uint64_t *keys, uint32_t *numbers, size_t count)
{
    if (count <= INSERTION_MAX)
        insertion_sort(keys, numbers, count);
    else
        heap_sort(keys, numbers, count);
}

enum err keysort_run(struct keysort *scratch, uint64_t *keys, uint32_t *numbers, size_t count)
{
    if (count <= INSERTION_MAX) {
        insertion_sort(keys, numbers, count);
        return ERR_NONE;
    }
    uint32_t bits = 1;
    while (bits < 28 && ((size_t)BUCKET_ITEMS << bits) < count)
        bits++;
    uint32_t shift = 64 - bits;
    size_t buckets = (size_t)1 << bits;
    if (!mem_grow(scratch->keys, scratch->key_capacity, count) ||
        !mem_grow(scratch->numbers, scratch->number_capacity, count) ||
        !mem_grow(scratch->starts, scratch->start_capacity, buckets + 1))
        return ERR_MEMORY;
    uint32_t *starts = scratch->starts;
    memset(starts, 0, (buckets + 1) * sizeof *starts);
    for (size_t i = 0; i < count; i++)
        starts[(keys[i] >> shift) + 1]++;
    for (size_t b = 0; b < buckets; b++)
        starts[b + 1] += starts[b];
    for (size_t i = 0; i < count; i++) {
        uint32_t at = starts[keys[i] >> shift]++;
        scratch->keys[at] = keys[i];
        scratch->numbers[at] = numbers[i];
    }
    /* Now starts[b] is where bucket b ends. */
    for (size_t b = 0, from = 0; b < buckets; from = starts[b++])
        sort_bucket(scratch->keys + from, scratch->numbers + from, starts[b] - from);
    memcpy(keys, scratch->keys, count * sizeof *keys);
    memcpy(numbers, scratch->numbers, count * sizeof *numbers);
    return ERR_NONE;
}

void keysort_deinit(struct keysort *scratch)
{
    mem_free(scratch->keys);
    mem_free(scratch->numbers);
    mem_free(scratch->starts);
    *scratch = (struct keysort){0};
}
