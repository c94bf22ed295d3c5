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
     "[--resume[=auto]|--fresh] [-o json]",
     "train here, now: starts servers and workers, shows display, ends with a checkpoint",
     command_run},
    {"eval", "eval -f JOB.yaml --checkpoint URI [--set a.b=V] [--var x=V] [-o json]",
     "the metrics of a checkpoint on the job's evaluation data", command_eval},
    {"predict", "predict -f JOB.yaml --checkpoint URI [FILE…] [--set a.b=V] [--var x=V]",
     "predictions for files, or for JSON lines on stdin, as JSON lines", command_predict},
    {"export", "export URI -o DIR", "a checkpoint's parameters as safetensors files",
     command_export},
    {"checkpoints",
     "checkpoints ls|show|verify|digest|gc URI [--keep N] [--older-than-hours N] [-o json]",
     "list, describe, verify, digest or clean up checkpoints", command_checkpoints},
    {"config",
     "config check|show -f FILE [--expand] [--set a.b=V] [--var x=V] [--daemon] | config docs "
     "job|daemon",
     "check a job file, or print it with every default filled in", command_config},
    {"data", "data describe -f JOB.yaml [--examples N] [--set a.b=V] [--var x=V] [-o json]",
     "what the job's training data holds, feature by feature", command_data},
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

static void print_help(FILE *to)
{
    fprintf(to, "paramctl trains models whose parameters live on servers.\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  paramctl %s\n      %s\n", commands[i].synopsis, commands[i].help);
    fprintf(to,
            "\nThe cluster: --registry URI, PARAMD_REGISTRY, or `registry: URI` in "
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
        print_help(stdout);
        return EXIT_DONE;
    }
    const struct command *command =
        command_find(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
    if (!command)
        return unknown_command(argv[1]);
    if (store_settings_load(argc, argv) != ERR_NONE) {
        fprintf(stderr, "error: %s\n", err_text());
        return EXIT_ERROR;
    }
    return written(command->run(argc - 2, argv + 2));
}
