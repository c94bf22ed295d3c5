/*
 * list.c - `paramctl list [--all] [--members]` and `paramctl members`: the jobs of a cluster, those
 * it had, and its daemons.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cluster.h"
#include "cli/columns.h"
#include "cli/messages.h"
#include "common/mem.h"

struct list {
    struct cluster_options where;
    const char *output;
    bool all, members, is_json;
    struct cluster cluster;
    Paramd__Control__ListReply *reply;
};

/* ---- jobs ---- */

static char *progress(const Paramd__Control__JobSummary *j)
{
    if (!j->last_step)
        return must_strdup("");
    return must_format("%" PRIu64 "/%" PRIu64, j->step, j->last_step);
}

/* Of a past job: how long it was here. */
static char *duration(const Paramd__Control__JobSummary *j)
{
    if (!j->ended_unix_ms)
        return text_of_age(j->submitted_unix_ms);
    uint64_t ms =
        j->ended_unix_ms > j->submitted_unix_ms ? j->ended_unix_ms - j->submitted_unix_ms : 0;
    return text_of_seconds(ms / 1000);
}

/* Why it waits or failed; else what came of it. */
static char *remark(const Paramd__Control__JobSummary *j)
{
    struct str text = {0};

    str_append(&text, j->why);
    for (size_t i = 0; !*j->why && i < j->n_metrics; i++)
        str_append_format(&text, "%s%s %.5f", i ? " " : "", j->metrics[i]->name,
                          j->metrics[i]->value);
    if (*j->checkpoint)
        str_append_format(&text, "%s%s", text.size ? "  " : "", j->checkpoint);
    return text.data;
}

static void print_jobs(const struct list *l, bool past)
{
    static const char *const live_names[] = {"JOB", "STATE",      "SERVERS", "WORKERS", "STEP",
                                             "AGE", "RECOVERIES", "WHY",     NULL};
    static const char *const past_names[] = {"JOB",  "OUTCOME",  "SERVERS",    "WORKERS", "STEP",
                                             "TOOK", "TRAINING", "RECOVERIES", "RESULT",  NULL};
    struct columns table;

    columns_init(&table, past ? past_names : live_names);
    for (size_t i = 0; i < l->reply->n_jobs; i++) {
        const Paramd__Control__JobSummary *j = l->reply->jobs[i];
        if (state_is_over(j->state) != past)
            continue;
        char *step = progress(j), *age = duration(j), *why = remark(j);
        columns_add(&table, "%s", j->job);
        columns_add(&table, "%s", j->state);
        columns_add(&table, "%" PRIu32, j->servers);
        columns_add(&table, "%" PRIu32, j->workers);
        columns_add(&table, "%s", step);
        columns_add(&table, "%s", age);
        if (past)
            columns_add(&table, "%.1f s", j->train_seconds);
        columns_add(&table, "%" PRIu32, j->recoveries);
        columns_add(&table, "%s", why);
        mem_free(step);
        mem_free(age);
        mem_free(why);
    }
    columns_print(&table, stdout);
    columns_deinit(&table);
}

static void print_text(const struct list *l, bool only_members)
{
    size_t free_count[2] = {0};

    if (only_members) {
        members_print(l->reply->members, l->reply->n_members, stdout);
        return;
    }
    print_jobs(l, false);
    if (l->all) {
        printf("\n");
        print_jobs(l, true);
    }
    if (l->members) {
        printf("\n");
        members_print(l->reply->members, l->reply->n_members, stdout);
        return;
    }
    for (size_t i = 0; i < l->reply->n_members; i++)
        if (strcmp(l->reply->members[i]->state, "free") == 0)
            free_count[strcmp(l->reply->members[i]->role, "server") == 0]++;
    printf("\n%zu members, of them free: %zu servers, %zu workers\n", l->reply->n_members,
           free_count[1], free_count[0]);
}

static void print_tree(const struct list *l, bool only_members)
{
    struct json *j = json_object(), *jobs = json_array(), *members = json_array();

    for (size_t i = 0; i < l->reply->n_jobs; i++)
        if (l->all || !state_is_over(l->reply->jobs[i]->state))
            json_push(jobs, message_job(l->reply->jobs[i]));
    for (size_t i = 0; i < l->reply->n_members; i++)
        json_push(members, message_member(l->reply->members[i]));
    json_set_int(j, "term", (int64_t)l->reply->term);
    if (only_members)
        json_destroy(jobs);
    else
        json_set(j, "jobs", jobs);
    json_set(j, "members", members);
    print_json(j, false);
    json_destroy(j);
}

static int list(const char *command, int argc, char **argv, bool only_members)
{
    struct list l = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {
        CLUSTER_OPTIONS(l.where),
        {"run-dir", 0, OPTION_TEXT, &l.where.run_directory},
        {"output", 'o', OPTION_TEXT, &l.output},
        {"all", 'a', OPTION_FLAG, &l.all},
        {"members", 0, OPTION_FLAG, &l.members},
    };
    size_t count = sizeof options / sizeof *options - (only_members ? 2 : 0);

    if (options_parse(command, argc, argv, options, count, NULL) &&
        parse_output(command, l.output, &l.is_json, &code)) {
        enum err err = cluster_open(&l.where, NULL, &l.cluster);
        if (!err)
            err = cluster_list(&l.cluster, l.all, &l.reply);
        code = err ? fail(err) : EXIT_DONE;
        if (!err && l.is_json)
            print_tree(&l, only_members);
        else if (!err)
            print_text(&l, only_members);
    }
    if (l.reply)
        paramd__control__list_reply__free_unpacked(l.reply, NULL);
    cluster_close(&l.cluster);
    option_list_free(&l.where.sets);
    return code;
}

int command_list(int argc, char **argv)
{
    return list("list", argc, argv, false);
}

int command_members(int argc, char **argv)
{
    return list("members", argc, argv, true);
}
