/*
 * settings_docs.c - the pages and the default files that are made from the rows.
 */
#include <string.h>

#include "common/settings_codec.h"
#include "common/settings_table.h"

static const char warning[] =
    "<!-- Made from the settings table (common/settings_table*.c); do not edit by hand. -->\n\n";

/* ---- pieces --------------------------------------------------------------------------------- */

/* Text of a cell: a bar would end it. */
static void append_cell(struct str *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '|')
            str_append(out, "\\");
        str_append_span(out, span_make(p, 1));
    }
}

static void append_initial(struct str *out, const struct setting *row)
{
    const char *text = row->initial;
    size_t size = strlen(text);
    if (text[0] == '<') {
        struct str inner = {0};
        str_append_span(&inner, span_make(text + 1, size - 2));
        append_cell(out, inner.data);
        str_deinit(&inner);
        return;
    }
    str_append(out, "`");
    append_cell(out, text);
    str_append(out, "`");
}

static void append_value(struct str *out, const struct setting *row)
{
    struct str text = {0};
    if (row->type == SETTING_LATER)
        return;
    value_describe(row, &text);
    append_cell(out, text.data);
    str_deinit(&text);
    if (row->unit)
        str_append_format(out, "; %s", row->unit);
}

static void append_kinds(struct str *out, const struct setting *row, const char *const *kinds)
{
    bool any = false;
    for (uint32_t i = 0; kinds && kinds[i]; i++) {
        if (!(row->applies & 1u << i))
            continue;
        str_append_format(out, "%s%s", any ? ", " : " (", kinds[i]);
        any = true;
    }
    if (any)
        str_append(out, ")");
}

static void append_row(struct str *out, const struct setting *row, const char *const *kinds)
{
    static const char *const changes[] = {"always", "on resume", "never"};
    str_append_format(out, "| `%s`", row->path);
    append_kinds(out, row, kinds);
    str_append(out, " | ");
    append_value(out, row);
    str_append(out, " | ");
    append_initial(out, row);
    const char *bits = row->no_bits            ? "no"
                       : row->bits_if_schedule ? "if a schedule needs it"
                                               : "yes";
    bool direct = row->type != SETTING_GROUP && row->type != SETTING_LATER;
    str_append_format(out, " | %s | %s | ", direct ? bits : "", direct ? changes[row->change] : "");
    append_cell(out, row->help);
    str_append(out, " |\n");
}

/* Rows of a section; of "" those outside of any; of NULL all. */
static void append_table(struct str *out, const struct setting *rows, size_t count,
                         const char *section, const char *const *kinds)
{
    size_t size = section ? strlen(section) : 0;
    str_append(out, "| setting | value | default | identity | may change | |\n"
                    "|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        bool inside = size ? !strncmp(rows[i].path, section, size) && rows[i].path[size] == '.'
                           : !strchr(rows[i].path, '.');
        if (inside || !section)
            append_row(out, &rows[i], kinds);
    }
    str_append(out, "\n");
}

/* ---- docs/job-file.md ----------------------------------------------------------------------- */

static const char job_intro[] =
    "# The job file\n\n"
    "One YAML file describes a run from columns to model. `paramctl config check -f FILE` says "
    "what is\n"
    "wrong with one, with line and column; `paramctl config show -f FILE` prints it with every "
    "default\n"
    "filled in.\n\n"
    "- **value**: what may stand there; `~` is none. Durations are written `500ms`, `30s`, `5min`, "
    "`2h`,\n"
    "  `1d`; sizes `64KiB`, `256MiB`, `2GiB`. Numbers are not quoted.\n"
    "- **identity**: whether the setting can change the trained model's bits. Those that can make "
    "the\n"
    "  job's hash, with their defaults filled in.\n"
    "- **may change**: *never* after the first checkpoint; *on resume*, and then it holds from "
    "there on;\n"
    "  *always*: nothing that is stored depends on it.\n"
    "- What is marked (later) is refused by name.\n\n"
    "The command line changes settings: `--set train.epochs=3`, `--set model.hidden=[64,32]`,\n"
    "`--set 'features.[C1..C26].min_count=4'` (brackets hold a name with dots). `${x}` in any text "
    "is a\n"
    "variable of `vars:`, which `--var x=VALUE` sets; `$${` writes the two characters.\n\n"
    "```yaml\n"
    "data:     {format: csv, train: train.csv.gz, eval: test.csv.gz, label: late}\n"
    "features:\n"
    "  carrier: categorical\n"
    "  origin: categorical\n"
    "  distance: {transform: [log1p, standardize]}\n"
    "model:    {type: fm}\n"
    "```\n\n";

static const char features_intro[] =
    "## Features\n\n"
    "`features:` is a map from names to types or settings, in order: `carrier: categorical`,\n"
    "`price: {transform: [log1p, standardize]}`, `tags: ~`. `C1..C26` stands for numbered "
    "columns,\n"
    "`user_*` for all columns that match and are not label, weight or time. A name of its own "
    "beats a\n"
    "range, a range a pattern. `features: all` takes every column of a csv as categorical.\n\n"
    "Formats that need none: criteo (I1..I13, with `log2_floor` in lr, fm and ffm, with `log1p, "
    "standardize`\n"
    "elsewhere; C1..C26), libsvm (one multi-valued feature `features` with `key: integer`), libffm "
    "(a\n"
    "feature a field, configured as `f`, sharing the table `features`), idx (the vector `pixels`, "
    "values\n"
    "divided by 255). What the job lists changes those.\n\n"
    "Kinds: a *binned* feature is a number made categorical by `bucketize`, `log2_floor`, `hour` "
    "or\n"
    "`weekday`; a *multi* feature is a categorical one with `pooling`, `separator`, "
    "`value_weights` or\n"
    "`max_values`.\n\n";

static const char layers_intro[] =
    "## Layers\n\n"
    "`model.layers:` composes a model from layers, in order. A layer reads inputs and layers that "
    "stand\n"
    "before it, and the last one gives the output, as many numbers as the loss needs (`softmax`: "
    "model.classes,\n"
    "else 1). Each `model.type` is such a list: `paramctl config show --expand -f FILE` prints it. "
    "Shapes are\n"
    "checked by `paramctl config check`, with the layer's path in the error; docs/models.md has "
    "the formulas.\n\n"
    "Inputs: `dense` (numbers and vectors), `embeddings` (the pooled vectors of all categorical "
    "features),\n"
    "`embeddings(user_*)` (of those that match), `wide` (the sum of the linear terms and a "
    "bias).\n\n"
    "```yaml\n"
    "model:\n"
    "  layers:\n"
    "    - {name: cross, type: cross, in: [dense, embeddings], layers: 3, low_rank: 64}\n"
    "    - {name: deep, type: mlp, in: [dense, embeddings], hidden: [512, 256], dropout: 0.1}\n"
    "    - {name: body, type: concat, in: [cross, deep]}\n"
    "    - {name: click, type: linear, in: [body, wide], units: 1}\n"
    "```\n\n";

void settings_document_job(struct str *out)
{
    static const char *const sections[] = {"data",           "model",      "train",     "eval",
                                           "early_stopping", "checkpoint", "resources", NULL};

    static const char *const classes[] = {"categorical", "numeric", "vector", "binned",
                                          "cross",       "multi",   NULL};
    static const char *const optimizers[] = {"sgd",     "momentum", "adagrad", "adam",
                                             "rmsprop", "ftrl",     NULL};
    str_append(out, warning);
    str_append(out, job_intro);
    str_append(out, "## The whole\n\n");
    append_table(out, job_settings, job_setting_count, "", NULL);
    for (size_t i = 0; sections[i]; i++) {
        str_append_format(out, "## %s\n\n", sections[i]);
        append_table(out, job_settings, job_setting_count, sections[i], model_type_names);
        if (i == 0) {
            str_append(out, features_intro);
            append_table(out, feature_settings, feature_setting_count, NULL, classes);
            str_append(out,
                       "## Tables\n\n`tables:` is a map from names to settings. A feature reads "
                       "the table that it\nnames, or the one of its own name.\n\n");
            append_table(out, table_settings, table_setting_count, NULL, NULL);
        }
        if (i == 1) {
            str_append(out, layers_intro);
            append_table(out, layer_settings, layer_setting_count, NULL, layer_type_names);
            str_append(out, "## Outputs\n\n`model.outputs:` is a list of maps. Layers that several "
                            "outputs read, a shared bottom,\nlearn from all of them.\n\n");
            append_table(out, output_settings, output_setting_count, NULL, NULL);
            str_append(out, "## Optimizers\n\n");
            append_table(out, job_settings, job_setting_count, "optimizer", NULL);
            str_append(out, "Each is a type (`dense: sgd`) or a map; without `type` it changes the "
                            "default's settings.\n\n");
            append_table(out, optimizer_settings, optimizer_setting_count, NULL, optimizers);
        }
    }
}

/* ---- daemons -------------------------------------------------------------------------------- */

void settings_document_daemon(struct str *out)
{
    str_append(out, warning);
    str_append(out,
               "# Settings of the daemons\n\n"
               "`paramd-server` and `paramd-worker` read them from `--config FILE` and `--set "
               "name=value`; `paramctl`\nuses those that concern it. The shipped "
               "`conf/server.yaml` and `conf/worker.yaml` hold every default as a\ncomment.\n\n"
               "| setting | value | default | |\n|---|---|---|---|\n");
    for (size_t i = 0; i < daemon_setting_count; i++) {
        const struct setting *row = &daemon_settings[i];
        str_append_format(out, "| `%s` | ", row->path);
        append_value(out, row);
        str_append(out, " | ");
        append_initial(out, row);
        str_append(out, " | ");
        append_cell(out, row->help);
        str_append(out, " |\n");
    }
}

/* A comment of at most 100 columns, broken between words. */
static void append_comment(struct str *out, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (!column || column + 1 + word > 98) {
            str_append(out, column ? "\n#" : "#");
            column = 1;
        }
        str_append(out, " ");
        str_append_span(out, span_make(text, word));
        column += 1 + word;
        text += word + (text[word] == ' ');
    }
    str_append(out, "\n");
}

void settings_write_defaults(const char *role, struct str *out)
{
    uint32_t kind = !strcmp(role, "server") ? DAEMON_APPLIES_SERVER : DAEMON_APPLIES_WORKER;
    str_append_format(out,
                      "# Defaults of paramd-%s. Remove the # in front of a setting to change it.\n"
                      "# Made from the settings table; docs/daemon-settings.md says more.\n",
                      role);
    for (size_t i = 0; i < daemon_setting_count; i++) {
        const struct setting *row = &daemon_settings[i];
        if (row->applies && !(row->applies & kind))
            continue;
        str_append(out, "\n");
        append_comment(out, row->help);
        str_append_format(out, "#%s: %s\n", row->path, row->initial);
    }
}
