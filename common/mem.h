/*
 * mem.h - allocation, with bounds and with failures that a test can plant.
 *
 * mem_alloc() and friends return NULL when memory is out or when the product overflows, with
 * err_set() done (ERR_MEMORY, the size in the text). Small control-path allocations for which there
 * is no sensible way on use the must_ variants, which CHECK. Everything is freed by mem_free().
 *
 * Units    sizes in bytes.
 * Threads  any.
 */
#ifndef PARAMD_COMMON_MEM_H
#define PARAMD_COMMON_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size);                /* not zeroed */
void *mem_calloc(size_t count, size_t size); /* zeroed */
void *mem_realloc(void *memory, size_t count, size_t size);
void mem_free(void *memory); /* accepts NULL; keeps errno */

/* 64-byte aligned, not zeroed; for arrays of floats and keys. Freed by mem_free(). */
void *mem_alloc_array(size_t count, size_t size);

void *must_alloc(size_t size); /* zeroed */
void *must_realloc(void *memory, size_t count, size_t size);
char *must_strdup(const char *text);
char *must_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Zeroed memory of its own that begins at a multiple of `alignment` (a power of two of at least
 * 4096) and is backed as it is first touched. NULL: no memory.
 */
#define MEM_HUGE_BYTES (UINT64_C(2) << 20) /* of a huge page */
void *mem_map(uint64_t bytes, uint64_t alignment);
void mem_unmap(void *memory, uint64_t bytes);
/* That this part of such memory be backed by huge pages; refusal changes speed only. */
void mem_ask_huge(void *memory, uint64_t bytes);

/*
 * Makes room for `needed` elements in a growing array; grows by half, at least 16. false: no
 * memory.
 */
#define mem_grow(array, capacity, needed)                                                          \
    mem_grow_(&(array), &(capacity), (needed), sizeof *(array))
_Bool mem_grow_(void *array_pointer, size_t *capacity, size_t needed, size_t element_size)
    __attribute__((warn_unused_result));

/*
 * For processes that exchange large messages without end: what is freed stays with the process, so
 * that the next message does not fault its pages in again. Once, before threads start.
 */
void mem_keep_freed(void);

/*
 * Fails the nth allocation from now (1 = the next) in this process, once; 0 switches it off. Tests
 * only.
 */
void mem_fail_nth(uint64_t n);

#endif
