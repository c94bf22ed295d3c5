/*
 * reader.h - data formats: bytes -> records. One file and one row of a table a format.
 *
 * A file is a head (a header line, magic numbers; mostly nothing) and then records. The cut of a
 * format finds where a record ends, which is all that whoever divides a file into blocks must know;
 * its next takes the records of a block apart. Nothing is copied: fields are spans of the block,
 * which is unescaped in place.
 *
 *     reader_begin(r, &block);
 *     while ((e = reader_next(r, &record)) == ERR_NONE && record != NULL)
 *         …
 *
 * Shapes   text formats: fields[0 … field_count - 1] are the columns of reader_columns(), then
 *          those of the path's key=value levels. libsvm, libffm: fields[0] is the label and entries
 *          are the terms. idx: fields[0] is the label and bytes are the values.
 * Units    lines and columns in errors count from 1, columns in bytes.
 * Threads  a reader belongs to one thread; formats are constant.
 * Errors   ERR_INPUT "file:line:column: …". After it reader_next() goes on with the record
 *          behind.
 * Sources  csv: RFC 4180, and Spark's escape by backslash inside quotes. libsvm: its README.
 *          libffm: its README. idx: the description on the MNIST page (big-endian magic,
 *          dimensions, bytes).
 */
#ifndef PARAMD_WORKER_READER_H
#define PARAMD_WORKER_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/str.h"

#define CRITEO_INTEGERS   13u
#define CRITEO_CATEGORIES 26u

struct record_entry {
    uint32_t field; /* libffm; libsvm: 0 */
    float value;
    uint64_t index;
};

struct record {
    uint64_t line; /* where it begins; idx: its number */
    const char *start;
    struct span *fields; /* data NULL: missing */
    uint32_t field_count;
    struct record_entry *entries;
    uint32_t entry_count;
    const uint8_t *bytes;
    uint32_t byte_count;
};

/* What stands in front of a file's records. file_head_deinit() frees the names. */
struct file_head {
    size_t size; /* bytes */
    uint32_t lines;
    char **columns; /* csv only; other formats have fixed ones */
    uint32_t column_count;
    uint32_t record_bytes; /* records of a fixed size; 0: text */
    uint64_t record_count; /* when record_bytes > 0 */
    bool empty;            /* csv: no bytes, not even a header; Spark writes such parts */
};
void file_head_deinit(struct file_head *h);

/* A run of whole records. The reader may change the bytes. */
struct reader_block {
    const char *name; /* of the file, for errors */
    char *data;
    size_t size;
    uint64_t first_line;
    uint32_t record_count;           /* idx: how many images; then as many labels follow them */
    const char *const *extra_values; /* of key=value levels */
    uint32_t extra_count;
};

struct reader;

/* How a format is added: this row, in reader.c. */
struct reader_format {
    enum data_format format;
    /* MAY be NULL: nothing is in front. ERR_LIMIT: more than `size` bytes are needed. */
    enum err (*head)(const struct job_data *d, const char *name, struct span start, bool whole,
                     struct file_head *out);
    /* The bytes of the first record of `text`, with its line end; 0: it does not end there.
       `whole`: nothing comes behind. MUST for text formats. */
    size_t (*cut)(const struct job_data *d, struct span text, bool whole, uint32_t *lines_out);
    /* Takes the next record apart into r->record; *end when there is none. MUST. */
    enum err (*next)(struct reader *r, bool *end);
};
const struct reader_format *reader_format_find(enum data_format f);

/* Names of a record's fields: given by the head for csv, fixed for others (then both are set here).
 */
void reader_columns(enum data_format f, const char *const **names_out, uint32_t *count_out);

struct reader_options {
    const struct job_data *data; /* borrowed */
    uint32_t column_count;       /* csv: fields that each record must have */
    uint32_t record_bytes;       /* idx */
};
enum err reader_create(const struct reader_options *o, struct reader **out) MUST_CHECK;
void reader_destroy(struct reader *r); /* accepts NULL */
/* Borrows the block until the next reader_begin(). */
void reader_begin(struct reader *r, const struct reader_block *b);
/* *out = NULL at the end. */
enum err reader_next(struct reader *r, const struct record **out) MUST_CHECK;

/*
 * "file:line:column: " and then the text, ERR_INPUT. `at` is a place in the record's bytes; any
 * other pointer means the record's beginning.
 */
enum err reader_error(const struct reader *r, const char *at, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* A decimal number as str_parse_f64() reads it, faster where that is short. false: it is none. */
bool reader_number(struct span text, double *out);

/* "3:0.5 7:1" as the entries of a libsvm or libffm record (for predict). Uses and fills `r`. */
enum err reader_parse_entries(struct reader *r, struct span text,
                              const struct record **out) MUST_CHECK;

/* idx: the labels file that belongs to an images file; freed with mem_free(). ERR_INPUT: not such a
 * name. */
enum err reader_idx_labels_uri(const char *images_uri, char **out) MUST_CHECK;
/* Head of a labels file; checks it against the images' count. */
enum err reader_idx_labels_head(const char *name, struct span start, uint64_t record_count,
                                size_t *size_out) MUST_CHECK;

#endif
