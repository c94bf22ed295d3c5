/*
 * snapshot_writer.h - the thread that makes a snapshot's blocks durable; for server/snapshot only.
 *
 * The owner pushes blocks in the order of the files: tables ascending, then dense. The thread
 * writes them to files in the snapshot's directory, one file after the other, also for a table
 * without rows. It ends DURABLE, when every file is, or ABANDONED, and removes its files then.
 *
 * The storage may hang for minutes, the owner must not: nothing here waits for the storage, but
 * destroy(), a moment. A thread that has not ended then goes on by itself until its call into the
 * storage returns, removes its files, and frees what it needs; it uses nothing of the shard but
 * references to dense buffers, and no file of a later attempt.
 *
 * Threads  all functions: the owner.
 */
#ifndef PARAMD_SERVER_SNAPSHOT_WRITER_H
#define PARAMD_SERVER_SNAPSHOT_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/checkpoint.h"
#include "common/err.h"
#include "server/shard_file.h"
#include "server/snapshot.h"

#define SNAPSHOT_PARTS_MAX (2 + SLOT_MAX)

/* A block on its way: the parts of its body, and what keeps them alive. */
struct snapshot_block {
    uint32_t table; /* or SHARD_FILE_DENSE */
    uint32_t partition, row_count;
    const void *parts[SNAPSHOT_PARTS_MAX];
    size_t sizes[SNAPSHOT_PARTS_MAX];
    size_t part_count, size;
    uint8_t dense_head[DENSE_BLOCK_HEAD_BYTES];
    void *memory;               /* freed with the block */
    struct buf *values, *slots; /* unreferenced with the block */
};
void snapshot_block_add(struct snapshot_block *b, const void *data, size_t size);
void snapshot_block_destroy(struct snapshot_block *b); /* accepts NULL */

struct snapshot_writer;
struct snapshot_writer_options {
    const char *directory;
    uint32_t table_count;
    uint32_t first_partition, end_partition;
    uint32_t attempt;  /* of this process: see struct shard_file_range */
    size_t blocks_max; /* that wait at a time */
    uint64_t file_max; /* bytes; then the next piece is begun */
};

enum err snapshot_writer_create(const struct snapshot_writer_options *o,
                                struct snapshot_writer **out) MUST_CHECK;
/* Takes over `b`, or ERR_LIMIT: no room now. */
enum err snapshot_writer_push(struct snapshot_writer *w, struct snapshot_block *b) MUST_CHECK;
/* That was the last block. */
void snapshot_writer_finish(struct snapshot_writer *w);
/* Does nothing to one that has ended. */
void snapshot_writer_abandon(struct snapshot_writer *w, const char *why);
enum snapshot_state snapshot_writer_state(const struct snapshot_writer *w);
const char *snapshot_writer_why(const struct snapshot_writer *w); /* ABANDONED */
const struct checkpoint_file *snapshot_writer_files(const struct snapshot_writer *w,
                                                    uint32_t *count_out); /* DURABLE */
void snapshot_writer_destroy(struct snapshot_writer *w);                  /* accepts NULL */

#endif
