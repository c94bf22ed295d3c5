#include "cli/job_run.h"

#include <string.h>

#include "cli/interrupt.h"
#include "cli/local.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/member.h"

#define COME_UP_MS         30000u
#define CALL_MS            5000u
#define FIRST_CALL_MS      500u /* doubled up to CALL_MS after a time-out */
#define POLL_MS            100u
#define SILENCE_MS         30000u /* no answer from a leader whose processes all live */
#define INTERRUPT_GRACE_MS 30000u
#define STOP_GRACE_MS      5000u

static void process_died(void *context, const char *text)
{
    display_lost(context, text);
}

/* Retries while the cluster elects its leader. */
static enum err submit(struct local *local, const struct job_request *request,
                       struct display *display, struct job_outcome *out)
{
    struct local_tender tender = {process_died, display};
    Paramd__Control__SubmitRequest message = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    Paramd__Control__SubmitReply *reply = NULL;
    struct str yaml = {0};
    uint64_t end = clock_ms() + COME_UP_MS;
    enum err err;

    job_write(request->job, &yaml);
    message.job_yaml = yaml.data;
    message.mode = (char *)request->mode;
    message.resume = request->resume;
    message.resume_auto = request->resume_auto;
    message.fresh = request->fresh;
    message.checkpoint = (char *)(request->checkpoint ? request->checkpoint : "");
    for (;;) {
        err = control_call(local_registry(local), CONTROL_SUBMIT, &message.base,
                           &paramd__control__submit_reply__descriptor, CALL_MS,
                           (ProtobufCMessage **)&reply);
        if (err == ERR_NONE || interrupt_count() || clock_ms() > end)
            break;
        str_clear(&out->why);
        if (!local_tend(local, &tender, &out->why)) {
            err = err_set(ERR_UNAVAILABLE, "%s", out->why.data);
            break;
        }
        clock_sleep_ms(20);
    }
    if (!err && *reply->error)
        err = err_set(ERR_REFUSED, "%s", reply->error);
    if (reply)
        paramd__control__submit_reply__free_unpacked(reply, NULL);
    str_deinit(&yaml);
    return err;
}

static enum err ask_status(struct local *local, const char *job, uint32_t call_ms,
                           struct job_outcome *out)
{
    Paramd__Control__StatusRequest message = PARAMD__CONTROL__STATUS_REQUEST__INIT;
    Paramd__Control__StatusReply *reply = NULL;

    message.job = (char *)job;
    enum err err = control_call(local_registry(local), CONTROL_STATUS, &message.base,
                                &paramd__control__status_reply__descriptor, call_ms,
                                (ProtobufCMessage **)&reply);
    if (err)
        return err;
    if (!reply->found) {
        paramd__control__status_reply__free_unpacked(reply, NULL);
        return err_set(ERR_NOT_FOUND, "the cluster does not know job '%s'", job);
    }
    if (out->status)
        paramd__control__status_reply__free_unpacked(out->status, NULL);
    out->status = reply;
    return ERR_NONE;
}

static void ask_stop(struct local *local, const char *job, struct display *display)
{
    Paramd__Control__StopRequest message = PARAMD__CONTROL__STOP_REQUEST__INIT;
    Paramd__Control__SimpleReply *reply = NULL;

    message.job = (char *)job;
    message.checkpoint = true;
    display_say(display,
                "stopping at the next drain point, with a checkpoint; once more ends it at once");
    if (control_call(local_registry(local), CONTROL_STOP, &message.base,
                     &paramd__control__simple_reply__descriptor, CALL_MS,
                     (ProtobufCMessage **)&reply) != ERR_NONE)
        return; /* the grace time ends it */
    paramd__control__simple_reply__free_unpacked(reply, NULL);
}

/* true: the job is over and *out says how. */
static bool is_over(struct job_outcome *out)
{
    const char *state = out->status->state;

    if (strcmp(state, "DONE") == 0) {
        out->kind = JOB_ENDED;
    } else if (strcmp(state, "STOPPED") == 0) {
        out->kind = JOB_INTERRUPTED;
    } else if (strcmp(state, "FAILED") == 0) {
        out->kind = JOB_FAILED;
        str_clear(&out->why);
        str_append(&out->why, out->status->why);
    } else {
        return false;
    }
    return true;
}

/* Leaves out->kind at JOB_FAILED unless it finds out better. */
static void follow(struct local *local, const struct job_request *request, struct display *display,
                   struct job_outcome *out)
{
    struct local_tender tender = {process_died, display};
    uint64_t answered = clock_ms(), stop_asked = 0;
    uint32_t call_ms = FIRST_CALL_MS;

    for (;; clock_sleep_ms(POLL_MS)) {
        if (interrupt_count() && !stop_asked) {
            stop_asked = clock_ms();
            ask_stop(local, request->job->name, display);
        }
        if (interrupt_count() > 1 || (stop_asked && clock_ms() - stop_asked > INTERRUPT_GRACE_MS)) {
            out->kind = JOB_INTERRUPTED;
            return;
        }
        str_clear(&out->why);
        if (!local_tend(local, &tender, &out->why))
            return;
        enum err err = ask_status(local, request->job->name, call_ms, out);
        if (!err) {
            answered = clock_ms();
            display_update(display, out->status);
            if (is_over(out))
                return;
        }
        call_ms = err != ERR_TIMEOUT      ? FIRST_CALL_MS
                  : call_ms < CALL_MS / 2 ? 2 * call_ms
                                          : CALL_MS;
        if (clock_ms() - answered > SILENCE_MS) {
            str_append_format(&out->why, "the coordinator has not answered for %u s: %s",
                              SILENCE_MS / 1000, err_text());
            return;
        }
    }
}

enum err job_run(const struct job_request *request, struct display *display,
                 struct job_outcome *out)
{
    struct local_options options = {
        .directory = request->directory,
        .servers = request->servers,
        .workers = request->workers,
        .gpus_per_worker = request->job->resources.gpus_per_worker,
        .sets = request->daemon_sets,
    };
    struct local *local = NULL;
    struct interrupt old;
    enum err err;

    *out = (struct job_outcome){.kind = JOB_FAILED};
    interrupt_install(&old);
    err = local_start(&options, &local);
    if (!err)
        err = submit(local, request, display, out);
    if (err && interrupt_count()) {
        err = ERR_NONE;
        out->kind = JOB_INTERRUPTED;
    } else if (!err) {
        follow(local, request, display, out);
    }
    local_stop(local, STOP_GRACE_MS);
    interrupt_restore(&old);
    return err;
}

void job_outcome_deinit(struct job_outcome *o)
{
    str_deinit(&o->why);
    if (o->status)
        paramd__control__status_reply__free_unpacked(o->status, NULL);
    *o = (struct job_outcome){0};
}
