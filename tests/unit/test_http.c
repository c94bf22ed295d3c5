/*
 * Goal: a request goes out as written, an answer comes in whole and bounded or the error says what
 * happened; connections are kept; texts hold no secret.
 * Method: a scripted server on loopback, one case a behaviour.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/http.h"
#include "common/mem.h"
#include "tests/support/http_server.h"

#define OK_HELLO   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag:  \"a b\" \r\n\r\nhello"
#define OK_PARTIAL "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello"
#define SECRET     "Sup3rCanary"

static char *url_of(const struct http_server *s, const char *path)
{
    return must_format("http://127.0.0.1:%u%s", http_server_port(s), path);
}

static struct http_request get(const char *url)
{
    return (struct http_request){
        .url = url,
        .timeouts = {.total_ms = 10000, .connect_ms = 5000},
        .transport = {.direct = true},
        .answer_max = 1000,
    };
}

static void test_get(void **state)
{
    static const struct http_reply script[] = {HTTP_REPLY(OK_HELLO), HTTP_REPLY(OK_HELLO),
                                               HTTP_SCRIPT_END};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/a%20b//c/../d?x=1&y=%2F");
    const char *headers[] = {"X-Own: value", NULL};
    struct http_request q = get(url);
    struct http_answer a;
    struct span etag;
    q.headers = headers;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(http_perform(&q, &a), ERR_NONE);
        assert_int_equal(a.status, 200);
        assert_string_equal(a.body, "hello");
        assert_int_equal(a.size, 5);
        assert_true(a.was_sent);
        assert_true(http_header(&a, "etag", &etag));
        assert_true(span_is(etag, "\"a b\""));
        assert_false(http_header(&a, "eta", &etag));
        assert_string_equal(a.status_text, "OK");
        assert_null(a.ticket_text);
        http_answer_deinit(&a);
    }
    const char *request = http_server_request(s, 0);
    assert_non_null(strstr(request, "GET /a%20b//c/../d?x=1&y=%2F HTTP/1.1\r\n"));
    assert_non_null(strstr(request, "\r\nX-Own: value\r\n"));
    assert_null(strstr(request, "Expect"));
    assert_int_equal(http_server_connection_count(s), 1);
    http_server_stop(s);
    mem_free(url);
}

struct source {
    const char *text;
    size_t offset;
    int rewinds;
};

static enum err produce_slowly(void *context, void *to, size_t room, size_t *size_out)
{
    struct source *source = context;
    size_t left = strlen(source->text) - source->offset;
    *size_out = left < 3 ? left : 3;
    memcpy(to, source->text + source->offset, *size_out);
    source->offset += *size_out;
    return ERR_NONE;
}

static void test_bodies(void **state)
{
#define DONE "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    static const struct http_reply script[] = {HTTP_REPLY(DONE), HTTP_REPLY(DONE), HTTP_REPLY(DONE),
                                               HTTP_REPLY(DONE), HTTP_REPLY(DONE), HTTP_SCRIPT_END};
    static const struct http_piece pieces[] = {{"one ", 4}, {"", 0}, {"two", 3}};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/o");
    struct source source = {.text = "from a callback"};
    struct http_request cases[] = {
        {.method = HTTP_PUT, .pieces = pieces, .piece_count = 3},
        {.method = HTTP_PUT, .pieces = pieces, .piece_count = 3, .expect_continue = true},
        {.method = HTTP_PUT},
        {.method = HTTP_POST, .produce = produce_slowly, .context = &source, .body_size = 15},
        {.method = HTTP_DELETE},
    };
    static const char *const expected[][2] = {
        {"PUT /o ", "\r\n\r\none two"},
        {"\r\nExpect: 100-continue\r\n", "\r\n\r\none two"},
        {"Content-Length: 0\r\n", "\r\n\r\n"},
        {"POST /o ", "\r\n\r\nfrom a callback"},
        {"DELETE /o ", "\r\n\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_answer a;
        cases[i].url = url;
        cases[i].transport.direct = true;
        cases[i].timeouts.total_ms = 10000;
        assert_int_equal(http_perform(&cases[i], &a), ERR_NONE);
        assert_int_equal(a.status, 201);
        http_answer_deinit(&a);
        const char *request = http_server_request(s, i);
        assert_non_null(strstr(request, expected[i][0]));
        const char *end = request + strlen(request) - strlen(expected[i][1]);
        assert_string_equal(end, expected[i][1]);
        assert_null(strstr(request, "Transfer-Encoding"));
    }
    http_server_stop(s);
    mem_free(url);
}

static enum err gather(void *context, const void *data, size_t size)
{
    str_append_span(context, span_make(data, size));
    return ERR_NONE;
}

static enum err refuse(void *context, const void *data, size_t size)
{
    return err_set(ERR_CORRUPT, "not what was expected");
}

static void test_where_answers_go(void **state)
{
    static const struct http_reply script[] = {
        HTTP_REPLY(OK_PARTIAL),
        HTTP_REPLY_THEN(OK_HELLO, CLOSE),
        HTTP_REPLY(OK_HELLO),
        HTTP_REPLY_THEN(OK_HELLO, CLOSE),
        HTTP_REPLY_THEN(OK_HELLO, CLOSE),
        HTTP_REPLY("HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nwhy"),
        HTTP_SCRIPT_END};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/o"), into[6] = "";
    struct str gathered = {0};
    struct http_request q = get(url);
    struct http_answer a;
    q.into = into;
    q.into_size = 5;
    q.range_first = 7;
    q.range_size = 5;
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_int_equal(a.status, 206);
    assert_int_equal(a.size, 5);
    assert_null(a.body);
    assert_string_equal(into, "hello");
    http_answer_deinit(&a);
    assert_non_null(strstr(http_server_request(s, 0), "\r\nRange: bytes=7-11\r\n"));

    /* The range was ignored: the buffer must not hold the wrong bytes. */
    memset(into, 0, sizeof into);
    assert_int_equal(http_perform(&q, &a), ERR_UNSUPPORTED);
    assert_string_equal(into, "");
    http_answer_deinit(&a);

    q = get(url);
    q.consume = gather;
    q.context = &gathered;
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_string_equal(gathered.data, "hello");
    http_answer_deinit(&a);

    q.consume = refuse;
    assert_int_equal(http_perform(&q, &a), ERR_CORRUPT);
    assert_non_null(strstr(err_text(), "/o: not what was expected"));
    http_answer_deinit(&a);

    q = get(url);
    q.answer_max = 4;
    assert_int_equal(http_perform(&q, &a), ERR_LIMIT);
    http_answer_deinit(&a);

    q.into = into; /* an explanation is no content */
    q.into_size = 2;
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_int_equal(a.status, 403);
    assert_string_equal(a.body, "why");
    http_answer_deinit(&a);
    http_server_stop(s);
    str_deinit(&gathered);
    mem_free(url);
}

static void test_failures(void **state)
{
    static const struct {
        struct http_reply reply;
        enum err expected;
        const char *text;
    } cases[] = {
        {HTTP_REPLY_THEN("", CLOSE), ERR_UNAVAILABLE, "Empty reply"},
        {HTTP_REPLY_THEN("", RESET), ERR_UNAVAILABLE, "reset"},
        {HTTP_REPLY_THEN("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE),
         ERR_UNAVAILABLE, "5 bytes remaining"},
        {HTTP_REPLY_THEN("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", HANG), ERR_TIMEOUT,
         ""},
        {HTTP_REPLY_THEN("Nonsense\r\n\r\n", CLOSE), ERR_UNAVAILABLE, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct http_reply script[] = {cases[i].reply, HTTP_SCRIPT_END};
        struct http_server *s = http_server_start(script);
        char *url = url_of(s, "/o?op=OPEN&delegation=" SECRET "&X-Amz-Signature=" SECRET);
        char *host = must_format("GET http://127.0.0.1:%u/o?op=OPEN&delegation=***"
                                 "&X-Amz-Signature=***: ",
                                 http_server_port(s));
        struct http_request q = get(url);
        struct http_answer a;
        q.timeouts.total_ms = 300;
        assert_int_equal(http_perform(&q, &a), cases[i].expected);
        assert_memory_equal(err_text(), host, strlen(host));
        assert_non_null(strstr(err_text(), cases[i].text));
        assert_null(strstr(err_text(), SECRET));
        assert_true(a.was_sent);
        http_answer_deinit(&a);
        http_server_stop(s);
        mem_free(url);
        mem_free(host);
    }
}

static void test_never_sent(void **state)
{
    static const struct {
        const char *url;
        enum err expected;
    } cases[] = {
        {"http://127.0.0.1:1/o", ERR_UNAVAILABLE},
        {"http://127.0.0.1:1/o with space", ERR_INPUT},
        {"gopher://127.0.0.1:1/o", ERR_INPUT},
        {"http://[broken/o", ERR_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_request q = get(cases[i].url);
        struct http_answer a;
        assert_int_equal(http_perform(&q, &a), cases[i].expected);
        assert_false(a.was_sent);
        http_answer_deinit(&a);
    }
}

/* A server closes a connection that we keep: the next request must not fail for it. */
static void test_kept_connection_that_died(void **state)
{
    static const struct http_reply script[] = {HTTP_REPLY_THEN(OK_HELLO, CLOSE),
                                               HTTP_REPLY_THEN(OK_HELLO, CLOSE),
                                               HTTP_REPLY(OK_HELLO), HTTP_SCRIPT_END};
    static const struct http_piece piece = {"body", 4};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/o");
    for (int i = 0; i < 3; i++) {
        struct http_request q = get(url);
        struct http_answer a;
        q.method = HTTP_PUT;
        q.pieces = &piece;
        q.piece_count = 1;
        assert_int_equal(http_perform(&q, &a), ERR_NONE);
        assert_int_equal(a.status, 200);
        assert_false(a.was_resent);
        http_answer_deinit(&a);
    }
    http_server_stop(s);
    mem_free(url);
}

/* The request reached the server over a kept connection, and the answer is lost: what libcurl does
   by itself then must not go unseen. */
static void test_sent_twice(void **state)
{
    static const struct http_reply script[] = {HTTP_REPLY(OK_HELLO), HTTP_REPLY_THEN("", RESET),
                                               HTTP_REPLY(OK_HELLO), HTTP_SCRIPT_END};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/o");
    for (int i = 0; i < 2; i++) {
        struct http_request q = get(url);
        struct http_answer a;
        q.method = HTTP_PUT;
        assert_int_equal(http_perform(&q, &a), ERR_NONE);
        assert_int_equal(a.was_resent, i == 1);
        http_answer_deinit(&a);
    }
    assert_int_equal(http_server_request_count(s), 3);
    http_server_stop(s);
    mem_free(url);
}

static void test_redirects_are_not_followed(void **state)
{
    static const struct http_reply script[] = {
        HTTP_REPLY(
            "HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:1/x?y=%20z\r\nRetry-After: 3\r\n"
            "Content-Length: 0\r\n\r\n"),
        HTTP_SCRIPT_END};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/o");
    struct http_request q = get(url);
    struct http_answer a;
    struct span location;
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_int_equal(a.status, 307);
    assert_int_equal(a.retry_after_ms, 3000);
    assert_true(http_header(&a, "location", &location));
    assert_true(span_is(location, "http://127.0.0.1:1/x?y=%20z"));
    http_answer_deinit(&a);
    http_server_stop(s);
    mem_free(url);
}

static void test_redaction(void **state)
{
    static const char *const cases[][2] = {
        {"https://h:1/p?op=CREATE&user.name=u", "https://h:1/p?op=CREATE&user.name=***"},
        {"https://u:" SECRET "@h/p", "https://***@h/p"},
        {"https://h/p?uploads&uploadId=" SECRET "#f", "https://h/p?uploads&uploadId=***"},
        {"https://h?token=" SECRET "&prefix=a%2Fb", "https://h?token=***&prefix=a%2Fb"},
        {"https://h/p@q?x", "https://h/p@q?x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str out = {0};
        http_redact(cases[i][0], &out);
        assert_string_equal(out.data, cases[i][1]);
        str_deinit(&out);
    }
}

/* A server's words beside the status, and why there is no ticket, where none can be had. */
static void test_without_a_ticket(void **state)
{
    static const struct http_reply script[] = {
        HTTP_REPLY("HTTP/1.1 401 Who are you?\r\nWWW-Authenticate: Negotiate\r\n"
                   "Content-Length: 0\r\n\r\n"),
        HTTP_REPLY("HTTP/1.1 403\r\nContent-Length: 0\r\n\r\n"), HTTP_SCRIPT_END};
    struct http_server *s = http_server_start(script);
    char *url = url_of(s, "/");
    struct http_request q = get(url);
    struct http_answer a;
    setenv("KRB5CCNAME", "FILE:/nowhere/tickets", true);
    setenv("KRB5_CLIENT_KTNAME", "FILE:/nowhere/keytab", true);
    setenv("KRB5_CONFIG", "/dev/null", true);
    q.transport.negotiate = true;
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_int_equal(a.status, 401);
    assert_string_equal(a.status_text, "Who are you?");
    assert_non_null(a.ticket_text);
    assert_non_null(strstr(a.ticket_text, "redentials"));
    assert_null(strpbrk(a.ticket_text, "\r\n"));
    http_answer_deinit(&a);
    assert_int_equal(http_perform(&q, &a), ERR_NONE);
    assert_int_equal(a.status, 403);
    assert_null(a.status_text);
    http_answer_deinit(&a);
    mem_free(url);
    http_server_stop(s);
}

static void test_encoding(void **state)
{
    struct str out = {0};
    http_encode(span_make("a b+c=%\xc3\xa4/~\0", 12), "/", &out);
    assert_string_equal(out.data, "a%20b%2Bc%3D%25%C3%A4/~%00");
    str_deinit(&out);
}

static void test_try_again(void **state)
{
    static const struct retry_policy policy = {.first_ms = 1, .most_ms = 2, .tries = 3};
    struct retry r = http_retry_begin(&policy, 60000);
    uint64_t start = clock_ms();
    assert_true(http_try_again(&r, 0));
    assert_true(http_try_again(&r, 20));
    assert_true(clock_ms() - start >= 20);
    assert_false(http_try_again(&r, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_where_answers_go),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_never_sent),
        cmocka_unit_test(test_kept_connection_that_died),
        cmocka_unit_test(test_sent_twice),
        cmocka_unit_test(test_redirects_are_not_followed),
        cmocka_unit_test(test_redaction),
        cmocka_unit_test(test_without_a_ticket),
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_try_again),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
