/*
 * Criteo's display advertising logs: a line has a label, 13 integers and 26 categories, each may be
 * empty, separated by tabs.
 */
#include "worker/reader_internal.h"

#define FIELDS (1 + CRITEO_INTEGERS + CRITEO_CATEGORIES)

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
    struct span *fields = r->record.fields;
    const char *field = line.data, *stop = line.data + line.size;
    uint32_t count = 0;
    for (const char *p = line.data;; p++) {
        if (p != stop && *p != '\t')
            continue;
        if (count < FIELDS)
            fields[count] = (struct span){p > field ? field : NULL, (size_t)(p - field)};
        count++;
        if (p == stop)
            break;
        field = p + 1;
    }
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
