/*
 * Writing an object: at once when it is small, else as a multipart upload whose parts go out side
 * by side while the caller goes on.
 *
 * Memory: a writer fills one part; those that are on their way share UPLOADING_MAX bytes among all
 * writers of the process. Parts have 8 MiB; after each thousand of them the size doubles, so that
 * 10 000 parts hold the largest object that there can be.
 *
 * A request that was cut off may have been carried out, and the next one then meets what the first
 * one made. So each writer puts a random name of its own beside its object (x-amz-meta-…): whoever
 * finds that name there knows that the object is his. Where `overwrite` is false the store is asked
 * to write only if nothing is there (If-None-Match: *). A store that does not know this (501, 400)
 * is asked for the object first, and half a second afterwards whose it is: two writers may both
 * believe that they are first when one of them takes longer than that from looking to writing.
 * Checkpoints are safe from it all the same, as their directories carry the generation, and two
 * leaders of one generation write the same bytes.
 */
#include "common/storage_s3_internal.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/storage_pool.h"
#include "common/xml.h"

#define BUFFER_FIRST_BYTES ((size_t)256 << 10)
#define UPLOADING_MAX      ((size_t)64 << 20) /* of all writers */
#define WRITER_PARTS_MAX   4u                 /* on their way, of one writer */
#define PARTS_MAX          10000u
#define PARTS_A_SIZE       1000u
#define SETTLE_MS          500u /* for others who looked before we wrote, and write after us */
#define MARK_HEADER        "x-amz-meta-paramd-writer"
#define TEXT_BYTES         1024

struct s3_writer {
    struct storage_writer base;
    struct s3_name name;
    char *uri;
    bool overwrite;
    char mark[33], *mark_line;
    uint8_t *buffer; /* the part that is being filled */
    size_t filled, capacity;
    uint64_t size; /* of all parts before it */
    char *upload_id;
    char **etags; /* of the parts; [part_count] */
    uint32_t part_count;
    size_t etag_capacity;
    /* Under `lock`: */
    uint32_t uploading;
    enum err failure;
    char failure_text[TEXT_BYTES];
};

struct part {
    struct s3_writer *writer;
    uint32_t index;
    uint8_t *data;
    size_t size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_changed = PTHREAD_COND_INITIALIZER;
static size_t uploading_bytes;

/* The store does not know If-None-Match. */
static atomic_bool lacks_conditions;

static void writer_free(struct s3_writer *w)
{
    for (uint32_t i = 0; i < w->part_count; i++)
        mem_free(w->etags[i]);
    mem_free(w->etags);
    mem_free(w->upload_id);
    mem_free(w->buffer);
    mem_free(w->mark_line);
    s3_name_deinit(&w->name);
    mem_free(w->uri);
    mem_free(w);
}

enum err s3_write_open(const char *uri, bool overwrite, struct storage_writer **out)
{
    struct s3_writer *w = must_alloc(sizeof *w);
    uint8_t random[16];
    w->base.backend = &storage_s3_backend;
    w->uri = must_strdup(uri);
    w->overwrite = overwrite;
    enum err e = s3_name_parse(w->uri, &w->name);
    if (e == ERR_NONE && (w->name.key[0] == '\0' || w->name.key[strlen(w->name.key) - 1] == '/'))
        e = err_set(ERR_INPUT, "cannot write '%s': it names a directory", uri);
    if (e != ERR_NONE) {
        writer_free(w);
        return e;
    }
    CHECK(getrandom(random, sizeof random, 0) == sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(w->mark + 2 * i, 3, "%02x", random[i]);
    w->mark_line = must_format(MARK_HEADER ": %s", w->mark);
    *out = &w->base;
    return ERR_NONE;
}

/* ---- parts ---- */

static size_t part_bytes(const struct s3_writer *w)
{
    return S3_PART_BYTES << (w->part_count / PARTS_A_SIZE);
}

static enum err upload_part(const struct part *p, char **etag_out)
{
    struct s3_writer *w = p->writer;
    struct str query = {0};
    struct s3_answer a;
    struct span etag;
    str_append_format(&query, "partNumber=%u", p->index + 1);
    s3_query_add(&query, "uploadId", w->upload_id);
    struct s3_call call = {.name = &w->name,
                           .doing = "write",
                           .method = HTTP_PUT,
                           .query = query.data,
                           .body = p->data,
                           .body_size = p->size};
    enum err e = s3_perform(&call, &a);
    if (e == ERR_NONE && !http_header(&a.http, "etag", &etag))
        e = err_set(ERR_INPUT, "cannot write '%s': the store gives a part no ETag", w->uri);
    if (e == ERR_NONE)
        *etag_out = must_format("%.*s", (int)etag.size, etag.data);
    else if (e == ERR_NOT_FOUND) /* of the upload, not of the object */
        e = err_prefix(ERR_UNAVAILABLE, "the upload is gone");
    s3_answer_deinit(&a);
    str_deinit(&query);
    return e;
}

static void run_part(void *context)
{
    struct part *p = context;
    struct s3_writer *w = p->writer;
    char *etag = NULL;
    pthread_mutex_lock(&lock);
    bool is_lost = w->failure != ERR_NONE;
    pthread_mutex_unlock(&lock);
    enum err e = is_lost ? ERR_NONE : upload_part(p, &etag);
    pthread_mutex_lock(&lock);
    if (e != ERR_NONE && w->failure == ERR_NONE) {
        w->failure = e;
        snprintf(w->failure_text, sizeof w->failure_text, "%s", err_text());
    }
    w->etags[p->index] = etag;
    w->uploading--;
    uploading_bytes -= p->size;
    pthread_cond_broadcast(&has_changed);
    pthread_mutex_unlock(&lock);
    mem_free(p->data);
    mem_free(p);
}

static enum err failure_of(struct s3_writer *w)
{
    pthread_mutex_lock(&lock);
    enum err e = w->failure != ERR_NONE ? err_set(w->failure, "%s", w->failure_text) : ERR_NONE;
    pthread_mutex_unlock(&lock);
    return e;
}

/* Waits until a part of `size` bytes may go out. Parts end by their own deadlines. */
static void wait_for_room(struct s3_writer *w, size_t size)
{
    pthread_mutex_lock(&lock);
    while (w->uploading >= WRITER_PARTS_MAX ||
           (uploading_bytes > 0 && uploading_bytes + size > UPLOADING_MAX))
        pthread_cond_wait(&has_changed, &lock);
    w->uploading++;
    uploading_bytes += size;
    pthread_mutex_unlock(&lock);
}

static void wait_for_all(struct s3_writer *w)
{
    pthread_mutex_lock(&lock);
    while (w->uploading > 0)
        pthread_cond_wait(&has_changed, &lock);
    pthread_mutex_unlock(&lock);
}

static enum err on_upload_id(void *context, const char *path, const char *text)
{
    struct s3_writer *w = context;
    if (strcmp(path, "InitiateMultipartUploadResult/UploadId") == 0 && text[0] != '\0') {
        mem_free(w->upload_id);
        w->upload_id = must_strdup(text);
    }
    return ERR_NONE;
}

static enum err begin_upload(struct s3_writer *w)
{
    struct s3_call call = {.name = &w->name,
                           .doing = "begin to write",
                           .method = HTTP_POST,
                           .query = "uploads=",
                           .headers = {w->mark_line}};
    struct s3_answer a;
    enum err e = s3_perform(&call, &a);
    if (e == ERR_NONE)
        e = xml_parse("the store's answer", a.http.body != NULL ? a.http.body : "", a.http.size,
                      on_upload_id, w);
    if (e == ERR_NONE && w->upload_id == NULL)
        e = err_set(ERR_INPUT, "cannot write '%s': the store gives the upload no name", w->uri);
    s3_answer_deinit(&a);
    return e;
}

/* Sends what is in the buffer on its way. */
static enum err flush_part(struct s3_writer *w)
{
    enum err e = failure_of(w);
    if (e == ERR_NONE && w->upload_id == NULL)
        e = begin_upload(w);
    if (e == ERR_NONE && w->part_count == PARTS_MAX)
        e = err_set(ERR_LIMIT, "cannot write '%s': it is too large for an object", w->uri);
    if (e != ERR_NONE)
        return e;
    wait_for_room(w, w->filled);
    pthread_mutex_lock(&lock); /* others write their ETags */
    bool has_memory = mem_grow(w->etags, w->etag_capacity, w->part_count + 1);
    if (has_memory)
        w->etags[w->part_count++] = NULL;
    else {
        w->uploading--;
        uploading_bytes -= w->filled;
    }
    pthread_mutex_unlock(&lock);
    if (!has_memory)
        return err_prefix(ERR_MEMORY, "cannot write '%s'", w->uri);
    struct part *p = must_alloc(sizeof *p);
    *p = (struct part){w, w->part_count - 1, w->buffer, w->filled};
    w->size += w->filled;
    w->buffer = NULL;
    w->filled = w->capacity = 0;
    storage_pool_run(run_part, p);
    return ERR_NONE;
}

static enum err make_room(struct s3_writer *w, size_t wanted, size_t most)
{
    size_t capacity = w->capacity > 0 ? w->capacity : BUFFER_FIRST_BYTES;
    if (w->upload_id != NULL)
        capacity = most;
    while (capacity < wanted)
        capacity *= 2;
    if (capacity > most)
        capacity = most;
    uint8_t *buffer = mem_realloc(w->buffer, capacity, 1);
    if (buffer == NULL)
        return err_prefix(ERR_MEMORY, "cannot write '%s'", w->uri);
    w->buffer = buffer;
    w->capacity = capacity;
    return ERR_NONE;
}

enum err s3_write(struct storage_writer *base, const void *data, size_t size)
{
    struct s3_writer *w = (struct s3_writer *)base;
    const uint8_t *from = data;
    enum err e = ERR_NONE;
    while (size > 0 && e == ERR_NONE) {
        size_t most = part_bytes(w);
        if (w->filled == most) {
            e = flush_part(w);
            continue;
        }
        size_t part = size < most - w->filled ? size : most - w->filled;
        if (w->filled + part > w->capacity)
            e = make_room(w, w->filled + part, most);
        if (e != ERR_NONE)
            break;
        memcpy(w->buffer + w->filled, from, part);
        w->filled += part;
        from += part;
        size -= part;
    }
    if (e != ERR_NONE) { /* then it is not published, whatever the caller does */
        pthread_mutex_lock(&lock);
        if (w->failure == ERR_NONE) {
            w->failure = e;
            snprintf(w->failure_text, sizeof w->failure_text, "%s", err_text());
        }
        pthread_mutex_unlock(&lock);
    }
    return e;
}

static void abort_upload(struct s3_writer *w)
{
    struct str query = {0};
    struct s3_answer a;
    wait_for_all(w);
    if (w->upload_id == NULL)
        return;
    s3_query_add(&query, "uploadId", w->upload_id);
    struct s3_call call = {.name = &w->name,
                           .doing = "abort an upload to",
                           .method = HTTP_DELETE,
                           .query = query.data};
    enum err e = s3_perform(&call, &a);
    if (e != ERR_NONE && e != ERR_NOT_FOUND)
        log_warn("s3", "an unfinished upload stays until it is cleaned up: %s", err_text());
    s3_answer_deinit(&a);
    str_deinit(&query);
}

void s3_write_abort(struct storage_writer *base)
{
    struct s3_writer *w = (struct s3_writer *)base;
    pthread_mutex_lock(&lock);
    if (w->failure == ERR_NONE) {
        w->failure = ERR_CANCELLED; /* parts that did not begin will not */
        snprintf(w->failure_text, sizeof w->failure_text, "writing '%s' was given up", w->uri);
    }
    pthread_mutex_unlock(&lock);
    abort_upload(w);
    writer_free(w);
}

/* ---- publishing ---- */

/* Is the object there, and is it ours? */
static enum err look(struct s3_writer *w, bool *is_ours, uint64_t *size_out)
{
    struct s3_answer a;
    struct span mark, size;
    enum err e = s3_head(&w->name, &a);
    *is_ours = e == ERR_NONE && http_header(&a.http, MARK_HEADER, &mark) && span_is(mark, w->mark);
    if (e == ERR_NONE && size_out != NULL &&
        (!http_header(&a.http, "content-length", &size) ||
         str_parse_u64(size, size_out) != ERR_NONE))
        *size_out = 0;
    s3_answer_deinit(&a);
    return e;
}

static enum err exists(const struct s3_writer *w)
{
    return err_set(ERR_EXISTS, "cannot write '%s': it is there already", w->uri);
}

static char *complete_body(const struct s3_writer *w)
{
    struct str body = {0};
    str_append(&body, "<CompleteMultipartUpload>");
    for (uint32_t i = 0; i < w->part_count; i++) /* the quotes of an ETag belong to it */
        str_append_format(&body, "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag></Part>", i + 1,
                          w->etags[i]);
    str_append(&body, "</CompleteMultipartUpload>");
    return body.data;
}

/* One conditional or plain request that makes the object. */
static enum err publish_once(struct s3_writer *w, bool is_conditional, bool *was_uncertain)
{
    struct str query = {0};
    char *body = w->upload_id != NULL ? complete_body(w) : NULL;
    struct s3_call call = {.name = &w->name,
                           .doing = "write",
                           .method = HTTP_PUT,
                           .body = w->buffer,
                           .body_size = w->filled};
    struct s3_answer a;
    size_t count = 0;
    if (w->upload_id != NULL) {
        s3_query_add(&query, "uploadId", w->upload_id);
        call.method = HTTP_POST;
        call.query = query.data;
        call.body = body;
        call.body_size = strlen(body);
        call.is_slow = true;
    } else {
        call.headers[count++] = w->mark_line;
    }
    if (is_conditional)
        call.headers[count++] = "If-None-Match: *";
    enum err e = s3_perform(&call, &a);
    *was_uncertain |= a.was_uncertain;
    /* A 400 that says what else is wrong is no word about the condition. */
    if (is_conditional && a.http.status == 400 &&
        (a.code[0] == '\0' || strcmp(a.code, "NotImplemented") == 0 ||
         strcmp(a.code, "InvalidArgument") == 0 || strcmp(a.code, "InvalidRequest") == 0))
        e = ERR_UNSUPPORTED;
    s3_answer_deinit(&a);
    str_deinit(&query);
    mem_free(body);
    return e;
}

/* When `overwrite` is false. Not every store minds the condition, so it is looked at first. */
static enum err publish_first(struct s3_writer *w, bool *was_uncertain)
{
    bool is_ours;
    enum err e = look(w, &is_ours, NULL);
    if (e != ERR_NOT_FOUND)
        return e == ERR_NONE ? exists(w) : e;
    bool has_conditions = !atomic_load(&lacks_conditions);
    e = has_conditions ? publish_once(w, true, was_uncertain) : ERR_UNSUPPORTED;
    if (e != ERR_UNSUPPORTED)
        return e;
    if (has_conditions && !atomic_exchange(&lacks_conditions, true))
        log_warn("s3", "the store does not know If-None-Match: who writes first is found out by "
                       "looking, which two writers at once can defeat");
    e = look(w, &is_ours, NULL);
    if (e != ERR_NOT_FOUND)
        return e == ERR_NONE && !is_ours ? exists(w) : e;
    e = publish_once(w, false, was_uncertain);
    if (e != ERR_NONE)
        return e;
    clock_sleep_ms(SETTLE_MS);
    e = look(w, &is_ours, NULL);
    return e == ERR_NONE && !is_ours ? exists(w) : e;
}

static enum err publish(struct s3_writer *w)
{
    bool was_uncertain = false, is_ours = false;
    uint64_t size = 0, expected = w->size + w->filled;
    if (w->upload_id != NULL)
        expected = w->size;
    enum err e =
        w->overwrite ? publish_once(w, false, &was_uncertain) : publish_first(w, &was_uncertain);
    if (e == ERR_NONE && w->upload_id == NULL)
        return ERR_NONE;
    if (e != ERR_NONE && !was_uncertain)
        return e == ERR_EXISTS ? exists(w) : e;
    /* An answer was lost, or the object is large: what is there tells. */
    char why[TEXT_BYTES];
    snprintf(why, sizeof why, "%s", e != ERR_NONE ? err_text() : "");
    enum err looked = look(w, &is_ours, &size);
    if (looked == ERR_NONE && is_ours && size == expected)
        return ERR_NONE;
    if (e == ERR_NONE && looked == ERR_NONE)
        return err_set(is_ours ? ERR_IO : ERR_EXISTS,
                       "cannot write '%s': %" PRIu64 " bytes%s are there, %" PRIu64 " were written",
                       w->uri, size, is_ours ? "" : " of another writer", expected);
    if (e == ERR_NONE)
        return looked;
    return e == ERR_EXISTS ? exists(w) : err_set(e, "%s", why);
}

enum err s3_write_close(struct storage_writer *base)
{
    struct s3_writer *w = (struct s3_writer *)base;
    enum err e = failure_of(w);
    if (e == ERR_NONE && w->upload_id != NULL) {
        if (w->filled > 0)
            e = flush_part(w);
        wait_for_all(w);
        if (e == ERR_NONE)
            e = failure_of(w);
    }
    if (e == ERR_NONE)
        e = publish(w);
    if (e == ERR_NONE) {
        writer_free(w);
        return ERR_NONE;
    }
    char why[TEXT_BYTES];
    snprintf(why, sizeof why, "%s", err_text());
    s3_write_abort(base);
    return err_set(e, "%s", why);
}
