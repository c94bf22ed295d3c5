/*
 * datafiles.h - the files of a job's data, and what makes their index reusable.
 *
 * Shapes   training files first, then those of data.eval, each in byte order of their URIs. idx:
 *          images only.
 * Errors   ERR_INPUT when nothing is found or when key=value levels differ between files.
 */
#ifndef PARAMD_WORKER_DATAFILES_H
#define PARAMD_WORKER_DATAFILES_H

#include "common/dataindex.h"
#include "common/job.h"

struct data_files {
    struct dataindex_file *files; /* `splittable` is not known yet */
    uint32_t count;
};

enum err data_files_list(const struct job_data *d, struct data_files *out) MUST_CHECK;
void data_files_deinit(struct data_files *f);

/* Equal for equal settings that the index depends on and equal files. */
void data_files_identity(const struct job *j, const struct data_files *f,
                         char hex[SHA256_HEX_SIZE]);

/*
 * Names of a record's fields (with the path's columns) from what the header says, and the columns
 * that features_spec_create() takes: for libffm f0 … are added, for libsvm and idx the column of
 * their one feature. Freed by text_list_free().
 */
void data_fields(const struct job_data *d, char *const *header, uint32_t header_count,
                 const struct dataindex_file *file, struct text_list *out);
void data_spec_columns(const struct job_data *d, const struct text_list *fields,
                       uint32_t path_columns, uint32_t libffm_fields, struct text_list *out);
/* The names of a record's fields, from an index's columns. */
void data_fields_of_index(const struct job_data *d, const struct dataindex *index,
                          struct text_list *out);
void text_list_free(struct text_list *list);

#endif
