/*
 * http_internal.h - libcurl's handles, and where they rest between requests. For http*.c only.
 */
#ifndef PARAMD_COMMON_HTTP_INTERNAL_H
#define PARAMD_COMMON_HTTP_INTERNAL_H

#include "common/http.h"

struct http_handle; /* a CURL easy handle with its kept connections */

/* One that has spoken with this host before, or a new one. NULL: no memory. */
struct http_handle *http_handle_take(const struct http_request *q);
/* Back to the idle ones; `is_sound` false: its connections are closed. */
void http_handle_give(struct http_handle *h, bool is_sound);
void *http_handle_curl(struct http_handle *h);

#endif
