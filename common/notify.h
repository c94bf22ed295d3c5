/*
 * notify.h - tells the service manager how we are: sd_notify(3) by hand, which is one datagram.
 *
 * Without NOTIFY_SOCKET in the environment all of it does nothing.
 *
 * Sources  https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
 * Threads  any.
 */
#ifndef PARAMD_COMMON_NOTIFY_H
#define PARAMD_COMMON_NOTIFY_H

#include <stdint.h>

/* "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=…"; several, one a line. */
void notify_state(const char *text);
/* How often the manager wants "WATCHDOG=1", halved, in ms; 0: it does not. */
uint32_t notify_watchdog_ms(void);

#endif
