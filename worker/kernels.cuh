/*
 * kernels.cuh - what the kernels' sources are written in, for nvcc. tests/emulation has a header of
 * the same name for the host's compiler, which the test build finds first.
 *
 * LAUNCH         threads that know nothing of each other; the kernel walks with EACH().
 * LAUNCH_BLOCKS  threads that meet: block_sync(), sum_over() and shared memory. No thread of a warp
 *                may leave before its warp's last sum_over(), none of a block before its last
 *                block_sync().
 * sum_over(x, lanes)   Σ over groups of `lanes` neighbouring threads, a power of two up to 32; the
 *                same bits for each of them.
 */
#ifndef PARAMD_WORKER_KERNELS_CUH
#define PARAMD_WORKER_KERNELS_CUH

#include <cuda_runtime.h>

#define DEVICE_CALL __host__ __device__
#define DEVICE      static __device__ __forceinline__
#define KERNEL      static __global__ void

#include "common/fmath.h"
#include "common/rng.h"
#include "worker/kernels.h"

#define LAUNCH(kernel, blocks, threads, k, ...)                                                    \
    kernel<<<(blocks), (threads), 0, (k).stream>>>(__VA_ARGS__)
#define LAUNCH_BLOCKS(kernel, blocks, threads, shared, k, ...)                                     \
    kernel<<<(blocks), (threads), (shared), (k).stream>>>(__VA_ARGS__)

/* The block's shared memory, as an array. */
#define SHARED(type, name)                                                                         \
    extern __shared__ double shared_memory_[];                                                     \
    type *name = reinterpret_cast<type *>(shared_memory_)

DEVICE void block_sync()
{
    __syncthreads();
}

template <typename number> DEVICE number sum_over(number x, unsigned lanes)
{
    for (unsigned step = lanes / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

#define UNROLL _Pragma("unroll 4")

#include "worker/kernels_common.cuh"

#endif
