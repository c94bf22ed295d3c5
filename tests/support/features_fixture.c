#include "tests/support/features_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"

enum err features_setup_make(struct features_setup *s, const char *yaml, const char *header,
                             bool for_predict)
{
    *s = (struct features_setup){.job = data_fixture_job("/nowhere", yaml)};
    char *copy = must_strdup(header), *state = NULL;
    for (char *name = strtok_r(copy, ",", &state); name != NULL; name = strtok_r(NULL, ",", &state))
        s->columns[s->column_count++] = must_strdup(name);
    mem_free(copy);
    const char *const *columns = (const char *const *)s->columns;
    enum err e = features_spec_create(s->job, columns, s->column_count, &s->spec);
    struct features_options o = {.job = s->job,
                                 .spec = s->spec,
                                 .columns = columns,
                                 .column_count = s->column_count,
                                 .label_optional = for_predict};
    if (e == ERR_NONE)
        e = features_create(&o, &s->features);
    if (e != ERR_NONE)
        return e;
    rows_init(s->features, &s->rows);
    struct reader_options r = {.data = &s->job->data, .column_count = s->column_count};
    assert_int_equal(reader_create(&r, &s->reader), ERR_NONE);
    return ERR_NONE;
}

void features_setup_remove(struct features_setup *s)
{
    rows_deinit(&s->rows);
    reader_destroy(s->reader);
    features_destroy(s->features);
    features_spec_destroy(s->spec);
    job_destroy(s->job);
    for (uint32_t i = 0; i < s->column_count; i++)
        mem_free(s->columns[i]);
    mem_free(s->row);
}

enum err features_setup_add(struct features_setup *s, const char *row)
{
    const struct record *record;
    const struct features_call call = {.reader = s->reader};
    mem_free(s->row);
    s->row = must_strdup(row);
    reader_begin(s->reader, &(struct reader_block){
                                .name = "t", .data = s->row, .size = strlen(row), .first_line = 7});
    enum err e = reader_next(s->reader, &record);
    if (e != ERR_NONE)
        return e;
    assert_non_null(record);
    return features_add(s->features, &call, record, &s->rows);
}
