/*
 * storage_list.c - prints what is in a directory of a store: "NAME SIZE", one a line, a directory's
 * size as "/". With --read it opens and reads each file too, and compares its size.
 *
 *     storage_list [--read] URI [--set NAME=VALUE]...
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/settings.h"
#include "common/storage.h"

static enum err read_back(const char *directory, const struct storage_entry *entry)
{
    char *uri = storage_join(directory, entry->name), *data = NULL;
    size_t size = 0;
    enum err e = storage_read_all(uri, (size_t)64 << 20, &data, &size);
    if (e == ERR_NONE && size != entry->info.size)
        e = err_set(ERR_CORRUPT, "'%s' has %zu bytes", uri, size);
    mem_free(data);
    mem_free(uri);
    return e;
}

int main(int count, char **arguments)
{
    const char **sets = must_alloc((size_t)(count + 1) * sizeof *sets);
    bool reads = count > 1 && strcmp(arguments[1], "--read") == 0;
    int first = reads ? 2 : 1;
    size_t set_count = 0;
    struct daemon_settings *settings;
    struct storage_list list = {0};
    for (int i = first + 1; i + 1 < count; i += 2)
        sets[set_count++] = arguments[i + 1];
    if (first >= count || daemon_settings_parse("--set", NULL, 0, sets, &settings) != ERR_NONE) {
        fprintf(stderr, "storage_list [--read] URI [--set NAME=VALUE]...: %s\n", err_text());
        return 2;
    }
    storage_configure(&settings->storage);
    enum err e = storage_list(arguments[first], &list);
    for (size_t i = 0; i < list.count && e == ERR_NONE; i++) {
        const struct storage_entry *entry = &list.entries[i];
        if (entry->info.is_directory)
            printf("%s /\n", entry->name);
        else
            printf("%s %" PRIu64 "\n", entry->name, entry->info.size);
        if (reads && !entry->info.is_directory)
            e = read_back(arguments[first], entry);
    }
    if (e != ERR_NONE)
        fprintf(stderr, "%s\n", err_text());
    storage_list_deinit(&list);
    daemon_settings_destroy(settings);
    mem_free(sets);
    return e != ERR_NONE;
}
