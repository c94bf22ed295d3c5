/*
 * From a URI to where its requests go.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/storage_s3_internal.h"

#define REGION_DEFAULT "us-east-1"

/* Buckets whose region the store told. */
struct learned {
    struct learned *next;
    char *bucket, *region;
};

static struct learned *learned;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum err s3_name_parse(const char *uri, struct s3_name *out)
{
    const char *bucket = uri + strlen("s3://");
    size_t size = strcspn(bucket, "/");
    size_t good = strspn(bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789.-_");
    if (size == 0 || good < size)
        return err_set(ERR_INPUT, "'%s': write s3://BUCKET/KEY; '%.*s' is no name of a bucket", uri,
                       (int)size, bucket);
    if (strlen(bucket) - size > 1025)
        return err_set(ERR_INPUT, "'%.100s…': a key has at most 1024 bytes", uri);
    *out = (struct s3_name){.uri = uri,
                            .bucket = must_format("%.*s", (int)size, bucket),
                            .key = bucket + size + (bucket[size] == '/')};
    return ERR_NONE;
}

void s3_name_deinit(struct s3_name *n)
{
    mem_free(n->bucket);
    *n = (struct s3_name){0};
}

static const char *first_set(const char *setting, const char *name, const char *other)
{
    const char *value = setting != NULL ? setting : getenv(name);
    if (value == NULL || value[0] == '\0')
        value = other != NULL ? getenv(other) : NULL;
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static char *region_of(const char *bucket)
{
    char *region = NULL;
    pthread_mutex_lock(&lock);
    for (const struct learned *l = learned; l != NULL && region == NULL; l = l->next) {
        if (strcmp(l->bucket, bucket) == 0)
            region = must_strdup(l->region);
    }
    pthread_mutex_unlock(&lock);
    if (region != NULL)
        return region;
    const char *set = first_set(storage_settings()->s3_region, "AWS_REGION", "AWS_DEFAULT_REGION");
    return must_strdup(set != NULL ? set : REGION_DEFAULT);
}

void s3_place_learn(const char *bucket, struct span region)
{
    char *known = region_of(bucket);
    bool is_new = !span_is(region, known) && region.size > 0;
    mem_free(known);
    if (!is_new)
        return;
    struct learned *l = must_alloc(sizeof *l);
    l->bucket = must_strdup(bucket);
    l->region = must_format("%.*s", (int)region.size, region.data);
    pthread_mutex_lock(&lock);
    l->next = learned; /* one a bucket, seldom two: kept as long as the process */
    learned = l;
    pthread_mutex_unlock(&lock);
}

/* Digits and dots, or in brackets. */
static bool is_address(const char *host)
{
    return host[0] == '[' || host[strspn(host, "0123456789.:")] == '\0';
}

static bool use_path(const char *bucket, const char *endpoint, const char *host)
{
    const char *style = storage_settings()->s3_addressing;
    if (style != NULL && strcmp(style, "path") == 0)
        return true;
    if (style != NULL && strcmp(style, "virtual") == 0)
        return is_address(host);
    /* A certificate for *.host does not cover a dot in the bucket's name. */
    return endpoint != NULL || strchr(bucket, '.') != NULL;
}

void s3_place_find(const char *bucket, struct s3_place *out)
{
    const char *endpoint =
        first_set(storage_settings()->s3_endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    *out = (struct s3_place){.region = region_of(bucket)};
    char *amazon = must_format("https://s3.%s.amazonaws.com", out->region);
    const char *url = endpoint != NULL ? endpoint : amazon;
    const char *scheme_end = strstr(url, "://");
    size_t scheme_size = scheme_end != NULL ? (size_t)(scheme_end - url) : 0;
    const char *authority = scheme_end != NULL ? scheme_end + 3 : url;
    size_t size = strcspn(authority, "/?#");
    bool is_tls = scheme_size != 4 || strncmp(url, "http", 4) != 0;
    /* libcurl leaves the scheme's own port out of the Host header. */
    const char *own = is_tls ? ":443" : ":80";
    size_t own_size = strlen(own);
    if (size > own_size && strncmp(authority + size - own_size, own, own_size) == 0)
        size -= own_size;
    char *host = must_format("%.*s", (int)size, authority);
    /* An endpoint below a path: https://host/s3 */
    const char *below = authority + strcspn(authority, "/?#");
    size_t below_size = strcspn(below, "?#");
    while (below_size > 0 && below[below_size - 1] == '/')
        below_size--;
    if (use_path(bucket, endpoint, host)) {
        out->path = must_format("%.*s/%s", (int)below_size, below, bucket);
        out->host = host;
    } else {
        out->path = must_format("%.*s", (int)below_size, below);
        out->host = must_format("%s.%s", bucket, host);
        mem_free(host);
    }
    out->base = must_format("%s://%s", is_tls ? "https" : "http", out->host);
    mem_free(amazon);
}

void s3_place_deinit(struct s3_place *p)
{
    mem_free(p->host);
    mem_free(p->base);
    mem_free(p->path);
    mem_free(p->region);
    *p = (struct s3_place){0};
}
