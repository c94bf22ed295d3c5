/*
 * Goal: a rank's sums survive every kind of restart: its replacement goes on from the very step
 * that was answered last, whatever the last report said; nothing is counted twice; runaway losses
 * do not overflow. Method: two tallies, one undisturbed, one that is restored from the reports of
 * the other at every possible step, must report the same in the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/tally.h"

#define EXAMPLES  6u
#define LAST_STEP 30u

static struct job job_of(bool progressive)
{
    struct job job = {.model = {.loss = LOSS_LOGISTIC, .classes = 1}};
    job.train.precision = PRECISION_FP16;
    job.eval.progressive = progressive;
    job.eval.metrics = 1u << METRIC_LOG_LOSS | 1u << METRIC_AUC | 1u << METRIC_GAUC;
    return job;
}

static struct steps steps_of(uint32_t depth)
{
    return (struct steps){.consistency = CONSISTENCY_BSP,
                          .steps_per_epoch = 15,
                          .last_step = LAST_STEP,
                          .drain_every = 5,
                          .pipeline_depth = depth};
}

static struct tally *make(uint32_t depth, bool progressive)
{
    struct job job = job_of(progressive);
    struct steps steps = steps_of(depth);
    struct tally *t = NULL;
    assert_int_equal(tally_create(&job, &steps, 1, &t), ERR_NONE);
    tally_restore(t, 0, NULL);
    return t;
}

struct toy {
    struct batch batch;
    float labels[EXAMPLES], weights[EXAMPLES], logits[EXAMPLES];
};

static void count(struct tally *t, uint64_t step, bool skipped)
{
    struct toy toy = {.batch = {.step = step, .example_count = EXAMPLES, .weight_sum = EXAMPLES}};
    double loss = 0;
    toy.batch.labels = toy.labels;
    toy.batch.weights = toy.weights;
    for (uint32_t i = 0; i < EXAMPLES; i++) {
        toy.labels[i] = (float)(rng_at(step, i) & 1);
        toy.weights[i] = 1;
        toy.logits[i] = rng_uniform(rng_at(step + 1000, i)) * 4 - 2;
        loss += fabs((double)toy.logits[i]);
    }
    struct tally_step s = {
        .step = step, .batch = &toy.batch, .skipped = skipped, .loss = loss, .logits = toy.logits};
    assert_int_equal(tally_count(t, &s), ERR_NONE);
}

/* A report as it comes back from a shard. */
static Paramd__Report *travel(struct tally *t)
{
    const Paramd__Report *r = tally_report(t);
    size_t size = paramd__report__get_packed_size(r);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__report__pack(r, bytes);
    Paramd__Report *out = paramd__report__unpack(NULL, size, bytes);
    mem_free(bytes);
    assert_non_null(out);
    return out;
}

static void assert_same(const Paramd__Report *a, const Paramd__Report *b, bool metrics)
{
    assert_int_equal(a->examples, b->examples);
    assert_int_equal(a->loss_sum, b->loss_sum);
    assert_int_equal(a->weight_sum, b->weight_sum);
    assert_int_equal(a->skipped, b->skipped);
    if (!metrics)
        return;
    assert_int_equal(a->metrics.len, b->metrics.len);
    assert_memory_equal(a->metrics.data, b->metrics.data, a->metrics.len);
}

/* The rank's worker dies when the shard has received `received`; `acked` was answered. */
static void take_over(uint32_t depth, uint64_t acked, uint64_t received)
{
    struct tally *first = make(depth, true), *second = make(depth, true);
    for (uint64_t step = 1; step <= received; step++)
        count(first, step, step % 7 == 0);
    Paramd__Report *last = travel(first);
    tally_restore(second, acked, last);
    paramd__report__free_unpacked(last, NULL);
    for (uint64_t step = received + 1; step <= LAST_STEP; step++)
        count(first, step, step % 7 == 0);
    for (uint64_t step = acked + 1; step <= LAST_STEP; step++)
        count(second, step, step % 7 == 0);
    /* Predictions are known exactly where the last report was of a drain point, or its epoch is
     * over. */
    Paramd__Report *a = travel(first), *b = travel(second);
    struct steps steps = steps_of(depth);
    assert_same(a, b, steps_is_drain(&steps, received) || acked <= 15);
    assert_true(tally_loss_scale(first) == tally_loss_scale(second));
    paramd__report__free_unpacked(a, NULL);
    paramd__report__free_unpacked(b, NULL);
    tally_destroy(first);
    tally_destroy(second);
}

static void test_taking_over(void **state)
{
    for (uint32_t depth = 0; depth <= 3; depth++) {
        for (uint64_t acked = 0; acked < LAST_STEP; acked++) {
            for (uint64_t received = acked; received <= acked + depth + 1 && received <= LAST_STEP;
                 received++)
                take_over(depth, acked, received);
        }
    }
}

static void test_steps_count_once(void **state)
{
    struct tally *t = make(0, false);
    count(t, 1, false);
    count(t, 2, false);
    count(t, 2, false);
    const Paramd__Report *r = tally_report(t);
    assert_int_equal(r->examples, 2 * EXAMPLES);
    assert_int_equal(r->weight_sum, 2 * EXAMPLES << 20);
    assert_int_equal(r->metrics.len, 0);
    tally_destroy(t);
    tally_destroy(NULL);
}

static void test_metrics_only_at_drain_points(void **state)
{
    struct tally *t = make(0, true);
    for (uint64_t step = 1; step <= LAST_STEP; step++) {
        count(t, step, false);
        assert_int_equal(tally_report(t)->metrics.len > 0, step % 5 == 0);
    }
    tally_destroy(t);
}

static void test_skipped_in_a_row(void **state)
{
    struct tally *t = make(0, true);
    static const bool skipped[] = {false, true, true, true, false, true};
    static const uint64_t in_a_row[] = {0, 1, 2, 3, 0, 1};
    for (uint64_t i = 0; i < sizeof skipped / sizeof skipped[0]; i++) {
        count(t, i + 1, skipped[i]);
        assert_int_equal(tally_skipped(t), in_a_row[i]);
    }
    const Paramd__Report *r = tally_report(t);
    assert_int_equal(r->examples, 6 * EXAMPLES);
    assert_int_equal(r->weight_sum, 2 * EXAMPLES << 20);
    tally_destroy(t);
}

/* fp16: halved by a step that is skipped, doubled by 2000 that are not, within bounds; else 1. */
static void test_loss_scale(void **state)
{
    struct job job = job_of(false);
    struct steps steps = steps_of(0);
    struct tally *t = make(0, false), *plain = NULL;
    uint64_t step = 1;
    assert_true(tally_loss_scale(t) == 65536);
    count(t, step++, true);
    assert_true(tally_loss_scale(t) == 32768);
    for (uint32_t i = 0; i < 1999; i++)
        count(t, step++, false);
    assert_true(tally_loss_scale(t) == 32768);
    count(t, step++, false);
    assert_true(tally_loss_scale(t) == 65536);
    for (uint32_t i = 0; i < 20; i++)
        count(t, step++, true);
    assert_true(tally_loss_scale(t) == 1);
    /* A checkpoint keeps the scale and how long it has held, not the state. */
    for (uint32_t i = 0; i < 5; i++)
        count(t, step++, false);
    Paramd__Report *kept = travel(t);
    kept->rank_state.len = 0;
    struct tally *resumed = make(0, false);
    tally_restore(resumed, step - 1, kept);
    paramd__report__free_unpacked(kept, NULL);
    for (uint32_t i = 0; i < 1995; i++) {
        assert_true(tally_loss_scale(t) == 1 && tally_loss_scale(resumed) == 1);
        count(resumed, step, false);
        count(t, step++, false);
    }
    assert_true(tally_loss_scale(t) == 2 && tally_loss_scale(resumed) == 2);
    tally_destroy(resumed);
    for (uint32_t i = 0; i < 30 * 2000; i++)
        count(t, step++, false);
    assert_true(tally_loss_scale(t) == 0x1p24f);
    tally_destroy(t);
    job.train.precision = PRECISION_BF16;
    assert_int_equal(tally_create(&job, &steps, 1, &plain), ERR_NONE);
    tally_restore(plain, 0, NULL);
    count(plain, 1, true);
    assert_true(tally_loss_scale(plain) == 1);
    tally_destroy(plain);
}

static void test_runaway_losses(void **state)
{
    static const double losses[] = {1e300, INFINITY, 1e18, 1e18, 1e18};
    struct tally *t = make(0, false);
    struct toy toy = {.batch = {.example_count = EXAMPLES, .weight_sum = 1}};
    int64_t before = 0;
    for (uint64_t i = 0; i < 20; i++) {
        struct tally_step s = {.step = i + 1, .batch = &toy.batch, .loss = losses[i % 5]};
        assert_int_equal(tally_count(t, &s), ERR_NONE);
        assert_true(tally_report(t)->loss_sum >= before); /* never wraps */
        before = tally_report(t)->loss_sum;
    }
    assert_int_equal(before, INT64_MAX);
    tally_destroy(t);
}

/* Bytes that are not a state of ours: the plain numbers of the report are taken. */
static void test_foreign_state(void **state)
{
    static const char *const states[] = {"", "x", "\2\0\0\0\0\0\0\0", "\1\0\0\0\xff\xff\xff\xff"};
    static const size_t sizes[] = {0, 1, 8, 8};
    for (size_t i = 0; i < 4; i++) {
        struct tally *t = make(1, true);
        Paramd__Report r = PARAMD__REPORT__INIT;
        r.examples = 42;
        r.loss_sum = -7;
        r.rank_state = (ProtobufCBinaryData){sizes[i], (uint8_t *)(uintptr_t)states[i]};
        r.metrics = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "abc"};
        tally_restore(t, 7, &r);
        assert_int_equal(tally_report(t)->examples, 42);
        assert_int_equal(tally_report(t)->loss_sum, -7);
        tally_destroy(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taking_over),
        cmocka_unit_test(test_steps_count_once),
        cmocka_unit_test(test_metrics_only_at_drain_points),
        cmocka_unit_test(test_skipped_in_a_row),
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_runaway_losses),
        cmocka_unit_test(test_foreign_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
