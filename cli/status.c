/*
 * status.c - `paramctl status JOB [-w]`: how a job stands, once or until it is over.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/cluster.h"
#include "cli/columns.h"
#include "cli/messages.h"
#include "cli/watch.h"
#include "common/mem.h"

struct status {
    struct cluster_options where;
    const char *output;
    bool watch, is_json;
    int64_t timeout_s;
    struct option_list words;
    struct cluster cluster;
    uint64_t step_shown; /* -w -o json */
    char state_shown[32];
};

static void print_progress(const Paramd__Control__StatusReply *s)
{
    double rate = s->train_seconds > 0 ? (double)s->examples / s->train_seconds : 0;

    printf("progress    step %" PRIu64 " of %" PRIu64, s->step, s->last_step);
    if (s->epochs)
        printf(", epoch %" PRIu32 " of %" PRIu32, s->epoch, s->epochs);
    if (s->train_seconds > 0)
        printf(", %.1f s", s->train_seconds);
    if (s->examples)
        printf(", %.0f examples/s", rate);
    printf("\n");
    if (s->examples)
        printf("objective   %.6f\n", s->objective);
}

static void print_text(const Paramd__Control__StatusReply *s)
{
    const Paramd__Control__EvalRecord *e = display_final_eval(s);
    char *age = text_of_age(s->submitted_unix_ms);

    printf("job         %s: %s%s%s\n", s->job, s->state, *s->why ? ": " : "", s->why);
    if (*age)
        printf("submitted   %s ago%s%s\n", age, *s->owner ? " by " : "", s->owner);
    print_progress(s);
    if (e) {
        printf("evaluation  step %" PRIu64, e->step);
        for (size_t i = 0; i < e->n_metrics; i++)
            printf("  %s %.5f", e->metrics[i]->name, e->metrics[i]->value);
        printf("\n");
    }
    if (*s->checkpoint && s->checkpoint_step)
        printf("checkpoint  %s (step %" PRIu64 ")\n", s->checkpoint, s->checkpoint_step);
    else if (*s->checkpoint)
        printf("checkpoint  %s\n", s->checkpoint);
    printf("generation  %" PRIu64 "; %" PRIu32 " recoveries, %" PRIu32 " moves of ranks\n",
           s->generation, s->recoveries, s->moves);
    for (size_t i = 0; i < s->n_warnings; i++)
        printf("warning     %s\n", s->warnings[i]);
    if (s->n_members) {
        printf("\n");
        members_print(s->members, s->n_members, stdout);
    }
    mem_free(age);
}

static void print(const struct status *o, const Paramd__Control__StatusReply *s)
{
    if (o->is_json) {
        struct json *j = message_status(s);
        print_json(j, false);
        json_destroy(j);
    } else {
        print_text(s);
    }
}

/* -w -o json: a line for each change. */
static void seen(void *context, const Paramd__Control__StatusReply *s)
{
    struct status *o = context;

    if (!o->is_json || (s->step == o->step_shown && strcmp(s->state, o->state_shown) == 0))
        return;
    print(o, s);
    o->step_shown = s->step;
    snprintf(o->state_shown, sizeof o->state_shown, "%s", s->state);
}

static int watch(struct status *o, const char *job)
{
    Paramd__Control__StatusReply *last = NULL;
    struct display *display = NULL;
    int code = EXIT_INTERRUPTED;
    enum err err = display_create(NULL, o->is_json, &display);

    if (err)
        return fail(err);
    struct watch w = {&o->cluster, job, o->timeout_s, display, seen, o};
    err = watch_job(&w, &last);
    display_destroy(display);
    if (err && err != ERR_CANCELLED)
        code = fail(err);
    if (!err && !o->is_json)
        print_text(last);
    if (!err)
        code = state_exit_code(last->state);
    if (last)
        paramd__control__status_reply__free_unpacked(last, NULL);
    return code;
}

static int once(struct status *o, const char *job)
{
    Paramd__Control__StatusReply *s = NULL;
    enum err err = cluster_status(&o->cluster, job, &s);

    if (err)
        return fail(err);
    print(o, s);
    paramd__control__status_reply__free_unpacked(s, NULL);
    return EXIT_DONE;
}

int command_status(int argc, char **argv)
{
    struct status o = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {
        CLUSTER_OPTIONS(o.where),
        {"run-dir", 0, OPTION_TEXT, &o.where.run_directory},
        {"output", 'o', OPTION_TEXT, &o.output},
        {"watch", 'w', OPTION_FLAG, &o.watch},
        {"timeout", 0, OPTION_NUMBER, &o.timeout_s},
    };

    if (!options_parse("status", argc, argv, options, sizeof options / sizeof *options, &o.words) ||
        !parse_output("status", o.output, &o.is_json, &code))
        goto out;
    if (o.words.count != 1) {
        usage("status", "one JOB is wanted");
        goto out;
    }
    enum err err = cluster_open(&o.where, o.words.items[0], &o.cluster);
    if (err)
        code = fail(err);
    else
        code = o.watch ? watch(&o, o.words.items[0]) : once(&o, o.words.items[0]);
out:
    cluster_close(&o.cluster);
    option_list_free(&o.where.sets);
    option_list_free(&o.words);
    return code;
}
