#include "common/registry.h"

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/registry_internal.h"
#include "common/str.h"

static const struct registry_backend *const backends[] = {
    &registry_local_backend,
    &registry_zookeeper_backend,
};
#define BACKEND_COUNT (sizeof backends / sizeof backends[0])

#define NAME_BYTES_MAX 100
#define PATH_BYTES_MAX 240

enum err registry_open(const char *uri, struct registry **out)
{
    return registry_open_with(uri, &(struct registry_options){0}, out);
}

enum err registry_open_with(const char *uri, const struct registry_options *options,
                            struct registry **out)
{
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (strncmp(uri, backends[i]->scheme, strlen(backends[i]->scheme)) == 0)
            return backends[i]->open(uri, options, out);
    }
    struct str forms = {0};
    for (size_t i = 0; i < BACKEND_COUNT; i++)
        str_append_format(&forms, "%s%s", i > 0 ? ", " : "", backends[i]->forms);
    enum err e = err_set(ERR_INPUT, "registry '%s' is none of the forms: %s", uri, forms.data);
    str_deinit(&forms);
    return e;
}

void registry_close(struct registry *r)
{
    if (r != NULL)
        r->backend->close(r);
}

enum registry_state registry_state(struct registry *r, uint64_t *away_ms)
{
    uint64_t unwanted;
    return r->backend->state(r, away_ms != NULL ? away_ms : &unwanted);
}

/* Letters, digits and . _ - only: names become names of files, and parts of ids. */
static enum err check_name(const char *what, const char *text, size_t max, const char *others)
{
    size_t size = strlen(text);
    if (size == 0 || size > max)
        return err_set(ERR_INPUT, "%s '%s' has %zu bytes; it needs 1 to %zu", what, text, size,
                       max);
    for (const char *c = text; *c != '\0'; c++) {
        bool is_good = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                       (*c >= '0' && *c <= '9') || strchr(others, *c) != NULL;
        if (!is_good)
            return err_set(ERR_INPUT, "%s '%s' has a '%c'; only letters, digits and %s can be used",
                           what, text, *c, others);
    }
    return ERR_NONE;
}

static enum err check_record(const char *what, const char *name, size_t size)
{
    if (size > REGISTRY_RECORD_MAX_BYTES)
        return err_set(ERR_LIMIT, "the record of %s '%s' has %zu bytes, over the limit of %zu",
                       what, name, size, REGISTRY_RECORD_MAX_BYTES);
    return ERR_NONE;
}

enum err registry_join(struct registry *r, const char *role, const char *name, const char *record,
                       struct registry_member **out)
{
    enum err e = check_name("role", role, NAME_BYTES_MAX, "_");
    if (e == ERR_NONE)
        e = check_name("member", name, NAME_BYTES_MAX, "._-");
    if (e == ERR_NONE)
        e = check_record("member", name, strlen(record));
    return e == ERR_NONE ? r->backend->join(r, role, name, record, out) : e;
}

const char *registry_member_id(const struct registry_member *m)
{
    return m->backend->member_id(m);
}

void registry_leave(struct registry_member *m)
{
    if (m != NULL)
        m->backend->leave(m);
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct registry_entry *)a)->id, ((const struct registry_entry *)b)->id);
}

enum err registry_members(struct registry *r, const char *role, struct registry_entry **out,
                          size_t *count_out)
{
    struct registry_entry *entries = NULL;
    size_t count = 0;
    enum err e = r->backend->members(r, role, &entries, &count);
    if (e != ERR_NONE)
        return e;
    if (count > 0)
        qsort(entries, count, sizeof *entries, compare_entries);
    *out = entries;
    *count_out = count;
    return ERR_NONE;
}

void registry_entries_free(struct registry_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mem_free(entries[i].id);
        mem_free(entries[i].role);
        mem_free(entries[i].record);
    }
    mem_free(entries);
}

enum err registry_lead(struct registry *r, const char *record, bool *is_leader, uint64_t *term)
{
    enum err e = check_record("the leader", "", strlen(record));
    return e == ERR_NONE ? r->backend->lead(r, record, is_leader, term) : e;
}

bool registry_leads(struct registry *r, uint64_t *term)
{
    uint64_t unwanted;
    return r->backend->leads(r, term != NULL ? term : &unwanted);
}

void registry_resign(struct registry *r)
{
    r->backend->resign(r);
}

enum err registry_leader(struct registry *r, char **record_out, uint64_t *term)
{
    return r->backend->leader(r, record_out, term);
}

static enum err check_path(const char *path)
{
    enum err e = check_name("path", path, PATH_BYTES_MAX, "/._-=");
    for (const char *level = path; e == ERR_NONE;) {
        size_t size = strcspn(level, "/");
        if (size == 0)
            e = err_set(ERR_INPUT, "path '%s' has an empty level", path);
        else if (strspn(level, ".") == size)
            e = err_set(ERR_INPUT, "path '%s' has a level of dots only", path);
        if (level[size] == '\0')
            break;
        level += size + 1;
    }
    return e;
}

static enum err put(struct registry *r, const struct registry_write *w, uint64_t *version_out)
{
    enum err e = check_path(w->path);
    if (e == ERR_NONE)
        e = check_record("path", w->path, w->size);
    uint64_t new_version = 0;
    if (e == ERR_NONE)
        e = r->backend->put(r, w, &new_version);
    if (e == ERR_NONE && version_out != NULL)
        *version_out = new_version;
    return e;
}

enum err registry_put(struct registry *r, const char *path, const void *data, size_t size,
                      uint64_t version, uint64_t *version_out)
{
    return put(r, &(struct registry_write){path, data, size, version, .is_led = false},
               version_out);
}

enum err registry_put_led(struct registry *r, const char *path, const void *data, size_t size,
                          uint64_t version, uint64_t *version_out)
{
    return put(r, &(struct registry_write){path, data, size, version, .is_led = true}, version_out);
}

enum err registry_get(struct registry *r, const char *path, void **data_out, size_t *size_out,
                      uint64_t *version_out)
{
    enum err e = check_path(path);
    return e == ERR_NONE ? r->backend->get(r, path, data_out, size_out, version_out) : e;
}

enum err registry_remove(struct registry *r, const char *path)
{
    const bool is_led = false;
    enum err e = check_path(path);
    return e == ERR_NONE ? r->backend->remove(r, path, is_led) : e;
}

enum err registry_remove_led(struct registry *r, const char *path)
{
    const bool is_led = true;
    enum err e = check_path(path);
    return e == ERR_NONE ? r->backend->remove(r, path, is_led) : e;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

enum err registry_list(struct registry *r, const char *path, char ***names_out, size_t *count_out)
{
    char **names = NULL;
    size_t count = 0;
    enum err e = path[0] != '\0' ? check_path(path) : ERR_NONE;
    if (e == ERR_NONE)
        e = r->backend->list(r, path, &names, &count);
    if (e != ERR_NONE)
        return e;
    if (count > 0)
        qsort(names, count, sizeof *names, compare_names);
    *names_out = names;
    *count_out = count;
    return ERR_NONE;
}

void registry_names_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mem_free(names[i]);
    mem_free(names);
}
