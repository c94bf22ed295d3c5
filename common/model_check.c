/*
 * model_check.c - a job's model before its data are seen: is it sound, and which layers is it.
 */
#include <string.h>

#include "common/job_parts.h"
#include "common/mem.h"
#include "common/model.h"
#include "common/model_builder.h"
#include "common/settings_codec.h"

/* Names of columns as the job expects them. */
struct columns {
    char **items;
    size_t count;
};

static void add_column(struct columns *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->items[i], name))
            return;
    c->items = must_realloc(c->items, c->count + 1, sizeof *c->items);
    c->items[c->count++] = must_strdup(name);
}

/* Two names that a pattern matches: "user_*" → "user_1" and "user_2", "[ab]" → "a" and "b". */
static char *example_of(const char *pattern, uint32_t which)
{
    char *name = must_strdup(pattern), *to = name;
    for (const char *p = pattern; *p; p++) {
        const char *end = *p == '[' ? strchr(p, ']') : NULL;
        *to++ = *p == '*' || *p == '?' ? (char)('1' + which) : end ? p[1 + which] : *p;
        p = end ? end : p;
    }
    *to = '\0';
    return name;
}

static void list_columns(const struct job *j, struct columns *c)
{
    for (uint32_t i = 0; j->data.format == FORMAT_LIBFFM && i < 2; i++)
        add_column(c, i ? "f1" : "f0");
    for (size_t i = 0; j->data.format != FORMAT_LIBFFM && i < j->feature_count; i++) {
        const struct job_feature *f = &j->features[i];
        if (job_feature_is_pattern(f->name)) {
            for (uint32_t which = 0; which < 2; which++) {
                char *name = example_of(f->name, which);
                add_column(c, name);
                mem_free(name);
            }
        } else if (f->column) {
            add_column(c, f->column);
        }
    }
}

static enum err assume_features(const struct job *j, struct features_spec **out)
{
    struct columns c = {0};
    list_columns(j, &c);
    enum err err = features_spec_create(j, (const char *const *)c.items, c.count, out);
    for (size_t i = 0; i < c.count; i++)
        mem_free(c.items[i]);
    mem_free(c.items);
    return err;
}

/* Whether what a pattern matches decides more than how many columns there are. */
static bool depends_on_names(const struct job *j)
{
    bool patterns = false, named = false;
    for (size_t i = 0; i < j->feature_count; i++) {
        patterns = patterns || job_feature_is_pattern(j->features[i].name);
        named = named || j->features[i].cross.count > 0 || j->features[i].table != NULL;
    }
    for (size_t i = 0; i < j->model.layer_count; i++)
        for (size_t k = 0; k < j->model.layers[i].in.count; k++)
            named = named || strchr(j->model.layers[i].in.items[k], '(') != NULL;
    return patterns && (named || j->table_count > 0);
}

enum err model_check(const struct job *j)
{
    struct features_spec *features = NULL;
    struct model *m = NULL;
    if (depends_on_names(j))
        return ERR_NONE;
    enum err err = assume_features(j, &features);
    if (err == ERR_NONE)
        err = model_create(j, features, &m);
    model_destroy(m);
    features_spec_destroy(features);
    return err;
}

/* Settings of `model:` that hold for layers, too; the others are in the list. */
static bool is_kept(struct span line)
{
    static const char *const kept[] = {
        "  dim:", "  loss:", "  classes:", "  normalize:", "  l2:", "  outputs:", NULL};
    for (size_t i = 0; kept[i]; i++)
        if (line.size > strlen(kept[i]) && !strncmp(line.data, kept[i], strlen(kept[i])))
            return true;
    return false;
}

/* The job's canonical text, with the lines of `model:` but for those kept replaced by the list. */
static void write_expanded(const char *text, const struct job_layers *layers, struct str *out)
{
    bool inside = false;
    while (*text) {
        struct span line = span_make(text, strcspn(text, "\n") + 1);
        bool was_inside = inside;
        if (line.data[0] != ' ')
            inside = !strncmp(text, "model:", 6);
        if (was_inside && !inside) {
            str_append(out, "  layers:\n");
            for (size_t i = 0; i < layers->count; i++) {
                str_append(out, "    - ");
                job_layer_write(&layers->items[i], out);
                str_append(out, "\n");
            }
        }
        if (!inside || line.data[0] != ' ' || is_kept(line))
            str_append_span(out, line);
        text += line.size;
    }
}

enum err model_expand(const struct job *j, struct str *out)
{
    struct features_spec *features = NULL;
    struct job_layers layers = {0};
    struct str text = {0};
    enum err err = assume_features(j, &features);
    if (err == ERR_NONE)
        err = model_preset_layers(j, features, &layers);
    if (err == ERR_NONE) {
        job_write(j, &text);
        write_expanded(text.data, &layers, out);
    }
    str_deinit(&text);
    job_layers_deinit(&layers);
    features_spec_destroy(features);
    return err;
}
