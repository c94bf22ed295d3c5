#include "tests/support/network_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "common/mem.h"
#include "tests/support/network_fixture.h"
#include "tests/support/reference_model.h"

struct doubles {
    double *rows[MODEL_JOB_TABLES], *dense[FIXTURE_DENSE];
};

static double *widen(const float *x, size_t count)
{
    double *y = mem_calloc(count + 1, sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}

static void widen_all(const struct fixture *f, struct doubles *d)
{
    for (uint32_t t = 0; t < f->batch->table_count; t++)
        d->rows[t] = widen(f->rows[t], fixture_row_floats(f, t));
    for (uint32_t p = 0; p < f->model->schema->dense_count; p++)
        d->dense[p] = widen(f->dense[p], f->model->schema->dense[p].count);
}

static void free_all(const struct fixture *f, struct doubles *d)
{
    for (uint32_t t = 0; t < f->batch->table_count; t++)
        mem_free(d->rows[t]);
    for (uint32_t p = 0; p < f->model->schema->dense_count; p++)
        mem_free(d->dense[p]);
}

static void check_array(const char *what, const struct fixture *f, struct doubles *d,
                        double *values, const float *gradient, size_t count)
{
    const double step = 1e-5;
    struct reference_values v = {d->rows, d->dense};
    struct reference_options o = {true, FIXTURE_SEED, FIXTURE_FIRST_EXAMPLE};
    double *expected = mem_calloc(count + 1, sizeof *expected);
    assert_non_null(expected);
    double largest = 1e-3;
    for (size_t i = 0; i < count; i++) {
        double value = values[i];
        values[i] = value + step;
        double above = reference_loss(f->model, f->batch, &v, &o, NULL);
        values[i] = value - step;
        double below = reference_loss(f->model, f->batch, &v, &o, NULL);
        values[i] = value;
        expected[i] = (above - below) / (2 * step);
        largest = fmax(largest, fabs(expected[i]));
    }
    for (size_t i = 0; i < count; i++) {
        if (!(fabs((double)gradient[i] - expected[i]) <= 1e-4 * largest))
            fail_msg("%s[%zu]: gradient %.9g, by differences %.9g, largest %.9g", what, i,
                     (double)gradient[i], expected[i], largest);
    }
    mem_free(expected);
}

static void check_logits(const struct fixture *f, struct doubles *d, double loss, bool training)
{
    size_t count = (size_t)f->batch->example_count * f->model->output_width;
    double *expected = mem_calloc(count, sizeof *expected);
    assert_non_null(expected);
    struct reference_values v = {d->rows, d->dense};
    struct reference_options o = {training, FIXTURE_SEED, FIXTURE_FIRST_EXAMPLE};
    double reference = reference_loss(f->model, f->batch, &v, &o, expected);
    double largest = 0.1;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (size_t i = 0; i < count; i++)
        assert_true(fabs((double)f->logits[i] - expected[i]) <= 2e-5 * largest);
    if (training)
        assert_true(fabs(loss - reference) <= 2e-5 * fmax(1.0, reference));
    mem_free(expected);
}

void network_check(const struct model_case *c, const struct random_batch *r)
{
    struct fixture f = {0};
    fixture_init(&f, c, r);
    struct network *n = fixture_network(&f, NULL);
    double loss = fixture_train(n, &f);
    struct doubles d;
    widen_all(&f, &d);
    check_logits(&f, &d, loss, true);
    for (uint32_t t = 0; t < f.batch->table_count; t++)
        check_array(f.model->schema->tables[t].name, &f, &d, d.rows[t], f.row_gradients[t],
                    fixture_row_floats(&f, t));
    for (uint32_t p = 0; p < f.model->schema->dense_count; p++)
        check_array(f.model->schema->dense[p].name, &f, &d, d.dense[p], f.dense_gradients[p],
                    f.model->schema->dense[p].count);
    struct network_values v = fixture_values(&f);
    assert_int_equal(network_infer(n, f.batch, &v, f.logits), ERR_NONE);
    check_logits(&f, &d, 0, false);
    free_all(&f, &d);
    network_destroy(n);
    fixture_deinit(&f);
}
