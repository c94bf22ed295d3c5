/*
 * Objects of Amazon S3 and of the stores that speak its protocol.
 *
 * There are no directories: "s3://b/k" is one when keys begin with "k/". What lies between two
 * slashes of "a//b" is a level like any other; in a listing its name is "/", as that of no other
 * level can be, and storage_join() makes of it the name that it was. A key that ends in "/" and
 * stands for a directory made by hand is left out.
 *
 * An object is read as it was when it was opened: each part is asked for by the ETag of then, and
 * when the object has been replaced since, reading says so.
 */
#include "common/storage_s3_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/s3_time.h"

#define PAGE_KEYS   1000u
#define ENTRIES_MAX ((size_t)4 << 20)
#define MANIFEST    "MANIFEST.json"

struct s3_reader {
    struct storage_reader base;
    struct s3_name name;
    char *uri;
    char *if_match; /* header; NULL: the store gives no ETag */
};

/* ---- looking ---- */

char *s3_prefix_of(const struct s3_name *n)
{
    size_t size = strlen(n->key);
    bool is_whole = size == 0 || n->key[size - 1] == '/';
    return must_format("%s%s", n->key, is_whole ? "" : "/");
}

void s3_mark(struct span etag, uint64_t size, char mark[64])
{
    while (etag.size > 0 && etag.data[0] == '"')
        etag = span_make(etag.data + 1, etag.size - 1);
    while (etag.size > 0 && etag.data[etag.size - 1] == '"')
        etag.size--;
    char *text = must_format("%llx-%.*s", (unsigned long long)size, (int)etag.size, etag.data);
    memset(mark, 0, 64);
    memcpy(mark, text, strnlen(text, 63));
    mem_free(text);
}

static enum err head_as(const struct s3_name *n, const char *doing, struct s3_answer *out)
{
    struct s3_call call = {.name = n, .doing = doing, .method = HTTP_HEAD};
    return s3_perform(&call, out);
}

enum err s3_head(const struct s3_name *n, struct s3_answer *out)
{
    return head_as(n, "look at", out);
}

static enum err read_info(const struct s3_name *n, const struct http_answer *a,
                          struct storage_info *out)
{
    struct span text, etag = {"", 0};
    struct storage_info info = {0};
    if (!http_header(a, "content-length", &text) || str_parse_u64(text, &info.size) != ERR_NONE)
        return err_set(ERR_INPUT, "cannot look at '%s': the store does not say its size", n->uri);
    if (http_header(a, "last-modified", &text) &&
        s3_time_parse_http(text, &info.modified_ms) != ERR_NONE)
        info.modified_ms = 0;
    http_header(a, "etag", &etag);
    s3_mark(etag, info.size, info.mark);
    *out = info;
    return ERR_NONE;
}

static enum err see_one(void *context, const struct s3_object *o)
{
    *(bool *)context = true;
    return ERR_CANCELLED;
}

static enum err stat_directory(const struct s3_name *n, struct storage_info *out)
{
    bool is_there = n->key[0] == '\0';
    char *prefix = s3_prefix_of(n);
    /* Of a bucket too, so that one that is missing is named. */
    enum err e = s3_list(n, prefix, "", 1, see_one, &is_there);
    mem_free(prefix);
    if (e == ERR_NONE && !is_there)
        e = err_set(ERR_NOT_FOUND, "there is no '%s'", n->uri);
    if (e == ERR_NONE)
        *out = (struct storage_info){.is_directory = true};
    return e;
}

static bool ends_in_slash(const char *key)
{
    size_t size = strlen(key);
    return size == 0 || key[size - 1] == '/';
}

static enum err s3_stat(const char *uri, struct storage_info *out)
{
    struct s3_name n;
    struct s3_answer a = {0};
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    e = ERR_NOT_FOUND;
    if (!ends_in_slash(n.key)) {
        e = s3_head(&n, &a);
        if (e == ERR_NONE)
            e = read_info(&n, &a.http, out);
        s3_answer_deinit(&a);
    }
    if (e == ERR_NOT_FOUND)
        e = stat_directory(&n, out);
    s3_name_deinit(&n);
    return e;
}

/* ---- listing ---- */

struct listing {
    struct storage_list *out;
    size_t capacity;
    const char *prefix;
    size_t prefix_size;
    const char *uri;
    bool has_any;
};

static enum err add_entry(void *context, const struct s3_object *o)
{
    struct listing *l = context;
    const char *whole = o->key != NULL ? o->key : o->prefix;
    l->has_any = true;
    if (strncmp(whole, l->prefix, l->prefix_size) != 0)
        return err_set(ERR_INPUT, "cannot list '%s': the store lists '%s' there", l->uri, whole);
    const char *name = whole + l->prefix_size;
    size_t size = strlen(name);
    if (size == 0) /* the directory itself, made by hand */
        return ERR_NONE;
    if (o->key == NULL && size > 1 && name[size - 1] == '/')
        size--;
    if (l->out->count == ENTRIES_MAX)
        return err_set(ERR_LIMIT, "'%s' holds more than %zu objects", l->uri, ENTRIES_MAX);
    if (!mem_grow(l->out->entries, l->capacity, l->out->count + 1))
        return err_prefix(ERR_MEMORY, "cannot list '%s'", l->uri);
    l->out->entries[l->out->count++] =
        (struct storage_entry){.name = must_format("%.*s", (int)size, name), .info = o->info};
    return ERR_NONE;
}

static enum err s3_list_directory(const char *uri, struct storage_list *out)
{
    struct s3_name n;
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    char *prefix = s3_prefix_of(&n);
    struct listing l = {.out = out, .prefix = prefix, .prefix_size = strlen(prefix), .uri = uri};
    e = s3_list(&n, prefix, "/", PAGE_KEYS, add_entry, &l);
    if (e == ERR_NONE && !l.has_any && n.key[0] != '\0')
        e = err_set(ERR_NOT_FOUND, "there is no '%s'", uri);
    mem_free(prefix);
    s3_name_deinit(&n);
    return e;
}

/* ---- reading ---- */

static enum err s3_open(const char *uri, struct storage_reader **out)
{
    struct s3_name n;
    struct s3_answer a = {0};
    struct storage_info info = {0};
    struct span etag;
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    if (ends_in_slash(n.key))
        e = err_set(ERR_INPUT, "cannot open '%s': it names a directory", uri);
    if (e == ERR_NONE)
        e = head_as(&n, "open", &a);
    if (e == ERR_NONE)
        e = read_info(&n, &a.http, &info);
    if (e == ERR_NONE) {
        struct s3_reader *r = must_alloc(sizeof *r);
        r->base = (struct storage_reader){.backend = &storage_s3_backend, .size = info.size};
        r->uri = must_strdup(uri);
        CHECK(s3_name_parse(r->uri, &r->name) == ERR_NONE);
        if (http_header(&a.http, "etag", &etag) && etag.size > 0)
            r->if_match = must_format("If-Match: %.*s", (int)etag.size, etag.data);
        *out = &r->base;
    }
    s3_answer_deinit(&a);
    s3_name_deinit(&n);
    return e;
}

static enum err s3_read_at(struct storage_reader *base, uint64_t offset, void *out, size_t size)
{
    struct s3_reader *r = (struct s3_reader *)base;
    if (size == 0)
        return ERR_NONE;
    if (offset > base->size || size > base->size - offset)
        return err_set(ERR_CORRUPT, "'%s' ends at byte %llu, before %llu", r->uri,
                       (unsigned long long)base->size, (unsigned long long)(offset + size));
    struct s3_call call = {.name = &r->name,
                           .doing = "read",
                           .method = HTTP_GET,
                           .headers = {r->if_match},
                           .range_first = offset,
                           .range_size = size,
                           .into = out};
    struct s3_answer a;
    enum err e = s3_perform(&call, &a);
    if (e == ERR_EXISTS) /* 412 */
        e = err_set(ERR_CORRUPT, "'%s' was replaced while it was read", r->uri);
    s3_answer_deinit(&a);
    return e;
}

static void s3_close(struct storage_reader *base)
{
    struct s3_reader *r = (struct s3_reader *)base;
    s3_name_deinit(&r->name);
    mem_free(r->uri);
    mem_free(r->if_match);
    mem_free(r);
}

/* ---- removing ---- */

static enum err remove_key(const struct s3_name *in, const char *key)
{
    struct s3_name n = {.uri = in->uri, .bucket = in->bucket, .key = key};
    struct s3_call call = {.name = &n, .doing = "remove", .method = HTTP_DELETE};
    struct s3_answer a;
    enum err e = s3_perform(&call, &a);
    s3_answer_deinit(&a);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err s3_remove(const char *uri)
{
    struct s3_name n;
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    e = n.key[0] != '\0' ? remove_key(&n, n.key)
                         : err_set(ERR_INPUT, "refused to remove '%s': it is a bucket", uri);
    s3_name_deinit(&n);
    return e;
}

/* Keys are gathered before the first one goes: pages must not shift under the listing. */
struct gathered {
    char **keys;
    size_t count, capacity;
};

static enum err gather_key(void *context, const struct s3_object *o)
{
    struct gathered *g = context;
    if (o->key == NULL)
        return ERR_NONE;
    if (g->count == ENTRIES_MAX)
        return err_set(ERR_LIMIT, "there are more than %zu objects", ENTRIES_MAX);
    if (!mem_grow(g->keys, g->capacity, g->count + 1))
        return ERR_MEMORY;
    g->keys[g->count++] = must_strdup(o->key);
    return ERR_NONE;
}

static enum err s3_remove_tree(const char *uri)
{
    struct s3_name n;
    struct gathered g = {0};
    uint32_t aborted = 0;
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    if (n.key[strspn(n.key, "/")] == '\0') {
        e = err_set(ERR_INPUT, "refused to remove '%s': it is a whole bucket", uri);
        s3_name_deinit(&n);
        return e;
    }
    char *prefix = s3_prefix_of(&n);
    char *manifest = must_format("%s" MANIFEST, prefix);
    e = remove_key(&n, manifest);
    if (e == ERR_NONE) {
        /* Not every store lists uploads, nor is everybody allowed to: they expire by rule then. */
        if (s3_abort_uploads(&n, prefix, UINT64_MAX, &aborted) != ERR_NONE)
            aborted = 0;
        e = s3_list(&n, prefix, "", PAGE_KEYS, gather_key, &g);
    }
    for (size_t i = 0; i < g.count; i++) {
        if (e == ERR_NONE)
            e = remove_key(&n, g.keys[i]);
        mem_free(g.keys[i]);
    }
    mem_free(g.keys);
    mem_free(manifest);
    mem_free(prefix);
    s3_name_deinit(&n);
    return e;
}

static enum err s3_remove_leftovers(const char *uri, uint64_t before_ms, uint32_t *count_out)
{
    struct s3_name n;
    enum err e = s3_name_parse(uri, &n);
    if (e != ERR_NONE)
        return e;
    char *prefix = s3_prefix_of(&n);
    e = s3_abort_uploads(&n, prefix, before_ms, count_out);
    mem_free(prefix);
    s3_name_deinit(&n);
    return e;
}

const struct storage_backend storage_s3_backend = {
    .is_remote = true,
    .scheme = "s3",
    .forms = "s3://bucket/key",
    .stat = s3_stat,
    .list = s3_list_directory,
    .open = s3_open,
    .read_at = s3_read_at,
    .close = s3_close,
    .write_open = s3_write_open,
    .write = s3_write,
    .write_close = s3_write_close,
    .write_abort = s3_write_abort,
    .remove = s3_remove,
    .remove_tree = s3_remove_tree,
    .remove_leftovers = s3_remove_leftovers,
};
