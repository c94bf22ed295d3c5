/*
 * activity.h - a count of what the long tasks of this process have done: pieces read from and
 * written to storage, batches evaluated. It tells a task that takes an hour from one that is stuck;
 * members send it to the coordinator, which looks at nothing but whether it has changed.
 *
 * Threads  any.
 */
#ifndef PARAMD_COMMON_ACTIVITY_H
#define PARAMD_COMMON_ACTIVITY_H

#include <stdint.h>

void activity_note(void);
uint64_t activity_count(void);

#endif
