/* libffm: `label field:index:value …`, else as libsvm. */
#include "worker/reader_internal.h"

static enum err next(struct reader *r, bool *end)
{
    return reader_next_entries(r, true, end);
}

const struct reader_format reader_libffm = {
    .format = FORMAT_LIBFFM,
    .cut = reader_cut_line,
    .next = next,
};
