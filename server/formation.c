#include <string.h>

#include "common/check.h"
#include "common/dataindex.h"
#include "common/mem.h"
#include "server/owner.h"

static enum err make_model(struct formation *f, const struct formation_options *o)
{
    const Paramd__Control__ServerOrders *s = o->orders->server;
    struct job_source source = {.what = "job", .text = o->yaml, .size = strlen(o->yaml)};
    enum err e = job_parse(&source, &f->job);
    if (e == ERR_NONE)
        e = features_spec_create(f->job, (const char *const *)s->columns, s->n_columns,
                                 &f->features);
    if (e == ERR_NONE)
        e = model_create(f->job, f->features, &f->model);
    if (e != ERR_NONE)
        return e;
    uint64_t per_epoch =
        dataindex_steps_per_epoch(s->train_examples, f->job->train.batch_size, f->job->train.ranks);
    f->steps = steps_make(f->job, per_epoch, s->has_eval);
    return ERR_NONE;
}

static enum err take_shards(struct formation *f, const struct formation_options *o)
{
    const Paramd__Control__ServerOrders *s = o->orders->server;
    f->shard_count = (uint32_t)s->n_shards;
    f->shards = must_alloc((s->n_shards + 1) * sizeof *f->shards);
    f->first_partition = must_alloc((s->n_shards + 1) * sizeof *f->first_partition);
    f->end_partition = must_alloc((s->n_shards + 1) * sizeof *f->end_partition);
    for (uint32_t i = 0; i < f->shard_count; i++) {
        uint32_t shard = s->shards[i];
        if (shard >= o->layout->n_shards)
            return err_set(ERR_INPUT, "orders give shard %u, the layout has %zu", shard,
                           o->layout->n_shards);
        f->shards[i] = shard;
        f->first_partition[i] = o->layout->shards[shard]->first_partition;
        f->end_partition[i] = o->layout->shards[shard]->end_partition;
    }
    f->shard_memory = f->shard_count > 0 ? o->memory_bytes / f->shard_count : 0;
    return ERR_NONE;
}

enum err formation_create(const struct formation_options *o, struct formation **out)
{
    struct formation *f = must_alloc(sizeof *f);
    atomic_init(&f->references, 1);
    f->serial = o->serial;
    f->generation = o->orders->generation;
    f->storage_uri = must_strdup(o->orders->storage_uri);
    f->restore = must_strdup(o->orders->server->restore);
    f->restore_checksum = must_strdup(o->orders->server->restore_checksum);
    f->read_only = strcmp(o->orders->mode, "train") != 0;
    f->wait_ms = o->wait_ms;
    enum err e = make_model(f, o);
    if (e == ERR_NONE)
        e = take_shards(f, o);
    if (e != ERR_NONE) {
        formation_unref(f);
        return e;
    }
    *out = f;
    return ERR_NONE;
}

struct formation *formation_ref(struct formation *f)
{
    atomic_fetch_add(&f->references, 1);
    return f;
}

void formation_unref(struct formation *f)
{
    if (f == NULL || atomic_fetch_sub(&f->references, 1) != 1)
        return;
    model_destroy(f->model);
    features_spec_destroy(f->features);
    job_destroy(f->job);
    mem_free(f->storage_uri);
    mem_free(f->restore);
    mem_free(f->restore_checksum);
    mem_free(f->shards);
    mem_free(f->first_partition);
    mem_free(f->end_partition);
    mem_free(f);
}

struct directive *directive_create(struct formation *formation,
                                   const Paramd__Control__MemberOrders *orders)
{
    struct directive *d = must_alloc(sizeof *d);
    atomic_init(&d->references, 1);
    d->formation = formation;
    size_t size = paramd__control__member_orders__get_packed_size(orders);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_orders__pack(orders, bytes);
    d->orders = paramd__control__member_orders__unpack(NULL, size, bytes);
    CHECK(d->orders != NULL);
    mem_free(bytes);
    return d;
}

struct directive *directive_ref(struct directive *d)
{
    atomic_fetch_add(&d->references, 1);
    return d;
}

void directive_unref(struct directive *d)
{
    if (d == NULL || atomic_fetch_sub(&d->references, 1) != 1)
        return;
    formation_unref(d->formation);
    paramd__control__member_orders__free_unpacked(d->orders, NULL);
    mem_free(d);
}
