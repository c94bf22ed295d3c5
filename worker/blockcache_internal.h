/*
 * blockcache_internal.h - what blockcache.c (files, mapping) and blockcache_fill.c (parsing) share.
 */
#ifndef PARAMD_WORKER_BLOCKCACHE_INTERNAL_H
#define PARAMD_WORKER_BLOCKCACHE_INTERNAL_H

#include <pthread.h>
#include <time.h>

#include "common/pool.h"
#include "worker/blockcache.h"
#include "worker/scan.h"

struct fill_worker { /* scratch of one thread of the pool */
    struct reader *reader;
    struct rows rows;
    struct block_builder builder;
    struct raw_block raw;
};

struct blockcache {
    struct blockcache_options o;
    char *directory; /* <directory>/<identity> */
    uint64_t set;
    uint32_t *first_block; /* [file_count + 1] */
    atomic_bool *verified; /* [block_count] this process has checked the CRC */
    struct features *features;
    struct text_list fields;
    pthread_mutex_t lock; /* of what is below: one fill at a time */
    struct pool *pool;
    struct fill_worker *workers; /* [pool_thread_count] */
    _Atomic uint64_t parsed_blocks, unpacked_files, removed_blocks, skipped_blocks;
    struct timespec fill_began; /* what was used since then stays; of the clock of files */
    pthread_mutex_t room_lock;  /* of what is below */
    bool has_looked;
    uint64_t seen_bytes, unseen_bytes; /* in the directory at the last look; written since */
};

char *blockcache_path(const struct blockcache *c, uint32_t block);
bool blockcache_has(const struct blockcache *c, uint32_t block);
/* Writes the builder's image under a temporary name and renames it. One that is not `needed` now is
   left out when there is no room for it. */
enum err blockcache_store(struct blockcache *c, uint32_t block, const struct block_builder *b,
                          bool needed) MUST_CHECK;

/* ---- blockcache_room.c ---- */

uint64_t blockcache_limit(const struct blockcache *c);
/* Before `size` bytes are written: removes what was used longest ago, if that is necessary. `full`:
   the disk is, whatever the limit says. false: there is no room. */
bool blockcache_make_room(struct blockcache *c, uint64_t size, bool full);

enum err blockcache_prepare_workers(struct blockcache *c) MUST_CHECK;
void blockcache_free_workers(struct blockcache *c);

#endif
