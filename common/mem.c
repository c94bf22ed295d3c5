#include "common/mem.h"

#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/check.h"
#include "common/err.h"

#define ARRAY_ALIGNMENT 64

/* Allocations until the one that fails; 0: none does. The must_ variants neither count nor fail. */
static _Atomic uint64_t fail_countdown;

static _Bool fail_now(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1))
            return left == 1;
    }
    return 0;
}

static void *out_of_memory(size_t count, size_t size)
{
    if (count == 1)
        err_set(ERR_MEMORY, "cannot allocate %zu bytes", size);
    else
        err_set(ERR_MEMORY, "cannot allocate %zu x %zu bytes", count, size);
    return NULL;
}

void *mem_alloc(size_t size)
{
    void *memory = fail_now() ? NULL : malloc(size > 0 ? size : 1);
    return memory != NULL ? memory : out_of_memory(1, size);
}

void *mem_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || fail_now())
        return out_of_memory(count, size);
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    return memory != NULL ? memory : out_of_memory(count, size);
}

void *mem_realloc(void *memory, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || fail_now())
        return out_of_memory(count, size);
    void *grown = realloc(memory, bytes > 0 ? bytes : 1);
    return grown != NULL ? grown : out_of_memory(count, size);
}

void mem_free(void *memory)
{
    int saved = errno;
    free(memory);
    errno = saved;
}

void *mem_alloc_array(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - ARRAY_ALIGNMENT)
        return out_of_memory(count, size);
    if (fail_now())
        return out_of_memory(count, size);
    /* aligned_alloc() wants a multiple of the alignment. */
    size_t blocks = bytes > 0 ? (bytes + ARRAY_ALIGNMENT - 1) / ARRAY_ALIGNMENT : 1;
    void *memory = aligned_alloc(ARRAY_ALIGNMENT, blocks * ARRAY_ALIGNMENT);
    return memory != NULL ? memory : out_of_memory(count, size);
}

void *must_alloc(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);
    CHECK(memory != NULL);
    return memory;
}

void *must_realloc(void *memory, size_t count, size_t size)
{
    size_t bytes;
    CHECK(!__builtin_mul_overflow(count, size, &bytes));
    void *grown = realloc(memory, bytes > 0 ? bytes : 1);
    CHECK(grown != NULL);
    return grown;
}

char *must_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    return memcpy(must_alloc(size), text, size);
}

char *must_format(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    CHECK(length >= 0);
    return text;
}

void *mem_map(uint64_t bytes, uint64_t alignment)
{
    uint8_t *memory = MAP_FAILED;
    if (fail_now())
        errno = ENOMEM;
    else
        memory = mmap(NULL, bytes + alignment, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        err_set_errno(ERR_MEMORY, errno, "cannot allocate %llu bytes", (unsigned long long)bytes);
        return NULL;
    }
    uint64_t before = (alignment - (uintptr_t)memory % alignment) % alignment;
    if (before > 0)
        munmap(memory, before);
    munmap(memory + before + bytes, alignment - before);
    return memory + before;
}

void mem_unmap(void *memory, uint64_t bytes)
{
    if (memory != NULL)
        munmap(memory, bytes);
}

void mem_ask_huge(void *memory, uint64_t bytes)
{
    if (bytes > 0)
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
}

_Bool mem_grow_(void *array_pointer, size_t *capacity, size_t needed, size_t element_size)
{
    if (needed <= *capacity)
        return 1;
    size_t grown = *capacity + *capacity / 2;
    if (grown < 16)
        grown = 16;
    if (grown < needed)
        grown = needed;
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    array = mem_realloc(array, grown, element_size);
    if (array == NULL)
        return 0;
    memcpy(array_pointer, &array, sizeof array);
    *capacity = grown;
    return 1;
}

void mem_keep_freed(void)
{
#ifdef __GLIBC__
    /* Faulting pages in again was a third of the CPU time of a push-pull of 1 MiB. The second is
       the largest that the allocator takes; the third keeps emptied heaps of threads, too. */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

void mem_fail_nth(uint64_t n)
{
    atomic_store(&fail_countdown, n);
}
