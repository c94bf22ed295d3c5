#include "common/registry_zookeeper_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

/* Records that are asked for at a time. */
#define READS_MAX   128
#define MEMBERS_MAX 65536
#define AGAIN_MS    40u
/* How often a name that is taken is tried. */
#define NAME_EVERY_MS 200u

/* ---- our own ---- */

void zk_member_free(struct zk_member *m)
{
    mem_free(m->id);
    mem_free(m->role);
    mem_free(m->name);
    mem_free(m->record);
    mem_free(m);
}

const char *zk_member_id(const struct registry_member *m)
{
    return ((const struct zk_member *)m)->id;
}

struct zk_member *zk_member_find(struct zk *z, const char *id)
{
    for (struct link *l = z->own_members.next; l != &z->own_members; l = l->next) {
        struct zk_member *m = RING_ITEM(l, struct zk_member, of_registry);
        if (strcmp(m->id, id) == 0)
            return m;
    }
    return NULL;
}

static char *name_node(const struct zk *z, const struct zk_member *m)
{
    return must_format("%s/%s-%s", z->paths.names, m->role, m->name);
}

static char *member_node(const struct zk *z, const char *id)
{
    return must_format("%s/%s", z->paths.members, id);
}

static enum err ask(struct zk *z, struct zk_session *s, const struct zk_ask *what,
                    uint64_t deadline, struct zk_request **out)
{
    return s != NULL ? zk_ask_session(z, s, what, deadline, out)
                     : zk_ask_once(z, what, deadline, out);
}

/* Somebody has the name: it may be ourselves, in a try whose answer was lost. */
static enum err check_owner(struct zk *z, struct zk_session *s, const struct zk_member *m,
                            uint64_t deadline, uint64_t *session)
{
    char *node = name_node(z, m);
    struct zk_request *q = NULL;
    enum err e =
        ask(z, s, &(struct zk_ask){.kind = ZK_GET, .path = node, .is_synced = true}, deadline, &q);
    if (e == ERR_NONE && q->rc != ZOK && q->rc != ZNONODE) {
        e = zk_error(z, q->rc, node);
    } else if (e == ERR_NONE) {
        pthread_mutex_lock(&z->mutex);
        const struct zk_session *now = s != NULL ? s : z->session;
        bool is_ours = q->rc == ZOK && strcmp(q->data, m->id) == 0 && now != NULL &&
                       q->stat.ephemeralOwner == now->id;
        if (is_ours)
            *session = now->number;
        pthread_mutex_unlock(&z->mutex);
        if (!is_ours)
            e = err_set(ERR_EXISTS, "there is a live member '%s' of this role and name",
                        q->rc == ZOK ? q->data : "(gone since)");
    }
    zk_request_free(q);
    mem_free(node);
    return e;
}

/* *is_lost: once more. */
static enum err try_register(struct zk *z, struct zk_session *s, const struct zk_member *m,
                             uint64_t deadline, uint64_t *session, bool *is_lost)
{
    char *name = name_node(z, m), *node = member_node(z, m->id);
    char *text = must_format("%s\n%s", m->role, m->record);
    const struct zk_op ops[] = {
        {.kind = ZK_OP_CREATE_EPHEMERAL, .path = name, .data = span_of(m->id)},
        {.kind = ZK_OP_CREATE_EPHEMERAL, .path = node, .data = span_of(text)},
    };
    struct zk_request *q = NULL;
    enum err e =
        ask(z, s, &(struct zk_ask){.kind = ZK_MULTI, .ops = ops, .op_count = 2}, deadline, &q);
    if (e == ERR_NONE && q->rc == ZOK)
        *session = q->session;
    else if (e == ERR_NONE && q->rc == ZNODEEXISTS)
        e = check_owner(z, s, m, deadline, session);
    else if (e == ERR_NONE) {
        *is_lost = zk_is_lost(q->rc);
        e = zk_error(z, q->rc, node);
    }
    zk_request_free(q);
    mem_free(name);
    mem_free(node);
    mem_free(text);
    return e;
}

enum err zk_register(struct zk *z, struct zk_session *s, const struct zk_member *m,
                     uint64_t deadline_ms, uint64_t *session)
{
    for (;;) {
        bool is_lost = false;
        enum err e = try_register(z, s, m, deadline_ms, session, &is_lost);
        if (!is_lost || clock_ms() + AGAIN_MS >= deadline_ms)
            return e;
        clock_sleep_ms(zk_jitter(z, AGAIN_MS));
    }
}

/* A process that was killed has its name until its session ends, and is started again sooner. */
static enum err register_patiently(struct zk *z, const struct zk_member *m, uint64_t *session)
{
    uint64_t until = clock_ms() + z->session_timeout_ms + z->session_timeout_ms / 4;
    for (bool is_first = true;; is_first = false) {
        enum err e = zk_register(z, NULL, m, zk_deadline(z), session);
        if (e != ERR_EXISTS || clock_ms() >= until)
            return e;
        if (is_first)
            log_info("registry", "waiting for the end of an earlier session: %s", err_text());
        clock_sleep_ms(zk_jitter(z, NAME_EVERY_MS));
    }
}

enum err zk_join(struct registry *base, const char *role, const char *name, const char *record,
                 struct registry_member **out)
{
    struct zk *z = (struct zk *)base;
    char nonce[ZK_NONCE_DIGITS + 1];
    zk_make_nonce(z, nonce);
    struct zk_member *m = must_alloc(sizeof *m);
    *m = (struct zk_member){.base.backend = base->backend,
                            .zk = z,
                            .id = must_format("%s-%s-%s", role, name, nonce),
                            .role = must_strdup(role),
                            .name = must_strdup(name),
                            .record = must_strdup(record)};
    uint64_t session = 0;
    enum err e = register_patiently(z, m, &session);
    if (e != ERR_NONE) {
        zk_member_free(m);
        return err_prefix(e, "cannot join");
    }
    pthread_mutex_lock(&z->mutex);
    /* If the session has ended since, it is for the keeper to do it in the next one. */
    m->is_registered = z->session != NULL && z->session->number == session;
    ring_push(&z->own_members, &m->of_registry);
    z->members.is_stale = true;
    pthread_cond_broadcast(&z->changed);
    pthread_mutex_unlock(&z->mutex);
    *out = &m->base;
    return ERR_NONE;
}

void zk_unregister(struct zk *z, uint64_t session, const struct zk_member *m)
{
    char *name = name_node(z, m), *node = member_node(z, m->id);
    const struct zk_op ops[] = {
        {.kind = ZK_OP_DELETE, .path = name, .version = ZK_ANY},
        {.kind = ZK_OP_DELETE, .path = node, .version = ZK_ANY},
    };
    zk_remove_nodes(z, session, ops, 2);
    mem_free(name);
    mem_free(node);
}

void zk_leave(struct registry_member *base)
{
    struct zk_member *m = (struct zk_member *)base;
    struct zk *z = m->zk;
    pthread_mutex_lock(&z->mutex);
    ring_remove(&m->of_registry);
    uint64_t session = z->session != NULL ? z->session->number : 0;
    pthread_mutex_unlock(&z->mutex);
    zk_unregister(z, session, m);
    pthread_mutex_lock(&z->mutex);
    z->members.is_stale = true;
    pthread_mutex_unlock(&z->mutex);
    zk_member_free(m);
}

/* ---- all ---- */

static const struct registry_entry *find_entry(const struct zk_members *m, const char *id)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(m->entries[middle].id, id);
        if (order == 0)
            return &m->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static struct registry_entry copy_entry(const struct registry_entry *e)
{
    return (struct registry_entry){
        .id = must_strdup(e->id), .role = must_strdup(e->role), .record = must_strdup(e->record)};
}

/* The entry that a member's node holds. */
static enum err parse_entry(const char *id, const struct zk_request *q, struct registry_entry *out)
{
    size_t role_size = strcspn(q->data, "\n");
    if (q->data[role_size] == '\0')
        return err_set(ERR_CORRUPT, "the node of member '%s' has no record", id);
    *out = (struct registry_entry){.id = must_strdup(id),
                                   .role = must_format("%.*s", (int)role_size, q->data),
                                   .record = must_strdup(q->data + role_size + 1)};
    return ERR_NONE;
}

/* Asks for the records of up to READS_MAX members together; those that are gone are left out. */
static enum err read_entries(struct zk *z, char *const *ids, size_t count, uint64_t deadline,
                             struct zk_members *out)
{
    struct zk_request *reads[READS_MAX];
    enum err e = ERR_NONE;
    for (size_t i = 0; i < count; i++) {
        char *node = member_node(z, ids[i]);
        reads[i] = zk_start(z, NULL, &(struct zk_ask){.kind = ZK_GET, .path = node});
        mem_free(node);
    }
    for (size_t i = 0; i < count; i++) {
        int rc = reads[i] != NULL ? zk_wait(reads[i], deadline) : ZCONNECTIONLOSS;
        if (e == ERR_NONE && rc == ZOK) {
            e = parse_entry(ids[i], reads[i], &out->entries[out->count]);
            out->count += e == ERR_NONE;
        } else if (e == ERR_NONE && rc != ZNONODE) {
            e = zk_error(z, rc, z->paths.members);
        }
        zk_request_free(reads[i]);
    }
    return e;
}

/* Only this thread changes z->members now, so it may read them without the mutex. */
static enum err read_members(struct zk *z, uint64_t deadline, struct zk_members *out)
{
    struct zk_request *q;
    enum err e = zk_ask_once(
        z,
        &(struct zk_ask){
            .kind = ZK_CHILDREN, .path = z->paths.members, .is_watched = true, .is_synced = true},
        deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc != ZOK)
        e = zk_error(z, q->rc, z->paths.members);
    else if (q->count > MEMBERS_MAX)
        e = err_set(ERR_LIMIT, "the registry has more than %d members", MEMBERS_MAX);
    else
        out->entries = must_alloc((q->count + 1) * sizeof *out->entries);
    char *news[READS_MAX];
    size_t news_count = 0;
    for (size_t i = 0; i < q->count && e == ERR_NONE; i++) {
        const struct registry_entry *known = find_entry(&z->members, q->names[i]);
        if (known != NULL)
            out->entries[out->count++] = copy_entry(known);
        else
            news[news_count++] = q->names[i];
        if (news_count == READS_MAX || (i + 1 == q->count && news_count > 0)) {
            e = read_entries(z, news, news_count, deadline, out);
            news_count = 0;
        }
    }
    zk_request_free(q);
    return e;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct registry_entry *)a)->id, ((const struct registry_entry *)b)->id);
}

/* Called and returns locked. */
static enum err refresh(struct zk *z, uint64_t deadline)
{
    struct zk_members fresh = {0};
    z->members.is_busy = true;
    z->members.is_stale = false; /* what changes from now on is reported */
    pthread_mutex_unlock(&z->mutex);
    enum err e = read_members(z, deadline, &fresh);
    if (fresh.count > 0)
        qsort(fresh.entries, fresh.count, sizeof *fresh.entries, compare_entries);
    pthread_mutex_lock(&z->mutex);
    z->members.is_busy = false;
    if (e == ERR_NONE) {
        struct zk_members old = z->members;
        z->members.entries = fresh.entries;
        z->members.count = fresh.count;
        fresh = old;
    } else {
        z->members.is_stale = true;
    }
    pthread_cond_broadcast(&z->changed);
    registry_entries_free(fresh.entries, fresh.count);
    return e;
}

enum err zk_list_members(struct registry *base, const char *role, struct registry_entry **out,
                         size_t *count_out)
{
    struct zk *z = (struct zk *)base;
    uint64_t deadline = zk_deadline(z);
    enum err e = ERR_NONE;
    pthread_mutex_lock(&z->mutex);
    while (z->members.is_busy && clock_ms() < deadline)
        zk_wait_changed(z, deadline);
    if (!zk_is_usable(z) || z->members.is_busy)
        e = zk_refuse_unusable(z);
    else if (z->members.is_stale)
        e = refresh(z, deadline);
    if (e == ERR_NONE) {
        struct registry_entry *entries = must_alloc((z->members.count + 1) * sizeof *entries);
        size_t count = 0;
        for (size_t i = 0; i < z->members.count; i++) {
            if (role == NULL || strcmp(role, z->members.entries[i].role) == 0)
                entries[count++] = copy_entry(&z->members.entries[i]);
        }
        *out = entries;
        *count_out = count;
    }
    pthread_mutex_unlock(&z->mutex);
    return e;
}
