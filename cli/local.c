#include "cli/local.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/store_settings.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/storage.h"
#include "server/server.h"
#include "worker/device.h"
#include "worker/worker.h"

#define RESTARTS_PER_MINUTE 6u
#define RESTART_SPACING_MS  250u /* between two starts of one process */
#define EXIT_USAGE          64   /* of a daemon: what a restart cannot mend */
#define EXIT_CONFIG         78
#define NO_WORKER           UINT32_MAX

struct process {
    const char *role; /* "server" | "worker" */
    uint32_t index;
    char *name; /* "server-0" */
    char *log;
    pid_t pid; /* 0: waited for */
    int status;
    uint64_t started_ms;
    uint64_t restarts_ms[RESTARTS_PER_MINUTE]; /* the last ones, a ring */
    uint32_t restart_count;
};

struct local {
    char *directory, *registry_path;
    const char *const *sets;
    struct registry *registry;
    struct process *processes;
    uint32_t process_count;
    int pipe_read, pipe_write;
    struct server *server; /* in this process, with the settings that they borrow */
    struct worker *worker;
    struct daemon_settings *server_settings, *worker_settings;
    uint32_t gpus_per_worker, gpu_count; /* 0: their setting device says */
};

/* ---- settings of a daemon, as --set texts ---- */

struct texts {
    char **items;
    size_t count;
};

static void texts_add(struct texts *t, char *item)
{
    t->items = must_realloc(t->items, t->count + 2, sizeof *t->items);
    t->items[t->count++] = item;
    t->items[t->count] = NULL;
}

static void texts_free(struct texts *t)
{
    for (size_t i = 0; i < t->count; i++)
        mem_free(t->items[i]);
    mem_free(t->items);
}

/* A YAML scalar in double quotes: paths may hold anything. */
static char *quoted_set(const char *name, const char *prefix, const char *value)
{
    struct str text = {0};

    str_append_format(&text, "%s=\"%s", name, prefix);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            str_append(&text, "\\");
        str_append_span(&text, span_make(value, 1));
    }
    str_append(&text, "\"");
    return text.data;
}

/* The GPUs of a worker: the next ones, from the first on again when there are no more. */
static char *device_set(const struct local *l, uint32_t worker)
{
    struct str s = {0};
    str_append(&s, "device=\"cuda:");
    for (uint32_t i = 0; i < l->gpus_per_worker; i++)
        str_append_format(&s, "%s%u", i > 0 ? "," : "",
                          (worker * l->gpus_per_worker + i) % l->gpu_count);
    str_append(&s, "\"");
    return s.data;
}

/* `worker`: its number; NO_WORKER: it is a server. */
static struct texts daemon_sets(const struct local *l, const char *name, const char *log,
                                uint32_t worker)
{
    struct texts t = {0};

    if (worker != NO_WORKER && l->gpu_count > 0)
        texts_add(&t, device_set(l, worker));

    texts_add(&t, quoted_set("registry", "local:", l->registry_path));
    texts_add(&t, quoted_set("name", "", name));
    if (log)
        texts_add(&t, quoted_set("log_file", "", log));
    char *scratch = must_format("%s/cache", l->directory);
    texts_add(&t, quoted_set("scratch", "", scratch));
    mem_free(scratch);
    char **stores = store_settings_sets(); /* of files and --set; a --set comes again below */
    for (size_t i = 0; stores[i]; i++)
        texts_add(&t, stores[i]);
    mem_free(stores);
    for (size_t i = 0; l->sets && l->sets[i]; i++)
        texts_add(&t, must_strdup(l->sets[i]));
    return t;
}

/* ---- processes ---- */

static char *program_path(const char *program)
{
    char *directory = machine_program_directory();
    char *path = must_format("%s/%s", directory, program);
    mem_free(directory);
    return path;
}

/* Ours, with what tells a daemon who its parent is, and without what was for us alone. */
static char **child_environment(void)
{
    extern char **environ;
    size_t count = 0, all = 0;
    while (environ[all])
        all++;
    char **list = must_alloc((all + 2) * sizeof *list);
    for (size_t i = 0; i < all; i++)
        if (strncmp(environ[i], "PARAMD_PARENT_FD=", 17) != 0 &&
            strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
            list[count++] = environ[i];
    list[count++] = "PARAMD_PARENT_FD=3";
    list[count] = NULL;
    return list;
}

/* After _Fork(), in a process that had threads: nothing but what is safe there. */
static void become(char **arguments, char **environment, int pipe_read, pid_t parent)
{
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILURE);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0); /* a terminal's Ctrl-C goes to the group: paramctl decides what ends when */
    /* Exec must leave it open; dup2() of a descriptor to itself would not see to that. */
    if (pipe_read == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(pipe_read, 3) < 0)
        _exit(EXIT_FAILURE);
    execve(arguments[0], arguments, environment);
    _exit(127);
}

static enum err spawn(struct local *l, struct process *p)
{
    char program[32];
    enum err err = ERR_NONE;

    snprintf(program, sizeof program, "paramd-%s", p->role);
    char *path = program_path(program);
    struct texts sets =
        daemon_sets(l, p->name, p->log, strcmp(p->role, "worker") == 0 ? p->index : NO_WORKER);
    char **arguments = must_alloc((2 * sets.count + 2) * sizeof *arguments);
    char **environment = child_environment();
    arguments[0] = path;
    for (size_t i = 0; i < sets.count; i++) {
        arguments[1 + 2 * i] = "--set";
        arguments[2 + 2 * i] = sets.items[i];
    }
    if (access(path, X_OK) != 0) {
        err = err_set_errno(ERR_NOT_FOUND, errno, "%s is not beside paramctl", path);
    } else {
        pid_t parent = getpid();
        p->started_ms = clock_ms();
        p->pid = _Fork(); /* not fork(): gRPC's threads and handlers may be there by now */
        if (p->pid == 0)
            become(arguments, environment, l->pipe_read, parent);
        if (p->pid < 0) {
            p->pid = 0;
            err = err_set_errno(ERR_IO, errno, "cannot start %s", path);
        }
    }
    mem_free(arguments);
    mem_free(environment);
    texts_free(&sets);
    mem_free(path);
    return err;
}

static enum err spawn_all(struct local *l, const struct local_options *o)
{
    int ends[2];
    enum err err = ERR_NONE;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set_errno(ERR_IO, errno, "cannot make a pipe");
    l->pipe_read = ends[0];
    l->pipe_write = ends[1];
    l->processes = must_alloc((o->servers + o->workers) * sizeof *l->processes);
    for (uint32_t i = 0; i < o->servers + o->workers && !err; i++) {
        struct process *p = &l->processes[l->process_count++];
        *p = (struct process){.role = i < o->servers ? "server" : "worker",
                              .index = i < o->servers ? i : i - o->servers};
        p->name = must_format("%s-%u", p->role, p->index);
        p->log = must_format("%s/logs/%s.log", l->directory, p->name);
        err = spawn(l, p);
    }
    return err;
}

/* ---- within this process ---- */

static enum err start_inside(struct local *l)
{
    char *address =
        must_format("listen=\"memory:server-%d-%llu\"", getpid(), (unsigned long long)clock_ns());
    struct texts server_sets = daemon_sets(l, "server-0", NULL, NO_WORKER);
    struct texts worker_sets = daemon_sets(l, "worker-0", NULL, 0);

    texts_add(&server_sets, address);
    texts_add(&server_sets, must_strdup("unix_sockets=false"));
    enum err err = daemon_settings_parse("--set", NULL, 0, (const char *const *)server_sets.items,
                                         &l->server_settings);
    if (!err)
        err = daemon_settings_parse("--set", NULL, 0, (const char *const *)worker_sets.items,
                                    &l->worker_settings);
    if (!err)
        err = server_start(l->server_settings, &l->server);
    if (!err)
        err = worker_start(l->worker_settings, &l->worker);
    texts_free(&server_sets);
    texts_free(&worker_sets);
    return err;
}

/* ---- the cluster ---- */

/*
 * Registries of runs that were killed: the lock on the run directory says that none of them is in
 * use.
 */
static void remove_old_registries(const char *directory)
{
    struct storage_list list = {0};

    if (storage_list(directory, &list) != ERR_NONE)
        return;
    for (size_t i = 0; i < list.count; i++) {
        if (strncmp(list.entries[i].name, LOCAL_REGISTRY_PREFIX,
                    sizeof LOCAL_REGISTRY_PREFIX - 1) != 0)
            continue;
        char *path = storage_join(directory, list.entries[i].name);
        if (storage_remove_tree(path) != ERR_NONE)
            log_warn("local", "cannot remove %s: %s", path, err_text());
        mem_free(path);
    }
    storage_list_deinit(&list);
}

/* Before any process is started, so that whoever runs it reads why, not in a log. */
static enum err check_device(const struct local *l)
{
    struct daemon_settings *settings = NULL;
    struct device_list list;
    enum err err = daemon_settings_parse("--set", NULL, 0, l->sets, &settings);
    if (!err)
        err = device_list_find(settings->device, &list);
    daemon_settings_destroy(settings);
    return err;
}

static enum err count_gpus(struct local *l)
{
    if (l->gpus_per_worker == 0)
        return check_device(l);
    enum err err = device_count(&l->gpu_count);
    if (!err && l->gpu_count < l->gpus_per_worker)
        err = err_set(ERR_UNAVAILABLE, "the driver sees %u", l->gpu_count);
    return err ? err_prefix(err, "resources.gpus_per_worker is %u", l->gpus_per_worker) : ERR_NONE;
}

enum err local_start(const struct local_options *o, struct local **out)
{
    struct local *l = must_alloc(sizeof *l);
    char *uri;
    enum err err;

    l->pipe_read = l->pipe_write = -1;
    l->sets = o->sets;
    l->gpus_per_worker = o->gpus_per_worker;
    l->directory = must_strdup(o->directory);
    remove_old_registries(l->directory);
    l->registry_path = must_format("%s/" LOCAL_REGISTRY_PREFIX "%d-%llu", l->directory, getpid(),
                                   (unsigned long long)clock_wall_ms());
    uri = must_format("local:%s", l->registry_path);
    err = count_gpus(l);
    if (!err && o->servers)
        err = spawn_all(l, o);
    if (!err)
        err = registry_open(uri, &l->registry);
    if (!err && !o->servers)
        err = start_inside(l);
    mem_free(uri);
    if (err) {
        local_stop(l, 0);
        return err;
    }
    *out = l;
    return ERR_NONE;
}

struct registry *local_registry(struct local *l)
{
    return l->registry;
}

/* ---- looking after them ---- */

static void describe_end(const struct process *p, struct str *out)
{
    str_append_format(out, "%s %u died (", p->role, p->index);
    if (WIFSIGNALED(p->status))
        str_append_format(out, "signal %d, %s)", WTERMSIG(p->status),
                          strsignal(WTERMSIG(p->status)));
    else
        str_append_format(out, "exit code %d)", WEXITSTATUS(p->status));
}

/* Whether it may be started again; else *why says why not. */
static bool may_restart(struct process *p, uint64_t now, struct str *why)
{
    uint64_t *oldest = &p->restarts_ms[p->restart_count % RESTARTS_PER_MINUTE];
    int code = WIFEXITED(p->status) ? WEXITSTATUS(p->status) : 0;

    if (code == EXIT_USAGE || code == EXIT_CONFIG) {
        describe_end(p, why);
        str_append_format(why, ", which starting it again cannot mend; its log is %s", p->log);
        return false;
    }
    if (p->restart_count >= RESTARTS_PER_MINUTE && now - *oldest < 60000) {
        describe_end(p, why);
        str_append_format(why, " and was started again %u times within a minute; its log is %s",
                          RESTARTS_PER_MINUTE, p->log);
        return false;
    }
    *oldest = now;
    p->restart_count++;
    return true;
}

/* false: it has ended, and is not to be started again. */
static bool take_end(struct process *p, const struct local_tender *t, struct str *why)
{
    struct str text = {0};

    if (!p->pid || waitpid(p->pid, &p->status, WNOHANG) != p->pid)
        return true;
    p->pid = 0;
    if (!may_restart(p, clock_ms(), why))
        return false;
    describe_end(p, &text);
    str_append(&text, ": started again");
    t->died(t->context, text.data);
    str_deinit(&text);
    return true;
}

bool local_tend(struct local *l, const struct local_tender *t, struct str *why)
{
    for (uint32_t i = 0; i < l->process_count; i++) {
        struct process *p = &l->processes[i];
        if (!take_end(p, t, why))
            return false;
        if (p->pid || clock_ms() - p->started_ms < RESTART_SPACING_MS)
            continue;
        if (spawn(l, p) != ERR_NONE) {
            str_append(why, err_text());
            return false;
        }
    }
    return true;
}

static bool any_left(struct local *l)
{
    bool left = false;

    for (uint32_t i = 0; i < l->process_count; i++) {
        struct process *p = &l->processes[i];
        if (p->pid && waitpid(p->pid, &p->status, WNOHANG) == p->pid)
            p->pid = 0;
        left |= p->pid != 0;
    }
    return left;
}

static void signal_all(struct local *l, int number)
{
    for (uint32_t i = 0; i < l->process_count; i++)
        if (l->processes[i].pid)
            kill(l->processes[i].pid, number);
}

static void stop_processes(struct local *l, uint32_t grace_ms)
{
    uint64_t end = clock_ms() + grace_ms;

    signal_all(l, SIGTERM);
    while (any_left(l) && clock_ms() < end)
        clock_sleep_ms(5);
    signal_all(l, SIGKILL);
    for (uint32_t i = 0; i < l->process_count; i++)
        if (l->processes[i].pid)
            waitpid(l->processes[i].pid, &l->processes[i].status, 0);
}

void local_stop(struct local *l, uint32_t grace_ms)
{
    if (!l)
        return;
    stop_processes(l, grace_ms);
    worker_stop(l->worker);
    server_stop(l->server);
    daemon_settings_destroy(l->worker_settings);
    daemon_settings_destroy(l->server_settings);
    if (l->pipe_write >= 0)
        close(l->pipe_write);
    if (l->pipe_read >= 0)
        close(l->pipe_read);
    registry_close(l->registry);
    char *cache = must_format("%s/cache", l->directory);
    if (storage_remove_tree(l->registry_path) != ERR_NONE || storage_remove_tree(cache) != ERR_NONE)
        log_warn("local", "cannot clean up: %s", err_text());
    mem_free(cache);
    for (uint32_t i = 0; i < l->process_count; i++) {
        mem_free(l->processes[i].name);
        mem_free(l->processes[i].log);
    }
    mem_free(l->processes);
    mem_free(l->registry_path);
    mem_free(l->directory);
    mem_free(l);
}
