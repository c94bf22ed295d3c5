/*
 * storage_pool.h - threads that wait for remote stores: uploads of parts, read-ahead.
 *
 * They are started when they are first needed, at most STORAGE_POOL_THREADS, and stay. A task must
 * not wait for another task, nor submit one, so that the pool always moves.
 *
 * Threads  any.
 */
#ifndef PARAMD_COMMON_STORAGE_POOL_H
#define PARAMD_COMMON_STORAGE_POOL_H

#define STORAGE_POOL_THREADS 16u

/* Runs task(context) soon on one of the threads; waits while very many are pending. */
void storage_pool_run(void (*task)(void *context), void *context);

#endif
