/*
 * sim_threads.h - forced into the files of server/ that start a thread of their own: in the
 * simulator it runs to its end in one event, after its queue has been closed.
 */
#ifndef TESTS_SIM_SIM_THREADS_H
#define TESTS_SIM_SIM_THREADS_H

#include <errno.h>
#include <pthread.h>

int sim_thread_create(pthread_t *thread, void *(*run)(void *context), void *context);

static inline int sim_thread_gone(pthread_t thread)
{
    (void)thread;
    return 0;
}

#define pthread_create(thread, attributes, run, context) sim_thread_create(thread, run, context)
#define pthread_join(thread, result)                     sim_thread_gone(thread)
#define pthread_detach(thread)                           sim_thread_gone(thread)
#define pthread_cond_timedwait(condition, lock, until)   ((void)(until), ETIMEDOUT)

#endif
