/*
 * settings_print.c - one value: C to YAML text, in the one form that everything writes.
 */
#include "common/settings_table.h"

#include <math.h>
#include <string.h>

#include "common/check.h"

static bool is_plain(const char *text)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", NULL};
    bool letter = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || *text == '_';
    for (const char *p = text; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-", *p))
            return false;
    for (size_t i = 0; words[i]; i++)
        if (!strcasecmp(text, words[i]))
            return false;
    return letter;
}

static void print_quoted(const char *text, bool escape_variables, struct str *out)
{
    if (is_plain(text)) {
        str_append(out, text);
        return;
    }
    str_append(out, "\"");
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            str_append_format(out, "\\%c", c);
        else if (c == '\t')
            str_append(out, "\\t");
        else if (c == '\n')
            str_append(out, "\\n");
        else if (c < 0x20 || c == 0x7f)
            str_append_format(out, "\\x%02x", c);
        else if (escape_variables && c == '$' && p[1] == '{')
            str_append(out, "$$");
        else
            str_append_span(out, span_make(p, 1));
    }
    str_append(out, "\"");
}

void value_print_text(const char *text, struct str *out)
{
    print_quoted(text, true, out);
}

void value_print_name(const char *name, struct str *out)
{
    print_quoted(name, false, out);
}

void value_print_f64(double value, struct str *out)
{
    if (value == floor(value) && fabs(value) <= 1e15) {
        str_append_format(out, "%.0f", value + 0.0); /* no "-0" */
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        struct str text = {0};
        double back;
        str_append_format(&text, "%.*g", digits, value);
        bool same = !str_parse_f64(span_of(text.data), &back) && back == value;
        if (same || digits == 17)
            str_append(out, text.data);
        str_deinit(&text);
        if (same)
            return;
    }
}

static void print_with_unit(uint64_t value, const struct setting_unit *units, struct str *out)
{
    size_t i = 0;
    while (units[i].factor > 1 && (!value || value % units[i].factor))
        i++;
    if (!value)
        str_append(out, "0");
    else
        str_append_format(out, "%llu%s", (unsigned long long)(value / units[i].factor),
                          units[i].name);
}

void value_print_duration(uint64_t ms, struct str *out)
{
    print_with_unit(ms, setting_durations, out);
}

void value_print_bytes(uint64_t bytes, struct str *out)
{
    print_with_unit(bytes, setting_sizes, out);
}

void value_print_list(const struct text_list *list, struct str *out)
{
    str_append(out, "[");
    for (size_t i = 0; i < list->count; i++) {
        if (i)
            str_append(out, ", ");
        value_print_text(list->items[i], out);
    }
    str_append(out, "]");
}

static bool is_null(const struct setting *row, const void *place)
{
    if (strcmp(row->initial, "~"))
        return row->type == SETTING_TEXT && !*(char *const *)place;
    switch (row->type) {
    case SETTING_TEXT:
        return !*(char *const *)place;
    case SETTING_LIST:
        return !((const struct text_list *)place)->count;
    case SETTING_U32:
    case SETTING_MS32:
        return !*(const uint32_t *)place;
    case SETTING_CHAR:
        return !*(const char *)place;
    case SETTING_F64:
        return *(const double *)place == 0;
    default:
        return !*(const uint64_t *)place;
    }
}

static void print_char(char c, struct str *out)
{
    char text[2] = {c, 0};
    str_append(out, "\"");
    str_append(out, c == '\t' ? "\\t" : c == '\\' ? "\\\\" : text);
    str_append(out, "\"");
}

void value_write(const struct setting *row, const void *place, struct str *out)
{
    uint32_t index;
    if (row->type == SETTING_CUSTOM) {
        row->write(row, place, out);
        return;
    }
    if (is_null(row, place)) {
        str_append(out, "~");
        return;
    }
    switch (row->type) {
    case SETTING_BOOL:
        str_append(out, *(const bool *)place ? "true" : "false");
        break;
    case SETTING_U32:
        str_append_format(out, "%u", *(const uint32_t *)place);
        break;
    case SETTING_U64:
        str_append_format(out, "%llu", (unsigned long long)*(const uint64_t *)place);
        break;
    case SETTING_F64:
        value_print_f64(*(const double *)place, out);
        break;
    case SETTING_TEXT:
        value_print_text(*(char *const *)place, out);
        break;
    case SETTING_NAME16:
        value_print_text(place, out);
        break;
    case SETTING_LIST:
        value_print_list(place, out);
        break;
    case SETTING_CHOICE:
        memcpy(&index, place, sizeof index);
        str_append(out, row->choices[index]);
        break;
    case SETTING_CHAR:
        print_char(*(const char *)place, out);
        break;
    case SETTING_MS32:
        value_print_duration(*(const uint32_t *)place, out);
        break;
    case SETTING_MS64:
        value_print_duration((uint64_t) * (const int64_t *)place, out);
        break;
    case SETTING_BYTES:
        value_print_bytes(*(const uint64_t *)place, out);
        break;
    default:
        CHECK(!"a group has no value of its own");
    }
}
