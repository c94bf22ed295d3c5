#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/sim/sim_parts.h"

#define EVENTS_MAX 100000u /* a seed has a few thousand */

struct world sim;

/* ---- the generator ---- */

uint64_t sim_random(void)
{
    return rng_at(sim.seed, sim.random++);
}

uint64_t sim_below(uint64_t bound)
{
    return bound > 0 ? rng_below(sim_random(), bound) : 0;
}

uint64_t sim_between(uint64_t low, uint64_t high)
{
    return low + sim_below(high - low + 1);
}

bool sim_chance(uint32_t per_mille)
{
    return per_mille > 0 && sim_below(1000) < per_mille;
}

bool sim_fault(uint32_t per_mille)
{
    return !sim.healed && sim_chance(per_mille);
}

void sim_note(uint64_t value)
{
    sim.hash = mix64(sim.hash + 0x9e3779b97f4a7c15ull) ^ mix64(value);
}

/* ---- telling ---- */

static void print_head(void)
{
    printf("%10.3f %-10s ", (double)sim.now_us / 1000.0,
           sim.here != NULL ? process_name(sim.here) : "");
}

void sim_trace(const char *format, ...)
{
    va_list arguments;
    print_head();
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

void sim_violation(const char *format, ...)
{
    if (sim.violation[0] != '\0')
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sim.violation, sizeof sim.violation, format, arguments);
    va_end(arguments);
    sim.over = true;
    TRACE("VIOLATION %s", sim.violation);
}

/* ---- the queue of events: a binary heap by (time, order) ---- */

static bool sooner(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void heap_push(struct event e)
{
    if (sim.heap_count == sim.heap_capacity) {
        sim.heap_capacity = sim.heap_capacity * 2 + 256;
        sim.heap = must_realloc(sim.heap, sim.heap_capacity, sizeof *sim.heap);
    }
    size_t i = sim.heap_count++;
    while (i > 0 && sooner(&e, &sim.heap[(i - 1) / 2])) {
        sim.heap[i] = sim.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    sim.heap[i] = e;
}

static struct event heap_pop(void)
{
    struct event first = sim.heap[0], last = sim.heap[--sim.heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= sim.heap_count)
            break;
        if (child + 1 < sim.heap_count && sooner(&sim.heap[child + 1], &sim.heap[child]))
            child++;
        if (!sooner(&sim.heap[child], &last))
            break;
        sim.heap[i] = sim.heap[child];
        i = child;
    }
    sim.heap[i] = last;
    return first;
}

void sim_after(struct process *p, uint64_t delay_us, const char *what, void (*run)(void *context),
               void (*drop)(void *context), void *context)
{
    heap_push((struct event){.at_us = sim.now_us + delay_us,
                             .order = sim.order++,
                             .what = what,
                             .process = p,
                             .life = p != NULL ? process_life(p) : 0,
                             .run = run,
                             .drop = drop,
                             .context = context});
}

static void drop(const struct event *e)
{
    if (e->drop != NULL)
        e->drop(e->context);
}

static void run_event(const struct event *e)
{
    if (e->process != NULL && process_life(e->process) != e->life) {
        drop(e);
        return;
    }
    uint64_t thaw_us = e->process != NULL ? process_frozen_until(e->process) : 0;
    if (thaw_us > sim.now_us) {
        struct event later = *e;
        later.at_us = thaw_us; /* in the old order, before what comes after */
        heap_push(later);
        return;
    }
    sim.count.events++;
    sim_note(e->at_us);
    sim_note((uint64_t)e->what[0] << 8 | (uint64_t)e->what[1]);
    if (e->process != NULL)
        sim_note(process_number(e->process));
    sim.here = e->process;
    e->run(e->context);
    sim.here = NULL;
}

void world_begin(uint64_t seed, bool traced)
{
    struct event *heap = sim.heap;
    size_t capacity = sim.heap_capacity;
    sim = (struct world){.seed = mix64(seed + 1), .heap = heap, .heap_capacity = capacity};
    sim.traced = traced;
    sim.now_us = 10 * SIM_S;
    sim.clock_ns = sim.now_us * 1000;
    plan_make(seed, &sim.plan);
    sim.plan.heal_us += sim.now_us;
    sim.plan.bound_us += sim.now_us;
    reference_make();
    storage_begin();
    registry_begin();
    oracle_begin();
    processes_begin();
    user_begin();
    faults_begin();
}

void world_run(void)
{
    while (!sim.over && sim.heap_count > 0) {
        struct event e = heap_pop();
        sim.now_us = e.at_us;
        if (sim.clock_ns < sim.now_us * 1000)
            sim.clock_ns = sim.now_us * 1000;
        sim.healed = sim.now_us >= sim.plan.heal_us;
        if (sim.now_us > sim.plan.bound_us) {
            user_describe_hang();
            drop(&e);
            break;
        }
        if (sim.count.events == EVENTS_MAX)
            sim_violation("it goes round in circles: %u events", EVENTS_MAX);
        run_event(&e);
    }
}

void world_end(void)
{
    processes_end();
    while (sim.heap_count > 0) {
        struct event e = heap_pop();
        drop(&e);
    }
    rpc_end();
    user_end();
    oracle_end();
    registry_end();
    storage_end();
    reference_end();
}
