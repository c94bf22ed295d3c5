#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX     1024
#define ESCAPE_BYTES 4 /* \x0a */

static _Thread_local char thread_text[TEXT_MAX];

/* Cuts off what does not fit: the beginning names the thing. */
static void append(char *text, const char *more)
{
    size_t length = strlen(text);
    size_t part = strnlen(more, TEXT_MAX - 1 - length);
    memcpy(text + length, more, part);
    text[length + part] = '\0';
}

/*
 * Arguments may point into thread_text, so the new text is put together beside it. Texts quote what
 * users and peers sent: that must not begin a line of its own or move a terminal's cursor.
 */
static enum err take(enum err code, const char *text)
{
    size_t length = 0;
    for (; *text != '\0' && length < TEXT_MAX - 1; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte >= 0x20 && byte != 0x7f) {
            thread_text[length++] = *text;
            continue;
        }
        if (length + ESCAPE_BYTES > TEXT_MAX - 1)
            break;
        length += (size_t)sprintf(thread_text + length, "\\x%02x", byte);
    }
    thread_text[length] = '\0';
    return code;
}

enum err err_set(enum err code, const char *format, ...)
{
    char text[TEXT_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return take(code, text);
}

enum err err_set_errno(enum err code, int error_number, const char *format, ...)
{
    char text[TEXT_MAX];
    char reason_space[128];
    const char *reason = strerror_r(error_number, reason_space, sizeof reason_space);
    va_list arguments;
    va_start(arguments, format);
    /* However long the names are, the reason is there. */
    size_t room = sizeof text - strlen(": ") - strnlen(reason, sizeof reason_space);
    vsnprintf(text, room, format, arguments);
    va_end(arguments);
    append(text, ": ");
    append(text, reason);
    return take(code, text);
}

enum err err_prefix(enum err code, const char *format, ...)
{
    char text[TEXT_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    append(text, ": ");
    append(text, thread_text);
    return take(code, text);
}

const char *err_text(void)
{
    return thread_text;
}

const char *err_name(enum err code)
{
    static const char *const names[ERR_COUNT] = {
        [ERR_NONE] = "none",
        [ERR_MEMORY] = "memory",
        [ERR_IO] = "io",
        [ERR_INPUT] = "input",
        [ERR_NOT_FOUND] = "not_found",
        [ERR_EXISTS] = "exists",
        [ERR_TIMEOUT] = "timeout",
        [ERR_UNAVAILABLE] = "unavailable",
        [ERR_CORRUPT] = "corrupt",
        [ERR_LIMIT] = "limit",
        [ERR_REFUSED] = "refused",
        [ERR_CANCELLED] = "cancelled",
        [ERR_UNSUPPORTED] = "unsupported",
    };
    if ((unsigned)code >= ERR_COUNT)
        return "unknown";
    return names[code];
}
