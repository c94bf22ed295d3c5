#include "tests/support/storage_tool.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/storage.h"

static struct daemon_settings *settings;

int storage_tool_begin(int count, char **arguments, int words, const char *usage)
{
    const char **sets = must_alloc((size_t)(count + 1) * sizeof *sets);
    size_t set_count = 0;
    bool is_good = count > words;
    for (int i = words + 1; i < count && is_good; i += 2) {
        is_good = strcmp(arguments[i], "--set") == 0 && i + 1 < count;
        if (is_good)
            sets[set_count++] = arguments[i + 1];
    }
    log_set_level(LOG_WARN);
    if (!is_good)
        fprintf(stderr, "usage: %s\n", usage);
    else if (daemon_settings_parse("--set", NULL, 0, sets, &settings) == ERR_NONE)
        storage_configure(&settings->storage);
    else
        fprintf(stderr, "%s: %s\n", usage, err_text());
    mem_free(sets);
    return settings != NULL ? 0 : 2;
}

void storage_tool_end(void)
{
    daemon_settings_destroy(settings);
    settings = NULL;
}
