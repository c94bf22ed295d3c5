#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/check.h"
#include "common/dataindex.h"
#include "common/evaluation.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/dense.h"
#include "server/optimizer.h"
#include "server/shard.h"
#include "server/snapshot.h"
#include "server/table.h"
#include "tests/sim/sim_parts.h"

/*
 * The model after every step, on flat arrays: one place, one thread, no messages. Gradients depend
 * on the values of the version that PROTOCOL.md 2 says, and their sums on the order of ranks; in
 * ssp and asp they count instead: every example adds the same to the same cell, so that the order
 * does not matter, but how often does.
 */

#define STATE_MAX 16u
#define STEP_MAX  64u
#define RANKS     4u

struct state {
    float rows[SIM_KEYS][STATE_MAX];
    bool present[SIM_KEYS];
    float bias[4]; /* value, slots */
    uint64_t examples[RANKS];
    int64_t weight[RANKS];
};

const char *const sim_columns[] = {"y", "a"};
const uint32_t sim_column_count = 2;

static struct job *job;
static struct features_spec *features;
static struct model *model;
static struct steps steps;
static uint64_t keys[SIM_KEYS];
static struct state states[STEP_MAX + 1];
static uint64_t last_step, result_step;

static bool counts(void)
{
    return sim.plan.consistency != CONSISTENCY_BSP;
}

/* ---- batches and gradients ---- */

static uint64_t hash(uint64_t a, uint64_t b, uint64_t c)
{
    return rng_at(sim.plan.salt, rng_at(a * 8 + 1, rng_at(b, c)));
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* As dataindex and sampler deal them: whole batches, then what is left, then nothing. */
static uint32_t examples_of(uint32_t rank, uint64_t step)
{
    const struct plan *p = &sim.plan;
    uint64_t owned = (uint64_t)p->train_examples * (rank + 1) / p->ranks -
                     (uint64_t)p->train_examples * rank / p->ranks;
    uint64_t share =
        (uint64_t)p->batch_size * (rank + 1) / p->ranks - (uint64_t)p->batch_size * rank / p->ranks;
    uint64_t before = (step - 1) % steps.steps_per_epoch * share;
    if (owned <= before)
        return 0;
    return (uint32_t)(owned - before < share ? owned - before : share);
}

void reference_batch(uint32_t rank, uint64_t step, struct sim_batch *out)
{
    *out = (struct sim_batch){.examples = examples_of(rank, step)};
    if (out->examples == 0)
        return;
    uint64_t position = (step - 1) % steps.steps_per_epoch;
    uint32_t wanted = 1 + (uint32_t)rng_below(hash(0, rank, step), 5);
    for (uint32_t i = 0; i < wanted; i++) {
        uint64_t what = counts() ? hash(1, rank, position * 8 + i) : hash(2, rank, step * 8 + i);
        uint64_t key = keys[rng_below(what, SIM_KEYS)];
        bool known = false;
        for (uint32_t k = 0; k < out->key_count; k++)
            known |= out->keys[k] == key;
        if (!known)
            out->keys[out->key_count++] = key;
    }
    qsort(out->keys, out->key_count, sizeof out->keys[0], compare_keys);
    out->weight = counts() ? 1 : 1 + 0.25 * (double)rng_below(hash(3, rank, step), 5);
    out->skipped = !counts() && rng_below(hash(4, rank, step), 50) == 0;
}

/* Magnitudes differ, so that a sum in another order has other bits. */
static float noise(uint64_t a, uint64_t b)
{
    uint64_t bits = hash(5, a, b);
    float scale = 1.0f / (float)(1u << (bits & 7));
    return (rng_uniform(rng_at(bits, 1)) - 0.5f) * scale;
}

void reference_gradient(uint32_t rank, uint64_t step, const struct sim_batch *b, const float *rows,
                        const float *dense, float *row_gradients, float *dense_gradients)
{
    uint64_t who = (uint64_t)rank << 32 | step;
    for (uint32_t i = 0; i < b->key_count * SIM_DIM; i++)
        row_gradients[i] = counts() ? -1.0f : 0.25f * rows[i] + noise(who, i);
    dense_gradients[0] = counts() ? -1.0f : 0.5f * dense[0] + noise(who, 999);
}

double reference_loss(uint32_t rank, uint64_t step)
{
    return (double)rng_below(hash(6, rank, step), 64) / 16;
}

/* ---- evaluations ---- */

void reference_eval_keys(uint32_t part, uint64_t out[EVAL_KEYS])
{
    for (uint32_t i = 0; i < EVAL_KEYS; i++)
        out[i] = keys[(part * 5 + i * 3) % SIM_KEYS];
    qsort(out, EVAL_KEYS, sizeof out[0], compare_keys);
}

float reference_eval_logit(const float *rows, const float *dense)
{
    float sum = dense[0];
    for (uint32_t i = 0; i < EVAL_KEYS * SIM_DIM; i++)
        sum += rows[i];
    return sum;
}

float reference_eval_label(uint32_t part, uint64_t step)
{
    return (float)(hash(7, part, step) & 1);
}

static int64_t evaluate(const struct state *s, uint64_t step, double *log_loss)
{
    struct evaluation *e;
    CHECK(evaluation_create(model->loss, model->output_width, job->eval.metrics, &e) == ERR_NONE);
    for (uint32_t part = 0; part < sim.plan.ranks; part++) {
        uint64_t wanted[EVAL_KEYS];
        float rows[EVAL_KEYS * SIM_DIM] = {0}, weight = 1;
        reference_eval_keys(part, wanted);
        for (uint32_t i = 0; i < EVAL_KEYS; i++)
            for (uint32_t k = 0; k < SIM_KEYS; k++)
                if (keys[k] == wanted[i] && s->present[k])
                    memcpy(rows + i * SIM_DIM, s->rows[k], SIM_DIM * sizeof(float));
        float logit = reference_eval_logit(rows, s->bias);
        float label = reference_eval_label(part, step);
        CHECK(evaluation_add(e, &logit, &label, &weight, NULL, 1) == ERR_NONE);
    }
    int64_t key = evaluation_rank_key(e, METRIC_LOG_LOSS);
    CHECK(evaluation_metric(e, METRIC_LOG_LOSS, log_loss));
    evaluation_destroy(e);
    return key;
}

uint32_t reference_rows(uint32_t first_partition, uint32_t end_partition)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < SIM_KEYS; i++)
        rows += partition_of_key(keys[i]) >= first_partition &&
                partition_of_key(keys[i]) < end_partition;
    return rows;
}

double reference_log_loss(uint64_t step)
{
    double log_loss = 0;
    if (step <= steps.last_step)
        evaluate(&states[step], step, &log_loss);
    return log_loss;
}

/* Where early stopping ends the job, and which step is its result. */
static void find_end(void)
{
    int64_t best = 0;
    uint64_t best_step = 0;
    uint32_t worse = 0;
    last_step = steps.last_step;
    for (uint64_t step = 1; job->early_stopping.enabled && step <= steps.last_step; step++) {
        if (!steps_is_eval(&steps, step))
            continue;
        double log_loss;
        int64_t key = evaluate(&states[step], step, &log_loss);
        if (best_step == 0 || key > best) {
            best = key;
            best_step = step;
            worse = 0;
        } else if (++worse >= job->early_stopping.patience) {
            last_step = step;
            break;
        }
    }
    bool best_wins = job->early_stopping.enabled && job->early_stopping.restore_best;
    result_step = best_wins ? best_step : last_step;
}

/* ---- the steps ---- */

static uint32_t index_of(uint64_t key)
{
    uint32_t i = 0;
    while (keys[i] != key)
        i++;
    return i;
}

struct sums {
    float rows[SIM_KEYS][SIM_DIM], bias;
    bool any[SIM_KEYS], any_bias;
    double weight;
};

static void add(struct sums *s, uint32_t rank, uint64_t step)
{
    struct sim_batch b;
    float values[SIM_KEYS * SIM_DIM], gradients[SIM_KEYS * SIM_DIM], bias;
    reference_batch(rank, step, &b);
    if (b.examples == 0 || b.skipped)
        return;
    uint64_t drain = steps_drain_before(&steps, step);
    uint64_t delayed = step > 1 + sim.plan.depth ? step - 1 - sim.plan.depth : 0;
    const struct state *from = &states[delayed > drain ? delayed : drain];
    for (uint32_t i = 0; i < b.key_count; i++) {
        uint32_t k = index_of(b.keys[i]);
        if (from->present[k])
            memcpy(values + i * SIM_DIM, from->rows[k], SIM_DIM * sizeof(float));
        else
            schema_row_init(&model->schema->tables[0], keys[k], values + i * SIM_DIM);
    }
    reference_gradient(rank, step, &b, values, from->bias, gradients, &bias);
    for (uint32_t i = 0; i < b.key_count; i++) {
        uint32_t k = index_of(b.keys[i]);
        for (uint32_t d = 0; d < SIM_DIM; d++)
            s->rows[k][d] =
                s->any[k] ? s->rows[k][d] + gradients[i * SIM_DIM + d] : gradients[i * SIM_DIM + d];
        s->any[k] = true;
    }
    s->bias = s->any_bias ? s->bias + bias : bias;
    s->any_bias = true;
    s->weight += b.weight;
}

static void update(const struct optimizer_spec *spec, uint64_t step, float scale, float *param,
                   const float *gradient, float *slots, uint32_t count)
{
    struct optimizer_step prepared;
    const struct optimizer *o = optimizer_prepare(spec, step, steps.last_step, &prepared);
    struct optimizer_update u = {.param = param,
                                 .out = param,
                                 .grad = gradient,
                                 .grad_scale = scale,
                                 .slots = slots,
                                 .slot_stride = count,
                                 .count = count};
    o->apply(&prepared, &u);
}

static void apply(struct state *to, const struct sums *s, uint64_t step)
{
    const struct schema_table *t = &model->schema->tables[0];
    if (s->weight == 0)
        return;
    float scale = (float)(1.0 / s->weight);
    for (uint32_t k = 0; k < SIM_KEYS; k++) {
        if (!s->any[k])
            continue;
        if (!to->present[k])
            schema_row_init_state(t, keys[k], to->rows[k]);
        to->present[k] = true;
        for (uint32_t i = 0; i < t->component_count; i++) {
            const struct schema_component *c = &t->components[i];
            update(&c->optimizer, step, scale, to->rows[k] + c->offset, s->rows[k] + c->offset,
                   to->rows[k] + c->slot_offset, c->dim);
        }
    }
    if (s->any_bias)
        update(&model->schema->dense[0].optimizer, step, scale, to->bias, &s->bias, to->bias + 1,
               1);
}

static void make_step(uint64_t step)
{
    struct state *to = &states[step];
    *to = states[step - 1];
    struct sums all = {0};
    for (uint32_t r = 0; r < sim.plan.ranks; r++) {
        struct sim_batch b;
        reference_batch(r, step, &b);
        to->examples[r] += b.examples;
        if (b.examples > 0 && !b.skipped)
            to->weight[r] += (int64_t)(b.weight * 0x1p20);
        add(&all, r, step);
        if (counts()) { /* each push by itself */
            apply(to, &all, step);
            all = (struct sums){0};
        }
    }
    apply(to, &all, step);
}

void reference_make(void)
{
    const struct plan *p = &sim.plan;
    struct job_source source = {.what = "sim", .text = p->yaml, .size = strlen(p->yaml)};
    if (job_parse(&source, &job) != ERR_NONE ||
        features_spec_create(job, sim_columns, sim_column_count, &features) != ERR_NONE ||
        model_create(job, features, &model) != ERR_NONE) {
        sim_trace("%s\n%s", err_text(), p->yaml);
        CHECK(false);
    }
    uint64_t per_epoch = dataindex_steps_per_epoch(p->train_examples, p->batch_size, p->ranks);
    steps = steps_make(job, per_epoch, p->eval_examples > 0);
    const struct schema *s = model->schema;
    CHECK(steps.last_step <= STEP_MAX && s->table_count == 1 && s->tables[0].dim == SIM_DIM);
    CHECK(s->tables[0].state_dim <= STATE_MAX && s->dense_count == 1 && s->dense[0].count == 1);
    for (uint32_t i = 0; i < SIM_KEYS; i++)
        keys[i] = hash(9, i, 0);
    qsort(keys, SIM_KEYS, sizeof keys[0], compare_keys);
    memset(&states[0], 0, sizeof states[0]);
    schema_dense_init(&s->dense[0], 0, 1, states[0].bias);
    for (uint32_t i = 0; i < s->dense[0].slot_count; i++)
        states[0].bias[1 + i] = schema_slot_init(&s->dense[0].optimizer, i);
    for (uint64_t step = 1; step <= steps.last_step; step++)
        make_step(step);
    find_end();
}

void reference_end(void)
{
    model_destroy(model);
    features_spec_destroy(features);
    job_destroy(job);
    model = NULL;
    features = NULL;
    job = NULL;
}

const struct job *reference_job(void)
{
    return job;
}

const struct model *reference_model(void)
{
    return model;
}

const struct steps *reference_steps(void)
{
    return &steps;
}

uint64_t reference_last_step(void)
{
    return last_step;
}

uint64_t reference_result_step(void)
{
    return result_step;
}

/* ---- comparing ---- */

static const char *compare_shard(struct shard *shard, const struct state *want)
{
    struct table *t = shard_table(shard, 0);
    struct dense *d = shard_dense(shard, 0);
    uint32_t present = 0;
    size_t row_bytes = model->schema->tables[0].state_dim * sizeof(float);
    for (uint32_t k = 0; k < SIM_KEYS; k++) {
        float *row;
        table_find(t, &keys[k], 1, &row);
        if ((row != NULL) != want->present[k])
            return row != NULL ? "a row that nobody has pushed" : "a row is missing";
        if (row != NULL && memcmp(row, want->rows[k], row_bytes) != 0)
            return memcmp(row, want->rows[k], SIM_DIM * sizeof(float)) != 0
                       ? "a row has other values"
                       : "a row has other optimizer state";
        present += row != NULL;
    }
    if (table_rows(t) != present)
        return "rows of keys that the job does not have";
    if (memcmp(buf_data(dense_values(d)), want->bias, sizeof(float)) != 0)
        return "the dense block has another value";
    if (memcmp(dense_slots(d), want->bias + 1,
               model->schema->dense[0].slot_count * sizeof(float)) != 0)
        return "the dense block has other optimizer state";
    return NULL;
}

static const char *compare_reports(const struct checkpoint_manifest *m, const struct state *want)
{
    if (m->rank_count != sim.plan.ranks)
        return "the manifest has another number of ranks";
    for (uint32_t r = 0; r < m->rank_count; r++) {
        if (m->ranks[r].examples != want->examples[r])
            return "the report of a rank counts other examples";
        if (m->ranks[r].weight_sum != want->weight[r])
            return "the report of a rank has another sum of weights";
    }
    return NULL;
}

const char *reference_compare(const char *directory, const struct checkpoint_manifest *m)
{
    if (m->step > steps.last_step)
        return "it lies beyond the last step";
    struct shard_options o = {.job = "sim",
                              .generation = m->generation,
                              .end_partition = PARTITION_COUNT,
                              .rank_count = sim.plan.ranks,
                              .schema = model->schema,
                              .steps = steps,
                              .wait_ms = 1000};
    struct shard *shard;
    CHECK(shard_create(&o, &shard) == ERR_NONE);
    const char *wrong = NULL;
    bool was = storage_quiet(true);
    if (snapshot_restore(shard, directory, m) != ERR_NONE)
        wrong = "it cannot be restored";
    storage_quiet(was);
    if (wrong == NULL)
        wrong = compare_shard(shard, &states[m->step]);
    if (wrong == NULL)
        wrong = compare_reports(m, &states[m->step]);
    shard_destroy(shard);
    return wrong;
}
