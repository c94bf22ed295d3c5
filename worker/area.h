/*
 * area.h - big pieces of memory that go round: taken for a step, shared with requests, back when
 * nobody reads.
 *
 * Gradients and keys are sent from where they lie, so their memory is free only when the transport
 * (or, within one process, the shard) has let go of the last slice of it. An area is a
 * reference-counted buffer whose memory goes back to its pool then; in steady state nothing is
 * allocated but its small header.
 *
 * The pool outlives its owner until the last area is back, so that area_pool_destroy() never waits.
 *
 * Threads  area_take() from one thread at a time; areas come back on any.
 */
#ifndef PARAMD_WORKER_AREA_H
#define PARAMD_WORKER_AREA_H

#include <stddef.h>

#include "common/buf.h"

struct area_pool;

struct area_pool *area_pool_create(void);
void area_pool_destroy(struct area_pool *p); /* accepts NULL */

/* At least `size` bytes, 64-byte aligned, not cleared, with one reference. NULL: no memory. */
struct buf *area_take(struct area_pool *p, size_t size);

/* Cuts arrays out of an area: sizes are added up first with a NULL base, then places are handed
 * out. */
struct area_cutter {
    char *base;
    size_t offset;
};
void *area_cut(struct area_cutter *c, size_t count, size_t element_size); /* 64-byte aligned */

#endif
