/*
 * Goal: descriptors that lie, keys out of order or place, and values that are not finite do not get
 * past wire_check_blocks(), and each is named. Method: one lie at a time in blocks that pass
 * without it, in payloads cut where floats straddle.
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

static void block_init(Paramd__Block *b, Paramd__Block__Kind kind, uint32_t index, uint64_t count)
{
    paramd__block__init(b);
    b->kind = kind;
    b->index = index;
    b->count = count;
}

/* One check of blocks over a payload of `size` bytes at `data`, cut where floats straddle. */
static enum err check_list(const void *data, size_t size, Paramd__Block *blocks, size_t count,
                           bool pushing)
{
    Paramd__Block *list[4];
    struct chain c = {0};
    for (size_t i = 0; i < count; i++)
        list[i] = &blocks[i];
    if (size > 7)
        chain_append_copy(&c, data, 7);
    chain_append_copy(&c, (const uint8_t *)data + (size > 7 ? 7 : 0), size - (size > 7 ? 7 : 0));
    struct wire_message m = {.chain = &c, .payload_size = size};
    enum err e = wire_check_blocks(&m, list, count, &limits, pushing);
    chain_deinit(&c);
    return e;
}

/* Three rows of table user in the payload: keys at 0, values at 24. */
struct rows {
    uint64_t keys[3];
    float values[9];
    float beyond;
};

static void rows_init(struct rows *r, Paramd__Block *b)
{
    memset(r, 0, sizeof *r);
    r->keys[0] = partition_first_key(100);
    r->keys[1] = r->keys[0] + 1;
    r->keys[2] = partition_first_key(3000) - 1;
    block_init(b, PARAMD__BLOCK__KIND__ROWS, 0, 3);
    b->dim = 3;
    b->values_offset = 24;
}

static void expect(enum err e, enum err code, const char *part)
{
    if (e != code || (code != ERR_NONE && strstr(err_text(), part) == NULL))
        fail_msg("%s '%s', not %s '%s'", err_name(e), err_text(), err_name(code), part);
}

static void test_lying_rows(void **state)
{
    struct rows r;
    Paramd__Block b[2];
    rows_init(&r, &b[0]);
    expect(check_list(&r, sizeof r, b, 1, true), ERR_NONE, "");
#define LIE(change, code, part)                                                                    \
    do {                                                                                           \
        rows_init(&r, &b[0]);                                                                      \
        b[1] = b[0];                                                                               \
        change;                                                                                    \
        expect(check_list(&r, sizeof r, b, 1, true), code, part);                                  \
    } while (0)
    LIE(b[0].kind = PARAMD__BLOCK__KIND__KEYS, ERR_INPUT, "kind 1");
    LIE(b[0].kind = (Paramd__Block__Kind)77, ERR_INPUT, "kind 77");
    LIE(b[0].index = 2, ERR_INPUT, "table 2");
    LIE(b[0].index = UINT32_MAX, ERR_INPUT, "table 4294967295");
    LIE(b[0].index = 1, ERR_INPUT, "dim 3");
    LIE(b[0].dim = 4, ERR_INPUT, "dim 4");
    LIE(b[0].dim = 0, ERR_INPUT, "dim 0");
    LIE(b[0].count = 4, ERR_INPUT, "outside the payload");
    LIE(b[0].count = UINT64_MAX / 8 + 2, ERR_INPUT, "outside the payload");
    LIE(b[0].keys_offset = 4, ERR_INPUT, "multiple of 8");
    LIE(b[0].keys_offset = 48, ERR_INPUT, "outside the payload");
    LIE(b[0].keys_offset = UINT64_MAX - 7, ERR_INPUT, "outside the payload");
    LIE(b[0].values_offset = 26, ERR_INPUT, "multiple of 4");
    LIE(b[0].values_offset = 32, ERR_INPUT, "outside the payload");
    LIE(b[0].values_offset = UINT64_MAX - 3, ERR_INPUT, "outside the payload");
    LIE(r.keys[1] = r.keys[0], ERR_INPUT, "does not ascend");
    LIE(r.keys[2] = r.keys[0], ERR_INPUT, "does not ascend");
    LIE(r.keys[0]--, ERR_INPUT, "partition 99");
    LIE(r.keys[2]++, ERR_INPUT, "partition 3000");
    LIE(r.values[0] = NAN, ERR_REFUSED, "table user");
    LIE(r.values[8] = INFINITY, ERR_REFUSED, "position 2");
    LIE(r.values[4] = -INFINITY, ERR_REFUSED, "not finite at position 1");
    LIE(r.beyond = NAN, ERR_NONE, "");
#undef LIE
    rows_init(&r, &b[0]);
    b[1] = b[0];
    expect(check_list(&r, sizeof r, b, 2, true), ERR_INPUT, "more than one block");
    b[0].count = b[1].count = 0;
    b[1].index = 1;
    b[1].dim = 4;
    expect(check_list(&r, sizeof r, b, 2, true), ERR_NONE, "");
    block_init(&b[0], PARAMD__BLOCK__KIND__KEYS, 0, 3);
    expect(check_list(&r, sizeof r, b, 1, false), ERR_NONE, "");
    b[0].dim = 5;
    expect(check_list(&r, sizeof r, b, 1, false), ERR_INPUT, "dim 5");
}

/* A later batch of keys than the first is held against the one before it. */
static void test_many_keys(void **state)
{
    static uint64_t keys[1000];
    Paramd__Block b;
    for (uint32_t i = 0; i < 1000; i++)
        keys[i] = partition_first_key(500) + i;
    block_init(&b, PARAMD__BLOCK__KIND__KEYS, 0, 1000);
    expect(check_list(keys, sizeof keys, &b, 1, false), ERR_NONE, "");
    for (uint32_t i = 1; i < 1000; i++) {
        uint64_t kept = keys[i];
        keys[i] = keys[i - 1];
        expect(check_list(keys, sizeof keys, &b, 1, false), ERR_INPUT, "does not ascend");
        keys[i] = kept;
    }
}

static void test_lying_dense(void **state)
{
    /* The shard has blocks 1 and 2 of bias, and 1 and 2 of weight, the last of which has 7232
     * values. */
    static float values[2 * 16384];
    static const struct {
        bool pushing;
        uint32_t index, first, blocks;
        uint64_t count, offset;
        enum err code;
        const char *part;
    } cases[] = {
        {true, 0, 1, 2, 32768, 0, ERR_NONE, ""},
        {true, 0, 1, 1, 16384, 65536, ERR_NONE, ""},
        {true, 1, 1, 2, 16384 + 7232, 0, ERR_NONE, ""},
        {true, 1, 2, 1, 7232, 4, ERR_NONE, ""},
        {true, 1, 2, 1, 16384, 0, ERR_INPUT, "there are 7232"},
        {true, 2, 1, 1, 16384, 0, ERR_INPUT, "parameter 2"},
        {true, 0, 0, 1, 16384, 0, ERR_INPUT, "this shard has 1 to 3"},
        {true, 0, 2, 2, 32768, 0, ERR_INPUT, "this shard has 1 to 3"},
        {true, 0, 1, 0, 0, 0, ERR_INPUT, "0 blocks"},
        {true, 0, 2, UINT32_MAX, 0, 0, ERR_INPUT, "4294967295 blocks"},
        {true, 0, 1, 2, 32767, 0, ERR_INPUT, "32767 values"},
        {true, 0, 1, 2, 0, 0, ERR_INPUT, "0 values"},
        {true, 0, 1, 2, 32768, 4, ERR_INPUT, "outside the payload"},
        {true, 0, 1, 1, 16384, 2, ERR_INPUT, "multiple of 4"},
        {false, 0, 1, 2, 0, 0, ERR_NONE, ""},
        {false, 0, 1, 2, 32768, 99, ERR_NONE, ""},
        {false, 0, 1, 2, 5, 0, ERR_INPUT, "5 values"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Paramd__Block b;
        block_init(
            &b, cases[i].pushing ? PARAMD__BLOCK__KIND__DENSE : PARAMD__BLOCK__KIND__DENSE_WANTED,
            cases[i].index, cases[i].count);
        b.first_block = cases[i].first;
        b.block_count = cases[i].blocks;
        b.values_offset = cases[i].offset;
        expect(check_list(values, sizeof values, &b, 1, cases[i].pushing), cases[i].code,
               cases[i].part);
    }
    Paramd__Block b[2];
    for (int i = 0; i < 2; i++) {
        block_init(&b[i], PARAMD__BLOCK__KIND__DENSE, 0, 16384);
        b[i].block_count = 1;
    }
    b[0].first_block = 1;
    b[1].first_block = 2;
    expect(check_list(values, sizeof values, b, 2, true), ERR_NONE, "");
    b[1].first_block = 1;
    expect(check_list(values, sizeof values, b, 2, true), ERR_INPUT, "comes after");
    b[0].first_block = 2;
    expect(check_list(values, sizeof values, b, 2, true), ERR_INPUT, "comes after");
    /* Everywhere, also in the float that straddles two slices. */
    for (uint32_t at = 0; at < 16384; at += at < 40 ? 1 : 1117) {
        values[at] = NAN;
        b[0].first_block = 1;
        expect(check_list(values, sizeof values, b, 1, true), ERR_REFUSED,
               "bias: the gradient is not finite");
        values[at] = 0.0f;
    }
}

/* An answer larger than a message may be is refused before memory is asked for. */
static void test_answer_size(void **state)
{
    uint32_t dim = tables[1].dim;
    uint64_t count = MESSAGE_MAX_BYTES / 64, *keys = malloc(count * 8);
    for (uint64_t i = 0; i < count; i++)
        keys[i] = partition_first_key(100) + i;
    Paramd__Block b, *list = &b;
    struct chain c = {0};
    block_init(&b, PARAMD__BLOCK__KIND__KEYS, 1, count);
    chain_append(&c, NULL, keys, count * 8);
    struct wire_message m = {.chain = &c, .payload_size = count * 8};
    expect(wire_check_blocks(&m, &list, 1, &limits, false), ERR_NONE, "");
    tables[1].dim = 17;
    expect(wire_check_blocks(&m, &list, 1, &limits, false), ERR_LIMIT, "answer");
    tables[1].dim = dim;
    expect(wire_check_blocks(&m, &list, WIRE_BLOCK_MAX + 1, &limits, false), ERR_LIMIT, "65537");
    chain_deinit(&c);
    free(keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lying_rows),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_lying_dense),
        cmocka_unit_test(test_answer_size),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
