/*
 * The registry of one machine: "local:DIR". PROTOCOL.md, section 8.
 *
 *     DIR/lock              whoever changes something holds a lock on it
 *     DIR/members/ID        role and record; its owner holds a lock on it for as long as it lives
 *     DIR/leader            term and record, likewise
 *     DIR/term              the highest term so far
 *     DIR/records/PATH      version, checksum of both, and bytes; a '/' of the path is written '!'
 *
 * A file without a lock belongs to a dead process (registry_lock.h); whoever sees a member's
 * removes it.
 *
 * What must outlive the machine (term, records) is synced; members and leader need not be.
 */
#include "common/registry_internal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/registry_local_records.h"
#include "common/registry_lock.h"
#include "common/ring.h"
#include "common/storage.h"
#include "common/str.h"

#define SCHEME         "local:"
#define NONCE_DIGITS   16
#define FILE_MAX_BYTES REGISTRY_LOCAL_FILE_MAX_BYTES
#define MEMBERS_MAX    65536

struct local_registry {
    struct registry base;
    char *directory;
    pthread_mutex_t mutex; /* of what follows */
    struct link members;
    int leader_fd; /* -1: not the leader */
    uint64_t term;
};

struct local_member {
    struct registry_member base;
    struct link of_registry;
    struct local_registry *registry;
    int fd;
    char *id;
    char *path;
};

/* ---- opening ---- */

static enum err make_directory(const char *path)
{
    for (const char *slash = path; slash != NULL;) {
        slash = strchr(slash + 1, '/');
        char *part =
            slash != NULL ? must_format("%.*s", (int)(slash - path), path) : must_strdup(path);
        int result = mkdir(part, 0777);
        int reason = errno;
        mem_free(part);
        if (result != 0 && reason != EEXIST)
            return err_set_errno(ERR_IO, reason, "cannot make the directory '%s'", path);
    }
    return ERR_NONE;
}

static enum err local_open(const char *uri, const struct registry_options *options,
                           struct registry **out)
{
    const char *directory = uri + strlen(SCHEME);
    if (directory[0] == '\0')
        return err_set(ERR_INPUT, "registry '%s' names no directory", uri);
    char *members = storage_join(directory, "members");
    char *records = storage_join(directory, "records");
    enum err e = make_directory(members);
    if (e == ERR_NONE)
        e = make_directory(records);
    if (e == ERR_NONE)
        e = registry_lock_check_file_system(directory);
    mem_free(members);
    mem_free(records);
    if (e != ERR_NONE)
        return e;
    struct local_registry *r = must_alloc(sizeof *r);
    r->base.backend = &registry_local_backend;
    r->directory = must_strdup(directory);
    r->leader_fd = -1;
    ring_init(&r->members);
    CHECK(pthread_mutex_init(&r->mutex, NULL) == 0);
    *out = &r->base;
    return ERR_NONE;
}

/* ---- members ---- */

static const char *local_member_id(const struct registry_member *m)
{
    return ((const struct local_member *)m)->id;
}

/* Calls `visit` for each live member and removes what the dead have left. */
static enum err each_member(struct local_registry *r,
                            enum err (*visit)(void *context, const char *id, const char *text),
                            void *context)
{
    char *path = storage_join(r->directory, "members");
    struct storage_list list = {0};
    enum err e = storage_list(path, &list);
    for (size_t i = 0; i < list.count && e == ERR_NONE; i++) {
        char *file = storage_join(path, list.entries[i].name);
        char *text = NULL;
        e = registry_lock_read(FILE_MAX_BYTES, file, &text);
        if (e == ERR_NONE)
            e = visit(context, list.entries[i].name, text);
        else if (e == ERR_NOT_FOUND)
            e = unlink(file) == 0 || errno == ENOENT
                    ? ERR_NONE
                    : err_set_errno(ERR_IO, errno, "cannot remove '%s'", file);
        mem_free(text);
        mem_free(file);
    }
    storage_list_deinit(&list);
    mem_free(path);
    return e;
}

struct name_search {
    char *prefix; /* "role-name-" */
};

static enum err refuse_same_name(void *context, const char *id, const char *text)
{
    struct name_search *s = context;
    size_t size = strlen(s->prefix);
    if (strncmp(id, s->prefix, size) == 0 && strlen(id + size) == NONCE_DIGITS)
        return err_set(ERR_EXISTS, "there is a live member '%s' of this role and name", id);
    return ERR_NONE;
}

static enum err local_join(struct registry *base, const char *role, const char *name,
                           const char *record, struct registry_member **out)
{
    struct local_registry *r = (struct local_registry *)base;
    uint64_t nonce;
    CHECK(getrandom(&nonce, sizeof nonce, 0) == sizeof nonce);
    int lock_fd = -1, fd = -1;
    struct name_search search = {must_format("%s-%s-", role, name)};
    char *id = must_format("%s%016" PRIx64, search.prefix, nonce);
    char *path = must_format("%s/members/%s", r->directory, id);
    char *text = must_format("%s\n%s", role, record);
    enum err e = registry_lock_take(r->directory, &lock_fd);
    if (e == ERR_NONE)
        e = each_member(r, refuse_same_name, &search);
    if (e == ERR_NONE)
        e = registry_lock_claim(r->directory, path, text, &fd);
    if (lock_fd >= 0)
        close(lock_fd);
    mem_free(search.prefix);
    mem_free(text);
    if (e != ERR_NONE) {
        mem_free(id);
        mem_free(path);
        return err_prefix(e, "cannot join the registry '" SCHEME "%s'", r->directory);
    }
    struct local_member *m = must_alloc(sizeof *m);
    *m = (struct local_member){
        .base.backend = &registry_local_backend, .registry = r, .fd = fd, .id = id, .path = path};
    pthread_mutex_lock(&r->mutex);
    ring_push(&r->members, &m->of_registry);
    pthread_mutex_unlock(&r->mutex);
    *out = &m->base;
    return ERR_NONE;
}

static void member_free(struct local_member *m)
{
    unlink(m->path);
    close(m->fd);
    mem_free(m->id);
    mem_free(m->path);
    mem_free(m);
}

static void local_leave(struct registry_member *base)
{
    struct local_member *m = (struct local_member *)base;
    pthread_mutex_lock(&m->registry->mutex);
    ring_remove(&m->of_registry);
    pthread_mutex_unlock(&m->registry->mutex);
    member_free(m);
}

struct collection {
    const char *role;
    struct registry_entry *entries;
    size_t count, capacity;
};

static enum err collect_member(void *context, const char *id, const char *text)
{
    struct collection *c = context;
    size_t role_size = strcspn(text, "\n");
    if (c->role != NULL && !span_is(span_make(text, role_size), c->role))
        return ERR_NONE;
    if (text[role_size] == '\0')
        return err_set(ERR_CORRUPT, "the file of member '%s' has no record", id);
    if (c->count == MEMBERS_MAX)
        return err_set(ERR_LIMIT, "the registry has more than %d members", MEMBERS_MAX);
    if (!mem_grow(c->entries, c->capacity, c->count + 1))
        return ERR_MEMORY;
    c->entries[c->count++] = (struct registry_entry){
        .id = must_strdup(id),
        .role = must_format("%.*s", (int)role_size, text),
        .record = must_strdup(text + role_size + 1),
    };
    return ERR_NONE;
}

static enum err local_members(struct registry *base, const char *role, struct registry_entry **out,
                              size_t *count_out)
{
    struct collection c = {.role = role};
    enum err e = each_member((struct local_registry *)base, collect_member, &c);
    if (e != ERR_NONE) {
        registry_entries_free(c.entries, c.count);
        return e;
    }
    *out = c.entries;
    *count_out = c.count;
    return ERR_NONE;
}

/* ---- the leader ---- */

/* Of the file's two parts either may be asked for. */
static enum err read_leader(struct local_registry *r, char **record_out, uint64_t *term)
{
    char *path = storage_join(r->directory, "leader");
    char *text = NULL;
    enum err e = registry_lock_read(FILE_MAX_BYTES, path, &text);
    if (e == ERR_NOT_FOUND) {
        e = err_set(ERR_NOT_FOUND, "the registry '" SCHEME "%s' has no leader now", r->directory);
    } else if (e == ERR_NONE) {
        size_t size = strcspn(text, "\n");
        if (text[size] == '\0' || str_parse_u64(span_make(text, size), term) != ERR_NONE)
            e = err_set(ERR_CORRUPT, "'%s' does not begin with a term", path);
        else
            *record_out = must_strdup(text + size + 1);
    }
    mem_free(text);
    mem_free(path);
    return e;
}

static enum err local_leader(struct registry *base, char **record_out, uint64_t *term)
{
    uint64_t found = 0;
    enum err e = read_leader((struct local_registry *)base, record_out, &found);
    if (e == ERR_NONE)
        *term = found;
    return e;
}

/* The next term, durable before anybody hears of it. Under the lock of the directory. */
static enum err raise_term(struct local_registry *r, uint64_t *term_out)
{
    uint64_t term = 0;
    enum err e = registry_local_read_term(r->directory, &term);
    if (e != ERR_NONE)
        return e;
    char *path = storage_join(r->directory, REGISTRY_LOCAL_TERM);
    char *next = must_format("%" PRIu64, term + 1);
    e = registry_local_write(path, span_of(next), span_of(""));
    mem_free(next);
    mem_free(path);
    if (e == ERR_NONE)
        *term_out = term + 1;
    return e;
}

/* Under the registry's mutex. Leaves r->leader_fd at -1 when there is a leader. */
static enum err try_to_lead(struct local_registry *r, const char *record)
{
    char *old_record = NULL;
    int lock_fd = -1;
    uint64_t term = 0;
    /* Asking first spares the followers, who try again and again, the lock. */
    enum err e = read_leader(r, &old_record, &term);
    if (e != ERR_NOT_FOUND)
        goto out;
    e = registry_lock_take(r->directory, &lock_fd);
    if (e != ERR_NONE)
        goto out;
    e = read_leader(r, &old_record, &term);
    if (e != ERR_NOT_FOUND)
        goto out;
    e = raise_term(r, &term);
    if (e == ERR_NONE) {
        char *path = storage_join(r->directory, "leader");
        char *text = must_format("%" PRIu64 "\n%s", term, record);
        e = registry_lock_claim(r->directory, path, text, &r->leader_fd);
        mem_free(text);
        mem_free(path);
    }
    if (e == ERR_NONE)
        r->term = term;
out:
    if (lock_fd >= 0)
        close(lock_fd);
    mem_free(old_record);
    return e;
}

static enum err local_lead(struct registry *base, const char *record, bool *is_leader,
                           uint64_t *term)
{
    struct local_registry *r = (struct local_registry *)base;
    pthread_mutex_lock(&r->mutex);
    enum err e = r->leader_fd >= 0 ? ERR_NONE : try_to_lead(r, record);
    if (e == ERR_NONE) {
        *is_leader = r->leader_fd >= 0;
        if (*is_leader)
            *term = r->term;
    }
    pthread_mutex_unlock(&r->mutex);
    return e;
}

static bool local_leads(struct registry *base, uint64_t *term)
{
    struct local_registry *r = (struct local_registry *)base;
    pthread_mutex_lock(&r->mutex);
    bool leads = r->leader_fd >= 0;
    if (leads)
        *term = r->term;
    pthread_mutex_unlock(&r->mutex);
    return leads;
}

static enum registry_state local_state(struct registry *base, uint64_t *away_ms)
{
    *away_ms = 0;
    return REGISTRY_CONNECTED;
}

static void local_resign(struct registry *base)
{
    struct local_registry *r = (struct local_registry *)base;
    pthread_mutex_lock(&r->mutex);
    if (r->leader_fd >= 0)
        close(r->leader_fd); /* and with it the lock */
    r->leader_fd = -1;
    pthread_mutex_unlock(&r->mutex);
}

static void local_close(struct registry *base)
{
    struct local_registry *r = (struct local_registry *)base;
    local_resign(base);
    while (!ring_is_empty(&r->members)) {
        struct local_member *m = RING_ITEM(r->members.next, struct local_member, of_registry);
        ring_remove(&m->of_registry);
        member_free(m);
    }
    pthread_mutex_destroy(&r->mutex);
    mem_free(r->directory);
    mem_free(r);
}

/* ---- records ---- */

static enum err note_deposed(struct local_registry *r, uint64_t term, enum err e)
{
    pthread_mutex_lock(&r->mutex);
    if (e == ERR_REFUSED && r->leader_fd >= 0 && r->term == term) {
        close(r->leader_fd);
        r->leader_fd = -1;
    }
    pthread_mutex_unlock(&r->mutex);
    return e;
}

static enum err local_put(struct registry *base, const struct registry_write *w,
                          uint64_t *version_out)
{
    struct local_registry *r = (struct local_registry *)base;
    uint64_t term = 0;
    if (w->is_led && !local_leads(base, &term))
        return err_set(ERR_REFUSED, "record '%s' is the leader's to write, and we do not lead",
                       w->path);
    return note_deposed(r, term, registry_local_put(r->directory, w, term, version_out));
}

static enum err local_get(struct registry *base, const char *path, void **data_out,
                          size_t *size_out, uint64_t *version_out)
{
    return registry_local_get(((struct local_registry *)base)->directory, path, data_out, size_out,
                              version_out);
}

static enum err local_remove(struct registry *base, const char *path, bool is_led)
{
    struct local_registry *r = (struct local_registry *)base;
    uint64_t term = 0;
    if (is_led && !local_leads(base, &term))
        return err_set(ERR_REFUSED, "record '%s' is the leader's to remove, and we do not lead",
                       path);
    return note_deposed(r, term, registry_local_remove(r->directory, path, term));
}

static enum err local_list(struct registry *base, const char *path, char ***names_out,
                           size_t *count_out)
{
    return registry_local_list(((struct local_registry *)base)->directory, path, names_out,
                               count_out);
}

const struct registry_backend registry_local_backend = {
    .scheme = SCHEME,
    .forms = SCHEME "DIR",
    .open = local_open,
    .close = local_close,
    .state = local_state,
    .join = local_join,
    .member_id = local_member_id,
    .leave = local_leave,
    .members = local_members,
    .lead = local_lead,
    .leads = local_leads,
    .resign = local_resign,
    .leader = local_leader,
    .put = local_put,
    .get = local_get,
    .remove = local_remove,
    .list = local_list,
};
