/*
 * features_value.c - from the text of one value to a number or a key. What a key is, is public:
 * docs/key-hash.md.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/hash.h"
#include "worker/features_internal.h"

enum err feature_error(const struct feature_input *in, const struct feature *x, struct span field,
                       const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return reader_error(in->call->reader, field.data, "%s; feature '%s'", text, x->spec->name);
}

static int shown(struct span text)
{
    return text.size < 60 ? (int)text.size : 60;
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Exactly `count` digits. */
static bool take_digits(struct span *rest, size_t count, int64_t *out)
{
    int64_t value = 0;
    if (rest->size < count)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (rest->data[i] < '0' || rest->data[i] > '9')
            return false;
        value = value * 10 + (rest->data[i] - '0');
    }
    rest->data += count;
    rest->size -= count;
    *out = value;
    return true;
}

static bool take(struct span *rest, char c)
{
    if (rest->size == 0 || rest->data[0] != c)
        return false;
    rest->data++;
    rest->size--;
    return true;
}

/* Days since 1970-01-01 of a date in the Gregorian calendar (H. Hinnant, chrono-compatible
 * algorithms). */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int64_t month_days(int64_t year, int64_t month)
{
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 ? 28 + leap
                      : 30 + (month == 4 || month == 6 || month == 9 || month == 11 ? 0 : 1);
}

/* "Z", "+02:00", "-0330", "+02" or nothing, in minutes. */
static bool take_zone(struct span *rest, int64_t *minutes)
{
    int64_t hour = 0, minute = 0;
    bool minus = rest->size > 0 && rest->data[0] == '-';
    *minutes = 0;
    if (rest->size == 0 || take(rest, 'Z') || take(rest, 'z'))
        return rest->size == 0;
    if (!take(rest, '+') && !take(rest, '-'))
        return false;
    if (!take_digits(rest, 2, &hour))
        return false;
    take(rest, ':');
    if (rest->size > 0 && !take_digits(rest, 2, &minute))
        return false;
    *minutes = (minus ? -1 : 1) * (hour * 60 + minute);
    return rest->size == 0 && hour < 24 && minute < 60;
}

static bool parse_iso(struct span rest, int64_t *ms_out)
{
    int64_t year, month, day, hour = 0, minute = 0, second = 0, ms = 0, zone = 0;
    if (!take_digits(&rest, 4, &year) || !take(&rest, '-') || !take_digits(&rest, 2, &month) ||
        !take(&rest, '-') || !take_digits(&rest, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1 || day > month_days(year, month))
        return false;
    if (rest.size > 0) {
        if (!take(&rest, 'T') && !take(&rest, ' ') && !take(&rest, 't'))
            return false;
        if (!take_digits(&rest, 2, &hour) || !take(&rest, ':') || !take_digits(&rest, 2, &minute))
            return false;
        if (take(&rest, ':') && !take_digits(&rest, 2, &second))
            return false;
        if (take(&rest, '.')) {
            int64_t scale = 100, digit;
            if (rest.size == 0 || rest.data[0] < '0' || rest.data[0] > '9')
                return false;
            for (; take_digits(&rest, 1, &digit); scale /= 10)
                ms += digit * scale;
        }
        if (!take_zone(&rest, &zone))
            return false;
    }
    if (hour > 23 || minute > 59 || second > 60)
        return false;
    int64_t minutes = (days_of(year, month, day) * 24 + hour) * 60 + minute - zone;
    *ms_out = (minutes * 60 + second) * 1000 + ms;
    return true;
}

bool features_parse_time(struct span text, int64_t *ms_out)
{
    double number;
    text = span_trim(text);
    if (text.size > 4 && text.data[4] == '-')
        return parse_iso(text, ms_out);
    if (!reader_number(text, &number) || fabs(number) > 1e15)
        return false;
    *ms_out = (int64_t)(fabs(number) > 1e11 ? number : floor(number * 1000 + 0.5));
    return true;
}

/* ---- keys ------------------------------------------------------------------------------------ */

uint64_t feature_hash(const struct feature *x, const void *data, size_t size)
{
    return hash64(data, size, x->spec->seed);
}

/* Decimal digits at the end of `text`, which holds at least 20; returns where they begin. */
static char *format_u64(uint64_t value, char *end)
{
    do
        *--end = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    return end;
}

static uint64_t hash_u64(const struct feature *x, uint64_t value)
{
    char text[20], *start = format_u64(value, text + sizeof text);
    return feature_hash(x, start, (size_t)(text + sizeof text - start));
}

/* A whole number as decimal text; any other as the shortest digits that read back the same. */
static uint64_t hash_number(const struct feature *x, double value)
{
    char text[40], *end = text + sizeof text, *start = NULL;
    if (value == floor(value) && fabs(value) < 1e15) {
        start = format_u64((uint64_t)fabs(value), end);
        if (value < 0)
            *--start = '-';
        return feature_hash(x, start, (size_t)(end - start));
    }
    int size = 0;
    for (int digits = 15; digits <= 17; digits++) {
        double again;
        size = snprintf(text, sizeof text, "%.*g", digits, value);
        if (str_parse_f64(span_make(text, (size_t)size), &again) == ERR_NONE && again == value)
            break;
    }
    return feature_hash(x, text, (size_t)size);
}

uint64_t feature_final_key(const struct features *f, const struct feature *x, uint64_t key)
{
    if (key == x->missing_key)
        return key;
    if (x->has_vocab && !keyset_has(&x->vocab, key))
        return x->unknown_key;
    if (x->has_min_count && !keyset_has(&x->frequent, key))
        return x->unknown_key;
    if (x->job->buckets == 0)
        return key;
    key %= x->job->buckets;
    return x->job->key == KEY_INTEGER ? key : hash_u64(x, key);
}

uint64_t feature_index_key(const struct feature *x, uint64_t index)
{
    return x->job->key == KEY_INTEGER ? index : hash_u64(x, index);
}

enum err feature_text_key(const struct feature_input *in, const struct feature *x, struct span text,
                          uint64_t *out)
{
    if (x->job->key == KEY_HASH) {
        *out = feature_hash(x, text.data, text.size);
        return ERR_NONE;
    }
    int64_t value;
    uint64_t large;
    struct span number = span_trim(text);
    if (str_parse_i64(number, &value) == ERR_NONE)
        *out = (uint64_t)value;
    else if (str_parse_u64(number, &large) == ERR_NONE)
        *out = large;
    else
        return feature_error(in, x, text, "'%.*s' is not an integer, which key: integer asks for",
                             shown(text), text.data);
    return ERR_NONE;
}

/* ---- numbers --------------------------------------------------------------------------------- */

static bool wants_time(const struct job_feature *job)
{
    for (size_t i = 0; i < job->transform_count; i++) {
        enum transform_kind kind = job->transforms[i].kind;
        if (kind == TRANSFORM_HOUR || kind == TRANSFORM_WEEKDAY)
            return true;
    }
    return false;
}

static double modulo(double value, double of)
{
    return value - of * floor(value / of);
}

double feature_log2_floor(double value)
{
    if (value <= 2)
        return value;
    double l = log(value);
    return floor(l * l);
}

static double transform(const struct feature_input *in, const struct feature *x,
                        const struct job_transform *t, double value)
{
    const struct features_observer *o = in->call->observer;
    switch (t->kind) {
    case TRANSFORM_CLIP:
        return value < t->a ? t->a : value > t->b ? t->b : value;
    case TRANSFORM_LOG1P:
        return log1p(value > 0 ? value : 0);
    case TRANSFORM_SQRT:
        return sqrt(value > 0 ? value : 0);
    case TRANSFORM_STANDARDIZE:
        if (!t->has_constants && o != NULL && o->moment != NULL)
            o->moment(o->context, x->index, value);
        if (t->has_constants)
            return (value - t->a) / (t->b > 0 ? t->b : 1);
        return (value - x->mean) / x->deviation;
    case TRANSFORM_MINMAX:
        return (value - t->a) / (t->b - t->a);
    case TRANSFORM_LOG2_FLOOR:
        if (value >= 0 && value < LOG2_FLOOR_KNOWN && value == (uint32_t)value)
            return in->f->log2_floor[(uint32_t)value];
        return feature_log2_floor(value);
    case TRANSFORM_HOUR: /* of ms since 1970, UTC */
        return floor(modulo(value, 86400e3) / 3600e3);
    case TRANSFORM_WEEKDAY: /* 0 is Monday; 1970 began with a Thursday */
        return modulo(floor(value / 86400e3) + 3, 7);
    }
    return value;
}

enum err feature_number(const struct feature_input *in, const struct feature *x, double *out,
                        bool *missing)
{
    const struct job_feature *job = x->job;
    const struct features_observer *o = in->call->observer;
    struct span text = in->record->fields[x->field];
    double value = job->missing_number;
    bool has_time = job->transform_count > 0 && wants_time(job);
    if (text.data != NULL)
        text = span_trim(text);
    *missing = text.data == NULL || text.size == 0;
    if (*missing && job->missing == MISSING_ERROR)
        return feature_error(in, x, text, "the value is missing");
    if (*missing && o != NULL && o->missing != NULL)
        o->missing(o->context, x->index);
    if (*missing && job->missing != MISSING_NUMBER) {
        *out = 0;
        return ERR_NONE;
    }
    if (!*missing && has_time) {
        int64_t ms;
        if (!features_parse_time(text, &ms))
            return feature_error(in, x, text, "'%.*s' is not a time; epoch seconds or ISO 8601",
                                 shown(text), text.data);
        value = (double)ms;
    } else if (!*missing && !reader_number(text, &value)) {
        return feature_error(in, x, text, "'%.*s' is not a number", shown(text), text.data);
    }
    if (!*missing && o != NULL && o->number != NULL)
        o->number(o->context, x->index, value);
    for (size_t i = 0; i < job->transform_count; i++)
        value = transform(in, x, &job->transforms[i], value);
    *out = value;
    return ERR_NONE;
}

static uint64_t bucket_of(const struct job_feature *job, double value)
{
    uint64_t bucket = 0;
    while (bucket < job->bucketize_count && value >= job->bucketize[bucket])
        bucket++;
    return bucket;
}

enum err feature_single_key(const struct feature_input *in, const struct feature *x, uint64_t *out,
                            bool *missing)
{
    const struct features_observer *o = in->call->observer;
    if (x->job->type == FEATURE_NUMERIC) {
        double value;
        enum err e = feature_number(in, x, &value, missing);
        *missing = *missing && x->job->missing != MISSING_NUMBER;
        if (e != ERR_NONE || *missing)
            return e;
        *out = x->job->bucketize_count > 0 ? hash_u64(x, bucket_of(x->job, value))
                                           : hash_number(x, value);
        return ERR_NONE;
    }
    struct span text = in->record->fields[x->field];
    *missing = text.data == NULL || text.size == 0;
    if (!*missing)
        return feature_text_key(in, x, text, out);
    if (x->job->missing == MISSING_ERROR)
        return feature_error(in, x, text, "the value is missing");
    if (o != NULL && o->missing != NULL)
        o->missing(o->context, x->index);
    return ERR_NONE;
}
