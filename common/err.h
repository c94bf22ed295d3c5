/*
 * err.h - how a call says that it failed, and why.
 *
 * What can fail returns an enum err and gives its result through an out parameter, which stays
 * untouched on failure. The code is for programs; the text is for people. The text is written once,
 * by err_set(), where the cause is known (file, value, what to do); callers that can name something
 * more prepend it with err_prefix(); whoever handles the failure logs err_text() once.
 *
 * Threads  the text belongs to the calling thread. To carry it to another thread copy it.
 */
#ifndef PARAMD_COMMON_ERR_H
#define PARAMD_COMMON_ERR_H

enum err {
    ERR_NONE = 0,
    ERR_MEMORY,      /* an allocation of ours failed, or a memory budget is used up */
    ERR_IO,          /* a file, socket or device failed: the text has the errno */
    ERR_INPUT,       /* bad configuration, data, message or argument */
    ERR_NOT_FOUND,   /* absence, proven */
    ERR_EXISTS,      /* it is there already, or another version of it is */
    ERR_TIMEOUT,     /* a deadline passed */
    ERR_UNAVAILABLE, /* the peer cannot be reached now; trying again may help */
    ERR_CORRUPT,     /* stored bytes do not verify */
    ERR_LIMIT,       /* a documented bound would be exceeded */
    ERR_REFUSED,     /* the peer or a rule said no; trying again as is will not help */
    ERR_CANCELLED,   /* we were told to stop */
    ERR_UNSUPPORTED, /* known, but not built or not there yet */
    ERR_COUNT
};

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_index)                                                     \
    __attribute__((format(printf, format_index, first_index)))

/*
 * Sets the thread's text and returns `code`, so that `return err_set(ERR_INPUT, "…", …)` reads
 * well.
 */
enum err err_set(enum err code, const char *format, ...) PRINTF_LIKE(2, 3);

/* As err_set(), with ": <strerror(error_number)>" appended. */
enum err err_set_errno(enum err code, int error_number, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts "<formatted>: " in front of the thread's text and returns `code` unchanged. */
enum err err_prefix(enum err code, const char *format, ...) PRINTF_LIKE(2, 3);

/* The thread's latest text; never NULL. Valid until the thread's next err_*() call. */
const char *err_text(void);

/* "input", "not_found", …: the name of a code, for logs and metrics. */
const char *err_name(enum err code);

#endif
