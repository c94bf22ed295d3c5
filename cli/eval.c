/*
 * eval.c - `paramctl eval`: the metrics of a checkpoint on the job's evaluation data, as a job of
 * mode eval within this process.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/checkpoint_find.h"
#include "cli/cli.h"
#include "cli/display.h"
#include "cli/job_run.h"
#include "common/mem.h"
#include "common/storage.h"

struct eval {
    const char *file, *checkpoint, *output;
    struct option_list sets, vars, job_sets, daemon_sets;
    bool is_json;
    struct job *job;
    char directory[64];
};

static int report(const struct eval *e, const struct job_outcome *o, const char *checkpoint)
{
    const Paramd__Control__EvalRecord *record = o->status ? display_final_eval(o->status) : NULL;

    if (o->kind == JOB_INTERRUPTED)
        return EXIT_INTERRUPTED;
    if (o->kind != JOB_ENDED || !record) {
        fprintf(stderr, "error: evaluation failed: %s\n",
                o->why.data ? o->why.data : "there were no examples");
        return EXIT_JOB_FAILED;
    }
    struct json *j = json_object();
    json_set_text(j, "job", e->job->name);
    json_set_text(j, "state", o->status->state);
    json_set_text(j, "checkpoint", checkpoint);
    json_set_int(j, "step", (int64_t)record->step);
    json_set_int(j, "examples", (int64_t)record->examples);
    json_set(j, "eval", display_metrics(record));
    if (e->is_json) {
        print_json(j, false);
    } else {
        printf("checkpoint %s  examples %llu\n", checkpoint, (unsigned long long)record->examples);
        for (size_t i = 0; i < record->n_metrics; i++)
            printf("%-12s %.6f\n", record->metrics[i]->name, record->metrics[i]->value);
    }
    json_destroy(j);
    return EXIT_DONE;
}

static int evaluate(struct eval *e)
{
    struct job_outcome outcome = {0};
    struct display *display = NULL;
    char *checkpoint = NULL;
    int code;
    enum err err = checkpoint_find(e->checkpoint, &checkpoint);

    strcpy(e->directory, "/tmp/paramd-eval-XXXXXX");
    if (!err && !mkdtemp(e->directory))
        err = err_set(ERR_IO, "cannot make a directory in /tmp");
    if (!err)
        err = display_create(NULL, true, &display);
    struct job_request request = {
        .job = e->job,
        .mode = "eval",
        .directory = e->directory,
        .servers = 0,
        .workers = 1,
        .daemon_sets = e->daemon_sets.items,
        .checkpoint = checkpoint,
    };
    if (!err)
        err = job_run(&request, display, &outcome);
    display_destroy(display);
    code = err ? fail(err) : report(e, &outcome, checkpoint);
    if (checkpoint && storage_remove_tree(e->directory) != ERR_NONE)
        fprintf(stderr, "warning: %s\n", err_text());
    job_outcome_deinit(&outcome);
    mem_free(checkpoint);
    return code;
}

int command_eval(int argc, char **argv)
{
    struct eval e = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {
        {"file", 'f', OPTION_TEXT, &e.file},     {"checkpoint", 0, OPTION_TEXT, &e.checkpoint},
        {"set", 0, OPTION_LIST, &e.sets},        {"var", 0, OPTION_LIST, &e.vars},
        {"output", 'o', OPTION_TEXT, &e.output},
    };
    static char *one_server = "resources.servers=1", *one_worker = "resources.workers=1";

    if (!options_parse("eval", argc, argv, options, 5, NULL) ||
        !parse_output("eval", e.output, &e.is_json, &code))
        goto out;
    if (!e.checkpoint) {
        usage("eval", "--checkpoint URI is missing");
        goto out;
    }
    split_sets(&e.sets, &e.job_sets, &e.daemon_sets);
    /* One process evaluates. The ranks stay what they were: they are part of the job. */
    struct option_list all = {must_alloc((e.job_sets.count + 3) * sizeof *all.items), 0};
    for (; all.count < e.job_sets.count; all.count++)
        all.items[all.count] = e.job_sets.items[all.count];
    all.items[all.count++] = one_server;
    all.items[all.count++] = one_worker;
    enum err err = e.file ? load_job(e.file, &all, &e.vars, &e.job)
                          : checkpoint_find_job(e.checkpoint, &all, &e.vars, &e.job);
    code = err ? fail(err) : evaluate(&e);
    option_list_free(&all);
out:
    job_destroy(e.job);
    option_list_free(&e.sets);
    option_list_free(&e.vars);
    option_list_free(&e.job_sets);
    option_list_free(&e.daemon_sets);
    return code;
}
