#include "server/shard_file.h"

#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/storage.h"

static const char file_begin[8] = {'P', 'D', 'S', 'H', 'A', 'R', 'D', '1'};

/* ---- names ---- */

char *shard_file_name(const struct shard_file_range *r)
{
    if (r->table == SHARD_FILE_DENSE)
        return must_format("dense-%04u-%04u.%u.%04u", r->first_partition, r->end_partition,
                           r->attempt, r->piece);
    return must_format("table%u-%04u-%04u.%u.%04u", r->table, r->first_partition, r->end_partition,
                       r->attempt, r->piece);
}

/* A number up to `end`, which is stepped over. */
static bool take_number(const char **text, char end, uint32_t *out)
{
    const char *stop = strchr(*text, end);
    uint64_t value;

    if (!stop || str_parse_u64(span_make(*text, (size_t)(stop - *text)), &value) ||
        value > UINT32_MAX)
        return false;
    *out = (uint32_t)value;
    *text = stop + (end != '\0');
    return true;
}

enum err shard_file_parse_name(const char *name, struct shard_file_range *out)
{
    struct shard_file_range r = {.table = SHARD_FILE_DENSE};
    const char *rest = name;
    bool is_table = strncmp(name, "table", 5) == 0;

    if (is_table || strncmp(name, "dense-", 6) == 0)
        rest += is_table ? 5 : 6;
    bool is_good = rest != name && (!is_table || take_number(&rest, '-', &r.table)) &&
                   take_number(&rest, '-', &r.first_partition) &&
                   take_number(&rest, '.', &r.end_partition) &&
                   take_number(&rest, '.', &r.attempt) && take_number(&rest, '\0', &r.piece) &&
                   r.first_partition < r.end_partition && r.end_partition <= PARTITION_COUNT &&
                   (!is_table || r.table < TABLE_MAX);
    /* One name for one file: no other way to write the numbers. */
    char *again = is_good ? shard_file_name(&r) : NULL;
    is_good = is_good && strcmp(again, name) == 0;
    mem_free(again);
    if (!is_good)
        return err_set(ERR_CORRUPT, "'%s' is not the name of a shard file", name);
    *out = r;
    return ERR_NONE;
}

/* ---- the set of files ---- */

/* How far the files of one table, or of the dense parameters, have got. */
struct coverage {
    bool any;
    uint32_t first, end, attempt, piece; /* of the last file */
};

static enum err cover(struct coverage *c, const struct shard_file_range *r, const char *name)
{
    bool is_next_piece = c->any && r->first_partition == c->first && r->end_partition == c->end &&
                         r->attempt == c->attempt && r->piece == c->piece + 1;
    uint32_t expected = c->any ? c->end : 0;

    if (!is_next_piece && (r->first_partition != expected || r->piece != 0))
        return err_set(ERR_CORRUPT, "'%s': the file before it ends at partition %u: one is missing",
                       name, expected);
    *c = (struct coverage){true, r->first_partition, r->end_partition, r->attempt, r->piece};
    return ERR_NONE;
}

static enum err check_covered(const struct coverage *c, const char *what, uint32_t number)
{
    char of[16] = "";

    if (c->any && c->end == PARTITION_COUNT)
        return ERR_NONE;
    if (number != SHARD_FILE_DENSE)
        snprintf(of, sizeof of, " %u", number);
    return err_set(ERR_CORRUPT, "the files of %s%s end at partition %u of %u: one is missing", what,
                   of, c->end, PARTITION_COUNT);
}

enum err shard_file_check_set(const struct checkpoint_manifest *m, uint32_t *table_count_out)
{
    struct coverage *tables = must_alloc(TABLE_MAX * sizeof *tables), dense = {0};
    uint32_t table_count = 0;
    enum err err = ERR_NONE;

    for (uint32_t i = 0; i < m->file_count && !err; i++) {
        const char *name = m->files[i].name;
        struct shard_file_range r;
        err = shard_file_parse_name(name, &r);
        if (err)
            break;
        err = cover(r.table == SHARD_FILE_DENSE ? &dense : &tables[r.table], &r, name);
        if (r.table != SHARD_FILE_DENSE && r.table >= table_count)
            table_count = r.table + 1;
    }
    for (uint32_t i = 0; i < table_count && !err; i++)
        err = check_covered(&tables[i], "table", i);
    if (!err)
        err = check_covered(&dense, "the dense parameters", SHARD_FILE_DENSE);
    mem_free(tables);
    if (!err)
        *table_count_out = table_count;
    return err;
}

/* ---- opening ---- */

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

/* Does the index agree with the file's name and with the manifest? */
static enum err check_index(const struct shard_file *f, const struct shard_file_range *r)
{
    bool is_rows = f->table != SHARD_FILE_DENSE;
    uint64_t rows = 0;

    for (uint64_t i = 0; i < f->entry_count; i++) {
        const struct checkpoint_entry *e = &f->entries[i];
        if (e->partition < r->first_partition || e->partition >= r->end_partition ||
            (is_rows && i > 0 && e->partition < f->entries[i - 1].partition))
            return err_set(ERR_CORRUPT, "index entry %llu: partition %u is out of place",
                           (unsigned long long)i, e->partition);
        if (is_rows ? e->size > CHECKPOINT_BLOCK_MAX + CHECKPOINT_BLOCK_HEAD_BYTES : e->rows != 1)
            return err_set(ERR_CORRUPT, "index entry %llu: a block of %u rows and %llu bytes",
                           (unsigned long long)i, e->rows, (unsigned long long)e->size);
        rows += e->rows;
    }
    if (rows != f->listed->rows)
        return err_set(ERR_CORRUPT, "it has %llu rows, the manifest says %llu",
                       (unsigned long long)rows, (unsigned long long)f->listed->rows);
    return ERR_NONE;
}

enum err shard_file_open(const char *directory, const struct checkpoint_file *listed,
                         struct shard_file *out)
{
    struct shard_file f = {.listed = listed};
    struct shard_file_range range = {0};
    struct storage_info info = {0};
    char *uri = storage_join(directory, listed->name);
    enum err err = shard_file_parse_name(listed->name, &range);

    f.table = range.table;
    if (!err) {
        err = storage_open(uri, &f.reader);
        if (err == ERR_NOT_FOUND)
            err = err_prefix(ERR_CORRUPT, "it is missing");
        else if (err == ERR_IO && storage_stat(uri, &info) == ERR_NONE && info.is_directory)
            err = err_set(ERR_CORRUPT, "it is a directory"); /* waiting would not help */
    }
    if (!err)
        err = read_index(&f);
    if (!err)
        err = check_index(&f, &range);
    if (err) {
        err_prefix(err, "%s", listed->name);
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

/* ---- blocks ---- */

static enum err check_body(struct shard_file *f, uint64_t entry, const uint8_t *body, uint64_t size)
{
    const struct checkpoint_entry *e = &f->entries[entry];
    struct dense_block_head head;
    uint64_t first, last;

    if (f->table == SHARD_FILE_DENSE) {
        enum err err = dense_block_head_parse(body, size, &head);
        return err ? err_prefix(err, "block %u", e->number) : ERR_NONE;
    }
    enum err err = checkpoint_rows_check(e, body, size);
    if (err)
        return err;
    memcpy(&first, body, sizeof first);
    memcpy(&last, body + 8 * (e->rows - 1), sizeof last);
    if (f->has_last && entry > f->last_entry && first <= f->last_key)
        return err_set(ERR_CORRUPT, "block %u: key 0x%016llx is out of order", e->number,
                       (unsigned long long)first);
    f->has_last = true;
    f->last_entry = entry;
    f->last_key = last;
    return ERR_NONE;
}

enum err shard_file_read(struct shard_file *f, uint64_t entry, const uint8_t **body_out,
                         uint64_t *size_out, uint32_t *row_count_out)
{
    CHECK(entry < f->entry_count);
    const struct checkpoint_entry *e = &f->entries[entry];
    const uint8_t *body = NULL;
    uint32_t rows = 0;

    if (e->size > f->block_capacity) {
        uint8_t *grown = mem_alloc(e->size);
        if (!grown)
            return ERR_MEMORY;
        mem_free(f->block);
        f->block = grown;
        f->block_capacity = e->size;
    }
    uint64_t size = e->size - CHECKPOINT_BLOCK_HEAD_BYTES;
    enum err err = storage_read_at(f->reader, e->offset, f->block, e->size);
    if (!err)
        err = checkpoint_block_verify(f->block, e->size, e, &body, &rows);
    if (!err)
        err = check_body(f, entry, body, size);
    if (err)
        return err_prefix(err, "%s", f->listed->name);
    *body_out = body;
    *size_out = size;
    *row_count_out = rows;
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
    struct dense_block_head h;

    if (size < DENSE_BLOCK_HEAD_BYTES)
        return err_set(ERR_CORRUPT, "a dense block of %llu bytes", (unsigned long long)size);
    memcpy(&h.dense, body, 4);
    memcpy(&h.block, body + 4, 4);
    memcpy(&h.value_count, body + 8, 8);
    uint64_t floats = (size - DENSE_BLOCK_HEAD_BYTES) / 4;
    if ((size - DENSE_BLOCK_HEAD_BYTES) % 4 || h.dense >= DENSE_MAX || !h.value_count ||
        h.value_count > floats || floats % h.value_count || floats / h.value_count > 1 + SLOT_MAX)
        return err_set(ERR_CORRUPT, "block %u of dense parameter %u: %llu values in %llu bytes",
                       h.block, h.dense, (unsigned long long)h.value_count,
                       (unsigned long long)size);
    *out = h;
    return ERR_NONE;
}
