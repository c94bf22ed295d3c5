/*
 * CSV as in RFC 4180: fields may be quoted, and a quoted field may hold delimiters, line ends and
 * doubled quotes; with escape: backslash a backslash inside quotes takes the next character as it
 * is. Lines end with LF or CRLF. A quote inside an unquoted field is a character like others.
 */
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/mem.h"
#include "worker/reader_internal.h"

#define BYTE_ORDER_MARK "\xef\xbb\xbf"

/* ---- where a record ends --------------------------------------------------------------------- */

/* As reader_cut_line(), for a text with quotes in its first line. */
static size_t cut_quoted(const struct job_data *d, struct span text, bool whole,
                         uint32_t *lines_out)
{
    bool quoted = false, quoted_field = false, field_start = true;
    uint32_t lines = 0;
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];
        lines += c == '\n';
        if (quoted) {
            if (c == '\\' && d->csv.escape == ESCAPE_BACKSLASH) {
                i++;
                lines += i < text.size && text.data[i] == '\n';
            } else if (c == '"') {
                quoted = false;
            }
            continue;
        }
        if (c == '\n') {
            *lines_out = lines;
            return i + 1;
        }
        /* A doubled quote opens again what the first of the two closed. */
        bool doubled = quoted_field && c == '"' && text.data[i - 1] == '"';
        if (c == '"' && (field_start || doubled))
            quoted = quoted_field = true;
        if (c == d->csv.delimiter)
            quoted_field = false;
        field_start = c == d->csv.delimiter;
    }
    *lines_out = lines + 1;
    return whole ? text.size : 0;
}

static size_t cut(const struct job_data *d, struct span text, bool whole, uint32_t *lines_out)
{
    size_t size = reader_cut_line(d, text, whole, lines_out);
    struct span line = span_make(text.data, size > 0 ? size : text.size);
    if (line.size == 0 || memchr(line.data, '"', line.size) == NULL)
        return size;
    return cut_quoted(d, text, whole, lines_out);
}

/* ---- fields ---------------------------------------------------------------------------------- */

static bool is_null(const struct job_data *d, struct span field)
{
    for (size_t i = 0; i < d->csv.null.count; i++) {
        const char *text = d->csv.null.items[i];
        if (strlen(text) == field.size && memcmp(text, field.data, field.size) == 0)
            return true;
    }
    return false;
}

/* The closing quote of the field that begins at `start`; NULL: there is none. */
static char *closing_quote(const struct reader *r, char *start, bool *escapes)
{
    bool backslash = r->options.data->csv.escape == ESCAPE_BACKSLASH;
    *escapes = false;
    for (char *p = start + 1; p < r->end; p++) {
        bool more = p + 1 < r->end;
        if (more && ((backslash && *p == '\\') || (!backslash && *p == '"' && p[1] == '"'))) {
            *escapes = true;
            p++;
        } else if (*p == '"') {
            return p;
        }
    }
    return NULL;
}

/* The quoted field that begins at `start`; *stop_out is behind its closing quote. */
static enum err unquote(struct reader *r, char *start, struct span *out, char **stop_out)
{
    bool escapes;
    char *close = closing_quote(r, start, &escapes), *to = start + 1;
    if (close == NULL)
        return reader_error(r, start, "a quoted field is not closed");
    char *stop = close + 1;
    if (stop < r->end && *stop == '\r' && (stop + 1 == r->end || stop[1] == '\n'))
        stop++;
    if (stop < r->end && *stop != r->options.data->csv.delimiter && *stop != '\n')
        return reader_error(r, stop, "text follows the closing quote of a field");
    *stop_out = stop;
    *out = span_make(start + 1, (size_t)(close - start - 1));
    if (!escapes)
        return ERR_NONE;
    char escape = r->options.data->csv.escape == ESCAPE_BACKSLASH ? '\\' : '"';
    for (char *from = start + 1; from < close; from++) {
        if (*from == escape)
            from++;
        *to++ = *from;
    }
    out->size = (size_t)(to - start - 1);
    /* What the field no longer uses must not count as lines in an error's position. */
    memset(to, ' ', (size_t)(close - to));
    return ERR_NONE;
}

/* Steps over the record when it is bad: an open quote reaches to the end of the block. */
static enum err skip_record(struct reader *r, char *start, enum err e)
{
    uint32_t lines;
    struct span rest = span_make(start, (size_t)(r->end - start));
    size_t size = reader_cut_line(r->options.data, rest, true, &lines);
    r->cursor = start + size;
    r->line += lines;
    return e;
}

/* One record from r->cursor into fields; grows them as it goes. */
static enum err split(struct reader *r, uint32_t *count_out)
{
    char delimiter = r->options.data->csv.delimiter;
    uint32_t count = 0, lines = 0;
    for (char *p = r->cursor;;) {
        struct span field;
        if (!mem_grow(r->record.fields, r->field_capacity, count + 1))
            return ERR_MEMORY;
        if (p < r->end && *p == '"') {
            char *start = p;
            enum err e = unquote(r, start, &field, &p);
            if (e != ERR_NONE)
                return e;
            for (size_t i = 0; i < field.size; i++)
                lines += field.data[i] == '\n';
        } else {
            char *start = p;
            while (p < r->end && *p != delimiter && *p != '\n')
                p++;
            bool carriage = p > start && p[-1] == '\r' && (p == r->end || *p == '\n');
            field = span_make(start, (size_t)(p - start) - carriage);
        }
        r->record.fields[count++] = is_null(r->options.data, field) ? (struct span){0} : field;
        if (p == r->end || *p == '\n') {
            r->cursor = p < r->end ? p + 1 : p;
            r->line += lines + 1;
            *count_out = count;
            return ERR_NONE;
        }
        p++;
    }
}

static bool skip_blank_lines(struct reader *r)
{
    while (r->cursor < r->end) {
        size_t size = r->cursor[0] == '\n' ? 1 : 0;
        if (r->end - r->cursor >= 2 && r->cursor[0] == '\r' && r->cursor[1] == '\n')
            size = 2;
        if (size == 0)
            return true;
        r->cursor += size;
        r->line++;
    }
    return false;
}

static enum err next(struct reader *r, bool *end)
{
    if (!skip_blank_lines(r)) {
        *end = true;
        return ERR_NONE;
    }
    char *start = r->cursor;
    r->record.start = start;
    r->record.line = r->line;
    uint32_t count;
    enum err e = split(r, &count);
    if (e != ERR_NONE)
        return skip_record(r, start, e);
    if (count != r->options.column_count)
        return reader_error(r, start, "%u fields, but there are %u columns", count,
                            r->options.column_count);
    return reader_fields(r, count);
}

/* ---- the header ------------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, because there may be thousands of them. */
static enum err check_names(const char *name, const struct file_head *h)
{
    if (h->column_count > COLUMN_MAX)
        return err_set(ERR_LIMIT, "%s:1: the header has %u columns; the most is %u", name,
                       h->column_count, COLUMN_MAX);
    char **sorted = mem_alloc_array(h->column_count, sizeof *sorted);
    enum err e = sorted != NULL ? ERR_NONE : ERR_MEMORY;
    for (uint32_t i = 0; e == ERR_NONE && i < h->column_count; i++) {
        sorted[i] = h->columns[i];
        if (sorted[i][0] == '\0')
            e = err_set(ERR_INPUT, "%s:1: column %u of the header has no name", name, i + 1);
    }
    if (e == ERR_NONE)
        qsort(sorted, h->column_count, sizeof *sorted, compare_names);
    for (uint32_t i = 1; e == ERR_NONE && i < h->column_count; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            e = err_set(ERR_INPUT, "%s:1: the header has the column '%s' twice", name, sorted[i]);
    }
    mem_free(sorted);
    return e;
}

static enum err read_names(const struct job_data *d, const char *name, struct span line,
                           struct file_head *out)
{
    struct job_data plain = *d;
    plain.csv.null.count = 0;
    struct reader_options options = {.data = &plain};
    struct reader *r = NULL;
    char *copy = mem_alloc(line.size);
    uint32_t count = 0;
    enum err e = copy != NULL ? reader_create(&options, &r) : ERR_MEMORY;
    if (e == ERR_NONE) {
        memcpy(copy, line.data, line.size);
        reader_begin(r, &(struct reader_block){
                            .name = name, .data = copy, .size = line.size, .first_line = 1});
        e = split(r, &count);
    }
    if (e == ERR_NONE) {
        out->columns = must_alloc(count * sizeof *out->columns);
        out->column_count = count;
        for (uint32_t i = 0; i < count; i++) {
            struct span field = r->record.fields[i];
            out->columns[i] = must_format("%.*s", (int)field.size, field.data);
        }
        e = check_names(name, out);
    }
    reader_destroy(r);
    mem_free(copy);
    return e;
}

static enum err head(const struct job_data *d, const char *name, struct span start, bool whole,
                     struct file_head *out)
{
    size_t mark = sizeof BYTE_ORDER_MARK - 1;
    if (start.size < mark && !whole)
        return err_set(ERR_LIMIT, "%s: the start is cut off", name);
    if (start.size >= mark && memcmp(start.data, BYTE_ORDER_MARK, mark) == 0)
        out->size = mark;
    if (d->csv.header) {
        struct span rest = span_make(start.data + out->size, start.size - out->size);
        size_t size = cut(d, rest, whole, &out->lines);
        if (size == 0 && !whole)
            return err_set(ERR_LIMIT, "%s:1: the header does not end", name);
        if (size == 0) {
            out->empty = true;
            return ERR_NONE;
        }
        out->size += size;
        if (d->csv.columns.count == 0)
            return read_names(d, name, span_make(rest.data, size), out);
    }
    if (d->csv.columns.count == 0)
        return err_set(ERR_INPUT, "%s: with csv.header: false the job must give csv.columns", name);
    out->column_count = (uint32_t)d->csv.columns.count;
    out->columns = must_alloc(out->column_count * sizeof *out->columns);
    for (uint32_t i = 0; i < out->column_count; i++)
        out->columns[i] = must_strdup(d->csv.columns.items[i]);
    return check_names(name, out);
}

const struct reader_format reader_csv = {
    .format = FORMAT_CSV,
    .head = head,
    .cut = cut,
    .next = next,
};
