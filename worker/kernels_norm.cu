#include "worker/kernels.cuh"

#define NORM_EPSILON 1e-5f
#define WARP         32u
#define ROWS         (KERNEL_THREADS / WARP) /* of a matrix, one a warp, or walked side by side */

/* ---- sums over columns: of chunks of rows, then of chunks ------------------------------------ */

#define CHUNK_ROWS  512u
#define CUT_COLUMNS (64u << 10) /* of one launch: 16 chunks of them fit into the scratch memory */

struct two {
    float a, b;
};

struct column_values {
    const float *x;
    uint32_t width;
    DEVICE_CALL two at(uint32_t row, uint32_t column) const
    {
        return {x[(uint64_t)row * width + column], 0.0f};
    }
};

struct gain_values {
    const float *x, *gradient, *moments;
    uint32_t width;
    DEVICE_CALL two at(uint32_t row, uint32_t column) const
    {
        uint64_t i = (uint64_t)row * width + column;
        float g = gradient[i];
        return {g * ((x[i] - moments[2 * (uint64_t)row]) * moments[2 * (uint64_t)row + 1]), g};
    }
};

/* `width` columns from `first` on. */
struct column_cut {
    uint32_t n, first, width, chunk_rows, chunks;
};

/* part: [chunks][width] of both sums. A block: WARP columns, ROWS rows side by side. */
template <typename values> KERNEL columns_kernel(struct column_cut cut, values v, two *part)
{
    SHARED(two, side);
    uint32_t lane = threadIdx.x % WARP, from = threadIdx.x / WARP;
    uint32_t column = blockIdx.x * WARP + lane;
    uint32_t first = blockIdx.y * cut.chunk_rows, left = cut.n - first;
    uint32_t end = first + (left < cut.chunk_rows ? left : cut.chunk_rows);
    two sum = {0, 0};
    if (column < cut.width) {
        for (uint32_t row = first + from; row < end; row += ROWS) {
            two value = v.at(row, cut.first + column);
            sum.a += value.a;
            sum.b += value.b;
        }
    }
    side[threadIdx.x] = sum;
    block_sync();
    if (from > 0 || column >= cut.width)
        return;
    for (uint32_t i = 1; i < ROWS; i++) {
        sum.a += side[i * WARP + lane].a;
        sum.b += side[i * WARP + lane].b;
    }
    part[(uint64_t)blockIdx.y * cut.width + column] = sum;
}

KERNEL chunks_kernel(struct column_cut cut, const two *part, float *a, float *b)
{
    EACH(column, cut.width)
    {
        two sum = {0, 0};
        for (uint32_t i = 0; i < cut.chunks; i++) {
            two value = part[(uint64_t)i * cut.width + column];
            sum.a += value.a;
            sum.b += value.b;
        }
        a[cut.first + column] = sum.a;
        if (b != NULL)
            b[cut.first + column] = sum.b;
    }
}

template <typename values>
static void sum_some_columns(struct kernel_stream k, struct column_cut cut, values v, float *a,
                             float *b)
{
    two *part = (two *)k.scratch;
    cut.chunk_rows = CHUNK_ROWS;
    cut.chunks = ceil_div(cut.n, cut.chunk_rows);
    while (cut.chunks > 65535u ||
           (uint64_t)cut.chunks * cut.width * sizeof(two) > KERNEL_SCRATCH_BYTES) {
        cut.chunk_rows *= 2;
        cut.chunks = ceil_div(cut.n, cut.chunk_rows);
    }
    dim3 blocks(ceil_div(cut.width, WARP), cut.chunks);
    LAUNCH_BLOCKS(columns_kernel<values>, blocks, KERNEL_THREADS, KERNEL_THREADS * sizeof(two), k,
                  cut, v, part);
    LAUNCH(chunks_kernel, blocks_for(cut.width), KERNEL_THREADS, k, cut, part, a, b);
}

template <typename values>
static void sum_columns(struct kernel_stream k, uint32_t n, uint32_t width, values v, float *a,
                        float *b)
{
    for (uint32_t done = 0; done < width; done += CUT_COLUMNS) {
        uint32_t left = width - done;
        struct column_cut cut = {};
        cut.n = n;
        cut.first = done;
        cut.width = left < CUT_COLUMNS ? left : CUT_COLUMNS;
        sum_some_columns(k, cut, v, a, b);
        if (left < CUT_COLUMNS)
            return; /* `done` would overflow near 2^32 */
    }
}

void kernel_column_sums(struct kernel_stream k, const struct compute_columns *c)
{
    struct column_values v = {c->x, c->width};
    sum_columns(k, c->n, c->width, v, c->sums, (float *)NULL);
}

/* ---- layer normalization: a warp a row ------------------------------------------------------- */

KERNEL norm_kernel(struct compute_norm c)
{
    uint32_t lane = threadIdx.x % WARP, row = blockIdx.x * ROWS + threadIdx.x / WARP;
    bool active = row < c.n;
    const float *x = c.x + (uint64_t)(active ? row : 0) * c.width;
    float sum = 0, square = 0;
    for (uint32_t j = lane; j < c.width; j += WARP)
        sum += x[j];
    float mean = sum_over(sum, WARP) / (float)c.width;
    for (uint32_t j = lane; j < c.width; j += WARP)
        square += (x[j] - mean) * (x[j] - mean);
    float variance = sum_over(square, WARP) / (float)c.width;
    float scale = 1.0f / sqrtf(variance + NORM_EPSILON);
    if (!active)
        return;
    if (lane == 0) {
        c.moments[2 * (uint64_t)row] = mean;
        c.moments[2 * (uint64_t)row + 1] = scale;
    }
    float *y = c.y + (uint64_t)row * c.width;
    for (uint32_t j = lane; j < c.width; j += WARP)
        y[j] = (x[j] - mean) * scale * c.gain[j] + c.bias[j];
}

void kernel_norm(struct kernel_stream k, const struct compute_norm *c)
{
    LAUNCH_BLOCKS(norm_kernel, ceil_div(c->n, ROWS), KERNEL_THREADS, 0, k, *c);
}

/* With h = (x - mean) * scale and d = gain * y_gradient: scale * (d - mean(d) - h * mean(d h)). */
KERNEL norm_back_kernel(struct compute_norm_back c)
{
    uint32_t lane = threadIdx.x % WARP, row = blockIdx.x * ROWS + threadIdx.x / WARP;
    bool active = row < c.n;
    uint64_t first = (uint64_t)(active ? row : 0) * c.width;
    const float *x = c.x + first, *g = c.y_gradient + first;
    float mean = c.moments[active ? 2 * (uint64_t)row : 0];
    float scale = c.moments[active ? 2 * (uint64_t)row + 1 : 1];
    float sum = 0, product = 0;
    for (uint32_t j = lane; j < c.width; j += WARP) {
        float d = g[j] * c.gain[j];
        sum += d;
        product += d * ((x[j] - mean) * scale);
    }
    float d_mean = sum_over(sum, WARP) / (float)c.width;
    float dh_mean = sum_over(product, WARP) / (float)c.width;
    float *out = c.x_gradient + first;
    for (uint32_t j = lane; active && j < c.width; j += WARP) {
        float h = (x[j] - mean) * scale;
        float gradient = scale * (g[j] * c.gain[j] - d_mean - h * dh_mean);
        out[j] = c.add ? out[j] + gradient : gradient;
    }
}

void kernel_norm_back(struct kernel_stream k, const struct compute_norm_back *c)
{
    struct gain_values v = {c->x, c->y_gradient, c->moments, c->width};
    sum_columns(k, c->n, c->width, v, c->gain_gradient, c->bias_gradient);
    LAUNCH_BLOCKS(norm_back_kernel, ceil_div(c->n, ROWS), KERNEL_THREADS, 0, k, *c);
}
