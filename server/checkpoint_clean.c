#include "server/checkpoint_clean.h"

#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot.h"

struct cleaning {
    uint64_t before_ms; /* what was last changed earlier is old */
    struct checkpoint_cleaned done;
    enum err failure; /* the last one */
};

static void note(struct cleaning *c, enum err e, const char *uri, uint32_t *count)
{
    if (e == ERR_NONE) {
        log_info("checkpoint", "removed %s, which a dead attempt left", uri);
        ++*count;
    } else {
        log_warn("checkpoint", "cannot remove %s: %s", uri, err_text());
        c->failure = e;
    }
}

static bool is_old(const struct cleaning *c, const struct storage_info *info)
{
    return info->modified_ms < c->before_ms;
}

static bool is_listed(const struct checkpoint_manifest *m, const char *name)
{
    for (uint32_t i = 0; i < m->file_count; i++) {
        if (strcmp(m->files[i].name, name) == 0)
            return true;
    }
    return strcmp(name, CHECKPOINT_MANIFEST) == 0;
}

/* Of a whole checkpoint: what its manifest does not know. */
static enum err clean_committed(struct cleaning *c, const char *directory)
{
    struct checkpoint_manifest *m = NULL;
    struct storage_list list = {0};
    enum err e = checkpoint_read_manifest(directory, &m, NULL);
    if (e == ERR_NONE)
        e = storage_list(directory, &list);
    for (size_t i = 0; e == ERR_NONE && i < list.count; i++) {
        const struct storage_entry *entry = &list.entries[i];
        if (entry->info.is_directory || is_listed(m, entry->name) || !is_old(c, &entry->info))
            continue;
        char *uri = storage_join(directory, entry->name);
        note(c, storage_remove(uri), uri, &c->done.files);
        mem_free(uri);
    }
    storage_list_deinit(&list);
    checkpoint_manifest_destroy(m);
    return e;
}

/* It goes when all in it is old: an attempt under way writes something new. An empty one says
   nothing of its age, and is left. */
static enum err clean_uncommitted(struct cleaning *c, const char *directory)
{
    struct storage_list list = {0};
    enum err e = storage_list(directory, &list);
    bool goes = e == ERR_NONE && list.count > 0;
    for (size_t i = 0; i < list.count; i++)
        goes &= !list.entries[i].info.is_directory && is_old(c, &list.entries[i].info);
    storage_list_deinit(&list);
    if (goes)
        note(c, storage_remove_tree(directory), directory, &c->done.directories);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

enum err checkpoint_clean(const char *job_uri, uint64_t older_than_ms,
                          struct checkpoint_cleaned *out)
{
    struct cleaning c = {0};
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    uint64_t now = clock_wall_ms();
    c.before_ms = now > older_than_ms ? now - older_than_ms : 0;
    enum err e = checkpoint_list(job_uri, &l, &count);
    for (size_t i = 0; i < count && e == ERR_NONE; i++) {
        if (!l[i].committed)
            e = clean_uncommitted(&c, l[i].directory);
        else if (l[i].refused == ERR_NONE)
            e = clean_committed(&c, l[i].directory);
    }
    if (e == ERR_NONE)
        e = storage_remove_leftovers(job_uri, c.before_ms, &c.done.writes);
    checkpoint_listing_free(l, count);
    if (e == ERR_NONE)
        e = c.failure;
    if (e == ERR_NONE)
        *out = c.done;
    return e;
}
