/*
 * Goal: the thread's error text is what was set, survives being built from itself, is cut and not
 * overrun when long, and belongs to its thread; CHECK stops the process and says where. Method:
 * direct calls; CHECK in a forked child whose stderr is read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/err.h"

static void test_texts(void **state)
{
    assert_int_equal(err_set(ERR_INPUT, "rank '%d' is not below %d", 7, 4), ERR_INPUT);
    assert_string_equal(err_text(), "rank '7' is not below 4");
    assert_int_equal(err_prefix(ERR_INPUT, "%s", "job.yaml"), ERR_INPUT);
    assert_string_equal(err_text(), "job.yaml: rank '7' is not below 4");
    assert_int_equal(err_set(ERR_LIMIT, "again: %s", err_text()), ERR_LIMIT);
    assert_string_equal(err_text(), "again: job.yaml: rank '7' is not below 4");
    assert_int_equal(err_set_errno(ERR_IO, ENOENT, "file '%s'", "x"), ERR_IO);
    assert_string_equal(err_text(), "file 'x': No such file or directory");
}

static void test_long_texts_are_cut(void **state)
{
    char text[4000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(err_set(ERR_INPUT, "%s", text), ERR_INPUT);
    size_t length = strlen(err_text());
    assert_in_range(length, 500, 2000);
    err_prefix(ERR_INPUT, "front");
    assert_int_equal(strlen(err_text()), length);
    assert_int_equal(strncmp(err_text(), "front: aaa", 10), 0);
    err_set_errno(ERR_IO, EIO, "%s", text);
    assert_int_equal(strlen(err_text()), length);
    assert_non_null(strstr(err_text(), "aaa: Input/output error"));
}

/* What users and peers sent is in texts that go to a terminal. */
static void test_control_characters_are_escaped(void **state)
{
    err_set(ERR_INPUT, "value '%s' of 'ü'", "a\nb\r\x1b[2J\x7f");
    assert_string_equal(err_text(), "value 'a\\x0ab\\x0d\\x1b[2J\\x7f' of 'ü'");
    char text[4000];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(ERR_INPUT, "%s", text);
    assert_in_range(strlen(err_text()), 1000, 1023);
    assert_string_equal(err_text() + strlen(err_text()) - 4, "\\x0a");
}

static void test_names(void **state)
{
    for (int code = 0; code < ERR_COUNT; code++) {
        assert_non_null(err_name((enum err)code));
        for (int other = 0; other < code; other++)
            assert_string_not_equal(err_name((enum err)code), err_name((enum err)other));
    }
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    assert_string_equal(err_name(ERR_COUNT), "unknown");
    assert_string_equal(err_name((enum err) - 1), "unknown");
}

static void *other_thread(void *argument)
{
    assert_string_equal(err_text(), "");
    err_set(ERR_IO, "of the other thread");
    return NULL;
}

static void test_text_is_per_thread(void **state)
{
    err_set(ERR_INPUT, "mine");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(err_text(), "mine");
}

static void test_check_aborts_with_its_place(void **state)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        int answer = 41;
        CHECK(answer == 41);
        CHECK(answer == 42);
        _exit(0);
    }
    close(ends[1]);
    char output[1000];
    ssize_t size = read(ends[0], output, sizeof output - 1);
    assert_true(size > 0);
    output[size] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(output, "error check "));
    assert_non_null(strstr(output, "answer == 42"));
    assert_non_null(strstr(output, "test_err.c:"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_control_characters_are_escaped),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_text_is_per_thread),
        cmocka_unit_test(test_check_aborts_with_its_place),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
