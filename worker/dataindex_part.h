/*
 * dataindex_part.h - what one worker found out about its files in one round of indexing.
 *
 * Everything in it merges exactly: blocks are put in order, counts are added, and the moments of
 * each block are combined in the order of blocks, so that the index does not depend on who counted
 * what.
 *
 * Threads  one owner.
 */
#ifndef PARAMD_WORKER_DATAINDEX_PART_H
#define PARAMD_WORKER_DATAINDEX_PART_H

#include "common/dataindex.h"
#include "common/job.h"
#include "common/str.h"
#include "worker/keycounts.h"

/* Of one feature in one block: count, mean and sum of squared differences (Welford; Chan et al.
 * 1979). */
struct moments {
    uint64_t count;
    double mean, squares;
};
void moments_add(struct moments *m, double value);
void moments_merge(struct moments *into, const struct moments *from);

struct index_block {
    struct dataindex_block place; /* `file` is a number among all files */
    uint32_t number;              /* in the file */
    struct moments *moments;      /* [moment_count] of the part */
};

struct index_count { /* of one feature: keys and how often, ascending */
    uint32_t feature;
    struct key_count *entries;
    size_t count;
};

struct index_part {
    struct text_list fields; /* of a record; empty: no file */
    uint32_t libffm_fields;
    uint32_t *packed_files; /* those that cannot be entered in the middle */
    uint32_t packed_count;
    struct index_block *blocks; /* by (file, number) */
    uint32_t block_count;
    uint32_t moment_count;      /* features that standardize asks for */
    struct index_count *counts; /* features with min_count; the last: times, when asked for */
    uint32_t count_count;
    uint64_t cut_values;
    struct text_list bad; /* the first few bad rows */
};

void index_part_deinit(struct index_part *p);
void index_part_write(const struct index_part *p, struct str *out);
/* ERR_CORRUPT names `what`. */
enum err index_part_parse(const char *what, const char *data, size_t size,
                          struct index_part *out) MUST_CHECK;
/* Adds `from` to `into` and empties it; call index_part_sort() after the last. ERR_INPUT: columns
 * differ. */
enum err index_part_merge(struct index_part *into, struct index_part *from) MUST_CHECK;
void index_part_sort(struct index_part *p);

#endif
