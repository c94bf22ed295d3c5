/*
 * checkpoint_manifest.c - MANIFEST.json of common/checkpoint.h: canonical bytes with their own
 * checksum.
 */
#include <string.h>

#include "common/check.h"
#include "common/checkpoint.h"
#include "common/json.h"
#include "common/mem.h"

#define MANIFEST_KIND "paramd checkpoint"

static void append_hex(struct str *out, const struct str *bytes)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < bytes->size; i++) {
        unsigned char byte = (unsigned char)bytes->data[i];
        char pair[2] = {digits[byte >> 4], digits[byte & 15]};
        str_append_span(out, span_make(pair, 2));
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum err parse_hex(const char *text, struct str *out)
{
    size_t size = strlen(text);

    for (size_t i = 0; i + 1 < size; i += 2) {
        int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            return err_set(ERR_CORRUPT, "'%c%c' is not hexadecimal", text[i], text[i + 1]);
        char byte = (char)(high << 4 | low);
        str_append_span(out, span_make(&byte, 1));
    }
    return size % 2 ? err_set(ERR_CORRUPT, "an odd number of hexadecimal digits") : ERR_NONE;
}

/* 64-bit numbers travel as text: JSON readers elsewhere know only doubles. */
static void set_u64(struct json *object, const char *name, uint64_t value)
{
    char *text = must_format("%llu", (unsigned long long)value);
    json_set_text(object, name, text);
    mem_free(text);
}

static enum err get_u64(const struct json *object, const char *name, uint64_t *out)
{
    const char *text;
    enum err err = json_get_text(object, name, &text);

    return err ? err : str_parse_u64(span_of(text), out);
}

static enum err get_i64(const struct json *object, const char *name, int64_t *out)
{
    const char *text;
    enum err err = json_get_text(object, name, &text);

    return err ? err : str_parse_i64(span_of(text), out);
}

/* ---- writing ---- */

static struct json *files_json(const struct checkpoint_manifest *m)
{
    struct json *list = json_array();

    for (uint32_t i = 0; i < m->file_count; i++) {
        struct json *file = json_object();
        json_set_text(file, "name", m->files[i].name);
        set_u64(file, "size", m->files[i].size);
        json_set_int(file, "index_crc", m->files[i].index_crc);
        set_u64(file, "rows", m->files[i].rows);
        json_push(list, file);
    }
    return list;
}

static struct json *ranks_json(const struct checkpoint_manifest *m)
{
    struct json *list = json_array();

    for (uint32_t i = 0; i < m->rank_count; i++) {
        const struct checkpoint_rank *r = &m->ranks[i];
        struct json *rank = json_object();
        struct str hex = {0};
        set_u64(rank, "examples", r->examples);
        char *sum = must_format("%lld", (long long)r->loss_sum);
        json_set_text(rank, "loss_sum", sum);
        mem_free(sum);
        sum = must_format("%lld", (long long)r->weight_sum);
        json_set_text(rank, "weight_sum", sum);
        mem_free(sum);
        if (r->loss_scale > 0)
            set_u64(rank, "loss_scale", r->loss_scale);
        append_hex(&hex, &r->metrics);
        json_set_text(rank, "metrics", hex.data ? hex.data : "");
        str_deinit(&hex);
        json_push(list, rank);
    }
    return list;
}

void checkpoint_manifest_write(const struct checkpoint_manifest *m, struct str *out)
{
    struct json *root = json_object();
    struct json *columns = json_array();
    struct str text = {0};
    char hex[SHA256_HEX_SIZE];

    json_set_text(root, "kind", MANIFEST_KIND);
    json_set_int(root, "format", CHECKPOINT_FORMAT);
    json_set_text(root, "job", m->job);
    set_u64(root, "generation", m->generation);
    set_u64(root, "step", m->step);
    json_set_text(root, "job_hash", m->job_hash);
    json_set_text(root, "index_checksum", m->index_checksum);
    json_set_text(root, "job_yaml", m->job_yaml ? m->job_yaml : "");
    for (uint32_t i = 0; i < m->column_count; i++)
        json_push(columns, json_text(m->columns[i]));
    json_set(root, "columns", columns);
    set_u64(root, "train_examples", m->train_examples);
    json_set_bool(root, "has_eval", m->has_eval);
    json_set_text(root, "device_class", m->device_class ? m->device_class : "");
    json_set(root, "files", files_json(m));
    json_set(root, "ranks", ranks_json(m));
    json_set_text(root, "evals", m->evals_json ? m->evals_json : "[]");
    json_write(root, true, &text);
    json_destroy(root);

    /* The checksum is the last member, over every byte that stands before its comma. */
    CHECK(text.size > 2 && memcmp(text.data + text.size - 2, "\n}", 2) == 0);
    sha256_hex(text.data, text.size - 2, hex);
    str_append_span(out, span_make(text.data, text.size - 2));
    str_append_format(out, ",\n  \"checksum\": \"%s\"\n}\n", hex);
    str_deinit(&text);
}

/* ---- reading ---- */

static enum err check_checksum(const char *data, size_t size)
{
    /* ,\n  "checksum": "<64>"\n}\n */
    const size_t frame = 2 + 2 + 10 + 2 + 1 + 64 + 1 + 3;
    static const char lead[] = ",\n  \"checksum\": \"";
    char hex[SHA256_HEX_SIZE];

    if (size < frame || memcmp(data + size - frame, lead, sizeof lead - 1) != 0 ||
        memcmp(data + size - 4, "\"\n}\n", 4) != 0)
        return err_set(ERR_CORRUPT, "it does not end in its checksum: it is cut or changed");
    sha256_hex(data, size - frame, hex);
    if (memcmp(hex, data + size - frame + sizeof lead - 1, 64) != 0)
        return err_set(ERR_CORRUPT, "its checksum is %s, should be %.64s", hex,
                       data + size - frame + sizeof lead - 1);
    return ERR_NONE;
}

static enum err get_hash(const struct json *root, const char *name, char out[SHA256_HEX_SIZE])
{
    const char *text;
    enum err err = json_get_text(root, name, &text);

    if (err)
        return err;
    if (strlen(text) >= SHA256_HEX_SIZE)
        return err_set(ERR_CORRUPT, "%s: '%s' is too long", name, text);
    strcpy(out, text);
    return ERR_NONE;
}

static enum err get_copy(const struct json *root, const char *name, char **out)
{
    const char *text;
    enum err err = json_get_text(root, name, &text);

    if (!err)
        *out = must_strdup(text);
    return err;
}

/* It is joined to the directory and opened: nothing but a plain name of our own letters may pass.
 */
static enum err check_file_name(const char *name)
{
    size_t plain = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-");

    if (!*name || name[0] == '.' || name[plain] || strstr(name, "..") || plain > NAME_MAX_BYTES)
        return err_set(ERR_CORRUPT, "'%s' is not the name of a shard file", name);
    return ERR_NONE;
}

static enum err parse_file(const struct json *j, struct checkpoint_file *out)
{
    uint64_t crc = 0;
    enum err err = get_copy(j, "name", &out->name);

    if (!err)
        err = check_file_name(out->name);
    if (!err)
        err = get_u64(j, "size", &out->size);
    if (!err)
        err = get_u64(j, "rows", &out->rows);
    if (!err)
        err = json_get_u64(j, "index_crc", &crc);
    if (!err && crc > UINT32_MAX)
        err = err_set(ERR_CORRUPT, "index_crc %llu is not 32 bits", (unsigned long long)crc);
    out->index_crc = (uint32_t)crc;
    return err;
}

static enum err parse_files(const struct json *root, struct checkpoint_manifest *m)
{
    struct json *list;
    enum err err = json_get_array(root, "files", &list);

    if (err)
        return err;
    m->files = must_alloc((json_count(list) + 1) * sizeof *m->files);
    for (size_t i = 0; i < json_count(list); i++) {
        m->file_count++;
        err = parse_file(json_at(list, i), &m->files[i]);
        if (err)
            return err_prefix(err, "files[%zu]", i);
        if (i && strcmp(m->files[i - 1].name, m->files[i].name) >= 0)
            return err_set(ERR_CORRUPT, "files[%zu]: '%s' is out of order", i, m->files[i].name);
    }
    return ERR_NONE;
}

static enum err parse_ranks(const struct json *root, struct checkpoint_manifest *m)
{
    struct json *list;
    const char *metrics;
    enum err err = json_get_array(root, "ranks", &list);

    if (err)
        return err;
    if (json_count(list) > RANK_MAX)
        return err_set(ERR_CORRUPT, "%zu ranks; the most are %u", json_count(list), RANK_MAX);
    m->ranks = must_alloc((json_count(list) + 1) * sizeof *m->ranks);
    for (size_t i = 0; i < json_count(list); i++) {
        struct checkpoint_rank *r = &m->ranks[i];
        const struct json *j = json_at(list, i);
        m->rank_count++;
        err = get_u64(j, "examples", &r->examples);
        if (!err)
            err = get_i64(j, "loss_sum", &r->loss_sum);
        if (!err)
            err = get_i64(j, "weight_sum", &r->weight_sum);
        if (!err && json_get(j, "loss_scale") != NULL)
            err = get_u64(j, "loss_scale", &r->loss_scale);
        if (!err)
            err = json_get_text(j, "metrics", &metrics);
        if (!err)
            err = parse_hex(metrics, &r->metrics);
        if (err)
            return err_prefix(err, "ranks[%zu]", i);
    }
    return ERR_NONE;
}

static enum err parse_columns(const struct json *root, struct checkpoint_manifest *m)
{
    struct json *list;
    enum err err = json_get_array(root, "columns", &list);

    if (err)
        return err;
    m->columns = must_alloc((json_count(list) + 1) * sizeof *m->columns);
    for (size_t i = 0; i < json_count(list); i++) {
        const char *name = json_as_text(json_at(list, i));
        if (!name)
            return err_set(ERR_CORRUPT, "columns[%zu] is not text", i);
        m->columns[m->column_count++] = must_strdup(name);
    }
    return ERR_NONE;
}

static enum err check_kind(const struct json *root)
{
    const char *kind;
    uint64_t format;
    enum err err = json_get_text(root, "kind", &kind);

    if (!err)
        err = json_get_u64(root, "format", &format);
    if (err)
        return err;
    if (strcmp(kind, MANIFEST_KIND) != 0)
        return err_set(ERR_CORRUPT, "kind is '%s', should be '%s'", kind, MANIFEST_KIND);
    if (format > CHECKPOINT_FORMAT)
        return err_set(ERR_UNSUPPORTED, "format %llu is newer than this program, which reads %u",
                       (unsigned long long)format, CHECKPOINT_FORMAT);
    return ERR_NONE;
}

static enum err parse_members(const struct json *root, struct checkpoint_manifest *m)
{
    enum err err = get_copy(root, "job", &m->job);

    if (!err)
        err = get_u64(root, "generation", &m->generation);
    if (!err)
        err = get_u64(root, "step", &m->step);
    if (!err)
        err = get_hash(root, "job_hash", m->job_hash);
    if (!err)
        err = get_hash(root, "index_checksum", m->index_checksum);
    if (!err)
        err = get_copy(root, "job_yaml", &m->job_yaml);
    if (!err)
        err = parse_columns(root, m);
    if (!err)
        err = get_u64(root, "train_examples", &m->train_examples);
    if (!err)
        err = json_get_bool(root, "has_eval", &m->has_eval);
    if (!err)
        err = get_copy(root, "device_class", &m->device_class);
    if (!err)
        err = parse_files(root, m);
    if (!err)
        err = parse_ranks(root, m);
    if (!err)
        err = get_copy(root, "evals", &m->evals_json);
    return err;
}

static enum err check_canonical(const struct checkpoint_manifest *m, const char *data, size_t size)
{
    struct str again = {0};
    enum err err = ERR_NONE;

    checkpoint_manifest_write(m, &again);
    if (again.size != size || memcmp(again.data, data, size) != 0)
        err = err_set(ERR_CORRUPT, "it holds members that this format does not have");
    str_deinit(&again);
    return err;
}

enum err checkpoint_manifest_parse(const char *what, const char *data, size_t size,
                                   struct checkpoint_manifest **out)
{
    struct json *root = NULL;
    struct checkpoint_manifest *m = must_alloc(sizeof *m);
    enum err err = check_checksum(data, size);

    if (!err)
        err = json_parse(CHECKPOINT_MANIFEST, data, size, &root);
    if (!err)
        err = check_kind(root);
    if (!err)
        err = parse_members(root, m);
    if (!err)
        err = check_canonical(m, data, size);
    json_destroy(root);
    if (err) {
        checkpoint_manifest_destroy(m);
        return err_prefix(err == ERR_UNSUPPORTED ? err : ERR_CORRUPT, "%s", what);
    }
    *out = m;
    return ERR_NONE;
}

void checkpoint_manifest_destroy(struct checkpoint_manifest *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->file_count; i++)
        mem_free(m->files[i].name);
    for (uint32_t i = 0; i < m->rank_count; i++)
        str_deinit(&m->ranks[i].metrics);
    for (uint32_t i = 0; i < m->column_count; i++)
        mem_free(m->columns[i]);
    mem_free(m->files);
    mem_free(m->ranks);
    mem_free(m->columns);
    mem_free(m->job);
    mem_free(m->job_yaml);
    mem_free(m->device_class);
    mem_free(m->evals_json);
    mem_free(m);
}
