#include "tests/support/network_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/mem.h"

struct device *fixture_device;

size_t fixture_row_floats(const struct fixture *f, uint32_t table)
{
    return (size_t)f->batch->tables[table].key_count * f->model->schema->tables[table].dim;
}

void fixture_init(struct fixture *f, const struct model_case *c, const struct random_batch *r)
{
    model_job_init(&f->job, c);
    if (model_create(&f->job.job, &f->job.features, &f->model) != ERR_NONE)
        fail_msg("%s", err_text());
    struct random_batch batch = *r;
    batch.dense_width = c->dense_width;
    batch.table_count = c->table_count;
    memcpy(batch.slot_count, c->slot_count, sizeof batch.slot_count);
    if (batch.classes == 0 && c->loss != LOSS_SQUARED)
        batch.classes = c->loss == LOSS_SOFTMAX ? c->classes : 2;
    f->batch = random_batch_create(&batch);
    for (uint32_t t = 0; t < c->table_count; t++) {
        f->rows[t] = random_floats(100 + t, fixture_row_floats(f, t), 0.6f);
        f->row_gradients[t] = random_floats(1, fixture_row_floats(f, t), 1.0f);
    }
    assert_true(f->model->schema->dense_count <= FIXTURE_DENSE);
    for (uint32_t p = 0; p < f->model->schema->dense_count; p++) {
        f->dense[p] = random_floats(200 + p, f->model->schema->dense[p].count, 0.7f);
        f->dense_gradients[p] = random_floats(1, f->model->schema->dense[p].count, 1.0f);
    }
    f->logits = random_floats(1, (size_t)r->example_count * f->model->output_width, 0);
}

void fixture_deinit(struct fixture *f)
{
    for (uint32_t t = 0; t < f->batch->table_count; t++) {
        mem_free(f->rows[t]);
        mem_free(f->row_gradients[t]);
    }
    for (uint32_t p = 0; p < f->model->schema->dense_count; p++) {
        mem_free(f->dense[p]);
        mem_free(f->dense_gradients[p]);
    }
    mem_free(f->logits);
    random_batch_destroy(f->batch);
    model_destroy(f->model);
    model_job_deinit(&f->job);
}

struct network_values fixture_values(struct fixture *f)
{
    return (struct network_values){(const float *const *)f->rows, (const float *const *)f->dense};
}

struct network_gradients fixture_gradients(struct fixture *f)
{
    return (struct network_gradients){f->row_gradients, f->dense_gradients};
}

struct network *fixture_network(const struct fixture *f, struct pool *pool)
{
    struct network_options o = {.model = f->model,
                                .device = fixture_device,
                                .compute = compute_cpu(),
                                .pool = pool,
                                .max_examples = f->batch->example_count + 3,
                                .seed = FIXTURE_SEED};
    struct network *n = NULL;
    assert_int_equal(network_create(&o, &n), ERR_NONE);
    return n;
}

double fixture_train(struct network *n, struct fixture *f)
{
    struct network_values v = fixture_values(f);
    struct network_gradients g = fixture_gradients(f);
    double loss = 0;
    bool finite = false;
    assert_int_equal(
        network_train(n, f->batch, FIXTURE_FIRST_EXAMPLE, &v, &g, f->logits, &loss, &finite),
        ERR_NONE);
    assert_true(finite);
    return loss;
}
