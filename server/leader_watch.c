#include "server/leader_watch.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#define LEAD_EVERY_MS 250u
#define LOOK_EVERY_MS 50u
#define MISSES_MAX    2u /* looks without a member before it counts as gone */
#define SETTLE_MS     3000u

struct watched {
    char *id;
    uint32_t misses;
    struct watched *next;
};

struct leader_watch {
    struct leader_watch_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool stopping, leads;
    struct watched *watched;
    uint64_t settled_ms; /* the thread's own: from then on members may be missed */
};

static void *watch_run(void *context);

struct leader_watch *leader_watch_create(const struct leader_watch_options *o)
{
    struct leader_watch *w = must_alloc(sizeof *w);
    w->options = *o;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->woken, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return w;
}

void leader_watch_start(struct leader_watch *w)
{
    CHECK(pthread_create(&w->thread, NULL, watch_run, w) == 0);
}

static void forget(struct leader_watch *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->watched != NULL) {
        struct watched *next = w->watched->next;
        mem_free(w->watched->id);
        mem_free(w->watched);
        w->watched = next;
    }
    pthread_mutex_unlock(&w->lock);
}

void leader_watch_destroy(struct leader_watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->woken);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    if (w->leads)
        registry_resign(w->options.registry);
    forget(w);
    pthread_cond_destroy(&w->woken);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

/* Called locked. */
static void add(struct leader_watch *w, const char *member)
{
    struct watched *one = w->watched;
    while (one != NULL && strcmp(one->id, member) != 0)
        one = one->next;
    if (one != NULL)
        return;
    one = must_alloc(sizeof *one);
    one->id = must_strdup(member);
    one->next = w->watched;
    w->watched = one;
}

void leader_watch_add(struct leader_watch *w, const char *member)
{
    pthread_mutex_lock(&w->lock);
    add(w, member);
    pthread_mutex_unlock(&w->lock);
}

bool leader_watch_is_alone(struct leader_watch *w, const char *member)
{
    bool alone = true;
    pthread_mutex_lock(&w->lock);
    for (const struct watched *one = w->watched; one != NULL; one = one->next)
        alone &= strcmp(one->id, member) == 0;
    pthread_mutex_unlock(&w->lock);
    return alone;
}

/* ---- the thread ---- */

static bool is_listed(const struct registry_entry *entries, size_t count, const char *id)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(entries[i].id, id) == 0)
            return true;
    return false;
}

/* Takes those that were missed too often out of the list, and gives them back. */
static struct watched *take_missing(struct leader_watch *w, const struct registry_entry *entries,
                                    size_t count)
{
    struct watched *missing = NULL;
    pthread_mutex_lock(&w->lock);
    struct watched **at = &w->watched;
    while (*at != NULL) {
        struct watched *one = *at;
        one->misses = is_listed(entries, count, one->id) ? 0 : one->misses + 1;
        if (one->misses < MISSES_MAX) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        one->next = missing;
        missing = one;
    }
    for (size_t i = 0; i < count; i++)
        add(w, entries[i].id);
    pthread_mutex_unlock(&w->lock);
    return missing;
}

static void look(struct leader_watch *w)
{
    uint64_t now = clock_ms();
    if (registry_state(w->options.registry, NULL) != REGISTRY_CONNECTED) {
        w->settled_ms = now + SETTLE_MS;
        return;
    }
    if (now < w->settled_ms)
        return;
    struct registry_entry *entries;
    size_t count;
    if (registry_members(w->options.registry, NULL, &entries, &count) != ERR_NONE) {
        log_warn("coordinator", "cannot read the members: %s", err_text());
        return;
    }
    struct watched *missing = take_missing(w, entries, count);
    registry_entries_free(entries, count);
    while (missing != NULL) {
        struct watched *next = missing->next;
        w->options.gone(w->options.context, missing->id);
        mem_free(missing->id);
        mem_free(missing);
        missing = next;
    }
}

static void check_leads(struct leader_watch *w)
{
    if (registry_leads(w->options.registry, NULL)) {
        look(w);
        return;
    }
    w->leads = false;
    log_warn("coordinator", "does not lead any more: the registry gave the leadership up");
    w->options.deposed(w->options.context);
    forget(w);
}

static void try_to_lead(struct leader_watch *w)
{
    bool leads = false;
    uint64_t term = 0;
    if (registry_lead(w->options.registry, w->options.record, &leads, &term) != ERR_NONE)
        log_debug("coordinator", "cannot try to lead: %s", err_text());
    else if (leads)
        w->leads = w->options.led(w->options.context, term);
}

static void *watch_run(void *context)
{
    struct leader_watch *w = context;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        pthread_mutex_unlock(&w->lock);
        if (w->leads)
            check_leads(w);
        else
            try_to_lead(w);
        uint64_t until = clock_ms() + (w->leads ? LOOK_EVERY_MS : LEAD_EVERY_MS);
        struct timespec t = {.tv_sec = (time_t)(until / 1000),
                             .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&w->lock);
        if (!w->stopping)
            pthread_cond_timedwait(&w->woken, &w->lock, &t);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}
