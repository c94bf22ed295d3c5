#include "cli/store_settings.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/settings.h"
#include "common/settings_table.h"
#include "common/storage.h"

#define FILE_MAX_BYTES (1u << 20)

static struct daemon_settings *loaded; /* as long as the process */

static bool is_of_stores(const struct setting *row)
{
    size_t first = offsetof(struct daemon_settings, storage);
    return row->offset >= first && row->offset < first + sizeof(struct storage_settings);
}

static bool sets_store(const char *set)
{
    struct span name = span_make(set, strcspn(set, "="));

    for (size_t i = 0; i < daemon_setting_count; i++)
        if (is_of_stores(&daemon_settings[i]) && span_is(name, daemon_settings[i].path))
            return true;
    return false;
}

char *store_settings_user_file(void)
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (base && *base == '/')
        return must_format("%s/paramd/paramctl.yaml", base);
    return home && *home ? must_format("%s/.config/paramd/paramctl.yaml", home) : NULL;
}

static enum err read_file(char **path, char **text, size_t *size)
{
    char *user = store_settings_user_file();
    enum err err = user ? storage_read_all(user, FILE_MAX_BYTES, text, size) : ERR_NOT_FOUND;

    *path = user;
    if (err != ERR_NOT_FOUND)
        return err;
    mem_free(user);
    *path = must_strdup(STORE_SETTINGS_MACHINE_FILE);
    err = storage_read_all(*path, FILE_MAX_BYTES, text, size);
    return err == ERR_NOT_FOUND ? ERR_NONE : err;
}

enum err store_settings_load(int argc, char **argv)
{
    const char **sets = must_alloc(((size_t)argc + 1) * sizeof *sets);
    char *path = NULL, *text = NULL;
    size_t count = 0, size = 0;
    enum err err = read_file(&path, &text, &size);

    for (int i = 0; i + 1 < argc; i++)
        if (strcmp(argv[i], "--set") == 0 && sets_store(argv[i + 1]))
            sets[count++] = argv[i + 1];
    if (!err)
        err = daemon_settings_parse(text ? path : "--set", text, size, sets, &loaded);
    if (!err)
        storage_configure(&loaded->storage);
    mem_free(text);
    mem_free(path);
    mem_free(sets);
    return err;
}

const char *store_settings_find_other(const struct option_list *sets)
{
    for (size_t i = 0; i < sets->count; i++)
        if (!sets_store(sets->items[i]))
            return sets->items[i];
    return NULL;
}

char **store_settings_sets(void)
{
    char **sets = must_alloc((daemon_setting_count + 1) * sizeof *sets);
    struct str value = {0};
    size_t count = 0;

    for (size_t i = 0; loaded && i < daemon_setting_count; i++) {
        const struct setting *row = &daemon_settings[i];
        if (!is_of_stores(row))
            continue;
        str_clear(&value);
        setting_print(row, loaded, &value);
        if (value.size && strcmp(value.data, row->initial) != 0)
            sets[count++] = must_format("%s=%s", row->path, value.data);
    }
    str_deinit(&value);
    return sets;
}
