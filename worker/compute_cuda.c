#include "worker/compute_cuda.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/compute_cuda_internal.h"

/* ---- failures -------------------------------------------------------------------------------- */

void cuda_check(struct cuda_device *d, const char *what, cudaError_t status)
{
    if (status != cudaSuccess && d->failure[0] == '\0')
        snprintf(d->failure, sizeof d->failure, "%s: %s (%s)", what, cudaGetErrorString(status),
                 cudaGetErrorName(status));
}

static enum err failed(const struct cuda_host *host, enum err code, const char *what,
                       cudaError_t status)
{
    return host->fail(code, "%s: %s (%s)", what, cudaGetErrorString(status),
                      cudaGetErrorName(status));
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Calls of a device are of whatever thread owns it, and CUDA keeps the current device by thread. */
void cuda_make_current(struct cuda_device *d)
{
    cuda_check(d, "cudaSetDevice", cudaSetDevice((int)d->index));
}

void *cuda_alloc(struct cuda_device *d, size_t bytes)
{
    void *memory = NULL;
    cuda_make_current(d);
    cudaError_t status = cudaMalloc(&memory, bytes > 0 ? bytes : 1);
    if (status != cudaSuccess) {
        (void)cudaGetLastError(); /* it would be taken for a launch's */
        d->host->fail(ERR_MEMORY,
                      "device cuda:%u: no room for %zu bytes: %s; a smaller train.batch_size or "
                      "model, or fewer workers a GPU, would need less",
                      d->index, bytes, cudaGetErrorString(status));
        return NULL;
    }
    d->allocations++;
    return memory;
}

static void *memory_alloc(struct device *device, size_t bytes)
{
    return cuda_alloc(cuda_of(device), bytes);
}

static void memory_free(struct device *device, void *memory)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (memory != NULL)
        cuda_check(d, "cudaFree", cudaFree(memory));
}

static void *memory_host_alloc(struct device *device, size_t bytes)
{
    struct cuda_device *d = cuda_of(device);
    void *memory = NULL;
    cuda_make_current(d);
    cudaError_t status = cudaHostAlloc(&memory, bytes > 0 ? bytes : 1, cudaHostAllocDefault);
    if (status == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    d->host->fail(ERR_MEMORY, "no room for %zu bytes of pinned memory: %s", bytes,
                  cudaGetErrorString(status));
    return NULL;
}

static void memory_host_free(struct device *device, void *memory)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (memory != NULL)
        cuda_check(d, "cudaFreeHost", cudaFreeHost(memory));
}

/* ---- streams --------------------------------------------------------------------------------- */

static void memory_upload(struct device *device, void *to, const void *from, size_t bytes)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (bytes > 0)
        cuda_check(d, "upload",
                   cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->copies));
}

static void memory_join(struct device *device)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    cuda_check(d, "cudaEventRecord", cudaEventRecord(d->uploaded, d->copies));
    cuda_check(d, "cudaStreamWaitEvent", cudaStreamWaitEvent(d->stream, d->uploaded, 0));
}

static void memory_download(struct device *device, void *to, const void *from, size_t bytes)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (bytes > 0)
        cuda_check(d, "download",
                   cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream));
}

static enum err memory_fence(struct device *device)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    cuda_check(d, "computing", cudaStreamSynchronize(d->stream));
    if (d->failure[0] == '\0')
        return ERR_NONE;
    /* After a fault on the GPU each call fails, until the process ends; other failures pass. */
    bool is_lost = cudaStreamSynchronize(d->stream) != cudaSuccess;
    (void)cudaGetLastError();
    d->host->fail(ERR_IO, "device cuda:%u (%s): %s%s", d->index, d->family, d->failure,
                  is_lost ? "; this process can use the GPU no more, and has to start again" : "");
    d->failure[0] = '\0';
    if (is_lost)
        d->host->lost();
    return ERR_IO;
}

/* ---- operations ------------------------------------------------------------------------------ */

#define OPERATION(NAME, TYPE)                                                                      \
    static void cuda_##NAME(struct device *device, const struct compute_##TYPE *what)              \
    {                                                                                              \
        struct cuda_device *d = cuda_of(device);                                                   \
        cuda_make_current(d);                                                                      \
        kernel_##NAME((struct kernel_stream){d->stream, d->scratch}, what);                        \
        cuda_check(d, #NAME, cudaGetLastError());                                                  \
    }
OPERATION(activate, activate)
OPERATION(activate_back, activate_back)
OPERATION(column_sums, columns)
OPERATION(norm, norm)
OPERATION(norm_back, norm_back)
OPERATION(dropout, dropout)
OPERATION(multiply, multiply)
OPERATION(copy, copy)
OPERATION(cross, cross)
OPERATION(cross_back, cross)
OPERATION(fm, vectors)
OPERATION(fm_back, vectors)
OPERATION(dot, vectors)
OPERATION(dot_back, vectors)
OPERATION(terms, terms)
OPERATION(terms_back, terms)
OPERATION(field_terms, terms)
OPERATION(field_terms_back, terms)
OPERATION(input, input)
OPERATION(input_back, input)
OPERATION(loss, loss)

static void cuda_check_numbers(struct device *device, const struct compute_check *what)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    kernel_check((struct kernel_stream){d->stream, d->scratch}, what);
    cuda_check(d, "check", cudaGetLastError());
}

static const char *cuda_family(const struct device *d)
{
    return ((const struct cuda_device *)d)->family;
}

static void cuda_close(struct device *device);

static const struct compute cuda = {
    .name = "cuda",
    .family = cuda_family,
    .alloc = memory_alloc,
    .free = memory_free,
    .host_alloc = memory_host_alloc,
    .host_free = memory_host_free,
    .upload = memory_upload,
    .join = memory_join,
    .download = memory_download,
    .fence = memory_fence,
    .close = cuda_close,
    .gemm_forward = cuda_gemm_forward,
    .gemm_input = cuda_gemm_input,
    .gemm_weight = cuda_gemm_weight,
    .linear = cuda_linear,
    .activate = cuda_activate,
    .activate_back = cuda_activate_back,
    .column_sums = cuda_column_sums,
    .norm = cuda_norm,
    .norm_back = cuda_norm_back,
    .dropout = cuda_dropout,
    .multiply = cuda_multiply,
    .copy = cuda_copy,
    .cross = cuda_cross,
    .cross_back = cuda_cross_back,
    .fm = cuda_fm,
    .fm_back = cuda_fm_back,
    .dot = cuda_dot,
    .dot_back = cuda_dot_back,
    .terms = cuda_terms,
    .terms_back = cuda_terms_back,
    .field_terms = cuda_field_terms,
    .field_terms_back = cuda_field_terms_back,
    .input = cuda_input,
    .input_back = cuda_input_back,
    .loss = cuda_loss,
    .check = cuda_check_numbers,
};

/* ---- lifetime -------------------------------------------------------------------------------- */

static enum err count_devices(const struct cuda_host *host, uint32_t *count_out)
{
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver)
        return host->fail(ERR_UNAVAILABLE,
                          "no NVIDIA driver that this build can use (CUDA %d.%d; libcuda.so.1 is "
                          "missing or older); install a driver of that series, or set device: cpu",
                          CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
        return host->fail(
            ERR_UNAVAILABLE, "the driver sees no GPU here (CUDA_VISIBLE_DEVICES='%s')",
            getenv("CUDA_VISIBLE_DEVICES") != NULL ? getenv("CUDA_VISIBLE_DEVICES") : "");
    if (status != cudaSuccess)
        return failed(host, ERR_UNAVAILABLE, "counting GPUs", status);
    *count_out = (uint32_t)count;
    return ERR_NONE;
}

static enum err describe_device(const struct cuda_host *host, uint32_t index,
                                struct cuda_description *out)
{
    struct cudaDeviceProp p;
    cudaError_t status = cudaGetDeviceProperties(&p, (int)index);
    if (status != cudaSuccess)
        return failed(host, ERR_UNAVAILABLE, "asking for the GPU's properties", status);
    *out = (struct cuda_description){.multiprocessors = (uint32_t)p.multiProcessorCount,
                                     .memory_bytes = p.totalGlobalMem};
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    status = cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, (int)index);
    if (status != cudaSuccess)
        return failed(host, ERR_UNAVAILABLE, "asking for the GPU's bus", status);
    return ERR_NONE;
}

/* Machine code runs on its series from its own number on; PTX of the last on all later GPUs. */
static bool has_code(const char *archs, int capability)
{
    char *end = NULL;
    int arch = 0;
    for (; *archs != '\0'; archs = end + strspn(end, " ")) {
        arch = (int)strtol(archs, &end, 10);
        bool whole_series = *end == ' ' || *end == '\0'; /* "90a": no other GPU than that */
        if (arch == capability ||
            (whole_series && arch / 10 == capability / 10 && arch <= capability))
            return true;
        if (!whole_series)
            arch = INT_MAX;
        end += strcspn(end, " ");
    }
    return arch <= capability;
}

static enum err not_usable(const struct cuda_host *host, const struct cudaDeviceProp *p)
{
    return host->fail(ERR_UNAVAILABLE,
                      "%s has compute capability %d.%d, and this build machine code for "
                      "CUDA_ARCHS=\"%s\" and what is newer; build with CUDA_ARCHS=\"%d%d ...\", or "
                      "set device: cpu",
                      p->name, p->major, p->minor, CUDA_ARCHS, p->major, p->minor);
}

static enum err device_usable(const struct cuda_host *host, uint32_t index)
{
    struct cudaDeviceProp p;
    cudaError_t status = cudaGetDeviceProperties(&p, (int)index);
    if (status != cudaSuccess)
        return failed(host, ERR_UNAVAILABLE, "asking for the GPU's properties", status);
    return has_code(CUDA_ARCHS, 10 * p.major + p.minor) ? ERR_NONE : not_usable(host, &p);
}

/* By asking the runtime for a kernel, which the number above only foretells. */
static enum err probe(struct cuda_device *d)
{
    struct cudaDeviceProp p;
    cudaError_t status = cudaSetDevice((int)d->index);
    if (status != cudaSuccess)
        return failed(d->host, ERR_UNAVAILABLE, "opening the GPU", status);
    status = (cudaError_t)kernel_usable();
    if (status == cudaSuccess)
        return ERR_NONE;
    (void)cudaGetLastError(); /* it would be taken for a launch's */
    if (status == cudaErrorNoKernelImageForDevice &&
        cudaGetDeviceProperties(&p, (int)d->index) == cudaSuccess)
        return not_usable(d->host, &p);
    return failed(d->host, ERR_UNAVAILABLE, "looking for machine code for the GPU", status);
}

static enum err open_streams(struct cuda_device *d)
{
    cudaError_t status = cudaSetDevice((int)d->index);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking);
    if (status == cudaSuccess)
        status = cudaEventCreateWithFlags(&d->uploaded, cudaEventDisableTiming);
    if (status != cudaSuccess)
        return failed(d->host, ERR_UNAVAILABLE, "opening streams of the GPU", status);
    d->scratch = cuda_alloc(d, KERNEL_SCRATCH_BYTES);
    return d->scratch != NULL ? ERR_NONE : ERR_MEMORY;
}

static enum err open_device(const struct cuda_host *host, uint32_t index, enum precision precision,
                            struct pool *pool, struct device **out)
{
    struct cuda_description what;
    enum err err = describe_device(host, index, &what);
    if (err != ERR_NONE)
        return err;
    struct cuda_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return host->fail(ERR_MEMORY, "no room for %zu bytes", sizeof *d);
    d->base = (struct device){.compute = &cuda, .pool = pool};
    d->host = host;
    d->index = index;
    d->precision = precision;
    memcpy(d->bus, what.bus, sizeof d->bus);
    snprintf(d->family, sizeof d->family, "%s, %s", what.name, cuda_backend()->build);
    err = probe(d);
    if (err == ERR_NONE)
        err = open_streams(d);
    if (err == ERR_NONE)
        err = cuda_gemm_open(d);
    if (err != ERR_NONE) {
        cuda_close(&d->base);
        return err;
    }
    *out = &d->base;
    return ERR_NONE;
}

static void cuda_close(struct device *device)
{
    struct cuda_device *d = cuda_of(device);
    cuda_make_current(d);
    if (d->stream != NULL)
        (void)cudaStreamSynchronize(d->stream);
    if (d->copies != NULL)
        (void)cudaStreamSynchronize(d->copies);
    cuda_gemm_close(d);
    (void)cudaFree(d->scratch);
    if (d->uploaded != NULL)
        (void)cudaEventDestroy(d->uploaded);
    if (d->copies != NULL)
        (void)cudaStreamDestroy(d->copies);
    if (d->stream != NULL)
        (void)cudaStreamDestroy(d->stream);
    free(d);
}

static enum err device_usage(struct device *device, struct cuda_usage *out)
{
    struct cuda_device *d = cuda_of(device);
    size_t left = 0, total = 0;
    cuda_make_current(d);
    cudaError_t status = cudaMemGetInfo(&left, &total);
    if (status != cudaSuccess)
        return failed(d->host, ERR_IO, "asking for the GPU's memory", status);
    *out = (struct cuda_usage){total - left, total, d->allocations, cuda_utilization(d->bus)};
    return ERR_NONE;
}

const struct cuda_backend *cuda_backend(void)
{
    static char build[64];
    static const struct cuda_backend backend = {
        .version = CUDA_BACKEND_VERSION,
        .build = build,
        .count = count_devices,
        .usable = device_usable,
        .describe = describe_device,
        .open = open_device,
        .usage = device_usage,
    };
    if (build[0] == '\0')
        snprintf(build, sizeof build, "cuda %d.%d cublas %zu", CUDART_VERSION / 1000,
                 CUDART_VERSION % 1000 / 10, cublasLtGetVersion());
    return &backend;
}
