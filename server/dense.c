#include "server/dense.h"

#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/layout.h"
#include "common/mem.h"

/* The values of one version; between uses it waits in the pool's list. */
struct version {
    struct version *next;
    struct pool *pool;
    float *values;
};

/*
 * Versions come back on whichever thread drops the last reference, also after dense_destroy(): the
 * pool lives until the last of them. Only the owner takes from the list, and takes all of it at
 * once, so that the list needs no lock.
 */
struct pool {
    _Atomic uint32_t references; /* one for the dense, one for each version that is out */
    _Atomic(struct version *) returned;
    _Atomic uint64_t bytes;
};

struct dense {
    const struct schema_dense *schema;
    uint32_t first_block, end_block;
    uint64_t value_count;
    struct pool *pool;
    struct version *spare; /* taken from the pool, not yet used */
    struct buf *current;
    struct buf *next;
    float *slots;
};

static uint64_t slots_size(const struct dense *d)
{
    return d->value_count * d->schema->slot_count * sizeof(float);
}

static void versions_free(struct version *v)
{
    while (v != NULL) {
        struct version *next = v->next;
        mem_free(v->values);
        mem_free(v);
        v = next;
    }
}

static void pool_unref(struct pool *p)
{
    if (atomic_fetch_sub(&p->references, 1) > 1)
        return;
    versions_free(atomic_load(&p->returned));
    mem_free(p);
}

/* A version's buffer has lost its last reference. */
static void version_release(void *context)
{
    struct version *v = context;
    struct pool *p = v->pool;
    v->next = atomic_load(&p->returned);
    while (!atomic_compare_exchange_weak(&p->returned, &v->next, v))
        ;
    pool_unref(p);
}

static struct version *version_create(struct dense *d)
{
    struct version *v = mem_alloc(sizeof *v);
    if (v == NULL)
        return NULL;
    *v = (struct version){.pool = d->pool};
    v->values = mem_alloc_array(d->value_count, sizeof(float));
    if (v->values == NULL) {
        mem_free(v);
        return NULL;
    }
    atomic_fetch_add(&d->pool->bytes, d->value_count * sizeof(float));
    return v;
}

/* A buffer of value_count floats, new or used before. NULL: no memory. */
static struct buf *version_take(struct dense *d)
{
    if (d->spare == NULL)
        d->spare = atomic_exchange(&d->pool->returned, NULL);
    if (d->spare == NULL)
        d->spare = version_create(d);
    if (d->spare == NULL)
        return NULL;
    struct version *v = d->spare;
    struct buf *b = buf_wrap(v->values, d->value_count * sizeof(float), version_release, v);
    if (b == NULL)
        return NULL;
    d->spare = v->next;
    atomic_fetch_add(&d->pool->references, 1);
    return b;
}

/* dense_create() in the order of what can fail. */
static enum err dense_init(struct dense *d)
{
    d->pool = mem_calloc(1, sizeof *d->pool);
    if (d->pool == NULL)
        return ERR_MEMORY;
    atomic_init(&d->pool->references, 1);
    d->slots = mem_alloc_array(d->value_count * d->schema->slot_count, sizeof(float));
    if (d->slots == NULL)
        return ERR_MEMORY;
    d->current = version_take(d);
    return d->current != NULL ? ERR_NONE : ERR_MEMORY;
}

enum err dense_create(const struct schema_dense *schema, uint32_t first_partition,
                      uint32_t end_partition, struct dense **out)
{
    struct dense *d = mem_calloc(1, sizeof *d);
    if (d == NULL)
        return ERR_MEMORY;
    d->schema = schema;
    layout_blocks(schema, first_partition, end_partition, &d->first_block, &d->end_block);
    if (d->end_block > d->first_block)
        d->value_count = schema_block_first(schema, d->end_block - 1) +
                         schema_block_size(schema, d->end_block - 1) -
                         schema_block_first(schema, d->first_block);
    enum err e = dense_init(d);
    if (e != ERR_NONE) {
        dense_destroy(d);
        return err_prefix(e, "%s", schema->name);
    }
    float *values = buf_data(d->current);
    for (uint32_t b = d->first_block; b < d->end_block; b++) {
        schema_dense_init(schema, schema_block_first(schema, b), schema_block_size(schema, b),
                          values);
        values += schema_block_size(schema, b);
    }
    float *slot = d->slots;
    for (uint32_t k = 0; k < schema->slot_count; k++) {
        float value = schema_slot_init(&schema->optimizer, k);
        for (uint64_t i = 0; i < d->value_count; i++)
            *slot++ = value;
    }
    *out = d;
    return ERR_NONE;
}

void dense_destroy(struct dense *d)
{
    if (d == NULL)
        return;
    buf_unref(d->next);
    buf_unref(d->current);
    versions_free(d->spare);
    mem_free(d->slots);
    if (d->pool != NULL)
        pool_unref(d->pool);
    mem_free(d);
}

uint32_t dense_first_block(const struct dense *d)
{
    return d->first_block;
}

uint32_t dense_end_block(const struct dense *d)
{
    return d->end_block;
}

uint64_t dense_value_count(const struct dense *d)
{
    return d->value_count;
}

uint64_t dense_memory(const struct dense *d)
{
    return atomic_load(&d->pool->bytes) + slots_size(d);
}

struct buf *dense_values(struct dense *d)
{
    return d->current;
}

float *dense_slots(struct dense *d)
{
    return d->slots;
}

enum err dense_load(struct dense *d, const float *values, const float *slots)
{
    float *next = NULL;
    enum err e = dense_next(d, &next);
    if (e != ERR_NONE)
        return e;
    if (d->value_count > 0) {
        memcpy(next, values, d->value_count * sizeof(float));
        if (slots_size(d) > 0)
            memcpy(d->slots, slots, slots_size(d));
    }
    dense_commit(d);
    return ERR_NONE;
}

enum err dense_next(struct dense *d, float **values_out)
{
    if (d->next == NULL)
        d->next = version_take(d);
    if (d->next == NULL)
        return err_prefix(ERR_MEMORY, "%s", d->schema->name);
    *values_out = buf_data(d->next);
    return ERR_NONE;
}

void dense_commit(struct dense *d)
{
    CHECK(d->next != NULL);
    buf_unref(d->current);
    d->current = d->next;
    d->next = NULL;
}

enum err dense_freeze_slots(const struct dense *d, struct buf **out)
{
    struct buf *b = buf_create(slots_size(d));
    if (b == NULL)
        return err_prefix(ERR_MEMORY, "%s", d->schema->name);
    if (slots_size(d) > 0)
        memcpy(buf_data(b), d->slots, slots_size(d));
    *out = b;
    return ERR_NONE;
}
