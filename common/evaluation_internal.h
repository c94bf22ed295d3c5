/*
 * evaluation_internal.h - what evaluation.c (adding, metrics) and evaluation_codec.c (bytes) share.
 *
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_EVALUATION_INTERNAL_H
#define PARAMD_COMMON_EVALUATION_INTERNAL_H

#include <stddef.h>

#include "common/evaluation.h"

/* Bins below 0, at 0 and above 0; the outermost ones take all that is at least 2^5 away. */
#define BIN_EXPONENTS     17u /* 2^-12 … 2^4 */
#define BIN_MANTISSA_BITS 11u
#define BIN_SIDE          ((BIN_EXPONENTS << BIN_MANTISSA_BITS) + 1u)
#define BIN_COUNT         (2u * BIN_SIDE + 1u)

#define GAUC_ENTRY_MAX (1u << 25)

enum evaluation_sum {
    SUM_WEIGHT,
    SUM_LOSS,
    SUM_CORRECT,
    SUM_SQUARE,
    SUM_ABSOLUTE,
    SUM_PREDICTION,
    SUM_LABEL,
    SUM_COUNT
};

/* Weights of one bin, in units of 2^-24. */
struct bin {
    uint64_t negative, positive;
};

/* Examples of one group, bin and class. */
struct gauc_entry {
    uint64_t group;
    uint32_t key; /* bin * 2 + class */
    uint32_t count;
    uint64_t weight; /* in units of 2^-24 */
};

struct gauc {
    struct gauc_entry *entries;
    size_t count, capacity;
    size_t sorted; /* the first so many are ascending and without doubles */
};

struct evaluation {
    enum loss_type loss;
    uint32_t output_width;
    uint32_t metrics;
    uint64_t examples;
    bool invalid;             /* a prediction was not a number */
    __int128 sums[SUM_COUNT]; /* in units of 2^-48 */
    struct bin *bins;         /* [BIN_COUNT], NULL: auc is not asked for */
    struct gauc *gauc;        /* NULL: not asked for */
};

/* Sorts and puts equal entries together: a form that does not depend on the order of adding. */
void gauc_compact(struct gauc *g);
/* Makes room, so that `count` calls of gauc_append() cannot fail. */
enum err gauc_reserve(struct gauc *g, size_t count) MUST_CHECK;
void gauc_append(struct gauc *g, const struct gauc_entry *entry);
uint64_t saturating_add(uint64_t a, uint64_t b);

#endif
