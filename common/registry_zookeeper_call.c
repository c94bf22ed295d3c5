#include "common/registry_zookeeper_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/rng.h"

/* Before a question is asked again. */
#define AGAIN_MS 40u

/* ---- small things ---- */

uint64_t zk_deadline(const struct zk *z)
{
    return clock_ms() + z->call_timeout_ms;
}

void zk_wait_changed(struct zk *z, uint64_t until_ms)
{
    struct timespec t = {.tv_sec = (time_t)(until_ms / 1000),
                         .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_cond_timedwait(&z->changed, &z->mutex, &t);
}

uint64_t zk_random(struct zk *z)
{
    pthread_mutex_lock(&z->mutex);
    uint64_t bits = rng_at(z->random_key, ++z->random_count);
    pthread_mutex_unlock(&z->mutex);
    return bits;
}

uint32_t zk_jitter(struct zk *z, uint32_t ms)
{
    return ms / 2 + (uint32_t)rng_below(zk_random(z), ms + 1);
}

void zk_make_nonce(struct zk *z, char nonce[ZK_NONCE_DIGITS + 1])
{
    snprintf(nonce, ZK_NONCE_DIGITS + 1, "%016" PRIx64, zk_random(z));
}

size_t zk_failed_op(const struct zk_request *q, size_t op_count)
{
    if (q->rc == ZOK)
        return op_count;
    for (size_t i = 0; i < op_count; i++) {
        if (q->results[i].err != ZOK && q->results[i].err != ZRUNTIMEINCONSISTENCY)
            return i;
    }
    return op_count;
}

/* ---- errors ---- */

bool zk_is_lost(int rc)
{
    switch (rc) {
    case ZCONNECTIONLOSS:
    case ZOPERATIONTIMEOUT:
    case ZSESSIONEXPIRED:
    case ZSESSIONMOVED:
    case ZINVALIDSTATE:
    case ZCLOSING:
        return true;
    default:
        return false;
    }
}

enum err zk_error(const struct zk *z, int rc, const char *path)
{
    if (zk_is_lost(rc))
        return err_set(ERR_UNAVAILABLE, "registry '%s' went away meanwhile (%s)", z->uri,
                       zerror(rc));
    if (rc == ZNOAUTH || rc == ZAUTHFAILED || rc == ZINVALIDACL)
        return err_set(ERR_REFUSED,
                       "registry '%s' does not let us at '%s': it belongs to other credentials; "
                       "compare registry_auth_file, %s",
                       z->uri, path, z->credentials != NULL ? "which was given" : "not given");
    if (rc == ZNONODE)
        return err_set(ERR_NOT_FOUND, "registry '%s' has no '%s'", z->uri, path);
    return err_set(ERR_IO, "registry '%s', '%s': %s", z->uri, path, zerror(rc));
}

bool zk_is_usable(const struct zk *z)
{
    return z->is_ready && z->session != NULL && z->session->is_connected &&
           !z->session->is_expired && z->wiped_text == NULL;
}

enum err zk_refuse_unusable(const struct zk *z)
{
    if (z->wiped_text != NULL)
        return err_set(ERR_REFUSED, "%s", z->wiped_text);
    if (z->open_error != ERR_NONE)
        return err_set(z->open_error, "%s", z->open_text);
    return err_set(ERR_UNAVAILABLE, "registry '%s' has been away for %" PRIu64 " ms", z->uri,
                   clock_ms() - z->away_since_ms);
}

enum err zk_await_usable(struct zk *z, uint64_t deadline_ms)
{
    pthread_mutex_lock(&z->mutex);
    while (!zk_is_usable(z) && z->wiped_text == NULL && clock_ms() < deadline_ms)
        zk_wait_changed(z, deadline_ms);
    enum err e = zk_is_usable(z) ? ERR_NONE : zk_refuse_unusable(z);
    pthread_mutex_unlock(&z->mutex);
    return e;
}

/* ---- questions ---- */

static enum err wait_answer(struct zk_request *q, const struct zk_ask *ask, uint64_t deadline_ms,
                            struct zk_request **out)
{
    struct zk *z = q->zk;
    if (zk_wait(q, deadline_ms) == ZOPERATIONTIMEOUT) {
        zk_request_free(q);
        return err_set(ERR_UNAVAILABLE, "registry '%s' does not answer", z->uri);
    }
    if (q->rc == ZNOAUTH || q->rc == ZINVALIDACL || q->rc == ZAUTHFAILED) {
        size_t failed = zk_failed_op(q, ask->op_count);
        const char *path = failed < ask->op_count ? ask->ops[failed].path : ask->path;
        enum err e = zk_error(z, q->rc, path != NULL ? path : z->root);
        zk_request_free(q);
        return e;
    }
    *out = q;
    return ERR_NONE;
}

enum err zk_ask_session(struct zk *z, struct zk_session *s, const struct zk_ask *ask,
                        uint64_t deadline_ms, struct zk_request **out)
{
    return wait_answer(zk_start(z, s, ask), ask, deadline_ms, out);
}

enum err zk_ask_once(struct zk *z, const struct zk_ask *ask, uint64_t deadline_ms,
                     struct zk_request **out)
{
    for (;;) {
        enum err e = zk_await_usable(z, deadline_ms);
        if (e != ERR_NONE)
            return e;
        struct zk_request *q = zk_start(z, NULL, ask);
        if (q != NULL) /* else it went away between the two */
            return wait_answer(q, ask, deadline_ms, out);
    }
}

enum err zk_ask(struct zk *z, const struct zk_ask *ask, uint64_t deadline_ms,
                struct zk_request **out)
{
    for (;;) {
        struct zk_request *q;
        enum err e = zk_ask_once(z, ask, deadline_ms, &q);
        if (e != ERR_NONE)
            return e;
        if (!zk_is_lost(q->rc)) {
            *out = q;
            return ERR_NONE;
        }
        e = zk_error(z, q->rc, "");
        zk_request_free(q);
        if (clock_ms() + AGAIN_MS >= deadline_ms)
            return e;
        clock_sleep_ms(zk_jitter(z, AGAIN_MS));
    }
}
