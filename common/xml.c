#include "common/xml.h"

#include <expat.h>
#include <limits.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"

struct reading {
    XML_Parser parser;
    xml_element *on_end;
    void *context;
    struct str path;
    struct str texts[XML_DEPTH_MAX];
    size_t depth;
    enum err failure; /* its text is set */
};

static void stop(struct reading *r, enum err failure)
{
    r->failure = failure;
    XML_StopParser(r->parser, XML_FALSE);
}

static void on_start(void *context, const char *name, const char **attributes)
{
    struct reading *r = context;
    const char *colon = strrchr(name, ':');
    if (r->failure != ERR_NONE)
        return;
    if (r->depth == XML_DEPTH_MAX) {
        stop(r, err_set(ERR_LIMIT, "elements are nested deeper than %u", XML_DEPTH_MAX));
        return;
    }
    str_append_format(&r->path, "%s%s", r->depth > 0 ? "/" : "", colon != NULL ? colon + 1 : name);
    str_clear(&r->texts[r->depth++]);
}

static void on_text(void *context, const char *text, int size)
{
    struct reading *r = context;
    if (r->failure == ERR_NONE && r->depth > 0)
        str_append_span(&r->texts[r->depth - 1], span_make(text, (size_t)size));
}

static void on_end(void *context, const char *name)
{
    struct reading *r = context;
    if (r->failure != ERR_NONE)
        return;
    const char *text = r->texts[--r->depth].data;
    enum err e = r->on_end(r->context, r->path.data, text != NULL ? text : "");
    const char *slash = strrchr(r->path.data, '/');
    r->path.size = slash != NULL ? (size_t)(slash - r->path.data) : 0;
    r->path.data[r->path.size] = '\0';
    if (e != ERR_NONE)
        stop(r, e);
}

static void on_doctype(void *context, const char *name, const char *system_id,
                       const char *public_id, int has_subset)
{
    stop(context, err_set(ERR_INPUT, "a document type is not accepted"));
}

enum err xml_parse(const char *what, const char *data, size_t size, xml_element *callback,
                   void *context)
{
    struct reading r = {.on_end = callback, .context = context};
    if (size > INT_MAX)
        return err_set(ERR_LIMIT, "%s: %zu bytes of XML", what, size);
    r.parser = XML_ParserCreate("UTF-8");
    if (r.parser == NULL)
        return err_set(ERR_MEMORY, "no memory to read XML");
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    if (XML_Parse(r.parser, data, (int)size, XML_TRUE) != XML_STATUS_OK && r.failure == ERR_NONE)
        r.failure = err_set(ERR_INPUT, "%s", XML_ErrorString(XML_GetErrorCode(r.parser)));
    enum err e = r.failure;
    if (e != ERR_NONE)
        err_prefix(e, "%s:%lu:%lu", what, (unsigned long)XML_GetCurrentLineNumber(r.parser),
                   (unsigned long)XML_GetCurrentColumnNumber(r.parser) + 1);
    XML_ParserFree(r.parser);
    str_deinit(&r.path);
    for (size_t i = 0; i < XML_DEPTH_MAX; i++)
        str_deinit(&r.texts[i]);
    return e;
}
