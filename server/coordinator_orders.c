#include <string.h>

#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * A member's orders are made anew from the job whenever somebody asks, and compared as bytes with
 * the last ones: the version changes exactly when something in them does.
 */

struct parts { /* what the message points to */
    Paramd__Control__MemberOrders orders;
    Paramd__Control__ServerOrders server;
    Paramd__Control__WorkerOrders worker;
    Paramd__Control__LayoutShard *shards, **shard_list;
    Paramd__Control__Lease *leases, **lease_list;
    uint32_t *own;
};

static void parts_deinit(struct parts *p)
{
    mem_free(p->shards);
    mem_free(p->shard_list);
    mem_free(p->leases);
    mem_free(p->lease_list);
    mem_free(p->own);
}

static void put_layout(const struct job_run *j, struct parts *p)
{
    uint32_t count = j->layout->shard_count;
    p->shards = must_alloc(count * sizeof *p->shards);
    p->shard_list = must_alloc(count * sizeof *p->shard_list);
    for (uint32_t i = 0; i < count; i++) {
        const struct fellow *f = j->servers[i / shards_per_server(j)];
        Paramd__Control__LayoutShard *s = p->shard_list[i] = &p->shards[i];
        paramd__control__layout_shard__init(s);
        s->first_partition = j->layout->shards[i].first_partition;
        s->end_partition = j->layout->shards[i].end_partition;
        s->member = j->layout->shards[i].member;
        if (f == NULL)
            continue;
        s->n_addresses = f->state->n_addresses;
        s->addresses = f->state->addresses;
        s->host_id = f->state->host_id;
    }
    p->orders.n_shards = count;
    p->orders.shards = p->shard_list;
    p->orders.job_yaml = j->yaml;
}

/* Those of the slot's ranks; NO_SLOT: of all. Returns how many. */
static size_t put_leases(const struct job_run *j, uint32_t slot, struct parts *p)
{
    uint32_t ranks = j->job->train.ranks;
    size_t count = 0;
    p->leases = must_alloc((ranks + 1) * sizeof *p->leases);
    p->lease_list = must_alloc((ranks + 1) * sizeof *p->lease_list);
    for (uint32_t r = 0; r < ranks; r++) {
        if (slot != NO_SLOT && j->host[r] != slot)
            continue;
        Paramd__Control__Lease *l = p->lease_list[count] = &p->leases[count];
        count++;
        paramd__control__lease__init(l);
        l->rank = r;
        l->lease = PLANT(lease_kept) ? 1 : j->lease[r];
    }
    return count;
}

static void put_server(const struct job_run *j, const struct fellow *f, struct parts *p)
{
    Paramd__Control__ServerOrders *o = &p->server;
    paramd__control__server_orders__init(o);
    p->orders.server = o;
    uint32_t each = shards_per_server(j);
    p->own = must_alloc(each * sizeof *p->own);
    for (uint32_t i = 0; i < each; i++)
        p->own[i] = f->index * each + i;
    o->n_shards = each;
    o->shards = p->own;
    if (j->state == JOB_FAILED)
        o->fail = j->why;
    if (!j->form)
        return;
    o->form = true;
    o->index_checksum = j->index_checksum;
    o->train_examples = j->train_examples;
    o->has_eval = j->eval_examples > 0;
    o->n_columns = j->column_count;
    o->columns = j->columns;
    o->restore_step = j->start_step;
    if (j->restore_name != NULL) {
        o->restore = j->restore_name;
        o->restore_checksum = (char *)j->manifest_sha;
    }
    bool armed = j->snap == SNAP_ARMING || j->snap == SNAP_ARMED || j->snap == SNAP_PUBLISHING;
    o->arm = armed ? j->snap_step : 0;
    o->disarm = j->disarm;
    o->verdict_step = j->verdict_step;
    o->verdict_stop = j->verdict_stop;
    o->n_leases = put_leases(j, NO_SLOT, p);
    o->leases = p->lease_list;
}

static void put_worker(const struct job_run *j, const struct fellow *f, struct parts *p)
{
    Paramd__Control__WorkerOrders *o = &p->worker;
    paramd__control__worker_orders__init(o);
    p->orders.worker = o;
    o->worker_index = f->index;
    o->worker_count = j->worker_count;
    o->prepare_round = j->round;
    if (!j->indexed)
        return;
    o->index_checksum = j->index_checksum;
    o->n_ranks = put_leases(j, f->index, p);
    o->ranks = p->lease_list;
    if (!j->form)
        return;
    o->start_step = j->start_step;
    o->start = j->start;
    uint32_t first, end;
    rank_range(j, slots_share(j, f->index), &first, &end);
    o->evaluate = j->hold == HOLD_EVALUATE;
    o->evaluate_step = o->evaluate ? j->hold_step : 0;
    o->evaluate_parts = j->job->train.ranks;
    o->evaluate_part = first;
    o->evaluate_part_count = end - first;
}

static bool knows(const struct job_run *j, const struct fellow *f)
{
    return state_of(j, f) != NULL;
}

/* `whole`: with version, term, and what the member needs only until it knows the job. */
static void pack_orders(const struct coordinator *c, const struct fellow *f, bool whole,
                        struct str *out)
{
    struct parts p = {.orders = PARAMD__CONTROL__MEMBER_ORDERS__INIT};
    const struct job_run *j = f->job != NULL && f->job->formed ? f->job : NULL;
    p.orders.shutdown = f->shutdown;
    p.orders.pause = c->pause;
    if (j != NULL) {
        p.orders.pause = c->pause || (j->is_paused && j->state == JOB_RUNNING);
        p.orders.job = j->name;
        p.orders.generation = j->generation;
        p.orders.mode = j->mode;
        p.orders.rank_count = j->job->train.ranks;
        p.orders.storage_uri = j->storage_uri;
        if (whole && !knows(j, f))
            put_layout(j, &p);
        if (f->is_server)
            put_server(j, f, &p);
        else
            put_worker(j, f, &p);
    }
    if (whole) {
        p.orders.term = c->options.term;
        p.orders.orders_version = f->version;
    }
    str_clear(out);
    size_t size = paramd__control__member_orders__get_packed_size(&p.orders);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_orders__pack(&p.orders, bytes);
    str_append_span(out, span_make((const char *)bytes, size));
    mem_free(bytes);
    parts_deinit(&p);
}

static void refresh(struct coordinator *c, struct fellow *f)
{
    struct str now = {0};
    pack_orders(c, f, false, &now);
    bool same = f->version != 0 && span_equal(span_make(now.data, now.size),
                                              span_make(f->orders.data, f->orders.size));
    str_deinit(&f->orders);
    f->orders = now;
    if (!same)
        f->version = ++c->next_version;
}

void ask_servers(struct coordinator *c, struct job_run *j)
{
    for (uint32_t s = 0; s < j->server_count; s++) {
        if (j->servers[s] == NULL)
            continue;
        refresh(c, j->servers[s]);
        j->servers[s]->answer_version = j->servers[s]->version;
    }
}

enum err coordinator_orders(struct coordinator *c, const char *member, struct str *packed,
                            uint64_t *version)
{
    struct fellow *f = c->fellows;
    while (f != NULL && strcmp(f->id, member) != 0)
        f = f->next;
    if (f == NULL)
        return err_set(ERR_NOT_FOUND, "member '%s' is not known", member);
    if (!c->loaded || (f->job != NULL && f->job->adopting))
        return err_set(ERR_UNAVAILABLE, "this leader is new; what '%s' has to do is not known yet",
                       member);
    refresh(c, f);
    if (packed != NULL)
        pack_orders(c, f, true, packed);
    *version = f->version;
    return ERR_NONE;
}
