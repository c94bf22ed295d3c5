/*
 * device.h - what a worker computes on: its processor, or GPUs of its machine.
 *
 * A setting names it: "cpu"; "cuda", the first GPU; "cuda:1" or "cuda:0,2", these; "auto", the
 * first GPU if there is one that can be used, else the processor. The CUDA backend is a shared
 * object, paramd-cuda.so (worker/compute_cuda.h), opened when a GPU is first asked for: from the
 * path in PARAMD_CUDA_BACKEND, else from the program's directory, the one above it, or lib/paramd
 * beside it.
 *
 * Threads  parsing and finding: any. A device belongs to one thread at a time.
 * Errors   ERR_INPUT: no such setting, or a precision that the device has not. ERR_UNAVAILABLE: no
 *          backend, no driver, no such GPU, or one that the backend was not built for; the text
 *          says which, and what to do.
 */
#ifndef PARAMD_WORKER_DEVICE_H
#define PARAMD_WORKER_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/pool.h"
#include "worker/compute.h"

#define DEVICE_LIST_MAX 16u

struct device_list {
    bool cuda; /* else the processor, and count is 1 */
    uint32_t count;
    uint32_t indexes[DEVICE_LIST_MAX]; /* of GPUs, each once */
};

/* What the setting says, as far as text can tell: "auto" is the processor, and *is_auto_out. */
enum err device_list_parse(const char *text, struct device_list *out, bool *is_auto_out) MUST_CHECK;
/* The same for this machine: every GPU of the list is there, and the backend is built for it. */
enum err device_list_find(const char *text, struct device_list *out) MUST_CHECK;

/* GPUs that the driver sees. */
enum err device_count(uint32_t *count_out) MUST_CHECK;

struct device_options {
    bool cuda;
    uint32_t index; /* of the GPU */
    enum precision precision;
    struct pool *pool; /* borrowed; may be NULL */
};
enum err device_open(const struct device_options *o, struct device **out) MUST_CHECK;
void device_close(struct device *d); /* accepts NULL */

/* A GPU failed in a way after which CUDA serves this process no more: it should end. Any thread. */
bool device_is_lost(void);

/* What bits depend on: "cpu openblas Zen", "cuda NVIDIA H100 …". Freed by mem_free(). */
char *device_class_text(const struct device_list *list);

#define DEVICE_NOT_KNOWN UINT32_MAX
struct device_usage {
    size_t memory_used, memory_total; /* bytes, by all processes; 0: the processor */
    uint64_t allocations;             /* of the device's memory so far */
    uint32_t utilization;             /* percent of late; DEVICE_NOT_KNOWN */
};
enum err device_usage(struct device *d, struct device_usage *out) MUST_CHECK;

#endif
