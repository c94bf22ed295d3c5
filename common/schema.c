#include "common/schema.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"

static const struct {
    const char *type;
    uint32_t slot_count;
} optimizer_types[] = {
    {"sgd", 0},      /* none */
    {"momentum", 1}, /* velocity */
    {"adagrad", 1},  /* sum of squares */
    {"adam", 2},     /* first moment, second moment */
    {"rmsprop", 1},  /* mean square */
    {"ftrl", 2},     /* z, n */
};

uint32_t optimizer_slot_count(const char *type)
{
    for (size_t i = 0; i < sizeof optimizer_types / sizeof optimizer_types[0]; i++) {
        if (strcmp(type, optimizer_types[i].type) == 0)
            return optimizer_types[i].slot_count;
    }
    return UINT32_MAX;
}

static enum err check_parameter(const char *name, const struct optimizer_spec *optimizer,
                                const struct init_spec *init, double l2)
{
    uint32_t slots = optimizer_slot_count(optimizer->type);
    if (slots == UINT32_MAX)
        return err_set(ERR_INPUT, "%s: optimizer '%s' is not known", name, optimizer->type);
    CHECK(slots <= SLOT_MAX);
    if (!isfinite(init->scale))
        return err_set(ERR_INPUT, "%s: the scale of its initial values is not finite", name);
    if (!isfinite(l2) || l2 < 0.0)
        return err_set(ERR_INPUT, "%s: l2 is %g; it must be 0 or more", name, l2);
    return ERR_NONE;
}

static enum err table_finish(struct schema_table *t, uint64_t seed)
{
    if (t->name[0] == '\0')
        return err_set(ERR_INPUT, "a table has no name");
    if (t->component_count == 0 || t->component_count > COMPONENT_MAX)
        return err_set(ERR_LIMIT, "table %s has %u components; a row has 1 to %u", t->name,
                       t->component_count, COMPONENT_MAX);
    uint64_t dim = 0, slots = 0;
    for (uint32_t i = 0; i < t->component_count; i++) {
        struct schema_component *c = &t->components[i];
        enum err e = check_parameter(t->name, &c->optimizer, &c->init, c->l2);
        if (e != ERR_NONE)
            return e;
        if (c->init.kind == INIT_GLOROT)
            return err_set(ERR_INPUT, "table %s: initial values 'glorot' are for dense parameters",
                           t->name);
        if (c->dim == 0 || c->dim > ROW_DIM_MAX || dim + c->dim > ROW_DIM_MAX)
            return err_set(ERR_LIMIT, "table %s: component %s of %u floats; a row has 1 to %u",
                           t->name, c->name, c->dim, ROW_DIM_MAX);
        c->offset = (uint32_t)dim;
        c->slot_count = optimizer_slot_count(c->optimizer.type);
        c->slot_offset = (uint32_t)slots; /* behind all values: shifted below */
        dim += c->dim;
        slots += (uint64_t)c->slot_count * c->dim;
    }
    for (uint32_t i = 0; i < t->component_count; i++)
        t->components[i].slot_offset += (uint32_t)dim;
    t->dim = (uint32_t)dim;
    t->state_dim = (uint32_t)(dim + slots);
    t->init_key = rng_key(rng_key(seed, "table", 0), t->name, 0);
    return ERR_NONE;
}

static enum err dense_finish(struct schema_dense *d, uint64_t seed)
{
    if (d->name[0] == '\0')
        return err_set(ERR_INPUT, "a dense parameter has no name");
    enum err e = check_parameter(d->name, &d->optimizer, &d->init, d->l2);
    if (e != ERR_NONE)
        return e;
    if (d->shape_count == 0 || d->shape_count > 4)
        return err_set(ERR_LIMIT, "%s has %u dimensions; a parameter has 1 to 4", d->name,
                       d->shape_count);
    uint64_t count = 1;
    for (uint32_t i = 0; i < d->shape_count; i++) {
        if (d->shape[i] == 0)
            return err_set(ERR_INPUT, "%s: dimension %u is 0", d->name, i);
        if (__builtin_mul_overflow(count, (uint64_t)d->shape[i], &count) || count > UINT64_C(1)
                                                                                        << 42)
            return err_set(ERR_LIMIT, "%s has more than 2^42 values", d->name);
    }
    if (d->init.kind == INIT_GLOROT && d->fan_in + (uint64_t)d->fan_out == 0)
        return err_set(ERR_INPUT, "%s: glorot needs fan_in and fan_out", d->name);
    /* Each block has a partition: beyond 4096 blocks the blocks grow, in steps of a cache line. */
    uint64_t block = (count + PARTITION_COUNT - 1) / PARTITION_COUNT;
    block = (block + 15) / 16 * 16;
    d->block_values = block > DENSE_BLOCK_VALUES ? (uint32_t)block : DENSE_BLOCK_VALUES;
    d->block_count = (uint32_t)((count + d->block_values - 1) / d->block_values);
    d->count = count;
    d->slot_count = optimizer_slot_count(d->optimizer.type);
    d->init_key = rng_key(rng_key(seed, "dense", 0), d->name, 0);
    return ERR_NONE;
}

enum err schema_finish(struct schema *s, uint64_t seed)
{
    if (s->table_count > TABLE_MAX)
        return err_set(ERR_LIMIT, "the model has %u tables; the most is %u", s->table_count,
                       TABLE_MAX);
    if (s->dense_count > DENSE_MAX)
        return err_set(ERR_LIMIT, "the model has %u dense parameters; the most is %u",
                       s->dense_count, DENSE_MAX);
    for (uint32_t i = 0; i < s->table_count; i++) {
        enum err e = table_finish(&s->tables[i], seed);
        if (e != ERR_NONE)
            return e;
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(s->tables[i].name, s->tables[k].name) == 0)
                return err_set(ERR_INPUT, "two tables are named %s", s->tables[i].name);
        }
    }
    for (uint32_t i = 0; i < s->dense_count; i++) {
        enum err e = dense_finish(&s->dense[i], seed);
        if (e != ERR_NONE)
            return e;
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(s->dense[i].name, s->dense[k].name) == 0)
                return err_set(ERR_INPUT, "two dense parameters are named %s", s->dense[i].name);
        }
    }
    return ERR_NONE;
}

void schema_destroy(struct schema *s)
{
    if (s == NULL)
        return;
    mem_free(s->tables);
    mem_free(s->dense);
    mem_free(s);
}

/* count values of the stream `key`, from `counter` on. */
static void init_fill(enum init_kind kind, float scale, uint64_t key, uint64_t counter,
                      float *values, uint32_t count)
{
    switch (kind) {
    case INIT_ZERO:
        memset(values, 0, count * sizeof *values);
        break;
    case INIT_CONSTANT:
        for (uint32_t i = 0; i < count; i++)
            values[i] = scale;
        break;
    case INIT_NORMAL:
        rng_normal_fill(key, counter, values, count);
        for (uint32_t i = 0; i < count; i++)
            values[i] *= scale;
        break;
    case INIT_UNIFORM:
    case INIT_GLOROT:
        for (uint32_t i = 0; i < count; i++)
            values[i] = (2.0f * rng_uniform(rng_at(key, counter + i)) - 1.0f) * scale;
        break;
    }
}

void schema_row_init(const struct schema_table *t, uint64_t mixed_key, float *values)
{
    for (uint32_t i = 0; i < t->component_count; i++) {
        const struct schema_component *c = &t->components[i];
        uint64_t key = rng_at(rng_at(t->init_key, i), mixed_key);
        init_fill(c->init.kind, (float)c->init.scale, key, 0, values + c->offset, c->dim);
    }
}

void schema_row_init_state(const struct schema_table *t, uint64_t mixed_key, float *state)
{
    schema_row_init(t, mixed_key, state);
    for (uint32_t i = 0; i < t->component_count; i++) {
        const struct schema_component *c = &t->components[i];
        float *slot = state + c->slot_offset;
        for (uint32_t k = 0; k < c->slot_count; k++, slot += c->dim) {
            float value = schema_slot_init(&c->optimizer, k);
            for (uint32_t j = 0; j < c->dim; j++)
                slot[j] = value;
        }
    }
}

void schema_dense_init(const struct schema_dense *d, uint64_t first, uint32_t count, float *values)
{
    double scale = d->init.scale;
    if (d->init.kind == INIT_GLOROT) {
        double gain = scale != 0.0 ? scale : 1.0;
        scale = gain * sqrt(6.0 / ((double)d->fan_in + (double)d->fan_out));
    }
    init_fill(d->init.kind, (float)scale, d->init_key, first, values, count);
}

float schema_slot_init(const struct optimizer_spec *optimizer, uint32_t slot)
{
    bool accumulator = slot == 0 && strcmp(optimizer->type, "adagrad") == 0;
    return accumulator ? (float)optimizer->initial_accumulator : 0.0f;
}

uint32_t schema_block_partition(const struct schema_dense *d, uint32_t block)
{
    return (uint32_t)((uint64_t)block * PARTITION_COUNT / d->block_count);
}

uint64_t schema_block_first(const struct schema_dense *d, uint32_t block)
{
    return (uint64_t)block * d->block_values;
}

uint32_t schema_block_size(const struct schema_dense *d, uint32_t block)
{
    uint64_t left = d->count - schema_block_first(d, block);
    return left < d->block_values ? (uint32_t)left : d->block_values;
}
