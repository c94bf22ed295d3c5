#include "cli/interrupt.h"

#include <stddef.h>

static volatile sig_atomic_t signals_seen;

static void count_signal(int number)
{
    (void)number;
    signals_seen++;
}

void interrupt_install(struct interrupt *old)
{
    struct sigaction action = {.sa_handler = count_signal};

    signals_seen = 0;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old->interrupt);
    sigaction(SIGTERM, &action, &old->terminate);
}

void interrupt_restore(const struct interrupt *old)
{
    sigaction(SIGINT, &old->interrupt, NULL);
    sigaction(SIGTERM, &old->terminate, NULL);
}

int interrupt_count(void)
{
    return signals_seen;
}
