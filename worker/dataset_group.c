#include <string.h>

#include "common/mem.h"
#include "worker/dataset_internal.h"

static uint64_t dictionary_max = GROUP_DICTIONARY_MAX;

void group_set_dictionary_max(uint64_t entries)
{
    dictionary_max = entries > 0 ? entries : GROUP_DICTIONARY_MAX;
}

/* Lets go of blocks; arrays stay for the next group. */
static void unload(struct group *g)
{
    for (uint32_t i = 0; g->views != NULL && !g->borrowed && i < g->range_count; i++)
        blockcache_unmap(&g->views[i]);
    mem_free(g->ranges);
    mem_free(g->views);
    g->ranges = NULL;
    g->views = NULL;
    g->range_count = 0;
}

void group_deinit(struct group *g)
{
    unload(g);
    for (uint32_t t = 0; t < g->table_count; t++) {
        struct group_table *x = &g->tables[t];
        mem_free(x->keys);
        mem_free(x->local);
        mem_free(x->marks);
        mem_free(x->before);
        mem_free(x->of_range);
    }
    mem_free(g->tables);
    keysort_deinit(&g->sort);
    mem_free(g->sort_keys);
    mem_free(g->sort_numbers);
    *g = (struct group){0};
}

/* All blocks' keys, sorted together with where they came from, give each its place. */
static enum err merge_keys(struct group *g, struct group_table *x, uint32_t table, size_t total)
{
    size_t n = 0;
    if (!mem_grow(g->sort_keys, g->sort_key_capacity, total) ||
        !mem_grow(g->sort_numbers, g->sort_number_capacity, total) ||
        !mem_grow(x->keys, x->key_capacity, total) || !mem_grow(x->local, x->local_capacity, total))
        return ERR_MEMORY;
    for (uint32_t r = 0; r < g->range_count; r++) {
        const struct block_table *b = &g->views[r].tables[table];
        x->of_range[r] = x->local + n;
        memcpy(g->sort_keys + n, b->keys, b->key_count * sizeof *b->keys);
        for (uint32_t i = 0; i < b->key_count; i++)
            g->sort_numbers[n + i] = (uint32_t)(n + i);
        n += b->key_count;
    }
    /* One block's keys are in order already. */
    if (g->range_count > 1) {
        enum err e = keysort_run(&g->sort, g->sort_keys, g->sort_numbers, n);
        if (e != ERR_NONE)
            return e;
    }
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (count == 0 || x->keys[count - 1] != g->sort_keys[i])
            x->keys[count++] = g->sort_keys[i];
        x->local[g->sort_numbers[i]] = count - 1;
    }
    x->key_count = count;
    return ERR_NONE;
}

static enum err make_dictionary(struct group *g, uint32_t table)
{
    struct group_table *x = &g->tables[table];
    size_t total = 0;
    for (uint32_t r = 0; r < g->range_count; r++)
        total += g->views[r].tables[table].key_count;
    if (!mem_grow(x->of_range, x->of_range_capacity, g->range_count))
        return ERR_MEMORY;
    enum err e = merge_keys(g, x, table, total);
    if (e != ERR_NONE)
        return e;
    size_t words = ((size_t)x->key_count + 63) / 64;
    if (!mem_grow(x->marks, x->mark_capacity, words) ||
        !mem_grow(x->before, x->before_capacity, words))
        return ERR_MEMORY;
    if (words > 0)
        memset(x->marks, 0, words * sizeof *x->marks);
    return ERR_NONE;
}

static enum err make_dictionaries(struct group *g)
{
    uint64_t entries = 0;
    for (uint32_t r = 0; r < g->range_count; r++) {
        for (uint32_t t = 0; t < g->table_count; t++)
            entries += g->views[r].tables[t].key_count;
    }
    g->has_dictionary = entries <= dictionary_max;
    enum err e = ERR_NONE;
    for (uint32_t t = 0; g->has_dictionary && t < g->table_count && e == ERR_NONE; t++)
        e = make_dictionary(g, t);
    return e;
}

static void prepare_tables(struct group *g, uint32_t count)
{
    if (g->tables == NULL) {
        g->tables = must_alloc(count * sizeof *g->tables);
        g->table_count = count;
    }
}

static enum err map_blocks(struct group *g, struct dataset *d, const atomic_bool *cancel)
{
    uint32_t *blocks = mem_alloc_array(g->range_count, sizeof *blocks);
    if (blocks == NULL)
        return ERR_MEMORY;
    for (uint32_t r = 0; r < g->range_count; r++)
        blocks[r] = g->ranges[r].block;
    enum err e = blockcache_fill(d->cache, blocks, g->range_count, cancel);
    for (uint32_t r = 0; r < g->range_count && e == ERR_NONE; r++) {
        e = blockcache_map(d->cache, blocks[r], &g->views[r]);
        /* Once more for one that was there and did not verify. */
        if (e == ERR_NOT_FOUND)
            e = blockcache_fill(d->cache, &blocks[r], 1, cancel);
        if (e == ERR_NONE && g->views[r].memory == NULL)
            e = blockcache_map(d->cache, blocks[r], &g->views[r]);
    }
    mem_free(blocks);
    return e;
}

enum err group_load(struct group *g, struct dataset *d, struct sampler_range *ranges,
                    uint32_t count, const atomic_bool *cancel)
{
    unload(g);
    prepare_tables(g, (uint32_t)d->o.features->table_count);
    g->ranges = ranges;
    g->range_count = count;
    g->views = must_alloc(count * sizeof *g->views);
    enum err e = map_blocks(g, d, cancel);
    return e == ERR_NONE ? make_dictionaries(g) : e;
}

enum err group_of_view(struct group *g, const struct block_view *v)
{
    g->borrowed = true;
    unload(g);
    prepare_tables(g, v->table_count);
    g->ranges = must_alloc(sizeof *g->ranges);
    g->views = must_alloc(sizeof *g->views);
    g->views[0] = *v;
    g->range_count = 1;
    return make_dictionaries(g);
}
