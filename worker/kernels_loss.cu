#include "worker/kernels.cuh"

/* A block a group of COMPUTE_LOSS_ROWS examples, whose losses it adds in a fixed tree. */

DEVICE double logistic(const struct compute_loss &l, uint32_t i, float label, float weight)
{
    l.gradient[i] = weight * (fmath_sigmoid(l.logits[i]) - label);
    return fmath_logistic_loss(l.logits[i], label);
}

DEVICE double squared(const struct compute_loss &l, uint32_t i, float label, float weight)
{
    l.gradient[i] = weight * (l.logits[i] - label);
    return fmath_squared_loss(l.logits[i], label);
}

DEVICE double softmax(const struct compute_loss &l, uint32_t i, float label, float weight)
{
    const float *logits = l.logits + (uint64_t)i * l.width;
    float *gradient = l.gradient + (uint64_t)i * l.width;
    uint32_t class_index = (uint32_t)label;
    float largest = logits[0], sum = 0;
    for (uint32_t j = 1; j < l.width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    for (uint32_t j = 0; j < l.width; j++) {
        gradient[j] = fmath_exp(logits[j] - largest);
        sum += gradient[j];
    }
    float scale = 1.0f / sum;
    for (uint32_t j = 0; j < l.width; j++)
        gradient[j] = weight * (gradient[j] * scale - (j == class_index ? 1.0f : 0.0f));
    return fmath_softmax_loss(logits, l.width, class_index);
}

DEVICE double example_loss(const struct compute_loss &l, uint32_t i)
{
    float weight = l.weights[i];
    if (weight == 0) {
        for (uint32_t j = 0; j < l.width; j++)
            l.gradient[(uint64_t)i * l.width + j] = 0;
        return 0;
    }
    float label = l.labels[(uint64_t)i * (l.label_stride > 0 ? l.label_stride : 1)];
    float scaled = weight * (l.scale > 0 ? l.scale : 1.0f);
    double loss = l.type == LOSS_LOGISTIC  ? logistic(l, i, label, scaled)
                  : l.type == LOSS_SQUARED ? squared(l, i, label, scaled)
                                           : softmax(l, i, label, scaled);
    return (double)weight * loss;
}

KERNEL loss_kernel(struct compute_loss l)
{
    SHARED(double, side);
    uint32_t first = blockIdx.x * COMPUTE_LOSS_ROWS, left = l.n - first;
    uint32_t end = first + (left < COMPUTE_LOSS_ROWS ? left : COMPUTE_LOSS_ROWS);
    double sum = 0;
    for (uint32_t i = first + threadIdx.x; i < end; i += KERNEL_THREADS)
        sum += example_loss(l, i);
    side[threadIdx.x] = sum;
    for (uint32_t half = KERNEL_THREADS / 2; half > 0; half /= 2) {
        block_sync();
        if (threadIdx.x < half)
            side[threadIdx.x] += side[threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        l.sums[blockIdx.x] = side[0];
}

void kernel_loss(struct kernel_stream k, const struct compute_loss *l)
{
    LAUNCH_BLOCKS(loss_kernel, compute_loss_groups(l->n), KERNEL_THREADS,
                  KERNEL_THREADS * sizeof(double), k, *l);
}
