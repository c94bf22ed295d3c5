#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "worker/compute_cuda_internal.h"

/*
 * Utilization is known to NVML, which comes with the driver. It is opened at run time, so that the
 * backend loads where only the driver's other half is; its calls are declared here as its
 * documentation gives them (NVML API Reference, nvmlDeviceGetUtilizationRates).
 */
struct nvml_utilization {
    unsigned gpu, memory; /* percent of the last sample's period in which a kernel ran, … */
};

static struct {
    pthread_once_t once;
    bool usable;
    int (*handle)(const char *bus, void **device);
    int (*utilization)(void *device, struct nvml_utilization *out);
} nvml = {.once = PTHREAD_ONCE_INIT};

static bool find(void *library, const char *name, void *function, size_t size)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, size);
    return symbol != NULL;
}

static void open_nvml(void)
{
    int (*init)(void);
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    nvml.usable =
        library != NULL && find(library, "nvmlInit_v2", &init, sizeof init) &&
        find(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml.handle, sizeof nvml.handle) &&
        find(library, "nvmlDeviceGetUtilizationRates", &nvml.utilization,
             sizeof nvml.utilization) &&
        init() == 0;
}

uint32_t cuda_utilization(const char *bus)
{
    struct nvml_utilization found;
    void *device;
    pthread_once(&nvml.once, open_nvml);
    bool known =
        nvml.usable && nvml.handle(bus, &device) == 0 && nvml.utilization(device, &found) == 0;
    return known && found.gpu <= 100 ? found.gpu : CUDA_NOT_KNOWN;
}
