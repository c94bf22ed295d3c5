/*
 * job_parts.h - the pieces of job_parse() and job_write(), for common/job*.c and features_spec.c
 * only.
 *
 * Order    job.c reads the rows, then features, tables and optimizers, which need the format and
 * the model; job_check.c then refuses what does not fit together.
 */
#ifndef PARAMD_COMMON_JOB_PARTS_H
#define PARAMD_COMMON_JOB_PARTS_H

#include "common/conf.h"
#include "common/job.h"
#include "common/settings_table.h"

/* The rows that the job's model has. */
struct settings_view job_view(const struct job *j);
struct settings_view job_feature_view(const struct job_feature *f);
struct settings_view job_table_view(void);
struct settings_view job_optimizer_view(const struct optimizer_spec *o);

/* job_features.c: fills j->features from `node` (may be NULL) and the format's defaults. */
enum err job_read_features(struct job *j, const struct conf_node *root) MUST_CHECK;
void job_feature_deinit(struct job_feature *f);
bool job_feature_is_pattern(const char *name);

/* job_parts.c: tables and optimizers. */
enum err job_read_optimizers(struct job *j, const struct conf_node *root) MUST_CHECK;
enum err job_read_tables(struct job *j, const struct conf_node *root) MUST_CHECK;

/* job_check.c: what must fit together; fills what the rows leave to each other. */
enum err job_check(struct job *j, const struct conf_node *root) MUST_CHECK;

/* job_write.c: the job as lines of path and value, in canonical order. */
#define JOB_LINE_DEPTH 6
struct job_line {
    char *names[JOB_LINE_DEPTH];
    uint32_t depth;
    const struct setting *row;
    char *value;
};
struct job_lines {
    struct job_line *items;
    size_t count, capacity;
};
void job_lines_init(struct job_lines *lines, const struct job *j);
void job_lines_deinit(struct job_lines *lines);

#endif
