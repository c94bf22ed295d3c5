#include "common/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash64(const void *data, size_t size, uint64_t seed)
{
    return XXH64(data, size, seed);
}

uint64_t hash64_chain(const struct chain *c, size_t offset, size_t size, uint64_t seed)
{
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, c, offset, size);
    size_t part;
    const void *run = chain_cursor_run(&cursor, size, &part);
    if (part == size)
        return XXH64(run, size, seed);
    XXH64_state_t state;
    XXH64_reset(&state, seed);
    for (; part > 0; run = chain_cursor_run(&cursor, size, &part))
        XXH64_update(&state, run, part);
    return XXH64_digest(&state);
}
