#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/mem.h"
#include "tests/sim/sim_run.h"

static const char usage[] =
    "usage: sim [--seeds A..B] [--jobs N] [--plant NAME] [--counts]   seeds: what is violated\n"
    "       sim --seed N [--trace] [--plant NAME] [--counts]          one of them\n"
    "       sim --plants [--ranges N] [--bound N] [--jobs N]          seeds until a bug is found\n"
    "       sim --list                                                the bugs\n";

static const char *const counter_names[] = {
#define COUNTER(name) #name,
    SIM_COUNTERS(COUNTER)
#undef COUNTER
};
#define COUNTER_COUNT (sizeof counter_names / sizeof counter_names[0])
_Static_assert(sizeof(struct counters) == COUNTER_COUNT * sizeof(uint64_t), "one number each");

#define ALL_OCCUR_FROM 5000u /* seeds, in which every kind of fault must have occurred */

struct options {
    uint64_t first, last;
    bool one, traced, counts, plants, list;
    uint32_t jobs, ranges, bound;
    enum plant plant;
};

/* ---- reports ---- */

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

static void print_found(const struct progress *p)
{
    for (uint32_t i = 0; i < p->found_count; i++)
        printf("seed %" PRIu64 ": %s\n    replay: build/tests/sim --seed %" PRIu64 " --trace%s%s\n",
               p->found[i].seed, p->found[i].text, p->found[i].seed,
               plant_now != PLANT_none ? " --plant " : "",
               plant_now != PLANT_none ? plant_name(plant_now) : "");
}

static double seconds_since(const struct timespec *begin)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin->tv_sec) + 1e-9 * (double)(end.tv_nsec - begin->tv_nsec);
}

/* ---- runs ---- */

static int run_one(const struct options *o)
{
    static struct progress p;
    plant_now = o->plant;
    run_seed(o->first, o->traced, &p);
    print_found(&p);
    if (o->counts)
        print_counters(&p.count);
    printf("seed %" PRIu64 ": hash %016" PRIx64 "\n", o->first, p.hash);
    return p.found_count == 0 ? 0 : 1;
}

struct parts {
    struct progress *progress;
    int children[PARTS_MAX];
    uint32_t count;
};

static struct progress *progress_of(void *context, int child)
{
    const struct parts *p = context;
    for (uint32_t i = 0; i < p->count; i++)
        if (p->children[i] == child)
            return &p->progress[i];
    return NULL;
}

static int run_seeds(const struct options *o)
{
    struct timespec begin;
    struct parts parts = {.progress = progress_create(o->jobs), .count = o->jobs};
    struct counters sum = {0};
    uint64_t hash = 0;
    uint32_t found = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint32_t i = 0; i < o->jobs; i++) {
        struct part part = {o->first + i, o->last,       o->jobs,
                            o->plant,     o->plant != 0, &parts.progress[i]};
        parts.children[i] = run_part(&part);
    }
    while (run_wait(progress_of, &parts) > 0)
        continue;
    plant_now = o->plant;
    for (uint32_t i = 0; i < o->jobs; i++) {
        struct progress *p = &parts.progress[i];
        print_found(p);
        found += p->found_count;
        hash += p->hash;
        for (size_t k = 0; k < COUNTER_COUNT; k++)
            ((uint64_t *)&sum)[k] += ((const uint64_t *)&p->count)[k];
    }
    double seconds = seconds_since(&begin);
    if (o->counts)
        print_counters(&sum);
    bool whole = o->plant != 0 || o->last - o->first + 1 < ALL_OCCUR_FROM || all_occur(&sum);
    printf("%" PRIu64 " seeds, %u violations, %.1f s, %.0f seeds/s, hash %016" PRIx64 "\n",
           sum.seeds, found, seconds, (double)sum.seeds / seconds, hash);
    progress_destroy(parts.progress, o->jobs);
    return whole && found == 0 ? 0 : 1;
}

/* ---- the command ---- */

static bool take_number(const char *text, uint32_t most, uint32_t *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    *out = (uint32_t)value;
    return *text != '\0' && *end == '\0' && value > 0 && value <= most;
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        bool *flag = strcmp(a, "--trace") == 0    ? &o->traced
                     : strcmp(a, "--counts") == 0 ? &o->counts
                     : strcmp(a, "--plants") == 0 ? &o->plants
                     : strcmp(a, "--list") == 0   ? &o->list
                                                  : NULL;
        if (flag != NULL) {
            *flag = true;
            continue;
        }
        bool taken = false;
        if (strcmp(a, "--seed") == 0)
            taken = o->one = sscanf(value, "%" SCNu64, &o->first) == 1;
        else if (strcmp(a, "--seeds") == 0)
            taken = sscanf(value, "%" SCNu64 "..%" SCNu64, &o->first, &o->last) == 2;
        else if (strcmp(a, "--jobs") == 0)
            taken = take_number(value, PARTS_MAX, &o->jobs);
        else if (strcmp(a, "--ranges") == 0)
            taken = take_number(value, 9, &o->ranges);
        else if (strcmp(a, "--bound") == 0)
            taken = take_number(value, 1000000, &o->bound);
        else if (strcmp(a, "--plant") == 0)
            taken = plant_parse(value, &o->plant);
        if (!taken)
            return false;
        i++;
    }
    return o->one || o->last >= o->first;
}

int main(int argc, char **argv)
{
    struct options o = {.first = 1, .last = 5000, .jobs = 1, .ranges = 5, .bound = 2000};
    if (!parse(argc, argv, &o)) {
        fputs(usage, stderr);
        return 2;
    }
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* tables are a few rows: no huge pages to clear */
    mem_keep_freed();
    if (o.list) {
        plants_list();
        return 0;
    }
    if (o.plants)
        return plants_run(o.jobs, o.ranges, o.bound) ? 0 : 1;
    return o.one ? run_one(&o) : run_seeds(&o);
}
