/*
 * What a GPU does with a step of deepfm and dlrm as they are usually sized: time of a whole step
 * (batch and rows up, forward, backward, gradients down, the next batch going up meanwhile), of its
 * matrix products alone, and bytes a second of gather and of the gradient by rows, beside a copy
 * within the device.
 *
 * bench_gpu [BATCH [PRECISION [ROUNDS [SHAPE...]]]]: one line a figure, "name value unit". Ends
 * with 77 and the reason where there is no GPU. bench_gpu.py puts PyTorch's figures beside them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/machine.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/str.h"
#include "tests/support/model_job.h"
#include "tests/support/random_batch.h"
#include "worker/device.h"
#include "worker/layer.h"
#include "worker/staging.h"

#define FIELDS     26u
#define DENSE      13u
#define VOCABULARY 20000u /* of a field; small values are far more frequent */
#define ROUNDS_MAX 1000
#define WARM_UP    5

static uint32_t rounds = 30;

static const struct shape {
    const char *name;
    struct model_case model;
    uint32_t bottom[4], bottom_count;
} shapes[] = {
    {"deepfm_16", {.type = MODEL_DEEPFM, .dim = 16, .hidden = {400, 400, 400}}, {0}, 0},
    {"deepfm_64", {.type = MODEL_DEEPFM, .dim = 64, .hidden = {400, 400, 400}}, {0}, 0},
    {"dlrm_16", {.type = MODEL_DLRM, .dim = 16, .hidden = {512, 512, 256}}, {512, 256, 64}, 3},
    {"dlrm_64", {.type = MODEL_DLRM, .dim = 64, .hidden = {512, 512, 256}}, {512, 256, 64}, 3},
};

static void *array(size_t count, size_t size)
{
    void *memory = mem_alloc_array(count + 1, size);
    CHECK(memory != NULL);
    return memory;
}

/* ---- batches: one term a field, values by a power law ---------------------------------------- */

static void sort_by_row(struct batch_table *t)
{
    uint32_t *next = mem_calloc(t->key_count + 1, sizeof *next);
    CHECK(next != NULL);
    for (uint32_t k = 0; k < t->term_count; k++)
        next[t->ids[k] + 1]++;
    for (uint32_t r = 0; r < t->key_count; r++)
        next[r + 1] += next[r];
    memcpy(t->by_row_offsets, next, (t->key_count + 1) * sizeof *next);
    for (uint32_t cell = 0; cell < t->term_count; cell++)
        t->by_row_cells[next[t->ids[cell]]++] = cell;
    mem_free(next);
}

static void make_terms(struct batch_table *t, uint32_t n, uint64_t seed)
{
    uint32_t *id_of = mem_calloc(FIELDS * VOCABULARY, sizeof *id_of);
    CHECK(id_of != NULL);
    t->slot_count = FIELDS;
    t->term_count = n * FIELDS;
    t->offsets = array(t->term_count + 1, sizeof *t->offsets);
    t->ids = array(t->term_count, sizeof *t->ids);
    for (uint32_t k = 0; k <= t->term_count; k++)
        t->offsets[k] = k;
    for (uint32_t k = 0; k < t->term_count; k++) {
        float u = rng_uniform(rng_at(seed, k));
        t->ids[k] = k % FIELDS * VOCABULARY + (uint32_t)(u * u * u * u * VOCABULARY);
        id_of[t->ids[k]] = 1;
    }
    for (uint32_t i = 0; i < FIELDS * VOCABULARY; i++)
        id_of[i] = id_of[i] > 0 ? t->key_count++ : 0;
    for (uint32_t k = 0; k < t->term_count; k++)
        t->ids[k] = id_of[t->ids[k]];
    t->keys = array(t->key_count, sizeof *t->keys);
    t->by_row_offsets = array(t->key_count + 1, sizeof *t->by_row_offsets);
    t->by_row_cells = array(t->term_count, sizeof *t->by_row_cells);
    sort_by_row(t);
    mem_free(id_of);
}

static struct batch *make_batch(uint32_t n, uint64_t seed)
{
    struct random_batch r = {
        .seed = seed, .example_count = n, .dense_width = DENSE, .table_count = 1, .classes = 2};
    struct batch *b = random_batch_create(&r);
    mem_free(b->tables[0].keys);
    mem_free(b->tables[0].offsets);
    mem_free(b->tables[0].ids);
    mem_free(b->tables[0].by_row_offsets);
    mem_free(b->tables[0].by_row_cells);
    mem_free(b->tables[0].by_row_values);
    b->tables[0] = (struct batch_table){0};
    make_terms(&b->tables[0], n, seed);
    return b;
}

/* ---- a model with values --------------------------------------------------------------------- */

struct bench {
    struct device *device;
    struct model_job job;
    struct model *model;
    struct batch *batches[2];
    struct network *network;
    float *rows[1], *row_gradients[1];
    float *dense[64], *dense_gradients[64];
    float *logits;
};

static void bench_open(struct bench *b, struct device *device, const struct shape *s, uint32_t n)
{
    struct model_case c = s->model;
    static uint32_t bottom[4];
    c.hidden_count = 3;
    c.activation = ACTIVATION_RELU;
    c.dense_width = DENSE;
    c.table_count = 1;
    c.slot_count[0] = FIELDS;
    model_job_init(&b->job, &c);
    memcpy(bottom, s->bottom, sizeof bottom);
    b->job.job.model.bottom = (struct width_list){bottom, s->bottom_count};
    CHECK(model_create(&b->job.job, &b->job.features, &b->model) == ERR_NONE);
    b->device = device;
    const struct schema *schema = b->model->schema;
    uint32_t keys = 0;
    for (uint32_t i = 0; i < 2; i++) {
        b->batches[i] = make_batch(n, 7 + i);
        b->batches[i]->step = 1 + i;
        keys =
            b->batches[i]->tables[0].key_count > keys ? b->batches[i]->tables[0].key_count : keys;
    }
    b->rows[0] = random_floats(3, (size_t)keys * schema->tables[0].dim, 0.05f);
    b->row_gradients[0] = random_floats(3, (size_t)keys * schema->tables[0].dim, 0);
    CHECK(schema->dense_count <= 64);
    for (uint32_t p = 0; p < schema->dense_count; p++) {
        b->dense[p] = random_floats(9 + p, schema->dense[p].count, 0.05f);
        b->dense_gradients[p] = random_floats(9 + p, schema->dense[p].count, 0);
    }
    b->logits = random_floats(1, n, 0);
    struct network_options o = {.model = b->model, .device = device, .max_examples = n};
    if (network_create(&o, &b->network) != ERR_NONE) {
        fprintf(stderr, "bench_gpu: %s\n", err_text());
        exit(1);
    }
}

static void bench_close(struct bench *b)
{
    network_destroy(b->network);
    for (uint32_t p = 0; p < b->model->schema->dense_count; p++) {
        mem_free(b->dense[p]);
        mem_free(b->dense_gradients[p]);
    }
    mem_free(b->rows[0]);
    mem_free(b->row_gradients[0]);
    mem_free(b->logits);
    random_batch_destroy(b->batches[0]);
    random_batch_destroy(b->batches[1]);
    model_destroy(b->model);
    model_job_deinit(&b->job);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The median of rounds, in nanoseconds, after some to warm up. */
static double median(void (*round)(void *context, int number), void *context)
{
    uint64_t times[ROUNDS_MAX];
    for (int i = 0; i < WARM_UP; i++)
        round(context, i);
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t start = clock_ns();
        round(context, (int)i + WARM_UP);
        times[i] = clock_ns() - start;
    }
    qsort(times, rounds, sizeof times[0], by_size);
    return (double)times[rounds / 2];
}

static void step(void *context, int number)
{
    struct bench *b = context;
    struct network_values v = {(const float *const *)b->rows, (const float *const *)b->dense};
    struct network_gradients g = {b->row_gradients, b->dense_gradients};
    double loss;
    bool finite;
    CHECK(network_start(b->network, b->batches[number % 2], 0, &v, &g, b->logits) == ERR_NONE);
    CHECK(network_send(b->network, b->batches[(number + 1) % 2]) == ERR_NONE);
    if (network_finish(b->network, &loss, &finite) != ERR_NONE) {
        fprintf(stderr, "bench_gpu: %s\n", err_text());
        exit(1);
    }
    CHECK(finite);
}

/* ---- parts ----------------------------------------------------------------------------------- */

struct part {
    struct device *device;
    struct compute_gemm gemms[16];
    uint32_t gemm_count;
    struct compute_input input;
    struct compute_copy copy;
};

static void products(void *context, int number)
{
    struct part *p = context;
    const struct compute *c = p->device->compute;
    for (uint32_t i = 0; i < p->gemm_count; i++) {
        c->gemm_forward(p->device, &p->gemms[i]);
        c->gemm_weight(p->device, &p->gemms[i]);
        c->gemm_input(p->device, &p->gemms[i]);
    }
    CHECK(c->fence(p->device) == ERR_NONE);
}

#define REPEATS 20

static void gather(void *context, int number)
{
    struct part *p = context;
    for (int i = 0; i < REPEATS; i++)
        p->device->compute->input(p->device, &p->input);
    CHECK(p->device->compute->fence(p->device) == ERR_NONE);
}

static void gather_back(void *context, int number)
{
    struct part *p = context;
    for (int i = 0; i < REPEATS; i++)
        p->device->compute->input_back(p->device, &p->input);
    CHECK(p->device->compute->fence(p->device) == ERR_NONE);
}

static void copy(void *context, int number)
{
    struct part *p = context;
    for (int i = 0; i < REPEATS; i++)
        p->device->compute->copy(p->device, &p->copy);
    CHECK(p->device->compute->fence(p->device) == ERR_NONE);
}

static float *room(struct part *p, size_t floats)
{
    float *x = p->device->compute->alloc(p->device, floats * sizeof *x);
    CHECK(x != NULL);
    return x;
}

static double bench_products(struct bench *b, uint32_t n)
{
    struct part p = {.device = b->device};
    float *x = room(&p, (size_t)n * 4096), *y = room(&p, (size_t)n * 4096);
    float *weight = room(&p, 4096 * 1024);
    for (uint32_t i = 0; i < b->model->layer_count; i++) {
        const struct model_layer *l = &b->model->layers[i];
        if (l->type != LAYER_LINEAR)
            continue;
        CHECK(p.gemm_count < 16 && l->in_width <= 4096 && l->out_width <= 1024);
        p.gemms[p.gemm_count++] = (struct compute_gemm){.n = n,
                                                        .in = l->in_width,
                                                        .out = l->out_width,
                                                        .x = x,
                                                        .weight = weight,
                                                        .y = y,
                                                        .y_gradient = y,
                                                        .x_gradient = x,
                                                        .weight_gradient = weight};
    }
    double ns = median(products, &p);
    b->device->compute->free(b->device, x);
    b->device->compute->free(b->device, y);
    b->device->compute->free(b->device, weight);
    return ns;
}

static void bench_memory(struct bench *b, uint32_t n, const char *name)
{
    const struct batch_table *t = &b->batches[0]->tables[0];
    const struct schema_table *table = &b->model->schema->tables[0];
    uint32_t dim = b->job.job.model.dim;
    struct part p = {.device = b->device};
    struct compute_table host = {.dim = table->dim, .v_dim = dim};
    struct staging_options o = {b->device, b->model, n};
    struct network_values v = {(const float *const *)b->rows, (const float *const *)b->dense};
    struct staging_view view;
    struct staging *s = NULL;
    CHECK(staging_create(&o, &s) == ERR_NONE);
    CHECK(staging_open(s, b->batches[0], &v, true, &host, &view) == ERR_NONE);
    size_t floats = (size_t)n * FIELDS * dim;
    p.input = (struct compute_input){.n = n,
                                     .width = FIELDS * dim,
                                     .table_count = 1,
                                     .tables = &host,
                                     .there = view.there,
                                     .y = room(&p, floats)};
    p.input.y_gradient = p.input.y;
    p.copy = (struct compute_copy){.n = n, .width = FIELDS * dim};
    p.copy.x_stride = p.copy.y_stride = FIELDS * dim;
    p.copy.x = p.input.y;
    p.copy.y = room(&p, floats);
    /* Each number once: what is read from the table, or from the gradient, and what is written. */
    double terms = (double)t->term_count * 4, values = (double)floats * 4;
    double rows = (double)t->key_count * dim * 4;
    printf("%s_copy %.0f GB/s\n", name, 2 * values * REPEATS / median(copy, &p));
    printf("%s_gather %.0f GB/s\n", name, (2 * values + terms) * REPEATS / median(gather, &p));
    printf("%s_gather_back %.0f GB/s\n", name,
           (values + rows + terms) * REPEATS / median(gather_back, &p));
    b->device->compute->free(b->device, p.input.y);
    b->device->compute->free(b->device, p.copy.y);
    staging_destroy(s);
}

/* ---- from the command line ------------------------------------------------------------------- */

struct arguments {
    uint32_t batch;
    enum precision precision;
    bool wanted[sizeof shapes / sizeof shapes[0]];
};

static const char *const precisions[] = {"float32", "tf32", "bf16", "fp16"};

static bool number_of(const char *text, uint32_t max, uint32_t *out)
{
    uint64_t value;
    if (str_parse_u64(span_make(text, strlen(text)), &value) != ERR_NONE || value < 1 ||
        value > max)
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool precision_of(const char *text, enum precision *out)
{
    for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++)
        if (strcmp(text, precisions[i]) == 0) {
            *out = (enum precision)i;
            return true;
        }
    return false;
}

static bool wants(struct arguments *a, const char *name)
{
    bool found = false;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (name == NULL || strcmp(name, shapes[i].name) == 0)
            found = a->wanted[i] = true;
    return found;
}

static bool parse(int argc, char **argv, struct arguments *a)
{
    bool good = argc < 2 || number_of(argv[1], 1u << 20, &a->batch);
    good = good && (argc < 3 || precision_of(argv[2], &a->precision));
    good = good && (argc < 4 || number_of(argv[3], ROUNDS_MAX, &rounds));
    if (argc < 5)
        wants(a, NULL);
    for (int i = 4; good && i < argc; i++)
        good = wants(a, argv[i]);
    return good;
}

static void bench_shape(struct device *device, const struct shape *s, uint32_t n)
{
    struct bench b = {0};
    bench_open(&b, device, s, n);
    printf("%s_step %.3f ms\n", s->name, median(step, &b) / 1e6);
    printf("%s_products %.3f ms\n", s->name, bench_products(&b, n) / 1e6);
    printf("%s_keys %u rows\n", s->name, b.batches[0]->tables[0].key_count);
    bench_memory(&b, n, s->name);
    bench_close(&b);
}

int main(int argc, char **argv)
{
    struct arguments a = {.batch = 16384};
    struct device_options options = {.cuda = true};
    struct device_list list;
    struct device *device = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is measured stays, whatever comes after it */
    if (!parse(argc, argv, &a)) {
        fprintf(stderr, "bench_gpu [BATCH [PRECISION [ROUNDS [SHAPE...]]]]: float32, tf32, bf16 or "
                        "fp16; deepfm_16, deepfm_64, dlrm_16 or dlrm_64\n");
        return 2;
    }
    if (device_list_find("cuda", &list) != ERR_NONE) {
        printf("bench_gpu: %s\n", err_text());
        return 77;
    }
    options.precision = a.precision;
    options.pool = pool_create(machine_cores());
    if (device_open(&options, &device) != ERR_NONE) {
        printf("bench_gpu: %s\n", err_text());
        pool_destroy(options.pool);
        return 1;
    }
    printf("# %s, %s, batch %u\n", device->compute->family(device), precisions[a.precision],
           a.batch);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (a.wanted[i])
            bench_shape(device, &shapes[i], a.batch);
    device_close(device);
    pool_destroy(options.pool);
    return 0;
}
