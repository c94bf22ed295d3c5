/*
 * What is under a prefix: ListObjectsV2 and ListMultipartUploads, page by page.
 *
 * Keys are asked for in URL encoding, as XML cannot hold every byte. Stores that do not know this
 * do not say so in their answer, and then keys are taken as they stand.
 */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/s3_time.h"
#include "common/storage_s3_internal.h"
#include "common/xml.h"

/* A page as it is read. */
struct page {
    s3_visit *visit;
    void *context;
    bool is_encoded, is_truncated;
    char *key, *upload_id;
    struct str token, marker, marker_id; /* where the next page begins */
    struct storage_info info;
};

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static char *decode(const struct page *p, const char *text)
{
    char *plain = must_strdup(text), *to = plain;
    if (!p->is_encoded)
        return plain;
    for (const char *from = text; *from != '\0'; from++) {
        int high = from[0] == '%' ? hex_value(from[1]) : -1;
        int low = high >= 0 ? hex_value(from[2]) : -1;
        if (low >= 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from == '+' ? ' ' : *from;
        }
    }
    *to = '\0';
    return plain;
}

static void set_text(struct str *s, const char *text)
{
    str_clear(s);
    str_append(s, text);
}

/* ---- objects ---- */

static enum err end_object(struct page *p)
{
    if (p->key == NULL)
        return err_set(ERR_INPUT, "an object without a key");
    struct s3_object o = {.key = p->key, .info = p->info};
    enum err e = p->visit(p->context, &o);
    mem_free(p->key);
    p->key = NULL;
    p->info = (struct storage_info){0};
    return e;
}

static enum err end_prefix(struct page *p, const char *text)
{
    char *prefix = decode(p, text);
    struct s3_object o = {.prefix = prefix, .info = {.is_directory = true}};
    enum err e = p->visit(p->context, &o);
    mem_free(prefix);
    return e;
}

/* The mark is made of the ETag, which may come before the size: it waits in info.mark. */
static enum err on_object_element(void *context, const char *path, const char *text)
{
    struct page *p = context;
    const char *at = path + strcspn(path, "/");
    if (strcmp(at, "/Contents") == 0) {
        char etag[64];
        memcpy(etag, p->info.mark, sizeof etag);
        s3_mark(span_of(etag), p->info.size, p->info.mark);
        return end_object(p);
    }
    if (strcmp(at, "/Contents/Key") == 0) {
        mem_free(p->key);
        p->key = decode(p, text);
    } else if (strcmp(at, "/Contents/Size") == 0) {
        return str_parse_u64(span_of(text), &p->info.size);
    } else if (strcmp(at, "/Contents/LastModified") == 0) {
        return s3_time_parse(span_of(text), &p->info.modified_ms);
    } else if (strcmp(at, "/Contents/ETag") == 0) {
        snprintf(p->info.mark, sizeof p->info.mark, "%s", text);
    } else if (strcmp(at, "/CommonPrefixes/Prefix") == 0) {
        return end_prefix(p, text);
    } else if (strcmp(at, "/IsTruncated") == 0) {
        p->is_truncated = strcmp(text, "true") == 0;
    } else if (strcmp(at, "/NextContinuationToken") == 0) {
        set_text(&p->token, text);
    }
    return ERR_NONE;
}

static void page_deinit(struct page *p)
{
    mem_free(p->key);
    mem_free(p->upload_id);
    str_deinit(&p->token);
    str_deinit(&p->marker);
    str_deinit(&p->marker_id);
}

/* Asks for a page and reads it. */
static enum err read_page(const struct s3_name *n, const struct str *query, xml_element *on_end,
                          struct page *p)
{
    struct s3_call call = {
        .name = n, .doing = "list", .method = HTTP_GET, .query = query->data, .of_bucket = true};
    struct s3_answer a;
    p->is_truncated = false;
    enum err e = s3_perform(&call, &a);
    if (e == ERR_NONE && a.http.body == NULL)
        e = err_set(ERR_INPUT, "cannot list '%s': the answer is empty", n->uri);
    if (e == ERR_NONE) {
        p->is_encoded = strstr(a.http.body, "<EncodingType>url</EncodingType>") != NULL;
        e = xml_parse("the store's listing", a.http.body, a.http.size, on_end, p);
        if (e != ERR_NONE)
            err_prefix(e, "cannot list '%s'", n->uri);
    }
    s3_answer_deinit(&a);
    return e;
}

enum err s3_list(const struct s3_name *n, const char *prefix, const char *delimiter,
                 uint32_t page_max, s3_visit *visit, void *context)
{
    struct page p = {.visit = visit, .context = context};
    struct str query = {0}, before = {0};
    enum err e;
    do {
        str_clear(&query);
        str_append_format(&query, "encoding-type=url&list-type=2&max-keys=%u", page_max);
        s3_query_add(&query, "prefix", prefix);
        if (delimiter[0] != '\0')
            s3_query_add(&query, "delimiter", delimiter);
        if (p.token.size > 0)
            s3_query_add(&query, "continuation-token", p.token.data);
        set_text(&before, p.token.size > 0 ? p.token.data : "");
        e = read_page(n, &query, on_object_element, &p);
        if (e == ERR_NONE && p.is_truncated &&
            (p.token.size == 0 || strcmp(p.token.data, before.data) == 0))
            e = err_set(ERR_INPUT,
                        "cannot list '%s': the store says that there is more, but not "
                        "where it goes on",
                        n->uri);
    } while (e == ERR_NONE && p.is_truncated);
    if (e == ERR_CANCELLED) /* the visitor has seen enough */
        e = ERR_NONE;
    page_deinit(&p);
    str_deinit(&query);
    str_deinit(&before);
    return e;
}

/* ---- unfinished uploads ---- */

struct aborting {
    const struct s3_name *name;
    uint64_t before_ms;
    uint32_t count;
    enum err failure;
};

static enum err abort_upload(struct aborting *a, struct page *p)
{
    struct s3_name n = {.uri = a->name->uri, .bucket = a->name->bucket, .key = p->key};
    struct str query = {0};
    struct s3_answer answer;
    s3_query_add(&query, "uploadId", p->upload_id);
    struct s3_call call = {
        .name = &n, .doing = "abort an upload to", .method = HTTP_DELETE, .query = query.data};
    enum err e = s3_perform(&call, &answer);
    s3_answer_deinit(&answer);
    str_deinit(&query);
    a->count += e == ERR_NONE;
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err on_upload_element(void *context, const char *path, const char *text)
{
    struct page *p = context;
    struct aborting *a = p->context;
    const char *at = path + strcspn(path, "/");
    enum err e = ERR_NONE;
    if (strcmp(at, "/Upload/Key") == 0) {
        mem_free(p->key);
        p->key = decode(p, text);
    } else if (strcmp(at, "/Upload/UploadId") == 0) {
        mem_free(p->upload_id);
        p->upload_id = must_strdup(text);
    } else if (strcmp(at, "/Upload/Initiated") == 0) {
        e = s3_time_parse(span_of(text), &p->info.modified_ms);
    } else if (strcmp(at, "/Upload") == 0) {
        if (p->key != NULL && p->upload_id != NULL && p->info.modified_ms < a->before_ms)
            e = abort_upload(a, p);
    } else if (strcmp(at, "/IsTruncated") == 0) {
        p->is_truncated = strcmp(text, "true") == 0;
    } else if (strcmp(at, "/NextKeyMarker") == 0) {
        char *marker = decode(p, text);
        set_text(&p->marker, marker);
        mem_free(marker);
    } else if (strcmp(at, "/NextUploadIdMarker") == 0) {
        set_text(&p->marker_id, text);
    }
    return e;
}

enum err s3_abort_uploads(const struct s3_name *n, const char *prefix, uint64_t before_ms,
                          uint32_t *count_out)
{
    struct aborting a = {.name = n, .before_ms = before_ms};
    struct page p = {.context = &a};
    struct str query = {0}, before = {0};
    enum err e;
    do {
        str_clear(&query);
        str_append(&query, "encoding-type=url&uploads=");
        s3_query_add(&query, "prefix", prefix);
        if (p.marker.size > 0) {
            s3_query_add(&query, "key-marker", p.marker.data);
            s3_query_add(&query, "upload-id-marker", p.marker_id.size ? p.marker_id.data : "");
        }
        str_clear(&before);
        str_append_format(&before, "%s %s", p.marker.size ? p.marker.data : "",
                          p.marker_id.size ? p.marker_id.data : "");
        e = read_page(n, &query, on_upload_element, &p);
        char *after = must_format("%s %s", p.marker.size ? p.marker.data : "",
                                  p.marker_id.size ? p.marker_id.data : "");
        if (strcmp(after, before.data) == 0)
            p.is_truncated = false; /* it leads nowhere: what is left is found the next time */
        mem_free(after);
    } while (e == ERR_NONE && p.is_truncated);
    page_deinit(&p);
    str_deinit(&query);
    str_deinit(&before);
    *count_out = a.count;
    return e;
}
