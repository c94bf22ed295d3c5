#include "common/storage_s3_credentials.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/s3_time.h"
#include "common/secret.h"
#include "common/storage_internal.h"
#include "common/storage_s3_sources.h"

#define LOOK_AGAIN_MS   60000u
#define EXPIRY_AHEAD_MS 300000u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct s3_credentials present; /* no access key: none yet */
static uint64_t looked_ms;            /* monotonic; when they were last looked up */

void s3_credentials_deinit(struct s3_credentials *c)
{
    secret_release(c->access_key);
    secret_release(c->secret_key);
    secret_release(c->session_token);
    *c = (struct s3_credentials){0};
}

static void copy(const struct s3_credentials *from, struct s3_credentials *to)
{
    *to = *from;
    const char *token = from->session_token;
    to->access_key = secret_keep(span_of(from->access_key));
    to->secret_key = secret_keep(span_of(from->secret_key));
    to->session_token = token != NULL ? secret_keep(span_of(token)) : NULL;
}

/* ---- places without a network ---- */

static char *environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? secret_keep(span_of(value)) : NULL;
}

static enum err from_environment(const struct s3_source_context *x, struct s3_credentials *out)
{
    struct s3_credentials c = {.source = "the environment"};
    c.access_key = environment("AWS_ACCESS_KEY_ID");
    c.secret_key = environment("AWS_SECRET_ACCESS_KEY");
    c.session_token = environment("AWS_SESSION_TOKEN");
    if (c.access_key != NULL && c.secret_key != NULL) {
        *out = c;
        return ERR_NONE;
    }
    bool is_half = c.access_key != NULL || c.secret_key != NULL;
    s3_credentials_deinit(&c);
    return is_half ? err_set(ERR_INPUT, "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one "
                                        "is set")
                   : ERR_NOT_FOUND;
}

/* "name = value" of one section. */
static void read_pair(struct span line, struct s3_credentials *out)
{
    const char *equals = line.size > 0 ? memchr(line.data, '=', line.size) : NULL;
    if (equals == NULL)
        return;
    size_t size = (size_t)(equals - line.data);
    struct span name = span_trim(span_make(line.data, size));
    struct span value = span_trim(span_make(equals + 1, line.size - size - 1));
    char **place = span_is(name, "aws_access_key_id")       ? &out->access_key
                   : span_is(name, "aws_secret_access_key") ? &out->secret_key
                   : span_is(name, "aws_session_token")     ? &out->session_token
                                                            : NULL;
    if (place == NULL || value.size == 0)
        return;
    secret_release(*place);
    *place = secret_keep(value);
}

enum err s3_credentials_from_file(const char *path, const char *profile, struct s3_credentials *out)
{
    char *text = NULL;
    size_t size = 0;
    struct s3_credentials c = {.source = "the file of credentials"};
    bool is_there = false, is_inside = false;
    secret_protect();
    enum err e = storage_read_all(path, S3_SOURCE_MAX_BYTES, &text, &size);
    if (e != ERR_NONE)
        return e;
    for (size_t at = 0; at < size;) {
        size_t length = strcspn(text + at, "\r\n");
        struct span line = span_trim(span_make(text + at, length));
        at += length + 1;
        if (line.size == 0 || line.data[0] == '#' || line.data[0] == ';')
            continue;
        if (line.data[0] == '[') {
            struct span name = span_make(line.data + 1, strcspn(line.data + 1, "]\r\n"));
            is_inside = span_is(span_trim(name), profile);
            is_there |= is_inside;
        } else if (is_inside) {
            read_pair(line, &c);
        }
    }
    secret_wipe(text, size);
    mem_free(text);
    if (c.access_key != NULL && c.secret_key != NULL) {
        *out = c;
        return ERR_NONE;
    }
    s3_credentials_deinit(&c);
    return !is_there ? err_set(ERR_NOT_FOUND, "'%s' has no section [%s]", path, profile)
                     : err_set(ERR_INPUT,
                               "'%s': section [%s] lacks aws_access_key_id or "
                               "aws_secret_access_key",
                               path, profile);
}

static char *profile_name(void)
{
    const struct storage_settings *s = storage_settings();
    const char *name = s->s3_profile != NULL ? s->s3_profile : getenv("AWS_PROFILE");
    return must_strdup(name != NULL && name[0] != '\0' ? name : "default");
}

static enum err from_settings(const struct s3_source_context *x, struct s3_credentials *out)
{
    const char *path = storage_settings()->s3_credentials_file;
    if (path == NULL)
        return ERR_NOT_FOUND;
    char *profile = profile_name();
    enum err e = s3_credentials_from_file(path, profile, out);
    mem_free(profile);
    /* It was named: its absence is an error. */
    return e == ERR_NOT_FOUND ? err_prefix(ERR_INPUT, "s3_credentials_file") : e;
}

static enum err from_home(const struct s3_source_context *x, struct s3_credentials *out)
{
    const char *named = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
    if ((named == NULL || named[0] == '\0') && (home == NULL || home[0] == '\0'))
        return ERR_NOT_FOUND;
    char *path = named != NULL && named[0] != '\0' ? must_strdup(named)
                                                   : must_format("%s/.aws/credentials", home);
    char *profile = profile_name();
    enum err e = s3_credentials_from_file(path, profile, out);
    mem_free(path);
    mem_free(profile);
    return e;
}

/* ---- the chain ---- */

static const struct {
    const char *name;
    enum err (*find)(const struct s3_source_context *x, struct s3_credentials *out);
} sources[] = {
    {"s3_credentials_file", from_settings},
    {"the environment (AWS_ACCESS_KEY_ID)", from_environment},
    {"a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)", s3_source_web_identity},
    {"~/.aws/credentials", from_home},
    {"the container's service", s3_source_container},
    {"the instance's service", s3_source_instance},
};

static enum err look_up(const char *region, struct s3_credentials *out)
{
    struct s3_source_context x = {.region = region};
    struct str places = {0};
    secret_protect();
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        enum err e = sources[i].find(&x, out);
        if (e == ERR_NONE || e != ERR_NOT_FOUND) {
            str_deinit(&places);
            return e == ERR_NONE ? e : err_prefix(e, "credentials from %s", sources[i].name);
        }
        str_append_format(&places, "%s%s", i > 0 ? ", " : "", sources[i].name);
    }
    enum err e = err_set(ERR_REFUSED, "there are no credentials for S3; looked at %s", places.data);
    str_deinit(&places);
    return e;
}

static bool is_fresh(void)
{
    uint64_t age = clock_ms() - looked_ms;
    if (present.access_key == NULL)
        return false;
    if (present.expires_ms == 0)
        return age < LOOK_AGAIN_MS;
    return clock_wall_ms() + EXPIRY_AHEAD_MS < present.expires_ms || age < LOOK_AGAIN_MS;
}

/* The lock is held while a service is asked: whoever needs credentials needs its answer. */
enum err s3_credentials_get(const char *region, struct s3_credentials *out)
{
    enum err e = ERR_NONE;
    pthread_mutex_lock(&lock);
    if (!is_fresh()) {
        struct s3_credentials found;
        bool still_hold = present.access_key != NULL &&
                          (present.expires_ms == 0 || clock_wall_ms() < present.expires_ms);
        e = look_up(region, &found);
        looked_ms = clock_ms();
        if (e == ERR_NONE) {
            s3_credentials_deinit(&present);
            present = found;
        } else if (still_hold) {
            log_warn("s3", "cannot renew credentials, the old ones are kept: %s", err_text());
            e = ERR_NONE;
        }
    }
    if (e == ERR_NONE)
        copy(&present, out);
    pthread_mutex_unlock(&lock);
    return e;
}

void s3_credentials_refuse(const struct s3_credentials *c)
{
    pthread_mutex_lock(&lock);
    if (present.access_key != NULL && strcmp(present.access_key, c->access_key) == 0 &&
        strcmp(present.secret_key, c->secret_key) == 0)
        s3_credentials_deinit(&present);
    pthread_mutex_unlock(&lock);
}

void s3_credentials_forget(void)
{
    pthread_mutex_lock(&lock);
    s3_credentials_deinit(&present);
    pthread_mutex_unlock(&lock);
}
