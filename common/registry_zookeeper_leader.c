#include "common/registry_zookeeper_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#define SEQUENCE_DIGITS 10
/* The contender at the front that does not come for the leadership for so long is passed by. */
#define PASS_BY_MS 3000u

/* ---- who leads ---- */

/* The leader's node: "<term> <nonce>\n<record>". */
static enum err parse_leader(const struct zk *z, const struct zk_request *q, uint64_t *term,
                             const char **record)
{
    size_t digits = strcspn(q->data, " \n");
    size_t head = digits + 1 + ZK_NONCE_DIGITS;
    if (q->size <= head || q->data[head] != '\n' ||
        str_parse_u64(span_make(q->data, digits), term) != ERR_NONE)
        return err_set(ERR_CORRUPT, "registry '%s': '%s' does not begin with a term", z->uri,
                       z->paths.leader);
    *record = q->data + head + 1;
    return ERR_NONE;
}

/* Reads the leader's node and has its next change reported, also when there is none. */
static enum err read_leader_node(struct zk *z, uint64_t deadline, struct zk_request **out)
{
    for (;;) {
        struct zk_request *q;
        struct zk_ask ask = {
            .kind = ZK_GET, .path = z->paths.leader, .is_watched = true, .is_synced = true};
        enum err e = zk_ask_once(z, &ask, deadline, &q);
        if (e != ERR_NONE)
            return e;
        if (q->rc == ZNONODE) {
            zk_request_free(q);
            ask.kind = ZK_EXISTS;
            e = zk_ask_once(z, &ask, deadline, &q);
            if (e != ERR_NONE)
                return e;
            if (q->rc == ZOK) { /* it came between the two */
                zk_request_free(q);
                continue;
            }
        }
        if (q->rc == ZOK || q->rc == ZNONODE) {
            *out = q;
            return ERR_NONE;
        }
        e = zk_error(z, q->rc, z->paths.leader);
        zk_request_free(q);
        return e;
    }
}

/* Under the mutex: takes in what was read. */
static void note_leader(struct zk *z, const char *record, uint64_t term)
{
    bool was_there = z->leader.record != NULL;
    mem_free(z->leader.record);
    z->leader.record = record != NULL ? must_strdup(record) : NULL;
    z->leader.term = term;
    if (record == NULL && (was_there || z->leader.gone_ms == 0))
        z->leader.gone_ms = clock_ms();
    if (record != NULL)
        zk_note_term(z, term);
    struct zk_candidate *c = &z->candidate;
    /* What was read before we won, and is noted after that, says nothing. */
    if (c->leads && !z->leader.is_stale && (record == NULL || term != c->term)) {
        log_warn("registry", "leadership lost term=%" PRIu64 " why='the record vanished'", c->term);
        c->leads = false;
    }
}

/* *record_out is NULL when there is none. */
static enum err read_leader(struct zk *z, uint64_t deadline, char **record_out, uint64_t *term)
{
    struct zk_request *q = NULL;
    const char *record = NULL;
    enum err e = read_leader_node(z, deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc == ZOK)
        e = parse_leader(z, q, term, &record);
    if (e == ERR_NONE)
        *record_out = record != NULL ? must_strdup(record) : NULL;
    zk_request_free(q);
    return e;
}

enum err zk_refresh_leader(struct zk *z, uint64_t deadline)
{
    while (z->leader.is_busy && clock_ms() < deadline)
        zk_wait_changed(z, deadline);
    if (!zk_is_usable(z) || z->leader.is_busy)
        return zk_refuse_unusable(z);
    if (!z->leader.is_stale)
        return ERR_NONE;
    z->leader.is_busy = true;
    z->leader.is_stale = false; /* what changes from now on is reported */
    uint64_t session = z->session->number, term = 0;
    char *record = NULL;
    pthread_mutex_unlock(&z->mutex);
    enum err e = read_leader(z, deadline, &record, &term);
    pthread_mutex_lock(&z->mutex);
    z->leader.is_busy = false;
    if (e == ERR_NONE && (z->session == NULL || z->session->number != session))
        e = zk_error(z, ZSESSIONEXPIRED, "");
    if (e == ERR_NONE)
        note_leader(z, record, term);
    else
        z->leader.is_stale = true;
    pthread_cond_broadcast(&z->changed);
    mem_free(record);
    return e;
}

enum err zk_leader(struct registry *base, char **record_out, uint64_t *term)
{
    struct zk *z = (struct zk *)base;
    pthread_mutex_lock(&z->mutex);
    enum err e = zk_refresh_leader(z, zk_deadline(z));
    if (e == ERR_NONE && z->leader.record == NULL) {
        e = err_set(ERR_NOT_FOUND, "the registry '%s' has no leader now", z->uri);
    } else if (e == ERR_NONE) {
        *record_out = must_strdup(z->leader.record);
        *term = z->leader.term;
    }
    pthread_mutex_unlock(&z->mutex);
    return e;
}

bool zk_leads(struct registry *base, uint64_t *term)
{
    struct zk *z = (struct zk *)base;
    pthread_mutex_lock(&z->mutex);
    bool leads = z->candidate.leads;
    if (leads)
        *term = z->candidate.term;
    pthread_mutex_unlock(&z->mutex);
    return leads;
}

/* ---- the election ---- */

struct attempt {
    struct zk *zk;
    uint64_t deadline, session; /* the session of our place; 0: it is gone */
    char nonce[ZK_NONCE_DIGITS + 1];
    char *node; /* NULL: not known */
    const char *record;
    bool has_place, passes_by; /* passes_by: takes the leadership without regard to the queue */
    bool has_won;
    uint64_t term;
};

static int compare_by_sequence(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    size_t size_x = strlen(x), size_y = strlen(y);
    const char *tail_x = size_x > SEQUENCE_DIGITS ? x + size_x - SEQUENCE_DIGITS : x;
    const char *tail_y = size_y > SEQUENCE_DIGITS ? y + size_y - SEQUENCE_DIGITS : y;
    return strcmp(tail_x, tail_y);
}

/* The contenders in the order in which they came. */
static enum err read_queue(struct attempt *a, struct zk_request **out)
{
    struct zk *z = a->zk;
    struct zk_request *q;
    enum err e = zk_ask(
        z, &(struct zk_ask){.kind = ZK_CHILDREN, .path = z->paths.election, .is_synced = true},
        a->deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc != ZOK) {
        e = zk_error(z, q->rc, z->paths.election);
        zk_request_free(q);
        return e;
    }
    if (q->count > 0)
        qsort(q->names, q->count, sizeof *q->names, compare_by_sequence);
    *out = q;
    return ERR_NONE;
}

/* Where our node stands among the contenders; the count when it does not. It is known by its nonce,
   because the answer that named it may have been lost. */
static size_t find_place(const struct attempt *a, const struct zk_request *queue)
{
    size_t at = 0;
    while (at < queue->count && strstr(queue->names[at], a->nonce) == NULL)
        at++;
    return at;
}

/* Stands last in the queue. */
static enum err enter(struct attempt *a)
{
    struct zk *z = a->zk;
    char *prefix = must_format("%s/c-%s-", z->paths.election, a->nonce);
    struct zk_request *q;
    enum err e =
        zk_ask_once(z, &(struct zk_ask){.kind = ZK_APPEND, .path = prefix, .data = span_of("")},
                    a->deadline, &q);
    if (e == ERR_NONE) {
        if (q->rc == ZOK)
            a->session = q->session;
        else
            e = zk_error(z, q->rc, z->paths.election);
        zk_request_free(q);
    }
    mem_free(prefix);
    return e;
}

/* Under the mutex. */
static void set_predecessor(struct zk *z, const char *node)
{
    mem_free(z->candidate.predecessor);
    z->candidate.predecessor = node != NULL ? must_strdup(node) : NULL;
}

/* Has the end of the contender before us reported. */
static enum err watch_predecessor(struct attempt *a, const char *name, bool *is_gone)
{
    struct zk *z = a->zk;
    char *node = must_format("%s/%s", z->paths.election, name);
    pthread_mutex_lock(&z->mutex);
    set_predecessor(z, node);
    pthread_mutex_unlock(&z->mutex);
    struct zk_request *q = NULL;
    enum err e = zk_ask_once(
        z, &(struct zk_ask){.kind = ZK_EXISTS, .path = node, .is_watched = true}, a->deadline, &q);
    if (e == ERR_NONE && q->rc != ZOK && q->rc != ZNONODE)
        e = zk_error(z, q->rc, node);
    *is_gone = e == ERR_NONE && q->rc == ZNONODE;
    if (e != ERR_NONE || *is_gone) {
        pthread_mutex_lock(&z->mutex);
        set_predecessor(z, NULL);
        pthread_mutex_unlock(&z->mutex);
    }
    zk_request_free(q);
    mem_free(node);
    return e;
}

/* The answer to our multi was lost: is the leader's node ours? */
static enum err look_for_win(struct attempt *a)
{
    struct zk *z = a->zk;
    struct zk_request *q;
    const char *record;
    uint64_t term = 0;
    enum err e =
        zk_ask(z, &(struct zk_ask){.kind = ZK_GET, .path = z->paths.leader, .is_synced = true},
               a->deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc == ZOK)
        e = parse_leader(z, q, &term, &record);
    else if (q->rc != ZNONODE)
        e = zk_error(z, q->rc, z->paths.leader);
    if (e == ERR_NONE && q->rc == ZOK && strstr(q->data, a->nonce) != NULL &&
        strstr(q->data, a->nonce) < record && q->session == a->session) {
        a->term = term;
        a->has_won = true;
    }
    zk_request_free(q);
    return e;
}

/* Raises the term and takes the leader's node, both or neither. */
static enum err try_to_win(struct attempt *a)
{
    struct zk *z = a->zk;
    struct zk_request *q;
    enum err e =
        zk_ask(z, &(struct zk_ask){.kind = ZK_GET, .path = z->paths.term, .is_synced = true},
               a->deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (q->rc != ZOK || q->session != a->session) {
        e = q->rc != ZOK ? zk_error(z, q->rc, z->paths.term) : ERR_NONE;
        zk_request_free(q);
        return e;
    }
    uint64_t term = (uint64_t)(uint32_t)q->stat.version + 1;
    char *text = must_format("%" PRIu64 " %s\n%s", term, a->nonce, a->record);
    const struct zk_op ops[] = {
        {.kind = ZK_OP_SET,
         .path = z->paths.term,
         .data = span_make(q->data, q->size),
         .version = q->stat.version},
        {.kind = ZK_OP_CREATE_EPHEMERAL, .path = z->paths.leader, .data = span_of(text)},
    };
    struct zk_request *multi = NULL;
    e = zk_ask_once(z, &(struct zk_ask){.kind = ZK_MULTI, .ops = ops, .op_count = 2}, a->deadline,
                    &multi);
    if (e == ERR_NONE && multi->rc == ZOK) {
        a->has_won = multi->session == a->session;
        a->term = term;
    } else if (e == ERR_NONE && zk_is_lost(multi->rc)) {
        e = look_for_win(a);
    } else if (e == ERR_NONE && multi->rc != ZNODEEXISTS && multi->rc != ZBADVERSION) {
        e = zk_error(z, multi->rc, z->paths.leader);
    }
    zk_request_free(multi);
    zk_request_free(q);
    mem_free(text);
    return e;
}

/* Takes a place in the queue, and the leadership if nobody stands before us. */
static enum err contend(struct attempt *a)
{
    enum err e = a->has_place ? ERR_NONE : enter(a);
    for (bool again = true; again && e == ERR_NONE;) {
        struct zk_request *queue = NULL;
        again = false;
        e = read_queue(a, &queue);
        if (e != ERR_NONE)
            return e;
        size_t at = find_place(a, queue);
        if (queue->session != a->session || at == queue->count) {
            a->session = 0; /* the next attempt takes a new place */
        } else {
            mem_free(a->node);
            a->node = must_format("%s/%s", a->zk->paths.election, queue->names[at]);
            e = at == 0 || a->passes_by ? try_to_win(a)
                                        : watch_predecessor(a, queue->names[at - 1], &again);
        }
        zk_request_free(queue);
    }
    return e;
}

/* Under the mutex: takes in how it went. */
static void note_attempt(struct zk *z, struct attempt *a)
{
    struct zk_candidate *c = &z->candidate;
    bool is_lasting = z->session != NULL && a->session == z->session->number;
    mem_free(c->node);
    c->node = is_lasting ? a->node : NULL;
    if (!is_lasting)
        mem_free(a->node);
    snprintf(c->nonce, sizeof c->nonce, "%s", is_lasting ? a->nonce : "");
    if (!is_lasting || !a->has_won)
        return;
    c->leads = true;
    c->term = a->term;
    z->leader.is_stale = true; /* the keeper reads it, and so has its vanishing reported */
    zk_note_term(z, a->term);
    log_info("registry", "we lead term=%" PRIu64, c->term);
}

/* Under the mutex: whether there is a reason to ask ZooKeeper. */
static bool has_news(const struct zk *z, bool *passes_by)
{
    const struct zk_candidate *c = &z->candidate;
    bool has_leader = z->leader.record != NULL;
    *passes_by = !has_leader && clock_ms() - z->leader.gone_ms > PASS_BY_MS;
    return c->nonce[0] == '\0' || *passes_by || (!has_leader && c->predecessor == NULL);
}

/* Called and returns locked. */
static enum err try_to_lead(struct zk *z, const char *record, uint64_t deadline)
{
    struct zk_candidate *c = &z->candidate;
    struct attempt a = {.zk = z, .deadline = deadline, .record = record};
    /* Nodes that we could not remove would stand in our own way. */
    if (!has_news(z, &a.passes_by) || z->is_clearing || !ring_is_empty(&z->remains))
        return ERR_NONE;
    a.session = z->session->number;
    a.has_place = c->nonce[0] != '\0';
    memcpy(a.nonce, c->nonce, sizeof a.nonce);
    a.node = c->node != NULL ? must_strdup(c->node) : NULL;
    c->is_busy = true;
    pthread_mutex_unlock(&z->mutex);
    if (!a.has_place)
        zk_make_nonce(z, a.nonce);
    enum err e = contend(&a);
    pthread_mutex_lock(&z->mutex);
    c->is_busy = false;
    note_attempt(z, &a);
    pthread_cond_broadcast(&z->changed);
    return e;
}

enum err zk_lead(struct registry *base, const char *record, bool *is_leader, uint64_t *term)
{
    struct zk *z = (struct zk *)base;
    struct zk_candidate *c = &z->candidate;
    uint64_t deadline = zk_deadline(z);
    enum err e = ERR_NONE;
    pthread_mutex_lock(&z->mutex);
    while (c->is_busy && clock_ms() < deadline)
        zk_wait_changed(z, deadline);
    if (!c->leads) {
        e = c->is_busy ? zk_refuse_unusable(z) : zk_refresh_leader(z, deadline);
        if (e == ERR_NONE)
            e = try_to_lead(z, record, deadline);
    }
    if (e == ERR_NONE) {
        *is_leader = c->leads;
        if (c->leads)
            *term = c->term;
    }
    pthread_mutex_unlock(&z->mutex);
    return e;
}

void zk_resign(struct registry *base)
{
    struct zk *z = (struct zk *)base;
    struct zk_candidate *c = &z->candidate;
    uint64_t deadline = zk_deadline(z);
    pthread_mutex_lock(&z->mutex);
    while (c->is_busy && clock_ms() < deadline)
        zk_wait_changed(z, deadline);
    uint64_t session = z->session != NULL ? z->session->number : 0;
    bool led = c->leads;
    char *node = c->node;
    const struct zk_op leader[] = {
        {.kind = ZK_OP_CHECK, .path = z->paths.term, .version = (int32_t)c->term},
        {.kind = ZK_OP_DELETE, .path = z->paths.leader, .version = ZK_ANY},
    };
    const struct zk_op place = {.kind = ZK_OP_DELETE, .path = node, .version = ZK_ANY};
    c->leads = false;
    if (node != NULL) { /* else our place, if there is one, serves the next time */
        c->node = NULL;
        c->nonce[0] = '\0';
        set_predecessor(z, NULL);
    }
    pthread_mutex_unlock(&z->mutex);
    if (led)
        zk_remove_nodes(z, session, leader, 2);
    if (node != NULL)
        zk_remove_nodes(z, session, &place, 1);
    pthread_mutex_lock(&z->mutex);
    z->leader.is_stale = true;
    pthread_mutex_unlock(&z->mutex);
    mem_free(node);
}
