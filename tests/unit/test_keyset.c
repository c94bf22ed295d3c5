/*
 * Goal     a keyset has the keys that it was filled with, and no others, however full its buckets
 *          are.
 * Method   sets of several sizes, asked for all of their keys and for many others: random keys,
 * keys
 *          found by search that all belong into the first bucket or into the last, so that they
 *          overflow and wrap around, the key 0, and keys given twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "common/mem.h"
#include "worker/keyset.h"

#define KEYS_MAX 5000

struct kind {
    const char *name;
    size_t count;
    bool crowded;    /* all into the bucket that 64 hash values share at least */
    uint64_t bucket; /* of the 16 smallest hash values */
    bool with_zero;
};

static const struct kind kinds[] = {
    {"empty", 0, false, 0, false},
    {"only zero", 1, false, 0, true},
    {"one", 1, false, 0, false},
    {"a bucket and one", KEYSET_BUCKET + 1, false, 0, false},
    {"many", KEYS_MAX, false, 0, false},
    {"many and zero", KEYS_MAX, false, 0, true},
    {"crowded in the first bucket", 3 * KEYSET_BUCKET, true, 0, false},
    {"crowded in the last bucket", 3 * KEYSET_BUCKET, true, 15, true},
};

/* The next key of the kind; none comes twice. */
static uint64_t next_key(const struct kind *k, uint64_t *state)
{
    for (;;) {
        uint64_t key = rng_at(7, ++*state);
        if (key != 0 && (!k->crowded || (mix64(key) & 15) == k->bucket))
            return key;
    }
}

static void has_what_it_was_given(void **unused)
{
    static uint64_t keys[2 * KEYS_MAX];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *k = &kinds[i];
        uint64_t state = 0;
        struct keyset s;
        for (size_t n = 0; n < k->count; n++)
            keys[n] = keys[k->count + n] = next_key(k, &state);
        if (k->with_zero)
            keys[k->count - 1] = keys[2 * k->count - 1] = 0;
        assert_int_equal(keyset_init(&s, keys, 2 * k->count), ERR_NONE);
        assert_true(keyset_has(&s, 0) == k->with_zero);
        for (size_t n = 0; n < k->count; n++)
            assert_true(keyset_has(&s, keys[n]));
        for (size_t n = 0; n < 4 * KEYS_MAX / (k->crowded ? 16 : 1); n++)
            assert_false(keyset_has(&s, next_key(k, &state)));
        keyset_deinit(&s);
    }
}

static void says_when_memory_is_out(void **unused)
{
    struct keyset s = {0};
    mem_fail_nth(1);
    assert_int_equal(keyset_init(&s, NULL, 0), ERR_MEMORY);
    mem_fail_nth(0);
    keyset_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_what_it_was_given),
        cmocka_unit_test(says_when_memory_is_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
