/*
 * Goal: a secret that is kept lies in pages that no core dump holds, and nowhere once it is
 * released.
 * Method: what the kernel says of the mapping (VmFlags "dd" in smaps), and that it is gone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/secret.h"

/* Of the mapping that holds the address: is it there, and is it left out of dumps? */
static bool find_mapping(const void *at, bool *is_left_out)
{
    uintptr_t address = (uintptr_t)at;
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool is_inside = false, was_found = false;
    assert_non_null(f);
    *is_left_out = false;
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long first, end;
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
            was_found |= is_inside = address >= first && address < end;
        else if (is_inside && strncmp(line, "VmFlags:", 8) == 0)
            *is_left_out = strstr(line, " dd") != NULL;
    }
    fclose(f);
    return was_found;
}

static void test_kept(void **state)
{
    static const size_t sizes[] = {0, 1, 40, 4080, 4087, 4088, 4089, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *text = must_alloc(sizes[i] + 1);
        bool is_left_out;
        memset(text, 's', sizes[i]);
        char *kept = secret_keep(span_make(text, sizes[i]));
        assert_string_equal(kept, text);
        assert_true(find_mapping(kept, &is_left_out));
        assert_true(is_left_out);
        assert_true(find_mapping(kept + sizes[i], &is_left_out));
        assert_true(is_left_out);
        assert_true(find_mapping(text, &is_left_out));
        assert_false(is_left_out);
        secret_release(kept);
        assert_false(find_mapping(kept, &is_left_out));
        mem_free(text);
    }
    secret_release(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
