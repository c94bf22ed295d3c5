/*
 * Criteo's display advertising logs: a line has a label, 13 integers and 26 categories, each may be
 * empty, separated by tabs.
 */
#include <string.h>

#include "worker/reader_internal.h"

#define FIELDS (1 + CRITEO_INTEGERS + CRITEO_CATEGORIES)

struct cutter {
    struct span *fields;
    uint32_t count;
    const char *field; /* where the current one begins */
};

static void end_field(struct cutter *c, const char *at)
{
    if (c->count < FIELDS)
        c->fields[c->count] =
            (struct span){at > c->field ? c->field : NULL, (size_t)(at - c->field)};
    c->count++;
    c->field = at + 1;
}

/* Cuts at tabs, eight bytes at a time; returns how many fields there are. */
static uint32_t cut(struct span line, struct span *fields)
{
    const uint64_t tabs = 0x0909090909090909, low = 0x7f7f7f7f7f7f7f7f;
    struct cutter c = {fields, 0, line.data};
    size_t i = 0;
    for (; line.size - i >= sizeof(uint64_t); i += sizeof(uint64_t)) {
        uint64_t bytes;
        memcpy(&bytes, line.data + i, sizeof bytes);
        bytes ^= tabs;
        /* The top bit of each byte that was a tab: no carry passes from byte to byte. */
        uint64_t found = ~(((bytes & low) + low) | bytes | low);
        for (; found != 0; found &= found - 1)
            end_field(&c, line.data + i + (unsigned)__builtin_ctzll(found) / 8);
    }
    for (; i < line.size; i++) {
        if (line.data[i] == '\t')
            end_field(&c, line.data + i);
    }
    end_field(&c, line.data + line.size);
    return c.count;
}

static enum err next(struct reader *r, bool *end)
{
    struct span line;
    do {
        if (!reader_line(r, &line)) {
            *end = true;
            return ERR_NONE;
        }
    } while (line.size == 0);
    enum err e = reader_fields(r, FIELDS);
    if (e != ERR_NONE)
        return e;
    uint32_t count = cut(line, r->record.fields);
    if (count != FIELDS)
        return reader_error(
            r, line.data,
            "%u fields, but a criteo line has %u (label, I1-I13, C1-C26) with tabs between", count,
            FIELDS);
    return ERR_NONE;
}

const struct reader_format reader_criteo = {
    .format = FORMAT_CRITEO,
    .cut = reader_cut_line,
    .next = next,
};
