/*
 * control.c - commands to a job that runs: `paramctl stop|kill JOB`, `paramctl checkpoint now JOB`.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cluster.h"

struct control {
    struct cluster_options where;
    const char *output, *job;
    bool no_checkpoint, is_json;
    struct option_list words;
    struct cluster cluster;
};

static bool parse(struct control *c, const char *command, int argc, char **argv, int *code)
{
    bool is_stop = strcmp(command, "stop") == 0;
    size_t words = strcmp(command, "checkpoint") == 0 ? 2 : 1;
    const struct option options[] = {
        CLUSTER_OPTIONS(c->where),
        {"run-dir", 0, OPTION_TEXT, &c->where.run_directory},
        {"output", 'o', OPTION_TEXT, &c->output},
        {"no-checkpoint", 0, OPTION_FLAG, &c->no_checkpoint},
    };

    *code = EXIT_USAGE;
    if (!options_parse(command, argc, argv, options,
                       sizeof options / sizeof *options - (is_stop ? 0 : 1), &c->words) ||
        !parse_output(command, c->output, &c->is_json, code))
        return false;
    if (c->words.count != words) {
        usage(command, words == 2 ? "`checkpoint now JOB` is wanted" : "one JOB is wanted");
        return false;
    }
    if (words == 2 && strcmp(c->words.items[0], "now") != 0) {
        usage(command, "'%s' is not a verb; there is `checkpoint now JOB`", c->words.items[0]);
        return false;
    }
    c->job = c->words.items[words - 1];
    enum err err = cluster_open(&c->where, c->job, &c->cluster);
    if (err)
        *code = fail(err);
    return err == ERR_NONE;
}

static void control_deinit(struct control *c)
{
    cluster_close(&c->cluster);
    option_list_free(&c->where.sets);
    option_list_free(&c->words);
}

/* A refusal whose reason is that there is no such job has an exit code of its own. */
static enum err refused(struct control *c, const char *text)
{
    Paramd__Control__StatusReply *s = NULL;
    char why[1024];

    snprintf(why, sizeof why, "%s", text);
    enum err err = cluster_status(&c->cluster, c->job, &s);
    if (s)
        paramd__control__status_reply__free_unpacked(s, NULL);
    return err == ERR_NOT_FOUND ? err : err_set(ERR_REFUSED, "%s", why);
}

static void print(const struct control *c, const char *said, uint64_t step)
{
    if (c->is_json) {
        struct json *j = json_object();
        json_set_text(j, "job", c->job);
        json_set_text(j, "said", said);
        if (step)
            json_set_int(j, "step", (int64_t)step);
        print_json(j, false);
        json_destroy(j);
    } else if (step) {
        printf("%s at step %" PRIu64 "\n", said, step);
    } else {
        printf("%s\n", said);
    }
}

static int simple_call(struct control *c, const char *method, const ProtobufCMessage *request,
                       const char *said)
{
    Paramd__Control__SimpleReply *reply = NULL;
    enum err err =
        cluster_call(&c->cluster, method, request, &paramd__control__simple_reply__descriptor,
                     (ProtobufCMessage **)&reply);

    if (!err && *reply->error)
        err = refused(c, reply->error);
    int code = err ? fail(err) : EXIT_DONE;
    if (!err)
        print(c, said, reply->step);
    if (reply)
        paramd__control__simple_reply__free_unpacked(reply, NULL);
    return code;
}

static int stop(const char *command, int argc, char **argv, bool is_kill)
{
    struct control c = {0};
    int code;

    if (parse(&c, command, argc, argv, &code)) {
        Paramd__Control__StopRequest request = PARAMD__CONTROL__STOP_REQUEST__INIT;
        request.job = (char *)c.job;
        request.checkpoint = !is_kill && !c.no_checkpoint;
        request.kill = is_kill;
        code = simple_call(&c, CONTROL_STOP, &request.base,
                           is_kill ? "killed" : "stops at its next drain point");
    }
    control_deinit(&c);
    return code;
}

int command_stop(int argc, char **argv)
{
    return stop("stop", argc, argv, false);
}

int command_kill(int argc, char **argv)
{
    return stop("kill", argc, argv, true);
}

int command_checkpoint(int argc, char **argv)
{
    struct control c = {0};
    int code;

    if (parse(&c, "checkpoint", argc, argv, &code)) {
        Paramd__Control__CheckpointNowRequest request =
            PARAMD__CONTROL__CHECKPOINT_NOW_REQUEST__INIT;
        request.job = (char *)c.job;
        code = simple_call(&c, CONTROL_CHECKPOINT_NOW, &request.base, "a checkpoint is taken");
    }
    control_deinit(&c);
    return code;
}
