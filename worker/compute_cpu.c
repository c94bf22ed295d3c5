#include "worker/compute_cpu.h"

#include <pthread.h>

#include "worker/network.h"

static const struct compute cpu = {
    .name = "cpu",
    .family = cpu_gemm_family,
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
    .finite = cpu_finite,
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

const struct compute *compute_cpu(void)
{
    pthread_once(&once, cpu_gemm_init);
    return &cpu;
}
