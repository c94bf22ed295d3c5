/*
 * Goal: keys are what docs/key-hash.md says, for whoever serves a model from another program.
 * Method: tests/unit/key_vectors.txt, made by another implementation of XXH64; each vector becomes
 * a job and a row, whose key in the batch's arrays is compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/features_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void add_feature_of(struct str *yaml, const char *name, const char *rest)
{
    str_append_format(yaml, "  %s: {%s}\n", name, rest);
}

/* The one or last key of the one row that `fields` describe. */
static void vector_row(char *const *f, size_t n, struct str *yaml, struct str *row, uint32_t *slot)
{
    const char *kind = f[0];
    *slot = 0;
    str_append(yaml, "data: {format: csv, train: x, label: y}\nmodel: {type: fm}\nfeatures:\n");
    str_append(row, "1,");
    if (strcmp(kind, "text") == 0) {
        add_feature_of(yaml, f[1], "column: a");
        str_append_format(row, "\"%s\",", f[2]);
    } else if (strcmp(kind, "missing") == 0) {
        add_feature_of(yaml, f[1], "column: a");
        str_append(row, ",");
    } else if (strcmp(kind, "unknown") == 0) {
        add_feature_of(yaml, f[1], "column: a, vocab: [other]");
        str_append(row, "x,");
    } else if (strcmp(kind, "number") == 0) {
        add_feature_of(yaml, f[1], "column: a, type: numeric");
        str_append(row, "3,");
    } else if (strcmp(kind, "integer") == 0) {
        add_feature_of(yaml, "x", "column: a, key: integer");
        str_append_format(row, "%s,", f[1]);
    } else if (strcmp(kind, "integer_buckets") == 0) {
        str_append_format(yaml, "  x: {column: a, key: integer, buckets: %s}\n", f[1]);
        str_append_format(row, "%s,", f[2]);
    } else if (strcmp(kind, "buckets") == 0) {
        str_append_format(yaml, "  %s: {column: a, buckets: %s}\n", f[1], f[2]);
        str_append_format(row, "%s,", f[3]);
    } else if (strcmp(kind, "cross") == 0) {
        static const char columns[] = "abc";
        str_clear(row);
        str_append(row, "1");
        for (size_t i = 2; i + 1 < n - 2; i += 2) {
            str_append_format(yaml, "  %s: {column: %c}\n", f[i], columns[*slot]);
            str_append_format(row, ",%s", f[i + 1]);
            ++*slot;
        }
        str_append_format(yaml, "  %s: {cross: [", f[1]);
        for (size_t i = 2; i + 1 < n - 2; i += 2)
            str_append_format(yaml, "%s%s", i > 2 ? ", " : "", f[i]);
        str_append(yaml, "]}\n");
        str_append(row, *slot == 2 ? "," : "");
        return;
    } else if (strcmp(kind, "number_text") == 0) {
        static const char *const how[][2] = {{"hour", "transform: [hour]"},
                                             {"weekday", "transform: [weekday]"},
                                             {"log2", "transform: [log2_floor]"},
                                             {"age", "bucketize: [18, 25, 35, 50]"}};
        for (size_t i = 0; i < COUNT(how); i++) {
            if (strcmp(how[i][0], f[1]) == 0)
                str_append_format(yaml, "  %s: {column: a, %s}\n", f[1], how[i][1]);
        }
        str_append_format(row, "%s,", f[2]);
    } else {
        fail_msg("kind '%s'", kind);
    }
    str_append(row, ",");
}

static size_t split_tabs(char *line, char **fields, size_t max)
{
    size_t n = 0;
    line[strcspn(line, "\n")] = '\0';
    for (char *at = line; n < max; at++) {
        fields[n++] = at;
        at += strcspn(at, "\t");
        if (*at == '\0')
            break;
        *at = '\0';
    }
    return n;
}

static void test_key_vectors(void **state)
{
    FILE *file = fopen("tests/unit/key_vectors.txt", "r");
    char line[512], *f[16];
    uint32_t tested = 0;
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#')
            continue;
        struct str yaml = {0}, row = {0};
        struct features_setup s;
        uint32_t slot;
        size_t n = split_tabs(line, f, COUNT(f));
        assert_true(n >= 4);
        uint64_t key = strtoull(f[n - 2], NULL, 16), mixed = strtoull(f[n - 1], NULL, 16);
        assert_int_equal(mix64(key), mixed);
        assert_int_equal(mix64_inverse(mixed), key);
        vector_row(f, n, &yaml, &row, &slot);
        if (features_setup_make(&s, yaml.data, "y,a,b,c", false) != ERR_NONE ||
            features_setup_add(&s, row.data) != ERR_NONE)
            fail_msg("%s %s: %s", yaml.data, row.data, err_text());
        if (s.rows.tables[0].keys[slot] != mixed)
            fail_msg("%s %s: key %016" PRIx64 ", not %016" PRIx64, yaml.data, row.data,
                     mix64_inverse(s.rows.tables[0].keys[slot]), key);
        features_setup_remove(&s);
        str_deinit(&yaml);
        str_deinit(&row);
        tested++;
    }
    fclose(file);
    assert_true(tested > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_key_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
