/*
 * scan.h - a data file as a sequence of blocks of whole records.
 *
 * scan_open() reads what stands in front of the records (header, dimensions) and finds out whether
 * the file is packed. scan_next() cuts the next block from the front; where it cuts depends on the
 * file's bytes alone: after DATA_BLOCK_RECORDS lines or SCAN_BLOCK_BYTES, whichever comes first.
 * scan_read() fetches one block again by its place, which a packed file cannot do. scan_each()
 * works on the blocks of a file in parallel while the next ones are cut.
 *
 * idx      a block is n images with their n labels behind them; two files are read side by side.
 * Units    bytes; offsets are of the unpacked file. Lines count from 1.
 * Threads  a scan belongs to one thread at a time; scan_read() may be called by several.
 * Errors   as storage.h and compress.h give them, ERR_INPUT for heads and records without end.
 */
#ifndef PARAMD_WORKER_SCAN_H
#define PARAMD_WORKER_SCAN_H

#include <stdatomic.h>

#include "common/dataindex.h"
#include "common/job.h"
#include "common/pool.h"
#include "worker/reader.h"

#define SCAN_BLOCK_BYTES (1u << 20)

struct raw_block {
    char *data;
    size_t size, capacity;
    uint64_t offset, length; /* of the block in the file; idx: of the images */
    uint64_t first_line;
    uint32_t record_count; /* at most; blank lines count. idx: exactly */
};
void raw_block_deinit(struct raw_block *b);

struct scan;

enum err scan_open(const struct job_data *d, const char *uri, struct scan **out) MUST_CHECK;
void scan_close(struct scan *s); /* accepts NULL */
const struct file_head *scan_head(const struct scan *s);
bool scan_is_splittable(const struct scan *s);

/* b->size = 0 at the end. */
enum err scan_next(struct scan *s, struct raw_block *b) MUST_CHECK;
/* Only of a splittable file. */
enum err scan_read(struct scan *s, const struct dataindex_block *place,
                   struct raw_block *b) MUST_CHECK;

/* `number` counts the file's blocks from 0; thread_index is the pool's. Errors stop the scan. */
struct scan_visitor {
    enum err (*visit)(void *context, struct raw_block *b, uint32_t number, uint32_t thread_index);
    void *context;
    struct pool *pool;         /* NULL: this thread */
    const atomic_bool *cancel; /* may be NULL */
};
/* Of several errors the one of the first block is given. */
enum err scan_each(struct scan *s, const struct scan_visitor *v) MUST_CHECK;

/* Size and mark of a data file, its idx labels included, as the index keeps them. */
enum err scan_mark(const struct job_data *d, const char *uri, uint64_t *size_out,
                   char mark[64]) MUST_CHECK;

#endif
