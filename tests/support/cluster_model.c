#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/dataindex.h"
#include "common/evaluation.h"
#include "common/job.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/steps.h"
#include "tests/support/cluster_model.h"
#include "tests/support/cluster_model_internal.h"

void model_init(struct model *m, uint32_t servers, uint32_t workers)
{
    *m = (struct model){.now = 1000,
                        .train_examples = 1000,
                        .eval_examples = 100,
                        .steps_a_turn = 4,
                        .rounds_needed = 2};
    m->term = 6;
    model_new_leader(m);
    for (uint32_t i = 0; i < servers; i++) {
        char *name = must_format("server-%u", i);
        model_add(m, name, true);
        mem_free(name);
    }
    for (uint32_t i = 0; i < workers; i++) {
        char *name = must_format("worker-%u", i);
        model_add(m, name, false);
        mem_free(name);
    }
}

void model_new_leader(struct model *m)
{
    coordinator_destroy(m->c);
    /* Another process's clock began at another time. */
    m->unix_offset += m->now - m->now / 2;
    m->now /= 2;
    m->c = coordinator_create(&(struct coordinator_options){
        .term = ++m->term,
        .peer_timeout_ms = 5000,
        .stall_timeout_ms = 10000,
        .stuck_timeout_ms = 8000,
        .replace_wait_ms = 2000,
        .recovery_limit = 5,
        .unix_offset_ms = m->unix_offset,
    });
    for (uint32_t i = 0; i < m->member_count; i++)
        m->members[i].version = 0;
    model_do_actions(m);
}

struct model_member *model_add(struct model *m, const char *id, bool is_server)
{
    assert_true(m->member_count < MODEL_MEMBERS);
    struct model_member *p = &m->members[m->member_count++];
    *p = (struct model_member){.is_server = is_server, .here = true, .memory = 1ull << 30};
    memcpy(p->id, id, strlen(id) + 1);
    memcpy(p->device, "cpu", 4);
    return p;
}

static void forget_job(struct model_member *p)
{
    if (p->layout != NULL)
        paramd__control__member_orders__free_unpacked(p->layout, NULL);
    p->layout = NULL;
    mem_free(p->yaml);
    p->yaml = NULL;
    memset(p->shards, 0, sizeof p->shards);
    p->restoring[0] = p->failure[0] = p->job[0] = '\0';
    p->failure_kind = 0;
    p->rounds = 0;
    p->index_done = false;
    p->evaluated = 0;
    p->generation = 0;
}

static void forget(struct model_member *p)
{
    forget_job(p);
    if (p->orders != NULL)
        paramd__control__member_orders__free_unpacked(p->orders, NULL);
    p->orders = NULL;
}

void model_leave(struct model *m, struct model_member *member)
{
    member->here = false;
    coordinator_member_lost(m->c, member->id, "it was killed", m->now);
}

void model_deinit(struct model *m)
{
    coordinator_destroy(m->c);
    for (uint32_t i = 0; i < m->member_count; i++)
        forget(&m->members[i]);
    for (uint32_t i = 0; i < m->stored_count; i++)
        checkpoint_manifest_destroy(m->stored[i].manifest);
    for (uint32_t i = 0; i < m->log_count; i++)
        mem_free(m->log[i]);
    for (uint32_t i = 0; i < m->record_count; i++) {
        mem_free(m->record[i][0]);
        mem_free(m->record[i][1]);
    }
    for (uint32_t i = 0; i < m->past_count; i++)
        mem_free(m->past[i]);
}

/* ---- members ---- */

static struct job *parse(const char *yaml)
{
    struct job_source source = {.what = "model", .text = yaml, .size = strlen(yaml)};
    struct job *j = NULL;
    assert_int_equal(job_parse(&source, &j), ERR_NONE);
    return j;
}

static void follow_shard(struct model_member *p, struct model_shard *s,
                         const Paramd__Control__ServerOrders *o)
{
    if (!s->restored) {
        s->restored = true;
        s->applied = s->drained = o->restore_step;
    }
    if (o->disarm != 0 && s->armed == o->disarm)
        s->armed = 0;
    if (o->arm != s->arm_seen) {
        s->arm_seen = o->arm;
        bool held = s->applied == o->arm && s->drained == o->arm && s->verdict < o->arm;
        if (o->arm != 0 && (p->refuse_arms > 0 || (o->arm <= s->applied && !held))) {
            s->refused_arm = o->arm;
            p->refuse_arms--;
        } else if (o->arm != 0) {
            s->armed = o->arm;
            s->refused_arm = s->abandoned = 0;
        }
    }
    s->verdict = o->verdict_step;
    s->stopped = o->verdict_stop;
}

static void follow_server(struct model_member *p, const Paramd__Control__MemberOrders *o)
{
    const Paramd__Control__ServerOrders *s = o->server;
    if (!s->form) {
        memset(p->shards, 0, sizeof p->shards);
        p->failure_kind = 0;
        p->restoring[0] = '\0';
        return;
    }
    const char *restore = s->restore[0] != '\0' ? s->restore : "initial";
    if (strcmp(p->restoring, restore) != 0) {
        memset(p->shards, 0, sizeof p->shards);
        p->failure_kind = 0;
        memcpy(p->restoring, restore, strlen(restore) + 1);
    }
    if (p->refuses != NULL && strcmp(p->refuses, restore) == 0) {
        p->failure_kind = PARAMD__CONTROL__FAILURE__KIND__RESTORE_REFUSED;
        memcpy(p->failure, "block 3: checksum", 18);
        return;
    }
    for (size_t i = 0; i < s->n_shards; i++)
        follow_shard(p, &p->shards[s->shards[i]], s);
}

static void evaluate(struct model_member *p, const Paramd__Control__WorkerOrders *w)
{
    p->evaluated = w->evaluate_step + 1;
    p->evaluated_part = w->evaluate_part;
    p->evaluated_part_count = w->evaluate_part_count;
}

static void follow_worker(struct model *m, struct model_member *p,
                          const Paramd__Control__WorkerOrders *w)
{
    if (p->scans > 0 && !p->frozen)
        p->activity++;
    if (p->scans > 0) {
        p->scans--;
        return;
    }
    if (p->rounds < w->prepare_round && !p->index_done && w->index_checksum[0] == '\0') {
        p->index_done = m->index_stored && p->rounds == 0;
        p->rounds++;
        if (w->worker_index == 0 && p->rounds == m->rounds_needed)
            m->index_stored = p->index_done = true;
    }
    if (w->evaluate && !p->frozen)
        evaluate(p, w);
}

static void follow(struct model *m, struct model_member *p, Paramd__Control__MemberOrders *o)
{
    assert_true(o->term > p->term || o->orders_version >= p->version);
    p->left |= o->shutdown;
    if (p->orders != NULL)
        paramd__control__member_orders__free_unpacked(p->orders, NULL);
    p->orders = o;
    p->version = o->orders_version;
    p->term = o->term;
    if (strcmp(o->job, p->job) != 0 || o->generation != p->generation) {
        if (p->job[0] != '\0')
            p->released_turn = m->turn;
        forget_job(p);
    }
    if (o->job[0] == '\0')
        return;
    if (p->job[0] == '\0') {
        assert_string_not_equal(o->job_yaml, "");
        p->yaml = must_strdup(o->job_yaml);
        memcpy(p->job, o->job, strlen(o->job) + 1);
        p->generation = o->generation;
    }
    if (p->is_server)
        follow_server(p, o);
    else
        follow_worker(m, p, o->worker);
}

static void pack_evaluation(const struct model *m, const struct model_member *p, struct str *out)
{
    struct job *j = parse(p->yaml);
    struct evaluation *e;
    assert_int_equal(evaluation_create(LOSS_LOGISTIC, 1, j->eval.metrics, &e), ERR_NONE);
    uint64_t epoch = (p->evaluated - 1) / 10;
    uint64_t n = m->quality_count > 0 && epoch > m->quality_count ? m->quality_count : epoch;
    float logit = m->quality_count > 0 && n > 0 ? (float)m->quality[n - 1] : 1.0f;
    float logits[2] = {logit, -logit}, labels[2] = {1, 0}, weights[2] = {1, 1};
    for (uint32_t i = 0; i < p->evaluated_part_count; i++)
        assert_int_equal(evaluation_add(e, logits, labels, weights, NULL, 2), ERR_NONE);
    evaluation_encode(e, out);
    evaluation_destroy(e);
    job_destroy(j);
}

/* Takes a copy through the wire, as the host does. */
static void deliver(struct model *m, const Paramd__Control__MemberState *s)
{
    size_t size = paramd__control__member_state__get_packed_size(s);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_state__pack(s, bytes);
    Paramd__Control__MemberState *copy = paramd__control__member_state__unpack(NULL, size, bytes);
    mem_free(bytes);
    assert_non_null(copy);
    assert_int_equal(coordinator_member(m->c, copy, m->now), ERR_NONE);
}

static void send_server(struct model *m, struct model_member *p, Paramd__Control__MemberState *s)
{
    Paramd__Control__ServerState server = PARAMD__CONTROL__SERVER_STATE__INIT;
    Paramd__Control__ShardState shards[MODEL_SHARDS], *list[MODEL_SHARDS];
    Paramd__Control__CheckpointFile files[MODEL_SHARDS], *file_list[MODEL_SHARDS];
    Paramd__Control__RankReport report = PARAMD__CONTROL__RANK_REPORT__INIT,
                                *reports[1] = {&report};
    char names[MODEL_SHARDS][16];
    for (uint32_t i = 0; p->failure_kind == 0 && i < MODEL_SHARDS; i++) {
        const struct model_shard *from = &p->shards[i];
        if (!from->restored)
            continue;
        Paramd__Control__ShardState *to = list[server.n_shards] = &shards[server.n_shards];
        server.n_shards++;
        paramd__control__shard_state__init(to);
        to->shard = i;
        to->restored = true;
        to->applied = from->applied;
        to->drained = from->drained;
        to->armed = from->armed;
        to->refused_arm = from->refused_arm;
        to->durable = from->durable;
        to->abandoned = from->abandoned;
        to->abandoned_why = (char *)"disk full";
        paramd__control__checkpoint_file__init(&files[i]);
        memcpy(names[i], "tableN", 7);
        names[i][5] = (char)('9' - i);
        files[i].name = names[i];
        file_list[i] = &files[i];
        to->n_files = from->durable != 0;
        to->files = &file_list[i];
        report.examples = from->drained * 100;
        report.loss_sum = (int64_t)from->drained << 20;
        report.weight_sum = (int64_t)from->drained << 21;
        to->n_reports = to->n_durable_reports = i == 0;
        to->reports = to->durable_reports = reports;
    }
    server.shards = list;
    s->server = &server;
    s->memory_bytes = p->memory;
    deliver(m, s);
}

static void send_worker(struct model *m, struct model_member *p, Paramd__Control__MemberState *s)
{
    static const char *const columns[] = {"y", "a"};
    Paramd__Control__WorkerState w = PARAMD__CONTROL__WORKER_STATE__INIT;
    struct str evaluation = {0};
    w.prepared_round = p->rounds;
    w.index_done = p->index_done;
    if (w.index_done) {
        w.index_checksum = (char *)"abc";
        w.train_examples = m->train_examples;
        w.eval_examples = m->eval_examples;
        w.n_columns = 2;
        w.columns = (char **)columns;
    }
    w.ready = p->orders != NULL && p->orders->worker != NULL && p->orders->worker->n_ranks > 0;
    w.evaluated_step = p->evaluated;
    if (p->evaluated > 0) {
        w.evaluated_part = p->evaluated_part;
        w.evaluated_part_count = p->evaluated_part_count;
    }
    if (p->evaluated > 0)
        pack_evaluation(m, p, &evaluation);
    w.evaluation = (ProtobufCBinaryData){evaluation.size, (uint8_t *)evaluation.data};
    Paramd__Control__RankState rank = PARAMD__CONTROL__RANK_STATE__INIT, *ranks[] = {&rank};
    rank.busy_ms = p->busy_ms;
    w.n_ranks = p->busy_ms > 0;
    w.ranks = ranks;
    s->device_class = p->device;
    s->worker = &w;
    deliver(m, s);
    str_deinit(&evaluation);
}

static void send_state(struct model *m, struct model_member *p)
{
    Paramd__Control__MemberState s = PARAMD__CONTROL__MEMBER_STATE__INIT;
    Paramd__Control__Failure failure = PARAMD__CONTROL__FAILURE__INIT;
    s.member = p->id;
    s.role = (char *)(p->is_server ? "server" : "worker");
    s.address = p->id;
    s.term = p->term;
    s.orders_version = p->version;
    s.sequence = ++p->sequence;
    s.job = p->job;
    s.generation = p->generation;
    s.leaving = p->leaving;
    s.activity = p->activity;
    failure.kind = (Paramd__Control__Failure__Kind)p->failure_kind;
    failure.text = p->failure;
    s.failure = p->failure_kind != 0 ? &failure : NULL;
    if (p->is_server)
        send_server(m, p, &s);
    else
        send_worker(m, p, &s);
}

uint64_t model_version(struct model *m, const struct model_member *member)
{
    uint64_t version = 0;
    assert_int_equal(coordinator_orders(m->c, member->id, NULL, &version), ERR_NONE);
    return version;
}

static void exchange(struct model *m, struct model_member *p)
{
    if (p->mute || !p->here)
        return;
    send_state(m, p);
    struct str packed = {0};
    uint64_t version;
    /* A new leader does not know yet what to say. */
    if (coordinator_orders(m->c, p->id, &packed, &version) == ERR_UNAVAILABLE)
        return;
    Paramd__Control__MemberOrders *o =
        paramd__control__member_orders__unpack(NULL, packed.size, (const uint8_t *)packed.data);
    str_deinit(&packed);
    assert_non_null(o);
    follow(m, p, o);
}

/* ---- training ---- */

static bool all_start(const struct model *m)
{
    size_t hosted = 0, ranks = 0;
    for (uint32_t i = 0; i < m->member_count; i++) {
        const struct model_member *p = &m->members[i];
        if (p->is_server || !p->here || p->job[0] == '\0')
            continue;
        if (p->frozen || p->orders->worker == NULL || !p->orders->worker->start)
            return false;
        hosted += p->orders->worker->n_ranks;
        ranks = p->orders->rank_count;
    }
    return hosted > 0 && hosted == ranks;
}

/* One step on every shard, unless one holds it at a drain point. */
static void train_step(struct model *m, const struct steps *steps)
{
    for (uint32_t i = 0; i < m->member_count; i++)
        for (uint32_t k = 0; m->members[i].here && k < MODEL_SHARDS; k++) {
            const struct model_shard *s = &m->members[i].shards[k];
            bool needs = steps_is_eval(steps, s->applied) || s->applied == steps->last_step;
            bool held = s->restored && s->applied > 0 && needs && s->verdict < s->applied;
            bool paused = s->restored && s->applied > 0 && s->drained == s->applied &&
                          m->members[i].orders != NULL && m->members[i].orders->pause;
            if (held || paused || (s->restored && (s->stopped || s->applied >= steps->last_step)))
                return;
        }
    for (uint32_t i = 0; i < m->member_count; i++)
        for (uint32_t k = 0; m->members[i].here && k < MODEL_SHARDS; k++) {
            struct model_shard *s = &m->members[i].shards[k];
            if (!s->restored)
                continue;
            s->applied++;
            if (steps_is_drain(steps, s->applied))
                s->drained = s->applied;
        }
}

static void snapshots(struct model *m)
{
    for (uint32_t i = 0; i < m->member_count; i++)
        for (uint32_t k = 0; k < MODEL_SHARDS; k++) {
            struct model_shard *s = &m->members[i].shards[k];
            if (s->armed == 0 || s->drained < s->armed)
                continue;
            if (m->members[i].abandon > 0) {
                m->members[i].abandon--;
                s->abandoned = s->armed;
            } else {
                s->durable = s->armed;
            }
            s->armed = 0;
        }
}

static void train(struct model *m)
{
    const struct model_member *server = NULL;
    for (uint32_t i = 0; i < m->member_count; i++)
        if (m->members[i].is_server && m->members[i].here && m->members[i].yaml != NULL)
            server = &m->members[i];
    if (server == NULL)
        return;
    struct job *j = parse(server->yaml);
    uint64_t per_epoch =
        dataindex_steps_per_epoch(m->train_examples, j->train.batch_size, j->train.ranks);
    struct steps steps = steps_make(j, per_epoch, m->eval_examples > 0);
    for (uint32_t n = 0; all_start(m) && n < m->steps_a_turn; n++) {
        train_step(m, &steps);
        snapshots(m);
    }
    snapshots(m);
    job_destroy(j);
}

void model_turn(struct model *m)
{
    m->now += 100;
    m->turn++;
    for (uint32_t i = 0; i < m->member_count; i++) {
        exchange(m, &m->members[i]);
        model_do_actions(m);
    }
    /* A verdict that a shard follows is in the registry. */
    for (uint32_t i = 0; i < m->member_count; i++) {
        const Paramd__Control__MemberOrders *o = m->members[i].orders;
        if (o != NULL && o->server != NULL && o->server->form &&
            strcmp(o->job, m->job_recorded) == 0 && o->generation == m->generation_recorded &&
            o->server->verdict_step > o->server->restore_step)
            assert_true(m->verdict_recorded >= o->server->verdict_step);
    }
    train(m);
    for (uint32_t i = 0; i < m->member_count; i++)
        if (m->members[i].left && m->members[i].leaving && m->members[i].here)
            model_leave(m, &m->members[i]);
    coordinator_tick(m->c, m->now);
    model_do_actions(m);
}
