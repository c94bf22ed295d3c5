/*
 * sha256.h - SHA-256, for digests and identities, and HMAC by it. Walls off libcrypto.
 *
 * Sources  FIPS 180-4, RFC 2104.
 */
#ifndef PARAMD_COMMON_SHA256_H
#define PARAMD_COMMON_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX_SIZE 65 /* 64 lower-case digits and the final 0 */
#define SHA256_BYTES    32

struct sha256;

struct sha256 *sha256_create(void);
void sha256_update(struct sha256 *s, const void *data, size_t size);
/* Writes the digest as hexadecimal text and destroys `s`. */
void sha256_finish(struct sha256 *s, char hex[SHA256_HEX_SIZE]);
void sha256_destroy(struct sha256 *s); /* without finishing; accepts NULL */
void sha256_hex(const void *data, size_t size, char hex[SHA256_HEX_SIZE]);
void sha256_hmac(const void *key, size_t key_size, const void *data, size_t size,
                 uint8_t out[SHA256_BYTES]);
void sha256_to_hex(const uint8_t digest[SHA256_BYTES], char hex[SHA256_HEX_SIZE]);

#endif
