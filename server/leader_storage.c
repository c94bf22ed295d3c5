#include "server/leader_storage.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "server/snapshot.h"

#define ACTIONS_MAX 1024u

struct leader_storage {
    struct registry *registry;
    void (*done)(void *context, struct storage_answer *answer);
    void *context;
    struct queue *actions;
    pthread_t thread;
    atomic_bool stopping;
};

struct storage_answer {
    struct coordinator_result result;
    char *text;
    struct checkpoint_listing *found;
    size_t found_count;
    struct coordinator_listing *listing;
    char *record;
    struct checkpoint_manifest *manifest;
    char sha256[SHA256_HEX_SIZE];
};

static void *storage_run(void *context);

struct leader_storage *
leader_storage_create(struct registry *registry,
                      void (*done)(void *context, struct storage_answer *answer), void *context)
{
    struct leader_storage *s = must_alloc(sizeof *s);
    s->registry = registry;
    s->done = done;
    s->context = context;
    s->actions = queue_create(ACTIONS_MAX);
    CHECK(s->actions != NULL);
    CHECK(pthread_create(&s->thread, NULL, storage_run, s) == 0);
    return s;
}

static void answer(struct leader_storage *s, struct storage_answer *a, uint64_t id, enum err code)
{
    a->result.id = id;
    a->result.code = code;
    a->text = must_strdup(code != ERR_NONE ? err_text() : "");
    s->done(s->context, a);
}

void leader_storage_do(struct leader_storage *s, struct coordinator_action *a)
{
    if (queue_push(s->actions, a, 0) == ERR_NONE)
        return;
    struct storage_answer *r = must_alloc(sizeof *r);
    uint64_t id = a->id;
    coordinator_action_destroy(a);
    answer(s, r, id,
           err_set(ERR_UNAVAILABLE, "the storage thread has %u actions to do", ACTIONS_MAX));
}

void leader_storage_destroy(struct leader_storage *s)
{
    if (s == NULL)
        return;
    queue_close(s->actions);
    pthread_join(s->thread, NULL);
    queue_destroy(s->actions);
    mem_free(s);
}

const struct coordinator_result *storage_answer_result(struct storage_answer *a)
{
    a->result.text = a->text;
    a->result.listing = a->listing;
    a->result.listing_count = a->found_count;
    a->result.record = a->record;
    a->result.manifest = a->manifest;
    a->result.sha256 = a->sha256;
    a->manifest = NULL;
    return &a->result;
}

void storage_answer_destroy(struct storage_answer *a)
{
    if (a == NULL)
        return;
    checkpoint_listing_free(a->found, a->found_count);
    checkpoint_manifest_destroy(a->manifest);
    mem_free(a->listing);
    mem_free(a->record);
    mem_free(a->text);
    mem_free(a);
}

/* ---- the thread ---- */

static char *record_path(const char *job)
{
    return must_format("jobs/%s", job);
}

static enum err get_record(struct leader_storage *s, const char *job, char **out)
{
    char *path = record_path(job);
    void *data;
    size_t size;
    uint64_t version;
    enum err e = registry_get(s->registry, path, &data, &size, &version);
    mem_free(path);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;
    char *text = must_alloc(size + 1);
    memcpy(text, data, size);
    mem_free(data);
    *out = text;
    return ERR_NONE;
}

static enum err do_list(struct leader_storage *s, const struct coordinator_action *a,
                        struct storage_answer *r)
{
    enum err e = get_record(s, a->job, &r->record);
    if (e == ERR_NONE)
        e = checkpoint_list(a->uri, &r->found, &r->found_count);
    if (e != ERR_NONE)
        return e;
    r->listing = must_alloc((r->found_count + 1) * sizeof *r->listing);
    for (size_t i = 0; i < r->found_count; i++) {
        const struct checkpoint_listing *f = &r->found[i];
        r->listing[i] = (struct coordinator_listing){
            .generation = f->generation,
            .step = f->step,
            .committed = f->committed,
            .refused = f->refused == ERR_NONE ? NULL
                       : f->why != NULL       ? f->why
                                              : err_name(f->refused),
        };
    }
    return ERR_NONE;
}

/* The newest record wins: there is one leader, and it alone writes. */
static enum err do_record(struct leader_storage *s, const struct coordinator_action *a)
{
    char *path = record_path(a->job);
    void *data = NULL;
    size_t size;
    uint64_t version = 0;
    enum err e = registry_get(s->registry, path, &data, &size, &version);
    mem_free(data);
    if (e == ERR_NONE || e == ERR_NOT_FOUND)
        e = registry_put(s->registry, path, a->text, strlen(a->text), e == ERR_NONE ? version : 0,
                         NULL);
    mem_free(path);
    return e;
}

static void do_retain(const struct coordinator_action *a)
{
    uint32_t removed = 0;
    if (checkpoint_retain(a->uri, a->keep, (const char *const *)a->protect, &removed) != ERR_NONE)
        log_warn("coordinator", "retention of %s failed: %s", a->uri, err_text());
    else if (removed > 0)
        log_debug("coordinator", "removed %u old checkpoints of %s", removed, a->uri);
}

static void do_action(struct leader_storage *s, const struct coordinator_action *a)
{
    struct storage_answer *r = must_alloc(sizeof *r);
    enum err e = ERR_NONE;
    switch (a->kind) {
    case ACTION_LIST:
        e = do_list(s, a, r);
        break;
    case ACTION_READ_MANIFEST:
        e = checkpoint_read_manifest(a->uri, &r->manifest, r->sha256);
        break;
    case ACTION_PUBLISH:
        e = checkpoint_publish(a->uri, a->manifest, r->sha256);
        break;
    case ACTION_RECORD:
        e = do_record(s, a);
        break;
    case ACTION_RETAIN:
        do_retain(a);
        break;
    case ACTION_LOG:
        break;
    }
    answer(s, r, a->id, e);
}

static void *storage_run(void *context)
{
    struct leader_storage *s = context;
    void *item;
    while (queue_pop(s->actions, &item, QUEUE_FOREVER) == ERR_NONE) {
        do_action(s, item);
        coordinator_action_destroy(item);
    }
    return NULL;
}
