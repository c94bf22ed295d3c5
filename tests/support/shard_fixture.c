#include "tests/support/shard_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/hash.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/optimizer.h"

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void make_schema(struct shard_fixture *f)
{
    f->tables[0] = (struct schema_table){.name = "user", .component_count = 2};
    f->tables[0].components[0] = (struct schema_component){
        .name = "w",
        .dim = 1,
        .optimizer = {.type = "ftrl", .learning_rate = 0.1, .l1 = 0.05, .l2 = 0.01, .beta = 1}};
    f->tables[0].components[1] = (struct schema_component){
        .name = "v",
        .dim = 5,
        .l2 = 0.01,
        .init = {INIT_NORMAL, 0.1},
        .optimizer = {
            .type = "adagrad", .learning_rate = 0.05, .epsilon = 1e-8, .initial_accumulator = 0.1}};
    f->tables[1] = (struct schema_table){.name = "item", .component_count = 1};
    f->tables[1].components[0] = (struct schema_component){
        .name = "v",
        .dim = 4,
        .init = {INIT_UNIFORM, 0.5},
        .optimizer = {.type = "momentum", .learning_rate = 0.1, .momentum = 0.9}};
    f->dense = (struct schema_dense){.name = "weight",
                                     .shape = {FIXTURE_DENSE},
                                     .shape_count = 1,
                                     .l2 = 0.001,
                                     .init = {INIT_NORMAL, 0.1},
                                     .optimizer = {.type = "adam",
                                                   .learning_rate = 0.01,
                                                   .beta1 = 0.9,
                                                   .beta2 = 0.99,
                                                   .epsilon = 1e-8,
                                                   .schedule = {.warmup_steps = 5}}};
    f->schema = (struct schema){f->tables, FIXTURE_TABLES, &f->dense, 1};
    CHECK(schema_finish(&f->schema, 11) == ERR_NONE);
    for (uint64_t i = 0; i < FIXTURE_KEYS; i++)
        f->keys[i] = mix64(i + 1);
    qsort(f->keys, FIXTURE_KEYS, sizeof f->keys[0], compare_keys);
}

static void take_notice(void *context, const struct shard_notice *n)
{
    struct shard_fixture *f = context;
    f->progress_count += n->kind == SHARD_PROGRESS;
    if (n->kind == SHARD_AT_DRAIN) {
        f->drain_count++;
        f->drain_step = n->step;
    }
    if (n->kind == SHARD_FAILED) {
        f->fail_count++;
        strncpy(f->fail_text, n->text, sizeof f->fail_text - 1);
    }
    f->had_reports = n->reports != NULL;
    for (uint32_t r = 0; f->had_reports && r < f->options.rank_count; r++)
        f->examples[r] = n->reports[r] != NULL ? n->reports[r]->examples : 0;
}

void shard_fixture_start(struct shard_fixture *f, const struct steps *steps, uint32_t ranks)
{
    CHECK(ranks <= FIXTURE_RANKS && steps->last_step <= FIXTURE_STEPS);
    make_schema(f);
    f->options.job = "films";
    f->options.generation = FIXTURE_GENERATION;
    f->options.end_partition = PARTITION_COUNT;
    f->options.rank_count = ranks;
    f->options.schema = &f->schema;
    f->options.steps = *steps;
    f->options.wait_ms = 1000;
    f->options.notify = take_notice;
    f->options.context = f;
    f->now_ms = 5000;
    CHECK(shard_create(&f->options, &f->shard) == ERR_NONE);
}

void shard_fixture_stop(struct shard_fixture *f)
{
    shard_destroy(f->shard);
    f->shard = NULL;
}

/* ---- contents ---- */

/* Whether (rank, seq) has key i of a table among what it pushes, or pulls. */
static bool occurs(const struct fixture_request *r, bool pushing, uint32_t table, uint32_t i)
{
    uint64_t key = rng_at(r->seq * 2 + pushing, r->rank * 1000 + r->salt);
    return rng_at(key + table, i) % 3 == 0;
}

static bool has_block(const struct fixture_request *r, bool pushing, uint32_t block)
{
    return rng_at(r->seq * 2 + pushing + 100, r->rank * 1000 + r->salt + block * 77) % 4 != 0;
}

static float gradient(const struct fixture_request *r, uint32_t what, uint64_t i)
{
    uint64_t bits = rng_at(r->seq * 1000 + r->rank + r->salt * 31, what * 1000003u + i);
    return (float)((int64_t)(bits % 2001) - 1000) * 0.01f;
}

double shard_fixture_weight(uint32_t rank, uint64_t seq)
{
    return 1.0 + 0.3 * rank + (double)(seq % 3);
}

static bool pulls_anything(const struct shard_fixture *f, const struct fixture_request *r)
{
    uint64_t first, last;
    steps_batches_pulled(&f->options.steps, r->seq, &first, &last);
    return !r->no_pull && !r->header_only && first <= last;
}

static bool pushes_anything(const struct fixture_request *r)
{
    return !r->empty && !r->skipped && !r->header_only && r->seq > 0;
}

/* ---- requests ---- */

struct message {
    Paramd__PushPullRequest q;
    Paramd__Block blocks[8], *push[4], *pull[4];
    struct wire_payload payload;
};

static Paramd__Block *new_block(struct message *m, bool pushing)
{
    Paramd__Block *b = &m->blocks[m->q.n_push + m->q.n_pull];
    paramd__block__init(b);
    if (pushing)
        m->push[m->q.n_push++] = b;
    else
        m->pull[m->q.n_pull++] = b;
    return b;
}

static uint64_t add(struct message *m, const void *data, size_t size, size_t alignment)
{
    struct buf *b = buf_create(size);
    CHECK(b != NULL);
    memcpy(buf_data(b), data, size);
    uint64_t offset = wire_payload_add(&m->payload, b, buf_data(b), size, alignment);
    buf_unref(b);
    return offset;
}

static void add_rows(const struct shard_fixture *f, const struct fixture_request *r,
                     struct message *m, bool pushing, uint32_t table)
{
    uint64_t keys[FIXTURE_KEYS];
    float values[FIXTURE_KEYS * FIXTURE_STATE];
    uint32_t count = 0, dim = f->tables[table].dim;
    for (uint32_t i = 0; i < FIXTURE_KEYS; i++) {
        if (!occurs(r, pushing, table, i))
            continue;
        for (uint32_t k = 0; k < dim; k++)
            values[count * dim + k] = gradient(r, table, i * FIXTURE_STATE + k);
        keys[count++] = f->keys[i];
    }
    if (pushing && r->poison != 0.0f)
        values[0] = r->poison;
    Paramd__Block *b = new_block(m, pushing);
    b->kind = pushing ? PARAMD__BLOCK__KIND__ROWS : PARAMD__BLOCK__KIND__KEYS;
    b->index = table;
    b->count = count;
    b->dim = dim;
    b->keys_offset = add(m, keys, count * sizeof keys[0], 8);
    if (pushing)
        b->values_offset = add(m, values, (size_t)count * dim * sizeof values[0], 4);
}

static void add_dense(const struct shard_fixture *f, const struct fixture_request *r,
                      struct message *m, bool pushing)
{
    static float values[FIXTURE_DENSE];
    bool has[2] = {has_block(r, pushing, 0), has_block(r, pushing, 1)};
    bool together = has[0] && has[1] && (r->rank + r->seq) % 2 == 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (!has[i] || (together && i == 1))
            continue;
        Paramd__Block *b = new_block(m, pushing);
        b->kind = pushing ? PARAMD__BLOCK__KIND__DENSE : PARAMD__BLOCK__KIND__DENSE_WANTED;
        b->first_block = i;
        b->block_count = together ? 2 : 1;
        uint64_t first = schema_block_first(&f->dense, i);
        b->count = together ? FIXTURE_DENSE : schema_block_size(&f->dense, i);
        for (uint64_t k = 0; pushing && k < b->count; k++)
            values[k] = gradient(r, 9, first + k);
        if (pushing)
            b->values_offset = add(m, values, b->count * sizeof values[0], 4);
    }
}

/* The same bytes in slices of random sizes, none of them aligned to anything. */
static void cut_up(struct chain *c, uint64_t seed)
{
    if (seed == 0)
        return;
    uint8_t *flat = must_alloc(c->size);
    size_t size = c->size;
    chain_copy_out(c, 0, flat, size);
    chain_deinit(c);
    for (size_t at = 0, i = 0; at < size; i++) {
        size_t part = 1 + rng_below(rng_at(seed, i), i % 5 == 0 ? 30 : 3000);
        part = part < size - at ? part : size - at;
        chain_append_copy(c, flat + at, part);
        at += part;
    }
    mem_free(flat);
}

static void fill_report(const struct fixture_request *r, Paramd__Report *report, char *cursor)
{
    paramd__report__init(report);
    report->examples = 1000 * r->seq + r->rank;
    cursor[0] = 'c';
    cursor[1] = (char)('a' + r->seq % 26);
    report->cursor = (ProtobufCBinaryData){2, (uint8_t *)cursor};
}

static void take_reply(void *context, enum err code, struct chain *reply)
{
    struct fixture_reply *r = context;
    struct wire_message m;
    mem_fail_nth(0);
    r->count++;
    r->code = code;
    if (code != ERR_NONE) {
        CHECK(reply->size == 0);
        strncpy(r->text, err_text(), sizeof r->text - 1);
        return;
    }
    struct chain c = {0};
    chain_move(&c, reply);
    CHECK(wire_decode(&paramd__push_pull_reply__descriptor, &c, &m) == ERR_NONE);
    const Paramd__PushPullReply *p = (const Paramd__PushPullReply *)m.message;
    strncpy(r->text, p->message, sizeof r->text - 1);
    r->status = p->status;
    r->received = p->received;
    r->applied = p->applied;
    r->acked = p->acked;
    r->version = p->version;
    r->value_count = m.payload_size / sizeof(float);
    r->values = malloc(m.payload_size + 1);
    size_t at = 0;
    for (size_t i = 0; i < p->n_blocks; i++) {
        struct chain_cursor cursor;
        wire_values(&m, p->blocks[i], &cursor);
        size_t bytes = cursor.left;
        CHECK(at + bytes <= m.payload_size);
        CHECK(chain_cursor_read(&cursor, (uint8_t *)r->values + at, bytes));
        at += bytes;
    }
    CHECK(at == m.payload_size);
    wire_message_deinit(&m);
    chain_deinit(&c);
}

void shard_fixture_reply_deinit(struct fixture_reply *r)
{
    free(r->values);
    *r = (struct fixture_reply){0};
}

void shard_fixture_send(struct shard_fixture *f, const struct fixture_request *r,
                        struct fixture_reply *out)
{
    struct message m;
    struct chain c = {0};
    Paramd__Report report;
    char cursor[2];
    memset(&m, 0, sizeof m);
    paramd__push_pull_request__init(&m.q);
    m.q.push = m.push;
    m.q.pull = m.pull;
    for (uint32_t t = 0; pushes_anything(r) && t < FIXTURE_TABLES; t++)
        add_rows(f, r, &m, true, t);
    if (pushes_anything(r))
        add_dense(f, r, &m, true);
    m.q.checksum = wire_checksum_payload(&m.payload, m.push, m.q.n_push);
    for (uint32_t t = 0; pulls_anything(f, r) && t < FIXTURE_TABLES; t++)
        add_rows(f, r, &m, false, t);
    if (pulls_anything(f, r))
        add_dense(f, r, &m, false);
    m.q.job = (char *)(uintptr_t)(r->job != NULL ? r->job : "films");
    m.q.generation = r->generation != 0 ? r->generation : FIXTURE_GENERATION;
    m.q.shard = r->shard;
    m.q.lease = r->lease;
    m.q.rank = r->rank;
    m.q.seq = r->seq;
    m.q.acked = r->acked;
    m.q.header_only = r->header_only;
    m.q.skipped = r->skipped;
    m.q.weight = r->weightless || !pushes_anything(r) ? 0.0 : shard_fixture_weight(r->rank, r->seq);
    fill_report(r, &report, cursor);
    m.q.report = r->header_only ? NULL : &report;
    if (r->damage != NULL)
        r->damage(&m.q);
    wire_encode(&m.q.base, &m.payload, &c);
    cut_up(&c, r->cut);
    mem_fail_nth(r->fail_nth);
    shard_push_pull(f->shard, &c, take_reply, out, f->now_ms);
    mem_fail_nth(0);
    CHECK(c.size == 0);
}

void shard_fixture_call(struct shard_fixture *f, const struct fixture_request *r,
                        struct fixture_reply *out)
{
    shard_fixture_reply_deinit(out);
    shard_fixture_send(f, r, out);
    CHECK(out->count == 1);
}

/* ---- state ---- */

static uint64_t mix_in(uint64_t digest, const void *data, size_t size)
{
    return hash64(data, size, digest);
}

uint64_t shard_fixture_digest(struct shard_fixture *f)
{
    uint64_t digest = 0;
    for (uint32_t t = 0; t < FIXTURE_TABLES; t++) {
        uint64_t key;
        float state[FIXTURE_STATE];
        uint32_t count;
        struct table *table = shard_table(f->shard, t);
        table_snapshot_begin(table, 0);
        while (table_snapshot_next(table, 1, &key, state, &count) == ERR_NONE && count == 1) {
            digest = mix_in(digest, &key, sizeof key);
            digest = mix_in(digest, state, f->tables[t].state_dim * sizeof state[0]);
        }
        table_snapshot_end(table);
    }
    struct dense *d = shard_dense(f->shard, 0);
    digest = mix_in(digest, buf_data(dense_values(d)), FIXTURE_DENSE * sizeof(float));
    return mix_in(digest, dense_slots(d), 2 * FIXTURE_DENSE * sizeof(float));
}

/* ---- reference ---- */

void reference_init(const struct shard_fixture *f, struct reference *m)
{
    memset(m, 0, sizeof *m);
    schema_dense_init(&f->dense, 0, FIXTURE_DENSE, m->dense);
}

/* Adds one more contribution: the first one is the sum itself. */
static void contribute(float *sum, uint32_t *count, float value)
{
    *sum = *count == 0 ? value : *sum + value;
    ++*count;
}

static void update(const struct optimizer_spec *spec, const struct optimizer_update *u,
                   uint64_t seq, uint64_t last)
{
    struct optimizer_step step;
    const struct optimizer *o = optimizer_prepare(spec, seq, last, &step);
    o->apply(&step, u);
}

static void apply_row(const struct shard_fixture *f, struct reference *m, uint32_t t, uint32_t i,
                      const struct fixture_request *pushes, uint32_t count, float scale)
{
    const struct schema_table *table = &f->tables[t];
    float sums[FIXTURE_STATE];
    uint32_t contributions = 0;
    for (uint32_t k = 0; k < table->dim; k++) {
        contributions = 0;
        for (uint32_t p = 0; p < count; p++) {
            if (occurs(&pushes[p], true, t, i))
                contribute(&sums[k], &contributions,
                           gradient(&pushes[p], t, i * FIXTURE_STATE + k));
        }
    }
    if (contributions == 0)
        return;
    float *row = m->rows[t][i];
    if (!m->present[t][i])
        schema_row_init_state(table, f->keys[i], row);
    m->row_count += !m->present[t][i];
    m->present[t][i] = true;
    for (uint32_t c = 0; c < table->component_count; c++) {
        const struct schema_component *part = &table->components[c];
        struct optimizer_update u = {.param = row + part->offset,
                                     .out = row + part->offset,
                                     .grad = sums + part->offset,
                                     .grad_scale = scale,
                                     .l2 = (float)part->l2,
                                     .slots = row + part->slot_offset,
                                     .slot_stride = part->dim,
                                     .count = part->dim};
        update(&part->optimizer, &u, pushes[0].seq, f->options.steps.last_step);
    }
}

static void apply_dense(const struct shard_fixture *f, struct reference *m,
                        const struct fixture_request *pushes, uint32_t count, float scale)
{
    struct optimizer_step step;
    const struct optimizer *o =
        optimizer_prepare(&f->dense.optimizer, pushes[0].seq, f->options.steps.last_step, &step);
    for (uint64_t i = 0; i < FIXTURE_DENSE; i++) {
        float sum = 0;
        uint32_t contributions = 0;
        for (uint32_t p = 0; p < count; p++) {
            if (has_block(&pushes[p], true, i >= f->dense.block_values))
                contribute(&sum, &contributions, gradient(&pushes[p], 9, i));
        }
        struct optimizer_update u = {.param = m->dense + i,
                                     .out = m->dense + i,
                                     .grad = &sum,
                                     .grad_scale = scale,
                                     .l2 = (float)f->dense.l2,
                                     .slots = m->slots + i,
                                     .slot_stride = FIXTURE_DENSE,
                                     .count = 1};
        if (contributions > 0)
            o->apply(&step, &u);
    }
}

void reference_apply(const struct shard_fixture *f, struct reference *m, uint32_t first,
                     uint32_t end, uint64_t seq)
{
    struct fixture_request pushes[FIXTURE_RANKS];
    double weight = 0.0;
    for (uint32_t r = first; r < end; r++) {
        pushes[r - first] = (struct fixture_request){.rank = r, .seq = seq};
        weight += shard_fixture_weight(r, seq);
    }
    float scale = (float)(1.0 / weight);
    for (uint32_t t = 0; t < FIXTURE_TABLES; t++) {
        for (uint32_t i = 0; i < FIXTURE_KEYS; i++)
            apply_row(f, m, t, i, pushes, end - first, scale);
    }
    apply_dense(f, m, pushes, end - first, scale);
}

float *reference_answer(const struct shard_fixture *f, const struct reference *m, uint32_t rank,
                        uint64_t seq, size_t *count)
{
    struct fixture_request r = {.rank = rank, .seq = seq};
    float *out =
        must_alloc((FIXTURE_TABLES * FIXTURE_KEYS * FIXTURE_STATE + FIXTURE_DENSE) * sizeof *out);
    *count = 0;
    if (!pulls_anything(f, &r))
        return out;
    for (uint32_t t = 0; t < FIXTURE_TABLES; t++) {
        for (uint32_t i = 0; i < FIXTURE_KEYS; i++) {
            if (!occurs(&r, false, t, i))
                continue;
            if (m->present[t][i])
                memcpy(out + *count, m->rows[t][i], f->tables[t].dim * sizeof *out);
            else
                schema_row_init(&f->tables[t], f->keys[i], out + *count);
            *count += f->tables[t].dim;
        }
    }
    for (uint32_t b = 0; b < 2; b++) {
        if (!has_block(&r, false, b))
            continue;
        uint32_t size = schema_block_size(&f->dense, b);
        memcpy(out + *count, m->dense + schema_block_first(&f->dense, b), size * sizeof *out);
        *count += size;
    }
    return out;
}

uint64_t reference_digest(const struct shard_fixture *f, const struct reference *m)
{
    uint64_t digest = 0;
    for (uint32_t t = 0; t < FIXTURE_TABLES; t++) {
        for (uint32_t i = 0; i < FIXTURE_KEYS; i++) {
            if (!m->present[t][i])
                continue;
            digest = mix_in(digest, &f->keys[i], sizeof f->keys[i]);
            digest = mix_in(digest, m->rows[t][i], f->tables[t].state_dim * sizeof(float));
        }
    }
    digest = mix_in(digest, m->dense, sizeof m->dense);
    return mix_in(digest, m->slots, sizeof m->slots);
}

/* ---- one situation after the other ---- */

struct steps shard_fixture_steps(enum consistency mode, uint32_t depth)
{
    return (struct steps){.consistency = mode,
                          .steps_per_epoch = 20,
                          .last_step = 20,
                          .drain_every = 10,
                          .eval_every = 10,
                          .has_eval = true,
                          .checkpoint_every = 5,
                          .pipeline_depth = depth};
}

void shard_fixture_start_usual(struct shard_fixture *f, enum consistency mode, uint32_t depth,
                               uint32_t ranks)
{
    struct steps steps = shard_fixture_steps(mode, depth);
    memset(f, 0, sizeof *f);
    shard_fixture_start(f, &steps, ranks);
}

void shard_fixture_begin(struct shard_fixture *f, enum consistency mode, uint32_t depth,
                         uint32_t ranks)
{
    shard_fixture_start_usual(f, mode, depth, ranks);
    shard_begin(f->shard, 0);
}

/* The answer to a request that is answered at once. */
void shard_fixture_expect(struct shard_fixture *f, const struct fixture_request *r,
                          Paramd__PushPullReply__Status status, const char *part)
{
    struct fixture_reply reply = {0};
    shard_fixture_call(f, r, &reply);
    if (reply.code != ERR_NONE || reply.status != status || strstr(reply.text, part) == NULL)
        fail_msg("rank %u seq %llu: code %d status %d '%s', not %d '%s'", r->rank,
                 (unsigned long long)r->seq, reply.code, reply.status, reply.text, status, part);
    shard_fixture_reply_deinit(&reply);
}

struct fixture_request fixture_push(uint32_t rank, uint64_t seq)
{
    return (struct fixture_request){
        .rank = rank, .seq = seq, .acked = seq > 0 ? seq - 1 : 0, .cut = seq + 1};
}

void shard_fixture_expect_push(struct shard_fixture *f, uint32_t rank, uint64_t seq,
                               Paramd__PushPullReply__Status status)
{
    struct fixture_request r = fixture_push(rank, seq);
    shard_fixture_expect(f, &r, status, "");
}
