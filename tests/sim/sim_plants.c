#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "tests/sim/sim_run.h"

/*
 * Planted bugs: each is looked for in several disjoint ranges of seeds, and the number of seeds
 * that it took says how good the simulator is at finding its like.
 */

#define RANGES_MAX 9u
#define RANGE_GAP  UINT64_C(1000000) /* between the first seeds of ranges */

static const struct {
    const char *name, *rule, *text;
} rows[] = {
#define PLANT_ROW(name, rule, text) {#name, rule, text},
    PLANT_LIST(PLANT_ROW)
#undef PLANT_ROW
};

const char *plant_name(enum plant plant)
{
    return rows[plant].name;
}

bool plant_parse(const char *name, enum plant *out)
{
    for (size_t i = 0; i < PLANT_COUNT; i++) {
        if (strcmp(rows[i].name, name) != 0)
            continue;
        *out = (enum plant)i;
        return true;
    }
    return false;
}

void plants_list(void)
{
    for (size_t i = 1; i < PLANT_COUNT; i++)
        printf("%-24s %-5s %s\n", rows[i].name, rows[i].rule, rows[i].text);
}

struct hunt { /* one bug in one range */
    enum plant plant;
    uint32_t range;
    enum { HUNT_WAITS, HUNT_OPEN, HUNT_OVER } state;
    int child;
    struct progress *progress;
};

struct hunts {
    struct hunt *list; /* by bug, then by range */
    uint32_t count, ranges;
    uint32_t reported, missed;
};

static struct progress *progress_of(void *context, int child)
{
    const struct hunts *h = context;
    for (uint32_t i = 0; i < h->count; i++) {
        if (h->list[i].state != HUNT_OPEN || h->list[i].child != child)
            continue;
        h->list[i].state = HUNT_OVER;
        return h->list[i].progress;
    }
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* A line of the table; false: not found in one of the ranges. */
static bool report(const struct hunt *h, uint32_t ranges)
{
    uint64_t seeds[RANGES_MAX];
    bool found = true;
    for (uint32_t i = 0; i < ranges; i++) {
        seeds[i] = h[i].progress->seeds;
        found &= h[i].progress->found_count > 0;
    }
    qsort(seeds, ranges, sizeof seeds[0], ascending);
    printf("%-24s %6" PRIu64 "  of", rows[h->plant].name, seeds[ranges / 2]);
    for (uint32_t i = 0; i < ranges; i++)
        printf(" %" PRIu64 "%s", seeds[i], h[i].progress->found_count > 0 || found ? "" : "?");
    const struct progress *p = h[0].progress;
    if (found)
        printf("; seed %" PRIu64 ": %.70s\n", p->found[0].seed, p->found[0].text);
    else
        printf("; NOT FOUND in each range\n");
    return found;
}

/* Reports the bugs whose ranges have all ended, in order. */
static void report_ended(struct hunts *h)
{
    while (h->reported < h->count) {
        const struct hunt *first = &h->list[h->reported];
        for (uint32_t i = 0; i < h->ranges; i++)
            if (first[i].state != HUNT_OVER)
                return;
        h->missed += !report(first, h->ranges);
        fflush(stdout);
        h->reported += h->ranges;
    }
}

static void run_all(struct hunts *h, uint32_t jobs, uint32_t bound)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < h->count; i++) {
        struct hunt *one = &h->list[i];
        uint64_t first = 1 + one->range * RANGE_GAP;
        struct part part = {first, first + bound - 1, 1, one->plant, true, one->progress};
        if (open == jobs && run_wait(progress_of, h) > 0)
            open--;
        report_ended(h);
        one->child = run_part(&part);
        CHECK(one->child > 0);
        one->state = HUNT_OPEN;
        open++;
    }
    while (run_wait(progress_of, h) > 0)
        report_ended(h);
}

bool plants_run(uint32_t jobs, uint32_t ranges, uint32_t bound)
{
    uint32_t plants = PLANT_COUNT - 1;
    ranges = ranges < RANGES_MAX ? ranges : RANGES_MAX;
    struct hunts h = {.count = plants * ranges, .ranges = ranges};
    struct progress *progress = progress_create(h.count);
    h.list = must_alloc(h.count * sizeof *h.list);
    for (uint32_t i = 0; i < h.count; i++)
        h.list[i] = (struct hunt){
            .plant = (enum plant)(1 + i / ranges), .range = i % ranges, .progress = &progress[i]};
    printf("%-24s median number of seeds until it is found, of %u ranges\n", "bug", ranges);
    run_all(&h, jobs, bound);
    printf("%u planted bugs, %u not found within %u seeds\n", plants, h.missed, bound);
    mem_free(h.list);
    progress_destroy(progress, h.count);
    return h.missed == 0;
}
