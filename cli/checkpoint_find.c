#include "cli/checkpoint_find.h"

#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot.h"

static char *without_slashes(const char *uri)
{
    char *copy = must_strdup(uri);
    size_t size = strlen(copy);

    while (size > 1 && copy[size - 1] == '/')
        copy[--size] = 0;
    return copy;
}

/* The newest good one directly in `uri`, older than `before` if that is in it; *out stays NULL when
   there is none. */
static enum err newest_in(const char *uri, const char *before, char **out)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    enum err err = checkpoint_list(uri, &l, &count);

    size_t first = 0;
    for (size_t i = 0; !err && before && i < count; i++)
        if (strcmp(l[i].directory, before) == 0)
            first = i + 1;
    for (size_t i = first; !err && i < count && !*out; i++) {
        if (l[i].refused == ERR_NONE)
            *out = must_strdup(l[i].directory);
        else if (l[i].committed)
            fprintf(stderr, "warning: passed over: %s\n", l[i].why);
    }
    checkpoint_listing_free(l, count);
    return err;
}

/* Of the only job in `uri` that has one. Which of several jobs is meant must be said. */
static enum err newest_below(const char *uri, const char *before, char **out)
{
    struct storage_list list = {0};
    enum err err = storage_list(uri, &list);

    if (err == ERR_NOT_FOUND)
        err = ERR_NONE;
    for (size_t i = 0; !err && i < list.count; i++) {
        char *found = NULL;
        if (!list.entries[i].info.is_directory)
            continue;
        char *below = storage_join(uri, list.entries[i].name);
        err = newest_in(below, before, &found);
        mem_free(below);
        if (!err && found && *out)
            err = err_set(ERR_INPUT, "%s has checkpoints of several jobs, as %s and %s: name one",
                          uri, *out, found);
        if (!*out)
            *out = found;
        else
            mem_free(found);
    }
    storage_list_deinit(&list);
    return err;
}

static enum err find(const char *uri, const char *before, char **directory_out)
{
    char *bare = without_slashes(uri), *found = NULL;
    const char *slash = strrchr(bare, '/');
    uint64_t generation, step;
    enum err err = ERR_NONE;

    if (checkpoint_name_parse(slash ? slash + 1 : bare, &generation, &step) == ERR_NONE) {
        if (!before)
            found = must_strdup(bare);
    } else {
        err = newest_in(bare, before, &found);
        if (!err && !found)
            err = newest_below(bare, before, &found);
    }
    if (!err && !found)
        err = err_set(ERR_NOT_FOUND, "there is no good checkpoint in %s", bare);
    mem_free(bare);
    if (err)
        mem_free(found);
    else
        *directory_out = found;
    return err;
}

enum err checkpoint_find(const char *uri, char **directory_out)
{
    return find(uri, NULL, directory_out);
}

enum err checkpoint_find_older(const char *uri, const char *refused, char **directory_out)
{
    return find(uri, refused, directory_out);
}

static enum err has_some(const char *uri, bool *out)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    enum err err = checkpoint_list(uri, &l, &count);

    *out = count > 0;
    checkpoint_listing_free(l, count);
    return err;
}

enum err checkpoint_find_directory(const char *uri, char **directory_out)
{
    struct storage_list list = {0};
    char *bare = without_slashes(uri), *found = NULL;
    bool some = false;
    enum err err = has_some(bare, &some);

    if (!err && !some)
        err = storage_list(bare, &list);
    if (err == ERR_NOT_FOUND)
        err = ERR_NONE;
    for (size_t i = 0; !err && i < list.count; i++) {
        if (!list.entries[i].info.is_directory)
            continue;
        char *below = storage_join(bare, list.entries[i].name);
        err = has_some(below, &some);
        if (!err && some && found)
            err = err_set(ERR_INPUT, "%s has checkpoints of several jobs, as %s and %s: name one",
                          bare, found, below);
        if (!err && some && !found)
            found = below;
        else
            mem_free(below);
    }
    storage_list_deinit(&list);
    if (err) {
        mem_free(found);
        mem_free(bare);
        return err;
    }
    *directory_out = found ? found : bare;
    if (found)
        mem_free(bare);
    return ERR_NONE;
}

enum err checkpoint_find_job(const char *uri, const struct option_list *sets,
                             const struct option_list *vars, struct job **out)
{
    struct checkpoint_manifest *m = NULL;
    char *directory = NULL;
    enum err err = checkpoint_find(uri, &directory);

    if (!err)
        err = checkpoint_read_manifest(directory, &m, NULL);
    if (!err) {
        struct job_source source = {directory, m->job_yaml, strlen(m->job_yaml),
                                    sets ? sets->items : NULL, vars ? vars->items : NULL};
        err = job_parse(&source, out);
    }
    checkpoint_manifest_destroy(m);
    mem_free(directory);
    return err;
}
