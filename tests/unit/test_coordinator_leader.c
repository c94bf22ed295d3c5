/*
 * Goal    What a new leader makes of what it finds: it goes on with the generation that runs, does
 *         nothing twice, and forgets neither queue nor past nor what was best; and what a leader
 *         does while the registry is away.
 * Method  The model of a cluster (tests/support/cluster_model), in which another leader reads the
 *         records at any turn of a job's life.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/support/coordinator_job.h"

/* After every turn of a job's life: it goes on with the generation that it finds. */
static void test_takeover_at_any_turn(void **state)
{
    for (int when = 1; when < 90; when += STRIDE) {
        struct model m;
        model_init(&m, 2, 2);
        m.steps_a_turn = 1;
        model_submit(&m, LONG_JOB, "");
        bool ran = false;
        uint64_t begun = 0;
        for (int i = 0; i < when; i++) {
            model_turn(&m);
            Paramd__Control__StatusReply *s = model_status(&m, "job");
            if (!ran && strcmp(s->state, "RUNNING") == 0) {
                ran = true;
                begun = m.now + m.unix_offset;
            }
            done_with(s);
        }
        model_new_leader(&m);
        if (!model_until(&m, "job", "DONE", TURNS))
            fail_msg("taken over after turn %d", when);
        Paramd__Control__StatusReply *s = model_status(&m, "job");
        assert_int_equal(s->checkpoint_step, 60);
        if (ran && s->generation != 1)
            fail_msg("taken over after turn %d: generation %d", when, (int)s->generation);
        double elapsed = (double)(m.now + m.unix_offset - begun) / 1000;
        if (ran && (s->train_seconds > elapsed || s->train_seconds < elapsed - 1))
            fail_msg("taken over after turn %d: trained for %.3f s of %.3f s", when,
                     s->train_seconds, elapsed);
        done_with(s);
        model_deinit(&m);
    }
}

static void test_takeover_with_loss(void **state)
{
    struct model m;
    begin_long(&m, 3, 2);
    member(&m, "server-0")->here = false; /* with the leader on it: nobody is told */
    model_new_leader(&m);
    finish_long(&m, 2, 1);
    model_deinit(&m);
}

static void test_leases_survive(void **state)
{
    struct model m;
    begin_long(&m, 2, 3);
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    uint64_t lease = lease_of(&m, 3);
    model_new_leader(&m);
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(lease_of(&m, 3), lease);
    check_leases(&m);
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

static void test_queue_and_past_survive(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    finish_long(&m, 1, 0);
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = (char *)must_format("name: later\n%s", strchr(LONG_JOB, '\n') + 1);
    const char *job;
    for (uint32_t i = 0; i < m.member_count; i++)
        m.members[i].mute = true;
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_NONE);
    model_turn(&m);
    model_new_leader(&m);
    for (uint32_t i = 0; i < m.member_count; i++)
        m.members[i].mute = false;
    assert_true(model_until(&m, "later", "DONE", TURNS));
    struct str packed = {0};
    coordinator_list(m.c, true, m.now, &packed);
    Paramd__Control__ListReply *l =
        paramd__control__list_reply__unpack(NULL, packed.size, (const uint8_t *)packed.data);
    assert_int_equal(l->n_jobs, 2);
    assert_string_equal(l->jobs[0]->job, "later");
    assert_string_equal(l->jobs[1]->job, "job");
    assert_string_equal(l->jobs[1]->state, "DONE");
    assert_true(l->jobs[1]->n_metrics > 0);
    assert_int_equal(l->n_members, 4);
    paramd__control__list_reply__free_unpacked(l, NULL);
    str_deinit(&packed);
    mem_free(r.job_yaml);
    model_deinit(&m);
}

/* A job that began again behind its best checkpoint, with a new leader at any turn after that. */
static void test_best_survives(void **state)
{
    static const double better_then_worse[] = {1, 3, 2, 1.5, 1.4, 1.3, 1.2};
    for (int when = 0; when < 40; when += STRIDE) {
        struct model m;
        model_init(&m, 3, 2);
        m.steps_a_turn = 1;
        m.quality = better_then_worse;
        m.quality_count = 7;
        model_submit(&m, LONG_JOB "early_stopping: {metric: log_loss, patience: 2}\n", "");
        while (model_find(&m, 1, 20) == NULL && m.turn < TURNS)
            model_turn(&m);
        model_turn(&m);
        model_turn(&m);
        model_leave(&m, member(&m, "server-1"));
        for (int i = 0; i < when; i++)
            model_turn(&m);
        model_new_leader(&m);
        if (!model_until(&m, "job", "DONE", TURNS))
            fail_msg("taken over after turn %d", when);
        Paramd__Control__StatusReply *s = model_status(&m, "job");
        if (s->checkpoint_step != 20 || model_find(&m, 1, 20) == NULL)
            fail_msg("taken over after turn %d: the result is '%s'", when, s->checkpoint);
        done_with(s);
        model_deinit(&m);
    }
}

/* The step that a job was restored at had its verdict: a new leader does not ask for it again, when
 * the shards have gone on. */
static void test_verdict_survives(void **state)
{
    struct model m;
    begin_long(&m, 3, 2);
    model_leave(&m, member(&m, "server-1"));
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    assert_true(model_logged(&m, "goes on at step=10 "));
    for (int i = 0; i < 4; i++)
        model_turn(&m);
    uint32_t evaluations = 0;
    model_new_leader(&m);
    finish_long(&m, 2, 1);
    for (uint32_t i = 0; i < m.log_count; i++)
        evaluations += strstr(m.log[i], "evaluated step=10 ") != NULL;
    assert_int_equal(evaluations, 1);
    model_deinit(&m);
}

/* Nothing is decided while the registry is away, and the job goes on when it is back. */
static void test_registry_away(void **state)
{
    struct model m;
    begin_long(&m, 2, 3);
    m.registry_away = true;
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 200; i++)
        model_turn(&m);
    assert_int_equal(lease_of(&m, 3), 1);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 0);
    m.registry_away = false;
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

/* A job waits for the end of the one before it, which was recorded late: else that would be written
 * over it. */
static void test_end_is_not_recorded_late(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    m.registry_away = true;
    stop_job(&m, "job", false, true);
    model_turn(&m);
    m.registry_away = false;
    model_submit(&m, LONG_JOB, "auto");
    for (int i = 0; i < 30; i++) {
        uint64_t before = m.generation_recorded;
        model_turn(&m);
        assert_true(m.generation_recorded >= before);
    }
    assert_int_equal(m.generation_recorded, 2);
    assert_int_equal(m.past_count, 1); /* and the history has both */
    finish_long(&m, 2, 0);
    assert_int_equal(m.past_count, 2);
    model_deinit(&m);
}

/* The last checkpoint of a job is known by the record of its end: one submitted again before that
 * is written must not take an empty listing for a job that never had any. */
static void test_end_names_the_checkpoint(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    model_submit(&m, LONG_JOB, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    model_turn(&m);
    m.registry_away = true;
    stop_job(&m, "job", true, false);
    assert_true(model_until(&m, "job", "STOPPED", TURNS));
    uint32_t stored = m.stored_count;
    assert_true(stored > 0);
    m.stored_count = 0;
    m.registry_away = false;
    model_submit(&m, LONG_JOB, "auto");
    char *why = refusal_of(&m, "job");
    assert_contains(why, "does not list it");
    mem_free(why);
    m.stored_count = stored;
    model_deinit(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takeover_at_any_turn),
        cmocka_unit_test(test_takeover_with_loss),
        cmocka_unit_test(test_leases_survive),
        cmocka_unit_test(test_queue_and_past_survive),
        cmocka_unit_test(test_best_survives),
        cmocka_unit_test(test_verdict_survives),
        cmocka_unit_test(test_registry_away),
        cmocka_unit_test(test_end_is_not_recorded_late),
        cmocka_unit_test(test_end_names_the_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
