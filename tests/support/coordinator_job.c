#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"
#include "tests/support/coordinator_job.h"

Paramd__Control__StatusReply *status_of(struct model *m, const char *job, const char *state)
{
    assert_true(model_until(m, job, state, TURNS));
    return model_status(m, job);
}

void done_with(Paramd__Control__StatusReply *s)
{
    paramd__control__status_reply__free_unpacked(s, NULL);
}

void assert_contains(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' does not contain '%s'", text, part);
}

void begin_long(struct model *m, uint32_t servers, uint32_t workers)
{
    model_init(m, servers, workers);
    m->steps_a_turn = 1;
    model_submit(m, LONG_JOB, "");
    assert_true(model_until(m, "job", "RUNNING", TURNS));
    for (int i = 0; i < 15; i++)
        model_turn(m);
}

struct model_member *member(struct model *m, const char *id)
{
    for (uint32_t i = 0; i < m->member_count; i++)
        if (strcmp(m->members[i].id, id) == 0)
            return &m->members[i];
    fail_msg("no member '%s'", id);
    return NULL;
}

void finish_long(struct model *m, uint64_t generation, uint32_t recoveries)
{
    if (!model_until(m, "job", "DONE", TURNS))
        fail();
    Paramd__Control__StatusReply *s = model_status(m, "job");
    assert_int_equal(s->generation, generation);
    assert_int_equal(s->recoveries, recoveries);
    assert_int_equal(s->step, 60);
    assert_int_equal(s->checkpoint_step, 60);
    done_with(s);
}

size_t ranks_of(const struct model_member *p)
{
    return p->orders != NULL && p->orders->worker != NULL ? p->orders->worker->n_ranks : 0;
}

void check_leases(struct model *m)
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

uint64_t lease_of(struct model *m, uint32_t rank)
{
    return member(m, "server-0")->orders->server->leases[rank]->lease;
}

void stop_job(struct model *m, const char *job, bool checkpoint, bool kill)
{
    Paramd__Control__StopRequest r = PARAMD__CONTROL__STOP_REQUEST__INIT;
    r.job = (char *)job;
    r.checkpoint = checkpoint;
    r.kill = kill;
    assert_int_equal(coordinator_stop(m->c, &r, m->now), ERR_NONE);
}

char *refusal_of(struct model *m, const char *job)
{
    bool pending = true;
    for (int i = 0; i < TURNS && pending; i++) {
        model_turn(m);
        enum err e = coordinator_submitted(m->c, job, &pending);
        if (e != ERR_NONE) {
            assert_int_equal(e, ERR_REFUSED);
            return must_strdup(err_text());
        }
    }
    fail_msg("job '%s' is not refused", job);
    return NULL;
}
