/*
 * blockcache.h - blocks of the data set, parsed and hashed once, as columns in files that are
 * mapped.
 *
 * Layout of a block file, little-endian, sections aligned to 64 bytes:
 *
 *   head       magic, version, identity, counts, size, CRC32C of what follows
 *   tables     one struct block_table_head each
 *   sections   labels, more labels?, weights?, groups?, dense?; per table: keys (mixed,
 *              ascending), ids (of the keys), ends? (where a cell's terms end), values?
 *
 * What is all 1 (weights, values) or implied (ends, when each cell has one term) is left out. The
 * training examples of a block stand before its evaluation examples, each in the order of the file.
 *
 * Files are written under a temporary name and renamed, so that any number of processes may use a
 * directory. A packed file is unpacked front to back, once for all of its blocks: whoever holds the
 * lock of its claim file does that, the others wait as long as they see it going on.
 *
 * The directory is kept within a limit: blocks that were not used for longest go first, of this
 * data set or another. One that is gone is read and parsed again.
 *
 * Shapes   see struct block_view.
 * Threads  any; views are read-only.
 * Errors   ERR_INPUT for bad rows, ERR_REFUSED when a file is not what the index says, ERR_LIMIT
 *          when the disk is full, ERR_TIMEOUT never: who waits too long parses itself.
 */
#ifndef PARAMD_WORKER_BLOCKCACHE_H
#define PARAMD_WORKER_BLOCKCACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/dataindex.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "worker/features.h"
#include "worker/keysort.h"

struct block_table {
    const uint64_t *keys; /* [key_count] */
    const uint32_t *ids;  /* [term_count] */
    const uint32_t *ends; /* [count * slot_count]; NULL: one term a cell */
    const float *values;  /* [term_count]; NULL: 1 */
    uint32_t key_count, term_count, slot_count;
};

struct block_view {
    uint32_t count; /* train_count + evaluation examples */
    uint32_t train_count;
    uint32_t table_count, dense_width, more_label_count;
    const float *labels;
    const float *more_labels; /* [count][more_label_count] */
    const float *weights;     /* NULL: 1 */
    const uint64_t *groups;   /* NULL: none */
    const float *dense;       /* [count][dense_width] */
    struct block_table *tables;
    void *memory; /* the mapping, or an image of ours */
    size_t size;
};

/* ---- images: what a file holds, made in memory (blockcache_image.c) -------------------------- */

struct block_identity {
    uint64_t set; /* of index and settings */
    uint64_t block;
};

/* Scratch to make images one after the other; zero-initialize. */
struct block_builder {
    struct keysort sort;
    uint64_t *slots, *unique; /* dictionary: open addressing, and keys in order of appearance */
    uint32_t *slot_ids, *numbers, *ranks, *ids;
    size_t slot_size, unique_capacity, number_capacity, rank_capacity, id_capacity;
    uint32_t *order;
    size_t order_capacity;
    char *image;
    size_t image_size, image_capacity;
};
enum err block_build(struct block_builder *b, const struct rows *rows,
                     struct block_identity id) MUST_CHECK;
void block_builder_deinit(struct block_builder *b);
/* Borrows the bytes. ERR_CORRUPT; `check` verifies the CRC. */
enum err block_view_open(const char *what, void *memory, size_t size, struct block_identity id,
                         bool check, struct block_view *out) MUST_CHECK;
void block_view_close(struct block_view *v); /* frees the tables; not the memory */

/* ---- the cache ------------------------------------------------------------------------------- */

struct blockcache;

struct blockcache_options {
    const struct job *job; /* all are borrowed */
    const struct features_spec *spec;
    const struct dataindex *index;
    const char *directory;
    uint64_t limit_bytes; /* of the directory; 0: 80 % of its file system */
    uint32_t threads;
};
enum err blockcache_open(const struct blockcache_options *o, struct blockcache **out) MUST_CHECK;
void blockcache_close(struct blockcache *c); /* accepts NULL */

/* Makes sure that the blocks are there; parses what is missing in parallel. */
enum err blockcache_fill(struct blockcache *c, const uint32_t *blocks, uint32_t count,
                         const atomic_bool *cancel) MUST_CHECK;
/* Maps a block; ERR_NOT_FOUND when it is not there or not whole (then it is removed). */
enum err blockcache_map(struct blockcache *c, uint32_t block, struct block_view *out) MUST_CHECK;
void blockcache_unmap(struct block_view *v);
uint32_t blockcache_block_count(const struct blockcache *c);

/* What this cache has done: blocks parsed, packed files gone through, blocks removed to make room,
 * blocks left out because there was none. */
struct blockcache_counters {
    uint64_t parsed_blocks, unpacked_files, removed_blocks, skipped_blocks;
};
struct blockcache_counters blockcache_counters(struct blockcache *c);

#endif
