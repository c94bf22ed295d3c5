/*
 * coordinator.h - the lives of jobs: one state machine a job, driven by what members report.
 *
 *     QUEUED -> FORMING -> RESTORING -> RUNNING -> FINISHING -> DONE     any -> FAILED, STOPPED
 *                  ^                       |
 *                  +------ RECOVERING <----+
 *
 * What a later leader must not do otherwise (a generation, the hosts and leases of ranks, a
 * verdict) is recorded in the registry before it is ordered; so a new leader reads the records,
 * and goes on with the formations that it finds alive. A worker lost: its ranks move. A server
 * lost: a new generation, from the newest checkpoint.
 *
 * Events go in (a member's state, a lost member, a submission, the result of an action, a tick) and
 * two things come out: each member's complete orders, and actions for the host (storage, registry,
 * log). Nothing here blocks, and nothing knows whether a member is a process or a model in a test.
 *
 * Members say what is and are told what should be (proto/control.proto); a lost, doubled or
 * repeated message changes nothing. What a member reported before it had the orders in question is
 * not taken as an answer to them: orders carry a version, and states say which they reflect.
 *
 * Units    milliseconds of any one clock that does not go back.
 * Pure     no clock, no I/O. Threads: one.
 * Errors   of requests: err_text(). What fails a job is in its status, with the name of the member.
 */
#ifndef PARAMD_SERVER_COORDINATOR_H
#define PARAMD_SERVER_COORDINATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "common/err.h"
#include "common/str.h"
#include "proto/control.pb-c.h"

struct coordinator;

struct coordinator_options {
    uint64_t term;
    uint32_t peer_timeout_ms;  /* silence after which a member is lost */
    uint32_t stall_timeout_ms; /* a running job without progress fails after this long */
    uint32_t
        stuck_timeout_ms; /* one piece of work that takes longer: its member is lost. 0: never */
    uint32_t replace_wait_ms; /* after a loss: for a replacement, before going on with fewer */
    uint32_t recovery_limit;  /* losses in a row without progress; 0: any number */
    uint64_t unix_offset_ms;  /* what to add to this clock for the time of day */
};

struct coordinator *coordinator_create(const struct coordinator_options *o);
void coordinator_destroy(struct coordinator *c); /* accepts NULL */

/* The registry's records have been read: requests of users can be answered. */
bool coordinator_is_loaded(const struct coordinator *c);

/* ---- events ---- */

/* *job_out is borrowed. A job that is submitted again unchanged while it lives is the same job. */
enum err coordinator_submit(struct coordinator *c, const Paramd__Control__SubmitRequest *request,
                            uint64_t now_ms, const char **job_out) MUST_CHECK;
/* Whether a job that was submitted is taken: known when the store has been looked at and the
 * registry has it. ERR_NONE: yes, or *pending. ERR_REFUSED: it is as if it had never been. */
enum err coordinator_submitted(struct coordinator *c, const char *job, bool *pending) MUST_CHECK;
/* Refuses a job whose store does not answer, unless the registry may have it already. */
void coordinator_withdraw(struct coordinator *c, const char *job, uint64_t now_ms);
/* Takes over `state`. ERR_REFUSED: of a later term; we are not the leader any more. */
enum err coordinator_member(struct coordinator *c, Paramd__Control__MemberState *state,
                            uint64_t now_ms) MUST_CHECK;
/* A member that holds a call open is heard, though it says nothing. */
void coordinator_heard(struct coordinator *c, const char *member, uint64_t now_ms);
void coordinator_member_lost(struct coordinator *c, const char *member, const char *why,
                             uint64_t now_ms);
void coordinator_tick(struct coordinator *c, uint64_t now_ms);
enum err coordinator_stop(struct coordinator *c, const Paramd__Control__StopRequest *request,
                          uint64_t now_ms) MUST_CHECK;
/* *step_out: where it is going to be taken, if the shards are still before it. */
enum err coordinator_checkpoint_now(struct coordinator *c, const char *job, uint64_t now_ms,
                                    uint64_t *step_out) MUST_CHECK;

/* ---- orders ---- */

/* Packed MemberOrders. ERR_NOT_FOUND: a member that has not reported. ERR_UNAVAILABLE: what it has
 * to do is not known yet, as this leader is new. */
enum err coordinator_orders(struct coordinator *c, const char *member, struct str *packed,
                            uint64_t *version) MUST_CHECK;

/* ---- actions, in order; each but LOG and RETAIN is answered by coordinator_result() ---- */

enum coordinator_action_kind {
    ACTION_LOAD,          /* all records of the registry, of jobs and of the past */
    ACTION_LIST,          /* checkpoints of `uri`, and what the registry knows of `job` */
    ACTION_READ_MANIFEST, /* of the directory `uri` */
    ACTION_PUBLISH,       /* `manifest` into the directory `uri` */
    ACTION_RETAIN,        /* in `uri`: the newest `keep`, and `protect` */
    ACTION_RECORD,        /* put `text` into the registry as the record of `job`; then `history`,
                             unless NULL, as that of the past job number `sequence` */
    ACTION_LOG
};

enum coordinator_log { COORDINATOR_ERROR, COORDINATOR_WARN, COORDINATOR_INFO };

struct coordinator_action {
    enum coordinator_action_kind kind;
    uint64_t id, term;
    char *job;
    char *uri;
    char *text;
    char *history;
    uint64_t sequence;
    enum coordinator_log level;
    uint32_t keep;
    char **protect; /* NULL-terminated */
    struct checkpoint_manifest *manifest;
    struct coordinator_action *next;
};

struct coordinator_action *coordinator_next_action(struct coordinator *c); /* NULL: none */
void coordinator_action_destroy(struct coordinator_action *a);

struct coordinator_listing {
    uint64_t generation, step;
    bool committed;
    const char *refused; /* why it does not verify; NULL: it does */
};

struct coordinator_result {
    uint64_t id;
    enum err code; /* with `text` */
    const char *text;
    const struct coordinator_listing *listing; /* LIST; newest first */
    size_t listing_count;
    const char *record;         /* LIST: what ACTION_RECORD put last, or NULL */
    const char *const *records; /* LOAD: of jobs, any order */
    size_t record_count;
    const char *const *history; /* LOAD: of past jobs, any order */
    size_t history_count;
    struct checkpoint_manifest *manifest; /* READ_MANIFEST; taken over */
    const char *sha256;                   /* READ_MANIFEST, PUBLISH */
};
void coordinator_result(struct coordinator *c, const struct coordinator_result *r, uint64_t now_ms);

/* ---- looking ---- */

/* The registry has been away for longer than it may, or is back: shards hold at drain points. */
void coordinator_pause(struct coordinator *c, bool pause);
/* Of the job that trains with the oldest newest checkpoint; 0: none does. */
uint64_t coordinator_checkpoint_age_ms(const struct coordinator *c, uint64_t now_ms);
/* Packed ListReply, packed LogsReply. */
void coordinator_list(struct coordinator *c, bool all, uint64_t now_ms, struct str *packed);
void coordinator_logs(struct coordinator *c, const char *job, uint64_t after, struct str *packed);
/* Members that records name and that have not been heard: whom the registry does not show either
 * are lost. NULL after the last one. */
const char *coordinator_unheard(const struct coordinator *c, size_t index);
/* Packed StatusReply. An empty name is the job submitted last. */
void coordinator_status(struct coordinator *c, const char *job, uint64_t now_ms,
                        struct str *packed);
/* Every member that was to leave has left, or leaves now, and `member` alone is still wanted by
 * somebody. */
bool coordinator_is_last(const struct coordinator *c, const char *member);

#endif
