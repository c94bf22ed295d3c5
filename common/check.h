/*
 * check.h - assertions about our own code, never compiled out.
 *
 * CHECK(condition) stops the process with file, line and the condition when it does not hold. It is
 * for our own bugs only: what peers, files, devices and users do wrong is an enum err.
 */
#ifndef PARAMD_COMMON_CHECK_H
#define PARAMD_COMMON_CHECK_H

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            check_failed(__FILE__, __LINE__, __func__, #condition);                                \
    } while (0)

void check_failed(const char *file, int line, const char *function, const char *condition)
    __attribute__((noreturn, cold));

#endif
