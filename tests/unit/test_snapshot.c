/*
 * Goal: what a snapshot holds is the shard's state at its beginning, whatever happens meanwhile,
 * and any other sharding restores exactly that; what cannot be restored is refused by name. A
 * snapshot keeps its bounds of memory and time, and leaves nothing behind when it is given up.
 *
 * Method: real shards whose every value is a function of a seed, so that restored shards are
 * compared value by value, and by digest. Slices of one piece of work each, between which rows are
 * changed and inserted. fsync() is this program's own, so that a storage that hangs can be played.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/storage.h"
#include "server/dense.h"
#include "server/shard_file.h"
#include "server/table.h"
#include "tests/support/small_checkpoint.h"
#include "tests/support/snapshot_model.h"

#define SEED 7
#define ROWS 3000

/* ---- a storage that hangs ---- */

static atomic_int hang_at; /* the nth call from now; 0: none */
static sem_t hanging, released;

int fsync(int fd)
{
    if (atomic_load(&hang_at) > 0 && atomic_fetch_sub(&hang_at, 1) == 1) {
        sem_post(&hanging);
        sem_wait(&released);
    }
    return 0; /* durability is not what this program tests */
}

/* ---- helpers ---- */

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' is not in '%s'", part, text);
}

static struct snapshot_model *filled(uint32_t shards)
{
    struct snapshot_model *m = snapshot_model_create(snapshot_schema(), shards);

    snapshot_model_fill(m, ROWS, SEED);
    return m;
}

static void assert_digest(const char *directory, const char *expected)
{
    char hex[SHA256_HEX_SIZE];

    if (checkpoint_verify(directory) != ERR_NONE || checkpoint_digest(directory, hex) != ERR_NONE)
        fail_msg("%s", err_text());
    assert_string_equal(hex, expected);
}

/* Of all names, temporary ones too. */
static size_t names_in(const char *directory)
{
    DIR *d = opendir(directory);
    size_t count = 0;

    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return count;
}

static struct snapshot *begin(struct snapshot_model *m, const char *directory)
{
    struct snapshot_options o = snapshot_model_options(m, 0, directory);
    struct snapshot *s = NULL;

    if (snapshot_begin(&o, &s) != ERR_NONE)
        fail_msg("%s", err_text());
    return s;
}

/* ---- sharding ---- */

static void test_other_shardings(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 7};
    char digest[SHA256_HEX_SIZE] = "";

    for (size_t from = 0; from < 4; from++) {
        struct snapshot_model *m = filled(counts[from]);
        char *directory = must_format("shardings/1-%u", counts[from]);
        snapshot_model_save(m, directory);
        if (from == 0)
            assert_int_equal(checkpoint_digest(directory, digest), ERR_NONE);
        assert_digest(directory, digest);
        for (size_t to = 0; to < 4; to++) {
            struct snapshot_model *r = snapshot_model_create(snapshot_schema(), counts[to]);
            char *again = must_format("shardings/%zu-%zu", from + 2, to);
            if (snapshot_model_load(r, directory) != ERR_NONE)
                fail_msg("%s", err_text());
            assert_true(snapshot_model_is(r, ROWS, SEED));
            assert_int_equal(shard_version(r->shards[0]), from == 0 ? 1 : counts[from]);
            const Paramd__Report *const *reports = shard_reports(r->shards[0]);
            assert_int_equal(reports[0]->examples, 1000);
            assert_int_equal(reports[1]->loss_sum, -5);
            assert_memory_equal(reports[1]->metrics.data, "abc", 3);
            snapshot_model_save(r, again);
            assert_digest(again, digest);
            snapshot_model_destroy(r);
            mem_free(again);
        }
        mem_free(directory);
        snapshot_model_destroy(m);
    }
}

static void test_pieces(void **state)
{
    struct snapshot_model *m = filled(1), *r = snapshot_model_create(snapshot_schema(), 3);
    struct snapshot_options o = snapshot_model_options(m, 0, "pieces/1-1");
    struct checkpoint_manifest *manifest = snapshot_manifest(1, 1);
    const struct checkpoint_file *files;
    struct snapshot *s = NULL;
    const char *why;
    uint32_t count;
    char digest[SHA256_HEX_SIZE];

    snapshot_model_save(m, "pieces/1-2");
    assert_int_equal(checkpoint_digest("pieces/1-2", digest), ERR_NONE);
    o.file_max_bytes = 20000;
    assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
    assert_int_equal(snapshot_run(s, &files, &count, &why), SNAPSHOT_DURABLE);
    assert_true(count > 12);
    snapshot_manifest_add(manifest, files, count);
    snapshot_destroy(s);
    assert_int_equal(checkpoint_publish("pieces/1-1", manifest, NULL), ERR_NONE);
    assert_digest("pieces/1-1", digest);
    assert_int_equal(snapshot_model_load(r, "pieces/1-1"), ERR_NONE);
    assert_true(snapshot_model_is(r, ROWS, SEED));
    checkpoint_manifest_destroy(manifest);
    snapshot_model_destroy(r);
    snapshot_model_destroy(m);
}

static void test_digest_sees_every_bit(void **state)
{
    struct snapshot_model *m = snapshot_model_create(snapshot_schema(), 1);
    char before[SHA256_HEX_SIZE], after[SHA256_HEX_SIZE];
    uint32_t step = 1;

    snapshot_model_fill(m, 1, SEED);
    snapshot_model_save(m, "bits/1-1");
    assert_int_equal(checkpoint_digest("bits/1-1", before), ERR_NONE);
    float *places[40];
    size_t count = 0;
    for (uint32_t t = 0; t < 2; t++) {
        uint64_t key = 0; /* mix64(0) is 0 */
        float *row;
        table_find(shard_table(m->shards[0], t), &key, 1, &row);
        assert_non_null(row);
        for (uint32_t k = 0; k < m->schema->tables[t].state_dim; k++)
            places[count++] = row + k;
    }
    for (uint32_t i = 0; i < 3; i++) {
        struct dense *d = shard_dense(m->shards[0], i);
        places[count++] = buf_data(dense_values(d));
        places[count++] = (float *)buf_data(dense_values(d)) + dense_value_count(d) - 1;
        for (uint32_t k = 0; k < m->schema->dense[i].slot_count; k++)
            places[count++] = dense_slots(d) + (k + 1) * dense_value_count(d) - 1;
    }
    assert_true(count > 20);
    for (size_t i = 0; i < count; i++) {
        uint32_t bit = 1u << (7 * i % 32);
        char *directory = must_format("bits/1-%u", ++step);
        *(uint32_t *)(void *)places[i] ^= bit;
        snapshot_model_save(m, directory);
        *(uint32_t *)(void *)places[i] ^= bit;
        assert_int_equal(checkpoint_digest(directory, after), ERR_NONE);
        assert_string_not_equal(before, after);
        mem_free(directory);
    }
    snapshot_model_save(m, "bits/2-1");
    assert_digest("bits/2-1", before);
    snapshot_model_destroy(m);
}

/* ---- changes meanwhile ---- */

static void test_changes_do_not_leak(void **state)
{
    struct snapshot_model *m = filled(1);
    struct checkpoint_manifest *manifest = snapshot_manifest(1, 2);
    const struct checkpoint_file *files;
    uint32_t count, steps = 0;
    const char *why;
    char digest[SHA256_HEX_SIZE];

    snapshot_model_save(m, "changes/1-1");
    assert_int_equal(checkpoint_digest("changes/1-1", digest), ERR_NONE);
    struct snapshot *s = begin(m, "changes/1-2");
    for (uint64_t at = 0; snapshot_step(s, 0); steps++) {
        snapshot_model_change_rows(m->shards[0], at, 50, SEED + 1 + steps);
        snapshot_model_change_rows(m->shards[0], ROWS + steps, 1, SEED);
        if (steps % 64 == 0)
            snapshot_model_change(m->shards[0], at, 1, SEED + 1 + steps);
        at = (at + 37) % ROWS;
    }
    assert_true(steps > 100);
    assert_int_equal(snapshot_run(s, &files, &count, &why), SNAPSHOT_DURABLE);
    assert_false(table_snapshot_active(shard_table(m->shards[0], 0)));
    snapshot_manifest_add(manifest, files, count);
    snapshot_destroy(s);
    assert_int_equal(checkpoint_publish("changes/1-2", manifest, NULL), ERR_NONE);
    assert_digest("changes/1-2", digest);
    checkpoint_manifest_destroy(manifest);
    char after[SHA256_HEX_SIZE];
    snapshot_model_save(m, "changes/1-3");
    assert_int_equal(checkpoint_digest("changes/1-3", after), ERR_NONE);
    assert_string_not_equal(after, digest);
    snapshot_model_destroy(m);
}

/* ---- bounds ---- */

/* It is abandoned for that reason; nothing is left of it; the next one is good. */
static void assert_abandoned(struct snapshot_model *m, struct snapshot *s, uint64_t now_ms,
                             const char *directory, const char *says)
{
    const struct checkpoint_file *files;
    const char *why = "";
    uint32_t count;

    assert_int_equal(snapshot_poll(s, now_ms, &files, &count, &why), SNAPSHOT_ABANDONED);
    assert_says(why, says);
    assert_false(snapshot_step(s, 1000000));
    assert_false(table_snapshot_active(shard_table(m->shards[0], 0)));
    assert_false(table_snapshot_active(shard_table(m->shards[0], 1)));
    snapshot_destroy(s);
    snapshot_wait_threads();
    assert_int_equal(names_in(directory), 0);
    char *next = must_format("%s0", directory);
    snapshot_model_save(m, next);
    assert_int_equal(checkpoint_verify(next), ERR_NONE);
    mem_free(next);
}

static void test_memory_bound(void **state)
{
    struct snapshot_model *m = filled(1);
    struct snapshot_options o = snapshot_model_options(m, 0, "memory/1-1");
    struct snapshot *s = NULL;
    /* The bound of one table: it fits 600 KB of dense buffers, 5 blocks, and few copies. */
    o.memory_bytes = 1200 << 10;
    assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
    snapshot_step(s, 0);
    for (uint64_t i = 0; i < 20; i++)
        snapshot_model_change(m->shards[0], i * 1000, 1000, 9);
    while (snapshot_step(s, 0))
        ;
    assert_abandoned(m, s, 1, "memory/1-1", "copies of rows that changed meanwhile took more than");
    /* What must be frozen at once does not fit. */
    o.directory = "memory/1-2";
    o.memory_bytes = 600 << 10;
    assert_int_equal(snapshot_begin(&o, &s), ERR_LIMIT);
    assert_says(err_text(), "checkpoint.memory");
    assert_says(err_text(), "614400");
    assert_int_equal(names_in("memory/1-2"), 0);
    assert_false(table_snapshot_active(shard_table(m->shards[0], 0)));
    snapshot_model_destroy(m);
}

/* Tables that keep the bound each may break it together. */
static void test_memory_of_all_tables(void **state)
{
    struct schema *schema = must_alloc(sizeof *schema);
    schema->table_count = 8;
    schema->tables = must_alloc(8 * sizeof *schema->tables);
    for (uint32_t i = 0; i < 8; i++) {
        schema->tables[i] = (struct schema_table){.component_count = 1};
        schema->tables[i].components[0] =
            (struct schema_component){.dim = 16, .optimizer.type = "adagrad"};
        schema->tables[i].name[0] = (char)('a' + i);
    }
    assert_int_equal(schema_finish(schema, 1), ERR_NONE);
    struct snapshot_model *m = snapshot_model_create(schema, 1);
    snapshot_model_fill(m, ROWS, SEED);
    struct snapshot_options o = snapshot_model_options(m, 0, "together/1-1");
    struct snapshot *s = NULL;
    uint64_t one = 2 << 20; /* more than ROWS copies of one table take */
    o.memory_bytes = one;
    assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
    snapshot_model_change(m->shards[0], 0, ROWS, 9);
    for (uint32_t i = 0; i < 8; i++)
        assert_true(table_snapshot_active(shard_table(m->shards[0], i)));
    assert_false(snapshot_step(s, 0));
    assert_abandoned(m, s, 1, "together/1-1", "checkpoint.memory");
    snapshot_model_destroy(m);
}

static void test_deadline(void **state)
{
    struct snapshot_model *m = filled(1);
    struct snapshot_options o = snapshot_model_options(m, 0, "deadline/1-1");
    const struct checkpoint_file *files;
    struct snapshot *s = NULL;
    const char *why;
    uint32_t count;

    o.deadline_ms = 100;
    assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
    assert_true(snapshot_step(s, 0));
    assert_int_equal(snapshot_poll(s, 100, &files, &count, &why), SNAPSHOT_RUNNING);
    assert_abandoned(m, s, 101, "deadline/1-1", "checkpoint.timeout");
    /* One that is durable is not abandoned any more. */
    o.directory = "deadline/1-2";
    assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
    assert_int_equal(snapshot_run(s, &files, &count, &why), SNAPSHOT_DURABLE);
    assert_int_equal(snapshot_poll(s, 101, &files, &count, &why), SNAPSHOT_DURABLE);
    snapshot_destroy(s);
    assert_int_equal(names_in("deadline/1-2"), 3);
    snapshot_model_destroy(m);
}

static void test_destroy_at_any_moment(void **state)
{
    struct snapshot_model *m = filled(1);
    bool more = true;

    snapshot_destroy(NULL);
    for (uint32_t k = 0; more; k = k < 10 ? k + 1 : k * 5 / 4) {
        struct snapshot *s = begin(m, "destroy/1-1");
        for (uint32_t i = 0; i < k && more; i++) {
            more = snapshot_step(s, 0);
            if (i % 8 == 7)
                sched_yield();
        }
        if (!more) /* the writer may be anywhere in what is left */
            usleep(k % 7 * 300);
        const struct checkpoint_file *files;
        const char *why;
        uint32_t count;
        bool durable = snapshot_poll(s, 1, &files, &count, &why) == SNAPSHOT_DURABLE;
        snapshot_destroy(s);
        snapshot_wait_threads();
        size_t names = names_in("destroy/1-1");
        if (durable ? names != 3 : names != 0 && names != 3)
            fail_msg("%zu files are left after %u slices", names, k);
        assert_false(table_snapshot_active(shard_table(m->shards[0], 0)));
        assert_int_equal(storage_remove_tree("destroy/1-1"), ERR_NONE);
    }
    snapshot_model_save(m, "destroy/1-2");
    assert_int_equal(checkpoint_verify("destroy/1-2"), ERR_NONE);
    snapshot_model_destroy(m);
}

/* The storage takes as long as it likes: the shard goes on, and a new attempt at the same place is
   not disturbed by the end of the old one. */
static void test_storage_hangs(void **state)
{
    struct snapshot_model *m = filled(1);
    uint32_t count, held_up = 0;
    const struct checkpoint_file *files;
    const char *why;
    char digest[SHA256_HEX_SIZE];

    snapshot_model_save(m, "hang/1-2");
    assert_int_equal(checkpoint_digest("hang/1-2", digest), ERR_NONE);
    assert_int_equal(sem_init(&hanging, 0, 0), 0);
    assert_int_equal(sem_init(&released, 0, 0), 0);
    for (int call = 1; call <= 7; call++) { /* of three files and their directory's entries */
        struct snapshot_options o = snapshot_model_options(m, 0, "hang/1-1");
        struct snapshot *s = NULL;
        o.deadline_ms = 100;
        atomic_store(&hang_at, call);
        assert_int_equal(snapshot_begin(&o, &s), ERR_NONE);
        for (uint32_t i = 0; sem_trywait(&hanging) != 0; i++) {
            assert_true(i < 100000);
            snapshot_step(s, 1000000);
            usleep(100);
        }
        /* Once nothing fits any more, the owner is told, so that it need not spin until then. */
        for (uint32_t i = 0; snapshot_step(s, 1000000) && !snapshot_is_held_up(s); i++)
            assert_true(i < 100000);
        held_up += snapshot_is_held_up(s);
        assert_int_equal(snapshot_poll(s, 101, &files, &count, &why), SNAPSHOT_ABANDONED);
        snapshot_destroy(s);
        assert_int_equal(snapshot_threads(), 1);
        /* The same step again, and published, while the first writer still hangs. */
        struct checkpoint_manifest *manifest = snapshot_manifest(1, 1);
        s = begin(m, "hang/1-1");
        assert_int_equal(snapshot_run(s, &files, &count, &why), SNAPSHOT_DURABLE);
        snapshot_manifest_add(manifest, files, count);
        snapshot_destroy(s);
        assert_int_equal(checkpoint_publish("hang/1-1", manifest, NULL), ERR_NONE);
        checkpoint_manifest_destroy(manifest);
        sem_post(&released);
        snapshot_wait_threads();
        assert_digest("hang/1-1", digest);
        assert_int_equal(names_in("hang/1-1"), 4);
        assert_int_equal(storage_remove_tree("hang/1-1"), ERR_NONE);
    }
    assert_true(held_up > 0);
    snapshot_model_destroy(m);
}

/* ---- what does not fit ---- */

static void assert_not_restored(const char *directory, struct schema *schema, const char *says)
{
    assert_int_equal(schema_finish(schema, 1), ERR_NONE);
    struct snapshot_model *m = snapshot_model_create(schema, 2);

    assert_int_equal(snapshot_model_load(m, directory), ERR_CORRUPT);
    assert_says(err_text(), directory);
    assert_says(err_text(), says);
    snapshot_model_destroy(m);
}

static void test_other_models(void **state)
{
    struct snapshot_model *m = filled(3);
    struct schema *schema;

    snapshot_model_save(m, "models/1-1");
    snapshot_model_destroy(m);
    schema = snapshot_schema();
    schema->table_count = 1;
    assert_not_restored("models/1-1", schema, "has 2 tables, the job has 1");
    schema = snapshot_schema();
    schema->tables[0].components[1].dim = 5;
    assert_not_restored("models/1-1", schema, "table 'wide' has 13 floats");
    schema = snapshot_schema();
    strcpy(schema->tables[1].components[0].optimizer.type, "adam");
    assert_not_restored("models/1-1", schema, "table 'thin' has 3 floats");
    schema = snapshot_schema();
    schema->dense_count = 2;
    assert_not_restored("models/1-1", schema, "dense parameter 2 has no block 0");
    schema = snapshot_schema();
    strcpy(schema->dense[0].optimizer.type, "sgd");
    assert_not_restored("models/1-1", schema, "'big' does not have its shape");
    schema = snapshot_schema();
    schema->dense[1].shape[0] = 8;
    assert_not_restored("models/1-1", schema, "'small' does not have its shape");
    schema = snapshot_schema();
    schema->dense = must_realloc(schema->dense, 4, sizeof *schema->dense);
    schema->dense[3] = schema->dense[2];
    strcpy(schema->dense[3].name, "more");
    schema->dense_count = 4;
    assert_not_restored("models/1-1", schema, "'more': block 0 is not in the checkpoint");
}

/* A wrong writer's work: a block twice, another one not at all, and every checksum right. */
static void test_block_twice(void **state)
{
    struct snapshot_model *m = filled(1), *r = snapshot_model_create(snapshot_schema(), 2);
    struct checkpoint_manifest *manifest = NULL;
    struct checkpoint_entry entries[8];
    struct str data = {0}, text = {0};
    struct shard_file f;

    snapshot_model_save(m, "twice/1-1");
    snapshot_model_destroy(m);
    assert_int_equal(checkpoint_read_manifest("twice/1-1", &manifest, NULL), ERR_NONE);
    assert_int_equal(shard_file_open("twice/1-1", &manifest->files[0], &f), ERR_NONE);
    assert_true(f.table == SHARD_FILE_DENSE && f.entry_count < 8);
    str_append(&data, "PDSHARD1");
    for (uint32_t i = 0; i < f.entry_count; i++) {
        uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES];
        const uint8_t *body;
        uint64_t size;
        uint32_t rows, from = i == 1 ? 0 : i;
        assert_int_equal(shard_file_read(&f, from, &body, &size, &rows), ERR_NONE);
        uint32_t crc = checkpoint_block_head(i, f.entries[from].partition, 1, (const void **)&body,
                                             (size_t *)&size, 1, head);
        entries[i] = (struct checkpoint_entry){f.entries[from].partition, i, data.size,
                                               sizeof head + size,        1, crc};
        str_append_span(&data, span_make((char *)head, sizeof head));
        str_append_span(&data, span_make((const char *)body, size));
    }
    checkpoint_footer(entries, f.entry_count, data.size, &data, &manifest->files[0].index_crc);
    shard_file_close(&f);
    manifest->files[0].size = data.size;
    small_file_write("twice/1-1", manifest->files[0].name, data.data, data.size);
    checkpoint_manifest_write(manifest, &text);
    small_file_write("twice/1-1", CHECKPOINT_MANIFEST, text.data, text.size);
    assert_int_equal(checkpoint_verify("twice/1-1"), ERR_CORRUPT);
    assert_says(err_text(), "block 1 of dense parameter 0 is missing or there twice");
    assert_int_equal(snapshot_model_load(r, "twice/1-1"), ERR_CORRUPT);
    assert_says(err_text(), "block 0 of 'big', should be 1");
    str_deinit(&data);
    str_deinit(&text);
    checkpoint_manifest_destroy(manifest);
    snapshot_model_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_shardings),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_digest_sees_every_bit),
        cmocka_unit_test(test_changes_do_not_leak),
        cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_memory_of_all_tables),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_destroy_at_any_moment),
        cmocka_unit_test(test_storage_hangs),
        cmocka_unit_test(test_other_models),
        cmocka_unit_test(test_block_twice),
    };
    char directory[] = "/tmp/test_snapshot-XXXXXX";
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return 1;
    (void)snapshot_threads();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (chdir("/") != 0 || storage_remove_tree(directory) != ERR_NONE)
        return 1;
    return failed;
}
