/*
 * Goal: a session asks every shard for every seq, never beyond the window or a drain point, asks
 * again as the answer says, and ends when it must. Method: one case a rule, in tables where they
 * are alike; then a random walk against a model of shards that lose, delay and forget, which checks
 * the protocol's invariants at every event. No clock: time is a number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/rng.h"
#include "worker/session.h"

#define OK         PARAMD__PUSH_PULL_REPLY__STATUS__OK
#define WAITING    PARAMD__PUSH_PULL_REPLY__STATUS__WAITING
#define LACKING    PARAMD__PUSH_PULL_REPLY__STATUS__LACKING
#define EXPECTED   PARAMD__PUSH_PULL_REPLY__STATUS__EXPECTED
#define REPLACED   PARAMD__PUSH_PULL_REPLY__STATUS__REPLACED
#define NOT_FORMED PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED
#define BUSY       PARAMD__PUSH_PULL_REPLY__STATUS__BUSY
#define FAILED     PARAMD__PUSH_PULL_REPLY__STATUS__FAILED
#define STOP       PARAMD__PUSH_PULL_REPLY__STATUS__STOP
#define WRONG_JOB  PARAMD__PUSH_PULL_REPLY__STATUS__WRONG_JOB

static struct steps calendar(enum consistency consistency, uint32_t depth)
{
    return (struct steps){.consistency = consistency,
                          .steps_per_epoch = 50,
                          .last_step = 100,
                          .drain_every = 10,
                          .checkpoint_every = 10,
                          .pipeline_depth = depth};
}

static struct session *make(const struct steps *steps, uint32_t shards, uint64_t start)
{
    struct session_options o = {.steps = *steps,
                                .rank = 3,
                                .shard_count = shards,
                                .start = start,
                                .back_off_ms = 50,
                                .back_off_max_ms = 400,
                                .give_up_ms = 5000,
                                .seed = 7};
    struct session *s = NULL;
    assert_int_equal(session_create(&o, &s), ERR_NONE);
    return s;
}

static void reply(struct session *s, const struct session_send *call, int status, uint64_t now)
{
    struct session_reply r = {.status = (Paramd__PushPullReply__Status)status};
    session_replied(s, call, &r, now);
}

/* Answers every resume; the shards say acked = `acked`. */
static void resume(struct session *s, uint64_t acked, uint64_t now)
{
    struct session_send call;
    while (session_state(s) == SESSION_RESUMING && session_next_send(s, now, &call)) {
        assert_int_equal(call.what, SESSION_SEND_RESUME);
        struct session_reply r = {
            .status = OK, .received = acked, .applied = acked, .acked = acked};
        session_replied(s, &call, &r, now);
    }
    assert_int_equal(session_state(s), SESSION_RUNNING);
}

/* Sends what is due and answers it OK. Returns how many calls that were. */
static uint32_t answer_all(struct session *s, uint64_t now)
{
    struct session_send call;
    uint32_t count = 0;
    while (session_next_send(s, now, &call)) {
        reply(s, &call, OK, now);
        count++;
    }
    return count;
}

/* A running session after `pushed` answered steps from 0. */
static struct session *running(const struct steps *steps, uint32_t shards, uint64_t pushed)
{
    struct session *s = make(steps, shards, 0);
    resume(s, 0, 0);
    answer_all(s, 0);
    while (session_next(s) <= pushed) {
        session_push(s, 0);
        answer_all(s, 0);
    }
    return s;
}

/* ---- where a session begins ---- */

static void test_begins(void **state)
{
    static const struct {
        enum consistency consistency;
        uint32_t depth;
        uint64_t start, acked;
        uint64_t first, next; /* seqs asked: first … next - 1 */
        bool header_only;
    } cases[] = {
        {CONSISTENCY_BSP, 0, 0, 0, 0, 1, false}, /* the initial state */
        {CONSISTENCY_BSP, 3, 0, 0, 0, 1, false},
        {CONSISTENCY_BSP, 3, 50, 50, 50, 51, false}, /* a checkpoint */
        {CONSISTENCY_BSP, 3, 50, 0, 50, 51, false},
        {CONSISTENCY_BSP, 0, 0, 7, 7, 8, true},    /* in place of another worker */
        {CONSISTENCY_BSP, 3, 0, 7, 4, 8, true},    /* batch 8 is made of version 4 */
        {CONSISTENCY_BSP, 3, 0, 12, 10, 13, true}, /* … batch 13 of the drain point 10 */
        {CONSISTENCY_BSP, 3, 50, 52, 50, 53, true},
        {CONSISTENCY_BSP, 3, 0, 100, 100, 101, true}, /* nothing is left but the end */
        {CONSISTENCY_ASP, 0, 0, 7, 7, 8, false},      /* a duplicate's pull is answered */
        {CONSISTENCY_SSP, 0, 0, 0, 0, 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct steps steps = calendar(cases[i].consistency, cases[i].depth);
        struct session *s = make(&steps, 2, cases[i].start);
        resume(s, cases[i].acked, 0);
        uint64_t acked = cases[i].acked > cases[i].start ? cases[i].acked : cases[i].start;
        assert_int_equal(session_first(s), cases[i].first);
        assert_int_equal(session_next(s), cases[i].next);
        assert_int_equal(session_acked(s), acked);
        struct session_send call;
        uint32_t count = 0;
        while (session_next_send(s, 0, &call)) {
            assert_int_equal(call.what, SESSION_SEND_PUSH_PULL);
            assert_int_equal(call.seq, cases[i].first + count / 2);
            assert_int_equal(call.shard, count % 2);
            assert_int_equal(call.header_only, cases[i].header_only);
            assert_int_equal(session_acked(s), acked); /* never goes down */
            count++;
        }
        assert_int_equal(count, 2 * (cases[i].next - cases[i].first));
        session_destroy(s);
    }
}

/* acked is the largest that any shard has: one may have died before the others heard of it. */
static void test_resume_takes_the_largest(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 2);
    struct session *s = make(&steps, 3, 0);
    struct session_send call;
    static const uint64_t acked[] = {4, 6, 5};
    while (session_state(s) == SESSION_RESUMING) {
        assert_true(session_next_send(s, 0, &call));
        struct session_reply r = {.status = OK, .received = 7, .acked = acked[call.shard]};
        session_replied(s, &call, &r, 0);
    }
    assert_int_equal(session_acked(s), 6);
    assert_int_equal(session_next(s), 7);
    session_destroy(s);
}

/* ---- windows and barriers ---- */

static void test_window(void **state)
{
    for (uint32_t depth = 0; depth < 4; depth++) {
        struct steps steps = calendar(CONSISTENCY_BSP, depth);
        struct session *s = running(&steps, 2, 2);
        for (uint32_t i = 0; i <= depth; i++) {
            assert_true(session_may_push(s));
            session_push(s, 0);
        }
        assert_false(session_may_push(s)); /* d + 1 are unanswered */
        struct session_send calls[16];
        size_t count = 0;
        while (session_next_send(s, 0, &calls[count]))
            count++;
        assert_int_equal(count, 2 * (depth + 1));
        reply(s, &calls[0], OK, 0);
        assert_false(session_may_push(s)); /* by one of two shards */
        assert_int_equal(session_acked(s), 2);
        reply(s, &calls[1], OK, 0);
        assert_true(session_may_push(s));
        assert_int_equal(session_acked(s), 3);
        session_destroy(s);
    }
}

static void test_drain_point_is_a_barrier(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 3);
    struct session *s = running(&steps, 2, 9);
    session_push(s, 0); /* 10 is a drain point */
    assert_false(session_may_push(s));
    struct session_send first, second;
    assert_true(session_next_send(s, 0, &first));
    assert_true(session_next_send(s, 0, &second));
    reply(s, &first, OK, 0);
    assert_false(session_may_push(s));
    assert_false(session_has_values(s, 11));
    reply(s, &second, OK, 0);
    assert_true(session_may_push(s));
    for (uint64_t b = 11; b <= 14; b++)
        assert_true(session_has_values(s, b));
    assert_false(session_has_values(s, 15));
    session_destroy(s);
}

/* Answers may overtake each other: acked is what all shards have answered without a gap. */
static void test_answers_out_of_order(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 2);
    struct session *s = running(&steps, 1, 3);
    struct session_send calls[3];
    for (int i = 0; i < 3; i++) {
        session_push(s, 0);
        assert_true(session_next_send(s, 0, &calls[i]));
    }
    reply(s, &calls[2], OK, 0);
    assert_int_equal(session_acked(s), 3);
    assert_true(session_has_values(s, 9));
    assert_false(session_has_values(s, 8));
    reply(s, &calls[2], OK, 0); /* twice is nothing */
    reply(s, &calls[0], OK, 0);
    assert_int_equal(session_acked(s), 4);
    reply(s, &calls[1], OK, 0);
    assert_int_equal(session_acked(s), 6);
    session_destroy(s);
}

/* ---- what a reply leads to ---- */

static void test_replies(void **state)
{
    static const struct {
        int status;
        bool header_only; /* of what is due next */
        enum session_state state;
        bool at_once;
    } cases[] = {
        {WAITING, true, SESSION_RUNNING, false},
        {LACKING, false, SESSION_RUNNING, false}, /* what it has been sent: a pause */
        {BUSY, false, SESSION_RUNNING, false},
        {REPLACED, false, SESSION_REPLACED, false},
        {NOT_FORMED, false, SESSION_NOT_FORMED, false},
        {WRONG_JOB, false, SESSION_NOT_FORMED, false},
        {FAILED, false, SESSION_FAILED, false},
        {77, false, SESSION_FAILED, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct steps steps = calendar(CONSISTENCY_BSP, 0);
        struct session *s = running(&steps, 1, 2);
        struct session_send call, again;
        session_push(s, 100);
        assert_true(session_next_send(s, 100, &call));
        assert_false(call.header_only);
        reply(s, &call, cases[i].status, 101);
        assert_int_equal(session_state(s), cases[i].state);
        assert_int_equal(session_next_send(s, 101, &again), cases[i].at_once);
        if (cases[i].state != SESSION_RUNNING) {
            assert_int_equal(session_due_ms(s), UINT64_MAX);
            assert_true(strlen(session_why(s)) > 0);
        } else if (!cases[i].at_once) {
            uint64_t due = session_due_ms(s);
            assert_true(due > 101 && due <= 200);
            assert_false(session_next_send(s, due - 1, &again));
            assert_true(session_next_send(s, due, &again));
        }
        if (cases[i].state == SESSION_RUNNING) {
            assert_int_equal(again.header_only, cases[i].header_only);
            assert_int_equal(again.seq, 3);
        }
        session_destroy(s);
    }
}

/* The push was lost on its way: the body goes again, at once. */
static void test_lacking(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 0);
    struct session *s = running(&steps, 1, 2);
    struct session_send call;
    session_push(s, 0);
    assert_true(session_next_send(s, 0, &call));
    session_call_failed(s, &call, false, "lost", 0);
    assert_true(session_next_send(s, 50, &call));
    assert_true(call.header_only);
    reply(s, &call, LACKING, 51);
    assert_true(session_next_send(s, 51, &call));
    assert_false(call.header_only);
    session_destroy(s);
}

/* A call that a shard held for long is asked again at once. */
static void test_waiting_long(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 0);
    struct session *s = running(&steps, 1, 2);
    struct session_send call;
    session_push(s, 0);
    for (uint64_t now = 0; now < 1000000; now += 5000) { /* far beyond give_up_ms: it answers */
        assert_true(session_next_send(s, now, &call));
        assert_int_equal(call.header_only, now > 0);
        reply(s, &call, WAITING, now + 5000);
    }
    assert_int_equal(session_state(s), SESSION_RUNNING);
    session_destroy(s);
}

static void test_back_off_and_giving_up(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 0);
    struct session *s = running(&steps, 2, 2);
    struct session_send call;
    uint64_t now = 1000, before = 0, count = 0;
    session_push(s, now);
    assert_true(session_next_send(s, now, &call));
    assert_int_equal(call.shard, 0);
    struct session_send other;
    assert_true(session_next_send(s, now, &other));
    reply(s, &other, OK, now);
    while (session_state(s) == SESSION_RUNNING) {
        session_call_failed(s, &call, false, "unavailable", now);
        if (session_state(s) != SESSION_RUNNING)
            break;
        uint64_t delay = session_due_ms(s) - now, most = count < 3 ? 50u << count : 400;
        assert_in_range(delay, most / 2, most);
        before += delay;
        now += delay;
        assert_true(session_next_send(s, now, &call));
        assert_true(call.header_only); /* the push may have arrived */
        count++;
    }
    assert_int_equal(session_state(s), SESSION_UNREACHABLE);
    assert_in_range(before, 5000, 5400);
    assert_non_null(strstr(session_why(s), "shard 0"));
    session_destroy(s);
}

static void test_hopeless(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 0);
    struct session *s = running(&steps, 1, 2);
    struct session_send call;
    session_push(s, 0);
    assert_true(session_next_send(s, 0, &call));
    session_call_failed(s, &call, true, "table f: key 7 does not ascend", 0);
    assert_int_equal(session_state(s), SESSION_FAILED);
    assert_non_null(strstr(session_why(s), "does not ascend"));
    session_destroy(s);
}

/* EXPECTED n: everything unanswered from n on goes again; what is answered is not held any more. */
static void test_expected(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 2);
    struct session *s = running(&steps, 1, 3);
    struct session_send calls[3], again;
    for (int i = 0; i < 3; i++) {
        session_push(s, 0);
        assert_true(session_next_send(s, 0, &calls[i]));
    }
    session_call_failed(s, &calls[0], false, "lost", 0);
    session_call_failed(s, &calls[1], false, "lost", 0);
    struct session_reply r = {.status = EXPECTED, .received = 3};
    session_replied(s, &calls[2], &r, 1);
    uint64_t seq = 4;
    for (uint64_t now = 1; seq <= 6 && now < 200; now++) {
        while (session_next_send(s, now, &again)) {
            assert_int_equal(again.seq, seq);
            assert_false(again.header_only);
            seq++;
        }
    }
    assert_int_equal(seq, 7);
    r.received = 1; /* 2 was answered */
    session_replied(s, &calls[2], &r, 300);
    assert_int_equal(session_state(s), SESSION_FAILED);
    session_destroy(s);
}

/* Values that a dead worker had were kept for us; a shard that lost them breaks a promise. */
static void test_lacking_what_was_kept(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 1);
    struct session *s = make(&steps, 1, 0);
    struct session_send call;
    resume(s, 7, 0);
    assert_true(session_next_send(s, 0, &call));
    reply(s, &call, LACKING, 0);
    assert_int_equal(session_state(s), SESSION_FAILED);
    session_destroy(s);
}

/* A message of the worker's session before, of the same lease, came after our resume: the shard
   took its word for what is acknowledged, so the values that we ask for are gone and the state that
   we begin from is old. In every mode, and whether the header went alone or not. */
static void test_overtaken(void **state)
{
    static const enum consistency modes[] = {CONSISTENCY_BSP, CONSISTENCY_SSP, CONSISTENCY_ASP};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        struct steps steps = calendar(modes[i], modes[i] == CONSISTENCY_BSP ? 1 : 0);
        struct session *s = make(&steps, 1, 0);
        struct session_send call;
        resume(s, 7, 0);
        assert_true(session_next_send(s, 0, &call));
        struct session_reply r = {.status = LACKING, .received = 9, .applied = 8, .acked = 8};
        session_replied(s, &call, &r, 0);
        assert_int_equal(session_state(s), SESSION_OVERTAKEN);
        assert_non_null(strstr(session_why(s), "acknowledged push-pull 8"));
        session_destroy(s);
    }
}

static void test_ends(void **state)
{
    struct steps steps = calendar(CONSISTENCY_BSP, 1);
    struct session *s = running(&steps, 2, 99);
    session_push(s, 0);
    assert_int_equal(session_state(s), SESSION_RUNNING);
    assert_int_equal(answer_all(s, 0), 2);
    assert_int_equal(session_state(s), SESSION_FINISHED);
    assert_false(session_may_push(s));
    session_destroy(s);

    s = running(&steps, 2, 9);
    session_push(s, 0);
    struct session_send first, second;
    assert_true(session_next_send(s, 0, &first));
    assert_true(session_next_send(s, 0, &second));
    reply(s, &first, STOP, 0);
    assert_int_equal(session_state(s), SESSION_RUNNING);
    reply(s, &second, STOP, 0);
    assert_int_equal(session_state(s), SESSION_FINISHED);
    assert_int_equal(session_acked(s), 10);
    session_destroy(s);
}

/* ---- a random walk against a model ---- */

struct model {
    uint64_t received[4]; /* a shard: the last push it took */
    bool open[4][128];    /* calls on their way */
};

static void walk(uint64_t seed, uint32_t depth, uint32_t shards)
{
    struct steps steps = calendar(CONSISTENCY_BSP, depth);
    struct session *s = make(&steps, shards, 0);
    struct model m = {0};
    struct session_send open[512];
    size_t open_count = 0;
    uint64_t now = 0, acked = 0, n = 0, events = 0;
    resume(s, 0, 0);
    while (session_state(s) == SESSION_RUNNING) {
        assert_true(++events < 200000);
        struct session_send call;
        while (session_next_send(s, now, &call)) {
            assert_false(m.open[call.shard][call.seq]); /* one call at a time */
            m.open[call.shard][call.seq] = true;
            open[open_count++] = call;
            assert_true(open_count < 512);
            bool arrives = rng_below(rng_at(seed, n++), 10) > 2;
            if (arrives && !call.header_only && call.seq == m.received[call.shard] + 1)
                m.received[call.shard]++;
        }
        assert_true(session_acked(s) >= acked);
        acked = session_acked(s);
        assert_true(session_next(s) - session_oldest(s) <= depth + 1);
        uint64_t dice = rng_below(rng_at(seed, n++), 10);
        if (dice < 3 && session_may_push(s) && session_has_values(s, session_next(s))) {
            session_push(s, now);
            continue;
        }
        if (open_count == 0) {
            if (session_due_ms(s) != UINT64_MAX)
                now = session_due_ms(s) > now ? session_due_ms(s) : now;
            continue;
        }
        size_t at = (size_t)rng_below(rng_at(seed, n++), open_count);
        call = open[at];
        open[at] = open[--open_count];
        m.open[call.shard][call.seq] = false;
        now += 1;
        uint64_t received = m.received[call.shard];
        if (rng_below(rng_at(seed, n++), 10) < 3) {
            session_call_failed(s, &call, false, "lost", now);
        } else {
            struct session_reply r = {.received = received, .status = OK};
            if (call.seq > received)
                r.status = call.seq > received + depth + 1 ? EXPECTED : LACKING;
            session_replied(s, &call, &r, now);
        }
    }
    assert_int_equal(session_state(s), SESSION_FINISHED);
    for (uint32_t i = 0; i < shards; i++)
        assert_int_equal(m.received[i], steps.last_step);
    session_destroy(s);
}

static void test_random_walks(void **state)
{
    for (uint64_t seed = 1; seed <= 200; seed++)
        walk(seed, (uint32_t)(seed % 4), 1 + (uint32_t)(seed / 4 % 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begins),
        cmocka_unit_test(test_resume_takes_the_largest),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_drain_point_is_a_barrier),
        cmocka_unit_test(test_answers_out_of_order),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_lacking),
        cmocka_unit_test(test_waiting_long),
        cmocka_unit_test(test_back_off_and_giving_up),
        cmocka_unit_test(test_hopeless),
        cmocka_unit_test(test_expected),
        cmocka_unit_test(test_lacking_what_was_kept),
        cmocka_unit_test(test_overtaken),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_random_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
