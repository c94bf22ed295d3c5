/*
 * reader_internal.h - what the files of the formats share. Only worker/reader*.c include it.
 */
#ifndef PARAMD_WORKER_READER_INTERNAL_H
#define PARAMD_WORKER_READER_INTERNAL_H

#include "worker/reader.h"

struct reader {
    const struct reader_format *format;
    struct reader_options options;
    struct reader_block block;
    char *cursor; /* the next record */
    char *end;
    uint64_t line; /* of the cursor */
    struct record record;
    size_t field_capacity;
    size_t entry_capacity;
    char label[8];         /* idx: the label as text */
    const uint8_t *labels; /* idx */
    uint32_t index;        /* idx: the next record */
};

/* Room for the format's own fields and the path's; sets record.field_count. */
enum err reader_fields(struct reader *r, uint32_t own_count) MUST_CHECK;

/* The next line without its end ("\n" or "\r\n"), stepping over it. false: no more. Sets
 * record.start, line. */
bool reader_line(struct reader *r, struct span *out);
/* The size of a line with its end; 0: it does not end within the text. */
size_t reader_cut_line(const struct job_data *d, struct span text, bool whole, uint32_t *lines_out);

/* libsvm (with_field false) and libffm: one line. */
enum err reader_next_entries(struct reader *r, bool with_field, bool *end);

extern const struct reader_format reader_csv, reader_criteo, reader_libsvm, reader_libffm,
    reader_idx;

#endif
