#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

/* One line, and what it can grow to when every byte of the message is escaped. */
#define MESSAGE_MAX    2048
#define LINE_MAX_BYTES (4 * MESSAGE_MAX + 256)

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int journal_priorities[] = {3, 4, 6, 7};

static _Atomic int threshold = LOG_INFO;
static _Atomic int descriptor = STDERR_FILENO;
static _Atomic int to_journal = -1; /* -1: not looked at yet */
static char process_name[64];

/*
 * systemd names the device and inode of the stream that it gave us, so that a redirected stderr
 * shows.
 */
static int is_journal(int fd)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    uintmax_t device, inode;
    if (stream == NULL || sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) != 2)
        return 0;
    return fstat(fd, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void log_open_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR); /* the lowest that is free, and not closed by exec */
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

enum err log_open(const char *process, const char *path)
{
    int target = STDERR_FILENO;
    if (path != NULL) {
        target = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (target < 0)
            return err_set_errno(ERR_IO, errno, "log file '%s'", path);
    }
    int current = atomic_load(&descriptor);
    if (path != NULL && current != STDERR_FILENO) {
        /* Other threads may be writing: the number stays, the file behind it changes. */
        int failed = dup3(target, current, O_CLOEXEC) < 0;
        int cause = errno;
        close(target);
        if (failed)
            return err_set_errno(ERR_IO, cause, "log file '%s'", path);
        target = current;
    }
    snprintf(process_name, sizeof process_name, "%s", process);
    atomic_store(&to_journal, is_journal(target));
    atomic_store(&descriptor, target);
    return ERR_NONE;
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

enum err log_level_parse(const char *name, enum log_level *out)
{
    for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
        if (strcmp(name, level_names[level]) == 0) {
            *out = (enum log_level)level;
            return ERR_NONE;
        }
    }
    return err_set(ERR_INPUT, "log level '%s' is not one of error, warn, info, debug", name);
}

static size_t write_head(char *line, size_t size, enum log_level level, const char *module)
{
    int journal = atomic_load_explicit(&to_journal, memory_order_relaxed);
    if (journal < 0) {
        journal = is_journal(STDERR_FILENO);
        atomic_store_explicit(&to_journal, journal, memory_order_relaxed);
    }
    const char *space = process_name[0] != '\0' ? " " : "";
    int length;
    if (journal) {
        length = snprintf(line, size, "<%d>%s%s%s %s ", journal_priorities[level], process_name,
                          space, level_names[level], module);
    } else {
        uint64_t now_ms = clock_wall_ms();
        time_t seconds = (time_t)(now_ms / 1000);
        struct tm utc;
        gmtime_r(&seconds, &utc);
        length = snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ %s%s%s %s ",
                          utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                          utc.tm_sec, (unsigned)(now_ms % 1000), process_name, space,
                          level_names[level], module);
    }
    return (size_t)length < size ? (size_t)length : size - 1;
}

/* A value must not be able to begin a line of its own or to move a terminal's cursor. */
static size_t escape(char *out, const char *text)
{
    size_t length = 0;
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '\n') {
            out[length++] = '\\';
            out[length++] = 'n';
        } else if (byte < 0x20 || byte == 0x7f) {
            length += (size_t)sprintf(out + length, "\\x%02x", byte);
        } else {
            out[length++] = (char)byte;
        }
    }
    return length;
}

void log_write(enum log_level level, const char *module, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
        return;
    int saved_errno = errno;
    char message[MESSAGE_MAX];
    char line[LINE_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);

    size_t length = write_head(line, 200, level, module);
    length += escape(line + length, message);
    if (wanted >= (int)sizeof message)
        length += (size_t)sprintf(line + length, " ...");
    line[length++] = '\n';

    const char *next = line;
    while (length > 0) {
        int fd = atomic_load_explicit(&descriptor, memory_order_relaxed);
        ssize_t written = write(fd, next, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break; /* there is nowhere left to say so */
        next += written;
        length -= (size_t)written;
    }
    errno = saved_errno;
}
