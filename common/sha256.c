#include "common/sha256.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/check.h"
#include "common/mem.h"

struct sha256 {
    EVP_MD_CTX *context;
};

struct sha256 *sha256_create(void)
{
    struct sha256 *s = must_alloc(sizeof *s);
    s->context = EVP_MD_CTX_new();
    CHECK(s->context != NULL);
    CHECK(EVP_DigestInit_ex(s->context, EVP_sha256(), NULL) == 1);
    return s;
}

void sha256_update(struct sha256 *s, const void *data, size_t size)
{
    CHECK(EVP_DigestUpdate(s->context, data, size) == 1);
}

void sha256_finish(struct sha256 *s, char hex[SHA256_HEX_SIZE])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    CHECK(EVP_DigestFinal_ex(s->context, digest, &size) == 1 && size == SHA256_BYTES);
    sha256_to_hex(digest, hex);
    sha256_destroy(s);
}

void sha256_destroy(struct sha256 *s)
{
    if (s == NULL)
        return;
    EVP_MD_CTX_free(s->context);
    mem_free(s);
}

void sha256_hex(const void *data, size_t size, char hex[SHA256_HEX_SIZE])
{
    struct sha256 *s = sha256_create();
    sha256_update(s, data, size);
    sha256_finish(s, hex);
}

void sha256_hmac(const void *key, size_t key_size, const void *data, size_t size,
                 uint8_t out[SHA256_BYTES])
{
    unsigned int out_size = 0;
    CHECK(key_size <= INT32_MAX);
    CHECK(HMAC(EVP_sha256(), key, (int)key_size, data, size, out, &out_size) != NULL);
    CHECK(out_size == SHA256_BYTES);
}

void sha256_to_hex(const uint8_t digest[SHA256_BYTES], char hex[SHA256_HEX_SIZE])
{
    for (unsigned int i = 0; i < SHA256_BYTES; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[SHA256_HEX_SIZE - 1] = '\0';
}
