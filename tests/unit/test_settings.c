/*
 * Goal: the daemons' settings are read with their defaults, units and bounds; every row of every
 * table is sound; and the pages and default files in the tree are those that the rows make. Method:
 * tables of texts; a walk over all rows; comparison with the files, which PARAMD_UPDATE=1 writes
 * anew instead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/settings.h"
#include "common/settings_table.h"

static struct daemon_settings *parse(const char *text, const char *const *sets)
{
    struct daemon_settings *s = NULL;
    if (daemon_settings_parse("d.yaml", text, text ? strlen(text) : 0, sets, &s))
        fail_msg("%s", err_text());
    return s;
}

static void test_defaults(void **state)
{
    struct daemon_settings *s = parse(NULL, NULL);
    assert_string_equal(s->listen, "127.0.0.1:0");
    assert_null(s->advertise);
    assert_null(s->name);
    assert_null(s->log_file);
    assert_string_equal(s->log_level, "info");
    assert_int_equal(s->memory_bytes, 0);
    assert_int_equal(s->call_timeout_ms, 10000);
    assert_int_equal(s->stall_timeout_ms, 120000);
    assert_int_equal(s->message_max_bytes, 64 << 20);
    assert_true(s->unix_sockets);
    daemon_settings_destroy(s);
    daemon_settings_destroy(NULL);
}

static void test_values(void **state)
{
    const char *sets[] = {"memory=1.5GiB", "name=s=1", NULL};
    struct daemon_settings *s = parse("listen: unix:/run/p.sock\nmemory: 3MB\ncall_timeout: 1.5s\n"
                                      "peer_timeout: 2m\nadvertise: ~\nunix_sockets: false\n"
                                      "message_max: 1048576\nlog_level: debug\n",
                                      sets);
    assert_string_equal(s->listen, "unix:/run/p.sock");
    assert_int_equal(s->memory_bytes, 3ull << 29);
    assert_string_equal(s->name, "s=1");
    assert_int_equal(s->call_timeout_ms, 1500);
    assert_int_equal(s->peer_timeout_ms, 120000);
    assert_int_equal(s->message_max_bytes, 1 << 20);
    assert_false(s->unix_sockets);

    struct str first = {0}, second = {0};
    daemon_settings_write(s, &first);
    struct daemon_settings *again = parse(first.data, NULL);
    daemon_settings_write(again, &second);
    assert_string_equal(first.data, second.data);
    assert_non_null(strstr(first.data, "memory: 1536MiB\n"));
    assert_non_null(strstr(first.data, "peer_timeout: 2min\n"));
    str_deinit(&first);
    str_deinit(&second);
    daemon_settings_destroy(s);
    daemon_settings_destroy(again);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *set, *error;
    } cases[] = {
        {"[1]", NULL, "d.yaml:1:1: is not a map of settings"},
        {"lisen: x", NULL, "d.yaml:1:8: lisen: unknown setting; did you mean 'listen'?"},
        {"log_level: loud", NULL, "log_level: value 'loud' is unknown; give one of debug, info"},
        {"log_level: wran", NULL, "did you mean 'warn'?"},
        {"call_timeout: 10", NULL, "d.yaml:1:15: call_timeout: value '10' lacks its unit"},
        {"call_timeout: 1ms", NULL, "value '1ms' is below 100"},
        {"message_max: 2GiB", NULL, "is above 1073741824; give a size such as"},
        {"memory: lots", NULL, "value 'lots' does not begin with a number"},
        {"threads: 2000", NULL, "value '2000' is above 1024; give a whole number from 0 to 1024"},
        {"unix_sockets: 1", NULL, "value '1' is neither true nor false"},
        {"listen: ~", NULL, "listen: value '~' is nothing"},
        {"listen: [a]", NULL, "listen: a list is not a single value"},
        {"", "threads", "--set: 'threads' is not of the form name=value"},
        {"", "threads=x", "--set: threads: value 'x' is not a whole number"},
        {"a: {b: 1}", NULL, "a: unknown setting"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *sets[] = {cases[i].set, NULL};
        struct daemon_settings *s = NULL;
        enum err e =
            daemon_settings_parse("d.yaml", cases[i].text, strlen(cases[i].text), sets, &s);
        assert_int_equal(e, ERR_INPUT);
        assert_null(s);
        if (!strstr(err_text(), cases[i].error))
            fail_msg("%s\nnot: %s", err_text(), cases[i].error);
    }
}

static void test_rows(void **state)
{
    const struct {
        const struct setting *rows;
        size_t count;
    } tables[] = {
        {job_settings, job_setting_count},       {feature_settings, feature_setting_count},
        {table_settings, table_setting_count},   {optimizer_settings, optimizer_setting_count},
        {daemon_settings, daemon_setting_count},
    };
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        for (size_t i = 0; i < tables[t].count; i++) {
            const struct setting *row = &tables[t].rows[i];
            assert_non_null(row->path);
            assert_non_null(row->initial);
            assert_true(row->help && *row->help);
            if (row->type == SETTING_CUSTOM)
                assert_true(row->read && row->write);
            if (row->type == SETTING_CHOICE || row->type == SETTING_NAME16)
                assert_true(row->choices && row->choices[0]);
            for (size_t k = 0; k < i; k++) {
                const struct setting *other = &tables[t].rows[k];
                if (!strcmp(row->path, other->path))
                    assert_true(row->applies && other->applies && !(row->applies & other->applies));
            }
        }
    }
}

static void test_numbers(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"},           {1e-8, "1e-08"}, {1.0 / 3, "0.3333333333333333"},
                 {16777216, "16777216"}, {-0.0, "0"},     {1e300, "1e+300"},
                 {5e-324, "5e-324"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str out = {0};
        value_print_f64(cases[i].value, &out);
        assert_string_equal(out.data, cases[i].text);
        str_deinit(&out);
    }
}

/* ---- what is made from the rows ------------------------------------------------------------- */

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = must_alloc(1 << 20);
    size_t size = fread(text, 1, (1 << 20) - 1, f);
    text[size] = '\0';
    fclose(f);
    return text;
}

static void check_file(const char *path, struct str *made)
{
    if (getenv("PARAMD_UPDATE")) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(made->data, 1, made->size, f), made->size);
        fclose(f);
    }
    char *text = read_file(path);
    if (!text)
        fail_msg("%s cannot be read; tests run in the root of the repository", path);
    if (strcmp(text, made->data))
        fail_msg("%s is not what the settings table makes; run this test with PARAMD_UPDATE=1",
                 path);
    mem_free(text);
    str_deinit(made);
}

static void test_files(void **state)
{
    struct str job = {0}, daemons = {0}, server = {0}, worker = {0};
    settings_document_job(&job);
    settings_document_daemon(&daemons);
    settings_write_defaults("server", &server);
    settings_write_defaults("worker", &worker);
    assert_non_null(strstr(server.data, "\n#memory: 0\n"));
    assert_null(strstr(server.data, "scratch"));
    daemon_settings_destroy(parse(server.data, NULL)); /* all comments: the defaults */
    for (char *p = worker.data; *p; p++)               /* and without the comment signs, too */
        if (*p == '#' && p[1] != ' ' && p[-1] == '\n')
            *p = ' ';
    daemon_settings_destroy(parse(worker.data, NULL));
    str_clear(&worker);
    settings_write_defaults("worker", &worker);
    check_file("docs/job-file.md", &job);
    check_file("docs/daemon-settings.md", &daemons);
    check_file("conf/server.yaml", &server);
    check_file("conf/worker.yaml", &worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
