/*
 * conf.h - YAML as a tree that remembers where each value stood. Walls off libyaml.
 *
 * Aliases, tags, duplicate keys and several documents are refused; depth and size are bounded.
 * Scalars keep their text and whether they were quoted; what they mean is the settings table's
 * business.
 *
 * Errors   ERR_INPUT "what:line:column: …", counted from 1.
 * Threads  a tree belongs to one thread at a time.
 */
#ifndef PARAMD_COMMON_CONF_H
#define PARAMD_COMMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum conf_kind { CONF_SCALAR, CONF_LIST, CONF_MAP };

struct conf_node {
    enum conf_kind kind;
    bool quoted;              /* a quoted scalar is text, whatever it looks like */
    char *text;               /* CONF_SCALAR */
    struct conf_node **items; /* CONF_LIST: values; CONF_MAP: values */
    char **names;             /* CONF_MAP */
    size_t count;
    const char *what; /* source name, owned by the root */
    uint32_t line, column;
};

enum err conf_parse(const char *what, const char *text, size_t size,
                    struct conf_node **out) MUST_CHECK;
void conf_destroy(struct conf_node *root);
struct conf_node *conf_get(const struct conf_node *map, const char *name); /* NULL: absent */
bool conf_is_null(const struct conf_node *n); /* absent, ~, null, empty and not quoted */

/*
 * Sets "a.b.c" to the YAML `value`, making maps on the way ("--set"). Names may hold dots inside
 * [quotes].
 */
enum err conf_set(struct conf_node *root, const char *path, const char *value,
                  const char *what) MUST_CHECK;

/* Replaces ${name} in every scalar. ERR_INPUT names an unknown variable and its place. */
enum err conf_substitute(struct conf_node *root,
                         const char *(*lookup)(void *context, const char *name),
                         void *context) MUST_CHECK;

#endif
