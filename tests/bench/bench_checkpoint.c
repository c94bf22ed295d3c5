/*
 * Goal     a checkpoint is written at 0.9 or more of the speed at which a plain program writes and
 *          syncs the same bytes to the disk, costs the owner less than a millisecond for each MiB,
 *          and no slice of it takes much longer than the millisecond that it was given.
 * Method   one shard with a table of 32-float rows (16 values, adagrad), 256 MiB of them, in a
 *          directory of its own, on a disk (on tmpfs the ratio is that of a copy to a gather).
 *          Rounds of plain and real alternate, and the best of each counts.
 *          Restoring includes verifying all checksums and building the index of the table.
 *          In a remote store it is done once; bench_storage.py measures beside it. There a line
 *          `write SECONDS MIB_PER_SECOND EXTRA_MIB` and one `read …` are printed: EXTRA_MIB is the
 *          most memory that was resident, less that of the shard itself.
 *
 * bench_checkpoint [MiB [directory, or URI of a remote one]]
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/storage.h"
#include "server/snapshot.h"
#include "server/table.h"

#define DIM      16
#define ROUNDS   3
#define PIECE    ((size_t)1 << 20)
#define SLICE_NS 1000000u

struct bench {
    struct schema *schema;
    struct shard *shard;
    const char *directory;
    uint64_t rows, bytes;
    double longest_slice_ms, owner_seconds;
};

/* The thread's own time: what others do on this machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct schema *make_schema(void)
{
    struct schema *s = must_alloc(sizeof *s);

    s->table_count = 1;
    s->tables = must_alloc(sizeof *s->tables);
    strcpy(s->tables[0].name, "t");
    s->tables[0].component_count = 1;
    s->tables[0].components[0] =
        (struct schema_component){.name = "v", .dim = DIM, .optimizer.type = "adagrad"};
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

static struct shard *make_shard(const struct schema *schema)
{
    struct shard_options o = {
        .job = "bench",
        .generation = 1,
        .end_partition = PARTITION_COUNT,
        .rank_count = 1,
        .schema = schema,
        .steps = {.steps_per_epoch = 10, .last_step = 10, .drain_every = 1},
        .wait_ms = 1000,
    };
    struct shard *s = NULL;
    CHECK(shard_create(&o, &s) == ERR_NONE);
    return s;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void fill(struct bench *b)
{
    uint64_t keys[TABLE_BATCH], done = 0;
    float *rows[TABLE_BATCH];

    while (done < b->rows) {
        for (uint32_t i = 0; i < TABLE_BATCH; i++)
            keys[i] = mix64(done++);
        qsort(keys, TABLE_BATCH, sizeof *keys, by_value);
        CHECK(table_find_or_insert(shard_table(b->shard, 0), keys, TABLE_BATCH, rows) == ERR_NONE);
        for (uint32_t i = 0; i < TABLE_BATCH; i++)
            for (uint32_t k = 0; k < 2 * DIM; k++)
                rows[i][k] = (float)(keys[i] >> 40) + (float)k;
    }
    shard_begin(b->shard, 1);
}

/* ---- plain ---- */

static double plain_write(const struct bench *b)
{
    char *path = storage_join(b->directory, "plain"), *piece = must_alloc(PIECE);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0);
    memset(piece, 7, PIECE);
    uint64_t start = clock_ns();
    for (uint64_t done = 0; done < b->bytes; done += PIECE)
        CHECK(write(fd, piece, PIECE) == (ssize_t)PIECE);
    CHECK(fsync(fd) == 0);
    double seconds = (double)(clock_ns() - start) / 1e9;
    close(fd);
    mem_free(piece);
    mem_free(path);
    return seconds;
}

static double plain_read(const struct bench *b)
{
    char *path = storage_join(b->directory, "plain"), *piece = must_alloc(PIECE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0);
    uint64_t start = clock_ns();
    for (uint64_t done = 0; done < b->bytes; done += PIECE)
        CHECK(read(fd, piece, PIECE) == (ssize_t)PIECE);
    double seconds = (double)(clock_ns() - start) / 1e9;
    close(fd);
    CHECK(unlink(path) == 0);
    mem_free(piece);
    mem_free(path);
    return seconds;
}

/* ---- real ---- */

static double checkpoint_write(struct bench *b, const char *directory)
{
    struct snapshot_options o = {.shard = b->shard,
                                 .directory = directory,
                                 .step = 1,
                                 .memory_bytes = 256u << 20,
                                 .deadline_ms = UINT64_MAX};
    struct checkpoint_manifest m = {.job = (char[]){"bench"}, .generation = 1, .step = 1};
    const struct checkpoint_file *files;
    enum snapshot_state state = SNAPSHOT_RUNNING;
    struct snapshot *s = NULL;
    const char *why;
    uint64_t start = clock_ns();

    CHECK(snapshot_begin(&o, &s) == ERR_NONE);
    while (state == SNAPSHOT_RUNNING) {
        uint64_t slice = cpu_ns();
        snapshot_step(s, SLICE_NS);
        double ms = (double)(cpu_ns() - slice) / 1e6;
        b->owner_seconds += ms / 1e3;
        if (ms > b->longest_slice_ms)
            b->longest_slice_ms = ms;
        usleep(snapshot_is_held_up(s) ? 1000 : 50); /* as an owner that has other work */
        state = snapshot_poll(s, 0, &files, &m.file_count, &why);
    }
    CHECK(state == SNAPSHOT_DURABLE);
    CHECK(m.file_count == 2);
    struct checkpoint_file by_name[2] = {files[1], files[0]}; /* dense, table */
    m.files = by_name;
    CHECK(checkpoint_publish(directory, &m, NULL) == ERR_NONE);
    double seconds = (double)(clock_ns() - start) / 1e9;
    snapshot_destroy(s);
    return seconds;
}

static double checkpoint_restore(const struct bench *b, const char *directory)
{
    struct checkpoint_manifest *m = NULL;
    struct shard *s = make_shard(b->schema);
    uint64_t start = clock_ns();

    CHECK(checkpoint_read_manifest(directory, &m, NULL) == ERR_NONE);
    CHECK(snapshot_restore(s, directory, m) == ERR_NONE);
    double seconds = (double)(clock_ns() - start) / 1e9;
    CHECK(shard_rows(s) == b->rows);
    checkpoint_manifest_destroy(m);
    shard_destroy(s);
    return seconds;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

static void run(struct bench *b)
{
    char *directory = storage_join(b->directory, "1-1");
    double plain_out = 1e9, plain_in = 1e9, real_out = 1e9, real_in = 1e9;
    double mib = (double)b->bytes / (1 << 20);

    for (int i = 0; i < ROUNDS; i++) {
        plain_out = least(plain_out, plain_write(b));
        plain_in = least(plain_in, plain_read(b));
        real_out = least(real_out, checkpoint_write(b, directory));
        real_in = least(real_in, checkpoint_restore(b, directory));
        CHECK(storage_remove_tree(directory) == ERR_NONE);
    }
    printf("rows %llu of %d floats, %.0f MiB\n", (unsigned long long)b->rows, 2 * DIM, mib);
    printf("write    plain %6.0f MiB/s  checkpoint %6.0f MiB/s  ratio %.2f\n", mib / plain_out,
           mib / real_out, plain_out / real_out);
    printf("read     plain %6.0f MiB/s  restore    %6.0f MiB/s  ratio %.2f\n", mib / plain_in,
           mib / real_in, plain_in / real_in);
    printf("owner's own time: %.0f MiB/s, longest slice %.2f ms\n", ROUNDS * mib / b->owner_seconds,
           b->longest_slice_ms);
    mem_free(directory);
}

/* ---- in a store ---- */

/* `field` of /proc/self/status, in MiB. */
static double resident_mib(const char *field)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");

    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtod(line + strlen(field), NULL);
    fclose(f);
    return kib / 1024;
}

static void forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");

    CHECK(f != NULL && fputs("5", f) >= 0 && fclose(f) == 0);
}

static void run_remote(struct bench *b)
{
    char *directory = storage_join(b->directory, "1-1");
    double mib = (double)b->bytes / (1 << 20), before = resident_mib("VmRSS:");

    forget_peak();
    double seconds = checkpoint_write(b, directory);
    printf("write %.2f %.1f %.0f\n", seconds, mib / seconds, resident_mib("VmHWM:") - before);
    shard_destroy(b->shard);
    b->shard = NULL;
    malloc_trim(0);
    double left = resident_mib("VmRSS:"), model = before - left;
    forget_peak();
    seconds = checkpoint_restore(b, directory);
    printf("read %.2f %.1f %.0f\n", seconds, mib / seconds, resident_mib("VmHWM:") - left - model);
    CHECK(storage_remove_tree(directory) == ERR_NONE);
    mem_free(directory);
}

int main(int argc, char **argv)
{
    char own[] = "/tmp/bench_checkpoint-XXXXXX";
    struct bench b = {.schema = make_schema(), .directory = argc > 2 ? argv[2] : own};
    uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 256;

    if (argc <= 2)
        CHECK(mkdtemp(own) != NULL);
    b.bytes = mib << 20;
    b.rows = b.bytes / (8 + 4 * 2 * DIM) / TABLE_BATCH * TABLE_BATCH;
    b.shard = make_shard(b.schema);
    fill(&b);
    if (strstr(b.directory, "://") != NULL)
        run_remote(&b);
    else
        run(&b);
    shard_destroy(b.shard);
    schema_destroy(b.schema);
    if (argc <= 2)
        CHECK(rmdir(own) == 0);
    return 0;
}
