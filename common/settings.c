#include "common/settings.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/settings_table.h"

/* How many names an error lists before it would be more noise than help. */
#define NAMES_LISTED_MAX 16

/* ---- errors --------------------------------------------------------------------------------- */

enum err setting_place(enum err code, const struct conf_node *n, const char *path)
{
    if (*path)
        err_prefix(code, "%s", path);
    if (!n || !n->what)
        return code;
    if (!n->line)
        return err_prefix(code, "%s", n->what);
    return err_prefix(code, "%s:%u:%u", n->what, n->line, n->column);
}

/* The name of `path` below `prefix`: "epochs" of "train.epochs" below "train."; or an empty span.
 */
static struct span child_of(const char *path, const char *prefix)
{
    size_t size = strlen(prefix);
    if (strncmp(path, prefix, size))
        return span_make("", 0);
    return span_make(path + size, strcspn(path + size, "."));
}

static bool has_name(char **names, size_t count, struct span name)
{
    for (size_t i = 0; i < count; i++)
        if (span_is(name, names[i]))
            return true;
    return false;
}

/* The names that may stand under `prefix`, each once, in table order. NULL-terminated. */
static char **names_under(const struct settings_view *v, const char *prefix)
{
    char **names = must_alloc((v->count + 1) * sizeof *names);
    size_t count = 0;
    for (size_t i = 0; i < v->count; i++) {
        struct span name = child_of(v->rows[i].path, prefix);
        if (name.size && v->rows[i].type != SETTING_LATER && settings_applies(v, &v->rows[i]) &&
            !has_name(names, count, name))
            names[count++] = must_format("%.*s", (int)name.size, name.data);
    }
    return names;
}

static enum err unknown(const struct settings_view *v, const struct conf_node *n,
                        const char *prefix, const char *name, const char *path)
{
    char **names = names_under(v, prefix);
    const char *nearest = str_nearest(name, (const char *const *)names);
    struct str text = {0};
    bool other_kind = false;
    struct str whole = {0};
    str_append_format(&whole, "%s%s", prefix, name);
    for (size_t i = 0; i < v->count; i++)
        other_kind = other_kind || !strcmp(v->rows[i].path, whole.data) ||
                     (!strncmp(v->rows[i].path, whole.data, whole.size) &&
                      v->rows[i].path[whole.size] == '.');
    if (other_kind)
        str_append_format(&text, "%s has no such setting", v->kind);
    else
        str_append(&text, "unknown setting");
    if (nearest && !other_kind)
        str_append_format(&text, "; did you mean '%s'?", nearest);
    size_t count = 0;
    while (names[count])
        count++;
    if (count && count <= NAMES_LISTED_MAX) {
        str_append(&text, nearest && !other_kind ? " it has " : "; it has ");
        for (size_t i = 0; i < count; i++)
            str_append_format(&text, "%s%s", i ? ", " : "", names[i]);
    }
    enum err e = setting_error(ERR_INPUT, n, path, "%s", text.data);
    for (size_t i = 0; i < count; i++)
        mem_free(names[i]);
    mem_free(names);
    str_deinit(&text);
    str_deinit(&whole);
    return e;
}

/* ---- reading by rows ------------------------------------------------------------------------ */

static const struct setting *find_row(const struct settings_view *v, const char *path)
{
    for (size_t i = 0; i < v->count; i++)
        if (settings_applies(v, &v->rows[i]) && !strcmp(v->rows[i].path, path))
            return &v->rows[i];
    return NULL;
}

/*
 * A model's setting that the chosen type has no use for is passed over, so that `--set
 * model.type=lr` turns an fm job into an lr job. It is no part of the resolved job, nor of its
 * hash.
 */
static bool is_of_another_model(const struct settings_view *v, const char *path)
{
    for (size_t i = 0; i < v->count; i++)
        if (!strncmp(path, "model.", 6) && !strcmp(v->rows[i].path, path))
            return true;
    return false;
}

static bool is_section(const struct settings_view *v, const char *prefix)
{
    for (size_t i = 0; i < v->count; i++)
        if (settings_applies(v, &v->rows[i]) && child_of(v->rows[i].path, prefix).size)
            return true;
    return false;
}

/* A default that another setting decides: "~" given there means the default. */
static bool is_derived(const struct setting *row)
{
    return row->initial[0] == '<';
}

static enum err read_map(const struct settings_view *v, const struct conf_node *map,
                         const char *prefix, const char *path, void *base);

static enum err read_member(const struct settings_view *v, const struct conf_node *n,
                            const char *prefix, const char *name, const char *path, void *base)
{
    char *rel = must_format("%s%s", prefix, name);
    char *section = must_format("%s.", rel);
    char *full = must_format("%s%s%s", path, *path ? "." : "", name);
    const struct setting *row = find_row(v, rel);
    enum err e = ERR_NONE;
    if (row) {
        if (row->type != SETTING_GROUP && !(is_derived(row) && conf_is_null(n)))
            e = value_read(row, n, full, (char *)base + row->offset);
    } else if (is_section(v, section)) {
        if (n->kind == CONF_MAP)
            e = read_map(v, n, section, full, base);
        else if (!conf_is_null(n))
            e = setting_error(ERR_INPUT, n, full,
                              "is a group of settings; give a map {name: value}");
    } else if (!is_of_another_model(v, rel)) {
        e = unknown(v, n, prefix, name, full);
    }
    mem_free(rel);
    mem_free(section);
    mem_free(full);
    return e;
}

static enum err read_map(const struct settings_view *v, const struct conf_node *map,
                         const char *prefix, const char *path, void *base)
{
    for (size_t i = 0; i < map->count; i++) {
        enum err e = read_member(v, map->items[i], prefix, map->names[i], path, base);
        if (e)
            return e;
    }
    return ERR_NONE;
}

enum err settings_read(const struct settings_view *v, const struct conf_node *map, const char *path,
                       void *base)
{
    if (conf_is_null(map))
        return ERR_NONE;
    if (map->kind != CONF_MAP)
        return setting_error(ERR_INPUT, map, path, "is not a map of settings");
    return read_map(v, map, "", path, base);
}

void settings_set_defaults(const struct settings_view *v, void *base)
{
    for (size_t i = 0; i < v->count; i++) {
        const struct setting *row = &v->rows[i];
        if (is_derived(row) || row->type == SETTING_GROUP || row->type == SETTING_LATER ||
            !settings_applies(v, row))
            continue;
        struct conf_node plain = {.kind = CONF_SCALAR, .text = (char *)row->initial};
        struct conf_node *tree = NULL;
        enum err e = ERR_NONE;
        if (strpbrk(row->initial, "[{\""))
            e = conf_parse(row->path, row->initial, strlen(row->initial), &tree);
        CHECK(!e);
        e = value_read(row, tree ? tree : &plain, row->path, (char *)base + row->offset);
        CHECK(!e);
        conf_destroy(tree);
    }
}

const struct conf_node *settings_at(const struct conf_node *map, const char *path)
{
    while (map && *path) {
        size_t size = strcspn(path, ".");
        char *name = must_format("%.*s", (int)size, path);
        map = conf_get(map, name);
        mem_free(name);
        path += size + (path[size] == '.');
    }
    return map;
}

enum err settings_require(const struct settings_view *v, const struct conf_node *map,
                          const char *path)
{
    for (size_t i = 0; i < v->count; i++) {
        const struct setting *row = &v->rows[i];
        if (strcmp(row->initial, "<required>") || !settings_applies(v, row) ||
            !conf_is_null(settings_at(map, row->path)))
            continue;
        struct conf_node place = {.what = map->what};
        struct str right = {0};
        value_describe(row, &right);
        enum err e = setting_error(ERR_INPUT, &place, "", "%s%s%s is required; give %s", path,
                                   *path ? "." : "", row->path, right.data);
        str_deinit(&right);
        return e;
    }
    return ERR_NONE;
}

void settings_clear(const struct settings_view *v, void *base)
{
    for (size_t i = 0; i < v->count; i++) {
        void *place = (char *)base + v->rows[i].offset;
        if (v->rows[i].type == SETTING_TEXT) {
            mem_free(*(char **)place);
            *(char **)place = NULL;
        } else if (v->rows[i].type == SETTING_LIST) {
            value_list_clear(place);
        }
    }
}

void setting_print(const struct setting *row, const void *base, struct str *out)
{
    value_write(row, (const char *)base + row->offset, out);
}

/* ---- the daemons ---------------------------------------------------------------------------- */

static struct settings_view daemon_view(void)
{
    return (struct settings_view){.rows = daemon_settings, .count = daemon_setting_count};
}

enum err daemon_settings_parse(const char *what, const char *text, size_t size,
                               const char *const *sets, struct daemon_settings **out)
{
    struct settings_view view = daemon_view();
    struct conf_node *root = NULL;
    enum err e = conf_parse(what, text ? text : "", text ? size : 0, &root);
    if (e)
        return e;
    struct daemon_settings *s = must_alloc(sizeof *s);
    settings_set_defaults(&view, s);
    for (size_t i = 0; sets && sets[i] && !e; i++) {
        const char *equals = strchr(sets[i], '=');
        if (!equals) {
            e = err_set(ERR_INPUT, "--set: '%s' is not of the form name=value", sets[i]);
            break;
        }
        char *path = must_format("%.*s", (int)(equals - sets[i]), sets[i]);
        e = conf_set(root, path, equals + 1, "--set");
        mem_free(path);
    }
    if (!e)
        e = settings_read(&view, root, "", s);
    conf_destroy(root);
    if (e) {
        daemon_settings_destroy(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

void daemon_settings_destroy(struct daemon_settings *s)
{
    struct settings_view view = daemon_view();
    if (!s)
        return;
    settings_clear(&view, s);
    mem_free(s);
}

void daemon_settings_write(const struct daemon_settings *s, struct str *out)
{
    for (size_t i = 0; i < daemon_setting_count; i++) {
        str_append_format(out, "%s: ", daemon_settings[i].path);
        setting_print(&daemon_settings[i], s, out);
        str_append(out, "\n");
    }
}
