/*
 * compute_cuda_internal.h - what the files of compute_cuda.h share.
 */
#ifndef PARAMD_WORKER_COMPUTE_CUDA_INTERNAL_H
#define PARAMD_WORKER_COMPUTE_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "worker/compute_cuda.h"
#include "worker/kernels.h"

#define CUDA_PLANS           64u
#define CUDA_WORKSPACE_BYTES ((size_t)32 << 20) /* what cuBLAS recommends for Hopper */

/* How cublasLt computes products of one shape. */
struct cuda_plan_key {
    uint32_t n, in, out, x_stride, alignment;
    bool relu;
};
struct cuda_plan {
    struct cuda_plan_key key;
    bool found; /* cublasLt knows a way */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

struct cuda_narrow {
    void *memory;
    size_t capacity;
};

struct cuda_device {
    struct device base;
    const struct cuda_host *host;
    uint32_t index;
    enum precision precision;
    char family[192], bus[16];
    char failure[256]; /* "" or the first failure since the last fence */
    cudaStream_t stream, copies;
    cudaEvent_t uploaded;
    void *scratch;
    uint64_t allocations;
    /* compute_cuda_gemm.c */
    cublasHandle_t cublas;
    cublasLtHandle_t lt;
    void *workspace;
    struct cuda_narrow narrow[2]; /* operands of 16 bits */
    struct cuda_plan plans[CUDA_PLANS];
    bool refusal_told; /* that cublasLt has no way: said once */
    uint32_t plan_count, plan_next;
};

static inline struct cuda_device *cuda_of(struct device *d)
{
    return (struct cuda_device *)d;
}

/* Notes a failure of `what`, unless one is noted already. */
void cuda_check(struct cuda_device *d, const char *what, cudaError_t status);
/* CUDA keeps the current device by thread: before each call that means this one. */
void cuda_make_current(struct cuda_device *d);
/* Percent of the GPU at this bus, lately; CUDA_NOT_KNOWN: NVML does not say. */
uint32_t cuda_utilization(const char *bus);
void *cuda_alloc(struct cuda_device *d, size_t bytes); /* NULL: err_set() is done */

/* Free what cuda_gemm_open() made, of which it may have made a part. */
enum err cuda_gemm_open(struct cuda_device *d) MUST_CHECK;
void cuda_gemm_close(struct cuda_device *d);

void cuda_gemm_forward(struct device *d, const struct compute_gemm *g);
void cuda_gemm_input(struct device *d, const struct compute_gemm *g);
void cuda_gemm_weight(struct device *d, const struct compute_gemm *g);
void cuda_linear(struct device *d, const struct compute_gemm *g, const struct compute_activate *a);

#endif
