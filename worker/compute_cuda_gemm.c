#include "worker/compute_cuda_internal.h"

#include <stdio.h>
#include <string.h>

/*
 * cuBLAS has matrices by columns: what is row-major [rows][columns] here is there a matrix of
 * `columns` rows, so y = x W is computed as yᵀ = Wᵀ xᵀ, with W and x as they lie.
 */

static void check_cublas(struct cuda_device *d, const char *what, cublasStatus_t status)
{
    if (status != CUBLAS_STATUS_SUCCESS && d->failure[0] == '\0')
        snprintf(d->failure, sizeof d->failure, "%s: %s", what, cublasGetStatusString(status));
}

/* ---- how numbers are multiplied -------------------------------------------------------------- */

static bool is_narrow(const struct cuda_device *d)
{
    return d->precision == PRECISION_BF16 || d->precision == PRECISION_FP16;
}

static cudaDataType_t operand_type(const struct cuda_device *d)
{
    return d->precision == PRECISION_BF16   ? CUDA_R_16BF
           : d->precision == PRECISION_FP16 ? CUDA_R_16F
                                            : CUDA_R_32F;
}

static cublasComputeType_t compute_type(const struct cuda_device *d)
{
    return d->precision == PRECISION_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

/* A row-major matrix: float32, or what stands for it in 16 bits. */
struct operand {
    const void *data;
    uint32_t rows, width, stride;
};

static uint32_t narrow_stride(uint32_t width)
{
    return (width + 7u) / 8u * 8u; /* 16 bytes, as tensor cores load */
}

/*
 * Room for an operand of 16 bits; grows in the first steps only, as later ones have no other
 * shapes.
 */
static void *narrow_room(struct cuda_device *d, uint32_t which, size_t bytes)
{
    struct cuda_narrow *room = &d->narrow[which];
    if (room->capacity >= bytes)
        return room->memory;
    cuda_check(d, "computing", cudaStreamSynchronize(d->stream));
    (void)cudaFree(room->memory);
    *room = (struct cuda_narrow){cuda_alloc(d, bytes), bytes};
    if (room->memory == NULL) {
        room->capacity = 0;
        cuda_check(d, "room for operands of 16 bits", cudaErrorMemoryAllocation);
    }
    return room->memory;
}

/* As the precision wants it; `which` of a product's two it is. data NULL: there is no room. */
static struct operand operand_make(struct cuda_device *d, uint32_t which, const float *x,
                                   uint32_t rows, uint32_t width, uint32_t stride)
{
    if (!is_narrow(d))
        return (struct operand){x, rows, width, stride};
    uint32_t y_stride = narrow_stride(width);
    uint16_t *y = narrow_room(d, which, (size_t)rows * y_stride * sizeof *y);
    struct kernel_cast cast = {
        .n = rows,
        .width = width,
        .x_stride = stride,
        .y_stride = y_stride,
        .to = d->precision == PRECISION_BF16 ? KERNEL_BF16 : KERNEL_FP16,
        .x = x,
        .y = y,
    };
    if (y != NULL) {
        kernel_cast((struct kernel_stream){d->stream, d->scratch}, &cast);
        cuda_check(d, "cast", cudaGetLastError());
    }
    return (struct operand){y, rows, width, y_stride};
}

static uint32_t x_stride(const struct compute_gemm *g)
{
    return g->x_stride > 0 ? g->x_stride : g->in;
}

/* ---- cuBLAS ---------------------------------------------------------------------------------- */

/*
 * result[rows][columns] = (beta of it) + left · right, of row-major operands; either may be
 * turned.
 */
struct product {
    struct operand left, right;
    bool turn_left, turn_right;
    uint32_t rows, columns, inner;
    float *result;
    uint32_t stride;
    float beta;
};

static void multiply(struct cuda_device *d, const char *what, const struct product *p)
{
    static const float one = 1.0f;
    cudaDataType_t type = operand_type(d);
    if (p->left.data == NULL || p->right.data == NULL || p->rows == 0 || p->columns == 0)
        return;
    check_cublas(d, what,
                 cublasGemmEx(d->cublas, p->turn_right ? CUBLAS_OP_T : CUBLAS_OP_N,
                              p->turn_left ? CUBLAS_OP_T : CUBLAS_OP_N, (int)p->columns,
                              (int)p->rows, (int)p->inner, &one, p->right.data, type,
                              (int)p->right.stride, p->left.data, type, (int)p->left.stride,
                              &p->beta, p->result, CUDA_R_32F, (int)p->stride, compute_type(d),
                              CUBLAS_GEMM_DEFAULT));
}

void cuda_gemm_forward(struct device *device, const struct compute_gemm *g)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    struct product p = {
        .left = operand_make(d, 0, g->x, g->n, g->in, x_stride(g)),
        .right = operand_make(d, 1, g->weight, g->in, g->out, g->out),
        .rows = g->n,
        .columns = g->out,
        .inner = g->in,
        .result = g->y,
        .stride = g->out,
    };
    multiply(d, "gemm_forward", &p);
}

void cuda_gemm_input(struct device *device, const struct compute_gemm *g)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    struct product p = {
        .left = operand_make(d, 0, g->y_gradient, g->n, g->out, g->out),
        .right = operand_make(d, 1, g->weight, g->in, g->out, g->out),
        .turn_right = true,
        .rows = g->n,
        .columns = g->in,
        .inner = g->out,
        .result = g->x_gradient,
        .stride = x_stride(g),
        .beta = g->add ? 1.0f : 0.0f,
    };
    multiply(d, "gemm_input", &p);
}

void cuda_gemm_weight(struct device *device, const struct compute_gemm *g)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (g->n == 0) {
        cuda_check(d, "gemm_weight",
                   cudaMemsetAsync(g->weight_gradient, 0, (size_t)g->in * g->out * sizeof(float),
                                   d->stream));
        return;
    }
    struct product p = {
        .left = operand_make(d, 0, g->x, g->n, g->in, x_stride(g)),
        .turn_left = true,
        .right = operand_make(d, 1, g->y_gradient, g->n, g->out, g->out),
        .rows = g->in,
        .columns = g->out,
        .inner = g->n,
        .result = g->weight_gradient,
        .stride = g->out,
    };
    multiply(d, "gemm_weight", &p);
}

/* ---- cublasLt: product, bias and activation in one ------------------------------------------- */

static void plan_deinit(struct cuda_plan *p)
{
    if (p->product != NULL)
        (void)cublasLtMatmulDescDestroy(p->product);
    if (p->weight != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->weight);
    if (p->x != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->x);
    if (p->y != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->y);
    *p = (struct cuda_plan){0};
}

/* The largest power of two up to 16 that divides an address. */
static uint32_t alignment_of(const void *address)
{
    uintptr_t bits = (uintptr_t)address | 16u;
    return (uint32_t)(bits & (0u - bits));
}

/* Of what cublasLt offers for the shape the first, without a reduction whose order may change. */
static cublasStatus_t choose_algorithm(struct cuda_device *d, struct cuda_plan *p)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found = {0};
    int count = 0;
    size_t workspace = CUDA_WORKSPACE_BYTES;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE |
                         CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    uint32_t alignment = p->key.alignment;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&preference);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction);
    for (uint32_t i = 0; s == CUBLAS_STATUS_SUCCESS && i < 4; i++)
        s = cublasLtMatmulPreferenceSetAttribute(preference, aligned[i], &alignment,
                                                 sizeof alignment);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(d->lt, p->product, p->weight, p->x, p->y, p->y,
                                           preference, 1, &found, &count);
    if (preference != NULL)
        (void)cublasLtMatmulPreferenceDestroy(preference);
    p->found = s == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    p->algorithm = found.algo;
    return s;
}

/* Before an algorithm is chosen too, which looks at how the pointer is aligned. */
static cublasStatus_t set_bias(struct cuda_plan *p, const float *bias)
{
    return cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                          sizeof bias);
}

/* What this cublasLt does not compute in one is computed without it. */
static bool refused(struct cuda_device *d, const struct cuda_plan *p, cublasStatus_t status)
{
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)
        return false;
    if (!d->refusal_told)
        d->host->warn("device cuda:%u: cublasLt refuses a product with bias of [%u][%u] and "
                      "[%u][%u] (%s): it is computed in two calls, as others of its kind",
                      d->index, p->key.n, p->key.in, p->key.in, p->key.out,
                      cublasGetStatusString(status));
    d->refusal_told = true;
    return true;
}

static void plan_init(struct cuda_device *d, struct cuda_plan *p, const struct cuda_plan_key *key,
                      const struct operand *x, const struct operand *weight, const float *bias)
{
    cudaDataType_t type = operand_type(d);
    cublasLtEpilogue_t epilogue = key->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    p->key = *key;
    cublasStatus_t s = cublasLtMatmulDescCreate(&p->product, compute_type(d), CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&p->weight, type, key->out, key->in, weight->stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&p->x, type, key->in, key->n, x->stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32F, key->out, key->n, key->out);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = set_bias(p, bias);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = choose_algorithm(d, p);
    if (!refused(d, p, s))
        check_cublas(d, "choosing an algorithm", s);
}

static struct cuda_plan *find_plan(struct cuda_device *d, const struct cuda_plan_key *key,
                                   const struct operand *x, const struct operand *weight,
                                   const float *bias)
{
    for (uint32_t i = 0; i < d->plan_count; i++) {
        const struct cuda_plan_key *k = &d->plans[i].key;
        if (k->n == key->n && k->in == key->in && k->out == key->out &&
            k->x_stride == key->x_stride && k->alignment == key->alignment && k->relu == key->relu)
            return &d->plans[i];
    }
    struct cuda_plan *p = &d->plans[d->plan_next];
    d->plan_next = (d->plan_next + 1) % CUDA_PLANS;
    d->plan_count += d->plan_count < CUDA_PLANS;
    plan_deinit(p);
    plan_init(d, p, key, x, weight, bias);
    return p;
}

/* false: cublasLt has no way to compute it so. */
static bool fused(struct cuda_device *d, const struct compute_gemm *g,
                  const struct compute_activate *a)
{
    static const float one = 1.0f, zero = 0.0f;
    struct operand x = operand_make(d, 0, g->x, g->n, g->in, x_stride(g));
    struct operand weight = operand_make(d, 1, g->weight, g->in, g->out, g->out);
    if (x.data == NULL || weight.data == NULL)
        return true; /* noted: the next fence says so */
    struct cuda_plan_key key = {
        .n = g->n,
        .in = g->in,
        .out = g->out,
        .x_stride = x.stride,
        .alignment = alignment_of((const void *)((uintptr_t)x.data | (uintptr_t)weight.data |
                                                 (uintptr_t)g->y | (uintptr_t)a->bias)),
        .relu = a->activation == ACTIVATION_RELU,
    };
    struct cuda_plan *p = find_plan(d, &key, &x, &weight, a->bias);
    if (!p->found)
        return false;
    check_cublas(d, "linear", set_bias(p, a->bias));
    cublasStatus_t s = cublasLtMatmul(d->lt, p->product, &one, weight.data, p->weight, x.data, p->x,
                                      &zero, g->y, p->y, g->y, p->y, &p->algorithm, d->workspace,
                                      CUDA_WORKSPACE_BYTES, d->stream);
    p->found = !refused(d, p, s);
    if (p->found)
        check_cublas(d, "linear", s);
    return p->found;
}

/* cublasLt's ReLU makes 0 of NaN, where the CPU's keeps it. */
void cuda_linear(struct device *device, const struct compute_gemm *g,
                 const struct compute_activate *a)
{
    struct cuda_device *d = cuda_of(device);
    struct compute_activate rest = *a;
    cuda_make_current(d);
    if (g->n == 0)
        return;
    if (a->bias != NULL && fused(d, g, a)) {
        if (a->activation == ACTIVATION_RELU || a->activation == ACTIVATION_NONE)
            return;
        rest.bias = NULL;
    } else {
        cuda_gemm_forward(device, g);
    }
    device->compute->activate(device, &rest);
}

/* ---- lifetime -------------------------------------------------------------------------------- */

enum err cuda_gemm_open(struct cuda_device *d)
{
    d->workspace = cuda_alloc(d, CUDA_WORKSPACE_BYTES);
    if (d->workspace == NULL)
        return ERR_MEMORY;
    cublasStatus_t s = cublasCreate(&d->cublas);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasSetStream(d->cublas, d->stream);
    /* After the stream, whose setting takes the workspace away. */
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasSetWorkspace(d->cublas, d->workspace, CUDA_WORKSPACE_BYTES);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasSetAtomicsMode(d->cublas, CUBLAS_ATOMICS_NOT_ALLOWED);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasSetPointerMode(d->cublas, CUBLAS_POINTER_MODE_HOST);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtCreate(&d->lt);
    return s == CUBLAS_STATUS_SUCCESS
               ? ERR_NONE
               : d->host->fail(ERR_UNAVAILABLE, "opening cuBLAS on device cuda:%u: %s", d->index,
                               cublasGetStatusString(s));
}

void cuda_gemm_close(struct cuda_device *d)
{
    for (uint32_t i = 0; i < CUDA_PLANS; i++)
        plan_deinit(&d->plans[i]);
    if (d->lt != NULL)
        (void)cublasLtDestroy(d->lt);
    if (d->cublas != NULL)
        (void)cublasDestroy(d->cublas);
    for (uint32_t i = 0; i < 2; i++)
        (void)cudaFree(d->narrow[i].memory);
    (void)cudaFree(d->workspace);
}
