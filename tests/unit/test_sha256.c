/*
 * Goal: digests are SHA-256, in one piece or many.
 * Method: the vectors of FIPS 180-4's examples.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/sha256.h"

static void test_vectors(void **state)
{
    static const struct {
        const char *text, *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[SHA256_HEX_SIZE];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sha256_hex(cases[i].text, strlen(cases[i].text), hex);
        assert_string_equal(hex, cases[i].hex);
        struct sha256 *s = sha256_create();
        for (const char *c = cases[i].text; *c != '\0'; c++)
            sha256_update(s, c, 1);
        sha256_finish(s, hex);
        assert_string_equal(hex, cases[i].hex);
    }
}

static void test_million(void **state)
{
    char block[1000], hex[SHA256_HEX_SIZE];
    memset(block, 'a', sizeof block);
    struct sha256 *s = sha256_create();
    for (int i = 0; i < 1000; i++)
        sha256_update(s, block, sizeof block);
    sha256_finish(s, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    s = sha256_create();
    sha256_update(s, block, 3);
    sha256_destroy(s);
    sha256_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_million),
    };
    return cmocka_run_group_tests_name("sha256", tests, NULL, NULL);
}
