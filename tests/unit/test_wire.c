/*
 * Goal: messages are plain protobuf both ways, however they are cut into slices; nothing that a
 * peer can send gets past the checks or crashes them. Method: protobuf-c, flat, as the oracle for
 * encoding, decoding, truncation at every byte and 10 000 damaged messages; every cut into two and
 * into single bytes; one descriptor for each way to lie.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/wire.h"

#define MESSAGE_MAX 8192

static struct schema_table tables[2];
static struct schema_dense dense[2];
static struct schema schema = {tables, 2, dense, 2};
static const struct wire_limits limits = {&schema, 100, 3000};

static int setup(void **state)
{
    for (int i = 0; i < 2; i++) {
        tables[i] = (struct schema_table){.component_count = 1};
        tables[i].components[0] = (struct schema_component){
            .name = "v", .dim = 3 + (uint32_t)i, .optimizer = {.type = "sgd"}};
        dense[i] = (struct schema_dense){.shape_count = 1, .optimizer = {.type = "sgd"}};
    }
    strcpy(tables[0].name, "user");
    strcpy(tables[1].name, "item");
    strcpy(dense[0].name, "bias");
    strcpy(dense[1].name, "weight");
    dense[0].shape[0] = 60000; /* 4 blocks, in partitions 0, 1024, 2048, 3072 */
    dense[1].shape[0] = 40000; /* 3 blocks, in partitions 0, 1365, 2730; the last is short */
    return schema_finish(&schema, 1) == ERR_NONE ? 0 : -1;
}

/* A request with two tables, pushes and pulls; small enough to be cut everywhere. */
struct fixture {
    Paramd__PushPullRequest request;
    Paramd__Block push[2], pull[2];
    Paramd__Block *push_list[2], *pull_list[2];
    struct wire_payload payload;
    uint64_t keys[4];
    float values[12];
};

static void block_init(Paramd__Block *b, Paramd__Block__Kind kind, uint32_t index, uint64_t count)
{
    paramd__block__init(b);
    b->kind = kind;
    b->index = index;
    b->count = count;
}

static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    paramd__push_pull_request__init(&f->request);
    for (int i = 0; i < 4; i++)
        f->keys[i] = partition_first_key(100 + 50 * (uint32_t)i) + 77;
    for (int i = 0; i < 12; i++)
        f->values[i] = 1.5f * (float)i - 4.0f;
    block_init(&f->push[0], PARAMD__BLOCK__KIND__ROWS, 1, 3);
    f->push[0].dim = 4;
    f->push[0].keys_offset = wire_payload_add(&f->payload, NULL, f->keys, 24, 8);
    f->push[0].values_offset = wire_payload_add(&f->payload, NULL, f->values, 48, 4);
    block_init(&f->push[1], PARAMD__BLOCK__KIND__ROWS, 0, 1);
    f->push[1].dim = 3;
    f->push[1].values_offset = wire_payload_add(&f->payload, NULL, f->values, 12, 4);
    f->push[1].keys_offset = wire_payload_add(&f->payload, NULL, f->keys + 1, 8, 8);
    block_init(&f->pull[0], PARAMD__BLOCK__KIND__KEYS, 0, 4);
    f->pull[0].keys_offset = wire_payload_add(&f->payload, NULL, f->keys, 32, 8);
    block_init(&f->pull[1], PARAMD__BLOCK__KIND__DENSE_WANTED, 0, 0);
    f->pull[1].first_block = 1;
    f->pull[1].block_count = 2;
    for (int i = 0; i < 2; i++) {
        f->push_list[i] = &f->push[i];
        f->pull_list[i] = &f->pull[i];
    }
    f->request.job = "films";
    f->request.seq = 300;
    f->request.weight = 0.25;
    f->request.checksum = wire_checksum_payload(&f->payload, f->push_list, 2);
    f->request.push = f->push_list;
    f->request.n_push = 2;
    f->request.pull = f->pull_list;
    f->request.n_pull = 2;
}

static size_t encode(struct fixture *f, uint8_t *flat)
{
    struct chain c = {0};
    wire_encode(&f->request.base, &f->payload, &c);
    size_t size = c.size;
    assert_true(size <= MESSAGE_MAX);
    chain_copy_out(&c, 0, flat, size);
    chain_deinit(&c);
    assert_int_equal(f->payload.chain.size, 0);
    return size;
}

/* The bytes in two slices, the second of them behind a gap; or, with cut 0, in slices of one byte.
 */
static void cut_chain(struct chain *c, const uint8_t *flat, size_t size, size_t cut)
{
    *c = (struct chain){0};
    if (cut > 0) {
        chain_append_copy(c, flat, cut);
        chain_append_copy(c, flat + cut, size - cut);
    }
    for (size_t i = 0; cut == 0 && i < size; i++)
        chain_append(c, NULL, flat + i, 1);
}

static void check_decoded(const struct chain *c, const Paramd__PushPullRequest *plain)
{
    struct wire_message m;
    assert_int_equal(wire_decode(&paramd__push_pull_request__descriptor, c, &m), ERR_NONE);
    const Paramd__PushPullRequest *q = (const Paramd__PushPullRequest *)m.message;
    assert_string_equal(q->job, plain->job);
    assert_int_equal(q->seq, plain->seq);
    assert_int_equal(q->n_push, plain->n_push);
    assert_int_equal(q->payload.len, 0);
    assert_int_equal(m.payload_size, plain->payload.len);
    uint8_t payload[MESSAGE_MAX];
    chain_copy_out(c, m.payload_offset, payload, m.payload_size);
    assert_memory_equal(payload, plain->payload.data, m.payload_size);
    assert_int_equal(wire_check_blocks(&m, q->push, q->n_push, &limits, true), ERR_NONE);
    assert_int_equal(wire_check_blocks(&m, q->pull, q->n_pull, &limits, false), ERR_NONE);
    assert_true(wire_checksum(&m, q->push, q->n_push) == plain->checksum);
    struct chain_cursor cursor;
    float values[12];
    uint64_t keys[3];
    wire_values(&m, q->push[0], &cursor);
    assert_true(chain_cursor_read(&cursor, values, sizeof values) && cursor.left == 0);
    wire_keys(&m, q->push[0], &cursor);
    assert_true(chain_cursor_read(&cursor, keys, sizeof keys) && cursor.left == 0);
    assert_memory_equal(values, plain->payload.data + q->push[0]->values_offset, sizeof values);
    assert_memory_equal(keys, plain->payload.data + q->push[0]->keys_offset, sizeof keys);
    wire_message_deinit(&m);
}

static Paramd__PushPullRequest *plain_unpack(const uint8_t *flat, size_t size)
{
    return paramd__push_pull_request__unpack(NULL, size, flat);
}

static void test_both_ways(void **state)
{
    struct fixture f;
    uint8_t flat[MESSAGE_MAX], packed[MESSAGE_MAX];
    fixture_init(&f);
    size_t size = encode(&f, flat);
    Paramd__PushPullRequest *plain = plain_unpack(flat, size);
    assert_non_null(plain);
    assert_int_equal(plain->payload.len % 8, 0);
    for (size_t cut = 0; cut < size; cut++) {
        struct chain c;
        cut_chain(&c, flat, size, cut);
        check_decoded(&c, plain);
        chain_deinit(&c);
    }
    /* As a client without this code would send it. */
    size_t packed_size = paramd__push_pull_request__pack(plain, packed);
    struct chain c;
    cut_chain(&c, packed, packed_size, 10);
    check_decoded(&c, plain);
    chain_deinit(&c);
    paramd__push_pull_request__free_unpacked(plain, NULL);
}

/* Every field of the message alone, as it stands in flat bytes. */
static size_t split_fields(const uint8_t *flat, size_t size, size_t *starts)
{
    size_t count = 0, at = 0;
    while (at < size) {
        starts[count++] = at;
        uint8_t type = flat[at] & 7;
        while (flat[at++] >= 0x80)
            ;
        uint64_t length = 0;
        if (type == 0 || type == 2) {
            for (unsigned shift = 0;; shift += 7) {
                length |= (uint64_t)(flat[at] & 0x7f) << shift;
                if (flat[at++] < 0x80)
                    break;
            }
        }
        at += type == 0 ? 0 : type == 1 ? 8 : type == 5 ? 4 : length;
    }
    starts[count] = size;
    return count;
}

static void test_any_order(void **state)
{
    /* Numbers that the message does not have: varint, fixed64, bytes, group (with one of each),
     * fixed32. */
    static const uint8_t unknown[] = {0xf8, 0x07, 0xff, 0x01, 0xf1, 0x07, 1,   2,    3,    4,
                                      5,    6,    7,    8,    0xea, 0x07, 3,   'a',  'b',  'c',
                                      0xe3, 0x07, 0x08, 0x05, 0x12, 1,    'x', 0x1b, 0x1c, 0xe4,
                                      0x07, 0xdd, 0x07, 9,    9,    9,    9};
    struct fixture f;
    uint8_t flat[MESSAGE_MAX], mixed[MESSAGE_MAX];
    size_t starts[64];
    fixture_init(&f);
    size_t size = encode(&f, flat), count = split_fields(flat, size, starts);
    Paramd__PushPullRequest *plain = plain_unpack(flat, size);
    for (uint64_t seed = 0; seed < 200; seed++) {
        size_t order[64], at = 0;
        for (size_t i = 0; i < count; i++)
            order[i] = i;
        /* Repeated fields keep their order among themselves: rotate, and move the payload anywhere.
         */
        size_t turn = seed % count;
        for (size_t i = count - 1; i > turn; i--)
            order[i] = order[i - 1];
        order[turn] = count - 1;
        for (size_t i = 0; i < count; i++) {
            if (rng_at(seed, i) % 4 == 0) {
                memcpy(mixed + at, unknown, sizeof unknown);
                at += sizeof unknown;
            }
            size_t bytes = starts[order[i] + 1] - starts[order[i]];
            memcpy(mixed + at, flat + starts[order[i]], bytes);
            at += bytes;
        }
        struct chain c;
        cut_chain(&c, mixed, at, seed % 3 == 0 ? 0 : 1 + rng_below(rng_at(seed, 99), at - 1));
        check_decoded(&c, plain);
        chain_deinit(&c);
    }
    paramd__push_pull_request__free_unpacked(plain, NULL);
}

/* Decodes and checks what may be damaged; true when it was whole. What plain protobuf reads, we
 * read. */
static bool try_message(const uint8_t *flat, size_t size, size_t cut)
{
    struct chain c;
    struct wire_message m;
    cut_chain(&c, flat, size, cut < size ? cut : 0);
    bool whole = wire_decode(&paramd__push_pull_request__descriptor, &c, &m) == ERR_NONE;
    Paramd__PushPullRequest *plain = plain_unpack(flat, size);
    if (whole) {
        const Paramd__PushPullRequest *q = (const Paramd__PushPullRequest *)m.message;
        if (plain != NULL && plain->payload.len == m.payload_size) {
            uint8_t payload[MESSAGE_MAX];
            chain_copy_out(&c, m.payload_offset, payload, m.payload_size);
            assert_memory_equal(payload, plain->payload.data, m.payload_size);
        }
        enum err e = wire_check_blocks(&m, q->push, q->n_push, &limits, true);
        if (e == ERR_NONE)
            (void)wire_checksum(&m, q->push, q->n_push);
        else
            assert_true(strlen(err_text()) > 10);
        e = wire_check_blocks(&m, q->pull, q->n_pull, &limits, false);
        assert_true(e == ERR_NONE || e == ERR_INPUT || e == ERR_LIMIT);
        wire_message_deinit(&m);
    }
    chain_deinit(&c);
    if (plain != NULL)
        paramd__push_pull_request__free_unpacked(plain, NULL);
    return whole || plain == NULL;
}

static void test_truncated(void **state)
{
    struct fixture f;
    uint8_t flat[MESSAGE_MAX];
    size_t starts[64];
    fixture_init(&f);
    size_t size = encode(&f, flat), count = split_fields(flat, size, starts);
    for (size_t cut = 1; cut < size; cut++) {
        uint8_t *exact = malloc(cut); /* so that a sanitizer sees a step beyond */
        memcpy(exact, flat, cut);
        struct chain c = {0};
        struct wire_message m;
        chain_append(&c, NULL, exact, cut);
        bool border = false;
        for (size_t i = 0; i < count; i++)
            border = border || starts[i] == cut;
        enum err e = wire_decode(&paramd__push_pull_request__descriptor, &c, &m);
        assert_int_equal(e, border ? ERR_NONE : ERR_INPUT);
        if (e == ERR_NONE) {
            /* Without the payload, what it should hold is missing. */
            const Paramd__PushPullRequest *q = (const Paramd__PushPullRequest *)m.message;
            enum err f1 = wire_check_blocks(&m, q->push, q->n_push, &limits, true);
            assert_int_equal(f1, q->n_push > 0 ? ERR_INPUT : ERR_NONE);
            wire_message_deinit(&m);
        }
        chain_deinit(&c);
        free(exact);
    }
}

static void test_damaged(void **state)
{
    struct fixture f;
    uint8_t flat[MESSAGE_MAX], damaged[MESSAGE_MAX];
    fixture_init(&f);
    size_t size = encode(&f, flat);
    for (uint64_t seed = 0; seed < 10000; seed++) {
        size_t length = size;
        memcpy(damaged, flat, size);
        uint64_t kind = rng_at(seed, 0) % 4, hits = 1 + rng_at(seed, 1) % 6;
        for (uint64_t i = 0; i < hits; i++)
            damaged[rng_below(rng_at(seed, 10 + i), size)] = (uint8_t)rng_at(seed, 20 + i);
        if (kind == 1) { /* nothing but noise */
            length = 1 + rng_below(rng_at(seed, 2), 300);
            for (size_t i = 0; i < length; i++)
                damaged[i] = (uint8_t)rng_at(seed, 100 + i);
        } else if (kind == 2) {
            length = 1 + rng_below(rng_at(seed, 3), size);
        }
        size_t cut = rng_below(rng_at(seed, 4), length);
        assert_true(try_message(damaged, length, cut));
    }
}

/* Bytes that are no message. */
static void test_malformed(void **state)
{
    static const struct {
        uint8_t bytes[24];
        size_t size;
        const char *part;
    } cases[] = {
        {{0x08}, 1, "cut off"},
        {{0x80}, 1, "cut off"},
        {{0xf8, 0x07, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 14, "more than"},
        {{0x00, 0x01}, 2, "number 0"},
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0}, 7, "number"},
        {{0xfe, 0x07, 0}, 3, "wire type 6"},
        {{0xff, 0x07, 0}, 3, "wire type 7"},
        {{0xe4, 0x07}, 2, "not open"},
        {{0xe3, 0x07, 0x08}, 3, "cut off"},
        {{0xe3, 0x07, 0xec, 0x07}, 4, "not open"},
        {{0x7a, 0x05, 1, 2}, 4, "payload of 5"},
        {{0x0a, 0x05, 'a'}, 3, "cut off"},
        {{0xfa, 0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 12, "cut off"},
        {{0x0d, 1, 2, 3, 4}, 5, "not a valid"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chain c = {0};
        struct wire_message m = {.payload_size = 5};
        chain_append(&c, NULL, cases[i].bytes, cases[i].size);
        assert_int_equal(wire_decode(&paramd__push_pull_request__descriptor, &c, &m), ERR_INPUT);
        if (strstr(err_text(), cases[i].part) == NULL)
            fail_msg("case %zu: '%s' does not say '%s'", i, err_text(), cases[i].part);
        assert_int_equal(m.payload_size, 5);
        chain_deinit(&c);
    }
    /* Groups nest, but not for ever. */
    uint8_t nest[200];
    for (size_t i = 0; i < sizeof nest; i += 2) {
        nest[i] = 0xe3;
        nest[i + 1] = 0x07;
    }
    struct chain c = {0};
    struct wire_message m;
    chain_append(&c, NULL, nest, sizeof nest);
    assert_int_equal(wire_decode(&paramd__push_pull_request__descriptor, &c, &m), ERR_LIMIT);
    chain_deinit(&c);
    /* An empty message is one, and the last of two payloads counts. */
    assert_int_equal(wire_decode(&paramd__push_pull_request__descriptor, &c, &m), ERR_NONE);
    assert_int_equal(m.payload_size, 0);
    wire_message_deinit(&m);
    static const uint8_t twice[] = {0x7a, 2, 'a', 'b', 0x7a, 3, 'c', 'd', 'e'};
    chain_append(&c, NULL, twice, sizeof twice);
    assert_int_equal(wire_decode(&paramd__push_pull_request__descriptor, &c, &m), ERR_NONE);
    assert_int_equal(m.payload_offset, 6);
    assert_int_equal(m.payload_size, 3);
    wire_message_deinit(&m);
    chain_deinit(&c);
}

/* Two bytes a descriptor that become a hundred in memory: refused before they do. */
static void test_too_many_fields(void **state)
{
    const size_t most = 4 * WIRE_BLOCK_MAX;
    uint8_t *bytes = must_alloc(2 * (most + 1));
    for (size_t i = 0; i <= most; i++)
        bytes[2 * i] = 0x62; /* push, of no bytes */
    for (size_t over = 0; over < 2; over++) {
        struct chain c = {0};
        struct wire_message m;
        chain_append(&c, NULL, bytes, 2 * (most + over));
        enum err e = wire_decode(&paramd__push_pull_request__descriptor, &c, &m);
        assert_int_equal(e, over == 0 ? ERR_NONE : ERR_LIMIT);
        if (e == ERR_NONE)
            wire_message_deinit(&m);
        else
            assert_non_null(strstr(err_text(), "more than 262144 fields"));
        chain_deinit(&c);
    }
    mem_free(bytes);
}

/* A message that has no arrays goes the same way. */
static void test_without_payload(void **state)
{
    Paramd__ResumeRequest q = PARAMD__RESUME_REQUEST__INIT;
    struct wire_payload none = {0};
    struct wire_message m;
    struct chain c = {0};
    q.rank = 5;
    wire_encode(&q.base, &none, &c);
    assert_int_equal(wire_decode(&paramd__resume_request__descriptor, &c, &m), ERR_NONE);
    assert_int_equal(((const Paramd__ResumeRequest *)m.message)->rank, 5);
    assert_int_equal(m.payload_size, 0);
    wire_message_deinit(&m);
    chain_deinit(&c);
}

static void test_payload(void **state)
{
    struct wire_payload p = {0};
    struct buf *b = buf_create(16);
    memset(buf_data(b), 1, 16);
    assert_int_equal(wire_payload_add(&p, b, buf_data(b), 4, 4), 0);
    assert_int_equal(wire_payload_add(&p, b, buf_data(b), 8, 8), 8);
    assert_int_equal(wire_payload_add(&p, b, buf_data(b), 3, 4), 16);
    assert_int_equal(wire_payload_add(&p, b, buf_data(b), 4, 4), 20);
    uint8_t bytes[24];
    chain_copy_out(&p.chain, 0, bytes, 24);
    assert_true(bytes[3] == 1 && bytes[4] == 0 && bytes[7] == 0 && bytes[8] == 1 && bytes[19] == 0);
    wire_payload_deinit(&p);
    buf_unref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),       cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_truncated),       cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_malformed),       cmocka_unit_test(test_too_many_fields),
        cmocka_unit_test(test_without_payload), cmocka_unit_test(test_payload),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
