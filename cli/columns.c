#include "cli/columns.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"

static char **next_cell(struct columns *c)
{
    size_t last = c->row_count ? c->row_count - 1 : 0;

    if (c->row_count && !c->rows[last][c->count - 1])
        for (size_t i = 0; i < c->count; i++)
            if (!c->rows[last][i])
                return &c->rows[last][i];
    c->rows = must_realloc(c->rows, c->row_count + 1, sizeof *c->rows);
    memset(c->rows[c->row_count], 0, sizeof *c->rows);
    return &c->rows[c->row_count++][0];
}

void columns_init(struct columns *c, const char *const *names)
{
    *c = (struct columns){0};
    while (names[c->count])
        c->count++;
    CHECK(c->count > 0 && c->count <= COLUMNS_MAX);
    for (size_t i = 0; i < c->count; i++)
        *next_cell(c) = must_strdup(names[i]);
}

void columns_add(struct columns *c, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    *next_cell(c) = must_strdup(size > 0 ? text : "-");
}

void columns_print(const struct columns *c, FILE *to)
{
    size_t widths[COLUMNS_MAX] = {0};

    for (size_t r = 0; r < c->row_count; r++)
        for (size_t i = 0; i < c->count; i++)
            if (c->rows[r][i] && strlen(c->rows[r][i]) > widths[i])
                widths[i] = strlen(c->rows[r][i]);
    for (size_t r = 0; r < c->row_count; r++) {
        for (size_t i = 0; i < c->count && c->rows[r][i]; i++) {
            bool is_last = i + 1 == c->count;
            fprintf(to, "%-*s%s", is_last ? 0 : (int)widths[i], c->rows[r][i],
                    is_last ? "\n" : "  ");
        }
    }
}

void columns_deinit(struct columns *c)
{
    for (size_t r = 0; r < c->row_count; r++)
        for (size_t i = 0; i < c->count; i++)
            mem_free(c->rows[r][i]);
    mem_free(c->rows);
    *c = (struct columns){0};
}

char *text_of_seconds(uint64_t seconds)
{
    if (seconds < 120)
        return must_format("%" PRIu64 "s", seconds);
    if (seconds < 120 * 60)
        return must_format("%" PRIu64 "min", seconds / 60);
    if (seconds < 48 * 3600)
        return must_format("%" PRIu64 "h", seconds / 3600);
    return must_format("%" PRIu64 "d", seconds / 86400);
}

char *text_of_age(uint64_t unix_ms)
{
    uint64_t now = clock_wall_ms();

    if (!unix_ms)
        return must_strdup("");
    return text_of_seconds(now > unix_ms ? (now - unix_ms) / 1000 : 0);
}

char *text_of_bytes(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    return must_format("%.*f %s", unit ? 1 : 0, value, units[unit]);
}

char *text_of_time(uint64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;
    char text[32] = "?";

    if (gmtime_r(&seconds, &parts))
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    return must_format("%s.%03u", text, (unsigned)(unix_ms % 1000));
}
