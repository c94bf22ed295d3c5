/*
 * shard_file.h - one file of a checkpoint, open for reading: its index verified, its blocks on request.
 *
 * Shapes   see common/checkpoint.h. Errors: ERR_CORRUPT and ERR_NOT_FOUND name the file and the reason.
 * Threads  one.
 */
#ifndef PARAMD_SERVER_SHARD_FILE_H
#define PARAMD_SERVER_SHARD_FILE_H

#include <stdint.h>

#include "common/checkpoint.h"
#include "common/err.h"

#define SHARD_FILE_DENSE UINT32_MAX      /* shard_file.table of a file of dense blocks */

struct storage_reader;

struct shard_file {
    const struct checkpoint_file *listed;    /* of the manifest, borrowed */
    struct storage_reader *reader;
    struct checkpoint_entry *entries;
    uint64_t entry_count;
    uint32_t table;                          /* or SHARD_FILE_DENSE */
    uint8_t *block;                          /* the last one read; grows */
    uint64_t block_capacity;
};

/* The name of piece `piece` of a table's (or SHARD_FILE_DENSE's) file; freed with mem_free(). */
char *shard_file_name(uint32_t table, uint32_t first_partition, uint32_t end_partition, uint32_t piece);

/* Opens and verifies head, tail and index against the manifest's size and index_crc. */
enum err shard_file_open(const char *directory, const struct checkpoint_file *listed,
                         struct shard_file *out) MUST_CHECK;
void shard_file_close(struct shard_file *f);         /* accepts a zeroed one */

/* A verified block's body, valid until the next call. */
enum err shard_file_read(struct shard_file *f, uint64_t entry, const uint8_t **body_out,
                         uint64_t *size_out, uint32_t *row_count_out) MUST_CHECK;

/* The head of a dense block's body. */
struct dense_block_head {
    uint32_t dense, block;
    uint64_t value_count;
};
#define DENSE_BLOCK_HEAD_BYTES 16u
void dense_block_head_write(const struct dense_block_head *h, uint8_t out[DENSE_BLOCK_HEAD_BYTES]);
/* `size` of the whole body; ERR_CORRUPT if it is too short for a head. */
enum err dense_block_head_parse(const uint8_t *body, uint64_t size, struct dense_block_head *out) MUST_CHECK;

#endif
