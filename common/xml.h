/*
 * xml.h - XML in: each element as it ends, with the path to it and its text. Walls off expat.
 *
 * Enough for what stores answer. Attributes, comments and name space prefixes are passed over; a
 * document type is refused, and with it all entities of the sender's own.
 *
 * Threads  none; callbacks run in the call.
 * Errors   ERR_INPUT with line and column; ERR_LIMIT: deeper than XML_DEPTH_MAX; what the callback
 *          returned.
 */
#ifndef PARAMD_COMMON_XML_H
#define PARAMD_COMMON_XML_H

#include <stddef.h>

#include "common/err.h"

#define XML_DEPTH_MAX 16u

/* `path`: "ListBucketResult/Contents/Key". `text`: of the element itself, "" for none. */
typedef enum err xml_element(void *context, const char *path, const char *text);

/* `what` names the source in texts. */
enum err xml_parse(const char *what, const char *data, size_t size, xml_element *on_end,
                   void *context) MUST_CHECK;

#endif
