#include "common/queue.h"

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "common/check.h"
#include "common/mem.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    size_t pop_waiters;
    size_t push_waiters;
    size_t capacity;
    size_t first;
    size_t length;
    bool closed;
    void *items[];
};

struct queue *queue_create(size_t capacity)
{
    CHECK(capacity > 0 && capacity < SIZE_MAX / sizeof(void *) / 2);
    struct queue *q = must_alloc(sizeof *q + capacity * sizeof q->items[0]);
    pthread_condattr_t monotonic;
    CHECK(pthread_condattr_init(&monotonic) == 0);
    CHECK(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_mutex_init(&q->lock, NULL) == 0);
    CHECK(pthread_cond_init(&q->not_empty, &monotonic) == 0);
    CHECK(pthread_cond_init(&q->not_full, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
    q->capacity = capacity;
    return q;
}

void queue_destroy(struct queue *q)
{
    if (q == NULL)
        return;
    CHECK(q->length == 0 || q->closed);
    pthread_cond_destroy(&q->not_full);
    pthread_cond_destroy(&q->not_empty);
    pthread_mutex_destroy(&q->lock);
    mem_free(q);
}

static struct timespec deadline_after(uint32_t timeout_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += timeout_ms / 1000;
    at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

/* Waits once on `condition`; false: the deadline has passed. */
static bool wait_on(struct queue *q, pthread_cond_t *condition, const struct timespec *deadline)
{
    if (deadline == NULL)
        return pthread_cond_wait(condition, &q->lock) == 0;
    return pthread_cond_timedwait(condition, &q->lock, deadline) == 0;
}

enum err queue_push(struct queue *q, void *item, uint32_t timeout_ms)
{
    bool waiting = timeout_ms > 0;
    struct timespec deadline;
    pthread_mutex_lock(&q->lock);
    if (q->length == q->capacity && !q->closed && waiting) {
        if (timeout_ms != QUEUE_FOREVER)
            deadline = deadline_after(timeout_ms);
        q->push_waiters++;
        while (q->length == q->capacity && !q->closed && waiting)
            waiting = wait_on(q, &q->not_full, timeout_ms == QUEUE_FOREVER ? NULL : &deadline);
        q->push_waiters--;
    }
    enum err result = ERR_NONE;
    if (q->closed)
        result = ERR_CANCELLED;
    else if (q->length == q->capacity)
        result = ERR_LIMIT;
    if (result == ERR_NONE) {
        size_t last = q->first + q->length++;
        q->items[last < q->capacity ? last : last - q->capacity] = item;
        if (q->pop_waiters > 0)
            pthread_cond_signal(&q->not_empty);
    }
    pthread_mutex_unlock(&q->lock);
    if (result == ERR_CANCELLED)
        return err_set(result, "the queue is closed");
    if (result == ERR_LIMIT)
        return err_set(result, "the queue has been full of %zu items for %u ms", q->capacity,
                       timeout_ms);
    return ERR_NONE;
}

enum err queue_pop(struct queue *q, void **item_out, uint32_t timeout_ms)
{
    bool waiting = timeout_ms > 0;
    struct timespec deadline;
    pthread_mutex_lock(&q->lock);
    if (q->length == 0 && !q->closed && waiting) {
        if (timeout_ms != QUEUE_FOREVER)
            deadline = deadline_after(timeout_ms);
        q->pop_waiters++;
        while (q->length == 0 && !q->closed && waiting)
            waiting = wait_on(q, &q->not_empty, timeout_ms == QUEUE_FOREVER ? NULL : &deadline);
        q->pop_waiters--;
    }
    enum err result = ERR_NONE;
    if (q->length > 0) {
        *item_out = q->items[q->first];
        q->first = q->first + 1 < q->capacity ? q->first + 1 : 0;
        q->length--;
        if (q->push_waiters > 0)
            pthread_cond_signal(&q->not_full);
    } else {
        result = q->closed ? ERR_CANCELLED : ERR_TIMEOUT;
    }
    pthread_mutex_unlock(&q->lock);
    if (result == ERR_CANCELLED)
        return err_set(result, "the queue is closed");
    if (result == ERR_TIMEOUT)
        return err_set(result, "the queue has been empty for %u ms", timeout_ms);
    return ERR_NONE;
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->not_empty);
    pthread_cond_broadcast(&q->not_full);
    pthread_mutex_unlock(&q->lock);
}

size_t queue_length(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t length = q->length;
    pthread_mutex_unlock(&q->lock);
    return length;
}
