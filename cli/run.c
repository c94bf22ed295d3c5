/*
 * run.c - `paramctl run`: a cluster on this machine, one job, and what comes of it.
 *
 * A process that dies is started again, and the coordinator recovers the job as on any cluster: the
 * ranks of a worker move, a server's shards are restored from the newest checkpoint. In bsp that
 * ends with the same bits.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/display.h"
#include "cli/job_run.h"
#include "cli/local.h"
#include "cli/messages.h"
#include "cli/resume.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot.h"

struct run {
    const char *file, *output, *directory_option;
    struct option_list sets, vars, job_sets, daemon_sets;
    int64_t servers, workers; /* -1: as the job says */
    struct option_maybe resume;
    bool fresh, is_json;
    struct job *job;
    char *directory;
    int lock;
    struct job_request request;
    struct job_outcome outcome;
    char digest[SHA256_HEX_SIZE];
};

/* ---- set-up ---- */

static int parse_options(struct run *r, int argc, char **argv)
{
    const struct option options[] = {
        {"file", 'f', OPTION_TEXT, &r->file},
        {"set", 0, OPTION_LIST, &r->sets},
        {"var", 0, OPTION_LIST, &r->vars},
        {"servers", 0, OPTION_NUMBER, &r->servers},
        {"workers", 0, OPTION_NUMBER, &r->workers},
        {"resume", 0, OPTION_FLAG_OR_TEXT, &r->resume},
        {"fresh", 0, OPTION_FLAG, &r->fresh},
        {"output", 'o', OPTION_TEXT, &r->output},
        {"run-dir", 0, OPTION_TEXT, &r->directory_option},
    };
    int code = EXIT_USAGE;

    r->servers = r->workers = -1;
    if (!options_parse("run", argc, argv, options, sizeof options / sizeof *options, NULL))
        return EXIT_USAGE;
    if (!parse_output("run", r->output, &r->is_json, &code))
        return code;
    if (!r->file)
        return usage("run", "-f JOB.yaml is missing");
    if (r->resume.given && r->fresh)
        return usage("run", "--resume and --fresh exclude each other");
    if (r->resume.text && strcmp(r->resume.text, "auto") != 0)
        return usage("run", "--resume: '%s' is not known; there is --resume and --resume=auto",
                     r->resume.text);
    return EXIT_DONE;
}

/*
 * --servers and --workers are settings of the job like any other; none or one process is one
 * server.
 */
static enum err load(struct run *r)
{
    char *texts[2] = {NULL, NULL};
    struct option_list all = {0};
    size_t count = 0;

    split_sets(&r->sets, &r->job_sets, &r->daemon_sets);
    all.items = must_alloc((r->job_sets.count + 3) * sizeof *all.items);
    for (; count < r->job_sets.count; count++)
        all.items[count] = r->job_sets.items[count];
    if (r->servers >= 0)
        all.items[count++] = texts[0] =
            must_format("resources.servers=%lld", (long long)(r->servers ? r->servers : 1));
    if (r->workers >= 0 || r->servers == 0)
        all.items[count++] = texts[1] =
            must_format("resources.workers=%lld", r->servers == 0 ? 1 : (long long)r->workers);
    all.count = count;
    enum err err = load_job(r->file, &all, &r->vars, &r->job);
    if (!err && r->resume.given)
        err = resume_keep_ranks(r->file, &all, &r->vars, &r->job);
    mem_free(texts[0]);
    mem_free(texts[1]);
    mem_free(all.items);
    return err;
}

static enum err make_directories(const char *path)
{
    char *copy = must_strdup(path);
    enum err err = ERR_NONE;

    for (char *p = copy + 1; !err; p++) {
        if (*p != '/' && *p)
            continue;
        char kept = *p;
        *p = 0;
        if (mkdir(copy, 0755) != 0 && errno != EEXIST)
            err = err_set_errno(ERR_IO, errno, "cannot make the directory %s", copy);
        *p = kept;
        if (!kept)
            break;
    }
    mem_free(copy);
    return err;
}

static enum err open_directory(struct run *r)
{
    struct str yaml = {0};
    struct storage_writer *writer = NULL;

    r->directory = r->directory_option ? must_strdup(r->directory_option)
                                       : must_format("runs/%s", r->job->name);
    char *logs = must_format("%s/logs", r->directory);
    char *lock = must_format("%s/lock", r->directory);
    char *copy = must_format("%s/job.yaml", r->directory);
    enum err err = make_directories(logs);
    if (!err) {
        r->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (r->lock < 0)
            err = err_set_errno(ERR_IO, errno, "cannot open %s", lock);
        else if (flock(r->lock, LOCK_EX | LOCK_NB) != 0)
            err = err_set(ERR_EXISTS, "another run uses %s; wait for it, or give --run-dir",
                          r->directory);
    }
    job_write(r->job, &yaml);
    if (!err)
        err = storage_write_open(copy, true, &writer);
    if (!err)
        err = storage_write(writer, yaml.data, yaml.size);
    if (!err)
        err = storage_write_close(writer);
    str_deinit(&yaml);
    mem_free(logs);
    mem_free(lock);
    mem_free(copy);
    return err;
}

/* Said before anything is started; the coordinator, which decides, says the same. */
static enum err refuse_existing(const struct run *r)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;

    if (r->resume.given || r->fresh)
        return ERR_NONE;
    char *uri = storage_join(r->job->checkpoint.uri, r->job->name);
    enum err err = checkpoint_list(uri, &l, &count);
    for (size_t i = 0; i < count && !err; i++)
        if (l[i].committed)
            err = err_set(ERR_EXISTS,
                          "%s has checkpoints already, the newest is %s: go on with --resume, "
                          "or start anew with --fresh",
                          uri, l[i].directory);
    checkpoint_listing_free(l, count);
    mem_free(uri);
    return err;
}

static enum err run_job(struct run *r)
{
    char *metrics = must_format("%s/metrics.jsonl", r->directory);
    struct display *display = NULL;
    enum err err = display_create(metrics, r->is_json && !isatty(STDERR_FILENO), &display);

    if (!err)
        err = job_run(&r->request, display, &r->outcome);
    display_destroy(display);
    mem_free(metrics);
    return err;
}

/* ---- the result ---- */

static int finish(struct run *r)
{
    const Paramd__Control__StatusReply *s = r->outcome.status;

    if (s && s->checkpoint && *s->checkpoint &&
        checkpoint_digest(s->checkpoint, r->digest) != ERR_NONE)
        fprintf(stderr, "warning: no digest: %s\n", err_text());
    if (s && r->is_json) {
        const char *state = r->outcome.kind == JOB_FAILED ? "FAILED" : s->state;
        struct json *j = message_result(s, state, r->digest, r->outcome.why.data);
        print_json(j, false);
        json_destroy(j);
    } else if (s && r->outcome.kind != JOB_FAILED) {
        display_summary(s, r->digest, r->job->train.pipeline_depth);
    }
    switch (r->outcome.kind) {
    case JOB_ENDED:
        return EXIT_DONE;
    case JOB_INTERRUPTED:
        fprintf(stderr, "interrupted%s%s\n",
                s && *s->checkpoint ? "; `--resume` goes on from " : "",
                s && *s->checkpoint ? s->checkpoint : "");
        return EXIT_INTERRUPTED;
    case JOB_FAILED:
        break;
    }
    fprintf(stderr, "error: job %s failed: %s\n", r->job->name,
            r->outcome.why.data ? r->outcome.why.data : "");
    return EXIT_JOB_FAILED;
}

static void run_deinit(struct run *r)
{
    job_outcome_deinit(&r->outcome);
    job_destroy(r->job);
    mem_free(r->directory);
    if (r->lock >= 0)
        close(r->lock);
    option_list_free(&r->sets);
    option_list_free(&r->vars);
    option_list_free(&r->job_sets);
    option_list_free(&r->daemon_sets);
}

int command_run(int argc, char **argv)
{
    struct run r = {.lock = -1};
    int code = parse_options(&r, argc, argv);
    enum err err;

    if (code != EXIT_DONE) {
        run_deinit(&r);
        return code;
    }
    err = load(&r);
    if (!err)
        err = refuse_existing(&r);
    if (!err)
        err = open_directory(&r);
    if (!err) {
        r.request = (struct job_request){
            .job = r.job,
            .mode = "train",
            .directory = r.directory,
            .servers = r.servers == 0 ? 0 : r.job->resources.servers,
            .workers = r.job->resources.workers,
            .daemon_sets = r.daemon_sets.items,
            .resume = r.resume.given && !r.resume.text,
            .resume_auto = r.resume.given && r.resume.text,
            .fresh = r.fresh,
        };
        err = run_job(&r);
    }
    code = err ? fail(err) : finish(&r);
    run_deinit(&r);
    return code;
}
