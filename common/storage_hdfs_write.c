/*
 * Writing to HDFS.
 *
 * What is written goes through a buffer. A small object is all in it when it is closed, and is sent
 * then, in one request of known size that can be made again. Of a larger one the sending begins
 * when the buffer is full, on a thread that takes from the buffer what the writer puts in; once
 * something of it has been overwritten there is no way back, and a failure fails the whole object.
 * Whoever wrote it begins anew: a checkpoint is given up and the next one tried.
 *
 * The bytes go to ".NAME.tmp-…" beside their place, another one for each attempt, as a DataNode may
 * still be busy with the one before. Its length is looked at, and then it is renamed, without
 * overwriting if that was asked for. When the answer to that is lost or says no, the number that
 * HDFS gave to the file tells whether it is ours that stands at the place.
 */
#include "common/storage_hdfs_internal.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"

#define BUFFER_BYTES ((size_t)8 << 20)
#define ATTEMPTS_MAX 10u

struct hdfs_writer {
    struct storage_writer base;
    struct hdfs_name name;
    bool overwrite;
    uint8_t *buffer;   /* a ring of BUFFER_BYTES */
    char *temporary;   /* the path of the present attempt */
    uint32_t attempts; /* temporary files so far */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    uint64_t written, sent; /* bytes, since the beginning */
    bool is_closed;         /* there will be no more */
    bool is_aborted;
    bool has_ended; /* the thread's request */
    enum err failure;
    char *why;

    bool has_thread;
    pthread_t thread;
};

/* ---- life ---- */

static void writer_free(struct hdfs_writer *w)
{
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    hdfs_name_deinit(&w->name);
    mem_free(w->buffer);
    mem_free(w->temporary);
    mem_free(w->why);
    mem_free(w);
}

enum err hdfs_write_open(const char *uri, bool overwrite, struct storage_writer **out)
{
    struct hdfs_name name;
    size_t size = strlen(uri);
    enum err e = hdfs_name_init(uri, &name);
    if (e != ERR_NONE)
        return e;
    uint8_t *buffer = mem_alloc(BUFFER_BYTES);
    if (buffer == NULL || uri[size - 1] == '/') {
        e = buffer == NULL ? err_prefix(ERR_MEMORY, "cannot write '%s'", uri)
                           : err_set(ERR_INPUT, "cannot write '%s': it names a directory", uri);
        mem_free(buffer);
        hdfs_name_deinit(&name);
        return e;
    }
    struct hdfs_writer *w = must_alloc(sizeof *w);
    w->base.backend = &storage_hdfs_backend;
    w->name = name;
    w->overwrite = overwrite;
    w->buffer = buffer;
    CHECK(pthread_mutex_init(&w->lock, NULL) == 0);
    CHECK(pthread_cond_init(&w->changed, NULL) == 0);
    *out = &w->base;
    return ERR_NONE;
}

/* ---- the body of a request: what is in the buffer ---- */

static enum err produce(void *context, void *to, size_t room, size_t *size_out)
{
    struct hdfs_writer *w = context;
    pthread_mutex_lock(&w->lock);
    while (w->sent == w->written && !w->is_closed && !w->is_aborted)
        pthread_cond_wait(&w->changed, &w->lock); /* the writer comes, closes or aborts */
    size_t size = (size_t)(w->written - w->sent), at = (size_t)(w->sent % BUFFER_BYTES);
    if (size > room)
        size = room;
    if (size > BUFFER_BYTES - at)
        size = BUFFER_BYTES - at;
    bool is_aborted = w->is_aborted;
    pthread_mutex_unlock(&w->lock);
    if (is_aborted)
        return err_set(ERR_CANCELLED, "it was given up");
    /* These bytes stay until they are counted as sent. */
    memcpy(to, w->buffer + at, size);
    pthread_mutex_lock(&w->lock);
    w->sent += size;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    *size_out = size;
    return ERR_NONE;
}

static enum err rewind_body(void *context)
{
    struct hdfs_writer *w = context;
    enum err e = ERR_NONE;
    pthread_mutex_lock(&w->lock);
    if (w->written > BUFFER_BYTES)
        e = err_set(ERR_UNAVAILABLE,
                    "cannot write '%s': the connection broke, and of what has been sent too much "
                    "is gone to send it again",
                    w->name.uri);
    else
        w->sent = 0;
    pthread_mutex_unlock(&w->lock);
    return e;
}

/* ---- one attempt ---- */

/* Unique among machines, processes and attempts. */
static char *temporary_path(const char *path)
{
    static _Atomic uint64_t count;
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    host[strcspn(host, "./")] = '\0';
    const char *slash = strrchr(path, '/');
    return must_format("%.*s/.%.120s.tmp-%s-%ld-%" PRIx64 "-%" PRIu64, (int)(slash - path), path,
                       slash + 1, host, (long)getpid(), clock_wall_ms(),
                       atomic_fetch_add(&count, 1));
}

static void remove_temporary(struct hdfs_writer *w, struct retry *r)
{
    struct hdfs_call q = {.name = &w->name,
                          .method = HTTP_DELETE,
                          .op = "DELETE",
                          .path = w->temporary,
                          .doing = "remove what is left of"};
    struct http_answer a;
    if (w->temporary == NULL)
        return;
    if (hdfs_ask(&q, r, &a) == ERR_NONE)
        http_answer_deinit(&a);
    else
        log_warn("hdfs", "%s; it is '%s'", err_text(), w->temporary);
    mem_free(w->temporary);
    w->temporary = NULL;
}

/* Sends the body to one DataNode. */
static enum err send_once(struct hdfs_writer *w, struct str *excluded, struct retry *r,
                          struct hdfs_failure *failure)
{
    static const char *const headers[] = {"Content-Type: application/octet-stream", NULL};
    struct str parameters = {0};
    char *location = NULL;
    struct hdfs_call q = {.name = &w->name, .method = HTTP_PUT, .op = "CREATE", .doing = "write"};
    *failure = (struct hdfs_failure){0};
    w->temporary = temporary_path(w->name.path);
    q.path = w->temporary;
    str_append(&parameters, "&overwrite=false&noredirect=true");
    enum err e = hdfs_locate(&q, &parameters, excluded, r, &location, &failure->may_pass);
    if (e == ERR_NONE) {
        pthread_mutex_lock(&w->lock);
        struct http_request request = {
            .method = HTTP_PUT,
            .headers = headers,
            .produce = produce,
            .rewind = rewind_body,
            .context = w,
            .expect_continue = true,
            .body_size = w->is_closed ? w->written : HTTP_SIZE_UNKNOWN,
        };
        pthread_mutex_unlock(&w->lock);
        struct http_answer a;
        e = hdfs_data(&q, location, &request, &a, failure);
        http_answer_deinit(&a);
        if (e != ERR_NONE && failure->may_pass)
            hdfs_exclude(excluded, location);
    }
    if (location != NULL)
        explicit_bzero(location, strlen(location)); /* there may be a token in it */
    mem_free(location);
    str_deinit(&parameters);
    return e;
}

/* Is all of it there? */
static enum err check_length(struct hdfs_writer *w, struct retry *r, struct hdfs_status *out)
{
    enum err e = hdfs_status(&w->name, w->temporary, r, out);
    if (e == ERR_NONE && out->info.size != w->written)
        e = err_set(ERR_UNAVAILABLE,
                    "cannot write '%s': %" PRIu64 " of %" PRIu64 " bytes are there", w->name.uri,
                    out->info.size, w->written);
    return e;
}

static enum err send_all(struct hdfs_writer *w, struct retry *r, struct hdfs_status *out)
{
    struct str excluded = {0};
    enum err e;
    for (;;) {
        struct hdfs_failure failure;
        e = send_once(w, &excluded, r, &failure);
        if (e == ERR_NONE) {
            e = check_length(w, r, out);
            failure.may_pass = e == ERR_UNAVAILABLE || e == ERR_NOT_FOUND;
        }
        if (e == ERR_NONE || !failure.may_pass || ++w->attempts == ATTEMPTS_MAX)
            break;
        pthread_mutex_lock(&w->lock);
        bool is_lost = w->written > BUFFER_BYTES || w->is_aborted;
        pthread_mutex_unlock(&w->lock);
        if (is_lost || !http_try_again(r, 0))
            break;
        log_info("hdfs", "writes again: %s", err_text());
        char *why = must_strdup(err_text());
        struct retry cleaning = hdfs_retry_begin();
        remove_temporary(w, &cleaning);
        /* More may have come meanwhile than is kept. */
        bool is_rewound = rewind_body(w) == ERR_NONE;
        if (!is_rewound)
            e = err_set(e, "%s", why);
        mem_free(why);
        if (!is_rewound)
            break;
    }
    str_deinit(&excluded);
    return e;
}

/* ---- giving it its name ---- */

static enum err delete_place(struct hdfs_writer *w, struct retry *r)
{
    struct hdfs_call q = {
        .name = &w->name, .method = HTTP_DELETE, .op = "DELETE", .doing = "replace"};
    struct http_answer a;
    enum err e = hdfs_ask(&q, r, &a);
    if (e == ERR_NONE)
        http_answer_deinit(&a);
    return e;
}

/* One renaming. *said_no: it was answered with false, as by an HttpFS that knows no options. */
static enum err rename_once(struct hdfs_writer *w, struct retry *r, bool *said_no)
{
    struct hdfs_call q = {.name = &w->name,
                          .method = HTTP_PUT,
                          .op = "RENAME",
                          .path = w->temporary,
                          .doing = "name"};
    struct str parameters = {0};
    struct http_answer a;
    hdfs_parameter(&parameters, "destination", w->name.path);
    str_append(&parameters, w->overwrite ? "&renameoptions=OVERWRITE" : "&renameoptions=NONE");
    q.parameters = parameters.data;
    enum err e = hdfs_ask(&q, r, &a);
    *said_no = false;
    if (e == ERR_NONE) {
        struct json *j = NULL;
        if (a.size > 0 && json_parse("the answer", a.body, a.size, &j) == ERR_NONE) {
            struct json *yes = json_get(j, "boolean");
            *said_no = yes != NULL && json_type(yes) == JSON_BOOL && !json_as_bool(yes);
        }
        json_destroy(j);
        http_answer_deinit(&a);
    }
    str_deinit(&parameters);
    return e;
}

/* Whose file is at the place? Ours when it has our number, or, where there are no numbers, when the
   temporary file is gone, as nobody else knows its name. */
static enum err look_at_place(struct hdfs_writer *w, const struct hdfs_status *ours,
                              struct retry *r, bool *is_there, bool *is_ours)
{
    struct hdfs_status place, left;
    *is_there = *is_ours = false;
    enum err e = hdfs_status(&w->name, NULL, r, &place);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;
    *is_there = true;
    if (ours->file_id != 0) {
        *is_ours = place.file_id == ours->file_id;
        return ERR_NONE;
    }
    e = hdfs_status(&w->name, w->temporary, r, &left);
    *is_ours = e == ERR_NOT_FOUND && place.info.size == ours->info.size;
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err publish(struct hdfs_writer *w, const struct hdfs_status *ours, struct retry *r)
{
    for (;;) {
        bool said_no, is_there, is_ours;
        enum err e = rename_once(w, r, &said_no);
        if (e == ERR_NONE && !said_no)
            return ERR_NONE;
        bool is_settled = e != ERR_NONE && e != ERR_EXISTS && e != ERR_NOT_FOUND &&
                          e != ERR_UNAVAILABLE && e != ERR_IO;
        if (is_settled)
            return e;
        char *why = must_strdup(e != ERR_NONE ? err_text() : "it was answered with false");
        enum err looked = look_at_place(w, ours, r, &is_there, &is_ours);
        if (looked != ERR_NONE)
            e = looked;
        else if (is_ours)
            e = ERR_NONE;
        else if (is_there && !w->overwrite)
            e = err_set(ERR_EXISTS, "cannot write '%s': it is there already", w->name.uri);
        else if (is_there && said_no) /* and then once more, into the gap */
            e = delete_place(w, r);
        else
            e = err_set(e != ERR_NONE ? e : ERR_UNAVAILABLE, "cannot name '%s': %s", w->name.uri,
                        why);
        mem_free(why);
        bool again =
            said_no && looked == ERR_NONE && !is_ours && (e == ERR_NONE || e == ERR_UNAVAILABLE);
        if (!again || !http_try_again(r, 0))
            return e;
    }
}

/* ---- the thread of a large object ---- */

static enum err finish(struct hdfs_writer *w)
{
    struct retry r = hdfs_retry_begin();
    struct hdfs_status ours = {0};
    enum err e = send_all(w, &r, &ours);
    if (e == ERR_NONE) {
        r = hdfs_retry_begin(); /* sending may have taken long */
        e = publish(w, &ours, &r);
    }
    if (e != ERR_NONE) {
        char *why = must_strdup(err_text());
        struct retry cleaning = hdfs_retry_begin();
        remove_temporary(w, &cleaning);
        err_set(e, "%s", why);
        mem_free(why);
    }
    return e;
}

static void *run(void *context)
{
    struct hdfs_writer *w = context;
    enum err e = finish(w);
    pthread_mutex_lock(&w->lock);
    w->failure = e;
    w->why = e != ERR_NONE ? must_strdup(err_text()) : NULL;
    w->has_ended = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static enum err start_thread(struct hdfs_writer *w)
{
    int failed = pthread_create(&w->thread, NULL, run, w);
    if (failed != 0)
        return err_set_errno(ERR_IO, failed, "cannot start a thread that writes '%s'", w->name.uri);
    w->has_thread = true;
    return ERR_NONE;
}

enum err hdfs_write(struct storage_writer *base, const void *data, size_t size)
{
    struct hdfs_writer *w = (struct hdfs_writer *)base;
    const uint8_t *from = data;
    enum err e = ERR_NONE;
    pthread_mutex_lock(&w->lock);
    while (size > 0 && e == ERR_NONE) {
        size_t room = BUFFER_BYTES - (size_t)(w->written - w->sent);
        size_t at = (size_t)(w->written % BUFFER_BYTES);
        size_t part = size < room ? size : room;
        if (part > BUFFER_BYTES - at)
            part = BUFFER_BYTES - at;
        if (w->has_ended) {
            e = w->failure;
        } else if (part == 0 && !w->has_thread) {
            e = start_thread(w);
        } else if (part == 0) {
            pthread_cond_wait(&w->changed, &w->lock); /* the request moves, or it fails */
        } else {
            memcpy(w->buffer + at, from, part);
            from += part;
            size -= part;
            w->written += part;
            pthread_cond_broadcast(&w->changed);
        }
    }
    if (e != ERR_NONE && w->has_ended)
        err_set(e, "%s", w->why);
    pthread_mutex_unlock(&w->lock);
    return e;
}

enum err hdfs_write_close(struct storage_writer *base)
{
    struct hdfs_writer *w = (struct hdfs_writer *)base;
    enum err e;
    pthread_mutex_lock(&w->lock);
    w->is_closed = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->has_thread) {
        pthread_join(w->thread, NULL);
        e = w->failure;
        if (e != ERR_NONE)
            err_set(e, "%s", w->why);
    } else {
        e = finish(w);
    }
    writer_free(w);
    return e;
}

void hdfs_write_abort(struct storage_writer *base)
{
    struct hdfs_writer *w = (struct hdfs_writer *)base;
    pthread_mutex_lock(&w->lock);
    w->is_aborted = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->has_thread)
        pthread_join(w->thread, NULL);
    writer_free(w);
}
