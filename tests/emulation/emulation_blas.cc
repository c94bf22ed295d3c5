#include <cmath>
#include <cstring>

#include "cublasLt.h"
#include "emulation.h"

/* Products by their definition, sums in double, operands rounded as their type says. */

struct cublasContext {
    cudaStream_t stream;
};

struct lt_product {
    cublasComputeType_t compute;
    cublasLtEpilogue_t epilogue;
    const float *bias;
};

struct lt_layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t stride;
};

namespace
{

double of_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return (double)x;
}

double of_fp16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? ldexp(fraction, -24)
                               : ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -x : x;
}

/* To the nearest number with 10 bits of fraction. */
double of_tf32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

struct matrix {
    const void *data;
    cudaDataType_t type;
    int64_t stride;
    bool turned, tf32;
    double at(int64_t row, int64_t column) const
    {
        int64_t i = turned ? column + row * stride : row + column * stride;
        if (type == CUDA_R_16BF)
            return of_bf16(((const uint16_t *)data)[i]);
        if (type == CUDA_R_16F)
            return of_fp16(((const uint16_t *)data)[i]);
        float x = ((const float *)data)[i];
        return tf32 ? of_tf32(x) : (double)x;
    }
};

struct task {
    matrix a, b;
    int64_t m, n, k;
    float alpha, beta;
    float *c;
    int64_t stride;
    const float *bias; /* NULL: none */
    bool relu;
};

void run(const task &t)
{
    for (int64_t j = 0; j < t.n; j++) {
        for (int64_t i = 0; i < t.m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < t.k; l++)
                sum += t.a.at(i, l) * t.b.at(l, j);
            float *c = t.c + i + j * t.stride;
            float y = (float)((double)t.alpha * sum) + (t.beta != 0 ? t.beta * *c : 0.0f);
            if (t.bias != nullptr)
                y += t.bias[i];
            *c = t.relu && y < 0 ? 0.0f : y;
        }
    }
}

/* Numbers of examples that cublasLt refuses: when it is asked for a way, or when it is to go it. */
const uint64_t REFUSED_EARLY = 33, REFUSED_LATE = 40;

bool supported(cudaDataType_t type, int64_t stride)
{
    return type == CUDA_R_32F || stride % 8 == 0;
}

} // namespace

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = new cublasContext{nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasAtomicsMode_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasPointerMode_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value" : "not supported";
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t turn_a,
                            cublasOperation_t turn_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType_t a_type, int lda, const void *b,
                            cudaDataType_t b_type, int ldb, const void *beta, void *c,
                            cudaDataType_t c_type, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t)
{
    bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (lda < (turn_a == CUBLAS_OP_N ? m : k) || ldb < (turn_b == CUBLAS_OP_N ? k : n) || ldc < m ||
        c_type != CUDA_R_32F || m <= 0 || n <= 0 || k <= 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(a_type, lda) || !supported(b_type, ldb))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    task t = {{a, a_type, lda, turn_a == CUBLAS_OP_T, tf32},
              {b, b_type, ldb, turn_b == CUBLAS_OP_T, tf32},
              m,
              n,
              k,
              *(const float *)alpha,
              *(const float *)beta,
              (float *)c,
              ldc,
              nullptr,
              false};
    emulation::enqueue(handle->stream, [t] { run(t); });
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t) new char;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete (char *)handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t)
{
    *out = new lt_product{compute, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size)
{
    if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE && size == sizeof product->epilogue)
        memcpy(&product->epilogue, value, size);
    else if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER && size == sizeof product->bias)
        memcpy(&product->bias, value, size);
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride)
{
    if (stride < (int64_t)rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    *out = new lt_layout{type, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = (cublasLtMatmulPreference_t) new char;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete (char *)preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *, size_t size)
{
    bool right = size == (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4);
    return right ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

/*
 * Shapes of an odd number of columns, and certain numbers of examples, have no way here, so that
 * the way without it is gone too. A bias has to be there, as its alignment counts.
 */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t *found, int *count)
{
    if (product->epilogue != CUBLASLT_EPILOGUE_DEFAULT && product->bias == nullptr)
        emulation::give_up("an algorithm is asked for before the bias is known");
    if (d->columns == REFUSED_EARLY)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a->columns != b->rows || c->rows != a->rows || d->columns != b->columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    bool known = d->rows % 2 == 0 && supported(a->type, a->stride) && supported(b->type, b->stride);
    *count = known;
    found->state = CUBLAS_STATUS_SUCCESS;
    found->algo.data[0] = d->rows * 1000003 + d->columns;
    return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *,
                              cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *, size_t,
                              cudaStream_t stream)
{
    bool tf32 = product->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (d_layout->columns == REFUSED_LATE)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (algorithm->data[0] != d_layout->rows * 1000003 + d_layout->columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    task t = {{a, a_layout->type, a_layout->stride, false, tf32},
              {b, b_layout->type, b_layout->stride, false, tf32},
              (int64_t)d_layout->rows,
              (int64_t)d_layout->columns,
              (int64_t)a_layout->columns,
              *(const float *)alpha,
              *(const float *)beta,
              (float *)d,
              d_layout->stride,
              product->bias,
              product->epilogue == CUBLASLT_EPILOGUE_RELU_BIAS};
    emulation::enqueue(stream, [t] { run(t); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
