/*
 * Goal: offsets, slots, blocks and initial values follow from names, dims and shapes alone, and
 * what does not fit is refused by name. Method: layouts worked out by hand; initial values asked
 * for in other orders and pieces, with their moments; one schema for each refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/schema.h"

static struct schema_table make_table(void)
{
    struct schema_table t = {.name = "user", .component_count = 2};
    t.components[0] =
        (struct schema_component){.name = "w", .dim = 1, .optimizer = {.type = "ftrl"}};
    t.components[1] =
        (struct schema_component){.name = "v",
                                  .dim = 16,
                                  .optimizer = {.type = "adagrad", .initial_accumulator = 0.5},
                                  .init = {INIT_NORMAL, 0.01}};
    return t;
}

static struct schema_dense make_dense(uint32_t rows, uint32_t columns)
{
    return (struct schema_dense){.name = "layer0.weight",
                                 .shape = {rows, columns},
                                 .shape_count = 2,
                                 .optimizer = {.type = "adam"},
                                 .init = {INIT_GLOROT, 0},
                                 .fan_in = rows,
                                 .fan_out = columns};
}

static void test_layout_of_rows(void **state)
{
    struct schema_table t = make_table();
    struct schema s = {.tables = &t, .table_count = 1};
    assert_int_equal(schema_finish(&s, 1), ERR_NONE);
    assert_int_equal(t.dim, 17);
    assert_int_equal(t.state_dim, 17 + 2 + 16);
    assert_int_equal(t.components[0].offset, 0);
    assert_int_equal(t.components[0].slot_offset, 17);
    assert_int_equal(t.components[1].offset, 1);
    assert_int_equal(t.components[1].slot_offset, 19);
    float row[35], again[17];
    schema_row_init_state(&t, 42, row);
    schema_row_init(&t, 42, again);
    assert_memory_equal(row, again, sizeof again);
    assert_true(row[0] == 0.0f && row[17] == 0.0f && row[18] == 0.0f);
    for (int i = 19; i < 35; i++)
        assert_true(row[i] == 0.5f);
}

static void test_initial_values(void **state)
{
    struct schema_table t = make_table(), other = make_table();
    struct schema s = {.tables = &t, .table_count = 1};
    struct schema o = {.tables = &other, .table_count = 1};
    assert_int_equal(schema_finish(&s, 1), ERR_NONE);
    assert_int_equal(schema_finish(&o, 2), ERR_NONE);
    float a[17], b[17];
    double sum = 0, squares = 0;
    for (uint64_t key = 0; key < 2000; key++) {
        schema_row_init(&t, mix64(key), a);
        for (int i = 1; i < 17; i++) {
            sum += a[i];
            squares += (double)a[i] * a[i];
        }
    }
    assert_true(fabs(sum / 32000) < 0.0003);
    assert_true(fabs(sqrt(squares / 32000) - 0.01) < 0.0002);
    /* Another key, another seed: other values. */
    schema_row_init(&t, 7, a);
    schema_row_init(&t, 8, b);
    assert_true(memcmp(a, b, sizeof a) != 0);
    schema_row_init(&other, 7, b);
    assert_true(memcmp(a, b, sizeof a) != 0);
}

static void test_dense(void **state)
{
    struct schema_dense d[2] = {make_dense(300, 200), make_dense(1, 5)};
    strcpy(d[1].name, "bias");
    struct schema s = {.dense = d, .dense_count = 2};
    assert_int_equal(schema_finish(&s, 9), ERR_NONE);
    assert_int_equal(d[0].count, 60000);
    assert_int_equal(d[0].block_count, 4);
    assert_int_equal(d[0].slot_count, 2);
    assert_int_equal(schema_block_size(&d[0], 3), 60000 - 3 * 16384);
    assert_int_equal(schema_block_first(&d[0], 3), 3 * 16384);
    assert_int_equal(schema_block_partition(&d[0], 3), 3072);
    assert_int_equal(d[1].block_count, 1);
    assert_int_equal(schema_block_size(&d[1], 0), 5);
    float *whole = malloc(60000 * sizeof *whole), piece[777];
    schema_dense_init(&d[0], 0, 60000, whole);
    schema_dense_init(&d[0], 31111, 777, piece);
    assert_memory_equal(piece, whole + 31111, sizeof piece);
    float bound = (float)sqrt(6.0 / 500), largest = 0;
    for (int i = 0; i < 60000; i++)
        largest = fmaxf(largest, fabsf(whole[i]));
    assert_true(largest <= bound && largest > 0.99f * bound);
    free(whole);
}

static void test_big_dense(void **state)
{
    struct schema_dense d = make_dense(100000, 1000);
    struct schema s = {.dense = &d, .dense_count = 1};
    assert_int_equal(schema_finish(&s, 9), ERR_NONE);
    assert_true(d.block_count <= PARTITION_COUNT && d.block_values > DENSE_BLOCK_VALUES);
    uint64_t sum = 0;
    uint32_t before = 0;
    for (uint32_t b = 0; b < d.block_count; b++) {
        assert_int_equal(schema_block_first(&d, b), sum);
        sum += schema_block_size(&d, b);
        assert_true(schema_block_partition(&d, b) >= before);
        before = schema_block_partition(&d, b);
    }
    assert_int_equal(sum, d.count);
    assert_true(before < PARTITION_COUNT);
}

static void refuse(const struct schema *s, enum err code, const char *part)
{
    struct schema copy = *s;
    assert_int_equal(schema_finish(&copy, 1), code);
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' does not name '%s'", err_text(), part);
}

static void test_refusals(void **state)
{
    struct schema_table t = make_table(), two[2] = {make_table(), make_table()};
    struct schema s = {.tables = &t, .table_count = 1};
    t.components[1].dim = 0;
    refuse(&s, ERR_LIMIT, "component v");
    t.components[1].dim = ROW_DIM_MAX;
    refuse(&s, ERR_LIMIT, "4096");
    t = make_table();
    t.component_count = COMPONENT_MAX + 1;
    refuse(&s, ERR_LIMIT, "components");
    t = make_table();
    strcpy(t.components[0].optimizer.type, "lion");
    refuse(&s, ERR_INPUT, "'lion'");
    t = make_table();
    t.components[0].l2 = -1;
    refuse(&s, ERR_INPUT, "l2");
    t = make_table();
    t.components[0].init.kind = INIT_GLOROT;
    refuse(&s, ERR_INPUT, "glorot");
    t.name[0] = '\0';
    refuse(&s, ERR_INPUT, "no name");
    refuse(&(struct schema){.tables = two, .table_count = 2}, ERR_INPUT, "named user");
    refuse(&(struct schema){.tables = two, .table_count = TABLE_MAX + 1}, ERR_LIMIT, "257");

    struct schema_dense d = make_dense(10, 0);
    struct schema e = {.dense = &d, .dense_count = 1};
    refuse(&e, ERR_INPUT, "dimension 1");
    d = make_dense(UINT32_MAX, UINT32_MAX);
    refuse(&e, ERR_LIMIT, "2^42");
    d = make_dense(2, 2);
    d.shape_count = 5;
    refuse(&e, ERR_LIMIT, "dimensions");
    d = make_dense(2, 2);
    d.fan_in = d.fan_out = 0;
    refuse(&e, ERR_INPUT, "fan_in");
    d = make_dense(2, 2);
    d.init.scale = NAN;
    refuse(&e, ERR_INPUT, "not finite");
}

static void test_destroy(void **state)
{
    struct schema *s = must_alloc(sizeof *s);
    s->tables = must_alloc(sizeof *s->tables);
    schema_destroy(s);
    schema_destroy(NULL);
    assert_int_equal(optimizer_slot_count("adam"), 2);
    assert_true(optimizer_slot_count("nothing") == UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_of_rows), cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_dense),          cmocka_unit_test(test_big_dense),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
