#include "common/str.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define NUMBER_MAX_BYTES  400
#define NEAREST_MAX_BYTES 64

struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

bool span_equal(struct span a, struct span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

bool span_is(struct span a, const char *text)
{
    return span_equal(a, span_of(text));
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct span span_trim(struct span text)
{
    while (text.size > 0 && is_blank(text.data[0])) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 && is_blank(text.data[text.size - 1]))
        text.size--;
    return text;
}

/* Room for `more` bytes and the final 0. */
static void reserve(struct str *s, size_t more)
{
    CHECK(more < SIZE_MAX / 4 && s->size < SIZE_MAX / 4);
    size_t needed = s->size + more + 1;
    if (needed <= s->capacity)
        return;
    size_t capacity = s->capacity + s->capacity / 2;
    if (capacity < 32)
        capacity = 32;
    if (capacity < needed)
        capacity = needed;
    s->data = must_realloc(s->data, capacity, 1);
    s->capacity = capacity;
}

void str_append(struct str *s, const char *text)
{
    str_append_span(s, span_of(text));
}

void str_append_span(struct str *s, struct span text)
{
    reserve(s, text.size);
    if (text.size > 0)
        memcpy(s->data + s->size, text.data, text.size);
    s->size += text.size;
    s->data[s->size] = '\0';
}

void str_append_format(struct str *s, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    reserve(s, 0);
    int length = vsnprintf(s->data + s->size, s->capacity - s->size, format, arguments);
    CHECK(length >= 0);
    if ((size_t)length >= s->capacity - s->size) {
        reserve(s, (size_t)length);
        vsnprintf(s->data + s->size, s->capacity - s->size, format, again);
    }
    s->size += (size_t)length;
    va_end(again);
    va_end(arguments);
}

void str_clear(struct str *s)
{
    s->size = 0;
    if (s->data != NULL)
        s->data[0] = '\0';
}

void str_deinit(struct str *s)
{
    mem_free(s->data);
    *s = (struct str){0};
}

static enum err not_a(const char *kind, struct span text)
{
    int shown = text.size < 64 ? (int)text.size : 64;
    return err_set(ERR_INPUT, "'%.*s%s' is not %s", shown, text.data != NULL ? text.data : "",
                   text.size > 64 ? "..." : "", kind);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* false: not all digits, none, or more than fits. */
static bool parse_digits(struct span text, uint64_t *out)
{
    uint64_t value = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (!is_digit(text.data[i]) || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text.data[i] - '0'), &value))
            return false;
    }
    if (text.size == 0)
        return false;
    *out = value;
    return true;
}

enum err str_parse_u64(struct span text, uint64_t *out)
{
    if (!parse_digits(text, out))
        return not_a("a whole number from 0 to 2^64-1", text);
    return ERR_NONE;
}

enum err str_parse_i64(struct span text, int64_t *out)
{
    bool negative = text.size > 0 && text.data[0] == '-';
    struct span digits = negative ? span_make(text.data + 1, text.size - 1) : text;
    uint64_t magnitude;
    if (!parse_digits(digits, &magnitude) || magnitude > (uint64_t)INT64_MAX + negative)
        return not_a("a whole number from -2^63 to 2^63-1", text);
    *out = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return ERR_NONE;
}

/* [-] digits [. digits] [e [+-] digits], with at least one digit before the exponent. */
static bool is_decimal(struct span text)
{
    size_t i = 0, digits = 0, exponent_digits = 0;
    if (i < text.size && text.data[i] == '-')
        i++;
    for (; i < text.size && is_digit(text.data[i]); i++)
        digits++;
    if (i < text.size && text.data[i] == '.')
        for (i++; i < text.size && is_digit(text.data[i]); i++)
            digits++;
    if (digits == 0)
        return false;
    if (i == text.size)
        return true;
    if (text.data[i] != 'e' && text.data[i] != 'E')
        return false;
    i++;
    if (i < text.size && (text.data[i] == '+' || text.data[i] == '-'))
        i++;
    for (; i < text.size && is_digit(text.data[i]); i++)
        exponent_digits++;
    return exponent_digits > 0 && i == text.size;
}

enum err str_parse_f64(struct span text, double *out)
{
    char copy[NUMBER_MAX_BYTES];
    if (text.size >= sizeof copy || !is_decimal(text))
        return not_a("a number", text);
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    char *end;
    double value = strtod(copy, &end);
    if (*end != '\0' || !isfinite(value))
        return not_a("a number that a double can hold", text);
    *out = value;
    return ERR_NONE;
}

size_t str_utf8_length(struct span text)
{
    const uint8_t *b = (const uint8_t *)text.data;
    if (text.size == 0)
        return 0;
    if (b[0] < 0x80)
        return 1;
    size_t length = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (b[0] < 0xc2 || b[0] > 0xf4 || text.size < length)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Longer than needed, a surrogate, or above U+10FFFF. */
    if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f) ||
        (b[0] == 0xf0 && b[1] < 0x90) || (b[0] == 0xf4 && b[1] > 0x8f))
        return 0;
    return length;
}

/*
 * Matches one character against the set that begins after '['; returns the place after ']', or
 * NULL.
 */
static const char *match_set(const char *set, char c, bool *matches)
{
    bool negated = *set == '!' || *set == '^';
    bool found = false;
    if (negated)
        set++;
    for (const char *first = set; *set != '\0' && (*set != ']' || set == first); set++) {
        char low = set[0], high = set[0];
        if (set[1] == '-' && set[2] != ']' && set[2] != '\0') {
            high = set[2];
            set += 2;
        }
        if (low <= c && c <= high)
            found = true;
    }
    *matches = found != negated;
    return *set == ']' ? set + 1 : NULL;
}

/* Matches one character other than by '*'; returns the rest of the pattern, or NULL. */
static const char *match_one(const char *pattern, char c)
{
    if (*pattern == '[') {
        bool matches;
        const char *rest = match_set(pattern + 1, c, &matches);
        if (rest != NULL)
            return matches ? rest : NULL;
    }
    if (*pattern == '?' || (*pattern == c && c != '\0'))
        return pattern + 1;
    return NULL;
}

bool str_glob_match(const char *pattern, const char *text)
{
    /* Only the last '*' ever needs to give back characters, so this is at most quadratic. */
    const char *star = NULL, *star_text = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            star_text = text;
            continue;
        }
        const char *rest = match_one(pattern, *text);
        if (rest != NULL) {
            pattern = rest;
            text++;
        } else if (star != NULL) {
            pattern = star;
            text = ++star_text;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Insertions, deletions, replacements and swaps of neighbours, each one. */
static size_t edit_distance(const char *a, size_t a_size, const char *b, size_t b_size)
{
    size_t rows[3][NEAREST_MAX_BYTES + 1];
    size_t *before = rows[0], *last = rows[1], *current = rows[2];
    for (size_t j = 0; j <= b_size; j++)
        last[j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        current[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t distance = last[j - 1] + (a[i - 1] != b[j - 1]);
            distance = least(distance, least(last[j], current[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                distance = least(distance, before[j - 2] + 1);
            current[j] = distance;
        }
        size_t *spare = before;
        before = last;
        last = current;
        current = spare;
    }
    return last[b_size];
}

const char *str_nearest(const char *text, const char *const *candidates)
{
    size_t size = strlen(text);
    const char *best = NULL;
    if (size > NEAREST_MAX_BYTES)
        return NULL;
    /* A third of the letters wrong is still a slip; more is another word. */
    size_t limit = size < 3 ? 1 : (size + 1) / 3;
    for (; *candidates != NULL; candidates++) {
        size_t candidate_size = strlen(*candidates);
        if (candidate_size > NEAREST_MAX_BYTES)
            continue;
        size_t distance = edit_distance(text, size, *candidates, candidate_size);
        if (distance <= limit) {
            best = *candidates;
            if (distance == 0)
                break;
            limit = distance - 1;
        }
    }
    return best;
}
