/*
 * Goal: a YAML text becomes the tree that stands there, each value with its position; what the wall
 * refuses (aliases, tags, duplicates, several documents, depth, size, bytes that are not text) is
 * refused with its place; conf_set() and conf_substitute() change what they name and nothing else.
 * Method: tables of texts and the error or the value and position expected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/conf.h"
#include "common/mem.h"
#include "common/str.h"

static struct conf_node *parse(const char *text)
{
    struct conf_node *root = NULL;
    enum err e = conf_parse("t.yaml", text, strlen(text), &root);
    if (e)
        fail_msg("%s", err_text());
    return root;
}

static void test_tree(void **state)
{
    struct conf_node *root = parse("a: 1\nb:\n  c: [x, 'y', \"~\", ~]\n  d: {e: }\n");
    assert_int_equal(root->kind, CONF_MAP);
    assert_int_equal(root->count, 2);
    const struct conf_node *a = conf_get(root, "a"), *b = conf_get(root, "b");
    assert_string_equal(a->text, "1");
    assert_int_equal(a->line, 1);
    assert_int_equal(a->column, 4);
    assert_int_equal(b->line, 2); /* a block is found at its name */
    assert_int_equal(b->column, 1);
    const struct conf_node *c = conf_get(b, "c");
    assert_int_equal(c->kind, CONF_LIST);
    assert_int_equal(c->line, 3);
    assert_int_equal(c->column, 6);
    assert_int_equal(c->count, 4);
    assert_false(c->items[0]->quoted);
    assert_true(c->items[1]->quoted);
    assert_false(conf_is_null(c->items[2]));
    assert_true(conf_is_null(c->items[3]));
    assert_true(conf_is_null(conf_get(conf_get(b, "d"), "e")));
    assert_null(conf_get(root, "z"));
    assert_null(conf_get(a, "z"));
    assert_true(conf_is_null(NULL));
    assert_string_equal(c->items[0]->what, "t.yaml");
    conf_destroy(root);
    conf_destroy(NULL);

    const char *const empty[] = {"", "# only a comment\n", "---\n", "~", NULL};
    for (size_t i = 0; empty[i]; i++) {
        root = parse(empty[i]);
        assert_true(conf_is_null(root));
        conf_destroy(root);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"a: &x 1\nb: *x\n", "t.yaml:1:4: anchors and aliases"},
        {"b: *x\n", "t.yaml:1:4: anchors and aliases"},
        {"a: !!str 1\n", "t.yaml:1:4: tags"},
        {"a: !mine {b: 1}\n", "t.yaml:1:4: tags"},
        {"!!str a: 1\n", "t.yaml:1:1: anchors, aliases and tags"},
        {"a: 1\nb: 2\na: 3\n", "t.yaml:3:4: 'a' is given twice"},
        {"x: {b: 1, b: 2}\n", "t.yaml:1:14: 'b' is given twice"},
        {"a: 1\n---\nb: 2\n", "t.yaml:2:1: a second document"},
        {"? [a, b]\n: 1\n", "t.yaml:1:3: a name must be plain text"},
        {"'': 1\n", "t.yaml:1:1: a name is empty"},
        {"a: [1, 2\nb: 3\n", "t.yaml:2:2: not valid YAML"},
        {"a: \"x\n", "not valid YAML"},
        {"a:\n\t- b\n", "t.yaml:2:1: not valid YAML"},
        {"a: b: c\n", "t.yaml:1:5: not valid YAML"},
        {"a: \"x\\0y\"\n", "t.yaml:1:4: a value holds a zero byte"},
        {"ok: 1\nbad: \xff\xfe\n", "t.yaml:2:6: not valid YAML"},
        {"a: \x01\n", "t.yaml:1:4: not valid YAML"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct conf_node *root = NULL;
        enum err e = conf_parse("t.yaml", cases[i].text, strlen(cases[i].text), &root);
        if (e != ERR_INPUT || root || !strstr(err_text(), cases[i].error))
            fail_msg("%s gives %s: %s", cases[i].text, err_name(e), e ? err_text() : "");
    }
}

static enum err parse_repeated(const char *head, const char *part, size_t count, const char *tail)
{
    struct str text = {0};
    struct conf_node *root = NULL;
    str_append(&text, head);
    for (size_t i = 0; i < count; i++)
        str_append(&text, part);
    str_append(&text, tail);
    enum err e = conf_parse("t.yaml", text.data, text.size, &root);
    conf_destroy(root);
    str_deinit(&text);
    return e;
}

static void test_limits(void **state)
{
    static const struct {
        const char *head, *part, *tail, *error;
        size_t fits, too_many;
    } cases[] = {
        {"", "[", "", "nested more than 32 deep", 0, 33},
        {"[", "1,", "]", "more than 100000 values", 99999, 100000},
        {"", "#12345678901234567890123456789012345678901234567890123456789012\n", "",
         "at most 1048576 are read", 16384, 16385},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].fits)
            assert_int_equal(
                parse_repeated(cases[i].head, cases[i].part, cases[i].fits, cases[i].tail), 0);
        assert_int_equal(
            parse_repeated(cases[i].head, cases[i].part, cases[i].too_many, cases[i].tail),
            ERR_INPUT);
        assert_non_null(strstr(err_text(), cases[i].error));
    }
    assert_int_equal(parse_repeated("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "]", 32, ""), 0);
}

static void test_set(void **state)
{
    struct conf_node *root = parse("a: {b: 1}\nempty: ~\nlist: [1]\n");
    assert_int_equal(conf_set(root, "a.b", "2", "--set"), 0);
    assert_string_equal(conf_get(conf_get(root, "a"), "b")->text, "2");
    assert_int_equal(conf_set(root, "a.c.d", "[x, y]", "--set"), 0);
    assert_int_equal(conf_get(conf_get(conf_get(root, "a"), "c"), "d")->count, 2);
    assert_int_equal(conf_set(root, "empty.x", "{y: 5}", "--set"), 0);
    const struct conf_node *y = conf_get(conf_get(conf_get(root, "empty"), "x"), "y");
    assert_string_equal(y->text, "5");
    assert_int_equal(y->line, 0); /* a place inside an argument tells nothing */
    assert_string_equal(y->what, "--set");
    assert_int_equal(conf_set(root, "f.[C1..C26].n", "4", "--set"), 0);
    assert_string_equal(conf_get(conf_get(conf_get(root, "f"), "C1..C26"), "n")->text, "4");
    assert_int_equal(conf_set(root, "f[a.b]", "5", "--set"), 0);
    assert_string_equal(conf_get(conf_get(root, "f"), "a.b")->text, "5");
    assert_int_equal(conf_set(root, "list", "", "--set"), 0);
    assert_true(conf_is_null(conf_get(root, "list")));

    static const struct {
        const char *path, *value, *error;
    } bad[] = {
        {"", "1", "is not a path"},
        {"a..b", "1", "'a..b' is not a path"},
        {"a.", "1", "'a.' is not a path"},
        {"[x", "1", "'[x' is not a path"},
        {"a.b.c", "1", "--set a.b.c: 'a.b' is not a map of settings but 2"},
        {"a.c.d.e", "1", "'a.c.d' is not a map of settings but a list"},
        {"a.z", "[1", "--set a.z:2:1: not valid YAML"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(conf_set(root, bad[i].path, bad[i].value, "--set"), ERR_INPUT);
        if (!strstr(err_text(), bad[i].error))
            fail_msg("%s: %s", bad[i].path, err_text());
    }
    conf_destroy(root);

    root = parse("");
    assert_int_equal(conf_set(root, "a.b", "1", "--set"), 0);
    assert_string_equal(conf_get(conf_get(root, "a"), "b")->text, "1");
    conf_destroy(root);
}

static const char *lookup(void *context, const char *name)
{
    ++*(int *)context;
    if (!strcmp(name, "day"))
        return "2026-05-02";
    if (!strcmp(name, "nested"))
        return "${day}";
    return !strcmp(name, "none") ? "" : NULL;
}

static void test_substitute(void **state)
{
    static const struct {
        const char *text, *expected; /* NULL: an error with `error` */
        const char *error;
        bool quoted;
    } cases[] = {
        {"a: plain $ {x}", "plain $ {x}", NULL, false},
        {"a: dt=${day}/x", "dt=2026-05-02/x", NULL, false},
        {"a: \"${day}-${day}\"", "2026-05-02-2026-05-02", NULL, false},
        {"a: \"x${day}\"", "x2026-05-02", NULL, true},
        {"a: \"${day}\"", "2026-05-02", NULL, false}, /* means what the variable says */
        {"a: x${none}y", "xy", NULL, false},
        {"a: ${nested}", "${day}", NULL, false}, /* once, not again */
        {"a: $${day}", "${day}", NULL, false},
        {"a: ${dya}", NULL, "t.yaml:1:4: unknown variable '${dya}'", false},
        {"b: 1\na: [x, \"${}\"]", NULL, "t.yaml:2:8: a '${' lacks its name", false},
        {"a: \"${day\"", NULL, "t.yaml:1:4: a '${' lacks its name", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int calls = 0;
        struct conf_node *root = parse(cases[i].text);
        enum err e = conf_substitute(root, lookup, &calls);
        if (!cases[i].expected) {
            assert_int_equal(e, ERR_INPUT);
            if (!strstr(err_text(), cases[i].error))
                fail_msg("%s: %s", cases[i].text, err_text());
        } else {
            assert_int_equal(e, 0);
            assert_string_equal(conf_get(root, "a")->text, cases[i].expected);
            if (calls == 1)
                assert_int_equal(conf_get(root, "a")->quoted, cases[i].quoted);
        }
        conf_destroy(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_set),
        cmocka_unit_test(test_substitute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
