/*
 * s3_sign.h - Signature Version 4, by which a request to S3 says who sends it.
 *
 * A pure function of request, time and credentials. The path and the query are signed as they stand
 * in the URL: each byte encoded once, which is S3's rule; the query need not be sorted. Signed are
 * the Host, every header that is passed, and those that the signature brings.
 *
 * Units    time_ms: Unix time.
 * Threads  none needed.
 * Sources  "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)",
 *          Amazon S3 API Reference.
 */
#ifndef PARAMD_COMMON_S3_SIGN_H
#define PARAMD_COMMON_S3_SIGN_H

#include <stddef.h>
#include <stdint.h>

#include "common/str.h"

#define S3_SIGN_HEADERS_MAX 16u

struct s3_sign_input {
    const char *method;
    const char *host; /* as the Host header has it: with the port when it is not the scheme's own */
    const char *path; /* from its first '/' on, encoded */
    const char *query;          /* without '?', encoded; "" for none */
    const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
    const char *payload;        /* the body's SHA-256 in hexadecimal, or "UNSIGNED-PAYLOAD" */
    const char *region;
    const char *access_key;
    const char *secret_key;
    const char *session_token; /* NULL: none */
    uint64_t time_ms;
};

/* Header lines to send besides those that were passed. Zero-initialize; s3_signed_deinit(). */
struct s3_signed {
    char *lines[5]; /* NULL-terminated */
};

void s3_sign(const struct s3_sign_input *in, struct s3_signed *out);
/* Overwrites what it frees. */
void s3_signed_deinit(struct s3_signed *s);

#endif
