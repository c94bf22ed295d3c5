/*
 * Idle handles, most recently used first. Two requests can share a handle's connections when all
 * that libcurl keys a connection by is the same: it is put into one text, the key.
 */
#include "common/http_internal.h"

#include <curl/curl.h>
#include <pthread.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

struct http_handle {
    CURL *curl;
    char *key;
    struct http_handle *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct http_handle *idle;
static size_t idle_count;

static void init_curl(void)
{
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

static void destroy(struct http_handle *h)
{
    if (h == NULL)
        return;
    curl_easy_cleanup(h->curl);
    mem_free(h->key);
    mem_free(h);
}

static char *key_of(const struct http_request *q)
{
    const char *scheme_end = strstr(q->url, "://");
    size_t size = scheme_end != NULL ? (size_t)(scheme_end - q->url) + 3 : 0;
    size += strcspn(q->url + size, "/?#");
    return must_format("%.*s %d %d %s", (int)size, q->url, q->transport.negotiate,
                       q->transport.direct,
                       q->transport.ca_file != NULL ? q->transport.ca_file : "");
}

struct http_handle *http_handle_take(const struct http_request *q)
{
    pthread_once(&once, init_curl);
    char *key = key_of(q);
    pthread_mutex_lock(&lock);
    struct http_handle **at = &idle;
    while (*at != NULL && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    struct http_handle *h = *at;
    if (h != NULL) {
        *at = h->next;
        idle_count--;
    }
    pthread_mutex_unlock(&lock);
    if (h != NULL) {
        mem_free(key);
        return h;
    }
    h = must_alloc(sizeof *h);
    h->key = key;
    h->curl = curl_easy_init();
    if (h->curl == NULL) {
        destroy(h);
        return NULL;
    }
    return h;
}

void http_handle_give(struct http_handle *h, bool is_sound)
{
    struct http_handle *surplus = NULL;
    if (!is_sound) {
        destroy(h);
        return;
    }
    /* Forgets all options, and with them the headers; keeps connections and names' addresses. */
    curl_easy_reset(h->curl);
    pthread_mutex_lock(&lock);
    h->next = idle;
    idle = h;
    if (++idle_count > HTTP_IDLE_MAX) {
        struct http_handle **last = &idle;
        while ((*last)->next != NULL)
            last = &(*last)->next;
        surplus = *last;
        *last = NULL;
        idle_count--;
    }
    pthread_mutex_unlock(&lock);
    destroy(surplus);
}

void *http_handle_curl(struct http_handle *h)
{
    return h->curl;
}
