#include "worker/compute_cpu.h"

#include <cblas.h>
#include <string.h>

/*
 * Forward and input gradient are cut by rows, the weight gradient by tiles of the result, each of
 * which one product makes from all rows; so no two pieces add to one number, and the cut depends on
 * shapes alone. Every product of one shape takes the same path through OpenBLAS: it packs its
 * operands, so its bits do not depend on where they lie.
 */
#define GEMM_ROWS 256u /* examples in a piece */
#define GEMM_TILE 256u /* at most, rows and columns of the weight gradient in a piece */

static bool concurrent; /* may several threads call this OpenBLAS? */
static char family[64];

void cpu_gemm_init(void)
{
    openblas_set_num_threads(1);
    concurrent = openblas_get_parallel() != OPENBLAS_SEQUENTIAL;
    strcpy(family, "openblas ");
    strncat(family, openblas_get_corename(), sizeof family - sizeof "openblas ");
}

const char *cpu_gemm_family(const struct device *device)
{
    return family;
}

static void run(struct pool *pool, uint32_t count, void (*piece)(void *, uint32_t, uint32_t),
                const struct compute_gemm *g)
{
    pool_run(concurrent ? pool : NULL, count, piece, (void *)g);
}

static size_t x_stride(const struct compute_gemm *g)
{
    return g->x_stride > 0 ? g->x_stride : g->in;
}

static void forward_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_gemm *g = context;
    struct cpu_range r = cpu_chunk(g->n, GEMM_ROWS, index);
    size_t stride = x_stride(g);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(r.end - r.first), (int)g->out,
                (int)g->in, 1.0f, g->x + r.first * stride, (int)stride, g->weight, (int)g->out,
                0.0f, g->y + (size_t)r.first * g->out, (int)g->out);
}

void cpu_gemm_forward(struct device *device, const struct compute_gemm *g)
{
    run(device->pool, cpu_chunk_count(g->n, GEMM_ROWS), forward_piece, g);
}

static void input_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_gemm *g = context;
    struct cpu_range r = cpu_chunk(g->n, GEMM_ROWS, index);
    size_t stride = x_stride(g);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(r.end - r.first), (int)g->in,
                (int)g->out, 1.0f, g->y_gradient + (size_t)r.first * g->out, (int)g->out, g->weight,
                (int)g->out, g->add ? 1.0f : 0.0f, g->x_gradient + r.first * stride, (int)stride);
}

void cpu_gemm_input(struct device *device, const struct compute_gemm *g)
{
    run(device->pool, cpu_chunk_count(g->n, GEMM_ROWS), input_piece, g);
}

/* The length of equal tiles of `width`, none over GEMM_TILE, a multiple of 16 for the kernels'
 * sake. */
static uint32_t tile_length(uint32_t width)
{
    uint32_t count = cpu_chunk_count(width, GEMM_TILE);
    return (cpu_chunk_count(width, count) + 15u) / 16u * 16u;
}

static void weight_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct compute_gemm *g = context;
    uint32_t row_length = tile_length(g->in), column_length = tile_length(g->out);
    uint32_t column_tiles = cpu_chunk_count(g->out, column_length);
    struct cpu_range row = cpu_chunk(g->in, row_length, index / column_tiles);
    struct cpu_range column = cpu_chunk(g->out, column_length, index % column_tiles);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(row.end - row.first),
                (int)(column.end - column.first), (int)g->n, 1.0f, g->x + row.first,
                (int)x_stride(g), g->y_gradient + column.first, (int)g->out, 0.0f,
                g->weight_gradient + (size_t)row.first * g->out + column.first, (int)g->out);
}

void cpu_gemm_weight(struct device *device, const struct compute_gemm *g)
{
    if (g->n == 0) {
        memset(g->weight_gradient, 0, (size_t)g->in * g->out * sizeof(float));
        return;
    }
    uint32_t count =
        cpu_chunk_count(g->in, tile_length(g->in)) * cpu_chunk_count(g->out, tile_length(g->out));
    run(device->pool, count, weight_piece, g);
}
