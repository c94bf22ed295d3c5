/*
 * json.h - JSON in and out.
 *
 * Our own, as libjansson exports json_object(), json_array() and json_null() too, and a program's
 * symbols take the place of a shared library's.
 *
 * A struct json is a tree with one owner at its root: json_destroy() of the root frees all; values
 * handed out by json_get() and json_at() are borrowed; json_set() and json_push() take ownership.
 * Objects keep the order of insertion, so that the same calls write the same bytes. Integers are
 * exact from -2^63 to 2^63-1; 64-bit hashes travel as text. Numbers are written with the shortest
 * digits that read back the same.
 *
 * Threads  a tree belongs to one thread at a time.
 * Errors   building and parsing CHECK memory, which is in proportion to the input.
 * Sources  RFC 8259, RFC 3629 (UTF-8, required).
 */
#ifndef PARAMD_COMMON_JSON_H
#define PARAMD_COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

struct json;

struct json *json_object(void);
struct json *json_array(void);
struct json *json_text(const char *text);
struct json *json_int(int64_t value);
struct json *json_number(double value); /* not finite: null */
struct json *json_bool(bool value);
struct json *json_null(void);
void json_destroy(struct json *j);

void json_set(struct json *object, const char *name, struct json *value);
void json_set_text(struct json *object, const char *name, const char *value);
void json_set_int(struct json *object, const char *name, int64_t value);
void json_set_number(struct json *object, const char *name, double value);
void json_set_bool(struct json *object, const char *name, bool value);
void json_push(struct json *array, struct json *value);

/*
 * ERR_INPUT with line and column. `what` names the source in the text. Bounded depth; duplicates
 * refused.
 */
enum err json_parse(const char *what, const char *data, size_t size, struct json **out) MUST_CHECK;
/* How many bytes of a text, from its beginning, a string in JSON has as they are. */
size_t json_plain_length(struct span text);
/* Compact, or indented by two when `indent`; appended to `out`, no final newline. */
void json_write(const struct json *j, bool indent, struct str *out);

enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_NUMBER, JSON_TEXT, JSON_ARRAY, JSON_OBJECT };
enum json_type json_type(const struct json *j);
size_t json_count(const struct json *j); /* of an array or object; else 0 */
struct json *json_at(const struct json *array, size_t index);
struct json *json_get(const struct json *object, const char *name); /* NULL: absent */
const char *json_key_at(const struct json *object, size_t index);

/* Typed member access; absent or of another type is ERR_INPUT that names the member. */
enum err json_get_text(const struct json *object, const char *name, const char **out) MUST_CHECK;
enum err json_get_u64(const struct json *object, const char *name, uint64_t *out) MUST_CHECK;
enum err json_get_number(const struct json *object, const char *name, double *out) MUST_CHECK;
enum err json_get_bool(const struct json *object, const char *name, bool *out) MUST_CHECK;
enum err json_get_array(const struct json *object, const char *name, struct json **out) MUST_CHECK;
enum err json_get_object(const struct json *object, const char *name, struct json **out) MUST_CHECK;

/* The value itself as text or number; CHECKs nothing: NULL / 0 for another type. */
const char *json_as_text(const struct json *j);
int64_t json_as_int(const struct json *j);
double json_as_number(const struct json *j); /* integers too */
bool json_as_bool(const struct json *j);

#endif
