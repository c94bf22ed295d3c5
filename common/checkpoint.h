/*
 * checkpoint.h - what a checkpoint is, as bytes: manifest, shard files, blocks
 * (docs/checkpoints.md).
 *
 * A checkpoint is a directory `<uri>/<job>/<generation>-<step>/` with shard files and
 * MANIFEST.json; creating the manifest is the commit. A shard file holds one table's rows, or the
 * dense blocks, of one shard: blocks with length, number, partition and CRC32C, then a footer index
 * with one entry a block, then a fixed tail. The manifest holds each file's size and the CRC32C of
 * its index, the schema's origin (job and columns), the job's hash, step, generation and the ranks'
 * reports: nothing that depends on who writes it, when, or with how many servers it will be read.
 *
 * Every byte of every file is covered by a checksum that hangs from the manifest, so every flipped
 * bit, every truncation and every file of another checkpoint is found: a body by body_crc in its
 * head, a head by head_crc in the index, the index by index_crc in the manifest, the manifest by
 * the SHA-256 in its last member "checksum", over the bytes before it.
 *
 * Layout of a shard file (little-endian):
 *   "PDSHARD1"  block*  index  tail
 *   block  = u32 magic, u32 body_crc, u64 body_size, u32 number, u32 partition, u32 row_count,
 *            u32 head_crc; body
 *     rows body  = keys u64[row_count], states float[row_count][state_dim]; of one partition,
 *                  ascending, at most CHECKPOINT_BLOCK_MAX
 *     dense body = u32 dense_index, u32 block_index, u64 value_count, values float[],
 *                  slots float[slot_count][]
 *   index  = entries {u32 partition, u32 number, u64 offset, u64 size, u32 rows, u32 head_crc}; in
 *            file order
 *   tail   = u64 index_offset, u64 entry_count, u32 index_crc, u32 tail_crc, "PDSHEND1"
 *
 * In a file of rows partitions ascend, and so keys ascend over the whole file; in a file of dense
 * blocks (parameter, block) ascends.
 *
 * Pure     bytes in, bytes out; server/snapshot and cli/ do the I/O.
 * Errors   ERR_CORRUPT with a named reason ("block 17: checksum is 0x…, should be 0x…").
 */
#ifndef PARAMD_COMMON_CHECKPOINT_H
#define PARAMD_COMMON_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/schema.h"
#include "common/sha256.h"
#include "common/str.h"

#define CHECKPOINT_MANIFEST         "MANIFEST.json"
#define CHECKPOINT_FORMAT           1u
#define CHECKPOINT_FILE_MAX         (4ull << 30)
#define CHECKPOINT_BLOCK_MAX        (4u << 20)
#define CHECKPOINT_HEAD_BYTES       8u
#define CHECKPOINT_BLOCK_HEAD_BYTES 32u
#define CHECKPOINT_ENTRY_BYTES      32u
#define CHECKPOINT_TAIL_BYTES       32u

struct checkpoint_file {
    char *name; /* "table0-0000-4096.0.0000": no '/', no ".." */
    uint64_t size;
    uint32_t index_crc;
    uint64_t rows;
};

struct checkpoint_rank { /* a rank's report at the step: see paramd.Report */
    uint64_t examples;
    int64_t loss_sum, weight_sum;
    uint64_t loss_scale;
    struct str metrics;
};

struct checkpoint_manifest {
    char *job;
    uint64_t generation, step;
    char job_hash[SHA256_HEX_SIZE];
    char index_checksum[SHA256_HEX_SIZE];
    char *job_yaml; /* canonical: eval, predict and resume need no other file */
    char **columns; /* of the data index; job and columns give the schema */
    uint32_t column_count;
    uint64_t train_examples;
    bool has_eval;
    char *device_class;
    struct checkpoint_file *files; /* ascending by name */
    uint32_t file_count;
    struct checkpoint_rank *ranks;
    uint32_t rank_count;
    char *evals_json; /* the evaluations so far, as a JSON array */
};

void checkpoint_manifest_write(const struct checkpoint_manifest *m, struct str *out);
/* ERR_CORRUPT for anything that is not exactly what _write() makes; ERR_UNSUPPORTED for a newer
   format. */
enum err checkpoint_manifest_parse(const char *what, const char *data, size_t size,
                                   struct checkpoint_manifest **out) MUST_CHECK;
void checkpoint_manifest_destroy(struct checkpoint_manifest *m);

/* "<generation>-<step>" and back; ERR_INPUT for other names. */
char *checkpoint_name(uint64_t generation, uint64_t step);
enum err checkpoint_name_parse(const char *name, uint64_t *generation, uint64_t *step) MUST_CHECK;

/* Writing: fills heads and collects index entries. */
struct checkpoint_entry {
    uint32_t partition, number;
    uint64_t offset, size; /* size: head and body */
    uint32_t rows, head_crc;
};
/* Returns head_crc. */
uint32_t checkpoint_block_head(uint32_t number, uint32_t partition, uint32_t row_count,
                               const void *const *parts, const size_t *sizes, size_t part_count,
                               uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES]);
void checkpoint_footer(const struct checkpoint_entry *entries, size_t count, uint64_t offset,
                       struct str *out, uint32_t *index_crc);

/* Reading: each verifies what it parses. */
enum err checkpoint_tail_parse(const uint8_t tail[CHECKPOINT_TAIL_BYTES], uint64_t file_size,
                               uint64_t *index_offset, uint64_t *entry_count,
                               uint32_t *index_crc) MUST_CHECK;
enum err checkpoint_index_parse(const void *data, size_t size, uint64_t entry_count,
                                uint32_t index_crc, uint64_t file_size,
                                struct checkpoint_entry **out) MUST_CHECK;
/* `block` is head and body; *body_out points into it. */
enum err checkpoint_block_verify(const void *block, size_t size,
                                 const struct checkpoint_entry *entry, const uint8_t **body_out,
                                 uint32_t *row_count_out) MUST_CHECK;
/*
 * Of the body of a block of rows that has verified: it has as many rows as it says, all of one
 * width, their keys ascend and are of the entry's partition. Right checksums over wrong bytes come
 * from a wrong writer, and are refused too.
 */
enum err checkpoint_rows_check(const struct checkpoint_entry *entry, const uint8_t *body,
                               uint64_t size) MUST_CHECK;

#endif
