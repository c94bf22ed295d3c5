/*
 * metrics.h - counters and gauges with names, for the log, `metrics.jsonl` and (later) Prometheus.
 *
 * Names have the prefix `paramd_`, base units (`_seconds`, `_bytes`), `_total` on counters. A
 * metric is registered once, by its first use, and lives as long as the process; there are at most
 * 512.
 *
 * Threads  any; updates are relaxed atomics.
 */
#ifndef PARAMD_COMMON_METRICS_H
#define PARAMD_COMMON_METRICS_H

#include <stdint.h>

#include "common/str.h"

struct metric;

struct metric *metric_counter(const char *name, const char *help);
struct metric *metric_gauge(const char *name, const char *help);
void metric_add(struct metric *m, uint64_t amount);
void metric_add_seconds(struct metric *m, uint64_t elapsed_ns);
void metric_set(struct metric *m, double value);
double metric_value(const struct metric *m);

/* All metrics in Prometheus' text format. */
void metrics_write_text(struct str *out);

#endif
