/*
 * paramctl - run, look at and look after training jobs.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cluster.h"
#include "cli/store_settings.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"

static const struct command commands[] = {
    {"run",
     "run -f JOB.yaml [--servers N] [--workers N] [--set a.b=V] [--var x=V] "
     "[--resume[=auto]|--fresh] [--run-dir DIR] [-o json]",
     "train here, now: starts servers and workers, shows how it goes, ends with a checkpoint",
     command_run},
    {"eval", "eval [-f JOB.yaml] --checkpoint URI [--set a.b=V] [--var x=V] [-o json]",
     "the metrics of a checkpoint on the job's evaluation data; without -f that of its own job",
     command_eval},
    {"predict", "predict [-f JOB.yaml] --checkpoint URI [FILE…] [--set a.b=V] [--var x=V]",
     "predictions for files of the job's format, or for JSON lines on stdin, as JSON lines;\n      "
     "without -f by the checkpoint's own job",
     command_predict},
    {"export", "export URI -o DIR [--set NAME=V]", "a checkpoint's parameters as safetensors files",
     command_export},
    {"checkpoints",
     "checkpoints ls|show|verify|digest|gc URI [--keep N] [--older-than-hours N] [--set NAME=V] "
     "[-o json]",
     "list, describe, verify, digest or clean up checkpoints", command_checkpoints},
    {"config",
     "config check|show -f FILE [--expand] [--set a.b=V] [--var x=V] [--daemon] | config docs "
     "job|daemon",
     "check a job file, or print it with every default filled in; docs: every setting",
     command_config},
    {"data", "data describe -f JOB.yaml [--examples N] [--set a.b=V] [--var x=V] [-o json]",
     "what the job's data holds, feature by feature, data.eval included", command_data},
    {"submit",
     "submit -f JOB.yaml [--wait [--timeout SECONDS]] [--resume[=auto]|--fresh] [--set a.b=V] "
     "[--var x=V] " CLUSTER_SYNOPSIS " [-o json]",
     "give a job to a cluster; --wait shows it and ends with its exit code", command_submit},
    {"list", "list [--all] [--members] " CLUSTER_SYNOPSIS " [-o json]",
     "the jobs of a cluster, in the order of its queue; --all: and those it had", command_list},
    {"members", "members " CLUSTER_SYNOPSIS " [-o json]",
     "the daemons of a cluster and what they do", command_members},
    {"status", "status JOB [-w [--timeout SECONDS]] " CLUSTER_SYNOPSIS " [--run-dir DIR] [-o json]",
     "how a job stands; -w shows it until it is over and ends with its exit code", command_status},
    {"logs", "logs JOB [-f [--timeout SECONDS]] " CLUSTER_SYNOPSIS " [--run-dir DIR] [-o json]",
     "what happened to a job; -f goes on until it is over", command_logs},
    {"stop", "stop JOB [--no-checkpoint] " CLUSTER_SYNOPSIS " [--run-dir DIR] [-o json]",
     "end a running job at its next drain point, with a checkpoint to resume from", command_stop},
    {"kill", "kill JOB " CLUSTER_SYNOPSIS " [--run-dir DIR] [-o json]", "end a running job at once",
     command_kill},
    {"checkpoint", "checkpoint now JOB " CLUSTER_SYNOPSIS " [--run-dir DIR] [-o json]",
     "take a checkpoint at the next drain point", command_checkpoint},
    {"doctor", "doctor", "whether this machine has what paramd needs", command_doctor},
    {"version", "version", "version and build", command_version},
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* The help of a command has those whose name its synopsis has. */
static const struct {
    const char *in_synopsis, *name, *help;
} option_helps[] = {
    {"-f JOB.yaml", "-f JOB.yaml", "the job file (docs/job-file.md; `paramctl config docs job`)"},
    {"-f FILE", "-f FILE", "the job file; with --daemon one of paramd-server or paramd-worker"},
    {"--servers N", "--servers N", "server processes; 0: all in one process, with one worker"},
    {"--workers N", "--workers N", "worker processes, and as many ranks if train.ranks is not set"},
    {"--set a.b=V", "--set a.b=V", "changes a setting of the job or the daemons; may be repeated"},
    {"--set NAME=V", "--set NAME=V", "a setting of the stores, such as hdfs_auth; may be repeated"},
    {"--var x=V", "--var x=V", "the value of ${x} in the job file; may be repeated"},
    {"--resume", "--resume", "go on from the newest good checkpoint"},
    {"--resume[=auto]", "--resume=auto", "the same, or from the start if there is none"},
    {"--fresh", "--fresh", "start anew, although there are checkpoints"},
    {"--wait", "--wait", "show the job until it is over; Ctrl-C leaves it running"},
    {"--checkpoint URI", "--checkpoint URI", "a checkpoint, or a directory: its newest good one"},
    {"gc URI", "URI", "a checkpoint, or a directory: its newest good one (ls, gc: all in it)"},
    {"export URI", "URI", "a checkpoint, or a directory: its newest good one"},
    {"-o DIR", "-o DIR", "where the files go; made if it is not there"},
    {"FILE…", "FILE", "what to predict; none: JSON lines on stdin, as {\"column\": value}"},
    {"--keep N", "--keep N", "gc: so many good ones stay; 3 if not given"},
    {"--older-than-hours N", "--older-than-hours",
     "gc: what dead attempts left goes if older; 24 if not given"},
    {"--daemon", "--daemon", "the file has settings of daemons, it is no job"},
    {"--expand", "--expand", "with the layers that the model stands for"},
    {"--examples N", "--examples N", "so many of the first examples are shown; 3 if not given"},
    {"--all", "--all", "past jobs, too"},
    {"--members", "--members", "the daemons, too"},
    {"[-w", "-w", "show it until it is over, and end with its exit code"},
    {"[-f [", "-f", "go on until the job is over"},
    {"--timeout SECONDS", "--timeout SECONDS", "give up then, with exit code 5"},
    {"--no-checkpoint", "--no-checkpoint", "without one: what came after the last one is lost"},
    {"--registry URI", "--registry URI", "the cluster: zk://HOST:PORT,HOST:PORT/NAME or local:DIR"},
    {"--config FILE", "--config FILE", "settings of paramctl, such as `registry: URI`"},
    {"--run-dir DIR", "--run-dir DIR",
     "where a `paramctl run` has its files; runs/NAME if not given"},
    {"-o json", "-o json", "JSON on stdout"},
};

static void print_command_help(const struct command *c, FILE *to)
{
    fprintf(to, "usage: paramctl %s\n\n%s\n\n", c->synopsis, c->help);
    for (size_t i = 0; i < sizeof option_helps / sizeof *option_helps; i++)
        if (strstr(c->synopsis, option_helps[i].in_synopsis))
            fprintf(to, "  %-18s %s\n", option_helps[i].name, option_helps[i].help);
}

static void print_help(FILE *to)
{
    fprintf(to, "paramctl trains models whose parameters live on servers.\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  paramctl %s\n      %s\n", commands[i].synopsis, commands[i].help);
    fprintf(to,
            "\n`paramctl help COMMAND` explains the options.\n"
            "The cluster: --registry URI, PARAMD_REGISTRY, or `registry: URI` in "
            "~/.config/paramd/paramctl.yaml or /etc/paramd/paramctl.yaml.\n"
            "exit codes: 0 done, 1 error, 2 usage, 3 the job failed, 4 not found, 5 timed out,\n"
            "6 unreachable, 130 interrupted\n");
}

static int unknown_command(const char *name)
{
    const char *names[sizeof commands / sizeof *commands + 1] = {NULL};

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        names[i] = commands[i].name;
    const char *near = str_nearest(name, names);
    fprintf(stderr, "error: '%s' is not a command", name);
    if (near)
        fprintf(stderr, "; did you mean '%s'?", near);
    fprintf(stderr, " (`paramctl help` lists them)\n");
    return EXIT_USAGE;
}

/* Results that did not reach stdout are a failure, however well the rest went. */
static int written(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "error: cannot write all results to stdout: is the disk full?\n");
    return code == EXIT_DONE ? EXIT_ERROR : code;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    log_open_standard();
    mem_keep_freed();
    log_set_level(LOG_WARN);
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        const struct command *one = argc > 2 ? command_find(argv[2]) : NULL;
        if (argc > 2 && !one)
            return unknown_command(argv[2]);
        if (one)
            print_command_help(one, stdout);
        else
            print_help(stdout);
        return EXIT_DONE;
    }
    const struct command *command =
        command_find(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
    if (!command)
        return unknown_command(argv[1]);
    if (asks_for_help(argc - 2, argv + 2)) {
        print_command_help(command, stdout);
        return EXIT_DONE;
    }
    if (store_settings_load(argc, argv) != ERR_NONE) {
        fprintf(stderr, "error: %s\n", err_text());
        return EXIT_ERROR;
    }
    return written(command->run(argc - 2, argv + 2));
}
