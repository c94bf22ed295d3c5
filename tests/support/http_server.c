#include "tests/support/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/str.h"

#define REQUEST_MAX    64
#define SILENCE_MAX_MS 20000

struct http_server {
    const struct http_reply *script;
    int listener;
    int stop_pipe[2];
    pthread_t thread;
    pthread_mutex_t lock;
    struct str requests[REQUEST_MAX];
    size_t request_count, connection_count, reply_index;
    uint16_t port;
};

/* false: the server is told to stop, or nothing came for long. */
static bool wait_readable(struct http_server *s, int fd)
{
    struct pollfd polled[] = {{.fd = fd, .events = POLLIN},
                              {.fd = s->stop_pipe[0], .events = POLLIN}};
    return poll(polled, 2, SILENCE_MAX_MS) > 0 && polled[1].revents == 0;
}

static size_t body_size(const char *head)
{
    const char *line = strcasestr(head, "\r\nContent-Length:");
    return line != NULL ? strtoul(line + 17, NULL, 10) : 0;
}

/* One whole request; false: the connection ended. */
static bool read_request(struct http_server *s, int fd, struct str *out)
{
    char bytes[65536];
    size_t whole = 0;
    while (whole == 0 || out->size < whole) {
        if (!wait_readable(s, fd))
            return false;
        ssize_t size = recv(fd, bytes, sizeof bytes, 0);
        if (size <= 0)
            return false;
        str_append_span(out, span_make(bytes, (size_t)size));
        const char *end = strstr(out->data, "\r\n\r\n");
        if (whole == 0 && end != NULL) {
            whole = (size_t)(end - out->data) + 4 + body_size(out->data);
            if (out->size < whole && strcasestr(out->data, "\r\nExpect: 100-continue") != NULL)
                CHECK(send(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) == 25);
        }
    }
    return true;
}

static bool answer(struct http_server *s, int fd)
{
    const struct http_reply *r = &s->script[s->reply_index];
    if (r->text == NULL)
        return false;
    s->reply_index++;
    size_t size = strlen(r->text);
    for (size_t done = 0; done < size;) {
        ssize_t part = send(fd, r->text + done, size - done, MSG_NOSIGNAL);
        if (part <= 0)
            return false;
        done += (size_t)part;
    }
    if (r->after == HTTP_AFTER_RESET) {
        struct linger off = {.l_onoff = 1, .l_linger = 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    }
    if (r->after == HTTP_AFTER_HANG)
        wait_readable(s, fd);
    return r->after == HTTP_AFTER_KEEP;
}

static void serve(struct http_server *s, int fd)
{
    bool goes_on = true;
    while (goes_on) {
        struct str request = {0};
        goes_on = read_request(s, fd, &request);
        if (!goes_on) {
            str_deinit(&request);
            break;
        }
        pthread_mutex_lock(&s->lock);
        CHECK(s->request_count < REQUEST_MAX);
        s->requests[s->request_count++] = request;
        pthread_mutex_unlock(&s->lock);
        goes_on = answer(s, fd);
    }
    close(fd);
}

static void *run(void *context)
{
    struct http_server *s = context;
    while (wait_readable(s, s->listener)) {
        int fd = accept(s->listener, NULL, NULL);
        CHECK(fd >= 0);
        pthread_mutex_lock(&s->lock);
        s->connection_count++;
        pthread_mutex_unlock(&s->lock);
        serve(s, fd);
    }
    return NULL;
}

struct http_server *http_server_start(const struct http_reply *script)
{
    struct http_server *s = must_alloc(sizeof *s);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    s->script = script;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(s->listener >= 0 && bind(s->listener, (struct sockaddr *)&address, size) == 0);
    CHECK(listen(s->listener, 16) == 0 && pipe(s->stop_pipe) == 0);
    CHECK(getsockname(s->listener, (struct sockaddr *)&address, &size) == 0);
    s->port = ntohs(address.sin_port);
    pthread_mutex_init(&s->lock, NULL);
    CHECK(pthread_create(&s->thread, NULL, run, s) == 0);
    return s;
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

static size_t locked(struct http_server *s, const size_t *value)
{
    pthread_mutex_lock(&s->lock);
    size_t copy = *value;
    pthread_mutex_unlock(&s->lock);
    return copy;
}

size_t http_server_request_count(struct http_server *s)
{
    return locked(s, &s->request_count);
}

size_t http_server_connection_count(struct http_server *s)
{
    return locked(s, &s->connection_count);
}

const char *http_server_request(struct http_server *s, size_t index)
{
    return index < http_server_request_count(s) ? s->requests[index].data : NULL;
}

void http_server_stop(struct http_server *s)
{
    CHECK(write(s->stop_pipe[1], "x", 1) == 1);
    pthread_join(s->thread, NULL);
    for (size_t i = 0; i < s->request_count; i++)
        str_deinit(&s->requests[i]);
    close(s->listener);
    close(s->stop_pipe[0]);
    close(s->stop_pipe[1]);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}
