/*
 * log.h - one line an event: `level module message key=value`.
 *
 *     log_info("shard", "restored step=%" PRIu64 " rows=%zu", step, rows);
 *
 * Lines go to stderr, or to the file given to log_open(), with an ISO 8601 time stamp in front
 * (UTC, milliseconds) and the process name ("server-0"); with `<3>`…`<7>` in front instead when
 * JOURNAL_STREAM is set. Messages are lower case; a wrong value is quoted. Control characters in
 * values are escaped.
 *
 * Threads  any; a line is written by one write(2).
 */
#ifndef PARAMD_COMMON_LOG_H
#define PARAMD_COMMON_LOG_H

#include "common/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/*
 * Opens descriptors 0, 1 and 2 on /dev/null where whoever started this process closed them: else
 * the next file that is opened, a checkpoint perhaps, would get what is printed. The first call of
 * main().
 */
void log_open_standard(void);
/* `process` is copied. `path` NULL: stderr. */
enum err log_open(const char *process, const char *path) MUST_CHECK;
void log_set_level(enum log_level level);
/* "error" | "warn" | "info" | "debug" */
enum err log_level_parse(const char *name, enum log_level *out) MUST_CHECK;

void log_write(enum log_level level, const char *module, const char *format, ...) PRINTF_LIKE(3, 4);

#define log_error(module, ...) log_write(LOG_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  log_write(LOG_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  log_write(LOG_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_write(LOG_DEBUG, module, __VA_ARGS__)

#endif
