/*
 * data_fixture.h - small data sets in a temporary directory, and jobs over them.
 *
 * Failures of the fixture itself are cmocka failures.
 */
#ifndef PARAMD_TESTS_SUPPORT_DATA_FIXTURE_H
#define PARAMD_TESTS_SUPPORT_DATA_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dataindex.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "common/str.h"

/* A directory of this test; removed with all that is in it by data_fixture_remove(). */
char *data_fixture_make(void);
void data_fixture_remove(char *directory);

/* directory/name with these bytes, as they are or gzip'ed. Returns the path; freed with mem_free().
 */
char *data_fixture_write(const char *directory, const char *name, struct span bytes);
char *data_fixture_gzip(const char *directory, const char *name, struct span bytes);

/* YAML text with `$` for the directory. */
struct job *data_fixture_job(const char *directory, const char *yaml);

/* The message of the error that parsing or indexing must give is the caller's to check. */
struct index_run {
    const struct job *job;
    const char *uri;           /* where the index goes */
    uint32_t workers, threads; /* 0: 1 */
};
enum err data_fixture_index(const struct index_run *run, char checksum[SHA256_HEX_SIZE]);

/* Index, features and all, for tests of batches. */
struct data_setup {
    struct job *job;
    struct dataindex *index;
    struct features_spec *spec;
};
void data_setup_make(struct data_setup *s, const char *directory, const char *yaml);
void data_setup_remove(struct data_setup *s);

/* Numbers that do not change from run to run. */
uint64_t data_random(uint64_t *state);

#endif
