/*
 * The registry in ZooKeeper: "zk://host:port,host:port/cluster".
 *
 * Every cluster has a root of its own, which the first user makes. Paths are put together here, so
 * nothing depends on the library's own prefixes, which report a missing root late.
 *
 * The library of Debian has neither TLS nor SASL. Credentials are compared by digest, and travel in
 * the clear with everything else.
 */
#include "common/registry_zookeeper_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage.h"

#define SCHEME               "zk://"
#define FORM                 SCHEME "HOST:PORT,HOST:PORT/CLUSTER"
#define SESSION_TIMEOUT_MS   10000u
#define CALL_TIMEOUT_MS      5000u
#define ROOT_BYTES_MAX       200
#define CREDENTIAL_BYTES_MAX 1024

/* ---- the address ---- */

static enum err check_host(const char *uri, struct span host)
{
    const char *colon = memrchr(host.data, ':', host.size);
    uint64_t port = 0;
    if (colon == NULL || colon == host.data)
        return err_set(ERR_INPUT, "registry '%s': '%.*s' is not HOST:PORT", uri, (int)host.size,
                       host.data);
    struct span digits = span_make(colon + 1, (size_t)(host.data + host.size - colon - 1));
    if (str_parse_u64(digits, &port) != ERR_NONE || port == 0 || port > UINT16_MAX)
        return err_set(ERR_INPUT, "registry '%s': '%.*s' is no port; 1 to 65535 are", uri,
                       (int)digits.size, digits.data);
    return ERR_NONE;
}

static enum err check_root(const char *uri, const char *root)
{
    if (root == NULL || root[1] == '\0')
        return err_set(ERR_INPUT, "registry '%s' names no cluster; it has the form " FORM, uri);
    if (strlen(root) > ROOT_BYTES_MAX)
        return err_set(ERR_INPUT, "registry '%s': the cluster's name is over %d bytes", uri,
                       ROOT_BYTES_MAX);
    for (const char *c = root; *c != '\0';) {
        size_t size = strcspn(c + 1, "/");
        if (size == 0 || strspn(c + 1, ".") == size)
            return err_set(ERR_INPUT, "registry '%s': the cluster's name has an empty level", uri);
        c += size + 1;
    }
    size_t good =
        strspn(root, "/abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    if (root[good] != '\0')
        return err_set(ERR_INPUT,
                       "registry '%s': the cluster's name has a '%c'; letters, digits and . _ - / "
                       "can be used",
                       uri, root[good]);
    if (strcmp(root, "/zookeeper") == 0 || strncmp(root, "/zookeeper/", 11) == 0)
        return err_set(ERR_INPUT, "registry '%s': '/zookeeper' is ZooKeeper's own", uri);
    return ERR_NONE;
}

static enum err parse_uri(struct zk *z, const char *uri)
{
    const char *hosts = uri + strlen(SCHEME), *root = strchr(hosts, '/');
    size_t size = root != NULL ? (size_t)(root - hosts) : strlen(hosts);
    enum err e = ERR_NONE;
    for (size_t at = 0; at <= size && e == ERR_NONE;) {
        size_t part = strcspn(hosts + at, ",/");
        e = check_host(uri, span_make(hosts + at, part));
        at += part + 1;
    }
    if (e == ERR_NONE)
        e = check_root(uri, root);
    if (e != ERR_NONE)
        return e;
    z->uri = must_strdup(uri);
    z->hosts = must_format("%.*s", (int)size, hosts);
    z->root = must_strdup(root);
    z->paths = (struct zk_paths){
        .term = must_format("%s/term", root),
        .leader = must_format("%s/leader", root),
        .election = must_format("%s/election", root),
        .members = must_format("%s/members", root),
        .names = must_format("%s/names", root),
        .records = must_format("%s/records", root),
    };
    return ERR_NONE;
}

static enum err read_credentials(struct zk *z, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    struct stat file;
    if (path == NULL)
        return ERR_NONE;
    enum err e = storage_read_all(path, CREDENTIAL_BYTES_MAX, &text, &size);
    if (e != ERR_NONE)
        return err_prefix(e, "registry_auth_file");
    size_t line = strcspn(text, "\r\n");
    const char *colon = memchr(text, ':', line);
    if (colon == NULL || colon == text || colon + 1 == text + line ||
        strspn(text + line, "\r\n") != size - line)
        e = err_set(ERR_INPUT, "registry_auth_file '%s' must hold one line, user:password", path);
    else
        z->credentials = must_format("%.*s", (int)line, text);
    if (e == ERR_NONE && stat(path, &file) == 0 && (file.st_mode & (S_IRGRP | S_IROTH)) != 0)
        log_warn("registry", "others can read the credentials file='%s'", path);
    explicit_bzero(text, size);
    mem_free(text);
    return e;
}

/* ---- opening and closing ---- */

static void zk_free(struct zk *z)
{
    registry_entries_free(z->members.entries, z->members.count);
    mem_free(z->leader.record);
    if (z->credentials != NULL)
        explicit_bzero(z->credentials, strlen(z->credentials));
    char *texts[] = {z->uri,         z->hosts,         z->root,           z->credentials,
                     z->paths.term,  z->paths.leader,  z->paths.election, z->paths.members,
                     z->paths.names, z->paths.records, z->open_text,      z->wiped_text,
                     z->cluster_id};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        mem_free(texts[i]);
    pthread_cond_destroy(&z->changed);
    pthread_mutex_destroy(&z->mutex);
    mem_free(z);
}

/* The session's end takes its nodes along. */
static void zk_close(struct registry *base)
{
    struct zk *z = (struct zk *)base;
    pthread_mutex_lock(&z->mutex);
    z->is_closing = true;
    pthread_cond_broadcast(&z->changed);
    pthread_mutex_unlock(&z->mutex);
    CHECK(pthread_join(z->keeper, NULL) == 0);
    zk_session_close(z->session);
    pthread_mutex_lock(&z->mutex);
    z->candidate.leads = false; /* given up, not lost */
    zk_forget_session(z);
    pthread_mutex_unlock(&z->mutex);
    while (!ring_is_empty(&z->own_members)) {
        struct zk_member *m = RING_ITEM(z->own_members.next, struct zk_member, of_registry);
        ring_remove(&m->of_registry);
        zk_member_free(m);
    }
    zk_free(z);
}

static struct zk *zk_create(const struct registry_options *options)
{
    struct zk *z = must_alloc(sizeof *z);
    z->base.backend = &registry_zookeeper_backend;
    z->session_timeout_ms =
        options->session_timeout_ms > 0 ? options->session_timeout_ms : SESSION_TIMEOUT_MS;
    z->call_timeout_ms = options->call_timeout_ms > 0 ? options->call_timeout_ms : CALL_TIMEOUT_MS;
    z->members.is_stale = z->leader.is_stale = true;
    z->away_since_ms = clock_ms();
    ring_init(&z->own_members);
    ring_init(&z->remains);
    CHECK(getrandom(&z->random_key, sizeof z->random_key, 0) == sizeof z->random_key);
    pthread_condattr_t monotonic;
    CHECK(pthread_condattr_init(&monotonic) == 0);
    CHECK(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&z->changed, &monotonic) == 0);
    CHECK(pthread_mutex_init(&z->mutex, NULL) == 0);
    pthread_condattr_destroy(&monotonic);
    return z;
}

/* Waits until the cluster can be used. */
static enum err await_opened(struct zk *z)
{
    uint64_t deadline = zk_deadline(z);
    pthread_mutex_lock(&z->mutex);
    while (!z->is_opened && z->open_error == ERR_NONE && clock_ms() < deadline)
        zk_wait_changed(z, deadline);
    enum err e = z->is_opened ? ERR_NONE : zk_refuse_unusable(z);
    pthread_mutex_unlock(&z->mutex);
    return e;
}

static enum err zk_open(const char *uri, const struct registry_options *options,
                        struct registry **out)
{
    struct zk *z = zk_create(options);
    enum err e = parse_uri(z, uri);
    if (e == ERR_NONE)
        e = read_credentials(z, options->auth_file);
    if (e != ERR_NONE) {
        zk_free(z);
        return e;
    }
    CHECK(pthread_create(&z->keeper, NULL, zk_keeper_run, z) == 0);
    e = await_opened(z);
    if (e != ERR_NONE) {
        char *why = must_strdup(err_text());
        zk_close(&z->base);
        e = err_set(e, "%s", why);
        mem_free(why);
        return e;
    }
    *out = &z->base;
    return ERR_NONE;
}

static enum registry_state zk_state(struct registry *base, uint64_t *away_ms)
{
    struct zk *z = (struct zk *)base;
    pthread_mutex_lock(&z->mutex);
    enum registry_state state = REGISTRY_AWAY;
    if (z->wiped_text != NULL)
        state = REGISTRY_WIPED;
    else if (zk_is_usable(z))
        state = REGISTRY_CONNECTED;
    *away_ms = state == REGISTRY_CONNECTED ? 0 : clock_ms() - z->away_since_ms;
    pthread_mutex_unlock(&z->mutex);
    return state;
}

const struct registry_backend registry_zookeeper_backend = {
    .scheme = SCHEME,
    .forms = FORM,
    .open = zk_open,
    .close = zk_close,
    .state = zk_state,
    .join = zk_join,
    .member_id = zk_member_id,
    .leave = zk_leave,
    .members = zk_list_members,
    .lead = zk_lead,
    .leads = zk_leads,
    .resign = zk_resign,
    .leader = zk_leader,
    .put = zk_put,
    .get = zk_get,
    .remove = zk_remove,
    .list = zk_list,
};
