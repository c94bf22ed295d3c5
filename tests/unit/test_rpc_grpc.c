/*
 * Goal: what only the gRPC transport has: its addresses, good and bad, several of them on one
 * server, grpc.health.v1, and what is set on sockets.
 *
 * Method: tables of addresses, dialled and listened on; raw calls of
 * the health service with requests put together by hand; a look at this process's sockets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/rpc_fixture.h"

static struct rpc_server *serve(void)
{
    static const char *const addresses[] = {"127.0.0.1:0", NULL};
    return fixture_serve(addresses, 0, 0);
}

static void test_bad_addresses(void **state)
{
    static const struct {
        const char *address;
        enum err dial, listen;
        const char *text;
    } cases[] = {
        {"", ERR_INPUT, ERR_INPUT, "host:port"},
        {"nowhere", ERR_INPUT, ERR_INPUT, "memory:name"},
        {"memory:", ERR_INPUT, ERR_INPUT, "memory:"},
        {"host:", ERR_INPUT, ERR_INPUT, "host:"},
        {"host:port", ERR_INPUT, ERR_INPUT, "port from 0"},
        {"host:70000", ERR_INPUT, ERR_INPUT, "70000"},
        {"::1:5000", ERR_INPUT, ERR_INPUT, "IPv6"},
        {"http://host:80", ERR_INPUT, ERR_INPUT, "http://host:80"},
        {"unix-abstract:", ERR_INPUT, ERR_INPUT, "0 bytes"},
        {"127.0.0.1:0", ERR_INPUT, ERR_NONE, "port is 0"},
        {"192.0.2.1:0", ERR_INPUT, ERR_IO, "192.0.2.1"},
        {"unix:/nowhere/at/all/socket", ERR_NONE, ERR_IO, "/nowhere/at/all/socket"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rpc_channel *c = NULL;
        assert_int_equal(rpc_channel_open(cases[i].address, NULL, &c), cases[i].dial);
        if (cases[i].dial != ERR_NONE)
            fixture_assert_text(cases[i].text);
        rpc_channel_close(c);
        const char *const addresses[] = {cases[i].address, NULL};
        struct rpc_server_options o = {
            .listen = addresses, .methods = fixture_methods, .method_count = 1};
        struct rpc_server *s = NULL;
        enum err e = rpc_server_create(&o, &s);
        if (e != cases[i].listen)
            fail_msg("listen on '%s': %s: %s", cases[i].address, err_name(e), err_text());
        if (cases[i].listen != ERR_NONE)
            fixture_assert_text(cases[i].dial == ERR_NONE ? cases[i].text : cases[i].address);
        rpc_server_destroy(s);
    }
}

static void test_several_addresses(void **state)
{
    char name[64], path[64], path_address[80];
    snprintf(name, sizeof name, "unix-abstract:test_rpc-%ld-b", (long)getpid());
    snprintf(path, sizeof path, "/tmp/test_rpc-%ld.sock", (long)getpid());
    snprintf(path_address, sizeof path_address, "unix:%s", path);
    const char *const addresses[] = {"127.0.0.1:0", name, path_address, "[::1]:0", NULL};
    const char *const without_ipv6[] = {"127.0.0.1:0", name, path_address, NULL};
    bool has_ipv6 = access("/proc/net/if_inet6", R_OK) == 0;
    struct rpc_server *s = NULL;
    struct rpc_server_options o = {
        .listen = addresses, .methods = fixture_methods, .method_count = 1};
    if (has_ipv6 && rpc_server_create(&o, &s) != ERR_NONE)
        has_ipv6 = false;
    if (!has_ipv6)
        s = fixture_serve(without_ipv6, 0, 0);
    for (size_t i = 0; i < 3 + (size_t)has_ipv6; i++) {
        struct rpc_channel *c = fixture_dial(rpc_server_address(s, i));
        struct chain reply = {0};
        assert_int_equal(fixture_call_sync(c, ECHO, "x", 1, &reply), RPC_OK);
        chain_deinit(&reply);
        rpc_channel_close(c);
    }
    assert_string_equal(rpc_server_address(s, 1), name);
    rpc_server_destroy(s);
    unlink(path);

    const char *const mixed[] = {"127.0.0.1:0", "memory:x", NULL};
    o.listen = mixed;
    assert_int_equal(rpc_server_create(&o, &s), ERR_INPUT);
}

static int send_bytes_of(int fd)
{
    int bytes = 0;
    socklen_t size = sizeof bytes;
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size), 0);
    return bytes;
}

static bool is_unix_connection(int fd)
{
    struct sockaddr_un peer;
    socklen_t size = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sun_family == AF_UNIX;
}

/* The core's structs for this are in no header that it installs: here a change of them shows. */
static void test_unix_sockets_are_wide(void **state)
{
    char name[64];
    snprintf(name, sizeof name, "unix-abstract:test_rpc-%ld-wide", (long)getpid());
    const char *const listen[] = {"127.0.0.1:0", name, NULL};
    bool before[256];
    for (int fd = 0; fd < 256; fd++)
        before[fd] = is_unix_connection(fd);
    int probe = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(probe >= 0);
    int usual = send_bytes_of(probe);
    assert_int_equal(setsockopt(probe, SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int)), 0);
    int wide = send_bytes_of(probe);
    assert_true(wide > usual);
    close(probe);

    struct rpc_server *s = fixture_serve(listen, 0, 0);
    for (size_t i = 0; i < 2; i++) {
        struct rpc_channel *c = fixture_dial(rpc_server_address(s, i));
        struct chain reply = {0};
        assert_int_equal(fixture_call_sync(c, ECHO, "x", 1, &reply), RPC_OK);
        chain_deinit(&reply);
        int ends = 0;
        for (int fd = 0; fd < 256; fd++)
            ends += is_unix_connection(fd) && !before[fd] && send_bytes_of(fd) == wide;
        assert_int_equal(ends, i == 0 ? 0 : 2); /* the client's and the server's */
        rpc_channel_close(c);
    }
    rpc_server_destroy(s);
}

static void test_health(void **state)
{
    static const struct {
        const char *request;
        size_t size;
        enum rpc_status status;
    } cases[] = {
        {"", 0, RPC_OK},
        {"\x0a\x00", 2, RPC_OK},
        {"\x0a\x0ctest.Service", 14, RPC_OK},
        {"\x10\x05\x0a\x0ctest.Service", 16, RPC_OK}, /* an unknown field in front */
        {"\x0a\x05other", 7, RPC_NOT_FOUND},
        {"\x0a\x0ctest", 6, RPC_INVALID},
        {"\xff", 1, RPC_INVALID},
    };
    struct rpc_server *s = serve();
    struct rpc_channel *c = fixture_dial(rpc_server_address(s, 0));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chain reply = {0};
        assert_int_equal(fixture_call_sync(c, "/grpc.health.v1.Health/Check", cases[i].request,
                                           cases[i].size, &reply),
                         cases[i].status);
        if (cases[i].status == RPC_OK) {
            char bytes[2];
            assert_int_equal(reply.size, 2);
            chain_copy_out(&reply, 0, bytes, 2);
            assert_memory_equal(bytes, "\x08\x01", 2);
        }
        chain_deinit(&reply);
    }
    /* Watch is a stream: a unary client sees no end of it, and closing takes it down. */
    struct outcome o;
    fixture_call(c, "/grpc.health.v1.Health/Watch", WAIT_MS, &o);
    struct chain reply = {0};
    assert_int_equal(fixture_call_sync(c, ECHO, "x", 1, &reply), RPC_OK);
    chain_deinit(&reply);
    rpc_channel_close(c);
    assert_int_equal(o.times, 1);
    chain_deinit(&o.reply);
    rpc_server_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_several_addresses),
        cmocka_unit_test(test_unix_sockets_are_wide),
        cmocka_unit_test(test_health),
    };
    /* The distribution's gRPC is not instrumented: what it does looks like races. */
    if (FIXTURE_THREAD_SANITIZER) {
        printf("skipped: no gRPC under the thread sanitizer\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
