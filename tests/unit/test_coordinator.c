/*
 * Goal: jobs live as they should, whatever their members, the store and the user do: in order,
 * once, with reasons (how one begins: test_coordinator_submit.c). Method: the coordinator in a
 * modelled world (tests/support/cluster_model), turn by turn; every case is a whole life and what
 * must be true of it at the end. No threads, no clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tests/support/coordinator_job.h"

/* ---- a whole life ---- */

static void test_whole_job(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    model_submit(&m, JOB("whole", ""), "shutdown");
    Paramd__Control__StatusReply *s = status_of(&m, "whole", "DONE");
    assert_int_equal(s->step, 40);
    assert_int_equal(s->last_step, 40);
    assert_int_equal(s->epoch, 4);
    assert_int_equal(s->generation, 1);
    assert_string_equal(s->checkpoint, "file:runs/whole/1-40");
    assert_int_equal(s->examples, 4000);
    assert_int_equal(s->n_evals, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(s->evals[i]->step, (i + 1) * 10);
        assert_int_equal(s->evals[i]->epoch, i + 1);
        assert_int_equal(s->evals[i]->examples, 8); /* two of each of four shares */
    }
    assert_true(s->train_seconds > 0);
    assert_false(s->stopped_early);
    done_with(s);
    /* At the first drain points from 15 and 30 on, and at the end; every one with the evaluations
     * before it. */
    assert_int_equal(m.stored_count, 3);
    const uint64_t steps[] = {15, 30, 40};
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(m.stored[i].step, steps[i]);
        assert_int_equal(m.stored[i].manifest->file_count, 4);
        assert_int_equal(m.stored[i].manifest->ranks[0].examples, steps[i] * 100);
    }
    assert_null(strstr(m.stored[0].manifest->evals_json, "\"step\":20"));
    assert_non_null(strstr(m.stored[1].manifest->evals_json, "\"step\":30"));
    assert_int_equal(m.retained, 3);
    /* Workers go first, and all are told to leave. */
    for (int i = 0; i < 5; i++)
        model_turn(&m);
    for (uint32_t i = 0; i < 4; i++) {
        assert_string_equal(m.members[i].job, "");
        assert_true(m.members[i].orders->shutdown);
    }
    assert_true(m.members[2].released_turn <= m.members[0].released_turn);
    model_deinit(&m);
}

static void test_layout_and_leases(void **state)
{
    struct model m;
    model_init(&m, 2, 3);
    model_submit(&m, JOB("layout", "vars: {}\n"), "");
    assert_true(model_until(&m, "layout", "RUNNING", TURNS));
    model_turn(&m);
    model_turn(&m);
    uint32_t ranks = 0, parts = 0, idle = 0;
    for (uint32_t i = 2; i < 5; i++) {
        const Paramd__Control__WorkerOrders *w = m.members[i].orders->worker;
        idle += w == NULL;
        for (size_t k = 0; w != NULL && k < w->n_ranks; k++) {
            assert_int_equal(w->ranks[k]->rank, ranks);
            assert_int_equal(w->ranks[k]->lease, 1);
            ranks++;
        }
        parts += w != NULL ? w->evaluate_part_count : 0;
    }
    assert_int_equal(ranks, 4);
    assert_int_equal(parts, 4);
    assert_int_equal(idle, 1);
    assert_int_equal(m.members[0].orders->server->n_shards, 2);
    assert_int_equal(m.members[1].orders->server->shards[0], 2);
    assert_int_equal(m.members[0].orders->server->n_leases, 4);
    model_deinit(&m);
}

static void test_queue(void **state)
{
    struct model m;
    model_init(&m, 2, 1);
    model_submit(&m, JOB("one", ""), "");
    model_submit(&m, JOB("two", ""), "");
    model_turn(&m);
    model_turn(&m);
    Paramd__Control__StatusReply *s = status_of(&m, "one", "QUEUED");
    assert_contains(s->why, "2 servers (2 free) and 2 workers (1 free)");
    done_with(s);
    s = status_of(&m, "two", "QUEUED");
    assert_contains(s->why, "behind job 'one'");
    done_with(s);
    model_add(&m, "worker-9", false);
    assert_true(model_until(&m, "one", "DONE", TURNS));
    done_with(status_of(&m, "two", "DONE"));
    model_deinit(&m);
}

/* ---- early stopping ---- */

static void test_early_stopping(void **state)
{
    static const double better_then_worse[] = {1, 3, 2, 1.5};
    struct model m;
    model_init(&m, 2, 2);
    m.quality = better_then_worse;
    m.quality_count = 4;
    model_submit(&m,
                 JOB("early", "eval: {metrics: [log_loss]}\n"
                              "early_stopping: {metric: log_loss, patience: 1}\n"),
                 "");
    Paramd__Control__StatusReply *s = status_of(&m, "early", "DONE");
    assert_true(s->stopped_early);
    assert_int_equal(s->n_evals, 3);
    assert_string_equal(s->checkpoint, "file:runs/early/1-20");
    assert_int_equal(s->checkpoint_step, 20);
    done_with(s);
    assert_non_null(model_find(&m, 1, 10)); /* the best one then */
    assert_non_null(model_find(&m, 1, 20));
    assert_non_null(model_find(&m, 1, 30)); /* the last one, always */
    /* The next leader knows what its result is. */
    model_new_leader(&m);
    s = status_of(&m, "early", "DONE");
    assert_string_equal(s->checkpoint, "file:runs/early/1-20");
    done_with(s);
    /* Resumed, it knows that it is over, and what was best. */
    model_submit(&m,
                 JOB("early", "eval: {metrics: [log_loss]}\n"
                              "early_stopping: {metric: log_loss, patience: 1}\n"),
                 "resume");
    s = status_of(&m, "early", "DONE");
    assert_string_equal(s->checkpoint, "file:runs/early/1-20");
    assert_true(s->stopped_early);
    assert_int_equal(s->examples, 0);
    done_with(s);
    model_deinit(&m);
}

/* ---- checkpoints ---- */

static void test_arm_refused(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.members[0].refuse_arms = 1;
    model_submit(&m, JOB("refuse", ""), "");
    done_with(status_of(&m, "refuse", "DONE"));
    assert_true(model_logged(&m, "drain point 15 came too soon"));
    assert_true(m.stored_count >= 2); /* a later one was taken in its place */
    assert_non_null(model_find(&m, 1, 40));
    model_deinit(&m);
}

static void test_final_abandoned(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.members[1].abandon = 5;
    model_submit(&m, JOB("disk", ""), "");
    Paramd__Control__StatusReply *s = status_of(&m, "disk", "DONE");
    assert_string_equal(s->checkpoint, "file:runs/disk/1-40");
    assert_true(s->n_warnings > 0);
    assert_contains(s->warnings[0], "disk full");
    done_with(s);
    model_deinit(&m);
}

/* No checkpoint succeeds: past max_age training holds at a drain point, and goes on with one. */
static void test_max_age(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    m.members[1].abandon = 1000;
    model_submit(&m,
                 "name: old\n"
                 "data: {format: csv, train: a.csv, eval: b.csv, label: y}\n"
                 "features: {a: categorical}\n"
                 "model: {type: lr}\n"
                 "train: {batch_size: 100, epochs: 100, ranks: 4, drain_every: 5}\n"
                 "checkpoint: {uri: \"file:runs\", every_steps: 15, max_age: 10s}\n"
                 "resources: {servers: 2, workers: 2, shards: 2}\n",
                 "");
    assert_true(model_until(&m, "old", "RUNNING", TURNS));
    for (int i = 0; i < 110; i++)
        model_turn(&m);
    assert_true(model_logged(&m, "attempts failed since"));
    assert_true(model_logged(&m, "training holds at the next drain point"));
    uint64_t held = m.members[0].shards[0].applied;
    assert_int_equal(held % 5, 0);
    for (int i = 0; i < 400; i++) {
        model_turn(&m);
        assert_int_equal(m.members[0].shards[0].applied, held);
    }
    Paramd__Control__StatusReply *s = model_status(&m, "old");
    assert_string_equal(s->state, "RUNNING");
    assert_true(s->checkpoint_age_seconds > 45 && s->checkpoint_age_seconds < 60);
    done_with(s);
    m.members[1].abandon = 0;
    for (int i = 0; i < 400 && m.members[0].shards[0].applied == held; i++)
        model_turn(&m);
    assert_true(model_logged(&m, "training goes on"));
    assert_non_null(model_find(&m, 1, held));
    s = model_status(&m, "old");
    assert_true(s->checkpoint_age_seconds < 10);
    done_with(s);
    done_with(status_of(&m, "old", "RUNNING"));
    assert_true(model_until(&m, "old", "DONE", 3000));
    model_deinit(&m);
}

static void test_checkpoint_now(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    model_submit(&m, JOB("now", ""), "");
    uint64_t step = 0;
    assert_int_equal(coordinator_checkpoint_now(m.c, "now", m.now, &step), ERR_REFUSED);
    assert_true(model_until(&m, "now", "RUNNING", TURNS));
    assert_int_equal(coordinator_checkpoint_now(m.c, "now", m.now, &step), ERR_NONE);
    assert_int_equal(step, 5);
    done_with(status_of(&m, "now", "DONE"));
    assert_non_null(model_find(&m, 1, 5));
    assert_non_null(model_find(&m, 1, 15)); /* the one that it overtook comes again */
    assert_int_equal(coordinator_checkpoint_now(m.c, "now", m.now, &step), ERR_REFUSED);
    assert_int_equal(coordinator_checkpoint_now(m.c, "other", m.now, &step), ERR_NOT_FOUND);
    model_deinit(&m);
}

/* ---- stopping ---- */

static void test_stop(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    model_submit(&m, JOB("stop", ""), "");
    assert_true(model_until(&m, "stop", "RUNNING", TURNS));
    stop_job(&m, "stop", true, false);
    Paramd__Control__StatusReply *s = status_of(&m, "stop", "STOPPED");
    assert_string_equal(s->checkpoint, "file:runs/stop/1-5");
    done_with(s);
    model_submit(&m, JOB("stop", ""), "auto");
    s = status_of(&m, "stop", "DONE");
    assert_int_equal(s->examples, 3500);
    done_with(s);

    model_submit(&m, JOB("stop", ""), "fresh");
    assert_true(model_until(&m, "stop", "RUNNING", TURNS));
    stop_job(&m, "stop", false, true);
    s = status_of(&m, "stop", "STOPPED");
    assert_contains(s->why, "killed");
    done_with(s);
    assert_null(model_find(&m, 3, 5));
    for (int i = 0; i < 5; i++)
        model_turn(&m);
    for (uint32_t i = 0; i < 4; i++)
        assert_string_equal(m.members[i].job, "");
    model_deinit(&m);
}

/* ---- failures ---- */

struct failing {
    const char *name;
    void (*prepare)(struct model *m);
    const char *parts[3];
};

static void freeze_worker(struct model *m)
{
    m->members[2].frozen = true;
}
static void bad_input(struct model *m)
{
    assert_true(model_until(m, "fails", "FORMING", TURNS));
    model_turn(m);
    m->members[2].failure_kind = PARAMD__CONTROL__FAILURE__KIND__INPUT;
    memcpy(m->members[2].failure, "a.csv:7:1: label 'x'", 21);
}
static void no_examples(struct model *m)
{
    m->train_examples = 0;
}
static void other_device(struct model *m)
{
    memcpy(m->members[3].device, "gpu", 4);
}
static void little_memory(struct model *m)
{
    m->members[1].memory = 1000;
}

static void test_failures(void **state)
{
    static const struct failing cases[] = {
        {"a worker hangs", freeze_worker, {"no progress", "RUNNING", "server 'server-0'"}},
        {"bad input", bad_input, {"worker 'worker-0'", "a.csv:7:1: label 'x'", ""}},
        {"no examples", no_examples, {"no training examples", "", ""}},
        {"devices differ", other_device, {"'cpu'", "'gpu'", "worker-1"}},
        {"no memory", little_memory, {"server 'server-1'", "4 ranks", "more servers"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model m;
        model_init(&m, 2, 2);
        m.steps_a_turn = 2;
        model_submit(&m, JOB("fails", ""), "");
        cases[i].prepare(&m);
        if (!model_until(&m, "fails", "FAILED", TURNS))
            fail_msg("%s", cases[i].name);
        Paramd__Control__StatusReply *s = model_status(&m, "fails");
        for (int k = 0; k < 3; k++)
            assert_contains(s->why, cases[i].parts[k]);
        done_with(s);
        model_deinit(&m);
    }
}

/* Indexing takes longer than the coordinator is patient: no failure as long as it moves. */
static void test_long_index(void **state)
{
    for (int stuck = 0; stuck < 2; stuck++) {
        struct model m;
        model_init(&m, 2, 2);
        model_submit(&m, JOB("long", ""), "");
        assert_true(model_until(&m, "long", "FORMING", TURNS));
        m.members[2].scans = 1500; /* 150 s; the stall limit is 10 s, and ten times that here */
        m.members[2].frozen = stuck;
        assert_true(model_until(&m, "long", stuck ? "FAILED" : "DONE", 2000));
        Paramd__Control__StatusReply *s = model_status(&m, "long");
        if (stuck)
            assert_contains(s->why, "while FORMING; it indexes the data: round 1, 1 of 2");
        done_with(s);
        model_deinit(&m);
    }
}

/* ---- messages ---- */

static void test_messages(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    model_submit(&m, JOB("quiet", ""), "");
    assert_true(model_until(&m, "quiet", "RUNNING", TURNS));
    m.members[2].frozen = true; /* nothing moves from here */
    for (int i = 0; i < 5; i++)
        model_turn(&m);
    uint64_t before[4];
    for (uint32_t i = 0; i < 4; i++)
        before[i] = model_version(&m, &m.members[i]);
    for (int i = 0; i < 5; i++)
        model_turn(&m);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(model_version(&m, &m.members[i]), before[i]);

    /* One that arrives late: it would say that the server is in the pool. */
    Paramd__Control__MemberState late = PARAMD__CONTROL__MEMBER_STATE__INIT;
    late.member = m.members[0].id;
    late.role = (char *)"server";
    late.sequence = 1;
    late.term = 7;
    size_t size = paramd__control__member_state__get_packed_size(&late);
    uint8_t bytes[256];
    assert_true(size < sizeof bytes);
    paramd__control__member_state__pack(&late, bytes);
    assert_int_equal(
        coordinator_member(m.c, paramd__control__member_state__unpack(NULL, size, bytes), m.now),
        ERR_NONE);
    Paramd__Control__StatusReply *s = model_status(&m, "quiet");
    assert_string_equal(s->state, "RUNNING");
    done_with(s);

    /* A member that has seen a later leader. */
    late.term = 8;
    size = paramd__control__member_state__get_packed_size(&late);
    paramd__control__member_state__pack(&late, bytes);
    assert_int_equal(
        coordinator_member(m.c, paramd__control__member_state__unpack(NULL, size, bytes), m.now),
        ERR_REFUSED);
    model_deinit(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_job),   cmocka_unit_test(test_layout_and_leases),
        cmocka_unit_test(test_queue),       cmocka_unit_test(test_early_stopping),
        cmocka_unit_test(test_arm_refused), cmocka_unit_test(test_final_abandoned),
        cmocka_unit_test(test_max_age),     cmocka_unit_test(test_checkpoint_now),
        cmocka_unit_test(test_stop),        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_long_index),  cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
