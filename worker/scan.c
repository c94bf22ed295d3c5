#include "worker/scan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/compress.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/storage.h"

#define READ_BYTES (256u << 10)
#define HEAD_MAX   (1u << 20)

/* One file as a stream from the front. */
struct stream {
    char *uri;
    struct storage_reader *reader;
    struct decompress *unpacked;
};

struct scan {
    const struct job_data *data;
    const struct reader_format *format;
    struct stream main, labels; /* labels: idx */
    size_t labels_head;
    struct file_head head;
    char *carry; /* bytes that were read and belong to later blocks */
    size_t carry_size, carry_capacity;
    bool ended;
    uint64_t offset, line; /* of the next block */
};

void raw_block_deinit(struct raw_block *b)
{
    mem_free(b->data);
    *b = (struct raw_block){0};
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum err stream_open(struct stream *s, const char *uri)
{
    s->uri = must_strdup(uri);
    enum err e = storage_open(uri, &s->reader);
    return e == ERR_NONE ? decompress_open(s->reader, uri, &s->unpacked) : e;
}

static void stream_close(struct stream *s)
{
    decompress_close(s->unpacked);
    storage_close(s->reader);
    mem_free(s->uri);
}

/* Appends up to `size` bytes to an array; *ended when the stream did. */
static enum err stream_append(struct stream *s, size_t size, char **data, size_t *used,
                              size_t *capacity, bool *ended)
{
    if (!mem_grow(*data, *capacity, *used + size))
        return ERR_MEMORY;
    while (size > 0) {
        size_t got = 0;
        enum err e = decompress_read(s->unpacked, *data + *used, size, &got);
        if (e != ERR_NONE)
            return e;
        if (got == 0) {
            *ended = true;
            return ERR_NONE;
        }
        *used += got;
        size -= got;
    }
    return ERR_NONE;
}

static enum err open_labels(struct scan *s)
{
    char *uri = NULL, *start = NULL;
    size_t used = 0, capacity = 0;
    bool ended = false;
    enum err e = reader_idx_labels_uri(s->main.uri, &uri);
    if (e == ERR_NONE)
        e = stream_open(&s->labels, uri);
    if (e == ERR_NONE)
        e = stream_append(&s->labels, 8, &start, &used, &capacity, &ended);
    if (e == ERR_NONE)
        e = reader_idx_labels_head(uri, span_make(start, used), s->head.record_count,
                                   &s->labels_head);
    mem_free(start);
    mem_free(uri);
    return e;
}

static enum err read_head(struct scan *s)
{
    s->head.lines = 0;
    if (s->format->head == NULL)
        return ERR_NONE;
    enum err e;
    do {
        e = stream_append(&s->main, READ_BYTES, &s->carry, &s->carry_size, &s->carry_capacity,
                          &s->ended);
        if (e != ERR_NONE)
            return e;
        file_head_deinit(&s->head);
        e = s->format->head(s->data, s->main.uri, span_make(s->carry, s->carry_size), s->ended,
                            &s->head);
    } while (e == ERR_LIMIT && !s->ended && s->carry_size < HEAD_MAX);
    if (e != ERR_NONE)
        return e == ERR_LIMIT ? ERR_INPUT : e;
    memmove(s->carry, s->carry + s->head.size, s->carry_size - s->head.size);
    s->carry_size -= s->head.size;
    return s->head.record_bytes > 0 ? open_labels(s) : ERR_NONE;
}

enum err scan_open(const struct job_data *d, const char *uri, struct scan **out)
{
    struct scan *s = mem_calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_MEMORY;
    s->data = d;
    s->format = reader_format_find(d->format);
    enum err e = stream_open(&s->main, uri);
    if (e == ERR_NONE)
        e = read_head(s);
    if (e != ERR_NONE) {
        scan_close(s);
        return e;
    }
    s->offset = s->head.size;
    s->line = 1 + s->head.lines;
    *out = s;
    return ERR_NONE;
}

void scan_close(struct scan *s)
{
    if (s == NULL)
        return;
    stream_close(&s->main);
    stream_close(&s->labels);
    file_head_deinit(&s->head);
    mem_free(s->carry);
    mem_free(s);
}

const struct file_head *scan_head(const struct scan *s)
{
    return &s->head;
}

bool scan_is_splittable(const struct scan *s)
{
    bool labels =
        s->labels.unpacked == NULL || decompress_kind(s->labels.unpacked) == COMPRESS_NONE;
    return labels && decompress_kind(s->main.unpacked) == COMPRESS_NONE;
}

/* ---- cutting --------------------------------------------------------------------------------- */

/* A count that is too small would leave pictures out. */
static enum err check_images_end(struct scan *s)
{
    char *label = NULL;
    size_t used = 0, capacity = 0;
    bool ended = false;
    enum err e = ERR_NONE;
    if (s->carry_size == 0 && !s->ended)
        e = stream_append(&s->main, 1, &s->carry, &s->carry_size, &s->carry_capacity, &s->ended);
    if (e == ERR_NONE && s->carry_size > 0)
        return err_set(ERR_INPUT, "%s: something follows the last of %" PRIu64 " records",
                       s->main.uri, s->head.record_count);
    if (e == ERR_NONE)
        e = stream_append(&s->labels, 1, &label, &used, &capacity, &ended);
    mem_free(label);
    if (e == ERR_NONE && used > 0)
        return err_set(ERR_INPUT, "%s: something follows the last of %" PRIu64 " labels",
                       s->labels.uri, s->head.record_count);
    return e;
}

/* Images: as many as fit a block, then their labels. */
static enum err next_images(struct scan *s, struct raw_block *b)
{
    uint32_t bytes = s->head.record_bytes;
    uint64_t left = s->head.record_count - (s->line - 1), count = SCAN_BLOCK_BYTES / bytes;
    count = count < 1 ? 1 : count > DATA_BLOCK_RECORDS ? DATA_BLOCK_RECORDS : count;
    count = count < left ? count : left;
    if (count == 0)
        return check_images_end(s);
    size_t images = count * bytes;
    bool ended = false;
    enum err e = ERR_NONE;
    if (s->carry_size < images && !s->ended)
        e = stream_append(&s->main, images - s->carry_size, &s->carry, &s->carry_size,
                          &s->carry_capacity, &s->ended);
    if (e != ERR_NONE)
        return e;
    if (s->carry_size < images)
        return err_set(ERR_INPUT, "%s: the file ends in record %" PRIu64 " of %" PRIu64,
                       s->main.uri, s->line + s->carry_size / bytes, s->head.record_count);
    if (!mem_grow(b->data, b->capacity, images + count))
        return ERR_MEMORY;
    memcpy(b->data, s->carry, images);
    memmove(s->carry, s->carry + images, s->carry_size - images);
    s->carry_size -= images;
    b->size = images;
    e = stream_append(&s->labels, count, &b->data, &b->size, &b->capacity, &ended);
    if (e == ERR_NONE && b->size != images + count)
        e = err_set(ERR_INPUT, "%s: the file ends before label %" PRIu64 " of %" PRIu64,
                    s->labels.uri, s->line + b->size - images, s->head.record_count);
    b->record_count = (uint32_t)count;
    b->length = images;
    s->line += count;
    return e;
}

/* Steps over the whole records at the front of `text`, up to the limits of a block. */
static void cut_records(struct scan *s, struct raw_block *b, struct span text, uint64_t *lines,
                        bool *full)
{
    while (b->length < text.size) {
        if (b->length >= SCAN_BLOCK_BYTES || b->record_count == DATA_BLOCK_RECORDS) {
            *full = true;
            return;
        }
        uint32_t record_lines;
        struct span rest = span_make(text.data + b->length, text.size - b->length);
        size_t size = s->format->cut(s->data, rest, s->ended, &record_lines);
        if (size == 0)
            return;
        b->length += size;
        b->record_count++;
        *lines += record_lines;
    }
}

static enum err next_text(struct scan *s, struct raw_block *b)
{
    /* The block takes over what was carried; what is cut off behind it is carried again. */
    if (!mem_grow(b->data, b->capacity, s->carry_size + 1))
        return ERR_MEMORY;
    if (s->carry_size > 0)
        memcpy(b->data, s->carry, s->carry_size);
    b->size = s->carry_size;
    uint64_t lines = 0;
    bool full = false;
    for (;;) {
        cut_records(s, b, span_make(b->data, b->size), &lines, &full);
        if (full || s->ended)
            break;
        if (b->size - b->length > RECORD_MAX_BYTES)
            return err_set(ERR_INPUT,
                           "%s:%" PRIu64
                           ":1: a record is longer than %u bytes; is a quote not closed?",
                           s->main.uri, s->line + lines, RECORD_MAX_BYTES);
        enum err e =
            stream_append(&s->main, READ_BYTES, &b->data, &b->size, &b->capacity, &s->ended);
        if (e != ERR_NONE)
            return e;
    }
    s->carry_size = b->size - b->length;
    if (!mem_grow(s->carry, s->carry_capacity, s->carry_size + 1))
        return ERR_MEMORY;
    memcpy(s->carry, b->data + b->length, s->carry_size);
    b->size = b->length;
    s->line += lines;
    return ERR_NONE;
}

enum err scan_next(struct scan *s, struct raw_block *b)
{
    b->size = b->length = 0;
    b->record_count = 0;
    b->offset = s->offset;
    b->first_line = s->line;
    enum err e = s->head.record_bytes > 0 ? next_images(s, b) : next_text(s, b);
    s->offset += b->length;
    return e;
}

enum err scan_read(struct scan *s, const struct dataindex_block *place, struct raw_block *b)
{
    CHECK(scan_is_splittable(s));
    uint32_t bytes = s->head.record_bytes;
    uint64_t labels = bytes > 0 ? place->size / bytes : 0;
    if (place->size > RECORD_MAX_BYTES + SCAN_BLOCK_BYTES || (bytes > 0 && place->size % bytes > 0))
        return err_set(ERR_CORRUPT, "%s: a block of %" PRIu64 " bytes in the index", s->main.uri,
                       place->size);
    if (!mem_grow(b->data, b->capacity, place->size + labels + 1))
        return ERR_MEMORY;
    enum err e = storage_read_at(s->main.reader, place->offset, b->data, place->size);
    if (e == ERR_NONE && labels > 0)
        e = storage_read_at(s->labels.reader, s->labels_head + place->first_line - 1,
                            b->data + place->size, labels);
    b->size = place->size + labels;
    b->offset = place->offset;
    b->length = place->size;
    b->first_line = place->first_line;
    b->record_count = (uint32_t)labels;
    return e;
}

/* ---- in parallel ----------------------------------------------------------------------------- */

/* Errors of other threads, whose text does not come along by itself. */
struct outcome {
    enum err code;
    char *text;
};

struct wave {
    struct scan *scan;
    const struct scan_visitor *visitor;
    struct raw_block *ready, *next; /* [capacity] */
    uint32_t ready_count, next_count, capacity;
    uint32_t first_number;    /* of ready[0] */
    struct outcome *outcomes; /* [capacity + 1]; the last is of cutting */
};

static void note(struct outcome *o, enum err e)
{
    o->code = e;
    if (e != ERR_NONE)
        o->text = must_strdup(err_text());
}

static bool is_cancelled(const struct scan_visitor *v)
{
    return v->cancel != NULL && atomic_load(v->cancel);
}

static void cut_wave(struct wave *w)
{
    enum err e = ERR_NONE;
    w->next_count = 0;
    while (w->next_count < w->capacity && e == ERR_NONE) {
        struct raw_block *b = &w->next[w->next_count];
        e = is_cancelled(w->visitor) ? err_set(ERR_CANCELLED, "cancelled") : scan_next(w->scan, b);
        if (e == ERR_NONE && b->size == 0)
            break;
        w->next_count += e == ERR_NONE;
    }
    note(&w->outcomes[w->capacity], e);
}

/* Piece 0 cuts the next wave while the others work on this one. */
static void wave_piece(void *context, uint32_t piece, uint32_t thread_index)
{
    struct wave *w = context;
    if (piece == 0) {
        cut_wave(w);
        return;
    }
    const struct scan_visitor *v = w->visitor;
    uint32_t i = piece - 1;
    note(&w->outcomes[i], v->visit(v->context, &w->ready[i], w->first_number + i, thread_index));
}

/* The first error, by block; frees all texts. */
static enum err settle(struct wave *w)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i <= w->capacity; i++) {
        struct outcome *o = &w->outcomes[i];
        if (o->code != ERR_NONE && e == ERR_NONE)
            e = err_set(o->code, "%s", o->text);
        mem_free(o->text);
        *o = (struct outcome){0};
    }
    return e;
}

enum err scan_each(struct scan *s, const struct scan_visitor *v)
{
    struct wave w = {.scan = s, .visitor = v, .capacity = 2 * pool_thread_count(v->pool)};
    w.ready = must_alloc(w.capacity * sizeof *w.ready);
    w.next = must_alloc(w.capacity * sizeof *w.next);
    w.outcomes = must_alloc((w.capacity + 1) * sizeof *w.outcomes);
    enum err e;
    do {
        pool_run(v->pool, w.ready_count + 1, wave_piece, &w);
        e = settle(&w);
        struct raw_block *held = w.ready;
        w.ready = w.next;
        w.next = held;
        w.first_number += w.ready_count;
        w.ready_count = w.next_count;
    } while (e == ERR_NONE && w.ready_count > 0);
    for (uint32_t i = 0; i < w.capacity; i++) {
        raw_block_deinit(&w.ready[i]);
        raw_block_deinit(&w.next[i]);
    }
    mem_free(w.ready);
    mem_free(w.next);
    mem_free(w.outcomes);
    return e;
}

/* ---- identity -------------------------------------------------------------------------------- */

enum err scan_mark(const struct job_data *d, const char *uri, uint64_t *size_out, char mark[64])
{
    struct storage_info info, labels;
    enum err e = storage_stat(uri, &info);
    if (e != ERR_NONE)
        return e;
    if (d->format == FORMAT_IDX) {
        char *labels_uri;
        e = reader_idx_labels_uri(uri, &labels_uri);
        if (e != ERR_NONE)
            return e;
        e = storage_stat(labels_uri, &labels);
        mem_free(labels_uri);
        if (e != ERR_NONE)
            return e;
        uint64_t both =
            hash64(labels.mark, strlen(labels.mark), hash64(info.mark, strlen(info.mark), 0));
        snprintf(info.mark, sizeof info.mark, "%016" PRIx64, both);
    }
    *size_out = info.size;
    memcpy(mark, info.mark, sizeof info.mark);
    return ERR_NONE;
}
