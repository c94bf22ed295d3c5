/*
 * Goal: a metric is one by its name, counts what every thread adds, and is written as Prometheus
 * reads it. Method: threads that add; the whole text compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "common/metrics.h"

static void *add_many(void *argument)
{
    struct metric *m = metric_counter("paramd_rows_total", "other help");
    for (int i = 0; i < 10000; i++)
        metric_add(m, 3);
    return m;
}

static void test_metrics(void **state)
{
    struct metric *rows = metric_counter("paramd_rows_total", "Rows.\nA \\ second line.");
    struct metric *wait = metric_counter("paramd_wait_seconds_total", "Waiting.");
    struct metric *depth = metric_gauge("paramd_depth", "Depth.");
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, NULL), 0);
    for (int i = 0; i < 3; i++) {
        void *same;
        assert_int_equal(pthread_join(threads[i], &same), 0);
        assert_ptr_equal(same, rows);
    }
    assert_true(metric_value(rows) == 90000);
    metric_add(rows, 9000000000000000000u);
    metric_add_seconds(wait, 1500000000u);
    metric_add_seconds(wait, 250000000u);
    assert_true(fabs(metric_value(wait) - 1.75) < 1e-12);
    metric_set(depth, 7);
    metric_set(depth, -0.5);
    assert_true(metric_value(depth) == -0.5);

    struct str out = {0};
    metrics_write_text(&out);
    assert_string_equal(out.data, "# HELP paramd_rows_total Rows.\\nA \\\\ second line.\n"
                                  "# TYPE paramd_rows_total counter\n"
                                  "paramd_rows_total 9000000000000090000\n"
                                  "# HELP paramd_wait_seconds_total Waiting.\n"
                                  "# TYPE paramd_wait_seconds_total counter\n"
                                  "paramd_wait_seconds_total 1.750000000\n"
                                  "# HELP paramd_depth Depth.\n"
                                  "# TYPE paramd_depth gauge\n"
                                  "paramd_depth -0.5\n");
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {NAN, "NaN"}, {INFINITY, "+Inf"}, {-INFINITY, "-Inf"}, {1e300, "1e+300"}, {0, "0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        metric_set(depth, cases[i].value);
        str_clear(&out);
        metrics_write_text(&out);
        const char *last = strstr(out.data, "\nparamd_depth ");
        assert_non_null(last);
        assert_memory_equal(last + 14, cases[i].text, strlen(cases[i].text));
    }
    str_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
