/*
 * buf.h - bytes that several owners read: reference-counted buffers, and chains of slices of them.
 *
 * A message on its way in or out is a chain: a list of slices, each of which keeps its buffer
 * alive. The transport sends the slices as they are and gives received bytes as a chain of its own
 * slices, so that arrays pass between a model's memory and the network without being flattened.
 *
 * Shapes   a received slice may begin and end anywhere: floats and keys straddle slice ends and are
 *          not aligned. chain_cursor deals with that.
 * Threads  a buffer's reference count is atomic; its bytes must not change while shared. A chain
 *          and a cursor belong to one thread at a time.
 */
#ifndef PARAMD_COMMON_BUF_H
#define PARAMD_COMMON_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct buf;

/* A buffer of `size` uninitialized bytes, 64-byte aligned, with one reference. NULL: no memory. */
struct buf *buf_create(size_t size);

/*
 * Wraps memory that is not ours; `release(context)` runs when the last reference goes, on any
 * thread.
 */
struct buf *buf_wrap(const void *data, size_t size, void (*release)(void *context), void *context);

void *buf_data(struct buf *b);
size_t buf_size(const struct buf *b);
struct buf *buf_ref(struct buf *b);
void buf_unref(struct buf *b); /* accepts NULL */

struct slice {
    const uint8_t *data;
    size_t size;
    struct buf *owner; /* one reference, or NULL for static memory */
};

/* Zero-initialize; chain_deinit() drops the references. */
struct chain {
    struct slice *slices;
    size_t count;
    size_t capacity;
    size_t size; /* bytes in all slices */
};

/* Appends a slice; takes a new reference on `owner`. Empty slices are left out. CHECKs memory. */
void chain_append(struct chain *c, struct buf *owner, const void *data, size_t size);
/* Appends the whole of `b` and takes over the caller's reference. */
void chain_append_take(struct chain *c, struct buf *b);
/* Appends a copy of the bytes. */
void chain_append_copy(struct chain *c, const void *data, size_t size);
/* Moves all slices of `from` to the end of `to`. */
void chain_move(struct chain *to, struct chain *from);
/* Appends to `to` references on [offset, offset + size) of `from`; CHECKs the range. */
void chain_share(struct chain *to, const struct chain *from, size_t offset, size_t size);
void chain_deinit(struct chain *c);

/* Copies out; CHECKs the range. For small things: headers, tests. */
void chain_copy_out(const struct chain *c, size_t offset, void *out, size_t size);

/* A place in a chain. The chain must outlive it and must not change. */
struct chain_cursor {
    const struct chain *chain;
    size_t index;  /* slice */
    size_t offset; /* in that slice */
    size_t left;   /* bytes to the end of what the cursor covers */
};

/* Covers [offset, offset + size); CHECKs the range. */
void chain_cursor_init(struct chain_cursor *cursor, const struct chain *c, size_t offset,
                       size_t size);

/*
 * The next `size` bytes as one piece: a pointer into the slice when they lie in one, else a copy in
 * `carry` (at least `size` bytes). NULL when fewer are left. Unaligned: read with memcpy or
 * unaligned loads.
 */
const void *chain_cursor_next(struct chain_cursor *cursor, size_t size, void *carry);

/*
 * The longest contiguous run from here, up to `max` bytes, and steps over it; *size_out = 0 at the
 * end.
 */
const void *chain_cursor_run(struct chain_cursor *cursor, size_t max, size_t *size_out);

/* Copies the next `size` bytes to `out`. false: fewer are left (nothing is copied). */
bool chain_cursor_read(struct chain_cursor *cursor, void *out, size_t size);
bool chain_cursor_skip(struct chain_cursor *cursor, size_t size);

#endif
