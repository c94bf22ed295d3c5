/*
 * Goal     one shard thread takes 4 M rows of 64 floats a second that are pushed, and answers as
 * many that are pulled, from the bytes of the request to those of the reply. Method   bsp, one rank
 * and two; requests as the transport gives them, in slices of 64 KiB that nothing is aligned to;
 * only the thread's time within shard_push_pull() counts. The best of some rounds.
 *
 * bench_shard [rows of the table]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/shard.h"
#include "server/table.h"

#define DIM       64
#define PUSH_ROWS 65536
#define ROUNDS    4
#define STEPS     10 /* of a round */
#define WARMING   3  /* steps before the first */
#define LAST_STEP (WARMING + ROUNDS * STEPS)
#define TARGET    4.0

struct bench {
    struct schema_table table;
    struct schema schema;
    struct shard *shard;
    uint32_t rows, ranks;
    uint32_t answers;
};

/* The thread's own time: what others do on this machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void setup(struct bench *b)
{
    b->table = (struct schema_table){.name = "bench", .component_count = 1};
    b->table.components[0] = (struct schema_component){
        .name = "v", .dim = DIM, .optimizer = {.type = "sgd", .learning_rate = 0.1}};
    b->schema = (struct schema){.tables = &b->table, .table_count = 1};
    CHECK(schema_finish(&b->schema, 1) == ERR_NONE);
    struct shard_options o = {
        .job = "bench",
        .generation = 1,
        .end_partition = PARTITION_COUNT,
        .rank_count = b->ranks,
        .schema = &b->schema,
        .wait_ms = 1000,
        .steps = {.steps_per_epoch = LAST_STEP + 1, .last_step = LAST_STEP + 1}};
    CHECK(shard_create(&o, &b->shard) == ERR_NONE);
    float row[DIM] = {0};
    for (uint32_t i = 0; i < b->rows; i++)
        CHECK(table_load(shard_table(b->shard, 0), mix64(i), row) == ERR_NONE);
    shard_begin(b->shard, 0);
}

/* Distinct ascending keys of rows that are there. */
static uint32_t pick_keys(const struct bench *b, uint64_t seed, uint64_t *keys)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PUSH_ROWS; i++)
        keys[i] = mix64(rng_below(rng_at(seed, i), b->rows));
    qsort(keys, PUSH_ROWS, sizeof *keys, compare_keys);
    for (uint32_t i = 0; i < PUSH_ROWS; i++) {
        if (i == 0 || keys[i] != keys[i - 1])
            keys[count++] = keys[i];
    }
    return count;
}

static void slice_up(struct chain *c)
{
    size_t size = c->size;
    struct buf *flat = buf_create(size + 3);
    CHECK(flat != NULL);
    uint8_t *bytes = (uint8_t *)buf_data(flat) + 3;
    chain_copy_out(c, 0, bytes, size);
    chain_deinit(c);
    for (size_t at = 0; at < size; at += 65536)
        chain_append(c, flat, bytes + at, size - at < 65536 ? size - at : 65536);
    buf_unref(flat);
}

static uint32_t make_request(const struct bench *b, uint32_t rank, uint64_t seq, struct chain *out)
{
    static uint64_t keys[PUSH_ROWS];
    static float values[PUSH_ROWS * DIM];
    Paramd__PushPullRequest q = PARAMD__PUSH_PULL_REQUEST__INIT;
    Paramd__Block push = PARAMD__BLOCK__INIT, pull = PARAMD__BLOCK__INIT;
    Paramd__Block *push_list = &push, *pull_list = &pull;
    struct wire_payload payload = {0};
    uint32_t count = pick_keys(b, seq * 100 + rank, keys);
    for (size_t i = 0; i < (size_t)count * DIM; i++)
        values[i] = 0.001f * (float)(i % 97);
    q.job = (char *)(uintptr_t) "bench";
    q.generation = 1;
    q.rank = rank;
    q.seq = seq;
    q.acked = seq > 0 ? seq - 1 : 0;
    q.weight = 1.0;
    push.count = pull.count = count;
    push.dim = DIM;
    pull.kind = PARAMD__BLOCK__KIND__KEYS;
    push.keys_offset = pull.keys_offset =
        wire_payload_add(&payload, NULL, keys, count * sizeof *keys, 8);
    push.values_offset =
        wire_payload_add(&payload, NULL, values, (size_t)count * DIM * sizeof *values, 4);
    q.push = &push_list;
    q.n_push = seq > 0;
    q.pull = &pull_list;
    q.n_pull = 1;
    wire_encode(&q.base, &payload, out);
    slice_up(out);
    return count;
}

static void take_answer(void *context, enum err code, struct chain *reply)
{
    struct bench *b = context;
    CHECK(code == ERR_NONE && reply->size > 1000);
    b->answers++;
}

/* All ranks' push-pulls of one step; adds to *rows and *busy_ns. */
static void step(struct bench *b, uint64_t seq, uint64_t *rows, uint64_t *busy_ns)
{
    for (uint32_t rank = 0; rank < b->ranks; rank++) {
        struct chain c = {0};
        uint32_t count = make_request(b, rank, seq, &c);
        uint64_t start = cpu_ns();
        shard_push_pull(b->shard, &c, take_answer, b, 1);
        *busy_ns += cpu_ns() - start;
        *rows += count;
    }
}

/* M rows/s pushed, and pulled, of the best round. */
static double best_rate(struct bench *b)
{
    double best = 0.0;
    uint64_t rows = 0, busy_ns = 0, seq = 0;
    while (seq <= WARMING)
        step(b, seq++, &rows, &busy_ns);
    for (int round = 0; round < ROUNDS; round++) {
        rows = busy_ns = 0;
        for (int i = 0; i < STEPS; i++)
            step(b, seq++, &rows, &busy_ns);
        double rate = (double)rows * 1e3 / (double)busy_ns;
        best = rate > best ? rate : best;
    }
    CHECK(b->answers == b->ranks * (LAST_STEP + 1));
    return best;
}

int main(int argc, char **argv)
{
    uint32_t rows = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 2u << 20;
    mem_keep_freed(); /* as the daemons do */
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 2) {
        struct bench b = {.rows = rows, .ranks = ranks};
        setup(&b);
        printf("shard 64 floats, %u ranks: %.1f M rows/s pushed and as many pulled (target %.1f)\n",
               ranks, best_rate(&b), TARGET);
        shard_destroy(b.shard);
    }
    return 0;
}
