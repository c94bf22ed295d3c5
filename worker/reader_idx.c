/*
 * idx: bytes with a big-endian head: 0 0 type dimensions, then each dimension in 4 bytes. Images
 * are unsigned bytes (type 8) of three dimensions; their labels have one and stand in a file of
 * their own, found by name.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "worker/reader_internal.h"

#define IMAGES_MAGIC 0x00000803u
#define LABELS_MAGIC 0x00000801u
#define IMAGES_HEAD  16
#define LABELS_HEAD  8
#define VALUES_MAX   (1u << 20)

static uint32_t big_endian(const char *data)
{
    const uint8_t *b = (const uint8_t *)data;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static enum err head(const struct job_data *d, const char *name, struct span start, bool whole,
                     struct file_head *out)
{
    if (start.size < IMAGES_HEAD) {
        if (!whole)
            return err_set(ERR_LIMIT, "%s: the start is cut off", name);
        return err_set(ERR_INPUT, "%s: %zu bytes are too few for an idx file", name, start.size);
    }
    uint32_t magic = big_endian(start.data), rows = big_endian(start.data + 8);
    uint32_t columns = big_endian(start.data + 12);
    if (magic != IMAGES_MAGIC)
        return err_set(ERR_INPUT, "%s: magic 0x%08" PRIx32 " is not that of idx images (0x%08x)",
                       name, magic, IMAGES_MAGIC);
    if (rows == 0 || columns == 0 || (uint64_t)rows * columns > VALUES_MAX)
        return err_set(ERR_INPUT,
                       "%s: images of %" PRIu32 " x %" PRIu32 " values; 1 to %u are read", name,
                       rows, columns, VALUES_MAX);
    out->size = IMAGES_HEAD;
    out->record_count = big_endian(start.data + 4);
    out->record_bytes = rows * columns;
    return ERR_NONE;
}

enum err reader_idx_labels_uri(const char *images_uri, char **out)
{
    static const char images[] = "images-idx3-ubyte", labels[] = "labels-idx1-ubyte";
    const char *at = NULL;
    for (const char *p = strstr(images_uri, images); p != NULL; p = strstr(p + 1, images))
        at = p;
    if (at == NULL)
        return err_set(ERR_INPUT, "%s: the labels file is found by name, which must contain '%s'",
                       images_uri, images);
    *out =
        must_format("%.*s%s%s", (int)(at - images_uri), images_uri, labels, at + sizeof images - 1);
    return ERR_NONE;
}

enum err reader_idx_labels_head(const char *name, struct span start, uint64_t record_count,
                                size_t *size_out)
{
    if (start.size < LABELS_HEAD)
        return err_set(ERR_INPUT, "%s: %zu bytes are too few for an idx file", name, start.size);
    uint32_t magic = big_endian(start.data), count = big_endian(start.data + 4);
    if (magic != LABELS_MAGIC)
        return err_set(ERR_INPUT, "%s: magic 0x%08" PRIx32 " is not that of idx labels (0x%08x)",
                       name, magic, LABELS_MAGIC);
    if (count != record_count)
        return err_set(ERR_INPUT, "%s: %" PRIu32 " labels, but %" PRIu64 " images", name, count,
                       record_count);
    *size_out = LABELS_HEAD;
    return ERR_NONE;
}

static enum err next(struct reader *r, bool *end)
{
    if (r->index == r->block.record_count) {
        *end = true;
        return ERR_NONE;
    }
    enum err e = reader_fields(r, 1);
    if (e != ERR_NONE)
        return e;
    int size = snprintf(r->label, sizeof r->label, "%u", (unsigned)r->labels[r->index]);
    r->record.fields[0] = span_make(r->label, (size_t)size);
    r->record.line = r->block.first_line + r->index;
    r->record.bytes = (const uint8_t *)r->block.data + (size_t)r->index * r->options.record_bytes;
    r->record.byte_count = r->options.record_bytes;
    r->index++;
    return ERR_NONE;
}

const struct reader_format reader_idx = {
    .format = FORMAT_IDX,
    .head = head,
    .next = next,
};
