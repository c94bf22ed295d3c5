/*
 * control.c - commands to a job that runs: `paramctl status|stop|kill JOB`, `paramctl checkpoint
 * now JOB`.
 *
 * The job is found through the registry: --registry URI, or, without one, that of a `paramctl run`
 * of this job in this directory (runs/JOB) or in --run-dir.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/display.h"
#include "cli/local.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/registry.h"
#include "common/storage.h"

#define CALL_MS 10000u

struct control {
    const char *registry_uri, *directory, *output;
    bool no_checkpoint, is_json;
    struct option_list words;
    struct registry *registry;
};

/* ---- finding the cluster ---- */

static enum err find_local(const struct control *c, const char *job, char **uri_out)
{
    char *directory = c->directory ? must_strdup(c->directory) : must_format("runs/%s", job);
    struct storage_list list = {0};
    char *found = NULL;
    enum err err = storage_list(directory, &list);

    for (size_t i = 0; !err && i < list.count; i++) {
        if (strncmp(list.entries[i].name, LOCAL_REGISTRY_PREFIX, strlen(LOCAL_REGISTRY_PREFIX)) !=
            0)
            continue;
        mem_free(found);
        found = must_format("local:%s/%s", directory, list.entries[i].name);
    }
    storage_list_deinit(&list);
    if (!found)
        err =
            err_set(ERR_NOT_FOUND, "no run of job '%s' goes on in %s; give --run-dir or --registry",
                    job, directory);
    mem_free(directory);
    if (err)
        return err;
    *uri_out = found;
    return ERR_NONE;
}

static enum err open_registry(struct control *c, const char *job)
{
    char *uri = NULL;
    enum err err = ERR_NONE;

    if (c->registry_uri)
        uri = must_strdup(c->registry_uri);
    else
        err = find_local(c, job, &uri);
    if (!err)
        err = registry_open(uri, &c->registry);
    mem_free(uri);
    return err;
}

static bool parse(struct control *c, const char *command, int argc, char **argv, size_t words,
                  int *code)
{
    const struct option options[] = {
        {"registry", 0, OPTION_TEXT, &c->registry_uri},
        {"run-dir", 0, OPTION_TEXT, &c->directory},
        {"output", 'o', OPTION_TEXT, &c->output},
        {"no-checkpoint", 0, OPTION_FLAG, &c->no_checkpoint},
    };

    *code = EXIT_USAGE;
    if (!options_parse(command, argc, argv, options, 4, &c->words) ||
        !parse_output(command, c->output, &c->is_json, code))
        return false;
    if (c->words.count != words) {
        usage(command, words == 2 ? "`checkpoint now JOB` is wanted" : "one JOB is wanted");
        return false;
    }
    enum err err = open_registry(c, c->words.items[words - 1]);
    if (err)
        *code = fail(err);
    return err == ERR_NONE;
}

static void control_deinit(struct control *c)
{
    registry_close(c->registry);
    option_list_free(&c->words);
}

/* ---- status ---- */

static enum err ask_status(struct control *c, const char *job, Paramd__Control__StatusReply **out)
{
    Paramd__Control__StatusRequest request = PARAMD__CONTROL__STATUS_REQUEST__INIT;

    request.job = (char *)job;
    enum err err =
        control_call(c->registry, CONTROL_STATUS, &request.base,
                     &paramd__control__status_reply__descriptor, CALL_MS, (ProtobufCMessage **)out);
    if (!err && !(*out)->found)
        err = err_set(ERR_NOT_FOUND, "the cluster does not know job '%s'", job);
    return err;
}

static struct json *status_json(const Paramd__Control__StatusReply *s)
{
    struct json *j = json_object();

    json_set_text(j, "job", s->job);
    json_set_text(j, "state", s->state);
    json_set_text(j, "why", s->why);
    json_set_int(j, "generation", (int64_t)s->generation);
    json_set_int(j, "step", (int64_t)s->step);
    json_set_int(j, "last_step", (int64_t)s->last_step);
    json_set_int(j, "epoch", s->epoch);
    json_set_int(j, "epochs", s->epochs);
    json_set_int(j, "examples", (int64_t)s->examples);
    json_set_number(j, "seconds", s->train_seconds);
    json_set_number(j, "objective", s->objective);
    json_set_text(j, "checkpoint", s->checkpoint);
    json_set_int(j, "checkpoint_step", (int64_t)s->checkpoint_step);
    json_set(j, "eval", display_metrics(display_final_eval(s)));
    return j;
}

int command_status(int argc, char **argv)
{
    struct control c = {0};
    Paramd__Control__StatusReply *s = NULL;
    int code;

    if (parse(&c, "status", argc, argv, 1, &code)) {
        enum err err = ask_status(&c, c.words.items[0], &s);
        code = err ? fail(err) : EXIT_DONE;
        if (!err) {
            struct json *j = status_json(s);
            print_json(j, !c.is_json);
            json_destroy(j);
        }
    }
    if (s)
        paramd__control__status_reply__free_unpacked(s, NULL);
    control_deinit(&c);
    return code;
}

/* ---- stop, kill, checkpoint now ---- */

static int simple_call(struct control *c, const char *method, const ProtobufCMessage *request,
                       const char *said)
{
    Paramd__Control__SimpleReply *reply = NULL;
    enum err err =
        control_call(c->registry, method, request, &paramd__control__simple_reply__descriptor,
                     CALL_MS, (ProtobufCMessage **)&reply);

    if (!err && *reply->error)
        err = err_set(ERR_REFUSED, "%s", reply->error);
    int code = err ? fail(err) : EXIT_DONE;
    if (!err && reply->step)
        printf("%s at step %" PRIu64 "\n", said, reply->step);
    else if (!err)
        printf("%s\n", said);
    if (reply)
        paramd__control__simple_reply__free_unpacked(reply, NULL);
    return code;
}

static int stop(const char *command, int argc, char **argv, bool is_kill)
{
    struct control c = {0};
    int code;

    if (parse(&c, command, argc, argv, 1, &code)) {
        Paramd__Control__StopRequest request = PARAMD__CONTROL__STOP_REQUEST__INIT;
        request.job = (char *)c.words.items[0];
        request.checkpoint = !is_kill && !c.no_checkpoint;
        request.kill = is_kill;
        code = simple_call(&c, CONTROL_STOP, &request.base, is_kill ? "killed" : "stops");
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

    if (parse(&c, "checkpoint", argc, argv, 2, &code)) {
        Paramd__Control__CheckpointNowRequest request =
            PARAMD__CONTROL__CHECKPOINT_NOW_REQUEST__INIT;
        request.job = (char *)c.words.items[1];
        code = strcmp(c.words.items[0], "now") == 0
                   ? simple_call(&c, CONTROL_CHECKPOINT_NOW, &request.base, "a checkpoint is taken")
                   : usage("checkpoint", "'%s' is not a verb; there is `checkpoint now JOB`",
                           c.words.items[0]);
    }
    control_deinit(&c);
    return code;
}
