#include "common/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define METRIC_MAX 512

/*
 * A counter's value is count + elapsed_ns / 1e9; one of the two stays 0. A gauge's is a double in
 * `bits`.
 */
struct metric {
    char *name;
    char *help;
    bool is_gauge;
    _Atomic uint64_t count;
    _Atomic uint64_t elapsed_ns;
    _Atomic uint64_t bits;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric metrics[METRIC_MAX];
static size_t metric_count;

static bool name_is_valid(const char *name)
{
    return strncmp(name, "paramd_", 7) == 0 &&
           name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}

static struct metric *find_or_add(const char *name, const char *help, bool is_gauge)
{
    CHECK(name_is_valid(name));
    pthread_mutex_lock(&lock);
    size_t i = 0;
    while (i < metric_count && strcmp(metrics[i].name, name) != 0)
        i++;
    struct metric *m = i < METRIC_MAX ? &metrics[i] : NULL;
    if (m != NULL && i == metric_count) {
        m->name = must_strdup(name);
        m->help = must_strdup(help);
        m->is_gauge = is_gauge;
        metric_count++;
    }
    pthread_mutex_unlock(&lock);
    CHECK(m != NULL);
    CHECK(m->is_gauge == is_gauge);
    return m;
}

struct metric *metric_counter(const char *name, const char *help)
{
    return find_or_add(name, help, false);
}

struct metric *metric_gauge(const char *name, const char *help)
{
    return find_or_add(name, help, true);
}

void metric_add(struct metric *m, uint64_t amount)
{
    CHECK(!m->is_gauge);
    atomic_fetch_add_explicit(&m->count, amount, memory_order_relaxed);
}

void metric_add_seconds(struct metric *m, uint64_t elapsed_ns)
{
    CHECK(!m->is_gauge);
    atomic_fetch_add_explicit(&m->elapsed_ns, elapsed_ns, memory_order_relaxed);
}

void metric_set(struct metric *m, double value)
{
    CHECK(m->is_gauge);
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    atomic_store_explicit(&m->bits, bits, memory_order_relaxed);
}

double metric_value(const struct metric *m)
{
    if (m->is_gauge) {
        uint64_t bits = atomic_load_explicit(&m->bits, memory_order_relaxed);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return (double)atomic_load_explicit(&m->count, memory_order_relaxed) +
           (double)atomic_load_explicit(&m->elapsed_ns, memory_order_relaxed) * 1e-9;
}

/* Help is one line: the format escapes the backslash and the line feed. */
static void write_help(const char *help, struct str *out)
{
    for (; *help != '\0'; help++) {
        if (*help == '\n')
            str_append(out, "\\n");
        else if (*help == '\\')
            str_append(out, "\\\\");
        else
            str_append_span(out, span_make(help, 1));
    }
}

static void write_value(const struct metric *m, struct str *out)
{
    double value = metric_value(m);
    if (!m->is_gauge && atomic_load_explicit(&m->elapsed_ns, memory_order_relaxed) == 0)
        str_append_format(out, "%" PRIu64, atomic_load_explicit(&m->count, memory_order_relaxed));
    else if (!m->is_gauge)
        str_append_format(out, "%.9f", value);
    else if (isnan(value))
        str_append(out, "NaN");
    else if (isinf(value))
        str_append(out, value > 0 ? "+Inf" : "-Inf");
    else
        str_append_format(out, "%.15g", value);
}

void metrics_write_text(struct str *out)
{
    pthread_mutex_lock(&lock);
    size_t count = metric_count;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < count; i++) {
        const struct metric *m = &metrics[i];
        str_append_format(out, "# HELP %s ", m->name);
        write_help(m->help, out);
        str_append_format(out, "\n# TYPE %s %s\n%s ", m->name, m->is_gauge ? "gauge" : "counter",
                          m->name);
        write_value(m, out);
        str_append(out, "\n");
    }
}
