/*
 * sim.h - the simulated world: what its files share.
 *
 *     sim_main.c        the command
 *     sim_run.c         seeds in processes of their own (sim_run.h)
 *     sim_plants.c      planted bugs, and how many seeds it takes to find them
 *     sim_world.c       time, the queue of events, the generator, the trace
 *     sim_plan.c        what a seed means: the job, the cluster, the faults
 *     sim_process.c     processes: start, crash, pause
 *     sim_rpc.c         common/rpc.h over a network that loses, doubles and delays
 *     sim_registry.c    sessions, members, the election, records
 *     sim_storage.c     common/storage.h in memory, with failures
 *     sim_leader.c      the coordinator's host
 *     sim_member.c      reports and orders, as common/member.c
 *     sim_server.c      a server: the real service and board
 *     sim_owner.c       server/owner.h without threads: the real holdings, shards and snapshots
 *     sim_worker.c      a worker's agent, as worker/agent.c
 *     sim_trainer.c     its trainer, over the real exchange and sessions
 *     sim_evaluate.c    its evaluations
 *     sim_user.c        paramctl: submits, stops, asks for checkpoints, watches
 *     sim_faults.c      crashes, pauses, partitions, outages
 *     sim_reference.c   what the model must be in the end
 *     sim_oracle.c      what must hold on the way
 *     sim_stubs.c       clock, log, queue
 *
 * One world at a time; everything in it is a function of the seed. Production code runs inside
 * events; while one runs, sim.here is the process that it belongs to.
 *
 * Units    microseconds of virtual time.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/plant.h"

#define SIM_MS      UINT64_C(1000)
#define SIM_S       UINT64_C(1000000)
#define SIM_PROCESS 12u /* of a world, at most */
#define SIM_KEYS    20u
#define SIM_DIM     4u /* floats of a row: w[1], v[3] */

struct process;

/* ---- what a seed means ---- */

struct plan {
    uint32_t servers, workers; /* of the job */
    uint32_t spare_servers, spare_workers;
    uint32_t ranks, depth, shards;
    uint32_t consistency; /* enum consistency */
    uint32_t epochs, steps_per_epoch, batch_size, drain_every, checkpoint_every, keep;
    uint32_t train_examples, eval_examples;
    uint32_t eval_every; /* steps; 0: every epoch */
    bool early_stopping, progressive;
    uint32_t optimizer; /* 0 sgd, 1 adagrad, 2 ftrl */
    uint64_t salt;      /* of gradients and batches */
    char yaml[1024];
    /* faults, in 1/1000 of messages or operations while they last */
    uint32_t loss, doubled, slow, reset, store_fails, registry_fails;
    uint32_t store_slow, mangled; /* mangled: of doubled pushes, the copy */
    uint32_t held_budget;         /* bytes that a shard has beside its parameters; 0: enough */
    uint32_t bad_rank;
    uint64_t bad_step; /* a record that does not parse is in this batch; 0: all do */
    bool crashes, pauses, partitions, damage, outages, drains;
    uint32_t stops, checkpoints_now; /* how many the user asks for */
    uint64_t heal_us;                /* no faults from here on */
    uint64_t bound_us;               /* DONE by then */
    uint32_t peer_timeout_ms, stall_timeout_ms, session_timeout_ms, call_timeout_ms;
    uint32_t replace_wait_ms;
};
void plan_make(uint64_t seed, struct plan *out);

/* ---- statistics: every kind must occur ---- */

#define SIM_COUNTERS(X)                                                                            \
    X(seeds)                                                                                       \
    X(events)                                                                                      \
    X(steps) X(messages) X(lost) X(doubled) X(resets) X(late) X(deadlines) X(crashes) X(restarts)  \
        X(pauses) X(zombies) X(partitions) X(registry_outages) X(registry_lost_replies)            \
            X(expired_sessions) X(elections) X(deposed) X(fenced) X(stale_reads) X(blind)          \
                X(mangled) X(busy) X(held_back) X(bad_records) X(store_failures) X(store_outages)  \
                    X(store_lost_replies) X(damaged) X(damaged_refused) X(snapshots)               \
                        X(torn_snapshots) X(published) X(retained) X(removed) X(records)           \
                            X(restores) X(recoveries) X(moved_ranks) X(resumed_ranks) X(replaced)  \
                                X(not_formed) X(duplicates) X(evaluations) X(stopped_early)        \
                                    X(stops) X(checkpoints_now) X(drains) X(takeovers)             \
                                        X(whole_cluster)

struct counters {
#define COUNTER(name) uint64_t name;
    SIM_COUNTERS(COUNTER)
#undef COUNTER
};

/* ---- the world ---- */

struct event {
    uint64_t at_us, order;
    const char *what;
    struct process *process; /* NULL: the world's own */
    uint32_t life;           /* of the process; one that crashed since does not see it */
    void (*run)(void *context);
    void (*drop)(void *context); /* instead of run(); may be NULL */
    void *context;
};

struct world {
    uint64_t seed;
    struct plan plan;
    uint64_t now_us, clock_ns, random, order, hash;
    struct event *heap;
    size_t heap_count, heap_capacity;
    struct process *here;
    struct process *processes;
    uint32_t process_count;
    struct counters count;
    bool traced, over, healed;
    bool index_stored;   /* worker 0 has; who begins later finds it in its first round */
    char violation[512]; /* "": none */
    bool done;           /* the job is DONE, and its model was right */
};
extern struct world sim;

void world_begin(uint64_t seed, bool traced);
void world_run(void);
void world_end(void);

/* Runs in `delay_us` from now, unless the process has crashed by then; one that is paused sees it
 * when it goes on. */
void sim_after(struct process *p, uint64_t delay_us, const char *what, void (*run)(void *context),
               void (*drop)(void *context), void *context);
uint64_t sim_random(void);
uint64_t sim_below(uint64_t bound);
/* A number between both ends. */
uint64_t sim_between(uint64_t low, uint64_t high);
bool sim_chance(uint32_t per_mille);
/* The same, while faults last. */
bool sim_fault(uint32_t per_mille);
void sim_note(uint64_t value); /* into the hash */
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (sim.traced)                                                                            \
            sim_trace(__VA_ARGS__);                                                                \
    } while (0)
/* The promises are broken: the first text stays, and the world ends. */
void sim_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
