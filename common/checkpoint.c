#include "common/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/crc.h"
#include "common/mem.h"
#include "common/plant.h"

#define BLOCK_MAGIC 0x4b4c4250u /* "PBLK" */

static const char file_end[8] = {'P', 'D', 'S', 'H', 'E', 'N', 'D', '1'};

static void put_u32(uint8_t *out, uint32_t value)
{
    memcpy(out, &value, sizeof value);
}

static void put_u64(uint8_t *out, uint64_t value)
{
    memcpy(out, &value, sizeof value);
}

static uint32_t get_u32(const uint8_t *in)
{
    uint32_t value;
    memcpy(&value, in, sizeof value);
    return value;
}

static uint64_t get_u64(const uint8_t *in)
{
    uint64_t value;
    memcpy(&value, in, sizeof value);
    return value;
}

/* ---- names ---- */

char *checkpoint_name(uint64_t generation, uint64_t step)
{
    return must_format("%llu-%llu", (unsigned long long)generation, (unsigned long long)step);
}

static bool is_canonical_number(struct span text)
{
    return text.size == 1 || (text.size > 1 && text.data[0] != '0');
}

enum err checkpoint_name_parse(const char *name, uint64_t *generation, uint64_t *step)
{
    const char *dash = strchr(name, '-');
    uint64_t parsed_generation, parsed_step;

    if (!dash)
        return err_set(ERR_INPUT, "'%s' is not the name of a checkpoint: <generation>-<step>",
                       name);
    struct span first = span_make(name, (size_t)(dash - name));
    struct span second = span_of(dash + 1);
    if (!is_canonical_number(first) || !is_canonical_number(second) ||
        str_parse_u64(first, &parsed_generation) || str_parse_u64(second, &parsed_step))
        return err_set(ERR_INPUT, "'%s' is not the name of a checkpoint: <generation>-<step>",
                       name);
    *generation = parsed_generation;
    *step = parsed_step;
    return ERR_NONE;
}

/* ---- shard files: writing ---- */

uint32_t checkpoint_block_head(uint32_t number, uint32_t partition, uint32_t row_count,
                               const void *const *parts, const size_t *sizes, size_t part_count,
                               uint8_t head[CHECKPOINT_BLOCK_HEAD_BYTES])
{
    uint32_t crc = 0;
    uint64_t size = 0;

    for (size_t i = 0; i < part_count; i++) {
        crc = crc32c(crc, parts[i], sizes[i]);
        size += sizes[i];
    }
    put_u32(head, BLOCK_MAGIC);
    put_u32(head + 4, crc);
    put_u64(head + 8, size);
    put_u32(head + 16, number);
    put_u32(head + 20, partition);
    put_u32(head + 24, row_count);
    crc = crc32c(0, head, 28);
    put_u32(head + 28, crc);
    return crc;
}

void checkpoint_footer(const struct checkpoint_entry *entries, size_t count, uint64_t offset,
                       struct str *out, uint32_t *index_crc)
{
    uint32_t crc = 0;

    for (size_t i = 0; i < count; i++) {
        uint8_t row[CHECKPOINT_ENTRY_BYTES];
        put_u32(row, entries[i].partition);
        put_u32(row + 4, entries[i].number);
        put_u64(row + 8, entries[i].offset);
        put_u64(row + 16, entries[i].size);
        put_u32(row + 24, entries[i].rows);
        put_u32(row + 28, entries[i].head_crc);
        crc = crc32c(crc, row, sizeof row);
        str_append_span(out, span_make((const char *)row, sizeof row));
    }
    uint8_t tail[CHECKPOINT_TAIL_BYTES];
    put_u64(tail, offset);
    put_u64(tail + 8, count);
    put_u32(tail + 16, crc);
    put_u32(tail + 20, crc32c(0, tail, 20));
    memcpy(tail + 24, file_end, sizeof file_end);
    str_append_span(out, span_make((const char *)tail, sizeof tail));
    *index_crc = crc;
}

/* ---- shard files: reading ---- */

enum err checkpoint_tail_parse(const uint8_t tail[CHECKPOINT_TAIL_BYTES], uint64_t file_size,
                               uint64_t *index_offset, uint64_t *entry_count, uint32_t *index_crc)
{
    if (memcmp(tail + 24, file_end, sizeof file_end) != 0)
        return err_set(ERR_CORRUPT, "the end mark is missing: the file is cut or not a shard file");
    if (crc32c(0, tail, 20) != get_u32(tail + 20))
        return err_set(ERR_CORRUPT, "tail: checksum is 0x%08x, should be 0x%08x",
                       crc32c(0, tail, 20), get_u32(tail + 20));
    uint64_t offset = get_u64(tail), count = get_u64(tail + 8);
    if (file_size < CHECKPOINT_HEAD_BYTES + CHECKPOINT_TAIL_BYTES || offset > file_size ||
        offset < CHECKPOINT_HEAD_BYTES || count > file_size / CHECKPOINT_ENTRY_BYTES ||
        offset + count * CHECKPOINT_ENTRY_BYTES + CHECKPOINT_TAIL_BYTES != file_size)
        return err_set(
            ERR_CORRUPT, "tail: index of %llu entries at %llu does not fit a file of %llu",
            (unsigned long long)count, (unsigned long long)offset, (unsigned long long)file_size);
    *index_offset = offset;
    *entry_count = count;
    *index_crc = get_u32(tail + 16);
    return ERR_NONE;
}

static enum err check_entry(const struct checkpoint_entry *e, uint64_t i, uint64_t expected_offset,
                            uint64_t file_size)
{
    if (e->number != i || e->partition >= PARTITION_COUNT)
        return err_set(ERR_CORRUPT, "index entry %llu: number %u, partition %u",
                       (unsigned long long)i, e->number, e->partition);
    if (e->offset != expected_offset || e->size < CHECKPOINT_BLOCK_HEAD_BYTES ||
        e->size > file_size)
        return err_set(
            ERR_CORRUPT, "index entry %llu: %llu bytes at %llu do not follow the one before",
            (unsigned long long)i, (unsigned long long)e->size, (unsigned long long)e->offset);
    return ERR_NONE;
}

enum err checkpoint_index_parse(const void *data, size_t size, uint64_t entry_count,
                                uint32_t index_crc, uint64_t file_size,
                                struct checkpoint_entry **out)
{
    const uint8_t *row = data;
    uint64_t expected_offset = CHECKPOINT_HEAD_BYTES;

    if (size != entry_count * CHECKPOINT_ENTRY_BYTES)
        return err_set(ERR_CORRUPT, "index: %zu bytes for %llu entries", size,
                       (unsigned long long)entry_count);
    uint32_t crc = crc32c(0, data, size);
    if (crc != index_crc)
        return err_set(ERR_CORRUPT, "index: checksum is 0x%08x, should be 0x%08x", crc, index_crc);
    struct checkpoint_entry *entries = mem_alloc((entry_count + 1) * sizeof *entries);
    if (!entries)
        return ERR_MEMORY;
    for (uint64_t i = 0; i < entry_count; i++, row += CHECKPOINT_ENTRY_BYTES) {
        entries[i] =
            (struct checkpoint_entry){get_u32(row),      get_u32(row + 4),  get_u64(row + 8),
                                      get_u64(row + 16), get_u32(row + 24), get_u32(row + 28)};
        enum err err = check_entry(&entries[i], i, expected_offset, file_size);
        if (err) {
            mem_free(entries);
            return err;
        }
        expected_offset += entries[i].size;
    }
    if (expected_offset + size + CHECKPOINT_TAIL_BYTES != file_size) {
        mem_free(entries);
        return err_set(ERR_CORRUPT, "index: blocks end at %llu, the index begins elsewhere",
                       (unsigned long long)expected_offset);
    }
    *out = entries;
    return ERR_NONE;
}

enum err checkpoint_block_verify(const void *block, size_t size,
                                 const struct checkpoint_entry *entry, const uint8_t **body_out,
                                 uint32_t *row_count_out)
{
    const uint8_t *head = block;

    if (size != entry->size || size < CHECKPOINT_BLOCK_HEAD_BYTES)
        return err_set(ERR_CORRUPT, "block %u: %zu bytes, should be %llu", entry->number, size,
                       (unsigned long long)entry->size);
    if (crc32c(0, head, 28) != get_u32(head + 28) || get_u32(head) != BLOCK_MAGIC)
        return err_set(ERR_CORRUPT, "block %u: its head does not verify", entry->number);
    if (get_u32(head + 28) != entry->head_crc)
        return err_set(ERR_CORRUPT,
                       "block %u: its head has checksum 0x%08x, the index says 0x%08x: it is of "
                       "another checkpoint",
                       entry->number, get_u32(head + 28), entry->head_crc);
    if (get_u32(head + 16) != entry->number || get_u32(head + 20) != entry->partition ||
        get_u64(head + 8) != size - CHECKPOINT_BLOCK_HEAD_BYTES ||
        get_u32(head + 24) != entry->rows)
        return err_set(ERR_CORRUPT, "block %u: its head and the index disagree", entry->number);
    const uint8_t *body = head + CHECKPOINT_BLOCK_HEAD_BYTES;
    uint32_t crc = crc32c(0, body, size - CHECKPOINT_BLOCK_HEAD_BYTES);
    if (crc != get_u32(head + 4) && !PLANT(checksum_skipped))
        return err_set(ERR_CORRUPT, "block %u: checksum is 0x%08x, should be 0x%08x", entry->number,
                       crc, get_u32(head + 4));
    *body_out = body;
    *row_count_out = get_u32(head + 24);
    return ERR_NONE;
}

enum err checkpoint_rows_check(const struct checkpoint_entry *entry, const uint8_t *body,
                               uint64_t size)
{
    uint64_t rows = entry->rows, key, last = 0;

    if (rows == 0 || size % rows != 0 || size / rows < 12 || (size / rows) % 4 != 0)
        return err_set(ERR_CORRUPT, "block %u: %llu rows in %llu bytes", entry->number,
                       (unsigned long long)rows, (unsigned long long)size);
    for (uint64_t i = 0; i < rows; i++) {
        key = get_u64(body + 8 * i);
        if (i > 0 && key <= last)
            return err_set(ERR_CORRUPT, "block %u: key 0x%016llx is out of order", entry->number,
                           (unsigned long long)key);
        if (key >> PARTITION_SHIFT != entry->partition)
            return err_set(ERR_CORRUPT, "block %u: key 0x%016llx is not of partition %u",
                           entry->number, (unsigned long long)key, entry->partition);
        last = key;
    }
    return ERR_NONE;
}
