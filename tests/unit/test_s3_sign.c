/*
 * Goal: signatures are those that S3 expects.
 * Method: the four examples of the Amazon S3 API Reference ("Signature Calculations for the
 * Authorization Header: Transferring Payload in a Single Chunk"); and that each thing that is
 * signed changes the signature.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "common/s3_sign.h"
#include "common/s3_time.h"
#include "common/sha256.h"

#define EMPTY   "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define WELCOME "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
#define TIME_MS 1369353600000ull /* 2013-05-24 */

static const struct s3_sign_input base = {
    .method = "GET",
    .host = "examplebucket.s3.amazonaws.com",
    .path = "/",
    .query = "",
    .payload = EMPTY,
    .region = "us-east-1",
    .access_key = "AKIAIOSFODNN7EXAMPLE",
    .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    .time_ms = TIME_MS,
};

static const char *find_line(const struct s3_signed *s, const char *start)
{
    for (size_t i = 0; s->lines[i] != NULL; i++) {
        if (strncmp(s->lines[i], start, strlen(start)) == 0)
            return s->lines[i];
    }
    return NULL;
}

static void test_published_examples(void **state)
{
    static const char *const range[] = {"Range: bytes=0-9", NULL};
    static const char *const stored[] = {"Date: Fri, 24 May 2013 00:00:00 GMT",
                                         "X-Amz-Storage-Class:  REDUCED_REDUNDANCY ", NULL};
    static const struct {
        const char *method, *path, *query;
        const char *const *headers;
        const char *payload, *names, *signature;
    } cases[] = {
        {"GET", "/test.txt", "", range, EMPTY, "host;range;x-amz-content-sha256;x-amz-date",
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
        {"PUT", "/test%24file.text", "", stored, WELCOME,
         "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
        {"GET", "/", "lifecycle", NULL, EMPTY, "host;x-amz-content-sha256;x-amz-date",
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
        {"GET", "/", "prefix=J&max-keys=2", NULL, EMPTY, "host;x-amz-content-sha256;x-amz-date",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3_sign_input in = base;
        struct s3_signed out;
        struct str expected = {0};
        in.method = cases[i].method;
        in.path = cases[i].path;
        in.query = cases[i].query;
        in.headers = cases[i].headers;
        in.payload = cases[i].payload;
        s3_sign(&in, &out);
        str_append_format(&expected,
                          "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/"
                          "20130524/us-east-1/s3/aws4_request,SignedHeaders=%s,Signature=%s",
                          cases[i].names, cases[i].signature);
        assert_string_equal(find_line(&out, "Authorization:"), expected.data);
        assert_string_equal(find_line(&out, "x-amz-date:"), "x-amz-date: 20130524T000000Z");
        str_deinit(&expected);
        s3_signed_deinit(&out);
    }
}

static void test_everything_is_signed(void **state)
{
    static const char *const one[] = {"x-amz-meta-a: 1", NULL};
    static const char *const other[] = {"x-amz-meta-a: 2", NULL};
    struct s3_sign_input in[10];
    char seen[10][65];
    for (size_t i = 0; i < 10; i++)
        in[i] = base;
    in[1].method = "PUT";
    in[2].host = "other";
    in[3].path = "//";
    in[4].query = "a=b";
    in[5].headers = one;
    in[6].headers = other;
    in[7].session_token = "token";
    in[8].time_ms += 1000;
    in[9].region = "eu-west-1";
    for (size_t i = 0; i < 10; i++) {
        struct s3_signed out;
        s3_sign(&in[i], &out);
        const char *signature = strstr(find_line(&out, "Authorization:"), "Signature=") + 10;
        assert_int_equal(strlen(signature), 64);
        memcpy(seen[i], signature, 65);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(seen[i], seen[k]);
        assert_int_equal(find_line(&out, "x-amz-security-token: token") != NULL, i == 7);
        for (size_t k = 0; out.lines[k] != NULL; k++)
            assert_null(strstr(out.lines[k], base.secret_key));
        s3_signed_deinit(&out);
    }
}

static void test_times(void **state)
{
    static const struct {
        uint64_t ms;
        const char *text;
    } cases[] = {
        {0, "19700101T000000Z"},
        {951782399999, "20000228T235959Z"},
        {951782400000, "20000229T000000Z"},
        {1735689599000, "20241231T235959Z"},
        {4107542400000, "21000301T000000Z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[S3_TIME_SIZE];
        s3_time_format(cases[i].ms, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_times_read(void **state)
{
    static const struct {
        const char *text;
        bool is_http;
        uint64_t ms; /* 0: refused */
    } cases[] = {
        {"2013-05-24T00:00:00Z", false, TIME_MS},
        {"2013-05-24T00:00:01.250Z", false, TIME_MS + 1000},
        {"2000-02-29T00:00:00Z", false, 951782400000},
        {"2013-05-24T00:00:00", false, 0},
        {"2013-05-24T00:00:00+01", false, 0},
        {"2013-13-24T00:00:00Z", false, 0},
        {"", false, 0},
        {"Fri, 24 May 2013 00:00:00 GMT", true, TIME_MS},
        {"Mon, 01 Mar 2100 00:00:00 GMT", true, 4107542400000},
        {"Fri, 24 Mai 2013 00:00:00 GMT", true, 0},
        {"Friday, 24-May-13 00:00:00 GMT", true, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t ms = 0;
        enum err e = cases[i].is_http ? s3_time_parse_http(span_of(cases[i].text), &ms)
                                      : s3_time_parse(span_of(cases[i].text), &ms);
        assert_int_equal(e, cases[i].ms != 0 ? ERR_NONE : ERR_INPUT);
        assert_int_equal(ms, cases[i].ms);
    }
}

static void test_hmac(void **state) /* RFC 4231, case 2 */
{
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_SIZE];
    sha256_hmac("Jefe", 4, "what do ya want for nothing?", 28, digest);
    sha256_to_hex(digest, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_times_read),
        cmocka_unit_test(test_published_examples),
        cmocka_unit_test(test_everything_is_signed),
    };
    return cmocka_run_group_tests_name("s3_sign", tests, NULL, NULL);
}
