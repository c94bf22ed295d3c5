#include "common/registry_zookeeper_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"

#define HEAD_BYTES (ZK_NONCE_DIGITS + 1)
#define AGAIN_MS   40u
/* Rounds of one call; more of them need somebody who makes and removes the record all the time. */
#define ROUNDS_MAX 100

/* A node that is a level carries a mark that no name may have, so "a" and "a/b" go together. */
static void append_levels(struct str *s, const char *path)
{
    for (const char *c = path; *c != '\0'; c++) {
        if (*c == '/')
            str_append(s, "!/");
        else
            str_append_span(s, span_make(c, 1));
    }
}

static char *record_node(const struct zk *z, const char *path)
{
    struct str s = {0};
    str_append_format(&s, "%s/", z->paths.records);
    append_levels(&s, path);
    return s.data;
}

/* ---- reading ---- */

static enum err read_record(struct zk *z, const char *path, uint64_t deadline,
                            struct zk_request **out)
{
    struct zk_request *q = NULL;
    char *node = record_node(z, path);
    enum err e =
        zk_ask(z, &(struct zk_ask){.kind = ZK_GET, .path = node, .is_synced = true}, deadline, &q);
    if (e == ERR_NONE && q->rc == ZOK && (q->size < HEAD_BYTES || q->data[HEAD_BYTES - 1] != '\n'))
        e = err_set(ERR_CORRUPT, "registry '%s': node '%s' is no record", z->uri, node);
    else if (e == ERR_NONE && q->rc == ZNONODE)
        e = err_set(ERR_NOT_FOUND, "the registry has no record '%s'", path);
    else if (e == ERR_NONE && q->rc != ZOK)
        e = zk_error(z, q->rc, node);
    if (e == ERR_NONE)
        *out = q;
    else
        zk_request_free(q);
    mem_free(node);
    return e;
}

/* ZooKeeper counts versions from 0, we from 1. */
static uint64_t version_of(const struct Stat *stat)
{
    return (uint64_t)(uint32_t)stat->version + 1;
}

enum err zk_get(struct registry *base, const char *path, void **data_out, size_t *size_out,
                uint64_t *version_out)
{
    struct zk *z = (struct zk *)base;
    struct zk_request *q = NULL;
    enum err e = read_record(z, path, zk_deadline(z), &q);
    if (e != ERR_NONE)
        return e;
    memmove(q->data, q->data + HEAD_BYTES, q->size - HEAD_BYTES + 1); /* with the final 0 */
    *data_out = q->data;
    *size_out = q->size - HEAD_BYTES;
    *version_out = version_of(&q->stat);
    q->data = NULL;
    zk_request_free(q);
    return ERR_NONE;
}

enum err zk_list(struct registry *base, const char *path, char ***names_out, size_t *count_out)
{
    struct zk *z = (struct zk *)base;
    struct str node = {0};
    str_append(&node, z->paths.records);
    if (path[0] != '\0') {
        str_append(&node, "/");
        append_levels(&node, path);
        str_append(&node, "!");
    }
    struct zk_request *q;
    enum err e =
        zk_ask(z, &(struct zk_ask){.kind = ZK_CHILDREN, .path = node.data, .is_synced = true},
               zk_deadline(z), &q);
    if (e == ERR_NONE && q->rc != ZOK && q->rc != ZNONODE) {
        e = zk_error(z, q->rc, node.data);
        zk_request_free(q);
    }
    str_deinit(&node);
    if (e != ERR_NONE)
        return e;
    size_t count = 0;
    for (size_t i = 0; i < q->count; i++) {
        if (strchr(q->names[i], '!') != NULL)
            mem_free(q->names[i]);
        else
            q->names[count++] = q->names[i];
    }
    *names_out = q->names;
    *count_out = count;
    q->names = NULL;
    q->count = 0;
    zk_request_free(q);
    return ERR_NONE;
}

/* ---- writing ---- */

/* One write or removal, and how far it has come. */
struct change {
    struct zk *zk;
    const struct registry_write *write; /* NULL: removal */
    const char *path;
    char *node;
    struct str bytes;
    char nonce[ZK_NONCE_DIGITS + 1];
    bool is_led, creates; /* creates: the next try makes the node */
    uint64_t term;
    uint64_t deadline, version;
};

static enum err refuse_deposed(struct change *c, uint64_t newest)
{
    struct zk *z = c->zk;
    pthread_mutex_lock(&z->mutex);
    zk_note_term(z, newest);
    pthread_mutex_unlock(&z->mutex);
    return err_set(ERR_REFUSED,
                   "record '%s' stays as it is: we led by term %" PRIu64
                   " and were deposed by term %" PRIu64,
                   c->path, c->term, newest);
}

/* The check of the term failed: says by whom. */
static enum err explain_deposed(struct change *c)
{
    struct zk *z = c->zk;
    struct zk_request *q;
    enum err e =
        zk_ask(z, &(struct zk_ask){.kind = ZK_EXISTS, .path = z->paths.term, .is_synced = true},
               c->deadline, &q);
    if (e != ERR_NONE)
        return e;
    uint64_t newest = (uint64_t)(uint32_t)q->stat.version;
    int rc = q->rc;
    zk_request_free(q);
    if (rc == ZOK)
        return refuse_deposed(c, newest);
    pthread_mutex_lock(&z->mutex);
    if (rc == ZNONODE)
        zk_note_wiped(z, "its term is gone");
    e = zk_refuse_unusable(z);
    pthread_mutex_unlock(&z->mutex);
    return e;
}

/* Makes the levels above a record. */
static enum err make_levels(struct change *c)
{
    struct zk *z = c->zk;
    enum err e = ERR_NONE;
    size_t root = strlen(z->paths.records) + 1;
    for (char *slash = strchr(c->node + root, '/'); slash != NULL && e == ERR_NONE;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        struct zk_op op = {.kind = ZK_OP_CREATE, .path = c->node, .data = span_of("")};
        struct zk_request *q;
        e = zk_ask(z, &(struct zk_ask){.kind = ZK_MULTI, .ops = &op, .op_count = 1}, c->deadline,
                   &q);
        if (e == ERR_NONE) {
            if (q->rc != ZOK && q->rc != ZNODEEXISTS && q->rc != ZNONODE)
                e = zk_error(z, q->rc, c->node);
            zk_request_free(q);
        }
        *slash = '/';
    }
    return e;
}

/* The connection was lost: was it written? *is_done, or another try may be made. */
static enum err look_for_it(struct change *c, bool *is_done)
{
    const struct registry_write *w = c->write;
    struct zk_request *q = NULL;
    enum err e = read_record(c->zk, c->path, c->deadline, &q);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE; /* not by us; a version that was asked for is refused by the next try */
    if (e != ERR_NONE)
        return e;
    uint64_t found = version_of(&q->stat);
    if (memcmp(q->data, c->nonce, ZK_NONCE_DIGITS) == 0) {
        c->version = found;
        *is_done = true;
    } else if (w->version != REGISTRY_ANY_VERSION && found > w->version + 1) {
        /* Ours may have been there, and been replaced since. */
        e = err_set(ERR_UNAVAILABLE,
                    "registry '%s' was lost while record '%s' was written; it has version %" PRIu64
                    " now, and whether ours was before it is not known",
                    c->zk->uri, c->path, found);
    }
    zk_request_free(q);
    return e;
}

static enum err refuse_version(struct change *c)
{
    struct zk_request *q = NULL;
    enum err e = read_record(c->zk, c->path, c->deadline, &q);
    if (e == ERR_NONE) {
        e = err_set(ERR_EXISTS, "record '%s' has version %" PRIu64 ", not %" PRIu64, c->path,
                    version_of(&q->stat), c->write->version);
        zk_request_free(q);
    } else if (e == ERR_NOT_FOUND && c->write->version == 0) {
        e = ERR_NONE; /* it went again */
    }
    return e;
}

/* What the answer to a write means. */
static enum err judge_write(struct change *c, int rc, bool *is_done)
{
    uint64_t version = c->write->version;
    if (zk_is_lost(rc)) {
        clock_sleep_ms(zk_jitter(c->zk, AGAIN_MS));
        return look_for_it(c, is_done);
    }
    switch (rc) {
    case ZOK:
        *is_done = true;
        return ERR_NONE;
    case ZNODEEXISTS:
        if (version != REGISTRY_ANY_VERSION)
            return refuse_version(c);
        c->creates = false;
        return ERR_NONE;
    case ZNONODE:
        if (c->creates)
            return make_levels(c);
        if (version != REGISTRY_ANY_VERSION)
            return err_set(ERR_NOT_FOUND, "the registry has no record '%s'", c->path);
        c->creates = true;
        return ERR_NONE;
    case ZBADVERSION:
        return refuse_version(c);
    default:
        return zk_error(c->zk, rc, c->node);
    }
}

/* What the answer to a removal means. */
static enum err judge_removal(struct change *c, int rc, bool *is_done)
{
    if (zk_is_lost(rc)) {
        clock_sleep_ms(zk_jitter(c->zk, AGAIN_MS));
        return ERR_NONE;
    }
    *is_done = rc == ZOK || rc == ZNONODE;
    return *is_done ? ERR_NONE : zk_error(c->zk, rc, c->node);
}

static struct zk_op change_op(const struct change *c)
{
    struct zk_op op = {.kind = ZK_OP_DELETE, .path = c->node, .version = ZK_ANY};
    if (c->write == NULL)
        return op;
    op.kind = c->creates ? ZK_OP_CREATE : ZK_OP_SET;
    op.data = span_make(c->bytes.data, c->bytes.size);
    if (c->write->version != REGISTRY_ANY_VERSION)
        op.version = (int32_t)(c->write->version - 1);
    return op;
}

static enum err try_change(struct change *c, bool *is_done)
{
    struct zk *z = c->zk;
    uint64_t term = 0;
    if (c->is_led && (!zk_leads(&z->base, &term) || term != c->term))
        return err_set(ERR_REFUSED, "record '%s' is the leader's, and we do not lead", c->path);
    struct zk_op ops[2] = {
        {.kind = ZK_OP_CHECK, .path = z->paths.term, .version = (int32_t)c->term}};
    size_t at = c->is_led ? 1 : 0;
    ops[at] = change_op(c);
    struct zk_request *q;
    enum err e = zk_ask_once(z, &(struct zk_ask){.kind = ZK_MULTI, .ops = ops, .op_count = at + 1},
                             c->deadline, &q);
    if (e != ERR_NONE)
        return e;
    if (!zk_is_lost(q->rc) && zk_failed_op(q, at + 1) < at)
        e = explain_deposed(c);
    else if (c->write == NULL)
        e = judge_removal(c, q->rc, is_done);
    else
        e = judge_write(c, q->rc, is_done);
    if (e == ERR_NONE && *is_done && q->rc == ZOK)
        c->version = ops[at].kind == ZK_OP_SET ? version_of(&q->op_stats[at]) : 1;
    zk_request_free(q);
    return e;
}

static enum err carry_out(struct change *c)
{
    struct zk *z = c->zk;
    c->deadline = zk_deadline(z);
    c->node = record_node(z, c->path);
    bool is_done = false;
    enum err e = ERR_NONE;
    if (c->is_led && !zk_leads(&z->base, &c->term))
        e = err_set(ERR_REFUSED, "record '%s' is the leader's, and we do not lead", c->path);
    for (int round = 0; e == ERR_NONE && !is_done; round++) {
        if (round == ROUNDS_MAX || (round > 0 && clock_ms() >= c->deadline))
            e = err_set(ERR_UNAVAILABLE, "registry '%s': record '%s' was not written in time",
                        z->uri, c->path);
        else
            e = try_change(c, &is_done);
    }
    return e;
}

enum err zk_put(struct registry *base, const struct registry_write *w, uint64_t *version_out)
{
    struct change c = {.zk = (struct zk *)base,
                       .write = w,
                       .path = w->path,
                       .is_led = w->is_led,
                       .creates = w->version == 0};
    if (w->version != REGISTRY_ANY_VERSION && w->version > INT32_MAX)
        return err_set(ERR_EXISTS, "record '%s' never has version %" PRIu64, w->path, w->version);
    zk_make_nonce(c.zk, c.nonce);
    str_append_format(&c.bytes, "%s\n", c.nonce);
    str_append_span(&c.bytes, span_make(w->data, w->size));
    enum err e = carry_out(&c);
    if (e == ERR_NONE)
        *version_out = c.version;
    str_deinit(&c.bytes);
    mem_free(c.node);
    return e;
}

/* Levels that hold nothing any more go; who needs one makes it anew. */
static void remove_empty_levels(struct change *c)
{
    size_t root = strlen(c->zk->paths.records);
    enum err e = ERR_NONE;
    int rc = ZOK;
    for (char *slash = strrchr(c->node, '/'); e == ERR_NONE && rc == ZOK;
         slash = strrchr(c->node, '/')) {
        *slash = '\0';
        if (strlen(c->node) <= root)
            break;
        struct zk_op op = {.kind = ZK_OP_DELETE, .path = c->node, .version = ZK_ANY};
        struct zk_request *q;
        e = zk_ask_once(c->zk, &(struct zk_ask){.kind = ZK_MULTI, .ops = &op, .op_count = 1},
                        c->deadline, &q);
        if (e == ERR_NONE) {
            rc = q->rc; /* not empty, in most cases */
            zk_request_free(q);
        }
    }
}

enum err zk_remove(struct registry *base, const char *path, bool is_led)
{
    struct change c = {.zk = (struct zk *)base, .path = path, .is_led = is_led};
    enum err e = carry_out(&c);
    if (e == ERR_NONE)
        remove_empty_levels(&c);
    mem_free(c.node);
    return e;
}
