/*
 * Goal: what a process may use of its machine is found under limits of containers, of both versions
 * of control groups.
 *
 * Method: trees of files like those of the kernel, and the true ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/machine.h"
#include "common/mem.h"
#include "common/storage.h"

#define GIB (1ull << 30)

struct file {
    const char *path, *text;
};

struct limits {
    const char *name, *groups;
    struct file files[3];
    uint64_t limit;
};

static const struct limits CASES[] = {
    {"none", "0::/\n", {{"/memory.max", "max\n"}}, 0},
    {"own", "0::/a/b\n", {{"/a/b/memory.max", "1073741824\n"}, {"/a/memory.max", "max\n"}}, GIB},
    {"above",
     "0::/a/b\n",
     {{"/a/b/memory.max", "2147483648\n"}, {"/a/memory.max", "1073741824\n"}},
     GIB},
    {"container: path not visible", "0::/a/b\n", {{"/memory.max", "1073741824\n"}}, GIB},
    {"version 1",
     "12:cpu,cpuacct:/x\n4:memory:/x\n",
     {{"/memory/x/memory.limit_in_bytes", "1073741824\n"},
      {"/memory/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/cpu,cpuacct/x/memory.limit_in_bytes", "1\n"}},
     GIB},
    {"version 1, none",
     "4:memory:/\n",
     {{"/memory/memory.limit_in_bytes", "9223372036854771712\n"}},
     0},
    {"damaged", "nonsense\n", {{"/memory.max", "1\n"}}, 0},
};

static void put(const char *directory, const char *name, const char *text)
{
    struct storage_writer *w;
    char *path = must_format("%s%s", directory, name);
    assert_int_equal(storage_write_open(path, true, &w), ERR_NONE);
    assert_int_equal(storage_write(w, text, strlen(text)), ERR_NONE);
    assert_int_equal(storage_write_close(w), ERR_NONE);
    mem_free(path);
}

static void test_limits(void **state)
{
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        const struct limits *c = &CASES[i];
        char directory[] = "/tmp/test_machine.XXXXXX";
        assert_non_null(mkdtemp(directory));
        put(directory, "/self", c->groups);
        for (size_t k = 0; k < 3 && c->files[k].path != NULL; k++)
            put(directory, c->files[k].path, c->files[k].text);
        char *self = must_format("%s/self", directory);
        uint64_t limit = machine_memory_limit(self, directory);
        if (limit != c->limit)
            fail_msg("%s: %llu, not %llu", c->name, (unsigned long long)limit,
                     (unsigned long long)c->limit);
        mem_free(self);
        assert_int_equal(storage_remove_tree(directory), ERR_NONE);
    }
    assert_int_equal(machine_memory_limit("/nowhere/self", "/nowhere"), 0);
}

static void test_this_machine(void **state)
{
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_in_range(machine_memory(), 1, physical);
    assert_in_range(machine_cores(), 1, sysconf(_SC_NPROCESSORS_CONF));
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &before))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(machine_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
