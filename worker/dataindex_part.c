#include "worker/dataindex_part.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/mem.h"
#include "worker/datafiles.h"

#define PART_MAGIC 0x31545250u /* "PRT1" */

void moments_add(struct moments *m, double value)
{
    double difference = value - m->mean;
    m->count++;
    m->mean += difference / (double)m->count;
    m->squares += difference * (value - m->mean);
}

void moments_merge(struct moments *into, const struct moments *from)
{
    if (from->count == 0)
        return;
    double a = (double)into->count, b = (double)from->count, difference = from->mean - into->mean;
    into->count += from->count;
    into->mean += difference * (b / (a + b));
    into->squares += from->squares + difference * difference * (a * b / (a + b));
}

void index_part_deinit(struct index_part *p)
{
    for (uint32_t i = 0; i < p->block_count; i++)
        mem_free(p->blocks[i].moments);
    for (uint32_t i = 0; i < p->count_count; i++)
        mem_free(p->counts[i].entries);
    text_list_free(&p->fields);
    text_list_free(&p->bad);
    mem_free(p->packed_files);
    mem_free(p->blocks);
    mem_free(p->counts);
    *p = (struct index_part){0};
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void put(struct str *s, const void *data, size_t size)
{
    str_append_span(s, span_make(data, size));
}

static void put_u64(struct str *s, uint64_t value)
{
    put(s, &value, sizeof value);
}

static void put_texts(struct str *s, const struct text_list *list)
{
    put_u64(s, list->count);
    for (size_t i = 0; i < list->count; i++) {
        put_u64(s, strlen(list->items[i]));
        str_append(s, list->items[i]);
    }
}

void index_part_write(const struct index_part *p, struct str *out)
{
    struct str s = {0};
    put_texts(&s, &p->fields);
    put_texts(&s, &p->bad);
    put_u64(&s, p->libffm_fields);
    put_u64(&s, p->cut_values);
    put_u64(&s, p->packed_count);
    put(&s, p->packed_files, p->packed_count * sizeof *p->packed_files);
    put_u64(&s, p->moment_count);
    put_u64(&s, p->block_count);
    for (uint32_t i = 0; i < p->block_count; i++) {
        put(&s, &p->blocks[i].place, sizeof p->blocks[i].place);
        put_u64(&s, p->blocks[i].number);
        put(&s, p->blocks[i].moments, p->moment_count * sizeof *p->blocks[i].moments);
    }
    put_u64(&s, p->count_count);
    for (uint32_t i = 0; i < p->count_count; i++) {
        put_u64(&s, p->counts[i].feature);
        put_u64(&s, p->counts[i].count);
        put(&s, p->counts[i].entries, p->counts[i].count * sizeof *p->counts[i].entries);
    }
    uint32_t head[2] = {PART_MAGIC, crc32c(0, s.data, s.size)};
    put(out, head, sizeof head);
    str_append_span(out, span_make(s.data, s.size));
    str_deinit(&s);
}

/* What is left to read; `bad` once it was too little. */
struct input {
    const char *data;
    size_t size;
    bool bad;
};

static void get(struct input *in, void *out, size_t size)
{
    if (in->bad || size > in->size) {
        in->bad = true;
        memset(out, 0, size);
        return;
    }
    if (size > 0)
        memcpy(out, in->data, size);
    in->data += size;
    in->size -= size;
}

static uint64_t get_u64(struct input *in)
{
    uint64_t value;
    get(in, &value, sizeof value);
    return value;
}

/* A count of things of `size` bytes, as many as can be there. */
static uint64_t get_count(struct input *in, size_t size)
{
    uint64_t count = get_u64(in);
    if (size > 0 && count > in->size / size)
        in->bad = true;
    return in->bad ? 0 : count;
}

static void get_texts(struct input *in, struct text_list *out)
{
    uint64_t count = get_count(in, sizeof(uint64_t));
    out->items = must_alloc(count * sizeof *out->items);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t size = get_count(in, 1);
        out->items[out->count] = must_alloc(size + 1);
        get(in, out->items[out->count++], size);
    }
}

static void get_blocks(struct input *in, struct index_part *p)
{
    p->moment_count = (uint32_t)get_u64(in);
    size_t moments = p->moment_count * sizeof *p->blocks->moments;
    uint64_t count = get_count(in, sizeof p->blocks->place + sizeof(uint64_t) + moments);
    p->blocks = must_alloc(count * sizeof *p->blocks);
    p->block_count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        get(in, &p->blocks[i].place, sizeof p->blocks[i].place);
        p->blocks[i].number = (uint32_t)get_u64(in);
        p->blocks[i].moments = must_alloc(moments);
        get(in, p->blocks[i].moments, moments);
    }
}

static void get_counts(struct input *in, struct index_part *p)
{
    uint64_t count = get_count(in, 2 * sizeof(uint64_t));
    p->counts = must_alloc(count * sizeof *p->counts);
    p->count_count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        struct index_count *c = &p->counts[i];
        c->feature = (uint32_t)get_u64(in);
        c->count = get_count(in, sizeof *c->entries);
        c->entries = must_alloc(c->count * sizeof *c->entries);
        get(in, c->entries, c->count * sizeof *c->entries);
    }
}

enum err index_part_parse(const char *what, const char *data, size_t size, struct index_part *out)
{
    struct input in = {data, size, false};
    struct index_part p = {0};
    uint32_t head[2];
    get(&in, head, sizeof head);
    if (in.bad || head[0] != PART_MAGIC || head[1] != crc32c(0, in.data, in.size))
        return err_set(ERR_CORRUPT, "%s: not a part of a data index, or damaged", what);
    get_texts(&in, &p.fields);
    get_texts(&in, &p.bad);
    p.libffm_fields = (uint32_t)get_u64(&in);
    p.cut_values = get_u64(&in);
    p.packed_count = (uint32_t)get_count(&in, sizeof *p.packed_files);
    p.packed_files = must_alloc(p.packed_count * sizeof *p.packed_files);
    get(&in, p.packed_files, p.packed_count * sizeof *p.packed_files);
    get_blocks(&in, &p);
    get_counts(&in, &p);
    if (in.bad || in.size > 0) {
        index_part_deinit(&p);
        return err_set(ERR_CORRUPT, "%s: a part of a data index of another version", what);
    }
    *out = p;
    return ERR_NONE;
}

/* ---- merging --------------------------------------------------------------------------------- */

static enum err check_fields(const struct index_part *a, const struct index_part *b)
{
    bool same = a->fields.count == b->fields.count;
    for (size_t i = 0; same && i < a->fields.count; i++)
        same = strcmp(a->fields.items[i], b->fields.items[i]) == 0;
    return same ? ERR_NONE
                : err_set(ERR_INPUT, "the data's files do not all have the same columns");
}

/* Two ascending lists into one. */
static enum err merge_counts(struct index_count *into, struct index_count *from)
{
    size_t a = 0, b = 0, n = 0;
    struct key_count *merged = mem_alloc_array(into->count + from->count, sizeof *merged);
    if (merged == NULL)
        return ERR_MEMORY;
    while (a < into->count || b < from->count) {
        bool left =
            b == from->count || (a < into->count && into->entries[a].key <= from->entries[b].key);
        bool both = left && b < from->count && into->entries[a].key == from->entries[b].key;
        merged[n] = left ? into->entries[a++] : from->entries[b++];
        if (both)
            merged[n].count += from->entries[b++].count;
        n++;
    }
    mem_free(into->entries);
    into->entries = merged;
    into->count = n;
    return ERR_NONE;
}

static void take_texts(struct text_list *into, struct text_list *from)
{
    into->items = must_realloc(into->items, into->count + from->count, sizeof *into->items);
    for (size_t i = 0; i < from->count; i++)
        into->items[into->count++] = from->items[i];
    mem_free(from->items);
    *from = (struct text_list){0};
}

enum err index_part_merge(struct index_part *into, struct index_part *from)
{
    enum err e = ERR_NONE;
    if (from->fields.count == 0) { /* it had no files */
        index_part_deinit(from);
        return ERR_NONE;
    }
    if (into->fields.count == 0) {
        index_part_deinit(into);
        *into = *from;
        *from = (struct index_part){0};
        return ERR_NONE;
    }
    e = check_fields(into, from);
    if (e == ERR_NONE &&
        (into->count_count != from->count_count || into->moment_count != from->moment_count))
        e = err_set(ERR_CORRUPT, "parts of the data index are of different rounds");
    for (uint32_t i = 0; i < into->count_count && e == ERR_NONE; i++)
        e = merge_counts(&into->counts[i], &from->counts[i]);
    if (e != ERR_NONE)
        return e;
    uint32_t blocks = into->block_count + from->block_count;
    into->blocks = must_realloc(into->blocks, blocks, sizeof *into->blocks);
    for (uint32_t i = 0; i < from->block_count; i++)
        into->blocks[into->block_count++] = from->blocks[i];
    from->block_count = 0;
    uint32_t packed = into->packed_count + from->packed_count;
    into->packed_files = must_realloc(into->packed_files, packed, sizeof *into->packed_files);
    for (uint32_t i = 0; i < from->packed_count; i++)
        into->packed_files[into->packed_count++] = from->packed_files[i];
    take_texts(&into->bad, &from->bad);
    into->cut_values += from->cut_values;
    if (from->libffm_fields > into->libffm_fields)
        into->libffm_fields = from->libffm_fields;
    index_part_deinit(from);
    return ERR_NONE;
}

static int by_place(const void *a, const void *b)
{
    const struct index_block *x = a, *y = b;
    if (x->place.file != y->place.file)
        return x->place.file < y->place.file ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

void index_part_sort(struct index_part *p)
{
    if (p->block_count > 0)
        qsort(p->blocks, p->block_count, sizeof *p->blocks, by_place);
}
