#include "common/json.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"

#define INDEX_FROM 16 /* objects of fewer members are searched one by one */

/*
 * A value. Members of objects and arrays stand in `items`, an object's names beside them in
 * `names`, in the order of insertion. `index` is an open hash table of item numbers + 1, for big
 * objects; 0 is free.
 */
struct json {
    enum json_type type;
    union {
        bool truth;
        int64_t integer;
        double number;
        char *text;
        struct {
            struct json **items;
            char **names;
            uint32_t *index;
            size_t index_size; /* a power of two, or 0 */
            size_t count;
            size_t capacity;
        };
    };
};

static struct json *create(enum json_type type)
{
    struct json *j = must_alloc(sizeof *j);
    j->type = type;
    return j;
}

struct json *json_object(void)
{
    return create(JSON_OBJECT);
}

struct json *json_array(void)
{
    return create(JSON_ARRAY);
}

struct json *json_text(const char *text)
{
    struct json *j = create(JSON_TEXT);
    j->text = must_strdup(text);
    return j;
}

struct json *json_int(int64_t value)
{
    struct json *j = create(JSON_INT);
    j->integer = value;
    return j;
}

struct json *json_number(double value)
{
    if (!isfinite(value))
        return json_null();
    struct json *j = create(JSON_NUMBER);
    j->number = value;
    return j;
}

struct json *json_bool(bool value)
{
    struct json *j = create(JSON_BOOL);
    j->truth = value;
    return j;
}

struct json *json_null(void)
{
    return create(JSON_NULL);
}

void json_destroy(struct json *j)
{
    if (j == NULL)
        return;
    if (j->type == JSON_TEXT)
        mem_free(j->text);
    if (j->type == JSON_ARRAY || j->type == JSON_OBJECT) {
        for (size_t i = 0; i < j->count; i++) {
            json_destroy(j->items[i]);
            if (j->type == JSON_OBJECT)
                mem_free(j->names[i]);
        }
        mem_free(j->items);
        mem_free(j->names);
        mem_free(j->index);
    }
    mem_free(j);
}

static size_t hash_name(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3ull;
    return (size_t)mix64(hash);
}

static void index_add(struct json *object, size_t item)
{
    size_t at = hash_name(object->names[item]) & (object->index_size - 1);
    while (object->index[at] != 0)
        at = (at + 1) & (object->index_size - 1);
    object->index[at] = (uint32_t)item + 1;
}

/* After an item was added: keeps the index at most half full. */
static void index_update(struct json *object)
{
    CHECK(object->count < UINT32_MAX);
    if (object->count < INDEX_FROM)
        return;
    if (object->index_size >= 2 * object->count) {
        index_add(object, object->count - 1);
        return;
    }
    mem_free(object->index);
    object->index_size = object->index_size > 0 ? object->index_size * 2 : 4 * INDEX_FROM;
    object->index = must_alloc(object->index_size * sizeof *object->index);
    for (size_t i = 0; i < object->count; i++)
        index_add(object, i);
}

/* The number of the member, or count. */
static size_t find(const struct json *object, const char *name)
{
    if (object->index == NULL) {
        size_t i = 0;
        while (i < object->count && strcmp(object->names[i], name) != 0)
            i++;
        return i;
    }
    size_t at = hash_name(name) & (object->index_size - 1);
    for (; object->index[at] != 0; at = (at + 1) & (object->index_size - 1)) {
        if (strcmp(object->names[object->index[at] - 1], name) == 0)
            return object->index[at] - 1;
    }
    return object->count;
}

static void add_item(struct json *j, char *name, struct json *value)
{
    if (j->count == j->capacity) {
        j->capacity = j->capacity > 0 ? j->capacity * 2 : 4;
        j->items = must_realloc(j->items, j->capacity, sizeof *j->items);
        if (j->type == JSON_OBJECT)
            j->names = must_realloc(j->names, j->capacity, sizeof *j->names);
    }
    j->items[j->count] = value;
    if (j->type == JSON_OBJECT)
        j->names[j->count] = name;
    j->count++;
    if (j->type == JSON_OBJECT)
        index_update(j);
}

void json_set(struct json *object, const char *name, struct json *value)
{
    CHECK(object->type == JSON_OBJECT && value != NULL);
    size_t i = find(object, name);
    if (i < object->count) {
        json_destroy(object->items[i]);
        object->items[i] = value;
    } else {
        add_item(object, must_strdup(name), value);
    }
}

void json_set_text(struct json *object, const char *name, const char *value)
{
    json_set(object, name, json_text(value));
}

void json_set_int(struct json *object, const char *name, int64_t value)
{
    json_set(object, name, json_int(value));
}

void json_set_number(struct json *object, const char *name, double value)
{
    json_set(object, name, json_number(value));
}

void json_set_bool(struct json *object, const char *name, bool value)
{
    json_set(object, name, json_bool(value));
}

void json_push(struct json *array, struct json *value)
{
    CHECK(array->type == JSON_ARRAY && value != NULL);
    add_item(array, NULL, value);
}

/*
 * ---- writing
 * -----------------------------------------------------------------------------------------
 */

static void write_break(bool indent, uint32_t depth, struct str *out)
{
    if (!indent)
        return;
    str_append(out, "\n");
    for (uint32_t i = 0; i < depth; i++)
        str_append(out, "  ");
}

size_t json_plain_length(struct span text)
{
    size_t n = 0;
    while (n < text.size && text.data[n] >= 0x20 && text.data[n] < 0x7f && text.data[n] != '"' &&
           text.data[n] != '\\')
        n++;
    return n;
}

/*
 * Bytes that are not UTF-8 (a file's name may have some) become U+FFFD, so that what we write can
 * be read.
 */
static void write_text(const char *text, struct str *out)
{
    struct span left = span_of(text);
    str_append(out, "\"");
    while (left.size > 0) {
        size_t plain = json_plain_length(left);
        str_append_span(out, span_make(left.data, plain));
        left = span_make(left.data + plain, left.size - plain);
        if (left.size == 0)
            break;
        uint8_t byte = (uint8_t)left.data[0];
        size_t length = str_utf8_length(left);
        static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
        const char *escape = strchr(from, byte);
        if (escape != NULL)
            str_append_span(out, span_make((char[]){'\\', to[escape - from]}, 2));
        else if (byte < 0x20)
            str_append_format(out, "\\u%04x", byte);
        else if (length > 0)
            str_append_span(out, span_make(left.data, length));
        else
            str_append(out, "\xef\xbf\xbd");
        size_t step = length > 0 ? length : 1;
        left = span_make(left.data + step, left.size - step);
    }
    str_append(out, "\"");
}

/*
 * The shortest digits that read back the same; always with a point or exponent, so that it stays a
 * number.
 */
static void write_number(double value, struct str *out)
{
    char text[40];
    /*
     * Above the subnormal numbers 15 digits cut of trailing zeros are the shortest if they suffice.
     */
    int digits = fabs(value) < DBL_MIN ? 1 : 15;
    for (; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    str_append(out, text);
    if (strpbrk(text, ".e") == NULL)
        str_append(out, ".0");
}

static void write_int(int64_t value, struct str *out)
{
    char text[24], *at = text + sizeof text;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do
        *--at = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (value < 0)
        *--at = '-';
    str_append_span(out, span_make(at, (size_t)(text + sizeof text - at)));
}

static void write_value(const struct json *j, bool indent, uint32_t depth, struct str *out)
{
    switch (j->type) {
    case JSON_NULL:
        str_append(out, "null");
        return;
    case JSON_BOOL:
        str_append(out, j->truth ? "true" : "false");
        return;
    case JSON_INT:
        write_int(j->integer, out);
        return;
    case JSON_NUMBER:
        write_number(j->number, out);
        return;
    case JSON_TEXT:
        write_text(j->text, out);
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    str_append(out, j->type == JSON_ARRAY ? "[" : "{");
    for (size_t i = 0; i < j->count; i++) {
        if (i > 0)
            str_append(out, ",");
        write_break(indent, depth + 1, out);
        if (j->type == JSON_OBJECT) {
            write_text(j->names[i], out);
            str_append(out, indent ? ": " : ":");
        }
        write_value(j->items[i], indent, depth + 1, out);
    }
    if (j->count > 0)
        write_break(indent, depth, out);
    str_append(out, j->type == JSON_ARRAY ? "]" : "}");
}

void json_write(const struct json *j, bool indent, struct str *out)
{
    write_value(j, indent, 0, out);
}

/*
 * ---- reading
 * -----------------------------------------------------------------------------------------
 */

enum json_type json_type(const struct json *j)
{
    return j->type;
}

size_t json_count(const struct json *j)
{
    return j->type == JSON_ARRAY || j->type == JSON_OBJECT ? j->count : 0;
}

/* Of an object too: the value beside json_key_at(). */
struct json *json_at(const struct json *array, size_t index)
{
    return index < json_count(array) ? array->items[index] : NULL;
}

struct json *json_get(const struct json *object, const char *name)
{
    if (object->type != JSON_OBJECT)
        return NULL;
    size_t i = find(object, name);
    return i < object->count ? object->items[i] : NULL;
}

const char *json_key_at(const struct json *object, size_t index)
{
    return object->type == JSON_OBJECT && index < object->count ? object->names[index] : NULL;
}

/* The member, when it is there and of the type. */
static struct json *member(const struct json *object, const char *name, enum json_type type)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",        [JSON_BOOL] = "true or false", [JSON_INT] = "an integer",
        [JSON_NUMBER] = "a number",  [JSON_TEXT] = "text",          [JSON_ARRAY] = "an array",
        [JSON_OBJECT] = "an object",
    };
    struct json *found = json_get(object, name);
    if (found == NULL) {
        err_set(ERR_INPUT, "member '%s' is missing; it must be %s", name, names[type]);
        return NULL;
    }
    if (found->type == type || (type == JSON_NUMBER && found->type == JSON_INT))
        return found;
    err_set(ERR_INPUT, "member '%s' is %s; it must be %s", name, names[found->type], names[type]);
    return NULL;
}

enum err json_get_text(const struct json *object, const char *name, const char **out)
{
    const struct json *found = member(object, name, JSON_TEXT);
    if (found == NULL)
        return ERR_INPUT;
    *out = found->text;
    return ERR_NONE;
}

enum err json_get_u64(const struct json *object, const char *name, uint64_t *out)
{
    const struct json *found = member(object, name, JSON_INT);
    if (found == NULL)
        return ERR_INPUT;
    if (found->integer < 0)
        return err_set(ERR_INPUT, "member '%s' is %" PRId64 "; it must be 0 or more", name,
                       found->integer);
    *out = (uint64_t)found->integer;
    return ERR_NONE;
}

enum err json_get_number(const struct json *object, const char *name, double *out)
{
    const struct json *found = member(object, name, JSON_NUMBER);
    if (found == NULL)
        return ERR_INPUT;
    *out = json_as_number(found);
    return ERR_NONE;
}

enum err json_get_bool(const struct json *object, const char *name, bool *out)
{
    const struct json *found = member(object, name, JSON_BOOL);
    if (found == NULL)
        return ERR_INPUT;
    *out = found->truth;
    return ERR_NONE;
}

enum err json_get_array(const struct json *object, const char *name, struct json **out)
{
    struct json *found = member(object, name, JSON_ARRAY);
    if (found == NULL)
        return ERR_INPUT;
    *out = found;
    return ERR_NONE;
}

enum err json_get_object(const struct json *object, const char *name, struct json **out)
{
    struct json *found = member(object, name, JSON_OBJECT);
    if (found == NULL)
        return ERR_INPUT;
    *out = found;
    return ERR_NONE;
}

const char *json_as_text(const struct json *j)
{
    return j != NULL && j->type == JSON_TEXT ? j->text : NULL;
}

int64_t json_as_int(const struct json *j)
{
    return j != NULL && j->type == JSON_INT ? j->integer : 0;
}

double json_as_number(const struct json *j)
{
    if (j != NULL && j->type == JSON_INT)
        return (double)j->integer;
    return j != NULL && j->type == JSON_NUMBER ? j->number : 0;
}

bool json_as_bool(const struct json *j)
{
    return j != NULL && j->type == JSON_BOOL && j->truth;
}
