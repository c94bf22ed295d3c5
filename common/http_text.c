/*
 * What texts may show of a request, and other text of HTTP.
 */
#include <string.h>

#include "common/http_internal.h"

static const char *const method_names[] = {"GET", "HEAD", "PUT", "POST", "DELETE"};

/* Parameters whose values are no secret. All others are shown as "***". */
static const char *const open_parameters[] = {
    "op",         "offset",        "length",    "overwrite",  "noredirect",   "renameoptions",
    "recursive",  "destination",   "list-type", "prefix",     "delimiter",    "max-keys",
    "uploads",    "partNumber",    "location",  "createflag", "createparent", "buffersize",
    "startAfter", "encoding-type", "delete",    "versioning", "newlength",    "permission",
};

static bool is_open(struct span name)
{
    for (size_t i = 0; i < sizeof open_parameters / sizeof *open_parameters; i++) {
        if (span_is(name, open_parameters[i]))
            return true;
    }
    return false;
}

static void redact_query(struct span query, struct str *out)
{
    size_t at = 0;
    while (at < query.size) {
        const char *end = memchr(query.data + at, '&', query.size - at);
        size_t size = end != NULL ? (size_t)(end - query.data) - at : query.size - at;
        const char *equals = memchr(query.data + at, '=', size);
        struct span name =
            span_make(query.data + at, equals != NULL ? (size_t)(equals - query.data) - at : size);
        if (equals == NULL || is_open(name)) {
            str_append_span(out, span_make(query.data + at, size));
        } else {
            str_append_span(out, name);
            str_append(out, "=***");
        }
        at += size;
        if (at < query.size) {
            str_append(out, "&");
            at++;
        }
    }
}

void http_redact(const char *url, struct str *out)
{
    const char *authority = strstr(url, "://");
    size_t start = authority != NULL ? (size_t)(authority - url) + 3 : 0;
    size_t host_size = strcspn(url + start, "/?#");
    const char *at = memchr(url + start, '@', host_size);
    str_append_span(out, span_make(url, start));
    if (authority != NULL && at != NULL) { /* user:password@ */
        str_append(out, "***");
        start = (size_t)(at - url);
    }
    size_t path_size = strcspn(url + start, "?#");
    str_append_span(out, span_make(url + start, path_size));
    if (url[start + path_size] == '?') {
        const char *query = url + start + path_size + 1;
        str_append(out, "?");
        redact_query(span_make(query, strcspn(query, "#")), out);
    }
}

void http_describe(const struct http_request *q, struct str *out)
{
    str_append_format(out, "%s ", method_names[q->method]);
    http_redact(q->url, out);
}

bool http_header(const struct http_answer *a, const char *name, struct span *out)
{
    size_t name_size = strlen(name);
    for (size_t at = 0; at < a->headers.size;) {
        const char *line = a->headers.data + at;
        size_t size = strcspn(line, "\n");
        if (size > name_size && line[name_size] == ':' && strncmp(line, name, name_size) == 0) {
            *out = span_trim(span_make(line + name_size + 1, size - name_size - 1));
            return true;
        }
        at += size + 1;
    }
    return false;
}

bool http_status_may_pass(int status)
{
    return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
           status == 504;
}

void http_encode(struct span text, const char *keep, struct str *out)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];
        if (c != '\0' && (strchr(plain, c) != NULL || strchr(keep, c) != NULL))
            str_append_span(out, span_make(&text.data[i], 1));
        else
            str_append_format(out, "%%%02X", (unsigned char)c);
    }
}
