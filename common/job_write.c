#include "common/job_parts.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/settings_codec.h"

/* Where the lines of a view stand: "features", "price". */
struct prefix {
    const char *names[3];
    uint32_t depth;
};

static void split_path(struct job_line *line, const char *path)
{
    while (*path) {
        size_t size = strcspn(path, ".");
        CHECK(line->depth < JOB_LINE_DEPTH);
        line->names[line->depth++] = memcpy(must_alloc(size + 1), path, size);
        path += size + (path[size] == '.');
    }
}

static void add_rows(struct job_lines *lines, const struct settings_view *v, const void *base,
                     const struct prefix *prefix);

static void add_line(struct job_lines *lines, const struct setting *row, const void *base,
                     const struct prefix *prefix)
{
    CHECK(mem_grow(lines->items, lines->capacity, lines->count + 1));
    struct job_line *line = &lines->items[lines->count++];
    struct str value = {0};
    *line = (struct job_line){.row = row};
    for (uint32_t i = 0; i < prefix->depth; i++)
        line->names[line->depth++] = must_strdup(prefix->names[i]);
    split_path(line, row->path);
    setting_print(row, base, &value);
    line->value = value.data;
}

static void add_optimizer(struct job_lines *lines, const struct optimizer_spec *o,
                          const struct prefix *prefix)
{
    struct settings_view view = job_optimizer_view(o);
    add_rows(lines, &view, o, prefix);
}

static void add_features(struct job_lines *lines, const struct job *j)
{
    for (size_t i = 0; i < j->feature_count; i++) {
        struct prefix prefix = {{"features", j->features[i].name}, 2};
        struct settings_view view = job_feature_view(&j->features[i]);
        add_rows(lines, &view, &j->features[i], &prefix);
    }
}

static void add_tables(struct job_lines *lines, const struct job *j)
{
    struct settings_view view = job_table_view();
    for (size_t i = 0; i < j->table_count; i++) {
        struct prefix prefix = {{"tables", j->tables[i].name}, 2};
        add_rows(lines, &view, &j->tables[i], &prefix);
    }
}

/* Rows that stand for others. */
static void add_group(struct job_lines *lines, const struct setting *row, const void *base,
                      const struct prefix *prefix)
{
    const char *path = row->path;
    if (!strcmp(path, "features"))
        add_features(lines, base);
    else if (!strcmp(path, "tables"))
        add_tables(lines, base);
    else if (!strncmp(path, "optimizer.", 10))
        add_optimizer(lines, (const void *)((const char *)base + row->offset),
                      &(struct prefix){{"optimizer", path + 10}, 2});
    else if (!strcmp(path, "optimizer"))
        add_optimizer(lines, (const void *)((const char *)base + row->offset),
                      &(struct prefix){{prefix->names[0], prefix->names[1], path}, 3});
}

static void add_rows(struct job_lines *lines, const struct settings_view *v, const void *base,
                     const struct prefix *prefix)
{
    for (size_t i = 0; i < v->count; i++) {
        const struct setting *row = &v->rows[i];
        if (!settings_applies(v, row) || row->type == SETTING_LATER)
            continue;
        if (row->type == SETTING_GROUP)
            add_group(lines, row, base, prefix);
        else
            add_line(lines, row, base, prefix);
    }
}

void job_lines_init(struct job_lines *lines, const struct job *j)
{
    struct settings_view view = job_view(j);
    *lines = (struct job_lines){0};
    add_rows(lines, &view, j, &(struct prefix){.depth = 0});
}

void job_lines_deinit(struct job_lines *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        for (uint32_t k = 0; k < lines->items[i].depth; k++)
            mem_free(lines->items[i].names[k]);
        mem_free(lines->items[i].value);
    }
    mem_free(lines->items);
    *lines = (struct job_lines){0};
}

void job_write(const struct job *j, struct str *out)
{
    struct job_lines lines;
    job_lines_init(&lines, j);
    for (size_t i = 0; i < lines.count; i++) {
        const struct job_line *line = &lines.items[i];
        const struct job_line *before = i ? &lines.items[i - 1] : NULL;
        uint32_t shared = 0;
        while (before && shared < line->depth - 1 && shared < before->depth - 1 &&
               !strcmp(before->names[shared], line->names[shared]))
            shared++;
        for (uint32_t level = shared; level < line->depth; level++) {
            for (uint32_t k = 0; k < level; k++)
                str_append(out, "  ");
            value_print_name(line->names[level], out);
            str_append(out, level + 1 < line->depth ? ":\n" : ": ");
        }
        str_append(out, line->value);
        str_append(out, "\n");
    }
    job_lines_deinit(&lines);
}
