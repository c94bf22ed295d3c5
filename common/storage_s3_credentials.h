/*
 * storage_s3_credentials.h - who we are to S3: found where the AWS tools look, kept fresh.
 *
 * In this order, the first place that says anything wins: the file that the settings name; the
 * environment (AWS_ACCESS_KEY_ID …); a web identity's token (AWS_WEB_IDENTITY_TOKEN_FILE,
 * AWS_ROLE_ARN); ~/.aws/credentials; the container's service; the instance's (IMDSv2). Files are
 * looked at again every minute, what expires is replaced five minutes before; when that fails and
 * the old ones still hold, they stay, and it is tried again a minute later.
 *
 * Threads  any.
 * Errors   ERR_REFUSED: nowhere to be found (the text lists where it looked); ERR_INPUT: a file or
 *          answer makes no sense; ERR_UNAVAILABLE: a service is away.
 */
#ifndef PARAMD_COMMON_STORAGE_S3_CREDENTIALS_H
#define PARAMD_COMMON_STORAGE_S3_CREDENTIALS_H

#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

struct s3_credentials {
    char *access_key; /* these three by secret_keep() */
    char *secret_key;
    char *session_token; /* NULL: none */
    uint64_t expires_ms; /* Unix time; 0: never */
    const char *source;  /* for texts: "the environment" */
};

/* A copy of the present ones. */
enum err s3_credentials_get(const char *region, struct s3_credentials *out) MUST_CHECK;
/* The store calls these expired or unknown: they are looked up anew, if they still are the present
   ones. */
void s3_credentials_refuse(const struct s3_credentials *c);
void s3_credentials_deinit(struct s3_credentials *c); /* overwrites what it frees */

/* The parts that need no network; ERR_NOT_FOUND: there is none. Exposed for tests. */
enum err s3_credentials_from_file(const char *path, const char *profile,
                                  struct s3_credentials *out) MUST_CHECK;
enum err s3_credentials_from_json(const char *what, const char *text, size_t size,
                                  struct s3_credentials *out) MUST_CHECK;
/* Forgets what is kept. For tests. */
void s3_credentials_forget(void);

#endif
