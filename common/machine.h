/*
 * machine.h - what this process may use of the machine it runs on.
 *
 * A container or a service manager may allow less than the machine has: the processor set and the
 * memory limit of the control group count.
 *
 * Units    bytes. Threads: any. Errors: none; what cannot be found out is taken from the whole
 * machine.
 * Sources  sched_getaffinity(2); cgroups(7); the kernel's documentation, admin-guide/cgroup-v2
 *          (memory.max) and cgroup-v1/memory (memory.limit_in_bytes).
 */
#ifndef PARAMD_COMMON_MACHINE_H
#define PARAMD_COMMON_MACHINE_H

#include <stdint.h>

/* Processors that this process may run on; at least 1. */
uint32_t machine_cores(void);
/* The machine's memory, or the smallest limit of our control group and those above it. */
uint64_t machine_memory(void);
/* The same with the file that names our control groups and the directory where they are mounted;
 * for tests. 0: no limit is set. */
uint64_t machine_memory_limit(const char *self_cgroup, const char *mount);
/* Where the program that runs lies, without its name; "." if that cannot be told. To be freed. */
char *machine_program_directory(void);

#endif
