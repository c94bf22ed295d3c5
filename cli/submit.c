/*
 * submit.c - `paramctl submit -f JOB.yaml [--wait]`: a job for a cluster.
 *
 * The daemons of a cluster have working directories of their own, so a relative path in a job means
 * another place on every machine. On a cluster of one machine (local:DIR) paths are made absolute
 * from this directory; for any other they are refused, by the setting's name.
 *
 * A submission that is repeated unchanged while the job lives is the same job, so that a change of
 * leader in the middle of it does no harm.
 */
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/cluster.h"
#include "cli/messages.h"
#include "cli/resume.h"
#include "cli/watch.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot.h"

struct submit {
    struct cluster_options where; /* without the sets: they are in daemon_sets */
    const char *file, *output;
    struct option_list sets, vars, job_sets;
    struct option_maybe resume;
    bool fresh, wait, is_json;
    int64_t timeout_s;
    struct job *job;
    struct cluster cluster;
};

static int parse(struct submit *o, int argc, char **argv)
{
    const struct option options[] = {
        {"file", 'f', OPTION_TEXT, &o->file},
        {"set", 0, OPTION_LIST, &o->sets},
        {"var", 0, OPTION_LIST, &o->vars},
        {"registry", 0, OPTION_TEXT, &o->where.registry},
        {"config", 0, OPTION_TEXT, &o->where.config},
        {"resume", 0, OPTION_FLAG_OR_TEXT, &o->resume},
        {"fresh", 0, OPTION_FLAG, &o->fresh},
        {"wait", 0, OPTION_FLAG, &o->wait},
        {"timeout", 0, OPTION_NUMBER, &o->timeout_s},
        {"output", 'o', OPTION_TEXT, &o->output},
    };
    int code = EXIT_USAGE;

    if (!options_parse("submit", argc, argv, options, sizeof options / sizeof *options, NULL) ||
        !parse_output("submit", o->output, &o->is_json, &code))
        return code;
    if (!o->file)
        return usage("submit", "-f JOB.yaml is missing");
    if (o->resume.given && o->fresh)
        return usage("submit", "--resume and --fresh exclude each other");
    if (o->resume.text && strcmp(o->resume.text, "auto") != 0)
        return usage("submit", "--resume: '%s' is not known; there is --resume and --resume=auto",
                     o->resume.text);
    if (o->timeout_s && !o->wait)
        return usage("submit", "--timeout goes with --wait");
    split_sets(&o->sets, &o->job_sets, &o->where.sets);
    return EXIT_DONE;
}

/* ---- paths ---- */

/* The path of a bare path or a file: URI when it is relative; NULL: it is not. */
static const char *relative_path(const char *uri)
{
    const char *path = strncmp(uri, "file:", 5) == 0 ? uri + 5 : uri;
    size_t scheme = strcspn(path, ":/");

    if (path == uri && strncmp(path + scheme, "://", 3) == 0)
        return NULL;
    return *path == '/' || !*path ? NULL : path;
}

static enum err settle_path(const struct submit *o, const char *setting, char **uri)
{
    const char *path = *uri ? relative_path(*uri) : NULL;
    char directory[PATH_MAX];

    if (!path)
        return ERR_NONE;
    if (!cluster_is_local(&o->cluster))
        return err_set(ERR_INPUT,
                       "%s: %s: '%s' is relative, which means another place on every machine of "
                       "the cluster; give one that all of them see, for example --set "
                       "%s=/shared/%s",
                       o->file, setting, *uri, setting, path);
    if (!getcwd(directory, sizeof directory))
        return err_set(ERR_IO, "the working directory has no name");
    char *absolute = must_format("%.*s%s/%s", (int)(path - *uri), *uri, directory, path);
    mem_free(*uri);
    *uri = absolute;
    return ERR_NONE;
}

static enum err settle_paths(struct submit *o)
{
    struct job *j = o->job;
    enum err err = ERR_NONE;

    for (size_t i = 0; i < j->data.train.count && !err; i++)
        err = settle_path(o, "data.train", &j->data.train.items[i]);
    for (size_t i = 0; i < j->data.eval.count && !err; i++)
        err = settle_path(o, "data.eval", &j->data.eval.items[i]);
    for (size_t i = 0; i < j->feature_count && !err; i++) {
        char *setting = must_format("features.%s.vocab", j->features[i].name);
        err = settle_path(o, setting, &j->features[i].vocab_file);
        mem_free(setting);
    }
    if (!err)
        err = settle_path(o, "checkpoint.uri", &j->checkpoint.uri);
    return err;
}

/* ---- the call ---- */

static const char *user_name(char *place, size_t size)
{
    struct passwd entry, *found = NULL;
    char text[4096];

    if (getpwuid_r(geteuid(), &entry, text, sizeof text, &found) == 0 && found)
        snprintf(place, size, "%s", found->pw_name);
    else
        snprintf(place, size, "%u", (unsigned)geteuid());
    return place;
}

static enum err send(struct submit *o)
{
    Paramd__Control__SubmitRequest request = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    Paramd__Control__SubmitReply *reply = NULL;
    struct str yaml = {0};
    char owner[64];

    job_write(o->job, &yaml);
    request.job_yaml = yaml.data;
    request.mode = "train";
    request.resume = o->resume.given && !o->resume.text;
    request.resume_auto = o->resume.given && o->resume.text;
    request.fresh = o->fresh;
    request.checkpoint = "";
    request.owner = (char *)user_name(owner, sizeof owner);
    enum err err =
        cluster_call(&o->cluster, CONTROL_SUBMIT, &request.base,
                     &paramd__control__submit_reply__descriptor, (ProtobufCMessage **)&reply);
    if (!err && *reply->error)
        err = err_set(ERR_REFUSED, "%s", reply->error);
    if (reply)
        paramd__control__submit_reply__free_unpacked(reply, NULL);
    str_deinit(&yaml);
    return err;
}

/* ---- what came of it ---- */

static void say_how_to_go_on(const struct submit *o, FILE *to)
{
    const char *name = o->job->name, *uri = o->cluster.uri;

    fprintf(to,
            "  paramctl status %s -w --registry %s    watches it\n"
            "  paramctl stop %s --registry %s         ends it, with a checkpoint\n",
            name, uri, name, uri);
}

/* The job is taken, whatever this call brings. */
static int say_taken(struct submit *o)
{
    Paramd__Control__StatusReply *s = NULL;
    enum err err = cluster_status(&o->cluster, o->job->name, &s);

    if (o->is_json) {
        struct json *j = json_object();
        json_set_text(j, "job", o->job->name);
        json_set_text(j, "state", err ? "" : s->state);
        json_set_text(j, "why", err ? "" : s->why);
        print_json(j, false);
        json_destroy(j);
    } else {
        printf("job %s is submitted%s%s%s%s\n", o->job->name, err ? "" : ": ", err ? "" : s->state,
               !err && *s->why ? ": " : "", err ? "" : s->why);
        say_how_to_go_on(o, stdout);
    }
    if (s)
        paramd__control__status_reply__free_unpacked(s, NULL);
    return EXIT_DONE;
}

static void print_result(const struct submit *o, const Paramd__Control__StatusReply *s, bool ended)
{
    char digest[SHA256_HEX_SIZE] = "";

    if (ended && *s->checkpoint && checkpoint_digest(s->checkpoint, digest) != ERR_NONE)
        fprintf(stderr, "warning: no digest: %s\n", err_text());
    if (o->is_json) {
        struct json *j = message_result(s, s->state, digest, s->why);
        print_json(j, false);
        json_destroy(j);
    } else if (ended && strcmp(s->state, "FAILED") != 0) {
        display_summary(s, digest, o->job->train.pipeline_depth);
    }
}

static int wait_for_it(struct submit *o)
{
    Paramd__Control__StatusReply *last = NULL;
    struct display *display = NULL;
    int code = EXIT_INTERRUPTED;
    enum err err = display_create(NULL, o->is_json && !isatty(STDERR_FILENO), &display);

    if (err)
        return fail(err);
    struct watch w = {&o->cluster, o->job->name, o->timeout_s, display, NULL, NULL};
    err = watch_job(&w, &last);
    display_destroy(display);
    if (err && err != ERR_CANCELLED)
        code = fail(err);
    if (last)
        print_result(o, last, !err);
    if (err) {
        fprintf(stderr, "job %s goes on without this command:\n", o->job->name);
        say_how_to_go_on(o, stderr);
    } else {
        code = state_exit_code(last->state);
        if (code == EXIT_JOB_FAILED)
            fprintf(stderr, "error: job %s failed: %s\n", o->job->name, last->why);
        else if (code == EXIT_INTERRUPTED)
            fprintf(stderr, "job %s was stopped%s%s\n", o->job->name,
                    *last->checkpoint ? "; `submit --resume` goes on from " : "", last->checkpoint);
    }
    if (last)
        paramd__control__status_reply__free_unpacked(last, NULL);
    return code;
}

int command_submit(int argc, char **argv)
{
    struct submit o = {0};
    int code = parse(&o, argc, argv);

    if (code == EXIT_DONE) {
        enum err err = load_job(o.file, &o.job_sets, &o.vars, &o.job);
        if (!err && o.resume.given)
            err = resume_keep_ranks(o.file, &o.job_sets, &o.vars, &o.job);
        if (!err)
            err = cluster_find(&o.where, NULL, &o.cluster);
        if (!err)
            err = settle_paths(&o);
        if (!err)
            err = cluster_connect(&o.cluster);
        if (!err)
            err = send(&o);
        code = err ? fail(err) : o.wait ? wait_for_it(&o) : say_taken(&o);
    }
    cluster_close(&o.cluster);
    job_destroy(o.job);
    option_list_free(&o.sets);
    option_list_free(&o.vars);
    option_list_free(&o.job_sets);
    option_list_free(&o.where.sets);
    return code;
}
