#include "common/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/err.h"
#include "common/mem.h"

/*
 * A run is published by writing its fields, then `claim` (generation, next piece), then `ticket`,
 * on which idle threads wait. A piece is taken by compare-and-swap of the whole of `claim`: when
 * that succeeds the generation is the one whose fields were read before, and they cannot change
 * while one of its pieces is unfinished. So a thread that wakes late does no harm and nobody waits
 * for it.
 */
struct pool {
    _Atomic uint64_t claim;  /* generation << 32 | index of the next piece */
    _Atomic uint32_t ticket; /* futex: grows with each run */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t unfinished __attribute__((aligned(64))); /* futex: pieces of this run */
    _Atomic uint32_t caller_sleeps;
    _Atomic uint32_t count;
    void (*_Atomic piece)(void *context, uint32_t piece_index, uint32_t thread_index);
    void *_Atomic context;
    _Atomic bool stop;
    uint32_t spin_ns;
    uint32_t thread_count;
    uint32_t started;
    struct pool_thread {
        struct pool *pool;
        pthread_t thread;
        uint32_t index;
    } threads[];
};

/* Long enough for the gap between two layers of a model, too short to matter when idle. */
#define SPIN_NS 20000

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/* Spins until *word is not `value`, for a bounded time; false: it still is. */
static bool spin_while(const struct pool *p, _Atomic uint32_t *word, uint32_t value)
{
    if (atomic_load(word) != value)
        return true;
    if (p->spin_ns == 0)
        return false;
    uint64_t start = clock_ns();
    do {
        for (int i = 0; i < 16; i++) {
            if (atomic_load(word) != value)
                return true;
            relax();
        }
    } while (clock_ns() - start < p->spin_ns);
    return false;
}

static void take_pieces(struct pool *p, uint32_t thread_index)
{
    uint64_t claim = atomic_load(&p->claim);
    for (;;) {
        uint32_t index = (uint32_t)claim;
        if (index >= atomic_load(&p->count))
            return;
        void (*piece)(void *, uint32_t, uint32_t) = atomic_load(&p->piece);
        void *context = atomic_load(&p->context);
        if (!atomic_compare_exchange_weak(&p->claim, &claim, claim + 1))
            continue;
        piece(context, index, thread_index);
        if (atomic_fetch_sub(&p->unfinished, 1) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->unfinished, 1);
        claim = atomic_load(&p->claim);
    }
}

static void *thread_main(void *argument)
{
    struct pool_thread *t = argument;
    struct pool *p = t->pool;
    char name[16];
    snprintf(name, sizeof name, "pool-%u", t->index);
    pthread_setname_np(pthread_self(), name);
    while (!atomic_load(&p->stop)) {
        /* Read before looking for work: a run that is published after this look changes it. */
        uint32_t seen = atomic_load(&p->ticket);
        take_pieces(p, t->index);
        if (atomic_load(&p->stop) || spin_while(p, &p->ticket, seen))
            continue;
        atomic_fetch_add(&p->sleepers, 1);
        futex_wait(&p->ticket, seen);
        atomic_fetch_sub(&p->sleepers, 1);
    }
    return NULL;
}

struct pool *pool_create(uint32_t thread_count)
{
    CHECK(thread_count > 0);
    size_t size = sizeof(struct pool) + (thread_count - 1) * sizeof(struct pool_thread);
    struct pool *p = mem_alloc_array(size, 1);
    if (p == NULL)
        return NULL;
    *p = (struct pool){.thread_count = thread_count};
    /* A thread that spins on a processor that another one needs only makes it later. */
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && (uint32_t)CPU_COUNT(&cpus) >= thread_count)
        p->spin_ns = SPIN_NS;

    /* Signals are for the threads that expect them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    for (uint32_t i = 0; i + 1 < thread_count && failure == 0; i++) {
        struct pool_thread *t = &p->threads[i];
        t->pool = p;
        t->index = i + 1;
        failure = pthread_create(&t->thread, NULL, thread_main, t);
        p->started += failure == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0) {
        err_set_errno(ERR_LIMIT, failure, "cannot start thread %u of %u", p->started + 1,
                      thread_count);
        pool_destroy(p);
        return NULL;
    }
    return p;
}

void pool_destroy(struct pool *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->ticket, 1);
    futex_wake(&p->ticket, INT32_MAX);
    for (uint32_t i = 0; i < p->started; i++)
        pthread_join(p->threads[i].thread, NULL);
    mem_free(p);
}

uint32_t pool_thread_count(const struct pool *p)
{
    return p != NULL ? p->thread_count : 1;
}

void pool_run(struct pool *p, uint32_t count,
              void (*piece)(void *context, uint32_t piece_index, uint32_t thread_index),
              void *context)
{
    if (p == NULL || p->thread_count == 1 || count <= 1) {
        for (uint32_t i = 0; i < count; i++)
            piece(context, i, 0);
        return;
    }
    CHECK(atomic_load(&p->unfinished) == 0);
    /* Between two runs nothing is left to claim, whatever count is, until `claim` is set. */
    uint64_t generation = atomic_load(&p->claim) >> 32;
    atomic_store(&p->claim, generation << 32 | UINT32_MAX);
    atomic_store(&p->piece, piece);
    atomic_store(&p->context, context);
    atomic_store(&p->count, count);
    atomic_store(&p->unfinished, count);
    atomic_store(&p->claim, (generation + 1) << 32);
    atomic_fetch_add(&p->ticket, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake(&p->ticket, count - 1);

    take_pieces(p, 0);
    uint32_t left;
    while ((left = atomic_load(&p->unfinished)) > 0) {
        if (spin_while(p, &p->unfinished, left))
            continue;
        atomic_store(&p->caller_sleeps, 1);
        futex_wait(&p->unfinished, left);
        atomic_store(&p->caller_sleeps, 0);
    }
}
