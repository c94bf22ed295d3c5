/*
 * One request to S3: signed anew for each try, tried again while that may help, and its failure
 * said in words.
 */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/s3_sign.h"
#include "common/s3_time.h"
#include "common/sha256.h"
#include "common/storage_s3_credentials.h"
#include "common/storage_s3_internal.h"
#include "common/xml.h"

#define CONNECT_MS      10000u
#define SLOW_STALL_MS   600000u /* CompleteMultipartUpload may take minutes */
#define MESSAGE_BYTES   256
#define ASKS_MAX        8u
#define CORRECTIONS_MAX 3u /* of clock, region or credentials, in one call */
#define WARN_FROM_TRY   3u
#define UNSIGNED_FROM   ((size_t)1 << 20)
#define EMPTY_SHA256    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* The store's clock less ours. */
static _Atomic int64_t clock_offset_ms;

static const char *const method_names[] = {"GET", "HEAD", "PUT", "POST", "DELETE"};

/* What an answer's body says about an error. */
struct report {
    char code[64];
    char message[MESSAGE_BYTES];
    char region[64];
};

/* What to do with an answer. */
enum verdict { VERDICT_DONE, VERDICT_AGAIN_NOW, VERDICT_AGAIN_LATER, VERDICT_FAILED };

struct attempt {
    const struct s3_call *call;
    struct s3_answer *answer;
    struct report report;
    struct s3_credentials credentials;
    struct s3_place place;
    char payload[SHA256_HEX_SIZE]; /* empty: not known yet */
    uint32_t corrections, asks;
    bool asks_why; /* a HEAD failed, and has no words: the next try is a GET of one byte */
};

void s3_query_add(struct str *query, const char *name, const char *value)
{
    str_append_format(query, "%s%s=", query->size > 0 ? "&" : "", name);
    http_encode(span_of(value), "", query);
}

void s3_answer_deinit(struct s3_answer *a)
{
    http_answer_deinit(&a->http);
    *a = (struct s3_answer){0};
}

/* ---- sending ---- */

/* TLS keeps large bodies whole, which costs both ends less than a second hash of them. */
static const char *payload_of(struct attempt *t)
{
    const struct s3_call *c = t->call;
    if (c->body_size >= UNSIGNED_FROM && strncmp(t->place.base, "https:", 6) == 0)
        return "UNSIGNED-PAYLOAD";
    if (t->payload[0] == '\0' && c->body_size > 0)
        sha256_hex(c->body, c->body_size, t->payload);
    return c->body_size > 0 ? t->payload : EMPTY_SHA256;
}

static enum err send_once(struct attempt *t)
{
    const struct s3_call *c = t->call;
    const struct storage_settings *s = storage_settings();
    struct str path = {0};
    struct s3_signed signature;
    const char *headers[S3_HEADERS_MAX + 6];
    size_t count = 0;
    str_append(&path, t->place.path);
    str_append(&path, "/");
    if (!c->of_bucket)
        http_encode(span_of(c->name->key), "/", &path);
    const char *query = c->query != NULL ? c->query : "";
    struct s3_sign_input in = {.method = method_names[c->method],
                               .host = t->place.host,
                               .path = path.data,
                               .query = query,
                               .headers = c->headers,
                               .payload = payload_of(t),
                               .region = t->place.region,
                               .access_key = t->credentials.access_key,
                               .secret_key = t->credentials.secret_key,
                               .session_token = t->credentials.session_token};
    if (t->asks_why)
        in.method = method_names[HTTP_GET];
    in.time_ms = (uint64_t)((int64_t)clock_wall_ms() + clock_offset_ms);
    s3_sign(&in, &signature);
    for (size_t i = 0; c->headers[i] != NULL; i++)
        headers[count++] = c->headers[i];
    for (size_t i = 0; signature.lines[i] != NULL; i++)
        headers[count++] = signature.lines[i];
    headers[count] = NULL;
    char *url =
        must_format("%s%s%s%s", t->place.base, path.data, query[0] != '\0' ? "?" : "", query);
    struct http_piece body = {c->body, c->body_size};
    struct http_request q = {.method = t->asks_why ? HTTP_GET : c->method,
                             .url = url,
                             .headers = headers,
                             .transport = {.ca_file = s->ca_file},
                             .timeouts = {.connect_ms = CONNECT_MS,
                                          .stall_ms = c->is_slow && s->stall_ms < SLOW_STALL_MS
                                                          ? SLOW_STALL_MS
                                                          : s->stall_ms},
                             .pieces = &body,
                             .piece_count = c->body_size > 0 ? 1 : 0,
                             .range_first = c->range_first,
                             .range_size = c->range_size,
                             .into = c->into,
                             .into_size = (size_t)c->range_size,
                             .answer_max = S3_ANSWER_BYTES};
    if (t->asks_why)
        q.range_size = 1;
    enum err e = http_perform(&q, &t->answer->http);
    s3_signed_deinit(&signature);
    str_deinit(&path);
    mem_free(url);
    return e;
}

/* ---- understanding ---- */

static void keep_printable(char *to, size_t room, const char *text)
{
    size_t size = 0;
    for (; *text != '\0' && size + 1 < room; text++)
        to[size++] = (unsigned char)*text < ' ' ? ' ' : *text;
    to[size] = '\0';
}

static enum err on_error_element(void *context, const char *path, const char *text)
{
    struct report *r = context;
    if (strcmp(path, "Error/Code") == 0)
        keep_printable(r->code, sizeof r->code, text);
    else if (strcmp(path, "Error/Message") == 0)
        keep_printable(r->message, sizeof r->message, text);
    else if (strcmp(path, "Error/Region") == 0)
        keep_printable(r->region, sizeof r->region, text);
    return ERR_NONE;
}

static void read_report(struct attempt *t)
{
    const struct http_answer *a = &t->answer->http;
    struct span header;
    /* Stores begin to answer what takes long with 200, and find out later. */
    bool is_change = t->call->method != HTTP_GET && t->call->method != HTTP_HEAD;
    bool may_be_error = a->status / 100 != 2 || is_change;
    t->report = (struct report){0};
    if (may_be_error && a->body != NULL && a->size > 0 &&
        xml_parse("the store's error", a->body, a->size, on_error_element, &t->report) != ERR_NONE)
        t->report.code[0] = t->report.message[0] = '\0'; /* HTML of a proxy, or cut off */
    if (http_header(a, "x-amz-bucket-region", &header) && header.size < sizeof t->report.region) {
        memcpy(t->report.region, header.data, header.size);
        t->report.region[header.size] = '\0';
    }
    memcpy(t->answer->code, t->report.code, sizeof t->answer->code);
}

static bool is_one_of(const char *code, const char *const *list)
{
    for (; *list != NULL; list++) {
        if (strcmp(code, *list) == 0)
            return true;
    }
    return false;
}

static bool adjust_clock(const struct http_answer *a)
{
    struct span date;
    uint64_t theirs;
    if (!http_header(a, "date", &date) || s3_time_parse_http(date, &theirs) != ERR_NONE)
        return false;
    int64_t offset = (int64_t)theirs - (int64_t)clock_wall_ms();
    int64_t before = atomic_exchange(&clock_offset_ms, offset);
    if (offset - before > 60000 || before - offset > 60000)
        log_warn("s3",
                 "the store's clock differs from this machine's: signing by the store's "
                 "offset_ms=%lld",
                 (long long)offset);
    return true;
}

/* What makes another try at once worth it: we knew something wrong. */
static bool correct(struct attempt *t)
{
    static const char *const skewed[] = {"RequestTimeTooSkewed", NULL};
    static const char *const expired[] = {"ExpiredToken",       "ExpiredTokenException",
                                          "InvalidToken",       "TokenRefreshRequired",
                                          "InvalidAccessKeyId", NULL};
    if (t->corrections++ >= CORRECTIONS_MAX)
        return false;
    if (is_one_of(t->report.code, skewed))
        return adjust_clock(&t->answer->http);
    if (is_one_of(t->report.code, expired)) {
        s3_credentials_refuse(&t->credentials);
        return true;
    }
    /* Compared with what this request was signed for: another thread may have learned it since. */
    if (t->report.region[0] == '\0' || strcmp(t->report.region, t->place.region) == 0)
        return false;
    s3_place_learn(t->call->name->bucket, span_of(t->report.region));
    return true;
}

static enum verdict judge(struct attempt *t)
{
    static const char *const passing[] = {"RequestTimeout",
                                          "InternalError",
                                          "SlowDown",
                                          "ServiceUnavailable",
                                          "Throttling",
                                          "OperationAborted",
                                          "ConditionalRequestConflict",
                                          NULL};
    int status = t->answer->http.status;
    bool has_asked = t->asks_why;
    t->asks_why = false;
    /* The GET did not fail: what was wrong has passed. */
    if (has_asked && (status / 100 == 2 || status == 416) && t->asks < ASKS_MAX)
        return VERDICT_AGAIN_NOW;
    if (status / 100 == 2 && t->report.code[0] == '\0')
        return VERDICT_DONE;
    if (t->call->method == HTTP_HEAD && !has_asked && status / 100 != 5 && status != 404 &&
        status != 412 && t->asks++ < ASKS_MAX) {
        t->asks_why = true;
        return VERDICT_AGAIN_NOW;
    }
    if (status != 404 && status != 412 && correct(t))
        return VERDICT_AGAIN_NOW;
    if (http_status_may_pass(status) || is_one_of(t->report.code, passing))
        return VERDICT_AGAIN_LATER;
    return VERDICT_FAILED;
}

static enum err code_of(const struct attempt *t)
{
    static const char *const full[] = {
        "QuotaExceeded",  "InsufficientCapacity", "StorageFull", "XMinioStorageFull",
        "EntityTooLarge", "InsufficientStorage",  NULL};
    int status = t->answer->http.status;
    if (is_one_of(t->report.code, full) || status == 507 || status == 413)
        return ERR_LIMIT;
    /* A bucket that is missing is no proof of an absent file, but a wrong name. */
    if (status == 404)
        return strcmp(t->report.code, "NoSuchBucket") == 0 ? ERR_INPUT : ERR_NOT_FOUND;
    if (status == 412)
        return ERR_EXISTS;
    if (status == 416)
        return ERR_CORRUPT;
    if (status == 501)
        return ERR_UNSUPPORTED;
    if (http_status_may_pass(status) || status / 100 == 2)
        return ERR_UNAVAILABLE;
    return status == 409 ? ERR_UNAVAILABLE : ERR_REFUSED;
}

static enum err explain(const struct attempt *t)
{
    static const char *const help_of[][2] = {
        {"AccessDenied", "the credentials may not; docs/storage.md lists the permissions"},
        {"SignatureDoesNotMatch", "the secret key is not the one of that access key"},
        {"InvalidAccessKeyId", "the store does not know that access key"},
        {"RequestTimeTooSkewed", "set this machine's clock"},
    };
    int status = t->answer->http.status;
    const char *help = status == 403 && t->report.code[0] == '\0'
                           ? "the credentials may not; docs/storage.md lists the permissions"
                           : "";
    for (size_t i = 0; i < sizeof help_of / sizeof *help_of; i++) {
        if (strcmp(t->report.code, help_of[i][0]) == 0)
            help = help_of[i][1];
    }
    return err_set(code_of(t), "cannot %s '%s': %s answers %d%s%s%s%s%s%s", t->call->doing,
                   t->call->name->uri, t->place.host, status, t->report.code[0] ? " " : "",
                   t->report.code, t->report.message[0] ? ", " : "", t->report.message,
                   help[0] ? "; " : "", help);
}

/* ---- trying ---- */

/* One try, and what it says. VERDICT_FAILED: *out has why. */
static enum verdict try_once(struct attempt *t, enum err *out)
{
    s3_place_find(t->call->name->bucket, &t->place);
    enum err e = s3_credentials_get(t->place.region, &t->credentials);
    if (e != ERR_NONE) {
        *out = err_prefix(e, "cannot %s '%s'", t->call->doing, t->call->name->uri);
        return e == ERR_UNAVAILABLE || e == ERR_TIMEOUT ? VERDICT_AGAIN_LATER : VERDICT_FAILED;
    }
    e = send_once(t);
    if (e != ERR_NONE) {
        *out = err_prefix(e, "cannot %s '%s'", t->call->doing, t->call->name->uri);
        return e == ERR_UNAVAILABLE || e == ERR_TIMEOUT ? VERDICT_AGAIN_LATER : VERDICT_FAILED;
    }
    if (t->answer->http.status / 100 == 2 && t->call->into != NULL &&
        t->answer->http.size != t->call->range_size) {
        *out = err_set(ERR_CORRUPT, "cannot %s '%s': %zu bytes came where %llu were asked for",
                       t->call->doing, t->call->name->uri, t->answer->http.size,
                       (unsigned long long)t->call->range_size);
        return VERDICT_FAILED;
    }
    read_report(t);
    enum verdict v = judge(t);
    *out = v == VERDICT_DONE ? ERR_NONE : explain(t);
    return v;
}

enum err s3_perform(const struct s3_call *c, struct s3_answer *out)
{
    struct attempt t = {.call = c, .answer = out};
    struct retry r = http_retry_begin(&retry_default, storage_settings()->timeout_ms);
    bool is_change = c->method != HTTP_GET && c->method != HTTP_HEAD;
    *out = (struct s3_answer){0};
    for (;;) {
        enum err e = ERR_NONE;
        enum verdict v = try_once(&t, &e);
        uint32_t at_least_ms = out->http.retry_after_ms;
        bool uncertain = out->was_uncertain || (is_change && out->http.was_resent);
        s3_credentials_deinit(&t.credentials);
        s3_place_deinit(&t.place);
        if (v == VERDICT_AGAIN_LATER) {
            if (r.failed + 1 == WARN_FROM_TRY)
                log_warn("s3", "still trying: %s", err_text());
            /* Whatever is no clear refusal may have been done all the same. */
            uncertain |= is_change && out->http.was_sent;
            if (!http_try_again(&r, at_least_ms))
                v = VERDICT_FAILED;
        }
        out->was_uncertain = uncertain;
        if (v == VERDICT_DONE || v == VERDICT_FAILED)
            return e;
        http_answer_deinit(&out->http);
    }
}
