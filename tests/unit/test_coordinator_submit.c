/*
 * Goal: a submitted job begins from the checkpoint that was asked for, or is refused with a reason
 * and leaves no trace. Method: the coordinator in a modelled world (tests/support/cluster_model),
 * turn by turn, with checkpoints that are there, broken, refused, gone or out of reach.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "tests/support/coordinator_job.h"

static void run_first(struct model *m, const char *name)
{
    model_init(m, 2, 2);
    model_submit(m, name, "");
    Paramd__Control__StatusReply *s = status_of(m, "", "DONE");
    done_with(s);
}

static void test_resume_refused(void **state)
{
    struct model m;
    run_first(&m, JOB("resume", ""));
    m.members[1].refuses = "1-40";
    model_submit(&m, JOB("resume", ""), "resume");
    Paramd__Control__StatusReply *s = status_of(&m, "resume", "DONE");
    assert_int_equal(s->generation, 2);
    assert_string_equal(s->checkpoint, "file:runs/resume/2-40");
    assert_int_equal(s->examples, 1000); /* from 30 */
    assert_int_equal(s->n_evals, 4);
    assert_int_equal(s->n_warnings, 1);
    assert_contains(s->warnings[0], "1-40");
    assert_contains(s->warnings[0], "block 3: checksum");
    done_with(s);
    /* What the two wrote at the end is the same, but for the generation. */
    const struct model_stored *a = model_find(&m, 1, 40), *b = model_find(&m, 2, 40);
    assert_string_equal(a->manifest->evals_json, b->manifest->evals_json);
    model_deinit(&m);
}

static void test_resume_of_finished(void **state)
{
    struct model m;
    run_first(&m, JOB("over", ""));
    model_submit(&m, JOB("over", ""), "auto");
    Paramd__Control__StatusReply *s = status_of(&m, "over", "DONE");
    assert_string_equal(s->checkpoint, "file:runs/over/1-40");
    assert_int_equal(m.stored_count, 3);
    done_with(s);
    model_deinit(&m);
}

static void test_all_refused(void **state)
{
    struct model m;
    run_first(&m, JOB("broken", ""));
    for (uint32_t i = 0; i < m.stored_count; i++)
        m.stored[i].broken = "MANIFEST.json is cut off";
    model_submit(&m, JOB("broken", ""), "auto");
    char *why = refusal_of(&m, "broken");
    assert_contains(why, "1-40: MANIFEST.json is cut off");
    assert_contains(why, "--fresh");
    mem_free(why);
    model_submit(&m, JOB("broken", ""), "fresh");
    Paramd__Control__StatusReply *s = status_of(&m, "broken", "DONE");
    assert_int_equal(s->generation, 2);
    done_with(s);
    model_deinit(&m);
}

static void test_existing(void **state)
{
    struct model m;
    run_first(&m, JOB("twice", ""));
    model_submit(&m, JOB("twice", ""), "");
    char *why = refusal_of(&m, "twice");
    assert_contains(why, "1-40");
    assert_contains(why, "--resume");
    assert_contains(why, "--fresh");
    mem_free(why);
    /* The one before is untouched: its status, its record, the list of the past. */
    Paramd__Control__StatusReply *s = status_of(&m, "twice", "DONE");
    assert_int_equal(s->generation, 1);
    done_with(s);
    struct str packed = {0};
    coordinator_list(m.c, true, m.now, &packed);
    Paramd__Control__ListReply *list =
        paramd__control__list_reply__unpack(NULL, packed.size, (const uint8_t *)packed.data);
    assert_int_equal(list->n_jobs, 1);
    assert_string_equal(list->jobs[0]->state, "DONE");
    paramd__control__list_reply__free_unpacked(list, NULL);
    str_deinit(&packed);
    for (uint32_t i = 0; i < m.stored_count; i++)
        checkpoint_manifest_destroy(m.stored[i].manifest);
    m.stored_count = 0;
    model_submit(&m, JOB("twice", ""), "auto");
    why = refusal_of(&m, "twice");
    assert_contains(why, "the registry names checkpoint 1-40");
    mem_free(why);
    model_submit(&m, JOB("nothing", ""), "resume");
    why = refusal_of(&m, "nothing");
    assert_contains(why, "no checkpoint to resume from");
    mem_free(why);
    s = model_status(&m, "nothing");
    assert_false(s->found);
    done_with(s);
    model_deinit(&m);
}

static void test_store_away(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.store_away = true;
    model_submit(&m, JOB("away", ""), "");
    for (int i = 0; i < 50; i++)
        model_turn(&m);
    Paramd__Control__StatusReply *s = status_of(&m, "away", "QUEUED");
    assert_contains(s->why, "the store is away");
    done_with(s);
    /* Nobody waits for ever; and what was refused does not come to life later. */
    coordinator_withdraw(m.c, "away", m.now);
    char *why = refusal_of(&m, "away");
    assert_contains(why, "the store is away");
    mem_free(why);
    m.store_away = false;
    for (int i = 0; i < 50; i++)
        model_turn(&m);
    s = model_status(&m, "away");
    assert_false(s->found);
    done_with(s);
    assert_int_equal(m.record_count, 0);
    model_submit(&m, JOB("away", ""), "");
    assert_true(model_until(&m, "away", "RUNNING", TURNS));
    coordinator_withdraw(m.c, "away", m.now); /* too late: it is taken */
    m.store_away = true;
    for (int i = 0; i < 60; i++)
        model_turn(&m);
    s = status_of(&m, "away", "FINISHING"); /* trained to the end, waits to commit it */
    assert_int_equal(s->step, 40);
    done_with(s);
    m.store_away = false;
    done_with(status_of(&m, "away", "DONE"));
    assert_non_null(model_find(&m, 1, 40));
    model_deinit(&m);
}

static void test_refused_jobs(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    const char *job;
    r.job_yaml = (char *)JOB("same", "");
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_NONE);
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_NONE); /* a repeated request */
    r.fresh = true;
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_EXISTS);
    r.resume = true;
    r.job_yaml = (char *)JOB("both", "");
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_INPUT);
    r.job_yaml = (char *)"model: {";
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_INPUT);
    model_deinit(&m);
}

static void test_eval_mode(void **state)
{
    struct model m;
    run_first(&m, JOB("model", ""));
    model_submit_eval(&m, JOB("model", ""), "file:runs/model/1-30/");
    Paramd__Control__StatusReply *s = status_of(&m, "model", "DONE");
    assert_int_equal(s->n_evals, 1);
    assert_int_equal(s->evals[0]->step, 30);
    assert_string_equal(s->checkpoint, "file:runs/model/1-30");
    assert_int_equal(m.stored_count, 3);
    done_with(s);
    model_submit_eval(&m, JOB("model", ""), "file:runs/model/9-30");
    char *why = refusal_of(&m, "model");
    assert_contains(why, "there is no manifest");
    mem_free(why);
    model_deinit(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume_refused), cmocka_unit_test(test_resume_of_finished),
        cmocka_unit_test(test_all_refused),    cmocka_unit_test(test_existing),
        cmocka_unit_test(test_store_away),     cmocka_unit_test(test_refused_jobs),
        cmocka_unit_test(test_eval_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
