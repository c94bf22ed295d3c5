#include "worker/blockcache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/blockcache_internal.h"
#include "worker/datafiles.h"

#define CACHE_VERSION 1

/* ---- opening --------------------------------------------------------------------------------- */

static enum err make_directories(const char *path)
{
    char *copy = must_strdup(path);
    enum err e = ERR_NONE;
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char held = *p;
        *p = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            e = err_set_errno(ERR_IO, errno, "block cache: cannot make the directory '%s'", copy);
        *p = held;
        if (held == '\0' || e != ERR_NONE)
            break;
    }
    mem_free(copy);
    return e;
}

/* Everything that decides what a block's columns are: the data, how it is read, and where features
 * go. */
static uint64_t identity_of(const struct blockcache_options *o)
{
    struct data_files files = {.files = o->index->files, .count = o->index->file_count};
    char hex[SHA256_HEX_SIZE];
    data_files_identity(o->job, &files, hex);
    uint64_t id = hash64(hex, strlen(hex), CACHE_VERSION);
    id = hash64(o->index->checksum, strlen(o->index->checksum), id);
    for (size_t i = 0; i < o->spec->feature_count; i++) {
        const struct feature_spec *f = &o->spec->features[i];
        const uint64_t places[] = {f->seed,         f->table,       f->slot,
                                   f->dense_offset, f->dense_width, f->gives_terms};
        id = hash64(places, sizeof places, id);
    }
    for (size_t i = 0; i < o->job->model.more_labels.count; i++)
        id = hash64(o->job->model.more_labels.items[i], strlen(o->job->model.more_labels.items[i]),
                    id);
    if (o->job->eval.gauc_column != NULL)
        id = hash64(o->job->eval.gauc_column, strlen(o->job->eval.gauc_column), id);
    return id;
}

static void number_blocks(struct blockcache *c)
{
    const struct dataindex *d = c->o.index;
    c->first_block = must_alloc(((size_t)d->file_count + 1) * sizeof *c->first_block);
    for (uint32_t b = 0; b < d->block_count; b++)
        c->first_block[d->blocks[b].file + 1]++;
    for (uint32_t f = 0; f < d->file_count; f++)
        c->first_block[f + 1] += c->first_block[f];
}

static enum err open_features(struct blockcache *c)
{
    data_fields_of_index(&c->o.job->data, c->o.index, &c->fields);
    struct features_options o = {.job = c->o.job,
                                 .spec = c->o.spec,
                                 .index = c->o.index,
                                 .columns = (const char *const *)c->fields.items,
                                 .column_count = (uint32_t)c->fields.count};
    return features_create(&o, &c->features);
}

enum err blockcache_open(const struct blockcache_options *o, struct blockcache **out)
{
    struct blockcache *c = must_alloc(sizeof *c);
    c->o = *o;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->room_lock, NULL);
    c->set = identity_of(o);
    c->directory = must_format("%s/%016" PRIx64, o->directory, c->set);
    c->verified = must_alloc(o->index->block_count * sizeof *c->verified);
    number_blocks(c);
    enum err e = make_directories(c->directory);
    if (e == ERR_NONE)
        e = open_features(c);
    if (e != ERR_NONE) {
        blockcache_close(c);
        return e;
    }
    *out = c;
    return ERR_NONE;
}

void blockcache_close(struct blockcache *c)
{
    if (c == NULL)
        return;
    blockcache_free_workers(c);
    pool_destroy(c->pool);
    features_destroy(c->features);
    text_list_free(&c->fields);
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->room_lock);
    mem_free(c->first_block);
    mem_free(c->verified);
    mem_free(c->directory);
    mem_free(c);
}

uint32_t blockcache_block_count(const struct blockcache *c)
{
    return c->o.index->block_count;
}

struct blockcache_counters blockcache_counters(struct blockcache *c)
{
    return (struct blockcache_counters){
        atomic_load(&c->parsed_blocks), atomic_load(&c->unpacked_files),
        atomic_load(&c->removed_blocks), atomic_load(&c->skipped_blocks)};
}

/* ---- files ----------------------------------------------------------------------------------- */

char *blockcache_path(const struct blockcache *c, uint32_t block)
{
    return must_format("%s/%08u.block", c->directory, block);
}

bool blockcache_has(const struct blockcache *c, uint32_t block)
{
    char *path = blockcache_path(c, block);
    bool there = access(path, R_OK) == 0;
    mem_free(path);
    return there;
}

static enum err write_file(int fd, const char *path, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return err_set_errno(errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO, errno,
                                 "block cache: cannot write '%s'; scratch names its directory",
                                 path);
        data += written;
        size -= (size_t)written;
    }
    return ERR_NONE;
}

static enum err store_once(const char *path, const struct block_builder *b)
{
    static _Atomic uint64_t number;
    char *temporary =
        must_format("%s.%d-%" PRIu64 ".tmp", path, (int)getpid(), atomic_fetch_add(&number, 1));
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    enum err e = ERR_NONE;
    if (fd < 0)
        e = err_set_errno(ERR_IO, errno, "block cache: cannot make '%s'", temporary);
    if (e == ERR_NONE)
        e = write_file(fd, temporary, b->image, b->image_size);
    /* No fsync: a file that a crash cut short fails its checksum and is made again. */
    if (fd >= 0 && close(fd) != 0 && e == ERR_NONE)
        e = err_set_errno(ERR_IO, errno, "block cache: cannot close '%s'", temporary);
    if (e == ERR_NONE && rename(temporary, path) != 0)
        e = err_set_errno(ERR_IO, errno, "block cache: cannot rename '%s'", temporary);
    if (e != ERR_NONE && fd >= 0)
        unlink(temporary);
    mem_free(temporary);
    return e;
}

enum err blockcache_store(struct blockcache *c, uint32_t block, const struct block_builder *b,
                          bool needed)
{
    if (!blockcache_make_room(c, b->image_size, false) && !needed) {
        if (atomic_fetch_add(&c->skipped_blocks, 1) == 0)
            log_warn("blockcache",
                     "scratch_limit is less than a packed file needs: it is unpacked again and "
                     "again; raise it, or pack the data in smaller files directory='%s' "
                     "limit_bytes=%" PRIu64,
                     c->o.directory, blockcache_limit(c));
        return ERR_NONE;
    }
    char *path = blockcache_path(c, block);
    enum err e = store_once(path, b);
    if (e == ERR_LIMIT && blockcache_make_room(c, b->image_size, true))
        e = store_once(path, b);
    atomic_store(&c->verified[block], false);
    mem_free(path);
    return e;
}

/* ---- mapping --------------------------------------------------------------------------------- */

static enum err map_file(const char *path, void **memory, size_t *size)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno,
                             "block cache: cannot open '%s'", path);
    enum err e = ERR_NONE;
    if (fstat(fd, &info) != 0)
        e = err_set_errno(ERR_IO, errno, "block cache: cannot stat '%s'", path);
    else if (info.st_size == 0)
        e = err_set(ERR_CORRUPT, "block cache: '%s' is empty", path);
    void *map = MAP_FAILED;
    if (e == ERR_NONE) {
        map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
            e = err_set_errno(ERR_LIMIT, errno,
                              "block cache: cannot map '%s' (see vm.max_map_count)", path);
    }
    close(fd);
    if (e == ERR_NONE) {
        *memory = map;
        *size = (size_t)info.st_size;
    }
    return e;
}

static enum err check_counts(const struct blockcache *c, uint32_t block, const char *path,
                             const struct block_view *v)
{
    const struct dataindex_block *b = &c->o.index->blocks[block];
    bool fits = v->count == b->record_count && v->train_count == b->train_count &&
                v->table_count == c->o.spec->table_count &&
                v->dense_width == c->o.spec->dense_width &&
                v->more_label_count == c->o.job->model.more_labels.count;
    for (uint32_t t = 0; fits && t < v->table_count; t++)
        fits = v->tables[t].slot_count == c->o.spec->tables[t].slot_count;
    return fits ? ERR_NONE : err_set(ERR_CORRUPT, "%s: its counts are not the index's", path);
}

enum err blockcache_map(struct blockcache *c, uint32_t block, struct block_view *out)
{
    CHECK(block < c->o.index->block_count);
    char *path = blockcache_path(c, block);
    struct block_identity id = {c->set, block};
    struct block_view v = {0};
    void *memory = NULL;
    size_t size = 0;
    enum err e = map_file(path, &memory, &size);
    if (e == ERR_NONE)
        e = block_view_open(path, memory, size, id, !atomic_load(&c->verified[block]), &v);
    if (e == ERR_NONE) {
        e = check_counts(c, block, path, &v);
        if (e != ERR_NONE)
            block_view_close(&v);
    }
    if (e != ERR_NONE && memory != NULL)
        munmap(memory, size);
    if (e == ERR_CORRUPT) {
        log_warn("blockcache", "made again: %s", err_text());
        unlink(path);
        e = ERR_NOT_FOUND;
    }
    if (e == ERR_NONE) {
        atomic_store(&c->verified[block], true);
        *out = v;
    }
    mem_free(path);
    return e;
}

void blockcache_unmap(struct block_view *v)
{
    if (v->memory != NULL)
        munmap(v->memory, v->size);
    block_view_close(v);
    *v = (struct block_view){0};
}
