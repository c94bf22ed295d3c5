#include "server/leader_storage.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "server/snapshot.h"

#define ACTIONS_MAX  1024u
#define HISTORY_KEPT 500u

enum { LINE_REGISTRY, LINE_STORE, LINE_COUNT };

struct leader_storage;

struct line { /* a thread and what it has to do */
    struct leader_storage *storage;
    struct queue *actions;
    pthread_t thread;
};

struct leader_storage {
    struct registry *registry;
    void (*done)(void *context, struct storage_answer *answer);
    void *context;
    struct line lines[LINE_COUNT]; /* so that a slow store does not hold up the registry */
};

struct storage_answer {
    struct coordinator_result result;
    char *text;
    struct checkpoint_listing *found;
    size_t found_count;
    struct coordinator_listing *listing;
    uint64_t term;
    char *record;
    char **records, **history;
    size_t record_count, history_count;
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
    for (int i = 0; i < LINE_COUNT; i++) {
        s->lines[i].storage = s;
        s->lines[i].actions = queue_create(ACTIONS_MAX);
        CHECK(s->lines[i].actions != NULL);
        CHECK(pthread_create(&s->lines[i].thread, NULL, storage_run, &s->lines[i]) == 0);
    }
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
    bool registry = a->kind == ACTION_RECORD || a->kind == ACTION_LOAD;
    struct line *line = &s->lines[registry ? LINE_REGISTRY : LINE_STORE];
    if (queue_push(line->actions, a, 0) == ERR_NONE)
        return;
    struct storage_answer *r = must_alloc(sizeof *r);
    uint64_t id = a->id;
    r->term = a->term;
    coordinator_action_destroy(a);
    answer(s, r, id, err_set(ERR_UNAVAILABLE, "%u actions wait to be done already", ACTIONS_MAX));
}

void leader_storage_destroy(struct leader_storage *s)
{
    if (s == NULL)
        return;
    for (int i = 0; i < LINE_COUNT; i++)
        queue_close(s->lines[i].actions);
    for (int i = 0; i < LINE_COUNT; i++) {
        pthread_join(s->lines[i].thread, NULL);
        queue_destroy(s->lines[i].actions);
    }
    mem_free(s);
}

const struct coordinator_result *storage_answer_result(struct storage_answer *a)
{
    a->result.text = a->text;
    a->result.listing = a->listing;
    a->result.listing_count = a->found_count;
    a->result.record = a->record;
    a->result.records = (const char *const *)a->records;
    a->result.record_count = a->record_count;
    a->result.history = (const char *const *)a->history;
    a->result.history_count = a->history_count;
    a->result.manifest = a->manifest;
    a->result.sha256 = a->sha256;
    a->manifest = NULL;
    return &a->result;
}

uint64_t storage_answer_term(const struct storage_answer *a)
{
    return a->term;
}

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mem_free(texts[i]);
    mem_free(texts);
}

void storage_answer_destroy(struct storage_answer *a)
{
    if (a == NULL)
        return;
    checkpoint_listing_free(a->found, a->found_count);
    checkpoint_manifest_destroy(a->manifest);
    free_texts(a->records, a->record_count);
    free_texts(a->history, a->history_count);
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

/* An action of an earlier leadership of this very process must not be done under a later one. */
static enum err check_term(struct leader_storage *s, const struct coordinator_action *a)
{
    uint64_t term;
    if (registry_leads(s->registry, &term) && term == a->term)
        return ERR_NONE;
    return err_set(ERR_REFUSED, "this server does not lead by term %llu any more",
                   (unsigned long long)a->term);
}

static enum err put(struct leader_storage *s, const char *path, const char *text)
{
    return registry_put_led(s->registry, path, text, strlen(text), REGISTRY_ANY_VERSION, NULL);
}

static enum err do_record(struct leader_storage *s, const struct coordinator_action *a)
{
    enum err e = check_term(s, a);
    char *path = record_path(a->job);
    if (e == ERR_NONE && a->history != NULL) {
        char *past = must_format("history/%020llu", (unsigned long long)a->sequence);
        e = put(s, past, a->history);
        mem_free(past);
    }
    if (e == ERR_NONE)
        e = put(s, path, a->text);
    mem_free(path);
    return e;
}

/* The records directly under a path, ascending by name. */
static enum err load_under(struct leader_storage *s, const char *under, char ***out, size_t *count)
{
    char **names;
    size_t name_count;
    enum err e = registry_list(s->registry, under, &names, &name_count);
    if (e != ERR_NONE)
        return e;
    *out = must_alloc((name_count + 1) * sizeof **out);
    for (size_t i = 0; e == ERR_NONE && i < name_count; i++) {
        char *path = must_format("%s/%s", under, names[i]);
        void *data;
        size_t size;
        uint64_t version;
        e = registry_get(s->registry, path, &data, &size, &version);
        if (e == ERR_NONE)
            (*out)[(*count)++] = data;
        else if (e == ERR_NOT_FOUND)
            e = ERR_NONE;
        mem_free(path);
    }
    registry_names_free(names, name_count);
    return e;
}

static void prune_history(struct leader_storage *s)
{
    char **names;
    size_t count;
    if (registry_list(s->registry, "history", &names, &count) != ERR_NONE)
        return;
    for (size_t i = 0; i + HISTORY_KEPT < count; i++) {
        char *path = must_format("history/%s", names[i]);
        if (registry_remove_led(s->registry, path) != ERR_NONE)
            log_warn("coordinator", "cannot remove %s: %s", path, err_text());
        mem_free(path);
    }
    registry_names_free(names, count);
}

static enum err do_load(struct leader_storage *s, const struct coordinator_action *a,
                        struct storage_answer *r)
{
    enum err e = check_term(s, a);
    if (e != ERR_NONE)
        return e;
    prune_history(s);
    e = load_under(s, "jobs", &r->records, &r->record_count);
    if (e == ERR_NONE)
        e = load_under(s, "history", &r->history, &r->history_count);
    return e;
}

/* Only while we surely lead: another leader may restore what we would remove. */
static bool may_retain(struct leader_storage *s, const struct coordinator_action *a)
{
    return registry_state(s->registry, NULL) == REGISTRY_CONNECTED && check_term(s, a) == ERR_NONE;
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
    r->term = a->term;
    enum err e = ERR_NONE;
    switch (a->kind) {
    case ACTION_LOAD:
        e = do_load(s, a, r);
        break;
    case ACTION_LIST:
        e = do_list(s, a, r);
        break;
    case ACTION_READ_MANIFEST:
        e = checkpoint_read_manifest(a->uri, &r->manifest, r->sha256);
        break;
    case ACTION_PUBLISH:
        e = check_term(s, a) == ERR_NONE ? checkpoint_publish(a->uri, a->manifest, r->sha256)
                                         : ERR_UNAVAILABLE;
        break;
    case ACTION_RECORD:
        e = do_record(s, a);
        break;
    case ACTION_RETAIN:
        if (may_retain(s, a))
            do_retain(a);
        break;
    case ACTION_LOG:
        break;
    }
    answer(s, r, a->id, e);
}

static void *storage_run(void *context)
{
    struct line *line = context;
    void *item;
    while (queue_pop(line->actions, &item, QUEUE_FOREVER) == ERR_NONE) {
        do_action(line->storage, item);
        coordinator_action_destroy(item);
    }
    return NULL;
}
