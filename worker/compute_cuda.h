/*
 * compute_cuda.h - the CUDA backend, as the shared object that worker/device.c loads.
 *
 * paramd-cuda.so lies beside the programs and is opened only when a GPU is asked for: they start on
 * machines that have neither driver nor cuBLAS. It is linked with the static CUDA runtime, which
 * looks for the driver when it is first called, and with libcublas and libcublasLt, which the
 * dynamic linker finds or not; then its message is part of the error that a user sees. It shares no
 * code with the program that loads it but what is handed to it in struct cuda_host.
 *
 * compute_cuda.c       devices, memory, streams, the table of operations.
 * compute_cuda_gemm.c  matrix products by cuBLAS and cublasLt.
 * compute_cuda_usage.c what NVML knows of a GPU.
 * kernels*.cu          everything else.
 *
 * Streams  operations are one stream's; uploads another's, which join() makes the first one wait
 *          for. So the next batch's upload runs beside this one's kernels.
 * Bits     the same from run to run on one kind of GPU: one stream a cuBLAS handle with a workspace
 *          of its own, atomics off; cublasLt's algorithm is its first choice for the shape, of
 *          those that reduce in order; no atomicAdd in kernels.
 * Precision  float32: multiplied as such. tf32: products of inputs with 10 bits of fraction. bf16,
 *          fp16: inputs rounded to 16 bits; fp16's gradients need a loss scale. Sums, activations
 *          and everything that is no matrix product are float32 in all of them.
 * Errors   kept when a call fails and given, the first one, by fence(). A product that cublasLt
 *          refuses to join with its bias is no error: it is computed in two calls, and the log says
 *          so once.
 * Sources  CUDA Runtime API, cuBLAS Library (2.1.4 reproducibility, 3 cublasLt).
 */
#ifndef PARAMD_WORKER_COMPUTE_CUDA_H
#define PARAMD_WORKER_COMPUTE_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "common/job.h"
#include "worker/compute.h"

/* Grows with every change of what crosses between program and shared object. */
#define CUDA_BACKEND_VERSION 4u
#define CUDA_BACKEND_SYMBOL  "cuda_backend"

/* What the program lends. */
struct cuda_host {
    enum err (*fail)(enum err code, const char *format, ...) PRINTF_LIKE(2, 3); /* err_set() */
    void (*warn)(const char *format, ...) PRINTF_LIKE(1, 2);
    void (*lost)(void); /* no GPU can be used by this process any more */
};

struct cuda_description {
    char name[128]; /* "NVIDIA H100 80GB HBM3" */
    char bus[16];   /* "0000:19:00.0" */
    uint32_t multiprocessors;
    size_t memory_bytes;
};

struct cuda_usage {
    size_t used_bytes, total_bytes; /* of the GPU, by all processes */
    uint64_t allocations;           /* of the device, so far */
    uint32_t utilization;           /* percent, by all processes; CUDA_NOT_KNOWN */
};
#define CUDA_NOT_KNOWN UINT32_MAX

struct cuda_backend {
    uint32_t version;
    const char *build; /* "cuda 13.0 cublas 13.1.0" */
    /* ERR_UNAVAILABLE: no driver, or one that is too old, or no GPU; the text says which. */
    enum err (*count)(const struct cuda_host *host, uint32_t *count_out);
    /* ERR_UNAVAILABLE: there is no machine code for this GPU, as far as its number tells. */
    enum err (*usable)(const struct cuda_host *host, uint32_t index);
    enum err (*describe)(const struct cuda_host *host, uint32_t index,
                         struct cuda_description *out);
    enum err (*open)(const struct cuda_host *host, uint32_t index, enum precision precision,
                     struct pool *pool, struct device **out);
    enum err (*usage)(struct device *d, struct cuda_usage *out);
};

__attribute__((visibility("default"))) const struct cuda_backend *cuda_backend(void);

#endif
