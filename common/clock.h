/*
 * clock.h - the time, for code that may know it (pure files may not).
 *
 * Units  _ns and _ms are of the monotonic clock, for deadlines and durations; _wall_ms is the Unix
 *        time.
 */
#ifndef PARAMD_COMMON_CLOCK_H
#define PARAMD_COMMON_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);
uint64_t clock_ms(void);
uint64_t clock_wall_ms(void);
double clock_seconds_since(uint64_t start_ns);
void clock_sleep_ms(uint32_t ms);

#endif
