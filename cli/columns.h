/*
 * columns.h - aligned text for people: tables, ages, durations, sizes.
 *
 * Threads  one.
 */
#ifndef PARAMD_CLI_COLUMNS_H
#define PARAMD_CLI_COLUMNS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/str.h"

#define COLUMNS_MAX 10

struct columns {
    size_t count; /* columns */
    char *(*rows)[COLUMNS_MAX];
    size_t row_count;
};

/* The first row; names end with a NULL. */
void columns_init(struct columns *c, const char *const *names);
/* A cell of the row at hand, printf's way; "" is shown as "-". The row ends by itself. */
void columns_add(struct columns *c, const char *format, ...) PRINTF_LIKE(2, 3);
/* Two spaces between columns, none at the ends of lines. */
void columns_print(const struct columns *c, FILE *to);
void columns_deinit(struct columns *c);

/* "41s", "12min", "3h", "5d"; freed with mem_free(). */
char *text_of_seconds(uint64_t seconds);
/* Since a moment of the wall clock: as above; "" when it is 0. */
char *text_of_age(uint64_t unix_ms);
/* "16.0 GiB" */
char *text_of_bytes(uint64_t bytes);
/* "2026-11-21 12:31:44.123" in UTC */
char *text_of_time(uint64_t unix_ms);

#endif
