/*
 * Goal: every process finds the same drain points, and every batch is pulled exactly once, at the
 * version that PROTOCOL.md 2 gives it. Method: a brute-force calendar, which marks each step of a
 * small job by the words of the rules, against every function, over all small settings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/steps.h"

#define LAST_MAX 80

/* Marked by definition. */
struct calendar {
    bool drain[LAST_MAX + 1], eval[LAST_MAX + 1];
};

static void mark(const struct steps *s, struct calendar *c)
{
    memset(c, 0, sizeof *c);
    c->drain[0] = true;
    for (uint64_t t = 1; t <= s->last_step; t++) {
        bool epoch_end = t % s->steps_per_epoch == 0;
        c->eval[t] =
            s->has_eval && (t == s->last_step || (s->eval_every != 0 && t % s->eval_every == 0) ||
                            (s->eval_every_epoch && epoch_end));
        c->drain[t] = c->eval[t] || epoch_end || t == s->last_step;
        if (s->consistency == CONSISTENCY_BSP)
            c->drain[t] = c->drain[t] || (s->drain_every != 0 && t % s->drain_every == 0);
    }
    if (s->consistency == CONSISTENCY_BSP || s->checkpoint_every == 0)
        return;
    for (uint64_t m = s->checkpoint_every; m <= s->last_step; m += s->checkpoint_every) {
        uint64_t t = m;
        while (s->drain_every != 0 && t % s->drain_every != 0)
            t++;
        if (t <= s->last_step)
            c->drain[t] = true;
    }
}

static void check_drains(const struct steps *s, const struct calendar *c)
{
    for (uint64_t t = 0; t <= s->last_step; t++) {
        uint64_t before = 0, next = s->last_step;
        for (uint64_t i = 0; i < t; i++)
            before = c->drain[i] ? i : before;
        for (uint64_t i = s->last_step; i > t; i--)
            next = c->drain[i] ? i : next;
        assert_int_equal(steps_is_drain(s, t), c->drain[t]);
        assert_int_equal(steps_is_eval(s, t), c->eval[t]);
        assert_int_equal(steps_drain_before(s, t), before);
        assert_int_equal(steps_drain_next(s, t), next);
        assert_int_equal(steps_drain_at_or_after(s, t), c->drain[t] ? t : next);
    }
    assert_false(steps_is_drain(s, s->last_step + 1));
    assert_false(steps_is_eval(s, s->last_step + 1));
    assert_int_equal(steps_drain_before(s, s->last_step + 5), s->last_step);
    assert_int_equal(steps_drain_next(s, s->last_step + 5), s->last_step);
}

static void check_batches(const struct steps *s, const struct calendar *c)
{
    uint32_t pulled[LAST_MAX + 1] = {0};
    for (uint64_t t = 0; t <= s->last_step; t++) {
        uint64_t first, last;
        steps_batches_pulled(s, t, &first, &last);
        for (uint64_t b = first; b <= last; b++) {
            assert_true(b <= s->last_step);
            assert_int_equal(steps_version_of_batch(s, b), t);
            pulled[b]++;
        }
    }
    uint64_t drain = 0;
    for (uint64_t b = 1; b <= s->last_step; b++) {
        int64_t version = (int64_t)b - 1 - (int64_t)s->pipeline_depth;
        if (version < (int64_t)drain)
            version = (int64_t)drain;
        assert_int_equal(steps_version_of_batch(s, b), version);
        assert_int_equal(pulled[b], 1);
        if (c->drain[b])
            drain = b;
    }
}

static void check(const struct steps *s)
{
    struct calendar c;
    mark(s, &c);
    check_drains(s, &c);
    check_batches(s, &c);
}

static void test_bsp(void **state)
{
    static const uint64_t drains[] = {0, 1, 3, 7, 100};
    static const uint64_t evals[] = {0, 4, 9};
    for (uint32_t d = 0; d <= 5; d++) {
        for (uint64_t per_epoch = 1; per_epoch <= 11; per_epoch += 2) {
            for (uint64_t last = 0; last <= 40; last += 4) {
                for (size_t i = 0; i < sizeof drains / sizeof drains[0]; i++) {
                    struct steps s = {.consistency = CONSISTENCY_BSP,
                                      .steps_per_epoch = per_epoch,
                                      .last_step = last,
                                      .drain_every = drains[i],
                                      .eval_every = evals[(last + d) % 3],
                                      .eval_every_epoch = last % 8 == 0,
                                      .has_eval = (per_epoch + d) % 3 != 0,
                                      .checkpoint_every = 5,
                                      .pipeline_depth = d};
                    check(&s);
                }
            }
        }
    }
}

static void test_ssp_asp(void **state)
{
    for (uint64_t drain = 0; drain <= 9; drain++) {
        for (uint64_t every = 0; every <= 25; every++) {
            struct steps s = {.consistency = every % 2 ? CONSISTENCY_SSP : CONSISTENCY_ASP,
                              .steps_per_epoch = every % 3 == 0 ? 31 : LAST_MAX,
                              .last_step = 71,
                              .drain_every = drain,
                              .eval_every = every % 4 == 1 ? 13 : 0,
                              .has_eval = every % 4 < 2,
                              .checkpoint_every = every};
            check(&s);
        }
    }
}

static void test_make(void **state)
{
    struct job j = {.train = {.epochs = 3,
                              .max_steps = 0,
                              .consistency = CONSISTENCY_SSP,
                              .pipeline_depth = 4,
                              .drain_every = 10},
                    .eval = {.every_epoch = true, .every_steps = 6},
                    .checkpoint = {.every_steps = 50}};
    struct steps s = steps_make(&j, 20, false);
    assert_int_equal(s.last_step, 60);
    assert_int_equal(s.pipeline_depth, 0);
    assert_false(steps_is_eval(&s, 6));
    assert_false(steps_is_eval(&s, 60));
    assert_true(steps_is_drain(&s, 50));
    assert_false(steps_is_drain(&s, 30));
    assert_int_equal(steps_epoch_of(&s, 20), 0);
    assert_int_equal(steps_epoch_of(&s, 21), 1);
    assert_true(steps_is_epoch_end(&s, 40));
    assert_false(steps_is_epoch_end(&s, 0));

    j.train.consistency = CONSISTENCY_BSP;
    j.train.max_steps = 45;
    s = steps_make(&j, 20, true);
    assert_int_equal(s.last_step, 45);
    assert_int_equal(s.pipeline_depth, 4);
    assert_true(steps_is_eval(&s, 45));
    assert_true(steps_is_drain(&s, 30));
    /* Without training data, and with more steps than there are numbers. */
    s = steps_make(&j, 0, true);
    assert_int_equal(s.last_step, 0);
    assert_true(steps_is_drain(&s, 0));
    j.train.max_steps = 0;
    s = steps_make(&j, UINT64_MAX / 2, false);
    assert_true(s.last_step == UINT64_MAX);
    assert_true(steps_drain_next(&s, UINT64_MAX - 5) == UINT64_MAX - 1); /* an epoch end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bsp),
        cmocka_unit_test(test_ssp_asp),
        cmocka_unit_test(test_make),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
