/*
 * json_parse.c - the parser of json.h: recursive descent, as RFC 8259 has it and no more.
 */
#include "common/json.h"

#include <string.h>

#include "common/mem.h"

#define DEPTH_MAX 128

struct parser {
    const char *what;
    const char *start;
    const char *at;
    const char *end;
    struct str scratch;
};

static enum err parse_value(struct parser *p, uint32_t depth, struct json **out) MUST_CHECK;

/* Says where: lines and columns count from 1, columns in bytes. */
static enum err fail_at(const struct parser *p, const char *at, const char *message)
{
    size_t line = 1;
    const char *line_start = p->start;
    for (const char *c = p->start; c < at; c++) {
        if (*c == '\n') {
            line++;
            line_start = c + 1;
        }
    }
    return err_set(ERR_INPUT, "%s: line %zu, column %zu: %s", p->what, line,
                   (size_t)(at - line_start) + 1, message);
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static bool accept(struct parser *p, char c)
{
    if (p->at == p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static void append_code_point(struct str *s, uint32_t code)
{
    char bytes[4];
    size_t size = 0;
    if (code < 0x80) {
        bytes[size++] = (char)code;
    } else if (code < 0x800) {
        bytes[size++] = (char)(0xc0 | code >> 6);
        bytes[size++] = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        bytes[size++] = (char)(0xe0 | code >> 12);
        bytes[size++] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[size++] = (char)(0x80 | (code & 0x3f));
    } else {
        bytes[size++] = (char)(0xf0 | code >> 18);
        bytes[size++] = (char)(0x80 | (code >> 12 & 0x3f));
        bytes[size++] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[size++] = (char)(0x80 | (code & 0x3f));
    }
    str_append_span(s, span_make(bytes, size));
}

/* The four digits of \uXXXX. */
static bool parse_hex4(struct parser *p, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p->at < p->end ? *p->at : '\0';
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (uint32_t)((c | 0x20) - 'a') + 10;
        else
            return false;
        value = value << 4 | digit;
        p->at++;
    }
    *out = value;
    return true;
}

static enum err parse_unicode_escape(struct parser *p, const char *start)
{
    uint32_t code, low;
    if (!parse_hex4(p, &code))
        return fail_at(p, start, "\\u needs four hexadecimal digits");
    if (code == 0)
        return fail_at(p, start, "text with \\u0000 cannot be held");
    if (code >= 0xd800 && code < 0xe000) {
        bool pair = code < 0xdc00 && accept(p, '\\') && accept(p, 'u') && parse_hex4(p, &low) &&
                    low >= 0xdc00 && low < 0xe000;
        if (!pair)
            return fail_at(p, start, "half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_code_point(&p->scratch, code);
    return ERR_NONE;
}

static enum err parse_escape(struct parser *p)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *start = p->at - 1;
    char c = p->at < p->end ? *p->at++ : '\0';
    if (c == 'u')
        return parse_unicode_escape(p, start);
    const char *known = c != '\0' ? strchr(from, c) : NULL;
    if (known == NULL)
        return fail_at(p, start, "unknown escape sequence");
    str_append_span(&p->scratch, span_make(&to[known - from], 1));
    return ERR_NONE;
}

/* Reads a string, the opening quote of which was accepted, into p->scratch. */
static enum err parse_string(struct parser *p)
{
    const char *opening = p->at - 1;
    str_clear(&p->scratch);
    str_append(&p->scratch, "");
    for (;;) {
        size_t plain = json_plain_length(span_make(p->at, (size_t)(p->end - p->at)));
        str_append_span(&p->scratch, span_make(p->at, plain));
        p->at += plain;
        if (accept(p, '"'))
            return ERR_NONE;
        if (p->at == p->end)
            return fail_at(p, opening, "the string has no end");
        if (accept(p, '\\')) {
            enum err error = parse_escape(p);
            if (error != ERR_NONE)
                return error;
            continue;
        }
        if ((uint8_t)*p->at < 0x20)
            return fail_at(p, p->at, "control character in a string; write it as an escape");
        size_t length = str_utf8_length(span_make(p->at, (size_t)(p->end - p->at)));
        if (length == 0)
            return fail_at(p, p->at, "not valid UTF-8");
        str_append_span(&p->scratch, span_make(p->at, length));
        p->at += length;
    }
}

static bool skip_digits(struct parser *p)
{
    const char *start = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9')
        p->at++;
    return p->at > start;
}

static enum err parse_number(struct parser *p, struct json **out)
{
    const char *start = p->at;
    bool whole = true;
    accept(p, '-');
    const char *digits = p->at;
    if (!skip_digits(p))
        return fail_at(p, start, "expected a value");
    if (*digits == '0' && p->at > digits + 1)
        return fail_at(p, start, "a number cannot begin with 0");
    if (accept(p, '.')) {
        whole = false;
        if (!skip_digits(p))
            return fail_at(p, start, "expected digits after the decimal point");
    }
    if (accept(p, 'e') || accept(p, 'E')) {
        whole = false;
        if (!accept(p, '+'))
            accept(p, '-');
        if (!skip_digits(p))
            return fail_at(p, start, "expected digits in the exponent");
    }
    struct span text = span_make(start, (size_t)(p->at - start));
    int64_t integer = 0;
    double number = 0;
    if (whole) {
        if (str_parse_i64(text, &integer) != ERR_NONE)
            return fail_at(p, start, "the integer is not from -2^63 to 2^63-1");
        *out = json_int(integer);
        return ERR_NONE;
    }
    if (str_parse_f64(text, &number) != ERR_NONE)
        return fail_at(p, start, "the number is too large or too long");
    *out = json_number(number);
    return ERR_NONE;
}

static enum err parse_array(struct parser *p, uint32_t depth, struct json *array)
{
    skip_space(p);
    if (accept(p, ']'))
        return ERR_NONE;
    for (;;) {
        struct json *value;
        enum err error = parse_value(p, depth, &value);
        if (error != ERR_NONE)
            return error;
        json_push(array, value);
        skip_space(p);
        if (accept(p, ']'))
            return ERR_NONE;
        if (!accept(p, ','))
            return fail_at(p, p->at, "expected ',' or ']'");
    }
}

static enum err parse_object(struct parser *p, uint32_t depth, struct json *object)
{
    skip_space(p);
    if (accept(p, '}'))
        return ERR_NONE;
    for (;;) {
        skip_space(p);
        const char *at = p->at;
        if (!accept(p, '"'))
            return fail_at(p, at, "expected a member's name in double quotes");
        enum err error = parse_string(p);
        if (error != ERR_NONE)
            return error;
        if (json_get(object, p->scratch.data) != NULL)
            return fail_at(p, at, "the object has a member of this name already");
        char *name = must_strdup(p->scratch.data);
        skip_space(p);
        struct json *value = NULL;
        error = accept(p, ':') ? parse_value(p, depth, &value) : fail_at(p, p->at, "expected ':'");
        if (error != ERR_NONE) {
            mem_free(name);
            return error;
        }
        json_set(object, name, value);
        mem_free(name);
        skip_space(p);
        if (accept(p, '}'))
            return ERR_NONE;
        if (!accept(p, ','))
            return fail_at(p, p->at, "expected ',' or '}'");
    }
}

static bool accept_word(struct parser *p, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(p->end - p->at) < size || memcmp(p->at, word, size) != 0)
        return false;
    p->at += size;
    return true;
}

static enum err parse_value(struct parser *p, uint32_t depth, struct json **out)
{
    skip_space(p);
    if (p->at == p->end)
        return fail_at(p, p->at, "expected a value, found the end");
    if (*p->at == '[' || *p->at == '{') {
        if (depth == DEPTH_MAX)
            return fail_at(p, p->at, "nested too deeply");
        bool is_array = *p->at++ == '[';
        struct json *j = is_array ? json_array() : json_object();
        enum err error = is_array ? parse_array(p, depth + 1, j) : parse_object(p, depth + 1, j);
        if (error != ERR_NONE) {
            json_destroy(j);
            return error;
        }
        *out = j;
        return ERR_NONE;
    }
    if (accept(p, '"')) {
        enum err error = parse_string(p);
        if (error == ERR_NONE)
            *out = json_text(p->scratch.data);
        return error;
    }
    if (accept_word(p, "true"))
        *out = json_bool(true);
    else if (accept_word(p, "false"))
        *out = json_bool(false);
    else if (accept_word(p, "null"))
        *out = json_null();
    else
        return parse_number(p, out);
    return ERR_NONE;
}

enum err json_parse(const char *what, const char *data, size_t size, struct json **out)
{
    struct parser p = {.what = what, .start = data, .at = data, .end = data + size};
    struct json *j = NULL;
    enum err error = parse_value(&p, 0, &j);
    if (error == ERR_NONE) {
        skip_space(&p);
        if (p.at != p.end)
            error = fail_at(&p, p.at, "something follows the value");
    }
    str_deinit(&p.scratch);
    if (error != ERR_NONE) {
        json_destroy(j);
        return error;
    }
    *out = j;
    return ERR_NONE;
}
