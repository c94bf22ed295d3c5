/*
 * Files in HDFS, over WebHDFS or HttpFS.
 *
 * A range is read in two requests: the NameNode names a DataNode, and that one is asked. A DataNode
 * that fails is left out when the NameNode is asked again.
 */
#include "common/storage_hdfs_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"

struct hdfs_reader {
    struct storage_reader base;
    struct hdfs_name name;
};

/* ---- looking ---- */

static enum err hdfs_stat(const char *uri, struct storage_info *out)
{
    struct hdfs_name n;
    enum err e = hdfs_name_init(uri, &n);
    if (e != ERR_NONE)
        return e;
    struct retry r = hdfs_retry_begin();
    struct hdfs_status status;
    e = hdfs_status(&n, NULL, &r, &status);
    if (e == ERR_NONE)
        *out = status.info;
    hdfs_name_deinit(&n);
    return e;
}

struct listing {
    const struct hdfs_name *name;
    struct storage_list *list;
    size_t capacity;
    char *last; /* the name where a batch ended */
};

static enum err add_entry(struct listing *l, const struct json *status)
{
    const char *name;
    struct hdfs_status s;
    enum err e = json_get_text(status, "pathSuffix", &name);
    if (e != ERR_NONE)
        return err_prefix(ERR_UNAVAILABLE, "cannot list '%s'", l->name->uri);
    if (*name == '\0') /* a file's listing is the file */
        return err_set(ERR_NOT_FOUND, "cannot list '%s': it is no directory", l->name->uri);
    mem_free(l->last);
    l->last = must_strdup(name);
    if (hdfs_is_temporary(name))
        return ERR_NONE;
    e = hdfs_status_parse(l->name, status, &s);
    if (e != ERR_NONE)
        return e;
    if (!mem_grow(l->list->entries, l->capacity, l->list->count + 1))
        return err_prefix(ERR_MEMORY, "cannot list '%s'", l->name->uri);
    struct storage_entry *entry = &l->list->entries[l->list->count++];
    *entry = (struct storage_entry){.name = must_strdup(name), .info = s.info};
    return ERR_NONE;
}

static enum err add_entries(struct listing *l, const struct json *holder)
{
    struct json *statuses, *entries;
    enum err e = json_get_object(holder, "FileStatuses", &statuses);
    if (e == ERR_NONE)
        e = json_get_array(statuses, "FileStatus", &entries);
    if (e != ERR_NONE)
        return err_prefix(ERR_UNAVAILABLE, "cannot list '%s'", l->name->uri);
    for (size_t i = 0; i < json_count(entries) && e == ERR_NONE; i++)
        e = add_entry(l, json_at(entries, i));
    return e;
}

/* -> ERR_UNSUPPORTED, ERR_INPUT: the server does not know it. */
static enum err list_batch(struct listing *l, struct retry *r, bool *has_more)
{
    struct str parameters = {0};
    struct hdfs_call q = {
        .name = l->name, .method = HTTP_GET, .op = "LISTSTATUS_BATCH", .doing = "list"};
    struct http_answer a;
    struct json *j = NULL, *listing, *partial;
    uint64_t left = 0;
    if (l->last != NULL) { /* HttpFS knows it by the first name, some NameNodes by the second */
        hdfs_parameter(&parameters, "startAfter", l->last);
        hdfs_parameter(&parameters, "startafter", l->last);
    }
    q.parameters = parameters.data;
    enum err e = hdfs_ask(&q, r, &a);
    str_deinit(&parameters);
    if (e != ERR_NONE)
        return e;
    e = hdfs_json(&q, &a, &j);
    if (e == ERR_NONE && (json_get_object(j, "DirectoryListing", &listing) != ERR_NONE ||
                          json_get_object(listing, "partialListing", &partial) != ERR_NONE ||
                          json_get_u64(listing, "remainingEntries", &left) != ERR_NONE))
        e = err_prefix(ERR_UNAVAILABLE, "cannot list '%s'", l->name->uri);
    if (e == ERR_NONE)
        e = add_entries(l, partial);
    *has_more = left > 0;
    json_destroy(j);
    http_answer_deinit(&a);
    return e;
}

static enum err list_at_once(struct listing *l, struct retry *r)
{
    struct hdfs_call q = {.name = l->name, .method = HTTP_GET, .op = "LISTSTATUS", .doing = "list"};
    struct http_answer a;
    struct json *j = NULL;
    enum err e = hdfs_ask(&q, r, &a);
    if (e != ERR_NONE)
        return e;
    e = hdfs_json(&q, &a, &j);
    if (e == ERR_NONE)
        e = add_entries(l, j);
    json_destroy(j);
    http_answer_deinit(&a);
    return e;
}

static enum err hdfs_list(const char *uri, struct storage_list *out)
{
    struct hdfs_name n;
    enum err e = hdfs_name_init(uri, &n);
    if (e != ERR_NONE)
        return e;
    struct listing l = {.name = &n, .list = out};
    for (bool has_more = true; has_more && e == ERR_NONE;) {
        struct retry r = hdfs_retry_begin();
        char *before = l.last != NULL ? must_strdup(l.last) : NULL;
        e = list_batch(&l, &r, &has_more);
        if ((e == ERR_UNSUPPORTED || e == ERR_INPUT) && before == NULL) {
            e = list_at_once(&l, &r);
            has_more = false;
        } else if (e == ERR_NONE && has_more &&
                   (l.last == NULL || (before != NULL && strcmp(before, l.last) == 0))) {
            e = err_set(ERR_UNAVAILABLE, "cannot list '%s': it comes no further than '%s'", uri,
                        l.last != NULL ? l.last : "");
        }
        mem_free(before);
    }
    mem_free(l.last);
    hdfs_name_deinit(&n);
    return e;
}

/* ---- reading ---- */

static enum err hdfs_open(const char *uri, struct storage_reader **out)
{
    struct hdfs_name n;
    struct hdfs_status status;
    enum err e = hdfs_name_init(uri, &n);
    if (e != ERR_NONE)
        return e;
    struct retry retry = hdfs_retry_begin();
    e = hdfs_status(&n, NULL, &retry, &status);
    if (e == ERR_NONE && status.info.is_directory)
        e = err_set(ERR_IO, "cannot open '%s': it is a directory", uri);
    if (e != ERR_NONE) {
        hdfs_name_deinit(&n);
        return e;
    }
    struct hdfs_reader *r = must_alloc(sizeof *r);
    r->base = (struct storage_reader){.backend = &storage_hdfs_backend, .size = status.info.size};
    r->name = n;
    *out = &r->base;
    return ERR_NONE;
}

static enum err read_once(const struct hdfs_reader *r, uint64_t offset, struct http_request *data,
                          struct str *excluded, struct retry *retry, bool *may_pass)
{
    struct str parameters = {0};
    struct hdfs_call q = {.name = &r->name, .method = HTTP_GET, .op = "OPEN", .doing = "read"};
    struct hdfs_failure failure = {0};
    char *location = NULL;
    str_append_format(&parameters, "&offset=%" PRIu64 "&length=%zu&noredirect=true", offset,
                      data->into_size);
    enum err e = hdfs_locate(&q, &parameters, excluded, retry, &location, &failure.may_pass);
    if (e == ERR_NONE) {
        struct http_answer a;
        e = hdfs_data(&q, location, data, &a, &failure);
        if (e == ERR_NONE && a.size < data->into_size)
            e = err_set(ERR_CORRUPT, "'%s' ends at byte %" PRIu64 ", before %" PRIu64, r->name.uri,
                        offset + a.size, offset + data->into_size);
        if (e != ERR_NONE && failure.may_pass)
            hdfs_exclude(excluded, location);
        http_answer_deinit(&a);
    }
    if (location != NULL)
        explicit_bzero(location, strlen(location)); /* there may be a token in it */
    mem_free(location);
    str_deinit(&parameters);
    *may_pass = failure.may_pass;
    return e;
}

static enum err read_range(const struct hdfs_reader *r, uint64_t offset, void *out, size_t size)
{
    struct retry retry = hdfs_retry_begin();
    struct str excluded = {0};
    enum err e;
    for (bool may_pass;;) {
        struct http_request data = {.method = HTTP_GET, .into = out, .into_size = size};
        e = read_once(r, offset, &data, &excluded, &retry, &may_pass);
        if (e == ERR_NONE || !may_pass || !http_try_again(&retry, 0))
            break;
        log_info("hdfs", "reads again: %s", err_text());
    }
    str_deinit(&excluded);
    return e;
}

static enum err hdfs_read_at(struct storage_reader *base, uint64_t offset, void *out, size_t size)
{
    struct hdfs_reader *r = (struct hdfs_reader *)base;
    if (offset > base->size || size > base->size - offset)
        return err_set(ERR_CORRUPT, "'%s' ends at byte %" PRIu64 ", before %" PRIu64, r->name.uri,
                       base->size, offset + size);
    return size > 0 ? read_range(r, offset, out, size) : ERR_NONE;
}

static void hdfs_close(struct storage_reader *base)
{
    struct hdfs_reader *r = (struct hdfs_reader *)base;
    hdfs_name_deinit(&r->name);
    mem_free(r);
}

/* ---- removing ---- */

static enum err remove_path(const struct hdfs_name *n, const char *path, bool is_tree)
{
    struct hdfs_call q = {.name = n,
                          .method = HTTP_DELETE,
                          .op = "DELETE",
                          .path = path,
                          .parameters = is_tree ? "&recursive=true" : "&recursive=false",
                          .doing = "remove"};
    struct retry r = hdfs_retry_begin();
    struct http_answer a;
    enum err e = hdfs_ask(&q, &r, &a);
    if (e == ERR_NONE)
        http_answer_deinit(&a);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err hdfs_remove(const char *uri)
{
    struct hdfs_name n;
    enum err e = hdfs_name_init(uri, &n);
    if (e != ERR_NONE)
        return e;
    e = remove_path(&n, NULL, false);
    hdfs_name_deinit(&n);
    return e;
}

static enum err hdfs_remove_tree(const char *uri)
{
    struct hdfs_name n;
    enum err e = hdfs_name_init(uri, &n);
    if (e != ERR_NONE)
        return e;
    if (strcmp(n.path, "/") == 0) {
        e = err_set(ERR_INPUT, "refused to remove '%s'", uri);
    } else {
        /* Without its manifest a checkpoint is no checkpoint, whatever is left of it. */
        char *manifest = must_format("%s/MANIFEST.json", n.path);
        e = remove_path(&n, manifest, false);
        mem_free(manifest);
        if (e == ERR_NONE)
            e = remove_path(&n, NULL, true);
    }
    hdfs_name_deinit(&n);
    return e;
}

const struct storage_backend storage_hdfs_backend = {
    .scheme = "hdfs",
    .is_remote = true,
    .forms = "hdfs://host:port/path",
    .stat = hdfs_stat,
    .list = hdfs_list,
    .open = hdfs_open,
    .read_at = hdfs_read_at,
    .close = hdfs_close,
    .write_open = hdfs_write_open,
    .write = hdfs_write,
    .write_close = hdfs_write_close,
    .write_abort = hdfs_write_abort,
    .remove = hdfs_remove,
    .remove_tree = hdfs_remove_tree,
};
