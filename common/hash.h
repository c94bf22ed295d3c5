/*
 * hash.h - the public key hash and the checksum of bodies. Walls off xxhash.
 *
 * Sources  XXH64, XXH3: https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
 */
#ifndef PARAMD_COMMON_HASH_H
#define PARAMD_COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

uint64_t hash64(const void *data, size_t size, uint64_t seed); /* XXH64 */
/* XXH3 (64 bits, without seed), because every byte that is pushed goes through it. */
uint64_t checksum64_chain(const struct chain *c, size_t offset, size_t size);

#endif
