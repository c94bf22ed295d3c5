#include "tests/support/answer_loser.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define CHUNK_BYTES (1 << 16)
#define LOOK_MS     20
/* For the server to carry the write out. */
#define CARRY_OUT_MS 150
/* Requests of ZooKeeper begin with length, xid, type, each of four bytes, big-endian. The one that
   asks for a session has zeros where the type would be. */
#define HEAD_BYTES  12
#define TYPE_CREATE 1
#define TYPE_MULTI  14

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static uint32_t number_at(const char *bytes)
{
    uint32_t n;
    memcpy(&n, bytes, sizeof n);
    return ntohl(n);
}

/* Where in the client's stream we are: messages come in any pieces. */
struct reader {
    char head[HEAD_BYTES];
    size_t have, skip;
};

/* Whether a write's head is complete with these bytes. */
static bool has_write(struct reader *r, const char *bytes, size_t size)
{
    bool is_found = false;
    for (size_t at = 0; at < size;) {
        if (r->skip > 0) {
            size_t part = r->skip < size - at ? r->skip : size - at;
            r->skip -= part;
            at += part;
            continue;
        }
        r->head[r->have++] = bytes[at++];
        if (r->have < HEAD_BYTES)
            continue;
        uint32_t type = number_at(r->head + 8);
        is_found |= type == TYPE_CREATE || type == TYPE_MULTI;
        r->skip = number_at(r->head) + 4 - HEAD_BYTES;
        r->have = 0;
    }
    return is_found;
}

/* false: the end. */
static bool forward(int from, int to, char *chunk, ssize_t *size)
{
    *size = recv(from, chunk, CHUNK_BYTES, 0);
    return *size > 0 && send(to, chunk, (size_t)*size, MSG_NOSIGNAL) == *size;
}

static void serve(struct answer_loser *l, int client, int server)
{
    static char chunk[CHUNK_BYTES];
    struct reader reader = {0};
    ssize_t size;
    while (!l->stop) {
        struct pollfd fds[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
        poll(fds, 2, LOOK_MS);
        if (fds[1].revents != 0 && !forward(server, client, chunk, &size))
            return;
        if (fds[0].revents == 0)
            continue;
        if (!forward(client, server, chunk, &size))
            return;
        if (has_write(&reader, chunk, (size_t)size) && l->armed) {
            clock_sleep_ms(CARRY_OUT_MS);
            l->armed = false;
            l->lost++;
            return;
        }
    }
}

static void *run(void *context)
{
    struct answer_loser *l = context;
    while (!l->stop) {
        if (poll(&(struct pollfd){.fd = l->listener, .events = POLLIN}, 1, LOOK_MS) <= 0)
            continue;
        struct sockaddr_in a = loopback(l->server_port);
        int client = accept(l->listener, NULL, NULL);
        int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (client >= 0 && connect(server, (struct sockaddr *)&a, sizeof a) == 0)
            serve(l, client, server);
        close(client);
        close(server);
    }
    return NULL;
}

void answer_loser_start(struct answer_loser *l, uint16_t server_port)
{
    struct sockaddr_in a = loopback(0);
    socklen_t size = sizeof a;
    *l = (struct answer_loser){.server_port = server_port};
    l->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(l->listener, 8), 0);
    assert_int_equal(getsockname(l->listener, (struct sockaddr *)&a, &size), 0);
    l->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&l->thread, NULL, run, l), 0);
}

void answer_loser_arm(struct answer_loser *l)
{
    l->armed = true;
}

void answer_loser_stop(struct answer_loser *l)
{
    l->stop = true;
    pthread_join(l->thread, NULL);
    close(l->listener);
}
