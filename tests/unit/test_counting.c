/*
 * Goal: every example counts exactly once an epoch on every shard, in bsp, ssp and asp, whatever
 * the network loses, delays or doubles and whenever a worker dies and another takes its rank; and
 * in bsp a batch is computed from exactly the version that the calendar names.
 *
 * Method: real shards and the real exchange, a faulty network between them (tests/support), and a
 * model that counts: the gradient of each key of a batch is -1, the learning rate 1, the step's
 * weights add up to 1, so each example adds 1 to its keys. A key occurs once an epoch and epochs
 * end with a drain point, so in epoch k its value must be k when it is pulled. A dense parameter
 * counts steps: in bsp its value is the version. Fit for the thread sanitizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/support/faulty_shard.h"
#include "worker/exchange.h"

#define STEPS_PER_EPOCH 10u
#define EPOCHS          3u
#define LAST_STEP       (STEPS_PER_EPOCH * EPOCHS)
#define PER_BATCH       5u /* examples */
#define SHARDS          3u
#define RANKS_MAX       3u
#define TABLES          2u
#define DENSE_VALUES    40000u /* three blocks, on three shards */
#define JOB             "counting"

struct world {
    struct schema *schema;
    struct steps steps;
    uint32_t rank_count;
    struct faulty_shard *shards[SHARDS];
    struct exchange_shard peers[SHARDS];
    const char *addresses[SHARDS];
    uint64_t lease;
    atomic_bool dead; /* one worker has died: the others are stopped and all replaced */
};

struct scenario {
    const char *name;
    enum consistency consistency;
    uint32_t depth, staleness, ranks;
    bool threads;    /* a process, that is a thread, for each rank; else all in one */
    uint32_t deaths; /* how often workers die and are replaced */
};

/* ---- the model ---- */

static struct optimizer_spec sgd(void)
{
    return (struct optimizer_spec){.type = "sgd", .learning_rate = 1};
}

static struct schema *make_schema(void)
{
    static const uint32_t dims[TABLES] = {1, 3};
    struct schema *s = must_alloc(sizeof *s);
    s->table_count = TABLES;
    s->tables = must_alloc(TABLES * sizeof *s->tables);
    for (uint32_t t = 0; t < TABLES; t++) {
        struct schema_table *table = &s->tables[t];
        strcpy(table->name, t == 0 ? "ones" : "threes");
        table->component_count = 1;
        strcpy(table->components[0].name, "w");
        table->components[0].dim = dims[t];
        table->components[0].optimizer = sgd();
    }
    s->dense_count = 1;
    s->dense = must_alloc(sizeof *s->dense);
    strcpy(s->dense[0].name, "steps");
    s->dense[0].shape[0] = DENSE_VALUES;
    s->dense[0].shape_count = 1;
    s->dense[0].optimizer = sgd();
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

/* ---- the data: a pure function of (rank, step) ---- */

struct toy_batch {
    struct batch batch;
    struct batch_table tables[TABLES];
    uint64_t keys[TABLES][PER_BATCH];
};

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Ranks but the first run out of examples two steps before an epoch ends. */
static uint32_t example_count(uint32_t rank, uint64_t step)
{
    return rank > 0 && (step - 1) % STEPS_PER_EPOCH >= STEPS_PER_EPOCH - 2 ? 0 : PER_BATCH;
}

static void fill_batch(struct toy_batch *b, uint32_t rank, uint64_t step)
{
    memset(b, 0, sizeof *b);
    b->batch.step = step;
    b->batch.rank = rank;
    b->batch.example_count = example_count(rank, step);
    b->batch.tables = b->tables;
    b->batch.table_count = TABLES;
    uint64_t first = ((step - 1) % STEPS_PER_EPOCH * RANKS_MAX + rank) * PER_BATCH;
    for (uint32_t t = 0; t < TABLES; t++) {
        b->tables[t].keys = b->keys[t];
        for (uint32_t i = 0; i < b->batch.example_count; i++) {
            uint64_t example = first + i;
            if (t == 1 && example % 3 == 0)
                continue; /* not all examples have the second feature */
            b->keys[t][b->tables[t].key_count++] = mix64(example + 1 + 100000 * t);
        }
        qsort(b->keys[t], b->tables[t].key_count, sizeof(uint64_t), compare_keys);
    }
}

/* ---- a worker ---- */

struct worker {
    struct world *world;
    uint32_t first_rank, rank_count;
    uint64_t dies_after; /* pushes; 0: never */
    bool died;
    uint32_t wrong; /* values that were not what they had to be */
};

static struct exchange_options options_of(struct world *w, uint32_t ranks)
{
    return (struct exchange_options){.job = JOB,
                                     .generation = 5,
                                     .schema = w->schema,
                                     .steps = w->steps,
                                     .shards = w->peers,
                                     .shard_count = SHARDS,
                                     .rank_max = ranks,
                                     .call_timeout_ms = 2000,
                                     .give_up_ms = 20000,
                                     .back_off_ms = 1,
                                     .cancel = ranks > 0 ? &w->dead : NULL};
}

static void read_to(struct exchange *x, uint32_t index, uint32_t rank, uint64_t *given)
{
    struct toy_batch b;
    while (*given < exchange_batches_needed(x, index)) {
        fill_batch(&b, rank, ++*given);
        assert_int_equal(exchange_give(x, index, &b.batch), ERR_NONE);
    }
}

/* Values must be the number of the epoch; dense values in bsp the version. */
static void check_values(struct worker *w, const struct exchange_work *work,
                         const struct toy_batch *b)
{
    const struct schema *s = w->world->schema;
    float epoch = (float)((work->step - 1) / STEPS_PER_EPOCH);
    bool bsp = w->world->steps.consistency == CONSISTENCY_BSP;
    /* In ssp and asp a replacement reads fresh values, which may have the dead worker's push of
       this very batch already; its own is dropped as a duplicate then. */
    bool again = !bsp && w->world->lease > 1;
    for (uint32_t t = 0; t < TABLES; t++) {
        for (uint32_t i = 0; i < b->tables[t].key_count * s->tables[t].dim; i++)
            w->wrong += work->rows[t][i] != epoch && !(again && work->rows[t][i] == epoch + 1);
    }
    if (!bsp)
        return;
    float version = (float)steps_version_of_batch(&w->world->steps, work->step);
    for (uint32_t i = 0; i < DENSE_VALUES; i++)
        w->wrong += work->dense[0][i] != version;
}

/* false: stopped. */
static bool count_batch(struct worker *w, struct exchange *x, uint32_t index, uint32_t rank)
{
    struct exchange_work work;
    struct toy_batch b;
    enum err e = exchange_wait(x, index, &work);
    if (e == ERR_CANCELLED)
        return false;
    assert_int_equal(e, ERR_NONE);
    fill_batch(&b, rank, work.step);
    bool bsp = w->world->steps.consistency == CONSISTENCY_BSP;
    struct exchange_push push = {.is_empty = b.batch.example_count == 0};
    if (!push.is_empty) {
        check_values(w, &work, &b);
        const struct schema *s = w->world->schema;
        for (uint32_t t = 0; t < TABLES; t++) {
            for (uint32_t i = 0; i < b.tables[t].key_count * s->tables[t].dim; i++)
                work.row_gradients[t][i] = -1;
        }
        for (uint32_t i = 0; i < DENSE_VALUES; i++)
            work.dense_gradients[0][i] = rank == 0 ? -1 : 0;
        /* bsp divides by the step's sum of weights, the others by the push's own: 1 either way. */
        push.weight = bsp && rank > 0 ? 0 : 1;
    }
    Paramd__Report report = PARAMD__REPORT__INIT;
    report.examples = work.step;
    push.report = &report;
    assert_int_equal(exchange_push(x, index, &push), ERR_NONE);
    return true;
}

static void *work(void *context)
{
    struct worker *w = context;
    struct exchange *x = NULL;
    uint64_t given[RANKS_MAX], pushes = 0;
    struct exchange_options o = options_of(w->world, w->rank_count);
    assert_int_equal(exchange_open(&o, &x), ERR_NONE);
    for (uint32_t i = 0; i < w->rank_count; i++) {
        struct exchange_rank_options rank = {.rank = w->first_rank + i, .lease = w->world->lease};
        uint32_t index;
        assert_int_equal(exchange_add_rank(x, &rank, &index), ERR_NONE);
        assert_int_equal(index, i);
    }
    enum err e = exchange_resume(x);
    assert_true(e == ERR_NONE || e == ERR_CANCELLED);
    w->died = e == ERR_CANCELLED;
    for (uint32_t i = 0; i < w->rank_count && !w->died; i++) {
        struct exchange_resumed at;
        exchange_resumed(x, i, &at);
        given[i] = at.first_batch - 1;
        read_to(x, i, w->first_rank + i, &given[i]);
        assert_int_equal(exchange_begin(x, i), ERR_NONE);
    }
    while (!w->died) {
        uint32_t behind = 0;
        for (uint32_t i = 1; i < w->rank_count; i++) {
            if (exchange_next_step(x, i) < exchange_next_step(x, behind))
                behind = i;
        }
        if (exchange_next_step(x, behind) > LAST_STEP)
            break;
        read_to(x, behind, w->first_rank + behind, &given[behind]);
        w->died = (w->dies_after > 0 && pushes == w->dies_after) ||
                  !count_batch(w, x, behind, w->first_rank + behind);
        if (w->died)
            break;
        pushes++;
    }
    for (uint32_t i = 0; i < w->rank_count && !w->died; i++) {
        e = exchange_finish(x, i);
        w->died = e == ERR_CANCELLED;
        assert_true(e == ERR_NONE || e == ERR_CANCELLED);
    }
    if (w->died)
        atomic_store(&w->world->dead, true);
    exchange_close(x);
    return NULL;
}

/* ---- scenarios ---- */

static void make_world(struct world *w, const struct scenario *s, const struct faults *faults)
{
    static uint32_t number;
    w->schema = make_schema();
    w->rank_count = s->ranks;
    w->lease = 1;
    w->steps = (struct steps){.consistency = s->consistency,
                              .steps_per_epoch = STEPS_PER_EPOCH,
                              .last_step = LAST_STEP,
                              .drain_every = 4,
                              .checkpoint_every = 8,
                              .pipeline_depth = s->depth};
    number++;
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard_options o = {.job = JOB,
                                  .generation = 5,
                                  .index = i,
                                  .first_partition = i * PARTITION_COUNT / SHARDS,
                                  .end_partition = (i + 1) * PARTITION_COUNT / SHARDS,
                                  .rank_count = s->ranks,
                                  .schema = w->schema,
                                  .steps = w->steps,
                                  .staleness = s->staleness,
                                  .wait_ms = 30};
        struct faults own = *faults;
        own.seed += i;
        char *name = must_format("counting-%u-%u", number, i);
        w->shards[i] = faulty_shard_create(name, &o, &own);
        mem_free(name);
        w->addresses[i] = faulty_shard_address(w->shards[i]);
        w->peers[i] = (struct exchange_shard){.first_partition = o.first_partition,
                                              .end_partition = o.end_partition,
                                              .addresses = &w->addresses[i],
                                              .address_count = 1};
    }
}

static void new_lease(struct world *w)
{
    w->lease++;
    atomic_store(&w->dead, false);
    for (uint32_t i = 0; i < SHARDS; i++) {
        for (uint32_t r = 0; r < w->rank_count; r++)
            faulty_shard_set_lease(w->shards[i], r, w->lease);
    }
}

/* One life of the workers; true: they finished. */
static bool run_workers(struct world *w, const struct scenario *s, uint64_t dies_after,
                        uint32_t *wrong)
{
    struct worker workers[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    uint32_t count = s->threads ? s->ranks : 1;
    bool finished = true;
    for (uint32_t i = 0; i < count; i++) {
        workers[i] = (struct worker){.world = w,
                                     .first_rank = i,
                                     .rank_count = s->threads ? 1 : s->ranks,
                                     .dies_after = dies_after};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        finished = finished && !workers[i].died;
        *wrong += workers[i].wrong;
    }
    return finished;
}

/* After E epochs every key is E on its shard, and the dense parameter has counted all steps. */
static uint32_t check_end(struct world *w)
{
    struct exchange *x = NULL;
    struct exchange_options o = options_of(w, 0);
    assert_int_equal(exchange_open(&o, &x), ERR_NONE);
    float ones[PER_BATCH], threes[PER_BATCH * 3], *rows[TABLES] = {ones, threes};
    float *dense[1] = {must_alloc(DENSE_VALUES * sizeof(float))};
    uint32_t wrong = 0;
    for (uint64_t step = 1; step <= STEPS_PER_EPOCH; step++) {
        for (uint32_t rank = 0; rank < w->rank_count; rank++) {
            struct toy_batch b;
            fill_batch(&b, rank, step);
            assert_int_equal(exchange_read(x, LAST_STEP, &b.batch, rows, dense), ERR_NONE);
            for (uint32_t i = 0; i < b.tables[0].key_count; i++)
                wrong += ones[i] != EPOCHS;
            for (uint32_t i = 0; i < b.tables[1].key_count * 3; i++)
                wrong += threes[i] != EPOCHS;
        }
    }
    for (uint32_t i = 0; i < DENSE_VALUES; i++)
        wrong += dense[0][i] != LAST_STEP;
    mem_free(dense[0]);
    exchange_close(x);
    return wrong;
}

static void play(const struct scenario *s, const struct faults *faults)
{
    struct world w = {0};
    make_world(&w, s, faults);
    uint32_t wrong = 0, deaths = s->deaths;
    uint64_t dies_after = 7;
    while (!run_workers(&w, s, deaths > 0 ? dies_after : 0, &wrong)) {
        new_lease(&w);
        dies_after = dies_after % 11 + 3;
        deaths--;
    }
    for (uint32_t i = 0; i < SHARDS; i++) {
        if (faulty_shard_failure(w.shards[i]) != NULL)
            fail_msg("%s: shard %u: %s", s->name, i, faulty_shard_failure(w.shards[i]));
    }
    uint32_t wrong_at_end = check_end(&w);
    uint64_t faults_seen = 0;
    for (uint32_t i = 0; i < SHARDS; i++)
        faults_seen += faulty_shard_fault_count(w.shards[i]);
    if (wrong + wrong_at_end > 0)
        fail_msg("%s: %u values were wrong when pulled, %u at the end", s->name, wrong,
                 wrong_at_end);
    assert_true(faults->lose_request == 0 || faults_seen > 10);
    for (uint32_t i = 0; i < SHARDS; i++)
        faulty_shard_destroy(w.shards[i]);
    schema_destroy(w.schema);
}

static const struct scenario scenarios[] = {
    {"bsp d=0 R=1", CONSISTENCY_BSP, 0, 0, 1, false, 0},
    {"bsp d=2 R=1", CONSISTENCY_BSP, 2, 0, 1, false, 0},
    {"bsp d=0 R=3, one process", CONSISTENCY_BSP, 0, 0, 3, false, 0},
    {"bsp d=2 R=3, one process", CONSISTENCY_BSP, 2, 0, 3, false, 0},
    {"bsp d=0 R=2", CONSISTENCY_BSP, 0, 0, 2, true, 0},
    {"bsp d=2 R=3", CONSISTENCY_BSP, 2, 0, 3, true, 0},
    {"ssp R=3", CONSISTENCY_SSP, 0, 2, 3, true, 0},
    {"ssp R=2, one process", CONSISTENCY_SSP, 0, 1, 2, false, 0},
    {"asp R=1", CONSISTENCY_ASP, 0, 0, 1, false, 0},
    {"asp R=3", CONSISTENCY_ASP, 0, 0, 3, true, 0},
};

static void test_reliable(void **state)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        struct faults none = {.seed = 1};
        play(&scenarios[i], &none);
    }
}

static void test_faulty(void **state)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        struct faults faults = {.seed = 10 * i,
                                .lose_request = 60,
                                .lose_reply = 60,
                                .double_request = 100,
                                .delay = 100,
                                .delay_max_ms = 3};
        play(&scenarios[i], &faults);
    }
}

static void test_deaths(void **state)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        struct scenario s = scenarios[i];
        struct faults faults = {.seed = 1000 + 10 * i,
                                .lose_request = 40,
                                .lose_reply = 40,
                                .double_request = 60,
                                .delay = 60,
                                .delay_max_ms = 3};
        s.deaths = 3;
        play(&s, &faults);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reliable),
        cmocka_unit_test(test_faulty),
        cmocka_unit_test(test_deaths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
