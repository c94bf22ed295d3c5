/*
 * storage_commit.c - writes objects to a store and commits them by a manifest, or reads them back:
 * what a checkpoint does to a store, small enough to be done at every fault.
 *
 *     storage_commit write URI [--set NAME=VALUE]...
 *     storage_commit read URI [--set NAME=VALUE]...
 *
 * Under URI there are then `small`, `large` (more than a writer's buffer) and MANIFEST.json, which
 * names their sizes. Prints "committed" or "read", exit code 0; or the error, exit code 1.
 */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "common/str.h"
#include "tests/support/storage_tool.h"

#define SMALL_BYTES ((size_t)3000)
#define LARGE_BYTES (((size_t)9 << 20) + 5)
#define MANIFEST    "{\"small\": 3000, \"large\": 9437189}\n"

static uint8_t *make_bytes(size_t size)
{
    uint8_t *data = must_alloc(size + 8);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t some = rng_at(size, i);
        memcpy(data + i, &some, 8);
    }
    return data;
}

static enum err write_object(const char *base, const char *name, size_t size)
{
    struct storage_writer *w;
    char *uri = storage_join(base, name);
    uint8_t *data = make_bytes(size);
    enum err e = storage_write_open(uri, true, &w);
    for (size_t at = 0; at < size && e == ERR_NONE; at += 100000) {
        e = storage_write(w, data + at, size - at < 100000 ? size - at : 100000);
        if (e != ERR_NONE)
            storage_write_abort(w);
    }
    if (e == ERR_NONE)
        e = storage_write_close(w);
    mem_free(data);
    mem_free(uri);
    return e;
}

/* As a checkpoint is committed: one that is there already must say the same. */
static enum err commit(const char *base)
{
    char *uri = storage_join(base, "MANIFEST.json"), *data = NULL;
    size_t size = 0;
    enum err e = storage_create_exclusive(uri, MANIFEST, strlen(MANIFEST));
    if (e == ERR_EXISTS) {
        e = storage_read_all(uri, 1000, &data, &size);
        if (e == ERR_NONE && strcmp(data, MANIFEST) != 0)
            e = err_set(ERR_EXISTS, "'%s': another one is there already", uri);
    }
    mem_free(data);
    mem_free(uri);
    return e;
}

static enum err check_object(const char *base, const char *name, size_t size)
{
    char *uri = storage_join(base, name);
    uint8_t *expected = make_bytes(size), *data = must_alloc(size);
    struct storage_reader *r;
    enum err e = storage_open(uri, &r);
    if (e == ERR_NONE) {
        for (size_t at = 0; at < size && e == ERR_NONE; at += 70000)
            e = storage_read_at(r, at, data + at, size - at < 70000 ? size - at : 70000);
        storage_close(r);
        if (e == ERR_NONE && memcmp(data, expected, size) != 0)
            e = err_set(ERR_CORRUPT, "'%s' holds other bytes", uri);
    }
    mem_free(data);
    mem_free(expected);
    mem_free(uri);
    return e;
}

int main(int count, char **arguments)
{
    int code = storage_tool_begin(count, arguments, 2,
                                  "storage_commit write|read URI [--set NAME=VALUE]...");
    if (code != 0)
        return code;
    bool writes = strcmp(arguments[1], "write") == 0;
    const char *base = arguments[2];
    enum err e = writes ? write_object(base, "small", SMALL_BYTES)
                        : check_object(base, "small", SMALL_BYTES);
    if (e == ERR_NONE)
        e = writes ? write_object(base, "large", LARGE_BYTES)
                   : check_object(base, "large", LARGE_BYTES);
    if (e == ERR_NONE)
        e = commit(base);
    puts(e == ERR_NONE ? writes ? "committed" : "read" : err_text());
    storage_tool_end();
    return e != ERR_NONE;
}
