/*
 * Goal    What the coordinator does when members are lost, stuck or leave, and when another leader
 *         takes over: ranks move and nothing rolls back, generations begin at the newest
 *         checkpoint,
 *         nothing is done twice.
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
#include "tests/support/cluster_model.h"

#define TURNS 400
/* Of the turns at which something happens; the simulator goes on where this leaves gaps. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define STRIDE 7
#else
#define STRIDE 3
#endif

#define YAML                                                                                       \
    "name: job\n"                                                                                  \
    "data: {format: csv, train: a.csv, eval: b.csv, label: y}\n"                                   \
    "features: {a: {}}\n"                                                                          \
    "model: {type: lr}\n"                                                                          \
    "optimizer: {linear: {learning_rate: 0.1}}\n"                                                  \
    "train: {batch_size: 100, epochs: 6, ranks: 4}\n"                                              \
    "resources: {servers: 2, workers: 2}\n"                                                        \
    "checkpoint: {uri: runs, every_steps: 10}\n"                                                   \
    "eval: {metrics: [log_loss]}\n" /* an AUC's histogram takes long to make */

static void begin(struct model *m, uint32_t servers, uint32_t workers)
{
    model_init(m, servers, workers);
    m->steps_a_turn = 1;
    model_submit(m, YAML, "");
    assert_true(model_until(m, "job", "RUNNING", TURNS));
    for (int i = 0; i < 15; i++)
        model_turn(m);
}

static struct model_member *member(struct model *m, const char *id)
{
    for (uint32_t i = 0; i < m->member_count; i++)
        if (strcmp(m->members[i].id, id) == 0)
            return &m->members[i];
    fail_msg("no member '%s'", id);
    return NULL;
}

static void finish(struct model *m, uint64_t generation, uint32_t recoveries)
{
    if (!model_until(m, "job", "DONE", TURNS))
        fail();
    Paramd__Control__StatusReply *s = model_status(m, "job");
    assert_int_equal(s->generation, generation);
    assert_int_equal(s->recoveries, recoveries);
    assert_int_equal(s->step, 60);
    assert_int_equal(s->checkpoint_step, 60);
    paramd__control__status_reply__free_unpacked(s, NULL);
}

static size_t ranks_of(const struct model_member *p)
{
    return p->orders != NULL && p->orders->worker != NULL ? p->orders->worker->n_ranks : 0;
}

/* The lease that the servers know is the lease that the host was given. */
static void check_leases(struct model *m)
{
    const struct model_member *server = NULL;
    for (uint32_t i = 0; i < m->member_count; i++)
        if (m->members[i].is_server && m->members[i].here && m->members[i].orders->server != NULL)
            server = &m->members[i];
    assert_non_null(server);
    uint32_t hosts[4] = {0};
    for (uint32_t i = 0; i < m->member_count; i++) {
        const struct model_member *p = &m->members[i];
        for (size_t k = 0; !p->is_server && p->here && k < ranks_of(p); k++) {
            const Paramd__Control__Lease *l = p->orders->worker->ranks[k];
            assert_int_equal(l->lease, server->orders->server->leases[l->rank]->lease);
            hosts[l->rank]++;
        }
    }
    for (uint32_t r = 0; r < 4; r++)
        assert_int_equal(hosts[r], 1);
}

static uint64_t lease_of(struct model *m, uint32_t rank)
{
    return member(m, "server-0")->orders->server->leases[rank]->lease;
}

/* ---- workers ---- */

static void test_spare_worker(void **state)
{
    struct model m;
    begin(&m, 2, 3);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 0);
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 2);
    assert_int_equal(lease_of(&m, 0), 1);
    assert_true(lease_of(&m, 3) > 1);
    check_leases(&m);
    finish(&m, 1, 0);
    model_deinit(&m);
}

static void test_ranks_spread_and_go_home(void **state)
{
    struct model m;
    begin(&m, 2, 2);
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
    finish(&m, 1, 0);
    model_deinit(&m);
}

/* Lost in the middle of an evaluation: another worker does its share. */
static void test_share_of_a_lost_worker(void **state)
{
    struct model m;
    begin(&m, 2, 2);
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
    finish(&m, 1, 0);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    for (size_t i = 0; i < s->n_evals; i++)
        if (!s->evals[i]->progressive)
            assert_int_equal(s->evals[i]->examples, 8); /* two of each of four ranks */
    paramd__control__status_reply__free_unpacked(s, NULL);
    model_deinit(&m);
}

static void test_all_workers_lost(void **state)
{
    struct model m;
    begin(&m, 2, 2);
    model_leave(&m, member(&m, "worker-0"));
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 300; i++) /* longer than the stall limit */
        model_turn(&m);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_string_equal(s->state, "RUNNING");
    assert_non_null(strstr(s->why, "waits for a worker"));
    paramd__control__status_reply__free_unpacked(s, NULL);
    model_add(&m, "worker-8", false);
    model_add(&m, "worker-9", false);
    finish(&m, 1, 0);
    model_deinit(&m);
}

static void test_stuck_worker(void **state)
{
    struct model m;
    begin(&m, 2, 3);
    member(&m, "worker-0")->busy_ms = 7000;
    model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-0")), 2);
    member(&m, "worker-0")->busy_ms = 9000;
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 2);
    assert_true(model_logged(&m, "stuck for 9000 ms"));
    finish(&m, 1, 0);
    model_deinit(&m);
}

/* A worker that lacks something whenever it has ranks, such as a way to one of the servers: each
   trial costs the job time, so there are fewer and fewer. */
static void test_hopeless_worker(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.train_examples = 100000;
    model_submit(&m, YAML, "");
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
    begin(&m, 3, 2);
    assert_true(m.stored_count > 0);
    model_leave(&m, member(&m, "server-1"));
    model_turn(&m);
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_string_not_equal(s->state, "FAILED");
    paramd__control__status_reply__free_unpacked(s, NULL);
    finish(&m, 2, 1);
    assert_true(model_logged(&m, "goes on at step=10 "));
    model_deinit(&m);
}

static void test_server_not_replaced(void **state)
{
    struct model m;
    begin(&m, 2, 2);
    model_leave(&m, member(&m, "server-1"));
    finish(&m, 2, 1);
    assert_true(model_logged(&m, "goes on with 1 of 2 servers"));
    model_deinit(&m);
}

/* What was listed is gone, because a leader that did not know that it was deposed made newer ones
 * and removed these: they are listed once more. */
static void test_listing_out_of_date(void **state)
{
    struct model m;
    begin(&m, 2, 2);
    assert_true(m.stored_count > 0);
    m.manifests_gone = m.stored_count;
    model_leave(&m, member(&m, "server-1"));
    finish(&m, 3, 2);
    model_deinit(&m);
    /* Gone for good: the job fails by name. */
    begin(&m, 2, 2);
    m.manifests_gone = UINT32_MAX;
    model_leave(&m, member(&m, "server-1"));
    assert_true(model_until(&m, "job", "FAILED", TURNS));
    Paramd__Control__StatusReply *s = model_status(&m, "job");
    assert_non_null(strstr(s->why, "there is no manifest"));
    paramd__control__status_reply__free_unpacked(s, NULL);
    model_deinit(&m);
}

/* A checkpoint that its leader has published and could not record is not forgotten by it. */
static void test_listing_is_empty(void **state)
{
    struct model m;
    model_init(&m, 2, 2);
    m.steps_a_turn = 1;
    model_submit(&m, YAML, "");
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
    paramd__control__status_reply__free_unpacked(s, NULL);
    m.stored_count = stored;
    model_deinit(&m);
}

static void test_lost_before_the_first_checkpoint(void **state)
{
    struct model m;
    model_init(&m, 3, 2);
    m.steps_a_turn = 1;
    model_submit(&m, YAML, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    model_leave(&m, member(&m, "server-0"));
    finish(&m, 2, 1);
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
            model_submit(&m, YAML, "");
            for (int i = 0; i < when; i++)
                model_turn(&m);
            model_leave(&m, member(&m, who == 0 ? "server-0" : "worker-0"));
            if (!model_until(&m, "job", "DONE", TURNS))
                fail_msg("%s lost after turn %d", who == 0 ? "server" : "worker", when);
            Paramd__Control__StatusReply *s = model_status(&m, "job");
            assert_int_equal(s->checkpoint_step, 60);
            paramd__control__status_reply__free_unpacked(s, NULL);
            model_deinit(&m);
        }
    }
}

static void test_flapping(void **state)
{
    struct model m;
    begin(&m, 2, 2);
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
    paramd__control__status_reply__free_unpacked(s, NULL);
    model_deinit(&m);
}

/* ---- leaving ---- */

static void test_leaving(void **state)
{
    static const char *const who[] = {"worker-0", "server-0"};
    for (int i = 0; i < 2; i++) {
        struct model m;
        begin(&m, 3, 3);
        uint32_t stored = m.stored_count;
        member(&m, who[i])->leaving = true;
        for (int t = 0; t < 25; t++)
            model_turn(&m);
        assert_false(member(&m, who[i])->here);
        if (i == 1)
            assert_true(m.stored_count > stored); /* it took a checkpoint along */
        finish(&m, i == 0 ? 1 : 2, i);
        model_deinit(&m);
    }
}

/* ---- leaders ---- */

/* After every turn of a job's life: it goes on with the generation that it finds. */
static void test_takeover_at_any_turn(void **state)
{
    for (int when = 1; when < 90; when += STRIDE) {
        struct model m;
        model_init(&m, 2, 2);
        m.steps_a_turn = 1;
        model_submit(&m, YAML, "");
        bool ran = false;
        uint64_t begun = 0;
        for (int i = 0; i < when; i++) {
            model_turn(&m);
            Paramd__Control__StatusReply *s = model_status(&m, "job");
            if (!ran && strcmp(s->state, "RUNNING") == 0) {
                ran = true;
                begun = m.now + m.unix_offset;
            }
            paramd__control__status_reply__free_unpacked(s, NULL);
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
        paramd__control__status_reply__free_unpacked(s, NULL);
        model_deinit(&m);
    }
}

static void test_takeover_with_loss(void **state)
{
    struct model m;
    begin(&m, 3, 2);
    member(&m, "server-0")->here = false; /* with the leader on it: nobody is told */
    model_new_leader(&m);
    finish(&m, 2, 1);
    model_deinit(&m);
}

static void test_leases_survive(void **state)
{
    struct model m;
    begin(&m, 2, 3);
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    uint64_t lease = lease_of(&m, 3);
    model_new_leader(&m);
    for (int i = 0; i < 3; i++)
        model_turn(&m);
    assert_int_equal(lease_of(&m, 3), lease);
    check_leases(&m);
    finish(&m, 1, 0);
    model_deinit(&m);
}

static void test_queue_and_past_survive(void **state)
{
    struct model m;
    begin(&m, 2, 2);
    finish(&m, 1, 0);
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = (char *)must_format("name: later\n%s", strchr(YAML, '\n') + 1);
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
        model_submit(&m, YAML "early_stopping: {metric: log_loss, patience: 2}\n", "");
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
        paramd__control__status_reply__free_unpacked(s, NULL);
        model_deinit(&m);
    }
}

/* The step that a job was restored at had its verdict: a new leader does not ask for it again, when
 * the shards have gone on. */
static void test_verdict_survives(void **state)
{
    struct model m;
    begin(&m, 3, 2);
    model_leave(&m, member(&m, "server-1"));
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    assert_true(model_logged(&m, "goes on at step=10 "));
    for (int i = 0; i < 4; i++)
        model_turn(&m);
    uint32_t evaluations = 0;
    model_new_leader(&m);
    finish(&m, 2, 1);
    for (uint32_t i = 0; i < m.log_count; i++)
        evaluations += strstr(m.log[i], "evaluated step=10 ") != NULL;
    assert_int_equal(evaluations, 1);
    model_deinit(&m);
}

/* Nothing is decided while the registry is away, and the job goes on when it is back. */
static void test_registry_away(void **state)
{
    struct model m;
    begin(&m, 2, 3);
    m.registry_away = true;
    model_leave(&m, member(&m, "worker-1"));
    for (int i = 0; i < 200; i++)
        model_turn(&m);
    assert_int_equal(lease_of(&m, 3), 1);
    assert_int_equal(ranks_of(member(&m, "worker-2")), 0);
    m.registry_away = false;
    finish(&m, 1, 0);
    model_deinit(&m);
}

/* A job waits for the end of the one before it, which was recorded late: else that would be written
 * over it. */
static void test_end_is_not_recorded_late(void **state)
{
    struct model m;
    begin(&m, 2, 2);
    m.registry_away = true;
    Paramd__Control__StopRequest stop = PARAMD__CONTROL__STOP_REQUEST__INIT;
    stop.job = (char *)"job";
    stop.kill = true;
    assert_int_equal(coordinator_stop(m.c, &stop, m.now), ERR_NONE);
    model_turn(&m);
    m.registry_away = false;
    model_submit(&m, YAML, "auto");
    for (int i = 0; i < 30; i++) {
        uint64_t before = m.generation_recorded;
        model_turn(&m);
        assert_true(m.generation_recorded >= before);
    }
    assert_int_equal(m.generation_recorded, 2);
    assert_int_equal(m.past_count, 1); /* and the history has both */
    finish(&m, 2, 0);
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
    model_submit(&m, YAML, "");
    assert_true(model_until(&m, "job", "RUNNING", TURNS));
    model_turn(&m);
    m.registry_away = true;
    Paramd__Control__StopRequest stop = PARAMD__CONTROL__STOP_REQUEST__INIT;
    stop.job = (char *)"job";
    stop.checkpoint = true;
    assert_int_equal(coordinator_stop(m.c, &stop, m.now), ERR_NONE);
    assert_true(model_until(&m, "job", "STOPPED", TURNS));
    uint32_t stored = m.stored_count;
    assert_true(stored > 0);
    m.stored_count = 0;
    m.registry_away = false;
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    const char *job;
    r.job_yaml = (char *)YAML;
    r.resume_auto = true;
    assert_int_equal(coordinator_submit(m.c, &r, m.now, &job), ERR_NONE);
    bool pending = true;
    for (int i = 0; i < 30 && pending; i++) {
        model_turn(&m);
        if (coordinator_submitted(m.c, "job", &pending) != ERR_NONE)
            pending = false;
    }
    assert_int_equal(coordinator_submitted(m.c, "job", &pending), ERR_REFUSED);
    assert_non_null(strstr(err_text(), "does not list it"));
    m.stored_count = stored;
    model_deinit(&m);
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
