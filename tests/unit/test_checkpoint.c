/*
 * Goal: a manifest and a checkpoint's name are read back as written, or refused with a reason that
 * names what is wrong; the parts of a shard file refuse counts that lie, also under right
 * checksums.
 *
 * Method: every truncation and every flipped bit of a manifest; manifests that are wrong in one
 * place and carry a right checksum; tails, indices, blocks and file names as tables of cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/crc.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/shard_file.h"
#include "tests/support/small_checkpoint.h"

static void assert_says(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}

/* ---- names ---- */

static void test_names(void **state)
{
    static const struct {
        const char *name;
        bool is_good;
        uint64_t generation, step;
    } cases[] = {
        {"1-0", true, 1, 0},
        {"12-470", true, 12, 470},
        {"18446744073709551615-18446744073709551615", true, UINT64_MAX, UINT64_MAX},
        {.name = ""},
        {.name = "-"},
        {.name = "1-"},
        {.name = "-1"},
        {.name = "1"},
        {.name = "1-2-3"},
        {.name = "01-2"},
        {.name = "1-02"},
        {.name = "+1-2"},
        {.name = "1--2"},
        {.name = "1-2 "},
        {.name = "1-0x2"},
        {.name = "18446744073709551616-1"},
        {.name = "a-b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t generation = 0, step = 0;
        enum err err = checkpoint_name_parse(cases[i].name, &generation, &step);
        assert_int_equal(err, cases[i].is_good ? ERR_NONE : ERR_INPUT);
        assert_true(generation == cases[i].generation && step == cases[i].step);
        if (!cases[i].is_good) {
            assert_says("'");
            continue;
        }
        char *again = checkpoint_name(generation, step);
        assert_string_equal(again, cases[i].name);
        mem_free(again);
    }
}

static void test_file_names(void **state)
{
    static const char *const bad[] = {
        "",
        "table",
        "table0",
        "dense-",
        "dense-0000-4096",
        "table0-0000-4096",
        "table0-0000-4096.",
        "table0-0000-4096.0.0",
        "table00-0000-4096.0.0000",
        "table256-0000-4096.0.0000",
        "table0-0000-4097.0.0000",
        "table0-0010-0010.0.0000",
        "table0-0011-0010.0.0000",
        "table0-0000-4096.0.0000.",
        "table0-0000-4096.0000",
        "table0-0000-4096.00.0000",
        "table0-0000-4096.0.0000 ",
        "Table0-0000-4096.0000",
        "table0-+000-4096.0.0000",
        "table0-0000-4096.0.99999999999",
        "dense0-0000-4096.0.0000",
        "../table0-0000-4096.0.0000",
    };
    static const struct shard_file_range good[] = {
        {0, 0, 4096, 0, 0},
        {255, 4095, 4096, UINT32_MAX, 12345},
        {SHARD_FILE_DENSE, 1, 2, 3, 4},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct shard_file_range r;
        assert_int_equal(shard_file_parse_name(bad[i], &r), ERR_CORRUPT);
        assert_says(bad[i]);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct shard_file_range r;
        char *name = shard_file_name(&good[i]);
        assert_int_equal(shard_file_parse_name(name, &r), ERR_NONE);
        assert_memory_equal(&r, &good[i], sizeof r);
        mem_free(name);
    }
}

/* ---- manifests ---- */

static struct checkpoint_manifest *make(void)
{
    return small_checkpoint_files("m",
                                  &(struct small_checkpoint){.generation = 3, .step = 1ull << 60});
}

static void test_manifest_round_trip(void **state)
{
    struct checkpoint_manifest *m = make(), *back = NULL;
    struct str first = {0}, second = {0};

    checkpoint_manifest_write(m, &first);
    if (checkpoint_manifest_parse("m", first.data, first.size, &back) != ERR_NONE)
        fail_msg("%s", err_text());
    checkpoint_manifest_write(back, &second);
    assert_string_equal(first.data, second.data);
    assert_string_equal(back->job, m->job);
    assert_true(back->generation == 3 && back->step == 1ull << 60);
    assert_string_equal(back->job_hash, m->job_hash);
    assert_string_equal(back->index_checksum, m->index_checksum);
    assert_string_equal(back->job_yaml, m->job_yaml);
    assert_int_equal(back->column_count, 2);
    assert_string_equal(back->columns[1], m->columns[1]);
    assert_true(back->train_examples == UINT64_MAX && back->has_eval);
    assert_int_equal(back->file_count, m->file_count);
    for (uint32_t i = 0; i < m->file_count; i++) {
        assert_string_equal(back->files[i].name, m->files[i].name);
        assert_true(back->files[i].size == m->files[i].size);
        assert_true(back->files[i].index_crc == m->files[i].index_crc);
        assert_true(back->files[i].rows == m->files[i].rows);
    }
    assert_int_equal(back->rank_count, 2);
    assert_true(back->ranks[1].examples == 1ull << 63 && back->ranks[1].loss_sum == INT64_MIN);
    assert_int_equal(back->ranks[1].metrics.size, 3);
    assert_memory_equal(back->ranks[1].metrics.data, "\0\xff\x10", 3);
    assert_string_equal(back->evals_json, m->evals_json);
    str_deinit(&first);
    str_deinit(&second);
    checkpoint_manifest_destroy(m);
    checkpoint_manifest_destroy(back);
}

static void assert_refused(const char *data, size_t size, const char *what, size_t at)
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_manifest_parse("uri/MANIFEST.json", data, size, &m);

    if (err != ERR_CORRUPT || m != NULL)
        fail_msg("%s %zu: %s", what, at, err_name(err));
    if (strncmp(err_text(), "uri/MANIFEST.json: ", 19) != 0 || strlen(err_text()) < 30)
        fail_msg("%s %zu: '%s' gives no reason", what, at, err_text());
}

static void test_manifest_damage(void **state)
{
    struct checkpoint_manifest *m = make();
    struct str text = {0};

    checkpoint_manifest_write(m, &text);
    for (size_t size = 0; size < text.size; size++)
        assert_refused(text.data, size, "cut at", size);
    for (size_t bit = 0; bit < 8 * text.size; bit++) {
        text.data[bit / 8] ^= (char)(1 << bit % 8);
        assert_refused(text.data, text.size, "flipped bit", bit);
        text.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    str_append(&text, "\n");
    assert_refused(text.data, text.size, "longer by", 1);
    str_deinit(&text);
    checkpoint_manifest_destroy(m);
}

/* Replaces one text by another and signs the result anew. */
static void forge(const char *from, const char *to, struct str *out)
{
    struct checkpoint_manifest *m = make();
    struct str text = {0};
    char hex[SHA256_HEX_SIZE];

    checkpoint_manifest_write(m, &text);
    char *at = strstr(text.data, from), *end = strstr(text.data, ",\n  \"checksum\"");
    if (!at)
        fail_msg("'%s' is not in the manifest", from);
    str_append_span(out, span_make(text.data, (size_t)(at - text.data)));
    str_append(out, to);
    at += strlen(from);
    str_append_span(out, span_make(at, (size_t)(end - at)));
    sha256_hex(out->data, out->size, hex);
    str_append_format(out, ",\n  \"checksum\": \"%s\"\n}\n", hex);
    str_deinit(&text);
    checkpoint_manifest_destroy(m);
}

static void test_manifest_forged(void **state)
{
    static const char *const name = "\"name\": \"table0-0000-4096.0.0000\"";
    const struct {
        const char *from, *to;
        enum err err;
        const char *says;
    } cases[] = {
        {"small", "small", ERR_NONE, ""},
        {"paramd checkpoint", "paramd checkpoin", ERR_CORRUPT, "kind is 'paramd checkpoin'"},
        {"\"format\": 1", "\"format\": 2", ERR_UNSUPPORTED, "format 2 is newer"},
        {"\"format\": 1", "\"format\": 2, \"new\": {}", ERR_UNSUPPORTED, "format 2 is newer"},
        {"\"format\": 1", "\"format\": 0", ERR_CORRUPT, "members"},
        {"\"format\": 1", "\"format\": -1", ERR_CORRUPT, "format"},
        {"\"format\": 1", "\"format\": \"1\"", ERR_CORRUPT, "format"},
        {"\"has_eval\": true", "\"has_eval\": 1", ERR_CORRUPT, "has_eval"},
        {"\"has_eval\": true", "\"has_eval\": true, \"more\": 1", ERR_CORRUPT, "members"},
        {"\"has_eval\": true", "\"has_eval\":  true", ERR_CORRUPT, "members"},
        {"\"has_eval\": true", "\"has_eval\": true, \"has_eval\": true", ERR_CORRUPT, "already"},
        {"\"generation\": \"3\"", "\"generation\": \"-3\"", ERR_CORRUPT, "-3"},
        {"\"generation\": \"3\"", "\"generation\": \"03\"", ERR_CORRUPT, "members"},
        {"\"generation\": \"3\"", "\"generation\": 3", ERR_CORRUPT, "generation"},
        {"\"generation\": \"3\"", "\"generatiom\": \"3\"", ERR_CORRUPT, "generation"},
        {"\"step\": \"1152921504606846976\"", "\"step\": \"18446744073709551616\"", ERR_CORRUPT,
         "18446744073709551616"},
        {name, "\"name\": \"table0/0000-4096.0000\"", ERR_CORRUPT, "table0/0000"},
        {name, "\"name\": \"/etc/passwd\"", ERR_CORRUPT, "/etc/passwd"},
        {name, "\"name\": \"..\"", ERR_CORRUPT, "'..'"},
        {name, "\"name\": \"table0..\"", ERR_CORRUPT, "table0.."},
        {name, "\"name\": \".\"", ERR_CORRUPT, "'.'"},
        {name, "\"name\": \"\"", ERR_CORRUPT, "''"},
        {name, "\"name\": \"a\\\\b\"", ERR_CORRUPT, "a\\b"},
        {name, "\"name\": \"MANIFEST.json\"", ERR_CORRUPT, "MANIFEST.json"},
        {name, "\"name\": \"dense-0000-4096.0.0000\"", ERR_CORRUPT, "out of order"},
        {name, "\"name\": \"aaa\"", ERR_CORRUPT, "out of order"},
        {name, "\"name\": 7", ERR_CORRUPT, "files[1]"},
        {"\"metrics\": \"00ff10\"", "\"metrics\": \"00ff1\"", ERR_CORRUPT, "odd"},
        {"\"metrics\": \"00ff10\"", "\"metrics\": \"00fF10\"", ERR_CORRUPT, "'fF'"},
        {"\"metrics\": \"00ff10\"", "\"metrics\": \"00\\u0000\"", ERR_CORRUPT, ""},
        {"\"index_checksum\": \"", "\"index_checksum\": \"0", ERR_CORRUPT, "too long"},
        {"\"ranks\": [", "\"ranks\": [1, ", ERR_CORRUPT, "ranks[0]"},
        {"\"ranks\": [", "\"ranks\": {}, \"x\": [", ERR_CORRUPT, "ranks"},
        {"\"columns\": [", "\"columns\": [1, ", ERR_CORRUPT, "columns[0]"},
        {"{", "[{", ERR_CORRUPT, "line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct checkpoint_manifest *m = NULL;
        struct str text = {0};
        forge(cases[i].from, cases[i].to, &text);
        enum err err = checkpoint_manifest_parse("uri", text.data, text.size, &m);
        if (err != cases[i].err)
            fail_msg("%s: %s: %s", cases[i].to, err_name(err), err_text());
        if (err)
            assert_says(cases[i].says);
        checkpoint_manifest_destroy(m);
        str_deinit(&text);
    }
}

/* ---- the set of files ---- */

static void test_file_set(void **state)
{
    static const struct {
        const char *names[6];
        uint32_t tables;
        const char *says; /* NULL: good */
    } cases[] = {
        {{"dense-0000-4096.0.0000"}, 0, NULL},
        {{"dense-0000-4096.0.0000", "table0-0000-4096.0.0000"}, 1, NULL},
        {{"dense-0000-2048.0.0000", "dense-2048-4096.0.0000", "table0-0000-4096.0.0000"}, 1, NULL},
        {{"dense-0000-4096.0.0000", "table0-0000-1000.0.0000", "table0-0000-1000.0.0001",
          "table0-1000-4096.0.0000"},
         1,
         NULL},
        {{NULL}, 0, "dense parameters"},
        {{"table0-0000-4096.0.0000"}, 0, "dense parameters"},
        {{"dense-0000-4096.0.0000", "table1-0000-4096.0.0000"}, 0, "table 0"},
        {{"dense-0000-4096.0.0000", "table0-0000-4095.0.0000"}, 0, "table 0 end at partition 4095"},
        {{"dense-0000-4096.0.0000", "table0-0001-4096.0.0000"}, 0, "ends at partition 0"},
        {{"dense-0000-4096.0.0000", "table0-0000-0100.0.0000", "table0-0101-4096.0.0000"},
         0,
         "100"},
        {{"dense-0000-4096.0.0000", "table0-0000-0100.0.0000", "table0-0099-4096.0.0000"},
         0,
         "100"},
        {{"dense-0000-4096.0.0000", "table0-0000-4096.0.0001"}, 0, "missing"},
        {{"dense-0000-4096.0.0000", "table0-0000-4096.0.0000", "table0-0000-4096.0.0002"},
         0,
         "missing"},
        {{"dense-0000-4096.0.0000", "table0-0000-4096.0.0000", "table0-0000-4096.1.0001"},
         0,
         "missing"},
        {{"dense-0000-4096.0.0000", "extra"}, 0, "'extra'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct checkpoint_file files[6];
        struct checkpoint_manifest m = {.files = files};
        uint32_t tables = 99;
        for (; m.file_count < 6 && cases[i].names[m.file_count]; m.file_count++)
            files[m.file_count] =
                (struct checkpoint_file){.name = (char *)(uintptr_t)cases[i].names[m.file_count]};
        enum err err = shard_file_check_set(&m, &tables);
        if (err != (cases[i].says ? ERR_CORRUPT : ERR_NONE))
            fail_msg("case %zu: %s: %s", i, err_name(err), err_text());
        if (err)
            assert_says(cases[i].says);
        assert_int_equal(tables, err ? 99 : cases[i].tables);
    }
}

/* ---- parts of a shard file, with right checksums and wrong numbers ---- */

static void test_tail(void **state)
{
    static const struct {
        uint64_t offset, count, file_size;
        bool is_good;
    } cases[] = {
        {8, 0, 40, true},
        {100, 2, 196, true},
        {8, 0, 39, false},
        {8, 0, 41, false},
        {7, 0, 39, false},
        {0, 0, 32, false},
        {100, 3, 196, false},
        {196, 0, 196, false},
        {UINT64_MAX, 1, 196, false},
        {100, UINT64_MAX / 32 + 3, 196, false},
        {100, UINT64_MAX, 196, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t tail[CHECKPOINT_TAIL_BYTES] = {0};
        uint64_t offset = 1, count = 1;
        uint32_t crc = 12345, index_crc = 0;
        memcpy(tail, &cases[i].offset, 8);
        memcpy(tail + 8, &cases[i].count, 8);
        memcpy(tail + 16, &crc, 4);
        crc = crc32c(0, tail, 20);
        memcpy(tail + 20, &crc, 4);
        memcpy(tail + 24, "PDSHEND1", 8);
        enum err err = checkpoint_tail_parse(tail, cases[i].file_size, &offset, &count, &index_crc);
        assert_int_equal(err, cases[i].is_good ? ERR_NONE : ERR_CORRUPT);
        if (!err)
            assert_true(offset == cases[i].offset && count == cases[i].count && index_crc == 12345);
    }
}

static void test_index(void **state)
{
    static const struct {
        struct checkpoint_entry e[2];
        uint64_t file_size;
        const char *says; /* NULL: good */
    } cases[] = {
        {{{0, 0, 8, 44, 1, 9}, {4095, 1, 52, 48, 2, 7}}, 196, NULL},
        {{{0, 1, 8, 44, 1, 0}, {1, 1, 52, 48, 2, 0}}, 196, "entry 0: number 1"},
        {{{0, 0, 8, 44, 1, 0}, {4096, 1, 52, 48, 2, 0}}, 196, "partition 4096"},
        {{{0, 0, 8, 44, 1, 0}, {1, 1, 53, 47, 2, 0}}, 196, "entry 1"},
        {{{0, 0, 0, 52, 1, 0}, {1, 1, 52, 48, 2, 0}}, 196, "entry 0"},
        {{{0, 0, 8, 31, 1, 0}, {1, 1, 39, 61, 2, 0}}, 196, "entry 0"},
        {{{0, 0, 8, UINT64_MAX - 3, 1, 0}, {1, 1, 4, 96, 2, 0}}, 196, "entry 0"},
        {{{0, 0, 8, 44, 1, 0}, {1, 1, 52, 44, 2, 0}}, 196, "blocks end at 96"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str footer = {0};
        struct checkpoint_entry *entries = NULL;
        uint32_t crc;
        checkpoint_footer(cases[i].e, 2, 100, &footer, &crc);
        enum err err =
            checkpoint_index_parse(footer.data, 64, 2, crc, cases[i].file_size, &entries);
        if (err != (cases[i].says ? ERR_CORRUPT : ERR_NONE))
            fail_msg("case %zu: %s: %s", i, err_name(err), err_text());
        if (err)
            assert_says(cases[i].says);
        else
            assert_memory_equal(entries, cases[i].e, sizeof cases[i].e);
        mem_free(entries);
        entries = NULL;
        assert_int_equal(checkpoint_index_parse(footer.data, 64, 2, crc ^ 1, 196, &entries),
                         ERR_CORRUPT);
        assert_int_equal(checkpoint_index_parse(footer.data, 63, 2, crc, 196, &entries),
                         ERR_CORRUPT);
        str_deinit(&footer);
    }
}

static void test_rows(void **state)
{
    static const uint64_t p7 = 7ull << PARTITION_SHIFT;
    const struct {
        uint64_t keys[2];
        uint32_t rows;
        uint64_t size;
        const char *says; /* NULL: good */
    } cases[] = {
        {{p7, p7 + 1}, 2, 24, NULL},
        {{p7, p7 + 1}, 2, 48, NULL},
        {{p7, p7}, 2, 24, "out of order"},
        {{p7 + 1, p7}, 2, 24, "out of order"},
        {{p7, 8ull << PARTITION_SHIFT}, 2, 24, "not of partition 7"},
        {{p7 - 1, p7}, 2, 24, "not of partition 7"},
        {{p7, p7 + 1}, 0, 24, "0 rows"},
        {{p7, p7 + 1}, 0, 0, "0 rows"},
        {{p7, p7 + 1}, 2, 16, "2 rows in 16 bytes"},
        {{p7, p7 + 1}, 2, 25, "2 rows in 25"},
        {{p7, p7 + 1}, 2, 26, "2 rows in 26"},
        {{p7, p7 + 1}, UINT32_MAX, 24, "in 24 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t body[64] = {0};
        struct checkpoint_entry e = {.partition = 7, .number = 5, .rows = cases[i].rows};
        memcpy(body, cases[i].keys, sizeof cases[i].keys);
        enum err err = checkpoint_rows_check(&e, body, cases[i].size);
        if (err != (cases[i].says ? ERR_CORRUPT : ERR_NONE))
            fail_msg("case %zu: %s: %s", i, err_name(err), err_text());
        if (err) {
            assert_says("block 5");
            assert_says(cases[i].says);
        }
    }
}

static void test_dense_head(void **state)
{
    static const struct {
        struct dense_block_head head;
        uint64_t size;
        bool is_good;
    } cases[] = {
        {{0, 0, 4}, 32, true},           {{1023, 4095, 4}, 64, true},
        {{0, 0, 4}, 80, false}, /* 4 arrays */
        {{1024, 0, 4}, 32, false},       {{0, 0, 0}, 16, false},
        {{0, 0, 4}, 31, false},          {{0, 0, 4}, 36, false},
        {{0, 0, 5}, 32, false},          {{0, 0, UINT64_MAX}, 32, false},
        {{0, 0, 1ull << 62}, 16, false}, {{0, 0, 4}, 15, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dense_block_head head = {77, 0, 0};
        uint8_t body[96] = {0};
        dense_block_head_write(&cases[i].head, body);
        enum err err = dense_block_head_parse(body, cases[i].size, &head);
        if (err != (cases[i].is_good ? ERR_NONE : ERR_CORRUPT))
            fail_msg("case %zu: %s: %s", i, err_name(err), err_text());
        assert_int_equal(head.dense, err ? 77 : cases[i].head.dense);
    }
}

static void test_block(void **state)
{
    uint8_t block[CHECKPOINT_BLOCK_HEAD_BYTES + 12] = {0};
    const void *parts[2] = {"abcdefgh", "ijkl"};
    const size_t sizes[2] = {8, 4};
    struct checkpoint_entry good = {7, 3, 8, sizeof block, 1, 0};
    struct checkpoint_entry e;
    const uint8_t *body = NULL;
    uint32_t rows = 0;

    memcpy(block + CHECKPOINT_BLOCK_HEAD_BYTES, "abcdefghijkl", 12);
    good.head_crc = checkpoint_block_head(3, 7, 1, parts, sizes, 2, block);
    assert_int_equal(checkpoint_block_verify(block, sizeof block, &good, &body, &rows), ERR_NONE);
    assert_int_equal(rows, 1);
    assert_memory_equal(body, "abcdefghijkl", 12);
    for (size_t size = 0; size < sizeof block; size++)
        assert_int_equal(checkpoint_block_verify(block, size, &good, &body, &rows), ERR_CORRUPT);
    for (size_t bit = 0; bit < 8 * sizeof block; bit++) {
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(checkpoint_block_verify(block, sizeof block, &good, &body, &rows),
                         ERR_CORRUPT);
        assert_says("block 3");
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    e = good, e.number = 4;
    assert_int_equal(checkpoint_block_verify(block, sizeof block, &e, &body, &rows), ERR_CORRUPT);
    e = good, e.partition = 8;
    assert_int_equal(checkpoint_block_verify(block, sizeof block, &e, &body, &rows), ERR_CORRUPT);
    e = good, e.rows = 2;
    assert_int_equal(checkpoint_block_verify(block, sizeof block, &e, &body, &rows), ERR_CORRUPT);
    assert_says("disagree");
    e = good, e.head_crc++;
    assert_int_equal(checkpoint_block_verify(block, sizeof block, &e, &body, &rows), ERR_CORRUPT);
    assert_says("another checkpoint");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_file_names),
        cmocka_unit_test(test_manifest_round_trip),
        cmocka_unit_test(test_manifest_damage),
        cmocka_unit_test(test_manifest_forged),
        cmocka_unit_test(test_file_set),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_dense_head),
        cmocka_unit_test(test_block),
    };
    char directory[] = "/tmp/test_checkpoint-XXXXXX";
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (chdir("/") != 0 || storage_remove_tree(directory) != ERR_NONE)
        return 1;
    return failed;
}
