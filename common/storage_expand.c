/*
 * From what a user names to the files that are read.
 *
 * A pattern is a file, a directory, or either with * ? [] in some of its levels. A name that exists
 * as it stands is taken so, whatever characters are in it. Then
 *
 *   - a directory stands for the files in it; names that begin with _ or . are not data;
 *   - a directory with part-* files is the output of a Hadoop or Spark job, and whole only when
 *     there is a _SUCCESS in it, or above it where key=value levels end;
 *   - levels key=value that a wildcard or a directory was expanded to become columns, their values
 *     without %XX escapes; all files must have the same columns;
 *   - any other directory within a directory is refused: nobody knows whether it was meant.
 */
#include "common/storage.h"

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"

#define FILES_MAX ((size_t)1 << 20)
#define DEPTH_MAX 32

/* key=value levels on the way down. */
struct level {
    const struct level *above;
    const char *name;
};

struct expansion {
    struct storage_files found;
    size_t capacity;
    const char *pattern; /* the one at hand, for texts */
};

static enum err walk_pattern(struct expansion *x, const char *uri, const char *rest,
                             const struct level *levels);

static bool is_hidden(const char *name)
{
    return name[0] == '_' || name[0] == '.';
}

static bool is_column(const char *name)
{
    const char *equals = strchr(name, '=');
    return equals != NULL && equals > name;
}

static bool has_wildcard(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (strchr("*?[", text[i]) != NULL)
            return true;
    }
    return false;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Spark escapes what is no good in a path as %XX. */
static char *unescape(const char *text)
{
    char *plain = must_strdup(text);
    char *to = plain;
    for (const char *from = text; *from != '\0'; from++) {
        int high = from[0] == '%' ? hex_value(from[1]) : -1;
        int low = high >= 0 ? hex_value(from[2]) : -1;
        if (low >= 0 && high * 16 + low != 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return plain;
}

static void file_deinit(struct storage_file *f)
{
    for (size_t i = 0; i < f->column_count; i++) {
        mem_free(f->column_names[i]);
        mem_free(f->column_values[i]);
    }
    mem_free(f->column_names);
    mem_free(f->column_values);
    mem_free(f->uri);
}

static enum err add_file(struct expansion *x, const char *uri, const struct storage_info *info,
                         const struct level *levels)
{
    if (x->found.count == FILES_MAX)
        return err_set(ERR_LIMIT, "'%s' stands for more than %zu files", x->pattern, FILES_MAX);
    if (!mem_grow(x->found.files, x->capacity, x->found.count + 1))
        return err_prefix(ERR_MEMORY, "cannot list '%s'", x->pattern);
    struct storage_file f = {.uri = must_strdup(uri), .info = *info};
    for (const struct level *l = levels; l != NULL; l = l->above)
        f.column_count++;
    f.column_names = must_alloc(f.column_count * sizeof *f.column_names);
    f.column_values = must_alloc(f.column_count * sizeof *f.column_values);
    size_t index = f.column_count;
    for (const struct level *l = levels; l != NULL; l = l->above) {
        const char *equals = strchr(l->name, '=');
        f.column_names[--index] = must_format("%.*s", (int)(equals - l->name), l->name);
        f.column_values[index] = unescape(equals + 1);
    }
    x->found.files[x->found.count++] = f;
    return ERR_NONE;
}

/* Is there a _SUCCESS in `directory`, or in one above it reached over key=value levels? */
static enum err find_success(const char *directory, bool *is_there)
{
    char *at = must_strdup(directory);
    enum err e = ERR_NONE;
    *is_there = false;
    for (;;) {
        char *name = storage_join(at, "_SUCCESS");
        struct storage_info info;
        e = storage_stat(name, &info);
        mem_free(name);
        if (e != ERR_NOT_FOUND)
            break;
        size_t size = strlen(at);
        while (size > 1 && at[size - 1] == '/')
            at[--size] = '\0';
        char *slash = strrchr(at, '/');
        if (slash == NULL || slash == at || !is_column(slash + 1)) {
            mem_free(at);
            return ERR_NONE;
        }
        *slash = '\0';
    }
    mem_free(at);
    *is_there = e == ERR_NONE;
    return e;
}

static enum err walk_directory(struct expansion *x, const char *uri, const struct level *levels,
                               int depth)
{
    struct storage_list list = {0};
    if (depth == 0)
        return err_set(ERR_LIMIT, "'%s' is deeper than %d levels", x->pattern, DEPTH_MAX);
    enum err e = storage_list(uri, &list);
    if (e != ERR_NONE)
        return e;
    bool has_parts = false;
    for (size_t i = 0; i < list.count && e == ERR_NONE; i++) {
        const char *name = list.entries[i].name;
        if (is_hidden(name))
            continue;
        bool is_directory = list.entries[i].info.is_directory;
        if (is_directory && !is_column(name)) {
            e = err_set(ERR_INPUT,
                        "'%s' holds the directory '%s', which is no key=value level; "
                        "name what is meant, or write '%s/*'",
                        uri, name, uri);
            break;
        }
        has_parts |= !is_directory && strncmp(name, "part-", 5) == 0;
        char *child = storage_join(uri, name);
        struct level level = {.above = levels, .name = name};
        e = is_directory ? walk_directory(x, child, &level, depth - 1)
                         : add_file(x, child, &list.entries[i].info, levels);
        mem_free(child);
    }
    if (e == ERR_NONE && has_parts) {
        bool is_whole = false;
        e = find_success(uri, &is_whole);
        if (e == ERR_NONE && !is_whole)
            e = err_set(ERR_INPUT,
                        "'%s' has part-* files but no _SUCCESS: the job that writes it "
                        "has not finished; to read them all the same name them: '%s/part-*'",
                        uri, uri);
    }
    storage_list_deinit(&list);
    return e;
}

static enum err walk_end(struct expansion *x, const char *uri, const struct level *levels)
{
    struct storage_info info;
    enum err e = storage_stat(uri, &info);
    if (e != ERR_NONE)
        return e;
    return info.is_directory ? walk_directory(x, uri, levels, DEPTH_MAX)
                             : add_file(x, uri, &info, levels);
}

/* One level with a wildcard: the names that match, in order. */
static enum err walk_wildcard(struct expansion *x, const char *uri, const char *rest,
                              const struct level *levels)
{
    size_t size = strcspn(rest, "/");
    bool is_last = rest[size] == '\0' || rest[size + strspn(rest + size, "/")] == '\0';
    char *glob = must_format("%.*s", (int)size, rest);
    struct storage_list list = {0};
    enum err e = storage_list(uri[0] != '\0' ? uri : ".", &list);
    if (e == ERR_NOT_FOUND)
        e = ERR_NONE; /* no hits: said at the end of the pattern */
    for (size_t i = 0; i < list.count && e == ERR_NONE; i++) {
        const char *name = list.entries[i].name;
        bool is_directory = list.entries[i].info.is_directory;
        if ((is_hidden(name) && !is_hidden(glob)) || !str_glob_match(glob, name) ||
            (!is_last && !is_directory))
            continue;
        char *child = storage_join(uri, name);
        struct level level = {.above = levels, .name = name};
        e = walk_pattern(x, child, rest + size, is_directory && is_column(name) ? &level : levels);
        mem_free(child);
    }
    storage_list_deinit(&list);
    mem_free(glob);
    return e;
}

/* `uri` is what is settled, `rest` what is left of the pattern. A plain rest that is not there
   below one hit of a wildcard may be there below another. */
static enum err walk_pattern(struct expansion *x, const char *uri, const char *rest,
                             const struct level *levels)
{
    struct str settled = {0};
    str_append(&settled, uri);
    enum err e;
    for (;;) {
        size_t slashes = strspn(rest, "/");
        size_t size = strcspn(rest + slashes, "/");
        if (rest[0] == '\0') {
            e = walk_end(x, settled.data, levels);
            if (e == ERR_NOT_FOUND)
                e = ERR_NONE;
            break;
        }
        bool is_wild = has_wildcard(rest + slashes, size);
        str_append_span(&settled, span_make(rest, is_wild ? slashes : slashes + size));
        if (is_wild) {
            e = walk_wildcard(x, settled.data, rest + slashes, levels);
            break;
        }
        rest += slashes + size;
    }
    str_deinit(&settled);
    return e;
}

/* A pattern with wildcards that is no name as it stands. */
static enum err walk_from_top(struct expansion *x)
{
    /* "file:*.csv" is a pattern in this directory, not one of names that begin with "file:". */
    if (strncmp(x->pattern, "file:", 5) == 0 && x->pattern[5] != '/')
        return walk_pattern(x, "file:./", x->pattern + 5, NULL);
    return walk_pattern(x, "", x->pattern, NULL);
}

static int compare_files(const void *a, const void *b)
{
    return strcmp(((const struct storage_file *)a)->uri, ((const struct storage_file *)b)->uri);
}

/* Two patterns may name one file: it counts once. */
static void drop_doubles(struct storage_files *files)
{
    size_t kept = 0;
    for (size_t i = 0; i < files->count; i++) {
        if (kept > 0 && strcmp(files->files[kept - 1].uri, files->files[i].uri) == 0)
            file_deinit(&files->files[i]);
        else
            files->files[kept++] = files->files[i];
    }
    files->count = kept;
}

static enum err check_columns(const struct storage_files *files)
{
    for (size_t i = 1; i < files->count; i++) {
        const struct storage_file *a = &files->files[0], *b = &files->files[i];
        bool is_same = a->column_count == b->column_count;
        for (size_t c = 0; is_same && c < a->column_count; c++)
            is_same = strcmp(a->column_names[c], b->column_names[c]) == 0;
        if (!is_same)
            return err_set(ERR_INPUT, "'%s' and '%s' have different key=value levels", a->uri,
                           b->uri);
    }
    return ERR_NONE;
}

enum err storage_expand(const char *const *patterns, size_t count, struct storage_files *out)
{
    struct expansion x = {0};
    enum err e = ERR_NONE;
    for (size_t i = 0; i < count && e == ERR_NONE; i++) {
        size_t before = x.found.count;
        struct storage_info info;
        x.pattern = patterns[i];
        bool has_wildcards = has_wildcard(patterns[i], strlen(patterns[i]));
        e = has_wildcards ? storage_stat(patterns[i], &info) : ERR_NONE;
        if (e == ERR_NONE) /* as it stands */
            e = walk_end(&x, patterns[i], NULL);
        else if (e == ERR_NOT_FOUND)
            e = walk_from_top(&x);
        if (e == ERR_NONE && x.found.count == before)
            e = err_set(ERR_NOT_FOUND, "'%s' stands for no file", patterns[i]);
    }
    if (e == ERR_NONE && x.found.count > 0)
        qsort(x.found.files, x.found.count, sizeof *x.found.files, compare_files);
    if (e == ERR_NONE) {
        drop_doubles(&x.found);
        e = check_columns(&x.found);
    }
    if (e != ERR_NONE)
        storage_files_deinit(&x.found);
    else
        *out = x.found;
    return e;
}

void storage_files_deinit(struct storage_files *f)
{
    for (size_t i = 0; i < f->count; i++)
        file_deinit(&f->files[i]);
    mem_free(f->files);
    *f = (struct storage_files){0};
}
