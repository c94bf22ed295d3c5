#include "common/registry_local_records.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/crc.h"
#include "common/mem.h"
#include "common/registry_lock.h"
#include "common/storage.h"

#define FILE_MAX_BYTES REGISTRY_LOCAL_FILE_MAX_BYTES

enum err registry_local_write(const char *path, struct span head, struct span data)
{
    const bool overwrite = true;
    struct storage_writer *w;
    enum err e = storage_write_open(path, overwrite, &w);
    if (e != ERR_NONE)
        return e;
    e = storage_write(w, head.data, head.size);
    if (e == ERR_NONE && data.size > 0)
        e = storage_write(w, data.data, data.size);
    if (e != ERR_NONE) {
        storage_write_abort(w);
        return e;
    }
    return storage_write_close(w);
}

/* ---- the term ---- */

enum err registry_local_read_term(const char *directory, uint64_t *term)
{
    char *path = storage_join(directory, REGISTRY_LOCAL_TERM);
    char *text = NULL;
    size_t size = 0;
    uint64_t found = 0;
    enum err e = storage_read_all(path, 64, &text, &size);
    if (e == ERR_NOT_FOUND)
        e = ERR_NONE;
    else if (e == ERR_NONE && str_parse_u64(span_make(text, size), &found) != ERR_NONE)
        e = err_set(ERR_CORRUPT, "'%s' holds no term but '%s'", path, text);
    if (e == ERR_NONE)
        *term = found;
    mem_free(text);
    mem_free(path);
    return e;
}

/* Under the lock of the directory. */
static enum err check_term(const char *directory, const char *path, uint64_t led_term)
{
    uint64_t newest = 0;
    if (led_term == 0)
        return ERR_NONE;
    enum err e = registry_local_read_term(directory, &newest);
    if (e == ERR_NONE && newest != led_term)
        e = err_set(ERR_REFUSED,
                    "record '%s' stays as it is: we led by term %" PRIu64
                    " and were deposed by term %" PRIu64,
                    path, led_term, newest);
    return e;
}

/* ---- records ---- */

static char *record_path(const char *directory, const char *path)
{
    char *file = must_format("%s/" REGISTRY_LOCAL_RECORDS "/%s", directory, path);
    for (char *c = file + strlen(file) - strlen(path); *c != '\0'; c++) {
        if (*c == '/')
            *c = '!';
    }
    return file;
}

static uint32_t record_crc(uint64_t version, const void *data, size_t size)
{
    return crc32c(crc32c(0, &version, sizeof version), data, size);
}

/* Checks a record's first line, "record VERSION CRC32C\n". */
static enum err parse_record(const char *path, const char *text, size_t size, size_t *head_size,
                             uint64_t *version)
{
    uint32_t crc = 0;
    int used = 0;
    if (sscanf(text, "record %" SCNu64 " %" SCNx32 "%n", version, &crc, &used) != 2 ||
        text[used] != '\n')
        return err_set(ERR_CORRUPT, "'%s' is no record", path);
    *head_size = (size_t)used + 1;
    if (record_crc(*version, text + *head_size, size - *head_size) != crc)
        return err_set(ERR_CORRUPT, "record '%s' does not match its checksum", path);
    return ERR_NONE;
}

enum err registry_local_get(const char *directory, const char *path, void **data_out,
                            size_t *size_out, uint64_t *version_out)
{
    char *file = record_path(directory, path);
    char *text = NULL;
    size_t size = 0, head_size = 0;
    uint64_t version = 0;
    enum err e = storage_read_all(file, FILE_MAX_BYTES, &text, &size);
    if (e == ERR_NOT_FOUND)
        e = err_set(ERR_NOT_FOUND, "the registry has no record '%s'", path);
    if (e == ERR_NONE)
        e = parse_record(file, text, size, &head_size, &version);
    if (e == ERR_NONE) {
        memmove(text, text + head_size, size - head_size + 1); /* with the final 0 */
        *data_out = text;
        *size_out = size - head_size;
        *version_out = version;
        text = NULL;
    }
    mem_free(text);
    mem_free(file);
    return e;
}

/* Whether a write of this version may replace what is there; its version, 0 for none. */
static enum err check_version(const char *directory, const struct registry_write *w,
                              uint64_t *old_version)
{
    void *old = NULL;
    size_t size;
    uint64_t version = 0;
    enum err e = registry_local_get(directory, w->path, &old, &size, &version);
    mem_free(old);
    if (e == ERR_NOT_FOUND && (w->version == 0 || w->version == REGISTRY_ANY_VERSION))
        e = ERR_NONE;
    else if (e == ERR_NONE && w->version != version && w->version != REGISTRY_ANY_VERSION)
        e = err_set(ERR_EXISTS, "record '%s' has version %" PRIu64 ", not %" PRIu64, w->path,
                    version, w->version);
    if (e == ERR_NONE)
        *old_version = version;
    return e;
}

enum err registry_local_put(const char *directory, const struct registry_write *w,
                            uint64_t led_term, uint64_t *version_out)
{
    int lock_fd;
    enum err e = registry_lock_take(directory, &lock_fd);
    if (e != ERR_NONE)
        return e;
    uint64_t version = 0;
    e = check_term(directory, w->path, led_term);
    if (e == ERR_NONE)
        e = check_version(directory, w, &version);
    if (e == ERR_NONE) {
        char *head = must_format("record %" PRIu64 " %08" PRIx32 "\n", version + 1,
                                 record_crc(version + 1, w->data, w->size));
        char *file = record_path(directory, w->path);
        e = registry_local_write(file, span_of(head), span_make(w->data, w->size));
        mem_free(file);
        mem_free(head);
    }
    if (e == ERR_NONE)
        *version_out = version + 1;
    close(lock_fd);
    return e;
}

enum err registry_local_remove(const char *directory, const char *path, uint64_t led_term)
{
    int lock_fd;
    enum err e = registry_lock_take(directory, &lock_fd);
    if (e != ERR_NONE)
        return e;
    e = check_term(directory, path, led_term);
    if (e == ERR_NONE) {
        char *file = record_path(directory, path);
        e = storage_remove(file);
        mem_free(file);
    }
    close(lock_fd);
    return e;
}

enum err registry_local_list(const char *directory, const char *path, char ***names_out,
                             size_t *count_out)
{
    char *records = storage_join(directory, REGISTRY_LOCAL_RECORDS);
    char *prefix = must_format("%s%s", path, path[0] != '\0' ? "/" : "");
    size_t prefix_size = strlen(prefix), count = 0, capacity = 0;
    char **names = NULL;
    for (char *c = prefix; *c != '\0'; c++) {
        if (*c == '/')
            *c = '!';
    }
    struct storage_list list = {0};
    enum err e = storage_list(records, &list);
    for (size_t i = 0; i < list.count && e == ERR_NONE; i++) {
        const char *name = list.entries[i].name;
        if (strncmp(name, prefix, prefix_size) != 0 || strchr(name + prefix_size, '!') != NULL)
            continue;
        if (mem_grow(names, capacity, count + 1))
            names[count++] = must_strdup(name + prefix_size);
        else
            e = ERR_MEMORY;
    }
    if (e == ERR_NONE) {
        *names_out = names;
        *count_out = count;
    } else {
        registry_names_free(names, count);
    }
    storage_list_deinit(&list);
    mem_free(prefix);
    mem_free(records);
    return e;
}
