/*
 * Goal: the stream gives back exactly what was compressed, whatever the kind, however it is cut;
 * anything else, truncation at every byte above all, is an error that names the file.
 *
 * Method: zlib's and zstd's own compressors write small files; every file is read through blocks of
 * several sizes, then with every prefix of it and with each byte damaged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>
#include <zstd.h>

#include "common/compress.h"

#define TEXT_SIZE  20000
#define LARGE_SIZE (3 << 20)

static char path[64];

struct bytes {
    uint8_t *data;
    size_t size;
};

static void put_file(const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

/* Compressible, but not to nothing. */
static struct bytes make_text(size_t size)
{
    struct bytes t = {malloc(size), size};
    uint32_t x = 12345;
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525 + 1013904223;
        t.data[i] = (uint8_t)("abcdefgh\n"[x >> 24 & 7]);
    }
    return t;
}

static struct bytes add_gzip(struct bytes to, const uint8_t *data, size_t size)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t bound = deflateBound(&z, size);
    to.data = realloc(to.data, to.size + bound);
    z.next_in = (uint8_t *)(uintptr_t)data;
    z.avail_in = (uInt)size;
    z.next_out = to.data + to.size;
    z.avail_out = (uInt)bound;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    to.size += z.total_out;
    deflateEnd(&z);
    return to;
}

static struct bytes add_zstd(struct bytes to, const uint8_t *data, size_t size)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t bound = ZSTD_compressBound(size);
    to.data = realloc(to.data, to.size + bound);
    size_t written = ZSTD_compress2(c, to.data + to.size, bound, data, size);
    assert_false(ZSTD_isError(written));
    to.size += written;
    ZSTD_freeCCtx(c);
    return to;
}

/* Reads the file at `path` in blocks of `block` bytes. */
static enum err read_file(size_t block, struct bytes *out, enum compress_kind *kind)
{
    struct storage_reader *r = NULL;
    struct decompress *d = NULL;
    uint8_t *piece = malloc(block);
    *out = (struct bytes){malloc(LARGE_SIZE), 0};
    enum err e = storage_open(path, &r);
    if (e == ERR_NONE)
        e = decompress_open(r, path, &d);
    size_t got = 1;
    if (e == ERR_NONE)
        *kind = decompress_kind(d);
    while (e == ERR_NONE && got > 0) {
        e = decompress_read(d, piece, block, &got);
        if (e != ERR_NONE)
            break;
        assert_true(got <= block && got <= LARGE_SIZE - out->size);
        memcpy(out->data + out->size, piece, got);
        out->size += got;
    }
    if (e == ERR_NONE)
        assert_int_equal(decompress_position(d), storage_reader_size(r));
    else if (d != NULL) /* and it stays so */
        assert_int_equal(decompress_read(d, piece, block, &got), e);
    decompress_close(d);
    storage_close(r);
    free(piece);
    return e;
}

static void assert_reads(struct bytes file, struct bytes text, enum compress_kind kind)
{
    static const size_t blocks[] = {1, 13, 4096, 1 << 20};
    put_file(file.data, file.size);
    for (size_t i = text.size > TEXT_SIZE ? 2 : 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        struct bytes read;
        enum compress_kind found = COMPRESS_NONE;
        if (read_file(blocks[i], &read, &found) != ERR_NONE)
            fail_msg("%s", err_text());
        assert_int_equal(found, kind);
        assert_int_equal(read.size, text.size);
        if (text.size > 0)
            assert_memory_equal(read.data, text.data, text.size);
        free(read.data);
    }
}

static void test_kinds(void **state)
{
    static const size_t sizes[] = {0, 1, 100, TEXT_SIZE, LARGE_SIZE};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes text = make_text(sizes[i]);
        assert_reads(text, text, COMPRESS_NONE);
        struct bytes gzip = add_gzip((struct bytes){0}, text.data, text.size);
        assert_reads(gzip, text, COMPRESS_GZIP);
        struct bytes zstd = add_zstd((struct bytes){0}, text.data, text.size);
        assert_reads(zstd, text, COMPRESS_ZSTD);
        free(text.data);
        free(gzip.data);
        free(zstd.data);
    }
}

/* Several members or frames are one stream; a zstd frame may be one to skip. */
static void test_concatenated(void **state)
{
    struct bytes text = make_text(TEXT_SIZE);
    struct bytes gzip = {0};
    struct bytes zstd = {0};
    static const uint8_t skippable[] = {0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3};
    zstd.data = malloc(sizeof skippable);
    memcpy(zstd.data, skippable, sizeof skippable);
    zstd.size = sizeof skippable;
    static const size_t cuts[] = {0, 0, 1, 777, 15000, TEXT_SIZE};
    for (size_t i = 0; i + 1 < sizeof cuts / sizeof cuts[0]; i++) {
        gzip = add_gzip(gzip, text.data + cuts[i], cuts[i + 1] - cuts[i]);
        zstd = add_zstd(zstd, text.data + cuts[i], cuts[i + 1] - cuts[i]);
    }
    assert_reads(gzip, text, COMPRESS_GZIP);
    assert_reads(zstd, text, COMPRESS_ZSTD);
    free(text.data);
    free(gzip.data);
    free(zstd.data);
}

static struct bytes (*const compressors[])(struct bytes, const uint8_t *, size_t) = {add_gzip,
                                                                                     add_zstd};
static const size_t magic_sizes[] = {2, 4};

static void test_truncated(void **state)
{
    struct bytes text = make_text(300);
    for (size_t k = 0; k < 2; k++) {
        struct bytes file = compressors[k]((struct bytes){0}, text.data, text.size);
        for (size_t size = magic_sizes[k]; size < file.size; size++) {
            struct bytes read;
            enum compress_kind kind;
            put_file(file.data, size);
            assert_int_equal(read_file(64, &read, &kind), ERR_CORRUPT);
            char offset[32];
            snprintf(offset, sizeof offset, "byte %zu of %zu", size, size);
            if (strstr(err_text(), path) == NULL || strstr(err_text(), offset) == NULL ||
                strstr(err_text(), "truncated") == NULL)
                fail_msg("cut at %zu: %s", size, err_text());
            free(read.data);
        }
        free(file.data);
    }
    free(text.data);
}

static void test_damaged(void **state)
{
    struct bytes text = make_text(300);
    for (size_t k = 0; k < 2; k++) {
        struct bytes file = compressors[k]((struct bytes){0}, text.data, text.size);
        size_t noticed = 0;
        for (size_t at = magic_sizes[k]; at < file.size; at++) {
            struct bytes read;
            enum compress_kind kind;
            file.data[at] ^= 0x55;
            put_file(file.data, file.size);
            enum err e = read_file(64, &read, &kind);
            file.data[at] ^= 0x55;
            noticed += e != ERR_NONE;
            /* What is not noticed must have done no harm: gzip's header has a time and a system. */
            if (e == ERR_NONE) {
                assert_int_equal(read.size, text.size);
                assert_memory_equal(read.data, text.data, text.size);
            }
            free(read.data);
        }
        assert_true(noticed > file.size / 2);
        /* Something behind the end. */
        file.data = realloc(file.data, file.size + 5);
        memcpy(file.data + file.size, "junk!", 5);
        put_file(file.data, file.size + 5);
        struct bytes read;
        enum compress_kind kind;
        assert_int_equal(read_file(64, &read, &kind), ERR_CORRUPT);
        free(read.data);
        free(file.data);
    }
    free(text.data);
}

/* A frame that says that its window is 2^31 bytes. */
static void test_window_limit(void **state)
{
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00};
    struct bytes read;
    enum compress_kind kind;
    put_file(frame, sizeof frame);
    assert_int_equal(read_file(64, &read, &kind), ERR_LIMIT);
    assert_non_null(strstr(err_text(), path));
    free(read.data);
}

static void test_read_errors(void **state)
{
    struct bytes text = make_text(300), read;
    struct bytes gzip = add_gzip((struct bytes){0}, text.data, text.size);
    enum compress_kind kind;
    put_file(gzip.data, gzip.size);
    for (uint64_t n = 1; n <= 3; n++) { /* open, the magic, the data */
        storage_fail_nth(STORAGE_FAULT_EIO, n);
        assert_int_equal(read_file(64, &read, &kind), ERR_IO);
        free(read.data);
    }
    storage_fail_nth(STORAGE_FAULT_EIO, 0);
    free(gzip.data);
    free(text.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),        cmocka_unit_test(test_concatenated),
        cmocka_unit_test(test_truncated),    cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_window_limit), cmocka_unit_test(test_read_errors),
    };
    snprintf(path, sizeof path, "/tmp/test_compress-%ld", (long)getpid());
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
