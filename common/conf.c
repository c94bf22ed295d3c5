#include "common/conf.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/str.h"

#define CONF_TEXT_MAX  ((size_t)1 << 20)
#define CONF_DEPTH_MAX 32
#define CONF_NODE_MAX  100000

/* The root: a node with the source names that its tree refers to; conf_set() brings in more. */
struct conf_tree {
    struct conf_node node;
    char **sources;
    size_t source_count;
};

struct conf_reader {
    yaml_parser_t parser;
    const char *what;
    const char *text;
    size_t size;
    size_t node_count;
};

/* A value being built, and how many children its arrays have room for. */
struct conf_growth {
    size_t item_capacity, name_capacity;
};

static enum err read_root(struct conf_reader *r, struct conf_node *root);
static enum err read_value(struct conf_reader *r, yaml_event_t *event, uint32_t depth,
                           struct conf_node *node);

enum err conf_parse(const char *what, const char *text, size_t size, struct conf_node **out)
{
    if (size > CONF_TEXT_MAX)
        return err_set(ERR_INPUT, "%s: has %zu bytes; at most %zu are read", what, size,
                       CONF_TEXT_MAX);
    struct conf_tree *tree = must_alloc(sizeof *tree);
    tree->sources = must_alloc(sizeof *tree->sources);
    tree->sources[0] = must_strdup(what);
    tree->source_count = 1;

    struct conf_reader r = {.what = tree->sources[0], .text = text, .size = size};
    CHECK(yaml_parser_initialize(&r.parser));
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    enum err e = read_root(&r, &tree->node);
    yaml_parser_delete(&r.parser);
    if (e) {
        conf_destroy(&tree->node);
        return e;
    }
    *out = &tree->node;
    return ERR_NONE;
}

static void node_clear(struct conf_node *n)
{
    for (size_t i = 0; i < n->count; i++) {
        if (n->items[i])
            node_clear(n->items[i]);
        mem_free(n->items[i]);
        if (n->names)
            mem_free(n->names[i]);
    }
    mem_free(n->items);
    mem_free(n->names);
    mem_free(n->text);
    n->items = NULL;
    n->names = NULL;
    n->text = NULL;
    n->count = 0;
}

void conf_destroy(struct conf_node *root)
{
    if (!root)
        return;
    struct conf_tree *tree = (struct conf_tree *)root;
    node_clear(root);
    for (size_t i = 0; i < tree->source_count; i++)
        mem_free(tree->sources[i]);
    mem_free(tree->sources);
    mem_free(tree);
}

struct conf_node *conf_get(const struct conf_node *map, const char *name)
{
    if (!map || map->kind != CONF_MAP)
        return NULL;
    for (size_t i = 0; i < map->count; i++)
        if (!strcmp(map->names[i], name))
            return map->items[i];
    return NULL;
}

bool conf_is_null(const struct conf_node *n)
{
    if (!n)
        return true;
    if (n->kind != CONF_SCALAR || n->quoted)
        return false;
    return !*n->text || !strcmp(n->text, "~") || !strcmp(n->text, "null");
}

/* ---- reading ------------------------------------------------------------------ */

static enum err err_at(const struct conf_reader *r, yaml_mark_t mark, const char *problem)
{
    return err_set(ERR_INPUT, "%s:%zu:%zu: %s", r->what, mark.line + 1, mark.column + 1, problem);
}

/* Errors of the byte reader come with an offset only. */
static yaml_mark_t mark_of_offset(const struct conf_reader *r, size_t offset)
{
    yaml_mark_t mark = {.index = offset};
    for (size_t i = 0; i < offset && i < r->size; i++) {
        bool newline = r->text[i] == '\n';
        mark.line += newline;
        mark.column = newline ? 0 : mark.column + 1;
    }
    return mark;
}

static enum err next_event(struct conf_reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return ERR_NONE;
    const yaml_parser_t *p = &r->parser;
    yaml_mark_t mark = p->problem_mark;
    if (p->error == YAML_READER_ERROR)
        mark = mark_of_offset(r, p->problem_offset);
    struct str text = {0};
    str_append_format(&text, "not valid YAML: %s", p->problem ? p->problem : "out of memory");
    if (p->context && p->error != YAML_READER_ERROR)
        str_append_format(&text, " (%s)", p->context);
    enum err e = err_at(r, mark, text.data);
    str_deinit(&text);
    return e;
}

static enum err read_root(struct conf_reader *r, struct conf_node *root)
{
    bool seen = false;
    for (;;) {
        yaml_event_t event;
        enum err e = next_event(r, &event);
        if (e)
            return e;
        yaml_event_type_t type = event.type;
        if (type == YAML_DOCUMENT_START_EVENT) {
            if (seen)
                e = err_at(r, event.start_mark, "a second document begins here; a file holds one");
            seen = true;
        } else if (type == YAML_SCALAR_EVENT || type == YAML_ALIAS_EVENT ||
                   type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT) {
            e = read_value(r, &event, 1, root);
        }
        yaml_event_delete(&event);
        if (e)
            return e;
        if (type == YAML_STREAM_END_EVENT)
            break;
    }
    if (!seen) {
        root->kind = CONF_SCALAR;
        root->text = must_strdup("");
        root->what = r->what;
        root->line = root->column = 1;
    }
    return ERR_NONE;
}

static struct conf_node *append_item(struct conf_node *n, struct conf_growth *g)
{
    CHECK(mem_grow(n->items, g->item_capacity, n->count + 1));
    n->items[n->count] = must_alloc(sizeof **n->items);
    return n->items[n->count++];
}

static enum err read_list(struct conf_reader *r, uint32_t depth, struct conf_node *node)
{
    struct conf_growth growth = {0};
    for (;;) {
        yaml_event_t event;
        enum err e = next_event(r, &event);
        if (e)
            return e;
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        if (!end)
            e = read_value(r, &event, depth + 1, append_item(node, &growth));
        yaml_event_delete(&event);
        if (e || end)
            return e;
    }
}

/* Takes the name of the next member out of `event`. */
static enum err read_name(struct conf_reader *r, const yaml_event_t *event, char **out)
{
    if (event->type != YAML_SCALAR_EVENT)
        return err_at(r, event->start_mark, "a name must be plain text, not a list, map or alias");
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return err_at(r, event->start_mark, "anchors, aliases and tags are not allowed");
    const char *text = (const char *)event->data.scalar.value;
    if (!event->data.scalar.length)
        return err_at(r, event->start_mark, "a name is empty");
    if (strlen(text) != event->data.scalar.length)
        return err_at(r, event->start_mark, "a name holds a zero byte");
    *out = must_strdup(text);
    return ERR_NONE;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum err refuse_duplicates(struct conf_reader *r, const struct conf_node *map)
{
    if (map->count < 2)
        return ERR_NONE;
    char **sorted = must_realloc(NULL, map->count, sizeof *sorted);
    memcpy(sorted, map->names, map->count * sizeof *sorted);
    qsort(sorted, map->count, sizeof *sorted, compare_names);
    enum err e = ERR_NONE;
    for (size_t i = 1; i < map->count && !e; i++) {
        if (strcmp(sorted[i - 1], sorted[i]))
            continue;
        const struct conf_node *second = NULL;
        for (size_t k = 0; k < map->count; k++)
            if (!strcmp(map->names[k], sorted[i]))
                second = map->items[k];
        CHECK(second);
        e = err_set(ERR_INPUT, "%s:%u:%u: '%s' is given twice in the same map", r->what,
                    second->line, second->column, sorted[i]);
    }
    mem_free(sorted);
    return e;
}

static enum err read_member(struct conf_reader *r, uint32_t depth, struct conf_node *map,
                            char *name, struct conf_growth *growth, yaml_mark_t name_mark)
{
    struct conf_node *item = append_item(map, growth);
    CHECK(mem_grow(map->names, growth->name_capacity, map->count));
    map->names[map->count - 1] = name;

    yaml_event_t event;
    enum err e = next_event(r, &event);
    if (e)
        return e;
    bool block = (event.type == YAML_MAPPING_START_EVENT &&
                  event.data.mapping_start.style == YAML_BLOCK_MAPPING_STYLE) ||
                 (event.type == YAML_SEQUENCE_START_EVENT &&
                  event.data.sequence_start.style == YAML_BLOCK_SEQUENCE_STYLE);
    e = read_value(r, &event, depth + 1, item);
    /* A block stands on the lines below its name: people look for it at the name. */
    if (!e && block) {
        item->line = (uint32_t)name_mark.line + 1;
        item->column = (uint32_t)name_mark.column + 1;
    }
    yaml_event_delete(&event);
    return e;
}

static enum err read_map(struct conf_reader *r, uint32_t depth, struct conf_node *node)
{
    struct conf_growth growth = {0};
    for (;;) {
        yaml_event_t event;
        enum err e = next_event(r, &event);
        if (e)
            return e;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return refuse_duplicates(r, node);
        }
        char *name = NULL;
        yaml_mark_t mark = event.start_mark;
        e = read_name(r, &event, &name);
        yaml_event_delete(&event);
        if (!e)
            e = read_member(r, depth, node, name, &growth, mark);
        if (e)
            return e;
    }
}

static enum err read_scalar(struct conf_reader *r, const yaml_event_t *event,
                            struct conf_node *node)
{
    const char *text = (const char *)event->data.scalar.value;
    if (event->data.scalar.tag)
        return err_at(r, event->start_mark, "tags ('!…') are not allowed");
    if (strlen(text) != event->data.scalar.length)
        return err_at(r, event->start_mark, "a value holds a zero byte");
    node->text = must_strdup(text);
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return ERR_NONE;
}

static enum err read_value(struct conf_reader *r, yaml_event_t *event, uint32_t depth,
                           struct conf_node *node)
{
    node->what = r->what;
    node->line = (uint32_t)event->start_mark.line + 1;
    node->column = (uint32_t)event->start_mark.column + 1;
    if (++r->node_count > CONF_NODE_MAX)
        return err_at(r, event->start_mark, "more than 100000 values");
    if (depth > CONF_DEPTH_MAX)
        return err_at(r, event->start_mark, "nested more than 32 deep");

    bool anchored = false, tagged = false;
    if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchored = event->data.sequence_start.anchor;
        tagged = event->data.sequence_start.tag;
        node->kind = CONF_LIST;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchored = event->data.mapping_start.anchor;
        tagged = event->data.mapping_start.tag;
        node->kind = CONF_MAP;
    } else if (event->type == YAML_SCALAR_EVENT) {
        anchored = event->data.scalar.anchor;
        node->kind = CONF_SCALAR;
        node->text = NULL;
    } else {
        anchored = true;
    }
    if (anchored)
        return err_at(r, event->start_mark, "anchors and aliases ('&…', '*…') are not allowed");
    if (tagged)
        return err_at(r, event->start_mark, "tags ('!…') are not allowed");
    if (node->kind == CONF_SCALAR)
        return read_scalar(r, event, node);
    return node->kind == CONF_LIST ? read_list(r, depth, node) : read_map(r, depth, node);
}

/* ---- changing ------------------------------------------------------------------ */

/*
 * Cuts the next name off a path: "a.b", "a.[b.c].d" and "a[b.c].d" are names a, b and a, b.c, d.
 * false: the path is not well formed.
 */
static bool next_name(const char **path, struct span *name)
{
    const char *p = *path;
    if (*p == '[') {
        const char *end = strchr(p, ']');
        if (!end)
            return false;
        *name = span_make(p + 1, (size_t)(end - p - 1));
        p = end + 1;
    } else {
        size_t size = strcspn(p, ".[");
        *name = span_make(p, size);
        p += size;
    }
    if (!name->size || (*p && *p != '.' && *p != '['))
        return false;
    if (*p == '.' && !*++p)
        return false;
    *path = p;
    return true;
}

static void make_map(struct conf_node *n)
{
    node_clear(n);
    n->kind = CONF_MAP;
    n->quoted = false;
}

static struct conf_node *member(struct conf_node *map, struct span name)
{
    for (size_t i = 0; i < map->count; i++)
        if (span_is(name, map->names[i]))
            return map->items[i];
    map->items = must_realloc(map->items, map->count + 1, sizeof *map->items);
    map->names = must_realloc(map->names, map->count + 1, sizeof *map->names);
    struct conf_node *n = must_alloc(sizeof *n);
    n->kind = CONF_SCALAR;
    n->text = must_strdup("");
    n->what = map->what;
    map->items[map->count] = n;
    map->names[map->count] = must_format("%.*s", (int)name.size, name.data);
    map->count++;
    return n;
}

/* Positions inside a command line argument tell nothing. */
static void set_source(struct conf_node *n, const char *what)
{
    n->what = what;
    n->line = n->column = 0;
    for (size_t i = 0; i < n->count; i++)
        set_source(n->items[i], what);
}

static const char *add_source(struct conf_node *root, const char *what)
{
    struct conf_tree *tree = (struct conf_tree *)root;
    for (size_t i = 0; i < tree->source_count; i++)
        if (!strcmp(tree->sources[i], what))
            return tree->sources[i];
    tree->sources = must_realloc(tree->sources, tree->source_count + 1, sizeof *tree->sources);
    return tree->sources[tree->source_count++] = must_strdup(what);
}

/* Walks to the place that `path` names, making maps on the way. */
static enum err walk(struct conf_node *root, const char *path, const char *what,
                     struct conf_node **out)
{
    struct conf_node *n = root;
    const char *rest = path;
    do {
        struct span name;
        int done = (int)(rest - path);
        if (!next_name(&rest, &name))
            return err_set(ERR_INPUT, "%s: '%s' is not a path of names such as train.epochs", what,
                           path);
        if (conf_is_null(n))
            make_map(n);
        if (n->kind != CONF_MAP)
            return err_set(ERR_INPUT, "%s %s: '%.*s' is not a map of settings but %s; set it whole",
                           what, path, done ? done - 1 : 0, path,
                           n->kind == CONF_LIST ? "a list" : n->text);
        n = member(n, name);
    } while (*rest);
    *out = n;
    return ERR_NONE;
}

enum err conf_set(struct conf_node *root, const char *path, const char *value, const char *what)
{
    struct conf_node *parsed = NULL, *place = NULL;
    struct str source = {0};
    str_append_format(&source, "%s %s", what, path);
    enum err e = conf_parse(source.data, value, strlen(value), &parsed);
    str_deinit(&source);
    if (!e)
        e = walk(root, path, what, &place);
    if (!e) {
        set_source(parsed, add_source(root, what));
        node_clear(place);
        *place = *parsed;
        *parsed = (struct conf_node){0};
    }
    conf_destroy(parsed);
    return e;
}

/* ---- variables ------------------------------------------------------------------ */

struct substitution {
    const char *(*lookup)(void *context, const char *name);
    void *context;
    size_t total;
};

static enum err err_node(const struct conf_node *n, const char *problem)
{
    if (!n->line)
        return err_set(ERR_INPUT, "%s: %s", n->what ? n->what : "value", problem);
    return err_set(ERR_INPUT, "%s:%u:%u: %s", n->what, n->line, n->column, problem);
}

static enum err expand_one(const struct substitution *s, const struct conf_node *n,
                           const char *dollar, struct str *out, const char **rest)
{
    const char *begin = dollar + 2, *end = strchr(begin, '}');
    if (!end || end == begin)
        return err_node(n, "a '${' lacks its name and '}'; '$${' writes the characters themselves");
    char *name = must_format("%.*s", (int)(end - begin), begin);
    const char *value = s->lookup(s->context, name);
    enum err e = ERR_NONE;
    if (value) {
        str_append(out, value);
    } else {
        char *problem = must_format("unknown variable '${%s}'; declare it under vars: or give "
                                    "--var %s=VALUE",
                                    name, name);
        e = err_node(n, problem);
        mem_free(problem);
    }
    mem_free(name);
    *rest = end + 1;
    return e;
}

static enum err substitute_scalar(struct substitution *s, struct conf_node *n)
{
    if (!strstr(n->text, "${"))
        return ERR_NONE;
    struct str out = {0};
    enum err e = ERR_NONE;
    const char *p = n->text;
    bool whole = !strncmp(p, "${", 2);
    while (*p && !e) {
        if (!strncmp(p, "$${", 3)) {
            str_append(&out, "${");
            p += 3;
        } else if (!strncmp(p, "${", 2)) {
            e = expand_one(s, n, p, &out, &p);
            whole = whole && !*p;
        } else {
            str_append_span(&out, span_make(p, 1));
            p++;
        }
        if (!e && s->total + out.size > CONF_TEXT_MAX)
            e = err_node(n, "variables make more than 1 MiB of text");
    }
    if (!e) {
        s->total += out.size;
        mem_free(n->text);
        n->text = must_strdup(out.data ? out.data : "");
        /* {eval_fraction: "${x}"} must be quoted in YAML, but means what x says. */
        if (whole)
            n->quoted = false;
    }
    str_deinit(&out);
    return e;
}

static enum err substitute(struct substitution *s, struct conf_node *n)
{
    if (n->kind == CONF_SCALAR)
        return substitute_scalar(s, n);
    for (size_t i = 0; i < n->count; i++) {
        enum err e = substitute(s, n->items[i]);
        if (e)
            return e;
    }
    return ERR_NONE;
}

enum err conf_substitute(struct conf_node *root,
                         const char *(*lookup)(void *context, const char *name), void *context)
{
    struct substitution s = {.lookup = lookup, .context = context};
    return substitute(&s, root);
}
