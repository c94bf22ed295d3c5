#include "worker/area.h"

#include <pthread.h>
#include <stdint.h>

#include "common/check.h"
#include "common/mem.h"

#define FREE_MAX  256u /* areas kept for reuse; more are given back to the system */
#define ALIGNMENT 64u

struct area {
    struct area_pool *pool;
    void *data;
    size_t capacity;
};

struct area_pool {
    pthread_mutex_t lock;
    size_t references; /* the owner and every area that is out */
    struct area *free[FREE_MAX];
    size_t free_count;
};

struct area_pool *area_pool_create(void)
{
    struct area_pool *p = must_alloc(sizeof *p);
    CHECK(pthread_mutex_init(&p->lock, NULL) == 0);
    p->references = 1;
    return p;
}

static void area_free(struct area *a)
{
    mem_free(a->data);
    mem_free(a);
}

/* Gives up one reference; the lock is held, and is not afterwards. */
static void unlock_unref(struct area_pool *p)
{
    bool last = --p->references == 0;
    pthread_mutex_unlock(&p->lock);
    if (!last)
        return;
    for (size_t i = 0; i < p->free_count; i++)
        area_free(p->free[i]);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

void area_pool_destroy(struct area_pool *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    unlock_unref(p);
}

static void give_back(void *context)
{
    struct area *a = context;
    struct area_pool *p = a->pool;
    struct area *surplus = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->free_count < FREE_MAX)
        p->free[p->free_count++] = a;
    else
        surplus = a;
    unlock_unref(p);
    if (surplus != NULL)
        area_free(surplus);
}

/* The smallest free area that is large enough; else any, to be grown; else NULL. The lock is held.
 */
static struct area *pick(struct area_pool *p, size_t size)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < p->free_count; i++) {
        bool fits = p->free[i]->capacity >= size;
        bool best_fits = best != SIZE_MAX && p->free[best]->capacity >= size;
        if (best == SIZE_MAX || (fits && !best_fits) ||
            (fits == best_fits && (p->free[i]->capacity < p->free[best]->capacity) == fits))
            best = i;
    }
    if (best == SIZE_MAX)
        return NULL;
    struct area *a = p->free[best];
    p->free[best] = p->free[--p->free_count];
    return a;
}

struct buf *area_take(struct area_pool *p, size_t size)
{
    pthread_mutex_lock(&p->lock);
    struct area *a = pick(p, size);
    p->references++;
    pthread_mutex_unlock(&p->lock);
    if (a == NULL)
        a = must_alloc(sizeof *a);
    a->pool = p;
    if (a->data == NULL || a->capacity < size) {
        mem_free(a->data);
        /* A little more, so that batches of about one size settle on areas that fit. */
        a->capacity = size + size / 8 + ALIGNMENT;
        a->data = mem_alloc_array(a->capacity, 1);
    }
    struct buf *b = a->data != NULL ? buf_wrap(a->data, a->capacity, give_back, a) : NULL;
    if (b != NULL)
        return b;
    area_free(a);
    pthread_mutex_lock(&p->lock);
    unlock_unref(p);
    return NULL;
}

void *area_cut(struct area_cutter *c, size_t count, size_t element_size)
{
    size_t size;
    CHECK(!__builtin_mul_overflow(count, element_size, &size) && size <= SIZE_MAX / 4);
    void *place = c->base != NULL ? c->base + c->offset : NULL;
    c->offset += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    CHECK(c->offset <= SIZE_MAX / 2);
    return place;
}
