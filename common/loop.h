/*
 * loop.h - the event loop of a daemon: timers, signals, and work posted from other threads. Walls
 * off libuv.
 *
 * One thread runs loop_run(); all callbacks come on it. Anything slow goes elsewhere.
 *
 * Units    milliseconds.
 * Threads  loop_post() and loop_stop() from any thread; everything else from the loop's thread, or
 *          before loop_run() starts.
 */
#ifndef PARAMD_COMMON_LOOP_H
#define PARAMD_COMMON_LOOP_H

#include <stdint.h>

#include "common/err.h"

struct loop;
struct loop_timer;

typedef void (*loop_callback)(void *context);

enum err loop_create(struct loop **out) MUST_CHECK;
void loop_destroy(struct loop *l); /* after loop_run() returned; runs nothing more */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);

/*
 * Runs `callback` on the loop's thread, in the order of posting; what was accepted before
 * loop_stop() still runs before loop_run() returns. ERR_LIMIT when 4096 are waiting; ERR_CANCELLED
 * after loop_stop().
 */
enum err loop_post(struct loop *l, loop_callback callback, void *context) MUST_CHECK;

/* First after `delay_ms`, then every `period_ms` (0: once). Destroy also stops. */
struct loop_timer *loop_timer_create(struct loop *l, uint32_t delay_ms, uint32_t period_ms,
                                     loop_callback callback, void *context);
void loop_timer_destroy(struct loop_timer *t); /* accepts NULL */

typedef void (*loop_signal_callback)(void *context, int signal_number);
enum err loop_signal(struct loop *l, int signal_number, loop_signal_callback callback,
                     void *context) MUST_CHECK;
/* Calls `callback` once when `descriptor` reaches end of file (the parent's pipe). */
enum err loop_watch_end(struct loop *l, int descriptor, loop_callback callback,
                        void *context) MUST_CHECK;

#endif
