/*
 * pool.h - a fixed set of threads that run the pieces of one loop.
 *
 * pool_run() hands out piece numbers 0 … count-1 to the pool's threads and the caller and returns
 * when all are done. Which thread runs which piece is not fixed, so a piece must not add to what
 * another piece adds to: split work into pieces by a rule that knows nothing of threads, and
 * results have the same bits for every thread count.
 *
 * Threads  pool_run() from one thread at a time.
 */
#ifndef PARAMD_COMMON_POOL_H
#define PARAMD_COMMON_POOL_H

#include <stdint.h>

struct pool;

/* `thread_count` in all, the calling one included: 1 starts none. */
struct pool *pool_create(uint32_t thread_count);
void pool_destroy(struct pool *p); /* accepts NULL */
uint32_t pool_thread_count(const struct pool *p);
/*
 * thread_index is below pool_thread_count(), for scratch memory. A NULL pool runs everything here.
 */
void pool_run(struct pool *p, uint32_t count,
              void (*piece)(void *context, uint32_t piece_index, uint32_t thread_index),
              void *context);

#endif
