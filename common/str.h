/*
 * str.h - strings: a growing one, slices of others, and parsing of numbers that rejects what is not
 * one.
 *
 * Threads  none; the caller owns what it passes.
 */
#ifndef PARAMD_COMMON_STR_H
#define PARAMD_COMMON_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Borrowed text, not terminated. */
struct span {
    const char *data;
    size_t size;
};

static inline struct span span_make(const char *data, size_t size)
{
    return (struct span){data, size};
}
struct span span_of(const char *text);
bool span_equal(struct span a, struct span b);
bool span_is(struct span a, const char *text);
struct span span_trim(struct span text); /* spaces and tabs at both ends */

/*
 * A growing, always terminated string. Zero-initialize; str_deinit() frees. Appending CHECKs
 * memory.
 */
struct str {
    char *data;
    size_t size; /* without the final 0 */
    size_t capacity;
};

void str_append(struct str *s, const char *text);
void str_append_span(struct str *s, struct span text);
void str_append_format(struct str *s, const char *format, ...) PRINTF_LIKE(2, 3);
void str_clear(struct str *s);
void str_deinit(struct str *s);

/* Whole text or nothing: leading or trailing characters, overflow and empty text are ERR_INPUT. */
enum err str_parse_u64(struct span text, uint64_t *out) MUST_CHECK;
enum err str_parse_i64(struct span text, int64_t *out) MUST_CHECK;
/* Also "1e-3"; not nan, inf, hexadecimal. */
enum err str_parse_f64(struct span text, double *out) MUST_CHECK;

/* Bytes of the UTF-8 sequence (RFC 3629) that `text` begins with; 0: empty, or not valid. */
size_t str_utf8_length(struct span text);

bool str_glob_match(const char *pattern, const char *text); /* * ? and [abc] */

/*
 * Of `candidates` (NULL-terminated) the one nearest to `text` by edit distance, or NULL if none is
 * near.
 */
const char *str_nearest(const char *text, const char *const *candidates);

#endif
