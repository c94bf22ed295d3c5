/*
 * The bytes of an evaluation:
 *
 *     "EV" 1 loss:u8 flags:u8  output_width metrics examples  sums: i128 little-endian x SUM_COUNT
 *     bins:   count, then for each that is not empty: distance from the last one, negative,
 * positive groups: count, then for each entry: group's distance, key (the distance, within a
 * group), count, weight
 *
 * Numbers are LEB128 of 64 bits in their shortest form. Equal evaluations have equal bytes, and
 * only bytes that an evaluation can have are decoded.
 */
#include "common/evaluation.h"

#include <string.h>

#include "common/evaluation_internal.h"

#define VERSION      1
#define HEADER_BYTES 5

/* ---- encode --------------------------------------------------------------------------------- */

struct writer {
    struct str *out;
    size_t size;
    char bytes[4096];
};

static void flush(struct writer *w)
{
    str_append_span(w->out, span_make(w->bytes, w->size));
    w->size = 0;
}

static void put_byte(struct writer *w, uint8_t byte)
{
    if (w->size == sizeof w->bytes)
        flush(w);
    w->bytes[w->size++] = (char)byte;
}

static void put(struct writer *w, uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        put_byte(w, (uint8_t)(number | 0x80));
    put_byte(w, (uint8_t)number);
}

static void put_bins(struct writer *w, const struct bin *bins)
{
    uint32_t count = 0, next = 0;
    for (uint32_t i = 0; i < BIN_COUNT; i++)
        count += (bins[i].negative | bins[i].positive) != 0;
    put(w, count);
    for (uint32_t i = 0; i < BIN_COUNT; i++) {
        if ((bins[i].negative | bins[i].positive) == 0)
            continue;
        put(w, i - next);
        put(w, bins[i].negative);
        put(w, bins[i].positive);
        next = i + 1;
    }
}

static void put_groups(struct writer *w, struct gauc *g)
{
    gauc_compact(g);
    put(w, g->count);
    uint64_t group = 0;
    uint32_t next_key = 0;
    for (size_t i = 0; i < g->count; i++) {
        const struct gauc_entry *x = &g->entries[i];
        if (x->group != group)
            next_key = 0;
        put(w, x->group - group);
        put(w, x->key - next_key);
        put(w, x->count);
        put(w, x->weight);
        group = x->group;
        next_key = x->key + 1;
    }
}

void evaluation_encode(const struct evaluation *e, struct str *out)
{
    struct writer w = {.out = out};
    put_byte(&w, 'E');
    put_byte(&w, 'V');
    put_byte(&w, VERSION);
    put_byte(&w, (uint8_t)e->loss);
    put_byte(&w, e->invalid);
    put(&w, e->output_width);
    put(&w, e->metrics);
    put(&w, e->examples);
    for (uint32_t s = 0; s < SUM_COUNT; s++)
        for (uint32_t byte = 0; byte < 16; byte++)
            put_byte(&w, (uint8_t)((unsigned __int128)e->sums[s] >> (8 * byte)));
    if (e->bins != NULL)
        put_bins(&w, e->bins);
    if (e->gauc != NULL)
        put_groups(&w, e->gauc);
    flush(&w);
}

/* ---- decode --------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *data;
    size_t size, at;
    bool bad;
};

static uint8_t get_byte(struct reader *r)
{
    if (r->at == r->size) {
        r->bad = true;
        return 0;
    }
    return r->data[r->at++];
}

/* At most `limit`. */
static uint64_t get(struct reader *r, uint64_t limit)
{
    uint64_t number = 0;
    for (uint32_t shift = 0;; shift += 7) {
        uint8_t byte = get_byte(r);
        bool last = byte < 0x80;
        /* Ten bytes at most, the last of them one bit; a final 0 would not be the shortest form. */
        if (shift > 63 || (shift == 63 && byte > 1) || (last && byte == 0 && shift > 0))
            r->bad = true;
        if (r->bad)
            return 0;
        number |= (uint64_t)(byte & 0x7f) << shift;
        if (last)
            break;
    }
    if (number > limit)
        r->bad = true;
    return r->bad ? 0 : number;
}

static void get_bins(struct reader *r, struct bin *bins)
{
    uint64_t count = get(r, BIN_COUNT), next = 0;
    for (uint64_t i = 0; i < count && !r->bad; i++) {
        uint64_t bin = next + get(r, BIN_COUNT);
        uint64_t negative = get(r, UINT64_MAX), positive = get(r, UINT64_MAX);
        if (r->bad || bin >= BIN_COUNT || (negative | positive) == 0) {
            r->bad = true;
            return;
        }
        bins[bin] = (struct bin){negative, positive};
        next = bin + 1;
    }
}

static enum err get_groups(struct reader *r, struct gauc *g)
{
    uint64_t count = get(r, GAUC_ENTRY_MAX), group = 0, next_key = 0;
    if (count > r->size)
        r->bad = true; /* before memory is taken for them */
    enum err err = gauc_reserve(g, r->bad ? 0 : count);
    if (err != ERR_NONE)
        return err;
    for (uint64_t i = 0; i < count && !r->bad; i++) {
        uint64_t distance = get(r, UINT64_MAX - group);
        if (distance > 0)
            next_key = 0;
        group += distance;
        uint64_t key = next_key + get(r, 2 * BIN_COUNT);
        uint64_t examples = get(r, UINT32_MAX), weight = get(r, UINT64_MAX);
        if (r->bad || key >= 2 * BIN_COUNT || examples == 0) {
            r->bad = true;
            break;
        }
        struct gauc_entry entry = {group, (uint32_t)key, (uint32_t)examples, weight};
        gauc_append(g, &entry);
        next_key = key + 1;
    }
    g->sorted = g->count;
    return ERR_NONE;
}

static enum err decode(struct reader *r, struct evaluation *e)
{
    e->examples = get(r, UINT64_MAX);
    for (uint32_t s = 0; s < SUM_COUNT; s++) {
        unsigned __int128 sum = 0;
        for (uint32_t byte = 0; byte < 16; byte++)
            sum |= (unsigned __int128)get_byte(r) << (8 * byte);
        e->sums[s] = (__int128)sum;
    }
    if (e->bins != NULL)
        get_bins(r, e->bins);
    enum err err = e->gauc != NULL ? get_groups(r, e->gauc) : ERR_NONE;
    if (err == ERR_NONE && (r->bad || r->at != r->size))
        err = err_set(ERR_INPUT, "evaluation of %zu bytes is damaged at byte %zu; send it again",
                      r->size, r->at);
    return err;
}

enum err evaluation_decode(struct evaluation *into, const void *data, size_t size)
{
    struct reader r = {.data = data, .size = size};
    if (size < HEADER_BYTES || memcmp(data, "EV", 2) != 0 || r.data[2] != VERSION)
        return err_set(ERR_INPUT, "%zu bytes are not an evaluation of version %d", size, VERSION);
    r.at = 3;
    uint8_t loss = get_byte(&r), invalid = get_byte(&r);
    uint64_t width = get(&r, UINT32_MAX), metrics = get(&r, UINT32_MAX);
    if (r.bad || loss != (uint8_t)into->loss || width != into->output_width ||
        metrics != into->metrics || invalid > 1)
        return err_set(ERR_INPUT,
                       "evaluation of loss %u, %llu outputs, metrics %#llx is not of this "
                       "job, which has loss %d, %u outputs, metrics %#x",
                       loss, (unsigned long long)width, (unsigned long long)metrics,
                       (int)into->loss, into->output_width, into->metrics);
    /* Read as a whole before anything is added, so that a refusal leaves `into` as it was. */
    struct evaluation *e;
    enum err err = evaluation_create(into->loss, into->output_width, into->metrics, &e);
    if (err != ERR_NONE)
        return err;
    e->invalid = invalid;
    err = decode(&r, e);
    if (err == ERR_NONE)
        err = evaluation_merge(into, e);
    evaluation_destroy(e);
    return err;
}
