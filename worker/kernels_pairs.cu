#include "worker/kernels.cuh"

#define WARP         32u
#define EXAMPLES     (KERNEL_THREADS / WARP)
#define SHARED_BYTES (47u << 10) /* what every GPU gives a block unasked, with some to spare */

/* ---- fm: a warp an example ------------------------------------------------------------------- */

KERNEL fm_kernel(struct compute_vectors v)
{
    uint32_t lane = threadIdx.x % WARP, example = blockIdx.x * EXAMPLES + threadIdx.x / WARP;
    bool active = example < v.n;
    const float *x = v.x + (active ? example : 0) * v.x_stride;
    float pairs = 0;
    for (uint32_t k = lane; active && k < v.dim; k += WARP) {
        float sum = 0, square = 0;
        for (uint32_t i = 0; i < v.count; i++) {
            float p = x[(uint64_t)i * v.dim + k];
            sum += p;
            square += p * p;
        }
        v.sums[(uint64_t)example * v.dim + k] = sum;
        pairs += sum * sum - square;
    }
    pairs = sum_over(pairs, WARP);
    if (active && lane == 0)
        v.y[example] = 0.5f * pairs;
}

void kernel_fm(struct kernel_stream k, const struct compute_vectors *v)
{
    LAUNCH_BLOCKS(fm_kernel, ceil_div(v->n, EXAMPLES), KERNEL_THREADS, 0, k, *v);
}

KERNEL fm_back_kernel(struct compute_vectors v)
{
    uint32_t width = v.count * v.dim;
    EACH(i, (uint64_t)v.n * width)
    {
        place_at at = place_of(i, width);
        uint64_t place = at.row * v.x_stride + at.column;
        float sum = v.sums[(uint64_t)at.row * v.dim + at.column % v.dim];
        float gradient = v.y_gradient[at.row] * (sum - v.x[place]);
        v.x_gradient[place] = v.add ? v.x_gradient[place] + gradient : gradient;
    }
}

void kernel_fm_back(struct kernel_stream k, const struct compute_vectors *v)
{
    LAUNCH(fm_back_kernel, blocks_for((uint64_t)v->n * v->count * v->dim), KERNEL_THREADS, k, *v);
}

/* ---- dot: a block an example, whose vectors stand in shared memory if they fit --------------- */

/* A vector's length there: odd, so that one column of 32 vectors lies in 32 banks. */
DEVICE_CALL static inline uint32_t padded(uint32_t dim)
{
    return dim | 1u;
}

static size_t vectors_bytes(const struct compute_vectors *v)
{
    size_t bytes = (size_t)v->count * padded(v->dim) * sizeof(float);
    return bytes <= SHARED_BYTES ? bytes : 0;
}

/* Of pair p = i (i - 1) / 2 + j, j < i: i. */
DEVICE uint32_t first_of_pair(uint32_t p)
{
    uint32_t i = (uint32_t)((1.0f + sqrtf(1.0f + 8.0f * (float)p)) * 0.5f);
    while (i * (i - 1) / 2 > p)
        i--;
    while ((i + 1) * i / 2 <= p)
        i++;
    return i;
}

/* Where an example's vectors are read, and from one to the next. */
struct vectors_at {
    const float *x;
    uint32_t stride;
};
DEVICE vectors_at load_vectors(const struct compute_vectors &v, bool shared, float *room)
{
    const float *x = v.x + blockIdx.x * v.x_stride;
    if (!shared)
        return {x, v.dim};
    uint32_t stride = padded(v.dim);
    for (uint32_t i = threadIdx.x; i < v.count * v.dim; i += blockDim.x)
        room[i / v.dim * stride + i % v.dim] = x[i];
    block_sync();
    return {room, stride};
}

KERNEL dot_kernel(struct compute_vectors v, bool shared)
{
    SHARED(float, room);
    vectors_at at = load_vectors(v, shared, room);
    uint32_t count = v.count * (v.count - 1) / 2;
    for (uint32_t p = threadIdx.x; p < count; p += blockDim.x) {
        uint32_t i = first_of_pair(p), j = p - i * (i - 1) / 2;
        const float *a = at.x + (uint64_t)i * at.stride, *b = at.x + (uint64_t)j * at.stride;
        float sum = 0;
        for (uint32_t k = 0; k < v.dim; k++)
            sum = fmaf(a[k], b[k], sum);
        v.y[(uint64_t)blockIdx.x * count + p] = sum;
    }
}

void kernel_dot(struct kernel_stream k, const struct compute_vectors *v)
{
    size_t bytes = vectors_bytes(v);
    LAUNCH_BLOCKS(dot_kernel, v->n, KERNEL_THREADS, bytes, k, *v, bytes > 0);
}

KERNEL dot_back_kernel(struct compute_vectors v, bool shared)
{
    SHARED(float, room);
    vectors_at at = load_vectors(v, shared, room);
    uint64_t count = (uint64_t)v.count * (v.count - 1) / 2;
    const float *g = v.y_gradient + blockIdx.x * count;
    float *out = v.x_gradient + blockIdx.x * v.x_stride;
    for (uint32_t o = threadIdx.x; o < v.count * v.dim; o += blockDim.x) {
        uint32_t i = o / v.dim, k = o - i * v.dim;
        const float *row = g + (uint64_t)i * (i > 0 ? i - 1 : 0) / 2; /* of j < i */
        float sum = 0;
        for (uint32_t j = 0; j < i; j++)
            sum = fmaf(row[j], at.x[(uint64_t)j * at.stride + k], sum);
        for (uint32_t j = i + 1; j < v.count; j++)
            sum = fmaf(g[(uint64_t)j * (j - 1) / 2 + i], at.x[(uint64_t)j * at.stride + k], sum);
        out[o] = v.add ? out[o] + sum : sum;
    }
}

void kernel_dot_back(struct kernel_stream k, const struct compute_vectors *v)
{
    size_t bytes = vectors_bytes(v);
    LAUNCH_BLOCKS(dot_back_kernel, v->n, KERNEL_THREADS, bytes, k, *v, bytes > 0);
}
