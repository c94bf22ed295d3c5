/*
 * queue.h - the bounded queue between threads: the only way that work passes from one to another.
 *
 * First in, first out, of pointers; several producers, several consumers. A full queue makes the
 * producer wait up to a deadline, or says so at once; there is no unbounded one.
 *
 * Units    timeout_ms: 0 = do not wait; QUEUE_FOREVER only where close() is sure to come.
 * Threads  any, all functions but create and destroy.
 */
#ifndef PARAMD_COMMON_QUEUE_H
#define PARAMD_COMMON_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define QUEUE_FOREVER UINT32_MAX

struct queue;

struct queue *queue_create(size_t capacity);
void queue_destroy(struct queue *q); /* accepts NULL; CHECKs that it is empty or closed */

/* ERR_LIMIT: full until the time-out. ERR_CANCELLED: closed; the item was not taken. */
enum err queue_push(struct queue *q, void *item, uint32_t timeout_ms) MUST_CHECK;
/* ERR_TIMEOUT: empty until the time-out. ERR_CANCELLED: closed and empty. */
enum err queue_pop(struct queue *q, void **item_out, uint32_t timeout_ms) MUST_CHECK;
/* No more pushes; what is in it can still be popped. */
void queue_close(struct queue *q);
size_t queue_length(struct queue *q);

#endif
