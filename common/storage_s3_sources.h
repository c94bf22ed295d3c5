/*
 * storage_s3_sources.h - services that hand out credentials for S3. For storage_s3_credentials.c
 * only.
 *
 * Each returns ERR_NOT_FOUND when nothing says that it is to be asked, or that there is one.
 *
 * Sources  the AWS SDKs and Tools Reference Guide: "Assume role with web identity", "Container
 *          credential provider", "IMDS credential provider".
 */
#ifndef PARAMD_COMMON_STORAGE_S3_SOURCES_H
#define PARAMD_COMMON_STORAGE_S3_SOURCES_H

#include "common/storage_s3_credentials.h"

#define S3_SOURCE_MAX_BYTES ((size_t)1 << 20)

struct s3_source_context {
    const char *region;
};

enum err s3_source_web_identity(const struct s3_source_context *x,
                                struct s3_credentials *out) MUST_CHECK;
enum err s3_source_container(const struct s3_source_context *x,
                             struct s3_credentials *out) MUST_CHECK;
enum err s3_source_instance(const struct s3_source_context *x,
                            struct s3_credentials *out) MUST_CHECK;

#endif
