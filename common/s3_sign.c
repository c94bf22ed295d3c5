#include "common/s3_sign.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/s3_time.h"
#include "common/sha256.h"

#define PAIRS_MAX 64u

struct pair {
    struct span name, value;
};

static int compare_spans(struct span a, struct span b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    int order = compare_spans(x->name, y->name);
    return order != 0 ? order : compare_spans(x->value, y->value);
}

static void append_query(const char *query, struct str *out)
{
    struct pair pairs[PAIRS_MAX];
    size_t count = 0;
    while (*query != '\0') {
        size_t size = strcspn(query, "&");
        const char *equals = memchr(query, '=', size);
        size_t name_size = equals != NULL ? (size_t)(equals - query) : size;
        CHECK(count < PAIRS_MAX);
        pairs[count].name = span_make(query, name_size);
        pairs[count++].value =
            equals != NULL ? span_make(equals + 1, size - name_size - 1) : span_make("", 0);
        query += size + (query[size] == '&');
    }
    qsort(pairs, count, sizeof *pairs, compare_pairs);
    for (size_t i = 0; i < count; i++) {
        str_append(out, i > 0 ? "&" : "");
        str_append_span(out, pairs[i].name);
        str_append(out, "=");
        str_append_span(out, pairs[i].value);
    }
}

/* Lower case, without outer blanks; inner runs of blanks count as one. */
static char *canonical_header(const char *line)
{
    const char *colon = strchr(line, ':');
    CHECK(colon != NULL);
    struct span value = span_trim(span_of(colon + 1));
    struct str out = {0};
    for (const char *c = line; c < colon; c++) {
        char lower = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
        str_append_span(&out, span_make(&lower, 1));
    }
    str_append(&out, ":");
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] != ' ' || value.data[i - 1] != ' ')
            str_append_span(&out, span_make(&value.data[i], 1));
    }
    return out.data;
}

/* By name alone: that is up to the colon, which sorts after '-' but before letters. */
static int compare_headers(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    return compare_spans(span_make(x, strcspn(x, ":")), span_make(y, strcspn(y, ":")));
}

/* The canonical headers to `out`, the list of their names to `names`. */
static void append_headers(const struct s3_sign_input *in, char *const *own, struct str *out,
                           struct str *names)
{
    char *lines[S3_SIGN_HEADERS_MAX + 5];
    size_t count = 0;
    char *host = must_format("host:%s", in->host);
    lines[count++] = host;
    for (size_t i = 0; own[i] != NULL; i++)
        lines[count++] = canonical_header(own[i]);
    for (size_t i = 0; in->headers != NULL && in->headers[i] != NULL; i++) {
        CHECK(i < S3_SIGN_HEADERS_MAX);
        lines[count++] = canonical_header(in->headers[i]);
    }
    qsort(lines, count, sizeof *lines, compare_headers);
    for (size_t i = 0; i < count; i++) {
        str_append_format(out, "%s\n", lines[i]);
        str_append_format(names, "%s%.*s", i > 0 ? ";" : "", (int)strcspn(lines[i], ":"), lines[i]);
        mem_free(lines[i]);
    }
}

static void wipe(void *memory, size_t size)
{
    explicit_bzero(memory, size);
}

static void sign_text(const struct s3_sign_input *in, const char *date, const char *text,
                      char hex[SHA256_HEX_SIZE])
{
    char *first = must_format("AWS4%s", in->secret_key);
    const char *const steps[] = {in->region, "s3", "aws4_request", text};
    uint8_t key[SHA256_BYTES], next[SHA256_BYTES];
    sha256_hmac(first, strlen(first), date, 8, key);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        sha256_hmac(key, sizeof key, steps[i], strlen(steps[i]), next);
        memcpy(key, next, sizeof key);
    }
    sha256_to_hex(key, hex);
    wipe(first, strlen(first));
    wipe(key, sizeof key);
    mem_free(first);
}

void s3_sign(const struct s3_sign_input *in, struct s3_signed *out)
{
    char date[S3_TIME_SIZE], hash[SHA256_HEX_SIZE], signature[SHA256_HEX_SIZE];
    struct str request = {0}, names = {0}, text = {0};
    size_t count = 0;
    s3_time_format(in->time_ms, date);
    *out = (struct s3_signed){0};
    out->lines[count++] = must_format("x-amz-date: %s", date);
    out->lines[count++] = must_format("x-amz-content-sha256: %s", in->payload);
    if (in->session_token != NULL)
        out->lines[count++] = must_format("x-amz-security-token: %s", in->session_token);

    str_append_format(&request, "%s\n%s\n", in->method, in->path);
    append_query(in->query, &request);
    str_append(&request, "\n");
    append_headers(in, out->lines, &request, &names);
    str_append_format(&request, "\n%s\n%s", names.data, in->payload);
    sha256_hex(request.data, request.size, hash);
    str_append_format(&text, "AWS4-HMAC-SHA256\n%s\n%.8s/%s/s3/aws4_request\n%s", date, date,
                      in->region, hash);
    sign_text(in, date, text.data, signature);
    out->lines[count] = must_format("Authorization: AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/s3/"
                                    "aws4_request,SignedHeaders=%s,Signature=%s",
                                    in->access_key, date, in->region, names.data, signature);
    wipe(request.data, request.size); /* the session's token is in it */
    str_deinit(&request);
    str_deinit(&names);
    str_deinit(&text);
}

void s3_signed_deinit(struct s3_signed *s)
{
    for (size_t i = 0; s->lines[i] != NULL; i++) {
        wipe(s->lines[i], strlen(s->lines[i]));
        mem_free(s->lines[i]);
    }
    *s = (struct s3_signed){0};
}
