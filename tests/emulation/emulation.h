/*
 * emulation.h - a GPU that is the host: what kernels, streams and cuBLAS are made of in tests.
 *
 * The backend's C, and the kernels' sources, are compiled by the host's compiler against the
 * headers of this directory. So their arithmetic, their indexing and the order in which the host
 * asks for things really run where there is no GPU. It is made to show mistakes:
 *
 * Streams   work waits in the stream's queue until somebody waits for it, or until chance lets a
 *           piece of it go on: who reads before a fence, overwrites pinned memory that is still to
 *           be read, or forgets an event gets wrong numbers. Blocks of a grid run in a random
 *           order.
 * Memory    device memory can be touched only while work of a stream runs; at other times it is
 *           shut, now and then, and a touch ends the process. New memory is full of NaN, as is a
 *           block's shared memory; bytes behind an allocation are looked at when it is freed.
 *           Memory may not be freed while a copy to or from it waits.
 * Devices   there are two; what is put into a stream of another device than the thread's current
 *           one ends the process.
 * Threads   those of LAUNCH_BLOCKS are fibers, which change places at block_sync() and sum_over()
 *           alone, and meet there; if some of them never come, the process ends with a message.
 *           Those of LAUNCH run one after the other.
 *
 * Settings  PARAMD_EMULATED_CAPABILITY=75: a GPU of that compute capability; kernels are there from
 *           80 on. PARAMD_EMULATED_FAULT=FILE: the process that finds the file removes it,
 *           and has a GPU that has failed.
 *
 * It cannot show: races within a launch, what a GPU's own rounding differs in (none is used),
 * speed.
 */
#ifndef PARAMD_TESTS_EMULATION_EMULATION_H
#define PARAMD_TESTS_EMULATION_EMULATION_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

#include "cuda_runtime_api.h"

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};

namespace emulation
{

extern dim3 thread, block, block_size, grid_size;
extern char *shared;

/* Ends the process: something was done that a GPU would not do, or do wrong. */
[[noreturn]] void give_up(const char *why);

/* Puts work into a stream. */
void enqueue(cudaStream_t stream, std::function<void()> work);

struct launch_shape {
    dim3 blocks;
    unsigned threads;
    size_t shared_bytes;
    bool meet;
};
void enqueue_kernel(cudaStream_t stream, const launch_shape &shape, std::function<void()> body);

void sync_block();
/* What thread `lane ^ mask` of this one's warp passes in its call. */
double exchange(double x, unsigned mask);

template <typename... parameters, typename... arguments>
void launch(void (*kernel)(parameters...), cudaStream_t stream, const launch_shape &shape,
            arguments... given)
{
    std::tuple<parameters...> values(given...);
    enqueue_kernel(stream, shape, [kernel, values] { std::apply(kernel, values); });
}

} // namespace emulation

#endif
