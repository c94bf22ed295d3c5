/*
 * Goal    What the coordinator does when members are lost, stuck or leave: ranks move and nothing
 *         rolls back, generations begin at the newest checkpoint, nothing is done twice.
 * Method  The model of a cluster (tests/support/cluster_model) with members that vanish and appear;
 *         a job's steps, generation, leases and outcome are looked at.
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

/* ---- workers ---- */

static void test_spare_worker(void **state)
{
    struct model m;
    begin_long(&m, 2, 3);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 0);
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 2);
    assert_int_equal(lease_of(&m, 0), 1);
    assert_true(lease_of(&m, 3) > 1);
    check_leases(&m);
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

static void test_ranks_spread_and_go_home(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    model_leave(&m, member(&m, "worker-0"));
    model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-1")), 2); /* a replacement is waited for */
    for (int i = 0; i < 25; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-1")), 4);
    check_leases(&m);
    model_add(&m, "worker-9", false);
    for (int i = 0; i < 4; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-1")), 2);
    assert_int_equal(ranks_of(member(&m, "worker-9")), 2);
    check_leases(&m);
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

/* Lost in the middle of an evaluation: another worker does its share. */
static void test_share_of_a_lost_worker(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    member(&m, "worker-1")->frozen = true;
    m.steps_a_turn = 0;
    for (int i = 0; i < 30; i++)
        model_turn(&m);
    m.steps_a_turn = 1;
    member(&m, "worker-1")->frozen = false;
    member(&m, "worker-1")->mute = true; /* it goes on, and says nothing */
    for (int i = 0; i < 20; i++)
        model_turn(&m);
    model_leave(&m, member(&m, "worker-1"));
    finish_long(&m, 1, 0);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    for (size_t i = 0; i < s->n_evals; i++)
        if (!s->evals[i]->progressive)
            assert_int_equal(s->evals[i]->examples, 8); /* two of each of four ranks */
    done_with(s);
    model_deinit(&m);
}

static void test_all_workers_lost(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    model_leave(&m, member(&m, "worker-0"));
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 300; i++) /* longer than the stall limit */
        model_turn(&m);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_string_equal(s->state, "RUNNING");
    assert_non_null(strstr(s->why, "waits for a worker"));
    done_with(s);
    model_add(&m, "worker-8", false);
    model_add(&m, "worker-9", false);
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

static void test_stuck_worker(void **state)
{
    struct model m;
    begin_long(&m, 2, 3);
    member(&m, "worker-0")->busy_ms = 7000;
    model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-0")), 2);
    member(&m, "worker-0")->busy_ms = 9000;
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 2);
    assert_true(model_logged(&m, "stuck for 9000 ms"));
    finish_long(&m, 1, 0);
    model_deinit(&m);
}

/* A worker that lacks something whenever it has ranks, such as a way to one of the servers: each
   trial costs the job time, so there are fewer and fewer. */
static void test_hopeless_worker(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.train_examples = 100000;
    model_submit(&m, LONG_JOB, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    struct model_member *worker = member(&m, "worker-0");
    uint32_t trials = 0;
    uint64_t begun = m.now;
    while (m.now - begun < 150000) {
        model_turn(&m);
        if (ranks_of(worker) == 0 || worker->failure_kind != 0)
            continue;
        trials++;
        worker->failure_kind = PARAMD__CONTROL__FAILURE__KIND__RESOURCE;
        memcpy(worker->failure, "no way to s", 12);
    }
    printf("# %u trials in 150 s\n", trials);
    assert_true(trials >= 3 && trials <= 4); /* 5, 20, 80, 320 s after the one before */
    assert_true(model_logged(&m, "no way to s"));
    check_leases(&m);
    assert_int_equal(ranks_of(member(&m, "worker-1")), 4);
    model_deinit(&m);
}

/* ---- servers ---- */

static void test_server_replaced(void **state)
{
    struct model m;
    begin_long(&m, 3, 2);
    assert_true(m.stored_count > 0);
    model_leave(&m, member(&m, "server-1"));
    model_turn(&m);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_string_not_equal(s->state, "FAILED");
    done_with(s);
    finish_long(&m, 2, 1);
    assert_true(model_logged(&m, "goes on at step=10 "));
    model_deinit(&m);
}

static void test_server_not_replaced(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    model_leave(&m, member(&m, "server-1"));
    finish_long(&m, 2, 1);
    assert_true(model_logged(&m, "goes on with 1 of 2 servers"));
    model_deinit(&m);
}

/* What was listed is gone, because a leader that did not know that it was deposed made newer ones
 * and removed these: they are listed once more. */
static void test_listing_out_of_date(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    assert_true(m.stored_count > 0);
    m.manifests_gone = m.stored_count;
    model_leave(&m, member(&m, "server-1"));
    finish_long(&m, 3, 2);
    model_deinit(&m);
    /* Gone for good: the job fails by name. */
    begin_long(&m, 2, 2);
    m.manifests_gone = UINT32_MAX;
    model_leave(&m, member(&m, "server-1"));
    assert_true(model_until(&m, "job", "FAILED", TURNS));
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_non_null(strstr(s->why, "there is no manifest"));
    done_with(s);
    model_deinit(&m);
}

/* A checkpoint that its leader has published and could not record is not forgotten by it. */
static void test_listing_is_empty(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    model_submit(&m, LONG_JOB, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    model_turn(&m);
    m.registry_away = true;
    for (int i = 0; i < 15; i++)
        model_turn(&m);
    m.registry_away = false;
    uint32_t stored = m.stored_count;
    assert_true(stored > 0);
    m.stored_count = 0;
    model_leave(&m, member(&m, "server-1"));
    assert_true(model_until(&m, "job", "FAILED", TURNS));
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_non_null(strstr(s->why, "does not list it"));
    done_with(s);
    m.stored_count = stored;
    model_deinit(&m);
}

static void test_lost_before_the_first_checkpoint(void **state)
{
    struct model m;
    model_init(&m, 3, 2);
    m.steps_a_turn = 1;
    model_submit(&m, LONG_JOB, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    model_leave(&m, member(&m, "server-0"));
    finish_long(&m, 2, 1);
    assert_true(model_logged(&m, "begins with the initial state"));
    model_deinit(&m);
}

/* In every state, at every turn. */
static void test_loss_at_any_turn(void **state)
{
    for (int when = 1; when < 90; when += STRIDE) {
        for (int who = 0; who < 2; who++) {
            struct model m;
            model_init(&m, 3, 3);
            m.steps_a_turn = 1;
            model_submit(&m, LONG_JOB, "");
            for (int i = 0; i < when; i++)
                model_turn(&m);
            model_leave(&m, member(&m, who == 0 ? "server-0" : "worker-0"));
            if (!model_until(&m, "job", "DONE", TURNS))
                fail_msg("%s lost after turn %d", who == 0 ? "server" : "worker", when);
            Paramd__Control__StatusReply *s = model_status(&m, "job");
            assert_int_equal(s->checkpoint_step, 60);
            done_with(s);
            model_deinit(&m);
        }
    }
}

static void test_flapping(void **state)
{
    struct model m;
    begin_long(&m, 2, 2);
    m.steps_a_turn = 0; /* no progress any more */
    for (int i = 0; i < 6; i++) {
        char id[32];
        snprintf(id, sizeof id, "server-x%d", i);
        for (uint32_t k = 0; k < m.member_count; k++)
            if (m.members[k].is_server && m.members[k].here && k != 0) {
                model_leave(&m, &m.members[k]);
                m.members[k].here = true; /* its place is used again */
                memcpy(m.members[k].id, id, strlen(id) + 1);
                m.members[k].version = 0;
                break;
            }
        for (int t = 0; t < 8; t++)
            model_turn(&m);
    }
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_string_equal(s->state, "FAILED");
    assert_non_null(strstr(s->why, "6 losses in a row"));
    assert_non_null(strstr(s->why, "it was killed"));
    done_with(s);
    model_deinit(&m);
}

/* ---- leaving ---- */

static void test_leaving(void **state)
{
    static const char *const who[] = {"worker-0", "server-0"};
    for (int i = 0; i < 2; i++) {
        struct model m;
        begin_long(&m, 3, 3);
        uint32_t stored = m.stored_count;
        member(&m, who[i])->leaving = true;
        for (int t = 0; t < 25; t++)
            model_turn(&m);
        assert_false(member(&m, who[i])->here);
        if (i == 1)
            assert_true(m.stored_count > stored); /* it took a checkpoint along */
        finish_long(&m, i == 0 ? 1 : 2, i);
        model_deinit(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spare_worker),
        cmocka_unit_test(test_ranks_spread_and_go_home),
        cmocka_unit_test(test_share_of_a_lost_worker),
        cmocka_unit_test(test_all_workers_lost),
        cmocka_unit_test(test_stuck_worker),
        cmocka_unit_test(test_hopeless_worker),
        cmocka_unit_test(test_server_replaced),
        cmocka_unit_test(test_server_not_replaced),
        cmocka_unit_test(test_listing_out_of_date),
        cmocka_unit_test(test_listing_is_empty),
        cmocka_unit_test(test_lost_before_the_first_checkpoint),
        cmocka_unit_test(test_loss_at_any_turn),
        cmocka_unit_test(test_flapping),
        cmocka_unit_test(test_leaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
