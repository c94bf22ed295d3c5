/*
 * settings_codec_outputs.c - model.outputs: a list of maps, read by the rows of output_settings.
 */
#include <string.h>

#include "common/mem.h"
#include "common/settings_codec.h"

#define OUTPUT_MAX 16

static struct settings_view output_view(void)
{
    return (struct settings_view){.rows = output_settings, .count = output_setting_count};
}

void job_output_deinit(struct job_output *o)
{
    mem_free(o->from);
    mem_free(o->label);
}

enum err codec_outputs_read(const struct setting *row, const struct conf_node *n, const char *path,
                            void *place)
{
    struct job_model *m = place;
    struct settings_view view = output_view();
    for (size_t i = 0; i < m->output_count; i++)
        job_output_deinit(&m->outputs[i]);
    mem_free(m->outputs);
    m->outputs = NULL;
    m->output_count = 0;
    if (conf_is_null(n))
        return ERR_NONE;
    if (n->kind != CONF_LIST)
        return value_error(row, n, path, "is not a list");
    if (n->count > OUTPUT_MAX)
        return value_error(row, n, path, "has more than 16 outputs");
    m->outputs = must_alloc((n->count + 1) * sizeof *m->outputs);
    for (size_t i = 0; i < n->count; i++) {
        char *full = must_format("%s[%zu]", path, i);
        struct job_output *o = &m->outputs[m->output_count++];
        settings_set_defaults(&view, o);
        enum err e = settings_read(&view, n->items[i], full, o);
        if (!e)
            e = settings_require(&view, n->items[i], full);
        mem_free(full);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void codec_outputs_write(const struct setting *row, const void *place, struct str *out)
{
    const struct job_model *m = place;
    struct settings_view view = output_view();
    str_append(out, "[");
    for (size_t i = 0; i < m->output_count; i++) {
        for (size_t k = 0; k < view.count; k++) {
            str_append_format(out, "%s%s: ", k ? ", " : i ? ", {" : "{", view.rows[k].path);
            setting_print(&view.rows[k], &m->outputs[i], out);
        }
        str_append(out, "}");
    }
    str_append(out, "]");
}
