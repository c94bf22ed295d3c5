/*
 * agent_internal.h - what the files of worker/agent share.
 *
 * agent.c           the thread that compares orders with what is
 * agent_state.c     what is reported, and how
 * agent_job.c       a job that was adopted: what it needs next; its trainer
 * agent_task.c      indexing, loading, evaluating: on a thread of their own
 */
#ifndef PARAMD_WORKER_AGENT_INTERNAL_H
#define PARAMD_WORKER_AGENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/dataindex.h"
#include "common/features_spec.h"
#include "common/job.h"
#include "common/model.h"
#include "common/str.h"
#include "worker/agent.h"
#include "worker/trainer.h"

struct evaluation_key {
    bool is_set;
    uint64_t step;
    uint32_t first, count, parts;
};

/* What describe() tells; under agent.lock. */
struct agent_state {
    char *job; /* NULL: in the pool */
    uint64_t generation;
    Paramd__Control__Failure__Kind failure;
    char *failure_text;
    uint32_t prepared_round;
    bool index_done;
    char index_checksum[SHA256_HEX_SIZE];
    uint64_t train_examples, eval_examples;
    char **columns;
    size_t column_count;
    bool is_ready;
    struct evaluation_key evaluated;
    struct str evaluation;
    struct trainer_rank_status *ranks;
    size_t rank_count;
    struct trainer_shares shares; /* of trainers that have ended */
    struct trainer_shares shown;  /* with that of the present one */
};

enum task_kind { TASK_NONE, TASK_INDEX, TASK_LOAD, TASK_EVALUATE };

/* Long work beside the trainer: one at a time. */
struct task {
    enum task_kind kind;
    pthread_t thread;
    struct agent *agent;
    atomic_bool is_done;
    enum err result;
    char text[512];
    uint32_t worker, worker_count;
    /* index */
    uint32_t round;
    bool index_done;
    char checksum[SHA256_HEX_SIZE];
    /* index that is done, load */
    struct dataindex *index;
    /* evaluate */
    struct evaluation_key key;
    struct str evaluation;
};

/* A job as adopted; of the agent's thread, and of the task while one runs. */
struct agent_job {
    char *id;
    char *uri;
    uint64_t generation;
    bool is_eval;
    struct job *job;
    struct dataindex *index;
    struct features_spec *features;
    struct model *model;
    struct dataset *dataset;
    struct steps steps;
    bool is_loaded;
    bool has_failed;
    atomic_bool cancel;
    struct task task;
    struct trainer *trainer;
    struct trainer_rank *ranks; /* that the trainer has */
    uint32_t rank_count;
    bool trainer_is_over;
    uint64_t retry_ms; /* a trainer that found no formation is started again then */
    uint64_t evaluate_retry_ms;
    uint64_t retried_since_ms;
    /* the layout, copied from the orders */
    struct exchange_shard *shards;
    uint32_t shard_count;
};

struct agent {
    const struct daemon_settings *settings;
    void (*poke)(void *context);
    void *context;
    char *cache_directory;
    struct device_list devices;
    char *device_class;
    uint32_t cores;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_stopping, has_ended, is_woken;
    int exit_code;
    Paramd__Control__MemberOrders *arrived; /* not yet seen by the thread */
    struct agent_state state;
    struct trainer *shown_trainer; /* whose status describe() asks; the thread's `job->trainer` */

    /* the thread's */
    Paramd__Control__MemberOrders *orders;
    struct agent_job *job;

    /* the member thread's: what the last describe() pointed to */
    struct agent_state told;
    Paramd__Control__WorkerState worker_state;
    Paramd__Control__Failure failure_message;
    Paramd__Control__TimeShares shares_message;
    Paramd__Control__RankState *rank_messages;
    Paramd__Control__RankState **rank_pointers;
};

/* agent.c */
void agent_wake(void *agent); /* from any thread */
struct evaluation_key agent_evaluation_of(const Paramd__Control__WorkerOrders *w);
bool agent_same_evaluation(const struct evaluation_key *a, const struct evaluation_key *b);

/* agent_state.c */
void agent_state_clear(
    struct agent_state *s); /* forgets the job; keeps nothing but the shares' zero */
void agent_fail(struct agent *a, Paramd__Control__Failure__Kind kind, const char *text);
Paramd__Control__Failure__Kind agent_failure_of(enum err e);

/* agent_job.c */
enum err agent_job_adopt(struct agent *a, const Paramd__Control__MemberOrders *o) MUST_CHECK;
void agent_job_drop(struct agent *a); /* accepts that there is none */
void agent_job_step(struct agent *a, const Paramd__Control__MemberOrders *o);

/* agent_task.c */
void agent_task_start(struct agent *a,
                      enum task_kind kind); /* the caller has filled in what it needs */
void agent_task_join(struct agent_job *j);  /* waits for it; cancel it first */
void agent_task_deinit(struct task *t);

/* A worker that cannot reach a shard says so while the coordinator is still patient: after
   stall_timeout without progress the whole job would fail, though another worker may do better. */
static inline uint32_t agent_give_up_ms(const struct agent *a)
{
    return a->settings->stall_timeout_ms / 2;
}

#endif
