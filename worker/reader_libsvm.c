/*
 * libsvm: `label index:value …`. What libffm shares with it is here too: blanks between tokens,
 * `#` begins a comment, empty lines do not count.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/limits.h"
#include "common/mem.h"
#include "worker/reader_internal.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next run of other characters than blanks; empty at the end. */
static struct span next_token(struct span *rest)
{
    while (rest->size > 0 && is_blank(rest->data[0])) {
        rest->data++;
        rest->size--;
    }
    size_t size = 0;
    while (size < rest->size && !is_blank(rest->data[size]))
        size++;
    struct span token = span_make(rest->data, size);
    rest->data += size;
    rest->size -= size;
    return token;
}

/* Digits up to ':' or the token's end. */
static bool parse_index(struct span *token, uint64_t *out)
{
    uint64_t value = 0;
    size_t i = 0;
    for (; i < token->size && token->data[i] >= '0' && token->data[i] <= '9'; i++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(token->data[i] - '0'), &value))
            return false;
    }
    if (i == 0 || (i < token->size && token->data[i] != ':'))
        return false;
    *out = value;
    token->data += i;
    token->size -= i;
    return true;
}

static int shown(struct span text)
{
    return text.size < 40 ? (int)text.size : 40;
}

static enum err bad_token(const struct reader *r, struct span token, bool with_field,
                          const char *what)
{
    return reader_error(r, token.data, "%s in '%.*s'; a term is %s", what, shown(token), token.data,
                        with_field ? "field:index:value" : "index:value");
}

static enum err parse_entry(struct reader *r, struct span token, bool with_field,
                            struct record_entry *out)
{
    struct span rest = token;
    uint64_t field = 0;
    if (with_field) {
        if (!parse_index(&rest, &field))
            return bad_token(r, token, with_field, "the field is not a whole number");
        if (field >= FEATURE_MAX)
            return reader_error(r, token.data,
                                "field %.*s in '%.*s' is too large; the largest is %u",
                                (int)(rest.data - token.data), token.data, shown(token), token.data,
                                FEATURE_MAX - 1);
        if (rest.size == 0)
            return bad_token(r, token, with_field, "the index is missing");
        rest.data++;
        rest.size--;
    }
    if (!parse_index(&rest, &out->index))
        return bad_token(r, token, with_field, "the index is not a whole number");
    if (rest.size == 0)
        return bad_token(r, token, with_field, "the value is missing");
    double value;
    if (!reader_number(span_make(rest.data + 1, rest.size - 1), &value) || fabs(value) > FLT_MAX)
        return bad_token(r, token, with_field, "the value is not a number");
    out->field = (uint32_t)field;
    out->value = (float)value;
    return ERR_NONE;
}

static enum err parse_entries(struct reader *r, struct span line, bool with_field)
{
    struct record *record = &r->record;
    size_t count = 0;
    for (;;) {
        struct span token = next_token(&line);
        if (token.size == 0)
            break;
        if (!mem_grow(record->entries, r->entry_capacity, count + 1))
            return ERR_MEMORY;
        enum err e = parse_entry(r, token, with_field, &record->entries[count]);
        if (e != ERR_NONE)
            return e;
        count++;
    }
    record->entry_count = (uint32_t)count;
    return ERR_NONE;
}

enum err reader_next_entries(struct reader *r, bool with_field, bool *end)
{
    struct span line, label;
    do {
        if (!reader_line(r, &line)) {
            *end = true;
            return ERR_NONE;
        }
        const char *comment = line.size > 0 ? memchr(line.data, '#', line.size) : NULL;
        if (comment != NULL)
            line.size = (size_t)(comment - line.data);
        label = next_token(&line);
    } while (label.size == 0);
    enum err e = reader_fields(r, 1);
    if (e != ERR_NONE)
        return e;
    r->record.fields[0] = label;
    if (memchr(label.data, ':', label.size) != NULL)
        return reader_error(r, label.data, "'%.*s' stands where the label should be", shown(label),
                            label.data);
    return parse_entries(r, line, with_field);
}

enum err reader_parse_entries(struct reader *r, struct span text, const struct record **out)
{
    enum err e = reader_fields(r, 1);
    if (e != ERR_NONE)
        return e;
    r->record.fields[0] = (struct span){0};
    r->record.start = text.data;
    r->end = (char *)(uintptr_t)text.data + text.size;
    e = parse_entries(r, text, r->format->format == FORMAT_LIBFFM);
    if (e == ERR_NONE)
        *out = &r->record;
    return e;
}

static enum err next(struct reader *r, bool *end)
{
    return reader_next_entries(r, false, end);
}

const struct reader_format reader_libsvm = {
    .format = FORMAT_LIBSVM,
    .cut = reader_cut_line,
    .next = next,
};
