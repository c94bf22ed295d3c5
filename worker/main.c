/*
 * paramd-worker: reads examples, computes gradients, pushes them and pulls values.
 *
 *     paramd-worker [--config FILE] [--set NAME=VALUE]… [--version] [--help]
 *
 * Ends on SIGTERM or SIGINT, when the leader lets it go, and when PARAMD_PARENT_FD, the read end of
 * a pipe, reaches its end: then whoever started it has gone.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/notify.h"
#include "common/settings.h"
#include "common/storage.h"
#include "common/str.h"
#include "worker/worker.h"

#define EXIT_DONE          0
#define EXIT_USAGE         64 /* of this command line: EX_USAGE */
#define EXIT_RETRY         75 /* something outside is not there yet: EX_TEMPFAIL */
#define EXIT_CONFIG        78 /* the settings are wrong: EX_CONFIG */
#define SETTINGS_MAX_BYTES (1u << 20)
#define LOOK_MS            100u

static volatile sig_atomic_t told_to_stop;

static void on_signal(int number)
{
    (void)number;
    told_to_stop = told_to_stop + 1;
}

static int usage(FILE *to, int code)
{
    fputs("usage: paramd-worker [--config FILE] [--set NAME=VALUE]... [--version] [--help]\n"
          "  --config FILE     YAML with settings; conf/worker.yaml shows them all\n"
          "  --set NAME=VALUE  one setting, over the file\n",
          to);
    return code;
}

struct arguments {
    const char *config;
    const char **sets; /* NULL-terminated */
    size_t set_count;
};

/* The value of an option that has one: "--name VALUE" or "--name=VALUE". */
static const char *value_of(const char *name, int count, char **arguments, int *at)
{
    size_t size = strlen(name);
    const char *text = arguments[*at];
    if (strncmp(text, name, size) != 0)
        return NULL;
    if (text[size] == '=')
        return text + size + 1;
    if (text[size] != '\0' || *at + 1 >= count)
        return NULL;
    return arguments[++*at];
}

/* -1: go on; else the exit code. */
static int parse_arguments(int count, char **arguments, struct arguments *out)
{
    out->sets = must_alloc(((size_t)count + 1) * sizeof *out->sets);
    for (int i = 1; i < count; i++) {
        const char *value;
        if (strcmp(arguments[i], "--help") == 0 || strcmp(arguments[i], "-h") == 0)
            return usage(stdout, EXIT_DONE);
        if (strcmp(arguments[i], "--version") == 0) {
            printf("paramd-worker %s\n", PARAMD_VERSION);
            return EXIT_DONE;
        }
        if ((value = value_of("--config", count, arguments, &i)) != NULL) {
            out->config = value;
        } else if ((value = value_of("--set", count, arguments, &i)) != NULL) {
            out->sets[out->set_count++] = value;
        } else {
            fprintf(stderr, "paramd-worker: '%s' is no option, or lacks its value\n", arguments[i]);
            return usage(stderr, EXIT_USAGE);
        }
    }
    return -1;
}

static enum err read_settings(const struct arguments *a, struct daemon_settings **out)
{
    char *text = NULL;
    size_t size = 0;
    if (a->config != NULL) {
        enum err e = storage_read_all(a->config, SETTINGS_MAX_BYTES, &text, &size);
        if (e != ERR_NONE)
            return e;
    }
    enum err e =
        daemon_settings_parse(a->config != NULL ? a->config : "--set", text, size, a->sets, out);
    mem_free(text);
    return e;
}

static enum err open_log(const struct daemon_settings *s)
{
    enum log_level level;
    enum err e = log_level_parse(s->log_level, &level);
    if (e != ERR_NONE)
        return e;
    log_set_level(level);
    return log_open(s->name != NULL ? s->name : "worker", s->log_file);
}

/* The pipe whose other end whoever started us holds; -1: there is none. */
static int parent_pipe(void)
{
    const char *text = getenv("PARAMD_PARENT_FD");
    uint64_t descriptor;
    if (text == NULL || str_parse_u64(span_of(text), &descriptor) != ERR_NONE ||
        descriptor > 1000000)
        return -1;
    return (int)descriptor;
}

/* Waits a little. true: the parent's end of the pipe is closed. */
static bool parent_has_gone(int pipe)
{
    if (pipe < 0) {
        clock_sleep_ms(LOOK_MS);
        return false;
    }
    struct pollfd p = {.fd = pipe, .events = POLLIN};
    if (poll(&p, 1, LOOK_MS) <= 0)
        return false;
    char byte;
    return read(pipe, &byte, 1) == 0;
}

static void catch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
}

/* A signal, in a cluster: hands the work over first, unless a second one comes or it takes too
 * long. true: leave now. */
static bool leaves(struct worker *w, const struct daemon_settings *settings, uint64_t *since_ms)
{
    if (told_to_stop == 0)
        return false;
    uint64_t now = clock_ms();
    if (*since_ms == 0) {
        log_info("main", "told to stop by a signal: hands its work over");
        *since_ms = now;
        if (worker_ask_to_leave(w))
            return true;
    }
    return told_to_stop > 1 || now - *since_ms >= settings->drain_timeout_ms;
}

static int serve(struct worker *w, const struct daemon_settings *settings, int pipe)
{
    uint64_t leaving_ms = 0;
    uint32_t watchdog_ms = notify_watchdog_ms();
    uint64_t fed_ms = clock_ms();
    notify_state("READY=1");
    for (;;) {
        int code = worker_wait(w, 0);
        if (code >= 0)
            return code;
        if (pipe >= 0 ? told_to_stop > 0 : leaves(w, settings, &leaving_ms)) {
            log_info("main", "told to stop by a signal");
            return EXIT_DONE;
        }
        if (parent_has_gone(pipe)) {
            log_warn("main", "whoever started this process has gone");
            return EXIT_DONE;
        }
        if (watchdog_ms > 0 && clock_ms() - fed_ms >= watchdog_ms) {
            notify_state("WATCHDOG=1");
            fed_ms = clock_ms();
        }
    }
}

/* What a restart may mend, and what it cannot. */
static int exit_code_of(enum err e)
{
    return e == ERR_UNAVAILABLE || e == ERR_TIMEOUT || e == ERR_IO || e == ERR_MEMORY ? EXIT_RETRY
                                                                                      : EXIT_CONFIG;
}

int main(int count, char **arguments)
{
    struct arguments parsed = {0};
    struct daemon_settings *settings = NULL;
    struct worker *worker = NULL;
    log_open_standard();
    mem_keep_freed();
    int code = parse_arguments(count, arguments, &parsed);
    if (code >= 0)
        goto out;
    code = EXIT_CONFIG;
    if (read_settings(&parsed, &settings) != ERR_NONE || open_log(settings) != ERR_NONE) {
        fprintf(stderr, "paramd-worker: %s\n", err_text());
        goto out;
    }
    storage_configure(&settings->storage);
    int pipe = parent_pipe();
    if (pipe >= 0)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    catch_signals();
    enum err e = worker_start(settings, &worker);
    if (e != ERR_NONE) {
        log_error("main", "cannot start: %s", err_text());
        code = exit_code_of(e);
        goto out;
    }
    code = serve(worker, settings, pipe);
    notify_state("STOPPING=1");
out:
    worker_stop(worker);
    daemon_settings_destroy(settings);
    mem_free(parsed.sets);
    return code;
}
