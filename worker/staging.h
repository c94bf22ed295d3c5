/*
 * staging.h - what crosses to a device that does not share the host's memory, and back.
 *
 * A batch's arrays travel as one piece, packed into pinned memory, into one of two slots: the next
 * batch's on their way while the device computes from the other. The values of its rows and of
 * dense parameters follow when they are there, and gradients come back in the same layout. Rows of
 * many terms are cut here (struct compute_cuts), by numbers that depend on the batch alone.
 *
 * Shapes   as in batch.h and network.h.
 * Memory   all is allocated when made, for batches of one term a slot; one with more, of
 *          multi-valued features, makes the areas grow by a quarter more than it needs.
 * Threads  one owner.
 * Errors   ERR_MEMORY: the device's or pinned memory is used up, with the size.
 */
#ifndef PARAMD_WORKER_STAGING_H
#define PARAMD_WORKER_STAGING_H

#include <stdint.h>

#include "common/err.h"
#include "common/model.h"
#include "worker/batch.h"
#include "worker/compute.h"
#include "worker/network.h"

struct staging;

struct staging_options {
    struct device *device; /* borrowed, as the model */
    const struct model *model;
    uint32_t max_examples;
};
enum err staging_create(const struct staging_options *o, struct staging **out) MUST_CHECK;
void staging_destroy(struct staging *s); /* accepts NULL; nothing may be on its way */

/* Begins to upload a batch's arrays, unless that was done; in place of one that was not opened. */
enum err staging_send(struct staging *s, const struct batch *b) MUST_CHECK;

/* What the arrays of a pass are on the device; valid until the next staging_open(). */
struct staging_view {
    const struct batch *batch; /* the counts and the device's arrays; no keys, no groups */
    struct compute_tables_there there;
    const float *const *dense;
    float *const *dense_gradients;
};
/*
 * Sends the batch if that was not done, and the values; operations after it find all of it. Fills
 * terms, rows, row_gradients and cuts of tables[table_count]. `gradients`: they will be wanted.
 */
enum err staging_open(struct staging *s, const struct batch *b, const struct network_values *values,
                      bool gradients, struct compute_table *tables,
                      struct staging_view *out) MUST_CHECK;

float *const *staging_row_gradients(const struct staging *s); /* of that pass, on the device */

/* Asks for the gradients of the pass that was opened last, and, after a fence, gives them. */
void staging_fetch(struct staging *s);
void staging_give(struct staging *s, const struct network_gradients *gradients);

/* How often memory of the device was allocated so far, for tests. */
uint64_t staging_allocations(const struct staging *s);

#endif
