#include "worker/reader.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "worker/reader_internal.h"

static const struct reader_format *const formats[] = {
    &reader_csv, &reader_criteo, &reader_libsvm, &reader_libffm, &reader_idx,
};

const struct reader_format *reader_format_find(enum data_format f)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (formats[i]->format == f)
            return formats[i];
    }
    CHECK(!"every data_format has a reader");
    return NULL;
}

static const char *const criteo_columns[1 + CRITEO_INTEGERS + CRITEO_CATEGORIES] = {
    "label", "I1",  "I2",  "I3",  "I4",  "I5",  "I6",  "I7",  "I8",  "I9",
    "I10",   "I11", "I12", "I13", "C1",  "C2",  "C3",  "C4",  "C5",  "C6",
    "C7",    "C8",  "C9",  "C10", "C11", "C12", "C13", "C14", "C15", "C16",
    "C17",   "C18", "C19", "C20", "C21", "C22", "C23", "C24", "C25", "C26",
};

void reader_columns(enum data_format f, const char *const **names_out, uint32_t *count_out)
{
    if (f == FORMAT_CSV)
        return;
    *names_out = criteo_columns;
    *count_out = f == FORMAT_CRITEO ? sizeof criteo_columns / sizeof *criteo_columns : 1;
}

void file_head_deinit(struct file_head *h)
{
    for (uint32_t i = 0; i < h->column_count; i++)
        mem_free(h->columns[i]);
    mem_free(h->columns);
    *h = (struct file_head){0};
}

enum err reader_create(const struct reader_options *o, struct reader **out)
{
    struct reader *r = mem_calloc(1, sizeof *r);
    if (r == NULL)
        return ERR_MEMORY;
    r->options = *o;
    r->format = reader_format_find(o->data->format);
    *out = r;
    return ERR_NONE;
}

void reader_destroy(struct reader *r)
{
    if (r == NULL)
        return;
    mem_free(r->record.fields);
    mem_free(r->record.entries);
    mem_free(r);
}

void reader_begin(struct reader *r, const struct reader_block *b)
{
    r->block = *b;
    r->cursor = b->data;
    r->end = b->data + b->size;
    r->line = b->first_line;
    r->index = 0;
    r->record.start = b->data;
    r->record.line = b->first_line;
    if (r->options.record_bytes > 0) {
        CHECK(b->size == (size_t)b->record_count * (r->options.record_bytes + 1));
        r->labels = (const uint8_t *)b->data + (size_t)b->record_count * r->options.record_bytes;
    }
}

enum err reader_next(struct reader *r, const struct record **out)
{
    bool end = false;
    enum err e = r->format->next(r, &end);
    if (e == ERR_NONE)
        *out = end ? NULL : &r->record;
    return e;
}

enum err reader_fields(struct reader *r, uint32_t own_count)
{
    size_t count = (size_t)own_count + r->block.extra_count;
    if (!mem_grow(r->record.fields, r->field_capacity, count))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < r->block.extra_count; i++)
        r->record.fields[own_count + i] = span_of(r->block.extra_values[i]);
    r->record.field_count = (uint32_t)count;
    return ERR_NONE;
}

bool reader_line(struct reader *r, struct span *out)
{
    if (r->cursor == r->end)
        return false;
    char *start = r->cursor;
    char *stop = memchr(start, '\n', (size_t)(r->end - start));
    r->cursor = stop != NULL ? stop + 1 : r->end;
    if (stop == NULL)
        stop = r->end;
    if (stop > start && stop[-1] == '\r')
        stop--;
    r->record.start = start;
    r->record.line = r->line++;
    *out = span_make(start, (size_t)(stop - start));
    return true;
}

size_t reader_cut_line(const struct job_data *d, struct span text, bool whole, uint32_t *lines_out)
{
    const char *stop = text.size > 0 ? memchr(text.data, '\n', text.size) : NULL;
    *lines_out = 1;
    if (stop != NULL)
        return (size_t)(stop - text.data) + 1;
    return whole ? text.size : 0;
}

enum err reader_error(const struct reader *r, const char *at, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (r->options.record_bytes > 0)
        return err_set(ERR_INPUT, "%s: record %" PRIu64 ": %s", r->block.name, r->record.line,
                       text);
    uint64_t line = r->record.line;
    const char *start = r->record.start;
    if (at == NULL || at < start || at > r->end)
        at = start;
    for (const char *p = start; p < at; p++) {
        if (*p == '\n') {
            line++;
            start = p + 1;
        }
    }
    return err_set(ERR_INPUT, "%s:%" PRIu64 ":%zu: %s", r->block.name, line,
                   (size_t)(at - start) + 1, text);
}

bool reader_number(struct span text, double *out)
{
    static const double tens[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    /* Up to 15 digits and a power of ten up to 15 are exact doubles, so one division rounds
     * correctly. */
    size_t i = 0, digits = 0, decimals = 0;
    uint64_t value = 0;
    bool negative = text.size > 0 && text.data[0] == '-', point = false;
    for (i = negative; i < text.size; i++) {
        char c = text.data[i];
        if (c >= '0' && c <= '9') {
            value = value * 10 + (uint64_t)(c - '0');
            decimals += point;
            if (++digits > 15)
                break;
        } else if (c == '.' && !point) {
            point = true;
        } else {
            break;
        }
    }
    if (i == text.size && digits > 0 && text.data[i - 1] != '.') {
        double number = (double)value / tens[decimals];
        *out = negative ? -number : number;
        return true;
    }
    if (text.size > 1 && text.data[0] == '+' && text.data[1] != '-' && text.data[1] != '+')
        return reader_number(span_make(text.data + 1, text.size - 1), out);
    return str_parse_f64(text, out) == ERR_NONE;
}
