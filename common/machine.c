#include "common/machine.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"

#define NO_LIMIT (1ull << 60) /* version 1 writes a number near 2^63 for none */

uint32_t machine_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (uint32_t)CPU_COUNT(&set);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 ? (uint32_t)cores : 1;
}

/* What the file says; 0 for "max", and where there is no such file. */
static uint64_t read_limit(const char *directory, const char *file)
{
    char *path = must_format("%s/%s", directory, file);
    FILE *f = fopen(path, "re");
    mem_free(path);
    unsigned long long limit = 0;
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu", &limit) != 1 || limit >= NO_LIMIT)
        limit = 0;
    fclose(f);
    return limit;
}

static void lower(uint64_t *limit, uint64_t other)
{
    if (other != 0 && (*limit == 0 || other < *limit))
        *limit = other;
}

/* Of the group and of all above it. In a container the group's own path may not be visible: then
 * what is mounted is the group. */
static uint64_t limit_of_group(const char *mount, const char *group, const char *file)
{
    uint64_t limit = 0;
    char *path = must_format("%s%s", mount, group);
    for (;;) {
        lower(&limit, read_limit(path, file));
        char *slash = strrchr(path, '/');
        if (slash == NULL || (size_t)(slash - path) < strlen(mount))
            break;
        *slash = '\0';
    }
    lower(&limit, read_limit(mount, file));
    mem_free(path);
    return limit;
}

uint64_t machine_memory_limit(const char *self_cgroup, const char *mount)
{
    FILE *f = fopen(self_cgroup, "re");
    char *line = NULL;
    size_t room = 0;
    uint64_t limit = 0;
    if (f == NULL)
        return 0;
    while (getline(&line, &room, f) > 0) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names != NULL ? strchr(names + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group++ = '\0';
        if (names[1] == '\0') {
            lower(&limit, limit_of_group(mount, group, "memory.max"));
        } else if (strstr(names + 1, "memory") != NULL) {
            char *memory = must_format("%s/memory", mount);
            lower(&limit, limit_of_group(memory, group, "memory.limit_in_bytes"));
            mem_free(memory);
        }
    }
    free(line);
    fclose(f);
    return limit;
}

uint64_t machine_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 1ull << 30;
    uint64_t limit = machine_memory_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    return limit != 0 && limit < bytes ? limit : bytes;
}

char *machine_program_directory(void)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return must_strdup(".");
    path[size] = '\0';
    *strrchr(path, '/') = '\0';
    return must_strdup(path);
}
