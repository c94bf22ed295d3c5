#include "common/storage_pool.h"

#include <pthread.h>
#include <stddef.h>

#include "common/mem.h"

#define PENDING_MAX 256u

struct entry {
    void (*task)(void *context);
    void *context;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_task = PTHREAD_COND_INITIALIZER;
static pthread_cond_t has_room = PTHREAD_COND_INITIALIZER;
static struct entry pending[PENDING_MAX];
static size_t first, count; /* of the pending ones, in a ring */
static size_t thread_count, idle_count;

static void *run(void *nothing)
{
    pthread_setname_np(pthread_self(), "storage");
    pthread_mutex_lock(&lock);
    for (;;) {
        idle_count++;
        while (count == 0)
            pthread_cond_wait(&has_task, &lock);
        idle_count--;
        struct entry e = pending[first];
        first = (first + 1) % PENDING_MAX;
        count--;
        pthread_cond_signal(&has_room);
        pthread_mutex_unlock(&lock);
        e.task(e.context);
        pthread_mutex_lock(&lock);
    }
    return NULL;
}

static void add_thread(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, run, NULL) == 0)
        thread_count++;
    pthread_attr_destroy(&attributes);
}

void storage_pool_run(void (*task)(void *context), void *context)
{
    pthread_mutex_lock(&lock);
    if (idle_count <= count && thread_count < STORAGE_POOL_THREADS)
        add_thread();
    if (thread_count == 0) { /* no thread to be had: slower, but right */
        pthread_mutex_unlock(&lock);
        task(context);
        return;
    }
    while (count == PENDING_MAX)
        pthread_cond_wait(&has_room, &lock);
    pending[(first + count++) % PENDING_MAX] = (struct entry){task, context};
    pthread_cond_signal(&has_task);
    pthread_mutex_unlock(&lock);
}
