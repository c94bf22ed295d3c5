/*
 * Goal: what a run shows is what is known: no rate and no loss before workers have reported, no
 * training in the summary of a run that found its job finished.
 *
 * Method: statuses as a leader gives them, shown with stderr in a file; a table of what must and
 * what must not stand in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/display.h"

struct shown {
    char text[4096];
};

static struct shown show(Paramd__Control__StatusReply *s, bool summary)
{
    struct shown shown = {0};
    FILE *file = tmpfile();
    int kept = dup(STDERR_FILENO);

    assert_non_null(file);
    fflush(stderr);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    if (summary) {
        display_summary(s, "", 0);
    } else {
        struct display *d = NULL;
        assert_int_equal(display_create(NULL, false, &d), ERR_NONE);
        display_update(d, s);
        display_destroy(d);
    }
    fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(file);
    shown.text[fread(shown.text, 1, sizeof shown.text - 1, file)] = 0;
    fclose(file);
    return shown;
}

static void test_what_is_known(void **state)
{
    static const struct {
        const char *state, *has, *lacks;
        uint64_t examples;
        double seconds;
        bool summary;
    } cases[] = {
        {"RUNNING", "step 7/90  epoch 1/3\n", "loss", 0, 2, false},
        {"RUNNING", "500 examples/s  loss 0.25000", "0 examples/s  loss 0.0", 1000, 2, false},
        {"QUEUED", "QUEUED\n", "step", 0, 0, false},
        {"DONE", "7 steps, 0 epochs; nothing by this run\n", "objective", 0, 0.01, true},
        {"DONE", "7 steps, 0 epochs, 1000 examples in 2.00 s: 500 examples/s\n", "nothing", 1000, 2,
         true},
        {"DONE", "objective   0.250000\n", "nothing", 1000, 2, true},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Paramd__Control__StatusReply s = PARAMD__CONTROL__STATUS_REPLY__INIT;
        s.job = "j";
        s.state = (char *)cases[i].state;
        s.step = 7;
        s.last_step = 90;
        s.epochs = 3;
        s.examples = cases[i].examples;
        s.train_seconds = cases[i].seconds;
        s.objective = 0.25;
        struct shown shown = show(&s, cases[i].summary);
        if (!strstr(shown.text, cases[i].has) || strstr(shown.text, cases[i].lacks))
            fail_msg("case %zu: '%s'", i, shown.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_is_known)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
