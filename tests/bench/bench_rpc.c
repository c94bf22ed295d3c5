/*
 * What calls cost on each transport, beside what the machine's sockets give in the same run: single
 * figures of one machine vary, ratios hold.
 *
 *     bench_rpc [SECONDS_PER_FIGURE]
 *
 * Tiny calls: 8 bytes each way, 1 or 16 at a time. Large ones: a request of 1 MiB in one slice, 4
 * at a time, whose bytes the server steps over but does not touch. The raw figures: one thread
 * writes 1 MiB messages into a socket, another reads them 64 KiB at a time.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/rpc.h"

#define LARGE_BYTES ((size_t)1 << 20)
#define READ_BYTES  ((size_t)64 << 10)
#define GIB         1073741824.0

static double seconds_per_figure = 0.5;

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* ---- sockets ---- */

static void *drain(void *context)
{
    int fd = *(int *)context;
    char *space = malloc(READ_BYTES);
    while (read(fd, space, READ_BYTES) > 0)
        continue;
    free(space);
    return NULL;
}

static void make_tcp_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fds[0], (struct sockaddr *)&address, size) == 0);
    fds[1] = accept(listener, NULL, NULL);
    CHECK(fds[1] >= 0);
    close(listener);
    setsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static double raw_rate(bool is_tcp)
{
    int fds[2];
    if (is_tcp)
        make_tcp_pair(fds);
    else
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    pthread_t reader;
    CHECK(pthread_create(&reader, NULL, drain, &fds[1]) == 0);
    char *message = calloc(1, LARGE_BYTES);
    double bytes = 0, cpu = cpu_seconds();
    uint64_t start = clock_ns();
    while (clock_seconds_since(start) < seconds_per_figure) {
        for (size_t at = 0; at < LARGE_BYTES;) {
            ssize_t part = write(fds[0], message + at, LARGE_BYTES - at);
            CHECK(part > 0);
            at += (size_t)part;
        }
        bytes += LARGE_BYTES;
    }
    shutdown(fds[0], SHUT_WR);
    pthread_join(reader, NULL);
    double rate = bytes / clock_seconds_since(start) / GIB;
    cpu = cpu_seconds() - cpu;
    printf("raw %-13s %6.2f GiB/s  %5.2f ns of CPU a byte\n", is_tcp ? "tcp" : "unix", rate,
           cpu * 1e9 / bytes);
    close(fds[0]);
    close(fds[1]);
    free(message);
    return rate;
}

/* ---- calls ---- */

static void handle(void *context, struct rpc_call *call)
{
    const struct chain *request = rpc_call_request(call);
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, request, 0, request->size);
    for (size_t run = 1; run > 0;)
        chain_cursor_run(&cursor, SIZE_MAX, &run);
    struct chain reply = {0};
    chain_share(&reply, request, 0, 8);
    rpc_call_reply(call, &reply);
}

struct load {
    struct rpc_channel *channel;
    struct buf *body;
    uint64_t end_ns;
    _Atomic uint64_t done, failed;
    _Atomic int open;
};

static void next_call(struct load *l);

static void on_done(void *context, enum rpc_status status, const char *message, struct chain *reply)
{
    struct load *l = context;
    l->done++;
    l->failed += status != RPC_OK;
    if (clock_ns() < l->end_ns)
        next_call(l);
    else
        l->open--;
}

static void next_call(struct load *l)
{
    struct rpc_call_options o = {.method = "/bench.Service/Take", .timeout_ms = 10000};
    struct chain request = {0};
    chain_append(&request, l->body, buf_data(l->body), buf_size(l->body));
    rpc_channel_call(l->channel, &o, &request, on_done, l);
}

struct figure {
    double calls_per_second, cpu_us;
};

static struct figure measure(struct rpc_channel *c, size_t size, int at_once)
{
    struct load l = {.channel = c, .body = buf_create(size), .open = at_once};
    memset(buf_data(l.body), 1, size);
    double cpu = cpu_seconds();
    uint64_t start = clock_ns();
    l.end_ns = start + (uint64_t)(seconds_per_figure * 1e9);
    for (int i = 0; i < at_once; i++)
        next_call(&l);
    while (l.open > 0)
        clock_sleep_ms(1);
    double seconds = clock_seconds_since(start);
    cpu = cpu_seconds() - cpu;
    CHECK(l.failed == 0);
    buf_unref(l.body);
    return (struct figure){(double)l.done / seconds, cpu * 1e6 / (double)l.done};
}

static void bench(const char *address, double raw_tcp)
{
    const char *const listen_on[] = {address, NULL};
    const struct rpc_method method = {"/bench.Service/Take", handle, NULL};
    struct rpc_server_options o = {.listen = listen_on, .methods = &method, .method_count = 1};
    struct rpc_server *s;
    struct rpc_channel *c;
    if (rpc_server_create(&o, &s) != ERR_NONE ||
        rpc_channel_open(rpc_server_address(s, 0), NULL, &c) != ERR_NONE) {
        fprintf(stderr, "bench_rpc: %s\n", err_text());
        exit(1);
    }
    const double seconds = seconds_per_figure;
    seconds_per_figure = 0.1; /* connect, warm up */
    measure(c, LARGE_BYTES, 4);
    seconds_per_figure = seconds;
    struct figure one = measure(c, 8, 1), many = measure(c, 8, 16),
                  large = measure(c, LARGE_BYTES, 4);
    double rate = large.calls_per_second * (double)LARGE_BYTES / GIB;
    printf("%-17.13s %6.2f GiB/s  %5.2f ns of CPU a byte  %5.2f of raw tcp | tiny: %7.0f/s alone, "
           "%7.0f/s by 16, %5.1f us of CPU a call\n",
           address, rate, large.cpu_us * 1e3 / (double)LARGE_BYTES, rate / raw_tcp,
           one.calls_per_second, many.calls_per_second, many.cpu_us);
    rpc_channel_close(c);
    rpc_server_destroy(s);
}

int main(int argc, char **argv)
{
    char name[64];
    snprintf(name, sizeof name, "unix-abstract:bench-%ld", (long)getpid());
    if (argc > 1)
        seconds_per_figure = atof(argv[1]);
    double raw_tcp = raw_rate(true);
    raw_rate(false);
    bench("memory:bench", raw_tcp);
    bench("127.0.0.1:0", raw_tcp);
    bench(name, raw_tcp);
    return 0;
}
