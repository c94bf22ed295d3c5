#include "worker/compute_cpu.h"

#include "common/fmath.h"

/* ---- one example ---------------------------------------------------------------------------- */

static inline double logistic(const float *logits, uint32_t width, float label, float weight,
                              float *gradient)
{
    *gradient = weight * (fmath_sigmoid(*logits) - label);
    return fmath_logistic_loss(*logits, label);
}

static inline double squared(const float *logits, uint32_t width, float label, float weight,
                             float *gradient)
{
    *gradient = weight * (*logits - label);
    return fmath_squared_loss(*logits, label);
}

static inline double softmax(const float *logits, uint32_t width, float label, float weight,
                             float *gradient)
{
    uint32_t class_index = (uint32_t)label;
    float largest = logits[0];
    for (uint32_t j = 1; j < width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    float sum = 0;
    for (uint32_t j = 0; j < width; j++)
        gradient[j] = fmath_exp(logits[j] - largest);
    for (uint32_t j = 0; j < width; j++)
        sum += gradient[j];
    float scale = 1.0f / sum;
    for (uint32_t j = 0; j < width; j++)
        gradient[j] = weight * (gradient[j] * scale - (j == class_index ? 1.0f : 0.0f));
    return fmath_softmax_loss(logits, width, class_index);
}

/* ---- a group of examples -------------------------------------------------------------------- */

typedef double loss_function(const float *logits, uint32_t width, float label, float weight,
                             float *gradient);

static inline double loss_sum(const struct compute_loss *l, struct cpu_range r,
                              loss_function *function)
{
    double sum = 0;
    size_t stride = l->label_stride > 0 ? l->label_stride : 1;
    float scale = l->scale > 0 ? l->scale : 1.0f;
    for (uint32_t i = r.first; i < r.end; i++) {
        float *gradient = l->gradient + (size_t)i * l->width;
        const float *logits = l->logits + (size_t)i * l->width;
        if (l->weights[i] == 0) {
            for (uint32_t j = 0; j < l->width; j++)
                gradient[j] = 0;
            continue;
        }
        double loss =
            function(logits, l->width, l->labels[i * stride], l->weights[i] * scale, gradient);
        sum += (double)l->weights[i] * loss;
    }
    return sum;
}

static void loss_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_loss *l = context;
    struct cpu_range r = cpu_chunk(l->n, COMPUTE_LOSS_ROWS, index);
    switch (l->type) {
    case LOSS_LOGISTIC:
        l->sums[index] = loss_sum(l, r, logistic);
        break;
    case LOSS_SQUARED:
        l->sums[index] = loss_sum(l, r, squared);
        break;
    case LOSS_SOFTMAX:
        l->sums[index] = loss_sum(l, r, softmax);
        break;
    }
}

void cpu_loss(struct device *device, const struct compute_loss *l)
{
    pool_run(device->pool, compute_loss_groups(l->n), loss_piece, (void *)l);
}
