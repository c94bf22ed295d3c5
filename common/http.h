/*
 * http.h - one HTTP request and its answer, blocking, over connections that are kept. Walls off
 * libcurl.
 *
 * A request goes out as it is written: the URL verbatim, no header added but Host, User-Agent,
 * Accept and Content-Length, no redirect followed. A status is no error: http_perform() succeeds
 * when an answer came whole, and the caller judges its status. Trying again is the caller's too,
 * who knows what may be sent twice; http_try_again() keeps the process's budget and waits.
 *
 * Connections are kept with libcurl's handles, which are lent to one request at a time and kept by
 * scheme, host, port, authentication and certificates: at most HTTP_IDLE_MAX idle ones, the longest
 * unused out first. How many requests run at once is bounded by the threads that make them.
 *
 * Shapes   request body: pieces one after the other, or a callback. Answer: into memory (bounded),
 *          into the caller's buffer, or to a callback. Buffer and callback get the body of 2xx
 *          only; that of any other status is an explanation, and is kept in memory, up to 64 KiB.
 * Units    milliseconds, bytes.
 * Threads  any. Callbacks run on the calling thread.
 * Errors   ERR_UNAVAILABLE: no name, no connection, or lost; ERR_TIMEOUT; ERR_REFUSED: its
 *          certificate is not trusted; ERR_LIMIT: more than the buffer or bound holds; ERR_INPUT:
 *          the URL, or the file of certificates; ERR_UNSUPPORTED: a libcurl without Kerberos, a
 *          server without ranges; what a callback returned. For want of a ticket none fails: it
 *          goes out without, and the answer says why. Texts name method, host and path and the
 *          cause. They never hold a header's value, nor a query's, but of the few parameters that
 *          are known to be no secret.
 */
#ifndef PARAMD_COMMON_HTTP_H
#define PARAMD_COMMON_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/retry.h"
#include "common/str.h"

#define HTTP_IDLE_MAX      64u
#define HTTP_EXPLAIN_BYTES 65536u /* kept of the body of an answer that is not 2xx */
#define HTTP_HEADERS_BYTES 65536u /* of an answer; more is ERR_LIMIT */

#define HTTP_SIZE_UNKNOWN UINT64_MAX

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_PUT, HTTP_POST, HTTP_DELETE };

struct http_piece {
    const void *data;
    size_t size;
};

/* Fills `to` with up to `room` bytes; *size_out = 0 only at the end. */
typedef enum err http_produce(void *context, void *to, size_t room, size_t *size_out);
/* Begins the body anew: a kept connection was dead, or authentication asks twice. */
typedef enum err http_rewind(void *context);
typedef enum err http_consume(void *context, const void *data, size_t size);

struct http_timeouts {
    uint32_t total_ms;   /* 0: none, then `low_speed` must be there */
    uint32_t connect_ms; /* 0: libcurl's 5 minutes */
    uint32_t stall_ms;   /* slower than `stall_bytes` a second for so long; whole seconds; 0: off */
    uint32_t stall_bytes;
};

/* What a request is sent over; requests with equal transports share connections. */
struct http_transport {
    const char *ca_file; /* PEM; NULL: the system's */
    bool negotiate;      /* Kerberos (SPNEGO) by the credentials of this process */
    bool direct;         /* over no proxy, whatever the environment says */
};

/* Zero-initialize, then say what differs. Everything is borrowed for the call. */
struct http_request {
    enum http_method method;
    const char *url;
    const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
    struct http_transport transport;
    struct http_timeouts timeouts;

    const struct http_piece *pieces; /* the body; PUT and POST always have one, maybe of 0 bytes */
    size_t piece_count;
    http_produce *produce; /* instead of pieces: `body_size` bytes, exactly */
    http_rewind *rewind;   /* NULL: the request fails where it would be needed */
    uint64_t body_size;    /* or HTTP_SIZE_UNKNOWN: as many as there are, in chunks */
    bool expect_continue;  /* wait (up to 1 s) for 100 Continue before the body goes out */

    uint64_t range_size; /* not 0: ask for [range_first, range_first + range_size) */
    uint64_t range_first;

    void *into; /* the body of 2xx goes there; more than into_size is ERR_LIMIT */
    size_t into_size;
    http_consume *consume; /* or there */
    size_t answer_max;     /* or to memory, at most so many bytes */
    void *context;         /* of the callbacks */
};

struct http_answer {
    int status;
    char *body;  /* 0-terminated; NULL when it went to a buffer or callback */
    size_t size; /* of the body, wherever it went */
    /*
     * Also of a failed request: false when it cannot have reached the server (no name, no
     * connection), so that it is safe to send again, or to another.
     */
    bool was_sent;
    /*
     * It went out twice: the kept connection that it was sent over turned out dead, or died. The
     * first one may have been carried out, and the answer is that to the second.
     */
    bool was_resent;
    uint32_t retry_after_ms; /* what the server asked for; 0: nothing */
    char *status_text;       /* the words beside the status; NULL: none */
    char *ticket_text;       /* of a `negotiate`: why no ticket was sent; NULL: one was */
    struct str headers;      /* "name: value\n", names in lower case */
    double seconds;
};

/*
 * Fills *out also on failure (then without a body); http_answer_deinit() in both cases. An answer
 * of fewer bytes than it announced is ERR_UNAVAILABLE.
 */
enum err http_perform(const struct http_request *q, struct http_answer *out) MUST_CHECK;
void http_answer_deinit(struct http_answer *a);

/* The first header of that name (lower case); false: none. Borrowed from the answer. */
bool http_header(const struct http_answer *a, const char *name, struct span *out);

/* "PUT https://host:80/path?op=CREATE&delegation=***", appended: for texts and logs. */
void http_describe(const struct http_request *q, struct str *out);
/* The same for any text that may hold URLs or queries. */
void http_redact(const char *url, struct str *out);

/* May a status pass by itself: 408, 429, 500, 502, 503, 504? */
bool http_status_may_pass(int status);

/* A retry of at most `timeout_ms`, with a random key of its own. */
struct retry http_retry_begin(const struct retry_policy *policy, uint32_t timeout_ms);
/*
 * After a failure that may pass: takes from the process's budget, counts, waits, and is true; or is
 * false at once, and err_text() is as it was.
 */
bool http_try_again(struct retry *r, uint32_t at_least_ms);

/* Percent-encodes all but A-Z a-z 0-9 - . _ ~ and the bytes in `keep`; appended. */
void http_encode(struct span text, const char *keep, struct str *out);

#endif
