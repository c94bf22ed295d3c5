#include <string.h>

#include "common/check.h"
#include "common/crc.h"
#include "common/limits.h"
#include "common/mem.h"
#include "worker/blockcache.h"

#define BLOCK_MAGIC   0x4b4c4250u /* "PBLK" */
#define BLOCK_VERSION 1
#define ALIGNMENT     64u

#define PREFETCH_AHEAD 12

enum { HAS_WEIGHTS = 1, HAS_GROUPS = 2, HAS_ENDS = 4, HAS_VALUES = 8 };

struct block_head {
    uint32_t magic, version;
    uint64_t set, block;
    uint64_t size; /* of all */
    uint32_t crc;  /* of what is behind the head */
    uint32_t count, train_count, table_count, dense_width, more_label_count, flags;
};

struct block_table_head {
    uint32_t key_count, term_count, slot_count, flags;
};

static size_t aligned(size_t size)
{
    return (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

/* ---- the dictionary -------------------------------------------------------------------------- */

static size_t slot_of(const struct block_builder *b, uint64_t key)
{
    /* Keys are mixed: any of their bits do. */
    size_t i = key & (b->slot_size - 1);
    while (b->slot_ids[i] != 0 && b->slots[i] != key)
        i = (i + 1) & (b->slot_size - 1);
    return i;
}

static void prefetch_slot(const struct block_builder *b, uint64_t key)
{
    size_t i = key & (b->slot_size - 1);
    __builtin_prefetch(&b->slots[i]);
    __builtin_prefetch(&b->slot_ids[i]);
}

static enum err grow_slots(struct block_builder *b, size_t size, size_t used)
{
    uint64_t *slots = mem_alloc_array(size, sizeof *slots);
    uint32_t *ids = mem_calloc(size, sizeof *ids);
    if (slots == NULL || ids == NULL) {
        mem_free(slots);
        mem_free(ids);
        return ERR_MEMORY;
    }
    mem_free(b->slots);
    mem_free(b->slot_ids);
    b->slots = slots;
    b->slot_ids = ids;
    b->slot_size = size;
    for (size_t u = 0; u < used; u++) {
        size_t i = slot_of(b, b->unique[u]);
        slots[i] = b->unique[u];
        ids[i] = (uint32_t)u + 1;
    }
    return ERR_NONE;
}

/* b->ids: for each term the number of its key in b->unique, which are in order of appearance. */
static enum err number_keys(struct block_builder *b, const struct rows_table *t, size_t *unique_out)
{
    size_t used = 0;
    if (b->slot_size == 0) {
        enum err e = grow_slots(b, 1u << 14, 0);
        if (e != ERR_NONE)
            return e;
    }
    memset(b->slot_ids, 0, b->slot_size * sizeof *b->slot_ids);
    if (!mem_grow(b->ids, b->id_capacity, t->term_count))
        return ERR_MEMORY;
    for (size_t k = 0; k < t->term_count; k++) {
        if (k + PREFETCH_AHEAD < t->term_count)
            prefetch_slot(b, t->keys[k + PREFETCH_AHEAD]);
        size_t i = slot_of(b, t->keys[k]);
        if (b->slot_ids[i] == 0) {
            if (!mem_grow(b->unique, b->unique_capacity, used + 1))
                return ERR_MEMORY;
            b->unique[used++] = t->keys[k];
            b->slots[i] = t->keys[k];
            b->slot_ids[i] = (uint32_t)used;
            b->ids[k] = (uint32_t)used - 1;
            if (2 * used > b->slot_size) {
                enum err e = grow_slots(b, 2 * b->slot_size, used);
                if (e != ERR_NONE)
                    return e;
            }
            continue;
        }
        b->ids[k] = b->slot_ids[i] - 1;
    }
    *unique_out = used;
    return ERR_NONE;
}

/* Sorts b->unique; b->ranks tells where each went. */
static enum err sort_keys(struct block_builder *b, size_t count)
{
    if (!mem_grow(b->numbers, b->number_capacity, count) ||
        !mem_grow(b->ranks, b->rank_capacity, count))
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        b->numbers[i] = (uint32_t)i;
    enum err e = keysort_run(&b->sort, b->unique, b->numbers, count);
    for (size_t i = 0; e == ERR_NONE && i < count; i++)
        b->ranks[b->numbers[i]] = (uint32_t)i;
    return e;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The next section of the image; NULL: no memory. Earlier sections may have moved. */
static void *section(struct block_builder *b, size_t size)
{
    size_t at = aligned(b->image_size), end = at + size;
    if (!mem_grow(b->image, b->image_capacity, end))
        return NULL;
    memset(b->image + b->image_size, 0, at - b->image_size);
    b->image_size = end;
    return b->image + at;
}

/* Training examples first. */
static enum err order_rows(struct block_builder *b, const struct rows *r, uint32_t *train_out)
{
    uint32_t n = 0;
    if (!mem_grow(b->order, b->order_capacity, r->count))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < r->count; i++) {
        if (!r->evals[i])
            b->order[n++] = i;
    }
    *train_out = n;
    for (uint32_t i = 0; i < r->count; i++) {
        if (r->evals[i])
            b->order[n++] = i;
    }
    return ERR_NONE;
}

static enum err put_rows(struct block_builder *b, const void *from, size_t row_size, uint32_t count)
{
    char *out = section(b, row_size * count);
    if (out == NULL)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < count; i++)
        memcpy(out + i * row_size, (const char *)from + b->order[i] * row_size, row_size);
    return ERR_NONE;
}

static enum err put_terms(struct block_builder *b, const struct rows *r, const struct rows_table *t)
{
    uint32_t slots = t->slot_count, n = 0;
    uint32_t *ids = section(b, t->term_count * sizeof *ids);
    if (ids == NULL)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < r->count; i++) {
        size_t cell = (size_t)b->order[i] * slots;
        uint32_t from = cell > 0 ? t->ends[cell - 1] : 0, to = t->ends[cell + slots - 1];
        for (uint32_t k = from; k < to; k++)
            ids[n++] = b->ranks[b->ids[k]];
    }
    CHECK(n == t->term_count);
    return ERR_NONE;
}

static enum err put_ends(struct block_builder *b, const struct rows *r, const struct rows_table *t)
{
    uint32_t slots = t->slot_count, end = 0;
    uint32_t *ends = section(b, (size_t)r->count * slots * sizeof *ends);
    if (ends == NULL)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < r->count; i++) {
        for (uint32_t s = 0; s < slots; s++) {
            size_t cell = (size_t)b->order[i] * slots + s;
            end += t->ends[cell] - (cell > 0 ? t->ends[cell - 1] : 0);
            *ends++ = end;
        }
    }
    return ERR_NONE;
}

static enum err put_values(struct block_builder *b, const struct rows *r,
                           const struct rows_table *t)
{
    uint32_t slots = t->slot_count;
    float *values = section(b, t->term_count * sizeof *values);
    if (values == NULL)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < r->count; i++) {
        size_t cell = (size_t)b->order[i] * slots;
        uint32_t from = cell > 0 ? t->ends[cell - 1] : 0, to = t->ends[cell + slots - 1];
        memcpy(values, t->values + from, (to - from) * sizeof *values);
        values += to - from;
    }
    return ERR_NONE;
}

static enum err put_table(struct block_builder *b, const struct rows *r, const struct rows_table *t,
                          struct block_table_head *head)
{
    size_t unique = 0;
    *head =
        (struct block_table_head){.slot_count = t->slot_count, .flags = t->uniform ? 0 : HAS_ENDS};
    if (t->has_values)
        head->flags |= HAS_VALUES;
    enum err e = number_keys(b, t, &unique);
    if (e == ERR_NONE)
        e = sort_keys(b, unique);
    if (e != ERR_NONE)
        return e;
    head->key_count = (uint32_t)unique;
    head->term_count = (uint32_t)t->term_count;
    uint64_t *keys = section(b, unique * sizeof *keys);
    if (keys == NULL)
        return ERR_MEMORY;
    if (unique > 0)
        memcpy(keys, b->unique, unique * sizeof *keys);
    e = put_terms(b, r, t);
    if (e == ERR_NONE && (head->flags & HAS_ENDS))
        e = put_ends(b, r, t);
    if (e == ERR_NONE && (head->flags & HAS_VALUES))
        e = put_values(b, r, t);
    return e;
}

enum err block_build(struct block_builder *b, const struct rows *rows, struct block_identity id)
{
    struct block_head head = {.magic = BLOCK_MAGIC,
                              .version = BLOCK_VERSION,
                              .set = id.set,
                              .block = id.block,
                              .count = rows->count,
                              .table_count = rows->table_count,
                              .dense_width = rows->dense_width,
                              .more_label_count = rows->more_label_count};
    struct block_table_head tables[TABLE_MAX];
    head.flags = (rows->has_weights ? HAS_WEIGHTS : 0) | (rows->has_groups ? HAS_GROUPS : 0);
    b->image_size = 0;
    enum err e = order_rows(b, rows, &head.train_count);
    size_t tables_size = rows->table_count * sizeof *tables, tables_at = aligned(sizeof head);
    if (e == ERR_NONE && (section(b, sizeof head) == NULL || section(b, tables_size) == NULL))
        e = ERR_MEMORY;
    if (e == ERR_NONE)
        e = put_rows(b, rows->labels, sizeof *rows->labels, rows->count);
    if (e == ERR_NONE && rows->more_label_count > 0)
        e = put_rows(b, rows->more_labels, rows->more_label_count * sizeof *rows->more_labels,
                     rows->count);
    if (e == ERR_NONE && rows->has_weights)
        e = put_rows(b, rows->weights, sizeof *rows->weights, rows->count);
    if (e == ERR_NONE && rows->has_groups)
        e = put_rows(b, rows->groups, sizeof *rows->groups, rows->count);
    if (e == ERR_NONE && rows->dense_width > 0)
        e = put_rows(b, rows->dense, rows->dense_width * sizeof *rows->dense, rows->count);
    for (uint32_t t = 0; t < rows->table_count && e == ERR_NONE; t++)
        e = put_table(b, rows, &rows->tables[t], &tables[t]);
    if (e != ERR_NONE)
        return e;
    head.size = b->image_size;
    memcpy(b->image + tables_at, tables, tables_size);
    head.crc = crc32c(0, b->image + sizeof head, b->image_size - sizeof head);
    memcpy(b->image, &head, sizeof head);
    return ERR_NONE;
}

void block_builder_deinit(struct block_builder *b)
{
    keysort_deinit(&b->sort);
    mem_free(b->slots);
    mem_free(b->slot_ids);
    mem_free(b->unique);
    mem_free(b->numbers);
    mem_free(b->ranks);
    mem_free(b->ids);
    mem_free(b->order);
    mem_free(b->image);
    *b = (struct block_builder){0};
}

/* ---- reading --------------------------------------------------------------------------------- */

struct sections {
    const char *data;
    size_t at, size;
    bool bad;
};

static const void *take(struct sections *s, size_t size)
{
    size_t at = aligned(s->at);
    if (s->bad || at > s->size || size > s->size - at) {
        s->bad = true;
        return NULL;
    }
    s->at = at + size;
    return s->data + at;
}

static void take_table(struct sections *s, const struct block_table_head *h, uint32_t count,
                       struct block_table *out)
{
    size_t cells = (size_t)count * h->slot_count;
    *out = (struct block_table){
        .key_count = h->key_count, .term_count = h->term_count, .slot_count = h->slot_count};
    out->keys = take(s, h->key_count * sizeof *out->keys);
    out->ids = take(s, h->term_count * sizeof *out->ids);
    if (h->flags & HAS_ENDS)
        out->ends = take(s, cells * sizeof *out->ends);
    else
        s->bad = s->bad || h->term_count != cells;
    if (h->flags & HAS_VALUES)
        out->values = take(s, h->term_count * sizeof *out->values);
}

enum err block_view_open(const char *what, void *memory, size_t size, struct block_identity id,
                         bool check, struct block_view *out)
{
    const struct block_head *h = memory;
    struct sections s = {.data = memory, .size = size};
    take(&s, sizeof *h);
    if (s.bad || h->magic != BLOCK_MAGIC || h->version != BLOCK_VERSION || h->size != size ||
        h->set != id.set || h->block != id.block || h->table_count > TABLE_MAX ||
        h->train_count > h->count)
        return err_set(ERR_CORRUPT, "%s: not the block that its name says", what);
    if (check && crc32c(0, s.data + sizeof *h, size - sizeof *h) != h->crc)
        return err_set(ERR_CORRUPT, "%s: the checksum does not fit", what);
    const struct block_table_head *tables = take(&s, h->table_count * sizeof *tables);
    struct block_view v = {.count = h->count,
                           .train_count = h->train_count,
                           .table_count = h->table_count,
                           .dense_width = h->dense_width,
                           .more_label_count = h->more_label_count,
                           .memory = memory,
                           .size = size};
    v.labels = take(&s, h->count * sizeof *v.labels);
    if (h->more_label_count > 0)
        v.more_labels = take(&s, (size_t)h->count * h->more_label_count * sizeof *v.more_labels);
    if (h->flags & HAS_WEIGHTS)
        v.weights = take(&s, h->count * sizeof *v.weights);
    if (h->flags & HAS_GROUPS)
        v.groups = take(&s, h->count * sizeof *v.groups);
    if (h->dense_width > 0)
        v.dense = take(&s, (size_t)h->count * h->dense_width * sizeof *v.dense);
    v.tables = must_alloc(h->table_count * sizeof *v.tables);
    for (uint32_t t = 0; t < h->table_count && !s.bad; t++)
        take_table(&s, &tables[t], h->count, &v.tables[t]);
    if (s.bad) {
        block_view_close(&v);
        return err_set(ERR_CORRUPT, "%s: its sections do not fit", what);
    }
    *out = v;
    return ERR_NONE;
}

void block_view_close(struct block_view *v)
{
    mem_free(v->tables);
    v->tables = NULL;
}
