#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/sim/sim_parts.h"

/*
 *     sim [--seeds A..B] [--jobs N]     runs the seeds A … B; prints what was violated
 *     sim --seed N [--trace]            one of them, telling everything
 *     sim --plant NAME [--seeds A..B]   with a bug: exit 0 when it is found
 *     sim --plants                      the names of the bugs
 */

static const char *const plant_names[] = {
#define PLANT_NAME(name, text) #name,
    PLANT_LIST(PLANT_NAME)
#undef PLANT_NAME
};

static const char *const plant_texts[] = {
#define PLANT_TEXT(name, text) text,
    PLANT_LIST(PLANT_TEXT)
#undef PLANT_TEXT
};

static const char *const counter_names[] = {
#define COUNTER(name) #name,
    SIM_COUNTERS(COUNTER)
#undef COUNTER
};
#define COUNTER_COUNT (sizeof counter_names / sizeof counter_names[0])
_Static_assert(sizeof(struct counters) == COUNTER_COUNT * sizeof(uint64_t), "one number each");

struct options {
    uint64_t first, last;
    bool one, traced, statistics;
    uint32_t jobs;
};

struct result {
    uint64_t violations, first_violation, hash;
    struct counters count;
};

static void add(struct counters *to, const struct counters *from)
{
    for (size_t i = 0; i < COUNTER_COUNT; i++)
        ((uint64_t *)to)[i] += ((const uint64_t *)from)[i];
}

static void run_seed(uint64_t seed, const struct options *o, struct result *r)
{
    world_begin(seed, o->traced);
    world_run();
    if (!sim.done && sim.violation[0] == '\0')
        sim_violation("nothing happens any more, and the job is not done");
    world_end();
    sim.count.seeds = 1;
    add(&r->count, &sim.count);
    r->hash = r->hash * 31 + sim.hash;
    if (sim.violation[0] != '\0') {
        if (r->violations++ == 0)
            r->first_violation = seed;
        printf("seed %" PRIu64 ": %s\n    replay: build/tests/sim --seed %" PRIu64 " --trace%s%s\n",
               seed, sim.violation, seed, plant_now != 0 ? " --plant " : "",
               plant_now != 0 ? plant_names[plant_now] : "");
        fflush(stdout);
    }
}

static void run_part(const struct options *o, uint32_t part, struct result *r)
{
    for (uint64_t seed = o->first + part; seed <= o->last; seed += o->jobs) {
        run_seed(seed, o, r);
        bool enough = r->violations >= 20 || (plant_now != 0 && r->violations > 0);
        if (enough)
            break;
    }
}

/* The parts run in processes of their own, because there is one world in each. */
static bool run_parts(const struct options *o, struct result *r)
{
    int pipes[16][2];
    bool whole = true;
    for (uint32_t i = 0; i < o->jobs; i++) {
        if (pipe(pipes[i]) != 0)
            return false;
        fflush(stdout);
        pid_t child = fork();
        if (child < 0)
            return false;
        if (child == 0) {
            struct result mine = {0};
            run_part(o, i, &mine);
            bool told = write(pipes[i][1], &mine, sizeof mine) == (ssize_t)sizeof mine;
            _exit(told ? 0 : 1);
        }
        close(pipes[i][1]);
    }
    for (uint32_t i = 0; i < o->jobs; i++) {
        struct result one;
        int status;
        bool got = read(pipes[i][0], &one, sizeof one) == (ssize_t)sizeof one;
        close(pipes[i][0]);
        whole &= got;
        if (!got)
            continue;
        if (one.violations > 0 && (r->violations == 0 || one.first_violation < r->first_violation))
            r->first_violation = one.first_violation;
        r->violations += one.violations;
        r->hash ^= one.hash;
        add(&r->count, &one.count);
        (void)status;
    }
    while (wait(NULL) > 0)
        continue;
    return whole;
}

static void print_counters(const struct counters *c)
{
    for (size_t i = 0; i < COUNTER_COUNT; i++)
        printf("%-22s %12" PRIu64 "%s", counter_names[i], ((const uint64_t *)c)[i],
               i % 3 == 2 || i + 1 == COUNTER_COUNT ? "\n" : "   ");
}

/* Faults that never occur prove nothing. */
static bool all_occur(const struct counters *c)
{
    bool all = true;
    for (size_t i = 0; i < COUNTER_COUNT; i++) {
        if (((const uint64_t *)c)[i] > 0)
            continue;
        printf("never occurred: %s\n", counter_names[i]);
        all = false;
    }
    return all;
}

static bool set_plant(const char *name)
{
    for (size_t i = 0; i < PLANT_COUNT; i++) {
        if (strcmp(plant_names[i], name) != 0)
            continue;
        plant_now = (enum plant)i;
        return true;
    }
    fprintf(stderr, "sim: there is no bug '%s'; see --plants\n", name);
    return false;
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--trace") == 0) {
            o->traced = true;
        } else if (strcmp(a, "--plants") == 0) {
            for (size_t k = 1; k < PLANT_COUNT; k++)
                printf("%s\t%s\n", plant_names[k], plant_texts[k]);
            exit(0);
        } else if (strcmp(a, "--seed") == 0) {
            o->first = o->last = strtoull(argv[++i], NULL, 10);
            o->one = true;
        } else if (strcmp(a, "--seeds") == 0 &&
                   sscanf(value, "%" SCNu64 "..%" SCNu64, &o->first, &o->last) == 2) {
            i++;
        } else if (strcmp(a, "--jobs") == 0 && sscanf(value, "%u", &o->jobs) == 1 && o->jobs > 0 &&
                   o->jobs <= 16) {
            i++;
        } else if (strcmp(a, "--plant") == 0) {
            i++;
            if (!set_plant(value))
                return false;
        } else {
            fprintf(stderr, "usage: sim [--seeds A..B | --seed N] [--trace] [--jobs N] "
                            "[--plant NAME] [--plants]\n");
            return false;
        }
    }
    return o->last >= o->first;
}

int main(int argc, char **argv)
{
    struct options o = {.first = 1, .last = 5000, .jobs = 1};
    struct result r = {0};
    struct timespec begin, end;
    if (!parse(argc, argv, &o))
        return 2;
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* tables are a few rows: no huge pages to clear */
    mem_keep_freed();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    bool whole = true;
    if (o.jobs == 1)
        run_part(&o, 0, &r);
    else
        whole = run_parts(&o, &r);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    if (plant_now != 0) {
        printf("%s: %s%" PRIu64 "\n", plant_names[plant_now],
               r.violations > 0 ? "found at seed " : "not found up to seed ",
               r.violations > 0 ? r.first_violation : o.last);
        return r.violations > 0 ? 0 : 1;
    }
    print_counters(&r.count);
    printf("%" PRIu64 " seeds, %" PRIu64 " violations, %.1f s, %.0f seeds/s, hash %016" PRIx64 "\n",
           r.count.seeds, r.violations, seconds, (double)r.count.seeds / seconds, r.hash);
    bool occurs = o.last - o.first + 1 < 5000 || all_occur(&r.count);
    return whole && occurs && r.violations == 0 ? 0 : 1;
}
