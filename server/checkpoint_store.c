/*
 * checkpoint_store.c - whole checkpoints in storage: commit, list, verify, digest, retention.
 */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/storage.h"
#include "server/shard_file.h"
#include "server/snapshot.h"

#define MANIFEST_MAX_BYTES (64u << 20)

/* ---- manifest ---- */

/* A directory that is named as a checkpoint must hold that one: one that was copied over it is as
   wrong as a damaged one. Under any other name a copy is welcome. */
static enum err check_directory(const char *directory, const struct checkpoint_manifest *m)
{
    size_t size = strlen(directory);
    uint64_t generation, step;
    enum err err = ERR_NONE;

    while (size && directory[size - 1] == '/')
        size--;
    size_t start = size;
    while (start && !strchr("/:", directory[start - 1]))
        start--;
    char *name = must_format("%.*s", (int)(size - start), directory + start);
    if (checkpoint_name_parse(name, &generation, &step) == ERR_NONE &&
        (m->generation != generation || m->step != step))
        err = err_set(ERR_CORRUPT, "%s: its manifest is of checkpoint %llu-%llu", directory,
                      (unsigned long long)m->generation, (unsigned long long)m->step);
    mem_free(name);
    return err;
}

enum err checkpoint_read_manifest(const char *directory, struct checkpoint_manifest **out,
                                  char sha256[SHA256_HEX_SIZE])
{
    char *uri = storage_join(directory, CHECKPOINT_MANIFEST), *data = NULL;
    struct checkpoint_manifest *m = NULL;
    struct storage_info info = {0};
    size_t size = 0;
    enum err err = storage_read_all(uri, MANIFEST_MAX_BYTES, &data, &size);

    /* Waiting makes a manifest of neither, and neither may hide the checkpoints before it. */
    if (err == ERR_LIMIT)
        err = ERR_CORRUPT;
    else if (err == ERR_IO && storage_stat(uri, &info) == ERR_NONE && info.is_directory)
        err = err_set(ERR_CORRUPT, "'%s' is a directory", uri);
    if (!err)
        err = checkpoint_manifest_parse(uri, data, size, &m);
    if (!err)
        err = check_directory(directory, m);
    if (err) {
        checkpoint_manifest_destroy(m);
    } else {
        *out = m;
        if (sha256)
            sha256_hex(data, size, sha256);
    }
    mem_free(data);
    mem_free(uri);
    return err;
}

/* Another leader may have committed first: it must have written the same bytes. */
static enum err compare_published(const char *uri, const struct str *text)
{
    char *data = NULL;
    size_t size = 0;
    enum err err = storage_read_all(uri, MANIFEST_MAX_BYTES, &data, &size);

    if (!err && (size != text->size || memcmp(data, text->data, size) != 0))
        err = err_set(ERR_EXISTS, "%s: another checkpoint is committed there already", uri);
    mem_free(data);
    return err;
}

/* What no reader would take must not be committed. */
static enum err check_readable(const char *uri, const struct str *text)
{
    struct checkpoint_manifest *back = NULL;
    uint32_t table_count;
    enum err err = checkpoint_manifest_parse(uri, text->data, text->size, &back);

    if (!err)
        err = shard_file_check_set(back, &table_count);
    checkpoint_manifest_destroy(back);
    return err ? err_prefix(ERR_INPUT, "refused to commit") : ERR_NONE;
}

enum err checkpoint_publish(const char *directory, const struct checkpoint_manifest *m,
                            char sha256[SHA256_HEX_SIZE])
{
    char *uri = storage_join(directory, CHECKPOINT_MANIFEST);
    struct str text = {0};
    enum err err;

    checkpoint_manifest_write(m, &text);
    err = check_readable(uri, &text);
    if (!err)
        err = storage_create_exclusive(uri, text.data, text.size);
    if (err == ERR_EXISTS)
        err = compare_published(uri, &text);
    if (!err && sha256)
        sha256_hex(text.data, text.size, sha256);
    str_deinit(&text);
    mem_free(uri);
    return err;
}

/* ---- the dense blocks of all files ---- */

struct dense_piece {
    struct dense_block_head head;
    uint8_t *bytes; /* values, then slots; NULL unless they are kept */
    uint64_t size;
};

struct dense_pieces {
    struct dense_piece *items;
    size_t count, capacity;
};

static enum err pieces_add(struct dense_pieces *p, const uint8_t *body, uint64_t size, bool keep)
{
    struct dense_piece piece = {.size = size - DENSE_BLOCK_HEAD_BYTES};
    enum err err = dense_block_head_parse(body, size, &piece.head);

    if (err)
        return err;
    if (!mem_grow(p->items, p->capacity, p->count + 1))
        return ERR_MEMORY;
    if (keep) {
        piece.bytes = mem_alloc(piece.size);
        if (!piece.bytes)
            return ERR_MEMORY;
        memcpy(piece.bytes, body + DENSE_BLOCK_HEAD_BYTES, piece.size);
    }
    p->items[p->count++] = piece;
    return ERR_NONE;
}

static int compare_pieces(const void *a, const void *b)
{
    const struct dense_piece *x = a, *y = b;

    if (x->head.dense != y->head.dense)
        return x->head.dense < y->head.dense ? -1 : 1;
    return x->head.block < y->head.block ? -1 : x->head.block > y->head.block;
}

/* Sorts them. Parameters and their blocks are numbered from 0 without a gap. */
static enum err pieces_check(struct dense_pieces *p)
{
    uint32_t dense = 0, block = 0;

    if (p->count)
        qsort(p->items, p->count, sizeof *p->items, compare_pieces);
    for (size_t i = 0; i < p->count; i++, block++) {
        const struct dense_block_head *h = &p->items[i].head;
        if (i > 0 && h->dense != dense) {
            dense++;
            block = 0;
        }
        if (h->dense != dense || h->block != block)
            return err_set(ERR_CORRUPT, "block %u of dense parameter %u is missing or there twice",
                           block, dense);
    }
    return ERR_NONE;
}

static void pieces_deinit(struct dense_pieces *p)
{
    for (size_t i = 0; i < p->count; i++)
        mem_free(p->items[i].bytes);
    mem_free(p->items);
}

/* ---- reading all of a checkpoint: verify, digest ---- */

struct scan {
    const char *directory;
    const struct checkpoint_manifest *manifest;
    struct sha256 *sha; /* NULL: verify only */
    struct dense_pieces dense;
    uint64_t row_bytes; /* of the present table; 0: not known yet */
};

/* Row by row, key then state, so that the cut into blocks and files leaves no trace. */
static enum err scan_rows(struct scan *s, const uint8_t *body, uint64_t size, uint32_t rows)
{
    uint64_t state_bytes = size / rows - 8;

    if (s->row_bytes && s->row_bytes != size / rows)
        return err_set(ERR_CORRUPT, "rows of %llu bytes follow rows of %llu",
                       (unsigned long long)(size / rows), (unsigned long long)s->row_bytes);
    s->row_bytes = size / rows;
    for (uint32_t i = 0; i < rows && s->sha; i++) {
        sha256_update(s->sha, body + 8ull * i, 8);
        sha256_update(s->sha, body + 8ull * rows + i * state_bytes, state_bytes);
    }
    return ERR_NONE;
}

static enum err scan_file(struct scan *s, const struct checkpoint_file *listed)
{
    struct shard_file f;
    const uint8_t *body = NULL;
    uint64_t size = 0;
    uint32_t rows = 0;
    enum err err = shard_file_open(s->directory, listed, &f);

    if (err)
        return err;
    for (uint64_t i = 0; i < f.entry_count && !err; i++) {
        err = shard_file_read(&f, i, &body, &size, &rows);
        if (err)
            break;
        err = f.table == SHARD_FILE_DENSE ? pieces_add(&s->dense, body, size, s->sha != NULL)
                                          : scan_rows(s, body, size, rows);
        if (err)
            err_prefix(err, "%s", listed->name);
    }
    shard_file_close(&f);
    return err;
}

/* The files of a table follow each other in the order of their names, which is that of the keys. */
static enum err scan_table(struct scan *s, uint32_t table)
{
    char *prefix = must_format("table%u-", table);
    enum err err = ERR_NONE;

    s->row_bytes = 0;
    if (s->sha)
        sha256_update(s->sha, &table, sizeof table);
    for (uint32_t i = 0; i < s->manifest->file_count && !err; i++)
        if (strncmp(s->manifest->files[i].name, prefix, strlen(prefix)) == 0)
            err = scan_file(s, &s->manifest->files[i]);
    mem_free(prefix);
    return err;
}

static enum err scan_all(struct scan *s)
{
    const struct checkpoint_manifest *m = s->manifest;
    uint32_t table_count = 0;
    enum err err = shard_file_check_set(m, &table_count);

    for (uint32_t i = 0; i < table_count && !err; i++)
        err = scan_table(s, i);
    for (uint32_t i = 0; i < m->file_count && !err; i++)
        if (strncmp(m->files[i].name, "dense-", 6) == 0)
            err = scan_file(s, &m->files[i]);
    if (!err)
        err = pieces_check(&s->dense);
    for (size_t i = 0; i < s->dense.count && s->sha && !err; i++) {
        const struct dense_piece *p = &s->dense.items[i];
        sha256_update(s->sha, &p->head, sizeof p->head);
        sha256_update(s->sha, p->bytes, p->size);
    }
    pieces_deinit(&s->dense);
    return err;
}

enum err checkpoint_verify(const char *directory)
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_read_manifest(directory, &m, NULL);

    if (err)
        return err;
    struct scan s = {.directory = directory, .manifest = m};
    err = scan_all(&s);
    if (err)
        err_prefix(err, "%s", directory);
    checkpoint_manifest_destroy(m);
    return err;
}

enum err checkpoint_digest(const char *directory, char hex[SHA256_HEX_SIZE])
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_read_manifest(directory, &m, NULL);

    if (err)
        return err;
    struct scan s = {.directory = directory, .manifest = m, .sha = sha256_create()};
    err = scan_all(&s);
    if (err) {
        sha256_destroy(s.sha);
        err_prefix(err, "%s", directory);
    } else {
        sha256_finish(s.sha, hex);
    }
    checkpoint_manifest_destroy(m);
    return err;
}

/* ---- listing ---- */

static int compare_name(const void *name, const void *entry)
{
    return strcmp(name, ((const struct storage_entry *)entry)->name);
}

/* By one listing, as a store that is far away answers it no slower than for a single file. */
static enum err check_sizes(const char *directory, const struct checkpoint_manifest *m,
                            uint64_t *bytes)
{
    struct storage_list list = {0};
    uint32_t table_count;
    enum err err = shard_file_check_set(m, &table_count);

    if (err)
        return err_prefix(err, "%s", directory);
    err = storage_list(directory, &list);
    if (err == ERR_NOT_FOUND)
        err = err_set(ERR_CORRUPT, "%s is being removed", directory);
    for (uint32_t i = 0; i < m->file_count && !err; i++) {
        const struct storage_entry *found =
            bsearch(m->files[i].name, list.entries, list.count, sizeof *list.entries, compare_name);
        if (!found)
            err = err_set(ERR_CORRUPT, "%s/%s is missing", directory, m->files[i].name);
        else if (found->info.size != m->files[i].size)
            err = err_set(ERR_CORRUPT, "%s/%s has %llu bytes, the manifest says %llu", directory,
                          m->files[i].name, (unsigned long long)found->info.size,
                          (unsigned long long)m->files[i].size);
        *bytes += found ? found->info.size : 0;
    }
    storage_list_deinit(&list);
    return err;
}

/* Absence and failed verification are the listing's result; what may pass (a store away) is the
 * caller's error. */
static enum err inspect(struct checkpoint_listing *l)
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_read_manifest(l->directory, &m, NULL);

    l->committed = err != ERR_NOT_FOUND;
    if (err == ERR_NOT_FOUND)
        err = err_set(ERR_NOT_FOUND, "%s has no " CHECKPOINT_MANIFEST ": it was never committed",
                      l->directory);
    if (!err)
        err = check_sizes(l->directory, m, &l->bytes);
    checkpoint_manifest_destroy(m);
    if (err != ERR_NONE && err != ERR_CORRUPT && err != ERR_NOT_FOUND && err != ERR_UNSUPPORTED)
        return err;
    l->refused = err;
    l->why = err ? must_strdup(err_text()) : NULL;
    return ERR_NONE;
}

static int compare_newest_first(const void *a, const void *b)
{
    const struct checkpoint_listing *x = a, *y = b;

    if (x->generation != y->generation)
        return x->generation > y->generation ? -1 : 1;
    return x->step > y->step ? -1 : x->step < y->step;
}

enum err checkpoint_list(const char *job_uri, struct checkpoint_listing **out, size_t *count_out)
{
    struct storage_list list = {0};
    struct checkpoint_listing *found;
    size_t count = 0;
    enum err err = storage_list(job_uri, &list);

    if (err == ERR_NOT_FOUND)
        err = ERR_NONE; /* no directory, no checkpoints */
    if (err)
        return err;
    found = must_alloc((list.count + 1) * sizeof *found);
    for (size_t i = 0; i < list.count && !err; i++) {
        struct checkpoint_listing *l = &found[count];
        if (!list.entries[i].info.is_directory ||
            checkpoint_name_parse(list.entries[i].name, &l->generation, &l->step) != ERR_NONE)
            continue;
        l->directory = storage_join(job_uri, list.entries[i].name);
        count++;
        err = inspect(l);
    }
    storage_list_deinit(&list);
    if (err) {
        checkpoint_listing_free(found, count);
        return err;
    }
    qsort(found, count, sizeof *found, compare_newest_first);
    *out = found;
    *count_out = count;
    return ERR_NONE;
}

void checkpoint_listing_free(struct checkpoint_listing *l, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mem_free(l[i].directory);
        mem_free(l[i].why);
    }
    mem_free(l);
}

/* ---- retention ---- */

static bool is_protected(const struct checkpoint_listing *l, const char *const *protect)
{
    char *name = checkpoint_name(l->generation, l->step);
    bool found = false;

    for (; protect && *protect && !found; protect++)
        found = strcmp(name, *protect) == 0;
    mem_free(name);
    return found;
}

/* Newest first: good ones beyond `keep` go; refused and uncommitted ones go once a good one is
 * newer. */
enum err checkpoint_retain(const char *job_uri, uint32_t keep, const char *const *protect,
                           uint32_t *removed_out)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    uint32_t good = 0, removed = 0;
    enum err err = checkpoint_list(job_uri, &l, &count);

    if (err)
        return err;
    for (size_t i = 0; i < count; i++) {
        bool is_good = l[i].committed && l[i].refused == ERR_NONE;
        bool goes = is_good ? good + PLANT(retention_eager) >= (keep ? keep : 1)
                            : good && l[i].refused != ERR_UNSUPPORTED;
        good += is_good;
        if (!goes || (is_protected(&l[i], protect) && !PLANT(retention_eager)))
            continue;
        enum err failed = storage_remove_tree(l[i].directory);
        if (failed) {
            log_warn("checkpoint", "cannot remove %s: %s", l[i].directory, err_text());
            err = failed;
        } else {
            log_info("checkpoint", "removed %s", l[i].directory);
            removed++;
        }
    }
    checkpoint_listing_free(l, count);
    if (!err && removed_out)
        *removed_out = removed;
    return err;
}
