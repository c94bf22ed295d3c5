/*
 * coordinator_internal.h - what the coordinator's files share: jobs, members, and the steps of a
 * job.
 *
 *     coordinator.c             members, submissions, events
 *     coordinator_job.c         a job: making it, ending it, failing it; messages; actions
 *     coordinator_form.c        QUEUED, FORMING, RESTORING: members, index, checkpoint to restore
 *     coordinator_run.c         RUNNING, FINISHING: evaluations, verdicts
 *     coordinator_recover.c     members lost, leaving or stuck: ranks move, generations begin
 *     coordinator_slots.c       which worker hosts which ranks, and evaluates which shares
 *     coordinator_watch.c       no wait without an end: stalls, stuck members, stragglers
 *     coordinator_record.c      what the registry keeps of a job
 *     coordinator_adopt.c       a new leader takes over what the records say
 *     coordinator_checkpoint.c  arming, publishing, retention
 *     coordinator_evals.c       records of evaluations, early stopping
 *     coordinator_orders.c      orders of a member
 *     coordinator_status.c      the status of a job
 *     coordinator_list.c        lists of jobs, members and log lines; the past
 */
#ifndef PARAMD_SERVER_COORDINATOR_INTERNAL_H
#define PARAMD_SERVER_COORDINATOR_INTERNAL_H

#include "common/evaluation.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "common/layout.h"
#include "common/mem.h"
#include "common/model.h"
#include "common/steps.h"
#include "server/coordinator.h"

#define WARNING_MAX 16u
#define LINES_KEPT  512u /* of a job's log */
#define NO_STEP     UINT64_MAX
#define NO_SLOT     UINT32_MAX

enum job_state {
    JOB_QUEUED,
    JOB_FORMING,
    JOB_RESTORING,
    JOB_RUNNING,
    JOB_FINISHING,
    JOB_RECOVERING,
    JOB_DONE,
    JOB_FAILED,
    JOB_STOPPED
};

struct job_run;

struct straggling { /* of a worker, between two looks */
    uint64_t busy_ns, steps;
    double step_ms; /* of the trainer's thread, but for waiting; the last look's */
    bool warned;
};

struct fellow { /* a member */
    char *id;
    bool is_server;
    Paramd__Control__MemberState *state;
    uint64_t seen_ms;
    struct job_run *job;      /* assigned to; NULL: free, or released */
    uint32_t index;           /* among the job's servers or workers */
    struct job_run *reserved; /* for a slot of it, once that is recorded */
    bool shutdown;
    bool named;           /* by a record, and not heard yet */
    uint64_t shunned_ms;  /* until then it is not taken for `shunned_job` */
    uint64_t shunned_job; /* sequence */
    uint32_t shuns;       /* by that job, one after the other */
    struct straggling straggling;
    struct str orders; /* packed, without version, YAML and layout: to see changes */
    uint64_t version;
    uint64_t
        answer_version; /* states that reflect older orders do not answer the latest question */
    struct fellow *next;
};

struct sums { /* of all ranks' reports */
    uint64_t examples;
    int64_t loss, weight;
};

struct eval_metric {
    enum metric_kind kind;
    double value;
};

struct eval_record {
    uint64_t step;
    uint32_t epoch;
    bool progressive;
    bool held; /* made at a held drain point, so it belongs into manifests */
    uint64_t examples;
    int64_t rank_key; /* of early_stopping.metric */
    struct eval_metric metrics[METRIC_COUNT];
    uint32_t metric_count;
    double seconds;
};

enum pick_state { PICK_LIST, PICK_CHOOSE, PICK_READ, PICK_DONE };

struct candidate {
    uint64_t generation, step;
    bool committed;
    char *refused; /* NULL: not (yet) */
};

/* What the record under way brings into effect. */
enum record_what {
    RECORD_NONE,
    RECORD_SUBMIT,  /* the job is taken */
    RECORD_FORM,    /* the generation and its members */
    RECORD_MOVE,    /* other workers, hosts and leases */
    RECORD_VERDICT, /* of a held drain point */
    RECORD_END      /* the outcome */
};

struct share { /* of the evaluation set: a slot's */
    bool is_done;
    struct str encoded;
};

struct log_line {
    uint64_t number, unix_ms;
    enum coordinator_log level;
    char *text;
};

enum snap_phase { SNAP_IDLE, SNAP_ARMING, SNAP_ARMED, SNAP_PUBLISHING, SNAP_DISARMING };
enum hold_phase { HOLD_NONE, HOLD_EVALUATE, HOLD_CHECKPOINT, HOLD_RECORD };

struct job_run {
    char *name, *yaml, *mode;
    bool eval_mode, resume, fresh, resume_auto, shutdown_at_end;
    char *owner;
    uint64_t submitted_unix_ms, ended_unix_ms;
    char *eval_uri; /* mode eval: the checkpoint */
    char *storage_uri;
    struct job *job;
    enum job_state state;
    char *why;
    char *warnings[WARNING_MAX];
    uint32_t warning_count;
    uint64_t generation;
    uint64_t first_generation; /* of this submission */
    uint64_t sequence;         /* of submission */
    struct log_line lines[LINES_KEPT];
    uint64_t line_count; /* ever */

    /* the record */
    enum record_what recording;
    uint64_t record_id; /* the one under way; 0: waits to be tried again */
    uint64_t record_retry_ms;
    bool taken;    /* the registry has the submission */
    bool formed;   /* the generation and its members are recorded: they may be told */
    bool adopting; /* a new leader waits for the members to say that all is as recorded */

    /* members, by index; entries turn NULL when one is released or lost */
    struct fellow **servers, **workers;
    uint32_t server_count, worker_count;     /* of this formation */
    uint32_t servers_wanted, workers_wanted; /* the job's */
    char *device_class;                      /* pinned when the job forms */
    bool releasing;
    uint64_t released_ms; /* when the workers were */

    /* what to restore */
    enum pick_state pick;
    uint64_t action_id; /* the LIST or READ_MANIFEST under way; 0: none */
    uint64_t retry_ms;
    struct candidate *candidates;
    size_t candidate_count, picked;       /* picked == candidate_count: the initial state */
    struct checkpoint_manifest *manifest; /* of the picked one; not kept once it runs */
    char manifest_sha[SHA256_HEX_SIZE];
    char *restore_name; /* of what the formation began from; NULL: the initial state */
    bool listed_again;  /* because none of the listing could be used; until it runs */

    /* the data and what follows from it */
    uint32_t round;
    bool indexed;
    char *index_checksum;
    uint64_t train_examples, eval_examples;
    char **columns;
    size_t column_count;
    struct features_spec *features;
    struct model *model;
    struct steps steps;
    struct layout *layout;
    bool form, start;
    uint64_t start_step;
    uint64_t restored_ms;

    /* running */
    uint64_t begin_ms, end_ms; /* of training; on our clock, so it may lie below 0 */
    uint64_t begun_unix_ms;    /* the same for all leaders; 0: not yet */
    uint64_t *lease;           /* [rank_count] */
    uint32_t *host;            /* [rank_count] slot, or NO_SLOT */
    uint64_t *vacant_ms;       /* [workers_wanted] since when the slot has no worker */
    uint64_t *next_lease;      /* these three: as the record under way has them */
    uint32_t *next_host;
    struct fellow **next_workers;
    struct share *shares_of; /* [workers_wanted] of the evaluation at hold_step */

    /* trouble */
    uint64_t recover_ms; /* when RECOVERING began */
    uint64_t high_step;  /* the largest that any shard ever applied */
    uint64_t trouble_mark;
    uint32_t troubles; /* in a row without progress */
    uint32_t recoveries, moves;
    uint64_t drain_ms; /* since when a server wants to leave; 0: none does */
    uint64_t drain_newest;
    uint64_t straggler_ms;
    enum hold_phase hold;
    uint64_t hold_step;
    bool hold_stop, hold_best;
    uint64_t verdict_step;
    bool verdict_stop;
    bool stop_asked, stopped_early;
    struct evaluation *evaluation; /* scratch */
    struct eval_record *evals;
    size_t eval_count, eval_capacity;
    struct sums base;       /* what the restored state had seen */
    struct sums first_base; /* and the first one of this run */
    bool has_begun;
    struct sums latest, epoch_base;
    uint64_t latest_step;               /* of `latest`; NO_STEP: no report yet */
    Paramd__Control__TimeShares shares; /* of workers that left */

    /* checkpoints of this run */
    enum snap_phase snap;
    uint64_t snap_step;
    uint64_t snap_drained_ms; /* when the first shard stood at it; 0: not yet */
    uint64_t snap_retry_ms;
    uint64_t snap_failures; /* in a row */
    uint64_t snap_first_failure_ms;
    uint64_t snap_margin; /* steps ahead that the last refusal taught */
    uint64_t fresh_ms;    /* when the newest one was made, or training began; 0: not yet */
    uint64_t aged_ms;     /* the age that was warned of; 0: none */
    bool is_paused;       /* the newest one is too old: shards hold at the next drain point */
    bool pause_lifted;    /* though it is too old: they go on to one where they can make one */
    uint64_t publish_id;
    uint64_t wanted;     /* urgent: at exactly this step; NO_STEP: none */
    uint64_t now_wanted; /* checkpoint now, stop: the first drain point from here; NO_STEP: none */
    uint64_t newest;     /* step of the newest one of this run; NO_STEP: none */
    uint64_t disarm;
    char *newest_name;  /* also of an earlier run, when restored */
    char *recorded;     /* the one that the registry names, until there is a newer one */
    char *best_name;    /* early stopping's */
    uint64_t best_step; /* NO_STEP: none */

    /* the watch */
    uint64_t progress_mark, progress_ms;

    struct job_run *next;
};

struct past_job;

struct coordinator {
    struct coordinator_options options;
    bool loaded, pause;
    uint64_t now_ms; /* of the event that is being taken */
    uint64_t load_id, load_retry_ms;
    struct fellow *fellows;
    struct job_run *jobs;  /* by submission */
    struct past_job *past; /* newest first */
    uint64_t next_id, next_sequence, next_version;
    struct coordinator_action *actions, **actions_end;
};

/* ---- coordinator.c ---- */
struct fellow *fellow_find(const struct coordinator *c, const char *id);
/* A new one, in its place; known by its name alone. */
struct fellow *fellow_add(struct coordinator *c, const char *id, bool is_server);

/* ---- coordinator_job.c ---- */
/* The latest of this name that was not refused; "" is any name. */
struct job_run *job_find(struct coordinator *c, const char *name);
/* It ended before the registry had it: nobody will hear of it but whoever submitted it. */
bool job_is_refused(const struct job_run *j);
enum err job_make(const Paramd__Control__SubmitRequest *request, struct job_run **out) MUST_CHECK;
void job_free(struct job_run *j);
bool job_is_over(const struct job_run *j);
const char *job_state_name(enum job_state s);
void job_set_state(struct coordinator *c, struct job_run *j, enum job_state s, uint64_t now);
/* These take over `text`; the macros format it. */
void job_why_take(struct job_run *j, char *text);
void job_warn_take(struct coordinator *c, struct job_run *j, char *text);
void job_fail_take(struct coordinator *c, struct job_run *j, uint64_t now, char *text);
void act_log_take(struct coordinator *c, enum coordinator_log level, char *text);
/* A line of the job's log, and of ours. */
void job_note_take(struct coordinator *c, struct job_run *j, enum coordinator_log level,
                   char *text);
#define job_note(c, j, level, ...) job_note_take(c, j, level, must_format(__VA_ARGS__))
#define job_set_why(j, ...)        job_why_take(j, must_format(__VA_ARGS__))
#define job_warn(c, j, ...)        job_warn_take(c, j, must_format(__VA_ARGS__))
#define job_fail(c, j, now, ...)   job_fail_take(c, j, now, must_format(__VA_ARGS__))
#define act_log(c, level, ...)     act_log_take(c, level, must_format(__VA_ARGS__))
/* Ends the job: DONE, FAILED or STOPPED; workers are released now, servers when those have let go.
 */
void job_end(struct coordinator *c, struct job_run *j, enum job_state s, uint64_t now);
void job_release(struct coordinator *c, struct job_run *j, uint64_t now);
/* Adds what this worker spent to the job's shares of time; to these. */
void keep_shares(struct job_run *j, const struct fellow *f);
void add_shares(const struct job_run *j, const struct fellow *f, Paramd__Control__TimeShares *to);
struct coordinator_action *act(struct coordinator *c, enum coordinator_action_kind kind,
                               const struct job_run *j);
/* The member's state, if it is of this job and generation; else NULL. */
const Paramd__Control__MemberState *state_of(const struct job_run *j, const struct fellow *f);
/* The same, and it reflects the latest question. */
const Paramd__Control__MemberState *answer_of(const struct job_run *j, const struct fellow *f);
/* From here on only states that reflect the orders as they are now count as answers of the servers.
 */
void ask_servers(struct coordinator *c, struct job_run *j);
/* Shard s's state, or NULL. */
const Paramd__Control__ShardState *shard_state(const struct job_run *j, uint32_t shard,
                                               bool answered);
uint32_t shards_per_server(const struct job_run *j);

/* ---- the steps of a job ---- */
void queued_step(struct coordinator *c, struct job_run *j, uint64_t now);
void forming_step(struct coordinator *c, struct job_run *j, uint64_t now);
void restoring_step(struct coordinator *c, struct job_run *j, uint64_t now);
void running_step(struct coordinator *c, struct job_run *j, uint64_t now);
void finishing_step(struct coordinator *c, struct job_run *j, uint64_t now);
void pick_ask(struct coordinator *c, struct job_run *j, uint64_t now);
void pick_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                 uint64_t now);
void rank_range(const struct job_run *j, uint32_t worker, uint32_t *first, uint32_t *end);
/* Features, model, calendar: of the job and its index. */
enum err make_model(struct job_run *j) MUST_CHECK;
enum err make_layout(struct job_run *j) MUST_CHECK;
/* May be taken for this job now. */
bool is_free(const struct job_run *j, const struct fellow *f, bool server, uint64_t now);

/* ---- coordinator_watch.c ---- */
void watch_step(struct coordinator *c, struct job_run *j, uint64_t now);

/* ---- coordinator_recover.c ---- */
/* The member is out of the job; `trouble`: it counts against the limit. */
void lose_member(struct coordinator *c, struct job_run *j, struct fellow *f, bool trouble,
                 const char *why, uint64_t now);
/* Everything of this formation ends; the newest checkpoint is picked again. */
void job_recover(struct coordinator *c, struct job_run *j, bool trouble, uint64_t now,
                 const char *why);
/* Members that have failed for want of something, are stuck or wish to leave. */
void leave_step(struct coordinator *c, struct job_run *j, uint64_t now);
/* Members without work that wish to leave. */
void leave_pool(struct coordinator *c);

/* ---- coordinator_slots.c ---- */
void slots_init(struct job_run *j);
void slots_step(struct coordinator *c, struct job_run *j, uint64_t now);
void slots_moved(struct coordinator *c, struct job_run *j, uint64_t now);
/* Nobody hosts one of the ranks. */
bool slots_lack(const struct job_run *j);
/* Which slot's share this slot's worker evaluates. */
uint32_t slots_share(const struct job_run *j, uint32_t slot);
void shares_clear(struct job_run *j);
/* Takes in what workers report; how many are missing. */
uint32_t shares_take(struct job_run *j);

/* ---- coordinator_record.c ---- */
/* Writes the record, so that `what` comes into effect; instead of the one under way. */
void record_begin(struct coordinator *c, struct job_run *j, enum record_what what, uint64_t now);
/* Writes it for what is only remembered, not decided by it. */
void record_note(struct coordinator *c, const struct job_run *j);
void record_step(struct coordinator *c, struct job_run *j, uint64_t now);
/* The registry does not have the end of an earlier job of this name yet: what it says of
 * checkpoints and generations is behind, and that end would be written over what comes after it. */
bool record_awaits_end(const struct coordinator *c, const struct job_run *j);
void record_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                   uint64_t now);

/* ---- coordinator_adopt.c ---- */
void load_begin(struct coordinator *c);
void load_result(struct coordinator *c, const struct coordinator_result *r, uint64_t now);
void adopt_step(struct coordinator *c, struct job_run *j, uint64_t now);

/* ---- coordinator_list.c ---- */
char *past_write(const struct job_run *j); /* JSON */
void past_add(struct coordinator *c, const char *json);
void past_free(struct coordinator *c);
struct members_list {
    Paramd__Control__MemberSummary **list;
    size_t count;
};
/* Of this job; NULL: all. */
struct members_list list_members(const struct coordinator *c, const struct job_run *j);
void list_members_free(struct members_list *l);

/* ---- coordinator_checkpoint.c ---- */
/* How old is the newest checkpoint: a warning, and a pause. */
void age_step(struct coordinator *c, struct job_run *j, uint64_t now);
/* There is a checkpoint now, or training begins anew (now 0). */
void age_reset(struct job_run *j, uint64_t now);
/* Milliseconds; 0: none is being waited for. */
uint64_t age_of(const struct job_run *j, uint64_t now);
/* The newest checkpoint is the best one, if it is of that step. */
void note_best(struct job_run *j);
void snap_step(struct coordinator *c, struct job_run *j, uint64_t now);
void snap_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                 uint64_t now);
/* The smallest and largest step that a shard has applied. false: not all shards report. */
bool applied_range(const struct job_run *j, uint64_t *smallest, uint64_t *largest);
/* All shards stand at this drain point, or have passed it together: the smallest `drained`. */
bool drained_all(const struct job_run *j, uint64_t *step);

/* ---- coordinator_evals.c ---- */
enum err evals_take(struct job_run *j, const char *json) MUST_CHECK;
void evals_write(const struct job_run *j, uint64_t up_to, struct str *out);
struct eval_record *evals_find(const struct job_run *j, uint64_t step, bool progressive);
/* Merges what the workers counted into a record. */
enum err evals_merge(struct coordinator *c, struct job_run *j, uint64_t step,
                     uint64_t now) MUST_CHECK;
enum err evals_progressive(struct job_run *j, uint64_t step, bool held, uint64_t now) MUST_CHECK;
/* Where early stopping stands after the evaluations up to `step`. */
struct early {
    bool stop;
    uint64_t best_step;
};
struct early evals_early(const struct job_run *j, uint64_t step);
void take_reports(struct job_run *j);
struct sums sum_reports(Paramd__Control__RankReport *const *reports, size_t count);

#endif
