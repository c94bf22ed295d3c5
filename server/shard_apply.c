#include "server/shard_internal.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"

#define KEYS_AT_ONCE 32
#define PIECE_FLOATS 4096 /* of a dense block, at once */

/* Floats where they arrived, which may be anywhere. */
typedef float loose_float __attribute__((aligned(1), may_alias));

/* The rows that one push brings for the table at hand. */
struct row_stream {
    struct chain_cursor keys, values;
    uint64_t left; /* keys that are not in `ahead` yet */
    uint64_t ahead[KEYS_AT_ONCE];
    uint32_t at, count; /* in `ahead` */
    uint64_t key;       /* the current one */
    uint32_t order;     /* of the push among the step's */
};

/* Distinct keys in ascending order with the sums of their gradients. */
struct row_batch {
    uint64_t keys[TABLE_BATCH];
    const void *grads[TABLE_BATCH]; /* into a slice, or into sums */
    float *rows[TABLE_BATCH];
    float *sums; /* [TABLE_BATCH][dim] */
    uint32_t count;
};

/* The blocks of one dense parameter that one push brings. */
struct dense_stream {
    Paramd__Block **blocks, **end;
    struct chain_cursor values; /* of blocks[0], when it has been reached */
};

struct apply_scratch {
    struct row_stream *streams; /* [rank_count] */
    struct row_stream **heap;   /* [rank_count]: by (key, order) */
    uint32_t heap_count;
    const Paramd__Block **rows; /* [rank_count][table_count]: the step's ROWS blocks */
    struct row_batch batches[3];
    float *carry;                       /* [ROW_DIM of the widest table] */
    struct dense_stream *dense_streams; /* [rank_count] */
    Paramd__Block ***dense;             /* [rank_count]: the push's DENSE blocks, by parameter */
    uint32_t *dense_first; /* [rank_count][dense_count + 1]: where each parameter's begin */
    float *piece;          /* [PIECE_FLOATS] */
};

/* What the step does to one table or parameter. */
struct update {
    struct shard *shard;
    struct shard_push *const *pushes;
    uint32_t count; /* of pushes */
    uint64_t step;
    float grad_scale;
};

static uint32_t widest_row(const struct schema *schema)
{
    uint32_t dim = 1;
    for (uint32_t i = 0; i < schema->table_count; i++)
        dim = schema->tables[i].dim > dim ? schema->tables[i].dim : dim;
    return dim;
}

enum err apply_scratch_create(const struct shard_options *options, struct apply_scratch **out)
{
    const struct schema *schema = options->schema;
    size_t ranks = options->rank_count, dim = widest_row(schema);
    struct apply_scratch *a = mem_calloc(1, sizeof *a);
    if (a == NULL)
        return ERR_MEMORY;
    a->streams = mem_calloc(ranks, sizeof *a->streams);
    a->heap = mem_calloc(ranks, sizeof *a->heap);
    a->rows = mem_calloc(ranks * schema->table_count, sizeof *a->rows);
    a->carry = mem_alloc_array(dim, sizeof *a->carry);
    a->dense_streams = mem_calloc(ranks, sizeof *a->dense_streams);
    a->dense = mem_calloc(ranks, sizeof *a->dense);
    a->dense_first = mem_calloc(ranks * (schema->dense_count + 1), sizeof *a->dense_first);
    a->piece = mem_alloc_array(PIECE_FLOATS, sizeof *a->piece);
    bool whole = a->streams != NULL && a->heap != NULL && a->rows != NULL && a->carry != NULL &&
                 a->dense_streams != NULL && a->dense != NULL && a->dense_first != NULL &&
                 a->piece != NULL;
    for (int i = 0; i < 3; i++) {
        a->batches[i].sums = mem_alloc_array(TABLE_BATCH * dim, sizeof(float));
        whole = whole && a->batches[i].sums != NULL;
    }
    if (!whole) {
        apply_scratch_destroy(a);
        return ERR_MEMORY;
    }
    *out = a;
    return ERR_NONE;
}

void apply_scratch_destroy(struct apply_scratch *a)
{
    if (a == NULL)
        return;
    mem_free(a->streams);
    mem_free(a->heap);
    mem_free(a->rows);
    mem_free(a->carry);
    mem_free(a->dense_streams);
    mem_free(a->dense);
    mem_free(a->dense_first);
    mem_free(a->piece);
    for (int i = 0; i < 3; i++)
        mem_free(a->batches[i].sums);
    mem_free(a);
}

static void add_floats(float *to, const void *from, size_t count)
{
    const loose_float *values = from;
    for (size_t i = 0; i < count; i++)
        to[i] += values[i];
}

static const Paramd__PushPullRequest *request_of(const struct shard_push *p)
{
    return (const Paramd__PushPullRequest *)p->message.message;
}

/* ---- rows: an R-way merge over ascending keys ---- */

/* false: there is no further key. */
static bool stream_advance(struct row_stream *r)
{
    if (r->at == r->count) {
        if (r->left == 0)
            return false;
        r->count = r->left < KEYS_AT_ONCE ? (uint32_t)r->left : KEYS_AT_ONCE;
        CHECK(chain_cursor_read(&r->keys, r->ahead, r->count * sizeof r->ahead[0]));
        r->left -= r->count;
        r->at = 0;
    }
    r->key = r->ahead[r->at++];
    return true;
}

static bool before(const struct row_stream *a, const struct row_stream *b)
{
    if (a->key == b->key && PLANT(rank_order_ignored))
        return a->order > b->order;
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

/* Lets the stream at `i` sink to its place. */
static void heap_sink(struct apply_scratch *a, uint32_t i)
{
    struct row_stream *r = a->heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= a->heap_count)
            break;
        if (child + 1 < a->heap_count && before(a->heap[child + 1], a->heap[child]))
            child++;
        if (!before(a->heap[child], r))
            break;
        a->heap[i] = a->heap[child];
        i = child;
    }
    a->heap[i] = r;
}

/* The first stream has given its row. */
static void heap_step(struct apply_scratch *a)
{
    if (!stream_advance(a->heap[0]))
        a->heap[0] = a->heap[--a->heap_count];
    if (a->heap_count > 1)
        heap_sink(a, 0);
}

static void open_streams(const struct update *u, uint32_t table)
{
    struct apply_scratch *a = u->shard->scratch;
    uint32_t table_count = u->shard->options.schema->table_count;
    a->heap_count = 0;
    for (uint32_t i = 0; i < u->count; i++) {
        const Paramd__Block *b = a->rows[(size_t)i * table_count + table];
        if (b == NULL || b->count == 0)
            continue;
        struct row_stream *r = &a->streams[i];
        r->left = b->count;
        r->at = r->count = 0;
        r->order = i;
        wire_keys(&u->pushes[i]->message, b, &r->keys);
        wire_values(&u->pushes[i]->message, b, &r->values);
        CHECK(stream_advance(r));
        a->heap[a->heap_count++] = r;
    }
    for (uint32_t i = a->heap_count / 2; i-- > 0;)
        heap_sink(a, i);
}

/*
 * The next keys of all pushes with their gradients. One contribution is used where it lies; more
 * are summed in the order of ranks, starting with the first.
 */
static void fill_batch(struct apply_scratch *a, uint32_t dim, struct row_batch *batch)
{
    const size_t size = dim * sizeof(float);
    batch->count = 0;
    while (batch->count < TABLE_BATCH && a->heap_count > 0) {
        uint64_t key = a->heap[0]->key;
        float *sum = batch->sums + (size_t)batch->count * dim;
        const void *grad = chain_cursor_next(&a->heap[0]->values, size, sum);
        heap_step(a);
        while (a->heap_count > 0 && a->heap[0]->key == key) {
            if (grad != sum)
                memcpy(sum, grad, size);
            grad = sum;
            add_floats(sum, chain_cursor_next(&a->heap[0]->values, size, a->carry), dim);
            heap_step(a);
        }
        batch->keys[batch->count] = key;
        batch->grads[batch->count] = grad;
        batch->count++;
    }
}

struct component_update {
    const struct optimizer *optimizer;
    struct optimizer_step step;
};

static void update_row(const struct update *u, const struct schema_table *t,
                       const struct component_update *updates, float *row, const void *grad)
{
    for (uint32_t i = 0; i < t->component_count; i++) {
        const struct schema_component *c = &t->components[i];
        struct optimizer_update update = {
            .param = row + c->offset,
            .out = row + c->offset,
            .grad = (const float *)((const uint8_t *)grad + c->offset * sizeof(float)),
            .grad_scale = u->grad_scale,
            .l2 = (float)c->l2,
            .slots = row + c->slot_offset,
            .slot_stride = c->dim,
            .count = c->dim,
        };
        updates[i].optimizer->apply(&updates[i].step, &update);
    }
}

static enum err find_rows(struct table *t, struct row_batch *batch)
{
    enum err e = table_find_or_insert(t, batch->keys, batch->count, batch->rows);
    if (e != ERR_NONE || !table_snapshot_active(t))
        return e;
    /* A snapshot that is abandoned for its copies says so to whoever takes it; training goes on. */
    e = table_touch(t, batch->keys, batch->rows, batch->count);
    return e == ERR_LIMIT || e == ERR_MEMORY ? ERR_NONE : e;
}

static enum err apply_table(const struct update *u, uint32_t index)
{
    struct apply_scratch *a = u->shard->scratch;
    const struct schema_table *schema = &u->shard->options.schema->tables[index];
    struct table *t = u->shard->tables[index];
    struct component_update updates[COMPONENT_MAX];
    struct row_batch *now = &a->batches[0], *next = &a->batches[1], *after = &a->batches[2];
    open_streams(u, index);
    if (a->heap_count == 0)
        return ERR_NONE;
    for (uint32_t i = 0; i < schema->component_count; i++)
        updates[i].optimizer =
            optimizer_prepare(&schema->components[i].optimizer, u->step,
                              u->shard->options.steps.last_step, &updates[i].step);
    /* Three batches are under way: see table.h. */
    fill_batch(a, schema->dim, now);
    table_prefetch(t, now->keys, now->count);
    fill_batch(a, schema->dim, next);
    table_prefetch(t, next->keys, next->count);
    enum err e = find_rows(t, now);
    while (e == ERR_NONE && now->count > 0) {
        fill_batch(a, schema->dim, after);
        table_prefetch(t, after->keys, after->count);
        e = find_rows(t, next);
        if (e != ERR_NONE)
            break;
        for (uint32_t i = 0; i < now->count; i++) {
            if (i < next->count)
                table_ahead(next->rows[i], schema->state_dim);
            update_row(u, schema, updates, now->rows[i], now->grads[i]);
        }
        struct row_batch *done = now;
        now = next;
        next = after;
        after = done;
    }
    return e;
}

/* ---- dense blocks ---- */

struct dense_update {
    const struct update *u;
    const struct schema_dense *schema;
    const struct optimizer *optimizer;
    struct optimizer_step step;
    const float *old; /* values of the shard's blocks, in order */
    float *out;
    float *slots;
    uint64_t value_count;
};

static void update_values(const struct dense_update *d, uint64_t at, uint32_t count,
                          const void *grad)
{
    struct optimizer_update update = {
        .param = d->old + at,
        .out = d->out + at,
        .grad = grad,
        .grad_scale = d->u->grad_scale,
        .l2 = (float)d->schema->l2,
        .slots = d->slots + at,
        .slot_stride = d->value_count,
        .count = count,
    };
    d->optimizer->apply(&d->step, &update);
}

/* The next floats that lie in one piece, at most `max`; one that straddles slices comes by `carry`.
 */
static const void *floats_run(struct chain_cursor *c, uint32_t max, float *carry,
                              uint32_t *count_out)
{
    struct chain_cursor look = *c;
    size_t size;
    const void *run = chain_cursor_run(&look, max * sizeof(float), &size);
    *count_out = (uint32_t)(size / sizeof(float));
    if (*count_out == 0) {
        *count_out = 1;
        return chain_cursor_next(c, sizeof(float), carry);
    }
    CHECK(chain_cursor_skip(c, *count_out * sizeof(float)));
    return run;
}

static void update_from_slices(const struct dense_update *d, struct chain_cursor *c, uint64_t at,
                               uint32_t count)
{
    while (count > 0) {
        float carry;
        uint32_t run;
        const void *grad = floats_run(c, count, &carry, &run);
        update_values(d, at, run, grad);
        at += run;
        count -= run;
    }
}

static void add_from_slices(float *sum, struct chain_cursor *c, uint32_t count)
{
    while (count > 0) {
        float carry;
        uint32_t run;
        const void *values = floats_run(c, count, &carry, &run);
        add_floats(sum, values, run);
        sum += run;
        count -= run;
    }
}

/* The stream's values of this block, or NULL when the push does not bring it. */
static struct chain_cursor *stream_at(const struct update *u, uint32_t push, uint32_t block)
{
    struct dense_stream *r = &u->shard->scratch->dense_streams[push];
    while (r->blocks < r->end && block >= (*r->blocks)->first_block + (*r->blocks)->block_count)
        r->blocks++;
    if (r->blocks == r->end || block < (*r->blocks)->first_block)
        return NULL;
    if (block == (*r->blocks)->first_block)
        wire_values(&u->pushes[push]->message, *r->blocks, &r->values);
    return &r->values;
}

/* Sums the contributions to one block and applies them, or keeps the old values when there are
 * none. */
static void update_block(const struct dense_update *d, uint32_t block, uint64_t at)
{
    const struct update *u = d->u;
    struct chain_cursor *contributions[RANK_MAX];
    uint32_t contribution_count = 0, count = schema_block_size(d->schema, block);
    for (uint32_t i = 0; i < u->count; i++) {
        struct chain_cursor *c = stream_at(u, i, block);
        if (c != NULL)
            contributions[contribution_count++] = c;
    }
    if (contribution_count == 0) {
        memcpy(d->out + at, d->old + at, count * sizeof *d->out);
        return;
    }
    if (contribution_count == 1) {
        update_from_slices(d, contributions[0], at, count);
        return;
    }
    float *piece = u->shard->scratch->piece;
    while (count > 0) {
        uint32_t part = count < PIECE_FLOATS ? count : PIECE_FLOATS;
        CHECK(chain_cursor_read(contributions[0], piece, part * sizeof *piece));
        for (uint32_t i = 1; i < contribution_count; i++)
            add_from_slices(piece, contributions[i], part);
        update_values(d, at, part, piece);
        at += part;
        count -= part;
    }
}

static enum err apply_dense(const struct update *u, uint32_t index)
{
    struct apply_scratch *a = u->shard->scratch;
    const struct schema *schema = u->shard->options.schema;
    struct dense *dense = u->shard->dense[index];
    bool any = false;
    for (uint32_t i = 0; i < u->count; i++) {
        const uint32_t *first = a->dense_first + (size_t)i * (schema->dense_count + 1) + index;
        a->dense_streams[i].blocks = a->dense[i] + first[0];
        a->dense_streams[i].end = a->dense[i] + first[1];
        any = any || first[1] > first[0];
    }
    if (!any)
        return ERR_NONE;
    struct dense_update d = {
        .u = u,
        .schema = &schema->dense[index],
        .old = buf_data(dense_values(dense)),
        .slots = dense_slots(dense),
        .value_count = dense_value_count(dense),
    };
    enum err e = dense_next(dense, &d.out);
    if (e != ERR_NONE)
        return e;
    d.optimizer = optimizer_prepare(&d.schema->optimizer, u->step,
                                    u->shard->options.steps.last_step, &d.step);
    uint64_t at = 0;
    for (uint32_t b = dense_first_block(dense); b < dense_end_block(dense); b++) {
        update_block(&d, b, at);
        at += schema_block_size(d.schema, b);
    }
    dense_commit(dense);
    return ERR_NONE;
}

/* ---- the step ---- */

/* Notes which blocks push `i` brings, by table and by dense parameter. */
static enum err sort_blocks(const struct update *u, uint32_t i)
{
    struct apply_scratch *a = u->shard->scratch;
    const struct schema *schema = u->shard->options.schema;
    const Paramd__PushPullRequest *q = request_of(u->pushes[i]);
    const Paramd__Block **rows = a->rows + (size_t)i * schema->table_count;
    uint32_t *first = a->dense_first + (size_t)i * (schema->dense_count + 1);
    memset(first, 0, (schema->dense_count + 1) * sizeof *first);
    for (uint32_t t = 0; t < schema->table_count; t++)
        rows[t] = NULL;
    for (size_t k = 0; k < q->n_push; k++) {
        if (q->push[k]->kind == PARAMD__BLOCK__KIND__ROWS)
            rows[q->push[k]->index] = q->push[k];
        else
            first[q->push[k]->index + 1]++;
    }
    for (uint32_t d = 0; d < schema->dense_count; d++)
        first[d + 1] += first[d];
    a->dense[i] = mem_alloc((first[schema->dense_count] + 1) * sizeof *a->dense[i]);
    if (a->dense[i] == NULL)
        return ERR_MEMORY;
    /* Filling moves each beginning to its end, which is the next one's beginning: shift back. */
    for (size_t k = 0; k < q->n_push; k++) {
        if (q->push[k]->kind == PARAMD__BLOCK__KIND__DENSE)
            a->dense[i][first[q->push[k]->index]++] = q->push[k];
    }
    memmove(first + 1, first, schema->dense_count * sizeof *first);
    first[0] = 0;
    return ERR_NONE;
}

enum err shard_apply(struct shard *s, struct shard_push *const *pushes, uint32_t count,
                     uint64_t step)
{
    struct apply_scratch *a = s->scratch;
    struct update u = {.shard = s, .pushes = pushes, .count = count, .step = step};
    double weight = 0.0;
    for (uint32_t i = 0; i < count; i++)
        weight += request_of(pushes[i])->skipped ? 0.0 : request_of(pushes[i])->weight;
    if (PLANT(weight_of_last))
        weight = request_of(pushes[count - 1])->weight;
    if (weight == 0.0)
        return ERR_NONE;
    u.grad_scale = (float)(1.0 / weight);
    if (!isfinite(u.grad_scale))
        return err_set(ERR_REFUSED, "step %llu: the sum of weights is %g, too small to divide by",
                       (unsigned long long)step, weight);
    enum err e = ERR_NONE;
    uint32_t sorted = 0;
    while (e == ERR_NONE && sorted < count)
        e = sort_blocks(&u, sorted++);
    for (uint32_t t = 0; e == ERR_NONE && t < s->options.schema->table_count; t++)
        e = apply_table(&u, t);
    for (uint32_t d = 0; e == ERR_NONE && d < s->options.schema->dense_count; d++)
        e = apply_dense(&u, d);
    for (uint32_t i = 0; i < sorted; i++) {
        mem_free(a->dense[i]);
        a->dense[i] = NULL;
    }
    return e;
}
