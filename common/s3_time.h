/*
 * s3_time.h - points in time as S3 writes them.
 *
 * Units    milliseconds of Unix time.
 * Threads  none needed.
 * Sources  RFC 9110 5.6.7 (IMF-fixdate), RFC 3339; days by H. Hinnant, "chrono-compatible low-level
 *          date algorithms".
 */
#ifndef PARAMD_COMMON_S3_TIME_H
#define PARAMD_COMMON_S3_TIME_H

#include <stdint.h>

#include "common/str.h"

#define S3_TIME_SIZE 17

/* "20130524T000000Z" */
void s3_time_format(uint64_t time_ms, char out[S3_TIME_SIZE]);
/* "2013-05-24T10:11:12.345Z", the fraction optional. ERR_INPUT: anything else. */
enum err s3_time_parse(struct span text, uint64_t *out) MUST_CHECK;
/* "Fri, 24 May 2013 10:11:12 GMT" */
enum err s3_time_parse_http(struct span text, uint64_t *out) MUST_CHECK;

#endif
