#include "common/storage.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/activity.h"
#include "common/mem.h"
#include "common/storage_ahead.h"
#include "common/storage_internal.h"
#include "common/str.h"

/* "scheme://…" or "file:…"; any other colon is part of a path. Size 0: none. */
static struct span scheme_of(const char *uri)
{
    size_t size = strspn(uri, "abcdefghijklmnopqrstuvwxyz0123456789+-.");
    bool is_scheme = strncmp(uri + size, "://", 3) == 0 || strncmp(uri, "file:", 5) == 0;
    return span_make(uri, is_scheme ? size : 0);
}

static enum err find_backend(const char *uri, const struct storage_backend **out)
{
    struct span scheme = scheme_of(uri);
    if (uri[0] == '\0')
        return err_set(ERR_INPUT, "the name of a file or directory is empty");
    for (size_t i = 0; i < storage_backend_count; i++) {
        if (span_is(scheme, storage_backends[i]->scheme) || (scheme.size == 0 && i == 0)) {
            *out = storage_backends[i];
            return ERR_NONE;
        }
    }
    struct str forms = {0};
    for (size_t i = 0; i < storage_backend_count; i++)
        str_append_format(&forms, "%s%s", i > 0 ? ", " : "", storage_backends[i]->forms);
    enum err e = err_set(ERR_UNSUPPORTED, "'%s': there is no storage for '%.*s' here; there is %s",
                         uri, (int)scheme.size, scheme.data, forms.data);
    str_deinit(&forms);
    return e;
}

enum err storage_stat(const char *uri, struct storage_info *out)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    return e == ERR_NONE ? b->stat(uri, out) : e;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct storage_entry *)a)->name, ((const struct storage_entry *)b)->name);
}

enum err storage_list(const char *uri, struct storage_list *out)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    if (e != ERR_NONE)
        return e;
    struct storage_list found = {0};
    e = b->list(uri, &found);
    if (e != ERR_NONE) {
        storage_list_deinit(&found);
        return e;
    }
    if (found.count > 0)
        qsort(found.entries, found.count, sizeof *found.entries, compare_entries);
    *out = found;
    return ERR_NONE;
}

void storage_list_deinit(struct storage_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        mem_free(l->entries[i].name);
    mem_free(l->entries);
    *l = (struct storage_list){0};
}

enum err storage_open(const char *uri, struct storage_reader **out)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    if (e == ERR_NONE)
        e = b->open(uri, out);
    if (e == ERR_NONE && b->is_remote)
        (*out)->ahead = storage_ahead_create(*out);
    return e;
}

uint64_t storage_reader_size(const struct storage_reader *r)
{
    return r->size;
}

enum err storage_read_at(struct storage_reader *r, uint64_t offset, void *out, size_t size)
{
    enum err e = r->ahead != NULL ? storage_ahead_read(r->ahead, offset, out, size)
                                  : r->backend->read_at(r, offset, out, size);
    if (e == ERR_NONE)
        activity_note();
    return e;
}

void storage_close(struct storage_reader *r)
{
    if (r == NULL)
        return;
    storage_ahead_destroy(r->ahead);
    r->backend->close(r);
}

enum err storage_read_all(const char *uri, size_t max, char **data_out, size_t *size_out)
{
    struct storage_reader *r = NULL;
    char *data = NULL;
    enum err e = storage_open(uri, &r);
    if (e != ERR_NONE)
        return e;
    uint64_t size = storage_reader_size(r);
    if (size > max) {
        e = err_set(ERR_LIMIT, "'%s' has %llu bytes, over the limit of %zu", uri,
                    (unsigned long long)size, max);
        goto out;
    }
    data = mem_alloc((size_t)size + 1);
    if (data == NULL) {
        e = err_prefix(ERR_MEMORY, "cannot read '%s'", uri);
        goto out;
    }
    e = size > 0 ? storage_read_at(r, 0, data, (size_t)size) : ERR_NONE;
    if (e == ERR_NONE) {
        data[size] = '\0';
        *data_out = data;
        *size_out = (size_t)size;
        data = NULL;
    }
out:
    mem_free(data);
    storage_close(r);
    return e;
}

enum err storage_write_open(const char *uri, bool overwrite, struct storage_writer **out)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    return e == ERR_NONE ? b->write_open(uri, overwrite, out) : e;
}

enum err storage_write(struct storage_writer *w, const void *data, size_t size)
{
    /* Nothing may come with no address, which memcpy() must not be given. */
    enum err e = size > 0 ? w->backend->write(w, data, size) : ERR_NONE;
    if (e == ERR_NONE)
        activity_note();
    return e;
}

enum err storage_write_close(struct storage_writer *w)
{
    return w->backend->write_close(w);
}

void storage_write_abort(struct storage_writer *w)
{
    if (w != NULL)
        w->backend->write_abort(w);
}

enum err storage_write_all(const char *uri, bool overwrite, const void *data, size_t size)
{
    struct storage_writer *w;
    enum err e = storage_write_open(uri, overwrite, &w);
    if (e != ERR_NONE)
        return e;
    e = storage_write(w, data, size);
    if (e != ERR_NONE) {
        storage_write_abort(w);
        return e;
    }
    return storage_write_close(w);
}

enum err storage_create_exclusive(const char *uri, const void *data, size_t size)
{
    return storage_write_all(uri, false, data, size);
}

enum err storage_remove(const char *uri)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    return e == ERR_NONE ? b->remove(uri) : e;
}

enum err storage_remove_tree(const char *uri)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    return e == ERR_NONE ? b->remove_tree(uri) : e;
}

enum err storage_remove_leftovers(const char *uri, uint64_t before_ms, uint32_t *count_out)
{
    const struct storage_backend *b;
    enum err e = find_backend(uri, &b);
    *count_out = 0;
    return e == ERR_NONE && b->remove_leftovers != NULL
               ? b->remove_leftovers(uri, before_ms, count_out)
               : e;
}

char *storage_join(const char *uri, const char *name)
{
    size_t size = strlen(uri);
    bool has_slash = size > 0 && uri[size - 1] == '/';
    /* In a key of S3 every slash counts; elsewhere several are as one. */
    while (name[0] == '/' && strncmp(uri, "s3://", 5) != 0)
        name++;
    if (size == 0)
        return must_strdup(name);
    return must_format(has_slash ? "%s%s" : "%s/%s", uri, name);
}

/* ---- planted faults ---- */

static _Atomic uint64_t fault_countdown; /* 0: off */
static _Atomic int fault_kind;

void storage_fail_nth(enum storage_fault fault, uint64_t n)
{
    atomic_store(&fault_countdown, 0);
    atomic_store(&fault_kind, (int)fault);
    atomic_store(&fault_countdown, n);
}

bool storage_fault_now(enum storage_fault fault)
{
    uint64_t left = atomic_load_explicit(&fault_countdown, memory_order_relaxed);
    if (left == 0 || atomic_load(&fault_kind) != (int)fault)
        return false;
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fault_countdown, &left, left - 1))
            return left == 1;
    }
    return false;
}
