/*
 * blockcache_room.c - the cache's share of the disk: the least recently used blocks go first, of
 * whatever data set they are.
 *
 * A block was used when its file was changed last: whoever wants it sets that time. All processes
 * of a machine that use the directory keep it within the limit together, each by looking at the
 * whole of it now and then; so it may be exceeded by what they write between two looks. A block
 * that is mapped may go: the mapping stays good.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "worker/blockcache_internal.h"

#define LOOKS        16   /* a look at the directory after this share of the limit */
#define KEEP_PERCENT 90   /* of the limit, when something has to go */
#define TEMPORARY_S  3600 /* older ones belong to nobody */

struct old_file {
    char *path;
    uint64_t size;
    struct timespec used;
};

struct old_files {
    struct old_file *items;
    size_t count, capacity;
    uint64_t bytes;
};

static bool is_earlier(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static int by_use(const void *a, const void *b)
{
    const struct old_file *x = a, *y = b;
    if (is_earlier(&x->used, &y->used))
        return -1;
    return is_earlier(&y->used, &x->used) ? 1 : strcmp(x->path, y->path);
}

static bool ends_with(const char *name, const char *end)
{
    size_t a = strlen(name), b = strlen(end);
    return a >= b && strcmp(name + a - b, end) == 0;
}

static void take_file(struct old_files *files, const char *directory, const char *name)
{
    struct stat info;
    bool is_temporary = ends_with(name, ".tmp");
    if (!is_temporary && !ends_with(name, ".block"))
        return;
    char *path = must_format("%s/%s", directory, name);
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) {
        mem_free(path);
        return;
    }
    if (is_temporary) {
        if (info.st_mtim.tv_sec + TEMPORARY_S < time(NULL))
            unlink(path);
        mem_free(path);
        return;
    }
    if (files->count == files->capacity) {
        files->capacity = files->capacity * 2 + 64;
        files->items = must_realloc(files->items, files->capacity, sizeof *files->items);
    }
    uint64_t bytes = (uint64_t)info.st_blocks * 512;
    files->items[files->count++] =
        (struct old_file){.path = path, .size = bytes, .used = info.st_mtim};
    files->bytes += bytes;
}

static void list_directory(struct old_files *files, const char *directory)
{
    DIR *d = opendir(directory);
    struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL)
        take_file(files, directory, e->d_name);
    if (d != NULL)
        closedir(d);
}

static void list_all(struct old_files *files, const char *directory)
{
    DIR *d = opendir(directory);
    struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.')
            continue;
        char *path = must_format("%s/%s", directory, e->d_name);
        list_directory(files, path);
        mem_free(path);
    }
    if (d != NULL)
        closedir(d);
    if (files->count > 1)
        qsort(files->items, files->count, sizeof *files->items, by_use);
}

static void files_deinit(struct old_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        mem_free(files->items[i].path);
    mem_free(files->items);
}

/* Removes what was used before `since`, until no more than `keep` bytes are there. */
static uint64_t remove_old(const struct old_files *files, uint64_t keep,
                           const struct timespec *since, uint64_t *count)
{
    uint64_t bytes = files->bytes;
    for (size_t i = 0; i < files->count && bytes > keep; i++) {
        if (!is_earlier(&files->items[i].used, since))
            break;
        if (unlink(files->items[i].path) != 0 && errno != ENOENT) {
            log_warn("blockcache", "cannot remove path='%s' why='%s'", files->items[i].path,
                     strerror(errno));
            continue;
        }
        bytes -= files->items[i].size;
        *count += 1;
    }
    return bytes;
}

uint64_t blockcache_limit(const struct blockcache *c)
{
    struct statvfs fs;
    if (c->o.limit_bytes != 0)
        return c->o.limit_bytes;
    if (statvfs(c->o.directory, &fs) != 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_blocks * fs.f_frsize / 5 * 4;
}

bool blockcache_make_room(struct blockcache *c, uint64_t size, bool full)
{
    pthread_mutex_lock(&c->room_lock);
    uint64_t limit = blockcache_limit(c), step = limit / LOOKS;
    c->unseen_bytes += size;
    if (!full && c->has_looked && c->seen_bytes + c->unseen_bytes <= limit &&
        c->unseen_bytes <= step) {
        pthread_mutex_unlock(&c->room_lock);
        return true;
    }
    struct old_files files = {0};
    list_all(&files, c->o.directory);
    uint64_t keep = limit / 100 * KEEP_PERCENT, count = 0, before = files.bytes;
    if (full && keep > before / 100 * KEEP_PERCENT)
        keep = before / 100 * KEEP_PERCENT;
    c->has_looked = true;
    c->seen_bytes = before;
    if (full || before + size > limit)
        c->seen_bytes = remove_old(&files, keep > size ? keep - size : 0, &c->fill_began, &count);
    c->unseen_bytes = size;
    bool fits = full ? count > 0 : c->seen_bytes + size <= limit;
    files_deinit(&files);
    pthread_mutex_unlock(&c->room_lock);
    if (count > 0)
        log_info("blockcache",
                 "removed the least recently used blocks=%" PRIu64 " bytes=%" PRIu64
                 " limit_bytes=%" PRIu64,
                 count, before - c->seen_bytes, limit);
    atomic_fetch_add(&c->removed_blocks, count);
    return fits;
}
