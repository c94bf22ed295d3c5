/*
 * kernels.h - what the CUDA backend computes itself, one launcher an operation of worker/compute.h.
 *
 * kernels_dense.cu    element-wise operations, sums over columns, layer normalization.
 * kernels_loss.cu     losses.
 * kernels_pairs.cu    pairs of vectors.
 * kernels_sparse.cu   lr, fm, pooled embeddings: gather, and gradients by row.
 * kernels_fields.cu   ffm.
 *
 * A launcher only puts work into the stream. Their C++ is what CUDA shares with the test build, in
 * which the same sources run on the host (tests/emulation).
 *
 * Bits     every number that is written is a sum in an order that depends on shapes alone, written
 *          by one thread; there is no atomic addition. Additions and multiplications are not
 *          contracted, so an element-wise operation has the CPU's bits.
 * Memory   all arrays are the device's; `scratch` of KERNEL_SCRATCH_BYTES is the stream's.
 * Threads  those of a stream: one caller.
 * Errors   a launch that fails is seen by cudaGetLastError(), which the caller asks.
 */
#ifndef PARAMD_WORKER_KERNELS_H
#define PARAMD_WORKER_KERNELS_H

#include "worker/compute.h"

#define KERNEL_SCRATCH_BYTES ((size_t)8 << 20)

struct CUstream_st; /* the runtime's */

struct kernel_stream {
    struct CUstream_st *stream;
    void *scratch;
};

#ifdef __cplusplus
extern "C" {
#endif

/* The runtime's error, 0 for none: is there machine code, or PTX, for the current GPU? */
int kernel_usable(void);

void kernel_activate(struct kernel_stream k, const struct compute_activate *a);
void kernel_activate_back(struct kernel_stream k, const struct compute_activate_back *a);
void kernel_column_sums(struct kernel_stream k, const struct compute_columns *c);
void kernel_norm(struct kernel_stream k, const struct compute_norm *c);
void kernel_norm_back(struct kernel_stream k, const struct compute_norm_back *c);
void kernel_dropout(struct kernel_stream k, const struct compute_dropout *d);
void kernel_multiply(struct kernel_stream k, const struct compute_multiply *m);
void kernel_copy(struct kernel_stream k, const struct compute_copy *c);
void kernel_cross(struct kernel_stream k, const struct compute_cross *c);
void kernel_cross_back(struct kernel_stream k, const struct compute_cross *c);
void kernel_fm(struct kernel_stream k, const struct compute_vectors *v);
void kernel_fm_back(struct kernel_stream k, const struct compute_vectors *v);
void kernel_dot(struct kernel_stream k, const struct compute_vectors *v);
void kernel_dot_back(struct kernel_stream k, const struct compute_vectors *v);
void kernel_terms(struct kernel_stream k, const struct compute_terms *t);
void kernel_terms_back(struct kernel_stream k, const struct compute_terms *t);
void kernel_field_terms(struct kernel_stream k, const struct compute_terms *t);
void kernel_field_terms_back(struct kernel_stream k, const struct compute_terms *t);
void kernel_input(struct kernel_stream k, const struct compute_input *c);
void kernel_input_back(struct kernel_stream k, const struct compute_input *c);
void kernel_loss(struct kernel_stream k, const struct compute_loss *l);
void kernel_check(struct kernel_stream k, const struct compute_check *c);

/*
 * 16-bit numbers of float32 ones, rounded to nearest, ties to even: bfloat16, or IEEE's half. y:
 * [n][y_stride], what lies beyond `width` is 0.
 */
enum kernel_narrow { KERNEL_BF16, KERNEL_FP16 };
struct kernel_cast {
    uint32_t n, width, x_stride, y_stride;
    enum kernel_narrow to;
    const float *x;
    uint16_t *y;
};
void kernel_cast(struct kernel_stream k, const struct kernel_cast *c);

#ifdef __cplusplus
}
#endif

#endif
