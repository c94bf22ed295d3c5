#include "tests/support/dataset_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/hash.h"
#include "common/mem.h"
#include "worker/scan.h"

/* ---- data ------------------------------------------------------------------------------------ */

static void write_row(uint64_t *random, int id, struct str *out)
{
    uint64_t r = data_random(random);
    str_append_format(out, "%d,%d.%d,u%d,%d,", id, (int)(r % 3), (int)(r >> 8 & 7),
                      (int)((r >> 16) % 200), (int)((r >> 24) % 1000));
    for (uint64_t tags = (r >> 40) % 4; tags > 0; tags--)
        str_append_format(out, "t%d%s", (int)((r >> (4 * tags)) % 30), tags > 1 ? "|" : "");
    str_append_format(out, ",%d.5,%d\n", (int)((r >> 50) % 50), 1000 + id * 7919 % ROWS);
}

/* FILES files of unequal size, ROWS rows in all. */
static void write_data(const char *directory, bool packed)
{
    static const int ends[FILES] = {1700, 1710, 4500, ROWS};
    uint64_t random = 77;
    int id = 0;
    for (int f = 0; f < FILES; f++) {
        struct str text = {0};
        char name[] = "d0.csv";
        name[1] = (char)('0' + f);
        str_append(&text, "id,w,user,item,tags,price,ts\n");
        for (; id < ends[f]; id++)
            write_row(&random, id, &text);
        /* Some are always packed, so that both kinds meet. */
        mem_free(packed || f == 2
                     ? data_fixture_gzip(directory, name, span_make(text.data, text.size))
                     : data_fixture_write(directory, name, span_make(text.data, text.size)));
        str_deinit(&text);
    }
}

void fixture_open(struct fixture *f, uint32_t threads)
{
    struct dataset_options o = {.job = f->setup.job,
                                .features = f->setup.spec,
                                .index = f->setup.index,
                                .cache_directory = f->cache,
                                .cache_limit_bytes = f->cache_limit,
                                .threads = threads};
    if (dataset_open(&o, &f->d) != ERR_NONE)
        fail_msg("open: %s", err_text());
}

void fixture_make(struct fixture *f, const char *yaml, bool packed)
{
    *f = (struct fixture){.directory = data_fixture_make()};
    f->cache = must_format("%s/cache/of/blocks", f->directory);
    write_data(f->directory, packed);
    data_setup_make(&f->setup, f->directory, yaml);
    fixture_open(f, 2);
}

void fixture_remove(struct fixture *f)
{
    dataset_close(f->d);
    data_setup_remove(&f->setup);
    data_fixture_remove(f->directory);
    mem_free(f->cache);
}

/* All rows, as features_add() gives them. Index: the row's number. */
void fixture_read_rows(const struct fixture *f, struct rows *rows, struct features **features)
{
    const struct dataindex *index = f->setup.index;
    struct features_options o = {.job = f->setup.job,
                                 .spec = f->setup.spec,
                                 .index = index,
                                 .columns = (const char *const *)index->columns,
                                 .column_count = index->column_count,
                                 .label_optional = true};
    struct reader_options ro = {.data = &f->setup.job->data, .column_count = index->column_count};
    struct reader *reader;
    assert_int_equal(features_create(&o, features), ERR_NONE);
    rows_init(*features, rows);
    assert_int_equal(reader_create(&ro, &reader), ERR_NONE);
    for (uint32_t i = 0; i < index->file_count; i++) {
        struct scan *scan;
        struct raw_block raw = {0};
        assert_int_equal(scan_open(&f->setup.job->data, index->files[i].uri, &scan), ERR_NONE);
        while (scan_next(scan, &raw) == ERR_NONE && raw.size > 0) {
            const struct record *record;
            const struct features_call call = {.reader = reader};
            reader_begin(reader,
                         &(struct reader_block){
                             .name = "t", .data = raw.data, .size = raw.size, .first_line = 1});
            while (reader_next(reader, &record) == ERR_NONE && record != NULL)
                assert_int_equal(features_add(*features, &call, record, rows), ERR_NONE);
        }
        raw_block_deinit(&raw);
        scan_close(scan);
    }
    reader_destroy(reader);
    assert_int_equal(rows->count, ROWS);
}

/* ---- a batch is what its rows are ------------------------------------------------------------ */

static void check_table(const struct batch *b, const struct batch_table *x,
                        const struct rows_table *rows)
{
    uint32_t cells = b->example_count * x->slot_count, seen = 0;
    assert_int_equal(x->slot_count, rows->slot_count);
    assert_int_equal(x->offsets[0], 0);
    assert_int_equal(x->offsets[cells], x->term_count);
    for (uint32_t k = 1; k < x->key_count; k++)
        assert_true(x->keys[k - 1] < x->keys[k]);
    for (uint32_t i = 0; i < b->example_count; i++) {
        size_t row = (size_t)b->labels[i];
        for (uint32_t s = 0; s < x->slot_count; s++) {
            size_t cell = row * x->slot_count + s;
            uint32_t from = cell > 0 ? rows->ends[cell - 1] : 0, count = rows->ends[cell] - from;
            uint32_t at = x->offsets[i * x->slot_count + s];
            assert_int_equal(x->offsets[i * x->slot_count + s + 1] - at, count);
            for (uint32_t k = 0; k < count; k++) {
                assert_true(x->ids[at + k] < x->key_count);
                assert_true(x->keys[x->ids[at + k]] == rows->keys[from + k]);
                float value = rows->has_values ? rows->values[from + k] : 1;
                assert_true((x->values != NULL ? x->values[at + k] : 1) == value);
            }
        }
    }
    /* By row: each row's cells in order, each term once, with its value. */
    assert_int_equal(x->by_row_offsets[0], 0);
    assert_true((x->values == NULL) == (x->by_row_values == NULL));
    for (uint32_t key = 0; key < x->key_count; key++) {
        assert_true(x->by_row_offsets[key] < x->by_row_offsets[key + 1]);
        uint32_t last_cell = 0, in_cell = 0;
        for (uint32_t k = x->by_row_offsets[key]; k < x->by_row_offsets[key + 1]; k++, seen++) {
            uint32_t cell = x->by_row_cells[k], nth = 0;
            assert_true(k == x->by_row_offsets[key] || cell >= last_cell);
            in_cell = k > x->by_row_offsets[key] && cell == last_cell ? in_cell + 1 : 0;
            last_cell = cell;
            uint32_t at = x->offsets[cell];
            for (;; at++) {
                assert_true(at < x->offsets[cell + 1]);
                if (x->ids[at] == key && nth++ == in_cell)
                    break;
            }
            if (x->values != NULL)
                assert_true(x->by_row_values[k] == x->values[at]);
        }
    }
    assert_int_equal(seen, x->term_count);
    assert_int_equal(x->by_row_offsets[x->key_count], x->term_count);
}

void fixture_check_batch(const struct batch *b, const struct rows *rows)
{
    double sum = 0;
    for (uint32_t i = 0; i < b->example_count; i++) {
        size_t row = (size_t)b->labels[i];
        assert_true(row < ROWS && b->weights[i] == rows->weights[row]);
        sum += b->weights[i];
    }
    assert_true(sum == b->weight_sum);
    assert_int_equal(b->table_count, rows->table_count);
    for (uint32_t t = 0; t < b->table_count; t++)
        check_table(b, &b->tables[t], &rows->tables[t]);
}

/* A hash of all that a batch says. */
uint64_t batch_digest(const struct batch *b, uint64_t h)
{
    size_t n = b->example_count;
    uint64_t head[] = {b->step, b->rank, n, b->dense_width};
    h = hash64(head, sizeof head, h);
    h = hash64(b->labels, n * sizeof *b->labels, h);
    h = hash64(b->weights, n * sizeof *b->weights, h);
    if (b->dense_width > 0)
        h = hash64(b->dense, n * b->dense_width * sizeof *b->dense, h);
    for (uint32_t t = 0; t < b->table_count; t++) {
        const struct batch_table *x = &b->tables[t];
        h = hash64(x->keys, x->key_count * sizeof *x->keys, h);
        h = hash64(x->offsets, (n * x->slot_count + 1) * sizeof *x->offsets, h);
        h = hash64(x->by_row_offsets, ((size_t)x->key_count + 1) * sizeof *x->by_row_offsets, h);
        if (x->term_count == 0)
            continue;
        h = hash64(x->ids, x->term_count * sizeof *x->ids, h);
        h = hash64(x->by_row_cells, x->term_count * sizeof *x->by_row_cells, h);
        if (x->values != NULL) {
            h = hash64(x->values, x->term_count * sizeof *x->values, h);
            h = hash64(x->by_row_values, x->term_count * sizeof *x->by_row_values, h);
        }
    }
    return h;
}

struct batch *fixture_next(struct batch_stream *s)
{
    struct batch *b = NULL;
    if (batch_stream_next(s, &b) != ERR_NONE)
        fail_msg("next: %s", err_text());
    return b;
}

uint64_t fixture_digest(struct fixture *f, uint32_t rank, uint64_t first, uint64_t last,
                        uint32_t ahead)
{
    struct batch_stream *s;
    uint64_t h = 0;
    assert_int_equal(dataset_train_stream(f->d, rank, first, last, ahead, &s), ERR_NONE);
    for (struct batch *b; (b = fixture_next(s)) != NULL; batch_release(b))
        h = batch_digest(b, h);
    batch_stream_close(s);
    return h;
}

uint64_t fixture_epoch_steps(const struct fixture *f)
{
    return dataindex_steps_per_epoch(f->setup.index->train_examples, f->setup.job->train.batch_size,
                                     f->setup.job->train.ranks);
}
