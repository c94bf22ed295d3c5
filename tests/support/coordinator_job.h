/*
 * coordinator_job.h - the job that tests of the coordinator run in the modelled world
 * (cluster_model.h), and how they look at it. What is not as expected fails the running test.
 * Threads: one.
 */
#ifndef PARAMD_TESTS_SUPPORT_COORDINATOR_JOB_H
#define PARAMD_TESTS_SUPPORT_COORDINATOR_JOB_H

#include "tests/support/cluster_model.h"

/* Turns of the world after which a job that waits for something will never get it. */
#define TURNS 400

/* 10 steps an epoch (1000 examples), 40 in all; drain points every 5. */
#define JOB(name, more)                                                                            \
    "name: " name "\n"                                                                             \
    "data: {format: csv, train: a.csv, eval: b.csv, label: y}\n"                                   \
    "features: {a: categorical}\n"                                                                 \
    "model: {type: lr}\n"                                                                          \
    "train: {batch_size: 100, epochs: 4, ranks: 4, drain_every: 5}\n"                              \
    "checkpoint: {uri: \"file:runs\", every_steps: 15, keep: 3}\n"                                 \
    "resources: {servers: 2, workers: 2, shards: 2}\n" more

/* Of the turns at which something happens; the simulator goes on where this leaves gaps. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define STRIDE 7
#else
#define STRIDE 3
#endif

/* 10 steps an epoch, 60 in all. */
#define LONG_JOB                                                                                   \
    "name: job\n"                                                                                  \
    "data: {format: csv, train: a.csv, eval: b.csv, label: y}\n"                                   \
    "features: {a: {}}\n"                                                                          \
    "model: {type: lr}\n"                                                                          \
    "optimizer: {linear: {learning_rate: 0.1}}\n"                                                  \
    "train: {batch_size: 100, epochs: 6, ranks: 4}\n"                                              \
    "resources: {servers: 2, workers: 2}\n"                                                        \
    "checkpoint: {uri: runs, every_steps: 10}\n"                                                   \
    "eval: {metrics: [log_loss]}\n" /* an AUC's histogram takes long to make */

/* Turns until the job is in this state ("": any job that was submitted last); for done_with(). */
Paramd__Control__StatusReply *status_of(struct model *m, const char *job, const char *state);
void done_with(Paramd__Control__StatusReply *s);

void stop_job(struct model *m, const char *job, bool checkpoint, bool kill);
/* What whoever submitted it is told; to be freed. */
char *refusal_of(struct model *m, const char *job);

void assert_contains(const char *text, const char *part);

/* The long job on so many members, some steps along; and to its end, as these numbers say. */
void begin_long(struct model *m, uint32_t servers, uint32_t workers);
void finish_long(struct model *m, uint64_t generation, uint32_t recoveries);

struct model_member *member(struct model *m, const char *id);
size_t ranks_of(const struct model_member *p);
/* The lease that the servers know is the lease that the host was given; each rank has one host. */
void check_leases(struct model *m);
uint64_t lease_of(struct model *m, uint32_t rank);

#endif
