/*
 * cli.h - what the commands of paramctl share: the table of commands, exit codes, options, loading
 * a job.
 *
 * Results go to stdout, progress and messages to stderr. Adding a command is a file with a function
 * and a row of the table in main.c.
 */
#ifndef PARAMD_CLI_CLI_H
#define PARAMD_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/json.h"
#include "common/settings.h"

#define PARAMD_VERSION "0.1.0"

enum exit_code {
    EXIT_DONE = 0,
    EXIT_ERROR = 1,
    EXIT_USAGE = 2,
    EXIT_JOB_FAILED = 3,
    EXIT_NOT_FOUND = 4,
    EXIT_TIMED_OUT = 5,
    EXIT_UNREACHABLE = 6,
    EXIT_INTERRUPTED = 130
};

struct command {
    const char *name;
    const char *synopsis;
    const char *help;
    int (*run)(int argc, char **argv); /* argv[0] is the first word after the command's name */
};

int command_run(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_predict(int argc, char **argv);
int command_export(int argc, char **argv);
int command_checkpoints(int argc, char **argv);
int command_config(int argc, char **argv);
int command_data(int argc, char **argv);
int command_submit(int argc, char **argv);
int command_list(int argc, char **argv);
int command_members(int argc, char **argv);
int command_logs(int argc, char **argv);
int command_status(int argc, char **argv);
int command_stop(int argc, char **argv);
int command_kill(int argc, char **argv);
int command_checkpoint(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_version(int argc, char **argv);
const struct command *command_find(const char *name);

/* ---- options ---- */

enum option_kind {
    OPTION_FLAG,        /* bool * */
    OPTION_TEXT,        /* const char ** */
    OPTION_NUMBER,      /* int64_t *, not negative */
    OPTION_LIST,        /* struct option_list *, may be repeated */
    OPTION_FLAG_OR_TEXT /* struct option_maybe *: --x or --x=TEXT */
};
struct option_list {
    const char **items; /* NULL-terminated; never NULL after options_parse() */
    size_t count;
};
struct option_maybe {
    bool given;
    const char *text; /* NULL: without a value */
};
struct option {
    const char *name; /* "set": --set VALUE, --set=VALUE */
    char letter;      /* 0: none */
    enum option_kind kind;
    void *value;
};

/* Prints what is wrong and the command's synopsis, and returns false. main() sees to --help. */
bool options_parse(const char *command, int argc, char **argv, const struct option *options,
                   size_t option_count, struct option_list *positional);
void option_list_free(struct option_list *l);

/* ---- jobs and daemon settings ---- */

struct job_options {
    const char *file;
    struct option_list sets, vars;
};
/*
 * --set of a daemon setting (`listen=…`) goes to *daemon_sets, the others to the job. Either out
 * may be NULL.
 */
void split_sets(const struct option_list *sets, struct option_list *job_sets,
                struct option_list *daemon_sets);
enum err load_job(const char *file, const struct option_list *sets, const struct option_list *vars,
                  struct job **out) MUST_CHECK;

/* "error: <err_text()>" on stderr; the exit code that suits `err`. */
int fail(enum err err);
int usage(const char *command, const char *format, ...) PRINTF_LIKE(2, 3);
/* Writes a tree and a newline to stdout. */
void print_json(const struct json *j, bool indent);
/*
 * true: "-o json"; false: none given. Prints and returns an exit code through *code for anything
 * else.
 */
bool parse_output(const char *command, const char *output, bool *is_json, int *code);

#endif
