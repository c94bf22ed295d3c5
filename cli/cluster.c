#include "cli/cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/local.h"
#include "cli/store_settings.h"
#include "common/conf.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/storage.h"

#define CONFIG_MAX_BYTES (1u << 20)
#define MACHINE_CONFIG   STORE_SETTINGS_MACHINE_FILE
#define LOCAL_SCHEME     "local:"

/* ---- which cluster ---- */

/* What has been found out about the configuration; the text is kept for its other settings. */
struct config {
    char *path, *text;
    size_t size;
    bool has_registry;
};

static enum err config_read(struct config *c, const char *path)
{
    struct conf_node *root = NULL;
    enum err err = storage_read_all(path, CONFIG_MAX_BYTES, &c->text, &c->size);

    if (!err)
        err = conf_parse(path, c->text, c->size, &root);
    if (!err) {
        c->path = must_strdup(path);
        c->has_registry = root && root->kind == CONF_MAP && conf_get(root, "registry") != NULL;
    }
    conf_destroy(root);
    return err;
}

/* --config must be there; of the others the first that is. */
static enum err config_find(struct config *c, const char *given)
{
    if (given)
        return config_read(c, given);
    char *user = store_settings_user_file();
    enum err err = user ? config_read(c, user) : ERR_NOT_FOUND;
    mem_free(user);
    if (err == ERR_NOT_FOUND)
        err = config_read(c, MACHINE_CONFIG);
    return err == ERR_NOT_FOUND ? ERR_NONE : err;
}

/* A run that was killed leaves its registry behind: one without members is none. */
static bool has_members(const char *uri)
{
    struct registry *registry = NULL;
    struct registry_entry *entries = NULL;
    size_t count = 0;

    if (registry_open(uri, &registry) != ERR_NONE)
        return false;
    if (registry_members(registry, NULL, &entries, &count) == ERR_NONE)
        registry_entries_free(entries, count);
    registry_close(registry);
    return count > 0;
}

/* The registry of a `paramctl run` that goes on in `directory`; NULL: there is none. */
static char *find_run(const char *directory)
{
    struct storage_list list = {0};
    char *found = NULL;

    if (storage_list(directory, &list) != ERR_NONE)
        return NULL;
    for (size_t i = 0; i < list.count && !found; i++) {
        const char *name = list.entries[i].name;
        if (strncmp(name, LOCAL_REGISTRY_PREFIX, strlen(LOCAL_REGISTRY_PREFIX)) != 0)
            continue;
        found = must_format(LOCAL_SCHEME "%s/%s", directory, name);
        if (!has_members(found)) {
            mem_free(found);
            found = NULL;
        }
    }
    storage_list_deinit(&list);
    return found;
}

static bool sets_registry(const struct option_list *sets)
{
    for (size_t i = 0; i < sets->count; i++)
        if (strncmp(sets->items[i], "registry=", 9) == 0)
            return true;
    return false;
}

/* The URI by what is neither --set nor a file; NULL: by those. */
static enum err choose(const struct cluster_options *o, const char *job, const struct config *c,
                       char **out)
{
    const char *variable = getenv("PARAMD_REGISTRY");
    char *directory = NULL;

    if (o->registry) {
        *out = must_strdup(o->registry);
    } else if (o->run_directory) {
        *out = find_run(o->run_directory);
        if (!*out)
            return err_set(ERR_NOT_FOUND, "no run goes on in %s", o->run_directory);
    } else if (!sets_registry(&o->sets) && !(o->config && c->has_registry)) {
        directory = job ? must_format("runs/%s", job) : NULL;
        *out = variable && *variable ? must_strdup(variable)
               : directory           ? find_run(directory)
                                     : NULL;
        if (!*out && !c->has_registry && directory)
            err_set(ERR_NOT_FOUND,
                    "no run of job '%s' goes on in %s, and no cluster is named: give --run-dir "
                    "DIR, --registry URI, PARAMD_REGISTRY, or `registry:` in " MACHINE_CONFIG,
                    job, directory);
        else if (!*out && !c->has_registry)
            err_set(ERR_INPUT,
                    "no cluster is named: give --registry URI, PARAMD_REGISTRY, or `registry:` "
                    "in ~/.config/paramd/paramctl.yaml or " MACHINE_CONFIG);
        enum err err = *out || c->has_registry ? ERR_NONE : directory ? ERR_NOT_FOUND : ERR_INPUT;
        mem_free(directory);
        return err;
    }
    return ERR_NONE;
}

/* Opening a local registry makes its directory; a client that mistypes it should hear so. */
static enum err check_there(const char *uri)
{
    struct storage_info info;

    if (strncmp(uri, LOCAL_SCHEME, strlen(LOCAL_SCHEME)) != 0)
        return ERR_NONE;
    enum err err = storage_stat(uri + strlen(LOCAL_SCHEME), &info);
    if (err == ERR_NOT_FOUND || (!err && !info.is_directory))
        return err_set(ERR_UNAVAILABLE,
                       "there is no registry at %s: no daemon has been started with it", uri);
    return err;
}

enum err cluster_find(const struct cluster_options *o, const char *job, struct cluster *out)
{
    struct cluster c = {0};
    struct config config = {0};
    static const char *const none[] = {NULL};
    enum err err = config_find(&config, o->config);

    if (!err && o->run_directory && (o->registry || sets_registry(&o->sets)))
        err = err_set(ERR_INPUT, "--run-dir and --registry exclude each other");
    if (!err)
        err = daemon_settings_parse(config.path ? config.path : "--set", config.text, config.size,
                                    o->sets.items ? o->sets.items : none, &c.settings);
    if (!err)
        err = choose(o, job, &config, &c.uri);
    if (!err && !c.uri)
        c.uri = must_strdup(c.settings->registry);
    mem_free(config.path);
    mem_free(config.text);
    if (err)
        cluster_close(&c);
    else
        *out = c;
    return err;
}

enum err cluster_connect(struct cluster *c)
{
    const struct registry_options options = {
        .session_timeout_ms = c->settings->registry_session_timeout_ms,
        .auth_file = c->settings->registry_auth_file,
    };
    enum err err = check_there(c->uri);

    return err ? err : registry_open_with(c->uri, &options, &c->registry);
}

enum err cluster_open(const struct cluster_options *o, const char *job, struct cluster *out)
{
    struct cluster c = {0};
    enum err err = cluster_find(o, job, &c);

    if (!err)
        err = cluster_connect(&c);
    if (err)
        cluster_close(&c);
    else
        *out = c;
    return err;
}

void cluster_close(struct cluster *c)
{
    registry_close(c->registry);
    daemon_settings_destroy(c->settings);
    mem_free(c->uri);
    *c = (struct cluster){0};
}

bool cluster_is_local(const struct cluster *c)
{
    return strncmp(c->uri, LOCAL_SCHEME, strlen(LOCAL_SCHEME)) == 0;
}

/* ---- calls ---- */

enum err cluster_call(struct cluster *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *reply_type, ProtobufCMessage **out)
{
    enum err err =
        control_call(c->registry, method, request, reply_type, c->settings->call_timeout_ms, out);

    if (err == ERR_NOT_FOUND)
        return err_set(ERR_UNAVAILABLE, "no paramd-server leads the cluster at %s: %s", c->uri,
                       err_text());
    if (err == ERR_UNSUPPORTED)
        return err_prefix(err, "the servers of %s are older than this paramctl", c->uri);
    if (err == ERR_CANCELLED) /* a connection that was cut, not a user's wish */
        err = ERR_UNAVAILABLE;
    return err ? err_prefix(err, "the cluster at %s", c->uri) : ERR_NONE;
}

/* A past job as the status of one that has ended. */
static Paramd__Control__StatusReply *status_of(const Paramd__Control__JobSummary *j)
{
    Paramd__Control__StatusReply s = PARAMD__CONTROL__STATUS_REPLY__INIT;
    Paramd__Control__EvalRecord record = PARAMD__CONTROL__EVAL_RECORD__INIT;
    Paramd__Control__EvalRecord *records[1] = {&record};

    s.found = true;
    s.job = j->job;
    s.state = j->state;
    s.why = j->why;
    s.mode = j->mode;
    s.owner = j->owner;
    s.step = j->step;
    s.last_step = j->last_step;
    s.checkpoint = j->checkpoint;
    s.train_seconds = j->train_seconds;
    s.submitted_unix_ms = j->submitted_unix_ms;
    s.recoveries = j->recoveries;
    record.step = j->step;
    record.seconds = j->train_seconds;
    record.n_metrics = j->n_metrics;
    record.metrics = j->metrics;
    s.n_evals = j->n_metrics ? 1 : 0;
    s.evals = records;
    size_t size = paramd__control__status_reply__get_packed_size(&s);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__status_reply__pack(&s, bytes);
    Paramd__Control__StatusReply *copy = paramd__control__status_reply__unpack(NULL, size, bytes);
    mem_free(bytes);
    return copy;
}

static enum err find_past(struct cluster *c, const char *job, Paramd__Control__StatusReply **out)
{
    Paramd__Control__ListReply *list = NULL;
    const Paramd__Control__JobSummary *newest = NULL;
    enum err err = cluster_list(c, true, &list);

    if (err && err != ERR_UNSUPPORTED)
        return err;
    for (size_t i = 0; list && i < list->n_jobs; i++)
        if (strcmp(list->jobs[i]->job, job) == 0 &&
            (!newest || list->jobs[i]->sequence > newest->sequence))
            newest = list->jobs[i];
    if (newest)
        *out = status_of(newest);
    if (list)
        paramd__control__list_reply__free_unpacked(list, NULL);
    if (!newest)
        return err_set(ERR_NOT_FOUND, "the cluster at %s does not know job '%s'", c->uri, job);
    return ERR_NONE;
}

enum err cluster_status(struct cluster *c, const char *job, Paramd__Control__StatusReply **out)
{
    Paramd__Control__StatusRequest request = PARAMD__CONTROL__STATUS_REQUEST__INIT;
    Paramd__Control__StatusReply *reply = NULL;

    request.job = (char *)job;
    enum err err =
        cluster_call(c, CONTROL_STATUS, &request.base, &paramd__control__status_reply__descriptor,
                     (ProtobufCMessage **)&reply);
    if (err)
        return err;
    if (reply->found) {
        *out = reply;
        return ERR_NONE;
    }
    paramd__control__status_reply__free_unpacked(reply, NULL);
    return find_past(c, job, out);
}

enum err cluster_list(struct cluster *c, bool all, Paramd__Control__ListReply **out)
{
    Paramd__Control__ListRequest request = PARAMD__CONTROL__LIST_REQUEST__INIT;

    request.all = all;
    return cluster_call(c, CONTROL_LIST, &request.base, &paramd__control__list_reply__descriptor,
                        (ProtobufCMessage **)out);
}
