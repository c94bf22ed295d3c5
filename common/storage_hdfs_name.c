/*
 * storage_hdfs_name.c - from "hdfs://…" to NameNodes and a path.
 */
#include "common/storage_hdfs_internal.h"

#include <pthread.h>
#include <string.h>

#include "common/mem.h"

#define CLUSTERS_MAX 64u
#define PORT         "9870"
#define PORT_TLS     "9871"

static struct hdfs_cluster *clusters[CLUSTERS_MAX];
static size_t cluster_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* "a=x; b=y" -> what stands at `name`; false: it is not there. */
static bool find_service(struct span name, struct span *out)
{
    const char *services = storage_settings()->hdfs_namenodes;
    for (const char *at = services; at != NULL && *at != '\0';) {
        struct span entry = span_make(at, strcspn(at, ";"));
        const char *equals = memchr(entry.data, '=', entry.size);
        if (equals != NULL) {
            struct span key = span_trim(span_make(entry.data, (size_t)(equals - entry.data)));
            if (span_equal(key, name)) {
                *out = span_make(equals + 1, (size_t)(entry.data + entry.size - equals) - 1);
                return true;
            }
        }
        at += entry.size;
        at += *at == ';';
    }
    return false;
}

/* The port is behind the last colon, but not behind one of an IPv6 address. */
static bool has_port(struct span node)
{
    for (size_t i = node.size; i > 0; i--) {
        if (node.data[i - 1] == ']')
            return false;
        if (node.data[i - 1] == ':')
            return i < node.size;
    }
    return false;
}

static enum err check_node(struct span node, const char *uri)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "-._:[]";
    bool is_good = node.size > 0 && node.data[0] != ':';
    for (size_t i = 0; i < node.size; i++)
        is_good &= strchr(good, node.data[i]) != NULL;
    if (!is_good)
        return err_set(ERR_INPUT,
                       "'%s': '%.*s' is no NameNode: write hdfs://HOST:PORT/path, "
                       "hdfs://HOST:PORT,HOST:PORT/path or a name of hdfs_namenodes",
                       uri, (int)node.size, node.data);
    return ERR_NONE;
}

static enum err add_nodes(struct hdfs_cluster *c, struct span list, const char *uri)
{
    bool tls = storage_settings()->hdfs_tls;
    for (size_t at = 0; at <= list.size;) {
        const char *comma = at < list.size ? memchr(list.data + at, ',', list.size - at) : NULL;
        size_t size = comma != NULL ? (size_t)(comma - list.data) - at : list.size - at;
        struct span node = span_trim(span_make(list.data + at, size));
        enum err e = check_node(node, uri);
        if (e != ERR_NONE)
            return e;
        if (c->node_count == HDFS_NODES_MAX)
            return err_set(ERR_LIMIT, "'%s' names more than %u NameNodes", uri, HDFS_NODES_MAX);
        c->nodes[c->node_count++] =
            must_format("%s://%.*s%s%s", tls ? "https" : "http", (int)node.size, node.data,
                        has_port(node) ? "" : ":",
                        has_port(node) ? ""
                        : tls          ? PORT_TLS
                                       : PORT);
        at += size + 1;
    }
    return ERR_NONE;
}

static void cluster_destroy(struct hdfs_cluster *c)
{
    for (uint32_t i = 0; i < c->node_count; i++)
        mem_free(c->nodes[i]);
    mem_free(c->authority);
    mem_free(c);
}

static enum err cluster_make(struct span authority, const char *uri, struct hdfs_cluster **out)
{
    struct span list = authority;
    find_service(authority, &list);
    if (cluster_count == CLUSTERS_MAX)
        return err_set(ERR_LIMIT, "'%s': more than %u HDFS clusters in one process", uri,
                       CLUSTERS_MAX);
    struct hdfs_cluster *c = must_alloc(sizeof *c);
    c->authority = must_format("%.*s", (int)authority.size, authority.data);
    enum err e = add_nodes(c, list, uri);
    if (e != ERR_NONE) {
        cluster_destroy(c);
        return e;
    }
    clusters[cluster_count++] = c;
    *out = c;
    return ERR_NONE;
}

static enum err cluster_find(struct span authority, const char *uri, struct hdfs_cluster **out)
{
    enum err e = ERR_NONE;
    *out = NULL;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < cluster_count && *out == NULL; i++) {
        if (span_is(authority, clusters[i]->authority))
            *out = clusters[i];
    }
    if (*out == NULL)
        e = cluster_make(authority, uri, out);
    pthread_mutex_unlock(&lock);
    return e;
}

/* HDFS has no links to follow upwards, so "." and ".." can only be mistakes. */
static enum err make_path(const char *text, const char *uri, char **out)
{
    struct str path = {0};
    for (const char *at = text; *at != '\0';) {
        struct span part = span_make(at, strcspn(at, "/"));
        if (span_is(part, ".") || span_is(part, "..")) {
            str_deinit(&path);
            return err_set(ERR_INPUT, "'%s': there is no %.*s in a path of HDFS", uri,
                           (int)part.size, part.data);
        }
        if (part.size > 0) {
            str_append(&path, "/");
            str_append_span(&path, part);
        }
        at += part.size;
        at += *at == '/';
    }
    if (path.size == 0)
        str_append(&path, "/");
    *out = path.data;
    return ERR_NONE;
}

enum err hdfs_name_init(const char *uri, struct hdfs_name *out)
{
    const char *authority = uri + strlen("hdfs://");
    struct hdfs_name n = {0};
    size_t size = strcspn(authority, "/");
    if (size == 0)
        return err_set(ERR_INPUT,
                       "'%s' names no NameNode: write hdfs://HOST:PORT/path, where PORT "
                       "is that of HTTP",
                       uri);
    enum err e = make_path(authority + size, uri, &n.path);
    if (e == ERR_NONE)
        e = cluster_find(span_make(authority, size), uri, &n.cluster);
    if (e != ERR_NONE) {
        mem_free(n.path);
        return e;
    }
    n.uri = must_strdup(uri);
    *out = n;
    return ERR_NONE;
}

void hdfs_name_deinit(struct hdfs_name *n)
{
    mem_free(n->uri);
    mem_free(n->path);
    *n = (struct hdfs_name){0};
}

void hdfs_parameter(struct str *s, const char *name, const char *value)
{
    str_append_format(s, "&%s=", name);
    http_encode(span_of(value), "/:,", s);
}

bool hdfs_is_temporary(const char *name)
{
    return name[0] == '.' && strstr(name, ".tmp-") != NULL;
}
