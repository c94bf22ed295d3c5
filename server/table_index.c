#include "server/table_index.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define DISPLACEMENT_MAX 512 /* lines from a key's home; mixed keys stay far below */
#define ORDER_MAX        29u /* of a segment's block: its lines have 32-bit numbers */

/* Lines that keys may lie in, with the tail; one more stays empty. */
static uint32_t lines_used(uint32_t line_count)
{
    return line_count + line_count / 32 + 2;
}

static uint32_t lines_of_order(uint32_t order)
{
    return (uint32_t)(blocks_bytes(order) / sizeof(struct index_line));
}

/* The most homes for which tail and empty line find room in a block. */
static uint32_t homes_of_order(uint32_t order)
{
    uint32_t lines = lines_of_order(order) - 3, homes = (uint32_t)(lines * UINT64_C(32) / 33);
    while (lines_used(homes + 1) + 1 <= lines_of_order(order))
        homes++;
    return homes;
}

/* The order of the block that a segment has; it has one. */
static uint32_t order_of(const struct index_segment *s)
{
    uint32_t lines = lines_used(s->line_count) + 1, order = 0;
    while (lines_of_order(order) < lines)
        order++;
    return order;
}

enum err index_init(struct table_index *x, uint32_t first_partition, uint32_t end_partition)
{
    CHECK(first_partition <= end_partition && end_partition <= PARTITION_COUNT);
    *x = (struct table_index){.first_partition = first_partition,
                              .segment_count = end_partition - first_partition};
    x->segments = mem_calloc(x->segment_count, sizeof *x->segments);
    if (x->segments == NULL)
        return ERR_MEMORY;
    x->bytes = x->segment_count * sizeof *x->segments;
    return ERR_NONE;
}

static void segment_deinit(struct table_index *x, struct index_segment *s)
{
    if (s->line_count == 0)
        return;
    uint32_t order = order_of(s);
    blocks_free(&x->blocks, s->lines, order);
    x->bytes -= blocks_bytes(order);
}

void index_deinit(struct table_index *x)
{
    for (uint32_t i = 0; x->segments != NULL && i < x->segment_count; i++)
        segment_deinit(x, &x->segments[i]);
    blocks_deinit(&x->blocks);
    mem_free(x->segments);
    *x = (struct table_index){0};
}

static enum err segment_init(struct table_index *x, struct index_segment *s, uint32_t order)
{
    struct index_line *lines = blocks_alloc(&x->blocks, order);
    if (lines == NULL)
        return ERR_MEMORY;
    memset(lines, 0xff, (size_t)blocks_bytes(order));
    *s = (struct index_segment){.lines = lines, .line_count = homes_of_order(order)};
    x->bytes += blocks_bytes(order);
    return ERR_NONE;
}

/* Places the ascending keys of `from`; false: the tail is too short. */
static bool segment_fill(struct index_segment *to, const struct index_segment *from)
{
    uint32_t used = lines_used(to->line_count), line = 0, at = 0; /* the next free slot */
    uint32_t end = from->line_count > 0 ? lines_used(from->line_count) : 0;
    for (const struct index_line *l = from->lines; l < from->lines + end; l++) {
        for (uint32_t i = 0; i < INDEX_LINE_SLOTS && l->rows[i] != INDEX_EMPTY; i++) {
            uint32_t home = index_home(to, l->keys[i]);
            if (home > line) {
                line = home;
                at = 0;
            }
            if (line >= used)
                return false;
            to->lines[line].keys[at] = l->keys[i];
            to->lines[line].rows[at] = l->rows[i];
            if (++at == INDEX_LINE_SLOTS) {
                at = 0;
                line++;
            }
        }
    }
    to->count = from->count;
    return true;
}

static enum err crowded(const struct table_index *x, const struct index_segment *s)
{
    return err_set(ERR_LIMIT,
                   "%u keys crowd in partition %u: keys must be mixed (mix64) before they are sent",
                   s->count, x->first_partition + (uint32_t)(s - x->segments));
}

/* Seven of ten slots would be used, or more. */
static bool is_full(uint64_t keys, uint32_t homes)
{
    return keys * 10 >= (uint64_t)homes * INDEX_LINE_SLOTS * 7;
}

/* At least to the next size, and to one that has room for `keys`. */
static enum err segment_grow(struct table_index *x, struct index_segment *s, uint64_t keys)
{
    uint32_t order = s->line_count > 0 ? order_of(s) + 1 : 0;
    while (order < ORDER_MAX && is_full(keys, homes_of_order(order)))
        order++;
    for (;; order++) {
        if (order > ORDER_MAX)
            return err_set(ERR_LIMIT, "a partition with %u rows cannot grow", s->count);
        if (homes_of_order(order) > 16 * (keys + 64))
            return crowded(x, s);
        struct index_segment grown;
        enum err e = segment_init(x, &grown, order);
        if (e != ERR_NONE)
            return e;
        if (segment_fill(&grown, s)) {
            segment_deinit(x, s);
            *s = grown;
            return ERR_NONE;
        }
        segment_deinit(x, &grown);
    }
}

enum err index_expect(struct table_index *x, uint32_t partition, uint64_t keys)
{
    CHECK(partition >= x->first_partition && partition - x->first_partition < x->segment_count);
    struct index_segment *s = &x->segments[partition - x->first_partition];
    return is_full(s->count + keys, s->line_count) ? segment_grow(x, s, s->count + keys) : ERR_NONE;
}

/* The first empty slot from `slot` on; at its segment's end, the first of the line that stays
 * empty. */
static struct index_slot next_empty(struct index_slot slot)
{
    while (slot.line->rows[slot.at] != INDEX_EMPTY) {
        if (++slot.at == INDEX_LINE_SLOTS) {
            slot.at = 0;
            slot.line++;
        }
    }
    return slot;
}

enum err index_reserve(struct table_index *x, uint64_t key, struct index_place *out)
{
    struct index_segment *s = index_segment(x, key);
    if (is_full(s->count, s->line_count)) {
        enum err e = segment_grow(x, s, s->count);
        if (e != ERR_NONE)
            return e;
    }
    for (;;) {
        struct index_slot slot = index_probe(s, key);
        if (slot.line - s->lines > (int64_t)index_home(s, key) + DISPLACEMENT_MAX)
            return crowded(x, s);
        struct index_slot end = next_empty(slot);
        if (end.line < s->lines + lines_used(s->line_count)) {
            *out = (struct index_place){slot, end};
            return ERR_NONE;
        }
        enum err e = segment_grow(x, s, s->count);
        if (e != ERR_NONE)
            return e;
    }
}

void index_insert(struct table_index *x, uint64_t key, uint32_t row,
                  const struct index_place *place)
{
    struct index_slot slot = place->slot, end = place->end;
    CHECK(!index_has(place, key));
    /* Everything up to the empty slot moves on by one. */
    while (end.line != slot.line || end.at != slot.at) {
        struct index_slot before = {end.at > 0 ? end.line : end.line - 1,
                                    end.at > 0 ? end.at - 1 : INDEX_LINE_SLOTS - 1};
        end.line->keys[end.at] = before.line->keys[before.at];
        end.line->rows[end.at] = before.line->rows[before.at];
        end = before;
    }
    slot.line->keys[slot.at] = key;
    slot.line->rows[slot.at] = row;
    index_segment(x, key)->count++;
    x->count++;
}

bool index_next(const struct table_index *x, uint64_t *key, uint32_t *row)
{
    uint32_t partition = partition_of_key(*key);
    uint32_t i = partition > x->first_partition ? partition - x->first_partition : 0;
    for (; i < x->segment_count; i++) {
        const struct index_segment *s = &x->segments[i];
        if (s->count == 0)
            continue;
        struct index_slot slot = {s->lines, 0};
        if (partition == x->first_partition + i)
            slot = index_probe(s, *key);
        /* Lines are filled from the left: behind an empty slot the next line is the first that may
           have a key. */
        const struct index_line *end = s->lines + lines_used(s->line_count);
        while (slot.line < end && slot.line->rows[slot.at] == INDEX_EMPTY)
            slot = (struct index_slot){slot.line + 1, 0};
        if (slot.line < end) {
            *key = slot.line->keys[slot.at];
            *row = slot.line->rows[slot.at];
            return true;
        }
    }
    return false;
}
