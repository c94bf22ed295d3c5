#include "common/job_parts.h"

#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"

/* ---- optimizers ----------------------------------------------------------------------------- */

static const struct setting *type_row(void)
{
    CHECK(!strcmp(optimizer_settings[0].path, "type"));
    return &optimizer_settings[0];
}

struct settings_view job_optimizer_view(const struct optimizer_spec *o)
{
    static const char *const kinds[] = {"optimizer sgd",  "optimizer momentum", "optimizer adagrad",
                                        "optimizer adam", "optimizer rmsprop",  "optimizer ftrl"};
    const char *const *choices = type_row()->choices;
    uint32_t index = 0;
    while (choices[index] && strcmp(choices[index], o->type))
        index++;
    CHECK(choices[index]);
    return (struct settings_view){.rows = optimizer_settings,
                                  .count = optimizer_setting_count,
                                  .applies = 1u << index,
                                  .kind = kinds[index]};
}

static enum err check_schedule(const struct optimizer_spec *o, const struct conf_node *n,
                               const char *path)
{
    if (o->schedule.decay == DECAY_STEP && !o->schedule.decay_steps)
        return setting_error(ERR_INPUT, n, path,
                             "schedule.decay is step without schedule.decay_steps; give the number "
                             "of steps after which the rate falls");
    return ERR_NONE;
}

/*
 * `n` may be absent, a type alone, or a map. Without a type it changes what `base` says; with one
 * it begins with that type's defaults.
 */
static enum err read_optimizer(const struct conf_node *n, const char *path,
                               const struct optimizer_spec *base, struct optimizer_spec *out)
{
    struct optimizer_spec o = *base;
    const struct conf_node *type = conf_is_null(n) ? NULL : n;
    if (type && n->kind == CONF_MAP)
        type = conf_get(n, "type");
    enum err e = ERR_NONE;
    if (type) {
        char *full = must_format(n->kind == CONF_MAP ? "%s.type" : "%s", path);
        o = (struct optimizer_spec){0};
        e = value_read(type_row(), type, full, o.type);
        mem_free(full);
    }
    if (e)
        return e;
    struct settings_view view = job_optimizer_view(&o);
    if (type)
        settings_set_defaults(&view, &o);
    if (n && n->kind != CONF_SCALAR)
        e = settings_read(&view, n, path, &o);
    if (!e)
        e = check_schedule(&o, n, path);
    if (!e)
        *out = o;
    return e;
}

static struct optimizer_spec default_optimizer(const char *type)
{
    struct optimizer_spec o = {0};
    strcpy(o.type, type);
    struct settings_view view = job_optimizer_view(&o);
    settings_set_defaults(&view, &o);
    return o;
}

enum err job_read_optimizers(struct job *j, const struct conf_node *root)
{
    static const char *const paths[] = {"optimizer.linear", "optimizer.embedding",
                                        "optimizer.dense"};
    static const char *const types[] = {"ftrl", "adagrad", "adam"};
    struct optimizer_spec *const out[] = {&j->optimizer.linear, &j->optimizer.embedding,
                                          &j->optimizer.dense};
    for (size_t i = 0; i < 3; i++) {
        struct optimizer_spec base = default_optimizer(types[i]);
        enum err e = read_optimizer(settings_at(root, paths[i]), paths[i], &base, out[i]);
        if (e)
            return e;
    }
    return ERR_NONE;
}

/* ---- tables --------------------------------------------------------------------------------- */

struct settings_view job_table_view(void)
{
    return (struct settings_view){.rows = table_settings, .count = table_setting_count};
}

/* What a table does not say it takes from the job, so that saying it or not is the same. */
static enum err read_table(const struct job *j, const struct conf_node *n, struct job_table *t)
{
    struct settings_view view = job_table_view();
    t->dim = j->model.dim;
    t->l2 = j->model.l2;
    t->has_init = t->has_optimizer = t->has_l2 = true;
    settings_set_defaults(&view, t);

    char *path = must_format("tables.%s", t->name);
    enum err e = ERR_NONE;
    if (!*t->name || strlen(t->name) > NAME_MAX_BYTES)
        e = setting_error(ERR_INPUT, n, path, "is a name of 0 or more than %u bytes",
                          NAME_MAX_BYTES);
    if (!e)
        e = settings_read(&view, n, path, t);
    if (!e) {
        char *full = must_format("%s.optimizer", path);
        e = read_optimizer(conf_get(n, "optimizer"), full, &j->optimizer.embedding, &t->optimizer);
        mem_free(full);
    }
    mem_free(path);
    return e;
}

enum err job_read_tables(struct job *j, const struct conf_node *root)
{
    const struct conf_node *map = conf_get(root, "tables");
    if (conf_is_null(map))
        return ERR_NONE;
    if (map->kind != CONF_MAP)
        return setting_error(ERR_INPUT, map, "tables", "is not a map of tables by name");
    if (map->count > TABLE_MAX)
        return setting_error(ERR_INPUT, map, "tables", "has %zu tables; at most %u are possible",
                             map->count, TABLE_MAX);
    j->tables = must_alloc((map->count + 1) * sizeof *j->tables);
    for (size_t i = 0; i < map->count; i++) {
        j->tables[i].name = must_strdup(map->names[i]);
        j->table_count++;
        enum err e = read_table(j, map->items[i], &j->tables[i]);
        if (e)
            return e;
    }
    return ERR_NONE;
}
