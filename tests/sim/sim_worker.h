/*
 * sim_worker.h - what the files of the simulated worker share.
 */
#ifndef TESTS_SIM_SIM_WORKER_H
#define TESTS_SIM_SIM_WORKER_H

#include "tests/sim/sim_parts.h"
#include "worker/exchange.h"
#include "worker/tally.h"

#define WORKER_SHARDS 8u

enum trainer_phase {
    TRAINER_NONE,
    TRAINER_RESUMES,
    TRAINER_TRAINS,
    TRAINER_COMPUTES, /* an event is under way */
    TRAINER_FINISHES,
    TRAINER_OVER
};
enum trainer_end {
    END_NONE,
    END_FINISHED,
    END_NOT_FORMED,
    END_OVERTAKEN,
    END_RESOURCE,
    END_INPUT,
    END_BUG
};

struct replica {
    uint32_t rank, index;
    uint64_t lease;
    uint64_t read_to;
    struct tally *tally;
    bool is_over;
};

struct trainer {
    enum trainer_phase phase;
    enum trainer_end end;
    char why[256];
    atomic_bool yield;
    struct exchange *exchange;
    struct replica replicas[4];
    uint32_t count;
    uint32_t computing; /* index of the replica */
    uint32_t serial;    /* of this trainer: events of an earlier one pass by */
};

/* Reads of one evaluation: one call a (part, shard). */
struct evaluation_task {
    bool is_open;
    uint64_t step;
    uint32_t first, count, parts;
    uint32_t left; /* answers */
    uint32_t serial;
    float rows[4][EVAL_KEYS * SIM_DIM], bias;
};

struct sim_worker {
    struct process *process;
    Paramd__Control__MemberOrders *orders;
    uint32_t serial; /* of what is adopted: events of before pass by */
    bool stepping;
    /* the job, as adopted; "": none */
    char job[32];
    uint64_t generation;
    int failure; /* Paramd__Control__Failure__Kind */
    char failure_text[256];
    uint32_t rounds;
    bool indexing, index_done, loading, ready;
    struct exchange_shard shards[WORKER_SHARDS];
    char addresses[WORKER_SHARDS][16];
    const char *address_list[WORKER_SHARDS][1];
    struct rpc_channel *channels[WORKER_SHARDS]; /* of evaluations */
    uint32_t shard_count;
    struct trainer trainer;
    uint64_t retry_us, retried_since_us;
    struct evaluation_task task;
    uint64_t evaluate_retry_us;
    bool evaluated;
    uint64_t evaluated_step;
    uint32_t evaluated_first, evaluated_count;
    struct str evaluation;
    /* what the last describe() points to */
    Paramd__Control__WorkerState state;
    Paramd__Control__Failure failure_message;
    Paramd__Control__RankState rank_states[4], *rank_list[4];
};

/* sim_worker.c */
void worker_fail(struct sim_worker *w, int kind, const char *text);
void worker_step_soon(struct sim_worker *w, uint64_t delay_us);

/* sim_trainer.c */
void trainer_start(struct sim_worker *w);
void trainer_stop(struct sim_worker *w);
void trainer_step(struct sim_worker *w); /* as far as it goes without waiting */

/* sim_evaluate.c */
void evaluate_start(struct sim_worker *w);
void evaluate_drop(struct sim_worker *w);

#endif
