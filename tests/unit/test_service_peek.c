/*
 * Goal: a request is read for job, generation and shard whatever the order of its fields and
 * wherever its slices end; what is no message is refused. Method: real messages, the same with
 * fields moved and unknown ones put in, cut at every byte and split at every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "proto/paramd.pb-c.h"
#include "server/service_peek.h"

static size_t pack_push_pull(uint8_t *out)
{
    Paramd__PushPullRequest r = PARAMD__PUSH_PULL_REQUEST__INIT;
    uint8_t payload[40] = {0x0a, 0x03, 'n', 'o', 't'};
    r.job = (char *)"clicks";
    r.generation = 300;
    r.lease = 9;
    r.rank = 4;
    r.shard = 77;
    r.seq = 1ull << 40;
    r.weight = 2.5;
    r.checksum = 12345;
    r.payload = (ProtobufCBinaryData){sizeof payload, payload};
    return paramd__push_pull_request__pack(&r, out);
}

static enum err peek(const uint8_t *bytes, size_t size, size_t split, bool is_read,
                     struct request_head *out)
{
    struct chain c = {0};
    chain_append_copy(&c, bytes, split);
    chain_append_copy(&c, bytes + split, size - split);
    enum err e = request_peek(&c, is_read, out);
    chain_deinit(&c);
    return e;
}

static void test_split_anywhere(void **state)
{
    uint8_t bytes[256];
    size_t size = pack_push_pull(bytes);
    for (size_t split = 0; split <= size; split++) {
        struct request_head head;
        assert_int_equal(peek(bytes, size, split, false, &head), ERR_NONE);
        assert_string_equal(head.job, "clicks");
        assert_int_equal(head.generation, 300);
        assert_int_equal(head.shard, 77);
    }
}

/* A cut in the middle of a field is refused; between two fields the message is merely shorter. */
static void test_cut_anywhere(void **state)
{
    uint8_t bytes[256];
    size_t size = pack_push_pull(bytes);
    uint32_t good = 0;
    for (size_t cut = 0; cut < size; cut++) {
        struct request_head head;
        enum err e = peek(bytes, cut, 0, false, &head);
        Paramd__PushPullRequest *real = paramd__push_pull_request__unpack(NULL, cut, bytes);
        assert_int_equal(e == ERR_NONE, real != NULL);
        good += e == ERR_NONE;
        if (real != NULL)
            paramd__push_pull_request__free_unpacked(real, NULL);
    }
    assert_int_equal(good, 9);
}

struct odd {
    const char *name;
    uint8_t bytes[16];
    size_t size;
    bool is_read;
    enum err code;
    const char *job;
    uint64_t generation;
    uint32_t shard;
};

static void test_odd(void **state)
{
    static const struct odd cases[] = {
        {"empty", {0}, 0, false, ERR_NONE, "", 0, 0},
        {"backwards", {0x28, 5, 0x10, 2, 0x0a, 1, 'j'}, 7, false, ERR_NONE, "j", 2, 5},
        {"a read", {0x0a, 1, 'j', 0x10, 2, 0x18, 6, 0x28, 1}, 9, true, ERR_NONE, "j", 2, 6},
        {"unknown fields",
         {0xf9, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0xfd, 7, 1, 2, 3, 4},
         16,
         false,
         ERR_NONE,
         "",
         0,
         0},
        {"the last one counts", {0x10, 1, 0x10, 3}, 4, false, ERR_NONE, "", 3, 0},
        {"a group", {0x0b, 0x0c}, 2, false, ERR_INPUT, "", 0, 0},
        {"a length that lies", {0x0a, 200, 1, 'j'}, 4, false, ERR_INPUT, "", 0, 0},
        {"a number without an end",
         {0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1},
         12,
         false,
         ERR_INPUT,
         "",
         0,
         0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct request_head head = {0};
        if (peek(cases[i].bytes, cases[i].size, 0, cases[i].is_read, &head) != cases[i].code)
            fail_msg("%s", cases[i].name);
        assert_string_equal(head.job, cases[i].job);
        assert_int_equal(head.generation, cases[i].generation);
        assert_int_equal(head.shard, cases[i].shard);
    }
}

static void test_long_name(void **state)
{
    uint8_t bytes[NAME_MAX_BYTES + 8] = {0x0a};
    for (size_t size = NAME_MAX_BYTES; size <= NAME_MAX_BYTES + 1; size++) {
        bytes[1] = (uint8_t)(size & 0x7f) | 0x80;
        bytes[2] = (uint8_t)(size >> 7);
        memset(bytes + 3, 'x', size);
        struct request_head head;
        assert_int_equal(peek(bytes, size + 3, 1, false, &head),
                         size <= NAME_MAX_BYTES ? ERR_NONE : ERR_INPUT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_anywhere),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_odd),
        cmocka_unit_test(test_long_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
