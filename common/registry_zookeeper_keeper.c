#include "common/registry_zookeeper_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#define AGAIN_MS       500u  /* before what failed is tried again, give or take a half */
#define PROBE_EVERY_MS 1500u /* while away */
#define PROBE_WAIT_MS  1500u
#define IDLE_MS        1000u
/* Connections of a probe in a row after which our session, still refused, is given up. */
#define PROBES_MAX 3u

/* What only the keeper's thread knows. */
struct keeper {
    struct zk *zk;
    uint64_t again_ms, probe_ms; /* not before */
    uint32_t probes;             /* that found the cluster as it should be, in a row */
};

/* ---- what is lost ---- */

static void remains_destroy(struct zk_remains *m)
{
    ring_remove(&m->of_registry);
    for (size_t i = 0; i < m->op_count; i++)
        mem_free((char *)m->ops[i].path);
    mem_free(m);
}

void zk_forget_session(struct zk *z)
{
    struct zk_candidate *c = &z->candidate;
    if (c->leads)
        log_warn("registry", "leadership lost term=%" PRIu64 " why='the session ended'", c->term);
    c->leads = false;
    c->nonce[0] = '\0';
    mem_free(c->node);
    mem_free(c->predecessor);
    c->node = c->predecessor = NULL;
    while (!ring_is_empty(&z->remains))
        remains_destroy(RING_ITEM(z->remains.next, struct zk_remains, of_registry));
    for (struct link *l = z->own_members.next; l != &z->own_members; l = l->next)
        RING_ITEM(l, struct zk_member, of_registry)->is_registered = false;
    z->members.is_stale = z->leader.is_stale = z->is_term_stale = true;
    if (z->is_ready)
        z->away_since_ms = clock_ms();
    z->is_ready = false;
}

void zk_note_term(struct zk *z, uint64_t term)
{
    struct zk_candidate *c = &z->candidate;
    if (term > z->seen_term)
        z->seen_term = term;
    if (c->leads && term > c->term) {
        log_warn("registry", "leadership lost term=%" PRIu64 " newest=%" PRIu64, c->term, term);
        c->leads = false;
    }
}

void zk_note_wiped(struct zk *z, const char *what)
{
    if (z->wiped_text != NULL)
        return;
    z->wiped_text = must_format("registry '%s' has lost what it held: %s; was it wiped, or is it "
                                "another one? look before anything is written, then start this "
                                "process anew",
                                z->uri, what);
    z->candidate.leads = false;
    if (z->is_ready)
        z->away_since_ms = clock_ms();
    log_error("registry", "%s", z->wiped_text);
    pthread_cond_broadcast(&z->changed);
}

/* ---- nodes that should be gone ---- */

static void leave_remains(struct zk *z, const struct zk_op *ops, size_t op_count)
{
    struct zk_remains *m = must_alloc(sizeof *m);
    m->op_count = op_count;
    for (size_t i = 0; i < op_count; i++) {
        m->ops[i] = ops[i];
        m->ops[i].path = must_strdup(ops[i].path);
    }
    ring_push(&z->remains, &m->of_registry);
    pthread_cond_broadcast(&z->changed);
}

void zk_remove_nodes(struct zk *z, uint64_t session, const struct zk_op *ops, size_t op_count)
{
    struct zk_request *q = NULL;
    pthread_mutex_lock(&z->mutex);
    bool is_usable = zk_is_usable(z);
    pthread_mutex_unlock(&z->mutex);
    bool is_gone =
        is_usable &&
        zk_ask_once(z, &(struct zk_ask){.kind = ZK_MULTI, .ops = ops, .op_count = op_count},
                    zk_deadline(z), &q) == ERR_NONE &&
        !zk_is_lost(q->rc);
    pthread_mutex_lock(&z->mutex);
    if (!is_gone && z->session != NULL && z->session->number == session)
        leave_remains(z, ops, op_count);
    pthread_mutex_unlock(&z->mutex);
    zk_request_free(q);
}

/* Called and returns locked. */
static bool clear_remains(struct zk *z)
{
    struct zk_remains *m = RING_ITEM(z->remains.next, struct zk_remains, of_registry);
    uint64_t session = z->session->number;
    struct zk_request *q = NULL;
    ring_remove(&m->of_registry);
    z->is_clearing = true;
    pthread_mutex_unlock(&z->mutex);
    bool is_gone =
        zk_ask_once(z, &(struct zk_ask){.kind = ZK_MULTI, .ops = m->ops, .op_count = m->op_count},
                    zk_deadline(z), &q) == ERR_NONE &&
        !zk_is_lost(q->rc);
    zk_request_free(q);
    pthread_mutex_lock(&z->mutex);
    z->is_clearing = false;
    if (!is_gone && z->session != NULL && z->session->number == session)
        ring_push(&z->remains, &m->of_registry);
    else
        remains_destroy(m);
    return is_gone;
}

/* ---- a new session ---- */

static enum err do_op(struct zk *z, struct zk_session *s, const struct zk_op *op)
{
    struct zk_request *q;
    enum err e = zk_ask_session(z, s, &(struct zk_ask){.kind = ZK_MULTI, .ops = op, .op_count = 1},
                                zk_deadline(z), &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc != ZOK && q->rc != ZNODEEXISTS)
        e = zk_error(z, q->rc, op->path);
    zk_request_free(q);
    return e;
}

/* The cluster's nodes, at its first use. The levels above the root stay open to other clusters. */
static enum err make_cluster(struct zk *z, struct zk_session *s)
{
    char *path = must_strdup(z->root);
    enum err e = ERR_NONE;
    for (char *slash = strchr(path + 1, '/'); slash != NULL && e == ERR_NONE;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        e = do_op(z, s, &(struct zk_op){.kind = ZK_OP_CREATE_OPEN, .path = path});
        *slash = '/';
    }
    mem_free(path);
    char *id = must_format("id %016" PRIx64 "%016" PRIx64, zk_random(z), zk_random(z));
    const struct zk_op ops[] = {
        {.kind = ZK_OP_CREATE, .path = z->root},
        {.kind = ZK_OP_CREATE, .path = z->paths.election},
        {.kind = ZK_OP_CREATE, .path = z->paths.members},
        {.kind = ZK_OP_CREATE, .path = z->paths.names},
        {.kind = ZK_OP_CREATE, .path = z->paths.records},
        {.kind = ZK_OP_CREATE, .path = z->paths.term, .data = span_of(id)},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0] && e == ERR_NONE; i++)
        e = do_op(z, s, &ops[i]);
    mem_free(id);
    return e;
}

/* Reads the term and compares it with what we have seen. A cluster that is not what it was is noted
   as wiped; that is no error here. */
static enum err check_cluster(struct zk *z, struct zk_session *s, bool is_watched)
{
    struct zk_request *q;
    struct zk_ask ask = {
        .kind = ZK_GET, .path = z->paths.term, .is_watched = is_watched, .is_synced = true};
    enum err e = zk_ask_session(z, s, &ask, zk_deadline(z), &q);
    if (e != ERR_NONE)
        return e;
    uint64_t term = (uint64_t)(uint32_t)q->stat.version;
    pthread_mutex_lock(&z->mutex);
    if (q->rc == ZNONODE && z->cluster_id != NULL) {
        zk_note_wiped(z, "its term is gone");
    } else if (q->rc != ZOK) {
        e = zk_error(z, q->rc, z->paths.term);
    } else if (z->cluster_id != NULL && strcmp(z->cluster_id, q->data) != 0) {
        zk_note_wiped(z, "it was made anew");
    } else if (term < z->seen_term) {
        zk_note_wiped(z, "its term is smaller than one that was seen");
    } else {
        if (z->cluster_id == NULL)
            z->cluster_id = must_strdup(q->data);
        zk_note_term(z, term);
    }
    pthread_mutex_unlock(&z->mutex);
    zk_request_free(q);
    return e;
}

/* A copy of the first of our members that is to be registered, after `skipped` of them; or NULL. */
static struct zk_member *next_unregistered(struct zk *z, size_t skipped)
{
    struct zk_member *copy = NULL;
    pthread_mutex_lock(&z->mutex);
    for (struct link *l = z->own_members.next; l != &z->own_members && copy == NULL; l = l->next) {
        struct zk_member *m = RING_ITEM(l, struct zk_member, of_registry);
        if (m->is_registered || skipped-- > 0)
            continue;
        copy = must_alloc(sizeof *copy);
        *copy = (struct zk_member){.zk = z,
                                   .id = must_strdup(m->id),
                                   .role = must_strdup(m->role),
                                   .name = must_strdup(m->name),
                                   .record = must_strdup(m->record)};
        break;
    }
    pthread_mutex_unlock(&z->mutex);
    return copy;
}

/* What is written now must be newer than all that we have seen, or ZooKeeper has gone back. */
static enum err check_age(struct zk *z, struct zk_session *s)
{
    char *prefix = must_format("%s/.age-", z->paths.names);
    struct zk_request *made = NULL, *q = NULL;
    enum err e = zk_ask_session(
        z, s, &(struct zk_ask){.kind = ZK_APPEND, .path = prefix, .data = span_of("")},
        zk_deadline(z), &made);
    if (e == ERR_NONE && made->rc != ZOK)
        e = zk_error(z, made->rc, prefix);
    if (e == ERR_NONE)
        e = zk_ask_session(z, s, &(struct zk_ask){.kind = ZK_EXISTS, .path = made->data},
                           zk_deadline(z), &q);
    if (e == ERR_NONE && q->rc != ZOK)
        e = zk_error(z, q->rc, made->data);
    if (e == ERR_NONE) {
        pthread_mutex_lock(&z->mutex);
        if (q->stat.czxid < z->seen_zxid)
            zk_note_wiped(z, "it went back to an earlier state");
        pthread_mutex_unlock(&z->mutex);
        const struct zk_op op = {.kind = ZK_OP_DELETE, .path = made->data, .version = ZK_ANY};
        e = do_op(z, s, &op);
    }
    zk_request_free(made);
    zk_request_free(q);
    mem_free(prefix);
    return e;
}

static enum err register_one(struct zk *z, struct zk_session *s, const struct zk_member *m)
{
    uint64_t session = 0;
    enum err e = zk_register(z, s, m, zk_deadline(z), &session);
    if (e != ERR_NONE) {
        log_warn("registry", "cannot register anew member=%s: %s", m->id, err_text());
        return e;
    }
    pthread_mutex_lock(&z->mutex);
    struct zk_member *own = zk_member_find(z, m->id);
    if (own != NULL)
        own->is_registered = z->session != NULL && z->session->number == session;
    pthread_mutex_unlock(&z->mutex);
    if (own == NULL)
        zk_unregister(z, session, m); /* it left meanwhile */
    log_info("registry", "registered anew member=%s", m->id);
    return ERR_NONE;
}

/* Registers our members under the ids that they have. `s` NULL: in the session in use. A name that
   somebody took meanwhile is tried again later. */
static enum err register_all(struct zk *z, struct zk_session *s)
{
    enum err e = ERR_NONE, taken = ERR_NONE;
    size_t skipped = 0;
    for (struct zk_member *m; e == ERR_NONE && (m = next_unregistered(z, skipped)) != NULL;) {
        e = register_one(z, s, m);
        if (e == ERR_EXISTS) {
            taken = e;
            e = ERR_NONE;
            skipped++;
        }
        zk_member_free(m);
    }
    return e == ERR_NONE ? taken : e;
}

/* Makes a connected session fit for use. */
static enum err recover(struct keeper *k, struct zk_session *s)
{
    struct zk *z = k->zk;
    enum err e = z->is_opened ? ERR_NONE : make_cluster(z, s);
    if (e == ERR_NONE)
        e = check_cluster(z, s, true);
    if (e == ERR_NONE && z->is_opened)
        e = check_age(z, s);
    pthread_mutex_lock(&z->mutex);
    bool goes_on = e == ERR_NONE && z->wiped_text == NULL;
    pthread_mutex_unlock(&z->mutex);
    if (goes_on)
        e = register_all(z, s);
    if (e == ERR_EXISTS) { /* does not keep the session from being used */
        k->again_ms = clock_ms() + zk_jitter(z, AGAIN_MS);
        e = ERR_NONE;
    }
    return e;
}

/* Called and returns locked, as all that follows. */
static void make_ready(struct keeper *k)
{
    struct zk *z = k->zk;
    struct zk_session *s = z->session;
    pthread_mutex_unlock(&z->mutex);
    enum err e = recover(k, s);
    pthread_mutex_lock(&z->mutex);
    k->probes = 0;
    if (e == ERR_NONE && s->is_connected && !s->is_expired && z->wiped_text == NULL) {
        z->is_ready = z->is_opened = true;
        z->is_term_stale = false;
        log_info("registry",
                 "connected registry='%s' session=%" PRIx64 " timeout_ms=%d asked_ms=%" PRIu32
                 " term=%" PRIu64,
                 z->uri, (uint64_t)s->id, zoo_recv_timeout(s->handle), z->session_timeout_ms,
                 z->seen_term);
    } else if (e != ERR_NONE && e != ERR_UNAVAILABLE && !z->is_opened && z->open_text == NULL) {
        z->open_error = e;
        z->open_text = must_strdup(err_text());
    } else if (e != ERR_NONE) {
        log_warn("registry", "cannot use the new session: %s", err_text());
    }
    if (e != ERR_NONE)
        k->again_ms = clock_ms() + AGAIN_MS;
    pthread_cond_broadcast(&z->changed);
}

static void renew(struct keeper *k)
{
    struct zk *z = k->zk;
    struct zk_session *old = z->session, *s = NULL;
    zk_forget_session(z);
    pthread_mutex_unlock(&z->mutex);
    zk_session_close(old);
    enum err e = zk_session_open(z, &s);
    uint64_t again = clock_ms() + zk_jitter(z, AGAIN_MS);
    pthread_mutex_lock(&z->mutex);
    z->session = s;
    k->probe_ms = again + PROBE_EVERY_MS;
    k->probes = 0;
    if (e == ERR_NONE)
        return;
    k->again_ms = again;
    if (!z->is_opened && z->open_text == NULL) {
        z->open_error = e;
        z->open_text = must_strdup(err_text());
        pthread_cond_broadcast(&z->changed);
    } else {
        log_warn("registry", "%s", err_text());
    }
}

/* ---- away ---- */

/* Our session cannot tell a server that is down from one that was wiped: a server that is behind
   what the session has seen hangs up without a word. A fresh session is let in, and looks. */
static void probe(struct keeper *k)
{
    struct zk *z = k->zk;
    struct zk_session *own = z->session, *s = NULL;
    pthread_mutex_unlock(&z->mutex);
    enum err e = zk_session_open(z, &s);
    uint64_t until = clock_ms() + PROBE_WAIT_MS;
    pthread_mutex_lock(&z->mutex);
    while (e == ERR_NONE && !s->is_connected && !own->is_connected && !own->is_expired &&
           !z->is_closing && clock_ms() < until)
        zk_wait_changed(z, until);
    bool may_look = e == ERR_NONE && s->is_connected && !z->is_closing;
    pthread_mutex_unlock(&z->mutex);
    bool is_there = may_look && check_cluster(z, s, false) == ERR_NONE;
    zk_session_close(s);
    uint64_t next = clock_ms() + zk_jitter(z, PROBE_EVERY_MS);
    pthread_mutex_lock(&z->mutex);
    k->probe_ms = next;
    k->probes = is_there ? k->probes + 1 : 0;
    if (k->probes >= PROBES_MAX && !own->is_connected && z->is_opened) {
        log_warn("registry", "the session is refused, a new one is made registry='%s'", z->uri);
        own->is_expired = true;
    }
}

/* ---- the thread ---- */

static bool has_unregistered(const struct zk *z)
{
    for (const struct link *l = z->own_members.next; l != &z->own_members; l = l->next) {
        if (!RING_ITEM(l, struct zk_member, of_registry)->is_registered)
            return true;
    }
    return false;
}

static void look_at_term(struct keeper *k)
{
    struct zk *z = k->zk;
    struct zk_session *s = z->session;
    z->is_term_stale = false; /* what changes from now on is reported */
    pthread_mutex_unlock(&z->mutex);
    const bool is_watched = true;
    enum err e = check_cluster(z, s, is_watched);
    pthread_mutex_lock(&z->mutex);
    if (e != ERR_NONE) {
        z->is_term_stale = true;
        k->again_ms = clock_ms() + AGAIN_MS;
    }
}

static void register_later(struct keeper *k)
{
    struct zk *z = k->zk;
    pthread_mutex_unlock(&z->mutex);
    enum err e = register_all(z, NULL);
    uint64_t again = clock_ms() + zk_jitter(z, AGAIN_MS);
    pthread_mutex_lock(&z->mutex);
    if (e != ERR_NONE)
        k->again_ms = again;
    z->members.is_stale = true;
}

/* Something to do in a session in use, if there is. */
static bool keep_session(struct keeper *k)
{
    struct zk *z = k->zk;
    if (z->is_term_stale)
        look_at_term(k);
    else if (has_unregistered(z))
        register_later(k);
    else if (!ring_is_empty(&z->remains))
        k->again_ms = clear_remains(z) ? 0 : clock_ms() + AGAIN_MS;
    else if (z->candidate.leads && z->leader.is_stale && !z->leader.is_busy)
        k->again_ms = zk_refresh_leader(z, zk_deadline(z)) == ERR_NONE ? 0 : clock_ms() + AGAIN_MS;
    else
        return false;
    return true;
}

static bool keep(struct keeper *k)
{
    struct zk *z = k->zk;
    uint64_t now = clock_ms();
    if (z->wiped_text != NULL || now < k->again_ms)
        return false;
    if (z->session == NULL || z->session->is_expired)
        renew(k);
    else if (z->session->is_connected && !z->is_ready)
        make_ready(k);
    else if (z->session->is_connected)
        return keep_session(k);
    else if (z->is_opened && now >= k->probe_ms && now - z->away_since_ms >= PROBE_EVERY_MS)
        probe(k);
    else
        return false;
    return true;
}

void *zk_keeper_run(void *context)
{
    struct zk *z = context;
    struct keeper k = {.zk = z};
    pthread_mutex_lock(&z->mutex);
    while (!z->is_closing) {
        if (keep(&k))
            continue;
        uint64_t until = clock_ms() + IDLE_MS;
        if (k.again_ms > clock_ms() && k.again_ms < until)
            until = k.again_ms;
        zk_wait_changed(z, until);
    }
    pthread_mutex_unlock(&z->mutex);
    return NULL;
}
