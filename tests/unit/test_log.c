/*
 * Goal: a log line has the promised form, cannot be split or disguised by its values, obeys the
 * level, goes to the file and to the journal as each wants it. Method: lines are written to a
 * temporary file and compared, the time stamp by its pattern; the journal's form in a child whose
 * stderr is the pipe that JOURNAL_STREAM names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/str.h"

static char path[] = "/tmp/paramd-test-log-XXXXXX";
static char content[20000];

static const char *log_content(void)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t size = read(fd, content, sizeof content - 1);
    assert_true(size >= 0);
    content[size] = '\0';
    close(fd);
    assert_int_equal(truncate(path, 0), 0);
    return content;
}

static int set_up(void **state)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(log_open("server-0", path), ERR_NONE);
    return 0;
}

static int tear_down(void **state)
{
    return unlink(path);
}

#define STAMP "20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9].[0-9][0-9][0-9]Z "

static void test_form(void **state)
{
    log_info("shard", "restored step=%d rows=%zu", 12, (size_t)34);
    assert_true(
        str_glob_match(STAMP "server-0 info shard restored step=12 rows=34\n", log_content()));
    log_error("rpc", "bad value='%s'", "x\ny\tz\x1b[31m\x7f");
    assert_true(str_glob_match(STAMP "server-0 error rpc bad value='x\\ny\\x09z\\x1b[[]31m\\x7f'\n",
                               log_content()));
    log_warn("rpc", "unicode \xc3\xa9");
    assert_true(str_glob_match(STAMP "server-0 warn rpc unicode \xc3\xa9\n", log_content()));
}

static void test_levels(void **state)
{
    log_debug("x", "hidden");
    assert_string_equal(log_content(), "");
    enum log_level level = LOG_ERROR;
    assert_int_equal(log_level_parse("debug", &level), ERR_NONE);
    assert_int_equal(level, LOG_DEBUG);
    log_set_level(level);
    log_debug("x", "shown");
    assert_non_null(strstr(log_content(), " debug x shown\n"));
    assert_int_equal(log_level_parse("loud", &level), ERR_INPUT);
    assert_int_equal(level, LOG_DEBUG);
    assert_non_null(strstr(err_text(), "'loud'"));
    log_set_level(LOG_ERROR);
    log_warn("x", "hidden");
    assert_string_equal(log_content(), "");
    log_set_level(LOG_INFO);
}

static void test_long_lines_stay_one_line(void **state)
{
    char value[6000];
    memset(value, '\n', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    log_info("x", "%s", value);
    const char *text = log_content();
    size_t length = strlen(text);
    assert_true(length > 1000);
    assert_ptr_equal(strchr(text, '\n'), text + length - 1);
    assert_string_equal(text + length - 5, " ...\n");
}

static void test_bad_file(void **state)
{
    assert_int_equal(log_open("x", "/nonexistent/dir/log"), ERR_IO);
    assert_non_null(strstr(err_text(), "/nonexistent/dir/log"));
    log_info("x", "still the old file");
    assert_non_null(strstr(log_content(), "server-0 info x still the old file\n"));
}

static void test_reopen(void **state)
{
    char other[] = "/tmp/paramd-test-log-XXXXXX";
    int fd = mkstemp(other);
    assert_true(fd >= 0);
    assert_int_equal(log_open("worker-1", other), ERR_NONE);
    log_info("x", "elsewhere");
    ssize_t size = read(fd, content, sizeof content - 1);
    assert_true(size > 0);
    content[size] = '\0';
    assert_true(str_glob_match(STAMP "worker-1 info x elsewhere\n", content));
    assert_string_equal(log_content(), "");
    close(fd);
    unlink(other);
    assert_int_equal(log_open("server-0", path), ERR_NONE);
}

/* What a child with stderr in a pipe writes when JOURNAL_STREAM names that pipe, or another. */
static void run_child(ino_t inode_shift)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct stat status;
        char stream[64];
        dup2(ends[1], STDERR_FILENO);
        fstat(STDERR_FILENO, &status);
        snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)status.st_dev,
                 (uintmax_t)(status.st_ino + inode_shift));
        setenv("JOURNAL_STREAM", stream, 1);
        execl("/proc/self/exe", "test_log", "child", (char *)NULL);
        _exit(1);
    }
    close(ends[1]);
    size_t size = 0;
    ssize_t part;
    while ((part = read(ends[0], content + size, sizeof content - 1 - size)) > 0)
        size += (size_t)part;
    content[size] = '\0';
    close(ends[0]);
    int code;
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_int_equal(code, 0);
}

static void test_journal(void **state)
{
    run_child(0);
    assert_string_equal(content, "<6>info early before\n<3>server-3 error x first\n"
                                 "<4>server-3 warn x second\n<6>server-3 info x third\n"
                                 "<7>server-3 debug x fourth\n");
    run_child(1);
    assert_true(
        str_glob_match(STAMP "info early before\n" STAMP "server-3 error x first\n*", content));
}

static int child_main(void)
{
    log_info("early", "before");
    if (log_open("server-3", NULL) != ERR_NONE)
        return 1;
    log_set_level(LOG_DEBUG);
    log_error("x", "first");
    log_warn("x", "second");
    log_info("x", "third");
    log_debug("x", "fourth");
    return 0;
}

int main(int argument_count, char **arguments)
{
    if (argument_count == 2 && strcmp(arguments[1], "child") == 0)
        return child_main();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_long_lines_stay_one_line),
        cmocka_unit_test(test_bad_file),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_journal),
    };
    return cmocka_run_group_tests_name("log", tests, set_up, tear_down);
}
