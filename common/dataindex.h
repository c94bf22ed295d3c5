/*
 * dataindex.h - what the data set was when the job formed (PROTOCOL.md 5).
 *
 * Made once by the workers, stored beside the checkpoints as `<uri>/<job>/index-<checksum>.json`
 * (+ `.bin` for vocabularies and bulk), and reused by its checksum. Files in byte order of their
 * URIs with size and change mark, those of data.eval behind; blocks with offsets and record counts;
 * columns; constants of `standardize`; the values that pass min_count. A file that differs later is
 * refused by name.
 *
 * Blocks   A block is a run of records of one file: at most DATA_BLOCK_RECORDS, and about 1 MiB of
 *          text. For files that cannot be entered in the middle (gzip, zstd) the offset counts
 *          unpacked bytes. With a `split`, train_count and eval_count share a block's records, by a
 *          rule on the record alone.
 * Pure     no I/O: the worker reads and writes the bytes.
 */
#ifndef PARAMD_COMMON_DATAINDEX_H
#define PARAMD_COMMON_DATAINDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/sha256.h"
#include "common/str.h"

#define DATA_BLOCK_RECORDS 16384u

struct dataindex_file {
    char *uri;
    uint64_t size;
    char mark[64];
    bool for_eval; /* from data.eval; else data.train (which a split divides) */
    bool splittable;
    char **column_names; /* from key=value levels */
    char **column_values;
    uint32_t column_count;
};

struct dataindex_block {
    uint32_t file;
    uint64_t offset, size; /* bytes; unpacked when the file is packed */
    uint64_t first_line;   /* from 1, for errors; idx: first record */
    uint32_t record_count; /* good ones */
    uint32_t bad_count;    /* skipped ones (data.bad_rows) */
    uint32_t train_count;  /* of the training set */
    uint32_t eval_count;   /* of the evaluation set */
};

struct dataindex_vocab { /* one per feature with min_count > 1 */
    uint32_t feature;    /* in features_spec */
    uint64_t *keys;      /* unmixed hashes that pass, ascending */
    uint64_t count;
};

struct dataindex {
    struct dataindex_file *files;
    uint32_t file_count;
    struct dataindex_block *blocks; /* in file order, offset order */
    uint32_t block_count;
    char **columns;
    uint32_t column_count;
    uint64_t train_examples, eval_examples, bad_rows;
    int64_t time_split_ms;      /* SPLIT_TIME: records at or after it evaluate */
    double *means, *deviations; /* [feature_count of features_spec]; of standardize */
    uint32_t feature_count;
    struct dataindex_vocab *vocabs;
    uint32_t vocab_count;
    char checksum[SHA256_HEX_SIZE]; /* of the canonical JSON and the .bin */
};

/* Canonical: the same index gives the same bytes. `bulk` takes vocabulary keys. */
void dataindex_write(const struct dataindex *d, struct str *json, struct str *bulk);
enum err dataindex_parse(const char *what, const char *json, size_t json_size, const void *bulk,
                         size_t bulk_size, struct dataindex **out) MUST_CHECK;
void dataindex_destroy(struct dataindex *d);

/* Steps that every rank makes in an epoch: the most that any needs for its share of the examples
   by its share of the batch. */
uint64_t dataindex_steps_per_epoch(uint64_t train_examples, uint32_t batch_size,
                                   uint32_t rank_count);

#endif
