#include "worker/compute_cpu.h"

#include <pthread.h>
#include <string.h>

#include "common/mem.h"
#include "worker/network.h"

/* ---- memory: that of the host ---------------------------------------------------------------- */

static void *memory_alloc(struct device *d, size_t bytes)
{
    return mem_alloc_array(bytes, 1);
}

static void memory_free(struct device *d, void *memory)
{
    mem_free(memory);
}

static void memory_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    if (to != from && bytes > 0)
        memcpy(to, from, bytes);
}

static void memory_join(struct device *d)
{
}

static enum err memory_fence(struct device *d)
{
    return ERR_NONE;
}

static void device_close_host(struct device *d)
{
    mem_free(d);
}

static void cpu_linear_layer(struct device *d, const struct compute_gemm *g,
                             const struct compute_activate *a)
{
    cpu_gemm_forward(d, g);
    cpu_activate(d, a);
}

/* ---- the table ------------------------------------------------------------------------------- */

static const struct compute cpu = {
    .name = "cpu",
    .family = cpu_gemm_family,
    .shares_memory = true,
    .alloc = memory_alloc,
    .free = memory_free,
    .host_alloc = memory_alloc,
    .host_free = memory_free,
    .upload = memory_copy,
    .join = memory_join,
    .download = memory_copy,
    .fence = memory_fence,
    .close = device_close_host,
    .linear = cpu_linear_layer,
    .gemm_forward = cpu_gemm_forward,
    .gemm_input = cpu_gemm_input,
    .gemm_weight = cpu_gemm_weight,
    .activate = cpu_activate,
    .activate_back = cpu_activate_back,
    .column_sums = cpu_column_sums,
    .norm = cpu_norm,
    .norm_back = cpu_norm_back,
    .dropout = cpu_dropout,
    .multiply = cpu_multiply,
    .copy = cpu_copy,
    .cross = cpu_cross,
    .cross_back = cpu_cross_back,
    .fm = cpu_fm,
    .fm_back = cpu_fm_back,
    .dot = cpu_dot,
    .dot_back = cpu_dot_back,
    .field_terms = cpu_field_terms,
    .field_terms_back = cpu_field_terms_back,
    .terms = cpu_terms,
    .terms_back = cpu_terms_back,
    .input = cpu_input,
    .input_back = cpu_input_back,
    .loss = cpu_loss,
    .check = cpu_check,
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

const struct compute *compute_cpu(void)
{
    pthread_once(&once, cpu_gemm_init);
    return &cpu;
}
