/*
 * settings_value.c - one value: YAML text to C and back, with errors that say what would be right.
 */
#include "common/settings_table.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

/* Down to the unit 1 they are written, the largest that divides; the others are read only. */
const struct setting_unit setting_durations[] = {
    {"d", 86400000}, {"h", 3600000}, {"min", 60000}, {"s", 1000},
    {"ms", 1},       {"m", 60000},   {NULL, 0},
};
const struct setting_unit setting_sizes[] = {
    {"TiB", (uint64_t)1 << 40},
    {"GiB", (uint64_t)1 << 30},
    {"MiB", (uint64_t)1 << 20},
    {"KiB", (uint64_t)1 << 10},
    {"B", 1},
    {"TB", 1000000000000},
    {"GB", 1000000000},
    {"MB", 1000000},
    {"KB", 1000},
    {"kB", 1000},
    {NULL, 0},
};

/* ---- errors --------------------------------------------------------------------------------- */

enum err value_error(const struct setting *row, const struct conf_node *n, const char *path,
                     const char *problem)
{
    struct str text = {0}, right = {0};
    if (n->kind == CONF_SCALAR)
        str_append_format(&text, "value '%s'", n->text);
    else
        str_append(&text, n->kind == CONF_LIST ? "a list" : "a map");
    value_describe(row, &right);
    enum err e =
        setting_error(ERR_INPUT, n, path, "%s %s; give %s", text.data, problem, right.data);
    str_deinit(&text);
    str_deinit(&right);
    return e;
}

static void describe_bounds(const struct setting *row, const char *noun, struct str *out)
{
    str_append(out, noun);
    if (row->min == 0 && row->max == 0)
        return;
    if (isinf(row->max)) {
        str_append_format(out, row->exclusive_min ? " above " : " of at least ");
        value_print_f64(row->min, out);
        return;
    }
    str_append(out, row->exclusive_min ? " above " : " from ");
    value_print_f64(row->min, out);
    str_append(out, row->exclusive_min ? " and up to " : " to ");
    value_print_f64(row->max, out);
}

static void describe_choices(const struct setting *row, struct str *out)
{
    if (row->choices[0] && row->choices[1])
        str_append(out, "one of ");
    for (size_t i = 0; row->choices[i]; i++)
        str_append_format(out, "%s%s", i ? ", " : "", row->choices[i]);
}

void value_describe(const struct setting *row, struct str *out)
{
    if (row->form) {
        str_append(out, row->form);
        return;
    }
    switch (row->type) {
    case SETTING_BOOL:
        str_append(out, "true or false");
        break;
    case SETTING_U32:
    case SETTING_U64:
        describe_bounds(row, "a whole number", out);
        break;
    case SETTING_F64:
        describe_bounds(row, "a number", out);
        break;
    case SETTING_NAME16:
    case SETTING_CHOICE:
        describe_choices(row, out);
        break;
    case SETTING_LIST:
        str_append(out, "a text or a list of texts");
        break;
    case SETTING_CHAR:
        str_append(out, "one character");
        break;
    case SETTING_MS32:
    case SETTING_MS64:
        str_append(out, "a duration such as 500ms, 30s, 5min, 2h, 1d");
        break;
    case SETTING_BYTES:
        str_append(out, "a size such as 64KiB, 256MiB, 2GiB");
        break;
    case SETTING_GROUP:
        str_append(out, "a map of settings");
        break;
    case SETTING_LATER:
        str_append(out, "nothing: this version does not have it");
        return;
    case SETTING_TEXT:
    case SETTING_CUSTOM:
        if (row->choices)
            describe_choices(row, out);
        else
            str_append(out, "text");
        break;
    }
    if (!strcmp(row->initial, "~"))
        str_append(out, ", or ~ for none");
}

/* ---- reading -------------------------------------------------------------------------------- */

enum err value_text(const struct setting *row, const struct conf_node *n, const char *path,
                    const char **out)
{
    if (n->kind != CONF_SCALAR)
        return value_error(row, n, path, "is not a single value");
    if (conf_is_null(n))
        return value_error(row, n, path, "is nothing");
    if (n->quoted && !*n->text)
        return value_error(row, n, path, "is empty");
    *out = n->text;
    return ERR_NONE;
}

static enum err read_plain(const struct setting *row, const struct conf_node *n, const char *path,
                           const char **out)
{
    enum err e = value_text(row, n, path, out);
    if (!e && n->quoted)
        return value_error(row, n, path, "is text, being in quotes");
    return e;
}

static enum err check_bounds(const struct setting *row, const struct conf_node *n, const char *path,
                             double value)
{
    if (row->min == 0 && row->max == 0)
        return ERR_NONE;
    struct str problem = {0};
    if (value < row->min || (row->exclusive_min && value <= row->min)) {
        str_append(&problem, row->exclusive_min ? "is not above " : "is below ");
        value_print_f64(row->min, &problem);
    } else if (value > row->max) {
        str_append(&problem, "is above ");
        value_print_f64(row->max, &problem);
    }
    enum err e = problem.size ? value_error(row, n, path, problem.data) : ERR_NONE;
    str_deinit(&problem);
    return e;
}

enum err value_u64(const struct setting *row, const struct conf_node *n, const char *path,
                   uint64_t *out)
{
    const char *text;
    uint64_t value;
    enum err e = read_plain(row, n, path, &text);
    if (e)
        return e;
    if (str_parse_u64(span_of(text), &value)) {
        double number;
        if (!str_parse_f64(span_of(text), &number) && number < 0 &&
            (row->min != 0 || row->max != 0))
            return check_bounds(row, n, path, number);
        return value_error(row, n, path, "is not a whole number");
    }
    if (row->type == SETTING_U32 && value > UINT32_MAX && row->max == 0)
        return value_error(row, n, path, "is above 4294967295");
    e = check_bounds(row, n, path, (double)value);
    if (!e)
        *out = value;
    return e;
}

enum err value_f64(const struct setting *row, const struct conf_node *n, const char *path,
                   double *out)
{
    const char *text;
    double value;
    enum err e = read_plain(row, n, path, &text);
    if (e)
        return e;
    if (str_parse_f64(span_of(text), &value))
        return value_error(row, n, path, "is not a number");
    e = check_bounds(row, n, path, value);
    if (!e)
        *out = value;
    return e;
}

static enum err read_with_unit(const struct setting *row, const struct conf_node *n,
                               const char *path, const struct setting_unit *units, uint64_t *out)
{
    const char *text;
    enum err e = value_text(row, n, path, &text);
    if (e)
        return e;
    size_t digits = strspn(text, "0123456789.");
    struct span unit = span_trim(span_of(text + digits));
    double number;
    if (str_parse_f64(span_make(text, digits), &number))
        return value_error(row, n, path, "does not begin with a number");
    uint64_t factor = units == setting_sizes && !unit.size ? 1 : 0;
    for (size_t i = 0; units[i].name; i++)
        if (span_is(unit, units[i].name))
            factor = units[i].factor;
    if (!factor && (unit.size || number != 0))
        return value_error(row, n, path, unit.size ? "has an unknown unit" : "lacks its unit");
    double value = number * (double)factor;
    if (value > 9.0e15)
        return value_error(row, n, path, "is too large");
    if (value != floor(value))
        return value_error(row, n, path, "is not a whole number of the smallest unit");
    if (row->type == SETTING_MS32 && value > UINT32_MAX)
        return value_error(row, n, path, "is longer than 49 days");
    e = check_bounds(row, n, path, value);
    if (!e)
        *out = (uint64_t)value;
    return e;
}

static bool contains(const char *const *list, const char *text)
{
    for (size_t i = 0; list && list[i]; i++)
        if (!strcmp(list[i], text))
            return true;
    return false;
}

enum err value_choice(const struct setting *row, const struct conf_node *n, const char *path,
                      uint32_t *out)
{
    const char *text;
    enum err e = value_text(row, n, path, &text);
    if (e)
        return e;
    for (uint32_t i = 0; row->choices[i]; i++) {
        if (!strcmp(row->choices[i], text)) {
            *out = i;
            return ERR_NONE;
        }
    }
    struct str right = {0};
    value_describe(row, &right);
    const char *nearest = str_nearest(text, row->choices);
    if (contains(row->later, text))
        e = setting_error(ERR_UNSUPPORTED, n, path, "'%s' is not in this version; give %s", text,
                          right.data);
    else if (nearest)
        e = setting_error(ERR_INPUT, n, path, "value '%s' is unknown; did you mean '%s'? give %s",
                          text, nearest, right.data);
    else
        e = value_error(row, n, path, "is unknown");
    str_deinit(&right);
    return e;
}

void value_list_clear(struct text_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        mem_free(list->items[i]);
    mem_free(list->items);
    *list = (struct text_list){0};
}

enum err value_list(const struct setting *row, const struct conf_node *n, const char *path,
                    struct text_list *out)
{
    struct text_list list = {0};
    bool single = n->kind == CONF_SCALAR;
    if (n->kind == CONF_MAP)
        return value_error(row, n, path, "is not a list");
    list.count = conf_is_null(n) ? 0 : single ? 1 : n->count;
    list.items = must_alloc((list.count + 1) * sizeof *list.items);
    for (size_t i = 0; i < list.count; i++) {
        const struct conf_node *item = single ? n : n->items[i];
        if (item->kind != CONF_SCALAR || (conf_is_null(item) && !item->quoted)) {
            value_list_clear(&list);
            return value_error(row, item, path, "is not text");
        }
        list.items[i] = must_strdup(item->text);
    }
    value_list_clear(out);
    *out = list;
    return ERR_NONE;
}

static enum err read_bool(const struct setting *row, const struct conf_node *n, const char *path,
                          bool *out)
{
    const char *text;
    enum err e = read_plain(row, n, path, &text);
    if (e)
        return e;
    bool yes = !strcmp(text, "true");
    if (!yes && strcmp(text, "false"))
        return value_error(row, n, path, "is neither true nor false");
    *out = yes;
    return ERR_NONE;
}

static enum err read_char(const struct setting *row, const struct conf_node *n, const char *path,
                          char *out)
{
    const char *text;
    enum err e = value_text(row, n, path, &text);
    if (e)
        return e;
    if (!strcmp(text, "\\t") || !strcmp(text, "tab"))
        text = "\t";
    if (strlen(text) != 1)
        return value_error(row, n, path, "is not one character of ASCII");
    if (*text == '\n' || *text == '\r' || *text == '"')
        return value_error(row, n, path, "cannot separate values");
    *out = *text;
    return ERR_NONE;
}

/* "~" where it is allowed: nothing, 0. */
static void read_null(const struct setting *row, void *place)
{
    switch (row->type) {
    case SETTING_TEXT:
        mem_free(*(char **)place);
        *(char **)place = NULL;
        break;
    case SETTING_LIST:
        value_list_clear(place);
        break;
    case SETTING_U32:
    case SETTING_MS32:
        *(uint32_t *)place = 0;
        break;
    case SETTING_CHAR:
        *(char *)place = 0;
        break;
    case SETTING_U64:
    case SETTING_MS64:
    case SETTING_BYTES:
        *(uint64_t *)place = 0;
        break;
    case SETTING_F64:
        *(double *)place = 0;
        break;
    default:
        CHECK(!"a row of this type cannot be null");
    }
}

static enum err read_number(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    uint64_t value = 0;
    enum err e;
    if (row->type == SETTING_U32 || row->type == SETTING_U64)
        e = value_u64(row, n, path, &value);
    else
        e = read_with_unit(row, n, path,
                           row->type == SETTING_BYTES ? setting_sizes : setting_durations, &value);
    if (e)
        return e;
    if (row->type == SETTING_U32 || row->type == SETTING_MS32)
        *(uint32_t *)place = (uint32_t)value;
    else
        *(uint64_t *)place = value;
    return ERR_NONE;
}

enum err value_read(const struct setting *row, const struct conf_node *n, const char *path,
                    void *place)
{
    const char *text;
    uint32_t index;
    enum err e = ERR_NONE;
    if (row->type == SETTING_CUSTOM)
        return row->read(row, n, path, place);
    if (conf_is_null(n) && !strcmp(row->initial, "~")) {
        read_null(row, place);
        return ERR_NONE;
    }
    switch (row->type) {
    case SETTING_BOOL:
        return read_bool(row, n, path, place);
    case SETTING_F64:
        return value_f64(row, n, path, place);
    case SETTING_CHAR:
        return read_char(row, n, path, place);
    case SETTING_LIST:
        return value_list(row, n, path, place);
    case SETTING_TEXT:
        e = row->choices ? value_choice(row, n, path, &index) : ERR_NONE;
        if (!e)
            e = value_text(row, n, path, &text);
        if (!e) {
            mem_free(*(char **)place);
            *(char **)place = must_strdup(text);
        }
        return e;
    case SETTING_CHOICE:
        e = value_choice(row, n, path, &index);
        if (!e)
            memcpy(place, &index, sizeof index);
        return e;
    case SETTING_NAME16:
        e = value_choice(row, n, path, &index);
        if (!e) {
            CHECK(strlen(row->choices[index]) < 16);
            strcpy(place, row->choices[index]);
        }
        return e;
    case SETTING_LATER:
        return setting_error(ERR_UNSUPPORTED, n, path,
                             "this version does not have it; leave it out");
    default:
        return read_number(row, n, path, place);
    }
}
