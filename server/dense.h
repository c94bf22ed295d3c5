/*
 * dense.h - the blocks of one dense parameter in one shard: values by version, and optimizer state.
 *
 * An update writes new values beside the old ones: a version is one reference-counted buffer over
 * all blocks that the shard owns, so a reply, a kept answer and a snapshot hold a reference and
 * copy nothing. Old versions are reused once nobody holds them.
 *
 * Shapes   values float[value_count], of blocks first_block … end_block-1 in order; slots
 *          float[slot_count][value_count].
 * Threads  one owner; version buffers may be read anywhere.
 */
#ifndef PARAMD_SERVER_DENSE_H
#define PARAMD_SERVER_DENSE_H

#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/schema.h"

struct dense;

enum err dense_create(const struct schema_dense *schema, uint32_t first_partition,
                      uint32_t end_partition,
                      struct dense **out) MUST_CHECK; /* with initial values */
void dense_destroy(struct dense *d);
uint32_t dense_first_block(const struct dense *d);
uint32_t dense_end_block(const struct dense *d);
uint64_t dense_value_count(const struct dense *d);
uint64_t dense_memory(const struct dense *d);

struct buf *dense_values(struct dense *d); /* the current version; borrowed */
float *dense_slots(struct dense *d);       /* float[slot_count][value_count] */
/* Replaces values and slots by a checkpoint's. */
enum err dense_load(struct dense *d, const float *values, const float *slots) MUST_CHECK;

/*
 * The next version: *values_out is where to write the new values (float[value_count]);
 * dense_values() stays the old one until dense_commit(). Blocks that are not written must be copied
 * by the caller.
 */
enum err dense_next(struct dense *d, float **values_out) MUST_CHECK;
void dense_commit(struct dense *d);

/* A frozen copy of the slots for a snapshot (values are a version already); freed with buf_unref().
   */
enum err dense_freeze_slots(const struct dense *d, struct buf **out) MUST_CHECK;

#endif
