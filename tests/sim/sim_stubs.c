#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "tests/sim/sim_parts.h"
#include "tests/sim/sim_threads.h"

enum plant plant_now;

/* ---- the clock: each look takes a while, so that what works by slices of time is cut ---- */

#define LOOK_NS 150000u

uint64_t clock_ns(void)
{
    sim.clock_ns += LOOK_NS;
    return sim.clock_ns;
}

uint64_t clock_ms(void)
{
    return sim.now_us / 1000;
}

uint64_t clock_wall_ms(void)
{
    return sim.now_us / 1000;
}

double clock_seconds_since(uint64_t start_ns)
{
    return (double)(sim.clock_ns - start_ns) * 1e-9;
}

void clock_sleep_ms(uint32_t ms)
{
    (void)ms;
    CHECK(false); /* nothing in an event may sleep */
}

/* ---- the log: part of the trace ---- */

enum err log_open(const char *process, const char *path)
{
    (void)process;
    (void)path;
    return ERR_NONE;
}

void log_set_level(enum log_level level)
{
    (void)level;
}

enum err log_level_parse(const char *name, enum log_level *out)
{
    (void)name;
    *out = LOG_INFO;
    return ERR_NONE;
}

void log_write(enum log_level level, const char *module, const char *format, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    bool fatal = strcmp(module, "check") == 0;
    if (!sim.traced && !fatal)
        return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    sim_trace("%s %s %s", names[level], module, text);
    if (fatal)
        fflush(stdout);
}

/* ---- queues ---- */

struct stub_thread {
    void *(*run)(void *context);
    void *context;
    struct process *process;
    bool is_dead, is_due;
    struct stub_thread *next;
};

struct queue {
    void **items;
    size_t first, count, capacity;
    bool closed;
    struct stub_thread *thread; /* runs when this is closed */
};

atomic_bool *stub_yield;
static struct queue *newest;
static struct stub_thread *threads;

struct queue *queue_create(size_t capacity)
{
    struct queue *q = must_alloc(sizeof *q);
    q->capacity = capacity;
    q->items = must_alloc((capacity + 1) * sizeof *q->items);
    newest = q;
    return q;
}

void queue_destroy(struct queue *q)
{
    if (q == NULL)
        return;
    CHECK(q->count == 0 || q->closed);
    if (newest == q)
        newest = NULL;
    mem_free(q->items);
    mem_free(q);
}

enum err queue_push(struct queue *q, void *item, uint32_t timeout_ms)
{
    (void)timeout_ms;
    if (q->closed)
        return err_set(ERR_CANCELLED, "the queue is closed");
    if (q->count == q->capacity)
        return err_set(ERR_LIMIT, "the queue is full");
    q->items[(q->first + q->count++) % q->capacity] = item;
    return ERR_NONE;
}

/* Nobody waits: whoever would is told so, and comes again. */
enum err queue_pop(struct queue *q, void **item_out, uint32_t timeout_ms)
{
    if (q->count > 0) {
        *item_out = q->items[q->first];
        q->first = (q->first + 1) % q->capacity;
        q->count--;
        return ERR_NONE;
    }
    if (q->closed)
        return ERR_CANCELLED;
    if (timeout_ms > 0 && stub_yield != NULL)
        atomic_store(stub_yield, true);
    return ERR_TIMEOUT;
}

size_t queue_length(struct queue *q)
{
    return q->count;
}

/* ---- threads ---- */

static void thread_run(struct stub_thread *t)
{
    struct stub_thread **at = &threads;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    struct process *here = sim.here;
    bool was_dead = storage_is_dead;
    sim.here = t->process;
    storage_is_dead = was_dead || t->is_dead;
    if (!t->is_dead && sim_fault(20) && sim.plan.crashes) {
        sim.count.torn_snapshots++;
        storage_crash_after((uint32_t)sim_between(1, 30));
    }
    t->run(t->context);
    storage_crash_after(0);
    storage_is_dead = was_dead;
    sim.here = here;
    mem_free(t);
}

static void thread_due(void *context)
{
    thread_run(context);
}

int sim_thread_create(pthread_t *thread, void *(*run)(void *context), void *context)
{
    struct stub_thread *t = must_alloc(sizeof *t);
    (void)thread;
    *t = (struct stub_thread){.run = run, .context = context, .process = sim.here, .next = threads};
    threads = t;
    CHECK(newest != NULL); /* the queue that it is going to read, made just before */
    newest->thread = t;
    return 0;
}

void queue_close(struct queue *q)
{
    if (q->closed)
        return;
    q->closed = true;
    struct stub_thread *t = q->thread;
    if (t == NULL)
        return;
    uint64_t delay_us = sim_between(200, 20 * SIM_MS);
    if (sim_fault(sim.plan.store_slow))
        delay_us = sim_between(100, 4000) * SIM_MS;
    t->is_due = true;
    sim_after(NULL, delay_us, "writer", thread_due, thread_due, t);
}

void stub_threads_crash(struct process *p)
{
    for (struct stub_thread *t = threads; t != NULL; t = t->next)
        t->is_dead |= t->process == p;
}

void stub_threads_end(void)
{
    newest = NULL;
    CHECK(threads == NULL);
}
