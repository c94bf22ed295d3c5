#include "common/registry_zookeeper_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

/* What the library says of itself goes to our log, and not all of it: without a server it says
   twenty lines a second. */
#define CHATTER_WINDOW_MS 1000u
#define CHATTER_LINES_MAX 5u
/* Names are looked up this often at most; the library would do it before every wait. */
#define LOOK_UP_EVERY_MS 5000

/* ---- the library's own log ---- */

static void on_chatter(const char *message)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t window_ms;
    static uint32_t count, left_out;
    uint64_t now = clock_ms();
    uint32_t missing = 0;
    pthread_mutex_lock(&mutex);
    if (now - window_ms >= CHATTER_WINDOW_MS) {
        missing = left_out;
        window_ms = now;
        count = left_out = 0;
    }
    bool is_shown = ++count <= CHATTER_LINES_MAX;
    left_out += !is_shown;
    pthread_mutex_unlock(&mutex);
    if (missing > 0)
        log_debug("zookeeper", "lines left out count=%" PRIu32, missing);
    const char *text = strstr(message, "ZOO_"); /* after a time of its own */
    if (is_shown)
        log_debug("zookeeper", "%s", text != NULL ? text : message);
}

/* ---- sessions ---- */

/* Called locked. */
static void note_state(struct zk_session *s, zhandle_t *handle, int state)
{
    struct zk *z = s->zk;
    bool was_connected = s->is_connected;
    s->is_connected = state == ZOO_CONNECTED_STATE;
    if (state == ZOO_EXPIRED_SESSION_STATE || state == ZOO_AUTH_FAILED_STATE)
        s->is_expired = true;
    if (s->is_connected)
        s->id = zoo_client_id(handle)->client_id;
    if (s != z->session)
        return;
    if (was_connected && !s->is_connected) {
        if (z->is_ready)
            z->away_since_ms = clock_ms();
        log_warn("registry", "away registry='%s'", z->uri);
    }
    if (s->is_expired) {
        log_warn("registry", "the session ended registry='%s' session=%" PRIx64, z->uri,
                 (uint64_t)s->id);
        zk_forget_session(z);
    }
    if (s->is_connected && !was_connected && z->is_ready && z->wiped_text == NULL)
        log_info("registry", "back registry='%s' away_ms=%" PRIu64, z->uri,
                 clock_ms() - z->away_since_ms);
    if (s->is_connected)
        z->members.is_stale = z->leader.is_stale = z->is_term_stale = true;
}

/* Called locked. */
static void note_change(struct zk *z, const char *path)
{
    if (strcmp(path, z->paths.members) == 0)
        z->members.is_stale = true;
    else if (strcmp(path, z->paths.leader) == 0)
        z->leader.is_stale = z->is_term_stale = true;
    else if (strcmp(path, z->paths.term) == 0)
        z->is_term_stale = true;
    else if (z->candidate.predecessor != NULL && strcmp(path, z->candidate.predecessor) == 0) {
        mem_free(z->candidate.predecessor);
        z->candidate.predecessor = NULL;
    }
}

static void on_event(zhandle_t *handle, int type, int state, const char *path, void *context)
{
    struct zk_session *s = context;
    struct zk *z = s->zk;
    pthread_mutex_lock(&z->mutex);
    if (type == ZOO_SESSION_EVENT)
        note_state(s, handle, state);
    else if (s == z->session && path != NULL)
        note_change(z, path);
    pthread_cond_broadcast(&z->changed);
    pthread_mutex_unlock(&z->mutex);
}

/* The answer to the credentials says nothing: a server takes any, and compares them with those of a
   node when it is asked for that. */
static void on_credentials(int rc, const void *context)
{
}

enum err zk_session_open(struct zk *z, struct zk_session **out)
{
    struct zk_session *s = must_alloc(sizeof *s);
    s->zk = z;
    ring_init(&s->requests);
    pthread_mutex_lock(&z->mutex);
    s->number = ++z->session_count;
    pthread_mutex_unlock(&z->mutex);
    zoo_set_debug_level(ZOO_LOG_LEVEL_INFO);
    s->handle = zookeeper_init2(z->hosts, on_event, (int)z->session_timeout_ms, NULL, s,
                                ZOO_NO_LOG_CLIENTENV, on_chatter);
    if (s->handle == NULL) {
        int reason = errno;
        mem_free(s);
        return err_set_errno(ERR_UNAVAILABLE, reason, "registry '%s': cannot look up '%s'", z->uri,
                             z->hosts);
    }
    zoo_set_servers_resolution_delay(s->handle, LOOK_UP_EVERY_MS);
    int rc = ZOK;
    if (z->credentials != NULL)
        rc = zoo_add_auth(s->handle, "digest", z->credentials, (int)strlen(z->credentials),
                          on_credentials, NULL);
    if (rc != ZOK) {
        zk_session_close(s);
        return zk_error(z, rc, "");
    }
    *out = s;
    return ERR_NONE;
}

void zk_session_close(struct zk_session *s)
{
    if (s == NULL)
        return;
    struct zk *z = s->zk;
    pthread_mutex_lock(&z->mutex);
    if (z->session == s)
        z->session = NULL;
    pthread_mutex_unlock(&z->mutex);
    zookeeper_close(s->handle); /* calls what is under way back */
    pthread_mutex_lock(&z->mutex);
    CHECK(ring_is_empty(&s->requests));
    pthread_mutex_unlock(&z->mutex);
    mem_free(s);
}

/* ---- requests ---- */

static void request_destroy(struct zk_request *q)
{
    mem_free(q->data);
    registry_names_free(q->names, q->count);
    mem_free(q);
}

static void note_age(struct zk *z, const struct Stat *stat)
{
    if (stat->mzxid > z->seen_zxid)
        z->seen_zxid = stat->mzxid;
}

/* Called locked. */
static void request_end(struct zk_request *q, int rc)
{
    struct zk *z = q->zk;
    ring_remove(&q->of_session);
    q->rc = rc;
    q->is_done = true;
    note_age(z, &q->stat);
    for (size_t i = 0; i < ZK_OPS_MAX; i++)
        note_age(z, &q->op_stats[i]);
    if (q->is_abandoned)
        request_destroy(q);
    else
        pthread_cond_broadcast(&z->changed);
}

static void request_answer(struct zk_request *q, int rc)
{
    struct zk *z = q->zk;
    pthread_mutex_lock(&z->mutex);
    request_end(q, rc);
    pthread_mutex_unlock(&z->mutex);
}

static char *copy_bytes(const char *data, size_t size)
{
    char *copy = must_alloc(size + 1);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

static void on_data(int rc, const char *value, int size, const struct Stat *stat,
                    const void *context)
{
    struct zk_request *q = (struct zk_request *)context;
    if (rc == ZOK) {
        q->size = value != NULL && size > 0 ? (size_t)size : 0;
        q->data = copy_bytes(value, q->size);
        q->stat = *stat;
    }
    request_answer(q, rc);
}

static void on_stat(int rc, const struct Stat *stat, const void *context)
{
    struct zk_request *q = (struct zk_request *)context;
    if (rc == ZOK)
        q->stat = *stat;
    request_answer(q, rc);
}

static void on_names(int rc, const struct String_vector *names, const void *context)
{
    struct zk_request *q = (struct zk_request *)context;
    if (rc == ZOK && names->count > 0) {
        q->count = (size_t)names->count;
        q->names = must_alloc(q->count * sizeof *q->names);
        for (size_t i = 0; i < q->count; i++)
            q->names[i] = must_strdup(names->data[i]);
    }
    request_answer(q, rc);
}

static void on_name(int rc, const char *name, const void *context)
{
    struct zk_request *q = (struct zk_request *)context;
    if (rc == ZOK) {
        q->size = strlen(name);
        q->data = copy_bytes(name, q->size);
    }
    request_answer(q, rc);
}

static void on_end(int rc, const void *context)
{
    request_answer((struct zk_request *)context, rc);
}

static void on_sync(int rc, const char *name, const void *context)
{
}

static const struct ACL_vector *acl_of(const struct zk *z)
{
    return z->credentials != NULL ? &ZOO_CREATOR_ALL_ACL : &ZOO_OPEN_ACL_UNSAFE;
}

/* The library copies what an op points to. */
static int start_multi(struct zk_request *q, zhandle_t *handle, const struct zk_ask *ask)
{
    zoo_op_t ops[ZK_OPS_MAX];
    CHECK(ask->op_count <= ZK_OPS_MAX);
    for (size_t i = 0; i < ask->op_count; i++) {
        const struct zk_op *o = &ask->ops[i];
        switch (o->kind) {
        case ZK_OP_CREATE:
        case ZK_OP_CREATE_OPEN:
        case ZK_OP_CREATE_EPHEMERAL:
            zoo_create_op_init(&ops[i], o->path, o->data.data, (int)o->data.size,
                               o->kind == ZK_OP_CREATE_OPEN ? &ZOO_OPEN_ACL_UNSAFE : acl_of(q->zk),
                               o->kind == ZK_OP_CREATE_EPHEMERAL ? ZOO_EPHEMERAL : ZOO_PERSISTENT,
                               NULL, 0);
            break;
        case ZK_OP_SET:
            zoo_set_op_init(&ops[i], o->path, o->data.data, (int)o->data.size, o->version,
                            &q->op_stats[i]);
            break;
        case ZK_OP_DELETE:
            zoo_delete_op_init(&ops[i], o->path, o->version);
            break;
        case ZK_OP_CHECK:
            zoo_check_op_init(&ops[i], o->path, o->version);
            break;
        }
    }
    return zoo_amulti(handle, (int)ask->op_count, ops, q->results, on_end, q);
}

static int start(struct zk_request *q, struct zk_session *s, const struct zk_ask *ask)
{
    watcher_fn watcher = ask->is_watched ? on_event : NULL;
    void *context = ask->is_watched ? s : NULL;
    /* A session's questions are answered in order: this one sees what the sync brings. */
    if (ask->is_synced)
        zoo_async(s->handle, s->zk->root, on_sync, NULL);
    switch (ask->kind) {
    case ZK_GET:
        return zoo_awget(s->handle, ask->path, watcher, context, on_data, q);
    case ZK_EXISTS:
        return zoo_awexists(s->handle, ask->path, watcher, context, on_stat, q);
    case ZK_CHILDREN:
        return zoo_awget_children(s->handle, ask->path, watcher, context, on_names, q);
    case ZK_APPEND:
        return zoo_acreate(s->handle, ask->path, ask->data.data, (int)ask->data.size, acl_of(s->zk),
                           ZOO_EPHEMERAL_SEQUENTIAL, on_name, q);
    case ZK_MULTI:
        return start_multi(q, s->handle, ask);
    }
    return ZBADARGUMENTS;
}

struct zk_request *zk_start(struct zk *z, struct zk_session *s, const struct zk_ask *ask)
{
    struct zk_request *q = NULL;
    pthread_mutex_lock(&z->mutex);
    if (s == NULL && zk_is_usable(z))
        s = z->session;
    if (s != NULL) {
        q = must_alloc(sizeof *q);
        q->zk = z;
        q->session = s->number;
        ring_push(&s->requests, &q->of_session);
        int rc = start(q, s, ask);
        if (rc != ZOK)
            request_end(q, rc);
    }
    pthread_mutex_unlock(&z->mutex);
    return q;
}

int zk_wait(struct zk_request *q, uint64_t deadline_ms)
{
    struct zk *z = q->zk;
    pthread_mutex_lock(&z->mutex);
    while (!q->is_done && clock_ms() < deadline_ms)
        zk_wait_changed(z, deadline_ms);
    int rc = q->is_done ? q->rc : ZOPERATIONTIMEOUT;
    pthread_mutex_unlock(&z->mutex);
    return rc;
}

void zk_request_free(struct zk_request *q)
{
    if (q == NULL)
        return;
    struct zk *z = q->zk;
    pthread_mutex_lock(&z->mutex);
    if (q->is_done)
        request_destroy(q);
    else
        q->is_abandoned = true;
    pthread_mutex_unlock(&z->mutex);
}
