#include "common/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/http_internal.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "common/rng.h"

#define BODY_START_BYTES 16384u
#define RETRY_AFTER_MAX  60000u

/* One request under way. */
struct transfer {
    const struct http_request *q;
    struct http_answer *answer;
    CURL *curl;
    struct curl_slist *headers;
    size_t piece, piece_offset; /* of the body that is sent */
    uint64_t sent;
    size_t body_capacity;
    uint32_t sendings;
    enum err failure; /* of a callback of ours: the text is set */
    char reason[CURL_ERROR_SIZE];
};

/* ---- the body that goes out ---- */

static uint64_t body_size(const struct http_request *q)
{
    uint64_t size = 0;
    if (q->produce != NULL)
        return q->body_size;
    for (size_t i = 0; i < q->piece_count; i++)
        size += q->pieces[i].size;
    return size;
}

static size_t produce(struct transfer *t, char *to, size_t room)
{
    size_t size = 0;
    uint64_t left = t->q->body_size - t->sent;
    if (left == 0)
        return 0;
    t->failure = t->q->produce(t->q->context, to, left < room ? (size_t)left : room, &size);
    if (t->failure == ERR_NONE && size == 0 && t->q->body_size != HTTP_SIZE_UNKNOWN)
        t->failure = err_set(ERR_INPUT, "the body ends after %llu of %llu bytes",
                             (unsigned long long)t->sent, (unsigned long long)t->q->body_size);
    t->sent += size;
    return t->failure == ERR_NONE ? size : CURL_READFUNC_ABORT;
}

static size_t on_read(char *to, size_t size, size_t count, void *context)
{
    struct transfer *t = context;
    size_t room = size * count, done = 0;
    if (t->q->produce != NULL)
        return produce(t, to, room);
    while (done < room && t->piece < t->q->piece_count) {
        const struct http_piece *p = &t->q->pieces[t->piece];
        size_t part = p->size - t->piece_offset;
        if (part > room - done)
            part = room - done;
        if (part > 0)
            memcpy(to + done, (const char *)p->data + t->piece_offset, part);
        done += part;
        t->piece_offset += part;
        if (t->piece_offset == p->size) {
            t->piece++;
            t->piece_offset = 0;
        }
    }
    return done;
}

/* libcurl asks for the beginning only. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
    struct transfer *t = context;
    if (offset != 0 || origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    t->piece = t->piece_offset = 0;
    if (t->q->produce == NULL || t->sent == 0)
        return CURL_SEEKFUNC_OK;
    t->sent = 0;
    if (t->q->rewind == NULL)
        return CURL_SEEKFUNC_CANTSEEK;
    t->failure = t->q->rewind(t->q->context);
    return t->failure == ERR_NONE ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
}

/* ---- the answer ---- */

/* "HTTP/1.1 403 Words": servers put there what is wrong with a ticket. */
static void take_status_text(struct http_answer *a, struct span line)
{
    size_t at = 0;
    for (int words = 0; words < 2; words++) {
        while (at < line.size && line.data[at] != ' ')
            at++;
        at += at < line.size;
    }
    mem_free(a->status_text);
    a->status_text =
        at < line.size ? must_format("%.*s", (int)(line.size - at), line.data + at) : NULL;
}

static size_t on_header(char *data, size_t size, size_t count, void *context)
{
    struct transfer *t = context;
    struct str *headers = &t->answer->headers;
    size_t bytes = size * count;
    struct span line = span_make(data, bytes);
    while (line.size > 0 && strchr("\r\n", line.data[line.size - 1]) != NULL)
        line.size--;
    if (line.size >= 5 && strncmp(line.data, "HTTP/", 5) == 0) { /* 100 Continue came before */
        str_clear(headers);
        take_status_text(t->answer, line);
        return bytes;
    }
    const char *colon = line.size > 0 ? memchr(line.data, ':', line.size) : NULL;
    if (colon == NULL)
        return bytes;
    if (headers->size + line.size + 1 > HTTP_HEADERS_BYTES) {
        t->failure =
            err_set(ERR_LIMIT, "the answer has more than %u bytes of headers", HTTP_HEADERS_BYTES);
        return 0;
    }
    size_t start = headers->size;
    str_append_span(headers, line);
    str_append(headers, "\n");
    for (size_t i = start; i < start + (size_t)(colon - line.data); i++)
        headers->data[i] = (char)tolower((unsigned char)headers->data[i]);
    return bytes;
}

static enum err keep_in_memory(struct transfer *t, const char *data, size_t size, bool is_answer)
{
    struct http_answer *a = t->answer;
    size_t max = is_answer ? t->q->answer_max : HTTP_EXPLAIN_BYTES;
    if (!is_answer && size > max - a->size) /* an explanation may be cut */
        size = max - a->size;
    if (size > max - a->size)
        return err_set(ERR_LIMIT, "the answer has more than %zu bytes", max);
    if (a->size + size + 1 > t->body_capacity) {
        size_t capacity = t->body_capacity > 0 ? t->body_capacity : BODY_START_BYTES;
        while (capacity < a->size + size + 1)
            capacity *= 2;
        char *body = mem_realloc(a->body, capacity, 1);
        if (body == NULL)
            return ERR_MEMORY;
        a->body = body;
        t->body_capacity = capacity;
    }
    memcpy(a->body + a->size, data, size);
    a->size += size;
    a->body[a->size] = '\0';
    return ERR_NONE;
}

static enum err take_body(struct transfer *t, const char *data, size_t size)
{
    const struct http_request *q = t->q;
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    bool is_answer = status / 100 == 2;
    if (!is_answer || (q->into == NULL && q->consume == NULL))
        return keep_in_memory(t, data, size, is_answer);
    if (q->range_size > 0 && status != 206)
        return err_set(ERR_UNSUPPORTED, "it sends the whole where a range was asked for");
    if (q->consume != NULL) {
        t->answer->size += size;
        return q->consume(q->context, data, size);
    }
    if (size > q->into_size - t->answer->size)
        return err_set(ERR_LIMIT, "the answer has more than the %zu bytes asked for", q->into_size);
    memcpy((char *)q->into + t->answer->size, data, size);
    t->answer->size += size;
    return ERR_NONE;
}

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
    struct transfer *t = context;
    if (size * count > 0)
        t->failure = take_body(t, data, size * count);
    return t->failure == ERR_NONE ? size * count : 0;
}

/* ---- putting a request together ---- */

/* Called each time that the request is about to go out. */
static int on_sending(void *context, char *address, char *own_address, int port, int own_port)
{
    struct transfer *t = context;
    t->sendings++;
    return CURL_PREREQFUNC_OK;
}

/* libcurl tells only its log why there is no ticket, and goes on without. */
static int on_log(CURL *curl, curl_infotype type, char *data, size_t size, void *context)
{
    static const char *const beginnings[] = {"gss_init_sec_context() failed: ",
                                             "gss_import_name() failed: "};
    struct transfer *t = context;
    struct span line = span_make(data, size);
    while (line.size > 0 && strchr(". \n", line.data[line.size - 1]) != NULL)
        line.size--;
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        size_t skip = strlen(beginnings[i]);
        if (type == CURLINFO_TEXT && t->answer->ticket_text == NULL && line.size > skip &&
            strncmp(line.data, beginnings[i], skip) == 0)
            t->answer->ticket_text = must_format("%.*s", (int)(line.size - skip), line.data + skip);
    }
    return 0;
}

static void add_header(struct transfer *t, const char *line)
{
    struct curl_slist *more = curl_slist_append(t->headers, line);
    if (more == NULL)
        t->failure = err_set(ERR_MEMORY, "no memory for the headers of a request");
    else
        t->headers = more;
}

static void set_headers(struct transfer *t)
{
    const struct http_request *q = t->q;
    for (size_t i = 0; q->headers != NULL && q->headers[i] != NULL; i++)
        add_header(t, q->headers[i]);
    if (q->range_size > 0) {
        char *line = must_format("Range: bytes=%llu-%llu", (unsigned long long)q->range_first,
                                 (unsigned long long)(q->range_first + q->range_size - 1));
        add_header(t, line);
        mem_free(line);
    }
    /* libcurl adds Expect by itself where a body is large, and a type to what is posted. */
    add_header(t, q->expect_continue ? "Expect: 100-continue" : "Expect:");
    if (t->headers != NULL)
        curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
}

static void set_method(struct transfer *t)
{
    CURL *c = t->curl;
    uint64_t size = body_size(t->q);
    enum http_method method = t->q->method;
    if (method == HTTP_HEAD) {
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
        return;
    }
    if (method == HTTP_PUT || method == HTTP_POST || size > 0) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE,
                         size == HTTP_SIZE_UNKNOWN ? (curl_off_t)-1 : (curl_off_t)size);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c, CURLOPT_READDATA, t);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, t);
        curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
    }
    if (method == HTTP_POST)
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, "POST");
    if (method == HTTP_DELETE)
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, "DELETE");
}

static void set_transport(struct transfer *t)
{
    const struct http_transport *p = &t->q->transport;
    const struct http_timeouts *o = &t->q->timeouts;
    CURL *c = t->curl;
    if (p->ca_file != NULL)
        curl_easy_setopt(c, CURLOPT_CAINFO, p->ca_file);
    if (p->direct)
        curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    if (p->negotiate) {
        if (curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_NEGOTIATE) != CURLE_OK)
            t->failure = err_set(ERR_UNSUPPORTED, "this libcurl knows no Kerberos (SPNEGO)");
        curl_easy_setopt(c, CURLOPT_USERPWD, ":");
        curl_easy_setopt(c, CURLOPT_DEBUGFUNCTION, on_log);
        curl_easy_setopt(c, CURLOPT_DEBUGDATA, t);
        curl_easy_setopt(c, CURLOPT_VERBOSE, 1L);
    }
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)o->total_ms);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)o->connect_ms);
    if (o->stall_ms > 0) {
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)((o->stall_ms + 999) / 1000));
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)(o->stall_bytes ? o->stall_bytes : 1));
    }
}

static void set_options(struct transfer *t)
{
    CURL *c = t->curl;
    curl_easy_setopt(c, CURLOPT_URL, t->q->url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "paramd/" PARAMD_VERSION);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 256L * 1024);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->reason);
    curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, on_sending);
    curl_easy_setopt(c, CURLOPT_PREREQDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    set_transport(t);
    set_method(t);
    set_headers(t);
}

/* ---- what came of it ---- */

static enum err code_of(CURLcode code, bool sent)
{
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return ERR_TIMEOUT;
    case CURLE_OUT_OF_MEMORY:
        return ERR_MEMORY;
    case CURLE_UNSUPPORTED_PROTOCOL: /* the URL's, or what came is no HTTP */
        return sent ? ERR_UNAVAILABLE : ERR_INPUT;
    case CURLE_URL_MALFORMAT:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_BAD_FUNCTION_ARGUMENT:
        return ERR_INPUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
        return ERR_REFUSED;
    default: /* no name, no connection, lost, no HTTP, cut off */
        return ERR_UNAVAILABLE;
    }
}

static enum err explain(struct transfer *t, CURLcode code)
{
    struct str what = {0};
    enum err e = t->failure;
    http_describe(t->q, &what);
    if (e != ERR_NONE) {
        e = err_prefix(e, "%s", what.data);
    } else {
        const char *ticket = t->answer->ticket_text; /* a KDC that hangs takes all the time */
        e = err_set(code_of(code, t->answer->was_sent), "%s: %s%s%s", what.data,
                    t->reason[0] != '\0' ? t->reason : curl_easy_strerror(code),
                    ticket != NULL ? "; no Kerberos ticket: " : "", ticket != NULL ? ticket : "");
    }
    str_deinit(&what);
    return e;
}

static void count(struct transfer *t, bool is_sound)
{
    static struct metric *requests, *failures, *sent, *received;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    curl_off_t up = 0, down = 0;
    pthread_mutex_lock(&lock);
    if (requests == NULL) {
        failures = metric_counter("paramd_http_failures_total",
                                  "Requests to stores that no answer came to.");
        sent = metric_counter("paramd_http_sent_bytes_total", "Bytes of bodies sent to stores.");
        received = metric_counter("paramd_http_received_bytes_total",
                                  "Bytes of bodies received from stores.");
        requests = metric_counter("paramd_http_requests_total", "Requests to stores.");
    }
    pthread_mutex_unlock(&lock);
    curl_easy_getinfo(t->curl, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(t->curl, CURLINFO_SIZE_DOWNLOAD_T, &down);
    metric_add(requests, 1);
    metric_add(failures, !is_sound);
    metric_add(sent, (uint64_t)up);
    metric_add(received, (uint64_t)down);
}

static void read_retry_after(struct http_answer *a)
{
    struct span text;
    uint64_t seconds;
    /* The other form, a date, is not worth a clock: the retry's own wait does. */
    if (http_header(a, "retry-after", &text) && str_parse_u64(text, &seconds) == ERR_NONE)
        a->retry_after_ms =
            seconds < RETRY_AFTER_MAX / 1000 ? (uint32_t)seconds * 1000 : RETRY_AFTER_MAX;
}

static struct retry_budget budget;
static pthread_mutex_t budget_lock = PTHREAD_MUTEX_INITIALIZER;

static enum err check_url(const char *url)
{
    for (const char *c = url; *c != '\0'; c++) {
        if ((unsigned char)*c <= ' ' || *c == 127)
            return err_set(ERR_INPUT, "a URL has the byte %d at %zu: it must be encoded", *c,
                           (size_t)(c - url));
    }
    return ERR_NONE;
}

enum err http_perform(const struct http_request *q, struct http_answer *out)
{
    struct transfer t = {.q = q, .answer = out};
    *out = (struct http_answer){0};
    enum err e = check_url(q->url);
    if (e != ERR_NONE)
        return e;
    struct http_handle *h = http_handle_take(q);
    if (h == NULL)
        return err_set(ERR_MEMORY, "no memory for a connection");
    t.curl = http_handle_curl(h);
    set_options(&t);
    uint64_t start = clock_ns();
    CURLcode code = t.failure == ERR_NONE ? curl_easy_perform(t.curl) : CURLE_OK;
    out->seconds = clock_seconds_since(start);
    bool is_sound = code == CURLE_OK && t.failure == ERR_NONE;
    out->was_sent = t.sendings > 0;
    out->was_resent = t.sendings > 1;
    count(&t, is_sound);
    if (is_sound) {
        long status = 0;
        curl_easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &status);
        out->status = (int)status;
        read_retry_after(out);
        if (status < 500) {
            pthread_mutex_lock(&budget_lock);
            retry_succeeded(&budget);
            pthread_mutex_unlock(&budget_lock);
        }
    } else {
        e = explain(&t, code);
        mem_free(out->body);
        out->body = NULL;
    }
    curl_slist_free_all(t.headers);
    http_handle_give(h, is_sound);
    return e;
}

void http_answer_deinit(struct http_answer *a)
{
    if (a->body != NULL) /* what services hand out, and tokens in redirects */
        explicit_bzero(a->body, a->size);
    if (a->headers.data != NULL)
        explicit_bzero(a->headers.data, a->headers.size);
    mem_free(a->body);
    mem_free(a->status_text);
    mem_free(a->ticket_text);
    str_deinit(&a->headers);
    *a = (struct http_answer){0};
}

/* ---- trying again ---- */

struct retry http_retry_begin(const struct retry_policy *policy, uint32_t timeout_ms)
{
    static _Atomic uint64_t number;
    uint64_t now = clock_ns();
    return retry_begin(policy, now / 1000000 + timeout_ms, rng_at(now, ++number));
}

bool http_try_again(struct retry *r, uint32_t at_least_ms)
{
    uint32_t wait_ms = 0;
    pthread_mutex_lock(&budget_lock);
    bool again = retry_next(r, &budget, clock_ms(), at_least_ms, &wait_ms);
    pthread_mutex_unlock(&budget_lock);
    if (!again)
        return false;
    metric_add(
        metric_counter("paramd_http_retries_total", "Requests to stores that were made again."), 1);
    clock_sleep_ms(wait_ms);
    return true;
}
