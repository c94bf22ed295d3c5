/*
 * sim_run.h - seeds in processes of their own.
 *
 * There is one world in a process, and a world that breaks may take its process along: a part of
 * the seeds runs in a child, which tells through shared memory how far it is and what it found.
 */
#ifndef TESTS_SIM_SIM_RUN_H
#define TESTS_SIM_SIM_RUN_H

#include "tests/sim/sim.h"

#define PARTS_MAX 16u
#define FOUND_MAX 20u /* a part that has found so many stops */

struct found {
    uint64_t seed;
    char text[512];
};

/* Of one part; in shared memory. */
struct progress {
    uint64_t seed, seeds; /* the present one, and how many were begun */
    uint64_t hash;        /* the same whatever the order of seeds */
    uint32_t found_count;
    struct found found[FOUND_MAX];
    struct counters count;
};

struct part {
    uint64_t first, last, step;
    enum plant plant;
    bool stop_at_first;
    struct progress *progress;
};

struct progress *progress_create(uint32_t count);
void progress_destroy(struct progress *p, uint32_t count);
/* In this process. */
void run_seed(uint64_t seed, bool traced, struct progress *p);
/* In a child; its number, or -1. */
int run_part(const struct part *part);
/* Waits for any child. What ended it before its time is noted as found at its present seed. Returns
 * its number; -1: there is none. */
int run_wait(struct progress *(*of)(void *context, int child), void *context);

/* sim_plants.c */
const char *plant_name(enum plant plant);
bool plant_parse(const char *name, enum plant *out);
void plants_list(void);
/* Each bug over `ranges` disjoint ranges of `bound` seeds; false: one was not found. */
bool plants_run(uint32_t jobs, uint32_t ranges, uint32_t bound);

#endif
