/*
 * Goal: a table is a map from keys to rows that never move, walked in the order of its keys, frozen
 * by snapshots, whole after any failure. Method: random operations against a sorted array that does
 * the same; keys spread, clustered in one partition, and at the ends of the range; snapshots read
 * in pieces while rows change and come; each allocation failed in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/layout.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/table.h"

#define DIM       3
#define STATE_DIM 6
#define KEYS_MAX  60000

/* The reference: keys ascending, with the first float of each row. */
struct model {
    uint64_t keys[KEYS_MAX];
    float values[KEYS_MAX];
    uint32_t count;
};

static struct schema_table schema;
static struct model model, frozen;

static void make_schema(uint64_t max_rows)
{
    schema = (struct schema_table){.name = "item", .component_count = 1, .max_rows = max_rows};
    schema.components[0] =
        (struct schema_component){.name = "v",
                                  .dim = DIM,
                                  .optimizer = {.type = "adagrad", .initial_accumulator = 2.0},
                                  .init = {INIT_CONSTANT, 1.0}};
    struct schema s = {.tables = &schema, .table_count = 1};
    assert_int_equal(schema_finish(&s, 1), ERR_NONE);
    assert_int_equal(schema.state_dim, STATE_DIM);
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

/* The place of the key, or where it belongs. */
static uint32_t model_place(const struct model *m, uint64_t key)
{
    uint32_t low = 0, high = m->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (m->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool model_has(const struct model *m, uint64_t key)
{
    uint32_t i = model_place(m, key);
    return i < m->count && m->keys[i] == key;
}

static void model_insert(struct model *m, uint64_t key, float value)
{
    uint32_t i = model_place(m, key);
    assert_true(m->count < KEYS_MAX);
    memmove(m->keys + i + 1, m->keys + i, (m->count - i) * sizeof m->keys[0]);
    memmove(m->values + i + 1, m->values + i, (m->count - i) * sizeof m->values[0]);
    m->keys[i] = key;
    m->values[i] = value;
    m->count++;
}

/* Distinct ascending keys: some that are there, some new. */
static uint32_t make_batch(uint64_t seed, uint64_t (*key_of)(uint64_t), uint64_t *keys)
{
    uint32_t count = 0, distinct = 0,
             wanted = 1 + (uint32_t)rng_below(rng_at(seed, 0), TABLE_BATCH);
    while (count < wanted) {
        uint64_t bits = rng_at(seed, count + 1);
        bool known = model.count > 0 && bits % 3 == 0;
        keys[count] = known ? model.keys[rng_below(mix64(bits), model.count)] : key_of(bits);
        count++;
    }
    qsort(keys, count, sizeof keys[0], compare_keys);
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || keys[i] != keys[i - 1])
            keys[distinct++] = keys[i];
    }
    return distinct;
}

static uint64_t spread(uint64_t bits)
{
    return bits;
}

static uint64_t clustered(uint64_t bits)
{
    return partition_first_key(1234) | bits >> 12;
}

/* A few keys again and again, at the ends of partitions and of the whole range. */
static uint64_t extreme(uint64_t bits)
{
    uint64_t first = partition_first_key((uint32_t)(bits >> 60) * 273);
    return first + (bits % 2 ? bits / 2 % 40 : UINT64_MAX - bits / 2 % 40) % (UINT64_C(1) << 52);
}

/* Changes rows, as training does: finds or inserts, touches, writes. */
static void change(struct table *t, const uint64_t *keys, uint32_t count, float value)
{
    float *rows[TABLE_BATCH];
    assert_int_equal(table_find_or_insert(t, keys, count, rows), ERR_NONE);
    if (table_touch(t, keys, rows, count) != ERR_NONE)
        assert_false(table_snapshot_active(t));
    for (uint32_t i = 0; i < count; i++) {
        if (!model_has(&model, keys[i])) {
            assert_true(rows[i][0] == 1.0f && rows[i][DIM] == 2.0f);
            model_insert(&model, keys[i], 1.0f);
        }
        assert_true(rows[i][0] == model.values[model_place(&model, keys[i])]);
        for (uint32_t k = 0; k < STATE_DIM; k++)
            rows[i][k] = value + (float)k;
        model.values[model_place(&model, keys[i])] = value;
    }
}

static void look(const struct table *t, const uint64_t *keys, uint32_t count)
{
    float *rows[TABLE_BATCH];
    table_prefetch(t, keys, count);
    table_find(t, keys, count, rows);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(rows[i] != NULL, model_has(&model, keys[i]));
        if (rows[i] != NULL)
            assert_true(rows[i][0] == model.values[model_place(&model, keys[i])]);
    }
}

/* Reads on, at most `max` rows, and compares; false at the end. */
static bool read_frozen(struct table *t, uint32_t max, uint32_t *at)
{
    uint64_t keys[97];
    float states[97 * STATE_DIM];
    uint32_t count;
    assert_int_equal(table_snapshot_next(t, max, keys, states, &count), ERR_NONE);
    for (uint32_t i = 0; i < count; i++, ++*at) {
        assert_true(*at < frozen.count);
        assert_true(keys[i] == frozen.keys[*at]);
        assert_true(states[i * STATE_DIM] == frozen.values[*at]);
    }
    return count > 0;
}

static void run_against_model(uint64_t (*key_of)(uint64_t), uint32_t rounds)
{
    struct table *t;
    uint64_t keys[TABLE_BATCH];
    uint32_t at = 0;
    model.count = 0;
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t count = make_batch(2 * i, key_of, keys);
        look(t, keys, count);
        change(t, keys, count, (float)i);
        assert_int_equal(table_rows(t), model.count);
        if (i % 300 == 100) {
            table_snapshot_begin(t, 0);
            frozen = model;
            at = 0;
        }
        if (table_snapshot_active(t) && i % 3 == 0 && !read_frozen(t, 1 + i % 97, &at)) {
            assert_int_equal(at, frozen.count);
            table_snapshot_end(t);
        }
        if (table_snapshot_active(t) && i % 300 == 99) {
            while (read_frozen(t, 97, &at))
                ;
            assert_int_equal(at, frozen.count);
            table_snapshot_end(t);
        }
    }
    table_snapshot_end(t);
    table_snapshot_begin(t, 0);
    frozen = model;
    for (at = 0; read_frozen(t, 50, &at);)
        ;
    assert_int_equal(at, model.count);
    table_destroy(t);
}

static void test_spread(void **state)
{
    run_against_model(spread, 1200);
    assert_true(model.count > 10000);
}

static void test_clustered(void **state)
{
    run_against_model(clustered, 1200);
    assert_true(model.count > 10000);
}

static void test_extreme(void **state)
{
    run_against_model(extreme, 1500);
    assert_true(model_has(&model, UINT64_MAX) && model_has(&model, 0));
}

static void test_load(void **state)
{
    struct table *t;
    float row[STATE_DIM] = {1, 2, 3, 4, 5, 6}, *rows[1];
    make_schema(0);
    assert_int_equal(table_create(&schema, 16, 32, &t), ERR_NONE);
    uint64_t key = partition_first_key(20) + 5;
    assert_int_equal(table_load(t, key, row), ERR_NONE);
    table_find(t, &key, 1, rows);
    assert_memory_equal(rows[0], row, sizeof row);
    assert_int_equal(table_load(t, key, row), ERR_CORRUPT);
    assert_non_null(strstr(err_text(), "twice"));
    assert_int_equal(table_load(t, partition_first_key(32), row), ERR_CORRUPT);
    assert_int_equal(table_load(t, partition_first_key(16) - 1, row), ERR_CORRUPT);
    assert_int_equal(table_load(t, partition_first_key(32) - 1, row), ERR_NONE);
    assert_int_equal(table_rows(t), 2);
    table_destroy(t);
    table_destroy(NULL);
}

/* Keys that were not mixed: refused by name, not with a table that fills the memory. */
static void test_crowded(void **state)
{
    struct table *t;
    float row[STATE_DIM] = {0};
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    enum err e = ERR_NONE;
    uint64_t key = 0;
    while (e == ERR_NONE && key < 100000)
        e = table_load(t, key++, row);
    assert_int_equal(e, ERR_LIMIT);
    assert_non_null(strstr(err_text(), "mixed"));
    assert_true(table_memory(t) < 16u << 20);
    table_destroy(t);
}

static void test_max_rows(void **state)
{
    struct table *t;
    float *rows[TABLE_BATCH];
    uint64_t keys[4] = {10, UINT64_C(1) << 60, UINT64_C(1) << 61, UINT64_C(1) << 62};
    make_schema(3);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    assert_int_equal(table_find_or_insert(t, keys, 4, rows), ERR_LIMIT);
    assert_non_null(strstr(err_text(), "max_rows"));
    assert_int_equal(table_rows(t), 3);
    assert_int_equal(table_find_or_insert(t, keys, 3, rows), ERR_NONE);
    table_destroy(t);
    /* A half of the partitions: half of the rows, and some for chance. */
    make_schema(10000);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT / 2, &t), ERR_NONE);
    enum err e = ERR_NONE;
    for (uint64_t i = 0; e == ERR_NONE; i++) {
        uint64_t key = mix64(i) >> 1;
        e = table_find_or_insert(t, &key, 1, rows);
    }
    assert_int_equal(e, ERR_LIMIT);
    assert_in_range(table_rows(t), 5000, 5600);
    table_destroy(t);
}

/* As a checkpoint is restored: at every moment all rows crowd at the lower end. */
static void test_ascending(void **state)
{
    static const uint64_t counts[] = {1000, 300000, 3000000};
    float row[STATE_DIM] = {0};
    make_schema(0);
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        struct table *t;
        assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
        for (uint64_t i = 0; i < counts[k]; i++)
            if (table_load(t, UINT64_MAX / counts[k] * i, row) != ERR_NONE)
                fail_msg("row %llu of %llu: %s", (unsigned long long)i,
                         (unsigned long long)counts[k], err_text());
        assert_int_equal(table_rows(t), counts[k]);
        table_destroy(t);
    }
}

/* Room is made once: what comes then is memory for rows alone, in whatever order. */
static void test_expected(void **state)
{
    enum { COUNT = 20000, ROW_BYTES = 32, SLACK = 8192 };
    const uint64_t first = partition_first_key(20);
    const uint64_t step = (partition_first_key(21) - first) / COUNT;
    float row[STATE_DIM] = {0}, *rows[1];
    make_schema(0);
    for (int ascending = 0; ascending < 2; ascending++) {
        struct table *t;
        assert_int_equal(table_create(&schema, 16, 32, &t), ERR_NONE);
        assert_int_equal(table_expect(t, 20, 0), ERR_NONE);
        assert_int_equal(table_expect(t, 20, COUNT), ERR_NONE);
        uint64_t before = table_memory(t);
        for (uint64_t i = 0; i < COUNT; i++) {
            uint64_t key = first + (ascending ? i : i * 7919 % COUNT) * step;
            row[0] = (float)i;
            assert_int_equal(table_load(t, key, row), ERR_NONE);
            table_find(t, &key, 1, rows);
            assert_true(rows[0] != NULL && rows[0][0] == (float)i);
        }
        assert_int_equal(table_rows(t), COUNT);
        assert_true(table_memory(t) - before <= COUNT * ROW_BYTES + SLACK);
        /* It grows on from there, and partitions at both ends are the table's own. */
        assert_int_equal(table_expect(t, 20, 10 * COUNT), ERR_NONE);
        assert_int_equal(table_expect(t, 16, 5), ERR_NONE);
        assert_int_equal(table_expect(t, 31, 5), ERR_NONE);
        uint64_t key = first;
        table_find(t, &key, 1, rows);
        assert_true(rows[0] != NULL && rows[0][0] == 0);
        table_destroy(t);
    }
}

static void test_memory(void **state)
{
    struct table *t;
    float row[STATE_DIM] = {0};
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    for (uint64_t i = 0; i < 200000; i++)
        assert_int_equal(table_load(t, mix64(i), row), ERR_NONE);
    /* 6 floats take 32 bytes, so that none lies in two cache lines; a slot 12.8 at 0.35 to 0.7. */
    double bytes = (double)table_memory(t) / 200000;
    assert_true(bytes > 32 + 18 && bytes < 32 + 48);
    table_destroy(t);
}

static void test_snapshot_limit(void **state)
{
    struct table *t;
    uint64_t keys[TABLE_BATCH], out[8];
    float states[8 * STATE_DIM];
    uint32_t count;
    model.count = 0;
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    for (uint32_t i = 0; i < 50; i++)
        change(t, keys, make_batch(i, spread, keys), 1.0f);
    table_snapshot_begin(t, 130000 + 32 * 500);
    for (uint32_t i = 0; i < 50 && table_snapshot_active(t); i++)
        change(t, keys, make_batch(i, spread, keys), 2.0f);
    assert_false(table_snapshot_active(t));
    assert_int_equal(table_snapshot_next(t, 8, out, states, &count), ERR_LIMIT);
    assert_non_null(strstr(err_text(), "abandoned"));
    change(t, keys, make_batch(3, spread, keys), 4.0f);
    table_snapshot_end(t);
    table_snapshot_begin(t, 0);
    frozen = model;
    uint32_t at = 0;
    while (read_frozen(t, 97, &at))
        ;
    assert_int_equal(at, model.count);
    table_destroy(t);
}

/* Rows that have been handed out may change without a copy. */
static void test_snapshot_behind(void **state)
{
    struct table *t;
    uint64_t keys[TABLE_BATCH];
    uint32_t at = 0;
    model.count = 0;
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    for (uint32_t i = 0; i < 50; i++)
        change(t, keys, make_batch(i, spread, keys), 1.0f);
    table_snapshot_begin(t, 1); /* room for no copy at all */
    frozen = model;
    for (uint32_t i = 0; i < 10; i++) {
        assert_true(read_frozen(t, 40, &at));
        change(t, model.keys, TABLE_BATCH < at ? TABLE_BATCH : 40, 2.0f);
        assert_true(table_snapshot_active(t));
    }
    change(t, model.keys + at, 1, 2.0f);
    assert_false(table_snapshot_active(t));
    table_destroy(t);
}

/* Rows that came after the beginning are not in it, nor are copies of them made. */
static void test_snapshot_of_nothing(void **state)
{
    struct table *t;
    uint64_t keys[TABLE_BATCH];
    uint32_t at = 0;
    model.count = 0;
    make_schema(0);
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    table_snapshot_begin(t, 1);
    frozen = model;
    for (uint32_t i = 0; i < 20; i++)
        change(t, keys, make_batch(i, spread, keys), 1.0f);
    assert_true(table_snapshot_active(t));
    assert_false(read_frozen(t, 10, &at));
    table_destroy(t);
}

/* The nth allocation fails as these keys come into an empty table; what is in, is in whole. */
static bool insert_without_memory(uint64_t n, struct table **out)
{
    uint64_t keys[TABLE_BATCH];
    float *rows[TABLE_BATCH];
    struct table *t;
    model.count = 0;
    assert_int_equal(table_create(&schema, 0, PARTITION_COUNT, &t), ERR_NONE);
    uint32_t count = make_batch(n, n % 2 ? spread : clustered, keys);
    mem_fail_nth(n);
    enum err e = table_find_or_insert(t, keys, count, rows);
    mem_fail_nth(0);
    assert_true(e == ERR_NONE || e == ERR_MEMORY);
    table_find(t, keys, count, rows);
    uint64_t present = 0;
    for (uint32_t k = 0; k < count; k++) {
        present += rows[k] != NULL;
        if (rows[k] != NULL)
            assert_true(rows[k][0] == 1.0f && rows[k][DIM] == 2.0f);
    }
    assert_int_equal(table_rows(t), present);
    /* The rest comes with the next attempt. */
    change(t, keys, count, (float)n);
    *out = t;
    return e == ERR_NONE;
}

static void test_no_memory(void **state)
{
    float *rows[TABLE_BATCH];
    struct table *t = NULL;
    make_schema(0);
    for (uint64_t n = 1; t == NULL; n++) {
        mem_fail_nth(n);
        enum err e = table_create(&schema, 0, PARTITION_COUNT, &t);
        mem_fail_nth(0);
        assert_int_equal(e, t == NULL ? ERR_MEMORY : ERR_NONE);
        assert_true(n < 10);
    }
    /* The chunks of the index and their list, those of the rows and theirs. */
    uint64_t failures = 0;
    do
        table_destroy(t);
    while (!insert_without_memory(++failures, &t));
    assert_true(failures > 4);
    /* A snapshot that cannot copy is abandoned; the rows are not. */
    for (uint64_t n = 1; n < 6; n++) {
        table_snapshot_begin(t, 0);
        table_find(t, model.keys, 1, rows);
        mem_fail_nth(n);
        enum err e = table_touch(t, model.keys, rows, 1);
        mem_fail_nth(0);
        assert_int_equal(table_snapshot_active(t), e == ERR_NONE);
        table_snapshot_end(t);
    }
    table_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),          cmocka_unit_test(test_clustered),
        cmocka_unit_test(test_extreme),         cmocka_unit_test(test_load),
        cmocka_unit_test(test_crowded),         cmocka_unit_test(test_max_rows),
        cmocka_unit_test(test_ascending),       cmocka_unit_test(test_expected),
        cmocka_unit_test(test_memory),          cmocka_unit_test(test_snapshot_limit),
        cmocka_unit_test(test_snapshot_behind), cmocka_unit_test(test_snapshot_of_nothing),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
