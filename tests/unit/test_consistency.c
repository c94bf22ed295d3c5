/*
 * Goal: in every mode no worker that keeps the rules is ever refused or left waiting for good, no
 * reply leaves before it may, and nothing passes a drain point before all have reached it. Method:
 * all schedules of small worlds: ranks send as the window allows, pushes arrive in any order,
 * replies leave when they may; each reachable state is visited once and held against the rules.
 * Then what is refused, as a table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "server/consistency.h"

#define RANKS      3
#define STATES_MAX (1u << 21)

/* One state; bit t of a mask stands for seq t. */
struct world {
    struct consistency_rank ranks[RANKS];
    uint32_t version, verdict;
    uint16_t sent[RANKS];     /* the last one */
    uint16_t arrived[RANKS];  /* mask */
    uint16_t answered[RANKS]; /* mask */
};

struct explorer {
    struct steps steps;
    uint32_t rank_count, staleness;
    uint64_t *seen; /* open addressing by packed state; 0: empty */
    struct world *stack;
    uint32_t stack_count, seen_count, ends;
};

static struct consistency_state state_of(const struct explorer *x, struct world *w)
{
    return (struct consistency_state){.steps = x->steps,
                                      .staleness = x->staleness,
                                      .rank_count = x->rank_count,
                                      .ranks = w->ranks,
                                      .version = w->version,
                                      .verdict_step = w->verdict};
}

static uint64_t pack(const struct explorer *x, const struct world *w)
{
    uint64_t bits = w->verdict + 1;
    for (uint32_t r = 0; r < x->rank_count; r++) {
        bits = bits * 1000003 + w->sent[r];
        bits = bits * 1000003 + w->arrived[r];
        bits = bits * 1000003 + w->answered[r];
        bits = bits * 1000003 + w->ranks[r].applied;
    }
    return bits | 1;
}

static void visit(struct explorer *x, const struct world *w)
{
    uint64_t packed = pack(x, w), slot = packed * 0x9e3779b97f4a7c15u;
    for (slot >>= 42; x->seen[slot] != 0; slot = (slot + 1) % (STATES_MAX * 2)) {
        if (x->seen[slot] == packed)
            return;
    }
    assert_true(++x->seen_count < STATES_MAX);
    x->seen[slot] = packed;
    x->stack[x->stack_count++] = *w;
}

static bool has(uint16_t mask, uint64_t seq)
{
    return mask >> seq & 1;
}

/* By the words of PROTOCOL.md, from the world's side. */
static void check_reply(const struct explorer *x, const struct world *w, uint32_t r, uint64_t seq)
{
    uint64_t slowest = UINT64_MAX;
    for (uint32_t i = 0; i < x->rank_count; i++)
        slowest = w->ranks[i].applied < slowest ? w->ranks[i].applied : slowest;
    assert_true(w->ranks[r].applied >= seq);
    if (x->steps.consistency == CONSISTENCY_BSP || steps_is_drain(&x->steps, seq))
        assert_true(slowest >= seq);
    if (x->steps.consistency == CONSISTENCY_SSP)
        assert_true(seq <= slowest + x->staleness);
    if (steps_is_eval(&x->steps, seq) || seq == x->steps.last_step)
        assert_true(w->verdict >= seq);
}

static void check_barrier(const struct explorer *x, const struct world *w)
{
    for (uint32_t r = 0; r < x->rank_count; r++) {
        uint64_t passed = steps_drain_before(&x->steps, w->ranks[r].received);
        for (uint32_t i = 0; i < x->rank_count; i++)
            assert_true(w->ranks[i].applied >= passed);
        assert_true(w->ranks[r].received <= w->ranks[r].applied + x->steps.pipeline_depth + 1);
    }
}

/* A push arrives; what its turn has come for is applied. */
static void arrive(struct explorer *x, const struct world *before, uint32_t r, uint64_t seq)
{
    struct world w = *before;
    struct consistency_state c = state_of(x, &w);
    assert_int_equal(consistency_decide(&c, r, 0, seq), PUSH_TAKE);
    w.arrived[r] |= (uint16_t)(1u << seq);
    while (w.ranks[r].received < x->steps.last_step && has(w.arrived[r], w.ranks[r].received + 1)) {
        consistency_received(&c, r, w.ranks[r].received + 1, 0);
        if (x->steps.consistency != CONSISTENCY_BSP)
            consistency_applied_one(&c, r, w.ranks[r].received);
    }
    uint64_t step;
    while ((step = consistency_ready_step(&c)) != 0)
        consistency_applied_all(&c, step);
    w.version = (uint32_t)c.version;
    assert_int_equal(consistency_decide(&c, r, 0, w.ranks[r].received), PUSH_DUPLICATE);
    check_barrier(x, &w);
    visit(x, &w);
}

static bool may_send(const struct explorer *x, const struct world *w, uint32_t r)
{
    uint64_t next = w->sent[r] + 1u, unanswered = 0;
    if (next > x->steps.last_step)
        return false;
    for (uint64_t t = 1; t < next; t++)
        unanswered += !has(w->answered[r], t);
    uint64_t barrier = steps_drain_before(&x->steps, next);
    return unanswered <= x->steps.pipeline_depth && (barrier == 0 || has(w->answered[r], barrier));
}

/* All that can happen next. */
static uint32_t expand(struct explorer *x, const struct world *w)
{
    uint32_t actions = 0;
    for (uint32_t r = 0; r < x->rank_count; r++) {
        if (may_send(x, w, r)) {
            struct world sent = *w;
            sent.sent[r]++;
            visit(x, &sent);
            actions++;
        }
        for (uint64_t t = 1; t <= w->sent[r]; t++) {
            struct world copy = *w;
            struct consistency_state c = state_of(x, &copy);
            if (!has(w->arrived[r], t)) {
                arrive(x, w, r, t);
                actions++;
            } else if (!has(w->answered[r], t) && consistency_may_reply(&c, r, t)) {
                check_reply(x, w, r, t);
                copy.answered[r] |= (uint16_t)(1u << t);
                visit(x, &copy);
                actions++;
            }
        }
    }
    struct world copy = *w;
    struct consistency_state c = state_of(x, &copy);
    if (consistency_needs_verdict(&c, w->version) && w->verdict < w->version) {
        copy.verdict = w->version;
        visit(x, &copy);
        actions++;
    }
    return actions;
}

static uint32_t explore(struct explorer *x)
{
    memset(x->seen, 0, STATES_MAX * 2 * sizeof *x->seen);
    x->seen_count = x->stack_count = x->ends = 0;
    visit(x, &(struct world){.version = 0});
    while (x->stack_count > 0) {
        struct world w = x->stack[--x->stack_count];
        if (expand(x, &w) > 0)
            continue;
        for (uint32_t r = 0; r < x->rank_count; r++)
            assert_int_equal(w.answered[r], (2u << x->steps.last_step) - 2);
        x->ends++;
    }
    assert_int_equal(x->ends, 1);
    return x->seen_count;
}

static void test_all_schedules(void **state)
{
    static const struct {
        enum consistency mode;
        uint32_t ranks, depth, staleness;
        uint64_t last, drain_every, eval_every;
    } cases[] = {
        {CONSISTENCY_BSP, 2, 0, 0, 6, 3, 0}, {CONSISTENCY_BSP, 2, 1, 0, 6, 3, 4},
        {CONSISTENCY_BSP, 2, 2, 0, 6, 4, 0}, {CONSISTENCY_BSP, 2, 5, 0, 5, 0, 0},
        {CONSISTENCY_BSP, 3, 1, 0, 4, 3, 2}, {CONSISTENCY_BSP, 1, 3, 0, 9, 5, 3},
        {CONSISTENCY_SSP, 2, 0, 0, 6, 3, 3}, {CONSISTENCY_SSP, 3, 0, 1, 5, 3, 0},
        {CONSISTENCY_SSP, 3, 0, 2, 5, 2, 4}, {CONSISTENCY_ASP, 3, 0, 0, 5, 4, 0},
        {CONSISTENCY_ASP, 2, 0, 0, 8, 3, 5},
    };
    struct explorer x = {.seen = mem_alloc_array(STATES_MAX * 2, sizeof *x.seen),
                         .stack = mem_alloc_array(STATES_MAX, sizeof *x.stack)};
    assert_true(x.seen != NULL && x.stack != NULL);
    uint32_t states = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        x.rank_count = cases[i].ranks;
        x.staleness = cases[i].staleness;
        x.steps = (struct steps){.consistency = cases[i].mode,
                                 .steps_per_epoch = cases[i].last,
                                 .last_step = cases[i].last,
                                 .drain_every = cases[i].drain_every,
                                 .eval_every = cases[i].eval_every,
                                 .has_eval = cases[i].eval_every != 0,
                                 .checkpoint_every = 3,
                                 .pipeline_depth = cases[i].depth};
        states += explore(&x);
    }
    assert_true(states > 5000);
    mem_free(x.seen);
    mem_free(x.stack);
}

static void test_refusals(void **state)
{
    struct steps steps = {.consistency = CONSISTENCY_BSP,
                          .steps_per_epoch = 100,
                          .last_step = 100,
                          .drain_every = 10,
                          .pipeline_depth = 2};
    struct consistency_state c;
    assert_int_equal(consistency_init(&c, &steps, 2, 0, 15), ERR_INPUT);
    assert_int_equal(consistency_init(&c, &steps, 0, 0, 10), ERR_LIMIT);
    mem_fail_nth(1);
    assert_int_equal(consistency_init(&c, &steps, 2, 0, 10), ERR_MEMORY);
    mem_fail_nth(0);
    assert_int_equal(consistency_init(&c, &steps, 2, 0, 10), ERR_NONE);
    c.ranks[1].lease = 4;
    static const struct {
        uint32_t rank;
        uint64_t lease, seq;
        enum push_decision decision;
    } cases[] = {
        {0, 0, 10, PUSH_DUPLICATE}, {0, 0, 3, PUSH_DUPLICATE}, {0, 0, 11, PUSH_TAKE},
        {0, 0, 13, PUSH_TAKE},      {0, 0, 14, PUSH_BEYOND},   {0, 0, UINT64_MAX, PUSH_BEYOND},
        {1, 3, 11, PUSH_REPLACED},  {1, 3, 10, PUSH_REPLACED}, {1, 4, 11, PUSH_TAKE},
        {1, 5, 11, PUSH_TAKE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(consistency_decide(&c, cases[i].rank, cases[i].lease, cases[i].seq),
                         cases[i].decision);
    /* At step 19 the window reaches past the drain point 20. */
    for (uint64_t t = 11; t <= 19; t++) {
        consistency_received(&c, 0, t, 0);
        consistency_received(&c, 1, t, 0);
        consistency_applied_all(&c, t);
    }
    assert_int_equal(consistency_decide(&c, 0, 0, 20), PUSH_TAKE);
    assert_int_equal(consistency_decide(&c, 0, 0, 21), PUSH_PAST_BARRIER);
    consistency_received(&c, 0, 20, 17);
    consistency_received(&c, 0, 20, 12);
    assert_int_equal(c.ranks[0].acked, 17);
    assert_int_equal(consistency_ready_step(&c), 0);
    assert_int_equal(consistency_decide(&c, 0, 0, 21), PUSH_PAST_BARRIER);
    consistency_received(&c, 1, 20, 0);
    assert_int_equal(consistency_ready_step(&c), 20);
    consistency_applied_all(&c, 20);
    assert_int_equal(consistency_decide(&c, 0, 0, 21), PUSH_TAKE);
    c.verdict_step = 20;
    c.verdict_stop = true;
    assert_int_equal(consistency_decide(&c, 0, 0, 21), PUSH_PAST_BARRIER);
    consistency_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_schedules),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
