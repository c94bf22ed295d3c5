/*
 * checkpoint_store.c - whole checkpoints in storage: commit, list, verify, digest, retention.
 */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/shard_file.h"
#include "server/snapshot.h"

#define MANIFEST_MAX_BYTES (64u << 20)

/* ---- manifest ---- */

enum err checkpoint_read_manifest(const char *directory, struct checkpoint_manifest **out,
                                  char sha256[SHA256_HEX_SIZE])
{
    char *uri = storage_join(directory, CHECKPOINT_MANIFEST), *data = NULL;
    char hex[SHA256_HEX_SIZE];
    size_t size = 0;
    enum err err = storage_read_all(uri, MANIFEST_MAX_BYTES, &data, &size);

    if (!err) {
        sha256_hex(data, size, hex);
        err = checkpoint_manifest_parse(uri, data, size, out);
    }
    if (!err && sha256)
        memcpy(sha256, hex, sizeof hex);
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

enum err checkpoint_publish(const char *directory, const struct checkpoint_manifest *m,
                            char sha256[SHA256_HEX_SIZE])
{
    char *uri = storage_join(directory, CHECKPOINT_MANIFEST);
    struct str text = {0};
    enum err err;

    checkpoint_manifest_write(m, &text);
    err = storage_create_exclusive(uri, text.data, text.size);
    if (err == ERR_EXISTS)
        err = compare_published(uri, &text);
    if (!err && sha256)
        sha256_hex(text.data, text.size, sha256);
    str_deinit(&text);
    mem_free(uri);
    return err;
}

/* ---- verify ---- */

static enum err verify_file(const char *directory, const struct checkpoint_file *listed)
{
    struct shard_file f;
    const uint8_t *body;
    uint64_t size;
    uint32_t rows;
    enum err err = shard_file_open(directory, listed, &f);

    if (err)
        return err;
    for (uint64_t i = 0; i < f.entry_count && !err; i++)
        err = shard_file_read(&f, i, &body, &size, &rows);
    shard_file_close(&f);
    return err;
}

enum err checkpoint_verify(const char *directory)
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_read_manifest(directory, &m, NULL);

    for (uint32_t i = 0; !err && i < m->file_count; i++)
        err = verify_file(directory, &m->files[i]);
    if (!err) {
        char *name = checkpoint_name(m->generation, m->step);
        size_t length = strlen(directory), name_length = strlen(name);
        while (length && directory[length - 1] == '/')
            length--;
        if (length < name_length || memcmp(directory + length - name_length, name, name_length) != 0)
            err = err_set(ERR_CORRUPT, "%s: its manifest is of checkpoint %s", directory, name);
        mem_free(name);
    }
    checkpoint_manifest_destroy(m);
    return err;
}

/* ---- digest ---- */

struct dense_piece {
    struct dense_block_head head;
    uint8_t *bytes;                  /* values, then slots */
    uint64_t size;
};

struct digest {
    struct sha256 *sha;
    struct dense_piece *pieces;
    size_t piece_count, piece_capacity;
    uint64_t last_key;
    bool has_key;
};

/* Row by row, key then state, so that the cut into blocks and files leaves no trace. */
static enum err digest_rows(struct digest *d, const uint8_t *body, uint64_t size, uint32_t rows)
{
    if (!rows || size % rows || size / rows < 8)
        return err_set(ERR_CORRUPT, "%u rows in %llu bytes", rows, (unsigned long long)size);
    uint64_t state_bytes = size / rows - 8;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t key;
        memcpy(&key, body + 8ull * i, 8);
        if (d->has_key && key <= d->last_key)
            return err_set(ERR_CORRUPT, "key 0x%016llx is out of order", (unsigned long long)key);
        d->last_key = key;
        d->has_key = true;
        sha256_update(d->sha, body + 8ull * i, 8);
        sha256_update(d->sha, body + 8ull * rows + i * state_bytes, state_bytes);
    }
    return ERR_NONE;
}

static enum err keep_piece(struct digest *d, const uint8_t *body, uint64_t size)
{
    struct dense_piece piece = {.size = size - DENSE_BLOCK_HEAD_BYTES};
    enum err err = dense_block_head_parse(body, size, &piece.head);

    if (err)
        return err;
    if (!mem_grow(d->pieces, d->piece_capacity, d->piece_count + 1))
        return ERR_MEMORY;
    piece.bytes = mem_alloc(piece.size + 1);
    if (!piece.bytes)
        return ERR_MEMORY;
    memcpy(piece.bytes, body + DENSE_BLOCK_HEAD_BYTES, piece.size);
    d->pieces[d->piece_count++] = piece;
    return ERR_NONE;
}

static enum err digest_file(struct digest *d, const char *directory, const struct checkpoint_file *listed)
{
    struct shard_file f;
    const uint8_t *body = NULL;
    uint64_t size = 0;
    uint32_t rows = 0;
    enum err err = shard_file_open(directory, listed, &f);

    if (err)
        return err;
    for (uint64_t i = 0; i < f.entry_count && !err; i++) {
        err = shard_file_read(&f, i, &body, &size, &rows);
        if (err)
            break;
        err = f.table == SHARD_FILE_DENSE ? keep_piece(d, body, size) : digest_rows(d, body, size, rows);
        if (err)
            err_prefix(err, "%s", listed->name);
    }
    shard_file_close(&f);
    return err;
}

static int compare_pieces(const void *a, const void *b)
{
    const struct dense_piece *x = a, *y = b;

    if (x->head.dense != y->head.dense)
        return x->head.dense < y->head.dense ? -1 : 1;
    return x->head.block < y->head.block ? -1 : x->head.block > y->head.block;
}

/* Files of one table follow each other in the order of their names, which is that of their keys. */
static enum err digest_tables(struct digest *d, const char *directory, const struct checkpoint_manifest *m)
{
    enum err err = ERR_NONE;

    for (uint32_t table = 0; table < TABLE_MAX && !err; table++) {
        char *prefix = must_format("table%u-", table);
        bool any = false;
        d->has_key = false;
        for (uint32_t i = 0; i < m->file_count && !err; i++) {
            if (strncmp(m->files[i].name, prefix, strlen(prefix)) != 0)
                continue;
            if (!any)
                sha256_update(d->sha, &table, sizeof table);
            any = true;
            err = digest_file(d, directory, &m->files[i]);
        }
        mem_free(prefix);
    }
    return err;
}

enum err checkpoint_digest(const char *directory, char hex[SHA256_HEX_SIZE])
{
    struct checkpoint_manifest *m = NULL;
    struct digest d = {0};
    enum err err = checkpoint_read_manifest(directory, &m, NULL);

    if (err)
        return err;
    d.sha = sha256_create();
    err = digest_tables(&d, directory, m);
    for (uint32_t i = 0; i < m->file_count && !err; i++)
        if (strncmp(m->files[i].name, "dense-", 6) == 0)
            err = digest_file(&d, directory, &m->files[i]);
    if (d.piece_count)
        qsort(d.pieces, d.piece_count, sizeof *d.pieces, compare_pieces);
    for (size_t i = 0; i < d.piece_count; i++) {
        if (!err) {
            sha256_update(d.sha, &d.pieces[i].head, sizeof d.pieces[i].head);
            sha256_update(d.sha, d.pieces[i].bytes, d.pieces[i].size);
        }
        mem_free(d.pieces[i].bytes);
    }
    mem_free(d.pieces);
    if (err)
        sha256_destroy(d.sha);
    else
        sha256_finish(d.sha, hex);
    checkpoint_manifest_destroy(m);
    return err;
}

/* ---- listing ---- */

static enum err check_sizes(const char *directory, const struct checkpoint_manifest *m, uint64_t *bytes)
{
    enum err err = ERR_NONE;

    for (uint32_t i = 0; i < m->file_count && !err; i++) {
        char *uri = storage_join(directory, m->files[i].name);
        struct storage_info info = {0};
        err = storage_stat(uri, &info);
        if (err == ERR_NOT_FOUND)
            err = err_set(ERR_CORRUPT, "%s is missing", uri);
        else if (!err && info.size != m->files[i].size)
            err = err_set(ERR_CORRUPT, "%s has %llu bytes, the manifest says %llu", uri,
                          (unsigned long long)info.size, (unsigned long long)m->files[i].size);
        *bytes += info.size;
        mem_free(uri);
    }
    return err;
}

/* Absence and failed verification are the listing's result; what may pass (a store away) is the caller's error. */
static enum err inspect(struct checkpoint_listing *l)
{
    struct checkpoint_manifest *m = NULL;
    enum err err = checkpoint_read_manifest(l->directory, &m, NULL);

    l->committed = err != ERR_NOT_FOUND;
    if (err == ERR_NOT_FOUND)
        err = err_set(ERR_NOT_FOUND, "%s has no " CHECKPOINT_MANIFEST ": it was never committed", l->directory);
    if (!err && (m->generation != l->generation || m->step != l->step))
        err = err_set(ERR_CORRUPT, "%s: its manifest is of checkpoint %llu-%llu", l->directory,
                      (unsigned long long)m->generation, (unsigned long long)m->step);
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

/* Newest first: good ones beyond `keep` go; refused and uncommitted ones go once a good one is newer. */
enum err checkpoint_retain(const char *job_uri, uint32_t keep, const char *const *protect,
                           uint32_t *removed_out)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    uint32_t good = 0, removed = 0;
    enum err err = checkpoint_list(job_uri, &l, &count);

    for (size_t i = 0; !err && i < count; i++) {
        bool is_good = l[i].committed && l[i].refused == ERR_NONE;
        bool goes = is_good ? good >= (keep ? keep : 1) : good > 0 && l[i].refused != ERR_UNSUPPORTED;
        good += is_good;
        if (!goes || is_protected(&l[i], protect))
            continue;
        err = storage_remove_tree(l[i].directory);
        if (!err) {
            log_info("checkpoint", "removed %s", l[i].directory);
            removed++;
        }
    }
    checkpoint_listing_free(l, count);
    if (!err && removed_out)
        *removed_out = removed;
    return err;
}
