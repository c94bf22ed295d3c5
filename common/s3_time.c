#include "common/s3_time.h"

#include <string.h>

#include "common/mem.h"

void s3_time_format(uint64_t time_ms, char out[S3_TIME_SIZE])
{
    uint64_t seconds = time_ms / 1000;
    uint64_t day = seconds / 86400 + 719468, second = seconds % 86400;
    uint64_t era = day / 146097, of_era = day % 146097;
    uint64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t shifted = (5 * of_year + 2) / 153; /* March is 0 */
    uint64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    uint64_t year = year_of_era + era * 400 + (month <= 2);
    char *text =
        must_format("%04u%02u%02uT%02u%02u%02uZ", (unsigned)(year % 10000), (unsigned)month,
                    (unsigned)(of_year - (153 * shifted + 2) / 5 + 1), (unsigned)(second / 3600),
                    (unsigned)(second / 60 % 60), (unsigned)(second % 60));
    memcpy(out, text, S3_TIME_SIZE);
    mem_free(text);
}

static uint64_t time_of(const uint64_t parts[6])
{
    uint64_t month = parts[1], year = parts[0] - (month <= 2);
    uint64_t shifted = month > 2 ? month - 3 : month + 9;
    uint64_t of_era = year % 400;
    uint64_t of_year = (153 * shifted + 2) / 5 + parts[2] - 1;
    uint64_t day = year / 400 * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    return ((day - 719468) * 86400 + parts[3] * 3600 + parts[4] * 60 + parts[5]) * 1000;
}

/* Fields of a time in text: `form` has Y M D h m s where their digits stand, and else the text. */
static bool read_fields(struct span text, const char *form, uint64_t parts[6])
{
    static const char names[] = "YMDhms";
    memset(parts, 0, 6 * sizeof *parts);
    if (text.size < strlen(form))
        return false;
    for (size_t i = 0; form[i] != '\0'; i++) {
        const char *name = strchr(names, form[i]);
        char c = text.data[i];
        if (name == NULL ? form[i] != '?' && c != form[i] : c < '0' || c > '9')
            return false;
        if (name != NULL)
            parts[name - names] = parts[name - names] * 10 + (uint64_t)(c - '0');
    }
    return true;
}

static bool is_valid(const uint64_t parts[6])
{
    return parts[0] >= 1970 && parts[1] >= 1 && parts[1] <= 12 && parts[2] >= 1 && parts[2] <= 31 &&
           parts[3] < 24 && parts[4] < 60 && parts[5] <= 60;
}

enum err s3_time_parse(struct span text, uint64_t *out)
{
    static const char form[] = "YYYY-MM-DDThh:mm:ss";
    uint64_t parts[6];
    size_t at = sizeof form - 1;
    bool good = read_fields(text, form, parts) && is_valid(parts);
    if (good && at < text.size && text.data[at] == '.') {
        do {
            at++;
        } while (at < text.size && text.data[at] >= '0' && text.data[at] <= '9');
    }
    if (!good || at + 1 != text.size || text.data[at] != 'Z')
        return err_set(ERR_INPUT, "'%.*s' is no time like 2013-05-24T10:11:12Z", (int)text.size,
                       text.data);
    *out = time_of(parts);
    return ERR_NONE;
}

enum err s3_time_parse_http(struct span text, uint64_t *out)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    uint64_t parts[6];
    bool good = read_fields(text, "???, DD ??? YYYY hh:mm:ss ???", parts) && text.size == 29 &&
                memcmp(text.data + 26, "GMT", 3) == 0;
    for (size_t i = 0; good && i < 12; i++) {
        if (memcmp(text.data + 8, months + 3 * i, 3) == 0)
            parts[1] = i + 1;
    }
    if (!good || !is_valid(parts))
        return err_set(ERR_INPUT, "'%.*s' is no time like Fri, 24 May 2013 10:11:12 GMT",
                       (int)text.size, text.data);
    *out = time_of(parts);
    return ERR_NONE;
}
