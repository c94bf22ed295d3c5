/*
 * interrupt.h - Ctrl-C and SIGTERM as a count that a loop looks at.
 *
 * Threads  one; the handlers are the process's.
 */
#ifndef PARAMD_CLI_INTERRUPT_H
#define PARAMD_CLI_INTERRUPT_H

#include <signal.h>

struct interrupt {
    struct sigaction interrupt, terminate; /* what was there before */
};

/* Counts from 0. */
void interrupt_install(struct interrupt *old);
void interrupt_restore(const struct interrupt *old);
int interrupt_count(void);

#endif
