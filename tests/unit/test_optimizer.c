/*
 * Goal: updates are those of the papers; an element's bits do not depend on where it lies nor on
 * how many are updated with it. Method: float64 references over 50 random steps; every count from 1
 * to 70 at every offset, aligned or not, against one element at a time, bit by bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/rng.h"
#include "common/schema.h"
#include "server/optimizer.h"

#define COUNT 70
#define STEPS 50

static const char *const names[] = {"sgd", "momentum", "adagrad", "adam", "rmsprop", "ftrl"};
#define NAME_COUNT (sizeof names / sizeof names[0])

static struct optimizer_spec spec_of(const char *name, bool nesterov)
{
    struct optimizer_spec s = {.learning_rate = 0.05,
                               .momentum = 0.9,
                               .nesterov = nesterov,
                               .beta1 = 0.9,
                               .beta2 = 0.99,
                               .epsilon = 1e-6,
                               .l1 = 0.03,
                               .l2 = 0.2,
                               .beta = 1.0,
                               .weight_decay = 0.01};
    strcpy(s.type, name);
    return s;
}

/* One element in double: p, and slots a and b. */
struct element {
    double p, a, b;
};

static void reference(const struct optimizer_spec *s, double g, uint64_t step, struct element *e)
{
    double rate = s->learning_rate;
    if (strcmp(s->type, "adam") != 0 && strcmp(s->type, "ftrl") != 0)
        g += s->weight_decay * e->p;
    if (strcmp(s->type, "sgd") == 0) {
        e->p -= rate * g;
    } else if (strcmp(s->type, "momentum") == 0) {
        e->a = s->momentum * e->a + g;
        e->p -= rate * (s->nesterov ? g + s->momentum * e->a : e->a);
    } else if (strcmp(s->type, "adagrad") == 0) {
        e->a += g * g;
        e->p -= rate * g / (sqrt(e->a) + s->epsilon);
    } else if (strcmp(s->type, "adam") == 0) {
        e->a = s->beta1 * e->a + (1 - s->beta1) * g;
        e->b = s->beta2 * e->b + (1 - s->beta2) * g * g;
        double m = e->a / (1 - pow(s->beta1, (double)step));
        double v = e->b / (1 - pow(s->beta2, (double)step));
        e->p = e->p - rate * s->weight_decay * e->p - rate * m / (sqrt(v) + s->epsilon);
    } else if (strcmp(s->type, "rmsprop") == 0) {
        e->a = s->beta2 * e->a + (1 - s->beta2) * g * g;
        e->p -= rate * g / (sqrt(e->a) + s->epsilon);
    } else {
        double n = e->b + g * g;
        e->a += g - (sqrt(n) - sqrt(e->b)) / rate * e->p;
        e->b = n;
        e->p = fabs(e->a) <= s->l1
                   ? 0
                   : -(e->a - copysign(s->l1, e->a)) / ((s->beta + sqrt(n)) / rate + s->l2);
    }
}

static float random_value(uint64_t i)
{
    return 2.0f * rng_uniform(rng_at(5, i)) - 1.0f;
}

static void check_reference(const struct optimizer_spec *s)
{
    float param[COUNT], grad[COUNT], slots[2 * COUNT] = {0};
    struct element exact[COUNT] = {{0}};
    uint32_t zeros = 0;
    for (uint32_t i = 0; i < COUNT; i++)
        exact[i].p = param[i] = 0.1f * random_value(i);
    for (uint64_t step = 1; step <= STEPS; step++) {
        struct optimizer_step prepared;
        const struct optimizer *o = optimizer_prepare(s, step, STEPS, &prepared);
        for (uint32_t i = 0; i < COUNT; i++) {
            grad[i] = 8.0f * random_value(1000 * step + i);
            reference(s, (double)grad[i] * 0.125 + 0.25 * exact[i].p, step, &exact[i]);
        }
        struct optimizer_update u = {.param = param,
                                     .out = param,
                                     .grad = grad,
                                     .grad_scale = 0.125f,
                                     .l2 = 0.25f,
                                     .slots = slots,
                                     .slot_stride = COUNT,
                                     .count = COUNT};
        o->apply(&prepared, &u);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        if (fabs(param[i] - exact[i].p) > 2e-4 * (fabs(exact[i].p) + 0.01))
            fail_msg("%s: element %u is %.9g, not %.9g", s->type, i, param[i], exact[i].p);
        zeros += param[i] == 0.0f;
    }
    assert_true(strcmp(s->type, "ftrl") == 0 || zeros == 0);
}

static void test_references(void **state)
{
    for (size_t i = 0; i < NAME_COUNT; i++) {
        struct optimizer_spec s = spec_of(names[i], false);
        check_reference(&s);
    }
    struct optimizer_spec nesterov = spec_of("momentum", true);
    check_reference(&nesterov);
}

/* The state of COUNT elements, with room for offsets. */
struct arrays {
    float param[2 * COUNT], slots[4 * COUNT];
    uint8_t grad[8 * COUNT * sizeof(float)];
};

static void fill(struct arrays *a, uint32_t offset, uint32_t count, uint32_t shift)
{
    memset(a, 0, sizeof *a);
    for (uint32_t i = 0; i < count; i++) {
        float g = 100.0f * random_value(i);
        memcpy(a->grad + shift + (offset + i) * sizeof g, &g, sizeof g);
        a->param[offset + i] = random_value(i + 100);
        for (uint32_t k = 0; k < 2; k++)
            a->slots[offset + i + k * 2 * COUNT] = fabsf(random_value(i + 200 + 100 * k));
    }
}

static void update(const struct optimizer *o, const struct optimizer_step *step, struct arrays *a,
                   uint32_t first, uint32_t count, uint32_t shift, float *out)
{
    struct optimizer_update u = {
        .param = a->param + first,
        .out = out,
        .grad = (const float *)(const void *)(a->grad + shift + first * sizeof(float)),
        .grad_scale = 1.0f / 3.0f,
        .l2 = 0.07f,
        .slots = a->slots + first,
        .slot_stride = 2 * COUNT,
        .count = count};
    o->apply(step, &u);
}

static void check_place(const struct optimizer *o, const struct optimizer_step *step,
                        uint32_t offset, uint32_t count)
{
    struct arrays alone, together;
    float out[COUNT];
    fill(&alone, 0, count, 0);
    for (uint32_t i = 0; i < count; i++)
        update(o, step, &alone, i, 1, 0, alone.param + i);
    /* In place, and to another array, with gradients that are not aligned. */
    fill(&together, offset, count, 0);
    update(o, step, &together, offset, count, 0, together.param + offset);
    assert_memory_equal(alone.param, together.param + offset, count * sizeof(float));
    fill(&together, offset, count, 3);
    update(o, step, &together, offset, count, 3, out);
    assert_memory_equal(alone.param, out, count * sizeof(float));
    for (uint32_t k = 0; k < 2; k++)
        assert_memory_equal(alone.slots + k * 2 * COUNT, together.slots + offset + k * 2 * COUNT,
                            count * sizeof(float));
}

static void test_bits(void **state)
{
    for (size_t n = 0; n < NAME_COUNT; n++) {
        struct optimizer_spec s = spec_of(names[n], n == 1);
        struct optimizer_step step;
        const struct optimizer *o = optimizer_prepare(&s, 7, 100, &step);
        for (uint32_t count = 1; count <= COUNT; count++) {
            for (uint32_t offset = 0; offset < 17; offset++)
                check_place(o, &step, offset, count);
        }
    }
}

static void test_table(void **state)
{
    for (size_t i = 0; i < NAME_COUNT; i++) {
        const struct optimizer *o = optimizer_find(names[i]);
        assert_non_null(o);
        assert_string_equal(o->name, names[i]);
        assert_int_equal(o->slot_count, optimizer_slot_count(names[i]));
    }
    assert_null(optimizer_find("lion"));
}

static void test_schedule(void **state)
{
    static const struct {
        struct schedule_spec schedule;
        uint64_t step, last;
        double factor;
    } cases[] = {
        {{0}, 1, 100, 1.0},
        {{.warmup_steps = 10}, 1, 100, 0.1},
        {{.warmup_steps = 10}, 10, 100, 1.0},
        {{.warmup_steps = 10}, 50, 100, 1.0},
        {{0, DECAY_LINEAR, 0, 0, 0.1}, 50, 100, 0.55},
        {{0, DECAY_LINEAR, 0, 0, 0.1}, 100, 100, 0.1},
        {{0, DECAY_LINEAR, 20, 0, 0.5}, 10, 100, 0.75},
        {{0, DECAY_LINEAR, 20, 0, 0.5}, 90, 100, 0.5},
        {{20, DECAY_LINEAR, 0, 0, 0.0}, 60, 100, 0.5},
        {{0, DECAY_COSINE, 0, 0, 0.2}, 50, 100, 0.6},
        {{0, DECAY_COSINE, 0, 0, 0.2}, 100, 100, 0.2},
        {{0, DECAY_COSINE, 0, 0, 0.2}, 25, 100, 0.2 + 0.4 * (1 + M_SQRT1_2)},
        {{0, DECAY_STEP, 30, 0.5, 0}, 29, 100, 1.0},
        {{0, DECAY_STEP, 30, 0.5, 0}, 30, 100, 0.5},
        {{0, DECAY_STEP, 30, 0.5, 0}, 95, 100, 0.125},
        {{5, DECAY_STEP, 30, 0.5, 0}, 34, 100, 1.0},
        {{5, DECAY_STEP, 30, 0.5, 0}, 35, 100, 0.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double f = schedule_factor(&cases[i].schedule, cases[i].step, cases[i].last);
        if (fabs(f - cases[i].factor) > 1e-12)
            fail_msg("case %zu: %.15g, not %.15g", i, f, cases[i].factor);
    }
    struct optimizer_spec s = spec_of("sgd", false);
    s.schedule = (struct schedule_spec){.warmup_steps = 4};
    struct optimizer_step step;
    optimizer_prepare(&s, 1, 100, &step);
    assert_true(step.learning_rate == (float)(0.05 * 0.25));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
