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
#include "common/storage.h"
#include "tests/support/storage_tool.h"

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
    bool reads = count > 1 && strcmp(arguments[1], "--read") == 0;
    int first = reads ? 2 : 1;
    struct storage_list list = {0};
    int code = storage_tool_begin(count, arguments, first,
                                  "storage_list [--read] URI [--set NAME=VALUE]...");
    if (code != 0)
        return code;
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
    storage_tool_end();
    return e != ERR_NONE;
}
