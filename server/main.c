/*
 * main.c - paramd-server: a parameter server as a daemon.
 *
 *     paramd-server [--config FILE] [--set NAME=VALUE]...
 *
 * Ends on SIGTERM or SIGINT, when the parent's pipe (PARAMD_PARENT_FD) ends, or when the
 * coordinator releases it. Exit codes: 0 done, 3 the job failed, 64 usage, 75 a restart may help,
 * 78 configuration.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/conf.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/mem.h"
#include "common/notify.h"
#include "common/settings.h"
#include "common/storage.h"
#include "server/server.h"

#define EXIT_USAGE  64
#define EXIT_AGAIN  75
#define EXIT_CONFIG 78
#define LOOK_MS     100u
#define CONFIG_MAX  (1u << 20)

struct program {
    const char *config;
    const char **sets; /* NULL-terminated */
    struct daemon_settings *settings;
    struct server *server;
    struct loop *loop;
    uint64_t told_ms, watchdog_ms;
    uint64_t leaving_ms; /* since when it hands its work over; 0: it does not */
    int exit_code;
};

static const char usage[] = "usage: paramd-server [--config FILE] [--set NAME=VALUE]...\n"
                            "\n"
                            "Holds shards of the parameters; one of the servers coordinates.\n"
                            "\n"
                            "  --config FILE      settings, as YAML\n"
                            "  --set NAME=VALUE   one setting; may be repeated\n"
                            "  --version          print the version\n"
                            "  --help             print this\n";

/* -1: go on; else the exit code. */
static int parse_arguments(struct program *p, int argc, char **argv)
{
    size_t count = 0;
    p->sets = must_alloc(((size_t)argc + 1) * sizeof *p->sets);
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            puts("paramd-server " PARAMD_VERSION);
            return 0;
        }
        if (strcmp(argv[i], "--config") == 0 && has_value) {
            p->config = argv[++i];
        } else if (strcmp(argv[i], "--set") == 0 && has_value) {
            p->sets[count++] = argv[++i];
        } else {
            fprintf(stderr, "paramd-server: unknown or incomplete argument '%s'\n%s", argv[i],
                    usage);
            return EXIT_USAGE;
        }
    }
    return -1;
}

static int configure(struct program *p)
{
    char *text = NULL;
    size_t size = 0;
    enum err e = ERR_NONE;
    if (p->config != NULL)
        e = storage_read_all(p->config, CONFIG_MAX, &text, &size);
    if (e == ERR_NONE)
        e = daemon_settings_parse(p->config != NULL ? p->config : "settings", text, size, p->sets,
                                  &p->settings);
    mem_free(text);
    enum log_level level = LOG_INFO;
    if (e == ERR_NONE)
        e = log_level_parse(p->settings->log_level, &level);
    if (e == ERR_NONE) {
        char *process = p->settings->name != NULL ? must_strdup(p->settings->name)
                                                  : must_format("server-%d", (int)getpid());
        e = log_open(process, p->settings->log_file);
        mem_free(process);
    }
    if (e != ERR_NONE) {
        fprintf(stderr, "paramd-server: %s\n", err_text());
        return EXIT_CONFIG;
    }
    log_set_level(level);
    storage_configure(&p->settings->storage);
    return -1;
}

/* In a cluster, the first one: hands its work over. On one machine whoever sends it wants the end
 * of all. */
static void on_signal(void *context, int number)
{
    struct program *p = context;
    log_info("main", "got %s", strsignal(number));
    if (getenv("PARAMD_PARENT_FD") == NULL && p->leaving_ms == 0 && p->server != NULL) {
        p->leaving_ms = clock_ms();
        if (!server_ask_to_leave(p->server))
            return;
    }
    p->exit_code = 0;
    loop_stop(p->loop);
}

static void on_parent_end(void *context)
{
    struct program *p = context;
    log_info("main", "the parent has ended");
    p->exit_code = 0;
    loop_stop(p->loop);
}

static void on_timer(void *context)
{
    struct program *p = context;
    int code = server_wait(p->server, 0);
    if (code >= 0) {
        log_info("main", "released exit_code=%d", code);
        p->exit_code = code;
        loop_stop(p->loop);
        return;
    }
    uint64_t now = clock_ms();
    if (p->leaving_ms > 0 && now - p->leaving_ms >= p->settings->drain_timeout_ms) {
        log_warn("main", "leaves without having handed its work over in time");
        p->exit_code = 0;
        loop_stop(p->loop);
        return;
    }
    if (p->watchdog_ms > 0 && now - p->told_ms >= p->watchdog_ms) {
        p->told_ms = now;
        notify_state("WATCHDOG=1");
    }
}

/* Two lines of defence against outliving the parent: the end of its pipe, and a signal at its
 * death. */
static enum err watch_parent(struct program *p)
{
    const char *text = getenv("PARAMD_PARENT_FD");
    if (text == NULL)
        return ERR_NONE;
    uint64_t descriptor;
    if (str_parse_u64(span_of(text), &descriptor) != ERR_NONE || descriptor > 1u << 20)
        return err_set(ERR_INPUT, "PARAMD_PARENT_FD is '%s', not a descriptor", text);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    return loop_watch_end(p->loop, (int)descriptor, on_parent_end, p);
}

static enum err watch_signals(struct program *p)
{
    enum err e = loop_signal(p->loop, SIGTERM, on_signal, p);
    if (e == ERR_NONE)
        e = loop_signal(p->loop, SIGINT, on_signal, p);
    return e;
}

static int exit_code_of(enum err e)
{
    return e == ERR_INPUT || e == ERR_REFUSED || e == ERR_UNSUPPORTED ? EXIT_CONFIG : EXIT_AGAIN;
}

static int serve(struct program *p)
{
    enum err e = loop_create(&p->loop);
    if (e == ERR_NONE)
        e = watch_signals(p);
    if (e == ERR_NONE)
        e = watch_parent(p);
    if (e == ERR_NONE)
        e = server_start(p->settings, &p->server);
    if (e != ERR_NONE) {
        log_error("main", "%s", err_text());
        if (p->loop != NULL)
            loop_destroy(p->loop);
        return exit_code_of(e);
    }
    p->watchdog_ms = notify_watchdog_ms();
    struct loop_timer *timer = loop_timer_create(p->loop, LOOK_MS, LOOK_MS, on_timer, p);
    notify_state("READY=1");
    loop_run(p->loop);
    notify_state("STOPPING=1");
    loop_timer_destroy(timer);
    server_stop(p->server);
    loop_destroy(p->loop);
    return p->exit_code;
}

int main(int argc, char **argv)
{
    struct program p = {0};
    log_open_standard();
    mem_keep_freed();
    signal(SIGPIPE, SIG_IGN);
    int code = parse_arguments(&p, argc, argv);
    if (code < 0)
        code = configure(&p);
    if (code < 0)
        code = serve(&p);
    daemon_settings_destroy(p.settings);
    mem_free(p.sets);
    return code;
}
