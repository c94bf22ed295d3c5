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

/* Turns until the job is in this state ("": any job that was submitted last); for done_with(). */
Paramd__Control__StatusReply *status_of(struct model *m, const char *job, const char *state);
void done_with(Paramd__Control__StatusReply *s);

void assert_contains(const char *text, const char *part);

#endif
