/*
 * kernels.cuh - what the kernels' sources are written in, for the host's compiler. The real one is
 * worker/kernels.cuh, which says what the words mean; emulation.h says how they run here.
 */
#ifndef PARAMD_WORKER_KERNELS_CUH
#define PARAMD_WORKER_KERNELS_CUH

#include <cmath>

#include "emulation.h"

#define DEVICE_CALL
#define DEVICE static inline
#define KERNEL static void

#include "common/fmath.h"
#include "common/rng.h"
#include "worker/kernels.h"

#define threadIdx emulation::thread
#define blockIdx  emulation::block
#define blockDim  emulation::block_size
#define gridDim   emulation::grid_size

#define LAUNCH(kernel, blocks, threads, k, ...)                                                    \
    emulation::launch(kernel, (k).stream, {(blocks), (threads), 0, false}, __VA_ARGS__)
#define LAUNCH_BLOCKS(kernel, blocks, threads, shared, k, ...)                                     \
    emulation::launch(kernel, (k).stream, {(blocks), (threads), (shared), true}, __VA_ARGS__)

#define SHARED(type, name) type *name = reinterpret_cast<type *>(emulation::shared)

DEVICE void block_sync()
{
    emulation::sync_block();
}

template <typename number> DEVICE number sum_over(number x, unsigned lanes)
{
    for (unsigned step = lanes / 2; step > 0; step /= 2)
        x += (number)emulation::exchange((double)x, step);
    return x;
}

#define UNROLL

#include "worker/kernels_common.cuh"

#endif
