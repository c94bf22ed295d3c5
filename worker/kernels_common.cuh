/*
 * kernels_common.cuh - what all kernels use, whatever compiles them. Included by kernels.cuh.
 */
#ifndef PARAMD_WORKER_KERNELS_COMMON_CUH
#define PARAMD_WORKER_KERNELS_COMMON_CUH

#define KERNEL_THREADS    256u
#define KERNEL_BLOCKS_MAX 16384u /* more work is walked by these */

/* Blocks of KERNEL_THREADS threads for `count` pieces of work of one thread each. */
static inline uint32_t blocks_for(uint64_t count)
{
    uint64_t blocks = (count + KERNEL_THREADS - 1) / KERNEL_THREADS;
    return blocks < KERNEL_BLOCKS_MAX ? (blocks > 0 ? (uint32_t)blocks : 1) : KERNEL_BLOCKS_MAX;
}

static inline uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Every number below `count` is one thread's. */
#define EACH(i, count)                                                                             \
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count);                \
         i += (uint64_t)gridDim.x * blockDim.x)

/* Row and column of element i of a matrix; 32-bit division where that is enough: it is a good deal
 * faster. */
struct place_at {
    uint32_t row, column;
};
DEVICE place_at place_of(uint64_t i, uint32_t width)
{
    if (i <= 0xffffffffu) {
        uint32_t row = (uint32_t)i / width;
        return {row, (uint32_t)i - row * width};
    }
    uint64_t row = i / width;
    return {(uint32_t)row, (uint32_t)(i - row * width)};
}

#endif
