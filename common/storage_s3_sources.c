#include "common/storage_s3_sources.h"

#include <stdlib.h>
#include <string.h>

#include "common/http.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/s3_time.h"
#include "common/secret.h"
#include "common/storage_internal.h"
#include "common/xml.h"

#define STS_TIMEOUT_MS      20000u
#define SERVICE_TIMEOUT_MS  5000u
#define INSTANCE_CONNECT_MS 1000u
#define CONTAINER_HOST      "http://169.254.170.2"
#define INSTANCE_HOST       "http://169.254.169.254"

static const struct retry_policy policy = {.first_ms = 100, .most_ms = 1000, .tries = 3};

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static void answer_free(struct http_answer *a)
{
    if (a->body != NULL)
        secret_wipe(a->body, a->size);
    http_answer_deinit(a);
}

/* Asks until there is an answer that is not a passing failure. Its body is a secret. */
static enum err ask(const struct http_request *q, struct http_answer *out)
{
    struct retry r = http_retry_begin(&policy, STS_TIMEOUT_MS);
    for (;;) {
        enum err e = http_perform(q, out);
        bool may_pass = e == ERR_NONE ? http_status_may_pass(out->status)
                                      : e == ERR_UNAVAILABLE || e == ERR_TIMEOUT;
        if (!may_pass || !http_try_again(&r, out->retry_after_ms))
            return e;
        answer_free(out);
    }
}

static enum err check_status(const struct http_request *q, const struct http_answer *a)
{
    if (a->status == 200)
        return ERR_NONE;
    struct str what = {0};
    http_describe(q, &what);
    enum err e = err_set(http_status_may_pass(a->status) ? ERR_UNAVAILABLE : ERR_REFUSED,
                         "%s: it answers %d", what.data, a->status);
    str_deinit(&what);
    return e;
}

static char *take(const struct json *object, const char *name)
{
    const char *text = json_as_text(json_get(object, name));
    return text != NULL ? secret_keep(span_of(text)) : NULL;
}

enum err s3_credentials_from_json(const char *what, const char *text, size_t size,
                                  struct s3_credentials *out)
{
    struct json *j = NULL;
    struct s3_credentials c = {0};
    /* The parser quotes what it does not understand: its text must not go on. */
    if (json_parse(what, text, size, &j) != ERR_NONE)
        return err_set(ERR_INPUT, "%s: the answer is no JSON", what);
    c.access_key = take(j, "AccessKeyId");
    c.secret_key = take(j, "SecretAccessKey");
    c.session_token = take(j, "Token");
    const char *expires = json_as_text(json_get(j, "Expiration"));
    enum err e = ERR_NONE;
    if (c.access_key == NULL || c.secret_key == NULL)
        e = err_set(ERR_INPUT, "%s: the answer lacks AccessKeyId or SecretAccessKey", what);
    if (e == ERR_NONE && expires != NULL)
        e = s3_time_parse(span_of(expires), &c.expires_ms);
    json_destroy(j);
    if (e != ERR_NONE)
        s3_credentials_deinit(&c);
    else
        *out = c;
    return e;
}

/* ---- a web identity ---- */

struct sts_answer {
    struct s3_credentials c;
    char code[64];
};

static enum err on_sts_element(void *context, const char *path, const char *text)
{
    struct sts_answer *a = context;
    const char *name = strrchr(path, '/');
    name = name != NULL ? name + 1 : path;
    char **place = strcmp(name, "AccessKeyId") == 0       ? &a->c.access_key
                   : strcmp(name, "SecretAccessKey") == 0 ? &a->c.secret_key
                   : strcmp(name, "SessionToken") == 0    ? &a->c.session_token
                                                          : NULL;
    if (place != NULL) {
        secret_release(*place);
        *place = secret_keep(span_of(text));
    } else if (strcmp(name, "Code") == 0) {
        strncpy(a->code, text, sizeof a->code - 1);
    } else if (strcmp(name, "Expiration") == 0) {
        return s3_time_parse(span_of(text), &a->c.expires_ms);
    }
    return ERR_NONE;
}

static enum err read_sts(const struct http_answer *http, struct s3_credentials *out)
{
    struct sts_answer a = {.c.source = "a web identity"};
    enum err e = xml_parse("the answer of STS", http->body != NULL ? http->body : "", http->size,
                           on_sts_element, &a);
    if (http->status != 200)
        e = err_set(http_status_may_pass(http->status) ? ERR_UNAVAILABLE : ERR_REFUSED,
                    "STS answers %d %s", http->status, a.code);
    else if (e == ERR_NONE && (a.c.access_key == NULL || a.c.secret_key == NULL))
        e = err_set(ERR_INPUT, "the answer of STS holds no credentials");
    if (e != ERR_NONE)
        s3_credentials_deinit(&a.c);
    else
        *out = a.c;
    return e;
}

enum err s3_source_web_identity(const struct s3_source_context *x, struct s3_credentials *out)
{
    const char *path = environment("AWS_WEB_IDENTITY_TOKEN_FILE");
    const char *role = environment("AWS_ROLE_ARN");
    const char *session = environment("AWS_ROLE_SESSION_NAME");
    const char *endpoint = environment("AWS_ENDPOINT_URL_STS");
    const char *headers[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
    struct str form = {0};
    struct http_answer a;
    char *token = NULL;
    size_t size = 0;
    if (path == NULL || role == NULL)
        return ERR_NOT_FOUND;
    enum err e = storage_read_all(path, S3_SOURCE_MAX_BYTES, &token, &size);
    if (e != ERR_NONE)
        return e == ERR_NOT_FOUND ? err_prefix(ERR_INPUT, "AWS_WEB_IDENTITY_TOKEN_FILE") : e;
    while (size > 0 && strchr(" \r\n", token[size - 1]) != NULL)
        size--;
    str_append(&form, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=");
    http_encode(span_of(role), "", &form);
    str_append(&form, "&RoleSessionName=");
    http_encode(span_of(session != NULL ? session : "paramd"), "", &form);
    str_append(&form, "&WebIdentityToken=");
    http_encode(span_make(token, size), "", &form);
    char *url = endpoint != NULL ? must_format("%s/", endpoint)
                                 : must_format("https://sts.%s.amazonaws.com/", x->region);
    struct http_piece body = {form.data, form.size};
    struct http_request q = {.method = HTTP_POST,
                             .url = url,
                             .headers = headers,
                             .pieces = &body,
                             .piece_count = 1,
                             .transport = {.ca_file = storage_settings()->ca_file},
                             .timeouts = {.total_ms = STS_TIMEOUT_MS},
                             .answer_max = S3_SOURCE_MAX_BYTES};
    e = ask(&q, &a);
    if (e == ERR_NONE)
        e = read_sts(&a, out);
    answer_free(&a);
    secret_wipe(form.data, form.size);
    str_deinit(&form);
    secret_free(token);
    mem_free(url);
    return e;
}

/* ---- a container ---- */

/* "Authorization: …", of the environment or the file it names; NULL: none. */
static enum err container_authorization(char **out)
{
    const char *path = environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *token = environment("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    char *text = NULL;
    size_t size = 0;
    if (path == NULL) {
        *out = token != NULL ? must_format("Authorization: %s", token) : NULL;
        return ERR_NONE;
    }
    enum err e = storage_read_all(path, S3_SOURCE_MAX_BYTES, &text, &size);
    if (e != ERR_NONE)
        return err_prefix(e, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    *out = must_format("Authorization: %.*s", (int)strcspn(text, "\r\n"), text);
    secret_free(text);
    return ERR_NONE;
}

enum err s3_source_container(const struct s3_source_context *x, struct s3_credentials *out)
{
    const char *relative = environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = environment("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    char *authorization = NULL;
    struct http_answer a;
    if (relative == NULL && full == NULL)
        return ERR_NOT_FOUND;
    enum err e = container_authorization(&authorization);
    if (e != ERR_NONE)
        return e;
    const char *headers[] = {authorization, NULL};
    char *url = relative != NULL ? must_format(CONTAINER_HOST "%s", relative) : must_strdup(full);
    struct http_request q = {.url = url,
                             .headers = headers,
                             .transport = {.direct = true},
                             .timeouts = {.total_ms = SERVICE_TIMEOUT_MS},
                             .answer_max = S3_SOURCE_MAX_BYTES};
    e = ask(&q, &a);
    if (e == ERR_NONE)
        e = check_status(&q, &a);
    if (e == ERR_NONE)
        e = s3_credentials_from_json("the container's service", a.body != NULL ? a.body : "",
                                     a.size, out);
    if (e == ERR_NONE)
        out->source = "the container's service";
    answer_free(&a);
    secret_free(authorization);
    mem_free(url);
    return e;
}

/* ---- an instance ---- */

static enum err ask_instance(enum http_method method, const char *path, const char *header,
                             struct http_answer *out)
{
    const char *host = environment("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *headers[] = {header, NULL};
    char *url = must_format("%s%s", host != NULL ? host : INSTANCE_HOST, path);
    struct http_request q = {
        .method = method,
        .url = url,
        .headers = headers,
        .transport = {.direct = true},
        .timeouts = {.total_ms = SERVICE_TIMEOUT_MS, .connect_ms = INSTANCE_CONNECT_MS},
        .answer_max = S3_SOURCE_MAX_BYTES};
    enum err e = http_perform(&q, out);
    if (e == ERR_NONE)
        e = check_status(&q, out);
    if (e == ERR_NONE && out->body == NULL)
        e = err_set(ERR_INPUT, "the instance's service answers nothing");
    mem_free(url);
    return e;
}

#define ROLE_PATH "/latest/meta-data/iam/security-credentials/"

enum err s3_source_instance(const struct s3_source_context *x, struct s3_credentials *out)
{
    const char *disabled = environment("AWS_EC2_METADATA_DISABLED");
    struct http_answer token = {0}, role = {0}, found = {0};
    char *header = NULL, *path = NULL;
    if (disabled != NULL && strcmp(disabled, "true") == 0)
        return ERR_NOT_FOUND;
    enum err e = ask_instance(HTTP_PUT, "/latest/api/token",
                              "X-aws-ec2-metadata-token-ttl-seconds: 21600", &token);
    if (e == ERR_UNAVAILABLE || e == ERR_TIMEOUT || token.status / 100 == 4)
        e = ERR_NOT_FOUND; /* this is no such machine, or the service is switched off */
    if (e == ERR_NONE) {
        header = must_format("X-aws-ec2-metadata-token: %s", token.body);
        e = ask_instance(HTTP_GET, ROLE_PATH, header, &role);
    }
    if (e == ERR_NONE) {
        path = must_format(ROLE_PATH "%.*s", (int)strcspn(role.body, "\r\n"), role.body);
        e = ask_instance(HTTP_GET, path, header, &found);
    }
    if (e == ERR_NONE)
        e = s3_credentials_from_json("the instance's service", found.body, found.size, out);
    if (e == ERR_NONE)
        out->source = "the instance's service";
    answer_free(&token);
    answer_free(&role);
    answer_free(&found);
    secret_free(header);
    mem_free(path);
    return e;
}
