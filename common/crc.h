/*
 * crc.h - CRC32C (Castagnoli), by the processor's instruction where it has one.
 *
 * Sources  RFC 3720, appendix B.4 (test vectors).
 */
#ifndef PARAMD_COMMON_CRC_H
#define PARAMD_COMMON_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to start) over `size` bytes. crc32c(crc32c(0, a), b) == crc32c(0, ab). */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* The same by tables: what processors without the instruction run. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
