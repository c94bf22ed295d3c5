#include "common/compress.h"

#include <inttypes.h>
#include <string.h>

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "common/check.h"
#include "common/mem.h"

#define INPUT_BYTES         ((size_t)256 << 10)
#define ZSTD_WINDOW_LOG_MAX 27
#define GZIP_WINDOW_BITS    (15 + 16) /* 16: with the header and trailer of gzip, not of zlib */
#define INFLATE_MAX         ((size_t)1 << 30) /* a call; zlib counts in unsigned int */

struct decompress {
    struct storage_reader *source;
    char *name;
    enum compress_kind kind;
    uint64_t offset; /* of the next byte to read from the file */
    uint8_t *input;
    size_t input_at, input_size;
    bool is_within; /* a gzip member or zstd frame: the file must not end here */
    z_stream gzip;
    ZSTD_DCtx *zstd;
    enum err failure; /* once it has failed, it fails the same way for ever */
    char *failure_text;
};

const char *compress_kind_name(enum compress_kind k)
{
    static const char *const names[] = {"none", "gzip", "zstd"};
    CHECK((unsigned)k < sizeof names / sizeof names[0]);
    return names[k];
}

enum err compress_detect(struct storage_reader *source, enum compress_kind *out)
{
    uint8_t magic[4] = {0};
    uint64_t size = storage_reader_size(source);
    if (size > 0) {
        size_t count = size < sizeof magic ? (size_t)size : sizeof magic;
        enum err e = storage_read_at(source, 0, magic, count);
        if (e != ERR_NONE)
            return e;
    }
    static const uint8_t zstd_frame[4] = {0x28, 0xb5, 0x2f, 0xfd};
    static const uint8_t zstd_skippable[3] = {0x2a, 0x4d, 0x18}; /* behind 0x50 to 0x5f */
    *out = COMPRESS_NONE;
    if (magic[0] == 0x1f && magic[1] == 0x8b)
        *out = COMPRESS_GZIP;
    else if (memcmp(magic, zstd_frame, 4) == 0 ||
             ((magic[0] & 0xf0) == 0x50 && memcmp(magic + 1, zstd_skippable, 3) == 0))
        *out = COMPRESS_ZSTD;
    return ERR_NONE;
}

static enum err open_codec(struct decompress *d)
{
    if (d->kind == COMPRESS_NONE)
        return ERR_NONE;
    d->input = mem_alloc(INPUT_BYTES);
    if (d->input == NULL)
        return ERR_MEMORY;
    if (d->kind == COMPRESS_GZIP)
        return inflateInit2(&d->gzip, GZIP_WINDOW_BITS) == Z_OK
                   ? ERR_NONE
                   : err_set(ERR_MEMORY, "cannot start zlib");
    d->zstd = ZSTD_createDCtx();
    if (d->zstd == NULL ||
        ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX)))
        return err_set(ERR_MEMORY, "cannot start zstd");
    return ERR_NONE;
}

enum err decompress_open(struct storage_reader *source, const char *name, struct decompress **out)
{
    enum compress_kind kind;
    enum err e = compress_detect(source, &kind);
    if (e != ERR_NONE)
        return e;
    struct decompress *d = must_alloc(sizeof *d);
    d->source = source;
    d->name = must_strdup(name);
    d->kind = kind;
    e = open_codec(d);
    if (e != ERR_NONE) {
        e = err_prefix(e, "'%s'", name);
        decompress_close(d);
        return e;
    }
    *out = d;
    return ERR_NONE;
}

static enum err fail_corrupt(const struct decompress *d, const char *reason)
{
    return err_set(ERR_CORRUPT, "'%s' is no good %s stream at byte %" PRIu64 " of %" PRIu64 ": %s",
                   d->name, compress_kind_name(d->kind), decompress_position(d),
                   storage_reader_size(d->source), reason);
}

static enum err refill(struct decompress *d)
{
    uint64_t left = storage_reader_size(d->source) - d->offset;
    size_t size = left < INPUT_BYTES ? (size_t)left : INPUT_BYTES;
    d->input_at = d->input_size = 0;
    if (size == 0)
        return ERR_NONE;
    enum err e = storage_read_at(d->source, d->offset, d->input, size);
    if (e != ERR_NONE)
        return e;
    d->offset += size;
    d->input_size = size;
    return ERR_NONE;
}

static enum err step_gzip(struct decompress *d, uint8_t *out, size_t capacity, size_t *got)
{
    if (!d->is_within && inflateReset(&d->gzip) != Z_OK)
        return fail_corrupt(d, "zlib cannot start a member");
    d->is_within = true;
    uInt offered = (uInt)(capacity < INFLATE_MAX ? capacity : INFLATE_MAX);
    d->gzip.next_in = d->input + d->input_at;
    d->gzip.avail_in = (uInt)(d->input_size - d->input_at);
    d->gzip.next_out = out;
    d->gzip.avail_out = offered;
    int result = inflate(&d->gzip, Z_NO_FLUSH);
    d->input_at = d->input_size - d->gzip.avail_in;
    *got = offered - d->gzip.avail_out;
    if (result == Z_STREAM_END)
        d->is_within = false;
    else if (result != Z_OK && result != Z_BUF_ERROR)
        return fail_corrupt(d, d->gzip.msg != NULL ? d->gzip.msg : zError(result));
    return ERR_NONE;
}

static enum err step_zstd(struct decompress *d, uint8_t *out, size_t capacity, size_t *got)
{
    ZSTD_inBuffer in = {.src = d->input, .size = d->input_size, .pos = d->input_at};
    ZSTD_outBuffer produced = {.dst = out, .size = capacity};
    d->is_within = true;
    size_t result = ZSTD_decompressStream(d->zstd, &produced, &in);
    d->input_at = in.pos;
    *got = produced.pos;
    if (result == 0)
        d->is_within = false;
    else if (ZSTD_isError(result) &&
             ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge)
        return err_set(ERR_LIMIT, "'%s' needs a zstd window over the limit of 2^%d bytes", d->name,
                       ZSTD_WINDOW_LOG_MAX);
    else if (ZSTD_isError(result))
        return fail_corrupt(d, ZSTD_getErrorName(result));
    return ERR_NONE;
}

static enum err read_plain(struct decompress *d, void *out, size_t capacity, size_t *got_out)
{
    uint64_t left = storage_reader_size(d->source) - d->offset;
    size_t size = left < capacity ? (size_t)left : capacity;
    enum err e = size > 0 ? storage_read_at(d->source, d->offset, out, size) : ERR_NONE;
    if (e != ERR_NONE)
        return e;
    d->offset += size;
    *got_out = size;
    return ERR_NONE;
}

static enum err read_stream(struct decompress *d, void *out, size_t capacity, size_t *got_out)
{
    for (;;) {
        if (d->input_at == d->input_size) {
            enum err e = refill(d);
            if (e != ERR_NONE)
                return e;
        }
        bool is_empty = d->input_size == 0;
        if (is_empty && !d->is_within) {
            *got_out = 0;
            return ERR_NONE;
        }
        /* Without input too: there may be output that did not fit before. */
        size_t got = 0;
        enum err e = d->kind == COMPRESS_GZIP ? step_gzip(d, out, capacity, &got)
                                              : step_zstd(d, out, capacity, &got);
        if (e != ERR_NONE)
            return e;
        if (got > 0) {
            *got_out = got;
            return ERR_NONE;
        }
        if (is_empty && d->is_within)
            return fail_corrupt(d, "the file ends in the middle: it is truncated");
    }
}

enum err decompress_read(struct decompress *d, void *out, size_t capacity, size_t *got_out)
{
    CHECK(capacity > 0);
    if (d->failure != ERR_NONE)
        return err_set(d->failure, "%s", d->failure_text);
    enum err e = d->kind == COMPRESS_NONE ? read_plain(d, out, capacity, got_out)
                                          : read_stream(d, out, capacity, got_out);
    if (e != ERR_NONE) {
        d->failure = e;
        d->failure_text = must_strdup(err_text());
    }
    return e;
}

enum compress_kind decompress_kind(const struct decompress *d)
{
    return d->kind;
}

uint64_t decompress_position(const struct decompress *d)
{
    return d->offset - (d->input_size - d->input_at);
}

void decompress_close(struct decompress *d)
{
    if (d == NULL)
        return;
    if (d->kind == COMPRESS_GZIP)
        inflateEnd(&d->gzip);
    ZSTD_freeDCtx(d->zstd);
    mem_free(d->input);
    mem_free(d->failure_text);
    mem_free(d->name);
    mem_free(d);
}
