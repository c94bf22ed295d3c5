/*
 * settings_codec_layers.c - model.layers: a list of maps, read by the rows of layer_settings.
 */
#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/settings_codec.h"

const char *const model_type_names[] = {"lr",     "fm",  "mlp",  "ffm",    "wide_deep",
                                        "deepfm", "dcn", "dlrm", "layers", NULL};
const char *const layer_type_names[] = {"linear",     "mlp",     "cross", "fm",
                                        "dot",        "concat",  "sum",   "norm",
                                        "activation", "dropout", "terms", NULL};
_Static_assert(sizeof layer_type_names / sizeof *layer_type_names == JOB_LAYER_TYPE_COUNT + 1,
               "a name for each type of layer");

/* ---- lists of widths ------------------------------------------------------------------------- */

enum err codec_widths_read(const struct setting *row, const struct conf_node *n, const char *path,
                           void *place)
{
    struct width_list *list = place;
    if (n->kind != CONF_LIST)
        return value_error(row, n, path, "is not a list");
    if (n->count > 64)
        return value_error(row, n, path, "has more than 64 layers");
    uint32_t *widths = must_alloc((n->count + 1) * sizeof *widths);
    for (size_t i = 0; i < n->count; i++) {
        uint64_t width = 0;
        enum err e = value_u64(row, n->items[i], path, &width);
        if (e) {
            mem_free(widths);
            return e;
        }
        widths[i] = (uint32_t)width;
    }
    mem_free(list->items);
    *list = (struct width_list){widths, n->count};
    return ERR_NONE;
}

void codec_widths_write(const struct setting *row, const void *place, struct str *out)
{
    const struct width_list *list = place;
    str_append(out, "[");
    for (size_t i = 0; i < list->count; i++)
        str_append_format(out, "%s%u", i ? ", " : "", list->items[i]);
    str_append(out, "]");
}

/* ---- layers ---------------------------------------------------------------------------------- */

static struct settings_view layer_view(enum job_layer_type type)
{
    return (struct settings_view){
        .rows = layer_settings, .count = layer_setting_count, .applies = 1u << type};
}

void job_layer_deinit(struct job_layer *l)
{
    mem_free(l->name);
    value_list_clear(&l->in);
    mem_free(l->hidden.items);
}

static void clear_layers(struct job_model *m)
{
    for (size_t i = 0; i < m->layer_count; i++)
        job_layer_deinit(&m->layers[i]);
    mem_free(m->layers);
    m->layers = NULL;
    m->layer_count = 0;
}

/* Names become parts of parameters' names, and stand in lists beside the inputs. */
static enum err check_layer_name(const struct job_model *m, const struct job_layer *l,
                                 const struct conf_node *n, const char *path)
{
    static const char *const inputs[] = {"dense", "embeddings", "wide", "input"};
    bool valid = l->name && *l->name && strlen(l->name) <= 40;
    for (const char *p = valid ? l->name : ""; *p; p++)
        valid = valid && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                          (*p >= '0' && *p <= '9') || *p == '_' || *p == '-');
    if (!valid)
        return setting_error(
            ERR_INPUT, n, path,
            "has no name of 1 to 40 letters, digits, '_' and '-'; give name: NAME");
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (!strcmp(l->name, inputs[i]))
            return setting_error(ERR_INPUT, n, path, "'%s' is the name of an input; choose another",
                                 l->name);
    for (size_t i = 0; i < m->layer_count; i++)
        if (&m->layers[i] != l && !strcmp(m->layers[i].name, l->name))
            return setting_error(ERR_INPUT, n, path, "there is a layer '%s' before it already",
                                 l->name);
    return ERR_NONE;
}

static const struct setting *type_row(void)
{
    CHECK(!strcmp(layer_settings[1].path, "type"));
    return &layer_settings[1];
}

static enum err read_layer(const struct job_model *m, const struct conf_node *n, const char *path,
                           struct job_layer *l)
{
    const struct conf_node *name = conf_get(n, "name");
    if (n->kind != CONF_MAP)
        return setting_error(ERR_INPUT, n, path, "is not a map {name: …, type: …, in: […]}");
    bool named = name && name->kind == CONF_SCALAR && *name->text;
    char *full = named ? must_format("model.layers.%s", name->text) : must_strdup(path);
    char *type = must_format("%s.type", full);
    enum err e = ERR_NONE;
    if (conf_is_null(conf_get(n, "type")))
        e = setting_error(ERR_INPUT, n, full, "has no type; give type: linear, mlp, …");
    else
        e = value_read(type_row(), conf_get(n, "type"), type, &l->type);
    if (!e) {
        struct settings_view view = layer_view(l->type);
        char *kind = must_format("a layer of type %s", layer_type_names[l->type]);
        view.kind = kind;
        settings_set_defaults(&view, l);
        e = settings_read(&view, n, full, l);
        if (!e)
            e = settings_require(&view, n, full);
        mem_free(kind);
    }
    if (!e)
        e = check_layer_name(m, l, n, full);
    mem_free(type);
    mem_free(full);
    return e;
}

enum err codec_layers_read(const struct setting *row, const struct conf_node *n, const char *path,
                           void *place)
{
    struct job_model *m = place;
    clear_layers(m);
    if (conf_is_null(n))
        return ERR_NONE;
    if (n->kind != CONF_LIST)
        return value_error(row, n, path, "is not a list");
    if (n->count > LAYER_MAX)
        return setting_error(ERR_INPUT, n, path, "has %zu layers; give at most %u", n->count,
                             LAYER_MAX);
    m->layers = must_alloc((n->count + 1) * sizeof *m->layers);
    for (size_t i = 0; i < n->count; i++) {
        char *full = must_format("%s[%zu]", path, i);
        m->layer_count++;
        enum err e = read_layer(m, n->items[i], full, &m->layers[i]);
        mem_free(full);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void job_layer_write(const struct job_layer *l, struct str *out)
{
    struct settings_view view = layer_view(l->type);
    bool first = true;
    str_append(out, "{");
    for (size_t i = 0; i < view.count; i++) {
        if (!settings_applies(&view, &view.rows[i]))
            continue;
        str_append_format(out, "%s%s: ", first ? "" : ", ", view.rows[i].path);
        setting_print(&view.rows[i], l, out);
        first = false;
    }
    str_append(out, "}");
}

void codec_layers_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_model *m = place;
    str_append(out, "[");
    for (size_t i = 0; i < m->layer_count; i++) {
        str_append(out, i ? ", " : "");
        job_layer_write(&m->layers[i], out);
    }
    str_append(out, "]");
}
