/*
 * logs.c - `paramctl logs JOB [-f]`: what happened to a job, as its coordinator saw it.
 *
 * The leader keeps the last lines of each job in memory, numbered; a later leader begins anew with
 * numbers of its own. -f asks for more until the job is over, and goes on with a new leader.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/cluster.h"
#include "cli/columns.h"
#include "cli/interrupt.h"
#include "cli/messages.h"
#include "cli/watch.h"
#include "common/clock.h"
#include "common/mem.h"

#define POLL_MS 300u

struct logs {
    struct cluster_options where;
    const char *output;
    bool follow, is_json;
    int64_t timeout_s;
    struct option_list words;
    struct cluster cluster;
    uint64_t term, after;
    struct display *display;
};

static enum err ask(struct logs *o, const char *job, Paramd__Control__LogsReply **out)
{
    Paramd__Control__LogsRequest request = PARAMD__CONTROL__LOGS_REQUEST__INIT;

    request.job = (char *)job;
    request.after = o->after;
    enum err err = cluster_call(&o->cluster, CONTROL_LOGS, &request.base,
                                &paramd__control__logs_reply__descriptor, (ProtobufCMessage **)out);
    if (!err && !(*out)->found)
        return err_set(ERR_NOT_FOUND, "the cluster at %s has no log of job '%s'", o->cluster.uri,
                       job);
    return err;
}

static void print(struct logs *o, const Paramd__Control__LogsReply *r)
{
    for (size_t i = 0; i < r->n_lines; i++) {
        const Paramd__Control__LogLine *l = r->lines[i];
        if (o->is_json) {
            struct json *j = message_log(l);
            print_json(j, false);
            json_destroy(j);
        } else {
            char *time = text_of_time(l->unix_ms);
            printf("%s %-5s %s\n", time, l->level, l->text);
            mem_free(time);
        }
        o->after = l->number;
    }
    fflush(stdout);
}

/* *more: another term's numbers; ask again from the start of them. */
static bool is_new_term(struct logs *o, const Paramd__Control__LogsReply *r)
{
    bool is_new = o->term && r->term != o->term;

    if (is_new) {
        display_say(o->display, "another server leads now (term %" PRIu64 "); its lines:", r->term);
        o->after = 0;
    }
    o->term = r->term;
    return is_new;
}

static enum err follow(struct logs *o, const char *job)
{
    uint64_t start = clock_ms();
    struct patience patience = {0};

    for (;;) {
        Paramd__Control__LogsReply *r = NULL;
        enum err err = ask(o, job, &r);
        if ((err && !o->follow) || !patience_goes_on(&patience, err, o->display)) {
            if (r)
                paramd__control__logs_reply__free_unpacked(r, NULL);
            return err;
        }
        bool again = !err && is_new_term(o, r);
        bool over = !err && !again && r->over;
        if (!err && !again)
            print(o, r);
        if (r)
            paramd__control__logs_reply__free_unpacked(r, NULL);
        if (over || (!o->follow && !again))
            return ERR_NONE;
        if (interrupt_count())
            return err_set(ERR_CANCELLED, "interrupted");
        if (o->timeout_s && clock_ms() - start >= (uint64_t)o->timeout_s * 1000)
            return err_set(ERR_TIMEOUT, "job '%s' is not over after %lld s", job,
                           (long long)o->timeout_s);
        if (!again)
            clock_sleep_ms(POLL_MS);
    }
}

static int run(struct logs *o, const char *job)
{
    struct interrupt old;
    enum err err = cluster_open(&o->where, job, &o->cluster);

    if (!err)
        err = display_create(NULL, true, &o->display);
    if (!err) {
        interrupt_install(&old);
        err = follow(o, job);
        interrupt_restore(&old);
    }
    display_destroy(o->display);
    return err == ERR_CANCELLED ? EXIT_INTERRUPTED : err ? fail(err) : EXIT_DONE;
}

int command_logs(int argc, char **argv)
{
    struct logs o = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {
        CLUSTER_OPTIONS(o.where),
        {"run-dir", 0, OPTION_TEXT, &o.where.run_directory},
        {"output", 'o', OPTION_TEXT, &o.output},
        {"follow", 'f', OPTION_FLAG, &o.follow},
        {"timeout", 0, OPTION_NUMBER, &o.timeout_s},
    };

    if (options_parse("logs", argc, argv, options, sizeof options / sizeof *options, &o.words) &&
        parse_output("logs", o.output, &o.is_json, &code))
        code = o.words.count == 1 ? run(&o, o.words.items[0]) : usage("logs", "one JOB is wanted");
    cluster_close(&o.cluster);
    option_list_free(&o.where.sets);
    option_list_free(&o.words);
    return code;
}
