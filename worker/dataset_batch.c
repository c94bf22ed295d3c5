/*
 * dataset_batch.c - from picks of a group to the arrays of a batch.
 *
 * With a dictionary of the group: (1) each term's place in it is marked in a bitmap, (2) the marked
 * ones in order are the batch's keys, (3) a term's id is the number of marks before its place, (4)
 * a counting sort puts the terms in order of rows. Nothing is hashed or compared. Without a
 * dictionary (a group too large for one) keys are looked up in a table of the batch and the unique
 * ones sorted: the result is the same.
 */
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "worker/dataset_internal.h"

#define PREFETCH_AHEAD 8

/* Where a pick's example stands in its block. */
static uint32_t row_of(const struct group *g, struct sampler_pick pick)
{
    const struct block_view *v = &g->views[pick.range];
    uint32_t row = pick.example;
    if (g->starts != NULL)
        row += g->starts[g->ranges[pick.range].block];
    if (g->evaluation)
        row += v->train_count;
    return row;
}

struct terms {
    uint32_t begin, end;
};

static struct terms terms_of(const struct block_table *b, uint32_t row)
{
    if (b->ends == NULL)
        return (struct terms){row * b->slot_count, (row + 1) * b->slot_count};
    size_t cell = (size_t)row * b->slot_count;
    return (struct terms){cell > 0 ? b->ends[cell - 1] : 0, b->ends[cell + b->slot_count - 1]};
}

/* What the passes over one table share. */
struct table_job {
    struct group *g;
    const struct sampler_pick *picks;
    uint32_t n, table;
    struct batch_table *out;
    struct arena_table *memory;
    bool has_values, uniform;
};

static void prefetch(const struct table_job *j, uint32_t i)
{
    if (i >= j->n)
        return;
    const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
    uint32_t row = row_of(j->g, j->picks[i]);
    if (b->ends != NULL) {
        __builtin_prefetch(&b->ends[(size_t)row * b->slot_count]);
        return;
    }
    const uint32_t *ids = b->ids + (size_t)row * b->slot_count;
    for (uint32_t s = 0; s < b->slot_count; s += 16)
        __builtin_prefetch(ids + s);
}

/* ---- offsets and values ---------------------------------------------------------------------- */

static enum err size_table(struct table_job *j)
{
    uint64_t total = 0;
    j->has_values = false;
    j->uniform = true;
    for (uint32_t r = 0; r < j->g->range_count; r++)
        j->uniform = j->uniform && j->g->views[r].tables[j->table].ends == NULL;
    for (uint32_t i = 0; i < j->n; i++) {
        const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
        struct terms terms = terms_of(b, row_of(j->g, j->picks[i]));
        total += terms.end - terms.begin;
        j->has_values = j->has_values || b->values != NULL;
    }
    if (total > UINT32_MAX)
        return err_set(ERR_LIMIT,
                       "a batch of %u examples has %llu terms; make train.batch_size smaller", j->n,
                       (unsigned long long)total);
    struct batch_table *out = j->out;
    struct arena_table *m = j->memory;
    size_t cells = (size_t)j->n * out->slot_count;
    out->term_count = (uint32_t)total;
    bool fits = arena_room(out->offsets, m->offset_capacity, cells + 1) &&
                arena_room(out->ids, m->id_capacity, total) &&
                arena_room(out->by_row_cells, m->cell_capacity, total) &&
                (!j->has_values || (arena_room(m->values, m->value_capacity, total) &&
                                    arena_room(m->by_row_values, m->by_row_value_capacity, total)));
    return fits ? ERR_NONE : ERR_MEMORY;
}

static void fill_offsets(const struct table_job *j)
{
    uint32_t *offsets = j->out->offsets, slots = j->out->slot_count;
    size_t cells = (size_t)j->n * slots;
    if (j->uniform) {
        for (size_t c = 0; c <= cells; c++)
            offsets[c] = (uint32_t)c;
        return;
    }
    uint32_t end = 0;
    *offsets++ = 0;
    for (uint32_t i = 0; i < j->n; i++) {
        const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
        uint32_t row = row_of(j->g, j->picks[i]), begin = terms_of(b, row).begin;
        for (uint32_t s = 0; s < slots; s++)
            *offsets++ =
                b->ends == NULL ? end + s + 1 : end + b->ends[(size_t)row * slots + s] - begin;
        end = offsets[-1];
    }
}

static void fill_values(const struct table_job *j)
{
    float *values = j->memory->values;
    for (uint32_t i = 0; i < j->n; i++) {
        const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
        struct terms terms = terms_of(b, row_of(j->g, j->picks[i]));
        for (uint32_t k = terms.begin; k < terms.end; k++)
            *values++ = b->values != NULL ? b->values[k] : 1.0f;
    }
}

/* ---- ids through the group's dictionary ------------------------------------------------------ */

/* In two loops: look-ups that wait for memory overlap while nothing is written in between. */
static void mark_terms(const struct table_job *j)
{
    struct group_table *x = &j->g->tables[j->table];
    uint32_t *restrict ids = j->out->ids;
    uint64_t *restrict marks = x->marks;
    for (uint32_t i = 0; i < j->n; i++) {
        prefetch(j, i + PREFETCH_AHEAD);
        const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
        const uint32_t *local = x->of_range[j->picks[i].range];
        struct terms terms = terms_of(b, row_of(j->g, j->picks[i]));
        const uint32_t *in_block = b->ids + terms.begin;
        uint32_t count = terms.end - terms.begin;
        for (uint32_t k = 0; k < count; k++)
            ids[k] = local[in_block[k]];
        for (uint32_t k = 0; k < count; k++)
            marks[ids[k] >> 6] |= (uint64_t)1 << (ids[k] & 63);
        ids += count;
    }
}

/* The marked keys in order, and the marks before each word. */
static enum err gather_keys(const struct table_job *j)
{
    struct group_table *x = &j->g->tables[j->table];
    size_t words = ((size_t)x->key_count + 63) / 64;
    uint32_t count = 0;
    for (size_t w = 0; w < words; w++) {
        x->before[w] = count;
        count += (uint32_t)__builtin_popcountll(x->marks[w]);
    }
    if (!arena_room(j->out->keys, j->memory->key_capacity, count))
        return ERR_MEMORY;
    uint64_t *keys = j->out->keys;
    for (size_t w = 0; w < words; w++) {
        for (uint64_t bits = x->marks[w]; bits != 0; bits &= bits - 1)
            *keys++ = x->keys[w * 64 + (uint32_t)__builtin_ctzll(bits)];
    }
    j->out->key_count = count;
    return ERR_NONE;
}

static void number_terms(const struct table_job *j)
{
    struct group_table *x = &j->g->tables[j->table];
    uint32_t *ids = j->out->ids;
    for (uint32_t k = 0; k < j->out->term_count; k++) {
        uint32_t place = ids[k];
        uint64_t below = x->marks[place >> 6] & (((uint64_t)1 << (place & 63)) - 1);
        ids[k] = x->before[place >> 6] + (uint32_t)__builtin_popcountll(below);
    }
}

static enum err ids_by_dictionary(const struct table_job *j)
{
    struct group_table *x = &j->g->tables[j->table];
    mark_terms(j);
    enum err e = gather_keys(j);
    if (e == ERR_NONE)
        number_terms(j);
    memset(x->marks, 0, ((size_t)x->key_count + 63) / 64 * sizeof *x->marks);
    return e;
}

/* ---- ids without a dictionary ---------------------------------------------------------------- */

/* out->ids: numbers in order of appearance; m->unique: the keys by number. */
static enum err number_by_hash(struct batch_maker *m, const struct table_job *j,
                               uint32_t *unique_out)
{
    size_t size = 64;
    uint32_t used = 0, *ids = j->out->ids;
    while (size < 2 * (size_t)j->out->term_count)
        size *= 2;
    if (!arena_room(m->slots, m->slot_capacity, size) ||
        !arena_room(m->slot_ids, m->slot_id_capacity, size) ||
        !arena_room(m->unique, m->unique_capacity, (size_t)j->out->term_count + 1))
        return ERR_MEMORY;
    memset(m->slot_ids, 0, size * sizeof *m->slot_ids);
    for (uint32_t i = 0; i < j->n; i++) {
        prefetch(j, i + PREFETCH_AHEAD);
        const struct block_table *b = &j->g->views[j->picks[i].range].tables[j->table];
        struct terms terms = terms_of(b, row_of(j->g, j->picks[i]));
        for (uint32_t k = terms.begin; k < terms.end; k++) {
            uint64_t key = b->keys[b->ids[k]];
            size_t at = key & (size - 1);
            while (m->slot_ids[at] != 0 && m->slots[at] != key)
                at = (at + 1) & (size - 1);
            if (m->slot_ids[at] == 0) {
                m->unique[used++] = key;
                m->slots[at] = key;
                m->slot_ids[at] = used;
            }
            *ids++ = m->slot_ids[at] - 1;
        }
    }
    *unique_out = used;
    return ERR_NONE;
}

static enum err ids_by_hash(struct batch_maker *m, const struct table_job *j)
{
    uint32_t count;
    enum err e = number_by_hash(m, j, &count);
    if (e != ERR_NONE)
        return e;
    if (!arena_room(m->numbers, m->number_capacity, count) ||
        !arena_room(m->ranks, m->rank_capacity, count) ||
        !arena_room(j->out->keys, j->memory->key_capacity, count))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < count; i++)
        m->numbers[i] = i;
    e = keysort_run(&m->sort, m->unique, m->numbers, count);
    if (e != ERR_NONE)
        return e;
    for (uint32_t i = 0; i < count; i++)
        m->ranks[m->numbers[i]] = i;
    memcpy(j->out->keys, m->unique, count * sizeof *m->unique);
    j->out->key_count = count;
    for (uint32_t k = 0; k < j->out->term_count; k++)
        j->out->ids[k] = m->ranks[j->out->ids[k]];
    return ERR_NONE;
}

/* ---- by row ---------------------------------------------------------------------------------- */

/* Counts, then starts, then ends of the rows: one array does for all. */
static enum err sort_by_row(const struct table_job *j)
{
    struct batch_table *out = j->out;
    uint32_t keys = out->key_count, terms = out->term_count;
    if (!arena_room(out->by_row_offsets, j->memory->by_row_offset_capacity, (size_t)keys + 2))
        return ERR_MEMORY;
    uint32_t *next = out->by_row_offsets + 1;
    memset(out->by_row_offsets, 0, ((size_t)keys + 2) * sizeof *out->by_row_offsets);
    for (uint32_t k = 0; k < terms; k++)
        next[out->ids[k] + 1]++;
    for (uint32_t i = 0; i < keys; i++)
        next[i + 1] += next[i];
    /* next[i] is where row i begins, and ends up where it ends: at by_row_offsets[i + 1]. */
    if (j->uniform && !j->has_values) {
        for (uint32_t k = 0; k < terms; k++)
            out->by_row_cells[next[out->ids[k]]++] = k;
        return ERR_NONE;
    }
    uint32_t cells = j->n * out->slot_count;
    for (uint32_t c = 0; c < cells; c++) {
        for (uint32_t k = out->offsets[c]; k < out->offsets[c + 1]; k++) {
            uint32_t at = next[out->ids[k]]++;
            out->by_row_cells[at] = c;
            if (j->has_values)
                j->memory->by_row_values[at] = j->memory->values[k];
        }
    }
    return ERR_NONE;
}

static enum err make_table(struct batch_maker *m, struct table_job *j)
{
    enum err e = size_table(j);
    if (e != ERR_NONE)
        return e;
    fill_offsets(j);
    if (j->has_values)
        fill_values(j);
    j->out->values = j->has_values ? j->memory->values : NULL;
    j->out->by_row_values = j->has_values ? j->memory->by_row_values : NULL;
    e = j->g->has_dictionary ? ids_by_dictionary(j) : ids_by_hash(m, j);
    return e == ERR_NONE ? sort_by_row(j) : e;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static enum err make_scalars(const struct group *g, const struct sampler_pick *picks, uint32_t n,
                             struct batch_arena *a)
{
    struct batch *b = &a->batch;
    uint32_t width = b->dense_width;
    uint32_t more = n > 0 ? g->views[0].more_label_count : 0;
    bool has_groups = n > 0 && g->views[0].groups != NULL;
    if (!arena_room(b->labels, a->label_capacity, n) ||
        !arena_room(b->weights, a->weight_capacity, n) ||
        (more > 0 && !arena_room(b->more_labels, a->more_label_capacity, (size_t)n * more)) ||
        (width > 0 && !arena_room(b->dense, a->dense_capacity, (size_t)n * width)) ||
        (has_groups && !arena_room(a->groups, a->group_capacity, n)))
        return ERR_MEMORY;
    b->example_count = n;
    b->groups = has_groups ? a->groups : NULL;
    b->weight_sum = 0;
    b->more_label_count = more;
    for (uint32_t i = 0; i < n; i++) {
        const struct block_view *v = &g->views[picks[i].range];
        uint32_t row = row_of(g, picks[i]);
        b->labels[i] = v->labels[row];
        if (more > 0)
            memcpy(b->more_labels + (size_t)i * more, v->more_labels + (size_t)row * more,
                   more * sizeof *b->more_labels);
        b->weights[i] = v->weights != NULL ? v->weights[row] : 1.0f;
        b->weight_sum += b->weights[i];
        if (has_groups)
            b->groups[i] = v->groups[row];
        if (width > 0)
            memcpy(b->dense + (size_t)i * width, v->dense + (size_t)row * width,
                   width * sizeof *b->dense);
    }
    return ERR_NONE;
}

enum err batch_make(struct batch_maker *m, struct group *g, const struct sampler_pick *picks,
                    uint32_t n, struct batch_arena *a)
{
    CHECK(n == 0 || g->range_count > 0);
    enum err e = make_scalars(g, picks, n, a);
    for (uint32_t t = 0; t < a->batch.table_count && e == ERR_NONE; t++) {
        struct table_job j = {.g = g,
                              .picks = picks,
                              .n = n,
                              .table = t,
                              .out = &a->batch.tables[t],
                              .memory = &a->tables[t]};
        if (n > 0) {
            e = make_table(m, &j);
            continue;
        }
        /* Empty, but with arrays that a reader may look at. */
        struct batch_table *out = j.out;
        out->key_count = out->term_count = 0;
        out->values = out->by_row_values = NULL;
        if (!arena_room(out->offsets, j.memory->offset_capacity, 1) ||
            !arena_room(out->by_row_offsets, j.memory->by_row_offset_capacity, 1) ||
            !arena_room(out->keys, j.memory->key_capacity, 1))
            return ERR_MEMORY;
        out->offsets[0] = out->by_row_offsets[0] = 0;
    }
    return e;
}

void batch_maker_deinit(struct batch_maker *m)
{
    keysort_deinit(&m->sort);
    mem_free(m->slots);
    mem_free(m->slot_ids);
    mem_free(m->unique);
    mem_free(m->numbers);
    mem_free(m->ranks);
    *m = (struct batch_maker){0};
}
