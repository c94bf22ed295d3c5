/*
 * http_server.h - a server of one thread that answers requests by a script, for tests of clients.
 *
 * The nth request gets the nth reply of the script, byte for byte, and after it the connection is
 * kept, closed or reset; past the end of the script it is closed without an answer. Requests are
 * kept whole (head and body by Content-Length) for the test to look at.
 *
 * Threads  one of its own; http_server_request() may be called by the test once the answer is in.
 */
#ifndef PARAMD_TESTS_SUPPORT_HTTP_SERVER_H
#define PARAMD_TESTS_SUPPORT_HTTP_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum http_after {
    HTTP_AFTER_KEEP,
    HTTP_AFTER_CLOSE,
    HTTP_AFTER_RESET, /* what the client has not read is lost */
    HTTP_AFTER_HANG   /* nothing more is said, until the client goes */
};

struct http_reply {
    const char *text; /* "" for none; NULL ends a script */
    enum http_after after;
};

#define HTTP_REPLY(bytes)                                                                          \
    {                                                                                              \
        .text = (bytes), .after = HTTP_AFTER_KEEP                                                  \
    }
#define HTTP_REPLY_THEN(bytes, doing)                                                              \
    {                                                                                              \
        .text = (bytes), .after = HTTP_AFTER_##doing                                               \
    }
#define HTTP_SCRIPT_END                                                                            \
    {                                                                                              \
        .text = NULL                                                                               \
    }

struct http_server;

/* `script` is borrowed. Listens on 127.0.0.1. */
struct http_server *http_server_start(const struct http_reply *script);
uint16_t http_server_port(const struct http_server *s);
size_t http_server_request_count(struct http_server *s);
size_t http_server_connection_count(struct http_server *s);
/* Borrowed; NULL: there was none of that number, which counts from 0. */
const char *http_server_request(struct http_server *s, size_t index);
void http_server_stop(struct http_server *s);

#endif
