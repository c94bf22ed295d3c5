/*
 * dataset_fixture.h - a data set whose label is the row's number, with its index, opened; and what
 * its batches must be.
 */
#ifndef PARAMD_TESTS_SUPPORT_DATASET_FIXTURE_H
#define PARAMD_TESTS_SUPPORT_DATASET_FIXTURE_H

#include "tests/support/data_fixture.h"
#include "worker/dataset.h"
#include "worker/features.h"

#define ROWS  6000
#define FILES 4

/* A job over the fixture's data: more of `data:` (", shuffle: none"), and what stands in `train:`.
 */
#define JOB_FEATURES                                                                               \
    "features: {user: categorical, item: {key: integer, table: item}, tags: {pooling: mean}, "     \
    "price: {type: numeric}, user_x_item: {cross: [user, item2]}, item2: {column: item}}\n"
#define JOB(data, train)                                                                           \
    "data: {format: csv, train: '$/d*.csv', label: id, weight: w" data "}\n" JOB_FEATURES          \
    "model: {type: fm, loss: squared}\ntrain: {" train "}\n"

struct fixture {
    char *directory, *cache;
    struct data_setup setup;
    struct dataset *d;
    uint64_t cache_limit; /* of what is opened next; 0: the default */
};

/* FILES files of unequal size, ROWS rows in all; d2.csv is always packed, the others if `packed`.
 */
void fixture_make(struct fixture *f, const char *yaml, bool packed);
void fixture_open(struct fixture *f, uint32_t threads); /* f->d anew */
void fixture_remove(struct fixture *f);
uint64_t fixture_epoch_steps(const struct fixture *f);

/* All rows, as features_add() gives them in one go. Index: the row's number. */
void fixture_read_rows(const struct fixture *f, struct rows *rows, struct features **features);
/* A batch's arrays against the rows that its labels name, and against each other. */
void fixture_check_batch(const struct batch *b, const struct rows *rows);

/* The next batch; a failure is the test's. */
struct batch *fixture_next(struct batch_stream *s);
/* A hash of all that a rank's batches first … last say. */
uint64_t fixture_digest(struct fixture *f, uint32_t rank, uint64_t first, uint64_t last,
                        uint32_t ahead);
uint64_t batch_digest(const struct batch *b, uint64_t h);

#endif
