/*
 * compute_cpu.h - the pieces of the CPU backend, for compute_cpu.c to put into its table.
 *
 * compute_cpu_gemm.c     matrix products; walls off OpenBLAS.
 * compute_cpu_dense.c    element-wise operations, layer normalization, dropout, losses.
 * compute_cpu_terms.c    lr and fm.
 * compute_cpu_fields.c   ffm.
 * compute_cpu_input.c    dense input and pooled embeddings.
 * compute_cpu_join.c     copies, cross layers.
 * compute_cpu_vectors.c  pairs of vectors.
 */
#ifndef PARAMD_WORKER_COMPUTE_CPU_H
#define PARAMD_WORKER_COMPUTE_CPU_H

#include "worker/compute.h"
#include "worker/network.h"

/* Rows of one piece of work. Results depend on it only where partial sums are added. */
#define CPU_CHUNK_ROWS 256u

static inline uint32_t cpu_chunk_count(uint64_t n, uint32_t chunk)
{
    return (uint32_t)((n + chunk - 1) / chunk);
}

struct cpu_range {
    uint32_t first, end;
};

static inline struct cpu_range cpu_chunk(uint32_t n, uint32_t chunk, uint32_t index)
{
    uint32_t first = index * chunk;
    return (struct cpu_range){first, n - first < chunk ? n : first + chunk};
}

/* cell / slot_count by one multiplication (Lemire, Kaser, Kurz 2019; exact for 32-bit numbers). */
struct cpu_divisor {
    uint64_t magic; /* 0: the divisor is 1 */
};

static inline struct cpu_divisor cpu_divisor_make(uint32_t divisor)
{
    return (struct cpu_divisor){divisor > 1 ? UINT64_MAX / divisor + 1 : 0};
}

static inline uint32_t cpu_divide(struct cpu_divisor d, uint32_t x)
{
    return d.magic == 0 ? x : (uint32_t)(((unsigned __int128)d.magic * x) >> 64);
}

/* A device for one expression: CPU_DEVICE(pool). */
#define CPU_DEVICE(threads) (&(struct device){.compute = compute_cpu(), .pool = (threads)})

void cpu_gemm_init(void); /* once in a process */
const char *cpu_gemm_family(const struct device *device);
void cpu_gemm_forward(struct device *device, const struct compute_gemm *g);
void cpu_gemm_input(struct device *device, const struct compute_gemm *g);
void cpu_gemm_weight(struct device *device, const struct compute_gemm *g);

void cpu_activate(struct device *device, const struct compute_activate *a);
void cpu_activate_back(struct device *device, const struct compute_activate_back *a);
void cpu_column_sums(struct device *device, const struct compute_columns *c);
void cpu_norm(struct device *device, const struct compute_norm *c);
void cpu_norm_back(struct device *device, const struct compute_norm_back *c);
void cpu_dropout(struct device *device, const struct compute_dropout *d);
void cpu_multiply(struct device *device, const struct compute_multiply *m);
void cpu_loss(struct device *device, const struct compute_loss *l);
void cpu_check(struct device *device, const struct compute_check *c);

void cpu_copy(struct device *device, const struct compute_copy *c);
void cpu_cross(struct device *device, const struct compute_cross *c);
void cpu_cross_back(struct device *device, const struct compute_cross *c);
void cpu_fm(struct device *device, const struct compute_vectors *v);
void cpu_fm_back(struct device *device, const struct compute_vectors *v);
void cpu_dot(struct device *device, const struct compute_vectors *v);
void cpu_dot_back(struct device *device, const struct compute_vectors *v);

void cpu_field_terms(struct device *device, const struct compute_terms *t);
void cpu_field_terms_back(struct device *device, const struct compute_terms *t);
void cpu_terms(struct device *device, const struct compute_terms *t);
void cpu_terms_back(struct device *device, const struct compute_terms *t);
void cpu_input(struct device *device, const struct compute_input *c);
void cpu_input_back(struct device *device, const struct compute_input *c);

/* 1 / |x| of an example's terms; 1 if it has none, or zeros alone. */
float cpu_inverse_norm(const struct compute_terms *t, uint32_t example);
/* bias + Σ w x' of an example. */
float cpu_linear(const struct compute_terms *t, uint32_t example, float scale);
/* In chunks of CPU_CHUNK_ROWS. */
float cpu_sum_in_chunks(const float *x, uint32_t n);

#endif
