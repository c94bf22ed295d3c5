/*
 * features_fixture.h - rows of CSV text through features_add(), one at a time.
 */
#ifndef PARAMD_TESTS_SUPPORT_FEATURES_FIXTURE_H
#define PARAMD_TESTS_SUPPORT_FEATURES_FIXTURE_H

#include "tests/support/data_fixture.h"
#include "worker/features.h"

struct features_setup {
    struct job *job;
    struct features_spec *spec;
    struct features *features;
    struct reader *reader;
    struct rows rows;
    char *columns[16];
    uint32_t column_count;
    char *row;
};

/* `header`: names of the columns with commas between. An error is that of features_create() or
 * before. */
enum err features_setup_make(struct features_setup *s, const char *yaml, const char *header,
                             bool for_predict);
void features_setup_remove(struct features_setup *s);
/* One record, which stands in line 7 of "t". */
enum err features_setup_add(struct features_setup *s, const char *row);

#endif
