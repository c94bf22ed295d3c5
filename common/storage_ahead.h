/*
 * storage_ahead.h - reading a remote object in order without waiting for each piece of it.
 *
 * Between a caller and a store: when reads follow one another, the next pieces are fetched by the
 * threads of storage_pool while the caller works on the present one; one large read is fetched in
 * parts side by side. Reads here and there go to the store as they are.
 *
 * Memory   a reader that is read in order holds up to AHEAD_PIECES pieces of AHEAD_PIECE_BYTES; all
 *          readers of the process share AHEAD_TOTAL_BYTES, and one that gets none reads as it is
 *          asked.
 * Threads  any, on one handle too.
 * Errors   the store's own; a piece that could not be fetched ahead is asked for again when it is
 *          wanted, so that a failure is told to whom it concerns.
 */
#ifndef PARAMD_COMMON_STORAGE_AHEAD_H
#define PARAMD_COMMON_STORAGE_AHEAD_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define AHEAD_PIECE_BYTES ((size_t)4 << 20)
#define AHEAD_PIECES      6u
#define AHEAD_TOTAL_BYTES ((size_t)128 << 20)

struct storage_ahead;
struct storage_reader;

/* `r` is borrowed, and read by its backend from several threads. */
struct storage_ahead *storage_ahead_create(struct storage_reader *r);
enum err storage_ahead_read(struct storage_ahead *a, uint64_t offset, void *out,
                            size_t size) MUST_CHECK;
void storage_ahead_destroy(struct storage_ahead *a); /* waits for what is on its way */

#endif
