/*
 * storage_hdfs_call.c - one request to HDFS: who is asked, as whom, how often, and what a refusal
 * means.
 */
#include "common/storage_hdfs_internal.h"

#include <inttypes.h>
#include <netdb.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/secret.h"

#define CONNECT_MS       5000u
#define TOKEN_MAX_BYTES  65536u
#define OTHER_TRIES      4u /* of an exception that says nothing about whether it passes */
#define REASON_MAX_BYTES 400

static const struct retry_policy policy = {.first_ms = 500, .most_ms = 15000, .tries = 10};

struct retry hdfs_retry_begin(void)
{
    return http_retry_begin(&policy, storage_settings()->timeout_ms);
}

/* ---- what a refusal means ---- */

struct exception {
    const char *name;
    struct hdfs_failure failure;
};

/* By the name: the status is 403 for nearly all of them. */
static const struct exception exceptions[] = {
    {"FileNotFoundException", {ERR_NOT_FOUND, false, false}},
    {"ParentNotDirectoryException", {ERR_NOT_FOUND, false, false}},
    {"PathNotFoundException", {ERR_NOT_FOUND, false, false}},
    {"FileAlreadyExistsException", {ERR_EXISTS, false, false}},
    {"AccessControlException", {ERR_REFUSED, false, false}},
    {"AuthorizationException", {ERR_REFUSED, false, false}},
    {"AuthenticationException", {ERR_REFUSED, false, false}},
    {"SecurityException", {ERR_REFUSED, false, false}},
    {"InvalidToken", {ERR_REFUSED, false, false}},
    {"SnapshotAccessControlException", {ERR_REFUSED, false, false}},
    {"QuotaExceededException", {ERR_LIMIT, false, false}},
    {"DSQuotaExceededException", {ERR_LIMIT, false, false}},
    {"NSQuotaExceededException", {ERR_LIMIT, false, false}},
    {"QuotaByStorageTypeExceededException", {ERR_LIMIT, false, false}},
    {"MaxDirectoryItemsExceededException", {ERR_LIMIT, false, false}},
    {"PathComponentTooLongException", {ERR_LIMIT, false, false}},
    {"PathIsNotEmptyDirectoryException", {ERR_IO, false, false}},
    {"InvalidPathException", {ERR_INPUT, false, false}},
    {"IllegalArgumentException", {ERR_INPUT, false, false}},
    {"HadoopIllegalArgumentException", {ERR_INPUT, false, false}},
    {"QueryParamException", {ERR_UNSUPPORTED, false, false}}, /* HttpFS: an op unknown to it */
    {"UnsupportedOperationException", {ERR_UNSUPPORTED, false, false}},
    {"StandbyException", {ERR_UNAVAILABLE, true, true}},
    {"RetriableException", {ERR_UNAVAILABLE, true, true}},
    {"ObserverRetryOnActiveException", {ERR_UNAVAILABLE, true, true}},
    {"SafeModeException", {ERR_UNAVAILABLE, true, true}},
};

/* 'InvalidToken' also comes as "SecretManager$InvalidToken". */
static struct hdfs_failure find_exception(const char *name)
{
    const char *last = strrchr(name, '$');
    if (last != NULL)
        name = last + 1;
    for (size_t i = 0; i < sizeof exceptions / sizeof *exceptions; i++) {
        if (strcmp(exceptions[i].name, name) == 0)
            return exceptions[i].failure;
    }
    return (struct hdfs_failure){.code = ERR_IO, .may_pass = true};
}

static bool uses_kerberos(void)
{
    const struct storage_settings *s = storage_settings();
    return s->hdfs_token_file == NULL && s->hdfs_auth != NULL &&
           strcmp(s->hdfs_auth, "kerberos") == 0;
}

/* "Cannot contact any KDC …" says MIT's Kerberos, "unable to reach any KDC …" Heimdal's. */
static bool is_kdc_away(const struct http_answer *a)
{
    return a->ticket_text != NULL && strstr(a->ticket_text, "any KDC") != NULL;
}

/* An answer that is no WebHDFS: a proxy, another server, one that is starting. A 404 of those is
   no proof of absence. */
static struct hdfs_failure judge_status(const struct http_answer *a)
{
    if (http_status_may_pass(a->status))
        return (struct hdfs_failure){ERR_UNAVAILABLE, true, true};
    if (a->status == 401 && is_kdc_away(a))
        return (struct hdfs_failure){ERR_UNAVAILABLE, true, false};
    bool is_refusal = a->status == 401 || a->status == 403;
    return (struct hdfs_failure){is_refusal ? ERR_REFUSED : ERR_IO, false, a->status == 404};
}

/* What to do about a status that came without a reason; appended. */
static void advise(const struct http_answer *a, struct str *out)
{
    const char *file = storage_settings()->hdfs_token_file;
    if (a->status == 404) {
        str_append(out, ": is this the HTTP port of a NameNode?");
    } else if (a->status == 401 && file != NULL) {
        str_append_format(out, ": it does not take the token of hdfs_token_file '%s'", file);
    } else if (a->status == 401 && !uses_kerberos()) {
        str_append(out, ": it wants to know who we are: set hdfs_auth=kerberos (with a ticket by "
                        "kinit or KRB5_CLIENT_KTNAME) or hdfs_token_file");
    } else if (a->status == 401 && a->ticket_text != NULL) {
        const char *cache = getenv("KRB5CCNAME");
        str_append_format(out,
                          ": no Kerberos ticket was sent: %s (KRB5CCNAME is %s; kinit or a keytab "
                          "in KRB5_CLIENT_KTNAME gets a ticket)",
                          a->ticket_text, cache != NULL ? cache : "not set");
    } else if (a->status == 401) {
        str_append(out, ": it does not take our Kerberos ticket");
    }
}

static void set_text_of_status(const struct hdfs_call *q, const char *server, size_t server_size,
                               const struct http_answer *a, enum err code)
{
    struct str text = {0};
    str_append_format(&text, "%.*s answers %d", (int)server_size, server, a->status);
    if (a->status_text != NULL)
        str_append_format(&text, " %.*s", REASON_MAX_BYTES, a->status_text);
    advise(a, &text);
    err_set(code, "cannot %s '%s': %s", q->doing, q->name->uri, text.data);
    str_deinit(&text);
}

/* The reason in one line: Java's stack traces follow after a newline. */
static int reason_size(const char *message)
{
    size_t size = strcspn(message, "\r\n");
    return (int)(size < REASON_MAX_BYTES ? size : REASON_MAX_BYTES);
}

/* Sets the text; -> the code. */
static enum err judge(const struct hdfs_call *q, const char *server, const struct http_answer *a,
                      struct hdfs_failure *out)
{
    struct json *j = NULL, *inner;
    const char *name = NULL, *message = "";
    size_t server_size = strcspn(server, "?");
    const char *path = strstr(server, "/webhdfs/");
    if (path != NULL)
        server_size = (size_t)(path - server);
    if (a->body != NULL && json_parse("the answer", a->body, a->size, &j) == ERR_NONE &&
        json_type(j) == JSON_OBJECT && json_get_object(j, "RemoteException", &inner) == ERR_NONE) {
        name = json_as_text(json_get(inner, "exception"));
        const char *said = json_as_text(json_get(inner, "message"));
        message = said != NULL ? said : "";
    }
    if (name != NULL) {
        *out = find_exception(name);
        const char *file = storage_settings()->hdfs_token_file;
        bool is_token = file != NULL && strstr(name, "AccessControl") == NULL;
        err_set(out->code, "cannot %s '%s': %s: %.*s (%.*s%s%s)", q->doing, q->name->uri, name,
                reason_size(message), message, (int)server_size, server,
                out->code == ERR_REFUSED && is_token ? ", hdfs_token_file=" : "",
                out->code == ERR_REFUSED && is_token ? file : "");
    } else {
        *out = judge_status(a);
        set_text_of_status(q, server, server_size, a, out->code);
    }
    json_destroy(j);
    return out->code;
}

/* No answer at all. */
static enum err judge_silence(const struct hdfs_call *q, enum err e, struct hdfs_failure *out)
{
    bool may_pass = e == ERR_UNAVAILABLE || e == ERR_TIMEOUT;
    *out = (struct hdfs_failure){may_pass ? ERR_UNAVAILABLE : e, may_pass, may_pass};
    return err_prefix(out->code, "cannot %s '%s'", q->doing, q->name->uri);
}

/* ---- who we are ---- */

static enum err add_token(struct str *url, const char *file)
{
    char *text = NULL;
    size_t size = 0;
    secret_protect();
    enum err e = storage_read_all(file, TOKEN_MAX_BYTES, &text, &size);
    if (e != ERR_NONE)
        return err_prefix(e == ERR_NOT_FOUND ? ERR_INPUT : e, "hdfs_token_file");
    size_t line = strcspn(text, "\r\n");
    struct span token = span_trim(span_make(text, line));
    if (token.size == 0) {
        e = err_set(ERR_INPUT, "hdfs_token_file '%s' holds no token in its first line", file);
    } else {
        str_append(url, "&delegation=");
        http_encode(token, "", url);
    }
    explicit_bzero(text, size);
    mem_free(text);
    return e;
}

static enum err add_user(struct str *url)
{
    const struct storage_settings *s = storage_settings();
    if (s->hdfs_token_file != NULL)
        return add_token(url, s->hdfs_token_file);
    if (uses_kerberos())
        return ERR_NONE;
    const char *user = s->hdfs_user != NULL ? s->hdfs_user : getenv("HADOOP_USER_NAME");
    char buffer[4096];
    struct passwd entry, *found = NULL;
    if (user == NULL || *user == '\0') {
        getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found);
        if (found == NULL)
            return err_set(ERR_INPUT, "user %d has no name to give to HDFS: set hdfs_user",
                           (int)geteuid());
        user = found->pw_name;
    }
    hdfs_parameter(url, "user.name", user);
    return ERR_NONE;
}

static enum err make_url(const struct hdfs_call *q, const char *node, struct str *out)
{
    str_append(out, node);
    str_append(out, "/webhdfs/v1");
    http_encode(span_of(q->path != NULL ? q->path : q->name->path), "/", out);
    str_append_format(out, "?op=%s", q->op);
    if (q->parameters != NULL)
        str_append(out, q->parameters);
    return add_user(out);
}

/* ---- asking NameNodes ---- */

static struct http_request begin_request(enum http_method method, const char *url)
{
    const struct storage_settings *s = storage_settings();
    return (struct http_request){
        .method = method,
        .url = url,
        .transport = {.ca_file = s->ca_file},
        .timeouts = {.connect_ms = CONNECT_MS, .stall_ms = s->stall_ms, .stall_bytes = 1},
    };
}

static enum err ask_node(const struct hdfs_call *q, const char *node, struct http_answer *out,
                         struct hdfs_failure *failure)
{
    struct str url = {0};
    *out = (struct http_answer){0};
    *failure = (struct hdfs_failure){0};
    enum err e = make_url(q, node, &url);
    if (e == ERR_NONE) {
        struct http_request request = begin_request(q->method, url.data);
        request.timeouts.total_ms = storage_settings()->timeout_ms;
        request.transport.negotiate = uses_kerberos();
        if (request.transport.negotiate) /* a ticket's key, and tokens for DataNodes */
            secret_protect();
        request.answer_max = HDFS_ANSWER_BYTES;
        e = http_perform(&request, out);
        if (e != ERR_NONE)
            e = judge_silence(q, e, failure);
        else if (out->status / 100 != 2 && out->status != 307)
            e = judge(q, node, out, failure);
    } else {
        err_prefix(e, "cannot %s '%s'", q->doing, q->name->uri);
    }
    explicit_bzero(url.data, url.size);
    str_deinit(&url);
    return e;
}

enum err hdfs_ask(const struct hdfs_call *q, struct retry *r, struct http_answer *out)
{
    struct hdfs_cluster *c = q->name->cluster;
    struct hdfs_failure failure;
    for (uint32_t others = 0;;) {
        uint32_t at = atomic_load(&c->current) % c->node_count;
        enum err e = ask_node(q, c->nodes[at], out, &failure);
        if (e == ERR_NONE)
            return ERR_NONE;
        uint32_t retry_after_ms = out->retry_after_ms;
        http_answer_deinit(out);
        if (failure.other_node && c->node_count > 1) {
            uint32_t next = (at + 1) % c->node_count;
            if (atomic_compare_exchange_strong(&c->current, &at, next))
                log_info("hdfs", "goes on with NameNode %s: %s", c->nodes[next], err_text());
        } else if (!failure.may_pass ||
                   (failure.code == ERR_IO && (q->excludes || ++others == OTHER_TRIES))) {
            return e;
        }
        if (!http_try_again(r, retry_after_ms))
            return failure.may_pass ? ERR_UNAVAILABLE : e;
        log_debug("hdfs", "tries again to %s '%s'", q->doing, q->name->uri);
    }
}

enum err hdfs_json(const struct hdfs_call *q, const struct http_answer *a, struct json **out)
{
    enum err e = json_parse("its answer", a->body != NULL ? a->body : "", a->size, out);
    return e == ERR_NONE ? e
                         : err_prefix(ERR_UNAVAILABLE, "cannot %s '%s'", q->doing, q->name->uri);
}

/* As it came, but for bytes beyond ASCII, which a NameNode leaves as they are. */
static enum err take_location(const struct hdfs_call *q, struct span text, char **out)
{
    struct str url = {0};
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c <= ' ' || c >= 127)
            str_append_format(&url, "%%%02X", c);
        else
            str_append_span(&url, span_make(text.data + i, 1));
    }
    if (url.size == 0 ||
        (strncmp(url.data, "http://", 7) != 0 && strncmp(url.data, "https://", 8) != 0)) {
        str_deinit(&url);
        return err_set(ERR_UNAVAILABLE, "cannot %s '%s': the NameNode names no DataNode", q->doing,
                       q->name->uri);
    }
    *out = url.data;
    return ERR_NONE;
}

static enum err locate(const struct hdfs_call *q, struct retry *r, char **out)
{
    struct http_answer a;
    struct json *j = NULL;
    struct span location = {0};
    enum err e = hdfs_ask(q, r, &a);
    if (e != ERR_NONE)
        return e;
    if (a.status == 307) {
        http_header(&a, "location", &location);
    } else {
        e = hdfs_json(q, &a, &j);
        const char *text = j != NULL ? json_as_text(json_get(j, "Location")) : NULL;
        if (text != NULL)
            location = span_of(text);
    }
    if (e == ERR_NONE)
        e = take_location(q, location, out);
    json_destroy(j);
    http_answer_deinit(&a);
    return e;
}

enum err hdfs_locate(struct hdfs_call *q, struct str *parameters, struct str *excluded,
                     struct retry *r, char **out, bool *may_pass_out)
{
    q->excludes = excluded->size > 0;
    if (q->excludes)
        hdfs_parameter(parameters, "excludedatanodes", excluded->data);
    q->parameters = parameters->data;
    enum err e = locate(q, r, out);
    *may_pass_out = e != ERR_NONE && q->excludes;
    if (*may_pass_out)
        str_clear(excluded);
    return e;
}

/* ---- asking a DataNode ---- */

/* An HttpFS passes the bytes itself, and wants the ticket for that too; a DataNode must not see it,
   as the NameNode gave it a token. */
static bool is_of_name_node(const struct hdfs_cluster *c, const char *location)
{
    for (uint32_t i = 0; i < c->node_count; i++) {
        size_t size = strlen(c->nodes[i]);
        if (strncmp(location, c->nodes[i], size) == 0 && location[size] == '/')
            return true;
    }
    return false;
}

enum err hdfs_data(const struct hdfs_call *c, const char *location, struct http_request *q,
                   struct http_answer *out, struct hdfs_failure *failure_out)
{
    struct http_request request = begin_request(q->method, location);
    request.headers = q->headers;
    request.pieces = q->pieces;
    request.piece_count = q->piece_count;
    request.produce = q->produce;
    request.rewind = q->rewind;
    request.body_size = q->body_size;
    request.expect_continue = q->expect_continue;
    request.into = q->into;
    request.into_size = q->into_size;
    request.context = q->context;
    request.answer_max = HTTP_EXPLAIN_BYTES;
    request.transport.negotiate = uses_kerberos() && is_of_name_node(c->name->cluster, location);
    enum err e = http_perform(&request, out);
    if (e != ERR_NONE)
        return judge_silence(c, e, failure_out);
    if (out->status / 100 == 2)
        return ERR_NONE;
    e = judge(c, location, out, failure_out);
    return e;
}

/*
 * The NameNode looks them up by address alone, or by address and the port of its own protocol,
 * which is not that of the URL: a name, or the URL's port, excludes nothing.
 */
void hdfs_exclude(struct str *excluded, const char *location)
{
    const char *host = strstr(location, "://");
    if (host == NULL)
        return;
    host += 3;
    const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char address[NI_MAXHOST];
    char *name = must_format("%.*s", (int)strcspn(host, ":/?"), host);
    bool has_address = getaddrinfo(name, NULL, &hints, &found) == 0 &&
                       getnameinfo(found->ai_addr, found->ai_addrlen, address, sizeof address, NULL,
                                   0, NI_NUMERICHOST) == 0;
    if (found != NULL)
        freeaddrinfo(found);
    if (excluded->size > 0)
        str_append(excluded, ",");
    str_append(excluded, has_address ? address : name);
    mem_free(name);
}

/* ---- a status ---- */

enum err hdfs_status_parse(const struct hdfs_name *n, const struct json *j, struct hdfs_status *out)
{
    struct hdfs_status s = {0};
    const char *type;
    if (json_get_text(j, "type", &type) != ERR_NONE ||
        json_get_u64(j, "length", &s.info.size) != ERR_NONE ||
        json_get_u64(j, "modificationTime", &s.info.modified_ms) != ERR_NONE)
        return err_prefix(ERR_UNAVAILABLE, "'%s': the NameNode's answer", n->uri);
    s.info.is_directory = strcmp(type, "DIRECTORY") == 0;
    if (json_get(j, "fileId") != NULL && json_get_u64(j, "fileId", &s.file_id) != ERR_NONE)
        s.file_id = 0;
    snprintf(s.info.mark, sizeof s.info.mark, "%" PRIx64 "-%" PRIx64 "-%" PRIx64, s.info.size,
             s.info.modified_ms, s.file_id);
    *out = s;
    return ERR_NONE;
}

enum err hdfs_status(const struct hdfs_name *n, const char *path, struct retry *r,
                     struct hdfs_status *out)
{
    struct hdfs_call q = {
        .name = n, .method = HTTP_GET, .op = "GETFILESTATUS", .path = path, .doing = "look at"};
    struct http_answer a;
    struct json *j = NULL, *status;
    enum err e = hdfs_ask(&q, r, &a);
    if (e != ERR_NONE)
        return e;
    e = hdfs_json(&q, &a, &j);
    if (e == ERR_NONE && json_get_object(j, "FileStatus", &status) != ERR_NONE)
        e = err_prefix(ERR_UNAVAILABLE, "cannot look at '%s'", n->uri);
    if (e == ERR_NONE)
        e = hdfs_status_parse(n, status, out);
    json_destroy(j);
    http_answer_deinit(&a);
    return e;
}
