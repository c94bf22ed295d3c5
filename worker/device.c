#include "worker/device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/compute_cuda.h"
#include "worker/network.h"

/* ---- the shared object ----------------------------------------------------------------------- */

static void warn(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_warn("device", "%s", text);
}

static atomic_bool lost;

static void lose(void)
{
    atomic_store(&lost, true);
}

bool device_is_lost(void)
{
    return atomic_load(&lost);
}

static const struct cuda_host host = {.fail = err_set, .warn = warn, .lost = lose};

static struct {
    pthread_mutex_t lock;
    const struct cuda_backend *backend;
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

static enum err take_symbol(void *library, const char *path, const struct cuda_backend **out)
{
    const struct cuda_backend *(*get)(void);
    void *symbol = dlsym(library, CUDA_BACKEND_SYMBOL);
    if (symbol == NULL)
        return err_set(ERR_UNAVAILABLE, "'%s' is not a CUDA backend: it has no %s", path,
                       CUDA_BACKEND_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    const struct cuda_backend *backend = get();
    if (backend->version != CUDA_BACKEND_VERSION)
        return err_set(ERR_UNAVAILABLE, "'%s' is of another build (version %u, not %u)", path,
                       backend->version, CUDA_BACKEND_VERSION);
    *out = backend;
    return ERR_NONE;
}

static enum err open_library(const char *path, const struct cuda_backend **out)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return err_set(ERR_UNAVAILABLE,
                       "the CUDA backend could not be loaded: %s; it needs cuBLAS 13 "
                       "(libcublas.so.13 and libcublasLt.so.13) where the dynamic linker looks, "
                       "LD_LIBRARY_PATH for one",
                       dlerror());
    enum err err = take_symbol(library, path, out);
    if (err != ERR_NONE)
        dlclose(library);
    return err;
}

static enum err find_library(const struct cuda_backend **out)
{
    static const char *const places[] = {"/paramd-cuda.so", "/../paramd-cuda.so",
                                         "/../lib/paramd/paramd-cuda.so"};
    const char *given = getenv("PARAMD_CUDA_BACKEND");
    if (given != NULL && given[0] != '\0')
        return open_library(given, out);
    char *directory = machine_program_directory(), *path = NULL;
    enum err err = ERR_NOT_FOUND;
    for (size_t i = 0; err == ERR_NOT_FOUND && i < sizeof places / sizeof places[0]; i++) {
        struct str s = {0};
        str_append(&s, directory);
        str_append(&s, places[i]);
        path = s.data;
        if (access(path, F_OK) == 0)
            err = open_library(path, out);
        mem_free(path);
    }
    if (err == ERR_NOT_FOUND)
        err = err_set(ERR_UNAVAILABLE,
                      "paramd-cuda.so is not beside the program in '%s': this build has no CUDA "
                      "backend (make cuda-toolkit && make CUDA=yes builds it)",
                      directory);
    mem_free(directory);
    return err;
}

static enum err load(const struct cuda_backend **out)
{
    enum err err = ERR_NONE;
    pthread_mutex_lock(&loaded.lock);
    if (loaded.backend == NULL)
        err = find_library(&loaded.backend);
    *out = loaded.backend;
    pthread_mutex_unlock(&loaded.lock);
    return err;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static enum err bad_list(const char *text)
{
    return err_set(ERR_INPUT,
                   "device '%s': it can be auto, cpu, cuda, cuda:1 or a list as cuda:0,2, of "
                   "at most %u GPUs, each once",
                   text, DEVICE_LIST_MAX);
}

static enum err parse_indexes(const char *text, const char *numbers, struct device_list *list)
{
    while (*numbers != '\0') {
        size_t size = strcspn(numbers, ",");
        uint64_t index;
        if (str_parse_u64(span_make(numbers, size), &index) != ERR_NONE || index > 1023 ||
            list->count == DEVICE_LIST_MAX || (numbers[size] == ',' && numbers[size + 1] == '\0'))
            return bad_list(text);
        for (uint32_t i = 0; i < list->count; i++)
            if (list->indexes[i] == index)
                return bad_list(text);
        list->indexes[list->count++] = (uint32_t)index;
        numbers += size + (numbers[size] == ',');
    }
    return list->count > 0 ? ERR_NONE : bad_list(text);
}

enum err device_list_parse(const char *text, struct device_list *out, bool *is_auto_out)
{
    struct device_list list = {.count = 1};
    bool is_auto = strcmp(text, "auto") == 0;
    if (strcmp(text, "cuda") == 0) {
        list.cuda = true;
    } else if (strncmp(text, "cuda:", 5) == 0) {
        list = (struct device_list){.cuda = true};
        enum err err = parse_indexes(text, text + 5, &list);
        if (err != ERR_NONE)
            return err;
    } else if (!is_auto && strcmp(text, "cpu") != 0) {
        return bad_list(text);
    }
    *out = list;
    *is_auto_out = is_auto;
    return ERR_NONE;
}

enum err device_count(uint32_t *count_out)
{
    const struct cuda_backend *backend;
    enum err err = load(&backend);
    return err == ERR_NONE ? backend->count(&host, count_out) : err;
}

static enum err find_gpus(const char *text, const struct device_list *list)
{
    const struct cuda_backend *backend;
    uint32_t count = 0;
    enum err err = load(&backend);
    if (err == ERR_NONE)
        err = backend->count(&host, &count);
    for (uint32_t i = 0; err == ERR_NONE && i < list->count; i++)
        err = list->indexes[i] < count
                  ? backend->usable(&host, list->indexes[i])
                  : err_set(ERR_UNAVAILABLE, "there is no GPU %u: the driver sees %u, from 0 on",
                            list->indexes[i], count);
    return err == ERR_NONE ? err : err_prefix(err, "device %s", text);
}

enum err device_list_find(const char *text, struct device_list *out)
{
    struct device_list list;
    bool is_auto;
    enum err err = device_list_parse(text, &list, &is_auto);
    if (err != ERR_NONE)
        return err;
    if (is_auto) {
        list.cuda = true;
        list.cuda = find_gpus(text, &list) == ERR_NONE;
    } else if (list.cuda) {
        err = find_gpus(text, &list);
    }
    if (err == ERR_NONE)
        *out = list;
    return err;
}

char *device_class_text(const struct device_list *list)
{
    const struct cuda_backend *backend;
    struct cuda_description what;
    if (!list->cuda)
        return must_format("%s %s", compute_cpu()->name, compute_cpu()->family(NULL));
    if (load(&backend) != ERR_NONE || backend->describe(&host, list->indexes[0], &what) != ERR_NONE)
        return must_strdup("cuda");
    return must_format("cuda %s %s", what.name, backend->build);
}

/* ---- devices --------------------------------------------------------------------------------- */

enum err device_open(const struct device_options *o, struct device **out)
{
    static const char *const precisions[] = {"float32", "tf32", "bf16", "fp16"};
    if (!o->cuda) {
        if (o->precision != PRECISION_FLOAT32)
            return err_set(ERR_INPUT,
                           "train.precision is %s, which needs a GPU (device: cuda), and this "
                           "worker computes on the processor; set train.precision: float32",
                           precisions[o->precision]);
        struct device *d = must_alloc(sizeof *d);
        *d = (struct device){.compute = compute_cpu(), .pool = o->pool};
        *out = d;
        return ERR_NONE;
    }
    const struct cuda_backend *backend;
    enum err err = load(&backend);
    if (err == ERR_NONE)
        err = backend->open(&host, o->index, o->precision, o->pool, out);
    return err == ERR_NONE ? err : err_prefix(err, "device cuda:%u", o->index);
}

void device_close(struct device *d)
{
    if (d != NULL)
        d->compute->close(d);
}

enum err device_usage(struct device *d, struct device_usage *out)
{
    *out = (struct device_usage){.utilization = DEVICE_NOT_KNOWN};
    if (d->compute->shares_memory)
        return ERR_NONE;
    const struct cuda_backend *backend;
    struct cuda_usage usage;
    enum err err = load(&backend);
    if (err == ERR_NONE)
        err = backend->usage(d, &usage);
    if (err == ERR_NONE)
        *out = (struct device_usage){usage.used_bytes, usage.total_bytes, usage.allocations,
                                     usage.utilization};
    return err;
}
