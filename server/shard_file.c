#include "server/shard_file.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/storage.h"

static const char file_begin[8] = {'P', 'D', 'S', 'H', 'A', 'R', 'D', '1'};

char *shard_file_name(uint32_t table, uint32_t first_partition, uint32_t end_partition, uint32_t piece)
{
    if (table == SHARD_FILE_DENSE)
        return must_format("dense-%04u-%04u.%04u", first_partition, end_partition, piece);
    return must_format("table%u-%04u-%04u.%04u", table, first_partition, end_partition, piece);
}

static enum err parse_kind(const char *name, uint32_t *table_out)
{
    const char *dash = strchr(name, '-');
    uint64_t table = 0;

    if (strncmp(name, "dense-", 6) == 0) {
        *table_out = SHARD_FILE_DENSE;
        return ERR_NONE;
    }
    if (!dash || strncmp(name, "table", 5) != 0 ||
        str_parse_u64(span_make(name + 5, (size_t)(dash - name - 5)), &table) || table >= TABLE_MAX)
        return err_set(ERR_CORRUPT, "its name says neither table nor dense");
    *table_out = (uint32_t)table;
    return ERR_NONE;
}

static enum err read_index(struct shard_file *f)
{
    uint8_t head[CHECKPOINT_HEAD_BYTES], tail[CHECKPOINT_TAIL_BYTES];
    uint64_t size = storage_reader_size(f->reader), offset, count;
    uint32_t crc;

    if (size != f->listed->size)
        return err_set(ERR_CORRUPT, "it has %llu bytes, the manifest says %llu",
                       (unsigned long long)size, (unsigned long long)f->listed->size);
    if (size < sizeof head + sizeof tail)
        return err_set(ERR_CORRUPT, "%llu bytes are too few", (unsigned long long)size);
    enum err err = storage_read_at(f->reader, 0, head, sizeof head);
    if (!err)
        err = storage_read_at(f->reader, size - sizeof tail, tail, sizeof tail);
    if (err)
        return err;
    if (memcmp(head, file_begin, sizeof head) != 0)
        return err_set(ERR_CORRUPT, "it does not begin as a shard file");
    err = checkpoint_tail_parse(tail, size, &offset, &count, &crc);
    if (err)
        return err;
    if (crc != f->listed->index_crc)
        return err_set(ERR_CORRUPT, "its index has checksum 0x%08x, the manifest says 0x%08x", crc,
                       f->listed->index_crc);
    size_t index_size = count * CHECKPOINT_ENTRY_BYTES;
    uint8_t *index = mem_alloc(index_size + 1);
    if (!index)
        return ERR_MEMORY;
    err = storage_read_at(f->reader, offset, index, index_size);
    if (!err)
        err = checkpoint_index_parse(index, index_size, count, crc, size, &f->entries);
    mem_free(index);
    f->entry_count = err ? 0 : count;
    return err;
}

enum err shard_file_open(const char *directory, const struct checkpoint_file *listed,
                         struct shard_file *out)
{
    struct shard_file f = {.listed = listed};
    char *uri = storage_join(directory, listed->name);
    uint64_t rows = 0;
    enum err err = parse_kind(listed->name, &f.table);

    if (!err)
        err = storage_open(uri, &f.reader);
    if (!err)
        err = read_index(&f);
    for (uint64_t i = 0; !err && i < f.entry_count; i++)
        rows += f.entries[i].rows;
    if (!err && rows != listed->rows)
        err = err_set(ERR_CORRUPT, "it has %llu rows, the manifest says %llu", (unsigned long long)rows,
                      (unsigned long long)listed->rows);
    if (err) {
        err_prefix(err, "%s", uri);
        shard_file_close(&f);
    } else {
        *out = f;
    }
    mem_free(uri);
    return err;
}

void shard_file_close(struct shard_file *f)
{
    storage_close(f->reader);
    mem_free(f->entries);
    mem_free(f->block);
    *f = (struct shard_file){0};
}

enum err shard_file_read(struct shard_file *f, uint64_t entry, const uint8_t **body_out,
                         uint64_t *size_out, uint32_t *row_count_out)
{
    CHECK(entry < f->entry_count);
    const struct checkpoint_entry *e = &f->entries[entry];

    if (e->size > f->block_capacity) {
        uint8_t *grown = mem_alloc(e->size);
        if (!grown)
            return ERR_MEMORY;
        mem_free(f->block);
        f->block = grown;
        f->block_capacity = e->size;
    }
    enum err err = storage_read_at(f->reader, e->offset, f->block, e->size);
    if (!err)
        err = checkpoint_block_verify(f->block, e->size, e, body_out, row_count_out);
    if (err)
        return err_prefix(err, "%s", f->listed->name);
    *size_out = e->size - CHECKPOINT_BLOCK_HEAD_BYTES;
    return ERR_NONE;
}

void dense_block_head_write(const struct dense_block_head *h, uint8_t out[DENSE_BLOCK_HEAD_BYTES])
{
    memcpy(out, &h->dense, 4);
    memcpy(out + 4, &h->block, 4);
    memcpy(out + 8, &h->value_count, 8);
}

enum err dense_block_head_parse(const uint8_t *body, uint64_t size, struct dense_block_head *out)
{
    if (size < DENSE_BLOCK_HEAD_BYTES)
        return err_set(ERR_CORRUPT, "a dense block of %llu bytes", (unsigned long long)size);
    memcpy(&out->dense, body, 4);
    memcpy(&out->block, body + 4, 4);
    memcpy(&out->value_count, body + 8, 8);
    if ((size - DENSE_BLOCK_HEAD_BYTES) % 4 || out->value_count > (size - DENSE_BLOCK_HEAD_BYTES) / 4)
        return err_set(ERR_CORRUPT, "a dense block of %llu values in %llu bytes",
                       (unsigned long long)out->value_count, (unsigned long long)size);
    return ERR_NONE;
}
