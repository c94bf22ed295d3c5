/*
 * Goal: a checkpoint in storage is valid or refused with a named reason, and a refused one never
 * hides an older good one: not in the listing, not when one is looked for, not for retention.
 *
 * Method: small checkpoints written by the real writer. Every truncation and every flipped bit of
 * every shard file, and of the manifest; files swapped, missing, added, from another job; wrong
 * contents under right checksums. What stays the same (sharding, files that nobody lists) must not
 * change the digest, what changes one bit must.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/checkpoint_find.h" /* has a function fail(), which is a macro of cmocka's */

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/storage.h"
#include "server/shard_file.h"
#include "server/snapshot.h"
#include "tests/support/small_checkpoint.h"

static void assert_says(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}

static void assert_verifies(const char *directory)
{
    if (checkpoint_verify(directory) != ERR_NONE)
        fail_msg("%s", err_text());
}

/* Refused by verify, whose text names the directory and says more than that. */
static void assert_corrupt(const char *directory, const char *what, size_t at)
{
    enum err err = checkpoint_verify(directory);
    if (err != ERR_CORRUPT)
        fail_msg("%s %zu: %s: %s", what, at, err_name(err), err_text());
    if (strncmp(err_text(), directory, strlen(directory)) != 0 ||
        strlen(err_text()) < strlen(directory) + 20)
        fail_msg("%s %zu: '%s' gives no reason", what, at, err_text());
}

/* What is passed over is said on stderr; here that is thousands of times. */
static void quiet(bool is_quiet)
{
    static int saved = -1;

    fflush(stderr);
    if (is_quiet) {
        saved = dup(2);
        assert_non_null(freopen("/dev/null", "w", stderr));
    } else {
        dup2(saved, 2);
        close(saved);
    }
}

/* What a listing of the job says of its newest one, and which one would be loaded. */
static void assert_newest(const char *job_uri, enum err refused, const char *found)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    char *directory = NULL;

    if (checkpoint_list(job_uri, &l, &count) != ERR_NONE)
        fail_msg("%s", err_text());
    assert_true(count > 0);
    if (l[0].refused != refused)
        fail_msg("%s is %s: %s", l[0].directory, err_name(l[0].refused), l[0].why);
    assert_int_equal(l[0].why != NULL, refused != ERR_NONE);
    checkpoint_listing_free(l, count);
    quiet(true);
    enum err err = checkpoint_find(job_uri, &directory);
    quiet(false);
    assert_int_equal(err, found ? ERR_NONE : ERR_NOT_FOUND);
    if (found)
        assert_string_equal(directory, found);
    mem_free(directory);
}

/* ---- damage ---- */

/* Turns one bit, or turns it back. */
static void flip(const char *directory, const char *name, size_t bit)
{
    char *path = storage_join(directory, name), byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
    byte ^= (char)(1 << bit % 8);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
    close(fd);
    mem_free(path);
}

static void test_bits_and_cuts(void **state)
{
    small_checkpoint_write("bits/1-2", &(struct small_checkpoint){.generation = 1, .step = 2});
    small_checkpoint_write("bits/1-3", &(struct small_checkpoint){.generation = 1, .step = 3});
    assert_verifies("bits/1-3");
    assert_newest("bits", ERR_NONE, "bits/1-3");
    struct storage_list names = {0};
    assert_int_equal(storage_list("bits/1-3", &names), ERR_NONE);
    assert_int_equal(names.count, 4);
    for (size_t n = 0; n < names.count; n++) {
        const char *name = names.entries[n].name;
        bool is_manifest = strcmp(name, CHECKPOINT_MANIFEST) == 0;
        size_t size, bit = 0;
        char *data = small_file_read("bits/1-3", name, &size);
        for (size_t cut = 0; cut < size; cut++) {
            small_file_write("bits/1-3", name, data, cut);
            assert_corrupt("bits/1-3", name, cut);
            if (cut % 16 == 0)
                assert_newest("bits", ERR_CORRUPT, "bits/1-2");
        }
        small_file_write("bits/1-3", name, data, size);
        /* Every bit of a manifest is turned in test_checkpoint; here, one of each byte. */
        for (bit = 0; bit < 8 * size; bit += is_manifest ? 9 : 1) {
            flip("bits/1-3", name, bit);
            assert_corrupt("bits/1-3", name, bit);
            if (is_manifest && bit % 8 == 0)
                assert_newest("bits", ERR_CORRUPT, "bits/1-2");
            flip("bits/1-3", name, bit);
        }
        mem_free(data);
        assert_verifies("bits/1-3");
    }
    storage_list_deinit(&names);
}

static void copy(const char *from, const char *to, const char *name)
{
    size_t size;
    char *data = small_file_read(from, name, &size);

    small_file_write(to, name, data, size);
    mem_free(data);
}

static void test_files_in_wrong_places(void **state)
{
    static const char *const dense = "dense-0000-4096.0.0000";
    static const char *const table0 = "table0-0000-4096.0.0000";
    static const char *const table1 = "table1-0000-4096.0.0000";
    const struct small_checkpoint c = {.generation = 1, .step = 2};
    const struct small_checkpoint other = {.generation = 1, .step = 2, .add = 0.5f, .job = "other"};
    char before[SHA256_HEX_SIZE], after[SHA256_HEX_SIZE];
    size_t size;

    small_checkpoint_write("places/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
    small_checkpoint_write("places/1-2", &c);
    small_checkpoint_write("other/1-2", &other);
    assert_int_equal(checkpoint_digest("places/1-2", before), ERR_NONE);
    /* From another job, of the same size and shape. */
    copy("other/1-2", "places/1-2", dense);
    assert_corrupt("places/1-2", "another job's", 0);
    assert_says("index");
    copy("other/1-2", "places/1-2", table0);
    assert_corrupt("places/1-2", "another job's", 1);
    checkpoint_manifest_destroy(small_checkpoint_files("places/1-2", &c));
    /* Swapped. */
    char *first = small_file_read("places/1-2", table0, &size);
    copy("places/1-2", "places/1-2", table1);
    char *second = small_file_read("places/1-2", table1, &size);
    small_file_write("places/1-2", table0, second, size);
    assert_corrupt("places/1-2", "swapped", 0);
    assert_newest("places", ERR_CORRUPT, "places/1-1");
    mem_free(first);
    mem_free(second);
    checkpoint_manifest_destroy(small_checkpoint_files("places/1-2", &c));
    assert_verifies("places/1-2");
    /* Missing. */
    assert_int_equal(storage_remove("places/1-2/table1-0000-4096.0.0000"), ERR_NONE);
    assert_corrupt("places/1-2", "missing", 0);
    assert_says("missing");
    assert_says(table1);
    assert_newest("places", ERR_CORRUPT, "places/1-1");
    /* A directory where a file must be, and where the manifest must be. */
    assert_int_equal(mkdir("places/1-2/table1-0000-4096.0.0000", 0755), 0);
    assert_corrupt("places/1-2", "directory", 0);
    assert_says("directory");
    assert_newest("places", ERR_CORRUPT, "places/1-1");
    assert_int_equal(rmdir("places/1-2/table1-0000-4096.0.0000"), 0);
    checkpoint_manifest_destroy(small_checkpoint_files("places/1-2", &c));
    assert_verifies("places/1-2");
    assert_int_equal(storage_remove("places/1-2/MANIFEST.json"), ERR_NONE);
    assert_int_equal(checkpoint_verify("places/1-2"), ERR_NOT_FOUND);
    assert_newest("places", ERR_NOT_FOUND, "places/1-1");
    assert_int_equal(mkdir("places/1-2/MANIFEST.json", 0755), 0);
    assert_newest("places", ERR_CORRUPT, "places/1-1");
    assert_int_equal(rmdir("places/1-2/MANIFEST.json"), 0);
    small_checkpoint_write("places/1-2", &c);
    /* What the manifest does not list does not count. */
    copy("other/1-2", "places/1-2", "table0-0000-4096.0.0000");
    checkpoint_manifest_destroy(small_checkpoint_files("places/1-2", &c));
    small_file_write("places/1-2", "table2-0000-4096.0.0000", "junk", 4);
    small_file_write("places/1-2", "table0-0000-2048.0.0000", "junk", 4);
    assert_verifies("places/1-2");
    assert_int_equal(checkpoint_digest("places/1-2", after), ERR_NONE);
    assert_string_equal(before, after);
    assert_newest("places", ERR_NONE, "places/1-2");
}

/* A whole checkpoint where another one should be. */
static void test_manifest_of_another(void **state)
{
    static const struct {
        const char *directory;
        bool is_good;
    } cases[] = {
        {"name/1-5", true},   {"name/1-5/", true}, {"name/1-5//", true},
        {"name/11-5", false}, {"name/1-6", false}, {"name/2-5", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *directory = must_strdup(cases[i].directory);
        while (directory[strlen(directory) - 1] == '/')
            directory[strlen(directory) - 1] = '\0';
        assert_int_equal(storage_remove_tree(directory), ERR_NONE);
        small_checkpoint_write(directory, &(struct small_checkpoint){.generation = 1, .step = 5});
        enum err err = checkpoint_verify(cases[i].directory);
        assert_int_equal(err, cases[i].is_good ? ERR_NONE : ERR_CORRUPT);
        if (err)
            assert_says("1-5");
        mem_free(directory);
    }
    assert_newest("name", ERR_CORRUPT, "name/1-5");
}

static void test_newer_format(void **state)
{
    small_checkpoint_write("newer/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
    small_checkpoint_write("newer/1-2", &(struct small_checkpoint){.generation = 1, .step = 2});
    size_t size;
    char *data = small_file_read("newer/1-2", CHECKPOINT_MANIFEST, &size), hex[SHA256_HEX_SIZE];
    *(strstr(data, "\"format\": 1") + 10) = '2';
    char *end = strstr(data, ",\n  \"checksum\"");
    sha256_hex(data, (size_t)(end - data), hex);
    memcpy(strstr(end, ": \"") + 3, hex, 64);
    small_file_write("newer/1-2", CHECKPOINT_MANIFEST, data, size);
    mem_free(data);
    assert_int_equal(checkpoint_verify("newer/1-2"), ERR_UNSUPPORTED);
    assert_says("format 2 is newer");
    assert_newest("newer", ERR_UNSUPPORTED, "newer/1-1");
    /* An older program does not clean up after a newer one. */
    uint32_t removed = 9;
    small_checkpoint_write("newer/1-3", &(struct small_checkpoint){.generation = 1, .step = 3});
    assert_int_equal(checkpoint_retain("newer", 1, NULL, &removed), ERR_NONE);
    assert_int_equal(removed, 1);
    struct storage_info info;
    assert_int_equal(storage_stat("newer/1-2", &info), ERR_NONE);
    assert_int_equal(storage_stat("newer/1-1", &info), ERR_NOT_FOUND);
}

/* A manifest too large to be one is refused; it does not stop the listing. */
static void test_huge_manifest(void **state)
{
    small_checkpoint_write("huge/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
    assert_int_equal(mkdir("huge/1-2", 0755), 0);
    small_file_write("huge/1-2", CHECKPOINT_MANIFEST, "", 0);
    assert_int_equal(truncate("huge/1-2/" CHECKPOINT_MANIFEST, 1ll << 40), 0);
    assert_newest("huge", ERR_CORRUPT, "huge/1-1");
}

/* ---- wrong contents under right checksums ---- */

/* Applies `change` to the manifest of a good checkpoint and writes it with a right checksum. */
static void rewrite(const char *directory, void (*change)(struct checkpoint_manifest *m))
{
    struct checkpoint_manifest *m = NULL;
    struct str text = {0};

    assert_int_equal(checkpoint_read_manifest(directory, &m, NULL), ERR_NONE);
    change(m);
    checkpoint_manifest_write(m, &text);
    small_file_write(directory, CHECKPOINT_MANIFEST, text.data, text.size);
    str_deinit(&text);
    checkpoint_manifest_destroy(m);
}

static void drop_last(struct checkpoint_manifest *m)
{
    mem_free(m->files[--m->file_count].name);
}

static void drop_first(struct checkpoint_manifest *m)
{
    mem_free(m->files[0].name);
    memmove(m->files, m->files + 1, --m->file_count * sizeof *m->files);
}

static void more_rows(struct checkpoint_manifest *m)
{
    m->files[1].rows++;
}

static void other_size(struct checkpoint_manifest *m)
{
    m->files[1].size++;
}

static void other_index(struct checkpoint_manifest *m)
{
    m->files[1].index_crc++;
}

/* The files of tables 0 and 1 under each other's names. */
static void cross(struct checkpoint_manifest *m)
{
    struct checkpoint_file f = m->files[1];
    m->files[1].size = m->files[2].size;
    m->files[1].index_crc = m->files[2].index_crc;
    m->files[2].size = f.size;
    m->files[2].index_crc = f.index_crc;
}

static void no_files(struct checkpoint_manifest *m)
{
    while (m->file_count)
        drop_last(m);
}

static void test_manifest_lies(void **state)
{
    static const struct {
        void (*change)(struct checkpoint_manifest *m);
        const char *says;
        bool is_seen_by_list;
    } cases[] = {
        {drop_first, "dense parameters", true},
        {no_files, "dense parameters", true},
        {more_rows, "6 rows, the manifest says 7", false},
        {other_size, "bytes", true},
        {other_index, "checksum", false},
        {cross, "bytes", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        small_checkpoint_write("lies/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
        rewrite("lies/1-1", cases[i].change);
        assert_corrupt("lies/1-1", "case", i);
        assert_says(cases[i].says);
        assert_newest("lies", cases[i].is_seen_by_list ? ERR_CORRUPT : ERR_NONE,
                      cases[i].is_seen_by_list ? NULL : "lies/1-1");
        assert_int_equal(storage_remove_tree("lies"), ERR_NONE);
    }
    /* One shard's file of a table is not listed. */
    small_checkpoint_write(
        "lies/1-1", &(struct small_checkpoint){.generation = 1, .step = 1, .shard_count = 3});
    rewrite("lies/1-1", drop_last);
    assert_corrupt("lies/1-1", "a shard's file", 0);
    assert_says("table 1 end at partition 2730");
}

/* A file's blocks, written anew by `change`, with right checksums everywhere. */
struct forged {
    uint32_t partition[2], rows[2];
    uint64_t keys[2][2];
    uint32_t state_dim[2];
    const char *says; /* NULL: good */
};

static void forge_table(const char *directory, const struct forged *c)
{
    struct checkpoint_entry entries[2];
    struct checkpoint_manifest *m = NULL;
    struct str data = {0}, text = {0};

    assert_int_equal(checkpoint_read_manifest(directory, &m, NULL), ERR_NONE);
    str_append(&data, "PDSHARD1");
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES], body[64] = {0};
        const void *part = body;
        size_t size = c->rows[i] * (8 + 4 * c->state_dim[i]);
        memcpy(body, c->keys[i], 8 * c->rows[i]);
        uint32_t crc = checkpoint_block_head(i, c->partition[i], c->rows[i], &part, &size, 1, head);
        entries[i] = (struct checkpoint_entry){c->partition[i],    i,          data.size,
                                               sizeof head + size, c->rows[i], crc};
        str_append_span(&data, span_make((char *)head, sizeof head));
        str_append_span(&data, span_make((char *)body, size));
    }
    checkpoint_footer(entries, 2, data.size, &data, &m->files[2].index_crc);
    m->files[2].size = data.size;
    m->files[2].rows = c->rows[0] + c->rows[1];
    small_file_write(directory, m->files[2].name, data.data, data.size);
    checkpoint_manifest_write(m, &text);
    small_file_write(directory, CHECKPOINT_MANIFEST, text.data, text.size);
    str_deinit(&data);
    str_deinit(&text);
    checkpoint_manifest_destroy(m);
}

#define KEY(partition, low) ((uint64_t)(partition) << PARTITION_SHIFT | (low))

static void test_blocks_lie(void **state)
{
    static const struct forged cases[] = {
        {{1, 2}, {1, 1}, {{KEY(1, 5)}, {KEY(2, 6)}}, {1, 1}, NULL},
        {{1, 1}, {2, 1}, {{KEY(1, 5), KEY(1, 6)}, {KEY(1, 7)}}, {1, 1}, NULL},
        {{2, 1}, {1, 1}, {{KEY(2, 5)}, {KEY(1, 6)}}, {1, 1}, "out of place"},
        {{1, 1}, {1, 1}, {{KEY(1, 5)}, {KEY(1, 5)}}, {1, 1}, "out of order"},
        {{1, 1}, {1, 1}, {{KEY(1, 5)}, {KEY(1, 4)}}, {1, 1}, "out of order"},
        {{1, 1}, {2, 1}, {{KEY(1, 6), KEY(1, 5)}, {KEY(1, 7)}}, {1, 1}, "out of order"},
        {{1, 2}, {1, 1}, {{KEY(1, 5)}, {KEY(3, 6)}}, {1, 1}, "not of partition 2"},
        {{1, 2}, {1, 0}, {{KEY(1, 5)}, {0}}, {1, 1}, "0 rows"},
        {{1, 2}, {1, 1}, {{KEY(1, 5)}, {KEY(2, 6)}}, {1, 0}, "1 rows in 8 bytes"},
        {{1, 2}, {1, 1}, {{KEY(1, 5)}, {KEY(2, 6)}}, {1, 2}, "rows of 16 bytes follow rows of 12"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        small_checkpoint_write("forged/1-1",
                               &(struct small_checkpoint){.generation = 1, .step = 1});
        forge_table("forged/1-1", &cases[i]);
        char hex[SHA256_HEX_SIZE];
        if (cases[i].says) {
            assert_corrupt("forged/1-1", "case", i);
            assert_says(cases[i].says);
            assert_says("table1-0000-4096.0.0000");
            assert_int_equal(checkpoint_digest("forged/1-1", hex), ERR_CORRUPT);
            assert_says(cases[i].says);
        } else {
            assert_verifies("forged/1-1");
        }
        assert_int_equal(storage_remove_tree("forged"), ERR_NONE);
    }
}

/* ---- digest ---- */

static void test_digest(void **state)
{
    char first[SHA256_HEX_SIZE], next[SHA256_HEX_SIZE];

    small_checkpoint_write("digest/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
    assert_int_equal(checkpoint_digest("digest/1-1", first), ERR_NONE);
    for (uint32_t shards = 2; shards < 9; shards++) {
        char *directory = must_format("digest/1-%u", shards);
        small_checkpoint_write(
            directory,
            &(struct small_checkpoint){.generation = 1, .step = shards, .shard_count = shards});
        assert_verifies(directory);
        assert_int_equal(checkpoint_digest(directory, next), ERR_NONE);
        assert_string_equal(first, next);
        mem_free(directory);
    }
    small_checkpoint_write("digest/2-1",
                           &(struct small_checkpoint){.generation = 2, .step = 1, .add = 1e-6f});
    assert_int_equal(checkpoint_digest("digest/2-1", next), ERR_NONE);
    assert_string_not_equal(first, next);
}

/* ---- looking for one ---- */

static void test_find(void **state)
{
    char *found = NULL;

    small_checkpoint_write("find/a/2-10", &(struct small_checkpoint){.generation = 2, .step = 10});
    small_checkpoint_write("find/a/2-9", &(struct small_checkpoint){.generation = 2, .step = 9});
    small_checkpoint_write("find/a/1-99", &(struct small_checkpoint){.generation = 1, .step = 99});
    assert_int_equal(mkdir("find/a/junk", 0755), 0);
    assert_int_equal(mkdir("find/a/3-01", 0755), 0);
    static const struct {
        const char *uri, *found;
    } cases[] = {
        {"find/a", "find/a/2-10"},      {"find/a/", "find/a/2-10"},
        {"find", "find/a/2-10"},        {"file:find/a", "file:find/a/2-10"},
        {"find/a/2-9", "find/a/2-9"},   {"find/a/2-9/", "find/a/2-9"},
        {"find/a/1-99", "find/a/1-99"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (checkpoint_find(cases[i].uri, &found) != ERR_NONE)
            fail_msg("%s: %s", cases[i].uri, err_text());
        assert_string_equal(found, cases[i].found);
        mem_free(found);
        found = NULL;
    }
    assert_int_equal(checkpoint_find("find/a/junk", &found), ERR_NOT_FOUND);
    assert_says("find/a/junk");
    assert_int_equal(checkpoint_find("nowhere", &found), ERR_NOT_FOUND);
    assert_says("nowhere");
    /* Two jobs: which one is meant must be said. */
    small_checkpoint_write("find/b/1-1", &(struct small_checkpoint){.generation = 1, .step = 1});
    assert_int_equal(checkpoint_find("find", &found), ERR_INPUT);
    assert_says("find/a");
    assert_says("find/b");
    assert_null(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_and_cuts),
        cmocka_unit_test(test_files_in_wrong_places),
        cmocka_unit_test(test_manifest_of_another),
        cmocka_unit_test(test_newer_format),
        cmocka_unit_test(test_huge_manifest),
        cmocka_unit_test(test_manifest_lies),
        cmocka_unit_test(test_blocks_lie),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_find),
    };
    char directory[] = "/tmp/test_checkpoint_files-XXXXXX";
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (chdir("/") != 0 || storage_remove_tree(directory) != ERR_NONE)
        return 1;
    return failed;
}
