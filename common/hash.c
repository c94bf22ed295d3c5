#include "common/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash64(const void *data, size_t size, uint64_t seed)
{
    return XXH64(data, size, seed);
}

uint64_t checksum64_chain(const struct chain *c, size_t offset, size_t size)
{
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, c, offset, size);
    size_t part;
    const void *run = chain_cursor_run(&cursor, size, &part);
    if (part == size)
        return XXH3_64bits(run, size);
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (; part > 0; run = chain_cursor_run(&cursor, size, &part))
        XXH3_64bits_update(&state, run, part);
    return XXH3_64bits_digest(&state);
}
