#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/storage_internal.h"
#include "server/snapshot.h"
#include "tests/sim/sim_parts.h"

/*
 * The storage backend of the simulator: a flat list of files, whose directories are what their
 * names imply. A file appears when its writer is closed, whole; a crash before leaves nothing.
 * Any operation may fail; one that changes something may also have done so and say that it failed.
 */

struct file {
    char *uri;
    uint8_t *data;
    size_t size;
};

struct reader {
    struct storage_reader base;
    char *uri;
    uint8_t *data;
};

struct writer {
    struct storage_writer base;
    char *uri;
    struct str data;
    bool overwrite;
};

bool storage_is_dead;
static bool away, quiet, blind;
static uint32_t crash_countdown;
static struct file *files;
static size_t file_count, file_capacity;

static struct file *find(const char *uri)
{
    for (size_t i = 0; i < file_count; i++)
        if (strcmp(files[i].uri, uri) == 0)
            return &files[i];
    return NULL;
}

/* What stands in the way of an operation; ERR_NONE: nothing. */
static enum err obstacle(const char *uri)
{
    if (quiet)
        return ERR_NONE;
    if (crash_countdown > 0 && --crash_countdown == 0 && !storage_is_dead) {
        storage_is_dead = true;
        process_crash_soon(sim.here);
    }
    if (storage_is_dead)
        return err_set(ERR_IO, "'%s': the process has crashed", uri);
    if (away) {
        sim.count.store_failures++;
        return err_set(ERR_UNAVAILABLE, "'%s': the storage is away", uri);
    }
    if (sim_fault(sim.plan.store_fails)) {
        sim.count.store_failures++;
        return err_set(sim_chance(500) ? ERR_IO : ERR_UNAVAILABLE, "'%s': a failure", uri);
    }
    return ERR_NONE;
}

/* Something was done, and the answer is lost. */
static enum err lost_reply(const char *uri)
{
    bool commits = strstr(uri, CHECKPOINT_MANIFEST) != NULL; /* the one that matters */
    if (quiet || !sim_fault(sim.plan.store_fails * (commits ? 25 : 1)))
        return ERR_NONE;
    sim.count.store_lost_replies++;
    return err_set(ERR_IO, "'%s': the reply was lost", uri);
}

static bool is_under(const char *uri, const char *directory)
{
    size_t size = strlen(directory);
    return strncmp(uri, directory, size) == 0 && uri[size] == '/';
}

static enum err sim_stat(const char *uri, struct storage_info *out)
{
    enum err e = obstacle(uri);
    if (e != ERR_NONE)
        return e;
    const struct file *f = find(uri);
    *out = (struct storage_info){.size = f != NULL ? f->size : 0, .is_directory = f == NULL};
    for (size_t i = 0; f == NULL && i < file_count; i++)
        if (is_under(files[i].uri, uri))
            return ERR_NONE;
    return f != NULL ? ERR_NONE : err_set(ERR_NOT_FOUND, "'%s' does not exist", uri);
}

static bool is_listed(const struct storage_list *l, const char *name, size_t size)
{
    for (size_t i = 0; i < l->count; i++)
        if (strlen(l->entries[i].name) == size && memcmp(l->entries[i].name, name, size) == 0)
            return true;
    return false;
}

static enum err sim_list(const char *uri, struct storage_list *out)
{
    enum err e = obstacle(uri);
    if (e == ERR_NONE && blind && !quiet)
        e = err_set(ERR_NOT_FOUND, "'%s' does not exist", uri);
    if (e != ERR_NONE)
        return e;
    for (size_t i = 0; i < file_count; i++) {
        if (!is_under(files[i].uri, uri))
            continue;
        const char *name = files[i].uri + strlen(uri) + 1;
        size_t size = strcspn(name, "/");
        if (is_listed(out, name, size))
            continue;
        out->entries = must_realloc(out->entries, out->count + 1, sizeof *out->entries);
        out->entries[out->count++] = (struct storage_entry){
            .name = must_format("%.*s", (int)size, name),
            .info = {.size = files[i].size, .is_directory = name[size] == '/'},
        };
    }
    return out->count > 0 ? ERR_NONE : err_set(ERR_NOT_FOUND, "'%s' does not exist", uri);
}

static enum err sim_open(const char *uri, struct storage_reader **out)
{
    enum err e = obstacle(uri);
    const struct file *f = find(uri);
    if (e == ERR_NONE && f == NULL)
        e = err_set(ERR_NOT_FOUND, "'%s' does not exist", uri);
    if (e != ERR_NONE)
        return e;
    struct reader *r = must_alloc(sizeof *r);
    r->base = (struct storage_reader){.backend = &storage_file_backend, .size = f->size};
    r->uri = must_strdup(uri);
    r->data = must_alloc(f->size + 1);
    if (f->size > 0)
        memcpy(r->data, f->data, f->size);
    *out = &r->base;
    return ERR_NONE;
}

static enum err sim_read_at(struct storage_reader *base, uint64_t offset, void *out, size_t size)
{
    const struct reader *r = (const struct reader *)base;
    enum err e = obstacle(r->uri);
    if (e != ERR_NONE)
        return e;
    if (offset > base->size || size > base->size - offset)
        return err_set(ERR_CORRUPT, "'%s' is too short", r->uri);
    memcpy(out, r->data + offset, size);
    return ERR_NONE;
}

static void sim_close(struct storage_reader *base)
{
    struct reader *r = (struct reader *)base;
    mem_free(r->uri);
    mem_free(r->data);
    mem_free(r);
}

static enum err sim_write_open(const char *uri, bool overwrite, struct storage_writer **out)
{
    enum err e = obstacle(uri);
    if (e != ERR_NONE)
        return e;
    struct writer *w = must_alloc(sizeof *w);
    w->base.backend = &storage_file_backend;
    w->uri = must_strdup(uri);
    w->overwrite = overwrite;
    *out = &w->base;
    return ERR_NONE;
}

static enum err sim_write(struct storage_writer *base, const void *data, size_t size)
{
    struct writer *w = (struct writer *)base;
    enum err e = obstacle(w->uri);
    if (e == ERR_NONE)
        str_append_span(&w->data, span_make(data, size));
    return e;
}

static void sim_write_abort(struct storage_writer *base)
{
    struct writer *w = (struct writer *)base;
    str_deinit(&w->data);
    mem_free(w->uri);
    mem_free(w);
}

static void put(const char *uri, const struct str *data)
{
    struct file *f = find(uri);
    if (f == NULL) {
        if (file_count == file_capacity) {
            file_capacity = file_capacity * 2 + 64;
            files = must_realloc(files, file_capacity, sizeof *files);
        }
        f = &files[file_count++];
        *f = (struct file){.uri = must_strdup(uri)};
    }
    mem_free(f->data);
    f->size = data->size;
    f->data = must_alloc(data->size + 1);
    if (data->size > 0)
        memcpy(f->data, data->data, data->size);
}

static enum err sim_write_close(struct storage_writer *base)
{
    struct writer *w = (struct writer *)base;
    enum err e = obstacle(w->uri);
    if (e == ERR_NONE && !w->overwrite && find(w->uri) != NULL)
        e = err_set(ERR_EXISTS, "'%s' exists", w->uri);
    if (e == ERR_NONE) {
        put(w->uri, &w->data);
        oracle_committed(w->uri);
        e = lost_reply(w->uri);
    }
    sim_write_abort(base);
    return e;
}

static void take_out(size_t i)
{
    oracle_removed(files[i].uri);
    mem_free(files[i].uri);
    mem_free(files[i].data);
    files[i] = files[--file_count];
}

static enum err sim_remove(const char *uri)
{
    enum err e = obstacle(uri);
    struct file *f = find(uri);
    if (e != ERR_NONE)
        return e;
    if (f != NULL)
        take_out((size_t)(f - files));
    return lost_reply(uri);
}

static enum err sim_remove_tree(const char *uri)
{
    oracle_tree_removed(uri);
    enum err e = obstacle(uri);
    char *manifest = storage_join(uri, CHECKPOINT_MANIFEST);
    struct file *f = find(manifest);
    if (e == ERR_NONE && f != NULL)
        take_out((size_t)(f - files));
    mem_free(manifest);
    for (size_t i = file_count; e == ERR_NONE && i-- > 0;) {
        if (strcmp(files[i].uri, uri) != 0 && !is_under(files[i].uri, uri))
            continue;
        e = obstacle(uri); /* half of it may be gone */
        if (e == ERR_NONE)
            take_out(i);
    }
    return e;
}

const struct storage_backend storage_file_backend = {
    .scheme = "file",
    .forms = "file:PATH",
    .stat = sim_stat,
    .list = sim_list,
    .open = sim_open,
    .read_at = sim_read_at,
    .close = sim_close,
    .write_open = sim_write_open,
    .write = sim_write,
    .write_close = sim_write_close,
    .write_abort = sim_write_abort,
    .remove = sim_remove,
    .remove_tree = sim_remove_tree,
};

const struct storage_backend *const storage_backends[] = {&storage_file_backend};
const size_t storage_backend_count = 1;

/* ---- for the world ---- */

void storage_begin(void)
{
    away = quiet = blind = storage_is_dead = false;
    crash_countdown = 0;
}

void storage_end(void)
{
    stub_threads_end();
    quiet = true;
    while (file_count > 0) {
        mem_free(files[file_count - 1].uri);
        mem_free(files[--file_count].data);
    }
}

void storage_set_away(bool is_away)
{
    away = is_away;
}

void storage_set_blind(bool is_blind)
{
    blind = is_blind;
}

bool storage_is_away(void)
{
    return away;
}

bool storage_quiet(bool is_quiet)
{
    bool was = quiet;
    quiet = is_quiet;
    return was;
}

void storage_crash_after(uint32_t operations)
{
    crash_countdown = operations;
}

bool storage_damage(const char *directory)
{
    size_t chosen = SIZE_MAX, seen = 0;
    bool manifest = sim_chance(150);
    for (size_t i = 0; i < file_count; i++) {
        bool fits = is_under(files[i].uri, directory) && files[i].size > 0 &&
                    (strstr(files[i].uri, CHECKPOINT_MANIFEST) != NULL) == manifest;
        if (fits && sim_below(++seen) == 0)
            chosen = i;
    }
    if (chosen == SIZE_MAX)
        return false;
    struct file *f = &files[chosen];
    TRACE("damages %s", f->uri);
    if (sim_chance(150))
        f->size = sim_below(f->size);
    else
        f->data[sim_below(f->size)] ^= (uint8_t)(1u << sim_below(8));
    return true;
}

bool storage_verifies(const char *directory)
{
    bool was = quiet, dead = storage_is_dead;
    quiet = true;
    storage_is_dead = false;
    bool good = checkpoint_verify(directory) == ERR_NONE;
    quiet = was;
    storage_is_dead = dead;
    return good;
}
