#include "tests/support/data_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "worker/dataset.h"

char *data_fixture_make(void)
{
    const char *base = getenv("TMPDIR");
    char *directory = must_format("%s/paramd-data-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(directory));
    log_set_level(LOG_ERROR);
    return directory;
}

void data_fixture_remove(char *directory)
{
    assert_int_equal(storage_remove_tree(directory), ERR_NONE);
    mem_free(directory);
}

char *data_fixture_write(const char *directory, const char *name, struct span bytes)
{
    char *path = must_format("%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes.data, 1, bytes.size, f), bytes.size);
    assert_int_equal(fclose(f), 0);
    return path;
}

char *data_fixture_gzip(const char *directory, const char *name, struct span bytes)
{
    char *path = must_format("%s/%s", directory, name);
    gzFile f = gzopen(path, "wb6");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, bytes.data, (unsigned)bytes.size), (int)bytes.size);
    assert_int_equal(gzclose(f), Z_OK);
    return path;
}

struct job *data_fixture_job(const char *directory, const char *yaml)
{
    struct str text = {0};
    for (const char *p = yaml; *p != '\0'; p++) {
        if (*p == '$')
            str_append(&text, directory);
        else
            str_append_span(&text, span_make(p, 1));
    }
    struct job *job = NULL;
    struct job_source source = {.what = "test.yaml", .text = text.data, .size = text.size};
    if (job_parse(&source, &job) != ERR_NONE)
        fail_msg("job: %s", err_text());
    str_deinit(&text);
    return job;
}

enum err data_fixture_index(const struct index_run *run, char checksum[SHA256_HEX_SIZE])
{
    bool done = false;
    uint32_t workers = run->workers > 0 ? run->workers : 1;
    for (uint32_t round = 0; !done; round++) {
        assert_true(round < 3);
        for (uint32_t w = 0; w < workers; w++) {
            struct dataset_index_options o = {.job = run->job,
                                              .uri = run->uri,
                                              .worker = w,
                                              .worker_count = workers,
                                              .threads = run->threads};
            char sum[SHA256_HEX_SIZE] = "";
            bool worker_done = false;
            enum err e = dataset_index_round(&o, round, &worker_done, sum);
            if (e != ERR_NONE)
                return e;
            if (w == 0 && worker_done) {
                done = true;
                memcpy(checksum, sum, SHA256_HEX_SIZE);
            }
        }
    }
    return ERR_NONE;
}

void data_setup_make(struct data_setup *s, const char *directory, const char *yaml)
{
    char checksum[SHA256_HEX_SIZE];
    *s = (struct data_setup){.job = data_fixture_job(directory, yaml)};
    char *uri = must_format("%s/index", directory);
    if (data_fixture_index(&(struct index_run){.job = s->job, .uri = uri}, checksum) != ERR_NONE ||
        dataset_index_load(uri, checksum, &s->index) != ERR_NONE ||
        features_spec_create(s->job, (const char *const *)s->index->columns, s->index->column_count,
                             &s->spec) != ERR_NONE)
        fail_msg("setup: %s", err_text());
    mem_free(uri);
}

void data_setup_remove(struct data_setup *s)
{
    features_spec_destroy(s->spec);
    dataindex_destroy(s->index);
    job_destroy(s->job);
}

uint64_t data_random(uint64_t *state)
{
    return mix64(*state += 0x9e3779b97f4a7c15ull);
}
