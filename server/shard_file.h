/*
 * shard_file.h - one file of a checkpoint, open for reading: its index verified, its blocks on
 * request; and whether the files of a manifest are all that there must be.
 *
 * Shapes   see common/checkpoint.h.
 * Errors   ERR_CORRUPT names the file (not the directory) and the reason. A file that the manifest
 *          lists and that is not there is ERR_CORRUPT, too. What may pass (ERR_IO,
 *          ERR_UNAVAILABLE) stays what it is.
 * Threads  one.
 */
#ifndef PARAMD_SERVER_SHARD_FILE_H
#define PARAMD_SERVER_SHARD_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "common/err.h"

#define SHARD_FILE_DENSE UINT32_MAX /* shard_file.table of a file of dense blocks */

struct storage_reader;

/*
 * What a file's name says. A file is cut into pieces where it would pass CHECKPOINT_FILE_MAX. Each
 * attempt of a process at a snapshot has a number of its own, so that the writer of one that was
 * given up, and still hangs in the storage, never touches the files of the next one.
 */
struct shard_file_range {
    uint32_t table; /* or SHARD_FILE_DENSE */
    uint32_t first_partition, end_partition;
    uint32_t attempt, piece;
};

struct shard_file {
    const struct checkpoint_file *listed; /* of the manifest, borrowed */
    struct storage_reader *reader;
    struct checkpoint_entry *entries;
    uint64_t entry_count;
    uint32_t table; /* or SHARD_FILE_DENSE */
    uint8_t *block; /* the last one read; grows */
    uint64_t block_capacity;
    uint64_t last_entry, last_key; /* of the last block of rows read */
    bool has_last;
};

/* The name of a file; freed with mem_free(). */
char *shard_file_name(const struct shard_file_range *r);
enum err shard_file_parse_name(const char *name, struct shard_file_range *out) MUST_CHECK;

/*
 * Do the listed files hold every partition of every table and of the dense parameters, once? The
 * manifest alone is looked at. *table_count_out: the tables 0 … n-1 that are there.
 */
enum err shard_file_check_set(const struct checkpoint_manifest *m,
                              uint32_t *table_count_out) MUST_CHECK;

/* Opens and verifies head, tail and index against the manifest's size and index_crc. */
enum err shard_file_open(const char *directory, const struct checkpoint_file *listed,
                         struct shard_file *out) MUST_CHECK;
void shard_file_close(struct shard_file *f); /* accepts a zeroed one */

/* A verified block's body, valid until the next call. Of rows: checkpoint_rows_check() holds, and
   the keys of later blocks are larger. Of dense values: dense_block_head_parse() holds. */
enum err shard_file_read(struct shard_file *f, uint64_t entry, const uint8_t **body_out,
                         uint64_t *size_out, uint32_t *row_count_out) MUST_CHECK;

/* The head of a dense block's body. */
struct dense_block_head {
    uint32_t dense, block;
    uint64_t value_count;
};
#define DENSE_BLOCK_HEAD_BYTES 16u
void dense_block_head_write(const struct dense_block_head *h, uint8_t out[DENSE_BLOCK_HEAD_BYTES]);
/* `size` of the whole body, which must hold values and a whole number of slots of that count. */
enum err dense_block_head_parse(const uint8_t *body, uint64_t size,
                                struct dense_block_head *out) MUST_CHECK;

#endif
