/*
 * small_checkpoint.h - a checkpoint of a few hundred bytes, written by the real writer thread: two
 * tables of three floats and one float a row, and a dense parameter of two blocks.
 */
#ifndef PARAMD_TESTS_SMALL_CHECKPOINT_H
#define PARAMD_TESTS_SMALL_CHECKPOINT_H

#include <stdint.h>

#include "common/checkpoint.h"

struct small_checkpoint {
    const char *job; /* NULL: "small" */
    uint64_t generation, step;
    uint32_t shard_count; /* 0: 1 */
    float add;            /* to every value, so that jobs differ */
};

/* Writes the shard files to `directory` and gives the manifest that belongs to them. CHECKs. */
struct checkpoint_manifest *small_checkpoint_files(const char *directory,
                                                   const struct small_checkpoint *c);
/* And commits it. */
void small_checkpoint_write(const char *directory, const struct small_checkpoint *c);

/* A whole file; freed with mem_free(). And back. */
char *small_file_read(const char *directory, const char *name, size_t *size_out);
void small_file_write(const char *directory, const char *name, const char *data, size_t size);

#endif
