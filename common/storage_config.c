/*
 * storage_config.c - what the program said about the stores, kept for the backends.
 */
#include "common/storage_internal.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/mem.h"
#include "common/secret.h"

static struct storage_settings settings;
static pthread_once_t has_defaults = PTHREAD_ONCE_INIT;

static char *copy(const char *text)
{
    return text != NULL ? must_strdup(text) : NULL;
}

/* Nothing is freed: a request of another thread may be reading it. It happens once a process. */
static void keep(const struct storage_settings *s)
{
    settings = *s;
    settings.ca_file = copy(s->ca_file);
    settings.hdfs_user = copy(s->hdfs_user);
    settings.hdfs_auth = copy(s->hdfs_auth);
    settings.hdfs_token_file = copy(s->hdfs_token_file);
    settings.hdfs_namenodes = copy(s->hdfs_namenodes);
    settings.s3_endpoint = copy(s->s3_endpoint);
    settings.s3_region = copy(s->s3_region);
    settings.s3_addressing = copy(s->s3_addressing);
    settings.s3_credentials_file = copy(s->s3_credentials_file);
    settings.s3_profile = copy(s->s3_profile);
}

static void use_defaults(void)
{
    struct daemon_settings *defaults;
    const char *const none[] = {NULL};
    if (daemon_settings_parse("defaults", NULL, 0, none, &defaults) != ERR_NONE)
        return;
    keep(&defaults->storage);
    daemon_settings_destroy(defaults);
}

static void use_given(void)
{
}

/* What the environment holds is in this process's memory, whether a store is ever used or not. */
static void protect_environment(void)
{
    static const char *const secrets[] = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                                          "AWS_CONTAINER_AUTHORIZATION_TOKEN"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        if (getenv(secrets[i]) != NULL)
            secret_protect();
    }
}

void storage_configure(const struct storage_settings *s)
{
    protect_environment();
    pthread_once(&has_defaults, use_given);
    keep(s);
}

const struct storage_settings *storage_settings(void)
{
    pthread_once(&has_defaults, use_defaults);
    return &settings;
}
