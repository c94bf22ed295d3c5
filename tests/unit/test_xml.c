/*
 * Goal: elements come with path and text in the order they end; bad documents are refused by name.
 * Method: small documents and what is expected of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/str.h"
#include "common/xml.h"

static enum err gather(void *context, const char *path, const char *text)
{
    if (strcmp(text, "stop") == 0)
        return err_set(ERR_CANCELLED, "stopped");
    str_append_format(context, "%s=%s;", path, text);
    return ERR_NONE;
}

static void test_documents(void **state)
{
    static const struct {
        const char *document;
        enum err expected;
        const char *seen; /* or a part of the error's text */
    } cases[] = {
        {"<a/>", ERR_NONE, "a=;"},
        {"<?xml version=\"1.0\"?>\n<a xmlns='u'><b>1 &amp; &#50;</b><p:c x='y'> </p:c>t</a>",
         ERR_NONE, "a/b=1 & 2;a/c= ;a=t;"},
        {"<a><b><![CDATA[<x>]]></b><b>\xc3\xa4</b></a>", ERR_NONE, "a/b=<x>;a/b=\xc3\xa4;a=;"},
        {"<a><b>stop</b></a>", ERR_CANCELLED, "stopped"},
        {"<a>", ERR_INPUT, "test:1:4: "},
        {"", ERR_INPUT, "test:1:1: "},
        {"{}", ERR_INPUT, "test:1:1: "},
        {"<a></b>", ERR_INPUT, "mismatched"},
        {"<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", ERR_INPUT, "document type"},
        {"<a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a>", ERR_LIMIT, "nested"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str seen = {0};
        enum err e = xml_parse("test", cases[i].document, strlen(cases[i].document), gather, &seen);
        assert_int_equal(e, cases[i].expected);
        if (e == ERR_NONE)
            assert_string_equal(seen.data, cases[i].seen);
        else
            assert_non_null(strstr(err_text(), cases[i].seen));
        str_deinit(&seen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_documents)};
    return cmocka_run_group_tests_name("xml", tests, NULL, NULL);
}
