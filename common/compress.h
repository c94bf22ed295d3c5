/*
 * compress.h - reads gzip, zstd and plain files as one stream of bytes. Walls off zlib and libzstd.
 *
 * The kind is told by the first bytes of the file, never by its name. Several gzip members or zstd
 * frames one after the other are one stream. The reader is pulled: decompress_read() gives the next
 * bytes.
 *
 *     struct decompress *d;
 *     e = decompress_open(reader, uri, &d);
 *     do
 *         e = decompress_read(d, block, sizeof block, &got);    then use the `got` bytes
 *     while (e == ERR_NONE && got > 0);
 *     decompress_close(d);
 *
 * Bounds   memory: one input block of 256 KiB, and a zstd window of at most 128 MiB (2^27; a file
 *          that asks for more is ERR_LIMIT). What comes out has no bound: the caller bounds
 *          records, not files.
 * Threads  one stream by one thread at a time; several streams may share one storage_reader.
 * Errors   ERR_CORRUPT for bytes that do not verify, trailing garbage and a truncated stream: the
 *          text names the file and the offset in it (of the compressed bytes). ERR_IO and others as
 *          storage_read_at() gives them. After an error every further read gives an error.
 * Sources  RFC 1952 (gzip), RFC 8878 (zstd).
 */
#ifndef PARAMD_COMMON_COMPRESS_H
#define PARAMD_COMMON_COMPRESS_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/storage.h"

enum compress_kind { COMPRESS_NONE, COMPRESS_GZIP, COMPRESS_ZSTD };
const char *compress_kind_name(enum compress_kind k); /* "none", "gzip", "zstd" */

/* What the first bytes say; an empty or very short file is COMPRESS_NONE. Only COMPRESS_NONE can be
   split. */
enum err compress_detect(struct storage_reader *source, enum compress_kind *out) MUST_CHECK;

struct decompress;

/* From the file's first byte. Borrows `source` until decompress_close(); `name` is copied, for
   texts. */
enum err decompress_open(struct storage_reader *source, const char *name,
                         struct decompress **out) MUST_CHECK;
/* The next bytes, at least one, at most `capacity` (> 0); *got_out = 0: the end, all verified. */
enum err decompress_read(struct decompress *d, void *out, size_t capacity,
                         size_t *got_out) MUST_CHECK;
enum compress_kind decompress_kind(const struct decompress *d);
/* Bytes of the file read so far: for progress. */
uint64_t decompress_position(const struct decompress *d);
void decompress_close(struct decompress *d); /* accepts NULL; not the reader */

#endif
