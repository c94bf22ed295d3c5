/*
 * storage_pour.c - writes a large object to a store and reads it back in order, as checkpoints are
 * written and restored, and says how fast and in how much memory.
 *
 *     storage_pour MEBIBYTES URI [--set NAME=VALUE]...
 *
 * Prints two lines, `write SECONDS MIB_PER_SECOND PEAK_MIB` and `read …`; PEAK_MIB is the process's
 * largest resident size less that before the first byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "tests/support/storage_tool.h"

#define PIECE ((size_t)512 << 10) /* a block of a shard's file, or so */

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

/* Different in each piece, and cheap. */
static void fill(uint64_t *piece, uint64_t number)
{
    for (size_t i = 0; i < PIECE / 8; i++)
        piece[i] = mix64(number << 32 | i);
}

static enum err write_all(const char *uri, uint64_t pieces, uint64_t *piece)
{
    struct storage_writer *w;
    enum err e = storage_write_open(uri, true, &w);
    if (e != ERR_NONE)
        return e;
    for (uint64_t n = 0; n < pieces && e == ERR_NONE; n++) {
        fill(piece, n);
        e = storage_write(w, piece, PIECE);
    }
    if (e == ERR_NONE)
        return storage_write_close(w);
    storage_write_abort(w);
    return e;
}

static enum err read_all(const char *uri, uint64_t pieces, uint64_t *piece)
{
    struct storage_reader *r;
    uint64_t *expected = must_alloc(PIECE);
    enum err e = storage_open(uri, &r);
    for (uint64_t n = 0; n < pieces && e == ERR_NONE; n++) {
        e = storage_read_at(r, n * PIECE, piece, PIECE);
        fill(expected, n);
        if (e == ERR_NONE && memcmp(piece, expected, PIECE) != 0)
            e = err_set(ERR_CORRUPT, "piece %llu is another one", (unsigned long long)n);
    }
    if (e != ERR_NONE)
        return e;
    storage_close(r);
    mem_free(expected);
    return ERR_NONE;
}

int main(int count, char **arguments)
{
    int code =
        storage_tool_begin(count, arguments, 2, "storage_pour MEBIBYTES URI [--set NAME=VALUE]...");
    if (code != 0)
        return code;
    uint64_t mib = strtoull(arguments[1], NULL, 10);
    uint64_t *piece = must_alloc(PIECE);
    double before = peak_mib();
    enum err e = ERR_NONE;
    for (int reads = 0; reads < 2 && e == ERR_NONE; reads++) {
        uint64_t start = clock_ns();
        e = reads ? read_all(arguments[2], mib * 2, piece)
                  : write_all(arguments[2], mib * 2, piece);
        double seconds = clock_seconds_since(start);
        if (e == ERR_NONE)
            printf("%s %.2f %.1f %.0f\n", reads ? "read" : "write", seconds, (double)mib / seconds,
                   peak_mib() - before);
        fflush(stdout);
    }
    if (e != ERR_NONE)
        fprintf(stderr, "%s\n", err_text());
    mem_free(piece);
    storage_tool_end();
    return e != ERR_NONE;
}
